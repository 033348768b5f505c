"""What is peculiar to CT and to X-ray in training: stored intensities, and how a view's intensities are varied."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from samreg.embedding.any_contrast import AnyContrastPreprocessing
from samreg.embedding.compact import COMPACT_PREPROCESSING
from samreg.embedding.preprocessing import AnyPreprocessing
from samreg.embedding.xray import XrayPreprocessing
from samreg.spatial.image import Image
from samreg.training.views import ViewConfig

_SHADING_WAVES = 4
_REMAPPED_HU = (-1024, -900, -700, -300, -100, 0, 60, 150, 300, 800, 3071)


@dataclass(frozen=True, eq=False)
class Intensity:
    """A monotone curve of the intensities, shading, lesions, blur and noise; the same for all cuts of a view."""

    knots: Tensor
    values: Tensor
    lesions: Tensor  # (N, d + 2): centre x, y(, z), radius, value
    blur: tuple[int, ...]  # box of fine voxels
    noise: float  # standard deviation at fine voxels
    seed: int
    air: float  # what a stored intensity of 0 lies below zero of the network's input
    edge: float  # mm, over which lesions fade
    shading: Tensor | None = None  # (W, d + 2): wave vector, phase, amplitude of the logarithm of brightness
    limits: tuple[float, float] | None = None  # become 0 and 1, what lies beyond is clipped

    def __call__(self, x: Tensor, points: Tensor, *, fine: bool) -> Tensor:
        """Stored intensities (1, 1, (z,) y, x) at ``points`` ((z,) y, x, d) to network input."""
        upper = torch.bucketize(x, self.knots[1:-1]) + 1
        low, high = self.knots[upper - 1], self.knots[upper]
        x = torch.lerp(self.values[upper - 1], self.values[upper], ((x - low) / (high - low)).clamp(max=1))
        if self.shading is not None:
            ndim = points.shape[-1]
            waves = torch.sin(points @ self.shading[:, :ndim].T + self.shading[:, ndim])
            x = x * torch.exp(waves @ self.shading[:, ndim + 1])
        for *centre, radius, value in self.lesions.tolist():
            distance = (points - points.new_tensor(centre)).norm(dim=-1)
            x = torch.lerp(x, x.new_tensor(value), ((radius - distance) / self.edge + 0.5).clamp(0, 1))
        if fine and max(self.blur) > 1:
            pool = F.avg_pool2d if len(self.blur) == 2 else F.avg_pool3d
            x = pool(x, self.blur, 1, tuple(n // 2 for n in self.blur), count_include_pad=False)
        sigma = self.noise * (1.0 if fine else 0.4)
        generator = torch.Generator(x.device).manual_seed(self.seed)
        x = x + sigma * torch.randn(x.shape, generator=generator, device=x.device) - self.air
        if self.limits is None:
            return x
        bottom, top = self.limits
        return ((x - bottom) / (top - bottom)).clamp(0, 1)


class Modality(ABC):
    """A kind of image."""

    preprocessing: AnyPreprocessing  # of the network's input
    source: AnyPreprocessing  # of the image files
    air: float  # what is stored as 0, in network input, negative: the input is the stored intensity minus this
    levels: NDArray[np.float32]  # stored intensities to which images are rounded, at most 256, rising from air's, 0

    @abstractmethod
    def level(self, array: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Index of the level nearest to each intensity of a whole image."""

    def stored(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Intensities of a whole image as training keeps them: linear in the network's input, air or black 0."""
        return self.levels[self.level(array)]

    @abstractmethod
    def original(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Network input back to intensities of an image, which the model normalises itself."""

    @abstractmethod
    def draw_intensity(self, points: Tensor, edge: float, config: ViewConfig, generator: torch.Generator) -> Intensity:
        """Draw how the intensities of a view with these points ((z,) y, x, d) are changed."""

    def fitted(self, intensity: Intensity, values: Tensor, points: Tensor) -> Intensity:
        """Fit the intensity to the stored values of the whole view, where the network's input depends on them."""
        return intensity


class Ct(Modality):
    """CT: stored (HU + 1024) / 1000.

    Soft tissue is rounded to 8 HU, lung to 16, bone to 32 and air to 62: less than the noise of a clinical scan, which
    keeps means over a few voxels exact.
    """

    air = 1.024
    _LEVELS_HU = np.concatenate([
        np.arange(-1024, -900, 62), np.arange(-900, -200, 16), np.arange(-200, 256, 8), np.arange(256, 3073, 32),
    ])  # fmt: skip
    levels = ((_LEVELS_HU + 1024) / 1000).astype(np.float32)
    _LIMITS_HU = ((_LEVELS_HU[1:] + _LEVELS_HU[:-1]) / 2).astype(np.float32)
    _KNOTS = (-1024, -950, -850, -700, -450, -150, -70, 0, 30, 60, 110, 200, 350, 700, 1500, 3076)

    def __init__(self, spacing: float) -> None:
        self.preprocessing = self.source = replace(COMPACT_PREPROCESSING, spacing=spacing)

    def level(self, array: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See ``Modality``."""
        return np.searchsorted(self._LIMITS_HU, array.astype(np.float32, copy=False)).astype(np.uint8)

    def original(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Modality``."""
        return np.clip(1000 * array, -1024, 3071)

    def draw_intensity(self, points: Tensor, edge: float, config: ViewConfig, generator: torch.Generator) -> Intensity:
        """Contrast of tissues and of enhancement, lesions and implants, blur, noise; water stays near 0 HU."""
        knots = torch.tensor(self._KNOTS, dtype=torch.float32) / 1000 + self.air
        steps = knots.diff() * torch.exp(0.2 * torch.randn(len(knots) - 1, generator=generator))
        if _chance(config.contrast, generator):  # enhanced vessels and organs, or their enhancement taken away
            steps[8:12] *= torch.exp(math.log(0.15) + math.log(12) * torch.rand(1, generator=generator))
        values = torch.cat([torch.zeros(1), steps.cumsum(0)])
        water = values[7].item() + 0.012 * torch.randn(1, generator=generator).item()
        values[1:] += self.air - water
        values = values.clamp(min=0)
        lesions = torch.zeros(0, 5)
        if _chance(config.lesion, generator):
            pick = torch.randint(0, points[..., 0].numel(), (2,), generator=generator)
            kinds = torch.tensor([0.0, 1.04, 1.04, 1.07, 3.0])  # gas, water twice, soft tissue, metal
            kind = kinds[torch.randint(0, len(kinds), (2,), generator=generator)]
            radius = 8 + 37 * torch.rand(2, generator=generator) ** 2
            radius = torch.where(kind > 2, radius / 3, radius)
            lesions = torch.cat([points.reshape(-1, 3).cpu()[pick], radius[:, None], kind[:, None]], dim=1)
        blur = (1, 1, 1)
        if _chance(config.blur, generator):
            blur = (3, 1, 1) if _chance(0.5, generator) else (3, 3, 3)
        noise = config.noise / 1000 * torch.rand(1, generator=generator).item() ** 2
        seed = int(torch.randint(0, 2**31, (1,), generator=generator))
        device = points.device
        return Intensity(knots.to(device), values.to(device), lesions, blur, noise, seed, air=self.air, edge=edge)


class AnyContrast(Ct):
    """Images of any contrast, made from CT: what a tissue's intensity is means nothing.

    Stored as CT is. Every view gives each class of tissue a random intensity, shades the image as coils and scatter do,
    blurs it and adds noise (the idea of SynthMorph, Hoffmann et al., TMI 2022, and anatomix, Dey et al., ICLR 2025,
    on real anatomy instead of labels); like any image it is then normalised by its own percentiles.
    """

    # of the knots: air, lung, its border, fat, fluid and soft tissue, enhanced, spongy and dense bone
    _CLASSES = (0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 8)
    _AS_CT, _DARK_AIR = 0.2, 0.8  # probabilities: of the contrast of CT, and of air that is darker than most
    _MAX_NOISE = 0.06

    def __init__(self, spacing: float) -> None:
        super().__init__(spacing)
        self.preprocessing = self._settings = AnyContrastPreprocessing(spacing=spacing)

    def original(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Modality``."""
        return array

    def draw_intensity(self, points: Tensor, edge: float, config: ViewConfig, generator: torch.Generator) -> Intensity:
        """Random intensities of tissues, or those of CT; uneven brightness, lesions, blur, noise."""
        drawn = super().draw_intensity(points, edge, config, generator)
        shading = None
        if _chance(config.shading, generator):
            shading = _draw_shading(points, config, generator, strength=0.12)
        if _chance(self._AS_CT, generator):
            return replace(drawn, air=0.0, shading=shading)
        classes = torch.rand(max(self._CLASSES) + 1, generator=generator)
        if _chance(self._DARK_AIR, generator):
            classes[0] = 0.1 * classes[0]
        values = classes[list(self._CLASSES)] + 0.06 * torch.randn(len(self._CLASSES), generator=generator)
        values[1] = values[0]
        lesions = drawn.lesions.clone()
        lesions[:, -1] = torch.rand(len(lesions), generator=generator)
        noise = self._MAX_NOISE * torch.rand(1, generator=generator).item() ** 2
        values = values.clamp(0, 1).to(points.device)
        return replace(drawn, values=values, lesions=lesions, noise=noise, air=0.0, shading=shading)

    def fitted(self, intensity: Intensity, values: Tensor, points: Tensor) -> Intensity:
        """See ``Modality``."""
        # every seventh voxel is enough for percentiles
        seen = intensity(values, points, fine=False).flatten()[::7].sort().values
        low, high = (float(seen[int(share / 100 * (len(seen) - 1))]) for share in self._settings.percentiles)
        return replace(intensity, limits=(low, max(high, low + 1e-3)))


class Xray(Modality):
    """X-ray: stored between two percentiles of the image, 0 to 1."""

    air = 0.0
    levels = np.linspace(0, 1, 256, dtype=np.float32)

    def __init__(self, spacing: float) -> None:
        self.preprocessing = self.source = XrayPreprocessing(spacing=spacing)

    def level(self, array: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See ``Modality``."""
        return np.rint(255 * self.preprocessing.normalise(array)).astype(np.uint8)

    def original(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Modality``."""
        return np.clip(array, 0, 1)

    def draw_intensity(self, points: Tensor, edge: float, config: ViewConfig, generator: torch.Generator) -> Intensity:
        """Gamma, contrast and brightness, uneven exposure, occluding discs, blur, noise."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(*shape, generator=generator)

        knots = torch.linspace(0, 1, 17)
        values, shading = knots, None
        if _chance(config.contrast, generator):
            steps = torch.exp(0.3 * torch.randn(16, generator=generator)) / 16
            values = torch.cat([torch.zeros(1), steps.cumsum(0)]) ** torch.exp(uniform(-0.6, 0.6, 1))
            values = values * torch.exp(uniform(-0.35, 0.35, 1)) + uniform(-0.12, 0.12, 1)
        if _chance(config.shading, generator):
            shading = _draw_shading(points, config, generator, strength=0.12)
        lesions = torch.zeros(0, points.shape[-1] + 2)
        if _chance(config.lesion, generator):
            pick = torch.randint(0, points[..., 0].numel(), (3,), generator=generator)
            radius, value = uniform(1, 4, 3, 1) ** 2, uniform(0, 1, 3, 1)
            lesions = torch.cat([points.reshape(-1, points.shape[-1]).cpu()[pick], radius, value], dim=1)
        width = 3 if _chance(config.blur, generator) else 1
        noise = config.noise / 1000 * torch.rand(1, generator=generator).item() ** 2
        seed = int(torch.randint(0, 2**31, (1,), generator=generator))
        device = points.device
        return Intensity(
            knots.to(device), values.to(device), lesions, (width,) * points.shape[-1], noise, seed, air=self.air,
            edge=edge, shading=shading,
        )  # fmt: skip


MODALITIES: dict[str, Callable[[float], Modality]] = {"ct": Ct, "any": AnyContrast, "xray": Xray}


def _draw_shading(points: Tensor, config: ViewConfig, generator: torch.Generator, *, strength: float) -> Tensor:
    """Draw slow waves of brightness, see ``Intensity.shading``; ``strength`` is the spread of their amplitudes."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(_SHADING_WAVES, 1, generator=generator)

    length = torch.exp(uniform(math.log(config.wavelength[0]), math.log(config.wavelength[1])))
    direction = F.normalize(torch.randn(_SHADING_WAVES, points.shape[-1], generator=generator), dim=1)
    phase = uniform(0, 2 * math.pi)
    amplitude = strength * torch.randn(_SHADING_WAVES, 1, generator=generator)
    return torch.cat([direction * 2 * math.pi / length, phase, amplitude], dim=1).to(points.device)


def remapped(image: Image, *, seed: int) -> Image:
    """Return a CT with intensities that mean nothing: a random curve of its Hounsfield units, up and down.

    Not the curves of training (:class:`AnyContrast`), so that models can be tested by it.

    Parameters
    ----------
    image
        CT in HU.
    seed
        Of the curve.

    Returns
    -------
    Image
        float32, 0 to 1000; air is dark in seven of ten.
    """
    random = np.random.default_rng(seed)
    values = random.uniform(0, 1000, len(_REMAPPED_HU))
    if random.random() < 0.7:
        values[0] = 20 * random.random()
    values[1] = values[0]  # noise of air is not to be seen
    return image.with_array(np.interp(image.array.astype(np.float32), _REMAPPED_HU, values).astype(np.float32))


def _chance(probability: float, generator: torch.Generator) -> bool:
    return bool(torch.rand(1, generator=generator) < probability)

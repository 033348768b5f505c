"""Random views of a volume whose every point is tracked exactly.

A view has its own frame: (x, y, z) mm from its centre. The map from there to the volume is an affine map after
a sum of sine waves: smooth, defined everywhere, evaluated exactly at any point, and inverted to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.training.config import ViewConfig
from samreg.training.data import COARSE, SPACING, Volume, sample

_WAVES = 10
_ITERATIONS = 12
_AIR = 1.024  # what a stored intensity of 0 means, in thousands of HU below water


@dataclass(frozen=True, eq=False)
class Warp:
    """View frame to volume frame: ``x -> centre + matrix (x + u(x))``, u a sum of sine waves."""

    centre: Tensor
    matrix: Tensor
    waves: Tensor
    phases: Tensor
    amplitudes: Tensor

    def displacement(self, points: Tensor) -> Tensor:
        return torch.sin(points @ self.waves + self.phases) @ self.amplitudes

    def to_volume(self, points: Tensor) -> Tensor:
        """Points (..., 3) of the view in the volume."""
        return (points + self.displacement(points)) @ self.matrix.T + self.centre

    def to_view(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points (N, 3) of the volume in the view, by fixed-point iteration, and which converged (N,)."""
        start = (points - self.centre) @ torch.linalg.inv(self.matrix).T
        found = start
        for _ in range(_ITERATIONS):
            found = start - self.displacement(found)
        residual = (found + self.displacement(found) - start).norm(dim=1)
        return found, residual < 0.25


@dataclass(frozen=True, eq=False)
class View:
    """A drawn view: the whole field of view at 4 mm, from which fine patches can be cut.

    Attributes
    ----------
    coarse : Tensor, shape (1, 1, z, y, x)
        Thousands of HU at 4 mm.
    """

    volume: Volume
    warp: Warp
    intensity: Intensity
    coarse: Tensor

    @property
    def first(self) -> Tensor:
        """Position (x, y, z) of the first 4 mm voxel."""
        return _first(self.coarse.shape[2:], self.coarse.device)

    def contains(self, points: Tensor, *, margin: float) -> Tensor:
        """Which points (N, 3) lie inside the view by at least `margin` mm."""
        return (points.abs() <= -self.first + COARSE / 2 - margin).all(dim=1)

    def patch(self, start: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Cut (1, 1, z, y, x) voxels of 2 mm; `start` (z, y, x) is the 4 mm voxel it begins with."""
        first = self.first + COARSE * start.flip(0) - SPACING / 2
        points = _grid(size, SPACING, first)
        values = sample(self.volume.fine, self.warp.to_volume(points), spacing=SPACING, first=0.0)[None]
        return self.intensity(values, points, SPACING)


@dataclass(frozen=True, eq=False)
class Intensity:
    """A monotone curve of the intensities, lesions, blur and noise; the same for all cuts of a view."""

    knots: Tensor
    values: Tensor
    lesions: Tensor  # (N, 5): centre x, y, z, radius, value
    blur: tuple[int, int, int]  # box of 2 mm voxels
    noise: float  # standard deviation at 2 mm, thousands of HU
    seed: int

    def __call__(self, x: Tensor, points: Tensor, spacing: float) -> Tensor:
        """Stored intensities (1, 1, z, y, x) at `points` (z, y, x, 3) to thousands of HU."""
        upper = torch.bucketize(x, self.knots[1:-1]) + 1
        low, high = self.knots[upper - 1], self.knots[upper]
        x = torch.lerp(self.values[upper - 1], self.values[upper], ((x - low) / (high - low)).clamp(max=1))
        for *centre, radius, value in self.lesions.tolist():
            distance = (points - points.new_tensor(centre)).norm(dim=-1)
            x = torch.lerp(x, x.new_tensor(value), ((radius - distance) / 4 + 0.5).clamp(0, 1))
        if spacing == SPACING and max(self.blur) > 1:
            x = F.avg_pool3d(x, self.blur, 1, tuple(n // 2 for n in self.blur), count_include_pad=False)
        sigma = self.noise * (1.0 if spacing == SPACING else 0.4)
        generator = torch.Generator(x.device).manual_seed(self.seed)
        return x + sigma * torch.randn(x.shape, generator=generator, device=x.device) - _AIR


def draw_view(
    volume: Volume,
    focus: Tensor,
    config: ViewConfig,
    generator: torch.Generator,
    *,
    smallest: tuple[int, int, int],
    mirror: bool,
) -> View:
    """Draw a view of `volume` around the point `focus` (3,), mm, of at least `smallest` 4 mm voxels."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    matrix = _rotation(uniform(-1, 1, 3) * math.radians(config.rotation))
    spread = math.log(config.scale), math.log(config.anisotropy)
    scales = torch.exp(uniform(-spread[0], spread[0], 1) + uniform(-spread[1], spread[1], 3))
    matrix = matrix * scales
    if mirror:
        matrix = matrix * torch.tensor([-1.0, 1.0, 1.0])
    warp_scale = uniform(0, config.warp, 1).item()

    # what part is seen: a box around the focus, in the view's own frame
    extent = volume.extent.cpu() / scales
    fraction = torch.ones(3)
    fraction[2] = uniform(config.crop, 1.15, 1)
    if torch.rand(1, generator=generator) < config.crop_in_plane:
        fraction[:2] = uniform(max(config.crop, 0.55), 1.0, 2)
    length = torch.minimum(extent * fraction.clamp(max=1), COARSE * torch.tensor(config.size[::-1]))
    size = torch.maximum((length / COARSE).round().int(), torch.tensor(smallest[::-1])).tolist()[::-1]
    half = length / 2
    middle = volume.extent.cpu() / 2
    reach = (extent / 2 - half).clamp(min=0)
    offset = (focus.cpu() - middle) / scales
    low = torch.maximum(-reach, offset - 0.8 * half)
    high = torch.minimum(reach, offset + 0.8 * half)
    shift = low + (high - low).clamp(min=0) * torch.rand(3, generator=generator)
    centre = middle + shift * scales

    wavelength = torch.exp(uniform(math.log(config.wavelength[0]), math.log(config.wavelength[1]), _WAVES))
    waves = F.normalize(torch.randn(3, _WAVES, generator=generator), dim=0) * (2 * math.pi / wavelength)
    gradient = warp_scale * math.sqrt(2 / _WAVES)
    amplitudes = torch.randn(_WAVES, 3, generator=generator) / math.sqrt(3) * gradient
    amplitudes = amplitudes / waves.norm(dim=0)[:, None]
    phases = uniform(0, 2 * math.pi, _WAVES)

    device = volume.coarse.device
    warp = Warp(*(t.to(device) for t in (centre, matrix, waves, phases, amplitudes)))
    points = _grid(size, COARSE, _first(size, device))
    intensity = _draw_intensity(points, config, generator)
    values = sample(volume.coarse, warp.to_volume(points), spacing=COARSE, first=SPACING / 2)[None]
    return View(volume, warp, intensity, intensity(values, points, COARSE))


_KNOTS = (-1024, -950, -850, -700, -450, -150, -70, 0, 30, 60, 110, 200, 350, 700, 1500, 3076)


def _draw_intensity(points: Tensor, config: ViewConfig, generator: torch.Generator) -> Intensity:
    def chance(probability: float) -> bool:
        return bool(torch.rand(1, generator=generator) < probability)

    knots = torch.tensor(_KNOTS, dtype=torch.float32) / 1000 + _AIR
    steps = knots.diff() * torch.exp(0.2 * torch.randn(len(knots) - 1, generator=generator))
    if chance(config.contrast):  # enhanced vessels and organs, or their enhancement taken away
        steps[8:12] *= torch.exp(math.log(0.15) + math.log(12) * torch.rand(1, generator=generator))
    values = torch.cat([torch.zeros(1), steps.cumsum(0)])
    water = values[7].item() + 0.012 * torch.randn(1, generator=generator).item()
    values[1:] += _AIR - water
    values = values.clamp(min=0)
    lesions = torch.zeros(0, 5)
    if chance(config.lesion):
        pick = torch.randint(0, points[..., 0].numel(), (2,), generator=generator)
        kinds = torch.tensor([0.0, 1.04, 1.04, 1.07, 3.0])  # gas, water twice, soft tissue, metal
        kind = kinds[torch.randint(0, len(kinds), (2,), generator=generator)]
        radius = 8 + 37 * torch.rand(2, generator=generator) ** 2
        radius = torch.where(kind > 2, radius / 3, radius)
        lesions = torch.cat([points.reshape(-1, 3).cpu()[pick], radius[:, None], kind[:, None]], dim=1)
    blur = (1, 1, 1)
    if chance(config.blur):
        blur = (3, 1, 1) if chance(0.5) else (3, 3, 3)
    noise = config.noise / 1000 * torch.rand(1, generator=generator).item() ** 2
    seed = int(torch.randint(0, 2**31, (1,), generator=generator))
    device = points.device
    return Intensity(knots.to(device), values.to(device), lesions, blur, noise, seed)


def _rotation(angles: Tensor) -> Tensor:
    """Rotation by angles (radians) about x, then y, then z."""
    matrix = torch.eye(3)
    for axis, angle in enumerate(angles.tolist()):
        c, s = math.cos(angle), math.sin(angle)
        turn = torch.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        matrix = turn @ matrix
    return matrix


def _first(size: tuple[int, ...] | list[int], device: torch.device) -> Tensor:
    """Position of the first of `size` (z, y, x) voxels of 4 mm centred on zero, (x, y, z)."""
    return torch.tensor([-COARSE * (n - 1) / 2 for n in reversed(size)], device=device)


def _grid(size: tuple[int, ...] | list[int], spacing: float, first: Tensor) -> Tensor:
    """Voxel centres (z, y, x, 3), components (x, y, z)."""
    axes = [torch.arange(n, device=first.device) * spacing + f for n, f in zip(reversed(size), first, strict=True)]
    z, y, x = torch.meshgrid(*axes[::-1], indexing="ij")
    return torch.stack([x, y, z], dim=-1)

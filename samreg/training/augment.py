"""Random views of an image, 3D or 2D, whose every point is tracked exactly.

A view has its own frame: (x, y(, z)) mm from its centre. The map from there to the volume is an affine map after
a sum of sine waves: smooth, defined everywhere, evaluated exactly at any point, and inverted to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.training.data import Volume, sample
from samreg.training.modality import Intensity
from samreg.training.views import ViewConfig

_WAVES = 10
_ITERATIONS = 12
_MORE_ITERATIONS = 25  # where shoulders are moved: the map is steeper
_SHOULDER_WIDTH_MM = (35.0, 55.0)
_MAX_STEEPNESS = 0.6  # gradient of a local shift; of 1 it would fold


@dataclass(frozen=True, eq=False)
class Warp:
    """View frame to volume frame: ``x -> centre + matrix (x + u(x))``, u a sum of sine waves and of local shifts.

    A local shift falls off as a Gaussian around its place.
    """

    centre: Tensor
    matrix: Tensor
    waves: Tensor
    phases: Tensor
    amplitudes: Tensor
    places: Tensor  # (K, d) mm in the view
    shifts: Tensor  # (K, d) mm
    widths: Tensor  # (K,) mm, standard deviations

    def displacement(self, points: Tensor) -> Tensor:
        moved = torch.sin(points @ self.waves + self.phases) @ self.amplitudes
        for place, shift, width in zip(self.places, self.shifts, self.widths, strict=True):
            distance = (points - place).square().sum(dim=-1, keepdim=True)
            moved = moved + torch.exp(distance / (-2 * width**2)) * shift
        return moved

    def to_volume(self, points: Tensor) -> Tensor:
        """Points (..., d) of the view in the volume."""
        return (points + self.displacement(points)) @ self.matrix.T + self.centre

    def to_view(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points (N, d) of the volume in the view, by fixed-point iteration, and which converged (N,)."""
        start = (points - self.centre) @ torch.linalg.inv(self.matrix).T
        found = start
        for _ in range(_MORE_ITERATIONS if len(self.places) else _ITERATIONS):
            found = start - self.displacement(found)
        residual = (found + self.displacement(found) - start).norm(dim=1)
        return found, residual < 0.25


@dataclass(frozen=True, eq=False)
class View:
    """A drawn view: the whole field of view at coarse voxels, from which fine patches can be cut.

    Attributes
    ----------
    coarse
        (1, 1, (z,) y, x) network input at twice the voxel size.
    """

    volume: Volume
    warp: Warp
    intensity: Intensity
    coarse: Tensor

    @property
    def first(self) -> Tensor:
        """Position (x, y(, z)) of the first coarse voxel."""
        return _first(self.coarse.shape[2:], self.step, self.coarse.device)

    @property
    def step(self) -> float:
        """Size of the coarse voxels, mm."""
        return self.volume.step

    def contains(self, points: Tensor, *, margin: float) -> Tensor:
        """Which points (N, d) lie inside the view by at least ``margin`` mm."""
        return (points.abs() <= -self.first + self.step / 2 - margin).all(dim=1)

    @property
    def fine_shape(self) -> tuple[int, ...]:
        """Size of the whole view, fine voxels."""
        return tuple(2 * n for n in self.coarse.shape[2:])

    def fine_points(self) -> Tensor:
        """Centres ((z,) y, x, d) of the fine voxels."""
        spacing = self.volume.spacing
        return _grid(self.fine_shape, spacing, self.first - spacing / 2)

    def whole(self) -> Tensor:
        """The whole view (1, 1, (z,) y, x) at fine voxels."""
        return self.patch(torch.zeros(self.volume.ndim, dtype=torch.long, device=self.coarse.device), self.fine_shape)

    def patch(self, start: Tensor, size: tuple[int, ...]) -> Tensor:
        """Cut (1, 1, (z,) y, x) fine voxels; ``start`` ((z,) y, x) is the coarse voxel it begins with."""
        spacing = self.volume.spacing
        first = self.first + self.step * start.flip(0) - spacing / 2
        points = _grid(size, spacing, first)
        values = sample(self.volume.fine, self.warp.to_volume(points), spacing=spacing, first=0.0)[None]
        return self.intensity(values, points, fine=True)


def draw_view(
    volume: Volume,
    focus: Tensor,
    config: ViewConfig,
    generator: torch.Generator,
    *,
    smallest: tuple[int, ...],
    mirror: bool,
) -> View:
    """Draw a view of ``volume`` around the point ``focus`` (d,), mm, of at least ``smallest`` coarse voxels."""
    ndim, step = volume.ndim, volume.step

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    matrix = _rotation(uniform(-1, 1, len(_PLANES[ndim])) * math.radians(config.rotation))
    spread = math.log(config.scale), math.log(config.anisotropy)
    scales = torch.exp(uniform(-spread[0], spread[0], 1) + uniform(-spread[1], spread[1], ndim))
    matrix = matrix * scales
    if mirror:
        matrix = matrix * torch.tensor([-1.0, 1.0, 1.0][:ndim])
    warp_scale = uniform(0, config.warp, 1).item()

    # what part is seen: a box around the focus, in the view's own frame
    extent = volume.extent.cpu() / scales
    fraction = torch.ones(ndim)
    fraction[-1] = uniform(config.crop, 1.15, 1)
    if torch.rand(1, generator=generator) < config.crop_in_plane:
        fraction[:-1] = uniform(max(config.crop, 0.55), 1.0, ndim - 1)
    length = torch.minimum(extent * fraction.clamp(max=1), step * torch.tensor(config.size[::-1]))
    fewest = (torch.tensor(smallest[::-1]) / config.size_step).ceil()
    size = (torch.maximum((length / step / config.size_step).round(), fewest) * config.size_step).int().tolist()[::-1]
    half = length / 2
    middle = volume.extent.cpu() / 2
    reach = (extent / 2 - half).clamp(min=0)
    offset = (focus.cpu() - middle) / scales
    low = torch.maximum(-reach, offset - 0.8 * half)
    high = torch.minimum(reach, offset + 0.8 * half)
    shift = low + (high - low).clamp(min=0) * torch.rand(ndim, generator=generator)
    centre = middle + shift * scales

    wavelength = torch.exp(uniform(math.log(config.wavelength[0]), math.log(config.wavelength[1]), _WAVES))
    waves = F.normalize(torch.randn(ndim, _WAVES, generator=generator), dim=0) * (2 * math.pi / wavelength)
    gradient = warp_scale * math.sqrt(2 / _WAVES)
    amplitudes = torch.randn(_WAVES, ndim, generator=generator) / math.sqrt(ndim) * gradient
    amplitudes = amplitudes / waves.norm(dim=0)[:, None]
    phases = uniform(0, 2 * math.pi, _WAVES)

    device = volume.coarse.device
    local = _raised_arms(volume, centre, matrix, config, generator)
    warp = Warp(*(t.to(device) for t in (centre, matrix, waves, phases, amplitudes, *local)))
    points = _grid(size, step, _first(size, step, device))
    intensity = volume.modality.draw_intensity(points, step, config, generator)
    values = sample(volume.coarse, warp.to_volume(points), spacing=step, first=volume.spacing / 2)[None]
    intensity = volume.modality.fitted(intensity, values, points)
    return View(volume, warp, intensity, intensity(values, points, fine=False))


def _raised_arms(
    volume: Volume, centre: Tensor, matrix: Tensor, config: ViewConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw how the shoulders are moved: places, shifts (K, d) and widths (K,) in the view's frame.

    With the arms the girdle goes up or down, and forwards or backwards; the scapula turns with it, so that its lower
    tip swings outwards or inwards. A smooth map cannot leave the ribs beneath quite where they are: what is near moves
    along, exactly known like everything else.
    """
    places, shifts, widths = [], [], []
    for shoulder in volume.shoulders:
        if torch.rand(1, generator=generator) >= config.shoulders:
            continue
        raised = 2 * torch.rand(1, generator=generator).item() - 1  # 1 fully up, -1 fully down
        width = torch.empty(2).uniform_(*_SHOULDER_WIDTH_MM, generator=generator)
        jitter = 0.3 * torch.randn(2, 3, generator=generator)
        girdle = torch.tensor([0.3 * shoulder.outwards * -abs(raised), -0.3 * raised, raised]) + jitter[0]
        tip = torch.tensor([shoulder.outwards * raised, -0.5 * raised, 0.3 * raised]) + jitter[1]
        for place, direction, sigma in ((shoulder.girdle, girdle, width[0]), (shoulder.tip, tip, width[1])):
            length = direction.norm().clamp(min=1.0)
            places.append(place.cpu())
            shifts.append(direction / length * min(1.0, float(length)) * _MAX_STEEPNESS * math.sqrt(math.e) * sigma)
            widths.append(sigma)
    if not places:
        return torch.zeros(0, volume.ndim), torch.zeros(0, volume.ndim), torch.zeros(0)
    back = torch.linalg.inv(matrix)
    return (torch.stack(places) - centre) @ back.T, torch.stack(shifts) @ back.T, torch.stack(widths)


_PLANES = {2: ((0, 1),), 3: ((1, 2), (2, 0), (0, 1))}


def _rotation(angles: Tensor) -> Tensor:
    """Rotation by angles (radians): about x, then y, then z, or in the plane of a 2D image."""
    ndim = 3 if len(angles) == 3 else 2
    matrix = torch.eye(ndim)
    for (i, j), angle in zip(_PLANES[ndim], angles.tolist(), strict=True):
        c, s = math.cos(angle), math.sin(angle)
        turn = torch.eye(ndim)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        matrix = turn @ matrix
    return matrix


def _first(size: tuple[int, ...] | list[int], step: float, device: torch.device) -> Tensor:
    """Position of the first of ``size`` ((z,) y, x) voxels of ``step`` mm centred on zero, (x, y(, z))."""
    return torch.tensor([-step * (n - 1) / 2 for n in reversed(size)], device=device)


def _grid(size: tuple[int, ...] | list[int], spacing: float, first: Tensor) -> Tensor:
    """Voxel centres ((z,) y, x, d), components (x, y(, z))."""
    axes = [torch.arange(n, device=first.device) * spacing + f for n, f in zip(reversed(size), first, strict=True)]
    return torch.stack(torch.meshgrid(*axes[::-1], indexing="ij")[::-1], dim=-1)

"""Volumes of one extent at several resolutions, and sampling them; 2D and 3D alike.

Every volume of a pair covers the same box, so that a point has one normalised position, -1 to 1 from border to
border along x, y(, z), at every resolution. Displacements are in mm along the grid's axes, channel 0 along x.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.spatial import Grid

_POOLS = {2: F.avg_pool2d, 3: F.avg_pool3d}
_POSITIONS_PER_THREAD = 10_000  # fewer are not worth one
_MAX_GRADIENT_THREADS = 4  # each makes a gradient of the whole volume
_MODES = {2: "bilinear", 3: "trilinear"}


def pooled(volume: Tensor, size: int, *, stride: int | None = None) -> Tensor:
    """Return the mean over windows of ``size`` voxels, (1, C, *shape)."""
    return volume if size == 1 else _POOLS[volume.ndim - 2](volume, size, size if stride is None else stride)


def resized(volume: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Return the volume (1, C, *shape) at another resolution of the same box, linearly."""
    if tuple(volume.shape[2:]) == tuple(shape):
        return volume
    return F.interpolate(volume, size=tuple(shape), mode=_MODES[volume.ndim - 2], align_corners=False)


def positions(
    shape: torch.Size | tuple[int, ...], device: torch.device, part: tuple[slice, ...] | None = None
) -> Tensor:
    """Return the normalised positions (*shape, d) of voxel centres, or of a part of them, components (x, y(, z))."""
    axes = [(torch.arange(n, device=device) + 0.5) * (2 / n) - 1 for n in shape]
    if part is not None:
        axes = [axis[s] for axis, s in zip(axes, part, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)


def sampled(volume: Tensor, at: Tensor) -> Tensor:
    """Return the volume (1, C, *shape) at normalised positions (*other, d), linearly, the border repeated outwards."""
    *other, ndim = at.shape
    count = math.prod(other)
    shares = 1
    if volume.device.type == "cpu":
        # there torch gives each member of a batch to one thread, and a batch of one to one alone
        threads = torch.get_num_threads()
        usable = min(threads, _MAX_GRADIENT_THREADS) if volume.requires_grad else threads
        shares = max(1, min(usable, count // _POSITIONS_PER_THREAD))
    places = at.reshape(count, ndim)
    if count % shares:
        places = F.pad(places, (0, 0, 0, -count % shares))
    values = F.grid_sample(
        volume.expand(shares, *volume.shape[1:]),
        places.reshape(shares, *[1] * (ndim - 1), -1, ndim),
        padding_mode="border",
        align_corners=False,
    )
    return values.movedim(1, 0).reshape(volume.shape[1], -1)[:, :count].reshape(1, volume.shape[1], *other)


def interpolated(volume: Tensor, at: Tensor) -> Tensor:
    """Return the values (C, N) of the volume (1, C, *shape) at normalised positions (N, d)."""
    ndim = at.shape[1]
    return sampled(volume, at.reshape(*[1] * (ndim - 1), -1, ndim)).reshape(volume.shape[1], -1)


def moved(displacement: Tensor, extent: Tensor, at: Tensor) -> Tensor:
    """Return the normalised positions (*shape, d) after a displacement (1, d, *shape), mm, in a box (d,), mm."""
    return at + displacement[0].movedim(0, -1) * (2 / extent)


def extent_of(grid: Grid, device: torch.device) -> Tensor:
    """Return the size of the grid's box along its axes x, y(, z), mm."""
    return torch.tensor(grid.extent, dtype=torch.float32, device=device)

"""A stationary velocity field: the forward and the inverse displacement from one field, smooth and without folds."""

from __future__ import annotations

import itertools
import math
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.engines.torch_engine.recompute import Step, recomputed
from samreg.engines.torch_engine.volumes import moved, pooled, positions, sampled

_SQUARINGS = 4
_MIN_JACOBIAN = 0.1  # determinant, below which a velocity is smoothed
_MAX_SMOOTHINGS = 20
_FALL_LENGTHS = 2.0  # mm for each mm/unit time of velocity at the border: the fall compresses to half, not to a fold
_ZERO_VOXELS = 2  # outermost, so that what is interpolated at the border is zero
_CHECKPOINT_ELEMENTS = 1_000_000  # of a volume whose memory is worth computing a step twice


def exponential(velocity: Tensor, extent: Tensor) -> Tensor:
    """Return the displacement (1, d, *shape), mm, of flowing along a velocity (1, d, *shape), mm, for unit time.

    Scaling and squaring (Arsigny et al., MICCAI 2006); the flow along the negative velocity is the inverse.
    """
    at = positions(velocity.shape[2:], velocity.device)

    def twice(displacement: Tensor) -> Tensor:
        return displacement + sampled(displacement, moved(displacement, extent, at))

    displacement: Tensor = velocity / 2**_SQUARINGS
    for _ in range(_SQUARINGS):
        displacement = _checkpointed(twice, displacement)
    return displacement


def continued(velocity: Tensor, extent: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """Continue a velocity (1, d, *shape), mm, beyond its box until it is zero, so that it is defined everywhere.

    The values of each face are repeated outwards and fall smoothly to zero, the slower the larger they are: the flow
    leaves no grid, has an inverse everywhere, and within the box only what flows in from outside can change.

    Returns
    -------
    Tensor
        The velocity on a larger grid of the same voxels.
    list of tuple
        How many voxels were added before and behind along each axis of the array; none where a face is zero.
    """
    ndim = velocity.ndim - 2
    sizes = velocity.shape[2:]
    faces = [velocity.select(2 + axis, end).norm(dim=1).max() for axis in range(ndim) for end in (0, -1)]
    voxel = float((extent.flip(0) / torch.tensor(sizes, device=extent.device)).min())
    falls = [math.ceil(_FALL_LENGTHS * speed / voxel) for speed in torch.stack(faces).tolist()]
    widths = [fall + _ZERO_VOXELS if fall else 0 for fall in falls]
    added = list(zip(widths[::2], widths[1::2], strict=True))
    larger = F.pad(velocity, [width for pair in reversed(added) for width in pair], mode="replicate")
    for axis, size in enumerate(sizes):
        index = torch.arange(-added[axis][0], size + added[axis][1], device=velocity.device)
        before, behind = -index / (falls[2 * axis] + 1), (index - (size - 1)) / (falls[2 * axis + 1] + 1)
        share = (1 - torch.maximum(before, behind)).clamp(min=0, max=1)
        window = share.square() * (3 - 2 * share)
        larger = larger * window.reshape([-1 if i == axis else 1 for i in range(ndim)])
    return larger, added


def roughness(velocity: Tensor, spacing: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squared first and second derivatives of a velocity (1, d, *shape), mm; spacing (d,) mm."""
    ndim = velocity.ndim - 2

    def along(axis: int, velocity: Tensor) -> Tensor:
        slope = velocity.diff(dim=2 + axis) / spacing[ndim - 1 - axis]
        second = velocity.new_zeros(())
        for other in range(axis, ndim):
            bend = slope.diff(dim=2 + other) / spacing[ndim - 1 - other]
            second = second + (1 if other == axis else 2) * bend.square().mean()
        return torch.stack([slope.square().mean(), second])

    first, second = torch.stack([_checkpointed(partial(along, axis), velocity) for axis in range(ndim)]).sum(dim=0)
    return first, second


def jacobian(displacement: Tensor, extent: Tensor) -> Tensor:
    """Return the determinant (1, 1, *shape) of the Jacobian of x + u(x) for a displacement u (1, d, *shape), mm."""
    behind, ahead = _slopes(displacement, extent)
    return _determinant([[(a + b) / 2 for a, b in zip(*rows, strict=True)] for rows in zip(behind, ahead, strict=True)])


def unfolded(velocity: Tensor, extent: Tensor) -> Tensor:
    """Smooth a velocity (1, d, *shape) where its flow comes near a fold, between voxels too, until it does not."""
    ndim = velocity.ndim - 2
    for _ in range(_MAX_SMOOTHINGS):
        behind, ahead = _slopes(exponential(velocity, extent), extent)
        lowest = torch.full_like(velocity[:, :1], torch.inf)
        for side in itertools.product((behind, ahead), repeat=ndim):  # of every cell that a voxel is a corner of
            lowest = torch.minimum(lowest, _determinant([[s[i][j] for j, s in enumerate(side)] for i in range(ndim)]))
        if lowest.min() >= _MIN_JACOBIAN:
            break
        share = (20 * smoothed((lowest < _MIN_JACOBIAN).float())).clamp(max=1)  # a few voxels around as well
        velocity = torch.lerp(velocity, smoothed(velocity), share)
    return velocity


def smoothed(volume: Tensor) -> Tensor:
    """Return the volume after two passes of a 3-voxel mean along every axis, the border repeated."""
    ndim = volume.ndim - 2
    for _ in range(2):
        volume = pooled(F.pad(volume, (1, 1) * ndim, mode="replicate"), 3, stride=1)
    return volume


def _checkpointed(step: Step, volume: Tensor) -> Tensor:
    """Return step(volume); of a large one, computed again for its gradient."""
    return recomputed(step, volume) if volume.numel() > _CHECKPOINT_ELEMENTS else step(volume)


def _slopes(displacement: Tensor, extent: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Return d(x + u)_i / dx_j from differences to the voxel behind and to the one ahead, each (1, 1, *shape)."""
    ndim = displacement.ndim - 2
    sides: tuple[list[list[Tensor]], list[list[Tensor]]] = ([], [])
    for i in range(ndim):
        component = displacement[:, i : i + 1]
        rows: tuple[list[Tensor], list[Tensor]] = ([], [])
        for j in range(ndim):
            dim = component.ndim - 1 - j
            slope = component.diff(dim=dim) * (component.shape[dim] / extent[j]) + float(i == j)
            first, last = slope.narrow(dim, 0, 1), slope.narrow(dim, slope.shape[dim] - 1, 1)
            rows[0].append(torch.cat([first, slope], dim=dim))
            rows[1].append(torch.cat([slope, last], dim=dim))
        sides[0].append(rows[0])
        sides[1].append(rows[1])
    return sides


def _determinant(rows: list[list[Tensor]]) -> Tensor:
    if len(rows) == 1:
        return rows[0][0]
    minors = [_determinant([row[:j] + row[j + 1 :] for row in rows[1:]]) for j in range(len(rows))]
    signed = [first * minor * (-1) ** j for j, (first, minor) in enumerate(zip(rows[0], minors, strict=True))]
    total: Tensor = reduce(torch.add, signed)
    return total

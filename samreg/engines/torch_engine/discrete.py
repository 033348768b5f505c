"""Where embeddings match best around the start: every displacement is tried, neighbours are kept together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.engines.torch_engine.velocity import smoothed
from samreg.engines.torch_engine.volumes import moved, pooled, positions, resized, sampled

# how strongly the matches are drawn to the smooth field, per mm^2, from round to round
_COUPLING = (0.0, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)


def convex_search(vectors: Sequence[Tensor], present: Tensor, *, extent: Tensor, radius: float, step: float) -> Tensor:
    """Find a smooth displacement between feature volumes of one box.

    The dissimilarity of every displacement on a lattice is computed once; then the best displacement of each cell
    and a smooth field take turns, ever closer coupled (convex optimisation of Heinrich et al., MICCAI 2014; as in
    ConvexAdam, Siebert et al., 2021, and SAMConvex, Li et al., MICCAI 2023). Blocks of two voxels are searched
    first, over the whole radius in double steps; the voxels then over what such a step leaves open.

    Parameters
    ----------
    vectors
        Unit vectors (1, C, *shape) of the fixed and the moving image; even sizes.
    present
        (1, 1, *shape), where the fixed image counts.
    extent
        (d,) of the box, mm, in order x, y(, z).
    radius, step
        Of the displacements tried, mm.

    Returns
    -------
    Tensor
        (1, d, *shape), displacement along the grid's axes, mm.
    """
    fixed, moving = (F.normalize(pooled(v, 2), dim=1) for v in vectors)
    first = _search(fixed, moving, pooled(present, 2), extent=extent, radius=radius, step=2 * step, cell=1)
    first = resized(first, vectors[0].shape[2:])
    at = positions(first.shape[2:], first.device)
    warped = F.normalize(sampled(vectors[1], moved(first, extent, at)), dim=1)
    second = _search(vectors[0], warped, present, extent=extent, radius=2 * step, step=step, cell=2)
    return second + sampled(first, moved(second, extent, at))


def _search(
    fixed: Tensor, moving: Tensor, weight: Tensor, *, extent: Tensor, radius: float, step: float, cell: int
) -> Tensor:
    """One search; similarities are pooled over cells of ``cell`` voxels."""
    ndim = fixed.ndim - 2
    shape = fixed.shape[2:]
    spacing = extent / torch.tensor(shape[::-1], device=extent.device)
    # whole voxels: a displacement is a shifted view
    reach = [max(1, round(radius / s)) for s in spacing.tolist()]
    stride = [max(1, round(step / s)) for s in spacing.tolist()]
    steps = list(itertools.product(*[range(-(r // t) * t, r + 1, t) for r, t in zip(reach, stride, strict=True)]))
    padded = F.pad(moving, [p for r in reach for p in (r, r)])
    cell_weight = pooled(weight, cell)
    inside = cell_weight[0, 0] > 0  # cells outside the body follow their neighbours
    if not inside.any():
        return torch.zeros(1, ndim, *shape, device=fixed.device)
    around = _bounds(inside)
    box = tuple(slice(s.start * cell, s.stop * cell) for s in around)
    fixed, weight = (volume[(slice(None), slice(None), *box)] for volume in (fixed, weight))
    within = inside[around]
    scale = 1 / cell_weight[0, 0][inside].clamp(min=1e-3)
    costs = []
    for offset in steps:
        view = padded
        for axis, part in enumerate(reversed(box)):  # axis 0 is x, the last of the array
            first = part.start + reach[axis] + offset[axis]
            view = view.narrow(2 + ndim - 1 - axis, first, part.stop - part.start)
        cost = (1 - (fixed * view).sum(dim=1, keepdim=True)) * weight
        costs.append(pooled(cost, cell)[0, 0][within] * scale)
    cost = torch.stack(costs)  # (displacements, cells inside)
    lattice = torch.tensor(steps, dtype=torch.float32, device=fixed.device) * spacing  # (displacements, d)
    counts = cell_weight + 1e-4
    field = torch.zeros(1, ndim, *inside.shape, device=fixed.device)
    for coupling in _COUPLING:
        away = (lattice[:, :, None] - field[0][:, inside][None]).square().sum(dim=1)
        field[0][:, inside] = lattice[(cost + coupling * away).argmin(dim=0)].T
        field = smoothed(field * counts) / smoothed(counts)
    return resized(field, shape)


def _bounds(inside: Tensor) -> tuple[slice, ...]:
    """Return the smallest box that holds what is true."""
    index = inside.nonzero()
    return tuple(slice(low, high + 1) for low, high in zip(index.amin(0).tolist(), index.amax(0).tolist(), strict=True))

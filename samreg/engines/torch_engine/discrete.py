"""Where embeddings match best around the start: every displacement is tried, neighbours are kept together."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.engines.torch_engine.volumes import pooled, resized

# how strongly the matches are drawn to the smooth field, per mm^2, from round to round
_COUPLING = (0.0, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)
_CELL = 2  # voxels along each side whose similarities are pooled


def convex_search(
    fixed: Tensor, moving: Tensor, weight: Tensor, *, spacing: Tensor, radius: float, step: float
) -> Tensor:
    """Find a smooth displacement between feature volumes of one grid.

    The dissimilarity of every displacement on a lattice is computed once; then the best displacement of each cell
    and a smooth field take turns, ever closer coupled (convex optimisation of Heinrich et al., MICCAI 2014; as in
    ConvexAdam, Siebert et al., 2021, and SAMConvex, Li et al., MICCAI 2023).

    Parameters
    ----------
    fixed, moving : Tensor, shape (1, C, *shape)
        Unit vectors.
    weight : Tensor, shape (1, 1, *shape)
        Where the fixed image counts.
    spacing : Tensor, shape (d,)
        Of the voxels, mm, in order x, y(, z).
    radius, step : float
        Of the displacements tried, mm.

    Returns
    -------
    Tensor, shape (1, d, *shape)
        Displacement along the grid's axes, mm.
    """
    ndim = fixed.ndim - 2
    shape = fixed.shape[2:]
    # whole voxels: a displacement is a shifted view
    reach = [max(1, round(radius / s)) for s in spacing.tolist()]
    stride = [max(1, round(step / s)) for s in spacing.tolist()]
    steps = list(itertools.product(*[range(-(r // t) * t, r + 1, t) for r, t in zip(reach, stride, strict=True)]))
    padding = [p for r in reach for p in (r, r)]
    padded = F.pad(moving, padding)
    even = [-n % _CELL for n in shape]
    fill = [p for n in reversed(even) for p in (0, n)]
    cell_weight = pooled(F.pad(weight, fill), _CELL)
    costs = []
    for offset in steps:
        view = padded
        for axis in range(ndim):  # axis 0 is x, the last of the array
            view = view.narrow(2 + ndim - 1 - axis, reach[axis] + offset[axis], shape[ndim - 1 - axis])
        cost = (1 - (fixed * view).sum(dim=1, keepdim=True)) * weight
        costs.append(pooled(F.pad(cost, fill), _CELL) / cell_weight.clamp(min=1e-3))
    cost = torch.cat(costs)[:, 0].flatten(1)  # (displacements, cells)
    lattice = torch.tensor(steps, dtype=torch.float32, device=fixed.device) * spacing  # (displacements, d)
    cells = tuple(cell_weight.shape[2:])
    counts = cell_weight.clamp(max=1) + 1e-3
    field = torch.zeros(1, ndim, *cells, device=fixed.device)
    for coupling in _COUPLING:
        away = (lattice[:, :, None] - field[0].flatten(1)[None]).square().sum(dim=1)
        best = (cost + coupling * away).argmin(dim=0)
        matched = lattice[best].T.reshape(1, ndim, *cells)
        field = _smooth(matched * counts) / _smooth(counts)
    return resized(field, [n + e for n, e in zip(shape, even, strict=True)])[(..., *(slice(n) for n in shape))]


def _smooth(volume: Tensor) -> Tensor:
    """Two passes of a 3-voxel mean along every axis, the border repeated."""
    ndim = volume.ndim - 2
    for _ in range(2):
        volume = pooled(F.pad(volume, (1, 1) * ndim, mode="replicate"), 3, stride=1)
    return volume

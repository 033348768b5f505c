"""Finding the most similar voxel: exhaustive, coarse-to-fine or around a prediction, then between voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from samreg.matching.features import Features, rows_at
from samreg.spatial.grid import FloatArray

MEMORY_LIMIT_MB = 256  # for one block of similarities or gathered vectors


@dataclass(frozen=True, eq=False)
class Found:
    """Where N query vectors were found.

    Parameters
    ----------
    positions
        (N, d) world positions, LPS mm, between voxels.
    similarity
        (N,) similarity at the best voxel.
    """

    positions: FloatArray
    similarity: FloatArray


@dataclass(frozen=True, eq=False)
class Prediction:
    """Where the matches are expected: candidates farther than ``radius`` are not considered.

    Parameters
    ----------
    positions
        (N, d) expected world positions, LPS mm.
    radius
        Half the width of the search window, mm.
    penalty
        Similarity lost at the distance ``radius``; grows with the square of the distance.
    """

    positions: FloatArray
    radius: float
    penalty: float = 0.0


def find(
    query: torch.Tensor,
    target: Features,
    *,
    prediction: Prediction | None = None,
    coarse: bool = False,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
) -> Found:
    """Find the most similar place of each query vector.

    Parameters
    ----------
    query
        (N, C) float32 unit vectors.
    target
        The vectors to search.
    prediction
        Where to search; everywhere in the body unless given.
    coarse
        Search every second voxel along each axis first, then the neighbourhood of the best at full resolution.
        About 8 times faster; for thousands of queries.
    memory_limit_mb
        Bound on the memory of one block.

    Returns
    -------
    Found
        Positions refined between voxels by a parabola along each axis.
    """
    if prediction is not None:
        best = _search_window(query, target, prediction, memory_limit_mb)
    elif coarse:
        even = (target.index % 2 == 0).all(dim=1).nonzero()[:, 0]
        best = even[_search_all(query, target.vectors[even], memory_limit_mb)] if len(even) else None
        if best is None:
            best = _search_all(query, target.vectors, memory_limit_mb)
    else:
        best = _search_all(query, target.vectors, memory_limit_mb)
    return _refine(query, target, best, memory_limit_mb)


def _search_all(query: torch.Tensor, vectors: torch.Tensor, memory_limit_mb: int) -> torch.Tensor:
    """Return the row (N,) of the largest dot product."""
    best = torch.empty(len(query), dtype=torch.long, device=vectors.device)
    block = max(1, memory_limit_mb * 2**20 // (4 * max(1, len(vectors))))
    keys = vectors.T
    for start in range(0, len(query), block):
        best[start : start + block] = (query[start : start + block].to(vectors.dtype) @ keys).argmax(dim=1)
    return best


def _search_window(
    query: torch.Tensor, target: Features, prediction: Prediction, memory_limit_mb: int
) -> torch.Tensor:
    """Return the best row (N,) within a ball around the prediction; the nearest body voxel where it is empty."""
    grid = target.grid
    device = target.vectors.device
    center = torch.as_tensor(grid.world_to_index(prediction.positions), device=device)
    offsets = _ball(grid.spacing, prediction.radius, device)
    spacing = torch.as_tensor(grid.spacing, device=device)
    best = torch.empty(len(query), dtype=torch.long, device=device)
    per_query = len(offsets) * target.vectors.shape[1] * 6
    block = max(1, memory_limit_mb * 2**20 // per_query)
    for start in range(0, len(query), block):
        here = slice(start, start + block)
        voxels = center[here].round().long()[:, None] + offsets
        rows = rows_at(target, voxels)
        score = _similarities(query[here], target, rows)
        if prediction.penalty:
            off = (voxels - center[here][:, None]) * spacing
            score = score - prediction.penalty * (off.square().sum(dim=-1) / prediction.radius**2).float()
        value, choice = score.max(dim=1)
        best[here] = rows.gather(1, choice[:, None])[:, 0]
        empty = (value == -torch.inf).nonzero()[:, 0]
        if len(empty):
            best[start + empty] = _nearest_body(target, center[here][empty])
    return best


def _refine(query: torch.Tensor, target: Features, best: torch.Tensor, memory_limit_mb: int) -> Found:
    """Climb to the best voxel of the neighbourhood in full precision, then between voxels."""
    device, ndim = target.vectors.device, target.grid.ndim
    neighbourhood = torch.stack(
        torch.meshgrid(*[torch.arange(-2, 3, device=device)] * ndim, indexing="ij"), dim=-1
    ).reshape(-1, ndim)
    steps = torch.cat([torch.zeros(1, ndim), torch.eye(ndim), -torch.eye(ndim)]).long().to(device)
    index = np.empty((len(query), ndim))
    similarity = np.empty(len(query))
    block = max(1, memory_limit_mb * 2**20 // (5**ndim * target.vectors.shape[1] * 6))
    for start in range(0, len(query), block):
        here = slice(start, start + block)
        voxels = target.index[best[here]][:, None] + neighbourhood
        choice = _similarities(query[here], target, rows_at(target, voxels)).argmax(dim=1)
        peak = voxels[torch.arange(len(voxels), device=device), choice]
        around = _similarities(query[here], target, rows_at(target, peak[:, None] + steps))
        shift = _parabola(around[:, 1 : ndim + 1], around[:, :1], around[:, ndim + 1 :])
        index[here] = (peak + shift).cpu().numpy()
        similarity[here] = around[:, 0].cpu().numpy()
    return Found(target.grid.index_to_world(index), similarity)


def _parabola(after: torch.Tensor, peak: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the vertex offset in [-0.5, 0.5] of the parabola through three similarities a voxel apart."""
    curvature = 2 * peak - after - before
    usable = torch.isfinite(after) & torch.isfinite(before) & (curvature > 1e-6)
    shift = torch.where(usable, 0.5 * (after - before) / torch.where(usable, curvature, 1.0), 0.0)
    return shift.clamp(-0.5, 0.5)


def _similarities(query: torch.Tensor, target: Features, rows: torch.Tensor) -> torch.Tensor:
    """Return the dot products (N, W) of query n with rows (N, W); -inf where a row is -1."""
    gathered = target.vectors[rows.clamp(min=0)].float()
    product = torch.bmm(gathered, query[..., None])[..., 0]
    return product.masked_fill(rows < 0, -torch.inf)


def _ball(spacing: FloatArray, radius: float, device: torch.device) -> torch.Tensor:
    """Return the voxel offsets (W, d), order (x, y, z), within ``radius`` mm."""
    ranges = [torch.arange(-math.ceil(radius / s), math.ceil(radius / s) + 1) for s in spacing]
    offsets = torch.stack(torch.meshgrid(*ranges, indexing="ij"), dim=-1).reshape(-1, len(spacing))
    distance = (offsets * torch.as_tensor(spacing)).square().sum(dim=1).sqrt()
    return offsets[distance <= max(radius, float(max(spacing)))].to(device)


def _nearest_body(target: Features, center: torch.Tensor) -> torch.Tensor:
    """Return the row of the body voxel nearest to each continuous index (N, d)."""
    spacing = torch.as_tensor(target.grid.spacing, device=center.device)
    return torch.cdist(center * spacing, target.index * spacing).argmin(dim=1)

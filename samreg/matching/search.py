"""Finding the most similar voxel: exhaustive, coarse-to-fine or around a prediction, then between voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from samreg.matching.features import Features, nearest_rows, rows_at
from samreg.spatial.grid import FloatArray

MEMORY_LIMIT_MB = 256  # for one block of similarities or gathered vectors


@dataclass(frozen=True, eq=False)
class Peaks:
    """Where N query vectors are most similar to a target.

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

    Examples
    --------
    >>> Prediction(np.array([[60.0, 60.0, 60.0]]), radius=20.0, penalty=0.2).radius
    20.0
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
) -> Peaks:
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
        Search every second voxel along each axis first, then the neighbourhood of the best at full resolution:
        about 8 times faster, for thousands of queries.
    memory_limit_mb
        Bound on the memory of one block.

    Returns
    -------
    Peaks
        Positions refined between voxels by a parabola along each axis.

    Examples
    --------
    >>> from samreg.embedding.embed import embed
    >>> from samreg.matching import features, interpolate
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> body = features(embed({"array": noise, "spacing": (8, 8, 8)}, model="mind"))
    >>> peaks = find(interpolate(body, [[60.0, 60.0, 60.0]]), body)
    >>> bool(abs(peaks.positions - 60).max() < 8)  # mm
    True
    """
    if prediction is None:
        best = _search_all(query, target, coarse, memory_limit_mb)
    else:
        best = _search_near(query, target, prediction, coarse, memory_limit_mb)
    return _refine(query, target, best, memory_limit_mb)


def _search_all(query: torch.Tensor, target: Features, coarse: bool, memory_limit_mb: int) -> torch.Tensor:
    """Return the row (N,) of the largest dot product."""
    best = torch.zeros(len(query), dtype=torch.long, device=target.device)
    highest = torch.full((len(query),), -torch.inf, device=target.device)
    rows = target.sparse_rows if coarse else torch.arange(len(target), device=target.device)
    for candidates in rows.split(max(1, memory_limit_mb * 2**20 // (16 * query.shape[1]))):
        keys = _vectors(target, candidates, coarse).T
        block = max(1, memory_limit_mb * 2**20 // (6 * len(candidates)))
        for start in range(0, len(query), block):
            part = slice(start, start + block)
            value, choice = (query[part].to(keys.dtype) @ keys).max(dim=1)
            better = value > highest[part]
            best[part] = torch.where(better, candidates[choice], best[part])
            highest[part] = torch.where(better, value.float(), highest[part])
    return best


def _vectors(target: Features, rows: torch.Tensor, coarse: bool) -> torch.Tensor:
    return target.sparse_vectors[target.sparse_place[rows]] if coarse else target.vectors(rows)


def _positions(target: Features, rows: torch.Tensor, coarse: bool) -> torch.Tensor:
    if coarse:
        return target.sparse_positions[target.sparse_place[rows]]
    return torch.from_numpy(target.positions(rows)).to(target.device)


def _search_near(
    query: torch.Tensor, target: Features, prediction: Prediction, coarse: bool, memory_limit_mb: int
) -> torch.Tensor:
    """Return the best row (N,) within a ball around the prediction; the nearest body voxel where it is empty.

    Queries whose predictions lie in one cell share a box of candidates, so that the work is a few matrix
    products.
    """
    grid, device = target.grid, target.device
    best = torch.empty(len(query), dtype=torch.long, device=device)
    # thousands of coarse queries share large boxes; a few fine ones are cheapest each in a box of its own
    width = max(2 * prediction.radius, 96.0 * target.scale) if coarse else prediction.radius / 4
    cell = np.floor(prediction.positions / width).astype(int)
    _, member = np.unique(cell, axis=0, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(member.ravel()))[:-1]):
        expected = prediction.positions[members]
        rows = _rows_in_box(target, expected, prediction.radius, coarse)
        if len(rows) == 0:
            best[members] = nearest_rows(target, grid.world_to_index(expected))
            continue
        center = expected.mean(axis=0)  # differences from it keep the squared distances exact in float32
        positions = (_positions(target, rows, coarse) - torch.from_numpy(center).to(device)).float()
        keys = _vectors(target, rows, coarse).T
        block = max(1, memory_limit_mb * 2**20 // (12 * len(rows)))
        for start in range(0, len(members), block):
            part = members[start : start + block]
            predicted = torch.tensor(prediction.positions[part] - center, dtype=torch.float32, device=device)
            distance = _squared_distance(predicted, positions).div_(prediction.radius**2)
            score = (query[part].to(keys.dtype) @ keys).float().sub_(distance, alpha=prediction.penalty)
            value, choice = score.masked_fill_(distance > 1, -torch.inf).max(dim=1)
            best[part] = rows[choice]
            empty = (value == -torch.inf).cpu().numpy()
            if empty.any():
                best[part[empty]] = nearest_rows(target, grid.world_to_index(prediction.positions[part[empty]]))
    return best


def _squared_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the squared distances (N, M) between points (N, d) and (M, d)."""
    return (a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1)).addmm_(a, b.T, alpha=-2)


def _rows_in_box(target: Features, positions: FloatArray, radius: float, coarse: bool) -> torch.Tensor:
    """Return the rows of the body voxels in the index box around world points (N, d) grown by ``radius`` mm."""
    index = target.grid.world_to_index(positions)
    reach = radius / target.grid.spacing
    low = np.clip(np.floor(index.min(axis=0) - reach), 0, None).astype(int)
    high = np.clip(np.ceil(index.max(axis=0) + reach) + 1, 0, target.grid.size).astype(int)
    step = 2 if coarse else 1
    low += low % step
    box = target.row[tuple(slice(a, b, step) for a, b in zip(low[::-1], high[::-1], strict=True))].flatten()
    return box[box >= 0].long()


def _refine(query: torch.Tensor, target: Features, best: torch.Tensor, memory_limit_mb: int) -> Peaks:
    """Climb to the best voxel of the neighbourhood in full precision, then between voxels."""
    device, ndim = target.device, target.grid.ndim
    neighbourhood = torch.stack(
        torch.meshgrid(*[torch.arange(-1, 2, device=device)] * ndim, indexing="ij"), dim=-1
    ).reshape(-1, ndim)
    steps = torch.cat([torch.zeros(1, ndim), torch.eye(ndim), -torch.eye(ndim)]).long().to(device)
    index = np.empty((len(query), ndim))
    similarity = np.empty(len(query))
    block = max(1, memory_limit_mb * 2**20 // (3**ndim * query.shape[1] * 12))
    for start in range(0, len(query), block):
        part = slice(start, start + block)
        voxels = target.index[best[part]][:, None] + neighbourhood
        choice = _similarities(query[part], target, rows_at(target, voxels)).argmax(dim=1)
        peak = voxels[torch.arange(len(voxels), device=device), choice]
        around = _similarities(query[part], target, rows_at(target, peak[:, None] + steps))
        shift = _parabola(around[:, 1 : ndim + 1], around[:, :1], around[:, ndim + 1 :])
        index[part] = (peak + shift).cpu().numpy()
        similarity[part] = around[:, 0].cpu().numpy()
    return Peaks(target.grid.index_to_world(index), similarity)


def _parabola(after: torch.Tensor, peak: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the vertex offset in [-0.5, 0.5] of the parabola through three similarities a voxel apart."""
    curvature = 2 * peak - after - before
    usable = torch.isfinite(after) & torch.isfinite(before) & (curvature > 1e-6)
    shift = torch.where(usable, 0.5 * (after - before) / torch.where(usable, curvature, 1.0), 0.0)
    return shift.clamp(-0.5, 0.5)


def _similarities(query: torch.Tensor, target: Features, rows: torch.Tensor) -> torch.Tensor:
    """Return the dot products (N, W) of query n with rows (N, W); -inf where a row is -1."""
    gathered = target.vectors(rows.clamp(min=0).flatten()).float().unflatten(0, rows.shape)
    product = torch.bmm(gathered, query[..., None])[..., 0]
    return product.masked_fill(rows < 0, -torch.inf)

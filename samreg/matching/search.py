"""Finding the most similar voxel: exhaustive, coarse-to-fine or around a prediction, then between voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

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
    positions, similarity = best_places(
        query, target, prediction=prediction, coarse=coarse, memory_limit_mb=memory_limit_mb
    )
    result = torch.column_stack([positions, similarity]).cpu().numpy()
    return Peaks(result[:, :-1], result[:, -1])


def best_places(
    query: torch.Tensor,
    target: Features,
    *,
    prediction: Prediction | None = None,
    coarse: bool = False,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what :func:`find` does, where the vectors of ``target`` are: positions (N, d) and similarities (N,)."""
    query = query.to(target.device)
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
    count = max(1, memory_limit_mb * 2**20 // (16 * query.shape[1]))
    for first in range(0, len(rows), count):
        candidates = rows[first : first + count]
        keys = (target.sparse_vectors[first : first + count] if coarse else target.vectors(candidates)).T
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


def _places(target: Features, rows: torch.Tensor, coarse: bool) -> torch.Tensor:
    return target.sparse_positions[target.sparse_place[rows]] if coarse else target.places(rows)


def _search_near(
    query: torch.Tensor, target: Features, prediction: Prediction, coarse: bool, memory_limit_mb: int
) -> torch.Tensor:
    """Return the best row (N,) within a ball around the prediction; the nearest body voxel where it is empty.

    Queries whose predictions lie in one cell share a box of candidates, so that the work is a few matrix
    products.
    """
    if len(query) == 0:
        return torch.zeros(0, dtype=torch.long, device=target.device)
    # thousands of coarse queries share large boxes; a few fine ones are cheapest each in a box of its own
    width = max(2 * prediction.radius, 96.0 * target.scale) if coarse else prediction.radius / 4
    order, first = _cells(prediction.positions, width)
    index = target.grid.world_to_index(prediction.positions[order])
    reach = prediction.radius / target.grid.spacing
    boxes = zip(np.minimum.reduceat(index, first) - reach, np.maximum.reduceat(index, first) + reach, strict=True)
    # in the order of the cells, by one transfer
    packed = torch.from_numpy(np.column_stack([order, prediction.positions[order]])).to(target.device)
    place, expected = packed[:, 0].long(), packed[:, 1:]
    query = query[place]
    best = torch.full((len(query),), -1, dtype=torch.long, device=target.device)
    for (low, high), start, stop in zip(boxes, first, [*first[1:], len(order)], strict=True):
        rows = _rows_in_box(target, low, high, coarse)
        if len(rows) == 0:
            continue
        center = expected[start:stop].mean(dim=0)  # differences from it keep the squared distances exact in float32
        positions = (_places(target, rows, coarse) - center).float()
        keys = _vectors(target, rows, coarse).T
        block = max(1, memory_limit_mb * 2**20 // (12 * len(rows)))
        for begin in range(start, stop, block):
            part = slice(begin, min(begin + block, stop))
            distance = _squared_distance((expected[part] - center).float(), positions).div_(prediction.radius**2)
            score = (query[part].to(keys.dtype) @ keys).float().sub_(distance, alpha=prediction.penalty)
            value, choice = score.masked_fill_(distance > 1, -torch.inf).max(dim=1)
            best[part] = torch.where(value > -torch.inf, rows[choice], -1)
    empty = (best < 0).nonzero()[:, 0]
    if len(empty):
        best[empty] = nearest_rows(target, target.frame.index(expected[empty]))
    return torch.empty_like(best).index_copy_(0, place, best)


def _cells(positions: FloatArray, width: float) -> tuple[NDArray[np.int64], list[int]]:
    """Return the order (N,) in which points (N, d) in one cell of ``width`` mm follow each other; each cell's first."""
    cell = np.floor(positions / width).astype(np.int64)
    order = np.lexsort(cell.T)
    is_new = (np.diff(cell[order], axis=0) != 0).any(axis=1)
    return order, [0, *(np.flatnonzero(is_new) + 1).tolist()]


def _squared_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the squared distances (N, M) between points (N, d) and (M, d)."""
    return (a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1)).addmm_(a, b.T, alpha=-2)


def _rows_in_box(target: Features, low: FloatArray, high: FloatArray, coarse: bool) -> torch.Tensor:
    """Return the rows of the body voxels in a box of continuous indices, from ``low`` (d,) to ``high`` (d,)."""
    first = np.clip(np.floor(low), 0, None).astype(int)
    last = np.clip(np.ceil(high) + 1, 0, target.grid.size).astype(int)
    step = 2 if coarse else 1
    first += first % step
    box = target.row[tuple(slice(a, b, step) for a, b in zip(first[::-1], last[::-1], strict=True))].flatten()
    return box[box >= 0].long()


def _refine(
    query: torch.Tensor, target: Features, best: torch.Tensor, memory_limit_mb: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Climb to the best voxel of the neighbourhood in full precision, then between voxels."""
    ndim, device = target.grid.ndim, target.device
    neighbourhood = torch.cartesian_prod(*[torch.arange(-1, 2, device=device)] * ndim)
    identity = torch.eye(ndim, dtype=torch.long, device=device)
    steps = torch.cat([torch.zeros_like(identity[:1]), identity, -identity])
    block = max(1, memory_limit_mb * 2**20 // (3**ndim * query.shape[1] * 12))
    indices, similarities = [], []
    for part, rows in zip(query.split(block), best.split(block), strict=True):
        voxels = target.index[rows][:, None] + neighbourhood
        choice = _similarities(part, target, rows_at(target, voxels)).argmax(dim=1)
        peak = target.index[rows] + neighbourhood[choice]
        around = _similarities(part, target, rows_at(target, peak[:, None] + steps))
        indices.append(peak + _parabola(around[:, 1 : ndim + 1], around[:, :1], around[:, ndim + 1 :]))
        similarities.append(around[:, 0])
    return target.frame.world(torch.cat(indices)), torch.cat(similarities).double()


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

"""Finding the most similar voxel: exhaustive, coarse-to-fine or around a prediction, then between voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from samreg.matching.features import Features, nearest_rows, rows_at
from samreg.spatial.grid import FloatArray

MEMORY_LIMIT_MB = 256  # for one block of similarities or gathered vectors
_GATHERED_MB = 32  # of vectors around predictions: what a processor's caches hold


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
    >>> import numpy as np
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
    >>> import numpy as np
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


def _search_near(
    query: torch.Tensor, target: Features, prediction: Prediction, coarse: bool, memory_limit_mb: int
) -> torch.Tensor:
    """Return the best row (N,) within a ball around the prediction; the nearest body voxel where it is empty."""
    step = 2 if coarse else 1
    spacing = (step * target.grid.spacing).tolist()
    index = target.frame.index(torch.tensor(prediction.positions, dtype=torch.float64, device=target.device)) / step
    middle = index.round()
    fraction, middle = (index - middle).float(), middle.long()
    offsets = _ball(prediction.radius, spacing, target.device)
    block = max(1, min(memory_limit_mb, _GATHERED_MB) * 2**20 // (len(offsets) * (4 * query.shape[1] + 64)))
    best = []
    for part in range(0, len(query), block):
        chosen = slice(part, part + block)
        rows = rows_at(target, step * (middle[chosen, None] + offsets))
        distance = torch.zeros(rows.shape, device=target.device)
        for axis, size in enumerate(spacing):
            distance += ((offsets[:, axis] - fraction[chosen, axis, None]) * (size / prediction.radius)).square_()
        considered = (rows >= 0) & (distance <= 1)
        rows = rows.clamp_(min=0)
        if coarse:
            keys = target.sparse_vectors[target.sparse_place[rows].clamp_(min=0)]
        else:
            keys = target.vectors(rows.flatten()).unflatten(0, rows.shape)
        score = torch.einsum("nkc,nc->nk", keys, query[chosen].to(keys.dtype)).float()
        score = score.sub_(distance, alpha=prediction.penalty).masked_fill_(~considered, -torch.inf)
        value, choice = score.max(dim=1)
        best.append(torch.where(value > -torch.inf, rows.gather(1, choice[:, None])[:, 0], -1))
    result = torch.cat(best) if best else torch.zeros(0, dtype=torch.long, device=target.device)
    empty = (result < 0).nonzero()[:, 0]
    if len(empty):
        result[empty] = nearest_rows(target, step * index[empty])
    return result


def _ball(radius: float, spacing: Sequence[float], device: torch.device) -> torch.Tensor:
    """Return the voxels (K, d) that can lie within ``radius`` mm of a place in the voxel 0, x first; spacing in mm."""
    reach = radius + sum(size**2 for size in spacing) ** 0.5 / 2
    counts = [int(reach / size) for size in spacing]
    box = torch.cartesian_prod(*[torch.arange(-n, n + 1, device=device) for n in counts])
    squared = sum((box[:, axis] * size).square() for axis, size in enumerate(spacing))
    return box[squared <= reach**2]


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
    parts = target.parts(rows.clamp(min=0).flatten())
    wanted = query.split([part.shape[1] for part in parts], dim=1)
    products = [
        torch.bmm(part.float().unflatten(0, rows.shape), vectors[..., None])[..., 0]
        for part, vectors in zip(parts, wanted, strict=True)
    ]
    product: torch.Tensor = reduce(torch.add, products) * len(parts) ** -0.5
    return product.masked_fill(rows < 0, -torch.inf)

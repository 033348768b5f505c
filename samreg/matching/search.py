"""Finding the most similar voxel: exhaustive, coarse-to-fine or around a prediction, then between voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F

from samreg.matching.features import Features, nearest_rows, rows_at
from samreg.spatial.grid import FloatArray

MEMORY_LIMIT_MB = 256  # for one block of similarities or gathered vectors
_CACHED_MB = 8  # of a block on the CPU, unless the limit is lower: larger ones leave its caches
_KEYS_AT_ONCE = 4096
_MOST_AT_ONCE = 64  # that search around one place


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
    block = _block(6 * _KEYS_AT_ONCE, target, memory_limit_mb)
    for first in range(0, len(rows), _KEYS_AT_ONCE):
        candidates = rows[first : first + _KEYS_AT_ONCE]
        keys = (target.sparse_vectors[first : first + len(candidates)] if coarse else target.vectors(candidates)).T
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
    expected = torch.tensor(prediction.positions, dtype=torch.float64, device=target.device)
    index = target.frame.index(expected) / step
    windows, members, counts = _shared(index)
    middle = windows.round()
    offsets = _ball(prediction.radius, spacing, target.device)
    volume = target.sparse_volume if coarse else target.row
    first, further, volume = _places(volume, middle.long(), offsets, _reach(prediction.radius, spacing))
    # in radii; |offset - fraction|^2 by one product
    scale = offsets.new_tensor([size / prediction.radius for size in spacing], dtype=torch.float32)
    fraction, steps = (windows - middle).float() * scale, offsets * scale
    squares = fraction.square().sum(dim=1, keepdim=True), steps.square().sum(dim=1)
    block = _block(len(offsets) * (4 * query.shape[1] + 64), target, memory_limit_mb)
    result = torch.full((len(query),), -1, dtype=torch.long, device=target.device)
    for start in range(0, len(windows), block):
        part = slice(start, start + block)
        places = volume[first[part, None] + further]
        distance = torch.addmm(squares[1], fraction[part], steps.T, alpha=-2).add_(squares[0][part])
        ignored = (places < 0).logical_or_(distance > 1)
        places = places.clamp_(min=0)
        flat = places.flatten()
        keys = (target.sparse_vectors[flat] if coarse else target.vectors(flat)).unflatten(0, places.shape)
        own = members[part, : counts[start]]
        score = (query[own.clamp(min=0)].to(keys.dtype) @ keys.transpose(1, 2)).float()
        score.sub_(distance[:, None], alpha=prediction.penalty).masked_fill_(ignored[:, None], -torch.inf)
        value, choice = score.max(dim=2)
        chosen = places.gather(1, choice).long()
        chosen = torch.where(value > -torch.inf, target.sparse_rows[chosen] if coarse else chosen, -1)
        result[own[own >= 0]] = chosen[own >= 0]
    empty = (result < 0).nonzero()[:, 0]
    if len(empty):
        result[empty] = nearest_rows(target, step * index[empty])
    return result


def _shared(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the places (W, d) among N, which of the N are at each, (W, M) padded with -1, and how many (W,).

    What is at a place is gathered once for all that search there. Where most are comes first, so that the places of a
    block have about as many; one where more than a few dozen are comes several times.
    """
    which = torch.unique(index, dim=0, return_inverse=True)[1]
    order = which.argsort(stable=True)
    place = which[order]
    nth = torch.arange(len(index), device=index.device) - torch.searchsorted(place, place)
    part = place * len(index) + nth // _MOST_AT_ONCE
    _, window, counts = torch.unique_consecutive(part, return_inverse=True, return_counts=True)
    by_count = counts.argsort(descending=True, stable=True)
    counts = counts[by_count]
    members = torch.full((len(counts), int(counts[:1].sum())), -1, device=index.device)
    rank = torch.empty_like(by_count)
    rank[by_count] = torch.arange(len(counts), device=index.device)
    members[rank[window], nth % _MOST_AT_ONCE] = order
    return index[members[:, 0]] if len(index) else index, members, counts


def _places(
    volume: torch.Tensor, middle: torch.Tensor, offsets: torch.Tensor, reach: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return where voxels (N, d) lie in a flattened volume, how much further offsets (K, d) do, and that volume.

    It is padded with -1, so that every sum of the two is in it; ``reach`` is the largest offset along each axis.
    """
    size = torch.Size(reversed(volume.shape))
    padding = [2 * n + 1 for n in reach]
    padded = F.pad(volume, [n for pad in padding for n in (pad, pad)], value=-1)
    first, further = torch.zeros_like(middle[:, 0]), torch.zeros_like(offsets[:, 0])
    for axis in reversed(range(len(size))):
        # a ball that is wholly outside is as empty further out
        place = middle[:, axis].clamp(-reach[axis] - 1, size[axis] + reach[axis]) + padding[axis]
        width = padded.shape[len(size) - 1 - axis]
        first, further = first * width + place, further * width + offsets[:, axis]
    return first, further, padded.flatten()


def _ball(radius: float, spacing: Sequence[float], device: torch.device) -> torch.Tensor:
    """Return the voxels (K, d) that can lie within ``radius`` mm of a place in the voxel 0, x first; spacing in mm."""
    box = torch.cartesian_prod(*[torch.arange(-n, n + 1, device=device) for n in _reach(radius, spacing)])
    squared = sum((box[:, axis] * size).square() for axis, size in enumerate(spacing))
    return box[squared <= (radius + _half_diagonal(spacing)) ** 2]


def _reach(radius: float, spacing: Sequence[float]) -> list[int]:
    """Return how many voxels :func:`_ball` reaches along each axis."""
    return [int((radius + _half_diagonal(spacing)) / size) for size in spacing]


def _half_diagonal(spacing: Sequence[float]) -> float:
    return float(sum(size**2 for size in spacing) ** 0.5 / 2)


def _block(row_bytes: int, target: Features, memory_limit_mb: int) -> int:
    """Return how many queries, of so many bytes each, are searched at once."""
    on_cpu = target.device.type == "cpu"
    return max(1, (min(memory_limit_mb, _CACHED_MB) if on_cpu else memory_limit_mb) * 2**20 // row_bytes)


def _refine(
    query: torch.Tensor, target: Features, best: torch.Tensor, memory_limit_mb: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Climb to the best voxel of the neighbourhood in full precision, then between voxels."""
    ndim, device = target.grid.ndim, target.device
    neighbourhood = torch.cartesian_prod(*[torch.arange(-1, 2, device=device)] * ndim)
    identity = torch.eye(ndim, dtype=torch.long, device=device)
    steps = torch.cat([torch.zeros_like(identity[:1]), identity, -identity])
    block = _block(3**ndim * query.shape[1] * 12, target, memory_limit_mb)
    order = best.argsort(stable=True)  # what neighbours look at is gathered once
    indices, similarities = [], []
    for part in order.split(block):
        voxel = target.index[best[part]]
        choice = _similarities(query[part], target, rows_at(target, voxel[:, None] + neighbourhood)).argmax(dim=1)
        peak = voxel + neighbourhood[choice]
        around = _similarities(query[part], target, rows_at(target, peak[:, None] + steps))
        indices.append(peak + _parabola(around[:, 1 : ndim + 1], around[:, :1], around[:, ndim + 1 :]))
        similarities.append(around[:, 0])
    back = order.argsort()
    return target.frame.world(torch.cat(indices)[back]), torch.cat(similarities)[back].double()


def _parabola(after: torch.Tensor, peak: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the vertex offset in [-0.5, 0.5] of the parabola through three similarities a voxel apart."""
    curvature = 2 * peak - after - before
    usable = torch.isfinite(after) & torch.isfinite(before) & (curvature > 1e-6)
    shift = torch.where(usable, 0.5 * (after - before) / torch.where(usable, curvature, 1.0), 0.0)
    return shift.clamp(-0.5, 0.5)


def _similarities(query: torch.Tensor, target: Features, rows: torch.Tensor) -> torch.Tensor:
    """Return the dot products (N, W) of query n with rows (N, W); -inf where a row is -1."""
    unique, which = torch.unique(rows.clamp(min=0), return_inverse=True)
    parts = target.parts(unique)
    wanted = query.split([part.shape[1] for part in parts], dim=1)
    products = [
        torch.bmm(part.float()[which], vectors[..., None])[..., 0] for part, vectors in zip(parts, wanted, strict=True)
    ]
    product: torch.Tensor = reduce(torch.add, products) * len(parts) ** -0.5
    return product.masked_fill(rows < 0, -torch.inf)

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
_MOST_AT_ONCE = 64  # that search around one cell
_CELL_SIZES = (1, 4, 8)  # voxels
_FAR = 2**19  # voxels; no image reaches it, and three of them make one number
_GATHERING = 25  # a vector takes as long as comparing it so many times, on two processors


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
    >>> from samreg.embedding.api import embed
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
    windows = _windows(index, prediction.radius, spacing)
    offsets, members = windows.offsets, windows.members
    volume = target.sparse_volume if coarse else target.row
    first, further, volume = _places(volume, windows.corner, offsets, windows.reach)
    # in radii; |offset - own|^2 by one product
    scale = offsets.new_tensor([size / prediction.radius for size in spacing], dtype=torch.float32)
    own_offset, steps = (index[members.clamp(min=0)] - windows.corner[:, None]).float() * scale, offsets * scale
    squares = own_offset.square().sum(dim=2, keepdim=True), steps.square().sum(dim=1)
    block = _block(len(offsets) * (4 * query.shape[1] + 16 * members.shape[1]), target, memory_limit_mb)
    result = torch.full((len(query),), -1, dtype=torch.long, device=target.device)
    for start in range(0, len(members), block):
        part, most = slice(start, start + block), windows.counts[start]
        own = members[part, :most]
        places = volume[first[part, None] + further]
        outside = (places < 0)[:, None]
        places = places.clamp_(min=0)
        flat = places.flatten()
        keys = (target.sparse_vectors[flat] if coarse else target.vectors(flat)).unflatten(0, places.shape)
        distance = (own_offset[part, :most] @ steps.T).mul_(-2).add_(squares[0][part, :most]).add_(squares[1])
        score = (query[own.clamp(min=0)].to(keys.dtype) @ keys.transpose(1, 2)).float()
        score.sub_(distance, alpha=prediction.penalty).masked_fill_((distance > 1).logical_or_(outside), -torch.inf)
        value, choice = score.max(dim=2)
        chosen = places.gather(1, choice).long()
        chosen = torch.where(value > -torch.inf, target.sparse_rows[chosen] if coarse else chosen, -1)
        result[own[own >= 0]] = chosen[own >= 0]
    empty = (result < 0).nonzero()[:, 0]
    if len(empty):
        result[empty] = nearest_rows(target, step * index[empty])
    return result


@dataclass(frozen=True, eq=False)
class _Windows:
    """Cells of neighbouring voxels in which queries are expected; what lies around a cell is gathered once for all.

    Parameters
    ----------
    corner
        (W, d) first voxel of each cell, x first.
    members
        (W, M) the queries in it, padded with -1; a cell that many share comes several times.
    counts
        (W,) how many these are, the most first, so that the cells of a block have about as many.
    offsets
        (K, d) voxels, from the corner, that a query of the cell may reach.
    reach
        The largest of them along each axis.
    """

    corner: torch.Tensor
    members: torch.Tensor
    counts: torch.Tensor
    offsets: torch.Tensor
    reach: tuple[int, ...]


def _windows(index: torch.Tensor, radius: float, spacing: Sequence[float]) -> _Windows:
    """Return cells of continuous voxel indices (N, d), as large as makes the search of ``radius`` mm cheapest."""

    def cost(windows: _Windows) -> int:  # in comparisons of two vectors
        return len(windows.offsets) * (_GATHERING * len(windows.members) + len(index))

    return min((_cells(index, size, radius, spacing) for size in _CELL_SIZES), key=cost)


def _cells(index: torch.Tensor, size: int, radius: float, spacing: Sequence[float]) -> _Windows:
    """Return cells of ``size`` voxels along each axis."""
    cells = index.round().clamp(-_FAR, _FAR).long().div(size, rounding_mode="floor")
    which = torch.unique(_flattened(cells), return_inverse=True)[1]
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
    corner = size * cells[members[:, 0]] if len(index) else cells
    return _Windows(corner, members, counts, *_around(size, radius, spacing, index.device))


def _around(
    size: int, radius: float, spacing: Sequence[float], device: torch.device
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return the voxels (K, d) within ``radius`` mm of any place in a cell, from its first voxel, and their reach."""
    within = radius + _half_diagonal(spacing)  # of the middle of a voxel
    reach = [int(within / step) for step in spacing]
    box = torch.cartesian_prod(*[torch.arange(-n, n + size, device=device) for n in reach])
    from_cell = box - box.clamp(0, size - 1)
    squared = sum((from_cell[:, axis] * step).square() for axis, step in enumerate(spacing))
    return box[squared <= within**2], tuple(n + size - 1 for n in reach)


def _flattened(cells: torch.Tensor) -> torch.Tensor:
    """Return a number (N,) for each of the cells (N, d), the same for the same."""
    flat = torch.zeros_like(cells[:, 0])
    if len(cells):
        low = cells.amin(dim=0)
        width = cells.amax(dim=0) - low + 1
        for axis in range(cells.shape[1]):
            flat = flat * width[axis] + cells[:, axis] - low[axis]
    return flat


def _places(
    volume: torch.Tensor, corner: torch.Tensor, offsets: torch.Tensor, reach: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return where voxels (N, d) lie in a flattened volume, how much further offsets (K, d) do, and that volume.

    It is padded with -1, so that every sum of the two is in it; ``reach`` is the largest offset along each axis.
    """
    size = torch.Size(reversed(volume.shape))
    padding = [2 * n + 1 for n in reach]
    padded = F.pad(volume, [n for pad in padding for n in (pad, pad)], value=-1)
    first, further = torch.zeros_like(corner[:, 0]), torch.zeros_like(offsets[:, 0])
    for axis in reversed(range(len(size))):
        # what is wholly outside is as empty further out
        place = corner[:, axis].clamp(-reach[axis] - 1, size[axis] + reach[axis]) + padding[axis]
        width = padded.shape[len(size) - 1 - axis]
        first, further = first * width + place, further * width + offsets[:, axis]
    return first, further, padded.flatten()


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

"""Where a point is, said by its neighbours: points around it are matched too, and each votes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from samreg.brief import brief_repr
from samreg.errors import InputError
from samreg.matching.features import Features, interpolate, on_device, rows_at
from samreg.matching.search import Prediction, best_places
from samreg.spatial.grid import FloatArray

_NEIGHBOURS = 12
_NEIGHBOUR_DISTANCE_MM = 12.0  # at a scale of 1 (:attr:`samreg.matching.Features.scale`)
_SELF_WEIGHT = 2.0  # of the point's own vote; a neighbour's is 1
_SIMILARITY_POWER = 4  # a vote weighs its similarity to this power
_MIN_SIMILARITY = 0.05  # that a vote is weighed by
_ITERATIONS = 30  # of Weiszfeld's algorithm
_MEDIAN_SOFTNESS_MM = 2.0  # at a scale of 1, below which the geometric median turns into a mean


@dataclass(frozen=True, eq=False)
class Votes:
    """What the votes of N points agree on.

    Parameters
    ----------
    positions
        (N, d) world positions in the moving image, LPS mm.
    spread
        (N,) median distance of the votes from the position, mm: small where the neighbourhood was found in one piece.
    similarity
        (N,) of the best place for the points themselves, at most 1.
    """

    positions: FloatArray
    spread: FloatArray
    similarity: FloatArray


def vote(
    fixed: Features,
    points: ArrayLike,
    moving: Features,
    *,
    prediction: Prediction,
    matrix: FloatArray,
    reach: ArrayLike | None = None,
) -> Votes:
    """Match points and their neighbours, and let them vote where the points are.

    A neighbour at offset o of a point that is found at m votes for m - matrix o. The votes' geometric median
    (Weiszfeld 1937), weighted by similarity, stays with the majority where some neighbours are matched wrongly.
    Arg-max alone does not keep neighbours together; this does, and without a fitted field.

    Parameters
    ----------
    fixed, moving
        Features of the two images.
    points
        (N, d) world points of the fixed image, LPS mm.
    prediction
        Where the points themselves are expected in the moving image.
    matrix
        (d, d), or (N, d, d), linear part of the map from fixed to moving that is expected around the points.
    reach
        (N, S) distances, mm, at which each point has S shells of neighbours; one, at 12 times the features' scale,
        unless given.
    """
    points = np.asarray(points, dtype=np.float64)
    if len(prediction.positions) != len(points):
        raise InputError(f"{len(points)} points need as many predictions, got {len(prediction.positions)}")
    return vote_of(neighbourhoods(fixed, points, reach=reach), moving, prediction=prediction, matrix=matrix)


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """The vectors of N points and of M - 1 neighbours around each: all that a vote needs of the fixed image.

    Parameters
    ----------
    vectors
        (N, M, C) unit vectors, the points' own first.
    offsets
        (N, M, d) from the points, mm; zero for their own.
    in_body
        (N, M) whether they lie in the body.
    scale
        Of the features (:attr:`samreg.matching.Features.scale`).
    """

    vectors: torch.Tensor
    offsets: FloatArray
    in_body: NDArray[np.bool_]
    scale: float

    __repr__ = brief_repr


def neighbourhoods(source: Features, points: ArrayLike, *, reach: ArrayLike | None = None) -> Neighbourhoods:
    """Take the vectors of points (N, d), LPS mm, and their neighbours; ``reach`` as in :func:`vote`."""
    points = np.asarray(points, dtype=np.float64)
    n, ndim = points.shape
    shells = (
        np.full((n, 1), _NEIGHBOUR_DISTANCE_MM * source.scale) if reach is None else np.asarray(reach, dtype=np.float64)
    )
    around_one = (shells[:, :, None, None] * _directions(ndim)).reshape(n, -1, ndim)
    offsets = np.concatenate([np.zeros((n, 1, ndim)), around_one], axis=1)
    around = (points[:, None] + offsets).reshape(-1, ndim)
    vectors = interpolate(source, around).unflatten(0, offsets.shape[:2])
    return Neighbourhoods(vectors, offsets, _in_body(source, around).reshape(n, -1), source.scale)


def vote_of(around: Neighbourhoods, moving: Features, *, prediction: Prediction, matrix: FloatArray) -> Votes:
    """Let N points and their neighbours vote; ``prediction`` and ``matrix`` as in :func:`vote`."""
    n, count, ndim = around.offsets.shape
    moved = around.offsets @ np.swapaxes(np.broadcast_to(matrix, (n, ndim, ndim)), 1, 2)
    expected = (prediction.positions[:, None] + moved).reshape(-1, ndim)
    positions, likeness = best_places(
        around.vectors.flatten(0, 1),
        moving,
        prediction=Prediction(expected, prediction.radius, prediction.penalty),
        coarse=True,
    )
    packed = torch.from_numpy(np.concatenate([moved, around.in_body[..., None]], axis=2)).to(moving.device)
    votes = positions.reshape(n, count, ndim) - packed[..., :-1]
    similarity = likeness.reshape(n, count)
    weight = similarity.clamp(min=_MIN_SIMILARITY) ** _SIMILARITY_POWER * packed[..., -1]
    weight[:, 0] = (_SELF_WEIGHT * weight[:, 0]).clamp(min=1e-6)  # so that a point outside the body has a vote
    median = _geometric_median(votes, weight, soft=_MEDIAN_SOFTNESS_MM * around.scale)
    distance = (votes - median[:, None]).norm(dim=2).sort(dim=1).values
    spread = (distance[:, (count - 1) // 2] + distance[:, count // 2]) / 2  # the median
    result = torch.column_stack([median, spread, similarity[:, 0]]).cpu().numpy()
    return Votes(result[:, :-2], result[:, -2], result[:, -1])


def _in_body(source: Features, points: FloatArray) -> NDArray[np.bool_]:
    index = source.frame.index(on_device(points, source)).round().long()
    return (rows_at(source, index) >= 0).cpu().numpy()


def geometric_median(votes: FloatArray, weight: FloatArray, *, soft: float) -> FloatArray:
    """Return the geometric medians (N, d) of votes (N, K, d) with weights (N, K), by Weiszfeld's iteration (1937).

    Distances well below ``soft`` mm count alike.

    Examples
    --------
    >>> votes = np.array([[[0.0, 0.0], [0.1, 0.0], [90.0, 0.0]]])
    >>> median = geometric_median(votes, np.ones((1, 3)), soft=0.1)
    >>> bool(abs(median).max() < 1)  # two of three agree
    True
    """
    return _geometric_median(torch.tensor(votes), torch.tensor(weight), soft=soft).numpy()


def _geometric_median(votes: torch.Tensor, weight: torch.Tensor, *, soft: float) -> torch.Tensor:
    def weighted_mean(weights: torch.Tensor) -> torch.Tensor:
        return torch.bmm(weights[:, None], votes)[:, 0] / weights.sum(dim=1, keepdim=True)

    median = weighted_mean(weight)
    for _ in range(_ITERATIONS):
        median = weighted_mean(weight / ((votes - median[:, None]).norm(dim=2) + soft))
    return median


def _directions(ndim: int) -> FloatArray:
    """Return unit vectors (K, d) spread evenly: on a circle, or on a sphere along a golden spiral."""
    step = np.arange(_NEIGHBOURS) + 0.5
    if ndim == 2:
        angle = 2 * np.pi * step / _NEIGHBOURS
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    height = 1 - 2 * step / _NEIGHBOURS
    turn = np.pi * (1 + 5**0.5) * step
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)

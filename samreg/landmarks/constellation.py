"""How landmarks lie to each other, learnt from annotated people, and the most plausible choice among candidates.

A graph joins each landmark with its nearest ones. The offset along an edge, in people brought to one size, has a mean
and a covariance; a choice of one candidate for each landmark is as plausible as the candidates' own scores and its
offsets together. The best choice is found by max-product belief propagation (Pearl 1988), which on a graph with circles
is approximate: the edges are given less weight than on a tree, as in tree-reweighted message passing (Wainwright et
al., IEEE Trans. Inf. Theory 2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray

_NEIGHBOURS = 6  # that each landmark is joined with
_PRIOR_COUNT = 4.0  # people whose offsets vary as is assumed, beside those observed
_PRIOR_SD_MM, _PRIOR_SD_SHARE = 2.0, 0.1  # assumed standard deviation: at a scale of 1, and of the distance
_EDGE_WEIGHT = 0.4
_FREEDOM = 10.0  # degrees of freedom of the offsets' t distribution, which forgives what a Gaussian would not
_PLACE_SD_MM = 50.0  # at a scale of 1, of a landmark about its mean place
_MAX_PLACE_DEVIATIONS = 4.0
_ITERATIONS = 40
_DAMPING = 0.5
_SIZE_RANGE = (0.6, 1.7)  # of a person relative to the mean
_ALIGNMENT_TRIES = 300
_ALIGNED_MM = 35.0  # at a scale of 1: nearer to its mean place a candidate supports an alignment
_MIN_DISTANCE_SHARE = 1 / 3  # of the usual distance
_MIN_USUAL_DISTANCE_MM = 8.0  # at a scale of 1, for two landmarks to be told apart by their distance
_SOFTNESS_MM = 15.0  # at a scale of 1, of the robust fits of size and place
_MIN_SURE = 5  # landmarks by which others are misplaced
# at a scale of 1, from where sure landmarks put one; and of the distance from these, as bodies turn and bend. Landmarks
# rightly found in 35 training scans stay 60 mm below this limit, those on another part of the body lie 40 mm above
_MISPLACED_MM, _MISPLACED_SHARE = 70.0, 0.5


@dataclass(frozen=True, eq=False)
class Constellation:
    """Mean places of L landmarks, and how they vary relative to each other.

    Parameters
    ----------
    mean
        (L, d) mean places, mm in the frame of one person.
    edges
        (E, 2) landmarks that are joined.
    offsets
        (E, d) mean of the second less the first, mm.
    precision
        (E, d, d) inverse covariance of the offsets.
    scale
        All lengths relative to those of chest CT (:attr:`samreg.matching.Features.scale`).
    """

    mean: FloatArray
    edges: NDArray[np.int64]
    offsets: FloatArray
    precision: FloatArray
    scale: float = 1.0

    @classmethod
    def from_positions(cls, positions: FloatArray, *, scale: float = 1.0) -> Constellation:
        """Learn from people.

        Parameters
        ----------
        positions
            (K, L, d) LPS mm, NaN where a person lacks a landmark; each landmark at least once.
        scale
            As above.

        Raises
        ------
        InputError
            When nobody has two landmarks.

        Examples
        --------
        >>> place = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 100.0], [80.0, 0.0, 0.0]])
        >>> people = np.stack([place, 1.2 * place + 7.0])
        >>> Constellation.from_positions(people).edges.tolist()
        [[0, 1], [0, 2], [1, 2]]
        """
        mean, aligned = _mean_shape(positions, scale)
        edges = _edges(mean, aligned)
        if not len(edges):
            raise InputError("no person has two landmarks; how landmarks lie to each other cannot be learnt")
        statistics = [_offset_statistics(aligned[:, j] - aligned[:, i], scale) for i, j in edges]
        offsets, precision = (np.array(part) for part in zip(*statistics, strict=True))
        return cls(mean, edges, offsets, precision, scale)

    def align(self, places: FloatArray) -> tuple[float, FloatArray]:
        """Return size s and shift t (d,) that bring the mean places to places (L, d), LPS mm: s mean + t.

        Rows of NaN are left out, and most of the rest may be wrong.
        """
        known = np.flatnonzero(~np.isnan(places[:, 0] + self.mean[:, 0]))
        mean, places = self.mean[known], places[known]
        distance = np.linalg.norm(mean[:, None] - mean[None], axis=2)
        far = np.argwhere(distance > 0.25 * distance.max())
        support, size, shift = -1, 1.0, np.median(places - mean, axis=0)
        for i, j in far[np.random.default_rng(0).integers(len(far), size=_ALIGNMENT_TRIES * (len(far) > 0))]:
            tried = np.linalg.norm(places[i] - places[j]) / distance[i, j]
            if not _SIZE_RANGE[0] < tried < _SIZE_RANGE[1]:
                continue
            moved = (places[i] + places[j] - tried * (mean[i] + mean[j])) / 2
            count = (np.linalg.norm(tried * mean + moved - places, axis=1) < _ALIGNED_MM * self.scale).sum()
            if count > support:
                support, size, shift = count, tried, moved
        near = np.linalg.norm(size * mean + shift - places, axis=1) < _ALIGNED_MM * self.scale
        size_, shift = _size_and_shift(mean, places, np.where(near, 1.0, 1e-3), self.scale)
        return float(size_), shift

    def choose(self, candidates: Sequence[FloatArray], scores: Sequence[FloatArray]) -> NDArray[np.int64]:
        """Choose among candidates.

        Parameters
        ----------
        candidates
            L arrays (K, d) of places, mm in the frame of the mean; an empty one for a landmark that is not there.
        scores
            L arrays (K,) of log likelihoods.

        Returns
        -------
        ndarray
            (L,) number of the candidate; -1 for a landmark without any.
        """
        width = max(len(c) for c in candidates)
        places = np.zeros((len(candidates), width, self.mean.shape[1]))
        own = np.full((len(candidates), width), -np.inf)
        for i, (place, score) in enumerate(zip(candidates, scores, strict=True)):
            deviations = np.linalg.norm(place - self.mean[i], axis=1) / (_PLACE_SD_MM * self.scale)
            places[i, : len(place)] = place
            own[i, : len(place)] = score - 0.25 * np.minimum(deviations, _MAX_PLACE_DEVIATIONS) ** 2
        present = np.array([len(c) > 0 for c in candidates])
        used = present[self.edges].all(axis=1)
        first, second = self.edges[used].T
        offset = places[second][:, None, :, :] - places[first][:, :, None, :] - self.offsets[used][:, None, None, :]
        distance = np.einsum("eabk,ekl,eabl->eab", offset, self.precision[used], offset)
        freedom = _FREEDOM + self.mean.shape[1]
        plausible = -0.5 * _EDGE_WEIGHT * freedom * np.log1p(distance / _FREEDOM)
        belief = _max_product(own, plausible, first, second)
        return np.where(present, belief.argmax(axis=1), -1)

    def clashing(self, places: FloatArray) -> NDArray[np.int64]:
        """Return the edges (C, 2) whose landmarks (L, d), mm, lie much nearer to each other than they ever do."""
        first, second = self.edges.T
        usual = np.linalg.norm(self.offsets, axis=1)
        distance = np.linalg.norm(places[second] - places[first], axis=1)
        close = (distance < _MIN_DISTANCE_SHARE * usual) & (usual > _MIN_USUAL_DISTANCE_MM * self.scale)
        clashing: NDArray[np.int64] = self.edges[np.flatnonzero(close)]
        return clashing

    def misplaced(self, places: FloatArray, sure: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which landmarks lie on another part of the body than the sure ones say.

        Neighbours may be mistaken together, as all around an artery of the abdomen that were found in a neck; the sure
        landmarks as a whole, vertebrae and shoulder blades, say which part of the body that is.

        Parameters
        ----------
        places
            (L, d) mm.
        sure
            (L,) landmarks by which to judge; a few of them may be wrong.

        Returns
        -------
        ndarray of bool
            (L,); none where too few are sure, or these do not agree.

        Examples
        --------
        >>> line = np.array([[0.0, 0.0, 40.0 * i] for i in range(7)])
        >>> constellation = Constellation.from_positions(np.stack([line, line + 5.0]))
        >>> line[6] = line[1] + [8.0, 0.0, 0.0]
        >>> constellation.misplaced(line, np.ones(7, dtype=bool)).tolist()
        [False, False, False, False, False, False, True]
        """
        chosen = np.flatnonzero(sure)
        if len(chosen) < _MIN_SURE:
            return np.zeros(len(places), dtype=bool)
        size, shift = self.align(np.where(sure[:, None], places, np.nan))
        back = (places - shift) / size
        off = np.linalg.norm(back - self.mean, axis=1)
        away = np.linalg.norm(back - np.median(back[chosen], axis=0), axis=1)
        misplaced = np.asarray(off > _MISPLACED_MM * self.scale + _MISPLACED_SHARE * away)
        return misplaced if misplaced[chosen].mean() < 0.5 else np.zeros_like(misplaced)

    def expected(self, places: FloatArray) -> FloatArray:
        """Return where the neighbours (L, d) of each landmark put it; places as in ``choose``, NaN where unknown."""
        first, second = self.edges.T
        expected = np.full_like(places, np.nan)
        for i in range(len(places)):
            answers = np.concatenate(
                [
                    places[second[first == i]] - self.offsets[first == i],
                    places[first[second == i]] + self.offsets[second == i],
                ]
            )
            answers = answers[~np.isnan(answers[:, 0])]
            if len(answers):
                expected[i] = np.median(answers, axis=0)
        return expected


def _max_product(
    own: FloatArray, plausible: FloatArray, first: NDArray[np.int64], second: NDArray[np.int64]
) -> FloatArray:
    """Return the beliefs (L, K) after damped parallel message passing.

    ``own`` (L, K) are the candidates' scores, -inf where there is none; ``plausible`` (E, K, K) the edges'.
    """
    source = np.concatenate([first, second])
    target = np.concatenate([second, first])
    pair = np.concatenate([plausible, np.swapaxes(plausible, 1, 2)])
    reverse = np.roll(np.arange(len(source)), len(first))
    messages = np.zeros((len(source), own.shape[1]))

    def beliefs() -> FloatArray:
        total = own.copy()
        np.add.at(total, target, messages)
        return total

    for _ in range(_ITERATIONS):
        sent = beliefs()[source] - messages[reverse]
        answer = (sent[:, :, None] + pair).max(axis=1)
        answer -= answer.max(axis=1, keepdims=True)
        messages = _DAMPING * messages + (1 - _DAMPING) * answer
    return beliefs()


def _mean_shape(positions: FloatArray, scale: float) -> tuple[FloatArray, FloatArray]:
    """Return the mean (L, d) and the people (K, L, d) brought to its size and place (Gower, Psychometrika 1975)."""
    known = ~np.isnan(positions[..., 0])
    mean = positions[known.sum(axis=1).argmax()].copy()
    aligned = positions.copy()
    for _ in range(10):
        shared = known & ~np.isnan(mean[:, 0])
        size, shift = _size_and_shift(np.nan_to_num(positions), np.nan_to_num(mean), shared.astype(float), scale)
        aligned = size[:, None, None] * positions + shift[:, None]
        aligned[~shared.any(axis=1)] = np.nan  # come in when others have joined them with the mean
        seen = ~np.isnan(aligned[..., 0]).all(axis=0)
        mean[seen] = np.nanmean(aligned[:, seen], axis=0)
    return mean, aligned


def _size_and_shift(
    source: FloatArray, target: FloatArray, weight: FloatArray, scale: float
) -> tuple[FloatArray, FloatArray]:
    """Return sizes (...,) and shifts (..., d) that bring points (..., N, d) to others, by reweighted least squares.

    The weights (..., N) are those of the first step; points of weight 0 never count.
    """
    present = weight > 0
    size, shift = np.ones(source.shape[:-2]), np.zeros((*source.shape[:-2], source.shape[-1]))
    for _ in range(15):
        share = weight / np.maximum(weight.sum(axis=-1, keepdims=True), 1e-12)
        middle, goal = ((share[..., None] * points).sum(axis=-2) for points in (source, target))
        from_middle, from_goal = source - middle[..., None, :], target - goal[..., None, :]
        spread = (weight[..., None] * from_middle**2).sum(axis=(-2, -1))
        common = (weight[..., None] * from_middle * from_goal).sum(axis=(-2, -1))
        size = np.where(spread > 1e-6, common / np.maximum(spread, 1e-6), 1.0).clip(*_SIZE_RANGE)
        shift = goal - size[..., None] * middle
        residual = np.linalg.norm(size[..., None, None] * source + shift[..., None, :] - target, axis=-1)
        weight = present / (1 + (residual / (_SOFTNESS_MM * scale)) ** 2)
    return size, shift


def _edges(mean: FloatArray, aligned: FloatArray) -> NDArray[np.int64]:
    """Join each landmark with the nearest that at least one person has beside it, two people where there are such."""
    known = ~np.isnan(aligned[..., 0])
    together = known.astype(int).T @ known.astype(int)
    distance = np.linalg.norm(mean[:, None] - mean[None], axis=2)
    pairs = set()
    for i in range(len(mean)):
        for least in (2, 1):
            usable = (together[i] >= least) & (np.arange(len(mean)) != i)
            if usable.any():
                nearest = np.argsort(np.where(usable, distance[i], np.inf))[: min(_NEIGHBOURS, int(usable.sum()))]
                pairs |= {(min(i, int(j)), max(i, int(j))) for j in nearest}
                break
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _offset_statistics(offsets: FloatArray, scale: float) -> tuple[FloatArray, FloatArray]:
    """Return mean (d,) and inverse covariance (d, d) of offsets (K, d), NaN where a person lacks one."""
    offsets = offsets[~np.isnan(offsets[:, 0])]
    count, ndim = offsets.shape
    mean = np.median(offsets, axis=0)
    assumed = (_PRIOR_SD_MM * scale + _PRIOR_SD_SHARE * np.linalg.norm(mean)) ** 2 * np.eye(ndim)
    scatter = (offsets - mean).T @ (offsets - mean)
    covariance = (scatter + _PRIOR_COUNT * assumed) / (count + _PRIOR_COUNT) * (1 + 1 / count)
    return mean, np.linalg.inv(covariance)

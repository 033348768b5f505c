"""Corresponding places on the ribs of two images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from samreg.landmarks.ribs import SAMPLED_MM, FoundRib, sampled
from samreg.seeding.affine import fit_least_squares
from samreg.spatial.grid import FloatArray

_FINE_MM = 1.0  # between places of the second image's ribs
_MIN_RIBS = 3  # for an affine of them
_ITERATIONS, _WIDTH_MM, _RIDGE = 8, 8.0, 0.05  # of its fits; as far off a place counts a quarter
_APART_MM = 24.0  # between two places
_MAX_OFF_MM, _MAX_OFF_END_MM = 15.0, 6.0  # of a place from the affine; where a rib ends it may have none
_MIN_NEAR = 2  # of a rib and its two neighbours, that say how far places shift along it
_FLOATING = (11, 12)  # ribs that no cartilage prolongs


def paired_ribs(fixed: Mapping[str, FoundRib], moving: Mapping[str, FoundRib]) -> FloatArray:
    """Return corresponding places on the ribs of two images, (2, S, 3) LPS mm.

    A rib shows where it lies, and hardly which place along it is which. So places at corresponding lengths from the
    spine are the start, and all ribs are then brought together at once by an affine, to the nearest places of the ribs
    of the same numbers (iterated closest points, Besl & McKay, IEEE Trans. Pattern Anal. 1992). From there places shift
    along the ribs, farther from the spine the more, until the most lateral ones correspond, and floating ribs' tips.
    """
    pairs = [_Pair.of(name, fixed[name], moving[name]) for name in sorted(fixed.keys() & moving.keys())]
    if len(pairs) < _MIN_RIBS:
        return np.zeros((2, 0, 3))
    nearest = _nearest(pairs)
    own = {
        (pair.side, pair.number): (pair.lateral[0], pair.lateral[1] - int(row[pair.lateral[0]]))
        for pair, (_, row) in zip(pairs, nearest, strict=True)
        if pair.lateral is not None
    }
    places = [np.zeros((2, 0, 3))]
    for pair, (off, row) in zip(pairs, nearest, strict=True):
        around = [own[pair.side, k] for k in range(pair.number - 1, pair.number + 2) if (pair.side, k) in own]
        places.append(_shifted(pair, off, row, around))
    return np.concatenate(places, axis=1)


def _shifted(pair: _Pair, off: FloatArray, row: NDArray[np.int64], lateral: Sequence[tuple[int, int]]) -> FloatArray:
    """Return corresponding places on a rib, (2, S, 3) LPS mm.

    Parameters
    ----------
    pair
        The rib.
    off, row
        (N,) of each place of the first image, how far the affine takes it from the nearest one of the second, mm, and
        which that is.
    lateral
        Of the rib and those beside it, the most lateral place of the first image, and how far along the second's it
        is to be shifted.
    """
    sample, last = np.arange(len(pair.line)), len(pair.fine) - 1
    every = int(_APART_MM / SAMPLED_MM)
    spread = sample % every == every // 2
    if pair.has_tips and off[0] < _MAX_OFF_MM:  # ribs of different lengths may lie apart but where they start
        shift = (last - row[-1]) * sample / sample[-1]
        good = spread | (sample == sample[-1])
    else:  # a most lateral place may be another bone's, but hardly those of two neighbours
        at, by = np.median(lateral, axis=0) if len(lateral) >= _MIN_NEAR else (1.0, 0.0)
        shift = by * np.minimum(sample / max(at, 1.0), 1.0)
        good = spread & (off < np.where((row == 0) | (row == last), _MAX_OFF_END_MM, _MAX_OFF_MM))
    row = np.rint(row + shift).astype(np.int64)
    good &= (row >= 0) & (row <= last)
    return np.stack([pair.line[good], pair.fine[row[good]]])


@dataclass(frozen=True, eq=False)
class _Pair:
    """A rib that both images show.

    Parameters
    ----------
    side, number
        "left" or "right", 1 to 12.
    line
        (N, 3) places along it in the first image, 4 mm apart, LPS mm.
    fine
        (M, 3) those in the second, 1 mm apart.
    lateral
        Which of these are most lateral; None where it is not seen in both images.
    has_tips
        Whether both images show its tip, and it is a floating rib.
    """

    side: str
    number: int
    line: FloatArray
    fine: FloatArray
    lateral: tuple[int, int] | None
    has_tips: bool

    @classmethod
    def of(cls, name: str, fixed: FoundRib, moving: FoundRib) -> _Pair:
        side, number = name.split("_rib")
        line, fine = fixed.centreline, sampled(moving.centreline, _FINE_MM)
        lateral = None
        if fixed.lateral is not None and moving.lateral is not None:
            lateral = _nearest_sample(line, fixed.lateral), _nearest_sample(fine, moving.lateral)
        has_tips = int(number) in _FLOATING and fixed.tip is not None and moving.tip is not None
        return cls(side, int(number), line, fine, lateral, has_tips)

    @cached_property
    def tree(self) -> KDTree:
        """Of the second image's places."""
        return KDTree(self.fine)


def _nearest_sample(line: FloatArray, place: FloatArray) -> int:
    return int(np.linalg.norm(line - place, axis=1).argmin())


def _nearest(pairs: Sequence[_Pair]) -> list[tuple[FloatArray, NDArray[np.int64]]]:
    """Return, for each rib, how far off the places of the second image nearest an affine of all are, mm, and which."""
    stretch = _stretch(pairs)
    as_far = [_as_far_along(pair, stretch) for pair in pairs]
    source, target = (np.concatenate(places) for places in zip(*as_far, strict=True))
    weight = np.ones(len(source))
    for _ in range(_ITERATIONS):
        affine = fit_least_squares(source, target, weight, kind="affine", ridge=_RIDGE)
        weight = _trust(np.linalg.norm(affine.transform_points(source) - target, axis=1))
    source = np.concatenate([pair.line for pair in pairs])
    for _ in range(_ITERATIONS):
        nearest = [pair.tree.query(affine.transform_points(pair.line)) for pair in pairs]
        target = np.concatenate([pair.fine[row] for pair, (_, row) in zip(pairs, nearest, strict=True)])
        weight = _trust(np.concatenate([off for off, _ in nearest]))
        affine = fit_least_squares(source, target, weight, kind="affine", ridge=_RIDGE)
    return [pair.tree.query(affine.transform_points(pair.line)) for pair in pairs]


def _stretch(pairs: Sequence[_Pair]) -> float:
    """Return how much longer ribs are in the second image, by how far along them they are most lateral."""
    ratios = [
        pair.lateral[1] * _FINE_MM / max(pair.lateral[0] * SAMPLED_MM, SAMPLED_MM)
        for pair in pairs
        if pair.lateral is not None
    ]
    return float(np.median(ratios)) if len(ratios) >= _MIN_RIBS else 1.0


def _as_far_along(pair: _Pair, stretch: float) -> tuple[FloatArray, FloatArray]:
    """Return places of a rib in both images, (N, 3) each, as far from the spine but for a stretch."""
    row = np.rint(np.arange(len(pair.line)) * SAMPLED_MM * stretch / _FINE_MM).astype(np.int64)
    shown = row < len(pair.fine)
    return pair.line[shown], pair.fine[row[shown]]


def _trust(off: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + (off / _WIDTH_MM) ** 2) ** 2)

"""Corresponding places on the ribs of two images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from samreg.landmarks.ribs import SAMPLED_MM, FoundRib, sampled
from samreg.seeding.affine import fit_least_squares
from samreg.spatial.grid import FloatArray
from samreg.spatial.transforms import AffineTransform

_FINE_MM = 1.0  # between places of the second image's ribs
_MIN_RIBS = 3  # for an affine of them
_ITERATIONS, _WIDTH_MM, _RIDGE = 8, 8.0, 0.05  # of its fits; as far off a place counts a quarter
_APART_MM = 24.0  # between two places
_MAX_OFF_MM, _MAX_OFF_END_MM = 15.0, 6.0  # of a place from the affine; where a rib ends it may have none


def paired_ribs(fixed: Mapping[str, FoundRib], moving: Mapping[str, FoundRib]) -> FloatArray:
    """Return corresponding places on the ribs of two images, (2, S, 3) LPS mm.

    A rib shows where it lies, and hardly which place along it is which. So places at corresponding lengths from the
    spine are the start, and all ribs are then brought together at once by an affine, to the nearest places of the ribs
    of the same numbers (iterated closest points, Besl & McKay, IEEE Trans. Pattern Anal. 1992).
    """
    shared = sorted(fixed.keys() & moving.keys())
    if len(shared) < _MIN_RIBS:
        return np.zeros((2, 0, 3))
    ribs = [(fixed[name], moving[name]) for name in shared]
    stretch = _stretch(ribs)
    lines = [rib.centreline for rib, _ in ribs]
    fine = [sampled(other.centreline, _FINE_MM) for _, other in ribs]
    ahead = [np.round(np.arange(len(line)) * SAMPLED_MM * stretch / _FINE_MM).astype(np.int64) for line in lines]
    source = np.concatenate([line[row < len(other)] for line, other, row in zip(lines, fine, ahead, strict=True)])
    target = np.concatenate([other[row[row < len(other)]] for other, row in zip(fine, ahead, strict=True)])
    weight = np.ones(len(source))
    for _ in range(_ITERATIONS):
        affine = fit_least_squares(source, target, weight, kind="affine", ridge=_RIDGE)
        weight = _trust(np.linalg.norm(affine.transform_points(source) - target, axis=1))
    source, trees = np.concatenate(lines), [KDTree(other) for other in fine]
    for _ in range(_ITERATIONS):
        target, off, _ = _nearest(affine, lines, trees)
        affine = fit_least_squares(source, target, _trust(off), kind="affine", ridge=_RIDGE)
    target, off, is_end = _nearest(affine, lines, trees)
    every = int(_APART_MM / SAMPLED_MM)
    spread = np.concatenate([np.arange(len(line)) % every == every // 2 for line in lines])
    good = spread & (off < np.where(is_end, _MAX_OFF_END_MM, _MAX_OFF_MM))
    return np.stack([source[good], target[good]])


def _stretch(ribs: Sequence[tuple[FoundRib, FoundRib]]) -> float:
    """Return how much longer ribs are in the second image, by how far along them they are most lateral."""
    ratios = []
    for pair in ribs:
        along = [
            np.linalg.norm(rib.centreline - rib.lateral, axis=1).argmin() for rib in pair if rib.lateral is not None
        ]
        if len(along) == 2:
            ratios.append(along[1] / max(along[0], 1))
    return float(np.median(ratios)) if len(ratios) >= _MIN_RIBS else 1.0


def _trust(off: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + (off / _WIDTH_MM) ** 2) ** 2)


def _nearest(
    affine: AffineTransform, lines: Sequence[FloatArray], trees: Sequence[KDTree]
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Return the nearest places on the same ribs (N, 3), how far they are, mm, and whether they are ends of these."""
    answers = [tree.query(affine.transform_points(line)) for line, tree in zip(lines, trees, strict=True)]
    targets = [tree.data[row] for tree, (_, row) in zip(trees, answers, strict=True)]
    ends = [(row == 0) | (row == tree.n - 1) for tree, (_, row) in zip(trees, answers, strict=True)]
    return np.concatenate(targets), np.concatenate([off for off, _ in answers]), np.concatenate(ends)

"""Counting vertebrae: the bodies along the spine, and which level each is.

An embedding tells neighbouring vertebrae apart poorly: an atlas finds whole stretches of them one level off, so that
one vertebra is found twice, or left out. It does find the spine. Along it the image itself shows where bodies end: end
plates and discs change the intensity, the middle of a body does not. The most plausible chain of ends, whose distances
grow slowly from head to foot, is found by dynamic programming. As readers do, levels are then counted from the upper
thoracic vertebrae, which the atlas finds best, with what the vectors at the bodies say of all levels at once. Where
they are not in view it is done from below, which was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, map_coordinates

from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image

#: From head to foot, as landmarks are named.
LEVELS = tuple(
    f"vertebra_{part}{number}"
    for part, numbers in (("C", (7,)), ("T", range(1, 13)), ("L", range(1, 6)))
    for number in numbers
)
# From the middle of each body to that of the next, mm: medians of the annotated training people.
_SPACING_MM = np.array(
    [15.0, 17.0, 18.0, 18.5, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.5, 27.5, 29.5, 32.0, 34.0, 35.0, 35.0, 34.0]
)
_SIZES = (0.9, 1.0, 1.1)  # tried, of what the landmarks say of the body's size
_SIZE_RANGE = (0.4, 2.0)  # of bodies, adults being 1
_MIN_LANDMARKS = 5
_BEYOND_MM = 45.0  # the first and the last landmark the spine is followed
_RADIUS_MM, _STEP_MM = 9.0, 3.0  # of the disc of points across the spine whose median intensity is taken
_CURVE_DEGREES, _CURVE_SOFTNESS_MM = (2, 4), 4.0  # of polynomials through up to 8 landmarks, and more
_END_WIDTH_MM, _AROUND_MM = 3.0, 20.0  # standard deviations: of an end, of the neighbourhood it must stand out from
_SPACING_RANGE = (0.8, 1.25)  # of two ends, of what is expected
_SPACING_WEIGHT, _CHANGE_WEIGHT, _SIZE_WEIGHT = 4.0, 12.0, 20.0  # of squared relative deviations
_MIN_CONTRAST = 0.5  # of ends and middles; without discs to be seen it is about 0.3
_UPPER, _MIN_UPPER = 6, 3  # levels from C7 on, and of these landmarks, for the count to begin there
_ENDS = (1, 17)  # T1 and L5, which look like no other
_END_REACH = 2.0  # levels over which the trust in a landmark falls by e
_MAX_MISS_MM = 20.0  # of a landmark, beyond which it says no more against a level
_MISS_WEIGHT = 4.0  # of the mean miss, against the mean log likelihood
_KEPT_SHARE = 0.3  # of the spacing: a landmark so near the body it belongs to stays where it was found


@dataclass(frozen=True, eq=False)
class Bodies:
    """Vertebral bodies along a spine.

    Parameters
    ----------
    centres
        (N, 3) LPS mm, from head to foot.
    spacing
        (N,) distance of the ends of each, mm.
    contrast
        How clearly the ends stand out.
    """

    centres: FloatArray
    spacing: FloatArray
    contrast: float


def count_bodies(image: Image, levels: Sequence[int], positions: FloatArray) -> Bodies | None:
    """Find the vertebral bodies along the spine on which landmarks lie.

    Parameters
    ----------
    image
        Volume in which the body lies upright.
    levels
        Of the N landmarks, indices into :data:`LEVELS`; some may be wrong.
    positions
        (N, 3) of the landmarks, LPS mm.

    Returns
    -------
    Bodies or None
        None with too few landmarks, and where the image does not show the ends of the bodies.
    """
    if len(levels) < _MIN_LANDMARKS:
        return None
    order = np.argsort(levels)
    known, places = np.asarray(levels)[order], positions[order]
    line = _curve(image, places)
    if len(line) < 2 * _SPACING_MM[0]:
        return None
    ends = _ends(_profile(image, line))
    if not np.isfinite(ends).all():
        return None
    size = float(np.median(np.linalg.norm(np.diff(places, axis=0), axis=1) / expected_spacing(known)))
    if not _SIZE_RANGE[0] <= size <= _SIZE_RANGE[1]:
        return None
    height = np.argsort(places[:, 2])
    expected = np.interp(line[:, 2], places[height, 2], np.sort(_SPACING_MM[known])[::-1]) * size
    best: tuple[float, NDArray[np.int64]] | None = None
    for factor in _SIZES:
        score, chain = _chain(ends, expected * factor)
        score -= _SIZE_WEIGHT * np.log(factor) ** 2
        if len(chain) > 2 and (best is None or score > best[0]):
            best = score, chain
    if best is None:
        return None
    chain = best[1]
    middle = (chain[1:] + chain[:-1]) // 2
    contrast = float(ends[chain].mean() - ends[middle].mean())
    if contrast < _MIN_CONTRAST:
        return None
    centres = 0.5 * (line[middle] + line[(chain[1:] + chain[:-1] + 1) // 2])
    return Bodies(centres, np.diff(chain).astype(float), contrast)


def expected_spacing(levels: NDArray[np.int64]) -> FloatArray:
    """Return how far one vertebra of an adult is from the next, (N - 1,) mm, of levels (N,) from head to foot."""
    return np.diff(np.concatenate([[0.0], np.cumsum(_SPACING_MM)])[levels])


def is_counted_from_above(levels: Sequence[int]) -> bool:
    """Tell whether landmarks of these levels, indices into :data:`LEVELS`, show enough of the upper thoracic spine."""
    return int((np.asarray(levels) < _UPPER).sum()) >= _MIN_UPPER


def first_level(bodies: Bodies, levels: Sequence[int], positions: FloatArray, log_likelihood: FloatArray) -> int | None:
    """Return the level of the first body, an index into :data:`LEVELS`; it may be negative.

    Parameters
    ----------
    bodies
        From :func:`count_bodies`.
    levels, positions
        Of the landmarks, as there.
    log_likelihood
        (N, len(LEVELS)) of each body being each level by the vectors there; NaN where that is unknown.

    Returns
    -------
    int or None
        None where nothing is known of most bodies.
    """
    known = np.asarray(levels)
    trust = np.exp(-np.abs(known - _ENDS[0 if is_counted_from_above(levels) else 1]) / _END_REACH)
    distance = np.linalg.norm(positions[:, None] - bodies.centres[None], axis=2)
    count = len(bodies.centres)
    scores: dict[int, float] = {}
    for first in range(-count + 2, len(LEVELS) - 1):
        rows = np.arange(max(0, -first), min(count, len(LEVELS) - first))
        likelihood = log_likelihood[rows, rows + first]
        likelihood = likelihood[~np.isnan(likelihood)]
        if len(likelihood) < min(8, count - 1):
            continue
        row = known - first
        inside = (row >= 0) & (row < count)
        miss = np.full(len(known), _MAX_MISS_MM)
        miss[inside] = np.minimum(distance[inside, row[inside]], _MAX_MISS_MM)
        scores[first] = float(likelihood.mean()) - _MISS_WEIGHT * float(np.average(miss, weights=trust))
    return max(scores, key=lambda first: scores[first]) if scores else None


def on_bodies(bodies: Bodies, first: int, levels: Sequence[int], positions: FloatArray) -> FloatArray:
    """Return landmarks (N, 3) on the bodies of their levels: where they are, if near enough, else at the centre.

    Landmarks whose body was not counted stay; ``first`` is from :func:`first_level`.
    """
    result = positions.copy()
    for i, level in enumerate(levels):
        row = level - first
        if 0 <= row < len(bodies.centres):
            near = np.linalg.norm(positions[i] - bodies.centres[row]) <= _KEPT_SHARE * bodies.spacing[row]
            result[i] = positions[i] if near else bodies.centres[row]
    return result


def _curve(image: Image, places: FloatArray) -> FloatArray:
    """Return points of a smooth curve through landmarks (N, 3), 1 mm apart, from head to foot, inside the image."""
    degree = _CURVE_DEGREES[len(places) > 8]
    middle = places[:, 2].mean()
    powers = np.vander((places[:, 2] - middle) / 100, degree + 1)
    weight = np.ones(len(places))
    for _ in range(10):  # reweighted least squares
        root = np.sqrt(weight)[:, None]
        fit = np.linalg.lstsq(powers * root, places[:, :2] * root, rcond=None)[0]
        off = np.linalg.norm(powers @ fit - places[:, :2], axis=1)
        weight = 1 / (1 + (off / _CURVE_SOFTNESS_MM) ** 2) ** 2
    top, bottom = places[:, 2].max(), places[:, 2].min()
    z = np.arange(top + _BEYOND_MM, bottom - _BEYOND_MM, -1.0)
    known = np.clip(z, bottom - 15.0, top + 15.0)  # a polynomial goes astray beyond
    line = np.column_stack([np.vander((known - middle) / 100, degree + 1) @ fit, z])
    line = line[image.grid.contains(line)]
    if len(line) < 2:
        return line
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    even = np.arange(0.0, length[-1], 1.0)
    return np.column_stack([np.interp(even, length, axis) for axis in line.T])


def _profile(image: Image, line: FloatArray) -> FloatArray:
    """Return the median intensity (N,) of discs across a curve (N, 3)."""
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    upright = np.cross(along, across)
    ticks = np.arange(-_RADIUS_MM, _RADIUS_MM + 0.1, _STEP_MM)
    places = [(a, b) for a in ticks for b in ticks if a * a + b * b <= _RADIUS_MM**2]
    points = np.stack([line + a * across + b * upright for a, b in places], axis=1)
    index = image.grid.world_to_index(points.reshape(-1, 3)).T[::-1]
    values = map_coordinates(image.array, index, output=np.float32, order=1, mode="nearest")
    return np.asarray(np.median(values.reshape(len(line), len(places)), axis=1))


def _ends(profile: FloatArray) -> FloatArray:
    """Return how much each place (N,) along the spine looks like the end of a body: 0 on average."""
    change = np.abs(np.gradient(gaussian_filter1d(profile, 1.0)))
    change = gaussian_filter1d(change, _END_WIDTH_MM)
    return np.asarray(change / (gaussian_filter1d(change, _AROUND_MM) + 1e-6) - 1)


def _chain(ends: FloatArray, expected: FloatArray) -> tuple[float, NDArray[np.int64]]:
    """Return the best chain of ends, rows from head to foot, and its mean score.

    ``expected`` is the distance of two ends (N,), mm, which are 1 mm apart. A chain is as long as the curve allows:
    every further body adds what its end stands out by, less what its middle does.
    """
    distances = np.arange(int(_SPACING_RANGE[0] * expected.min()), int(_SPACING_RANGE[1] * expected.max()) + 2)
    best = np.full((len(ends), len(distances)), -np.inf)
    before = np.full(best.shape, -1)
    for row in range(len(ends)):
        relative = distances / expected[row]
        last = row - distances
        fits = (relative >= _SPACING_RANGE[0]) & (relative <= _SPACING_RANGE[1]) & (last >= 0)
        if not fits.any():
            continue
        own, start = distances[fits], last[fits]
        gain = ends[row] - ends[(row + start) // 2] - _SPACING_WEIGHT * (relative[fits] - 1) ** 2
        change = _CHANGE_WEIGHT * ((distances[None] - own[:, None]) / expected[row]) ** 2
        continued = best[start] - change
        choice = continued.argmax(axis=1)
        value = continued[np.arange(len(own)), choice]
        goes_on = value > ends[start]
        best[row, fits] = gain + np.where(goes_on, value, ends[start])
        before[row, fits] = np.where(goes_on, choice, -1)
    row, kind = (int(i) for i in np.unravel_index(int(best.argmax()), best.shape))
    if not np.isfinite(best[row, kind]):
        return -np.inf, np.zeros(0, dtype=np.int64)
    score, chain = float(best[row, kind]), [row]
    while kind >= 0:
        row, kind = row - int(distances[kind]), int(before[row, kind])
        chain.append(row)
    return score / len(chain), np.array(chain[::-1])

"""Regions drawn as contours on parallel planes, as functions that are positive inside, and their contours elsewhere.

Of the contours on a plane, one within another is a hole, and those that partly overlap are taken together. Between two
planes the signed distances to their contours are interpolated (Raya and Udupa, Shape-based interpolation of
multidimensional objects, IEEE Trans. Med. Imaging 1990); beyond the outermost ones a region reaches half a step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid

log = logging.getLogger(__name__)

_PLANE_TOLERANCE_MM = 0.1  # of a contour's points off its plane, and between contours of one plane
_TOUCH_MM = 0.25  # by which a contour within another may reach out of it: points are rounded, and chords of curves
_MAX_DISTANCE_MM = 30.0  # that is measured
_MAX_EDGE_MM = 1.0  # of the edges among which the nearest one is looked for
_MIN_PIXEL_MM = 0.5  # at which contours are traced; their points are then refined
_COARSE_PIXEL_MM = 4.0  # at which places far from a border are looked at
_NEAR_MM = 8.0  # of a border, more than it can move within such a pixel
_REFINEMENTS = 3
_MIN_SQUARED_SLOPE = 1e-2  # where a function is flatter, points stay near where they are
_DIFFERENCE_MM = 0.02  # for derivatives
_MAX_GAP_STEPS = 1.5  # between planes that a region spans


@dataclass(frozen=True, eq=False)
class _Outline:
    """Closed contours of a plane, even-odd: one within another is a hole."""

    contours: tuple[FloatArray, ...]  # (N, 2) mm

    @property
    def points(self) -> FloatArray:
        """(N, 2) points of the contours, at most 1 mm apart, mm."""
        return self._edges[0]

    @cached_property
    def _edges(self) -> tuple[FloatArray, FloatArray]:
        starts, steps = [], []
        for contour in self.contours:
            step = np.roll(contour, -1, axis=0) - contour
            counts = np.maximum(1, np.ceil(np.linalg.norm(step, axis=1) / _MAX_EDGE_MM).astype(int))
            share = np.concatenate([np.arange(n) / n for n in counts])
            starts.append(np.repeat(contour, counts, axis=0) + share[:, None] * np.repeat(step, counts, axis=0))
            steps.append(np.repeat(step / counts[:, None], counts, axis=0))
        return np.concatenate(starts), np.concatenate(steps)

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        starts, steps = self._edges
        return cKDTree(starts + steps / 2)

    @cached_property
    def _paths(self) -> list[Any]:
        from matplotlib.path import Path

        return [Path(np.vstack([contour, contour[:1]]), closed=True) for contour in self.contours]

    def distance(self, points: FloatArray) -> FloatArray:
        """Return the signed distance of points (N, 2), mm, positive inside, cut off at 30 mm."""
        starts, steps = self._edges
        far, edge = self._tree.query(points, k=min(4, len(starts)), distance_upper_bound=_MAX_DISTANCE_MM)
        far, edge = far.reshape(len(points), -1), edge.reshape(len(points), -1)
        near = np.isfinite(far[:, 0])
        # the nearest edge is among those whose middles are nearest, for they are short and of like length
        nearest = np.where(np.isfinite(far), edge, edge[:, :1])[near]
        offset, step = points[near, None] - starts[nearest], steps[nearest]
        share = np.clip((offset * step).sum(-1) / np.maximum((step**2).sum(-1), 1e-18), 0, 1)
        distance = np.full(len(points), _MAX_DISTANCE_MM)
        distance[near] = np.linalg.norm(offset - share[..., None] * step, axis=-1).min(axis=1)
        return np.where(self._inside(points), distance, -distance)

    def _inside(self, points: FloatArray) -> NDArray[np.bool_]:
        inside = np.zeros(len(points), bool)
        for path, contour in zip(self._paths, self.contours, strict=True):
            low, high = contour.min(axis=0), contour.max(axis=0)
            candidates = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
            inside[candidates] ^= path.contains_points(points[candidates])
        return inside


@dataclass(frozen=True, eq=False)
class _Drawing:
    """What is drawn on a plane: unions of outlines, even-odd."""

    unions: tuple[tuple[_Outline, ...], ...]

    @classmethod
    def of(cls, contours: Sequence[FloatArray], *, even_odd: bool) -> _Drawing:
        """Return what contours (N, 2), mm, enclose; even-odd throughout, or together where they partly overlap."""
        if even_odd or len(contours) == 1:
            return cls(((_Outline(tuple(contours)),),))
        groups = _overlapping([_Outline((contour,)) for contour in contours])
        alone = tuple(group[0].contours[0] for group in groups if len(group) == 1)
        return cls((*(group for group in groups if len(group) > 1), *([(_Outline(alone),)] if alone else [])))

    def distance(self, points: FloatArray) -> FloatArray:
        """Return the signed distance of points (N, 2), mm, as of an outline; in notches of unions less than it is."""
        unions = np.array([np.max([one.distance(points) for one in union], axis=0) for union in self.unions])
        inside = (unions > 0).sum(axis=0) % 2 == 1
        nearest = np.abs(unions).min(axis=0)
        return np.where(inside, nearest, -nearest)


def _overlapping(outlines: Sequence[_Outline]) -> list[tuple[_Outline, ...]]:
    """Return contours in groups that hang together by partial overlaps; most are a group of their own."""
    from scipy.sparse.csgraph import connected_components

    overlap = np.zeros((len(outlines), len(outlines)), bool)
    for i, k in combinations(range(len(outlines)), 2):
        overlap[i, k] = _overlap_partly(outlines[i], outlines[k])
    count, groups = connected_components(overlap, directed=False)
    return [tuple(outlines[i] for i in np.flatnonzero(groups == group)) for group in range(count)]


def _overlap_partly(first: _Outline, second: _Outline) -> bool:
    """Tell contours that neither lie apart nor one within the other; copies of each other count too."""
    low = np.maximum(first.points.min(axis=0), second.points.min(axis=0))
    high = np.minimum(first.points.max(axis=0), second.points.max(axis=0))
    if (low > high).any():
        return False
    of_first, of_second = second.distance(first.points), first.distance(second.points)
    within = [bool(depths.min() >= -_TOUCH_MM) for depths in (of_first, of_second)]
    apart = max(of_first.max(), of_second.max()) <= _TOUCH_MM
    return all(within) or not (any(within) or apart)


@dataclass(frozen=True, eq=False)
class Region:
    """A region drawn as closed contours on parallel planes.

    Parameters
    ----------
    axes
        (3, 3) rows are two axes within the planes and their normal, LPS.
    heights
        (K,) of the planes along the normal, mm, rising.
    outlines
        K, what is drawn on each.
    step
        mm between neighbouring planes.
    """

    axes: FloatArray
    heights: FloatArray
    outlines: tuple[_Drawing, ...]
    step: float

    @classmethod
    def of(cls, contours: Sequence[FloatArray], *, name: str, step: float, even_odd: bool = False) -> Region:
        """Return the region of closed contours (N, 3), LPS mm.

        Parameters
        ----------
        contours
            At least one.
        name
            What to call the region in messages.
        step
            mm between planes, where there is one alone.
        even_odd
            Whether contours of a plane that partly overlap leave out what both enclose, as DICOM's CLOSEDPLANAR_XOR
            does; else they are taken together, which is logged.

        Raises
        ------
        InputError
            When the contours do not lie on parallel planes.
        """
        axes = _plane_axes(max(contours, key=_size))
        in_plane = [contour @ axes.T for contour in contours]
        flat = max(float(np.ptp(contour[:, 2])) for contour in in_plane)
        if flat > 2 * _PLANE_TOLERANCE_MM:
            raise InputError(
                f"{name}: its closed contours do not lie on parallel planes (off by {flat / 2:.2f} mm); export it as "
                "planar contours"
            )
        order = sorted(in_plane, key=lambda contour: float(contour[:, 2].mean()))
        planes: list[tuple[float, list[FloatArray]]] = []
        for contour in order:
            height = float(contour[:, 2].mean())
            if not planes or height - planes[-1][0] > _PLANE_TOLERANCE_MM:
                planes.append((height, []))
            planes[-1][1].append(contour[:, :2])
        heights = np.array([height for height, _ in planes])
        outlines = tuple(_Drawing.of(drawn, even_odd=even_odd) for _, drawn in planes)
        united = [len(union) > 1 for outline in outlines for union in outline.unions]
        if any(united):
            log.warning(
                "%s: contours of one slice overlap partly, and are taken together (%d times)", name, sum(united)
            )
        if len(heights) > 1:  # a gap is as large as several steps, and never their middle
            step = float(np.percentile(np.diff(heights), 50, method="lower"))
        return cls(axes, heights, outlines, step)

    def level(self, points: FloatArray) -> FloatArray:
        """Return a function of points (N, 3), LPS mm, that is positive inside, and near the border its depth in mm."""
        local = points @ self.axes.T
        height = local[:, 2]
        after = np.searchsorted(self.heights, height)
        before = after - 1
        below, above = np.maximum(before, 0), np.minimum(after, len(self.heights) - 1)
        gap = self.heights[above] - self.heights[below]
        spans = (gap > 0) & (gap <= _MAX_GAP_STEPS * self.step)
        nearest = np.where(np.abs(height - self.heights[below]) <= np.abs(self.heights[above] - height), below, above)
        share = np.where(spans, (height - self.heights[below]) / np.where(gap > 0, gap, 1), 0.0)
        low = self._distances(np.where(spans, below, nearest), local[:, :2])
        high = self._distances(np.where(spans, above, nearest), local[:, :2])
        within = low + share * (high - low)
        end = self.step / 2 - np.abs(height - self.heights[nearest])
        return np.where(spans, within, np.minimum(within, end))

    def _distances(self, planes: NDArray[np.int_], points: FloatArray) -> FloatArray:
        distances = np.empty(len(points))
        for k in np.unique(planes):
            chosen = planes == k
            distances[chosen] = self.outlines[k].distance(points[chosen])
        return distances


def _size(contour: FloatArray) -> float:
    return float(np.ptp(contour, axis=0).sum())


def _plane_axes(contour: FloatArray) -> FloatArray:
    """Return two axes within a contour's plane and its normal; the world's own where it is axial."""
    _, _, rows = np.linalg.svd(contour - contour.mean(axis=0), full_matrices=True)
    normal = rows[2] if len(rows) > 2 else np.array([0.0, 0.0, 1.0])
    normal = normal * np.sign(normal[np.abs(normal).argmax()])
    if np.abs(normal - np.round(normal)).max() < 1e-4:
        normal = np.round(normal)
    first = np.eye(3)[np.abs(normal).argmin()]
    first = first - normal * (first @ normal)
    first /= np.linalg.norm(first)
    return np.array([first, np.cross(normal, first), normal])


def plane_contours(level: Callable[[FloatArray], FloatArray], plane: Grid, box: FloatArray) -> list[FloatArray]:
    """Trace where a function of points is zero on a plane.

    Parameters
    ----------
    level
        Of points (N, 3), LPS mm.
    plane
        A grid of one slice.
    box
        (2, 2) the part of the plane that is looked at: lowest and highest index (x, y), in its pixels.

    Returns
    -------
    list
        Closed contours (N, 3), LPS mm.
    """
    import contourpy

    pixel = np.maximum(plane.spacing[:2], _MIN_PIXEL_MM)
    counts = np.maximum(2, np.ceil((box[1] - box[0]) * plane.spacing[:2] / pixel).astype(int) + 1)
    x, y = (np.linspace(box[0, axis], box[1, axis], int(counts[axis])) for axis in (0, 1))

    def at(position: FloatArray) -> FloatArray:
        return level(plane.index_to_world(np.column_stack([position, np.zeros(len(position))])))

    values = _sampled(at, x, y, coarse=max(1, int(_COARSE_PIXEL_MM / pixel.max())))
    values[[0, -1]], values[:, [0, -1]] = np.minimum(values[[0, -1]], -1e-3), np.minimum(values[:, [0, -1]], -1e-3)
    lines = contourpy.contour_generator(x, y, values).lines(0.0)
    contours = []
    for line in lines:
        refined = _refined(at, np.asarray(line, dtype=np.float64)[:-1], plane.spacing[:2])
        if len(refined) >= 3:
            contours.append(plane.index_to_world(np.column_stack([refined, np.zeros(len(refined))])))
    return contours


def _sampled(at: Callable[[FloatArray], FloatArray], x: FloatArray, y: FloatArray, *, coarse: int) -> FloatArray:
    """Return a function's values (y, x) on a lattice: exact near its zero, elsewhere from every so many positions."""
    from scipy.interpolate import RegularGridInterpolator

    positions = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    some_x, some_y = (np.unique(np.append(axis[::coarse], axis[-1])) for axis in (x, y))
    lattice = np.stack(np.meshgrid(some_x, some_y), axis=-1).reshape(-1, 2)
    rough = RegularGridInterpolator((some_y, some_x), at(lattice).reshape(len(some_y), len(some_x)))
    values: FloatArray = rough(positions[:, ::-1])
    near = np.abs(values) < _NEAR_MM
    values[near] = at(positions[near])
    return values.reshape(len(y), len(x))


def _refined(at: Callable[[FloatArray], FloatArray], points: FloatArray, spacing: FloatArray) -> FloatArray:
    """Move points of a contour onto the zero of a function, at most a pixel, along its slope where they were."""
    start, value = points, at(points)
    delta = _DIFFERENCE_MM / spacing
    slope = np.stack(
        [(at(points + delta * axis) - at(points - delta * axis)) / (2 * _DIFFERENCE_MM) for axis in np.eye(2)], axis=-1
    )  # for each mm
    direction = slope / np.maximum((slope**2).sum(axis=-1, keepdims=True), _MIN_SQUARED_SLOPE) / spacing
    for _ in range(_REFINEMENTS):
        moved = start + np.clip(points - value[:, None] * direction - start, -1, 1)
        new = at(moved)
        better = np.abs(new) < np.abs(value)
        points, value = np.where(better[:, None], moved, points), np.where(better, new, value)
    return points

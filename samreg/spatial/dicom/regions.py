"""Regions drawn as contours on parallel planes, as functions that are positive inside, and their contours elsewhere.

Between two planes the signed distances to their contours are interpolated (Raya and Udupa, Shape-based interpolation of
multidimensional objects, IEEE Trans. Med. Imaging 1990); beyond the outermost ones a region reaches half a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid

_PLANE_TOLERANCE_MM = 0.1  # of a contour's points off its plane, and between contours of one plane
_MAX_EDGE_MM = 1.0  # of the edges among which the nearest one is looked for
_MIN_PIXEL_MM = 0.5  # at which contours are traced; their points are then refined
_REFINEMENTS = 3
_DIFFERENCE_MM = 0.02  # for derivatives
_MAX_GAP_STEPS = 1.5  # between planes that a region spans


@dataclass(frozen=True, eq=False)
class _Outline:
    """The closed contours of a region on a plane, even-odd: one within another is a hole."""

    contours: tuple[FloatArray, ...]  # (N, 2) mm

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
        """Return the signed distance of points (N, 2), mm, positive inside."""
        starts, steps = self._edges
        # the nearest edge is among those whose middles are nearest, for they are short and of like length
        nearest = self._tree.query(points, k=min(4, len(starts)))[1].reshape(len(points), -1)
        offset, step = points[:, None] - starts[nearest], steps[nearest]
        share = np.clip((offset * step).sum(-1) / np.maximum((step**2).sum(-1), 1e-18), 0, 1)
        distance = np.linalg.norm(offset - share[..., None] * step, axis=-1).min(axis=1)
        inside = np.zeros(len(points), bool)
        for path in self._paths:
            inside ^= path.contains_points(points)
        return np.where(inside, distance, -distance)


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
    outlines: tuple[_Outline, ...]
    step: float

    @classmethod
    def of(cls, contours: Sequence[FloatArray], *, name: str, step: float) -> Region:
        """Return the region of closed contours (N, 3), LPS mm.

        Parameters
        ----------
        contours
            At least one.
        name
            What to call the region in messages.
        step
            mm between planes, where there is one alone.

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
        outlines = tuple(_Outline(tuple(drawn)) for _, drawn in planes)
        return cls(axes, heights, outlines, float(np.median(np.diff(heights))) if len(heights) > 1 else step)

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
    positions = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    def at(position: FloatArray) -> FloatArray:
        return level(plane.index_to_world(np.column_stack([position, np.zeros(len(position))])))

    values = at(positions).reshape(len(y), len(x))
    values[[0, -1]], values[:, [0, -1]] = np.minimum(values[[0, -1]], -1e-3), np.minimum(values[:, [0, -1]], -1e-3)
    lines = contourpy.contour_generator(x, y, values).lines(0.0)
    contours = []
    for line in lines:
        refined = _refined(at, np.asarray(line, dtype=np.float64)[:-1], plane.spacing[:2])
        if len(refined) >= 3:
            contours.append(plane.index_to_world(np.column_stack([refined, np.zeros(len(refined))])))
    return contours


def _refined(at: Callable[[FloatArray], FloatArray], points: FloatArray, spacing: FloatArray) -> FloatArray:
    """Move points of a contour onto the zero of a function by Newton's method, at most a pixel."""
    start = points
    delta = _DIFFERENCE_MM / spacing
    for _ in range(_REFINEMENTS):
        value = at(points)
        slope = np.stack(
            [(at(points + delta * axis) - at(points - delta * axis)) / (2 * _DIFFERENCE_MM) for axis in np.eye(2)], -1
        )  # for each mm
        step = -(value / np.maximum((slope**2).sum(-1), 1e-2))[:, None] * slope / spacing
        moved = start + np.clip(points + step - start, -1, 1)
        better = np.abs(at(moved)) < np.abs(value)
        points = np.where(better[:, None], moved, points)
    return points

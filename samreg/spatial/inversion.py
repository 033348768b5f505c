"""The inverse of a displacement field u at points: x with x + u(x) = y, found by iteration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from samreg.spatial.grid import FloatArray, lengths, slabs

if TYPE_CHECKING:
    from samreg.spatial.displacement import DisplacementField

_NEWTON_ITERATIONS = 30
_DIFFERENCE_VOXELS = 0.005  # over which derivatives are taken: within one cell, above float32's rounding
_INSIDE_VOXELS = 1e-6  # from the border, so that rounding puts no point outside
_LANDED_PER_AXIS = 25  # points of a field, among which a start is looked up by where they land
_MAX_LANDED_DISTANCES = 1.5  # largest distances between neighbours where they land: nothing lands farther off

_Map = Callable[[FloatArray], FloatArray]  # of points (N, d)
_Step = Callable[[FloatArray, FloatArray], FloatArray]  # from points and by how much they miss, what to take off them


class LandedPoints(NamedTuple):
    """Points all over the grid of a field (N, d), a tree of where they land, and how far from these it lands, mm."""

    points: FloatArray
    landed: Any
    reach: float


def landed_points(field: DisplacementField) -> LandedPoints:
    """Return where a field takes points all over its grid."""
    from scipy.spatial import KDTree

    grid = field.grid
    spacing = np.maximum(grid.spacing, grid.extent / _LANDED_PER_AXIS)
    coarse = grid.with_spacing(spacing)
    points = coarse.world_points().reshape(-1, grid.ndim)
    last = np.array(grid.size) - 1
    margin = np.minimum(0.25, last / 2)  # voxels from the border, on which there is a slope to either side
    points = grid.index_to_world(np.clip(grid.world_to_index(points), margin, last - margin))
    landed = field.transform_points(points)
    lattice = landed.reshape(*coarse.shape, grid.ndim)
    apart = [lengths(np.diff(lattice, axis=axis)).max(initial=0.0) for axis in range(grid.ndim)]
    return LandedPoints(points, KDTree(landed), _MAX_LANDED_DISTANCES * float(max(*apart, spacing.max())))


def target_range(field: DisplacementField) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and the highest index, (d,) each, to which a field takes a point of its grid."""
    grid = field.grid
    low, high = np.full(grid.ndim, np.inf), np.full(grid.ndim, -np.inf)
    for start, points in slabs(grid):
        landed = (points + field.displacement[start : start + len(points)]).reshape(-1, grid.ndim)
        for axis, index in enumerate(grid.world_to_index(landed).T):
            low[axis], high[axis] = min(low[axis], index.min()), max(high[axis], index.max())
    return low - 0.5, high + 0.5  # a field reaches half a voxel beyond its outermost centres


def solve(
    field: DisplacementField, target: FloatArray, guess: FloatArray, *, tolerance: float, iterations: int
) -> FloatArray:
    """Return the points x with x + u(x) = target, or the best found from ``guess``.

    Where u is not zero at the grid's border, some targets have two solutions, one inside the grid and one beyond it,
    where u is zero at once: that inside, found with u continued by its border values, is preferred. It is sought from
    where the field lands nearest: steps from far off do not arrive where it turns the frame by half a turn.

    Parameters
    ----------
    field
        Fixed to moving.
    target, guess
        (N, d) moving points, and about where in the fixed image they come from, LPS mm.
    tolerance
        Largest error at which the iteration stops, mm.
    iterations
        Most iterations, before Newton's.
    """
    last = np.array(field.grid.size) - 1.0

    def continued(points: FloatArray) -> FloatArray:
        index = np.clip(field.grid.world_to_index(points), _INSIDE_VOXELS, last - _INSIDE_VOXELS)
        return points + field.displacement_at(field.grid.index_to_world(index))

    difference = _DIFFERENCE_VOXELS * float(field.grid.spacing.min())
    # the damped fixed-point iteration is quick, but does not converge where the field stretches much
    best, error = _iterated(field.transform_points, target, guess, _fixed_point_step, tolerance, iterations)
    left = np.flatnonzero(error > tolerance)
    if len(left):
        newton = partial(_newton_step, field.transform_points, difference)
        best[left], error[left] = _iterated(
            field.transform_points, target[left], best[left], newton, tolerance, _NEWTON_ITERATIONS
        )
    beyond = np.flatnonzero((error <= tolerance) & ~field.grid.contains(best))
    if len(beyond):
        low, high = field._target_range
        index = field.grid.world_to_index(target[beyond])
        beyond = beyond[((index >= low) & (index <= high)).all(axis=1)]
    tried = np.union1d(np.flatnonzero(error > tolerance), beyond)
    if len(tried) == 0:
        return best
    points, landed, reach = field._landed
    distance, nearest = landed.query(target[tried])
    near = distance <= reach
    tried, start = tried[near], points[nearest[near]]
    newton = partial(_newton_step, continued, difference)
    inside, _ = _iterated(continued, target[tried], start, newton, tolerance, _NEWTON_ITERATIONS)
    # one that ends beyond the border by less than its error is on it
    index = np.clip(field.grid.world_to_index(inside), _INSIDE_VOXELS - 0.5, last + 0.5 - _INSIDE_VOXELS)
    inside = field.grid.index_to_world(index)
    miss = lengths(field.transform_points(inside) - target[tried])
    taken = miss <= np.maximum(error[tried], 2 * tolerance)
    best[tried[taken]] = inside[taken]
    return best


def _fixed_point_step(_: FloatArray, miss: FloatArray) -> FloatArray:
    return miss


def _newton_step(forward: _Map, difference: float, points: FloatArray, miss: FloatArray) -> FloatArray:
    """Return Newton's step (N, d), with derivatives from differences over so many mm."""
    offsets = difference * np.eye(points.shape[1])
    slopes = np.stack([(forward(points + h) - forward(points - h)) / (2 * difference) for h in offsets], axis=-1)
    result: FloatArray = (np.linalg.pinv(slopes) @ miss[..., None])[..., 0]
    return result


def _iterated(
    forward: _Map, target: FloatArray, guess: FloatArray, step: _Step, tolerance: float, iterations: int
) -> tuple[FloatArray, FloatArray]:
    """Return the points x that come nearest to forward(x) = target, and how far from it they end (N,), mm.

    From ``guess``, each takes steps against its miss, shorter ones where they do not help, until it is within the
    tolerance.
    """
    best, error = guess.copy(), np.zeros(len(target))
    left, point, share = np.arange(len(target)), guess, np.ones(len(target))
    miss = forward(point) - target
    length = lengths(miss)
    for _ in range(iterations):
        open_ = length > tolerance
        if not open_.all():
            best[left], error[left] = point, length
            left, point, share, target = left[open_], point[open_], share[open_], target[open_]
            miss, length = miss[open_], length[open_]
        if len(left) == 0:
            break
        moved = point - share[:, None] * step(point, miss)
        new_miss = forward(moved) - target
        new_length = lengths(new_miss)
        better = new_length < length
        share = np.where(better, np.minimum(1.0, share * 1.2), share * 0.5)
        point, miss = np.where(better[:, None], moved, point), np.where(better[:, None], new_miss, miss)
        length = np.where(better, new_length, length)
    best[left], error[left] = point, length
    return best, error

"""A smooth displacement field without folds from scattered correspondences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from samreg.device import single_threaded_blas
from samreg.errors import ImagesAtFault
from samreg.matching.correspondences import Correspondences
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.transforms import (
    AffineTransform,
    DisplacementField,
    jacobian_determinant,
    tapered,
)

_MEMBRANE_WEIGHT = 0.02  # of the first derivative beside the second
_MIN_RELIABILITY = 1e-3  # a match counts at least this much
_MAX_STIFFENINGS = 12
_STIFFENING = 2.5  # factor, after a field that folds
_REWEIGHTINGS = 3
_OUTLIER_NOISE = 3.0  # a match that misses by so many times the noise counts a quarter
_MAX_ITERATIONS = 100  # of the conjugate gradients
_RELATIVE_RESIDUAL = 5e-3  # at which they stop


def fit_displacement(
    correspondences: Correspondences,
    affine: AffineTransform,
    grid: Grid,
    *,
    knot_spacing: float = 20.0,
    stiffness: float = 0.005,
    noise: float = 8.0,
    margin: float = 40.0,
    spacing: float = 4.0,
    min_jacobian: float = 0.1,
    scale: float = 1.0,
) -> DisplacementField:
    """Fit the displacement u of T(x) = affine(x + u(x)) to correspondences.

    A cubic B-spline minimises the robust, reliability-weighted distance to the correspondences plus the bending
    energy (Rueckert et al., TMI 1999) and a little of the first derivative, so that u falls to zero away from
    the data. The stiffness is raised until no voxel folds.

    Parameters
    ----------
    correspondences
        Pairs, fixed to moving; weighted by their reliability.
    affine
        Fixed to moving; the field explains what it leaves.
    grid
        The fixed image's grid.
    knot_spacing
        Distance of the spline's knots, mm.
    stiffness
        Weight of the smoothness.
    noise
        Expected error of a good match, mm; pairs that miss by several times this count little.
    margin
        The field reaches this far beyond the grid and falls to zero there, mm.
    spacing
        Voxel size of the returned field, mm.
    min_jacobian
        Smallest Jacobian determinant allowed.
    scale
        Multiplies all lengths above; of the features that were matched.

    Returns
    -------
    DisplacementField
        u on a grid that covers ``grid`` and the margin, in the fixed frame.

    Raises
    ------
    ImagesAtFault
        When there are no correspondences, or they contradict each other so much that every field folds.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.matching import Correspondences
    >>> from samreg.spatial import AffineTransform, Grid
    >>> grid = Grid.make((6, 6, 6), spacing=20.0)
    >>> points = grid.world_points().reshape(-1, 3)
    >>> pairs = Correspondences.from_points(points, points + [5.0, 0.0, 0.0])
    >>> field = fit_displacement(pairs, AffineTransform.identity(3), grid, spacing=20.0)
    >>> field.transform_points([[50.0, 50.0, 50.0]]).round()
    array([[55., 50., 50.]])
    """
    if len(correspondences) == 0:
        raise ImagesAtFault("no matches are left to fit a displacement field to")
    knot_spacing, noise, margin, spacing = (scale * length for length in (knot_spacing, noise, margin, spacing))
    stiffness = stiffness / scale**2
    field_grid = grid.with_spacing(np.minimum(spacing, grid.extent)).padded(margin)
    displacements = affine.inverse().transform_points(correspondences.moving) - correspondences.fixed
    spline = _Spline.over(field_grid, knot_spacing)
    weight = np.maximum(correspondences.reliability, _MIN_RELIABILITY)
    coefficients = None
    with single_threaded_blas():
        design = spline.design_matrix(field_grid.world_to_index(correspondences.fixed))
        evaluation = [
            spline.axis_matrix(axis, np.arange(size).astype(np.float64)) for axis, size in enumerate(field_grid.size)
        ]
        for _ in range(_MAX_STIFFENINGS):
            coefficients = _robust_solve(design, displacements, weight, spline.knots, stiffness, noise, coefficients)
            displacement = _evaluate(coefficients, spline.knots, evaluation)
            result = tapered(DisplacementField(displacement.astype(np.float32), field_grid), margin)
            if jacobian_determinant(result, field_grid).min() >= min_jacobian:
                return result
            stiffness *= _STIFFENING
    raise ImagesAtFault("the matches contradict each other: every displacement field through them folds")


@dataclass(frozen=True, eq=False)
class _Spline:
    """A uniform cubic B-spline over a grid.

    Parameters
    ----------
    grid
        Its voxels lie within the spline's support.
    knots
        Number of coefficients along x, y(, z): one before the first voxel, two after the last.
    step
        (d,) distance of the knots, voxels.
    """

    grid: Grid
    knots: tuple[int, ...]
    step: FloatArray

    @classmethod
    def over(cls, grid: Grid, knot_spacing: float) -> _Spline:
        """Return the spline whose knots lie ``knot_spacing`` mm apart."""
        step = knot_spacing / grid.spacing
        return cls(grid, tuple(int(n) + 4 for n in np.floor((np.asarray(grid.size) - 1) / step)), step)

    def axis_matrix(self, axis: int, index: FloatArray) -> Any:
        """Return the sparse (N, knots) weights at voxel indices (N,) along one axis, x first; four in each row."""
        from scipy.interpolate import BSpline

        inside = np.clip(index, 0, self.grid.size[axis] - 1)
        return BSpline.design_matrix(inside / self.step[axis], _knot_positions(self.knots[axis]), 3)

    def design_matrix(self, index: FloatArray) -> Any:
        """Return the sparse (N, K) weights at voxel indices (N, d); K in order (z, y, x)."""
        from scipy.sparse import csr_array

        n = len(index)
        columns, weights = np.zeros((n, 1), dtype=np.int64), np.ones((n, 1))
        for axis in reversed(range(self.grid.ndim)):
            matrix = self.axis_matrix(axis, index[:, axis])
            along, weight = matrix.indices.reshape(n, 1, 4), matrix.data.reshape(n, 1, 4)
            columns = (columns[:, :, None] * self.knots[axis] + along).reshape(n, -1)
            weights = (weights[:, :, None] * weight).reshape(n, -1)
        first = np.arange(n + 1) * columns.shape[1]
        return csr_array((weights.ravel(), columns.ravel(), first), shape=(n, int(np.prod(self.knots))))


def _knot_positions(count: int) -> FloatArray:
    """Return the knots of ``count`` cubic B-splines a unit apart, the second of which is centred at 0."""
    return np.arange(count + 4, dtype=np.float64) - 3


def _robust_solve(
    design: Any,
    displacements: FloatArray,
    weight: FloatArray,
    knots: tuple[int, ...],
    stiffness: float,
    noise: float,
    coefficients: FloatArray | None,
) -> FloatArray:
    """Return spline coefficients (K, d), in the axes of the displacements, by reweighted least squares."""
    from scipy.sparse import diags

    smoothness = stiffness * _smoothness_matrix(knots)
    solution = np.zeros((design.shape[1], displacements.shape[1])) if coefficients is None else coefficients
    scale = _OUTLIER_NOISE * noise
    for iteration in range(_REWEIGHTINGS):
        miss = np.linalg.norm(design @ solution - displacements, axis=1)
        is_first = coefficients is None and iteration == 0
        robust = (weight if is_first else weight * (scale**2 / (scale**2 + miss**2)) ** 2) / noise**2
        system = (design.T @ diags(robust) @ design + smoothness).tocsr()
        precondition = _cosine_preconditioner(knots, stiffness, robust.sum() / design.shape[1])
        solution = _conjugate_gradients(system, design.T @ (displacements * robust[:, None]), solution, precondition)
    return solution


def _conjugate_gradients(
    system: Any, right: FloatArray, start: FloatArray, precondition: Callable[[FloatArray], FloatArray]
) -> FloatArray:
    """Solve system @ x = right for all columns (K, d) at once.

    scipy's solver takes one column at a time: one pass over the matrix for each where this takes one for all.
    """
    solution, residual = start.copy(), right - system @ start
    direction = improved = precondition(residual)
    product = (residual * improved).sum(axis=0)
    goal = _RELATIVE_RESIDUAL**2 * np.square(right).sum()
    for _ in range(_MAX_ITERATIONS):
        if np.square(residual).sum() <= goal:
            break
        image = system @ direction
        step = product / np.maximum((direction * image).sum(axis=0), 1e-30)
        solution += step * direction
        residual = residual - step * image
        improved = precondition(residual)
        product, before = (residual * improved).sum(axis=0), product
        direction = improved + product / np.maximum(before, 1e-30) * direction
    return solution


def _cosine_preconditioner(
    knots: tuple[int, ...], stiffness: float, data_weight: float
) -> Callable[[FloatArray], FloatArray]:
    """Return the inverse of the system for evenly spread data, which cosines diagonalise."""
    from scipy.fft import dctn, idctn

    shape = knots[::-1]
    axes = tuple(range(len(shape)))
    laplacian: FloatArray = np.zeros(shape)
    for axis, n in enumerate(shape):
        along = 2 - 2 * np.cos(np.pi * np.arange(n) / n)
        laplacian = laplacian + along.reshape([-1 if i == axis else 1 for i in axes])
    inverse = 1 / (stiffness * (laplacian**2 + _MEMBRANE_WEIGHT * laplacian) + 0.3 * data_weight + 1e-6)

    def apply(residual: FloatArray) -> FloatArray:
        spectrum = dctn(residual.reshape(*shape, -1), norm="ortho", axes=axes)
        result: FloatArray = idctn(spectrum * inverse[..., None], norm="ortho", axes=axes).reshape(residual.shape)
        return result

    return apply


def _smoothness_matrix(knots: tuple[int, ...]) -> Any:
    """Return the bending energy plus a little membrane energy of spline coefficients, (K, K) sparse.

    Differences of the coefficients stand for derivatives.
    """
    from scipy.sparse import diags, identity, kron

    def difference(n: int, order: int) -> Any:
        taps = {1: (-1.0, 1.0), 2: (1.0, -2.0, 1.0)}[order]
        return diags(taps, range(order + 1), shape=(n - order, n))

    def along(orders: dict[int, int]) -> Any:
        matrix = identity(1)
        for axis in reversed(range(len(knots))):
            part = difference(knots[axis], orders[axis]) if axis in orders else identity(knots[axis])
            matrix = kron(matrix, part)
        return matrix.T @ matrix

    ndim = len(knots)
    bending = sum(along({axis: 2}) for axis in range(ndim))
    bending = bending + 2 * sum(along({a: 1, b: 1}) for a in range(ndim) for b in range(a))
    membrane = sum(along({axis: 1}) for axis in range(ndim))
    return (bending + _MEMBRANE_WEIGHT * membrane + 1e-6 * identity(bending.shape[0])).tocsr()


def _evaluate(coefficients: FloatArray, knots: tuple[int, ...], matrices: list[Any]) -> FloatArray:
    """Return the spline (*grid.shape, d) at all voxels from coefficients (K, d)."""
    field = coefficients.reshape(*knots[::-1], -1)
    for axis, matrix in zip(reversed(range(len(knots))), matrices, strict=True):  # x is the last array axis
        moved = np.moveaxis(field, axis, 0)
        values = matrix @ moved.reshape(len(moved), -1)
        field = np.moveaxis(values.reshape(len(values), *moved.shape[1:]), 0, axis)
    return field

"""A smooth displacement field without folds from scattered correspondences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import ImagesAtFault
from samreg.matching.correspondences import Correspondences
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.transforms import (
    AffineTransform,
    DisplacementField,
    jacobian_determinant,
    tapered,
)

_MEMBRANE = 0.02  # weight of the first derivative beside the second


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
        When there are no correspondences, or every field through them folds.
    """
    if len(correspondences) == 0:
        raise ImagesAtFault("no correspondences to fit a displacement field to")
    knot_spacing, noise, margin, spacing = (scale * length for length in (knot_spacing, noise, margin, spacing))
    stiffness = stiffness / scale**2
    field_grid = grid.with_spacing(np.minimum(spacing, grid.extent)).padded(margin)
    wanted = affine.inverse().transform_points(correspondences.moving) - correspondences.fixed
    knots = _knots(field_grid, knot_spacing)
    design = _design_matrix(field_grid.world_to_index(correspondences.fixed), field_grid, knots, knot_spacing)
    weight = np.maximum(correspondences.reliability, 1e-3)
    evaluation = [
        _axis_weights(np.arange(n, dtype=float), s, k, knot_spacing)
        for n, s, k in zip(field_grid.size, field_grid.spacing, knots, strict=True)
    ]
    coefficients = None
    for _ in range(12):
        coefficients = _robust_solve(design, wanted, weight, knots, stiffness, noise, coefficients)
        displacement = _evaluate(coefficients, knots, evaluation)
        result = tapered(DisplacementField(displacement.astype(np.float32), field_grid), margin)
        if jacobian_determinant(result, field_grid).min() >= min_jacobian:
            return result
        stiffness *= 2.5
    raise ImagesAtFault("the matches contradict each other: every displacement field through them folds")


def _robust_solve(
    design: Any,
    wanted: FloatArray,
    weight: FloatArray,
    knots: tuple[int, ...],
    stiffness: float,
    noise: float,
    coefficients: FloatArray | None,
) -> FloatArray:
    """Return spline coefficients (K, d), in the axes of ``wanted``, by reweighted least squares."""
    from scipy.sparse import diags

    smoothness = stiffness * _smoothness_matrix(knots)
    solution = np.zeros((design.shape[1], wanted.shape[1])) if coefficients is None else coefficients
    for round_ in range(3):
        miss = np.linalg.norm(design @ solution - wanted, axis=1)
        start = coefficients is None and round_ == 0
        scale = 3 * noise
        robust = (weight if start else weight * (scale**2 / (scale**2 + miss**2)) ** 2) / noise**2
        system = (design.T @ diags(robust) @ design + smoothness).tocsr()
        precondition = _cosine_preconditioner(knots, stiffness, robust.sum() / design.shape[1])
        solution = _conjugate_gradients(system, design.T @ (wanted * robust[:, None]), solution, precondition)
    return solution


def _conjugate_gradients(
    system: Any, right: FloatArray, start: FloatArray, precondition: Callable[[FloatArray], FloatArray]
) -> FloatArray:
    """Solve system @ x = right for all columns (K, d) at once.

    scipy's solver takes one column at a time, three passes over the matrix where one does.
    """
    solution, residual = start.copy(), right - system @ start
    direction = improved = precondition(residual)
    product = (residual * improved).sum(axis=0)
    goal = 5e-3 * np.linalg.norm(right)
    for _ in range(100):
        if np.linalg.norm(residual) <= goal:
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
    inverse = 1 / (stiffness * (laplacian**2 + _MEMBRANE * laplacian) + 0.3 * data_weight + 1e-6)

    def apply(residual: FloatArray) -> FloatArray:
        spectrum = dctn(residual.reshape(*shape, -1), norm="ortho", axes=axes)
        return idctn(spectrum * inverse[..., None], norm="ortho", axes=axes).reshape(residual.shape)

    return apply


def _knots(grid: Grid, knot_spacing: float) -> tuple[int, ...]:
    """Return the number of knots along x, y(, z): one before the first voxel, two after the last."""
    return tuple(int(np.floor((n - 1) * s / knot_spacing)) + 4 for n, s in zip(grid.size, grid.spacing, strict=True))


def _axis_weights(index: FloatArray, spacing: float, knots: int, knot_spacing: float) -> NDArray[Any]:
    """Return the cubic B-spline weights (N, knots) at voxel indices (N,) along one axis."""
    where = index * spacing / knot_spacing + 1
    distance = np.abs(where[:, None] - np.arange(knots)[None])
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def _design_matrix(index: FloatArray, grid: Grid, knots: tuple[int, ...], knot_spacing: float) -> Any:
    """Return the sparse (N, K) matrix of spline weights at voxel indices (N, d); K in order (z, y, x)."""
    from scipy.sparse import csr_matrix

    n, ndim = index.shape
    where = index * grid.spacing / knot_spacing + 1
    first = np.clip(np.floor(where).astype(int) - 1, 0, np.asarray(knots) - 4)
    columns, values = np.zeros((n, 1), dtype=int), np.ones((n, 1))
    for axis in reversed(range(ndim)):
        taps = first[:, axis, None] + np.arange(4)
        distance = np.abs(where[:, axis, None] - taps)
        near, far = 2 / 3 - distance**2 + distance**3 / 2, np.maximum(2 - distance, 0) ** 3 / 6
        value = np.where(distance < 1, near, far)
        columns = (columns[:, :, None] * knots[axis] + taps[:, None, :]).reshape(n, -1)
        values = (values[:, :, None] * value[:, None, :]).reshape(n, -1)
    rows = np.repeat(np.arange(n), columns.shape[1])
    return csr_matrix((values.ravel(), (rows, columns.ravel())), shape=(n, int(np.prod(knots))))


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
    return (bending + _MEMBRANE * membrane + 1e-6 * identity(bending.shape[0])).tocsr()


def _evaluate(coefficients: FloatArray, knots: tuple[int, ...], weights: list[NDArray[Any]]) -> FloatArray:
    """Return the spline (*grid.shape, d) at all voxels from coefficients (K, d)."""
    ndim = len(knots)
    field = coefficients.reshape(*knots[::-1], -1)
    for axis in range(ndim):  # array axis ndim-1-axis
        array_axis = ndim - 1 - axis
        field = np.moveaxis(np.tensordot(weights[axis], field, axes=(1, array_axis)), 0, array_axis)
    return field

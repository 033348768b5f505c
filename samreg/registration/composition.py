"""A transform as registrations give it: displacement fields that end at zero, followed by one affine."""

from __future__ import annotations

import numpy as np

from samreg.errors import ImagesAtFault
from samreg.spatial.displacement import DisplacementField, border_values, sample_displacement, tapered
from samreg.spatial.grid import Grid
from samreg.spatial.transforms import AffineTransform, Transform, components, compose

_FIELD_MARGIN_MM = 30.0  # around the fixed image, over which a field falls to zero
_MIN_DETERMINANT = 1e-9  # of the affine part; less has collapsed the image
_FITTED_PER_AXIS = 12  # points, to which an affine is fitted
_MIN_FITTED_DETERMINANT = 0.05  # of that affine; less is no body's


def fields_then_affine(transform: Transform, grid: Grid, spacing: float) -> Transform:
    """Return the transform as displacement fields, zero at their borders, followed by one affine.

    Fields stay on their own grids. Those that are finer than ``spacing``, mm, and other kinds of transforms are sampled
    as one field, on a grid that covers ``grid``, that of the fixed image, and a margin. Where fields that move their
    borders come last, as in files of the total displacement, the affine nearest to all is taken out of them: bodies may
    lie far apart, and a field cannot fall from there to zero without folds.
    """
    transform = compose(transform)  # neighbouring affines as one
    *before, last = components(transform)
    if isinstance(last, AffineTransform):
        affine, is_total = last, False
    else:
        before = [*before, last]
        is_total = not all(isinstance(part, DisplacementField) and _ends_at_zero(part) for part in before)
        affine = _nearest_affine(transform, grid) if is_total else AffineTransform.identity(grid.ndim)
    if not abs(np.linalg.det(affine.matrix)) > _MIN_DETERMINANT:
        raise ImagesAtFault("the affine part of the transform collapses the image; are these scans of the same region?")
    fields = [part for part in before if isinstance(part, DisplacementField)]
    if (
        len(fields) == len(before)
        and all(_covers(field.grid, grid, spacing) for field in fields)
        and (not is_total or all(map(_ends_at_zero, fields[:-1])))
    ):
        if is_total:  # the last one is; what is left of it is linear between the same voxels
            fields[-1] = sample_displacement(compose(fields[-1], affine.inverse()), fields[-1].grid)
        reached = grid  # where points of the image can be when a field moves them on
        zeroed = []
        for field in fields:
            zeroed.append(_zero_at_border(field, reached))
            reached = reached.padded(float(np.linalg.norm(field.displacement, axis=-1).max()))
        return compose(*zeroed, affine)
    sampled = grid.with_spacing(np.minimum(spacing, grid.extent))
    residual = compose(transform, affine.inverse())
    if is_total:  # beyond the image its fields may have ended
        return compose(_zero_at_border(sample_displacement(residual, sampled), grid), affine)
    field = sample_displacement(residual, sampled.padded(_FIELD_MARGIN_MM))
    return compose(tapered(field, _FIELD_MARGIN_MM), affine)


def _nearest_affine(transform: Transform, grid: Grid) -> AffineTransform:
    """Return the affine nearest to a transform in the least squares of points all over a grid; if flat, a shift."""
    points = grid.with_spacing(np.maximum(grid.spacing, grid.extent / _FITTED_PER_AXIS)).world_points()
    points = points.reshape(-1, grid.ndim)
    shift = transform.transform_points(points) - points
    middle, mean = points.mean(axis=0), shift.mean(axis=0)
    slopes = np.linalg.lstsq(points - middle, shift - mean, rcond=None)[0].T
    matrix = np.eye(grid.ndim) + slopes
    if abs(np.linalg.det(matrix)) < _MIN_FITTED_DETERMINANT:
        matrix = np.eye(grid.ndim)
    return AffineTransform.about(middle, matrix, mean)


def _covers(field: Grid, image: Grid, spacing: float) -> bool:
    """Tell whether a field is no finer than ``spacing``, mm, and ends at most a voxel before the image does."""
    return bool(field.spacing.min() >= 0.99 * spacing and field.depth(image.corners()).min() >= -field.spacing.max())


def _ends_at_zero(field: DisplacementField) -> bool:
    return not border_values(field.displacement).any()


def _zero_at_border(field: DisplacementField, image: Grid) -> DisplacementField:
    """Return the field as it is within the image, and falling to zero over a margin around it.

    One that ends at zero is returned as it is: a second fall could fold what the first does not.
    """
    if _ends_at_zero(field):
        return field
    voxel = float(field.grid.spacing.max())
    missing = max(_FIELD_MARGIN_MM, 3 * voxel) - float(field.grid.depth(image.corners()).min())
    if missing > 0:
        grid = field.grid.padded(missing)
        width = [((n - m) // 2,) * 2 for n, m in zip(grid.shape, field.grid.shape, strict=True)]
        field = DisplacementField(np.pad(field.displacement, [*width, (0, 0)], mode="edge"), grid)
    return tapered(field, float(field.grid.depth(image.corners()).min()) - 1.5 * voxel)

"""A transform as registrations give it: displacement fields that end at zero, followed by one affine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from samreg.errors import ImagesAtFault
from samreg.spatial.grid import Grid
from samreg.spatial.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    components,
    compose,
    sample_displacement,
    tapered,
)

_FIELD_MARGIN_MM = 30.0  # around the fixed image, over which a field falls to zero
_MIN_DETERMINANT = 1e-9  # of the affine part; less has collapsed the image


def fields_then_affine(transform: Transform, grid: Grid, spacing: float) -> Transform:
    """Return the transform as displacement fields, zero at their borders, followed by one affine.

    Fields stay on their own grids. Those that are finer than ``spacing``, mm, and other kinds of transforms are sampled
    as one field, on a grid that covers ``grid``, that of the fixed image, and a margin.
    """
    parts = components(transform)
    affine = parts[-1] if isinstance(parts[-1], AffineTransform) else AffineTransform.identity(transform.ndim)
    if not abs(np.linalg.det(affine.matrix)) > _MIN_DETERMINANT:
        raise ImagesAtFault("the affine part of the transform collapses the image; are these scans of the same region?")
    if len(parts) == 1 and isinstance(parts[0], AffineTransform):
        return transform
    fields = [part for part in parts if isinstance(part, DisplacementField)]
    others = [part for part in parts if not isinstance(part, DisplacementField) and part is not affine]
    if not others and all(_covers(field.grid, grid, spacing) for field in fields):
        reached = grid  # where points of the image can be when a field moves them on
        zeroed = []
        for field in fields:
            zeroed.append(_zero_at_border(field, reached))
            reached = reached.padded(float(np.linalg.norm(field.displacement, axis=-1).max()))
        return compose(*zeroed, affine)
    grid = grid.with_spacing(np.minimum(spacing, grid.extent)).padded(_FIELD_MARGIN_MM)
    residual = sample_displacement(compose(transform, affine.inverse()), grid)
    return compose(tapered(residual, _FIELD_MARGIN_MM), affine)


def _covers(field: Grid, image: Grid, spacing: float) -> bool:
    """Tell whether a field is no finer than ``spacing``, mm, and ends at most a voxel before the image does."""
    return bool(field.spacing.min() >= 0.99 * spacing and field.depth(image.corners()).min() >= -field.spacing.max())


def _faces(displacement: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the outermost layers of a field along each axis of its grid."""
    for axis in range(displacement.ndim - 1):
        yield np.moveaxis(displacement, axis, 0)[0]
        yield np.moveaxis(displacement, axis, 0)[-1]


def _zero_at_border(field: DisplacementField, image: Grid) -> DisplacementField:
    """Return the field as it is within the image, and falling to zero over a margin around it.

    One that ends at zero is returned as it is: a second fall could fold what the first does not.
    """
    if all(not face.any() for face in _faces(field.displacement)):
        return field
    voxel = float(field.grid.spacing.max())
    missing = max(_FIELD_MARGIN_MM, 3 * voxel) - float(field.grid.depth(image.corners()).min())
    if missing > 0:
        grid = field.grid.padded(missing)
        width = [((n - m) // 2,) * 2 for n, m in zip(grid.shape, field.grid.shape, strict=True)]
        field = DisplacementField(np.pad(field.displacement, [*width, (0, 0)], mode="edge"), grid)
    return tapered(field, float(field.grid.depth(image.corners()).min()) - 1.5 * voxel)

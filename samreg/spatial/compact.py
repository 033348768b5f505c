"""Displacement fields on the coarsest grid that holds them, and with few digits, so that files are small."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from samreg.spatial.displacement import DisplacementField, InverseField, sample_displacement
from samreg.spatial.grid import FloatArray, Grid, lengths
from samreg.spatial.transforms import AffineTransform, Transform, components, compose

FIELD_ERROR_MM = 0.05  # by which a compact transform may differ
_STRIDES = (8, 6, 4, 3, 2)  # voxels of a field, tried from the coarsest
_REFINEMENTS = (0.25, 0.5, 2 / 3, 1.0, 4 / 3, 2.0, 4.0)  # of the voxels of the finest field
_TEST_POINTS = 30_000
_FEW_TEST_POINTS = 4000  # for a share of them
_INVERSE_ERROR_MM, _INVERSE_SHARE = 0.5, 0.95
_SAFE_SHARE = 0.8  # of the tolerance
_COVERED_PER_AXIS = 40  # points of an image whose counterparts are asked for
_MOVED_MM = 0.01  # by a field; less is its end


def compact(transform: Transform, image: Grid, *, tolerance: float = FIELD_ERROR_MM) -> Transform:
    """Return a transform whose fields are coarsened and rounded.

    Linear interpolation gives a field back: its error is measured at every voxel, which is where it is largest. Fields
    keep the margin over which they fall to zero, which the inverse needs: cut off, it had other solutions.

    Parameters
    ----------
    transform
        From points of the image, LPS mm; parts other than displacement fields stay as they are.
    image
        Grid of the image, within which the difference of all fields together is measured.
    tolerance
        Largest difference, mm.

    Examples
    --------
    >>> from samreg.spatial import DisplacementField, Grid
    >>> from samreg.spatial.compact import compact
    >>> grid = Grid.make((41, 41), spacing=1.0)
    >>> compact(DisplacementField(0.1 * grid.world_points(), grid), grid).grid.size
    (6, 6)
    """
    if not any(isinstance(part, DisplacementField) for part in components(transform)):
        return transform
    points = points_within(image)
    expected = transform.transform_points(points)
    result = _compact(transform, tolerance, worst_case=False)
    error = float(lengths(result.transform_points(points) - expected).max())
    # points between those that are measured may be worse
    return result if error < _SAFE_SHARE * tolerance else _compact(transform, tolerance, worst_case=True)


def _compact(transform: Transform, tolerance: float, *, worst_case: bool) -> Transform:
    """Return the compact transform; in the worst case the errors of all fields add up, and each is stretched most."""
    parts = components(transform)
    count = sum(isinstance(part, DisplacementField) for part in parts) if worst_case else 1
    result: list[Transform] = []
    for i, part in enumerate(parts):
        smaller = part
        if isinstance(part, DisplacementField):
            # what comes after it stretches an error
            later = [p for p in parts[i + 1 :] if worst_case or isinstance(p, AffineTransform)]
            error = tolerance / count / float(np.prod([_stretch(p) for p in later]))
            smaller = _trimmed(_few_digits(*_coarsened(part, error / 2), error))
        result.append(smaller)
    return compose(*result)


def compact_field(
    transform: Transform,
    image: Grid,
    *,
    tolerance: float = FIELD_ERROR_MM,
    share: float = 1.0,
    points: FloatArray | None = None,
) -> DisplacementField:
    """Sample a transform as one field on the coarsest grid that is accurate; on the image's own where none is.

    Parameters
    ----------
    transform
        From points of the image, LPS mm.
    image
        Grid of the image, which the field covers.
    tolerance
        Largest error, mm.
    share
        Of the points for which it must hold.
    points
        (N, d) where the error is measured, LPS mm; :func:`points_within` the image unless given.
    """
    parts = components(compact(transform, image, tolerance=tolerance))
    if isinstance(parts[0], DisplacementField) and all(isinstance(part, AffineTransform) for part in parts[1:]):
        return sample_displacement(compose(*parts), parts[0].grid)  # linear between the same voxels
    points = points_within(image) if points is None or not len(points) else points
    points = points if share == 1 else points[:_FEW_TEST_POINTS]
    expected = transform.transform_points(points)
    finest = min((_voxel(part) for part in parts), default=np.inf)
    for refinement in _REFINEMENTS:
        spacing = np.minimum(finest / refinement, image.extent / 2)
        if (spacing <= image.spacing).all():
            break
        grid = image.with_spacing(np.maximum(spacing, image.spacing))
        grid = grid.padded(float(grid.spacing.max()))
        error = float(np.quantile(_interpolation_errors(transform, grid, points, expected), share))
        if error <= tolerance:
            return _few_digits(sample_displacement(transform, grid), error, tolerance)
    return sample_displacement(transform, image)


def sampled_inverse(transform: Transform, source: Grid, target: Grid) -> Transform:
    """Return a transform's inverse as one field on a coarse grid, followed by the affine; exact where it is affine.

    Parameters
    ----------
    transform
        From points of the source image to points of the target image, LPS mm.
    source, target
        Grids of the images. In 95 % of what the target shows of the source the field is right to 0.5 mm, or half a
        voxel of the source where that is less.
    """
    inverse = transform.inverse()
    parts = components(inverse)
    if all(isinstance(part, AffineTransform) for part in parts):
        return inverse
    affines = [part for part in parts if isinstance(part, AffineTransform)]
    after = compose(*affines) if affines else AffineTransform.identity(inverse.ndim)
    points = points_within(target)
    points = points[source.contains(inverse.transform_points(points))]
    tolerance = min(_INVERSE_ERROR_MM, float(source.spacing.min()) / 2)
    residual = compose(inverse, after.inverse())
    field = compact_field(residual, target, tolerance=tolerance, share=_INVERSE_SHARE, points=points)
    return compose(field, after)


def covering(transform: Transform, source: Grid, target: Grid) -> Grid:
    """Return the source's grid, grown until it holds the counterparts of the target that displacement fields move.

    On it a sampled transform has the inverse that the transform has, for points of either image.

    Parameters
    ----------
    transform
        From points of the source image to points of the target image, LPS mm; it must have an inverse.
    source, target
        Grids of the images.

    Examples
    --------
    >>> from samreg.spatial import DisplacementField, Grid
    >>> grid = Grid.make((20, 20), spacing=2.0)
    >>> field = DisplacementField(np.full((40, 40, 2), 8.0), grid.padded(20.0))
    >>> covering(field, grid, grid).size
    (26, 26)
    """
    affines = [part for part in components(transform) if isinstance(part, AffineTransform)]
    if len(affines) == len(components(transform)):
        return source
    coarse = target.with_spacing(np.maximum(target.spacing, target.extent / _COVERED_PER_AXIS))
    surrounded = coarse.padded(float(coarse.spacing.min()))  # by points beyond the borders of its voxels
    points = transform.inverse().transform_points(surrounded.world_points().reshape(-1, target.ndim))
    affine = compose(*affines) if affines else AffineTransform.identity(transform.ndim)
    moved = lengths(transform.transform_points(points) - affine.transform_points(points)) > _MOVED_MM
    index = source.world_to_index(np.concatenate([source.corners(), points[moved]]))
    low, high = (np.floor(index.min(axis=0)).astype(int), np.ceil(index.max(axis=0)).astype(int))
    return source.between(low, high)


def points_within(image: Grid) -> FloatArray:
    """Return random points (N, d) between the voxel centres of an image, LPS mm, the same ones each time."""
    rng = np.random.default_rng(0)
    return image.index_to_world(rng.uniform(0, np.asarray(image.size) - 1, (_TEST_POINTS, image.ndim)))


def _interpolation_errors(transform: Transform, grid: Grid, points: FloatArray, expected: FloatArray) -> FloatArray:
    """Return by how many mm linear interpolation on a grid would miss at points, from the voxels around each alone."""
    index = grid.world_to_index(points)
    first = np.clip(np.floor(index), 0, np.maximum(np.asarray(grid.size) - 2, 0))
    share = index - first
    corners = np.array(list(itertools.product((0, 1), repeat=grid.ndim)))[:, None]
    voxels = np.minimum(first + corners, np.asarray(grid.size) - 1).reshape(-1, grid.ndim)
    mapped = transform.transform_points(grid.index_to_world(voxels)).reshape(len(corners), *points.shape)
    weights = np.where(corners, share, 1 - share).prod(axis=-1)
    errors: FloatArray = lengths(np.einsum("cn,cnd->nd", weights, mapped) - expected)
    return errors


def _voxel(part: Transform) -> float:
    if isinstance(part, InverseField):
        part = part.forward
    return float(part.grid.spacing.min()) if isinstance(part, DisplacementField) else np.inf


def _stretch(part: Transform) -> float:
    """Return how much longer a short distance can become by a part of a transform."""
    if isinstance(part, AffineTransform):
        return max(1.0, float(np.linalg.norm(part.matrix, 2)))
    if not isinstance(part, DisplacementField):
        return 1.0
    slopes = [
        lengths(np.diff(part.displacement, axis=axis)).max(initial=0.0) / part.grid.spacing[::-1][axis]
        for axis in range(part.ndim)
    ]
    return 1.0 + float(max(slopes))


def _trimmed(field: DisplacementField) -> DisplacementField:
    """Return a field without the outer layers of zeros that change nothing, as it is zero outside its grid."""
    moved = np.logical_or.reduce(list(np.moveaxis(field.displacement != 0, -1, 0)))
    inside = []
    for axis, n in enumerate(moved.shape):
        (layers,) = np.nonzero(moved.any(axis=tuple(k for k in range(moved.ndim) if k != axis)))
        # one layer of zeros stays, to which the field falls; and two layers are the least
        first = min(max(int(layers[0]) - 1, 0), max(n - 2, 0)) if len(layers) else 0
        last = max(int(layers[-1]) + 2, first + 2) if len(layers) else 2
        inside.append(slice(first, min(last, n)))
    cut = field.displacement[tuple(inside)]
    origin = field.grid.index_to_world([part.start for part in reversed(inside)])[0]
    return DisplacementField(cut, Grid(cut.shape[:-1], origin, field.grid.spacing, field.grid.direction))


def _coarsened(field: DisplacementField, tolerance: float) -> tuple[DisplacementField, float]:
    """Return the field with as few voxels along each axis as the tolerance allows, and its largest error, mm."""
    displacement, spacing, total = field.displacement, field.grid.spacing.copy(), 0.0
    for axis in range(field.ndim):
        for stride in _STRIDES:
            if (displacement.shape[axis] - 1) % stride or displacement.shape[axis] <= stride:
                continue
            error = _stride_error(displacement, axis, stride)
            # an error along one axis is not enlarged by interpolation along the others
            if error <= tolerance / field.ndim:
                displacement = displacement.take(np.arange(0, displacement.shape[axis], stride), axis=axis)
                spacing[field.ndim - 1 - axis] *= stride
                total += error
                break
    grid = Grid(displacement.shape[:-1], field.grid.origin, spacing, field.grid.direction)
    return DisplacementField(displacement, grid), total


def _stride_error(displacement: NDArray[np.float32], axis: int, stride: int) -> float:
    """Return the largest distance by which linear interpolation between every so many voxels misses those between."""
    nodes = np.moveaxis(displacement, axis, 0)
    first, last = nodes[:-1:stride], nodes[stride::stride]
    worst = 0.0
    for step in range(1, stride):
        between = first + (last - first) * np.float32(step / stride)
        worst = max(worst, float(lengths(between - nodes[step:-1:stride]).max()))
    return worst


def _few_digits(field: DisplacementField, error: float, tolerance: float) -> DisplacementField:
    """Round the displacements as the tolerance allows beside an error, to a power of two: the last bits are zero."""
    step = 2 * max(tolerance - error, 1e-3 * tolerance) / np.sqrt(field.ndim)
    step = np.float32(2.0 ** np.floor(np.log2(step)))
    return DisplacementField(np.rint(field.displacement / step) * step, field.grid)

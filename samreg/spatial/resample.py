"""Resampling images through transforms, and to other voxel sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError
from samreg.spatial.adapters import to_sitk, transform_to_sitk
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.transforms import Transform

INTERPOLATIONS = ("linear", "nearest", "bspline")


def resample(
    image: Image,
    grid: Grid,
    *,
    transform: Transform | None = None,
    interpolation: str = "linear",
    fill: float | None = None,
) -> Image:
    """Resample ``image`` onto ``grid``: the result at x is the image at ``transform(x)``.

    Parameters
    ----------
    image
        The moving image.
    grid
        The output grid, in the fixed frame.
    transform
        Fixed to moving, LPS mm; the identity unless given.
    interpolation
        "linear", "nearest" (labels) or "bspline" (cubic).
    fill
        Value outside the moving image; its smallest value, or 0 for "nearest", unless given.

    Returns
    -------
    Image
        On ``grid``; of the image's own type for "nearest", else float32.

    Raises
    ------
    InputError
        For an unknown interpolation or differing dimensions.
    """
    import SimpleITK as sitk

    if interpolation not in INTERPOLATIONS:
        raise InputError(f"unknown interpolation {interpolation!r}; choose one of {', '.join(INTERPOLATIONS)}")
    if image.ndim != grid.ndim or (transform is not None and transform.ndim != grid.ndim):
        raise InputError(f"{image.label} is {image.ndim}D, the grid {grid.ndim}D; give both in one dimension")
    kind = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "bspline": sitk.sitkBSpline}
    if fill is None:
        fill = 0.0 if interpolation == "nearest" else float(image.array.min())
    source = to_sitk(image)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize(list(grid.size))
    filter_.SetOutputOrigin(grid.origin.tolist())
    filter_.SetOutputSpacing(grid.spacing.tolist())
    filter_.SetOutputDirection(grid.direction.ravel().tolist())
    filter_.SetInterpolator(kind[interpolation])
    filter_.SetDefaultPixelValue(fill)
    filter_.SetOutputPixelType(source.GetPixelID() if interpolation == "nearest" else sitk.sitkFloat32)
    if transform is not None:
        filter_.SetTransform(transform_to_sitk(transform))
    array = sitk.GetArrayFromImage(filter_.Execute(source))
    if interpolation == "nearest":
        array = array.astype(image.array.dtype, copy=False)
    return Image(array, grid, image.name)


def resample_spacing(image: Image, spacing: ArrayLike) -> Image:
    """Resample to another voxel size on the same axes, averaging where it becomes coarser.

    A separable triangle filter as wide as the larger of the two voxel sizes; the full-resolution image is
    never copied as a whole, so that large scans stay within a small memory.

    Parameters
    ----------
    image
        2D or 3D image.
    spacing
        (d,) or scalar, new voxel size in mm.

    Returns
    -------
    Image
        float32, on ``image.grid.with_spacing(spacing)``.
    """
    from scipy.sparse import csr_array  # a dense product costs many times more, in the BLAS's threads

    grid = image.grid.with_spacing(spacing)
    # (array axis k belongs to index axis d-1-k)
    weights = [csr_array(_triangle_weights(image.grid, grid, axis)) for axis in reversed(range(grid.ndim))]
    if grid.ndim == 2:
        return Image(weights[0] @ (weights[1] @ image.array.astype(np.float32).T).T, grid, image.name)
    planes = np.empty((image.shape[0], *grid.shape[1:]), dtype=np.float32)
    for z, plane in enumerate(image.array):
        planes[z] = (weights[2] @ (weights[1] @ plane.astype(np.float32)).T).T
    array = (weights[0] @ planes.reshape(len(planes), -1)).reshape(grid.shape)
    return Image(array, grid, image.name)


def _triangle_weights(source: Grid, target: Grid, axis: int) -> NDArray[np.float32]:
    """Return the (target, source) matrix that interpolates one grid axis, rows adding up to 1."""
    start = (source.world_to_index(target.origin)[0])[axis]
    step = target.spacing[axis] / source.spacing[axis]
    where = np.clip(start + step * np.arange(target.size[axis]), 0, source.size[axis] - 1)
    distance = np.abs(where[:, None] - np.arange(source.size[axis])[None])
    weights = np.maximum(0.0, 1.0 - distance / max(step, 1.0))
    normalised: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised

"""Resampling images through transforms, and to other voxel sizes."""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError, require_choice
from samreg.spatial.adapters import to_sitk, transform_to_sitk
from samreg.spatial.grid import Grid, require_grid
from samreg.spatial.image import Image, require_image
from samreg.spatial.transforms import Transform, require_transform

INTERPOLATIONS = ("linear", "nearest", "bspline")


def resample(
    image: Image,
    grid: Grid,
    *,
    transform: Transform | None = None,
    interpolation: str = "linear",
    fill: float | Literal["edge"] | None = None,
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
        Value outside the moving image; its smallest finite value, or 0 for "nearest", unless given. "edge" repeats the
        nearest voxel.

    Returns
    -------
    Image
        On ``grid``; of the image's own type for "nearest", else float32.

    Raises
    ------
    InputError
        For an unknown interpolation, differing dimensions, or a fill that the image's type cannot hold.

    Examples
    --------
    >>> from samreg.spatial import AffineTransform, Grid, Image, resample
    >>> image = Image.from_array([[0, 10, 20]], spacing=2)
    >>> resample(image, Grid.make((1, 5), spacing=1)).array.tolist()
    [[0.0, 5.0, 10.0, 15.0, 20.0]]
    >>> shift = AffineTransform([[1, 0], [0, 1]], [2, 0])
    >>> resample(image, image.grid, transform=shift, fill=-1).array.tolist()
    [[10.0, 20.0, -1.0]]
    >>> resample(image, image.grid, transform=shift, fill="edge").array.tolist()
    [[10.0, 20.0, 20.0]]
    """
    import SimpleITK as sitk

    require_image(image)
    require_grid(grid)
    if transform is not None:
        require_transform(transform)
    require_choice("interpolation", interpolation, INTERPOLATIONS)
    dimensions = {part.ndim for part in (image, grid, transform) if part is not None}
    if len(dimensions) > 1:
        raise InputError(
            f"{image.label} is {image.ndim}D, the grid {grid.ndim}D"
            + (f", the transform {transform.ndim}D" if transform is not None else "")
            + "; all must be 2D or all 3D"
        )
    kind = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "bspline": sitk.sitkBSpline}
    repeated = isinstance(fill, str) and fill == "edge"
    if fill is None or repeated:
        fill = 0.0 if interpolation == "nearest" or repeated else _smallest(image.array)
    if not isinstance(fill, Real) or isinstance(fill, bool):
        raise InputError(f'fill must be a number, such as {float(image.array.min()):g}, or "edge", got {fill!r}')
    if interpolation == "nearest":
        _require_holds(image, float(fill))
    source = to_sitk(image)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize(list(grid.size))
    filter_.SetOutputOrigin(grid.origin.tolist())
    filter_.SetOutputSpacing(grid.spacing.tolist())
    filter_.SetOutputDirection(grid.direction.ravel().tolist())
    filter_.SetInterpolator(kind[interpolation])
    filter_.SetDefaultPixelValue(float(fill))  # SimpleITK takes no numpy scalar
    filter_.SetUseNearestNeighborExtrapolator(repeated)
    filter_.SetOutputPixelType(source.GetPixelID() if interpolation == "nearest" else sitk.sitkFloat32)
    if transform is not None:
        filter_.SetTransform(transform_to_sitk(transform))
    array = sitk.GetArrayFromImage(filter_.Execute(source))
    if interpolation == "nearest":
        array = array.astype(image.array.dtype, copy=False)
    return Image(array, grid, image.name)


def in_type(image: Image, dtype: np.dtype[Any]) -> Image:
    """Return an image that was interpolated in its original integer type, rounded; as it is for any other type.

    Examples
    --------
    >>> in_type(Image.from_array([[0.6, 300.0]], spacing=1.0), np.dtype(np.uint8)).array.tolist()
    [[1, 255]]
    """
    if dtype.kind not in "iu":
        return image
    limits = np.iinfo(dtype)
    return image.with_array(np.clip(np.rint(image.array), limits.min, limits.max).astype(dtype))


def _smallest(array: NDArray[Any]) -> float:
    """Return the smallest finite value, 0 where there is none."""
    smallest = float(array.min())
    if np.isfinite(smallest):
        return smallest
    finite = array[np.isfinite(array)]
    return float(finite.min()) if finite.size else 0.0


def _require_holds(image: Image, fill: float) -> None:
    """Raise :class:`InputError` unless a value can be a voxel of the image as it is."""
    kind = image.array.dtype
    if kind.kind == "f":
        return
    low, high = (0, 1) if kind.kind == "b" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    if not (low <= fill <= high and fill == int(fill)):
        raise InputError(f"{image.label} holds {kind}, which has no {fill:g}; give a fill of {low} to {high}")


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

    Raises
    ------
    InputError
        When the voxel size is not positive mm.

    Examples
    --------
    >>> from samreg.spatial import Image, resample_spacing
    >>> coarse = resample_spacing(Image.from_array([[4, 4, 4, 4]], spacing=1, origin=(10, 0)), (2, 1))
    >>> coarse.array.tolist(), coarse.origin.tolist()
    ([[4.0, 4.0]], [10.5, 0.0])
    """
    require_image(image)
    from scipy.sparse import csr_array  # a dense product costs many times more, in the BLAS's threads

    grid = image.grid.with_spacing(spacing)
    # array axis k belongs to index axis d-1-k
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
    centers = np.clip(start + step * np.arange(target.size[axis]), 0, source.size[axis] - 1)
    distance = np.abs(centers[:, None] - np.arange(source.size[axis])[None])
    weights = np.maximum(0.0, 1.0 - distance / max(step, 1.0))
    normalised: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised

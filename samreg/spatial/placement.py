"""An image from an array and what says where it lies: a matrix or ITK's geometry; sheared volumes are resampled."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.labels import is_label_image
from samreg.spatial.remarks import remark

log = logging.getLogger(__name__)

_MAX_SKEW = 1e-3  # of direction cosines, which a grid takes for rounding


def image_from_matrix(array: np.ndarray[Any, Any], to_world: FloatArray, *, name: str = "") -> Image:
    """Return an Image from an array (z, y, x) or (y, x) and the (4, 4) matrix from its indices (x, y, z) to LPS mm.

    A sheared 3D volume is resampled onto an orthogonal grid of the same spacing.

    Raises
    ------
    InputError
        When a 2D array is tilted out of the x-y plane.
    """
    if array.ndim == 2 and np.abs([to_world[2, :2], to_world[:2, 2]]).max() > 1e-6:
        raise InputError(f"{name or 'image'}: a 2D image lies oblique in space; store it as a volume of one slice")
    d = array.ndim
    spacing = np.linalg.norm(to_world[:d, :d], axis=0)
    direction = to_world[:d, :d] / spacing
    if d == 3 and np.abs(direction.T @ direction - np.eye(3)).max() > _MAX_SKEW:
        return _unsheared(array, to_world, spacing, name)
    return Image.from_array(array, origin=to_world[:d, 3], spacing=spacing, direction=direction, name=name)


def image_from_geometry(
    array: np.ndarray[Any, Any], origin: ArrayLike, spacing: ArrayLike, direction: ArrayLike, *, name: str = ""
) -> Image:
    """Return an Image from an array and ITK's geometry of it, LPS mm; a last dimension of one frame is dropped.

    A sheared 3D volume is resampled onto an orthogonal grid of the same spacing.

    Raises
    ------
    InputError
        When the image is neither 2D nor 3D, or its geometry is impossible.
    """
    d = array.ndim
    while d > 3 and array.shape[0] == 1:
        array, d = array[0], d - 1
    if d not in (2, 3):
        raise InputError(f"{name or 'image'}: is {d}D, shape {array.shape}; it must be 2D or 3D: select one volume")
    origin, spacing, direction = np.asarray(origin)[:d], np.asarray(spacing)[:d], np.asarray(direction)[:d, :d]
    if d == 3 and _is_sheared(direction):
        to_world = np.eye(4)
        to_world[:3, :3], to_world[:3, 3] = direction * spacing, origin
        return image_from_matrix(array, to_world, name=name)
    return Image.from_array(array, origin=origin, spacing=spacing, direction=direction, name=name)


def _is_sheared(direction: FloatArray) -> bool:
    """Tell whether three unit vectors are neither perpendicular nor in one plane."""
    gram = direction.T @ direction
    is_skew = np.abs(np.triu(gram, 1)).max() > _MAX_SKEW
    return bool(is_skew and np.allclose(np.diag(gram), 1, atol=_MAX_SKEW) and abs(np.linalg.det(direction)) > _MAX_SKEW)


def _unsheared(array: np.ndarray[Any, Any], to_world: FloatArray, spacing: FloatArray, name: str) -> Image:
    """Resample a sheared volume onto the orthogonal grid that is nearest to it and covers it.

    Labels take the nearest voxel, intensities are interpolated; beyond the volume is its smallest finite value.
    """
    from scipy.ndimage import affine_transform

    u, _, vt = np.linalg.svd(to_world[:3, :3] / spacing)
    direction = u @ vt
    size = np.asarray(array.shape[::-1])
    ends = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in size], indexing="ij"), axis=-1).reshape(-1, 3)
    local = (ends @ to_world[:3, :3].T + to_world[:3, 3]) @ direction
    low, high = local.min(axis=0), local.max(axis=0)
    new_size = np.maximum(1, np.ceil((high - low) / spacing - 1e-6).astype(int))
    origin = direction @ (low + spacing / 2)
    to_old = np.linalg.inv(to_world[:3, :3])
    matrix = to_old @ (direction * spacing)
    offset = to_old @ (origin - to_world[:3, 3])
    order = 0 if is_label_image(Image.from_array(array)) else 1
    finite = array[np.isfinite(array)]
    fill = float(finite.min()) if finite.size else np.nan
    resampled = affine_transform(array, matrix[::-1, ::-1], offset[::-1], tuple(new_size[::-1]), order=order, cval=fill)
    remark(log, "%s: sheared affine resampled onto an orthogonal grid", name or "image")
    return Image.from_array(resampled, origin=origin, spacing=spacing, direction=direction, name=name)

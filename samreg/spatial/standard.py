"""Images brought to standard axes and voxel sizes, and masks on other grids."""

from __future__ import annotations

import itertools
import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError
from samreg.spatial.grid import Grid, require_grid
from samreg.spatial.image import Image, require_image
from samreg.spatial.remarks import remark
from samreg.spatial.resample import resample, resample_spacing

log = logging.getLogger(__name__)

AIR = -1024.0  # HU
MIN_RANGE_HU = 100.0  # of a CT; less is constant or normalised
_FAT_HU = -50.0  # fat lies below
_FAT_RANGE_HU = (-150.0, -50.0)
_STORED_FAT = (850.0, 974.0)  # where fat lies in stored values, which await an intercept of -1000 or -1024
_MIN_STORED_SHARE = 0.01  # of all voxels; cortical bone, whose HU these are too, is less
_STORED_SOFT = (990.0, 1124.0)  # where soft tissue lies in such values
_MIN_STORED_SOFT_SHARE = 0.05  # of all voxels; of a skull alone, without its fat, bone of these HU is less
_STORED_RATIO = 3.0  # of the voxels in that range to those in that of fat; below 0.1 in CT of bodies in HU
_SAMPLED_SLICES = 32


def has_hounsfield_units(image: Image) -> bool:
    """Tell whether the intensities of a volume can be Hounsfield units: their range is that of a CT of a body.

    Every such CT shows fat, at -100 HU; MR that was interpolated or denoised can fall a little below zero, and stored
    values of a CT do around its round field of view, where scanners write a number such as -2000.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.spatial import Image
    >>> hu = np.full((4, 4, 4), -1000, np.int16)
    >>> hu[1:3] = 40
    >>> ct, stored = Image.from_array(hu, spacing=2), Image.from_array(hu + 1024, spacing=2)
    >>> has_hounsfield_units(ct), has_hounsfield_units(stored)
    (True, False)
    """
    low, high = float(image.array.min()), float(image.array.max())
    return image.ndim == 3 and low < _FAT_HU and high - low >= MIN_RANGE_HU and not lacks_intercept(image)


def lacks_intercept(image: Image) -> bool:
    """Tell whether a volume holds stored values of a CT: fat and soft tissue lie 1000 or 1024 too high, no fat in HU.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.spatial import Image
    >>> hu = np.full((4, 4, 4), -100, np.int16)
    >>> hu[0], hu[1] = -1000, 40
    >>> lacks_intercept(Image.from_array(hu, spacing=2)), lacks_intercept(Image.from_array(hu + 1024, spacing=2))
    (False, True)
    """
    some = image.array[:: max(1, len(image.array) // _SAMPLED_SLICES)]
    fat, stored, soft = (
        np.count_nonzero((some >= low) & (some <= high)) / some.size
        for low, high in (_FAT_RANGE_HU, _STORED_FAT, _STORED_SOFT)
    )
    return bool(stored > max(_MIN_STORED_SHARE, _STORED_RATIO * fat) and soft > _MIN_STORED_SOFT_SHARE)


def oriented(image: Image) -> Image:
    """Permute and flip the axes so that the direction is as near to the identity (LPS) as can be.

    The array becomes a view; no voxel moves in the world.

    Examples
    --------
    >>> from samreg.spatial import Image
    >>> image = Image.from_array([[1, 2, 3]], spacing=2, direction=[[-1, 0], [0, 1]])
    >>> oriented(image).array.tolist(), oriented(image).origin.tolist()
    ([[3, 2, 1]], [-4.0, 0.0])
    """
    direction = image.direction
    order = max(
        itertools.permutations(range(image.ndim)),
        key=lambda axes: sum(abs(direction[i, axis]) for i, axis in enumerate(axes)),
    )
    flip = [direction[i, axis] < 0 for i, axis in enumerate(order)]
    # index axis k is array axis ndim - 1 - k
    array = image.array.transpose([image.ndim - 1 - axis for axis in reversed(order)])
    array = array[tuple(slice(None, None, -1 if f else 1) for f in reversed(flip))]
    signs = np.where(flip, -1.0, 1.0)
    first = np.zeros(image.ndim)
    for axis, flipped in zip(order, flip, strict=True):
        first[axis] = image.grid.size[axis] - 1 if flipped else 0
    grid = Grid(
        array.shape,
        image.grid.index_to_world(first)[0],
        image.spacing[list(order)],
        direction[:, list(order)] * signs,
    )
    return Image(array, grid, image.name)


def standardised(image: Image, spacing: float, *, fill: float | None = AIR) -> Image:
    """Resample an image to isotropic voxels on axes along x, y, z of the world (LPS).

    Axis-aligned images keep their borders; oblique ones are resampled onto the axis-aligned box around them
    and filled up. Coarser voxels average finer ones.

    Parameters
    ----------
    image
        Any orientation.
    spacing
        New voxel size, mm.
    fill
        Value outside the image, air unless given; None takes its smallest value.

    Returns
    -------
    Image
        float32; an image that fits already keeps its values.

    Examples
    --------
    >>> from samreg.spatial import Image
    >>> standardised(Image.from_array([[[0, 0, 8, 8]]], spacing=1), 2.0).spacing.tolist()
    [2.0, 2.0, 2.0]
    """
    image = oriented(image)
    if np.abs(image.spacing - spacing).max() > 1e-3:
        image = resample_spacing(image, spacing)
    if np.abs(image.direction - np.eye(image.ndim)).max() > 1e-3:
        image = resample(image, _box_grid(image.grid, spacing), fill=fill)
    return Image(np.ascontiguousarray(image.array, dtype=np.float32), image.grid, image.name)


def mask_voxels(values: ArrayLike) -> NDArray[np.bool_]:
    """Return which elements of an array a mask includes: those that are finite and not zero.

    This is samreg's one definition of a mask; NaN, infinity and zero are outside, negative numbers inside.

    Examples
    --------
    >>> import numpy as np
    >>> mask_voxels([0, 1, -1, 0.5, np.nan])
    array([False,  True,  True,  True, False])
    """
    array = np.asarray(values)
    inside: NDArray[np.bool_] = array != 0
    return inside & np.isfinite(array) if array.dtype.kind == "f" else inside


def as_mask(image: Image) -> Image:
    """Return an image as a mask: True where it is finite and not zero, as :func:`mask_voxels` says.

    A warning is logged where that may not be what was meant: values between whole numbers, as in a map of
    probabilities or distances.

    Parameters
    ----------
    image
        Mask or label map, 2D or 3D.

    Examples
    --------
    >>> from samreg.spatial import Image, as_mask
    >>> as_mask(Image.from_array([[0, 2], [0, -1]], spacing=1, name="lungs")).array
    array([[False,  True],
           [False,  True]])
    """
    require_image(image, "mask")
    inside = mask_voxels(image.array)
    if image.array.dtype.kind == "f":
        values = image.array[inside]
        fractional = values != np.rint(values)
        if fractional.any():
            remark(
                log,
                "%s: a mask with values such as %.4g; every voxel that is not zero counts as inside. Threshold a map "
                "of probabilities or distances first",
                image.name or "mask", float(values[np.argmax(fractional)]),
            )  # fmt: skip
    return image.with_array(inside)


def sample_mask(mask: Image, grid: Grid) -> NDArray[np.bool_]:
    """Sample a mask onto another grid: nearest neighbour, False outside the mask's own grid.

    Parameters
    ----------
    mask
        Inside where it is finite and not zero.
    grid
        In the same world as the mask.

    Returns
    -------
    ndarray
        bool, (*grid.shape).

    Raises
    ------
    InputError
        When one is 2D and the other 3D.

    Examples
    --------
    >>> from samreg.spatial import Grid, Image
    >>> sample_mask(Image.from_array([[0, 1]], spacing=2), Grid.make((1, 4), spacing=0.8))
    array([[False, False,  True,  True]])
    """
    require_image(mask, "mask")
    require_grid(grid)
    if mask.ndim != grid.ndim:
        raise InputError(f"{mask.name or 'mask'} is {mask.ndim}D, the image {grid.ndim}D; both must be 2D or both 3D")
    mask = as_mask(mask)
    sampled: NDArray[np.bool_] = resample(mask, grid, interpolation="nearest", fill=0).array
    return sampled


def _box_grid(grid: Grid, spacing: float) -> Grid:
    """Axis-aligned grid over the bounding box of another."""
    corners = grid.corners()
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.maximum(1, np.ceil((high - low) / spacing - 1e-3)).astype(int)
    origin = (low + high) / 2 - spacing * (size - 1) / 2
    return Grid.make(tuple(size[::-1]), origin=origin, spacing=spacing)

"""Where bone is in a CT."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample_spacing

_SPACING_MM = 2.0
_SMOOTHING_VOXELS = 0.5


def bone_voxels(image: Image, *, above: float) -> FloatArray:
    """Return where a CT shows bone, above so many Hounsfield units: voxels of 2 mm, (B, 3) LPS mm."""
    fine = resample_spacing(image, _SPACING_MM)
    smooth = ndimage.gaussian_filter(fine.array, _SMOOTHING_VOXELS, output=np.float32)
    return fine.grid.index_to_world(np.argwhere(smooth > above)[:, ::-1].astype(np.float64))


def part_of(image: Image, low: FloatArray, high: FloatArray) -> Image | None:
    """Return the part of an image that holds a box, corners (d,) in LPS mm; None where it has none of it."""
    corners = np.array([[(low, high)[bit][axis] for axis, bit in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
    index = image.grid.world_to_index(corners)[:, ::-1]
    first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, image.shape)
    last = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 0, image.shape)
    if (last - first < 2).any():
        return None
    array = image.array[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    origin = image.grid.index_to_world(first[None, ::-1].astype(np.float64))[0]
    return Image(array, Grid(array.shape, origin, image.spacing, image.direction))

"""From a stack of slices to an image: pixels decoded, rescaled and put at their places."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.dicom.arrangement import Arrangement, arrange
from samreg.spatial.dicom.pixels import PixelFormat, common_type, stored_frames
from samreg.spatial.dicom.planes import Plane
from samreg.spatial.dicom.stacks import Stack
from samreg.spatial.files import reading
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.placement import image_from_matrix
from samreg.spatial.remarks import remark

log = logging.getLogger(__name__)


def stack_image(stack: Stack, *, name: str, thickness: float | None = None) -> Image:
    """Return the image of a stack: a volume or, of a picture that lies nowhere in space, a 2D image.

    Parameters
    ----------
    stack
        The slices.
    name
        What to call the image.
    thickness
        mm, that of a single slice that does not state its own.

    Raises
    ------
    InputError
        When the slices are no regular volume of known voxel size, or their pixels cannot be read.
    """
    first = stack.planes[0]
    for pixels in {plane.pixels for plane in stack.planes}:
        pixels.require_grey()
        pixels.require_complete()
    _warn_of_values(first, name)
    if not stack.placed:
        spacing = _picture_spacing(first, name)
        return Image.from_array(plane_values(stack.planes, name)[0], spacing=spacing, name=name)
    planes, is_known = stack.planes, True
    if len(planes) == 1 and first.thickness is None:
        is_known = thickness is not None
        if thickness is None:
            remark(log, "%s: a single slice that states no thickness, read as 1 mm thick; give spacing=", name)
        planes = (replace(first, thickness=thickness or 1.0),)
    arrangement = arrange(planes, name=name)
    for text in arrangement.remarks:
        remark(log, "%s: %s", name, text)
    values = _evenly(plane_values(arrangement.planes, name), arrangement)
    image = image_from_matrix(values, arrangement.to_world, name=name)
    return replace(image, spacing_known=is_known)


def _picture_spacing(plane: Plane, name: str) -> FloatArray | None:
    if plane.spacing is None and plane.pixels.frames > 1:
        raise InputError(f"{name}: states no pixel size; give spacing= x, y in mm (--pixel-size)")
    if plane.spacing is None:
        remark(log, "%s: states no pixel size, read at 1 mm; give spacing= (--pixel-size)", name)
    return plane.spacing


def _warn_of_values(plane: Plane, name: str) -> None:
    if plane.is_ct and not plane.rescale.stated:
        remark(log, "%s: a CT that states no rescale; its stored values are taken as HU", name)
    elif plane.is_ct and plane.rescale.units not in ("", "HU"):
        remark(log, "%s: a CT whose values are stated to be %s, not HU", name, plane.rescale.units)
    elif plane.is_dose and not plane.rescale.stated:
        remark(log, "%s: a dose that states no DoseGridScaling; its stored values are in no unit", name)
    elif plane.is_dose:
        units = plane.rescale.units or "an unknown unit"
        remark(
            log, "%s: a dose in %s, which shows no anatomy: register the scan, and bring the dose along", name, units
        )


def plane_values(planes: Sequence[Plane], name: str) -> NDArray[Any]:
    """Return the rescaled pixels, (slices, rows, columns)."""
    shape = (len(planes), planes[0].pixels.rows, planes[0].pixels.columns)
    kind = common_type([(plane.pixels, plane.rescale) for plane in planes])
    with reading(name):
        values = np.empty(shape, kind)
    padded = np.zeros(values.shape, bool) if any(plane.pixels.padding for plane in planes) else None
    numbers_of: dict[PixelFormat, dict[int, int]] = {}  # of the slices of a file, by frame
    for number, plane in enumerate(planes):
        numbers_of.setdefault(plane.pixels, {})[plane.frame] = number
    for file, numbers in numbers_of.items():
        for frame, stored in stored_frames(file, numbers):
            number = numbers[frame]
            if padded is not None and file.padding is not None:
                padded[number] = (stored >= file.padding[0]) & (stored <= file.padding[1])
            values[number] = _rescaled(stored, planes[number])
    if padded is not None and padded.any() and not padded.all():
        _darken(values, padded, name)
    return values


def _rescaled(stored: NDArray[Any], plane: Plane) -> NDArray[Any]:
    values = plane.rescale(stored)
    if not plane.inverted or plane.pixels.floating:
        return values
    return np.asarray(sum(plane.rescale.limits(*plane.pixels.limits)) - values)


def _darken(values: NDArray[Any], padded: NDArray[np.bool_], name: str) -> None:
    """Give pixels that hold no measurement the lowest value where theirs is the highest of all."""
    limits = np.iinfo(values.dtype) if values.dtype.kind in "iu" else np.finfo(values.dtype)
    low = float(values.min(where=~padded, initial=limits.max))
    high = float(values.max(where=~padded, initial=limits.min))
    padding = float(values[padded].max())
    if padding > high:
        values[padded] = low
        remark(log, "%s: padding of value %g, brighter than the image, is set to its lowest, %g", name, padding, low)
    elif padding > low:
        remark(log, "%s: the padding value %g lies within the values of the image; it is left as it is", name, padding)


def _evenly(values: NDArray[Any], arrangement: Arrangement) -> NDArray[Any]:
    """Return slices on an even axis: interpolated linearly where theirs is uneven, empty where a segment has none."""
    slots = arrangement.slots
    if slots is None:
        return values
    wanted = np.arange(int(np.floor(slots[-1] + 1e-3)) + 1)
    even = np.zeros((len(wanted), *values.shape[1:]), values.dtype)
    if arrangement.planes[0].segment:
        even[slots.astype(int)] = values
        return even
    below = np.clip(np.searchsorted(slots, wanted, side="right") - 1, 0, len(slots) - 2)
    shares = np.clip((wanted - slots[below]) / (slots[below + 1] - slots[below]), 0, 1)
    for number, (k, share) in enumerate(zip(below, shares, strict=True)):
        mixed = values[k] * (1 - share) + values[k + 1] * share
        even[number] = np.rint(mixed) if values.dtype.kind in "iu" else mixed
    return even

"""The segments of a DICOM segmentation as the labels of one image."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from samreg.spatial.dicom.planes import Plane
from samreg.spatial.dicom.slice_axis import SAME_PLACE_MM, heights_of
from samreg.spatial.dicom.stacks import Stack
from samreg.spatial.dicom.volume import plane_values, stack_image
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.remarks import remark

log = logging.getLogger(__name__)

_OFF_GRID = 0.1  # voxels
_MAX_NAMED = 20  # segments in a remark


def are_segments(stacks: Sequence[Stack]) -> bool:
    """Tell whether stacks are several segments of a segmentation, each with a number of its own."""
    numbers = [_number(stack) for stack in stacks]
    return len(stacks) > 1 and all(numbers) and len(set(numbers)) == len(numbers)


def label_map(stacks: Sequence[Stack], name: str) -> Image | str:
    """Return segments as labels by their numbers, 0 where there is none; or why they are no label map.

    Parameters
    ----------
    stacks
        The segments, as :func:`are_segments` tells them.
    name
        What to call the image.

    Raises
    ------
    InputError
        When the slices of all segments together are no regular volume, or their pixels cannot be read.
    """
    placed = [plane for stack in stacks for plane in stack.planes]
    if len({(plane.pixels.rows, plane.pixels.columns) for plane in placed}) > 1 or any(not s.placed for s in stacks):
        return "its segments lie on several grids"
    grid = stack_image(Stack(_one_a_place(placed)), name=name).grid
    labels = np.zeros(grid.shape, np.uint16 if max(map(_number, stacks)) > np.iinfo(np.uint8).max else np.uint8)
    for stack in stacks:
        masks = plane_values(stack.planes, name)
        if masks.dtype.kind == "f":
            return "its segments hold fractions"
        for plane, mask in zip(stack.planes, masks, strict=True):
            if (height := _height_in(grid, plane)) is None:
                return "its segments lie on several grids"
            if labels[height][mask > 0].any():
                return "its segments overlap"
            labels[height][mask > 0] = _number(stack)
    names = [stack.planes[0].segment for stack in stacks]
    more = f", ... {len(names)} in all" if len(names) > _MAX_NAMED else ""
    remark(log, "%s: its segments are labels by their numbers: %s%s", name, ", ".join(names[:_MAX_NAMED]), more)
    return Image(labels, grid, name)


def _number(stack: Stack) -> int:
    """Return the number of a stack's segment; 0 where it is of none."""
    number = stack.planes[0].segment.partition(" ")[0]
    return int(number) if number.isdecimal() else 0


def _one_a_place(planes: Sequence[Plane]) -> tuple[Plane, ...]:
    heights = heights_of(planes)
    order = np.argsort(heights, kind="stable")
    first = np.diff(heights[order], prepend=-np.inf) >= SAME_PLACE_MM
    return tuple(planes[k] for k in order[first])


def _height_in(grid: Grid, plane: Plane) -> int | None:
    """Return in which slice of a grid a plane lies; None where its pixels are not those of a slice."""
    assert plane.place is not None
    assert plane.spacing is not None
    last = np.array([plane.pixels.columns - 1, plane.pixels.rows - 1])
    ends = plane.place.position, plane.place.position + (last * plane.spacing) @ plane.place.axes
    index = grid.world_to_index(ends)
    height = round(float(index[0, 2]))
    wanted = np.array([[0, 0, height], [*last, height]])
    is_slice = np.abs(index - wanted)[:, :2].max() < _OFF_GRID and 0 <= height < grid.shape[0]
    return height if is_slice else None

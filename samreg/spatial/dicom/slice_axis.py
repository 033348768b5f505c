"""Where slices lie along their normal: the even axis on which they do, or to which they are resampled.

Their places follow from their positions alone; the distance that a header states (``SpacingBetweenSlices``, often
wrong) never takes their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.dicom.planes import Plane
from samreg.spatial.grid import FloatArray

SAME_PLACE_MM = 1e-3  # slices nearer than this along the normal lie at the same place
SAME_AXES = 1e-3  # difference of direction cosines
_MAX_STEP_DEVIATION = 0.25  # relative, of a slice distance from the mean; more is a missing or doubled slice
MAX_DISPLACEMENT = 0.25  # of a slice from its place in an even stack, in slice distances
_REMARKABLE_DEVIATION = 0.01  # relative deviation of a slice distance that is worth a warning
_MIN_PART_STEPS = 3  # equal distances in a row that make a part of a series, not a missing slice
_SAME_STEP = 0.1  # relative difference of distances within such a part
_MAX_FRACTION = 4  # of the finest slice distance, to which a stack of several distances is brought
_LATTICE_TOLERANCE_MM = 0.1  # of the places of segmented slices, which exporters round
_MIN_LATTICE_MM = 0.4  # distance of slices some of which a segmentation leaves out
_SPARSE_STEPS = 1.5  # thicknesses from slice to slice, beyond which some may be left out
_POSITION_UNITS_MM = (1.0, 0.1)  # to which exporters round positions


def geometry_of(plane: Plane) -> tuple[FloatArray, FloatArray]:
    """Return axes and position of a plane that has a place."""
    assert plane.place is not None
    return plane.place.axes, plane.place.position


def heights_of(planes: Sequence[Plane]) -> FloatArray:
    """Return the places of slices along the normal of the first, mm."""
    axes, _ = geometry_of(planes[0])
    positions = np.array([geometry_of(plane)[1] for plane in planes])
    return np.asarray(positions @ np.cross(axes[0], axes[1]), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class SliceAxis:
    """How slices lie along the normal: start and step of an even axis, mm, and the slices' slots on it if uneven."""

    start: float
    step: float
    remark: str = ""
    slots: FloatArray | None = None


def slice_axis(planes: Sequence[Plane], heights: FloatArray, name: str) -> SliceAxis:
    """Return the even axis of slices, two at least.

    Parameters
    ----------
    planes
        The slices, sorted along their normal, one at a place.
    heights
        Their places along the normal, mm.
    name
        What to call their image in messages.

    Raises
    ------
    InputError
        When slices are missing, uneven or displaced.
    """
    if planes[0].segment:
        return _segment_axis(planes, heights, name)
    steps = np.diff(heights)
    usual = float(np.median(steps))
    worst = int(np.argmax(np.abs(steps - usual)))
    where = (
        f"between {planes[worst].label} and {planes[worst + 1].label} ({heights[worst]:.2f} and "
        f"{heights[worst + 1]:.2f} mm along the stack) lie {steps[worst]:.3f} mm, elsewhere {usual:.3f} mm"
    )
    start, step, displacement = _even_axis(heights, np.arange(len(heights)))
    deviation = float(np.abs(steps - step).max()) / step
    if deviation <= _MAX_STEP_DEVIATION and displacement <= MAX_DISPLACEMENT * step:
        remark = f"uneven slices: {where}; {step:.4g} mm is used, which moves slices by up to {displacement:.2g} mm"
        return SliceAxis(start, step, remark if deviation > _REMARKABLE_DEVIATION else "")
    if _is_rounded(planes, step, displacement):
        remark = f"positions are rounded by up to {displacement:.2g} mm; slices {step:.4g} mm apart are assumed"
        return SliceAxis(start, step, remark)
    resampled = _resampled_axis(heights, where)
    if resampled is None:
        missing = int(sum(round(one / usual) - 1 for one in steps if one > usual))
        count = f"{missing} " if missing else ""
        raise InputError(
            f"{name}: {count}slices missing, or uneven: {where}; fetch the whole series, or resample it to an even "
            "distance with a program that heeds every slice's position (dcm2niix)"
        )
    return resampled


def _segment_axis(planes: Sequence[Plane], heights: FloatArray, name: str) -> SliceAxis:
    """Place the slices of a segment, which leaves out those where it is empty: none is interpolated."""
    first = planes[0]
    axis = _stated_axis(heights, first.stated_step) or _lattice_axis(heights, first.thickness)
    if axis is None:
        listing = ", ".join(f"{height:.2f}" for height in heights[:8]) + (", ..." if len(heights) > 8 else "")
        raise InputError(
            f"{name}: its slices lie at {listing} mm along the stack, no multiples of one distance, so "
            "that it is not known which are left out; export it with all slices"
        )
    if first.stated_step is None and _may_be_sparse(axis, first):
        remark = (
            f"segmented slices {axis.step:.4g} mm apart are {first.thickness:.4g} mm thick, and no slice distance is "
            "stated; none is assumed to lie between them"
        )
        return replace(axis, remark=remark)
    return axis


def _may_be_sparse(axis: SliceAxis, plane: Plane) -> bool:
    """Tell whether slices on an even axis may be thin ones, between which others were left out."""
    return axis.slots is None and axis.step > _SPARSE_STEPS * (plane.thickness or np.inf)


def _stated_axis(heights: FloatArray, stated: float | None) -> SliceAxis | None:
    """Return a segment's slices on an axis of the stated distance; None where they do not fit it."""
    if stated is None:
        return None
    axis, displacement = _axis_by(heights, stated)
    return axis if displacement <= MAX_DISPLACEMENT * stated and abs(axis.step / stated - 1) <= 0.02 else None


def _lattice_axis(heights: FloatArray, thickness: float | None) -> SliceAxis | None:
    """Return a segment's slices on the coarsest axis on which all of them lie; None where that is too fine."""
    finest = float(np.diff(heights).min())
    smallest = max(_MIN_LATTICE_MM, (thickness or 0.0) / 2)
    for fraction in range(1, 1 + max(1, int(finest / smallest))):
        axis, displacement = _axis_by(heights, finest / fraction)
        if displacement <= min(_LATTICE_TOLERANCE_MM, 0.1 * axis.step):
            return axis
    return None


def _axis_by(heights: FloatArray, step: float) -> tuple[SliceAxis, float]:
    """Return slices on the nearest axis of about a step, and how far they are off at most, mm."""
    slots = np.concatenate([[0.0], np.cumsum(np.maximum(1, np.rint(np.diff(heights) / step)))])
    start, step, displacement = _even_axis(heights, slots)
    if slots[-1] == len(slots) - 1:
        return SliceAxis(start, step), displacement
    return SliceAxis(start, step, "slices that the segmentation leaves out are taken as empty", slots), displacement


def with_segment_steps(planes: Sequence[Plane]) -> Sequence[Plane]:
    """State the slice distance of a segmentation that does not: all its segments together tell it."""
    if not planes or any(plane.place is None or not plane.segment or plane.stated_step for plane in planes):
        return planes
    axes = np.array([geometry_of(plane)[0] for plane in planes])
    heights = np.sort(heights_of(planes))
    heights = heights[np.diff(heights, prepend=-np.inf) >= SAME_PLACE_MM]
    if np.ptp(axes, axis=0).max() > SAME_AXES or len(heights) < 2:
        return planes
    axis = _lattice_axis(heights, planes[0].thickness)
    if axis is None or (len(heights) <= _MIN_PART_STEPS and _may_be_sparse(axis, planes[0])):
        return planes
    return [replace(plane, stated_step=axis.step, thickness=axis.step) for plane in planes]


def _resampled_axis(heights: FloatArray, where: str) -> SliceAxis | None:
    """Return the even axis to which uneven slices can be resampled; None where slices seem to be missing."""
    steps, start = np.diff(heights), float(heights[0])
    mean = float(steps.mean())
    parts = _even_parts(steps)
    if parts:
        step = _common_step(heights, min(parts))
        distances = " and ".join(f"{part:.4g}" for part in parts)
        remark = f"the slice distance changes ({distances} mm); slices are interpolated every {step:.4g} mm"
        return SliceAxis(start, step, remark, (heights - start) / step)
    if np.abs(steps - mean).max() <= _MAX_STEP_DEVIATION * mean:
        remark = f"uneven slices: {where}; slices are interpolated every {mean:.4g} mm"
        return SliceAxis(start, mean, remark, (heights - start) / mean)
    return None


def _even_axis(heights: FloatArray, numbers: NDArray[Any]) -> tuple[float, float, float]:
    """Return start and step of the even axis on which numbered heights lie best, and how far they are off, mm."""
    start, step = float(heights[0]), float((heights[-1] - heights[0]) / numbers[-1])
    displacement = float(np.abs(heights - start - step * numbers).max())
    if displacement >= SAME_PLACE_MM:  # not just the last digit
        step, start = (float(value) for value in np.polyfit(numbers, heights, 1))
        displacement = float(np.abs(heights - start - step * numbers).max())
    return start, step, displacement


def _is_rounded(planes: Sequence[Plane], step: float, displacement: float) -> bool:
    """Tell whether places are those of an even stack with the stated slice distance, rounded to a whole unit."""
    distance = planes[0].stated_step
    if distance is None or abs(step / distance - 1) > 0.02:
        return False
    coordinates = np.array([geometry_of(plane)[1] for plane in planes])
    coordinates = coordinates[:, np.ptp(coordinates, axis=0) > SAME_PLACE_MM]
    error = displacement / np.sqrt(max(1, coordinates.shape[1]))  # of one coordinate, where several are rounded
    return any(
        error <= 0.51 * unit and bool(np.abs(coordinates / unit - np.rint(coordinates / unit)).max() < 1e-3)
        for unit in _POSITION_UNITS_MM
    )


def _even_parts(steps: FloatArray) -> list[float]:
    """Return the distances of the even parts that make up a stack; empty where something else does too.

    A part has several equal distances in a row; between two parts there may be one other distance, no larger than
    theirs.
    """
    runs: list[list[float]] = []
    for step in steps.tolist():
        if runs and abs(step / np.mean(runs[-1]) - 1) <= _SAME_STEP:
            runs[-1].append(step)
        else:
            runs.append([step])
    parts = [k for k, run in enumerate(runs) if len(run) >= _MIN_PART_STEPS]
    for k, run in enumerate(runs):
        if k in parts:
            continue
        between = len(run) == 1 and k - 1 in parts and k + 1 in parts
        if not between or run[0] > (1 + _SAME_STEP) * max(np.mean(runs[k - 1]), np.mean(runs[k + 1])):
            return []
    return [float(np.mean(runs[k])) for k in parts] if len(parts) > 1 else []


def _common_step(heights: FloatArray, finest: float) -> float:
    """Return the finest distance, or a fraction of it, not too small, of which every distance is a multiple."""
    for fraction in range(1, _MAX_FRACTION + 1):
        slots = (heights - heights[0]) * fraction / finest
        if np.abs(slots - np.rint(slots)).max() < 0.02:
            return finest / fraction
    return finest

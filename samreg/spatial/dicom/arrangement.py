"""Whether slices that belong together are a regular volume, and where it lies.

One check serves the files of a series and the frames of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samreg.errors import InputError
from samreg.spatial.dicom.planes import OWNERS, Plane
from samreg.spatial.dicom.slice_axis import (
    MAX_DISPLACEMENT,
    SAME_AXES,
    SAME_PLACE_MM,
    geometry_of,
    heights_of,
    slice_axis,
)
from samreg.spatial.grid import FloatArray

_MAX_SIDEWAYS_MM = 0.75  # of a slice from the line through the others; positions rounded to 1 mm stay below
_REMARKABLE_SIDEWAYS_MM = 0.01
_MAX_TILT_DEGREES = 45.0  # gantries tilt by 30 at most


@dataclass(frozen=True, eq=False)
class Arrangement:
    """A stack that was checked.

    Parameters
    ----------
    planes
        The slices, sorted along their normal.
    to_world
        (4, 4), from the indices (x, y, z) of the volume to LPS mm.
    slots
        Of the slices on the volume's z axis, in voxels, where these are not 0, 1, 2, ... because the distances differ;
        else None.
    remarks
        What a user should know.
    """

    planes: tuple[Plane, ...]
    to_world: FloatArray
    slots: FloatArray | None = None
    remarks: tuple[str, ...] = ()


def arrange(planes: Sequence[Plane], *, name: str) -> Arrangement:
    """Return slices of one size, orientation and pixel size as a volume, if they are a regular stack.

    The slices must lie on a straight line, upright or sheared by a constant tilt, at even distances. Places that are
    off by no more than rounding makes them are accepted. A stack of a few even parts (a head scanned finely at its
    base) is brought to one distance. Both are said in ``remarks``.

    Parameters
    ----------
    planes
        The slices, all with a place.
    name
        What to call their image in messages.

    Raises
    ------
    InputError
        When slices are missing, double, uneven or displaced, or their values are of different kinds.
    """
    first = planes[0]
    axes, _ = geometry_of(first)
    if first.spacing is None:
        raise InputError(f"{name}: {first.label} states no pixel size; give spacing= x, y, z in mm (--pixel-size)")
    _check_units(planes, name)
    remarks = [place.remark for place in (plane.place for plane in planes) if place is not None]
    for kind in OWNERS:
        if len({plane.owner(kind) for plane in planes}) > 1:
            remarks.append(f"each slice has a {kind} of its own (anonymised?); they are taken as one")
    heights = heights_of(planes)
    order = np.argsort(heights, kind="stable")
    planes, heights = [planes[k] for k in order], heights[order]
    to_world = np.eye(4)
    to_world[:3, :2] = axes.T * first.spacing
    if len(planes) == 1:
        to_world[:3, 2] = np.cross(axes[0], axes[1]) * (first.thickness or 1.0)
        to_world[:3, 3] = geometry_of(first)[1]
        return Arrangement(tuple(planes), to_world, remarks=_distinct(remarks))
    _check_doubles(planes, heights, name)
    along = slice_axis(planes, heights, name)
    line = _line(planes, heights, name)
    to_world[:3, 2] = line.direction * along.step
    to_world[:3, 3] = line.start + line.direction * (along.start - heights[0])
    return Arrangement(tuple(planes), to_world, along.slots, _distinct([*remarks, along.remark, line.remark]))


def _distinct(remarks: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(remark for remark in remarks if remark))


def _check_units(planes: Sequence[Plane], name: str) -> None:
    units = {plane.rescale.units: plane for plane in planes if plane.rescale.units}
    if len(units) > 1:
        listing = ", ".join(f"{unit} ({plane.label})" for unit, plane in sorted(units.items()))
        raise InputError(f"{name}: the values of the slices are of different kinds: {listing}; give slices of one kind")
    silent = next((plane for plane in planes if not plane.rescale.stated), None)
    if silent is not None and any(not plane.rescale.is_identity for plane in planes):
        raise InputError(
            f"{name}: {silent.label} states no rescale, other slices do, so that its values are unknown; write its "
            "RescaleSlope and RescaleIntercept into its header"
        )


def _check_doubles(planes: Sequence[Plane], heights: FloatArray, name: str) -> None:
    steps = np.diff(heights)
    if steps.min() < SAME_PLACE_MM:
        first = int(np.argmin(steps))
        raise InputError(
            f"{name}: several slices lie at {heights[first]:.2f} mm along the stack, such as {planes[first].label} "
            f"and {planes[first + 1].label} (a time series, or copies?); keep one of each"
        )


@dataclass(frozen=True, eq=False)
class _Line:
    """The line through the slices: where it passes the first, LPS mm, and its direction a mm along the normal."""

    start: FloatArray
    direction: FloatArray
    remark: str = ""


def _line(planes: Sequence[Plane], heights: FloatArray, name: str) -> _Line:
    axes, origin = geometry_of(planes[0])
    sideways = np.array([geometry_of(plane)[1] - origin for plane in planes]) @ axes.T
    rise = heights - heights[0]
    tolerance = min(_MAX_SIDEWAYS_MM, MAX_DISPLACEMENT * float(np.median(np.diff(heights))))
    drift, shift = sideways[-1] / rise[-1], np.zeros(2)
    distance = _distance_from_line(sideways, rise, drift, shift)
    if distance >= SAME_PLACE_MM:  # not just the last digit: the nearest line, upright if that will do
        drift, shift = np.zeros(2), sideways.mean(axis=0)
        if _distance_from_line(sideways, rise, drift, shift) > tolerance:
            drift, shift = np.polyfit(rise, sideways, 1)
        distance = _distance_from_line(sideways, rise, drift, shift)
    if distance > tolerance:
        worst, jump = _largest_jump(sideways, heights)
        raise InputError(
            f"{name}: the slices lie on no straight line: from {planes[worst].label} to {planes[worst + 1].label} they "
            f"jump sideways by {jump:.2f} mm; put one stack in the folder, or export it again"
        )
    tilt = float(np.degrees(np.arctan(np.linalg.norm(drift))))
    if tilt > _MAX_TILT_DEGREES:
        raise InputError(
            f"{name}: the slices drift sideways, {tilt:.0f} degrees off their normal, which no gantry does; export it "
            "again with the true positions"
        )
    remark = f"slices lie off their line by up to {distance:.2g} mm" if distance > _REMARKABLE_SIDEWAYS_MM else ""
    stated_tilt = planes[0].stated_tilt
    if abs(stated_tilt) > 1 and tilt < 0.1 and np.abs(axes[:, 2]).max() < SAME_AXES:
        remark = (
            f"the header states a gantry tilt of {stated_tilt:g} degrees, the positions none; unless the slices were "
            "corrected for it, their volume is sheared"
        )
    return _Line(origin + shift @ axes, np.cross(axes[0], axes[1]) + drift @ axes, remark)


def _distance_from_line(sideways: FloatArray, rise: FloatArray, drift: FloatArray, shift: FloatArray) -> float:
    return float(np.linalg.norm(sideways - rise[:, None] * drift - shift, axis=1).max())


def _largest_jump(sideways: FloatArray, heights: FloatArray) -> tuple[int, float]:
    """Return after which slice the sideways places jump most, beside the usual drift, and by how many mm."""
    rises = np.diff(heights)[:, None]
    drifts = np.diff(sideways, axis=0) / rises
    jumps = np.linalg.norm((drifts - np.median(drifts, axis=0)) * rises, axis=1)
    worst = int(np.argmax(jumps))
    return worst, float(jumps[worst])

"""Which slices form a stack, and whether that is a regular volume.

One check serves the files of a series and the frames of a file. Where slices lie follows from their positions alone;
the distance that a header states (``SpacingBetweenSlices``, often wrong) never takes their place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.dicom.planes import Plane
from samreg.spatial.grid import FloatArray

_SAME_PLACE_MM = 1e-3  # slices nearer than this along the normal lie at the same place
_SAME_AXES = 1e-3  # difference of direction cosines
_SAME_PIXEL_SIZE = 1e-3  # relative difference
_MAX_STEP_DEVIATION = 0.25  # relative, of a slice distance from the mean; more is a missing or doubled slice
_MAX_DISPLACEMENT = 0.25  # of a slice from its place in an even stack, in slice distances
_MAX_SIDEWAYS_MM = 0.75  # of a slice from the line through the others; positions rounded to 1 mm stay below
_REMARKABLE_DEVIATION = 0.01  # relative deviation of a slice distance that is worth a warning
_REMARKABLE_SIDEWAYS_MM = 0.01
_MAX_TILT_DEGREES = 45.0  # gantries tilt by 30 at most
_MIN_PART_STEPS = 3  # equal distances in a row that make a part of a series, not a missing slice
_SAME_STEP = 0.1  # relative difference of distances within such a part
_MAX_FRACTION = 4  # of the finest slice distance, to which a stack of several distances is brought
_LATTICE_TOLERANCE_MM = 0.1  # of the places of segmented slices, which exporters round
_MIN_LATTICE_MM = 0.4  # distance of slices some of which a segmentation leaves out
_SPARSE_STEPS = 1.5  # thicknesses from slice to slice, beyond which some may be left out
_POSITION_UNITS_MM = (1.0, 0.1)  # to which exporters round positions

_Key = Callable[[Plane], tuple[Hashable, str]]  # a value, and how to call the slices that have it


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices that belong together, in the order of their series.

    Parameters
    ----------
    planes
        The slices.
    detail
        What tells them from the other stacks of the series; empty where there are none.
    """

    planes: tuple[Plane, ...]
    detail: str = ""

    @property
    def placed(self) -> bool:
        """Whether they lie in space."""
        return self.planes[0].place is not None


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


# one stack or several


def split_stacks(planes: Sequence[Plane]) -> list[Stack]:
    """Return the stacks that the slices of a series form, in the order in which the series shows them.

    Slices of another size, pixel size, orientation, frame of reference or segment never share a stack. Those of another
    phase, echo or the like do so only where they lie one after the other. Those of another acquisition, time and so on
    are split where they form no regular stack together and do so apart. Slices of which each place has as many, though
    nothing tells them apart, are split by their order.
    """
    planes = _with_segment_steps(planes)
    stacks = [Stack(tuple(sorted(planes, key=lambda plane: plane.order)))]
    orientations, pixel_sizes = _clusters(planes, _orientation, _SAME_AXES), _clusters(planes, _pixel, _SAME_PIXEL_SIZE)
    for key in (_placed, _frame_of_reference(planes), _size, _segment, orientations, pixel_sizes):
        stacks = [part for stack in stacks for part in _split(stack, key)]
    stacks = [part for stack in stacks for part in (_split_traits(stack) if stack.placed else _split_pictures(stack))]
    return sorted(stacks, key=lambda stack: stack.planes[0].order)


def _split(stack: Stack, key: _Key) -> list[Stack]:
    parts: dict[Hashable, list[Plane]] = {}
    names: dict[Hashable, str] = {}
    for plane in stack.planes:
        value, name = key(plane)
        parts.setdefault(value, []).append(plane)
        names.setdefault(value, name)
    if len(parts) == 1:
        return [stack]
    return [Stack(tuple(parts[value]), ", ".join(filter(None, (stack.detail, names[value])))) for value in parts]


def _named(name: str, value: str) -> tuple[Hashable, str]:
    return value, f"{name} {value or 'not stated'}"


def _placed(plane: Plane) -> tuple[Hashable, str]:
    return plane.place is None, "" if plane.place is not None else "without a place in space"


def _frame_of_reference(planes: Sequence[Plane]) -> _Key:
    uids = {plane.frame_of_reference for plane in planes}
    careless = len(uids) == len(planes) > 2  # anonymised so that every slice has a frame of reference of its own
    return lambda plane: ("", "") if careless else _named("frame of reference", plane.frame_of_reference)


def _size(plane: Plane) -> tuple[Hashable, str]:
    size = (plane.pixels.columns, plane.pixels.rows)
    return size, f"{size[0]} x {size[1]} pixels"


def _segment(plane: Plane) -> tuple[Hashable, str]:
    return _named("segment", plane.segment)


def _orientation(plane: Plane) -> tuple[FloatArray, str]:
    if plane.place is None:
        return np.zeros(6), ""
    along_rows, along_columns = plane.place.axes
    return plane.place.axes.ravel(), f"rows along {_vector(along_rows)}, columns along {_vector(along_columns)}"


def _pixel(plane: Plane) -> tuple[FloatArray, str]:
    if plane.spacing is None:
        return np.full(2, -np.finfo(float).max), "no pixel size stated"
    return np.log(plane.spacing), f"pixels of {plane.spacing[0]:g} x {plane.spacing[1]:g} mm"


def _vector(values: FloatArray) -> str:
    return "(" + ", ".join(f"{round(value, 3) + 0.0:g}" for value in values) + ")"


def _clusters(planes: Sequence[Plane], describe: Callable[[Plane], tuple[FloatArray, str]], tolerance: float) -> _Key:
    """Return a key by which planes are equal whose values are those of the first such plane, within a tolerance."""
    firsts: list[tuple[FloatArray, str]] = []
    numbers: dict[int, int] = {}
    for plane in sorted(planes, key=lambda plane: plane.order):
        values, name = describe(plane)
        near = (k for k, (first, _) in enumerate(firsts) if np.abs(first - values).max() <= tolerance)
        number = next(near, len(firsts))
        if number == len(firsts):
            firsts.append((values, name))
        numbers[id(plane)] = number
    return lambda plane: (numbers[id(plane)], firsts[numbers[id(plane)]][1])


def _split_pictures(stack: Stack) -> list[Stack]:
    return _split(stack, lambda plane: (plane.order, plane.label))


def _split_traits(stack: Stack) -> list[Stack]:
    stacks = [stack]
    for trait in _trait_names(plane.distinct_traits for plane in stack.planes):
        stacks = [part for one in stacks for part in _split_interleaved(one, trait)]
    return [part for one in stacks for part in _split_irregular(one)]


def _trait_names(traits: Iterable[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for several in traits for name in several))


def _trait_key(name: str) -> _Key:
    return lambda plane: _named(name, {**plane.possible_traits, **plane.distinct_traits}.get(name, ""))


def _split_interleaved(stack: Stack, trait: str) -> list[Stack]:
    """Split by a trait, unless the parts lie one after the other along the normal."""
    parts = _split(stack, _trait_key(trait))
    ranges = sorted((float(h.min()), float(h.max())) for h in (_heights(part.planes) for part in parts))
    apart = all(high + _SAME_PLACE_MM < low for (_, high), (low, _) in zip(ranges, ranges[1:], strict=False))
    return [stack] if apart else parts


def _split_irregular(stack: Stack) -> list[Stack]:
    """Split what is no regular stack by whatever makes it one, or at least takes doubles apart."""
    if _is_regular(stack):
        return [stack]
    doubles = _doubles(stack.planes)
    for trait in _trait_names({**p.distinct_traits, **p.possible_traits} for p in stack.planes):
        parts = _split(stack, _trait_key(trait))
        if len(parts) == 1:
            continue
        if doubles > 1:
            if len(parts) <= 2 * doubles and max(_doubles(part.planes) for part in parts) < doubles:
                return [part for one in parts for part in _split_irregular(one)]
        elif 2 * len(parts) <= len(stack.planes) and all(_is_regular(part) for part in parts):
            return parts
    return _split_repetitions(stack, doubles)


def _split_repetitions(stack: Stack, doubles: int) -> list[Stack]:
    """Split slices that nothing tells apart by their order, where each place has as many."""
    places = _place_numbers(stack.planes)
    if doubles < 2 or len(places) != doubles * len(set(places)):
        return [stack]
    seen: Counter[int] = Counter()
    repetitions = {}
    for plane, place in zip(stack.planes, places, strict=True):
        seen[place] += 1
        repetitions[id(plane)] = seen[place]
    name = "repetition {} (in the order of the series)"
    return _split(stack, lambda plane: (repetitions[id(plane)], name.format(repetitions[id(plane)])))


def _is_regular(stack: Stack) -> bool:
    try:
        arrange(stack.planes, name="")
    except InputError:
        return False
    return True


def is_even(stack: Stack) -> bool:
    """Tell whether slices form a volume by themselves: placed, one at a place, at distances that are about equal."""
    return stack.placed and _is_regular(stack) and arrange(stack.planes, name="").slots is None


def _doubles(planes: Sequence[Plane]) -> int:
    """Return how many slices lie at one place, at most."""
    return max(Counter(_place_numbers(planes)).values())


def _place_numbers(planes: Sequence[Plane]) -> list[int]:
    """Number the places of slices along the normal."""
    heights = _heights(planes)
    order = np.argsort(heights, kind="stable")
    numbers = np.empty(len(planes), int)
    numbers[order] = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) >= _SAME_PLACE_MM)
    return numbers.tolist()


# one stack: regular or not


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
    axes, _ = _geometry(first)
    if first.spacing is None:
        raise InputError(f"{name}: {first.label} states no pixel size; give spacing= x, y, z in mm (--pixel-size)")
    _check_units(planes, name)
    remarks = [place.remark for place in (plane.place for plane in planes) if place is not None]
    if len({plane.frame_of_reference for plane in planes}) > 1:
        remarks.append("each slice has a frame of reference of its own (anonymised?); they are taken as one")
    heights = _heights(planes)
    order = np.argsort(heights, kind="stable")
    planes, heights = [planes[k] for k in order], heights[order]
    to_world = np.eye(4)
    to_world[:3, :2] = axes.T * first.spacing
    if len(planes) == 1:
        to_world[:3, 2] = np.cross(axes[0], axes[1]) * (first.thickness or 1.0)
        to_world[:3, 3] = _geometry(first)[1]
        return Arrangement(tuple(planes), to_world, remarks=_distinct(remarks))
    _check_doubles(planes, heights, name)
    spread = _spread(planes, heights, name)
    line = _line(planes, heights, name)
    to_world[:3, 2] = line.direction * spread.step
    to_world[:3, 3] = line.start + line.direction * (spread.start - heights[0])
    return Arrangement(tuple(planes), to_world, spread.slots, _distinct([*remarks, spread.remark, line.remark]))


def _distinct(remarks: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(remark for remark in remarks if remark))


def _geometry(plane: Plane) -> tuple[FloatArray, FloatArray]:
    """Return axes and position of a plane that has a place."""
    assert plane.place is not None
    return plane.place.axes, plane.place.position


def _heights(planes: Sequence[Plane]) -> FloatArray:
    """Return the places of slices along the normal of the first, mm."""
    axes, _ = _geometry(planes[0])
    positions = np.array([_geometry(plane)[1] for plane in planes])
    return np.asarray(positions @ np.cross(axes[0], axes[1]), dtype=np.float64)


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
    if steps.min() < _SAME_PLACE_MM:
        first = int(np.argmin(steps))
        raise InputError(
            f"{name}: several slices lie at {heights[first]:.2f} mm along the stack, such as {planes[first].label} "
            f"and {planes[first + 1].label} (a time series, or copies?); keep one of each"
        )


@dataclass(frozen=True, eq=False)
class _Spread:
    """How slices lie along the normal: start and step of an even axis, mm, and the slices' slots on it if uneven."""

    start: float
    step: float
    remark: str = ""
    slots: FloatArray | None = None


def _spread(planes: Sequence[Plane], heights: FloatArray, name: str) -> _Spread:
    if planes[0].segment:
        return _segment_spread(planes, heights, name)
    steps = np.diff(heights)
    usual = float(np.median(steps))
    worst = int(np.argmax(np.abs(steps - usual)))
    where = (
        f"between {planes[worst].label} and {planes[worst + 1].label} ({heights[worst]:.2f} and "
        f"{heights[worst + 1]:.2f} mm along the stack) lie {steps[worst]:.3f} mm, elsewhere {usual:.3f} mm"
    )
    start, step, displacement = _even_axis(heights, np.arange(len(heights)))
    deviation = float(np.abs(steps - step).max()) / step
    if deviation <= _MAX_STEP_DEVIATION and displacement <= _MAX_DISPLACEMENT * step:
        remark = f"uneven slices: {where}; {step:.4g} mm is used, which moves slices by up to {displacement:.2g} mm"
        return _Spread(start, step, remark if deviation > _REMARKABLE_DEVIATION else "")
    if _is_rounded(planes, step, displacement):
        remark = f"positions are rounded by up to {displacement:.2g} mm; slices {step:.4g} mm apart are assumed"
        return _Spread(start, step, remark)
    resampled = _resampled_spread(heights, where)
    if resampled is None:
        missing = int(sum(round(one / usual) - 1 for one in steps if one > usual))
        raise InputError(
            f"{name}: {missing or 'no'} slices missing, or uneven: {where}; fetch the whole series, or resample it to "
            "an even distance with a program that heeds every slice's position (dcm2niix)"
        )
    return resampled


def _segment_spread(planes: Sequence[Plane], heights: FloatArray, name: str) -> _Spread:
    """Place the slices of a segment, which leaves out those where it is empty: none is interpolated."""
    first = planes[0]
    spread = _stated_spread(heights, first.stated_step) or _lattice_spread(heights, first.thickness)
    if spread is None:
        listing = ", ".join(f"{height:.2f}" for height in heights[:8]) + (", ..." if len(heights) > 8 else "")
        raise InputError(
            f"{name}: its slices lie at {listing} mm along the stack, no multiples of one distance, so "
            "that it is not known which are left out; export it with all slices"
        )
    if first.stated_step is None and _may_be_sparse(spread, first):
        remark = (
            f"segmented slices {spread.step:.4g} mm apart are {first.thickness:.4g} mm thick, and no slice distance is "
            "stated; none is assumed to lie between them"
        )
        return replace(spread, remark=remark)
    return spread


def _may_be_sparse(spread: _Spread, plane: Plane) -> bool:
    """Tell whether slices on an even axis may be thin ones, between which others were left out."""
    return spread.slots is None and spread.step > _SPARSE_STEPS * (plane.thickness or np.inf)


def _stated_spread(heights: FloatArray, stated: float | None) -> _Spread | None:
    """Return a segment's slices on an axis of the stated distance; None where they do not fit it."""
    if stated is None:
        return None
    spread, displacement = _spread_by(heights, stated)
    return spread if displacement <= _MAX_DISPLACEMENT * stated and abs(spread.step / stated - 1) <= 0.02 else None


def _lattice_spread(heights: FloatArray, thickness: float | None) -> _Spread | None:
    """Return a segment's slices on the coarsest axis on which all of them lie; None where that is too fine."""
    finest = float(np.diff(heights).min())
    smallest = max(_MIN_LATTICE_MM, (thickness or 0.0) / 2)
    for fraction in range(1, 1 + max(1, int(finest / smallest))):
        spread, displacement = _spread_by(heights, finest / fraction)
        if displacement <= min(_LATTICE_TOLERANCE_MM, 0.1 * spread.step):
            return spread
    return None


def _spread_by(heights: FloatArray, step: float) -> tuple[_Spread, float]:
    """Return slices on the nearest axis of about a step, and how far they are off at most, mm."""
    slots = np.concatenate([[0.0], np.cumsum(np.maximum(1, np.rint(np.diff(heights) / step)))])
    start, step, displacement = _even_axis(heights, slots)
    if slots[-1] == len(slots) - 1:
        return _Spread(start, step), displacement
    return _Spread(start, step, "slices that the segmentation leaves out are taken as empty", slots), displacement


def _with_segment_steps(planes: Sequence[Plane]) -> Sequence[Plane]:
    """State the slice distance of a segmentation that does not: all its segments together tell it."""
    if not planes or any(plane.place is None or not plane.segment or plane.stated_step for plane in planes):
        return planes
    axes = np.array([_geometry(plane)[0] for plane in planes])
    heights = np.sort(_heights(planes))
    heights = heights[np.diff(heights, prepend=-np.inf) >= _SAME_PLACE_MM]
    if np.ptp(axes, axis=0).max() > _SAME_AXES or len(heights) < 2:
        return planes
    spread = _lattice_spread(heights, planes[0].thickness)
    if spread is None or (len(heights) <= _MIN_PART_STEPS and _may_be_sparse(spread, planes[0])):
        return planes
    return [replace(plane, stated_step=spread.step, thickness=spread.step) for plane in planes]


def _resampled_spread(heights: FloatArray, where: str) -> _Spread | None:
    """Return the even axis to which uneven slices can be resampled; None where slices seem to be missing."""
    steps, start = np.diff(heights), float(heights[0])
    mean = float(steps.mean())
    parts = _even_parts(steps)
    if parts:
        step = _common_step(heights, min(parts))
        distances = " and ".join(f"{part:.4g}" for part in parts)
        remark = f"the slice distance changes ({distances} mm); slices are interpolated every {step:.4g} mm"
        return _Spread(start, step, remark, (heights - start) / step)
    if np.abs(steps - mean).max() <= _MAX_STEP_DEVIATION * mean:
        remark = f"uneven slices: {where}; slices are interpolated every {mean:.4g} mm"
        return _Spread(start, mean, remark, (heights - start) / mean)
    return None


def _even_axis(heights: FloatArray, numbers: NDArray[Any]) -> tuple[float, float, float]:
    """Return start and step of the even axis on which numbered heights lie best, and how far they are off, mm."""
    start, step = float(heights[0]), float((heights[-1] - heights[0]) / numbers[-1])
    displacement = float(np.abs(heights - start - step * numbers).max())
    if displacement >= _SAME_PLACE_MM:  # not just the last digit
        step, start = (float(value) for value in np.polyfit(numbers, heights, 1))
        displacement = float(np.abs(heights - start - step * numbers).max())
    return start, step, displacement


def _is_rounded(planes: Sequence[Plane], step: float, displacement: float) -> bool:
    """Tell whether places are those of an even stack with the stated slice distance, rounded to a whole unit."""
    distance = planes[0].stated_step
    if distance is None or abs(step / distance - 1) > 0.02:
        return False
    coordinates = np.array([_geometry(plane)[1] for plane in planes])
    coordinates = coordinates[:, np.ptp(coordinates, axis=0) > _SAME_PLACE_MM]
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


@dataclass(frozen=True, eq=False)
class _Line:
    """The line through the slices: where it passes the first, LPS mm, and its direction a mm along the normal."""

    start: FloatArray
    direction: FloatArray
    remark: str = ""


def _line(planes: Sequence[Plane], heights: FloatArray, name: str) -> _Line:
    axes, origin = _geometry(planes[0])
    sideways = np.array([_geometry(plane)[1] - origin for plane in planes]) @ axes.T
    rise = heights - heights[0]
    tolerance = min(_MAX_SIDEWAYS_MM, _MAX_DISPLACEMENT * float(np.median(np.diff(heights))))
    drift, shift = sideways[-1] / rise[-1], np.zeros(2)
    distance = _distance_from_line(sideways, rise, drift, shift)
    if distance >= _SAME_PLACE_MM:  # not just the last digit: the nearest line, upright if that will do
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
    if abs(stated_tilt) > 1 and tilt < 0.1 and np.abs(axes[:, 2]).max() < _SAME_AXES:
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

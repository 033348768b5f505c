"""Which slices of a series form a stack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from samreg.errors import InputError
from samreg.spatial.dicom.arrangement import arrange
from samreg.spatial.dicom.planes import OWNERS, Plane
from samreg.spatial.dicom.slice_axis import SAME_AXES, SAME_PLACE_MM, heights_of, with_segment_steps
from samreg.spatial.grid import FloatArray

_SAME_PIXEL_SIZE = 1e-3  # relative difference

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


def split_stacks(planes: Sequence[Plane]) -> list[Stack]:
    """Return the stacks that the slices of a series form, in the order in which the series shows them.

    Slices of another size, pixel size, orientation, segment, frame of reference, patient or study never share a stack;
    of the last three each slice may have its own, as some programs that anonymise write them. Those of another phase,
    echo or the like do so only where they lie one after the other. Those of another acquisition, time and so on
    are split where they form no regular stack together and do so apart. Slices of which each place has as many, though
    nothing tells them apart, are split by their order, if they have one.
    """
    planes = with_segment_steps(planes)
    stacks = [Stack(tuple(sorted(planes, key=lambda plane: plane.order)))]
    orientations, pixel_sizes = _clusters(planes, _orientation, SAME_AXES), _clusters(planes, _pixel, _SAME_PIXEL_SIZE)
    owners = [_owner_key(planes, name) for name in OWNERS]
    for key in (_placed, *owners, _size, _segment, orientations, pixel_sizes):
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


def _owner_key(planes: Sequence[Plane], name: str) -> _Key:
    values = {plane.owner(name) for plane in planes}
    careless = len(values) == len(planes) > 2  # anonymised so that every slice has one of its own
    return lambda plane: ("", "") if careless else _named(name, plane.owner(name))


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
    ranges = sorted((float(h.min()), float(h.max())) for h in (heights_of(part.planes) for part in parts))
    apart = all(high + SAME_PLACE_MM < low for (_, high), (low, _) in zip(ranges, ranges[1:], strict=False))
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
    """Split slices that nothing tells apart by their order, where each place has as many.

    Not where file names that follow no order, as programs make them up, would mix the repetitions.
    """
    places = _place_numbers(stack.planes)
    if doubles < 2 or len(places) != doubles * len(set(places)):
        return [stack]
    seen: Counter[int] = Counter()
    repetitions = {}
    for plane, place in zip(stack.planes, places, strict=True):
        seen[place] += 1
        repetitions[id(plane)] = seen[place]
    if not _are_ordered(stack.planes, places, [repetitions[id(plane)] for plane in stack.planes]):
        return [stack]
    name = "repetition {} (in the order of the series)"
    return _split(stack, lambda plane: (repetitions[id(plane)], name.format(repetitions[id(plane)])))


def _are_ordered(planes: Sequence[Plane], places: Sequence[int], repetitions: Sequence[int]) -> bool:
    """Tell whether slices go through one repetition after another, or place by place.

    Where their numbers say so it is taken for granted; where slices of one place share a number, their file names must.
    """
    numbers = Counter((place, plane.order[0], plane.order[2]) for plane, place in zip(planes, places, strict=True))
    if max(numbers.values()) == 1:
        return True
    by_name = sorted(range(len(planes)), key=lambda k: planes[k].order[1:])
    in_turns, in_place = (
        sum(a != b for a, b in zip(values, values[1:], strict=False)) == len(set(values)) - 1
        for values in ([which[k] for k in by_name] for which in (repetitions, places))
    )
    return in_turns or in_place


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
    heights = heights_of(planes)
    order = np.argsort(heights, kind="stable")
    numbers = np.empty(len(planes), int)
    numbers[order] = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) >= SAME_PLACE_MM)
    return numbers.tolist()

"""Reading DICOM: single images, series of slices, and files of many frames.

Headers become planes (``dicom_planes``), planes are sorted into stacks and checked (``dicom_stacks``), and the stack
that the user means is filled with its rescaled pixels (``dicom_pixels``): one way for a series of files and for the
frames of a file. What cannot be placed right is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError
from samreg.spatial.adapters import place
from samreg.spatial.dicom_pixels import PixelFormat, common_type, stored_frames
from samreg.spatial.dicom_planes import Plane, may_be_dicom, read_header, read_planes
from samreg.spatial.dicom_stacks import Arrangement, Stack, arrange, split_stacks
from samreg.spatial.files import reading
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image

log = logging.getLogger(__name__)

_MAX_LISTED = 30  # stacks that a message lists


def is_dicom(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do."""
    with reading(path), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path, *, series: str | int | None = None, spacing: ArrayLike | None = None) -> Image:
    """Read a DICOM file, or one series of a folder.

    Parameters
    ----------
    path
        A file, of one or many frames, or a folder that holds files.
    series
        Which series of a folder, or stack (phase, echo, segment, ...) of a series or file to take: its number in the
        list that the error message shows, its UID, or a part of its description that no other has.
    spacing
        Voxel size in mm, one number or x, y(, z), for files that do not say it. Sizes that a file says are not
        replaced here.

    Returns
    -------
    Image
        3D in LPS mm, slices sorted along their normal; 2D where a single frame lies nowhere in space.

    Raises
    ------
    InputError
        When a file is damaged or no scalar image, there are several series or stacks to choose from, or the slices
        are no regular volume of known voxel size.
    """
    given = None if spacing is None else _checked_spacing(spacing)
    wanted = "" if series is None else str(series).strip()
    if path.is_dir():
        found = _find_series(path)
        chosen, wanted, number = _choose_series(found, wanted, path)
        several = len(found) > 1
    else:
        header = read_header(path, keywords=("SeriesInstanceUID", "SeriesDescription"))
        chosen, number, several = _series(header, [path]), "", False
        wanted = _within(chosen, wanted)
    planes = [plane for file in chosen.files for plane in _read_planes(file, given, wanted)]
    stack = _choose_stack(split_stacks(planes), wanted, number, path)
    said = ", ".join(filter(None, ((chosen.description or chosen.uid) if several else "", stack.detail)))
    return _read_stack(stack, f"{path} ({said})" if said else str(path), given)


def _checked_spacing(spacing: ArrayLike) -> FloatArray:
    given = np.atleast_1d(np.asarray(spacing, dtype=np.float64))
    if given.shape not in ((1,), (2,), (3,)) or not (np.isfinite(given) & (given > 0)).all():
        raise InputError(f"spacing must be positive mm, one number or x, y(, z), got {spacing!r}")
    return given


def _read_planes(file: Path, given: FloatArray | None, wanted: str) -> list[Plane]:
    if given is None:
        return read_planes(file)
    # one number is the pixel size of a picture that is chosen, else that of every axis of a volume
    distance = float(given[-1]) if given.size == 3 or (given.size == 1 and not wanted) else None
    return read_planes(file, spacing=np.full(2, given[0]) if given.size == 1 else given[:2], distance=distance)


# series of a folder


@dataclass(frozen=True)
class _Series:
    uid: str
    description: str
    files: tuple[Path, ...]


def _series(header: Any, files: Sequence[Path]) -> _Series:
    return _Series(
        str(header.get("SeriesInstanceUID") or ""), str(header.get("SeriesDescription") or "").strip(), tuple(files)
    )


def _find_series(folder: Path) -> list[_Series]:
    """Return the series of the images in a folder, sorted by UID."""
    with reading(folder):
        paths = sorted(path for path in folder.iterdir() if path.is_file())
    found: dict[str, _Series] = {}
    for path in paths:
        if path.stat().st_size == 0 or not may_be_dicom(path):
            if path.suffix.lower() == ".dcm":
                log.warning("%s: is no DICOM file and is left out", path)
            continue
        header = read_header(path, keywords=("SeriesInstanceUID", "SeriesDescription", "Rows"))
        if header.get("Rows"):  # others hold no image: reports, contours, directories
            one = _series(header, [path])
            earlier = found.get(one.uid, replace(one, files=()))
            found[one.uid] = replace(earlier, files=(*earlier.files, path))
    if not found:
        inside = sorted(p.name for p in folder.iterdir())[:5]
        raise InputError(
            f"no DICOM images in the folder {folder} (it holds {inside or 'nothing'}); give the folder that holds "
            "the slices themselves"
        )
    return [found[uid] for uid in sorted(found)]


def _choose_series(found: list[_Series], wanted: str, folder: Path) -> tuple[_Series, str, str]:
    """Return the series, what remains to choose within it, and its number where there are several."""
    if len(found) == 1:
        return found[0], _within(found[0], wanted), ""
    number, _, rest = wanted.partition(".")
    exact = [(s, "") for s in found if s.uid == wanted]
    if not exact and number.isdigit() and (rest.isdigit() or not rest) and 1 <= int(number) <= len(found):
        exact = [(found[int(number) - 1], rest)]
    matches = exact or [(s, "") for s in found if wanted and wanted.lower() in s.description.lower()]
    if len(matches) == 1:
        chosen, rest = matches[0]
        return chosen, rest, str(found.index(chosen) + 1)
    listing = [f"{i}: {s.uid}  '{s.description}', {len(s.files)} slices" for i, s in enumerate(found, start=1)]
    problem = f"{len(matches) or 'no'} series match {wanted!r}" if wanted else f"{len(found)} DICOM series"
    raise _choice(f"{problem} in {folder}", "its number, its UID or a part of its description", listing)


def _within(series: _Series, wanted: str) -> str:
    """Return what remains to choose when ``wanted`` may name the only series there is."""
    names_series = wanted == series.uid or (wanted and wanted.lower() in series.description.lower())
    return "" if names_series else wanted


def _choose_stack(stacks: list[Stack], wanted: str, number: str, path: Path) -> Stack:
    """Return the stack that is meant; ``number`` is that of its series, where there are several."""
    numbers = [f"{number}.{k}" if number else f"{k}" for k in range(1, len(stacks) + 1)]
    if len(stacks) == 1 and wanted in ("", "1"):
        return stacks[0]
    matches = [s for k, s in enumerate(stacks, start=1) if wanted == str(k)]
    matches = matches or [s for s in stacks if wanted and wanted.lower() in s.detail.lower()]
    if len(matches) == 1:
        return matches[0]
    problem = f"{len(matches) or 'no'} stacks match {wanted!r} of " if wanted else ""
    if all(s.planes[0].position is None for s in stacks):
        problem += f"{len(stacks)} pictures without a place in space in {path}"
        if len({s.planes[0].pixels.path for s in stacks}) == 1:
            reason = stacks[0].planes[0].remark
            volume = "give spacing= x, y, z in mm if they are slices of one volume (--pixel-size), or "
            raise InputError(
                f"{problem}{f' ({reason})' if reason else ''}; {'' if reason else volume}take one as a 2D image with "
                f"series= (--series), its number from {numbers[0]} to {numbers[-1]}"
            )
    else:
        problem += f"{len(stacks)} stacks of slices in {path}"
    listing = [
        ", ".join(filter(None, (f"{number}: {stack.detail}".strip(": "), _count(stack))))
        for number, stack in zip(numbers, stacks, strict=True)
    ]
    raise _choice(problem, "its number or a part of its description", listing)


def _count(stack: Stack) -> str:
    return "" if stack.planes[0].position is None else f"{len(stack.planes)} slices"


def _choice(problem: str, remedy: str, listing: list[str]) -> InputError:
    shown = listing if len(listing) <= _MAX_LISTED else [*listing[:_MAX_LISTED], f"... {len(listing)} in all"]
    lines = "\n".join(f"  {line}" for line in shown)
    return InputError(f"{problem}; choose one with series= (--series on the command line): {remedy}\n{lines}")


# pixels


def _read_stack(stack: Stack, name: str, given: FloatArray | None) -> Image:
    planes = list(stack.planes)
    planes[0].pixels.require_grey()
    _remark_values(planes[0], name)
    if planes[0].position is None:
        return Image.from_array(_values(planes, name)[0], spacing=_size_of_picture(planes[0], name), name=name)
    if len(planes) == 1:
        planes = [_with_thickness(planes[0], name, given)]
    arrangement = arrange(planes, name=name)
    for remark in arrangement.remarks:
        log.warning("%s: %s", name, remark)
    return place(_between(_values(arrangement.planes, name), arrangement), arrangement.to_world, name=name)


def _size_of_picture(plane: Plane, name: str) -> FloatArray:
    if plane.spacing is not None:
        return plane.spacing
    if plane.pixels.frames > 1:
        raise InputError(f"{name}: says no pixel size; give spacing= x, y in mm (--pixel-size)")
    log.warning("%s: says no pixel size; 1 mm is assumed", name)
    return np.ones(2)


def _with_thickness(plane: Plane, name: str, given: FloatArray | None) -> Plane:
    if plane.thickness is not None:
        return plane
    if given is not None and given.size != 2:
        return replace(plane, thickness=float(given[-1]))
    log.warning("%s: a single slice that says no thickness; 1 mm is assumed", name)
    return replace(plane, thickness=1.0)


def _remark_values(plane: Plane, name: str) -> None:
    if plane.is_ct and not plane.rescale.stated:
        log.warning("%s: a CT that says no rescale; its stored values are taken as HU", name)
    elif plane.is_ct and plane.rescale.units not in ("", "HU"):
        log.warning("%s: a CT whose values are said to be %s, not HU", name, plane.rescale.units)


def _values(planes: Sequence[Plane], name: str) -> NDArray[Any]:
    """Return the rescaled pixels, (slices, rows, columns)."""
    pixels = planes[0].pixels
    kind = common_type([(plane.pixels, plane.rescale) for plane in planes])
    values = np.empty((len(planes), pixels.rows, pixels.columns), kind)
    padded = np.zeros(values.shape, bool) if any(plane.pixels.padding for plane in planes) else None
    files: dict[PixelFormat, dict[int, int]] = {}
    for number, plane in enumerate(planes):
        files.setdefault(plane.pixels, {})[plane.frame] = number
    for file, numbers in files.items():
        for frame, stored in stored_frames(file, numbers):
            number = numbers[frame]
            plane = planes[number]
            if padded is not None and file.padding is not None:
                padded[number] = (stored >= file.padding[0]) & (stored <= file.padding[1])
            rescaled = plane.rescale(stored)
            if plane.inverted and not file.floating:
                rescaled = sum(plane.rescale.limits(*file.limits)) - rescaled
            values[number] = rescaled
    if padded is not None and padded.any() and not padded.all():
        _darken(values, padded, name)
    return values


def _darken(values: NDArray[Any], padded: NDArray[np.bool_], name: str) -> None:
    """Give pixels that hold no measurement the lowest value where theirs is the brightest of all."""
    limits = np.iinfo(values.dtype) if values.dtype.kind in "iu" else np.finfo(values.dtype)
    low = float(values.min(where=~padded, initial=limits.max))
    high = float(values.max(where=~padded, initial=limits.min))
    padding = float(values[padded].max())
    if padding > high:
        values[padded] = low
        log.warning("%s: padding of value %g, brighter than the image, is set to its lowest, %g", name, padding, low)
    elif padding > low:
        log.warning("%s: the padding value %g lies within the values of the image; it is left as it is", name, padding)


def _between(values: NDArray[Any], arrangement: Arrangement) -> NDArray[Any]:
    """Return slices on an even axis: interpolated linearly where theirs is uneven, empty where one is left out."""
    places = arrangement.places
    if places is None:
        return values
    wanted = np.arange(int(np.floor(places[-1] + 1e-3)) + 1)
    below = np.clip(np.searchsorted(places, wanted, side="right") - 1, 0, len(places) - 2)
    shares = np.clip((wanted - places[below]) / (places[below + 1] - places[below]), 0, 1)
    even = np.zeros((len(wanted), *values.shape[1:]), values.dtype)
    if arrangement.sparse:
        even[places.astype(int)] = values
        return even
    for number, (k, share) in enumerate(zip(below, shares, strict=True)):
        mixed = values[k] * (1 - share) + values[k + 1] * share
        even[number] = np.rint(mixed) if values.dtype.kind in "iu" else mixed
    return even

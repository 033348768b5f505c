"""The series of a folder and their stacks, and the one of them that the user means."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydicom.uid import UID

from samreg.errors import InputError
from samreg.spatial.dicom.header import may_be_dicom, read_elements
from samreg.spatial.dicom.label_map import are_segments, label_map
from samreg.spatial.dicom.planes import Plane, read_planes
from samreg.spatial.dicom.stacks import Stack, is_even, split_stacks
from samreg.spatial.dicom.volume import stack_image
from samreg.spatial.files import reading
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.remarks import remark

log = logging.getLogger(__name__)

_MAX_LISTED = 30  # lines of a list in a message
_PREAMBLE_BYTES = 128
_MIN_SCATTERED = 5  # series of one slice each that are looked at as one volume


@dataclass(frozen=True)
class _Series:
    uids: tuple[str, ...]  # one, or one for each slice
    description: str
    files: tuple[Path, ...]
    kin: Hashable = ()  # what the slices of one volume share

    def is_named(self, wanted: str) -> bool:
        """Tell whether a text is the UID or a part of the description."""
        return wanted in self.uids or (wanted != "" and wanted.lower() in self.description.lower())

    @property
    def name(self) -> str:
        """What it is called in a list."""
        return self.uids[0] if len(self.uids) == 1 else f"{len(self.uids)} series UIDs"


@dataclass(frozen=True)
class _Found:
    """The stacks of a file or of one series, and what the user wants of them.

    Parameters
    ----------
    path
        The file or folder.
    stacks
        At least one.
    wanted
        The number of a stack, or a part of its detail; empty where nothing is wanted.
    number
        Of the series in its folder, or empty.
    series
        What to call the series, or empty where the path holds no other.
    """

    path: Path
    stacks: list[Stack]
    wanted: str
    number: str
    series: str

    def name(self, detail: str = "") -> str:
        """Return what to call an image of them in messages."""
        description = ", ".join(filter(None, (self.series, detail)))
        return f"{self.path} ({description})" if description else str(self.path)


def read_chosen(path: Path, series: str | int | None, spacing: ArrayLike | None) -> Image:
    """Read a file or a folder; parameters and errors as ``samreg.spatial.io_dicom.read_dicom``."""
    found, hint = _find(path, series, spacing), ""
    if not found.wanted and are_segments(found.stacks):
        labels = label_map(found.stacks, found.name())
        if isinstance(labels, Image):
            return labels
        hint = f"{labels}, so that they are no label map together"
    stack = _choose_stack(found, hint)
    thickness = _distance(None if spacing is None else _checked_spacing(spacing))
    return stack_image(stack, name=found.name(stack.detail), thickness=thickness)


def chosen_stack(path: Path, series: str | int | None, spacing: ArrayLike | None = None) -> tuple[Stack, str]:
    """Return the slices that are meant, and what to call their image in messages; parameters as of ``read_chosen``."""
    found = _find(path, series, spacing)
    stack = _choose_stack(found)
    return stack, found.name(stack.detail)


def segment_labels(path: Path, series: str | int | None = None) -> dict[int, str]:
    """Return what the segments of a DICOM segmentation are called, by their values in the image that is read of it.

    One segment alone, or one that is chosen, is read as a mask of ones. Segments without a label are left out.
    """
    if series is None:
        items = read_elements(path, ["SegmentSequence"])["SegmentSequence"] or ()
        values = [1] if len(items) == 1 else [int(item.SegmentNumber) for item in items]
        labels = [str(item.get("SegmentLabel", "")) for item in items]
    else:
        stack, _ = chosen_stack(path, series)
        values, labels = [1], [stack.planes[0].segment.partition(" ")[2]]
    cleaned = {value: " ".join(label.split()) for value, label in zip(values, labels, strict=True)}
    return {value: label for value, label in cleaned.items() if label}


def _find(path: Path, series: str | int | None, spacing: ArrayLike | None) -> _Found:
    given = None if spacing is None else _checked_spacing(spacing)
    wanted = "" if series is None else str(series).strip()
    folder_series = _find_series(path) if path.is_dir() else [_series(read_elements(path, _SERIES_KEYWORDS), [path])]
    is_named = len(folder_series) == 1 and folder_series[0].is_named(wanted)
    if len(folder_series) == 1:
        (chosen,), number = folder_series, ""
    else:
        chosen, number, wanted = _choose_series(folder_series, wanted, path)
    if len(chosen.uids) > 1:
        remark(
            log,
            "%s: each of %d slices has a series of its own (anonymised?); they are taken as one",
            path,
            len(chosen.uids),
        )
    of_picture = "" if is_named and not wanted.isdigit() else wanted
    planes = [plane for file in chosen.files for plane in _read_file(file, given, of_picture)]
    stacks = split_stacks(planes)
    if is_named and not _matching(stacks, wanted):  # it names the series alone: "2 mm" of which no stack is the second
        wanted = ""
    return _Found(path, stacks, wanted, number, (chosen.description or chosen.name) if number else "")


_KIN_KEYWORDS = ("StudyInstanceUID", "FrameOfReferenceUID", "Modality")
_KIND_KEYWORDS = ("SOPClassUID", "MediaStorageSOPClassUID")
_SERIES_KEYWORDS = ("SeriesInstanceUID", "SeriesDescription", "Rows", *_KIN_KEYWORDS)


def _checked_spacing(spacing: ArrayLike) -> FloatArray:
    given = np.atleast_1d(np.asarray(spacing, dtype=np.float64))
    if given.shape not in ((1,), (2,), (3,)) or not (np.isfinite(given) & (given > 0)).all():
        raise InputError(f"spacing must be positive mm, one number or x, y(, z), got {spacing!r}")
    return given


def _distance(given: FloatArray | None) -> float | None:
    """Return the distance of slices that a spacing gives, mm: none, if it is that of a picture."""
    return None if given is None or given.size == 2 else float(given[-1])


def _read_file(file: Path, given: FloatArray | None, wanted: str) -> list[Plane]:
    if given is None:
        return read_planes(file)
    # one number is the pixel size of a picture that is chosen, else the voxel size along every axis
    distance = None if given.size == 1 and wanted else _distance(given)
    return read_planes(file, spacing=np.broadcast_to(given[:2], 2), distance=distance)


def _series(elements: Mapping[str, Any], files: Sequence[Path]) -> _Series:
    uid, description = (str(elements[keyword] or "").strip() for keyword in _SERIES_KEYWORDS[:2])
    return _Series((uid,), description, tuple(files), (description, *(elements[key] for key in _KIN_KEYWORDS)))


def _find_series(folder: Path) -> list[_Series]:
    """Return the series of the images in a folder, sorted by UID; slices of one volume with a UID each are one."""
    with reading(folder):
        contents = sorted(folder.iterdir())
    by_uid: dict[str, list[_Series]] = {}
    for path in (path for path in contents if path.is_file()):
        if path.stat().st_size == 0 or not may_be_dicom(path):
            if path.suffix.lower() == ".dcm" or _is_cut_preamble(path):
                remark(log, "%s: is no DICOM file and is left out; is it complete?", path)
            continue
        elements = read_elements(path, (*_SERIES_KEYWORDS, *_KIND_KEYWORDS))
        if elements["Rows"]:  # others hold no image: reports, contours, directories
            one = _series(elements, [path])
            by_uid.setdefault(one.uids[0], []).append(one)
        elif _should_hold_image(elements):
            remark(
                log, "%s: states no size of its image and is left out; is it complete? Copy or export it again", path
            )
    if not by_uid:
        names = [path.name for path in contents[:5]]
        raise InputError(
            f"no DICOM images in the folder {folder} (it holds {names or 'nothing'}); give the folder that holds the "
            "slices themselves"
        )
    single = [parts[0] for _, parts in sorted(by_uid.items()) if len(parts) == 1]
    several = [
        _Series(parts[0].uids, parts[0].description, tuple(file for one in parts for file in one.files))
        for parts in by_uid.values()
        if len(parts) > 1
    ]
    return sorted([*several, *_gathered(single)], key=lambda series: series.uids)


def _is_cut_preamble(path: Path) -> bool:
    """Tell whether a file may be DICOM that ends within the zeros before its first element, as on a full disk."""
    return not path.name.startswith(".") and path.stat().st_size <= _PREAMBLE_BYTES and not any(path.read_bytes())


def _should_hold_image(elements: Mapping[str, Any]) -> bool:
    """Tell whether a file is of a kind that holds an image, or is cut before it says of which kind it is."""
    kind = next((elements[keyword] for keyword in _KIND_KEYWORDS if elements[keyword]), None)
    return kind is None or "Image" in UID(str(kind)).name


def _gathered(single: Sequence[_Series]) -> list[_Series]:
    """Join series of one slice each that form a volume, as where a program gave every slice a UID of its own.

    They are of one study, frame of reference, kind, description, size, pixel size and orientation, and lie at even
    distances, one at a place: two phases do not.
    """
    groups: dict[Hashable, list[_Series]] = {}
    for one in single:
        groups.setdefault(one.kin, []).append(one)
    gathered = []
    for group in groups.values():
        files = tuple(one.files[0] for one in group)
        is_volume = len(group) >= _MIN_SCATTERED and _is_volume(files)
        gathered += [_Series(tuple(one.uids[0] for one in group), group[0].description, files)] if is_volume else group
    return gathered


def _is_volume(files: Sequence[Path]) -> bool:
    """Tell whether files are slices of one volume, a slice a file, at even distances and without doubles."""
    try:
        planes = [plane for file in files for plane in read_planes(file)]
    except InputError:  # of a damaged file, which is named where it is chosen
        return False
    stacks = split_stacks(planes)
    return len(planes) == len(files) and len(stacks) == 1 and is_even(stacks[0])


def _choose_series(several: list[_Series], wanted: str, folder: Path) -> tuple[_Series, str, str]:
    """Return a series of several, its number, and what is wanted within it: "2.1" is the first stack of the second."""
    number, _, rest = wanted.partition(".")
    matches = [(series, "") for series in several if wanted in series.uids]
    if not matches and number.isdigit() and (rest.isdigit() or not rest) and 1 <= int(number) <= len(several):
        matches = [(several[int(number) - 1], rest)]
    matches = matches or [(series, "") for series in several if series.is_named(wanted)]
    if len(matches) == 1:
        chosen, rest = matches[0]
        return chosen, str(several.index(chosen) + 1), rest
    problem = f"{len(matches) or 'no'} series match {wanted!r}" if wanted else f"{len(several)} DICOM series"
    listing = [
        f"{number}: {series.name}  '{series.description}', {len(series.files)} slices"
        for number, series in enumerate(several, start=1)
    ]
    single = sum(len(series.files) == 1 for series in several)
    hint = (
        f"{single} series are a file each: where these are slices of one volume, a program that anonymised or exported "
        "them gave each slice UIDs of its own; write one SeriesInstanceUID, StudyInstanceUID and FrameOfReferenceUID "
        "into all slices of a volume (see docs/howto/dicom.md)"
    )
    how = "its number, its UID or a part of its description"
    raise _choice(f"{problem} in {folder}", how, listing, hint=hint if single >= _MIN_SCATTERED else "")


def _choose_stack(found: _Found, hint: str = "") -> Stack:
    """Return the stack that is meant by its number within the series, or by a part of its detail."""
    stacks, wanted, series_number, path = found.stacks, found.wanted, found.number, found.path
    if len(stacks) == 1 and (wanted in ("", "1") or wanted.lower() in stacks[0].planes[0].segment.lower()):
        return stacks[0]
    matches = _matching(stacks, wanted)
    if len(matches) == 1:
        return matches[0]
    numbers = [f"{series_number}.{k}" if series_number else str(k) for k in range(1, len(stacks) + 1)]
    mismatch = f"{len(matches) or 'no'} stacks match {wanted!r} of " if wanted else ""
    firsts = [stack.planes[0] for stack in stacks]
    if not any(stack.placed for stack in stacks) and len({plane.pixels.path for plane in firsts}) == 1:
        raise InputError(f"{mismatch}{_pictures_message(firsts, numbers, path)}")
    kind = "stacks of slices" if any(stack.placed for stack in stacks) else "pictures without a place in space"
    listing = [
        f"{number}: " + ", ".join(filter(None, (stack.detail, f"{len(stack.planes)} slices" if stack.placed else "")))
        for number, stack in zip(numbers, stacks, strict=True)
    ]
    how = "its number or a part of its description"
    raise _choice(f"{mismatch}{len(stacks)} {kind} in {path}", how, listing, hint=hint)


def _matching(stacks: Sequence[Stack], wanted: str) -> list[Stack]:
    """Return the stack of a number, or else those whose detail holds a text."""
    numbered = [stack for number, stack in enumerate(stacks, start=1) if wanted == str(number)]
    return numbered or [stack for stack in stacks if wanted and wanted.lower() in stack.detail.lower()]


def _pictures_message(planes: Sequence[Plane], numbers: Sequence[str], path: Path) -> str:
    """Return what to do with the frames of a file that lie nowhere in space: a film, or slices without geometry."""
    problem = f"{len(planes)} pictures without a place in space in {path}"
    picture = f"take one as a 2D image with series= (--series), its number from {numbers[0]} to {numbers[-1]}"
    if planes[0].is_moment:
        return f"{problem} (they follow each other in time or angle); {picture}"
    return f"{problem}; give spacing= x, y, z in mm if they are slices of one volume (--pixel-size), or {picture}"


def _choice(problem: str, how: str, listing: list[str], *, hint: str = "") -> InputError:
    shown = listing if len(listing) <= _MAX_LISTED else [*listing[:_MAX_LISTED], f"... {len(listing)} in all"]
    lines = "\n".join([*(f"  {line}" for line in shown), *filter(None, [hint])])
    return InputError(f"{problem}; choose one with series= (--series on the command line): {how}\n{lines}")

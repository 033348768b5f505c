"""The image series that a DICOM object refers to: whose it is, in which space it lies, and which slices it has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from samreg.errors import InputError
from samreg.spatial.dicom.header import may_be_dicom
from samreg.spatial.dicom.planes import Plane
from samreg.spatial.dicom.series import chosen_stack
from samreg.spatial.files import reading, require_file
from samreg.spatial.grid import FloatArray, Grid

MANUFACTURER = "samreg"
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")
_OPTIONAL = ("IssuerOfPatientID", "StudyDescription", "PositionReferenceIndicator")
UTF8 = "ISO_IR 192"  # of what is written: the series' own character set may lack letters of regions' names
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_MAX_DS_LENGTH = 16  # characters of a decimal string


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice of a series: a file, or a frame of a file.

    Parameters
    ----------
    path
        The file.
    frame
        Its number in the file, from 0.
    header
        Of the file, without its pixels.
    grid
        Its pixels as a volume of one slice.
    """

    path: Path
    frame: int
    header: Dataset
    grid: Grid

    def reference(self) -> Dataset:
        """Return an item that refers to the slice (PS3.3 table 10-3)."""
        item = Dataset()
        item.ReferencedSOPClassUID = self.header.SOPClassUID
        item.ReferencedSOPInstanceUID = self.header.SOPInstanceUID
        if int(self.header.get("NumberOfFrames") or 1) > 1:
            item.ReferencedFrameNumber = self.frame + 1
        return item


@dataclass(frozen=True, eq=False)
class ImageSeries:
    """A series of slices that lie in space.

    Parameters
    ----------
    label
        What to call it in messages.
    slices
        Sorted along their normal.
    frame_of_reference
        UID of its space.
    """

    label: str
    slices: tuple[Slice, ...]
    frame_of_reference: str

    @property
    def header(self) -> Dataset:
        """The header of one of its files."""
        return self.slices[0].header

    @cached_property
    def normal(self) -> FloatArray:
        """(3,) unit vector from each slice to the next, LPS."""
        return np.asarray(self.slices[0].grid.direction[:, 2])

    @cached_property
    def grid(self) -> Grid:
        """A grid that spans the slices, at their mean distance."""
        first, last = self.slices[0].grid, self.slices[-1].grid
        count = len(self.slices)
        step = float((last.origin - first.origin) @ self.normal) / (count - 1) if count > 1 else first.spacing[2]
        return Grid((count, *first.shape[1:]), first.origin, np.array([*first.spacing[:2], step]), first.direction)

    def require_other(self, series: frozenset[str], what: str) -> None:
        """Raise :class:`InputError` where something that is to be brought here belongs here already.

        Parameters
        ----------
        series
            UIDs of the series to which it belongs.
        what
            What to call it in the message.
        """
        if str(self.header.SeriesInstanceUID) in series:
            raise InputError(
                f"{what} belongs to {self.label} itself; bring it to the other image (--to), or give its own"
            )

    def files(self) -> Iterator[Slice]:
        """Yield one slice of each file."""
        seen: set[Path] = set()
        for one in self.slices:
            if one.path not in seen:
                seen.add(one.path)
                yield one

    def references(self) -> DicomSequence:
        """Return the items that refer to its files as a whole."""
        items = [one.reference() for one in self.files()]
        for item in items:
            item.pop("ReferencedFrameNumber", None)
        return DicomSequence(items)


def image_series(path: str | os.PathLike[str], series: str | int | None = None, *, what: str) -> ImageSeries:
    """Read what the headers of a DICOM series say, without its pixels.

    Parameters
    ----------
    path
        A folder that holds the series, or a file.
    series
        Which series or stack, as :func:`samreg.read_image` takes it.
    what
        What to call it in messages, such as "the fixed image".

    Raises
    ------
    InputError
        When it is no DICOM, several series are there to choose from, or its slices lie nowhere in space.
    """
    path = require_file(path, what)
    if path.is_file() and not may_be_dicom(path):
        raise InputError(
            f"{what}, {path}, is no DICOM, and a DICOM object names the patient, study and slices it belongs to; give "
            "the folder of its DICOM series"
        )
    stack, label = chosen_stack(path, series)
    if not stack.placed or stack.planes[0].spacing is None:
        raise InputError(f"{what}, {label}, lies nowhere in space; DICOM objects are written for volumes alone")
    headers = {file: _header(file) for file in dict.fromkeys(plane.pixels.path for plane in stack.planes)}
    uids = {str(header.SeriesInstanceUID) for header in headers.values()}
    if len(uids) > 1:
        raise InputError(
            f"{what}, {label}, has {len(uids)} series UIDs, and a DICOM object refers to a series; write one "
            "SeriesInstanceUID into all its slices"
        )
    slices = sorted(
        (Slice(plane.pixels.path, plane.frame, headers[plane.pixels.path], _grid(plane)) for plane in stack.planes),
        key=lambda one: float(one.grid.origin @ one.grid.direction[:, 2]),
    )
    frame_of_reference = stack.planes[0].frame_of_reference
    if not frame_of_reference:
        raise InputError(
            f"{what}, {label}, states no FrameOfReferenceUID, to which a DICOM object refers; export it again"
        )
    return ImageSeries(label, tuple(slices), frame_of_reference)


def _header(path: Path) -> Dataset:
    with reading(path):
        header = dcmread(path, stop_before_pixels=True, force=True)
    missing = [keyword for keyword in _NEEDED if not header.get(keyword)]
    if missing:
        raise InputError(f"{path}: states no {missing[0]}, by which a DICOM object refers to it; export it again")
    return header


def _grid(plane: Plane) -> Grid:
    assert plane.place is not None
    assert plane.spacing is not None
    row, column = plane.place.axes
    normal = np.cross(row, column)
    spacing = np.array([*plane.spacing, plane.thickness or 1.0])
    return Grid((1, plane.pixels.rows, plane.pixels.columns), plane.place.position, spacing, np.c_[row, column, normal])


def derived_object(sop_class: str, modality: str, series: ImageSeries, description: str) -> Dataset:
    """Return the start of an object of the patient and study of a series, in a new series of its own."""
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SpecificCharacterSet = UTF8
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    for keyword in (*_PATIENT, *_STUDY):
        setattr(item, keyword, series.header.get(keyword, ""))
    for keyword in _OPTIONAL:
        if keyword in series.header:
            setattr(item, keyword, series.header.get(keyword))
    item.Modality = modality
    item.SeriesInstanceUID = generate_uid(prefix=None)
    item.SeriesNumber = None
    item.SeriesDescription = description
    item.FrameOfReferenceUID = series.frame_of_reference
    item.PositionReferenceIndicator = series.header.get("PositionReferenceIndicator", "")
    item.Manufacturer = item.ManufacturerModelName = MANUFACTURER
    item.SoftwareVersions = software_version()
    item.DeviceSerialNumber = "0"  # a program has none, and the element must not be empty
    item.InstanceNumber = 1
    now = datetime.now()
    item.InstanceCreationDate, item.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    return item


def software_version() -> str:
    """Return the version of samreg, as a DICOM object states it."""
    try:
        return version("samreg")
    except PackageNotFoundError:
        return "unknown"


def add_common_references(item: Dataset, referenced: Sequence[ImageSeries]) -> None:
    """State to which series and studies the referenced images belong (PS3.3 C.12.2)."""
    by_study: dict[str, dict[str, Dataset]] = {}
    for series in referenced:
        study, uid = str(series.header.StudyInstanceUID), str(series.header.SeriesInstanceUID)
        entry = by_study.setdefault(study, {}).setdefault(uid, Dataset())
        entry.SeriesInstanceUID = uid
        instances = {str(i.ReferencedSOPInstanceUID): i for i in entry.get("ReferencedInstanceSequence", [])}
        instances.update({str(i.ReferencedSOPInstanceUID): i for i in series.references()})
        entry.ReferencedInstanceSequence = DicomSequence(instances.values())
    others = []
    for study, entries in by_study.items():
        if study == str(item.StudyInstanceUID):
            item.ReferencedSeriesSequence = DicomSequence(entries.values())
            continue
        other = Dataset()
        other.StudyInstanceUID = study
        other.ReferencedSeriesSequence = DicomSequence(entries.values())
        others.append(other)
    if others:
        item.StudiesContainingOtherReferencedInstancesSequence = DicomSequence(others)


def decimal(value: float) -> str:
    """Return a number as a DICOM decimal string, as exact as its 16 characters allow."""
    value = 0.0 if value == 0 else float(value)
    for digits in range(_MAX_DS_LENGTH, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= _MAX_DS_LENGTH:
            return text
    raise InputError(f"{value!r} is no number that DICOM can state")

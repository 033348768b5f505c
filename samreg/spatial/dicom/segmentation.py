"""Labels as DICOM segmentations on the slices of a series, written by highdicom."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage, generate_uid

from samreg.errors import InputError, MissingExtraError
from samreg.spatial.dicom.header import read_elements
from samreg.spatial.dicom.planes import read_planes
from samreg.spatial.dicom.source import MANUFACTURER, UTF8, ImageSeries, software_version
from samreg.spatial.dicom.stacks import split_stacks
from samreg.spatial.dicom.volume import stack_image
from samreg.spatial.files import reading
from samreg.spatial.image import Image
from samreg.spatial.labels import whole_numbers
from samreg.spatial.standard import as_mask
from samreg.spatial.transforms import Transform

_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
_ALGORITHM_FAMILY = Code("123110", "DCM", "Artificial Intelligence")
_TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
           "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator")  # fmt: skip
_MAX_LABEL = 64  # characters


@dataclass(frozen=True, eq=False)
class Segment:
    """A segment of a segmentation.

    Parameters
    ----------
    label
        What it is.
    mask
        Where it is.
    description
        Its item in the segmentation.
    """

    label: str
    mask: Image
    description: Dataset


def is_segmentation(path: Path) -> bool:
    """Tell whether a file is a DICOM segmentation."""
    return bool(read_elements(path, ["SOPClassUID"])["SOPClassUID"] == SegmentationStorage)


def segmented_series(path: Path) -> frozenset[str]:
    """Return the UIDs of the image series that a DICOM segmentation is of, where it says so."""
    items = read_elements(path, ["ReferencedSeriesSequence"])["ReferencedSeriesSequence"] or ()
    return frozenset(str(item.get("SeriesInstanceUID", "")) for item in items)


def read_segments(path: Path) -> list[Segment]:
    """Return all segments of a DICOM segmentation.

    Raises
    ------
    InputError
        When the file is damaged or holds none.
    """
    with reading(path):
        described = {int(one.SegmentNumber): one for one in dcmread(path, stop_before_pixels=True).SegmentSequence}
    segments = []
    for stack in split_stacks(read_planes(path)):
        description = described[int(stack.planes[0].segment.split()[0])]
        label = str(description.get("SegmentLabel") or f"segment {description.SegmentNumber}")
        segments.append(Segment(label, stack_image(stack, name=f"{path} ({label})"), description))
    return segments


def segments_dataset(segments: Sequence[Segment], target: ImageSeries, transform: Transform | None) -> Dataset:
    """Return a segmentation of the slices of a series by segments, which may overlap.

    Parameters
    ----------
    segments
        At least one.
    target
        The series.
    transform
        From points of the target to points of the segments, LPS mm; none where they share a space.
    """
    masks = [_on_slices(as_mask(segment.mask), target, transform) for segment in segments]
    descriptions = [_description(n, s.label, s.description) for n, s in enumerate(segments, start=1)]
    return _dataset(np.stack(masks, axis=-1), descriptions, target, segments[0].mask.label)


def labels_dataset(
    labels: Image, target: ImageSeries, transform: Transform | None, names: Mapping[int, str] | None = None
) -> Dataset:
    """Return a segmentation of the slices of a series by a label image, a segment for each value but 0.

    Parameters
    ----------
    labels
        Whole numbers, or a mask.
    target, transform
        As of :func:`segments_dataset`.
    names
        What the values stand for.
    """
    names = names or {}
    labels = labels.with_array(whole_numbers(labels))
    values = [int(value) for value in np.unique(labels.array) if value]
    if not values or len(values) >= 2**16 or values[0] < 0:
        raise InputError(
            f"{labels.label}: {len(values)} labels besides 0; a segmentation needs 1 to 65535, none negative"
        )
    on_slices = _on_slices(labels, target, transform)
    numbered = np.searchsorted(values, on_slices) + 1
    segment_map = np.where(on_slices == 0, 0, numbered).astype(np.uint16 if len(values) > 255 else np.uint8)
    descriptions = [
        _description(number, names.get(value, f"label {value}"), None) for number, value in enumerate(values, start=1)
    ]
    return _dataset(segment_map, descriptions, target, labels.label)


def _on_slices(image: Image, target: ImageSeries, transform: Transform | None) -> NDArray[Any]:
    """Return the nearest voxels' values at the pixels of each slice, (slices, rows, columns), 0 outside the image."""
    first = target.slices[0].grid
    values = np.zeros((len(target.slices), *first.shape[1:]), image.array.dtype)
    for k, one in enumerate(target.slices):
        points = one.grid.world_points().reshape(-1, 3)
        index = np.rint(image.grid.world_to_index(points if transform is None else transform.transform_points(points)))
        inside = ((index >= 0) & (index < image.grid.size)).all(axis=1)
        x, y, z = index[inside].astype(int).T
        values[k].reshape(-1)[inside] = image.array[z, y, x]
    return values


def _dataset(pixels: NDArray[Any], descriptions: Sequence[Any], target: ImageSeries, name: str) -> Dataset:
    if not pixels.any():
        raise InputError(f"nothing of {name} comes to lie on {target.label}; does it belong to the other image?")
    from highdicom.seg import Segmentation

    headers = [_filled(one.header) for one in target.files()]
    if len(headers) == 1 and int(headers[0].get("NumberOfFrames") or 1) > 1:
        frames = np.zeros((int(headers[0].NumberOfFrames), *pixels.shape[1:]), pixels.dtype)
        frames[[one.frame for one in target.slices]] = pixels
        pixels = frames
    elif len(headers) != len(target.slices):
        raise InputError(
            f"{target.label} is {len(headers)} files of several slices each; give one file, or one a slice"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of patients that have one part alone
        return Segmentation(
            source_images=headers,
            pixel_array=pixels,
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(prefix=None),
            series_number=1,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=software_version(),
            device_serial_number="0",
            series_description="samreg segmentation",
        )


def _filled(header: Dataset) -> Dataset:
    """Return a header in UTF-8 with the elements that may be empty but must be there."""
    filled = Dataset(header)
    filled.file_meta = header.file_meta
    filled.decode()
    filled.SpecificCharacterSet = UTF8
    for keyword in _TYPE_2:
        if keyword not in filled:
            setattr(filled, keyword, "")
    return filled


def _description(number: int, label: str, source: Dataset | None) -> Any:
    highdicom = require_highdicom()
    category, kind = (
        _concept(source, keyword)
        for keyword in ("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence")
    )
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label[:_MAX_LABEL],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="registration with samreg", family=_ALGORITHM_FAMILY, version=software_version()
        ),
    )


def _concept(source: Dataset | None, keyword: str) -> Code:
    """Return the code of an item of a segmentation, or that of any anatomical structure."""
    items = source.get(keyword) if source is not None else None
    if not items or not items[0].get("CodeValue"):
        return _STRUCTURE
    item = items[0]
    return Code(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))


def require_highdicom() -> Any:
    """Return highdicom; raise :class:`MissingExtraError` where it is not installed."""
    try:
        import highdicom
        import highdicom.seg
    except ImportError as error:
        raise MissingExtraError('DICOM segmentations need highdicom: pip install "samreg[dicom]"') from error
    return highdicom

"""Planes: what a slice is, be it a file of a series or a frame of a file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import ParametricMapStorage, SegmentationStorage

from samreg.errors import InputError
from samreg.spatial.dicom.header import Header
from samreg.spatial.dicom.pixels import PixelFormat, Rescale
from samreg.spatial.dicom.places import NUCLEAR_VECTORS, Place, are_moments, frame_places
from samreg.spatial.files import reading
from samreg.spatial.grid import FloatArray

# what tells the slices of one stack from those of another, in the order in which it is tried
_DISTINCT_TRAITS = {
    "stack": ("StackID",),
    "temporal position": ("TemporalPositionIndex", "TemporalPositionIdentifier"),
    "cardiac phase (%)": ("NominalPercentageOfCardiacPhase",),
    "respiratory phase (%)": ("NominalPercentageOfRespiratoryPhase",),
    "echo time (ms)": ("EffectiveEchoTime", "EchoTime"),
    "b-value (s/mm²)": ("DiffusionBValue",),
    "component": ("ComplexImageComponent",),
}
_POSSIBLE_TRAITS = {  # may also differ within a stack
    "patient": ("PatientID",),
    "study": ("StudyInstanceUID",),
    "acquisition": ("AcquisitionNumber", "FrameAcquisitionNumber"),
    "image type": ("FrameType", "ImageType"),
    "kernel": ("ConvolutionKernel",),
    "cardiac delay (ms)": ("NominalCardiacTriggerDelayTime", "TriggerTime"),
    "time offset (s)": ("TemporalPositionTimeOffset",),
    "protocol": ("ProtocolName",),
    "contrast agent": ("ContrastBolusAgent",),
    "acquisition time": ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"),
    "tube voltage (kV)": ("KVP",),
    "series number": ("SeriesNumber",),
    "description": ("SeriesDescription",),
    "comment": ("ImageComments",),
    "content time": ("ContentTime",),
}
_PLACE_DIMENSIONS = ("ImagePositionPatient", "InStackPositionNumber", "SliceLocation")
_SEGMENTATIONS = (SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")  # and label maps
_NUMBER_DIGITS = 20  # to which numbers in file names are padded
_QUANTITATIVE = ("CT", "PT", "RTDOSE")  # their values mean the same however they are to be shown

OWNERS = ("frame of reference", "patient", "study")  # which the slices of a volume share


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice: a file of one frame, or a frame of a file of many.

    Parameters
    ----------
    pixels
        How its file stores pixels.
    frame
        Its number in the file, from 0.
    label
        What to call it in messages.
    order
        Where it stands in the order of its series: instance number, file name (numbers in it by their value), frame.
    place
        Where it lies; None for a picture that lies nowhere in space.
    spacing
        (2,) mm between neighbouring columns (x) and rows (y); None where the file does not state it.
    thickness
        mm, the extent of a single slice along its normal, or None.
    stated_step
        mm between neighbouring slices as the file states it, often wrongly, or None.
    stated_tilt
        Tilt of the gantry as the file states it, degrees.
    rescale
        From stored values to those they stand for.
    inverted
        Whether low values are to be shown bright, so that they are to be turned round.
    is_ct
        Whether it is a CT, whose values should be HU.
    is_dose
        Whether it is of a dose grid of radiotherapy.
    is_moment
        Whether it is a moment of a film, or a view from an angle.
    segment
        Which segment of a segmentation it shows; empty for other images.
    frame_of_reference
        UID of the space in which it lies.
    distinct_traits, possible_traits
        By name, what tells its stack from others: for certain, or perhaps.
    """

    pixels: PixelFormat
    frame: int
    label: str
    order: tuple[int, str, int]
    place: Place | None
    spacing: FloatArray | None
    thickness: float | None
    stated_step: float | None
    stated_tilt: float
    rescale: Rescale
    inverted: bool
    is_ct: bool
    is_dose: bool
    is_moment: bool
    segment: str
    frame_of_reference: str
    distinct_traits: Mapping[str, str] = field(default_factory=dict)
    possible_traits: Mapping[str, str] = field(default_factory=dict)

    def owner(self, kind: str) -> str:
        """Return which frame of reference, patient or study (``OWNERS``) it is of; empty where that is not stated."""
        return self.frame_of_reference if kind == OWNERS[0] else self.possible_traits.get(kind, "")


def read_planes(path: Path, *, spacing: FloatArray | None = None, distance: float | None = None) -> list[Plane]:
    """Return the frames of a DICOM file.

    Parameters
    ----------
    path
        The file.
    spacing
        (2,) mm between neighbouring columns (x) and rows (y), for a file that does not state it.
    distance
        mm between neighbouring slices, for frames that have no places of their own in a file that does not state it.

    Raises
    ------
    InputError
        When the file is damaged or holds no image, or states of a frame what cannot be.
    """
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of values that break a rule of writing and do no harm
        header = Header(path)
        pixels = header.pixels
        if any("MOSAIC" in str(part).upper() for part in header.top("ImageType") or ()):
            raise InputError(f"{path}: a mosaic of slices in one picture; convert it, for example with dcm2niix")
        places = frame_places(header, distance=distance)
        return [_plane(header, pixels, frame, place, spacing) for frame, place in enumerate(places)]


def _plane(header: Header, pixels: PixelFormat, frame: int, place: Place | None, spacing: FloatArray | None) -> Plane:
    step = _length(header, "SpacingBetweenSlices", frame)
    tilt = header.numbers("GantryDetectorTilt", header.top("GantryDetectorTilt"), 1)
    modality = str(header.top("Modality") or "")
    distinct, possible = _traits(header, _DISTINCT_TRAITS, frame), _traits(header, _POSSIBLE_TRAITS, frame)
    if modality in _QUANTITATIVE and "acquisition" in possible:  # MR may acquire the slices of one stack in turns
        distinct["acquisition"] = possible.pop("acquisition")
    return Plane(
        pixels=pixels,
        frame=frame,
        label=header.label(frame),
        order=(_whole_number(header.top("InstanceNumber")), _by_numbers(header.path.name), frame),
        place=place,
        spacing=_pixel_spacing(header, frame, place is None, spacing),
        thickness=step or _length(header, "SliceThickness", frame),
        stated_step=step,
        stated_tilt=0.0 if tilt is None else float(tilt[0]),
        rescale=_rescale(header, frame),
        inverted=pixels.photometric == "MONOCHROME1" and modality not in _QUANTITATIVE,
        is_ct=modality == "CT",
        is_dose=modality == "RTDOSE",
        is_moment=pixels.frames > 1 and are_moments(header),
        segment=_segment(header, frame),
        frame_of_reference=str(header.top("FrameOfReferenceUID") or ""),
        distinct_traits={**distinct, **_vectors(header, frame)},
        possible_traits={**possible, **_dimensions(header, frame)},
    )


def _length(header: Header, keyword: str, frame: int) -> float | None:
    """Return a length, mm; None where it is 0 or not stated."""
    value = header.numbers(keyword, header.value(keyword, frame), 1, frame)
    return None if value is None else abs(float(value[0])) or None


def _pixel_spacing(header: Header, frame: int, projection: bool, given: FloatArray | None) -> FloatArray | None:
    """Return the pixel size, x and y, mm: that of a projection at the detector or film, unless it was calibrated."""
    at_detector = ("ImagerPixelSpacing", "NominalScannedPixelSpacing") if projection else ()
    for keyword in ("PixelSpacing", *at_detector):
        spacing = header.numbers(keyword, header.value(keyword, frame), 2, frame)
        if spacing is not None and spacing.min() > 0:
            return spacing[::-1]  # DICOM states the distance of rows (y) first
        if spacing is not None and given is None:
            raise InputError(
                f"{header.path}: {keyword} of {header.label(frame)} is {spacing.tolist()} mm; write the true pixel "
                "size into its header"
            )
    return given


def _rescale(header: Header, frame: int) -> Rescale:
    """Return the rescale of a frame; in dose grids, parametric maps and segmentations it goes by other names."""
    if header.top("SegmentationType") == "FRACTIONAL":  # PS3.3 C.8.20.2.3
        return Rescale(1 / int(header.top("MaximumFractionalValue") or 255), stated=True)
    if header.top("ModalityLUTSequence"):
        count, start, _ = (int(value) for value in header.dataset.ModalityLUTSequence[0].LUTDescriptor)
        table = apply_modality_lut(np.arange(start, start + (count or 2**16)), header.dataset)
        return Rescale(table=np.asarray(table, dtype=np.int64), table_start=start, stated=True)
    units = str(header.value("RescaleType", frame) or header.top("Units") or "")  # PET has Units
    slope, intercept = header.value("RescaleSlope", frame), header.value("RescaleIntercept", frame)
    if slope is None and intercept is None:
        if header.top("SOPClassUID") == ParametricMapStorage:
            slope = header.grouped("RealWorldValueSlope", frame)
            intercept = header.grouped("RealWorldValueIntercept", frame)
        else:
            slope, units = header.top("DoseGridScaling"), units or str(header.top("DoseUnits") or "")
    if slope is None and intercept is None:
        return Rescale(units=units)
    factors = header.numbers("RescaleSlope", 1.0 if slope is None else slope, 1, frame)
    terms = header.numbers("RescaleIntercept", 0.0 if intercept is None else intercept, 1, frame)
    assert factors is not None
    assert terms is not None
    if factors[0] == 0:
        raise InputError(
            f"{header.path}: the rescale slope of {header.label(frame)} is 0, so that all its values are equal; write "
            "the true slope into its header"
        )
    return Rescale(float(factors[0]), float(terms[0]), units, stated=True)


# what tells stacks apart


def _traits(header: Header, keywords: Mapping[str, Sequence[str]], frame: int) -> dict[str, str]:
    values = {name: [header.value(keyword, frame) for keyword in keywords[name]] for name in keywords}
    first = {name: next((one for one in several if one is not None), None) for name, several in values.items()}
    return {name: _text(value) for name, value in first.items() if value is not None}


def _segment(header: Header, frame: int) -> str:
    number = header.value("ReferencedSegmentNumber", frame)
    if number is None:
        return "of every label" if header.top("SOPClassUID") in _SEGMENTATIONS else ""
    return f"{number} {header.segments.get(number, '')}".strip()


def _vectors(header: Header, frame: int) -> dict[str, str]:
    vectors = {name: header.top(keyword) for name, keyword in NUCLEAR_VECTORS.items()}
    return {
        name: _text(vector[frame])
        for name, vector in vectors.items()
        if isinstance(vector, (list, MultiValue)) and len(vector) == header.frames
    }


def _dimensions(header: Header, frame: int) -> dict[str, str]:
    """Return the indices of a frame in the dimensions of its file that are not its place, and that file's name."""
    if header.frames == 1:
        return {}
    value = header.grouped("DimensionIndexValues", frame)
    indices = value if isinstance(value, (list, MultiValue)) else [] if value is None else [value]
    pointers = [item.get("DimensionIndexPointer") for item in header.top("DimensionIndexSequence") or ()]
    keywords = [keyword_for_tag(pointer) if pointer else "" for pointer in pointers]
    keywords += [""] * (len(indices) - len(keywords))
    names = [f"dimension {k}" + (f" ({keyword})" if keyword else "") for k, keyword in enumerate(keywords, start=1)]
    dimensions = {
        name: str(index)
        for name, keyword, index in zip(names, keywords, indices, strict=False)
        if keyword not in _PLACE_DIMENSIONS
    }
    return {**dimensions, "file": header.path.name}


def _whole_number(value: Any) -> int:
    """Return a whole number; 0 where there is none or nonsense, as only an order depends on it."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def _by_numbers(name: str) -> str:
    """Return a file name that sorts by the numbers in it: IM9 comes before IM10."""
    return re.sub(r"\d+", lambda number: number[0].zfill(_NUMBER_DIGITS), name)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple, MultiValue)):
        return "\\".join(_text(part) for part in value)
    return f"{float(value):g}" if isinstance(value, float) else str(value)

"""Headers of DICOM files: what each frame says of itself, be it a file of a series or one of many in a file.

A multi-frame file says of a frame what differs in its item of the per-frame functional groups, what all frames share
in the shared functional groups, and older kinds say everything at the top level. Whatever the kind, a frame becomes a
:class:`Plane`, so that one check serves all (``dicom_stacks``).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ParametricMapStorage,
    SegmentationStorage,
)

from samreg.errors import InputError
from samreg.spatial.dicom_pixels import PixelFormat, Rescale
from samreg.spatial.files import reading
from samreg.spatial.grid import FloatArray

_MACROS = {  # the functional group macro that holds an attribute
    "ImagePositionPatient": ("PlanePositionSequence",),
    "ImageOrientationPatient": ("PlaneOrientationSequence",),
    "PixelSpacing": ("PixelMeasuresSequence",),
    "SliceThickness": ("PixelMeasuresSequence",),
    "SpacingBetweenSlices": ("PixelMeasuresSequence",),
    "RescaleSlope": ("PixelValueTransformationSequence",),
    "RescaleIntercept": ("PixelValueTransformationSequence",),
    "RescaleType": ("PixelValueTransformationSequence",),
    "RealWorldValueSlope": ("RealWorldValueMappingSequence",),
    "RealWorldValueIntercept": ("RealWorldValueMappingSequence",),
    "StackID": ("FrameContentSequence",),
    "TemporalPositionIndex": ("FrameContentSequence",),
    "DimensionIndexValues": ("FrameContentSequence",),
    "FrameAcquisitionNumber": ("FrameContentSequence",),
    "FrameAcquisitionDateTime": ("FrameContentSequence",),
    "TemporalPositionTimeOffset": ("TemporalPositionSequence",),
    "EffectiveEchoTime": ("MREchoSequence",),
    "DiffusionBValue": ("MRDiffusionSequence",),
    "ComplexImageComponent": ("MRImageFrameTypeSequence",),
    "FrameType": (
        "CTImageFrameTypeSequence",
        "MRImageFrameTypeSequence",
        "PETFrameTypeSequence",
        "XRay3DFrameTypeSequence",
        "XAXRFFrameCharacteristicsSequence",
    ),
    "ConvolutionKernel": ("CTReconstructionSequence",),
    "NominalPercentageOfCardiacPhase": ("CardiacSynchronizationSequence",),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence",),
    "NominalPercentageOfRespiratoryPhase": ("RespiratorySynchronizationSequence",),
    "ReferencedSegmentNumber": ("SegmentIdentificationSequence",),
}

_VECTORS = {  # of nuclear medicine: one value a frame, at the top level
    "energy window": "EnergyWindowVector",
    "detector": "DetectorVector",
    "phase": "PhaseVector",
    "R-R interval": "RRIntervalVector",
    "time slot": "TimeSlotVector",
    "time slice": "TimeSliceVector",
}

# what sets the frames of one stack apart from those of another, in the order in which it is tried
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
}
_PLACE_DIMENSIONS = ("ImagePositionPatient", "InStackPositionNumber", "SliceLocation")
_MOTION_KEYWORDS = ("FrameTime", "FrameTimeVector", "RotationVector", "AngularViewVector")  # frames are no slices
_SEGMENTATIONS = (SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")  # and label maps
_QUANTITATIVE = ("CT", "PT", "RTDOSE")  # MONOCHROME1 is a matter of display there, the values mean the same


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
        Where it stands in the order of the series: instance number, file name, frame.
    position
        (3,) LPS mm, the centre of its first pixel; None where the file says no place in space.
    axes
        (2, 3) unit vectors, LPS, along its rows (growing column) and along its columns; None without a place.
    spacing
        (2,) mm between neighbouring columns (x) and rows (y); None where the file does not say.
    thickness
        mm; the extent along the normal of a stack of this one slice, or None.
    stated_step
        mm; the distance of neighbouring slices that the file states, often wrongly, or None.
    stated_tilt
        Degrees; the tilt of the gantry that the file states.
    rescale
        From stored values to those they stand for.
    inverted
        Whether low values are shown bright, and are to be turned round.
    is_ct
        Whether it is a CT, whose values should be HU.
    segment
        Which segment of a segmentation it shows; empty for other images.
    frame_of_reference
        UID of the space in which the position is meant.
    distinct_traits, possible_traits
        What it says of itself that tells stacks apart: for certain, or perhaps.
    remark
        What a user should know when it is read, or an empty string.
    """

    pixels: PixelFormat
    frame: int
    label: str
    order: tuple[Any, ...]
    position: FloatArray | None
    axes: FloatArray | None
    spacing: FloatArray | None
    thickness: float | None
    stated_step: float | None
    stated_tilt: float
    rescale: Rescale
    inverted: bool
    is_ct: bool = False
    segment: str = ""
    frame_of_reference: str = ""
    distinct_traits: dict[str, str] = field(default_factory=dict)
    possible_traits: dict[str, str] = field(default_factory=dict)
    remark: str = ""


def may_be_dicom(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do, with the preamble or, as old ones, with the first element."""
    with reading(path), path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start[:4] in (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x01\0", b"\x08\0\x05\0")


def read_header(path: Path, *, keywords: Sequence[str] | None = None) -> Dataset:
    """Return the header of a DICOM file without its pixels; ``keywords`` limit it to some elements.

    Raises
    ------
    InputError
        When the file is damaged or no DICOM.
    """
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of values that break a rule of writing and do no harm
        force = may_be_dicom(path)
        tags: Any = None if keywords is None else list(keywords)
        return dcmread(path, stop_before_pixels=True, force=force, specific_tags=tags)


def read_planes(path: Path, *, spacing: FloatArray | None = None, distance: float | None = None) -> list[Plane]:
    """Return the frames of a DICOM file as planes.

    Parameters
    ----------
    path
        The file.
    spacing
        (2,) mm between neighbouring columns (x) and rows (y), for a file that does not say it.
    distance
        mm between neighbouring slices, for a file whose frames have no places of their own and that does not say it.

    Raises
    ------
    InputError
        When the file holds no image, or says of a frame what cannot be.
    """
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Header(path, spacing, distance).planes()


class _Header:
    """The header of a file, asked for what it says of a frame; ``spacing`` and ``distance`` as in ``read_planes``."""

    def __init__(self, path: Path, spacing: FloatArray | None, distance: float | None) -> None:
        self.path = path
        self.spacing = spacing
        self.distance = distance
        with path.open("rb") as file:
            self.dataset = dcmread(file, stop_before_pixels=True, force=may_be_dicom(path))
            self._pixel_element = file.read(12)  # unless deflated, the reader stops at its first byte
            self._pixel_room = path.stat().st_size - file.tell()

    def value(self, keyword: str, frame: int | None = None) -> Any:
        """Return what the file says of a frame, or at the top level; None where it says nothing."""
        if frame is not None and (grouped := self.grouped(keyword, frame)) is not None:
            return grouped
        return _filled(self.dataset.get(keyword))

    def grouped(self, keyword: str, frame: int) -> Any:
        """Return what the functional groups say of a frame; None where they say nothing."""
        for groups in self._groups(frame):
            for macro in _MACROS.get(keyword, ()):
                items = groups.get(macro)
                if items and (value := _filled(items[0].get(keyword))) is not None:
                    return value
        return None

    def _groups(self, frame: int) -> list[Dataset]:
        shared = self.dataset.get("SharedFunctionalGroupsSequence")
        own = self.dataset.get("PerFrameFunctionalGroupsSequence")
        return [*([own[frame]] if own else []), *([shared[0]] if shared else [])]

    def label(self, frame: int) -> str:
        return self.path.name if self.frames == 1 else f"frame {frame + 1} of {self.path.name}"

    def numbers(self, keyword: str, value: Any, count: int, frame: int) -> FloatArray | None:
        """Return a value as so many finite numbers, or None where there is none."""
        if value is None:
            return None
        try:
            array = np.atleast_1d(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError):
            array = np.empty(0)
        if array.shape != (count,) or not np.isfinite(array).all():
            raise InputError(
                f"{self.path}: {keyword} of {self.label(frame)} is {value}, not {count} finite numbers; correct the "
                "header, or export it again"
            )
        return array

    @cached_property
    def frames(self) -> int:
        """Number of frames."""
        said = _filled(self.dataset.get("NumberOfFrames"))
        count = 1 if said is None else int(said)
        described = len(self.dataset.get("PerFrameFunctionalGroupsSequence") or [])
        if count < 1 or (described and described != count):
            raise InputError(
                f"{self.path}: says {count} frames"
                + (f" and describes {described}" if described else "")
                + "; export it again"
            )
        return count

    @cached_property
    def pixels(self) -> PixelFormat:
        """How the pixels are stored."""
        dataset = self.dataset
        rows, columns = _filled(dataset.get("Rows")), _filled(dataset.get("Columns"))
        if not rows or not columns:
            kind = UID(str(dataset.get("SOPClassUID") or "")).name or "file of an unknown kind"
            raise InputError(f"cannot read {self.path}: it holds no image ({kind}); give the files of the scan itself")
        floating = _filled(dataset.get("BitsStored")) is None
        allocated = int(dataset.get("BitsAllocated") or 16)
        stored = allocated if floating else int(dataset.BitsStored)
        high = _filled(dataset.get("HighBit"))
        signed = bool(dataset.get("PixelRepresentation") or 0)
        implicit, little = dataset.original_encoding
        guessed = ImplicitVRLittleEndian if implicit or not little else ExplicitVRLittleEndian
        return PixelFormat(
            path=self.path,
            syntax=UID(dataset.file_meta.get("TransferSyntaxUID") or guessed),
            frames=self.frames,
            rows=int(rows),
            columns=int(columns),
            bits_allocated=allocated,
            bits_stored=stored,
            high_bit=stored - 1 if high is None else int(high),
            signed=signed,
            floating=floating,
            samples=int(dataset.get("SamplesPerPixel") or 1),
            photometric=str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").strip().upper(),
            padding=None if floating else self._padding(allocated, signed),
            streamed=self._streamed,
            stored_bytes=self._stored_bytes(),
        )

    @property
    def _streamed(self) -> bool:
        syntax = self.dataset.file_meta.get("TransferSyntaxUID")
        return syntax is not None and syntax != DeflatedExplicitVRLittleEndian

    def _stored_bytes(self) -> int | None:
        implicit, little = self.dataset.original_encoding
        syntax = UID(self.dataset.file_meta.get("TransferSyntaxUID") or ExplicitVRLittleEndian)
        if syntax.is_encapsulated or syntax == DeflatedExplicitVRLittleEndian:
            return None
        order: Literal["little", "big"] = "little" if little else "big"
        said = int.from_bytes(self._pixel_element[4:8] if implicit else self._pixel_element[8:12], order)
        return min(said, self._pixel_room + (4 if implicit else 0))

    def _padding(self, bits: int, signed: bool) -> tuple[int, int] | None:
        ends = [_filled(self.dataset.get(key)) for key in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
        # writers confuse signed and unsigned here: take the same bits as the pixels do
        low_end = -(2 ** (bits - 1)) if signed else 0
        values = [(int(end) - low_end) % 2**bits + low_end for end in ends if isinstance(end, int)]
        return (min(values), max(values)) if ends[0] is not None and values else None

    def planes(self) -> list[Plane]:
        """Return the frames."""
        if any("MOSAIC" in str(part).upper() for part in self.dataset.get("ImageType") or ()):
            raise InputError(f"{self.path}: a mosaic of slices in one picture; convert it, for example with dcm2niix")
        pixels, places = self.pixels, self._places()
        return [self._plane(frame, pixels, *places[frame]) for frame in range(self.frames)]

    def _plane(
        self, frame: int, pixels: PixelFormat, position: FloatArray | None, axes: FloatArray | None, remark: str
    ) -> Plane:
        keywords = ["PixelSpacing"]
        if position is None:  # a projection, measured at the detector or on the film unless it was calibrated
            keywords += ["ImagerPixelSpacing", "NominalScannedPixelSpacing"]
        step = self._positive("SpacingBetweenSlices", frame)
        tilt = self.numbers("GantryDetectorTilt", self.value("GantryDetectorTilt"), 1, frame)
        modality = str(self.dataset.get("Modality") or "")
        distinct, possible = self._traits(_DISTINCT_TRAITS, frame), self._traits(_POSSIBLE_TRAITS, frame)
        if modality in _QUANTITATIVE and "acquisition" in possible:  # MR may acquire the slices of one stack in turns
            distinct["acquisition"] = possible.pop("acquisition")
        return Plane(
            pixels=pixels,
            frame=frame,
            label=self.label(frame),
            order=(_whole(self.value("InstanceNumber")), self.path.name, frame),
            position=position,
            axes=axes,
            spacing=self._pixel_spacing(keywords, frame),
            thickness=step or self._positive("SliceThickness", frame),
            stated_step=step,
            stated_tilt=0.0 if tilt is None else float(tilt[0]),
            rescale=self._rescale(frame),
            inverted=pixels.photometric == "MONOCHROME1" and modality not in _QUANTITATIVE,
            is_ct=modality == "CT",
            segment=self._segment(frame),
            frame_of_reference=str(self.dataset.get("FrameOfReferenceUID") or ""),
            distinct_traits={**distinct, **self._vectors(frame)},
            possible_traits={**possible, **self._dimensions(frame)},
            remark=remark,
        )

    def _positive(self, keyword: str, frame: int) -> float | None:
        value = self.numbers(keyword, self.value(keyword, frame), 1, frame)
        return abs(float(value[0])) or None if value is not None else None

    def _pixel_spacing(self, keywords: Sequence[str], frame: int) -> FloatArray | None:
        for keyword in keywords:
            spacing = self.numbers(keyword, self.value(keyword, frame), 2, frame)
            if spacing is None:
                continue
            if spacing.min() <= 0 and self.spacing is None:
                raise InputError(
                    f"{self.path}: {keyword} of {self.label(frame)} is {spacing.tolist()} mm; write the true pixel "
                    "size into its header"
                )
            if spacing.min() > 0:
                return spacing[::-1]  # DICOM says the distance of rows (y) first
        return self.spacing

    def _rescale(self, frame: int) -> Rescale:
        """Return the rescale of a frame; that of a dose grid and of a parametric map go by other names."""
        if self.dataset.get("ModalityLUTSequence"):
            table = Dataset()
            table.ModalityLUTSequence = self.dataset.ModalityLUTSequence
            table.PixelRepresentation = self.dataset.get("PixelRepresentation") or 0
            return Rescale(table=table, stated=True)
        parts = [self.value(keyword, frame) for keyword in ("RescaleSlope", "RescaleIntercept")]
        units = str(self.value("RescaleType", frame) or "")
        if parts == [None, None] and self.dataset.get("SOPClassUID") == ParametricMapStorage:
            parts = [self.grouped(keyword, frame) for keyword in ("RealWorldValueSlope", "RealWorldValueIntercept")]
        elif parts == [None, None] and (dose := self.value("DoseGridScaling")) is not None:
            parts, units = [dose, 0.0], str(self.value("DoseUnits") or "")
        if parts == [None, None]:
            return Rescale(units=units)
        slope = self.numbers("RescaleSlope", 1.0 if parts[0] is None else parts[0], 1, frame)
        intercept = self.numbers("RescaleIntercept", 0.0 if parts[1] is None else parts[1], 1, frame)
        assert slope is not None
        assert intercept is not None
        if slope[0] == 0:
            raise InputError(
                f"{self.path}: the rescale slope of {self.label(frame)} is 0, so that all its values are one; write "
                "the true slope into its header"
            )
        return Rescale(float(slope[0]), float(intercept[0]), units, stated=True)

    # where frames lie

    def _places(self) -> list[tuple[FloatArray | None, FloatArray | None, str]]:
        """Return position, axes and a remark for each frame."""
        count = range(self.frames)
        own = [self.numbers("ImagePositionPatient", self.grouped("ImagePositionPatient", k), 3, k) for k in count]
        if all(position is None for position in own):
            if self.frames > 1:
                return self._stacked()
            own = [self._detected("ImagePositionPatient", 3)]
        places: list[tuple[FloatArray | None, FloatArray | None, str]] = []
        for k, position in enumerate(own):
            axes = self._axes(k)
            if self.frames > 1 and position is None:
                raise InputError(f"{self.path}: {self.label(k)} says no position, others do; export it again")
            if (position is None) != (axes is None):
                missing = "ImageOrientationPatient" if axes is None else "ImagePositionPatient"
                if self.frames > 1 or axes is None:
                    raise InputError(
                        f"{self.path}: {self.label(k)} says no {missing}, so that its place in space is unknown; "
                        "write it into its header"
                    )
                axes = None
            places.append((position, axes, ""))
        return places

    def _axes(self, frame: int) -> FloatArray | None:
        value = self.grouped("ImageOrientationPatient", frame)
        raw = (
            self._detected("ImageOrientationPatient", 6)
            if value is None
            else self.numbers("ImageOrientationPatient", value, 6, frame)
        )
        if raw is None:
            return None
        axes = raw.reshape(2, 3)
        lengths = np.linalg.norm(axes, axis=1)
        if np.abs(lengths - 1).max() > 0.01 or abs(axes[0] @ axes[1]) > 0.01:
            raise InputError(
                f"{self.path}: ImageOrientationPatient of {self.label(frame)} is {raw.tolist()}, no two perpendicular "
                "unit vectors; correct the header"
            )
        return np.asarray(axes / lengths[:, None])

    def _detected(self, keyword: str, count: int) -> FloatArray | None:
        """Return a place at the top level or, in nuclear medicine, of the first detector."""
        value = self.value(keyword)
        detectors = self.dataset.get("DetectorInformationSequence")
        if value is None and detectors:
            value = _filled(detectors[0].get(keyword))
        return self.numbers(keyword, value, count, 0)

    def _stacked(self) -> list[tuple[FloatArray | None, FloatArray | None, str]]:
        """Place frames that have one place in common: at their offsets, or one after the other along the normal."""
        position, axes = self._detected("ImagePositionPatient", 3), self._axes(0)
        if (position is None) != (axes is None):
            missing = "ImageOrientationPatient" if axes is None else "ImagePositionPatient"
            raise InputError(f"{self.path}: says no {missing}, so that its place in space is unknown; write it into it")
        origin = np.zeros(3) if position is None else position
        directions = np.eye(3)[:2] if axes is None else axes
        offsets, remark = self._offsets(origin, directions)
        if offsets is None:
            if position is not None and not self._moves():
                thickness = self.value("SliceThickness", 0)
                said = f" (only that they are {thickness:g} mm thick)" if isinstance(thickness, float) else ""
                raise InputError(
                    f"{self.path}: does not say how far apart its {self.frames} frames lie{said}; give spacing= x, y, "
                    "z in mm, if they are slices of one volume (--pixel-size)"
                )
            return [(None, None, "they follow each other in time or angle" if self._moves() else "")] * self.frames
        if position is None:
            remark = "says no place and no orientation in space; axial slices from foot to head are assumed"
        normal = np.cross(directions[0], directions[1])
        return [(origin + offset * normal, directions, remark) for offset in offsets]

    def _offsets(self, origin: FloatArray, axes: FloatArray) -> tuple[FloatArray | None, str]:
        """Return how far along the normal each frame lies from the file's position, mm, and a remark."""
        grid = _filled(self.dataset.get("GridFrameOffsetVector"))
        if grid is not None:
            starts = self.numbers("GridFrameOffsetVector", grid, self.frames, 0)
            assert starts is not None
            return self._relative(starts, origin, axes), ""
        step = self.numbers("SpacingBetweenSlices", self.value("SpacingBetweenSlices", 0), 1, 0)
        steps = float(step[0]) if step is not None and step[0] != 0 else None if self._moves() else self.distance
        if steps is None:
            return None, ""
        remark = f"its frames have no positions of their own; they are stacked {steps:g} mm apart along the normal"
        slices = _filled(self.dataset.get("SliceVector"))
        numbers = (
            np.arange(1.0, self.frames + 1) if slices is None else self.numbers("SliceVector", slices, self.frames, 0)
        )
        assert numbers is not None
        offsets: FloatArray = np.asarray((numbers - 1) * steps, dtype=np.float64)
        return offsets, remark if slices is None else ""

    def _relative(self, offsets: FloatArray, origin: FloatArray, axes: FloatArray) -> FloatArray:
        """Return offsets of a dose grid from its position: DICOM lets axial ones be z coordinates (PS3.3 C.8.8.3.2)."""
        if offsets[0] == 0:
            return offsets
        upright = np.abs(np.abs(axes) - np.eye(3)[:2]).max() < 1e-3 and np.cross(axes[0], axes[1])[2] > 0
        if not upright or abs(offsets[0] - origin[2]) > 1e-3:
            raise InputError(
                f"{self.path}: GridFrameOffsetVector begins with {offsets[0]:g}, which is neither 0 nor the z "
                f"coordinate {origin[2]:g} of an axial grid; correct the header"
            )
        return offsets - offsets[0]

    def _moves(self) -> bool:
        """Tell whether frames follow in time or angle (a film, projections) rather than in space."""
        pointers = _filled(self.dataset.get("FrameIncrementPointer"))
        if pointers is None:
            return any(self.value(keyword) is not None for keyword in _MOTION_KEYWORDS)
        tags = pointers if isinstance(pointers, (list, MultiValue)) else [pointers]
        keywords = [keyword_for_tag(tag) for tag in tags]
        return "SliceVector" not in keywords and any(keyword in _MOTION_KEYWORDS for keyword in keywords)

    # what tells stacks apart

    def _traits(self, keywords: dict[str, tuple[str, ...]], frame: int) -> dict[str, str]:
        values = {
            name: next((v for key in keys if (v := self.value(key, frame)) is not None), None)
            for name, keys in keywords.items()
        }
        return {name: _text(value) for name, value in values.items() if value is not None}

    def _segment(self, frame: int) -> str:
        number = self.value("ReferencedSegmentNumber", frame)
        if number is None:
            return "of every label" if self.dataset.get("SOPClassUID") in _SEGMENTATIONS else ""
        labels = {
            item.get("SegmentNumber"): item.get("SegmentLabel") for item in self.dataset.get("SegmentSequence") or ()
        }
        return f"{number} {labels.get(number) or ''}".strip()

    def _vectors(self, frame: int) -> dict[str, str]:
        vectors = {name: _filled(self.dataset.get(keyword)) for name, keyword in _VECTORS.items()}
        return {
            name: _text(vector[frame])
            for name, vector in vectors.items()
            if isinstance(vector, (list, MultiValue)) and len(vector) == self.frames
        }

    def _dimensions(self, frame: int) -> dict[str, str]:
        """Return the indices of a frame in the dimensions of its file, but for those that count its place."""
        value = self.grouped("DimensionIndexValues", frame)
        indices = value if isinstance(value, (list, MultiValue)) else [] if value is None else [value]
        described = self.dataset.get("DimensionIndexSequence") or []
        names = [keyword_for_tag(item.get("DimensionIndexPointer") or 0) for item in described]
        names += [""] * (len(indices) - len(names))
        return {
            f"dimension {number}{f' ({name})' if name else ''}": str(index)
            for number, (name, index) in enumerate(zip(names, indices, strict=False), start=1)
            if name not in _PLACE_DIMENSIONS
        } | ({"file": self.path.name} if self.frames > 1 else {})


def _filled(value: Any) -> Any:
    """Return a value, or None where its element is empty."""
    return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value


def _whole(value: Any) -> int:
    """Return a whole number; 0 where a file says none or nonsense, which only an order depends on."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple, MultiValue)):
        return "\\".join(_text(part) for part in value)
    return f"{float(value):g}" if isinstance(value, float) else str(value)

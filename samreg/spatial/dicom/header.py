"""The header of a DICOM file, asked for what it states of one of its frames.

A multi-frame file states of a frame what differs in its item of the per-frame functional groups, what its frames share
in the shared functional groups; older kinds, and files of one frame, state everything at the top level.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)

from samreg.errors import InputError
from samreg.spatial.dicom.pixels import PixelFormat
from samreg.spatial.files import reading
from samreg.spatial.grid import FloatArray

_MAX_LISTED_FOLDERS = 5
_MACROS = {  # the functional group macros that hold an attribute
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
_FIRST_ELEMENTS = (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x01\0", b"\x08\0\x05\0")  # of files without a preamble

_BITS_ALLOCATED = (1, 8, 16, 32, 64)


def may_be_dicom(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do, with the preamble or, as old ones, with the first element."""
    with reading(path), path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start[:4] in _FIRST_ELEMENTS


def read_elements(path: Path, keywords: Sequence[str]) -> dict[str, Any]:
    """Return some elements of a DICOM file, at its top level or of its meta information, by keyword.

    Those it does not state are None.

    Raises
    ------
    InputError
        When the file is damaged or no DICOM.
    """
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of values that break a rule of writing and do no harm
        tags: Any = list(keywords)
        dataset = dcmread(path, stop_before_pixels=True, force=may_be_dicom(path), specific_tags=tags)
        return {keyword: stated(dataset.get(keyword, dataset.file_meta.get(keyword))) for keyword in keywords}


def stated(value: Any) -> Any:
    """Return the value of an element, or None where it is empty."""
    return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value


class Header:
    """The header of a file.

    Parameters
    ----------
    path
        The file. It is read here; pydicom may raise anything on a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tops: dict[str, Any] = {}  # asked for again for each of thousands of frames
        with path.open("rb") as file:
            self.dataset = dcmread(file, stop_before_pixels=True, force=may_be_dicom(path))
            self._pixel_element = file.read(12)  # the reader stops at its first byte, unless the file is deflated
            self._bytes_behind = path.stat().st_size - file.tell()

    def top(self, keyword: str) -> Any:
        """Return what the top level states; None where it states nothing."""
        if keyword not in self._tops:
            self._tops[keyword] = stated(self.dataset.get(keyword))
        return self._tops[keyword]

    def grouped(self, keyword: str, frame: int) -> Any:
        """Return what the functional groups state of a frame; None where they state nothing."""
        for sequence, number in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
            items = self.top(sequence)
            for macro in _MACROS.get(keyword, ()) if items else ():
                contents = items[number].get(macro)
                if contents and (value := stated(contents[0].get(keyword))) is not None:
                    return value
        return None

    @cached_property
    def segments(self) -> dict[int, str]:
        """What the segments of a segmentation are called, by number."""
        return {item.get("SegmentNumber"): item.get("SegmentLabel") or "" for item in self.top("SegmentSequence") or ()}

    def value(self, keyword: str, frame: int) -> Any:
        """Return what the file states of a frame, in the functional groups or else at the top level."""
        value = self.grouped(keyword, frame)
        return self.top(keyword) if value is None else value

    def label(self, frame: int) -> str:
        """Return what to call a frame in messages."""
        return self.path.name if self.frames == 1 else f"frame {frame + 1} of {self.path.name}"

    def numbers(self, keyword: str, value: Any, count: int, frame: int = 0) -> FloatArray | None:
        """Return a value as ``count`` numbers, or None where there is none.

        Raises
        ------
        InputError
            When these are other than that many finite numbers.
        """
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
        number = self.top("NumberOfFrames")
        count = 1 if number is None else int(number)
        described = len(self.dataset.get("PerFrameFunctionalGroupsSequence") or ())
        if count < 1 or described not in (0, count):
            also = f" and describes {described}" if described else ""
            raise InputError(f"{self.path}: states {count} frames{also}; export it again")
        return count

    def _listed_folders(self) -> list[str]:
        """Return some of the folders, beside a DICOMDIR, of the files that it lists."""
        records = self.top("DirectoryRecordSequence") or ()
        files = (record.get("ReferencedFileID") for record in records)
        folders = dict.fromkeys("/".join(file[:-1]) for file in files if isinstance(file, MultiValue))
        shown = [*folders][:_MAX_LISTED_FOLDERS]
        return [*shown, f"... {len(folders)} in all"] if len(folders) > len(shown) else shown

    @cached_property
    def pixels(self) -> PixelFormat:
        """How the pixels are stored.

        Raises
        ------
        InputError
            When the file holds no image.
        """
        rows, columns = self.top("Rows"), self.top("Columns")
        if not rows or not columns:
            of_file = getattr(self.dataset, "file_meta", Dataset()).get("MediaStorageSOPClassUID")  # of a DICOMDIR
            kind = UID(str(self.top("SOPClassUID") or of_file or "")).name or "a file of an unknown kind"
            remedy = "give the files of the scan itself"
            if folders := self._listed_folders():
                remedy = f"it lists the files of a disc; give the folder of one series of it: {', '.join(folders)}"
            elif self.top("SOPClassUID") == RTStructureSetStorage:
                remedy += (
                    ". `samreg apply` brings its contours to another image; for a mask, labels or lesions convert them "
                    "to a label map, as 3D Slicer does"
                )
            raise InputError(f"cannot read {self.path}: it holds no image ({kind}); {remedy}")
        stored = self.top("BitsStored")
        allocated = int(self.top("BitsAllocated") or 16)
        bits = allocated if stored is None else int(stored)
        high = self.top("HighBit")
        high = bits - 1 if high is None else int(high)
        if allocated not in _BITS_ALLOCATED or not 1 <= bits <= high + 1 <= allocated:
            raise InputError(
                f"cannot read {self.path}: BitsAllocated {allocated}, BitsStored {bits} and HighBit {high} do not fit; "
                "correct the header"
            )
        signed = bool(self.top("PixelRepresentation"))
        return PixelFormat(
            path=self.path,
            syntax=self._syntax,
            frames=self.frames,
            rows=int(rows),
            columns=int(columns),
            bits_allocated=allocated,
            bits_stored=bits,
            high_bit=high,
            signed=signed,
            floating=stored is None,
            samples=int(self.top("SamplesPerPixel") or 1),
            photometric=str(self.top("PhotometricInterpretation") or "MONOCHROME2").strip().upper(),
            padding=None if stored is None else self._padding(allocated, signed),
            streamed="TransferSyntaxUID" in self.dataset.file_meta and not self._deflated,
            stored_bytes=self._stored_bytes(),
        )

    @property
    def _syntax(self) -> UID:
        implicit, little = self.dataset.original_encoding
        guess = ImplicitVRLittleEndian if implicit or not little else ExplicitVRLittleEndian
        return UID(self.dataset.file_meta.get("TransferSyntaxUID") or guess)

    @property
    def _deflated(self) -> bool:
        return self._syntax == DeflatedExplicitVRLittleEndian

    def _stored_bytes(self) -> int | None:
        """Return the length of uncompressed pixels, at most what the file holds."""
        if self._syntax.is_encapsulated or self._deflated:
            return None
        implicit, little = self.dataset.original_encoding
        order: Literal["little", "big"] = "little" if little else "big"
        length = int.from_bytes(self._pixel_element[4:8] if implicit else self._pixel_element[8:12], order)
        return min(length, self._bytes_behind + (4 if implicit else 0))

    def _padding(self, bits: int, signed: bool) -> tuple[int, int] | None:
        """Return the lowest and highest stored value of padding; writers confuse signed and unsigned ones."""
        value, limit = self.top("PixelPaddingValue"), self.top("PixelPaddingRangeLimit")
        if not isinstance(value, int):
            return None
        lowest = -(2 ** (bits - 1)) if signed else 0
        ends = [(end - lowest) % 2**bits + lowest for end in (value, limit) if isinstance(end, int)]
        return min(ends), max(ends)

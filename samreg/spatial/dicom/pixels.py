"""The pixels of DICOM files: decoded frame by frame, as they are stored, then rescaled to what they mean.

Uncompressed pixels and run lengths are decoded by pydicom, JPEG by GDCM (through SimpleITK), which knows every kind.
GDCM is given each frame in a file of its own whose header states no rescale and no geometry, so that it returns the
stored values; the rescale is applied here, once, and each frame's own.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from samreg.errors import InputError
from samreg.spatial.files import itk_path, reading, scratch_folder
from samreg.spatial.remarks import remark

log = logging.getLogger(__name__)

_GDCM_SYNTAXES = (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
)
_JPEG_START, _JPEG2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
_JPEG_SCAN = 0xDA
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)  # baseline, extended, progressive, lossless, JPEG-LS
_INTEGER_TYPES: tuple[type[np.integer[Any]], ...] = (
    np.uint8,
    np.int8,
    np.uint16,
    np.int16,
    np.uint32,
    np.int32,
)


@dataclass(frozen=True, eq=False)
class Rescale:
    """What turns the stored values of a frame into those they stand for (DICOM's modality transformation).

    Parameters
    ----------
    slope, intercept
        ``value = slope * stored + intercept``.
    units
        What the values are, such as ``HU``; empty where the file does not state it.
    stated
        Whether the file states a rescale.
    table
        Values of the stored ones from ``table_start`` on, integers, which take the place of slope and intercept; those
        beyond its ends have the value there.
    table_start
        The stored value of the first.
    """

    slope: float = 1.0
    intercept: float = 0.0
    units: str = ""
    stated: bool = False
    table: NDArray[np.int64] | None = None
    table_start: int = 0

    def __call__(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the values in float64 or, where these are whole numbers, int64."""
        if self.table is not None:
            return self.table[np.clip(stored.astype(np.int64) - self.table_start, 0, len(self.table) - 1)]
        if self.keeps_integers and stored.dtype.kind in "biu":
            return stored.astype(np.int64) * int(self.slope) + int(self.intercept)
        return stored.astype(np.float64) * self.slope + self.intercept

    @property
    def keeps_integers(self) -> bool:
        """Whether integers stay integers."""
        return self.table is not None or (self.slope.is_integer() and self.intercept.is_integer())

    @property
    def is_identity(self) -> bool:
        """Whether the stored values stand for themselves."""
        return self.table is None and (self.slope, self.intercept) == (1, 0)

    def limits(self, low: int, high: int) -> tuple[float, float]:
        """Return the lowest and highest value that stored ones from ``low`` to ``high`` can stand for."""
        if self.table is not None:
            return float(self.table.min()), float(self.table.max())
        ends = sorted((self.slope * low + self.intercept, self.slope * high + self.intercept))
        return ends[0], ends[1]


@dataclass(frozen=True)
class PixelFormat:
    """How a file stores the pixels of its frames.

    Parameters
    ----------
    path
        The file.
    syntax
        The transfer syntax: byte order and compression.
    frames, rows, columns
        How many.
    bits_allocated, bits_stored, high_bit
        The bits of a pixel, those of them that hold its value, and the highest of these, counted from 0.
    signed
        Whether the stored integers have a sign.
    floating
        Whether the pixels are stored as floating-point numbers.
    samples
        Values a pixel: 1, or 3 for colours.
    photometric
        The photometric interpretation, such as ``MONOCHROME2``.
    padding
        Lowest and highest stored value of pixels that hold no measurement, or None.
    streamed
        Whether a frame can be decoded from its place in the file; else the file is loaded.
    stored_bytes
        Length of uncompressed pixels, or None.
    """

    path: Path
    syntax: UID
    frames: int
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    floating: bool
    samples: int
    photometric: str
    padding: tuple[int, int] | None
    streamed: bool
    stored_bytes: int | None

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest value that can be stored."""
        if self.signed:
            return -(2 ** (self.bits_stored - 1)), 2 ** (self.bits_stored - 1) - 1
        return 0, 2**self.bits_stored - 1

    def require_grey(self) -> None:
        """Raise :class:`InputError` when the pixels are colours."""
        if self.samples != 1 or self.photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise InputError(
                f"{self.path}: {max(self.samples, 3)} values a voxel (colour, {self.photometric}); convert it to one, "
                "greyscale"
            )

    def require_complete(self) -> None:
        """Raise :class:`InputError` when the file holds fewer or more frames than it states."""
        if self.stored_bytes is None:
            return
        frame = self.rows * self.columns * self.samples * self.bits_allocated / 8
        if not 0 <= self.stored_bytes - frame * self.frames < max(frame, 2):
            raise InputError(
                f"cannot read {self.path}: it states {self.frames} frames of {self.rows} x {self.columns} pixels, "
                f"{frame * self.frames:.0f} bytes, and holds {self.stored_bytes}; is it complete? Copy or export it "
                "again"
            )


def common_type(formats: Collection[tuple[PixelFormat, Rescale]]) -> np.dtype[Any]:
    """Return the smallest type of number that holds every value of frames: an integer, else float32."""
    if any(pixels.floating or not rescale.keeps_integers for pixels, rescale in formats):
        return np.dtype(np.float32)
    ends = [end for pixels, rescale in formats for end in rescale.limits(*pixels.limits)]
    low, high = min(ends), max(ends)
    for kind in _INTEGER_TYPES:
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            return np.dtype(kind)
    return np.dtype(np.float32)


def stored_frames(pixels: PixelFormat, wanted: Collection[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the number, from 0, and the stored values (rows, columns) of a file's wanted frames, in the file's order.

    One frame is held in memory at a time, besides the compressed bytes of a compressed file.

    Raises
    ------
    InputError
        When the pixels are damaged, or compressed in an unknown way.
    """
    numbers = sorted(wanted)
    with reading(pixels.path):
        decoded = _compressed(pixels, numbers) if pixels.syntax.is_encapsulated else _uncompressed(pixels, numbers)
        overlaid = False
        for number, frame in zip(numbers, decoded, strict=True):
            if frame.shape != (pixels.rows, pixels.columns):
                raise InputError(
                    f"{pixels.path}: frame {number + 1} has {frame.shape} pixels, the header states "
                    f"{(pixels.rows, pixels.columns)}; export it again"
                )
            if pixels.floating or pixels.bits_allocated == 1:
                yield number, frame
                continue
            overlaid = overlaid or (not pixels.signed and bool((frame >> pixels.high_bit >> 1).any()))
            yield number, _value_bits(frame, pixels)
    if overlaid:
        remark(
            log,
            "%s: pixels set bits above the %d that hold their value; these bits are left out",
            pixels.path, pixels.bits_stored,
        )  # fmt: skip


def _value_bits(frame: NDArray[Any], pixels: PixelFormat) -> NDArray[Any]:
    """Return the values alone: other bits of a pixel may hold overlays, or be no sign where there should be one."""
    kind = np.dtype(f"{'i' if pixels.signed else 'u'}{frame.dtype.itemsize}")
    above = 8 * kind.itemsize - 1 - pixels.high_bit
    below = 8 * kind.itemsize - pixels.bits_stored
    if above < 0 or below == 0:
        return frame
    return (frame.astype(kind) << above) >> below


def _uncompressed(pixels: PixelFormat, numbers: list[int]) -> Iterator[NDArray[Any]]:
    source: Any = pixels.path
    if not pixels.streamed:
        source = dcmread(pixels.path, force=True)
        source.file_meta.TransferSyntaxUID = pixels.syntax
    if pixels.bits_allocated == 1:
        yield from _bits(pixels, numbers)
        return
    yield from iter_pixels(source, indices=numbers, raw=True, **_options(pixels))


def _bits(pixels: PixelFormat, numbers: list[int]) -> Iterator[NDArray[Any]]:
    """Unpack frames of single bits, which may begin amid a byte: pydicom's reader of chosen frames refuses those."""
    packed = np.frombuffer(dcmread(pixels.path, force=True).PixelData, np.uint8)
    size = pixels.rows * pixels.columns
    for number in numbers:
        first, last = number * size, (number + 1) * size
        bits = np.unpackbits(packed[first // 8 : -(-last // 8)], bitorder="little")
        yield bits[first % 8 : first % 8 + size].reshape(pixels.rows, pixels.columns)


def _options(pixels: PixelFormat) -> dict[str, Any]:
    """Return the elements that pydicom needs and files at times leave out."""
    return {
        "number_of_frames": pixels.frames,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.signed),
        "photometric_interpretation": "MONOCHROME2",
        "samples_per_pixel": 1,
        "correct_unused_bits": False,  # done here, for compressed pixels too, and said
    }


def _compressed(pixels: PixelFormat, numbers: list[int]) -> Iterator[NDArray[Any]]:
    if pixels.syntax not in _GDCM_SYNTAXES:
        yield from _by_plugins(pixels, numbers)
        return
    dataset = dcmread(pixels.path)
    tables = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    frames = generate_frames(
        dataset.PixelData,
        number_of_frames=pixels.frames,
        extended_offsets=None if None in tables else tables,
    )
    wanted = set(numbers)
    with scratch_folder() as folder:
        for number, content in enumerate(frames):
            if number in wanted:
                _require_true_header(content, pixels, number)
                yield _by_gdcm(content, pixels, folder / "frame.dcm")


def _require_true_header(content: bytes, pixels: PixelFormat, number: int) -> None:
    """Refuse a compressed frame whose own header is damaged: GDCM's decoders end the process at some of these."""
    is_jpeg2000 = pixels.syntax in (JPEG2000Lossless, JPEG2000)
    header = _jpeg2000_header(content) if is_jpeg2000 else _jpeg_header(content)
    if header is None or header[:3] != (pixels.rows, pixels.columns, 1) or not 1 <= header[3] <= pixels.bits_allocated:
        raise InputError(
            f"{pixels.path}: the compressed frame {number + 1} does not state {pixels.rows} x {pixels.columns} pixels "
            f"of at most {pixels.bits_allocated} bits, as the file does; copy or export it again"
        )


def _jpeg_header(content: bytes) -> tuple[int, int, int, int] | None:
    """Return rows, columns, components and bits of a JPEG or JPEG-LS image; None where it states none."""
    place = len(_JPEG_START)
    while content.startswith(_JPEG_START) and place + 10 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker in _JPEG_FRAMES:
            bits, rows, columns, components = struct.unpack_from(">BHHB", content, place + 4)
            return rows, columns, components, bits
        if marker == _JPEG_SCAN:
            break
        place += 2 + length
    return None


def _jpeg2000_header(content: bytes) -> tuple[int, int, int, int] | None:
    """Return rows, columns, components and bits of a JPEG 2000 codestream, which some wrap in a file; None without."""
    start = content.find(_JPEG2000_START)
    if start < 0 or len(content) < start + 43:
        return None
    width, height, left, top = struct.unpack_from(">4I", content, start + 8)
    components, bits = struct.unpack_from(">HB", content, start + 40)
    return height - top, width - left, components, (bits & 0x7F) + 1


def _by_gdcm(content: bytes, pixels: PixelFormat, path: Path) -> NDArray[Any]:
    """Decode one compressed frame through a file that states neither rescale nor geometry."""
    import SimpleITK as sitk

    single = Dataset()
    single.file_meta = FileMetaDataset()
    single.file_meta.TransferSyntaxUID = pixels.syntax
    single.SOPClassUID = single.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    single.SOPInstanceUID = single.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    single.SamplesPerPixel, single.PhotometricInterpretation = 1, "MONOCHROME2"
    single.Rows, single.Columns = pixels.rows, pixels.columns
    single.BitsAllocated, single.BitsStored = pixels.bits_allocated, pixels.bits_stored
    single.HighBit, single.PixelRepresentation = pixels.high_bit, int(pixels.signed)
    single.PixelData = encapsulate([content])
    single.save_as(path, enforce_file_format=True)
    frame = sitk.GetArrayFromImage(sitk.ReadImage(itk_path(path), imageIO="GDCMImageIO"))
    return frame[0] if frame.ndim == 3 else frame


def _by_plugins(pixels: PixelFormat, numbers: list[int]) -> Iterator[NDArray[Any]]:
    """Decode what is no JPEG of GDCM's by pydicom: itself, or with decoders that the user may have installed."""
    try:
        available = get_decoder(pixels.syntax).is_available
    except NotImplementedError:  # pydicom's answer for a transfer syntax that it does not know
        available = False
    if not available:
        raise InputError(
            f"{pixels.path}: compressed as {pixels.syntax.name}, which cannot be read; decompress it (gdcmconv --raw, "
            "dcmdjpeg), or install a decoder of pydicom (pylibjpeg)"
        )
    yield from iter_pixels(pixels.path, indices=numbers, raw=True, **_options(pixels))

"""Reading NRRD and MetaImage: ITK reads the headers and plain data; compressed data are read and verified here.

ITK does not compare the checksum of a compressed MetaImage, and of a compressed NRRD not always: a single damaged bit
becomes wrong voxels without a word.
"""

from __future__ import annotations

import logging
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.adapters import sitk_geometry
from samreg.spatial.claimed_size import remark_surplus, require_plausible_size
from samreg.spatial.displacement import DisplacementField
from samreg.spatial.files import itk_path, reading, require_file
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.numeric_locale import decimal_points
from samreg.spatial.placement import image_from_geometry
from samreg.spatial.remarks import remark

log = logging.getLogger(__name__)

NRRD = (".nrrd", ".nhdr")
METAIMAGE = (".mha", ".mhd")

_GZIP = b"\x1f\x8b"
_ANY_DEFLATE = 47  # zlib's code for a stream with a header of gzip or of zlib
_READ_BYTES, _INFLATED_BYTES = 1 << 20, 1 << 24  # at a time
_LINE_BYTES = 1 << 20  # the longest line of a header
_MAX_DIMENSIONS = 8
_METAIMAGE_NUMBERS = {  # fields of a number for each dimension, and of a matrix of them
    **dict.fromkeys(("dimsize", "elementspacing", "elementsize", "offset", "position", "origin"), 1),
    **dict.fromkeys(("transformmatrix", "rotation", "orientation"), 2),
}
_MM = "mm"
_UNITS_MM = {
    "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "millimetres": 1.0, "cm": 10.0, "m": 1000.0,
    "um": 1e-3, "\N{MICRO SIGN}m": 1e-3, "\N{GREEK SMALL LETTER MU}m": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "nm": 1e-6,
}  # fmt: skip
# that ITK turns to LPS
_NAMED_AXES = re.compile(r"(right|left)-(anterior|posterior)-superior|[RL][AP]S", re.IGNORECASE)
_NUMBERED = re.compile(r"(\S*%\d*d\S*)((?:\s+-?\d+)+)")  # names of the data's files: NAME%03d.raw FIRST LAST STEP


@dataclass(frozen=True)
class _Header:
    """What this module looks up in a header; ITK reads the rest.

    Parameters
    ----------
    files
        Where the data lie, one after another.
    offset
        How many bytes of each file come before its data.
    is_compressed
        By gzip or zlib.
    is_raw
        Numbers as the machine holds them, neither compressed nor as text.
    is_big_endian
        Of numbers that have several bytes.
    sized_axes
        Of how many axes it says the voxel size.
    vectors
        Of a file whose vectors have components along axes that the header leaves open, which axes these are; else "".
    components_first
        Whether the components of a voxel's vector lie side by side.
    skipped_bytes
        How many of the data come before the voxels, once decompressed; -1 where the voxels are the last ones.
    has_axes
        Whether it says how the axes of its world lie in the patient.
    unit
        In which lengths are given.
    """

    files: tuple[Path, ...]
    offset: int
    is_compressed: bool
    is_raw: bool
    is_big_endian: bool
    sized_axes: int
    vectors: str = ""
    components_first: bool = True
    skipped_bytes: int = 0
    has_axes: bool = True
    unit: str = _MM


def read_nrrd(path: Path) -> Image:
    """Read a scalar NRRD or MetaImage file; ``read_image`` documents the result.

    Raises
    ------
    InputError
        When the file is damaged, foreign or not scalar, has more than one frame, or an impossible voxel size.
    """
    with reading(path):
        header, reader = _read_header(path)
        if (components := reader.GetNumberOfComponents()) != 1:
            if reader.HasMetaDataKey("Segment0_ID"):
                raise InputError(
                    f"{path}: its segments overlap and lie in {components} layers; export those needed as a labelmap, "
                    "or each as a file of its own"
                )
            raise InputError(f"{path}: {components} values a voxel (colour or vectors); convert it to one, greyscale")
        size = reader.GetSize()
        if math.prod(size[3:]) > 1:
            raise InputError(f"{path}: is {len(size)}D, size {size}; save one 3D volume of it")
        origin, spacing, direction = sitk_geometry(reader)
        scale = _unit_mm(path, header)
        image = image_from_geometry(
            _voxels(path, header, reader), scale * origin, scale * spacing, direction, name=str(path)
        )
        if not header.has_axes and image.ndim == 3:
            remark(log, "%s: its header names no space of the patient; its axes are taken for LPS, a guess", path)
    return replace(image, spacing_known=header.sized_axes >= image.ndim)


def read_nrrd_field(path: Path) -> DisplacementField:
    """Read a displacement field, vectors in LPS mm, from a NRRD or MetaImage file.

    Raises
    ------
    InputError
        When the file is damaged or foreign, or does not hold one vector in LPS a voxel.
    """
    with reading(path):
        header, reader = _read_header(path)
        size, components = reader.GetSize(), reader.GetNumberOfComponents()
        if components != len(size) or len(size) not in (2, 3):
            raise InputError(
                f"{path}: {components} components in {len(size)}D; a displacement field has one for each dimension"
            )
        if header.vectors:
            raise InputError(
                f"{path}: {header.vectors}, so the axes or lengths of its vectors are not known; convert it to a "
                "field in left-posterior-superior, mm"
            )
        array = _voxels(path, header, reader).astype(np.float32, copy=False)
        origin, spacing, direction = sitk_geometry(reader)
        return DisplacementField(array, Grid.make(size[::-1], origin=origin, spacing=spacing, direction=direction))


def is_nrrd_field(path: Path) -> bool:
    """Tell by its header whether a NRRD or MetaImage file holds a vector of real numbers, one for each axis, a voxel.

    Raises
    ------
    InputError
        When the file is damaged or foreign.
    """
    with reading(path):
        _, reader = _read_header(path)
        if reader.GetNumberOfComponents() != reader.GetDimension():
            return False
        return _component_type(path, reader).kind == "f"  # whole numbers are colours


def _read_header(path: Path) -> tuple[_Header, Any]:
    """Return a file's header, and SimpleITK's reader that has read it too."""
    import SimpleITK as sitk

    header = _nrrd_header(path) if path.name.lower().endswith(NRRD) else _metaimage_header(path)
    for file in header.files:
        require_file(file, f"data file of {path}")
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_path(path))
    with decimal_points():
        reader.ReadImageInformation()
    spacing = np.asarray(reader.GetSpacing())
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"{path}: voxel size {spacing.tolist()} mm; write the true voxel size into its header")
    return header, reader


def _unit_mm(path: Path, header: _Header) -> float:
    """Return how many mm the unit of a header is.

    Raises
    ------
    InputError
        When it is not known.
    """
    scale = _UNITS_MM.get(header.unit)
    if scale is None:
        raise InputError(f"{path}: its lengths are in {header.unit!r}, which is not known; write them in mm")
    if scale != 1:
        remark(log, "%s: its lengths are in %s; they are converted to mm", path, header.unit)
    return scale


def _voxels(path: Path, header: _Header, reader: Any) -> NDArray[Any]:
    """Return the numbers of a file, (*array shape) or (*array shape, components), in this machine's byte order."""
    kind, components = _component_type(path, reader), reader.GetNumberOfComponents()
    size = math.prod(reader.GetSize()) * components * kind.itemsize
    if (header.is_raw or header.is_compressed) and len(header.files) == 1:
        require_plausible_size(header.files[0], size, compressed=header.is_compressed)
    if header.is_raw and header.skipped_bytes >= 0:
        held = sum(file.stat().st_size - header.offset - header.skipped_bytes for file in header.files)
        _compare_size(path, header, held, size)
    if not header.is_compressed:
        return _read_by_itk(reader)
    array: NDArray[Any] = np.empty(size // kind.itemsize, dtype=kind.newbyteorder(">" if header.is_big_endian else "<"))
    held = _inflate(header, array.view(np.uint8).data)  # verifies the checksum
    if header.skipped_bytes >= 0:
        _compare_size(path, header, held - header.skipped_bytes, size)
    if held != size or header.skipped_bytes or (components > 1 and not header.components_first):
        return _read_by_itk(reader)  # another layout, which ITK may know
    shape = reader.GetSize()[::-1] + ((components,) if components > 1 else ())
    return array.astype(kind, copy=False).reshape(shape)


def _read_by_itk(reader: Any) -> NDArray[Any]:
    import SimpleITK as sitk

    with decimal_points():
        array: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
    return array


def _compare_size(path: Path, header: _Header, held: int, size: int) -> None:
    """Refuse fewer bytes of data than a header claims, which ITK may fill with whatever is in memory; say of more."""
    if held < size:
        where = f" in {len(header.files)} files" if len(header.files) > 1 else ""
        raise InputError(
            f"cannot read {path}: its header claims {size} bytes of data, it holds {held}{where}; is it complete, and "
            "does the header name all of its files? Copy or export it again"
        )
    remark_surplus(log, header.files[0] if len(header.files) == 1 else path, held, size)


def _inflate(header: _Header, target: memoryview) -> int:
    """Fill a buffer with the decompressed data of a file, and return how many bytes there are of them."""
    count = 0
    for path in header.files:
        with path.open("rb") as file:
            file.seek(header.offset)
            for data in _inflated(file):
                part = data[: max(0, len(target) - count)]
                target[count : count + len(part)] = part
                count += len(data)
    return count


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the data of a gzip or zlib stream, whose checksum zlib verifies at its end."""
    pending = file.read(_READ_BYTES)
    while True:
        stream = zlib.decompressobj(wbits=_ANY_DEFLATE)
        while not stream.eof:
            if not pending:
                yield stream.flush()
                if not stream.eof:
                    raise EOFError("the compressed data end early")
                break
            yield stream.decompress(pending, _INFLATED_BYTES)
            pending = stream.unconsumed_tail or (b"" if stream.eof else file.read(_READ_BYTES))
        pending = stream.unused_data or file.read(_READ_BYTES)
        if not pending.startswith(_GZIP):  # gzip files may consist of several streams
            return


def _component_type(path: Path, reader: Any) -> np.dtype[Any]:
    import SimpleITK as sitk

    names = {
        "UInt8": "u1", "Int8": "i1", "UInt16": "u2", "Int16": "i2", "UInt32": "u4", "Int32": "i4", "UInt64": "u8",
        "Int64": "i8", "Float32": "f4", "Float64": "f8",
    }  # fmt: skip
    kinds = {getattr(sitk, f"sitk{vector}{name}"): kind for name, kind in names.items() for vector in ("", "Vector")}
    if reader.GetPixelID() not in kinds:
        raise InputError(f"{path}: its voxels are {reader.GetPixelIDTypeAsString()}; convert them to real numbers")
    return np.dtype(kinds[reader.GetPixelID()])


# headers


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the files in which a NRRD or MetaImage header says that its data lie; none where they follow it.

    Raises
    ------
    InputError
        When the header cannot be read.
    """
    with reading(path):
        fields = _nrrd_fields if path.name.lower().endswith(NRRD) else _metaimage_fields
        return tuple(path.parent / name for name in fields(path)[1])


def _nrrd_fields(path: Path) -> tuple[dict[str, str], list[str], int]:
    """Return the fields of a header, the names of the data's files, none for its own, and its length in bytes."""
    fields, names = {}, []
    with path.open("rb") as file:
        while line := file.readline(_LINE_BYTES).decode("utf-8", "replace").strip():
            key, separator, value = line.partition(": ")
            key = key.strip().lower().replace(" ", "")
            if key == "datafile" and value.strip().lower().startswith("list"):
                names = [entry.decode("utf-8").strip() for entry in file if entry.strip()]
                break
            if separator and not line.startswith("#"):
                fields[key] = value.strip()
        return fields, names or _numbered(fields.get("datafile", ""), path), file.tell()


def _nrrd_header(path: Path) -> _Header:
    fields, detached, offset = _nrrd_fields(path)
    encoding = fields.get("encoding", "").lower()
    if encoding in ("bzip2", "bz2"):
        raise InputError(f"{path}: its encoding, {encoding}, is not read; save it with the encoding gzip or raw")
    axes = fields.get("spacedirections", fields.get("kinds", ""))
    return _Header(
        files=tuple(path.parent / name for name in detached) or (path,),
        offset=0 if detached else offset,
        is_compressed=encoding in ("gzip", "gz") and fields.get("lineskip", "0") == "0",
        is_raw=encoding == "raw" and fields.get("lineskip", "0") == "0",
        is_big_endian=fields.get("endian", "little").lower() == "big",
        sized_axes=_sized_axes(fields),
        vectors=_open_vectors(fields),
        components_first=not axes.lower().startswith(("(", "domain", "space")),
        skipped_bytes=int(fields.get("byteskip", 0)),
        has_axes=_NAMED_AXES.match(fields.get("space", "")) is not None,
        unit=_unit(fields),
    )


def _sized_axes(fields: dict[str, str]) -> int:
    """Return of how many axes a NRRD says the voxel size: it may be none, or not a number."""
    sizes = re.findall(r"\([^)]*\)", fields.get("spacedirections", "")) or fields.get("spacings", "").split()
    return sum("nan" not in size.lower() for size in sizes)


def _unit(fields: dict[str, str]) -> str:
    """Return the unit of a NRRD's lengths, mm where it says none; several ones where its axes differ."""
    spacings = fields.get("spacings", "").split()
    if "spacedirections" in fields or not spacings:
        units = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
    else:  # one for each axis, also for those that lie in no space
        units = re.findall(r'"([^"]*)"', fields.get("units", ""))
        units = [unit for unit, spacing in zip(units, spacings, strict=False) if spacing.lower() != "nan"][:3]
    return ", ".join(dict.fromkeys(unit.strip() for unit in units if unit.strip() not in ("", "???"))) or _MM


def _open_vectors(fields: dict[str, str]) -> str:
    """Return what of a NRRD header leaves open, or turns, the axes along which vectors have their components."""
    if _UNITS_MM.get(unit := _unit(fields)) != 1:
        return f"its unit is {unit}"
    space = fields.get("space", "left-posterior-superior").lower()
    if space not in ("left-posterior-superior", "lps"):
        return f"its space is {space}"
    frame = fields.get("measurementframe", "")
    axes = [[float(value) for value in axis.strip("() ").split(",")] for axis in frame.split(") ") if axis.strip()]
    is_turned = bool(axes) and not np.allclose(axes, np.eye(len(axes)), atol=1e-6)
    return f"its measurement frame is {frame}" if is_turned else ""


def _metaimage_fields(path: Path) -> tuple[dict[str, str], list[str], int]:
    """Return what :func:`_nrrd_fields` does of a MetaImage header."""
    fields, names = {}, []
    with path.open("rb") as file:
        while line := file.readline(_LINE_BYTES):
            key, _, value = line.decode("utf-8", "replace").partition("=")
            fields[key.strip().lower()] = value.strip()
            if key.strip().lower() == "elementdatafile":
                break
        offset = file.tell()
        data = fields.get("elementdatafile", "")
        if data.lower().startswith("list"):
            names = [entry.decode("utf-8").strip() for entry in file if entry.strip()]
    return fields, names or ([] if data.lower() == "local" else _numbered(data, path)), offset


def _metaimage_header(path: Path) -> _Header:
    fields, detached, offset = _metaimage_fields(path)
    dimensions = fields.get("ndims", "")
    if not (dimensions.isdecimal() and 0 < int(dimensions) <= _MAX_DIMENSIONS):  # ITK writes beyond its memory
        raise InputError(f"cannot read {path}: no MetaImage header, or a damaged one; its NDims is {dimensions!r}")
    _require_numbers(path, fields, int(dimensions))
    is_compressed = _is_true(fields.get("compresseddata", ""))
    skip = int(fields.get("headersize", 0))
    unit = fields.get("distanceunits", "?").replace("?", "") or _MM
    return _Header(
        files=tuple(path.parent / name for name in detached) or (path,),
        offset=max(0, skip) if detached else offset,
        is_compressed=is_compressed,
        is_raw=_is_true(fields.get("binarydata", "")) and not is_compressed,
        is_big_endian=_is_true(fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", ""))),
        skipped_bytes=min(0, skip),
        sized_axes=int(dimensions) if "elementspacing" in fields or "elementsize" in fields else 0,
        vectors="" if _UNITS_MM.get(unit) == 1 else f"its unit is {unit}",
        unit=unit,
    )


def _require_numbers(path: Path, fields: dict[str, str], dimensions: int) -> None:
    """Refuse fields of a MetaImage that are no numbers: ITK takes 12,5 for 12, nan for 0, or fails without a reason."""
    for key, power in _METAIMAGE_NUMBERS.items():
        words, count = fields.get(key, "").split(), dimensions**power
        try:
            is_complete = len(words) >= count and all(math.isfinite(float(word)) for word in words[:count])
        except ValueError:
            is_complete = False
        if key in fields and not is_complete:
            raise InputError(
                f"{path}: {key} is {fields[key]!r}, not {count} finite numbers; correct its header, with decimal points"
            )


def _is_true(value: str) -> bool:
    return value[:1].lower() in ("t", "1", "y")


def _numbered(names: str, path: Path) -> list[str]:
    """Return the file names that one entry of a header stands for: one, or "NAME%03d.raw FIRST LAST STEP"."""
    series = _NUMBERED.fullmatch(names)
    if series is None:
        if "%" in names and not re.search(r"%\d*[diu]\S*\s", names):  # where ITK fails without saying why
            raise InputError(
                f"{path}: its data lie in {names!r}, whose % ITK takes for a numbering; rename that file, here too"
            )
        return [names] if names else []
    limits = [int(number) for number in series[2].split()]
    if len(limits) < 3 or limits[2] == 0:  # at which ITK divides by zero
        raise InputError(f"{path}: its data lie in {names!r}; give the first and the last number, and the step")
    first, last, step = limits[:3]
    return [series[1] % number for number in range(first, last + (1 if step > 0 else -1), step)]

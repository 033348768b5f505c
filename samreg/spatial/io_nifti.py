"""Reading what nibabel knows: NIfTI, in one file or two, Analyze and MGH, compressed by gzip or not.

nibabel notices a file that ends early, which ITK's reader fills with zeros. It stops before gzip's checksum, which is
verified here; whether a file is compressed is told from its content, not its name.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from samreg.errors import InputError
from samreg.spatial.adapters import from_nibabel
from samreg.spatial.claimed_size import remark_surplus, require_plausible_size
from samreg.spatial.files import reading, require_file
from samreg.spatial.image import Image
from samreg.spatial.remarks import remark

log = logging.getLogger(__name__)

NIFTI = (".nii.gz", ".nii")
PAIRS = (".hdr", ".img", ".hdr.gz", ".img.gz")  # NIfTI or Analyze, the header and the voxels apart
MGH = (".mgz", ".mgh", ".mgh.gz")
_ORIENTATION = ".mat"

_LABEL_TABLE = re.compile(rb"<LabelTable>.*?</LabelTable>", re.DOTALL)
_CARET = 30  # the code of such an extension in NIfTI's registry
_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 540  # NIfTI-2's, the longest
_READ_BYTES = 1 << 20


def read_nifti(path: Path) -> Image:
    """Read a NIfTI, Analyze or MGH file; ``read_image`` documents the result.

    Raises
    ------
    InputError
        When the file is damaged, foreign or not scalar, or a voxel size is 0, NaN or infinite.
    """
    with open_nibabel(path) as image:
        return from_nibabel(image, name=str(path))


def label_table(path: Path) -> list[tuple[int, str, tuple[float, float, float]]]:
    """Return the value, name and colour (red, green, blue, 0 to 1) of each label above 0 that a NIfTI header names.

    They stand in a header extension, as Connectome Workbench defined it and TotalSegmentator writes it. A damaged table
    names none, which is said.

    Raises
    ------
    InputError
        When the file is damaged or foreign.
    """
    import nibabel as nib

    with reading(path):
        contents = [extension.content for extension in nib.load(path).header.extensions]  # type: ignore[attr-defined]
    tables = [_LABEL_TABLE.search(content) for content in contents]
    labels = []
    for table in filter(None, tables):
        try:
            for label in ElementTree.fromstring(table[0]):
                value, name = int(label.attrib["Key"]), " ".join((label.text or "").split())
                red, green, blue = (float(label.attrib[key]) for key in ("Red", "Green", "Blue"))
                labels += [(value, name, (red, green, blue))] if value > 0 and name else []
        except (ElementTree.ParseError, KeyError, ValueError) as error:
            remark(log, "%s: the table of labels in its header is damaged (%s); they have no names", path, error)
            return []
    return labels


def add_label_table(image: Any, labels: Iterable[tuple[int, str, tuple[float, float, float]]]) -> None:
    """Put what :func:`label_table` reads into the header of a NIfTI image of nibabel."""
    from nibabel.nifti1 import Nifti1Extension

    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for value, name, colour in labels:
        channels = {key: f"{part:.6g}" for key, part in zip(("Red", "Green", "Blue"), colour, strict=True)}
        ElementTree.SubElement(table, "Label", {"Key": str(value), **channels, "Alpha": "1"}).text = name
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    content = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    image.header.extensions.append(Nifti1Extension(_CARET, content))


def save_nifti(image: Any, path: Path) -> None:
    """Write a NIfTI image of nibabel; on a full disk the file is closed as well, which nibabel.save leaves open."""
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path), "wb") as stream:
        image.to_stream(stream)


@contextlib.contextmanager
def open_nibabel(path: Path) -> Iterator[Any]:
    """Yield the nibabel image of a file whose header is sane; read its voxels within the ``with`` block.

    The end of the block verifies the checksum of a compressed file.

    Raises
    ------
    InputError
        When the file is damaged or foreign, a voxel size is 0, NaN or infinite, or the other file of a pair is missing.
    """
    with reading(path), contextlib.ExitStack() as stack:
        parts = _parts(path)
        files = {key: _open(part, stack) for key, part in parts.items()}
        image = _image_of(files, parts, path)
        size = math.prod(image.shape) * image.dataobj.dtype.itemsize
        require_plausible_size(parts["image"], size, compressed=_is_compressed(files["image"]))
        _warn_of_missing_orientation(image, path)
        yield image
        for file in files.values():
            _read_to_end(file, path)
        if not path.name.lower().endswith(MGH):  # in which scan parameters follow the voxels
            voxels = files["image"]
            end = voxels.tell() if _is_compressed(voxels) else parts["image"].stat().st_size
            remark_surplus(log, parts["image"], end - image.dataobj.offset, size)


def _image_of(files: dict[str, Any], parts: dict[str, Path], path: Path) -> Any:
    """Return the nibabel image of open files, whose voxels are not read yet."""
    from nibabel.fileholders import FileHolder

    first = files.get("header", files["image"])
    raw = first.read(_HEADER_BYTES)
    first.seek(0)
    kind = _kind_of(raw, path)
    _check_header(kind, raw, path)
    if any(key == "header" for key, _ in kind.files_types) and "header" not in files:
        raise InputError(f"{path}: its header says that the voxels lie in an .img file; give its .hdr file")
    holders = {key: FileHolder(str(parts[key]), fileobj=file) for key, file in files.items()}
    holders["mat"] = FileHolder(str(_orientation(path)))
    return kind.from_file_map(holders)


def pair_files(path: Path) -> tuple[Path, ...]:
    """Return what there is of an image in two files: header, voxels, and the orientation that SPM puts beside them."""
    names = {f"{_stem(path)}{ending}".lower() for ending in (*PAIRS, _ORIENTATION)}
    return tuple(sorted(file for file in path.parent.iterdir() if file.name.lower() in names))


def _orientation(path: Path) -> Path:
    """Return the file in which SPM writes the orientation of an Analyze file, which need not be there."""
    return path.with_name(_stem(path) + _ORIENTATION)


def _parts(path: Path) -> dict[str, Path]:
    """Return the files that an image consists of, by nibabel's names for them."""
    name = path.name.lower()
    if not name.endswith(PAIRS):
        return {"image": path}
    siblings = {p.name.lower(): p for p in path.parent.iterdir()}
    stem = _stem(path).lower()
    is_header = name.endswith((".hdr", ".hdr.gz"))
    wanted = [stem + ending for ending in ((".img", ".img.gz") if is_header else (".hdr", ".hdr.gz"))]
    other = next((siblings[other] for other in wanted if other in siblings), None)
    if other is None:
        what = "voxels" if is_header else "header"
        raise InputError(f"{path}: its {what}, {wanted[0]}, are not beside it; copy both files into one folder")
    require_file(other, "image")
    return {"header": path, "image": other} if is_header else {"header": other, "image": path}


def _stem(path: Path) -> str:
    ending = next((e for e in (*NIFTI, *MGH[::-1], *PAIRS[::-1]) if path.name.lower().endswith(e)), "")
    return path.name[: len(path.name) - len(ending)]


def _open(path: Path, stack: contextlib.ExitStack) -> Any:
    """Open a file through gzip where its content says so; of voxels without a header only the name can say it."""
    file = stack.enter_context(path.open("rb"))
    name = path.name.lower()
    is_compressed = name.endswith(".gz") if name.endswith((".img", ".img.gz")) else file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    return stack.enter_context(gzip.GzipFile(fileobj=file)) if is_compressed else file


def _is_compressed(file: Any) -> bool:
    return isinstance(file, gzip.GzipFile)


def _kind_of(raw: bytes, path: Path) -> Any:
    """Return nibabel's class for a file that begins so."""
    import nibabel as nib

    if path.name.lower().endswith(MGH):
        return nib.MGHImage
    sizes = {int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big")}
    if nib.Nifti2Header.sizeof_hdr in sizes:
        return nib.Nifti2Pair if raw[4:7] == b"ni2" else nib.Nifti2Image
    if raw[344:347] == b"ni1":
        return nib.Nifti1Pair
    if nib.AnalyzeHeader.sizeof_hdr in sizes and path.name.lower().endswith(PAIRS):
        return nib.Spm2AnalyzeImage
    return nib.Nifti1Image


def _check_header(kind: Any, raw: bytes, path: Path) -> None:
    """Check voxel sizes before nibabel takes 0 for 1 mm, and the place of the voxels before it takes the header's."""
    if path.name.lower().endswith(MGH):
        return
    header = kind.header_class(binaryblock=raw[: kind.header_class.sizeof_hdr], check=False)
    is_single_nifti = getattr(header, "is_single", False) and bytes(header["magic"]).startswith(b"n+")
    if is_single_nifti and header["vox_offset"] < header.sizeof_hdr:
        raise InputError(
            f"{path}: its voxels are said to begin at byte {int(header['vox_offset'])}, within its header; write "
            f"vox_offset, {header.single_vox_offset} in a file without extensions, into its header"
        )
    _warn_of_unused_intercept(header, path)
    sizes = np.array(header["pixdim"][1 : 1 + min(3, len(header.get_data_shape()))], dtype=np.float64)
    if not np.isfinite(sizes).all() or (sizes == 0).any():
        raise InputError(f"{path}: voxel size {sizes.tolist()} mm; write the true voxel size into its header")
    if (sizes < 0).any():
        remark(log, "%s: negative voxel size %s mm; its absolute value is used", path, sizes.tolist())


def _warn_of_unused_intercept(header: Any, path: Path) -> None:
    """Warn that an intercept without a slope is not added, which programs do not agree about: CT may lack its -1024."""
    slope, intercept = (float(header[key]) if key in header else 0.0 for key in ("scl_slope", "scl_inter"))
    if intercept != 0 and math.isfinite(intercept) and (slope == 0 or not math.isfinite(slope)):
        remark(
            log,
            "%s: its scl_slope is %g, so that its scl_inter, %g, is not added, as the standard has it; ITK, ANTs and "
            "3D Slicer may add it. Are its values right? Write a scl_slope of 1 into its header if it is to be added",
            path, slope, intercept,
        )  # fmt: skip


def _warn_of_missing_orientation(image: Any, path: Path) -> None:
    import nibabel as nib

    if isinstance(image, nib.MGHImage) and not image.header["goodRASFlag"]:
        remark(log, "%s: says no orientation (goodRASFlag is 0); FreeSurfer's default is taken, a guess", path)
    elif isinstance(image, nib.Spm2AnalyzeImage) and not _orientation(path).exists():
        remark(
            log,
            "%s: an Analyze file, which says no orientation; x is taken to run to the left, y to the front, z to the "
            "head, a guess. Convert it to NIfTI with its true orientation",
            path,
        )


def _read_to_end(file: Any, path: Path) -> None:
    """Read what is left of a compressed file, at whose end gzip compares the checksum."""
    if not _is_compressed(file):
        return
    try:
        while file.read(_READ_BYTES):
            pass
    except gzip.BadGzipFile as error:
        # bytes behind the last whole member, which gzip ignores too
        if not str(error).startswith("Not a gzipped file"):
            raise
        remark(log, "%s: bytes that are no part of the image follow it; they are ignored", path)

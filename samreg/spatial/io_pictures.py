"""Reading 2D pictures: PNG, JPEG and TIFF, through ITK; grey TIFFs that it knows in colour alone through Pillow.

PNG has checksums, which ITK verifies. JPEG has none; one that ends early is refused. Of TIFF, data compressed by
deflate have one, which is verified here; LZW and PackBits have none.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.adapters import from_sitk
from samreg.spatial.files import itk_path, reading
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.remarks import remark

log = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

_PRINTED = (".jpg", ".jpeg", ".tif", ".tiff")  # these say how large to print a pixel
_DEFAULT_DPI = (72, 96)
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG, _PNG_TRANSPARENT_GREY = b"\x89PNG", b"\x04"  # the colour type, its 26th byte
_ORIENTATION, _AS_STORED = 274, 1  # of EXIF
_JPEG_TAIL_BYTES = 4096  # where its end is looked for: programs add a little behind it
_TIFF = (b"II*\0", b"MM\0*")
_TIFF_PHOTOMETRIC, _TIFF_SAMPLES = 262, 277
_WHITE_IS_0, _BLACK_IS_0 = 0, 1  # of grey
_RGBA = 4  # values a pixel, to which ITK turns what else it does not know
_FLAT = 2  # dimensions
_TIFF_COMPRESSION, _TIFF_DEFLATE = 259, (8, 32946)
_TIFF_PARTS = ((273, 279), (324, 325))  # offsets and byte counts of strips, of tiles


def read_picture(path: Path) -> Image:
    """Read a grey picture; ``read_image`` documents the result.

    Where the file says no pixel size, it is 1 mm and ``spacing_known`` is False. So it is at a print resolution of 72
    or 96 dots an inch, which programs write into any picture, and for a TIFF of several pages, which are read as the
    slices of a volume and whose distance no file says. TIFFs stored with 0 as white are inverted, and turned as their
    orientation says; JPEGs are not turned, and a remark says so.

    Raises
    ------
    InputError
        When the file is damaged or foreign, or in colour.
    """
    import SimpleITK as sitk

    with reading(path):
        data = path.read_bytes()
        if data.startswith(_PNG) and data[25:26] == _PNG_TRANSPARENT_GREY:  # ITK does not know it
            raise InputError(f"{path}: 2 values a voxel (grey and transparency); convert it to one, greyscale")
        kind = _grey_kind(data)
        reader = sitk.ImageFileReader()
        reader.SetFileName(itk_path(path))
        reader.ReadImageInformation()
        is_converted = reader.GetNumberOfComponents() == _RGBA and kind in (_BLACK_IS_0, _WHITE_IS_0)
        if not is_converted and (components := reader.GetNumberOfComponents()) != 1:
            raise InputError(f"{path}: {components} values a voxel (colour or vectors); convert it to one, greyscale")
        _verify(data, path)
        if data.startswith(_JPEG):
            _warn_of_orientation(path)
        if is_converted:  # tiles, and less than 8 bits a pixel
            spacing = reader.GetSpacing()
            image = Image.from_array(_by_pillow(path, kind), spacing=spacing[:2], name=str(path))
        else:
            image = from_sitk(reader.Execute(), name=str(path))
            if kind == _WHITE_IS_0:
                image = image.with_array(_inverted(image.array))
    return replace(image, spacing_known=image.ndim == _FLAT and not _is_default(image.spacing))


def stored_spacing(path: Path) -> FloatArray:
    """Return the voxel size that a picture's file says, mm, 1 where it says none.

    Raises
    ------
    InputError
        When the file cannot be read.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    with reading(path):
        reader.SetFileName(itk_path(path))
        reader.ReadImageInformation()
    return np.asarray(reader.GetSpacing(), dtype=np.float64)


def _grey_kind(data: bytes) -> int | None:
    """Return how a grey TIFF stores black and white (its PhotometricInterpretation); None of other files."""
    page = next(_pages(data), None) if data[:4] in _TIFF else None
    if page is None or page.get(_TIFF_SAMPLES, 1) != 1:
        return None
    kind: int | None = page.get(_TIFF_PHOTOMETRIC)
    return kind


def _by_pillow(path: Path, kind: int | None) -> NDArray[Any]:
    """Return the pixels of a grey TIFF, black as 0."""
    from PIL import Image as Picture

    with Picture.open(path) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise InputError(f"{path}: several pages, in tiles or of less than 8 bits a pixel; save each as a file")
        array = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    # Pillow turns pixels of 8 bits and less itself
    return _inverted(array) if kind == _WHITE_IS_0 and array.dtype != np.uint8 else array


def _inverted(array: NDArray[Any]) -> NDArray[Any]:
    return np.iinfo(array.dtype).max - array if array.dtype.kind == "u" else array


def _is_default(spacing: FloatArray) -> bool:
    """Tell whether a pixel size is what programs write for pictures of unknown size: 1 mm, or 72 or 96 dots an inch."""
    return bool((spacing == 1).all()) or any(np.allclose(spacing, 25.4 / dots, rtol=1e-3) for dots in _DEFAULT_DPI)


def warn_of_pixel_size(image: Image, path: Path) -> None:
    """Warn that a picture says no pixel size, or only how large to print it."""
    if image.ndim != _FLAT:
        remark(
            log,
            "%s: %d pages, taken for slices, whose distance it does not say, read at 1 mm; give spacing= x, y, z",
            path, len(image.array),
        )  # fmt: skip
        return
    is_printed = path.name.lower().endswith(_PRINTED) and bool((image.spacing != 1).any())
    if is_printed:
        remark(
            log,
            "%s: pixel size %s mm is its print resolution; give spacing= (--pixel-size) if that is not the X-ray's",
            path, image.spacing.round(4).tolist(),
        )  # fmt: skip
    elif not image.spacing_known:
        remark(log, "%s: says no pixel size, read at 1 mm; give spacing= (--pixel-size)", path)


def _warn_of_orientation(path: Path) -> None:
    """Warn that a JPEG is shown otherwise than it is stored, and read: its points may be of the one or of the other."""
    from PIL import Image as Picture

    try:
        with warnings.catch_warnings(), Picture.open(path) as picture:
            warnings.simplefilter("ignore")  # of EXIF that is damaged in part
            orientation = picture.getexif().get(_ORIENTATION, _AS_STORED)
    except (OSError, ValueError, SyntaxError, struct.error, Picture.DecompressionBombError):
        return  # what cannot be read turns the picture in no viewer
    if orientation != _AS_STORED:
        remark(
            log,
            "%s: is to be shown turned or mirrored (EXIF orientation %s), and read as it is stored, as by 3D Slicer; "
            "points that were marked as it is shown lie elsewhere: save the picture turned, without the orientation",
            path, orientation,
        )  # fmt: skip


def _verify(data: bytes, path: Path) -> None:
    """Refuse a JPEG that ends early, and a TIFF whose compressed data do not fit their checksums."""
    if data.startswith(_JPEG) and _JPEG_END not in data[-_JPEG_TAIL_BYTES:]:
        raise InputError(f"cannot read {path}: its end is missing; copy or export it again")
    if data[:4] in _TIFF:
        for part in _deflated_parts(data):
            zlib.decompress(part)


def _deflated_parts(data: bytes) -> Iterator[bytes]:
    """Yield the strips and tiles of a TIFF file that are compressed by deflate."""
    for page in _pages(data):
        if page.get(_TIFF_COMPRESSION) not in _TIFF_DEFLATE:
            continue
        for offsets, counts in _TIFF_PARTS:
            for offset, count in zip(page.get(offsets, ()), page.get(counts, ()), strict=True):
                yield data[offset : offset + count]


def _pages(data: bytes) -> Iterator[Any]:
    """Yield the elements of each page of a TIFF file, by their numbers."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file = io.BytesIO(data)
    page = ImageFileDirectory_v2(file.read(8))
    visited = {0}
    while page.next not in visited:
        visited.add(page.next)
        file.seek(page.next)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow only warns of a directory that ends early
            page.load(file)
        yield page

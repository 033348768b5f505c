"""Reading 2D pictures: PNG, JPEG and TIFF, through ITK.

PNG has checksums, which ITK verifies. JPEG has none; one that ends early is refused. Of TIFF, data compressed by
deflate have one, which is verified here; LZW and PackBits have none.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

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
_JPEG_TAIL_BYTES = 4096  # where its end is looked for: programs add a little behind it
_TIFF = (b"II*\0", b"MM\0*")
_TIFF_COMPRESSION, _TIFF_DEFLATE = 259, (8, 32946)
_TIFF_PARTS = ((273, 279), (324, 325))  # offsets and byte counts of strips, of tiles


def read_picture(path: Path) -> Image:
    """Read a grey picture; ``read_image`` documents the result.

    Where the file says no pixel size, it is 1 mm and ``spacing_known`` is False. So it is at a print resolution of 72
    or 96 dots an inch, which programs write into any picture.

    Raises
    ------
    InputError
        When the file is damaged or foreign, in colour, or holds several pages.
    """
    import SimpleITK as sitk

    with reading(path):
        reader = sitk.ImageFileReader()
        reader.SetFileName(itk_path(path))
        reader.ReadImageInformation()
        if (components := reader.GetNumberOfComponents()) != 1:
            raise InputError(f"{path}: {components} values a voxel (colour or vectors); convert it to one, greyscale")
        _verify(path)
        image = from_sitk(reader.Execute(), name=str(path))
    return replace(image, spacing_known=not _is_default(image.spacing))


def _is_default(spacing: FloatArray) -> bool:
    """Tell whether a pixel size is what programs write for pictures of unknown size: 1 mm, or 72 or 96 dots an inch."""
    return bool((spacing == 1).all()) or any(np.allclose(spacing, 25.4 / dots, rtol=1e-3) for dots in _DEFAULT_DPI)


def warn_of_pixel_size(image: Image, path: Path) -> None:
    """Warn that a picture says no pixel size, or only how large to print it."""
    is_printed = path.name.lower().endswith(_PRINTED) and bool((image.spacing != 1).any())
    if is_printed:
        remark(
            log,
            "%s: pixel size %s mm is its print resolution; give spacing= (--pixel-size) if that is not the X-ray's",
            path, image.spacing.round(4).tolist(),
        )  # fmt: skip
    elif not image.spacing_known:
        remark(log, "%s: says no pixel size, read at 1 mm; give spacing= (--pixel-size)", path)


def _verify(path: Path) -> None:
    """Refuse a JPEG that ends early, and a TIFF whose compressed data do not fit their checksums."""
    data = path.read_bytes()
    if data.startswith(_JPEG) and _JPEG_END not in data[-_JPEG_TAIL_BYTES:]:
        raise InputError(f"cannot read {path}: its end is missing; copy or export it again")
    if data[:4] in _TIFF:
        for part in _deflated_parts(data):
            zlib.decompress(part)


def _deflated_parts(data: bytes) -> Iterator[bytes]:
    """Yield the strips and tiles of a TIFF file that are compressed by deflate."""
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
        if page.get(_TIFF_COMPRESSION) not in _TIFF_DEFLATE:
            continue
        for offsets, counts in _TIFF_PARTS:
            for offset, count in zip(page.get(offsets, ()), page.get(counts, ()), strict=True):
                yield data[offset : offset + count]

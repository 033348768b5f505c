"""Reading and writing images, by one module for each family of formats.

``io_nifti`` reads NIfTI, Analyze and MGH, ``io_nrrd`` NRRD and MetaImage, ``io_pictures`` 2D pictures, ``io_dicom``
DICOM.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from numpy.typing import ArrayLike

from samreg.errors import InputError
from samreg.spatial.adapters import to_nibabel, to_sitk
from samreg.spatial.files import atomic_path, require_file, require_path, write_by_itk
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.io_nifti import MGH, NIFTI, PAIRS, pair_files, read_nifti, save_nifti
from samreg.spatial.io_nrrd import METAIMAGE, NRRD, data_files, read_nrrd
from samreg.spatial.io_pictures import PICTURES, read_picture, warn_of_pixel_size
from samreg.spatial.io_segmentations import SEGMENTATION, write_segmentation
from samreg.spatial.remarks import remarks_kept

WRITABLE = (*NIFTI, ".nrrd", ".mha")
_NIBABEL = (*NIFTI, *PAIRS, *MGH)
_VOLUMES = (*NIFTI, ".hdr", ".hdr.gz", *MGH, *NRRD, *METAIMAGE)  # what of a folder is taken as its images
READABLE = (*_VOLUMES, *PICTURES, ".dcm")  # .img of a pair is read as well


def read_image(
    path: str | os.PathLike[str], *, series: str | int | None = None, spacing: ArrayLike | None = None
) -> Image:
    """Read a scalar image, 2D or 3D.

    Parameters
    ----------
    path
        A NIfTI, Analyze, MGH, NRRD, MetaImage, PNG, JPEG, TIFF or DICOM file, or a folder that holds a DICOM series.
    series
        Which series of a DICOM folder to take: its UID, its number in the list that the error message shows, or
        a part of its description that no other series has. Needed only where the folder holds several.
    spacing
        Voxel size in mm, one number or one for each axis x, y(, z), for files that say none (pictures) or a wrong one;
        the file's origin stays.

    Returns
    -------
    Image
        In LPS mm. Stored integers keep their type unless the file scales them (then float32). DICOM images stored
        with the lowest value white (MONOCHROME1) are inverted, so that bone is bright. Where a file says no voxel
        size, it is 1 mm and ``spacing_known`` is False. What was decided where it leaves doubt is in ``remarks``.

    Raises
    ------
    InputError
        When the file is missing, empty, damaged or of another kind, is not a scalar 2D or 3D image, has an
        impossible voxel size, or the folder holds no DICOM series, several, or one with missing slices. Checksums of
        compressed files are verified.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import samreg
    >>> path = pathlib.Path(tempfile.mkdtemp(), "scan.nii.gz")
    >>> samreg.write_image(samreg.Image.from_array([[[0, 1, 2]]], spacing=(0.8, 0.8, 5)), path)
    >>> samreg.read_image(path).spacing.round(3).tolist()
    [0.8, 0.8, 5.0]
    """
    path = require_file(path, "image")
    with remarks_kept() as remarks:
        image = _read(path, series, spacing)
        if spacing is None and path.name.lower().endswith(PICTURES):
            warn_of_pixel_size(image, path)
    image = replace(image, remarks=tuple(remarks))
    if spacing is None:
        return image
    try:
        grid = Grid.make(image.shape, origin=image.origin, spacing=spacing, direction=image.direction)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return replace(image, grid=grid, spacing_known=True)


def _read(path: Path, series: str | int | None, spacing: ArrayLike | None) -> Image:
    from samreg.spatial.io_dicom import is_dicom, read_dicom  # loads pydicom

    name = path.name.lower()
    if path.is_dir() or name.endswith(".dcm") or (not name.endswith(_NIBABEL) and is_dicom(path)):
        return read_dicom(path, series=series, spacing=spacing)
    if series is not None:
        raise InputError(f"series= chooses within DICOM, but {path} is none; leave it out")
    for suffixes, read in ((_NIBABEL, read_nifti), ((*NRRD, *METAIMAGE), read_nrrd), (PICTURES, read_picture)):
        if name.endswith(suffixes):
            return read(path)
    raise InputError(f"unknown image format: {path}; give {', '.join(READABLE)} or a DICOM folder")


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files that an image consists of, the one named first; of any other file that alone.

    A header (.mhd, .nhdr, .hdr) has its voxels in others.

    Raises
    ------
    InputError
        When a NRRD or MetaImage header cannot be read.
    """
    name = path.name.lower()
    others: tuple[Path, ...] = ()
    if name.endswith((*NRRD, *METAIMAGE)):
        others = data_files(path)
    elif name.endswith(PAIRS):
        others = pair_files(path)
    return tuple(dict.fromkeys((path, *others)))


def write_image(image: Image, path: str | os.PathLike[str]) -> None:
    """Write an image; the format follows from the suffix: .nii, .nii.gz, .nrrd, .seg.nrrd or .mha.

    Labels named .seg.nrrd become a segmentation of 3D Slicer, see :func:`samreg.spatial.write_segmentation`. Boolean
    masks are stored as uint8. A file of that name is replaced only when the new one is complete.

    Parameters
    ----------
    image
        2D or 3D.
    path
        The file to write; its folder is made when missing.

    Raises
    ------
    InputError
        When the suffix is none of these, or the file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import samreg
    >>> path = pathlib.Path(tempfile.mkdtemp(), "mask.nrrd")
    >>> samreg.write_image(samreg.Image.from_array([[True, False]], spacing=0.5), path)
    >>> samreg.read_image(path).array
    array([[1, 0]], dtype=uint8)
    """
    if not isinstance(image, Image):
        raise InputError(f"cannot write {path}: a {type(image).__name__} is no Image; convert it with samreg.as_image")
    path = Path(path)
    name = path.name.lower()
    if name.endswith((".mhd", ".nhdr")):
        raise InputError(f"cannot write {path}: a header with its data apart is not written; use .mha or .nrrd")
    if not name.endswith(WRITABLE):
        raise InputError(f"cannot write {path}: unknown image format; use one of {', '.join(WRITABLE)}")
    if name.endswith(SEGMENTATION):
        write_segmentation(image, path)
        return
    if name.endswith(NIFTI):
        with atomic_path(path) as temporary:
            save_nifti(to_nibabel(image), temporary)
        return
    write_by_itk(to_sitk(image), path)


def holds_dicom(folder: Path) -> bool:
    """Tell whether a path is a folder that holds a DICOM file: others, of labels or maps, may lie beside the images."""
    return folder.is_dir() and not folder.name.startswith(".") and _has_dicom(folder)


def _has_dicom(folder: Path) -> bool:
    from samreg.spatial.dicom.header import may_be_dicom  # loads pydicom, which other formats do without

    return any(may_be_dicom(path) for path in sorted(folder.iterdir()) if path.is_file())


def is_image_path(path: Path) -> bool:
    """Tell whether a path is that of a file or folder that :func:`read_image` takes, by its suffix or as DICOM."""
    if path.is_dir():
        return _has_dicom(path)
    if not path.is_file():
        return False
    from samreg.spatial.io_dicom import is_dicom  # loads pydicom

    return path.name.lower().endswith((*READABLE, *PAIRS)) or is_dicom(path)


def find_images(*paths: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the images that paths stand for, by name without suffix.

    Parameters
    ----------
    *paths
        Image files, DICOM folders, and folders of these: volumes, and sub-folders that each hold a DICOM series. Of a
        folder without volumes its 2D pictures; beside volumes these are none of the images.

    Returns
    -------
    dict
        Name to path, in the order of the paths and, within a folder, of the names.

    Raises
    ------
    InputError
        When a path is missing, a folder is empty, or two images share a name.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from samreg.spatial import find_images
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("b.nii.gz", "a.nrrd", "notes.txt"):
    ...     _ = (folder / name).write_bytes(b"")
    >>> list(find_images(folder))
    ['a', 'b']
    """
    images: dict[str, Path] = {}
    if "" in paths:  # which Path takes for the working folder
        raise InputError("images: a path is empty; give one")
    for path in [require_path("image", path) for path in paths]:
        if not path.exists():
            raise InputError(f"image not found: {path}; check the path (working folder: {Path.cwd()})")
        for image in _images_in(path) if path.is_dir() else [path]:
            ending = next((s for s in (*READABLE, *PAIRS) if image.name.lower().endswith(s) and not image.is_dir()), "")
            name = image.absolute().name
            name = name[: len(name) - len(ending)]
            if name in images:
                raise InputError(f"{images[name]} and {image} share the name {name!r}; rename one")
            images[name] = image
    return images


def _images_in(folder: Path) -> list[Path]:
    """Return the images of a folder, in the order of their names; the folder itself where it holds DICOM slices."""
    inside = sorted(folder.iterdir())
    if not inside:
        raise InputError(f"no images in {folder}: it is empty")
    shown = [path for path in inside if not path.name.startswith(".")]
    volumes = [path for path in shown if path.is_dir() or path.name.lower().endswith(_VOLUMES)]
    pictures = [path for path in shown if path.is_file() and path.name.lower().endswith(PICTURES)]
    if pictures and not _has_dicom(folder) and not any(path.is_file() or _has_dicom(path) for path in volumes):
        return pictures
    return volumes or [folder]

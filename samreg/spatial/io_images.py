"""Reading and writing images: NIfTI, NRRD, MetaImage and 2D pictures; DICOM has its own module, ``io_dicom``.

NIfTI goes through nibabel, which notices a truncated file (ITK's reader fills it with zeros and says nothing);
everything else goes through SimpleITK.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samreg.errors import InputError
from samreg.spatial.adapters import from_nibabel, from_sitk, to_nibabel, to_sitk
from samreg.spatial.files import atomic_path, reading, reason, require_file
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image

log = logging.getLogger(__name__)

NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_PRINTED = (".jpg", ".jpeg", ".tif", ".tiff")  # pictures that say how large to print a pixel
WRITABLE = (*NIFTI, ".nrrd", ".mha")
READABLE = (*WRITABLE, ".nhdr", ".mhd", *PICTURES, ".dcm")

_VOLUMES = (*WRITABLE, ".nhdr", ".mhd")  # what of a folder is taken as its images


def read_image(
    path: str | os.PathLike[str], *, series: str | int | None = None, spacing: ArrayLike | None = None
) -> Image:
    """Read a scalar image, 2D or 3D.

    Parameters
    ----------
    path
        A NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF or DICOM file, or a folder that holds a DICOM series.
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
        with the lowest value white (MONOCHROME1) are inverted, so that bone is bright.

    Raises
    ------
    InputError
        When the file is missing, empty, damaged or of another kind, is not a scalar 2D or 3D image, has an
        impossible voxel size, or the folder holds no DICOM series, several, or one with missing slices.
    """
    path = require_file(path, "image")
    image = _read(path, series, spacing)
    if spacing is None:
        name = path.name.lower()
        if name.endswith(PICTURES) and set(image.spacing.tolist()) == {1.0}:
            log.warning("%s: says no pixel size; 1 mm is assumed", path)
        elif name.endswith(_PRINTED):
            log.warning(
                "%s: pixel size %s mm is its print resolution; give spacing= (--pixel-size) if that is not the X-ray's",
                path, image.spacing.round(4).tolist(),
            )  # fmt: skip
        return image
    try:
        grid = Grid.make(image.shape, origin=image.origin, spacing=spacing, direction=image.direction)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return replace(image, grid=grid)


def _read(path: Path, series: str | int | None, spacing: ArrayLike | None) -> Image:
    from samreg.spatial.io_dicom import is_dicom, read_dicom  # loads pydicom

    name = path.name.lower()
    if path.is_dir() or (not name.endswith(NIFTI) and (name.endswith(".dcm") or is_dicom(path))):
        return read_dicom(path, series=series, spacing=spacing)
    if series is not None:
        raise InputError(f"series= chooses within DICOM, but {path} is none; leave it out")
    if name.endswith(NIFTI):
        return _read_nifti(path)
    if name.endswith(READABLE):
        return _read_itk(path)
    raise InputError(f"unknown image format: {path}; give {', '.join(READABLE)} or a DICOM folder")


def write_image(image: Image, path: str | os.PathLike[str]) -> None:
    """Write an image; the format follows from the suffix: .nii, .nii.gz, .nrrd or .mha.

    Boolean masks are stored as uint8. A file of that name is replaced only when the new one is complete.

    Raises
    ------
    InputError
        When the suffix is none of these, or the file cannot be written.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith((".mhd", ".nhdr")):
        raise InputError(f"cannot write {path}: a header with its data apart is not written; use .mha or .nrrd")
    if not name.endswith(WRITABLE):
        raise InputError(f"cannot write {path}: unknown image format; use one of {', '.join(WRITABLE)}")
    with atomic_path(path) as temporary:
        if name.endswith(NIFTI):
            import nibabel as nib

            nib.save(to_nibabel(image), temporary)
            return
        import SimpleITK as sitk

        source = to_sitk(image)
        try:
            sitk.WriteImage(source, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise InputError(
                f"cannot write {path}: {reason(error)}; check the folder's permissions and the free disk space"
            ) from error


def find_images(*paths: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the images that paths stand for, by name without suffix.

    Parameters
    ----------
    *paths
        Image files, DICOM folders, and folders of these: volumes, and sub-folders that each hold a DICOM series.

    Raises
    ------
    InputError
        When a path is missing, a folder is empty, or two images share a name.
    """
    images: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"image not found: {path}; check the path (working folder: {Path.cwd()})")
        inside = sorted(path.iterdir()) if path.is_dir() else []
        if path.is_dir() and not inside:
            raise InputError(f"no images in {path}: it is empty")
        volumes = [p for p in inside if p.name.lower().endswith(_VOLUMES) or p.is_dir()]
        for image in [p for p in volumes if not p.name.startswith(".")] or [path]:
            ending = next((s for s in READABLE if image.name.lower().endswith(s) and not image.is_dir()), "")
            name = image.absolute().name
            name = name[: len(name) - len(ending)]
            if name in images:
                raise InputError(f"{images[name]} and {image} share the name {name!r}; rename one")
            images[name] = image
    return images


def load_nifti(path: Path) -> Any:
    """Return the nibabel image of a NIfTI file whose header is sane; its voxels are not read yet.

    Raises
    ------
    InputError
        When the file is damaged or foreign, or a voxel size is 0, NaN or infinite.
    """
    import nibabel as nib

    with reading(path):
        # nibabel silently mends voxel sizes of 0 to 1 mm: look at the header before it does
        with nib.openers.Opener(str(path)) as file:
            raw = file.read(nib.Nifti2Header.sizeof_hdr)
        two = len(raw) >= 540 and 540 in (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big"))
        kind = nib.Nifti2Header if two else nib.Nifti1Header
        header = kind(binaryblock=raw[: kind.sizeof_hdr], check=False)
        image: Any = nib.load(str(path))
    sizes = np.array(header["pixdim"][1 : 1 + min(3, len(image.shape))], dtype=np.float64)
    if not np.isfinite(sizes).all() or (sizes == 0).any():
        raise InputError(f"{path}: voxel size {sizes.tolist()} mm; write the true voxel size into its header")
    if int(header["qform_code"]) == 0 and int(header["sform_code"]) == 0:
        log.warning("%s: neither qform nor sform is set; the orientation is a guess", path)
    return image


def _read_nifti(path: Path) -> Image:
    image = load_nifti(path)
    with reading(path):
        return from_nibabel(image, name=str(path))


def _read_itk(path: Path) -> Image:
    import SimpleITK as sitk

    with reading(path):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if (components := reader.GetNumberOfComponents()) != 1:
            raise InputError(f"{path}: {components} values a voxel (colour or vectors); convert it to one, greyscale")
        if reader.GetDimension() > 3:
            raise InputError(f"{path}: is {reader.GetDimension()}D, size {reader.GetSize()}; save one 3D volume of it")
        spacing = np.asarray(reader.GetSpacing())
        if not (np.isfinite(spacing) & (spacing > 0)).all():
            raise InputError(f"{path}: voxel size {spacing.tolist()} mm; write the true voxel size into its header")
        return from_sitk(reader.Execute(), name=str(path))

"""Reading and writing images: NIfTI, NRRD, MetaImage, DICOM, and 2D pictures.

NIfTI goes through nibabel, which notices a truncated file (ITK's reader fills it with zeros and says nothing);
everything else goes through SimpleITK.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samreg.errors import InputError
from samreg.spatial.adapters import from_nibabel, from_sitk, place, to_nibabel, to_sitk
from samreg.spatial.files import atomic_path, reading, reason, require_file
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image

log = logging.getLogger(__name__)

NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_PRINTED = (".jpg", ".jpeg", ".tif", ".tiff")  # pictures that say how large to print a pixel
WRITABLE = (*NIFTI, ".nrrd", ".mha")
READABLE = (*WRITABLE, ".nhdr", ".mhd", *PICTURES, ".dcm")

_VOLUMES = (*WRITABLE, ".nhdr", ".mhd")  # what of a folder is taken as its images

_SLICE_GAP = 0.25  # relative deviation of a slice distance that is a missing or doubled slice
_SLICE_UNEVEN = 0.01  # relative deviation that is worth a warning


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
    image = _read(path, series)
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


def _read(path: Path, series: str | int | None) -> Image:
    if path.is_dir():
        return _read_dicom_folder(path, series)
    if series is not None:
        raise InputError(f"series= chooses within a DICOM folder, but {path} is a file; leave it out")
    name = path.name.lower()
    if name.endswith(NIFTI):
        return _read_nifti(path)
    if name.endswith(READABLE) or _is_dicom(path):
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


def _is_dicom(path: Path) -> bool:
    with reading(path), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_itk(path: Path) -> Image:
    import SimpleITK as sitk

    with reading(path):
        dicom = path.name.lower().endswith(".dcm") or _is_dicom(path)
        reader = _information(path)
        if (components := reader.GetNumberOfComponents()) != 1:
            raise InputError(f"{path}: {components} values a voxel (colour or vectors); convert it to one, greyscale")
        if reader.GetDimension() > 3:
            raise InputError(f"{path}: is {reader.GetDimension()}D, size {reader.GetSize()}; save one 3D volume of it")
        spacing = np.asarray(reader.GetSpacing())
        if not (np.isfinite(spacing) & (spacing > 0)).all():
            raise InputError(f"{path}: voxel size {spacing.tolist()} mm; write the true voxel size into its header")
        image = reader.Execute()
        image = _compact(image) if dicom else image
        # a DICOM picture that lies nowhere in space is a projection
        if dicom and image.GetDimension() == 3 and image.GetSize()[2] == 1 and not _position(reader):
            image = sitk.Extract(image, (*image.GetSize()[:2], 0), (0, 0, 0))
            image.SetDirection((1, 0, 0, 1))
            return _projection(image, reader, str(path))
        return from_sitk(image, name=str(path))


def _projection(image: Any, reader: Any, name: str) -> Image:
    """Return a DICOM X-ray with its calibrated pixel size, else that at the detector."""
    # ITK looks at the detector's pixel size only; both say the distance of rows (y) first
    sizes = _tag(reader, "0028|0030") or _tag(reader, "0018|1164")
    if sizes:
        image.SetSpacing([float(value) for value in reversed(sizes.split("\\"))])
    else:
        log.warning("%s: says no pixel size; 1 mm is assumed", name)
    return from_sitk(image, name=name)


def _information(path: str | os.PathLike[str]) -> Any:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _compact(image: Any) -> Any:
    """Rescaled DICOM comes as float64, which CT does not need."""
    import SimpleITK as sitk

    return sitk.Cast(image, sitk.sitkFloat32) if image.GetPixelID() == sitk.sitkFloat64 else image


@dataclass(frozen=True)
class _Series:
    uid: str
    description: str
    files: tuple[str, ...]


def _read_dicom_folder(folder: Path, series: str | int | None) -> Image:
    import SimpleITK as sitk

    found = []
    with reading(folder):
        for uid in sorted(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))):
            files = tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))
            found.append(_Series(uid, _tag(_information(files[0]), "0008|103e"), files))
    if not found:
        inside = sorted(p.name for p in folder.iterdir())[:5]
        raise InputError(
            f"no DICOM images in the folder {folder} (it holds {inside or 'nothing'}); give the folder that holds "
            "the slices themselves"
        )
    chosen = _choose(found, series, folder)
    name = str(folder) if len(found) == 1 else f"{folder} ({chosen.description or chosen.uid})"
    if len(chosen.files) == 1:
        single = _read_itk(Path(chosen.files[0]))
        return Image(single.array, single.grid, name)
    with reading(folder):
        return _read_slices(chosen.files, name)


def _choose(found: list[_Series], series: str | int | None, folder: Path) -> _Series:
    wanted = "" if series is None else str(series).strip()
    if not wanted and len(found) == 1:
        return found[0]
    exact = [s for s in found if s.uid == wanted]
    if not exact and wanted.isdigit() and 1 <= int(wanted) <= len(found):
        exact = [found[int(wanted) - 1]]
    matches = exact or [s for s in found if wanted and wanted.lower() in s.description.lower()]
    if len(matches) == 1:
        return matches[0]
    listing = "\n".join(
        f"  {i}: {s.uid}  '{s.description}', {len(s.files)} slices" for i, s in enumerate(found, start=1)
    )
    problem = f"{len(matches) or 'no'} series match {wanted!r}" if wanted else f"{len(found)} DICOM series"
    raise InputError(
        f"{problem} in {folder}; choose one with series= (--series on the command line): its number, its UID or a "
        f"part of its description\n{listing}"
    )


def _read_slices(files: tuple[str, ...], name: str) -> Image:
    """Read sorted slice files; a tilted gantry (slices offset sideways) is resampled onto an orthogonal grid."""
    import SimpleITK as sitk

    headers = [_information(file) for file in files]
    origins, axes = [_position(h) for h in headers], [_axes(h) for h in headers]
    if not all(origins) or any(a is None for a in axes):
        raise InputError(f"{name}: {len(files)} images without a position in space; give one file of them")
    positions, first = np.asarray(origins), np.asarray(axes[0])
    if max(float(np.abs(a - first).max()) for a in axes) > 1e-3:
        raise InputError(f"{name}: the slices lie at different angles (a localizer?); put one stack in the folder")
    sizes = {h.GetSize()[:2] for h in headers}
    if len(sizes) > 1:
        raise InputError(f"{name}: the slices have different sizes {sorted(sizes)}; put one stack in the folder")
    _check_gaps(positions, np.cross(first[0], first[1]), files, name)
    array = sitk.GetArrayFromImage(_compact(sitk.ReadImage(list(files))))
    if array.ndim != 3:
        raise InputError(f"{name}: several values a voxel (colour); convert it to greyscale")
    to_world = np.eye(4)
    to_world[:3, 0], to_world[:3, 1] = first * np.asarray(headers[0].GetSpacing()[:2])[:, None]
    to_world[:3, 2] = (positions[-1] - positions[0]) / (len(files) - 1)
    to_world[:3, 3] = positions[0]
    return place(array, to_world, name=name)


def _check_gaps(positions: FloatArray, normal: FloatArray, files: tuple[str, ...], name: str) -> None:
    heights = positions @ normal
    steps = np.abs(np.diff(heights))
    usual = float(np.median(steps))
    if usual < 1e-3 or steps.min() < 1e-3:
        doubled = int(np.argmin(steps))
        raise InputError(
            f"{name}: several slices lie at {heights[doubled]:.2f} mm along the stack, such as "
            f"{Path(files[doubled]).name} and {Path(files[doubled + 1]).name} (a time series, or copies?); keep one of "
            "each"
        )
    deviation = np.abs(steps - usual) / usual
    worst = int(np.argmax(deviation))
    where = (
        f"between {Path(files[worst]).name} and {Path(files[worst + 1]).name} ({heights[worst]:.2f} and "
        f"{heights[worst + 1]:.2f} mm along the stack) lie {steps[worst]:.3f} mm, elsewhere {usual:.3f} mm"
    )
    if deviation[worst] > _SLICE_GAP:
        missing = int(sum(round(step / usual) - 1 for step in steps if step > usual))
        raise InputError(f"{name}: {missing or 'no'} slices missing, or uneven: {where}; fetch the whole series")
    if deviation[worst] > _SLICE_UNEVEN:
        log.warning("%s: uneven slices: %s; the mean distance is used", name, where)


def _tag(reader: Any, key: str) -> str:
    return str(reader.GetMetaData(key)).strip() if reader.HasMetaDataKey(key) else ""


def _position(reader: Any) -> tuple[float, ...]:
    """Return ImagePositionPatient, LPS mm, or () where there is none."""
    return tuple(float(v) for v in _tag(reader, "0020|0032").split("\\") if v)


def _axes(reader: Any) -> FloatArray | None:
    """Return ImageOrientationPatient as (2, 3), the directions of rows and columns, or None."""
    values = [float(v) for v in _tag(reader, "0020|0037").split("\\") if v]
    return np.asarray(values).reshape(2, 3) if len(values) == 6 else None

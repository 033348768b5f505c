"""Reading DICOM: single files and folders that hold series."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samreg.errors import InputError
from samreg.spatial.adapters import from_sitk, place
from samreg.spatial.files import reading
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image

log = logging.getLogger(__name__)

_SLICE_GAP = 0.25  # relative deviation of a slice distance that is a missing or doubled slice
_SLICE_UNEVEN = 0.01  # relative deviation that is worth a warning


def read_dicom(path: Path, *, series: str | int | None = None, spacing: ArrayLike | None = None) -> Image:
    """Read a DICOM file, or one series of a folder; ``read_image`` documents the parameters.

    Raises
    ------
    InputError
        When the file is damaged or no scalar image, or the folder holds no DICOM series, several, or one with
        missing slices.
    """
    if path.is_dir():
        return _read_dicom_folder(path, series)
    if series is not None:
        raise InputError(f"series= chooses within a DICOM folder, but {path} is a file; leave it out")
    return _read_itk(path)


def is_dicom(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do."""
    with reading(path), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_itk(path: Path) -> Image:
    import SimpleITK as sitk

    with reading(path):
        reader = _information(path)
        if (components := reader.GetNumberOfComponents()) != 1:
            raise InputError(f"{path}: {components} values a voxel (colour or vectors); convert it to one, greyscale")
        if reader.GetDimension() > 3:
            raise InputError(f"{path}: is {reader.GetDimension()}D, size {reader.GetSize()}; save one 3D volume of it")
        spacing = np.asarray(reader.GetSpacing())
        if not (np.isfinite(spacing) & (spacing > 0)).all():
            raise InputError(f"{path}: voxel size {spacing.tolist()} mm; write the true voxel size into its header")
        image = _compact(reader.Execute())
        # a DICOM picture that lies nowhere in space is a projection
        if image.GetDimension() == 3 and image.GetSize()[2] == 1 and not _position(reader):
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

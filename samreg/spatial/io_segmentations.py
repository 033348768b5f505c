"""Label images in files whose header names each label and gives it a colour.

These are segmentations of 3D Slicer (.seg.nrrd), with the keys of its ``vtkMRMLSegmentationStorageNode`` and all
segments in one layer, as labels cannot overlap; and NIfTI with a table of labels.
"""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError, require_number
from samreg.spatial.adapters import to_nibabel, to_sitk
from samreg.spatial.files import atomic_path, itk_path, reading, require_file, write_by_itk
from samreg.spatial.image import Image
from samreg.spatial.io_nifti import NIFTI, add_label_table, label_table, save_nifti
from samreg.spatial.io_nrrd import NRRD
from samreg.spatial.labels import whole_numbers
from samreg.spatial.numeric_locale import decimal_points

#: The suffix by which 3D Slicer tells a segmentation from a volume.
SEGMENTATION = ".seg.nrrd"
_GOLDEN_RATIO = 0.618034  # neighbouring labels get hues far apart
_MAX_LABEL = 2**31 - 1
_REPRESENTATION = "Binary labelmap"


@dataclass(frozen=True)
class Segment:
    """What one value of a label image stands for.

    Parameters
    ----------
    value
        In the voxels, at least 1.
    name
        What it is.
    colour
        Red, green and blue, 0 to 1; one that follows from the value unless given.

    Raises
    ------
    InputError
        When the value or the colour is out of range, or the name is empty or has several lines.

    Examples
    --------
    >>> Segment(1, "left lung").colour
    (0.4, 0.55, 0.9)
    """

    value: int
    name: str
    colour: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        value = require_number(
            f"the value of segment {self.name!r}", self.value, minimum=1, maximum=_MAX_LABEL, integer=True
        )
        if not isinstance(self.name, str) or not self.name.strip() or len(self.name.splitlines()) != 1:
            raise InputError(f"label {self.value}: its name must be one line of text, got {self.name!r}")
        object.__setattr__(self, "value", value)
        object.__setattr__(
            self, "colour", _default_colour(value) if self.colour is None else _colour(self.colour, self.name)
        )


def _colour(value: object, name: str) -> tuple[float, ...]:
    """Return a colour as three numbers."""
    try:
        colour = tuple(float(part) for part in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        colour = ()
    if isinstance(value, str) or len(colour) != 3 or not all(0 <= part <= 1 for part in colour):
        raise InputError(
            f"segment {name!r}: a colour is red, green and blue from 0 to 1, such as (1, 0, 0), got {value!r}"
        )
    return colour


def write_segmentation(labels: Image, path: str | os.PathLike[str], segments: Iterable[Segment] = ()) -> None:
    """Write a label image in a file that names its labels.

    Parameters
    ----------
    labels
        Whole numbers of any type that are not negative, 0 where there is nothing; or a mask. 3D for .seg.nrrd.
    path
        The file to write: .seg.nrrd, which 3D Slicer opens by drag and drop, or .nii or .nii.gz with a table of labels
        in the header, as TotalSegmentator and Connectome Workbench write it. A file of that name is replaced only when
        the new one is complete.
    segments
        Names and colours of values; other values are named by themselves, and values that no voxel has are left out.

    Raises
    ------
    InputError
        When the image holds no labels, or the file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import samreg
    >>> from samreg.spatial import Segment, read_segments, write_segmentation
    >>> path = pathlib.Path(tempfile.mkdtemp(), "lungs.seg.nrrd")
    >>> labels = samreg.Image.from_array([[[0, 1, 1, 4]]], spacing=2)
    >>> write_segmentation(labels, path, [Segment(1, "left lung", (1, 0, 0))])
    >>> [(segment.value, segment.name) for segment in read_segments(path)]
    [(1, 'left lung'), (4, 'Label 4')]
    """
    path = Path(path)
    name = path.name.lower()
    if not name.endswith((SEGMENTATION, *NIFTI)):
        raise InputError(f"cannot write {path}: name a file of labels {SEGMENTATION}, .nii or .nii.gz")
    write = _write_nifti if name.endswith(NIFTI) else _write_for_slicer
    write(labels, path, {segment.value: segment for segment in segments})


def _write_for_slicer(labels: Image, path: Path, known: Mapping[int, Segment]) -> None:
    array = _label_array(labels)
    image = to_sitk(labels.with_array(array))
    for key, text in _header(array, known).items():
        image.SetMetaData(key, text)
    write_by_itk(image, path)


def _write_nifti(labels: Image, path: Path, known: Mapping[int, Segment]) -> None:
    whole = whole_numbers(labels)
    segments = [_segment(int(value), known) for value in np.unique(whole).tolist() if value > 0]
    image = to_nibabel(labels.with_array(whole.astype(labels.array.dtype)))
    add_label_table(image, [(segment.value, segment.name, _rgb(segment)) for segment in segments])
    with atomic_path(path) as temporary:
        save_nifti(image, temporary)


def read_segments(path: str | os.PathLike[str]) -> tuple[Segment, ...]:
    """Return what the values of a label image stand for, as its header says; its voxels are not read.

    Parameters
    ----------
    path
        A segmentation of 3D Slicer (.seg.nrrd), a DICOM segmentation, or a NIfTI file with a table of labels among its
        header extensions, as TotalSegmentator and Connectome Workbench write it. :func:`samreg.read_image` reads its
        voxels.

    Raises
    ------
    InputError
        When the file is missing, damaged or names no segments, or its segments overlap and lie in several layers.
    """
    path = require_file(path, "segmentation")
    if not (segments := named_segments(path)):
        raise InputError(f"{path}: its header names no segments; give a segmentation that 3D Slicer wrote")
    return segments


def named_segments(path: Path, series: str | None = None) -> tuple[Segment, ...]:
    """Return what :func:`read_segments` does, or nothing where the file, of whatever kind, names no segments.

    ``series`` chooses a segment of a DICOM segmentation, which is read as a mask of ones.

    Raises
    ------
    InputError
        When the file is damaged, or its segments overlap and lie in several layers.
    """
    from samreg.spatial.io_dicom import is_dicom

    name = path.name.lower()
    if name.endswith(NRRD):
        return _of_slicer(path)
    if name.endswith(NIFTI):
        return tuple(Segment(*entry) for entry in label_table(path))
    if path.is_file() and is_dicom(path):
        from samreg.spatial.dicom.series import segment_labels  # loads pydicom

        return tuple(Segment(value, label) for value, label in segment_labels(path, series).items())
    return ()


def _of_slicer(path: Path) -> tuple[Segment, ...]:
    import SimpleITK as sitk

    with reading(path):
        reader = sitk.ImageFileReader()
        reader.SetFileName(itk_path(path))
        with decimal_points():
            reader.ReadImageInformation()
        header = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    segments: list[Segment] = []
    while f"Segment{len(segments)}_ID" in header:
        prefix = f"Segment{len(segments)}_"
        if header.get(f"{prefix}Layer", "0").strip() != "0":
            raise InputError(f"{path}: its segments overlap and lie in several layers; export them as a labelmap")
        with reading(path):
            value = int(header[f"{prefix}LabelValue"])
            colour = [float(part) for part in header.get(f"{prefix}Color", "").split()]
        segments.append(
            Segment(value, header.get(f"{prefix}Name") or f"Label {value}", tuple(colour) if colour else None)  # type: ignore[arg-type]
        )
    return tuple(segments)


def _label_array(labels: Image) -> NDArray[np.integer]:
    """Return the voxels in the smallest type that Slicer takes for labels and that holds them."""
    if labels.ndim != 3:
        raise InputError(f"{labels.label}: a segmentation of 3D Slicer is 3D, the labels are 2D; write .png or .nii.gz")
    array = whole_numbers(labels)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high > _MAX_LABEL or high == 0:
        raise InputError(
            f"{labels.label}: values {low} to {high}; labels are 1 to {_MAX_LABEL}, and 0 where there is nothing"
        )
    kind = next(kind for kind in (np.uint8, np.int16, np.int32) if high <= np.iinfo(kind).max)
    return array.astype(kind)


def _header(array: NDArray[np.integer], known: Mapping[int, Segment]) -> dict[str, str]:
    """Return the header's keys: one group for each value in the array, numbered from 0."""
    from scipy.ndimage import find_objects

    header = {
        "Segmentation_ContainedRepresentationNames": f"{_REPRESENTATION}|",
        "Segmentation_MasterRepresentation": _REPRESENTATION,  # of Slicer up to 5.2
        "Segmentation_SourceRepresentation": _REPRESENTATION,
        "Segmentation_ConversionParameters": "",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    values, numbers = np.unique(np.concatenate([[0], array.ravel()]), return_inverse=True)  # 0 is always the first
    boxes = find_objects(numbers[1:].reshape(array.shape))
    for number, (value, box) in enumerate(zip(values[1:].tolist(), boxes, strict=True)):
        segment = _segment(value, known)
        extent = [bound for axis in reversed(box) for bound in (axis.start, axis.stop - 1)]  # first and last of x, y, z
        header |= {
            f"Segment{number}_ID": f"Segment_{value}",
            f"Segment{number}_Name": segment.name,
            f"Segment{number}_NameAutoGenerated": str(int(value not in known)),
            f"Segment{number}_Color": " ".join(f"{part:.6g}" for part in _rgb(segment)),
            f"Segment{number}_ColorAutoGenerated": str(int(value not in known)),
            f"Segment{number}_LabelValue": str(value),
            f"Segment{number}_Layer": "0",
            f"Segment{number}_Extent": " ".join(map(str, extent)),
            f"Segment{number}_Tags": "|",
        }
    return header


def _segment(value: int, known: Mapping[int, Segment]) -> Segment:
    """Return the segment of a value, which has the value for its name where it is not known."""
    return known.get(value) or Segment(value, f"Label {value}")


def _rgb(segment: Segment) -> tuple[float, float, float]:
    assert segment.colour is not None  # set by Segment where none is given
    return segment.colour


def _default_colour(value: int) -> tuple[float, float, float]:
    red, green, blue = colorsys.hsv_to_rgb(value * _GOLDEN_RATIO % 1, 0.55, 0.9)
    return round(red, 2), round(green, 2), round(blue, 2)

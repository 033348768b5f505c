"""DICOM objects that come of a registration: the registration itself, segmentations and structure sets.

They belong to the patient and the study of a DICOM series and refer to its slices, so that a viewer or a planning
system finds them beside it. Images are read by ``io_dicom``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samreg.errors import InputError
from samreg.spatial.files import require_file, require_not_input
from samreg.spatial.inputs import as_image
from samreg.spatial.transforms import Transform

DICOM = ".dcm"


def write_dicom_registration(
    transform: Transform,
    path: str | os.PathLike[str],
    *,
    fixed: str | os.PathLike[str],
    moving: str | os.PathLike[str],
    fixed_series: str | int | None = None,
    moving_series: str | int | None = None,
) -> None:
    """Write a transform as a DICOM registration object of the fixed image's patient and study.

    An affine becomes a Spatial Registration (PS3.3 C.20.2), any other transform a Deformable Spatial Registration
    (C.20.3). The fixed image's frame of reference is the registered one. The matrix of a Spatial Registration maps
    moving to fixed points, which is the inverse of samreg's; a deformable one maps fixed to moving points as samreg's
    does: by a grid of displacements, then a matrix.

    Parameters
    ----------
    transform
        Fixed to moving, LPS mm, 3D.
    path
        The file to write, .dcm.
    fixed, moving
        The DICOM series that were registered: folders or files.
    fixed_series, moving_series
        Which series of a folder, as :func:`samreg.read_image` takes it.

    Raises
    ------
    InputError
        When an image is no DICOM, lies nowhere in space or states no frame of reference, the affine part has no
        inverse, or the file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import samreg
    >>> from samreg.spatial import AffineTransform, write_dicom_registration
    >>> from samreg.phantoms import write_dicom_series
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> image = samreg.Image.from_array([[[0, 1], [2, 3]]], spacing=2)
    >>> for name in ("fixed", "moving"):
    ...     write_dicom_series(image, folder / name)
    >>> shift = AffineTransform([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [10, 20, 30])
    >>> write_dicom_registration(
    ...     shift, folder / "registration.dcm", fixed=folder / "fixed", moving=folder / "moving"
    ... )
    >>> samreg.read_transform(folder / "registration.dcm").translation.tolist()
    [10.0, 20.0, 30.0]
    """
    from samreg.spatial.dicom.registration import registration_dataset, write_dataset  # loads pydicom
    from samreg.spatial.dicom.source import image_series

    path = _target(path)
    if not isinstance(transform, Transform) or transform.ndim != 3:
        kind = f"a {transform.ndim}D one" if isinstance(transform, Transform) else f"a {type(transform).__name__}"
        raise InputError(f"cannot write {path}: DICOM registrations hold 3D transforms, got {kind}")
    registered = image_series(fixed, fixed_series, what="the fixed image")
    source = image_series(moving, moving_series, what="the moving image")
    write_dataset(registration_dataset(transform, registered, source), path)


def write_dicom_segmentation(
    labels: Any,
    path: str | os.PathLike[str],
    *,
    reference: str | os.PathLike[str],
    series: str | int | None = None,
    transform: Transform | None = None,
    names: Mapping[int, str] | None = None,
) -> None:
    """Bring labels to the slices of a DICOM series and write them as a DICOM segmentation.

    Needs highdicom: ``pip install "samreg[dicom]"``.

    Parameters
    ----------
    labels
        A label image or a mask, as :func:`samreg.as_image` takes it, 0 outside; or the path of a DICOM segmentation,
        whose segments keep their names and codes and may overlap.
    path
        The file to write, .dcm.
    reference
        The DICOM series to whose slices the labels are brought: a folder or a file.
    series
        Which series of a folder, as :func:`samreg.read_image` takes it.
    transform
        From points of the reference to those of the labels, LPS mm: samreg's own, where the reference is the fixed
        image and the labels belong to the moving one. Without it they share a space.
    names
        What the values of a label image stand for.

    Raises
    ------
    InputError
        When the reference is no DICOM, the labels are none or those of the reference itself, nothing of them comes to
        lie on it, or the file cannot be written.
    MissingExtraError
        Without highdicom.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import samreg
    >>> from samreg.spatial import write_dicom_segmentation
    >>> from samreg.phantoms import write_dicom_series
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> write_dicom_series(samreg.Image.from_array([[[0, 1], [2, 3]]], spacing=2), folder / "scan")
    >>> labels = samreg.Image.from_array([[[0, 5], [5, 0]]], spacing=2)
    >>> write_dicom_segmentation(labels, folder / "seg.dcm", reference=folder / "scan", names={5: "liver"})
    >>> samreg.read_image(folder / "seg.dcm", series="liver").array.tolist()
    [[[0, 1], [1, 0]]]
    """
    from samreg.spatial.dicom.registration import write_dataset  # loads pydicom
    from samreg.spatial.dicom.segmentation import (
        is_segmentation,
        labels_dataset,
        read_segments,
        require_highdicom,
        segmented_series,
        segments_dataset,
    )
    from samreg.spatial.dicom.source import image_series

    path = _target(path, labels)
    require_highdicom()
    target = image_series(reference, series, what="the reference")
    if isinstance(labels, (str, os.PathLike)) and _is_dicom_file(labels) and is_segmentation(Path(labels)):
        if transform is not None:
            target.require_other(segmented_series(Path(labels)), str(labels))
        item = segments_dataset(read_segments(Path(labels)), target, transform)
    else:
        item = labels_dataset(as_image(labels), target, transform, names)
    write_dataset(item, path)


def warp_dicom_structures(
    structures: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    reference: str | os.PathLike[str],
    transform: Transform,
    series: str | int | None = None,
) -> None:
    """Bring the contours of a DICOM RT structure set to another image and write them as its structure set.

    Closed contours are drawn anew on the slices of the reference: between the slices on which they were drawn their
    signed distances are interpolated (Raya and Udupa, IEEE Trans. Med. Imaging 1990), and the points of the new ones
    lie on that surface. Points are mapped one by one, as are open contours, which are no longer planar then.

    Parameters
    ----------
    structures
        The structure set.
    path
        The file to write, .dcm.
    reference
        The DICOM series to which the contours are brought: a folder or a file.
    transform
        From points of the reference to those of the image on which the contours were drawn, LPS mm: samreg's own,
        where that is the moving image and the reference the fixed one.
    series
        Which series of a folder, as :func:`samreg.read_image` takes it.

    Raises
    ------
    InputError
        When the reference is no DICOM, nothing is drawn, the contours are drawn on the reference itself or do not lie
        on parallel planes, or the file cannot be written.

    Examples
    --------
    ``warp_dicom_structures("moving-rtstruct.dcm", "fixed-rtstruct.dcm", reference="fixed/",
    transform=result.transform)``.
    """
    from samreg.spatial.dicom.registration import write_dataset  # loads pydicom
    from samreg.spatial.dicom.source import image_series
    from samreg.spatial.dicom.structures import read_structures, warped_structures

    path = _target(path, structures)
    drawn = read_structures(require_file(structures, "structure set"))
    target = image_series(reference, series, what="the reference")
    write_dataset(warped_structures(drawn, target, to_target=transform.inverse(), to_source=transform), path)


def require_dicom_series(path: str | os.PathLike[str], series: str | int | None = None, *, role: str) -> None:
    """Raise :class:`InputError` unless an image is a DICOM series that a registration object can refer to.

    Parameters
    ----------
    path
        A folder or a file.
    series
        Which series of a folder.
    role
        "fixed" or "moving", for the message.
    """
    from samreg.spatial.dicom.source import image_series  # loads pydicom

    image_series(path, series, what=f"the {role} image")


def dicom_points(structures: str | os.PathLike[str]) -> Any:
    """Return the points (N, 3) of all contours of a structure set, LPS mm."""
    import numpy as np

    from samreg.spatial.dicom.structures import read_structures  # loads pydicom

    return np.concatenate([one.points for one in read_structures(Path(structures)).structures])


def is_dicom_structures(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is a DICOM RT structure set."""
    if not _is_dicom_file(path):
        return False
    from samreg.spatial.dicom.structures import is_structure_set  # loads pydicom

    return is_structure_set(Path(path))


def is_dicom_registration(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is a DICOM registration object."""
    if not _is_dicom_file(path):
        return False
    from samreg.spatial.dicom.registration import is_registration  # loads pydicom

    return is_registration(Path(path))


def _is_dicom_file(path: str | os.PathLike[str]) -> bool:
    from samreg.spatial.io_dicom import is_dicom

    return Path(path).is_file() and is_dicom(Path(path))


def _target(path: str | os.PathLike[str], *inputs: Any) -> Path:
    path = Path(path)
    if not path.name.lower().endswith(DICOM):
        raise InputError(f"cannot write {path}: a DICOM object is named .dcm")
    require_not_input(path, [one for one in inputs if isinstance(one, (str, os.PathLike))])
    return path


__all__ = ["warp_dicom_structures", "write_dicom_registration", "write_dicom_segmentation"]

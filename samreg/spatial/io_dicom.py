"""Reading DICOM: single images, series of slices, and files of many frames."""

from __future__ import annotations

from pathlib import Path

from numpy.typing import ArrayLike

from samreg.spatial.files import reading
from samreg.spatial.image import Image


def is_dicom(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do."""
    with reading(path), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path, *, series: str | int | None = None, spacing: ArrayLike | None = None) -> Image:
    r"""Read a DICOM file, or one series of a folder.

    Position, orientation, pixel size and rescale are read for every slice, be it a file of a series or a frame of a
    file, and checked: see ``docs/howto/dicom.md``.

    Parameters
    ----------
    path
        A file of one or many frames, or a folder that holds files.
    series
        Which series of a folder, or which stack (phase, echo, segment, ...) of a series or a file: its number in the
        list that the error message shows, its UID, or a part of its description that no other has. Segments need no
        choice where they do not overlap: they are labels by their numbers then.
    spacing
        Voxel size in mm, one number or x, y(, z), for files that do not state it. What a file states is not replaced
        here.

    Returns
    -------
    Image
        3D in LPS mm, its slices sorted along their normal; 2D where a single frame lies nowhere in space.

    Raises
    ------
    InputError
        When a file is damaged or no scalar image, there are several series or stacks to choose from, or the slices
        are no regular volume of known voxel size.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import SimpleITK
    >>> from samreg.spatial.io_dicom import read_dicom
    >>> path = pathlib.Path(tempfile.mkdtemp(), "x-ray.dcm")
    >>> picture = SimpleITK.Image(6, 4, SimpleITK.sitkUInt16)
    >>> picture.SetMetaData("0008|0060", "DX")
    >>> picture.SetMetaData("0028|0030", r"0.2\0.1")
    >>> SimpleITK.WriteImage(picture, str(path))
    >>> read_dicom(path).spacing.tolist()
    [0.1, 0.2]
    """
    from samreg.spatial.dicom.series import read_chosen  # loads pydicom

    return read_chosen(path, series, spacing)

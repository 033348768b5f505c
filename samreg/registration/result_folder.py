"""The folder of a saved result: what lies in it, and whether one may be written there.

============================  ==========================================================================================
``result.json``               verdict, options, versions, timings, quality, flags; where it lies, everything does
``transform.*, inverse.*``    fixed to moving points and back, in the formats asked for
``affine.tfm``                the affine part of ``transform``
``transformix.txt``           with which transformix applies ``transform.nii.gz``
``warped.nii.gz``             the moving image on the fixed grid
``expected_error.nii.gz``     the expected error on a coarse grid over the fixed image, mm
``named_landmarks.csv``       landmarks found in both images, and by how much the transform misses them, LPS mm
``body.nii.gz``               the fixed body, on the grid of the embedding
``correspondences.csv``       the matches; for 3D Slicer also ``fixed_matches.mrk.json``, ``moving_matches.mrk.json``
``start.h5``                  the transform that was given to start from
``preview.png, engine.log``   a picture, and what the engine printed
============================  ==========================================================================================

Beside them ``samreg register`` writes ``report.html`` and, as ``landmarks.csv``, landmark errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from samreg.errors import InputError
from samreg.quality.landmarks import LandmarkErrors
from samreg.spatial.files import require_replaceable, require_writable
from samreg.spatial.grid import Grid

SUMMARY = "result.json"
START = "start.h5"
REPORT = "report.html"
LANDMARK_ERRORS = "landmarks.csv"
WARPED, AFFINE, TRANSFORMIX, PREVIEW = "warped.nii.gz", "affine.tfm", "transformix.txt", "preview.png"
#: The DICOM registration object that the command writes beside them.
REGISTRATION = "registration.dcm"
CORRESPONDENCES, BODY, LOG = "correspondences.csv", "body.nii.gz", "engine.log"
ERROR_MAP = "expected_error.nii.gz"
MISSES = "named_landmarks.csv"
MATCHES = {role: f"{role}_matches.mrk.json" for role in ("fixed", "moving")}

#: On which grids displacement fields are written: as coarse as they allow, or those of the images.
FIELD_GRIDS = ("compact", "full")

#: What transforms can be written as, and the endings of the files; read in this order.
TRANSFORM_FORMATS = {"h5": ".h5", "nii": ".nii.gz", "npz": ".npz"}
#: All that can be asked for.
SAVE_FORMATS = (*TRANSFORM_FORMATS, "mrk")
#: All that :func:`samreg.registration.store.save` may write, and the command beside it, the summary apart.
FILES = (
    WARPED, AFFINE, TRANSFORMIX, PREVIEW, CORRESPONDENCES, *MATCHES.values(), ERROR_MAP, MISSES, BODY, LOG,
    START, REGISTRATION,
    *(f"{name}{ending}" for name in ("transform", "inverse") for ending in TRANSFORM_FORMATS.values()),
)  # fmt: skip
#: All that lies in the folder of a result, whatever wrote it.
OWN_FILES = (*FILES, SUMMARY, REPORT, LANDMARK_ERRORS)


def require_formats(formats: str | Sequence[str], ndim: int) -> tuple[str, ...]:
    """Return the formats to write; raise :class:`InputError` where one is unknown or cannot hold the result.

    Parameters
    ----------
    formats
        Of :data:`SAVE_FORMATS`.
    ndim
        Of the images, 2 or 3.

    Examples
    --------
    >>> from samreg.registration.result_folder import require_formats
    >>> require_formats(["h5", "nii"], ndim=3)
    ('h5', 'nii')
    """
    chosen = (formats,) if isinstance(formats, str) else tuple(formats)
    unknown = [name for name in chosen if name not in SAVE_FORMATS]
    if unknown or not chosen:
        raise InputError(f"unknown formats {unknown}; choose from {', '.join(SAVE_FORMATS)}")
    if "mrk" in chosen and ndim != 3:
        raise InputError(
            f"the format mrk is for volumes, as 3D Slicer's points are 3D, and the images are {ndim}D; leave it out"
        )
    return chosen


def require_folder(
    folder: str | os.PathLike[str],
    *,
    inputs: Iterable[str | os.PathLike[str] | None] = (),
    beside: Iterable[str] = (),
    space: float = 0,
) -> None:
    """Raise :class:`InputError` unless a result can be written to a folder; it is tried, and nothing is left there.

    Parameters
    ----------
    folder
        One that exists, or is to be made.
    inputs
        What is read: files, none of which the result may replace, and folders of results.
    beside
        What is written beside the result: :data:`REPORT`, :data:`LANDMARK_ERRORS`.
    space
        What is to be written, bytes.
    """
    folder, inputs, beside = Path(folder), [*inputs], {*beside}
    require_writable(folder, space=space)
    if taken := [name for name in OWN_FILES if (folder / name).is_dir()]:
        raise InputError(f"cannot write to {folder}: {taken[0]} is a folder there; choose another folder")
    if (folder / SUMMARY).is_file():
        for path in inputs:
            if path is not None and os.path.isdir(path) and os.path.samefile(path, folder):
                raise InputError(f"{folder} would replace the result that is read from it; choose another folder")
        if not _is_summary(folder / SUMMARY):
            raise InputError(
                f"{folder / SUMMARY} would be replaced, and samreg did not write it; move it, or choose another folder"
            )
    errors = folder / LANDMARK_ERRORS
    if LANDMARK_ERRORS in beside and errors.is_file() and not has_errors(errors):
        raise InputError(
            f"{errors} would be replaced by the landmark errors, and samreg did not write it; move it, or choose "
            "another folder"
        )
    require_replaceable(folder, [*FILES, SUMMARY, *sorted(beside - {LANDMARK_ERRORS})], mark=SUMMARY, inputs=inputs)
    require_replaceable(folder, (REPORT, LANDMARK_ERRORS), mark=None, inputs=inputs)


def require_not_of_result(path: str | os.PathLike[str], *, but: Iterable[str] = ()) -> None:
    """Raise :class:`InputError` where a file to write has the name of a saved result's, in the folder of one.

    Parameters
    ----------
    path
        The file.
    but
        Names that may be written into a result: what a command adds to it.
    """
    path = Path(path)
    name = path.name.lower()  # which is the same file on some systems
    if name in OWN_FILES and name not in but and (path.parent / SUMMARY).is_file():
        raise InputError(
            f"{path} is a file of the result in {path.parent}, which it would replace; choose another name"
        )


def space_needed(fixed: Grid, moving: Grid, itemsize: int, formats: Sequence[str], field_grid: str) -> float:
    """Return how many bytes a result takes at most, about.

    Parameters
    ----------
    fixed, moving
        Grids of the images.
    itemsize
        Bytes of a voxel of the moving image.
    formats, field_grid
        As :func:`samreg.registration.store.save` takes them.
    """
    voxels, fields = float(np.prod(fixed.shape)), float(np.prod(fixed.shape) + np.prod(moving.shape))
    full = len([name for name in formats if name == "npz" or (field_grid == "full" and name in TRANSFORM_FORMATS)])
    return voxels * itemsize + full * fields * 4 * fixed.ndim


def has_errors(path: Path) -> bool:
    """Tell landmark errors from a user's own landmarks of this name."""
    try:
        LandmarkErrors.read(path)
    except InputError:
        return False
    return True


def _is_summary(path: Path) -> bool:
    """Tell the summary of a result, even one that is damaged, from a user's own file of this name."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return not text.strip() or ('"direction"' in text and '"versions"' in text)

"""``samreg dicom``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samreg.cli.common import Quiet, Series, require_suffix, say, session
from samreg.errors import InputError


def dicom(
    transform: Annotated[
        Path, typer.Argument(help="Folder that `samreg register` wrote, or a transform file (fixed to moving points).")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write, .dcm.", show_default="registration.dcm in it")
    ] = None,
    fixed: Annotated[
        Path | None, typer.Option(help="DICOM series of the fixed image.", show_default="where the folder had it")
    ] = None,
    moving: Annotated[
        Path | None, typer.Option(help="DICOM series of the moving image.", show_default="where the folder had it")
    ] = None,
    fixed_series: Series = None,
    moving_series: Annotated[str | None, typer.Option(help="DICOM series of the moving image.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write a saved registration as a DICOM registration object, for viewers and planning systems.

    An affine or rigid one becomes a Spatial Registration, any other a Deformable Spatial Registration. It belongs to
    the fixed image's patient and study. Labels and contours: see `samreg apply`.
    """
    from samreg.registration.result_folder import REGISTRATION
    from samreg.registration.store import load_transform
    from samreg.spatial.io_dicom_objects import DICOM, write_dicom_registration
    from samreg.spatial.io_transforms import read_transform

    if out is None and not transform.is_dir():
        raise InputError(f"give --out, the file to write; {transform} is no folder of a result")
    out = transform / REGISTRATION if out is None else out
    require_suffix(out, (DICOM,), inputs=(transform, fixed, moving), adds=(REGISTRATION,))
    with session(quiet=quiet) as progress:
        images = {role: _image(transform, path, role) for role, path in (("fixed", fixed), ("moving", moving))}
        mapping = load_transform(transform, "transform") if transform.is_dir() else read_transform(transform)
        progress("writing")
        write_dicom_registration(
            mapping,
            out,
            fixed=images["fixed"],
            moving=images["moving"],
            fixed_series=fixed_series,
            moving_series=moving_series,
        )
    if not quiet:
        say(f"written to {out}")


def _image(transform: Path, given: Path | None, role: str) -> Path:
    """Return the image that is given, or where a saved result had it."""
    from samreg.registration.store import saved_path

    path = given or saved_path(transform, role)
    if path is None:
        raise InputError(f"give --{role}, the DICOM series of the {role} image")
    return path

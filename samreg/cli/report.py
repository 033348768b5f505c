"""``samreg report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samreg.cli.common import Quiet, load_points, load_result, require_suffix, say, session

Fixed = Annotated[Path | None, typer.Option(help="The fixed image, where it has moved since.")]
Moving = Annotated[Path | None, typer.Option(help="The moving image, where it has moved since.")]
FixedSeries = Annotated[str | None, typer.Option(help="DICOM series of --fixed: number, UID or description.")]
MovingSeries = Annotated[str | None, typer.Option(help="DICOM series of --moving.")]


def report(
    folder: Annotated[Path, typer.Argument(help="Folder that `samreg register` wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page to write, .html.", show_default="report.html in FOLDER")
    ] = None,
    fixed: Fixed = None,
    moving: Moving = None,
    fixed_series: FixedSeries = None,
    moving_series: MovingSeries = None,
    landmarks: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FIXED MOVING",
            help="Landmark files of both images, matched by name.",
            show_default="the errors in FOLDER's landmarks.csv, where there is one",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write an HTML page on a registration that was saved to FOLDER."""
    from samreg.quality import LandmarkErrors
    from samreg.registration.result_folder import LANDMARK_ERRORS, REPORT, has_errors

    out = folder / REPORT if out is None else out
    require_suffix(out, (".html", ".htm"), inputs=(fixed, moving, *(landmarks or ())), adds=(REPORT,))
    with session(quiet=quiet) as progress:
        progress("reading")
        result = load_result(folder, fixed, moving, fixed_series, moving_series)
        errors = None
        if result and landmarks is not None:
            points = map(load_points, landmarks, (result.fixed, result.moving))
            errors = result.landmark_errors(*points)
        elif result and has_errors(folder / LANDMARK_ERRORS):  # and no landmarks of the user's own
            errors = LandmarkErrors.read(folder / LANDMARK_ERRORS)
        progress("writing")
        result.report(out, landmarks=errors)
    if not quiet:
        say(f"written to {out}")

"""``samreg register``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samreg.cli.common import (
    AnchorChoice,
    Device,
    Engine,
    EngineOption,
    EngineSpacing,
    FieldGrid,
    Formats,
    Method,
    Model,
    PixelSize,
    Quiet,
    Report,
    Seed,
    Series,
    TransformKind,
    Verbose,
    anchors_given,
    fail,
    load_image,
    load_points,
    parse_formats,
    parse_options,
    say,
    say_verdict,
    session,
    show_table,
)
from samreg.errors import InputError, require_choice
from samreg.spatial.points import paired_points

if TYPE_CHECKING:
    from samreg.quality import LandmarkErrors
    from samreg.registration.result import RegistrationResult


def register(
    fixed: Annotated[Path, typer.Argument(help="Fixed image: NIfTI, NRRD, MetaImage or a DICOM folder.")],
    moving: Annotated[Path, typer.Argument(help="Moving image, brought to the fixed one.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    method: Method = "hybrid",
    engine: Engine = None,
    transform: TransformKind = "deformable",
    model: Model = None,
    fixed_mask: Annotated[Path | None, typer.Option(help="Where to look in the fixed image, non-zero voxels.")] = None,
    moving_mask: Annotated[Path | None, typer.Option(help="Where to look in the moving image.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="Transform to start from, fixed to moving: a file, or the folder of an earlier result."),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="all, but one for ANTs' affine stages")
    ] = None,
    spacing: EngineSpacing = None,
    option: EngineOption = None,
    formats: Formats = "h5",
    field_grid: FieldGrid = "compact",
    landmarks: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FIXED MOVING", help="Landmark files of both images, matched by name: prints errors."),
    ] = None,
    guide: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FIXED MOVING", help="Landmark files; torch and elastix draw these points together."),
    ] = None,
    anchors: AnchorChoice = "yes",
    fixed_subject: Annotated[str | None, typer.Option(help="Subject of the fixed image in its landmark csv.")] = None,
    moving_subject: Annotated[str | None, typer.Option(help="Subject of the moving image in its landmark csv.")] = None,
    fixed_series: Series = None,
    moving_series: Annotated[str | None, typer.Option(help="DICOM series of the moving image.")] = None,
    pixel_size: PixelSize = None,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Write registration.dcm as well, a DICOM (Deformable) Spatial Registration.")
    ] = False,
    report: Report = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Register MOVING to FIXED and write the results to a folder.

    The folder receives the warped image, the transform (fixed to moving points) and its inverse, the
    correspondences, a picture and result.json.
    """
    import samreg
    from samreg.registration.result_folder import (
        FIELD_GRIDS,
        LANDMARK_ERRORS,
        REGISTRATION,
        REPORT,
        require_folder,
        require_formats,
        space_needed,
    )
    from samreg.spatial.files import claimed_folder
    from samreg.spatial.io_dicom_objects import require_dicom_series, write_dicom_registration

    require_choice("--field-grid", field_grid, FIELD_GRIDS)
    wanted = parse_formats(formats)
    options = parse_options(option or [])
    if landmarks is None and guide is None and not (fixed_subject is None and moving_subject is None):
        raise InputError("--fixed-subject and --moving-subject choose rows of --landmarks or --guide; leave them out")
    inputs = (fixed, moving, fixed_mask, moving_mask, start, *(landmarks or ()), *(guide or ()))
    beside = [name for name, wanted_too in ((REPORT, report), (LANDMARK_ERRORS, landmarks is not None)) if wanted_too]
    require_folder(out, inputs=inputs, beside=beside)
    if dicom:  # before the work
        for role, path, series in (("fixed", fixed, fixed_series), ("moving", moving, moving_series)):
            require_dicom_series(path, series, role=role)
    with session(verbose=verbose, quiet=quiet) as progress, claimed_folder(out):
        images = load_image(fixed, fixed_series, pixel_size), load_image(moving, moving_series, pixel_size)
        require_formats(wanted, images[0].ndim)
        grids = images[0].grid, images[1].grid
        require_folder(
            out, inputs=inputs, beside=beside, space=space_needed(*grids, images[1].array.itemsize, wanted, field_grid)
        )
        masks = [None if mask is None else load_image(mask, None, pixel_size) for mask in (fixed_mask, moving_mask)]
        pairs, guides = (
            None
            if files is None
            else paired_points(
                load_points(files[0], images[0], fixed_subject), load_points(files[1], images[1], moving_subject)
            )
            for files in (landmarks, guide)
        )
        result = samreg.register(
            *images,
            method=method,
            engine=engine,
            transform=transform,
            model=model,
            fixed_mask=masks[0],
            moving_mask=masks[1],
            landmarks=guides,
            anchors=anchors_given(anchors),
            start=start,
            device=device,
            seed=seed,
            threads=threads,
            spacing=spacing,
            engine_options=options or None,
            verbose=verbose,
            progress=progress,
        )
        errors = result.landmark_errors(*pairs) if pairs is not None and result else None
        result.save(out, formats=wanted, field_grid=field_grid, landmarks=errors, progress=progress)
        if errors is not None:
            errors.write(out / LANDMARK_ERRORS)
        if dicom and result.transform is not None:
            progress("writing the DICOM registration")
            write_dicom_registration(
                result.transform,
                out / REGISTRATION,
                fixed=fixed,
                moving=moving,
                fixed_series=fixed_series,
                moving_series=moving_series,
            )
        if report:
            progress("writing the report")
            result.report(out / REPORT, landmarks=errors)
    if not result:
        fail(f"not registered: {result.reason}", 1)
    if not quiet:
        _show(result, errors, out)


def _show(result: RegistrationResult, errors: LandmarkErrors | None, out: Path) -> None:
    verdict = result.judge(errors)
    say_verdict(verdict)
    rows = [(key.replace("_", " "), f"{value:.4g}") for key, value in result.quality.items()]
    rows += [(f"time, {stage}", f"{seconds:.1f} s") for stage, seconds in result.timings.items()]
    show_table(f"{result.moving.label} to {result.fixed.label}", ("measure", "value"), rows)
    if errors is not None:
        _show_errors(result, errors)
    for reason in verdict.further:
        say(f"check: {reason}")
    for coverage in result.shown_by_one:
        say(coverage)
    say(f"written to {out}")


def _show_errors(result: RegistrationResult, errors: LandmarkErrors) -> None:
    from samreg.quality import summarise_errors
    from samreg.registration.quality import initial_alignment

    names = (f"before, {initial_alignment(result)[1]}", "transform, in the moving image", "inverse, in the fixed image")
    summaries = [summarise_errors(values) for values in (errors.before, errors.transform, errors.inverse)]
    show_table(
        f"error at {summaries[0].count} landmarks, mm{_said_of(errors)}",
        ("", "mean", "median", "largest"),
        [(name, s.mean, s.median, s.maximum) for name, s in zip(names, summaries, strict=True)],
    )


def _said_of(errors: LandmarkErrors) -> str:
    """Return what there is to say of landmarks that guided the registration."""
    if errors.guided:
        return ", all of which guided the registration"
    return f"; {len(errors.left_out)} that guided the registration left out" if errors.left_out else ""

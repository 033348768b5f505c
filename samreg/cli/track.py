"""``samreg track``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samreg.cli.common import (
    Device,
    Model,
    Quiet,
    Seed,
    Series,
    Verbose,
    fail,
    load_image,
    say,
    session,
    show_outcomes,
    show_table,
)
from samreg.errors import InputError
from samreg.spatial.files import require_writable

if TYPE_CHECKING:
    from samreg.tracking import LesionTracks, TrackingErrors


def track(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="BASELINE FOLLOWUP LESIONS",
            help="Both CTs, and the lesions in the baseline: points (csv, .mrk.json, .fcsv), or a label map with one "
            "label a lesion.",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="A csv of many: columns baseline, followup, lesions, and optionally name and truth."),
    ] = None,
    dlt: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="JSON IMAGES", help="Lesion pairs of DeepLesion, annotated by Deep Lesion Tracker."),
    ] = None,
    baseline_series: Series = None,
    followup_series: Annotated[str | None, typer.Option(help="DICOM series of the follow-up.")] = None,
    model: Model = None,
    device: Device = "auto",
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(help="Pairs at a time.")] = 1,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find the LESIONS of a BASELINE in a FOLLOWUP, and measure how they changed.

    The folder receives tables, the positions for 3D Slicer, and lesions.html with both visits of each lesion side by
    side. With many pairs, each gets a folder of its own, a failed one is recorded in summary.csv, and the same command
    again goes on where a run stopped.
    """
    import samreg
    from samreg.steps import require_summary
    from samreg.tracking import read_dlt, read_pairs, track_pairs
    from samreg.tracking.store import require_folder

    if sum((bool(inputs), pairs is not None, dlt is not None)) != 1 or (inputs and len(inputs) != 3):
        raise InputError("give BASELINE FOLLOWUP LESIONS, or --pairs, or --dlt")
    if not inputs and (baseline_series is not None or followup_series is not None):
        raise InputError("--baseline-series and --followup-series are for one pair; leave them out")
    if inputs:
        require_folder(out, inputs=inputs)
    else:
        require_writable(out)
        require_summary(out / "summary.csv", [pairs, *(dlt or ())])
    options: dict[str, Any] = {"model": model, "device": device, "seed": seed}
    if inputs:
        with session(verbose=verbose, quiet=quiet) as progress:
            baseline, followup = load_image(inputs[0], baseline_series), load_image(inputs[1], followup_series)
            tracks = samreg.track(baseline, followup, inputs[2], **options, progress=progress)
            progress("writing")
            tracks.save(out)
        if not tracks:
            fail(f"not aligned: {tracks.reason}", 1)
        if not quiet:
            _show(tracks, out)
        return
    with session(verbose=verbose, quiet=quiet) as progress:
        wanted = read_pairs(pairs) if pairs is not None else read_dlt(*dlt) if dlt is not None else ()
        outcomes, errors = track_pairs(wanted, out, **options, jobs=jobs, progress=progress)
    if errors is not None and not quiet:
        _show_errors(errors)
    show_outcomes(outcomes, out, quiet=quiet)


def _show(tracks: LesionTracks, out: Path) -> None:
    rows = [
        (
            lesion.name,
            *map(float, lesion.followup),
            lesion.reliability,
            *([] if lesion.expected_error is None else [lesion.expected_error]),
            *("" if extent is None else f"{extent.diameter:.1f}" for extent in (lesion.before, lesion.after)),
            "not measured" if lesion.change is None else f"{lesion.change:+.0f} %",
            "yes" if lesion.in_view else "no",
        )
        for lesion in tracks.lesions
    ]
    expected = [] if any(lesion.expected_error is None for lesion in tracks.lesions) else ["at most mm"]
    header = ("lesion", "x mm", "y mm", "z mm", "reliability", *expected, "before mm", "after mm", "change", "in view")
    show_table(f"found in {tracks.followup.label}, LPS; diameters", header, rows)
    for note in tracks.notes:
        say(f"check: {note}")
    say(f"written to {out}; {out / 'lesions.html'} shows both visits")


def _show_errors(errors: TrackingErrors) -> None:
    rows = [
        ("centre error, mean mm", errors.mean),
        ("its standard deviation", errors.std),
        ("along x, y, z", f"{errors.x:.2f}, {errors.y:.2f}, {errors.z:.2f}"),
        ("within 10 mm (CPM@10mm)", f"{errors.within_10mm:.1%}"),
        ("within the radius (CPM@Radius)", "" if errors.within_radius is None else f"{errors.within_radius:.1%}"),
    ]
    show_table(f"{errors.count} lesions", ("", ""), rows)

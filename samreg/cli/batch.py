"""``samreg batch``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samreg.cli.common import (
    AnchorChoice,
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
    TransformKind,
    Verbose,
    anchors_given,
    fail,
    parse_formats,
    parse_options,
    session,
    show_table,
)
from samreg.errors import InputError
from samreg.spatial.files import require_writable

if TYPE_CHECKING:
    from samreg.registration import PairOutcome


def batch(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE|FOLDER",
            help="A csv with the columns fixed and moving, and optionally name, fixed_mask, moving_mask, "
            "fixed_landmarks, moving_landmarks, fixed_labels, moving_labels, fixed_series, moving_series, files "
            "relative to it; or a folder of images, with --fixed or --all-pairs.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; gone on with when it exists.")],
    fixed: Annotated[Path | None, typer.Option(help="Fixed image for every image of FOLDER.")] = None,
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Register every two images of FOLDER.")] = False,
    method: Method = "hybrid",
    engine: Engine = None,
    transform: TransformKind = "deformable",
    model: Model = None,
    anchors: AnchorChoice = "yes",
    spacing: EngineSpacing = None,
    option: EngineOption = None,
    seed: Seed = 0,
    jobs: Annotated[
        int | None, typer.Option(help="Pairs at a time, each in a process.", show_default="one for each device")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each.", show_default="CPUs / jobs; with Dask 1")
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|mps", help="For embeddings and the torch engine; cuda:0,cuda:1 spreads the jobs."
        ),
    ] = "auto",
    backend: Annotated[str, typer.Option(metavar="local|dask", help="Where the jobs run.")] = "local",
    scheduler: Annotated[str | None, typer.Option(help="Address of the Dask scheduler.")] = None,
    pixel_size: PixelSize = None,
    formats: Formats = "h5",
    field_grid: FieldGrid = "compact",
    report: Report = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Register many pairs of images, several at a time.

    Each pair gets a folder, as `samreg register` writes it, and a line in summary.csv: status, verdict, flags,
    landmark errors and Dice. A pair that fails stops no other; the same command again tries it anew, and goes on where
    a run stopped. The exit code is 1 when a pair was not registered, 2 when the call is at fault and nothing was done.
    """
    import samreg
    from samreg.steps import require_summary

    options = {
        "method": method, "engine": engine, "transform": transform, "model": model, "spacing": spacing, "seed": seed,
        "anchors": anchors_given(anchors), "engine_options": parse_options(option or []) or None,
    }  # fmt: skip
    wanted = _pairs(pairs, out, fixed, all_pairs=all_pairs)
    require_writable(out)
    require_summary(out / "summary.csv", [pairs])
    with session(verbose=verbose, quiet=quiet) as progress:
        outcomes = samreg.register_many(
            wanted, out, jobs=jobs, threads=threads, device=device, backend=backend, scheduler=scheduler,
            pixel_size=pixel_size, formats=parse_formats(formats), field_grid=field_grid, report=report,
            progress=progress, **options,
        )  # fmt: skip
    if not quiet:
        _show(outcomes, out)
    failed = [outcome for outcome in outcomes if not outcome]
    if failed:
        first = failed[0]
        fail(f"{len(failed)} of {len(outcomes)} not registered, first {first.name}: {first.reason}", 1)


def _pairs(pairs: Path, out: Path, fixed: Path | None, *, all_pairs: bool) -> Sequence[Any]:
    from samreg.registration import pairs_in_folder, read_registration_pairs

    chosen = (fixed is not None) + all_pairs
    if pairs.is_dir():
        if chosen != 1:
            raise InputError(f"{pairs} is a folder; give --fixed IMAGE or --all-pairs")
        return pairs_in_folder(pairs, fixed=fixed, out=out)
    if chosen:
        raise InputError(f"{pairs} is no folder; --fixed and --all-pairs choose pairs in one, a table lists its own")
    return read_registration_pairs(pairs)


def _show(outcomes: Sequence[PairOutcome], out: Path) -> None:
    columns = {
        "verdict": [outcome.verdict for outcome in outcomes],
        "error, mm": [_number(outcome.error_mean_mm, ".1f") for outcome in outcomes],
        "Dice": [_number(outcome.dice_mean, ".3f") for outcome in outcomes],
    }
    measured = {name: cells for name, cells in columns.items() if any(cells)}
    rows = [
        (o.name, o.status, f"{o.seconds:.1f} s", *(cells[i] for cells in measured.values()), o.reason or o.flags)
        for i, o in enumerate(outcomes)
    ]
    show_table(f"written to {out}; all measures are in summary.csv", ("", "", "time", *measured, "check"), rows)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

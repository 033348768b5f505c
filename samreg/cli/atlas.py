"""``samreg atlas``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samreg.cli.common import (
    Device,
    Engine,
    EngineOption,
    Method,
    Model,
    Quiet,
    Seed,
    Verbose,
    parse_options,
    say,
    session,
    show_outcomes,
    show_table,
)
from samreg.spatial.files import require_writable

if TYPE_CHECKING:
    from samreg.atlas import Atlas


def atlas(
    images: Annotated[list[Path], typer.Argument(help="Images, DICOM folders, or folders of these.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    labels: Annotated[
        list[Path] | None, typer.Option(help="Label maps by the images' names, or a folder of them; repeatable.")
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(help="A csv with subject, landmark, x, y, z, or a folder of points files by the images' names."),
    ] = None,
    iterations: Annotated[int, typer.Option(help="Deformable ones; 0 stops at the affine template.")] = 4,
    method: Method = "hybrid",
    engine: Engine = None,
    option: EngineOption = None,
    model: Model = None,
    spacing: Annotated[float, typer.Option(help="Voxel size of the template, mm.")] = 2.0,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Reference image of the affine initialisation.", show_default="the one most alike the others"
        ),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(help="Subjects at a time.")] = 1,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Build one unbiased template of many IMAGES.

    A subject that fails is named and left out; the same command again goes on where a run stopped.
    """
    import samreg

    options = parse_options(option or [])
    require_writable(out)
    with session(verbose=verbose, quiet=quiet) as progress:
        built = samreg.build_atlas(
            images,
            out,
            labels=labels,
            landmarks=landmarks,
            iterations=iterations,
            method=method,
            engine=engine,
            engine_options=options or None,
            model=model,
            spacing=spacing,
            reference=reference,
            device=device,
            seed=seed,
            jobs=jobs,
            progress=progress,
        )
    if not quiet:
        _show(built)
    show_outcomes(built.outcomes, out, quiet=quiet)


def _show(built: Atlas) -> None:
    rows = [
        (c.iteration, c.residual_mm, c.residual_p95_mm, f"{c.change:.4f}", c.deviation, c.subjects)
        for c in built.convergence
    ]
    header = ("iteration", "drift mm", "95th percentile", "change", "deviation", "subjects")
    show_table("convergence: drift of the template removed, change of its mean (1 - correlation)", header, rows)
    say(f"{built.folder / 'template.nii.gz'}: the template of {len(built.names)} subjects")

"""``samreg match``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samreg.cli.common import (
    Device,
    Model,
    PixelSize,
    Quiet,
    Seed,
    Verbose,
    load_image,
    require_suffix,
    say,
    session,
    show_table,
)
from samreg.errors import InputError

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.landmarks import LandmarkMatches
    from samreg.spatial.image import Image


def match(
    template: Annotated[Path, typer.Argument(help="Image on which the points lie, or its embedding (.h5).")],
    points: Annotated[Path, typer.Argument(help="Points in the template: csv, .mrk.json, .fcsv or elastix .pts.")],
    target: Annotated[Path, typer.Argument(help="Image to find them in, or its embedding (.h5).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Points found: .csv, .mrk.json, .fcsv, .pts or .txt.")],
    search: Annotated[
        str, typer.Option(metavar="guided|global", help="Around a robust alignment, or in the whole body.")
    ] = "guided",
    model: Model = None,
    device: Device = "auto",
    seed: Seed = 0,
    subject: Annotated[str | None, typer.Option(help="Whose points to take from a csv of several subjects.")] = None,
    template_series: Annotated[str | None, typer.Option(help="DICOM series: number, UID or description.")] = None,
    target_series: Annotated[str | None, typer.Option(help="DICOM series of the target.")] = None,
    pixel_size: PixelSize = None,
    report: Annotated[
        Path | None, typer.Option(help="Picture of the points in both images: .png, or .html with the table.")
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find points of a TEMPLATE in a TARGET image."""
    import samreg
    from samreg.spatial.io_points import read_points

    require_suffix(out, (".csv", ".mrk.json", ".fcsv", ".pts", ".txt"))
    if report is not None:
        require_suffix(report, (".png", ".html"))
        if ".h5" in (template.suffix.lower(), target.suffix.lower()):
            raise InputError("--report draws the images; give the images themselves, not their embeddings")
    with session(verbose=verbose, quiet=quiet) as progress:
        source = _load(template, template_series, pixel_size)
        destination = _load(target, target_series, pixel_size)
        wanted = read_points(points, grid=getattr(source, "image_grid", None) or source.grid, subject=subject)
        progress("matching")
        found = samreg.match(source, wanted, destination, model=model, search=search, device=device, seed=seed)
        samreg.write_points(found.to_points(), out)
        if report is not None:
            from samreg.report import write_landmark_report

            progress("drawing")
            assert isinstance(source, samreg.Image)
            assert isinstance(destination, samreg.Image)
            write_landmark_report(source, wanted, destination, found, report)
    if not quiet:
        _show(found, target, out)


def _load(path: Path, series: str | None, pixel_size: float | None) -> Image | Embedding:
    if path.suffix.lower() == ".h5":
        from samreg.embedding import Embedding

        return Embedding.load(path)
    return load_image(path, series, pixel_size)


def _show(found: LandmarkMatches, target: Path, out: Path) -> None:
    axes = [f"{axis} mm" for axis in "xyz"[: found.points.shape[1]]]
    columns = (found.similarity, found.reliability, found.cycle_error, found.spread)
    rows = [
        (name, *map(float, position), *map(float, values), "yes" if inside else "no")
        for name, position, *values, inside in zip(found.names, found.points, *columns, found.inside, strict=True)
    ]
    header = ("name", *axes, "similarity", "reliability", "cycle mm", "spread mm", "in view")
    show_table(f"found in {target}, LPS", header, rows)
    for note in found.notes:
        say(f"look at: {note}")
    say(f"written to {out}")

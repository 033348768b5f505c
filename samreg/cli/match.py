"""``samreg match``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samreg.cli.common import (
    Device,
    Model,
    Quiet,
    Seed,
    Verbose,
    load_image,
    require_suffix,
    say,
    session,
    show_table,
)

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
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find points of a TEMPLATE in a TARGET image."""
    import samreg
    from samreg.spatial.io_points import read_points

    require_suffix(out, (".csv", ".mrk.json", ".fcsv", ".pts", ".txt"))
    with session(verbose=verbose, quiet=quiet) as progress:
        source, destination = _load(template, template_series), _load(target, target_series)
        wanted = read_points(points, grid=getattr(source, "image_grid", None) or source.grid, subject=subject)
        progress("matching")
        found = samreg.match(source, wanted, destination, model=model, search=search, device=device, seed=seed)
        samreg.write_points(found.to_points(), out)
    if not quiet:
        _show(found, target, out)


def _load(path: Path, series: str | None) -> Image | Embedding:
    if path.suffix.lower() == ".h5":
        from samreg.embedding import Embedding

        return Embedding.load(path)
    return load_image(path, series)


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

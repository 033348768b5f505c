"""``samreg apply``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samreg.cli.common import PixelSize, Quiet, load_image, require_suffix, say, session
from samreg.errors import InputError

if TYPE_CHECKING:
    from samreg.spatial.grid import Grid
    from samreg.spatial.image import Image
    from samreg.spatial.transforms import Transform

_POINTS = (".csv", ".json", ".fcsv", ".pts", ".txt")


def apply(
    transform: Annotated[
        Path, typer.Argument(help="Folder that `samreg register` wrote, or a transform file (fixed to moving points).")
    ],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Image, labels, or points (by suffix).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Image or points file to write.")],
    to: Annotated[
        str,
        typer.Option(metavar="fixed|moving", help="The image to bring INPUT to; it belongs to the other one."),
    ] = "fixed",
    reference: Annotated[
        Path | None,
        typer.Option(help="Image on whose grid to write an image.", show_default="the folder's warped image"),
    ] = None,
    interpolation: Annotated[
        str, typer.Option(metavar="linear|nearest|bspline", help="Use nearest for labels.")
    ] = "linear",
    pixel_size: PixelSize = None,
    quiet: Quiet = False,
) -> None:
    """Bring an image, labels or points through a saved registration.

    With --to fixed, what belongs to the moving image comes to the fixed one; --to moving is the way back. Images
    need the --reference whose grid they take: the fixed image for --to fixed, the moving one for --to moving.
    """
    if to not in ("fixed", "moving"):
        raise InputError(f"--to must be fixed or moving, got {to!r}")
    is_points = source.name.lower().endswith(_POINTS)
    require_suffix(out, _POINTS if is_points else (".nii", ".nii.gz", ".nrrd", ".mha"))
    backward = (to == "fixed") == is_points  # points go along the transform, images are pulled against it
    with session(quiet=quiet) as progress:
        mapping = _in_folder(transform, backward) if transform.is_dir() else None
        if is_points:
            _points(mapping or _in_file(transform, backward), source, out)
        else:
            image = load_image(source, pixel_size=pixel_size)
            grid = _reference(transform, reference, to, pixel_size).grid
            progress("warping")
            grids = (image.grid, grid) if backward else (grid, image.grid)
            _image(mapping or _in_file(transform, backward, grids), image, grid, out, interpolation)
    if not quiet:
        say(f"{source} brought to the {to} image; written to {out}")


def _points(mapping: Transform, source: Path, out: Path) -> None:
    from samreg.spatial.io_points import read_points, write_points
    from samreg.spatial.points import Points

    points = read_points(source)
    write_points(Points(mapping.transform_points(points.positions), points.names, points.scores), out)


def _image(mapping: Transform, image: Image, grid: Grid, out: Path, interpolation: str) -> None:
    from samreg.spatial.io_images import write_image
    from samreg.spatial.resample import resample

    write_image(resample(image, grid, transform=mapping, interpolation=interpolation), out)


def _in_folder(folder: Path, backward: bool) -> Transform:
    from samreg.registration.store import load_transform

    return load_transform(folder, "inverse" if backward else "transform")


def _in_file(path: Path, backward: bool, grids: tuple[Grid | None, Grid | None] = (None, None)) -> Transform:
    """Read the transform, inverted numerically when ``backward``; ``grids`` of the fixed and the moving image."""
    from samreg.spatial.io_transforms import read_transform
    from samreg.spatial.transforms import invert

    found = read_transform(path, fixed_grid=grids[0], moving_grid=grids[1])
    return invert(found) if backward else found


def _reference(transform: Path, given: Path | None, to: str, pixel_size: float | None) -> Image:
    if given is not None:
        return load_image(given, pixel_size=pixel_size)
    if to == "fixed" and (transform / "warped.nii.gz").is_file():
        return load_image(transform / "warped.nii.gz")
    raise InputError(f"give --reference, the {to} image, on whose grid the result is written")

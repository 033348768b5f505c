"""``samreg apply``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samreg.cli.common import Quiet, load_image, require_suffix, say, session
from samreg.errors import InputError

if TYPE_CHECKING:
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
    with session(quiet=quiet) as progress:
        if is_points:
            _points(transform, source, out, to)
        else:
            image, grid_of = load_image(source), _reference(transform, reference, to)
            progress("warping")
            _image(transform, image, grid_of, out, to, interpolation)
    if not quiet:
        say(f"{source} brought to the {to} image; written to {out}")


def _points(transform: Path, source: Path, out: Path, to: str) -> None:
    """Points go along the transform to the moving image, and back through its inverse."""
    from samreg.spatial.io_points import read_points, write_points
    from samreg.spatial.points import Points

    points = read_points(source)
    mapping = _mapping(transform, backward=to == "fixed")
    write_points(Points(mapping.transform_points(points.positions), points.names, points.scores), out)


def _image(transform: Path, image: Image, reference: Image, out: Path, to: str, interpolation: str) -> None:
    """Images are pulled: the fixed grid's points go along the transform to find their values."""
    from samreg.spatial.io_images import write_image
    from samreg.spatial.resample import resample

    mapping = _mapping(transform, backward=to == "moving", reference=reference, image=image)
    write_image(resample(image, reference.grid, transform=mapping, interpolation=interpolation), out)


def _mapping(path: Path, *, backward: bool, reference: Image | None = None, image: Image | None = None) -> Transform:
    """Read the transform, or its inverse: from the folder, or inverted numerically."""
    from samreg.spatial.io_transforms import read_transform
    from samreg.spatial.transforms import invert

    if path.is_dir():
        return read_transform(_in_folder(path, "inverse" if backward else "transform"))
    if backward:
        return invert(read_transform(path))
    grids = {} if reference is None or image is None else {"fixed_grid": reference.grid, "moving_grid": image.grid}
    return read_transform(path, **grids)


def _in_folder(folder: Path, name: str) -> Path:
    for ending in (".h5", ".nii.gz"):
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    raise InputError(f"no {name}.h5 or {name}.nii.gz in {folder}; give a folder that `samreg register` wrote")


def _reference(transform: Path, given: Path | None, to: str) -> Image:
    if given is not None:
        return load_image(given)
    if to == "fixed" and (transform / "warped.nii.gz").is_file():
        return load_image(transform / "warped.nii.gz")
    raise InputError(f"give --reference, the {to} image, on whose grid the result is written")

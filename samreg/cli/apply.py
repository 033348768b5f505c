"""``samreg apply``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from samreg.cli.common import PixelSize, Quiet, load_image, require_suffix, say, session
from samreg.errors import InputError, require_choice

if TYPE_CHECKING:
    from samreg.spatial.grid import FloatArray, Grid
    from samreg.spatial.image import Image
    from samreg.spatial.io_segmentations import Segment
    from samreg.spatial.points import Points
    from samreg.spatial.transforms import Transform

log = logging.getLogger(__name__)

_IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
_SAME_GRID = 1e-2  # mm, of the corners
_BOX_POINTS = 16  # along an axis of the reference, by which it is told where its voxels come from


def apply(
    transform: Annotated[
        Path, typer.Argument(help="Folder that `samreg register` wrote, or a transform file (fixed to moving points).")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Image, labels, points (by suffix), or DICOM contours (RTSTRUCT).")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Image or points file to write; .seg.nrrd (3D Slicer) or .dcm for labels."),
    ],
    to: Annotated[
        str,
        typer.Option(metavar="fixed|moving", help="The image to bring INPUT to; it belongs to the other one."),
    ] = "fixed",
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Image on whose grid to write an image; for .dcm the DICOM series to which it is to belong.",
            show_default="the folder's warped image; for .dcm the image that was registered",
        ),
    ] = None,
    reference_series: Annotated[
        str | None, typer.Option(help="DICOM series of --reference: number, UID or description.")
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(
            metavar="linear|nearest|bspline",
            help="How to warp an image.",
            show_default="nearest for labels, else linear",
        ),
    ] = None,
    outside: Annotated[
        str | None,
        typer.Option(
            metavar="error|extrapolate",
            show_default="error",
            help="Points outside the image they belong to: refuse them, since they are often of another frame, or map "
            "them by the transform, which is affine where its fields end.",
        ),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Whose points to take from a csv of several subjects.")] = None,
    series: Annotated[
        str | None, typer.Option(help="DICOM series or segment of INPUT: number, UID or description.")
    ] = None,
    pixel_size: PixelSize = None,
    quiet: Quiet = False,
) -> None:
    """Bring an image, labels or points through a saved registration.

    With --to fixed, what belongs to the moving image comes to the fixed one; --to moving is the way back. Images
    need the --reference whose grid they take: the fixed image for --to fixed, the moving one for --to moving.

    Labels become a segmentation of 3D Slicer where --out ends in .seg.nrrd, a DICOM one where it ends in .dcm, and the
    contours of a DICOM RT structure set are drawn anew on the slices of the --reference, a DICOM series.
    """
    from samreg.spatial.io_dicom_objects import DICOM, is_dicom_structures
    from samreg.spatial.io_points import POINT_SUFFIXES
    from samreg.spatial.io_segmentations import SEGMENTATION
    from samreg.spatial.resample import INTERPOLATIONS

    require_choice("--to", to, ("fixed", "moving"))
    require_choice("--outside", outside or "error", ("error", "extrapolate"))
    require_choice("--interpolation", interpolation or "linear", INTERPOLATIONS)
    inputs = (source, reference, transform)
    is_points = source.name.lower().endswith(POINT_SUFFIXES)
    is_contours = is_dicom_structures(source)
    if not is_points and source.is_file():
        _require_image(source)
    is_dicom = is_contours or (out.name.lower().endswith(DICOM) and not is_points)
    if is_dicom:
        require_suffix(out, (DICOM,), inputs=inputs)
        refused = {
            "--interpolation": interpolation, "--subject": subject, "--series": series, "--pixel-size": pixel_size
        }  # fmt: skip
        _refuse(refused, f"has no meaning for {source} as a DICOM object")
    else:
        if reference_series is not None:
            raise InputError("--reference-series is for DICOM objects; name the --out file .dcm, or leave it out")
        if out.name.lower().endswith(SEGMENTATION) and interpolation not in (None, "nearest"):
            raise InputError(f"{out} is to hold labels, between which there are no values; leave --interpolation out")
        require_suffix(out, POINT_SUFFIXES if is_points else _IMAGE_SUFFIXES, inputs=inputs)
        if is_points:
            _refuse(
                {"--reference": reference, "--interpolation": interpolation, "--series": series},
                f"is for images, but {source} holds points",
            )
        else:
            _refuse({"--subject": subject, "--outside": outside}, f"is for points, but {source} holds an image")
    with session(quiet=quiet) as progress:
        if is_dicom:
            target = _dicom_reference(transform, reference, to), reference_series
            progress("drawing contours" if is_contours else "warping")
            _apply_to_dicom(transform, source, out, target, to=to, is_contours=is_contours, outside=outside)
        elif is_points:
            _apply_to_points(transform, source, out, to=to, subject=subject, outside=outside or "error")
        else:
            given = source, series
            _apply_to_image(
                transform, given, out, reference, progress, to=to, interpolation=interpolation, pixel_size=pixel_size
            )
    if not quiet:
        say(f"{source} brought to the {to} image; written to {out}")


def _require_image(source: Path) -> None:
    """Refuse a file that is of no kind that can be brought to the other image, before --out is looked at."""
    from samreg.spatial.io_images import READABLE, is_image_path
    from samreg.spatial.io_points import POINT_SUFFIXES

    if not is_image_path(source):
        raise InputError(
            f"{source}: its format is not known; give an image ({', '.join(READABLE)}, a DICOM folder), DICOM "
            f"contours, or points ({', '.join(POINT_SUFFIXES)}), such as the vertices of a mesh in LPS mm"
        )


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Raise :class:`InputError` for the first of the options that was given."""
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{option} {why}; leave it out")


def _apply_to_points(transform: Path, source: Path, out: Path, *, to: str, subject: str | None, outside: str) -> None:
    """Map points: along the transform to the moving image, back to the fixed one."""
    from samreg.spatial.io_points import write_points
    from samreg.spatial.points import Points

    backward = to == "fixed"
    mapping = _in_folder(transform, backward, is_points=True) if transform.is_dir() else None
    grid = _saved_grid(transform, _origin(to))
    points = _read_points(source, grid, subject)
    mapping = mapping or _in_file(transform, backward)
    _require_known(points, mapping, grid, transform, outside)
    mapped = Points(mapping.transform_points(points.positions), points.names, points.scores)
    expected = _expected_error(transform, points if to == "moving" else mapped)
    write_points(mapped, out, columns={} if expected is None else {"expected_error_mm": expected})


def _apply_to_image(
    transform: Path,
    given: tuple[Path, str | None],
    out: Path,
    reference: Path | None,
    progress: Callable[[str], None],
    *,
    to: str,
    interpolation: str | None,
    pixel_size: float | None,
) -> None:
    """Warp an image, perhaps one DICOM series of several, onto the grid of the reference, against the transform."""
    from samreg.spatial.io_segmentations import SEGMENTATION
    from samreg.spatial.labels import is_label_image

    source, series = given
    backward = to == "moving"
    mapping = _in_folder(transform, backward, is_points=False) if transform.is_dir() else None
    image = _registered_grid(source, series, pixel_size, transform, _origin(to))
    if out.name.lower().endswith(SEGMENTATION):
        interpolation = "nearest"
    if interpolation is None and is_label_image(image):
        interpolation = "nearest"
        log.warning("%s holds labels: warped with --interpolation nearest, give linear for intensities", source)
    target = _reference(transform, reference, to, pixel_size).grid
    progress("warping")
    segments = _segments(source, series, out) if interpolation == "nearest" else ()
    mapping = mapping or _in_file(transform, backward, (image.grid, target) if backward else (target, image.grid))
    _write_image(mapping, image, target, out, interpolation or "linear", segments)


def _origin(to: str) -> str:
    """Return the role of the image to which what is brought ``to`` the other one belongs."""
    return "moving" if to == "fixed" else "fixed"


def _registered_grid(path: Path, series: str | None, pixel_size: float | None, transform: Path, role: str) -> Image:
    """Read an image that lies where the fixed or the moving image of a saved result does, where that is known.

    It has the grid of that image, or one of its own within it, as a dose, a segmentation or a crop has.
    """
    from samreg.spatial.io_pictures import PICTURES

    grid = _saved_grid(transform, role) if transform.is_dir() else None
    if grid is not None and pixel_size is None and path.name.lower().endswith(PICTURES):
        pixel_size = float(grid.spacing[0])
    image = load_image(path, series, pixel_size)
    if grid is None or image.ndim != grid.ndim or image.grid.same_as(grid, tolerance=_SAME_GRID):
        return image
    other = _saved_grid(transform, "moving" if role == "fixed" else "fixed")
    is_other = other is not None and other.ndim == image.ndim and image.grid.same_as(other, tolerance=_SAME_GRID)
    margin = float(max(image.spacing.max(), grid.spacing.max()))
    if is_other or not grid.contains(image.grid.corners(), margin=margin).all():
        raise InputError(
            f"{path} does not lie where the {role} image of {transform} does: it is {image.grid}, the {role} image "
            f"{grid}. Give that image or one within it, see --to; a transform file of the folder in place of the "
            "folder takes any image in the same world"
        )
    log.warning("%s has a grid of its own within the %s image, to which it is taken to belong", path, role)
    return image


def _read_points(path: Path, grid: Grid | None, subject: str | None) -> Points:
    from samreg.spatial.io_points import read_points
    from samreg.spatial.points import require_some

    points = read_points(path, grid=grid, subject=subject)
    require_some(points, f"points in {path}")
    return points


def _require_known(points: Points, mapping: Transform, grid: Grid | None, path: Path, outside: str) -> None:
    """Raise :class:`InputError` for points of which the transform knows nothing, unless they are to be extrapolated.

    Those lie outside the image, ``grid``, or where it is not known, outside the displacement fields.
    """
    from samreg.spatial.displacement import DisplacementField, InverseField
    from samreg.spatial.points import Points, require_inside
    from samreg.spatial.transforms import AffineTransform, components

    if mapping.ndim != points.ndim:
        raise InputError(f"the points have {points.ndim} coordinates, {path} is a transform in {mapping.ndim}D")
    outside_fields = np.zeros(len(points), dtype=bool)
    positions = points.positions
    for part in components(mapping):
        mapped = part.transform_points(positions)
        if isinstance(part, DisplacementField):
            outside_fields |= ~part.grid.contains(positions)
        elif isinstance(part, InverseField):  # whose field lies where its points end
            missed = np.linalg.norm(part.forward.transform_points(mapped) - positions, axis=1)
            outside_fields |= ~part.forward.grid.contains(mapped) | (missed > part.forward.grid.spacing.max())
        positions = mapped
    has_affine = any(isinstance(part, AffineTransform) for part in components(mapping))
    if outside == "extrapolate":
        if outside_fields.any() and not has_affine:
            raise InputError(
                f"{outside_fields.sum()} of {len(points)} points lie outside the field of {path}, which has no affine "
                "part to map them by; leave them out"
            )
        return
    remedy = " (--outside extrapolate maps them, by the affine part where the fields end)" if has_affine else ""
    if grid is not None:
        try:
            require_inside(Points(points.positions, points.names), grid, "the image they belong to")
        except InputError as error:
            raise InputError(f"{error}{remedy}") from None
    elif outside_fields.any():
        names = ", ".join(np.asarray(points.names)[outside_fields][:5].tolist())
        raise InputError(
            f"{outside_fields.sum()} of {len(points)} points lie outside the field of {path}: {names}. Were they given "
            f"in RAS, or as voxel indices?{remedy}"
        )


def _expected_error(folder: Path, fixed: Points) -> FloatArray | None:
    """Return the expected error at points of the fixed image, mm, where the folder of a result has it."""
    from samreg.registration.confidence import at_points
    from samreg.registration.result_folder import SUMMARY
    from samreg.registration.store import Stored

    expected = Stored.open(folder).error_map() if (folder / SUMMARY).is_file() else None
    return None if expected is None else at_points(expected, fixed.positions)


def _segments(source: Path, series: str | None, out: Path) -> tuple[Segment, ...]:
    """Return the names and colours of labels that the file to write keeps."""
    from samreg.spatial.io_nifti import NIFTI
    from samreg.spatial.io_segmentations import SEGMENTATION, named_segments

    return named_segments(source, series) if out.name.lower().endswith((SEGMENTATION, *NIFTI)) else ()


def _write_image(
    mapping: Transform, image: Image, grid: Grid, out: Path, interpolation: str, segments: tuple[Segment, ...]
) -> None:
    from samreg.spatial.io_images import write_image
    from samreg.spatial.io_segmentations import write_segmentation
    from samreg.spatial.resample import resample

    if image.ndim == grid.ndim == mapping.ndim and not _overlaps(mapping, image.grid, grid):
        raise InputError(
            f"nothing of {image.label} comes to lie on the reference; does it belong to the other image? See --to"
        )
    warped = resample(image, grid, transform=mapping, interpolation=interpolation)
    if segments:
        write_segmentation(warped, out, segments)
    else:
        write_image(warped, out)


def _dicom_reference(transform: Path, given: Path | None, to: str) -> Path:
    """Return the DICOM series to which an object is to belong: the one given, or the image that was registered."""
    from samreg.registration.store import saved_path

    path = given or saved_path(transform, to)
    if path is None:
        raise InputError(f"give --reference, the DICOM series of the {to} image, to which the object is to belong")
    return path


def _apply_to_dicom(
    transform: Path,
    source: Path,
    out: Path,
    reference: tuple[Path, str | None],
    *,
    to: str,
    is_contours: bool,
    outside: str | None,
) -> None:
    """Bring labels or contours to a DICOM series; both are pulled against the transform."""
    if outside is not None and not is_contours:
        raise InputError(f"--outside is for points and contours, but {source} holds labels; leave it out")
    from samreg.spatial.dicom.source import image_series
    from samreg.spatial.io_dicom_objects import dicom_points, warp_dicom_structures, write_dicom_segmentation
    from samreg.spatial.io_segmentations import named_segments
    from samreg.spatial.points import Points

    folder, series = reference
    target, origin = (_saved_grid(transform, role) for role in (to, _origin(to)))
    if target is not None and not target.overlaps(image_series(folder, series, what="the reference").grid):
        raise InputError(f"{folder} does not lie where the {to} image of {transform} does; give that image's series")
    backward = to == "moving"
    mapping = _in_folder(transform, backward, is_contours) if transform.is_dir() else _in_file(transform, backward)
    if is_contours:
        _require_known(Points(dicom_points(source)), mapping.inverse(), origin, transform, outside or "error")
        warp_dicom_structures(source, out, reference=folder, series=series, transform=mapping)
    else:
        names = {segment.value: segment.name for segment in named_segments(source)}
        write_dicom_segmentation(source, out, reference=folder, series=series, transform=mapping, names=names)


def _overlaps(mapping: Transform, source: Grid, target: Grid) -> bool:
    """Tell whether the box around where the target's points come from meets the source, to be asked before the work."""
    coarse = target.with_spacing(np.maximum(target.spacing, target.extent / _BOX_POINTS))
    index = source.world_to_index(mapping.transform_points(coarse.world_points().reshape(-1, target.ndim)))
    margin = coarse.spacing.max() / source.spacing  # between two points
    return bool((index.max(axis=0) + margin >= 0).all() and (index.min(axis=0) - margin <= source.size).all())


def _in_folder(folder: Path, backward: bool, is_points: bool) -> Transform:
    """Return the transform, or its inverse: solved for points, and as it was sampled and saved for images."""
    from samreg.registration.store import load_transform

    if backward and is_points:
        return load_transform(folder, "transform").inverse()
    return load_transform(folder, "inverse" if backward else "transform")


def _saved_grid(folder: Path, role: str) -> Grid | None:
    """Return the grid of the "fixed" or the "moving" image of a saved result; None where it is not known."""
    from samreg.registration.result_folder import SUMMARY
    from samreg.registration.store import Stored

    return Stored.open(folder).grid(role) if (folder / SUMMARY).is_file() else None


def _in_file(path: Path, backward: bool, grids: tuple[Grid | None, Grid | None] = (None, None)) -> Transform:
    """Read the transform, inverted when ``backward``; ``grids`` of the fixed and the moving image."""
    from samreg.spatial.io_fields import LEARN2REG
    from samreg.spatial.io_transforms import read_transform

    if grids[0] is None and path.name.lower().endswith(LEARN2REG):
        raise InputError(
            f"{path} counts voxels of the images, which it does not name; give the folder of the result in its place, "
            "or its transform.h5"
        )
    transform = read_transform(path, fixed_grid=grids[0], moving_grid=grids[1])
    return transform.inverse() if backward else transform


def _reference(transform: Path, given: Path | None, to: str, pixel_size: float | None) -> Image:
    if given is not None:
        return load_image(given, pixel_size=pixel_size)
    if to == "fixed" and (transform / "warped.nii.gz").is_file():
        return load_image(transform / "warped.nii.gz")
    raise InputError(f"give --reference, the {to} image, on whose grid the result is written")

"""``samreg info``."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from samreg.cli.common import Series, load_image, session, show_table
from samreg.errors import InputError

_CHECKPOINTS = (".safetensors", ".pth")
_PACKAGES = ("samreg", "torch", "antspyx", "itk-elastix", "SimpleITK", "numpy", "scipy", "nibabel")


def info(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Image, labels, DICOM folder, points, transform, embedding, landmark atlas, model, or the folder of a "
            "result, to describe."
        ),
    ] = None,
    series: Series = None,
) -> None:
    """Describe a FILE; without one, this installation: versions, devices, engines, models."""
    with session():
        if file is None:
            _installation()
            return
        kind = _kind(file)
        if series is not None and kind is not _image:
            raise InputError(f"--series chooses within DICOM, but {file} is none; leave it out")
        if kind is _image:
            _image(file, series)
        else:
            kind(file)


def _kind(path: Path) -> Callable[..., None]:
    """Return what describes a file of its kind."""
    from samreg.registration.result_folder import SUMMARY
    from samreg.spatial.files import require_file
    from samreg.spatial.io_dicom_objects import is_dicom_registration
    from samreg.spatial.io_itk_transforms import HDF5, MATLAB, is_text_transform
    from samreg.spatial.io_points import POINT_SUFFIXES
    from samreg.spatial.io_transformix import is_parameter_file

    name = require_file(path, "file").name.lower()
    if path.is_dir():
        return _result if (path / SUMMARY).is_file() else _image
    if path.name == SUMMARY:
        return lambda summary: _result(summary.parent)
    if name.endswith(HDF5):
        return _of_hdf5(path)
    if name.endswith(_CHECKPOINTS):
        return _model
    if (
        name.endswith((".tfm", *MATLAB))
        or is_dicom_registration(path)
        or (name.endswith(".txt") and (is_text_transform(path) or is_parameter_file(path)))  # refused by name
    ):
        return _transform
    if name.endswith(POINT_SUFFIXES):
        return _points
    return _transform if name.endswith(".npz") or _is_field(path) else _image


def _of_hdf5(path: Path) -> Callable[..., None]:
    import h5py

    from samreg.landmarks.atlas import FORMAT

    if not h5py.is_hdf5(path):
        return _embedding  # which says what it is not
    with h5py.File(path, "r") as file:
        if "TransformGroup" in file:
            return _transform
        return _atlas if file.attrs.get("format") == FORMAT else _embedding


def _is_field(path: Path) -> bool:
    """Tell a displacement field from an image, by what its header says of a voxel."""
    from samreg.spatial.io_fields import is_nifti_field
    from samreg.spatial.io_nifti import NIFTI
    from samreg.spatial.io_nrrd import METAIMAGE, NRRD, is_nrrd_field

    name = path.name.lower()
    if name.endswith(NIFTI):
        return is_nifti_field(path)
    return name.endswith((*NRRD, *METAIMAGE)) and is_nrrd_field(path)


def _installation() -> None:
    import pooch
    import torch

    from samreg.embedding import DEFAULT_MODEL, available_models

    show_table(
        "versions",
        ("package", "version"),
        [("Python", platform.python_version()), *((p, _version(p)) for p in _PACKAGES)],
    )
    cuda = [f"cuda: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    show_table(
        "devices",
        ("device", ""),
        [*((name, "") for name in (*cuda, *mps)), ("cpu", f"{torch.get_num_threads()} threads")],
    )
    show_table("engines", ("engine", "version"), _engines())
    show_table(
        "models",
        ("model", ""),
        [(f"{name} (default)" if name == DEFAULT_MODEL else name, what) for name, what in available_models().items()],
    )
    show_table("caches", ("of", "folder"), [("models loaded by address", pooch.os_cache("samreg"))])


def _engines() -> list[tuple[str, str]]:
    from samreg.engines.registry import engine_entries, engine_version
    from samreg.errors import MissingExtraError

    rows = []
    for name in engine_entries():
        try:
            rows.append((name, engine_version(name)))
        except MissingExtraError as error:
            rows.append((name, f"missing: {error}"))
    return rows


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _image(path: Path, series: str | None) -> None:
    from samreg.spatial.labels import is_label_image, whole_numbers

    image = load_image(path, series)
    grid = image.grid
    finite = np.isfinite(image.array)
    lacking = image.array.size - int(finite.sum())
    values = image.array[finite] if lacking else image.array
    rows = [
        ("size, voxels", _numbers(grid.size)),
        ("voxel size, mm", _numbers(grid.spacing)),
        ("extent, mm", _numbers(grid.extent)),
        ("origin, LPS mm", _numbers(grid.origin)),
        *((f"axis {axis}, LPS", _numbers(column)) for axis, column in zip("xyz", grid.direction.T, strict=False)),
        ("type", str(image.array.dtype)),
        *([("intensities", f"{_numbers([values.min()])} to {_numbers([values.max()])}")] if values.size else []),
    ]
    if lacking:
        rows.append(("not finite", f"{lacking} of {image.array.size} voxels"))
    if is_label_image(image):
        values = np.unique(whole_numbers(image))
        shown = _numbers(values[:20]) + (", ..." if len(values) > 20 else "")
        rows.append(("labels", f"{np.count_nonzero(values)} beside 0: {shown}" if 0 in values else shown))
    show_table(image.label, ("", ""), rows)


def _result(folder: Path) -> None:
    from samreg.registration.store import Stored

    summary = Stored.open(folder).summary
    options = {key: value for key, value in summary["options"].items() if value not in (None, {})}
    verdict = summary.get("verdict", "")
    rows = [
        ("registered", "yes" if summary["ok"] else f"no: {summary['reason']}"),
        *([("verdict", verdict)] if verdict else []),
        *((f"{role} image", f"{summary[role]['path'] or summary[role]['name']}") for role in ("fixed", "moving")),
        *((key.replace("_", " "), str(value)) for key, value in options.items()),
        *((key.replace("_", " "), f"{value:.4g}") for key, value in summary["quality"].items()),
        *(("check", reason) for reason in summary.get("to_check", ()) if reason not in verdict),
        ("files", ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file()))),
    ]
    show_table(f"{folder}: a saved registration", ("", ""), rows)


def _transform(path: Path) -> None:
    from samreg.spatial import AffineTransform, DisplacementField, read_transform
    from samreg.spatial.transforms import components

    if path.name.lower().endswith(".npz"):
        raise InputError(f"{path} counts voxels of the images, which it does not name; describe its folder instead")
    parts = components(read_transform(path))
    rows = [("direction", "fixed to moving points, LPS mm"), ("parts", f"{len(parts)}, the first applied first")]
    for part in parts:
        if isinstance(part, AffineTransform):
            rows += [("affine, matrix", _numbers(row)) for row in part.matrix]
            rows.append(("affine, translation mm", _numbers(part.translation)))
            rows.append(("affine, change of volume", _numbers(np.linalg.det(part.matrix))))
        elif isinstance(part, DisplacementField):
            length = np.linalg.norm(part.displacement, axis=-1)
            rows += [
                ("field, size, voxels", _numbers(part.grid.size)),
                ("field, voxel size, mm", _numbers(part.grid.spacing)),
                ("field, displacement, mm", f"mean {length.mean():.3g}, largest {length.max():.3g}"),
            ]
    show_table(f"{path}: a transform in {parts[0].ndim}D", ("", ""), rows)


def _points(path: Path) -> None:
    from samreg.spatial import read_points
    from samreg.spatial.points import require_some

    points = read_points(path)
    require_some(points, f"points in {path}")
    rows: list[tuple[str, str]] = [("number", str(len(points)))]
    rows += [
        (f"{axis}, LPS mm", f"{_numbers([column.min()])} to {_numbers([column.max()])}")
        for axis, column in zip("xyz", points.positions.T, strict=False)
    ]
    rows.append(("names", ", ".join(points.names[:10]) + (", ..." if len(points) > 10 else "")))
    if points.scores is not None:
        rows.append(("scores", f"{_numbers([np.nanmin(points.scores)])} to {_numbers([np.nanmax(points.scores)])}"))
    show_table(f"{path}: points in {points.ndim}D", ("", ""), rows)


def _embedding(path: Path) -> None:
    from samreg.embedding import Embedding

    found = Embedding.load(path)
    rows = [("model", found.model), ("local", f"{found.local.shape[0]} channels, {found.local_grid}")]
    if found.global_ is not None:
        rows.append(("global", f"{found.global_.shape[0]} channels, {found.global_grid}"))
    rows += [("inside the body", f"{found.body.mean():.0%}"), ("of the image", str(found.image_grid))]
    show_table(str(path), ("", ""), rows)


def _atlas(path: Path) -> None:
    from samreg.cli.landmarks import show_atlas_errors
    from samreg.landmarks import LandmarkAtlas

    atlas = LandmarkAtlas.load(path)
    rows = [
        ("model", atlas.model),
        ("people", f"{len(atlas.people)}: {', '.join(atlas.people)}"),
        ("landmarks", str(len(atlas.names))),
    ]
    show_table(f"{path}: a landmark atlas in {atlas.positions.shape[-1]}D", ("", ""), rows)
    show_atlas_errors(atlas)


def _model(path: Path) -> None:
    from samreg.embedding.checkpoint import load_checkpoint

    found = load_checkpoint(path)
    rows = [
        ("name", found.name),
        ("architecture", found.architecture),
        ("weights", f"{sum(weight.numel() for weight in found.network.parameters()):,}"),
        ("reliability", "calibrated" if found.calibration else "a default's, not calibrated"),
    ]
    if found.landmarks is not None:
        rows.append(("finds", ", ".join(found.landmarks["names"])))
    show_table(f"{path}: {'a model' if found.landmarks is None else 'a landmark detector'}", ("", ""), rows)


def _numbers(values: object) -> str:
    return ", ".join(f"{float(value):.6g}" for value in np.asarray(values).ravel())

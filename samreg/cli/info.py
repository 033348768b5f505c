"""``samreg info``."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from samreg.cli.common import load_image, session, show_table

_PACKAGES = ("samreg", "torch", "antspyx", "itk-elastix", "SimpleITK", "numpy", "scipy", "nibabel")


def info(
    file: Annotated[Path | None, typer.Argument(help="Image, DICOM folder or embedding (.h5) to describe.")] = None,
    series: Annotated[str | None, typer.Option(help="DICOM series: number, UID or description.")] = None,
) -> None:
    """Describe a FILE; without one, this installation: versions, devices, engines, models."""
    with session():
        if file is None:
            _installation()
        elif file.suffix.lower() == ".h5":
            _embedding(file)
        else:
            _image(file, series)


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
    image = load_image(path, series)
    grid = image.grid
    rows = [
        ("size, voxels", _numbers(grid.size)),
        ("voxel size, mm", _numbers(grid.spacing)),
        ("extent, mm", _numbers(grid.extent)),
        ("origin, LPS mm", _numbers(grid.origin)),
        *((f"axis {axis}, LPS", _numbers(column)) for axis, column in zip("xyz", grid.direction.T, strict=False)),
        ("type", str(image.array.dtype)),
        ("intensities", f"{_numbers([image.array.min()])} to {_numbers([image.array.max()])}"),
    ]
    if not np.isfinite(image.array).all():
        rows.append(("not finite", f"{int((~np.isfinite(image.array)).sum())} voxels"))
    show_table(image.label, ("", ""), rows)


def _embedding(path: Path) -> None:
    from samreg.embedding import Embedding

    found = Embedding.load(path)
    rows = [("model", found.model), ("local", f"{found.local.shape[0]} channels, {found.local_grid}")]
    if found.global_ is not None:
        rows.append(("global", f"{found.global_.shape[0]} channels, {found.global_grid}"))
    rows += [("inside the body", f"{found.body.mean():.0%}"), ("of the image", str(found.image_grid))]
    show_table(str(path), ("", ""), rows)


def _numbers(values: object) -> str:
    return ", ".join(f"{float(value):.6g}" for value in np.asarray(values).ravel())

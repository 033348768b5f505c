"""Results that were saved to a folder, read again."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.errors import InputError
from samreg.registration.result import SUMMARY, TRANSFORM_FORMATS, RegistrationResult, describe
from samreg.spatial.files import reading
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image
from samreg.spatial.io_images import PICTURES, read_image
from samreg.spatial.transforms import Transform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samreg.matching import Correspondences


@dataclass(frozen=True, eq=False, repr=False)
class SavedResult(RegistrationResult):
    """A result read from a folder: what was saved there is read when it is asked for, not computed again.

    Parameters
    ----------
    folder
        Where it was saved.
    measured
        The quality that was measured before it was saved.
    """

    folder: Path = Path()
    measured: Mapping[str, float] | None = None

    @property
    def quality(self) -> Mapping[str, float]:  # type: ignore[override]
        """The measures as saved."""
        self._transform()
        return self.measured or {}

    @cached_property
    def inverse(self) -> Transform:
        """Moving to fixed, LPS mm."""
        self._transform()
        return _transform_in(self.folder, "inverse", self.moving.grid, self.fixed.grid)

    @cached_property
    def correspondences(self) -> Correspondences | None:  # type: ignore[override]
        """The matches behind the seed; None without embeddings."""
        path = self.folder / "correspondences.csv"
        return _read_correspondences(path) if path.is_file() else None


def load_result(folder: Path, *, fixed: Any = None, moving: Any = None) -> SavedResult:
    """Read a saved result; see :meth:`samreg.RegistrationResult.load`."""
    path = folder / SUMMARY
    if not path.is_file():
        raise InputError(f"no {SUMMARY} in {folder}; give a folder that `samreg register` or result.save() wrote")
    with reading(path):
        summary = json.loads(path.read_text(encoding="utf-8"))
        fixed, moving = _image(summary["fixed"], "fixed", fixed), _image(summary["moving"], "moving", moving)
        body, log = folder / "body.nii.gz", folder / "engine.log"
        return SavedResult(
            fixed,
            moving,
            _transform_in(folder, "transform", fixed.grid, moving.grid) if summary["ok"] else None,
            body=as_image(body) if body.is_file() else None,
            options={key: _tuples(value) for key, value in summary["options"].items()},
            timings=summary["timings_s"],
            versions=summary["versions"],
            notes=tuple(summary["notes"]),
            log=log.read_text(encoding="utf-8") if log.is_file() else "",
            reason=summary["reason"],
            folder=folder,
            measured=summary["quality"],
        )


def load_transform(folder: Path, name: str) -> Transform:
    """Read the "transform" or the "inverse" of a saved result, without its images.

    Raises
    ------
    InputError
        When the registration failed, or the folder lacks the file or, for .npz, the ``result.json`` that says on
        which grids the images lie.
    """
    path = folder / SUMMARY
    grids: list[Grid | None] = [None, None]
    if path.is_file():
        with reading(path):
            summary = json.loads(path.read_text(encoding="utf-8"))
            if not summary["ok"]:
                raise InputError(f"{folder} holds no transform, the registration failed: {summary['reason']}")
            roles = ("fixed", "moving") if name == "transform" else ("moving", "fixed")
            grids = [_grid(summary[role]) for role in roles]
    return _transform_in(folder, name, *grids)


def _grid(saved: Mapping[str, Any]) -> Grid:
    return Grid.make(
        saved["size"][::-1],
        origin=saved["origin_lps_mm"],
        spacing=saved["spacing_mm"],
        direction=saved["direction"],
    )


def _image(saved: Mapping[str, Any], role: str, given: Any) -> Image:
    """Return the image given, or the one at the path saved, if it lies where the registered one did."""
    remedy = f"give {role}= (--{role} on the command line), the image that was registered"
    if given is None:
        where = saved["path"]
        if where is None:
            raise InputError(
                f"the {role} image {saved['name']} was no file of its own; {remedy} (one DICOM series of several: "
                f"samreg.read_image(FOLDER, series=...), or --{role} FOLDER --{role}-series SERIES)"
            )
        if not Path(where).exists():
            raise InputError(f"the {role} image is no longer at {where}; {remedy}")
        given = where
    if isinstance(given, (str, os.PathLike)) and os.fspath(given).lower().endswith(PICTURES):
        given = read_image(given, spacing=saved["spacing_mm"])  # a picture's file need not say it
    image = as_image(given, name=f"{role} image")
    found = describe(image)
    for key in ("size", "spacing_mm", "origin_lps_mm", "direction"):
        if np.shape(found[key]) != np.shape(saved[key]) or not np.allclose(found[key], saved[key], atol=1e-3):
            raise InputError(f"{image.label} was not registered: its {key} is {found[key]}, not {saved[key]}; {remedy}")
    return replace(image, name=saved["name"])


def _transform_in(folder: Path, name: str, fixed: Grid | None, moving: Grid | None) -> Transform:
    from samreg.spatial.io_transforms import read_transform

    paths = [folder / f"{name}{ending}" for ending in TRANSFORM_FORMATS.values()]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        names = ", ".join(path.name for path in paths)
        raise InputError(f"none of {names} in {folder}; give a folder that `samreg register` or result.save() wrote")
    if path.suffix == ".npz" and fixed is None:
        raise InputError(f"{path} counts voxels, and no {SUMMARY} says on which grids; copy that file too")
    return read_transform(path, fixed_grid=fixed, moving_grid=moving)


def _read_correspondences(path: Path) -> Correspondences:
    from samreg.matching import Correspondences

    with reading(path), path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
        table = np.array(rows, dtype=np.float64).reshape(-1, len(header))
        d = (len(header) - 3) // 2
        return Correspondences(table[:, :d], table[:, d : 2 * d], *table[:, 2 * d :].T)


def _tuples(value: Any) -> Any:
    """Turn the lists that JSON makes of tuples back."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value

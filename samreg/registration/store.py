"""How a result is written to a folder and read again; what lies there: :mod:`samreg.registration.result_folder`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from samreg.errors import InputError, require_choice, require_progress
from samreg.quality.landmarks import LandmarkErrors
from samreg.registration.misses import LandmarkMisses
from samreg.registration.result_folder import (
    AFFINE,
    BODY,
    CORRESPONDENCES,
    ERROR_MAP,
    FIELD_GRIDS,
    FILES,
    LANDMARK_ERRORS,
    LOG,
    MATCHES,
    MISSES,
    PREVIEW,
    REPORT,
    START,
    SUMMARY,
    TRANSFORM_FORMATS,
    TRANSFORMIX,
    WARPED,
    has_errors,
    require_formats,
)
from samreg.registration.tables import (
    read_correspondences,
    read_misses,
    write_correspondences,
    write_misses,
)
from samreg.spatial.compact import compact, compact_field, covering, sampled_inverse
from samreg.spatial.displacement import DisplacementField, sample_displacement
from samreg.spatial.files import (
    path_from_text,
    path_text,
    reading,
    replaced_files,
    require_path,
)
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image
from samreg.spatial.io_images import is_image_path, read_image, write_image
from samreg.spatial.io_pictures import PICTURES
from samreg.spatial.io_points import write_points
from samreg.spatial.io_transforms import read_transform, write_transform, write_transformix
from samreg.spatial.points import Points
from samreg.spatial.resample import in_type
from samreg.spatial.transforms import AffineTransform, Transform, components, compose

if TYPE_CHECKING:
    from samreg.matching import Correspondences
    from samreg.registration.result import RegistrationResult

log = logging.getLogger(__name__)

T = TypeVar("T")


def save(
    result: RegistrationResult,
    folder: str | os.PathLike[str],
    *,
    formats: str | Sequence[str],
    picture: Callable[[RegistrationResult, Path], object],
    field_grid: str = "compact",
    landmarks: LandmarkErrors | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write a result to a folder, all files or none; see :meth:`samreg.RegistrationResult.save`.

    Parameters
    ----------
    result
        Whether or not it failed.
    folder
        Made when missing; an earlier result in it is removed. A file that lies where no result was, and whose name
        the result needs, is refused.
    formats
        Of :data:`samreg.registration.result_folder.SAVE_FORMATS`.
    picture
        Draws a result of volumes into a PNG file.
    field_grid
        Of :data:`FIELD_GRIDS`.
    landmarks
        Errors that were measured, for the verdict.
    progress
        Called with the name of each stage as it starts; the log gets it, at level INFO, unless given.
    """
    require_choice("field_grid", field_grid, FIELD_GRIDS)
    require_progress(progress)
    formats, folder = require_formats(formats, result.fixed.ndim), require_path("folder", folder)
    others = {*FILES, REPORT}
    if has_errors(folder / LANDMARK_ERRORS):
        others.add(LANDMARK_ERRORS)
    with replaced_files(folder, summary=SUMMARY, others=others) as staging:
        _write_into(staging, result, formats, picture, field_grid, progress or log.info)
        _write_summary(staging, result, landmarks)
    return folder


def summary(result: RegistrationResult, landmarks: LandmarkErrors | None = None) -> dict[str, Any]:
    """Return what ``result.json`` holds."""
    verdict, misses = result.judge(landmarks), result.landmark_misses
    return {
        "status": verdict.status,
        "verdict": str(verdict),
        "to_check": list(verdict.reasons),
        "ok": bool(result),
        "reason": result.reason,
        "fixed": describe(result.fixed),
        "moving": describe(result.moving),
        "direction": "transform maps fixed points to moving points, LPS mm; inverse maps back",
        "options": dict(result.options),
        "versions": dict(result.versions),
        "timings_s": {key: round(value, 3) for key, value in result.timings.items()},
        "quality": {key: round(float(value), 5) for key, value in result.quality.items()} if result else {},
        "named_landmarks": [asdict(region) for region in misses.by_region()] if misses is not None else [],
        "guides": None if result.guides is None else _guides_as_plain(result.guides),
        "expectation": dict(zip(("says", "to_check"), map(list, result.expectation), strict=True)) if result else None,
        "shown_by_one": list(result.shown_by_one),
        "notes": list(result.notes),
        "flags": list(result.flags),
    }


def _guides_as_plain(guides: tuple[Points, Points]) -> dict[str, Any]:
    fixed, moving = (np.round(points.positions, 4).tolist() for points in guides)
    return {"names": list(guides[0].names), "fixed_lps_mm": fixed, "moving_lps_mm": moving}


def describe(image: Image) -> dict[str, Any]:
    """Return where an image is and lies, for ``result.json``."""
    # an image made in memory may bear the name of some other file or folder that is here
    is_file = bool(image.name) and os.path.exists(image.name) and is_image_path(Path(image.name))
    return {
        "name": path_text(image.name) if is_file else image.name,
        "path": path_text(os.path.abspath(image.name)) if is_file else None,
        "size": list(image.grid.size),
        "spacing_mm": np.round(image.spacing, 6).tolist(),
        "origin_lps_mm": np.round(image.origin, 6).tolist(),
        "direction": np.round(image.direction, 6).tolist(),
    }


@dataclass(frozen=True, eq=False)
class Stored:
    """A saved result; its files are read when they are asked for.

    Parameters
    ----------
    folder
        Where it was saved.
    summary
        The content of ``result.json``.
    """

    folder: Path
    summary: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Stored:
        """Read the summary of a folder.

        Raises
        ------
        InputError
            When there is none, or it is damaged.
        """
        path = require_path("folder", folder) / SUMMARY
        if not path.is_file():
            raise InputError(f"no {SUMMARY} in {folder}; give a folder that `samreg register` or result.save() wrote")
        with reading(path, "it is no result of samreg, or is damaged; save the result again"):
            content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
            keys = ("ok", "reason", "fixed", "moving", "options", "timings_s", "versions", "notes", "quality")
            summary = {**content, **{key: content[key] for key in keys}}
            for role in ("fixed", "moving"):  # which are read later
                _ = [summary[role][key] for key in ("name", "path", "size", "spacing_mm", "origin_lps_mm", "direction")]
                if summary[role]["path"] is not None:  # of a file that is found under this process's locale
                    names = {key: path_from_text(summary[role][key]) for key in ("name", "path")}
                    summary[role] = {**summary[role], **names}
            return cls(Path(folder), summary)

    def __bool__(self) -> bool:
        return bool(self.summary["ok"])

    @property
    def options(self) -> dict[str, Any]:
        """How register() was called; lists are tuples again."""
        return {key: _tuples(value) for key, value in self.summary["options"].items()}

    def image(self, role: str, given: Any = None) -> Image:
        """Return the "fixed" or the "moving" image: the one given, or that at the path saved.

        Raises
        ------
        InputError
            When it is no longer there, or does not lie where the registered one did.
        """
        saved = self.summary[role]
        remedy = f"give {role}= (--{role} on the command line), the image that was registered"
        source = _path(saved, role, remedy) if given is None else given
        if isinstance(source, (str, os.PathLike)) and os.fspath(source).lower().endswith(PICTURES):
            source = read_image(source, spacing=saved["spacing_mm"])  # a picture's file need not say it
        image = as_image(source, name=f"{role} image")
        actual = describe(image)
        for key in ("size", "spacing_mm", "origin_lps_mm", "direction"):
            if np.shape(actual[key]) != np.shape(saved[key]) or not np.allclose(actual[key], saved[key], atol=1e-3):
                raise InputError(
                    f"{image.label} was not registered: its {key} is {actual[key]}, not {saved[key]}; {remedy}"
                )
        return replace(image, name=saved["name"])

    def grid(self, role: str) -> Grid:
        """Return the grid of the "fixed" or the "moving" image."""
        saved = self.summary[role]
        return Grid.make(
            saved["size"][::-1],
            origin=saved["origin_lps_mm"],
            spacing=saved["spacing_mm"],
            direction=saved["direction"],
        )

    def transform(self, name: str) -> Transform:
        """Return the "transform", fixed to moving, or the "inverse", LPS mm.

        Raises
        ------
        InputError
            When the registration failed, or the file is missing or damaged.
        """
        if not self:
            raise InputError(f"{self.folder} holds no transform, the registration failed: {self.summary['reason']}")
        roles = ("fixed", "moving") if name == "transform" else ("moving", "fixed")
        return _read_transform(self.folder, name, [self.grid(role) for role in roles])

    def body(self) -> Image | None:
        """Return the fixed body; None where it was not known."""
        return self._read(BODY, as_image)

    def error_map(self) -> Image | None:
        """Return the expected error on its coarse grid, mm; None where it was not estimated."""
        return self._read(ERROR_MAP, as_image)

    def landmark_misses(self) -> LandmarkMisses | None:
        """Return the named landmarks and by how much they are missed; None where none were looked for."""
        return self._read(MISSES, read_misses)

    def log(self) -> str:
        """Return what the engine printed."""
        path = self.folder / LOG
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def start(self) -> Transform | None:
        """Return the transform that was given to start from, fixed to moving; None without."""
        return self._read(START, read_transform)

    def guides(self) -> tuple[Points, Points] | None:
        """Return the landmarks that were given to guide the registration; None without, as in older results."""
        saved = self.summary.get("guides")
        if saved is None:
            return None
        with reading(self.folder / SUMMARY, "it is damaged; save the result again"):
            fixed, moving = (Points(saved[f"{role}_lps_mm"], tuple(saved["names"])) for role in ("fixed", "moving"))
        return fixed, moving

    def correspondences(self) -> Correspondences | None:
        """Return the matches behind the seed; None without embeddings."""
        return self._read(CORRESPONDENCES, read_correspondences)

    def _read(self, name: str, reader: Callable[[Path], T]) -> T | None:
        """Return what a file of the folder holds; None where there is no such file."""
        path = self.folder / name
        return reader(path) if path.is_file() else None


def saved_path(folder: str | os.PathLike[str], role: str) -> Path | None:
    """Return where the "fixed" or "moving" image of a saved result was, if it is still there."""
    folder = Path(folder)
    path = Stored.open(folder).summary[role]["path"] if (folder / SUMMARY).is_file() else None
    return Path(path) if path is not None and Path(path).exists() else None


def load_transform(folder: str | os.PathLike[str], name: str) -> Transform:
    """Read the "transform" or the "inverse" of a saved result, without its images.

    Raises
    ------
    InputError
        When the registration failed, or the folder lacks the file or, for .npz, the ``result.json`` that says on
        which grids the images lie.
    """
    folder = Path(folder)
    if (folder / SUMMARY).is_file():
        return Stored.open(folder).transform(name)
    return _read_transform(folder, name, [None, None])


def _write_into(
    folder: Path,
    result: RegistrationResult,
    formats: Sequence[str],
    picture: Callable[[RegistrationResult, Path], object],
    field_grid: str,
    progress: Callable[[str], None],
) -> None:
    if result.transform is not None:
        _write_transforms(folder, result, formats, field_grid, progress)
        progress("warping the moving image")
        write_image(in_type(result.warped, result.moving.array.dtype), folder / WARPED)
        progress("measuring quality")
        _ = result.quality
        progress("writing pictures and tables")
        if result.fixed.ndim == 3:
            picture(result, folder / PREVIEW)
    pairs = result.correspondences
    if pairs is not None:
        write_correspondences(pairs, folder / CORRESPONDENCES)
        for role, name in MATCHES.items() if "mrk" in formats else ():
            write_points(Points(getattr(pairs, role), scores=pairs.reliability), folder / name)
    if result.start is not None:
        grid = None if _is_stored_whole(result.start) else result.fixed.grid
        write_transform(result.start, folder / START, grid=grid)
    if result.error_map is not None:
        write_image(result.error_map, folder / ERROR_MAP)
    if result.landmark_misses is not None:
        write_misses(result.landmark_misses, folder / MISSES)
    if result.body is not None:
        write_image(result.body, folder / BODY)
    if result.log:
        (folder / LOG).write_text(result.log, encoding="utf-8", errors="surrogateescape")


def _write_summary(folder: Path, result: RegistrationResult, landmarks: LandmarkErrors | None) -> None:
    text = json.dumps(summary(result, landmarks), indent=2, default=_plain, ensure_ascii=False) + "\n"
    (folder / SUMMARY).write_text(text, encoding="utf-8", errors="surrogateescape")  # paths as the disk holds them


def _write_transforms(
    folder: Path, result: RegistrationResult, formats: Sequence[str], field_grid: str, progress: Callable[[str], None]
) -> None:
    assert result.transform is not None
    fixed, moving = result.fixed.grid, result.moving.grid
    kinds = [name for name in formats if name in TRANSFORM_FORMATS]
    progress("writing the transform")
    covered = covering(result.transform, fixed, moving)
    for kind in kinds:
        stored, grid = _for_file(result.transform, fixed if kind == "npz" else covered, kind, field_grid)
        write_transform(stored, folder / f"transform{TRANSFORM_FORMATS[kind]}", grid=grid, moving_grid=moving)
    progress("writing the inverse")
    is_sampled = field_grid == "compact" and {*kinds} & {"h5", "nii"}
    sampled = sampled_inverse(result.transform, fixed, moving) if is_sampled else result.inverse
    for kind in kinds:
        stored, grid = _for_file(result.inverse if kind == "npz" else sampled, moving, kind, field_grid)
        write_transform(stored, folder / f"inverse{TRANSFORM_FORMATS[kind]}", grid=grid, moving_grid=fixed)
    if "nii" in formats:
        fill = float(result.moving.array.min())
        write_transformix(folder / TRANSFORMIX, "transform.nii.gz", grid=fixed, fill=fill)
    affine = [part for part in components(result.transform) if isinstance(part, AffineTransform)]
    if affine:
        write_transform(affine[-1], folder / AFFINE)


def _for_file(transform: Transform, covered: Grid, kind: str, field_grid: str) -> tuple[Transform, Grid | None]:
    """Return what to write of a transform from a grid's points, and the grid to sample it on; None for its own."""
    if field_grid == "full" or kind == "npz":  # which counts the image's voxels
        return transform, covered
    if kind == "nii":
        return compact_field(transform, covered), None
    return (compact(transform, covered), None) if _is_stored_whole(transform) else (transform, covered)


def _is_stored_whole(transform: Transform) -> bool:
    """Tell whether a file can hold the transform as it is, without sampling it."""
    return all(isinstance(part, (AffineTransform, DisplacementField)) for part in components(transform))


def _read_transform(folder: Path, name: str, grids: Iterable[Grid | None]) -> Transform:
    """Return a transform; beyond the grid of its file it is its affine part."""
    paths = [folder / f"{name}{ending}" for ending in TRANSFORM_FORMATS.values()]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        names = ", ".join(path.name for path in paths)
        raise InputError(f"none of {names} in {folder}; give a folder that `samreg register` or result.save() wrote")
    source, target = grids
    if path.suffix == ".npz" and source is None:
        raise InputError(f"{path} counts voxels, and no {SUMMARY} says on which grids; copy that file too")
    transform = read_transform(path, fixed_grid=source, moving_grid=target)
    if not (isinstance(transform, DisplacementField) and (folder / AFFINE).is_file()):
        return transform
    affine = read_transform(folder / AFFINE)
    affine = affine if name == "transform" else affine.inverse()
    return compose(sample_displacement(compose(transform, affine.inverse()), transform.grid), affine)


def _path(saved: Mapping[str, Any], role: str, remedy: str) -> str:
    path: str | None = saved["path"]
    if path is None:
        raise InputError(
            f"the {role} image {saved['name']} was no file of its own; {remedy} (one DICOM series of several: "
            f"samreg.read_image(FOLDER, series=...), or --{role} FOLDER --{role}-series SERIES)"
        )
    if not Path(path).exists():
        raise InputError(f"the {role} image is no longer at {path}; {remedy}")
    return path


def _plain(value: Any) -> Any:
    """Return an option's value as JSON can hold it."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _tuples(value: Any) -> Any:
    """Turn the lists that JSON makes of tuples back."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value

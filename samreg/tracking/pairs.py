"""Many pairs of visits in one run, and the annotations of DeepLesion's lesion pairs."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from samreg.errors import InputError, SamregError
from samreg.spatial.files import require_file
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.io_images import read_image
from samreg.spatial.tables import read_table
from samreg.steps import Outcome, run_step, write_summary, write_table
from samreg.tracking.errors import TrackingErrors, tracking_errors
from samreg.tracking.lesions import Lesions, as_lesions
from samreg.tracking.result import LesionTracks
from samreg.tracking.track import track

_ERRORS = "errors.csv"
_COLUMNS = ("name", "x", "y", "z", "true_x", "true_y", "true_z", "radius_mm")
_NEEDED = ("baseline", "followup", "lesions")
_SOURCE, _TARGET = "source", "target"
_SUFFIX = re.compile(r"\.nii(\.gz)?$")
_NUMBERS = {"source center": (3,), "target center": (3,), "source box": (0, 6), "target box": (0, 6)}  # how many


@dataclass(frozen=True, eq=False)
class VoxelLesions:
    """N lesions by voxels of their image, whatever its grid.

    Parameters
    ----------
    index
        (N, 3) centres, voxel indices from 0, order (x, y, z).
    radii
        (N,) in voxels of the slice; NaN where unknown.
    """

    index: FloatArray
    radii: FloatArray

    def on(self, grid: Grid) -> Lesions:
        """Return them in the world of their image's grid, named 1, 2, ..."""
        return as_lesions(grid.index_to_world(self.index), grid, radii=self.radii * grid.spacing[0])


@dataclass(frozen=True, eq=False)
class LesionPair:
    """Two visits of one person, and the lesions of the first.

    Parameters
    ----------
    name
        Of the pair; its results' folder.
    baseline, followup
        The scans' files.
    lesions
        In the baseline: a file of points or a label map, or voxels.
    truth
        The same lesions in the follow-up, by the same names; None where they are unknown.
    """

    name: str
    baseline: Path
    followup: Path
    lesions: Path | VoxelLesions
    truth: Path | VoxelLesions | None = None


def read_pairs(path: str | os.PathLike[str]) -> tuple[LesionPair, ...]:
    """Read a csv of pairs: columns baseline, followup, lesions, optionally name and truth; files relative to the csv.

    Raises
    ------
    InputError
        When the file, a column or a cell is missing, or a name occurs twice.
    """
    table = read_table(path, "list of pairs", needed=_NEEDED)
    pairs = []
    for i, (line, row) in enumerate(zip(table.rows, table.records(), strict=True), start=1):
        empty = [key for key in _NEEDED if not row[key].strip()]
        if empty:
            raise InputError(f"{table.path}, line {line.line}: no {', '.join(empty)}; give a file for each")
        files = {key: table.path.parent / row[key].strip() for key in (*_NEEDED, "truth") if row.get(key, "").strip()}
        pairs.append(LesionPair(row.get("name", "").strip() or f"pair-{i:03d}", **files))
    if not pairs:
        raise InputError(f"{table.path}: give at least one pair")
    _require_names(pairs, f"{table.path}: ")
    return tuple(pairs)


def _require_names(pairs: Sequence[LesionPair], where: str) -> None:
    """Raise :class:`InputError` when two pairs would share a folder."""
    names = [pair.name for pair in pairs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"{where}pairs share the names {doubled[:5]}; give each pair a name of its own")
    if unusable := [name for name in names if name in (".", "..") or set(name) & set("/\\\0")]:
        raise InputError(f"{where}{unusable[:5]} cannot name a folder; leave out / and \\")


def read_dlt(path: str | os.PathLike[str], images: str | os.PathLike[str]) -> tuple[LesionPair, ...]:
    """Read lesion pairs of DeepLesion as Deep Lesion Tracker's authors annotated them.

    The file is JSON: a list of lesions, or a mapping whose values are such lists or lesions. Of each lesion these keys
    are read, with a space or an underscore between the words:

    - ``source``, ``target``: the volumes' file names, found in ``images`` with or without their suffix;
    - ``source center``, ``target center``: [x, y, z], voxel indices from 0 in the volumes;
    - ``source box``, ``target box`` (optional): [x0, y0, z0, x1, y1, z1], voxel indices; half the box's longer side in
      the slice is the lesion's radius.

    The keys are an assumption that was not checked against a published file; a file of other keys is refused, with the
    keys it has.

    Parameters
    ----------
    path
        The annotations.
    images
        Folder of the volumes, NIfTI.

    Returns
    -------
    tuple of LesionPair
        The lesions of two volumes together.

    Raises
    ------
    InputError
        When the file is missing, no JSON, or of other keys, or two pairs of volumes would have one name.
    """
    path, images = require_file(path, "DLT annotations"), Path(images)
    try:
        lesions = _flat(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"cannot read {path}: no JSON ({error}); download it again") from error
    groups: dict[tuple[Path, Path], list[Mapping[str, Any]]] = {}
    for number, lesion in enumerate(lesions, start=1):
        needed = (_SOURCE, _TARGET, "source center", "target center")
        missing = [key for key in needed if key not in lesion]
        if missing:
            raise InputError(f"{path}, lesion {number}: no {missing}; it has {sorted(lesion)}: not DLT's annotations?")
        for key, counts in _NUMBERS.items():
            values = _numbers(lesion.get(key))
            if len(values) not in counts or not np.isfinite(values).all():
                raise InputError(
                    f"{path}, lesion {number}: {key!r} is {lesion[key]}; {counts[-1]} voxel indices are needed"
                )
            lesion[key] = values
        source, target = (_volume(images, str(lesion[visit])) for visit in (_SOURCE, _TARGET))
        groups.setdefault((source, target), []).append(lesion)
    if not groups:
        raise InputError(f"{path} holds no lesions")
    pairs = tuple(_dlt_pair(*files, group) for files, group in groups.items())
    _require_names(pairs, f"{path}: ")
    return pairs


def _numbers(value: Any) -> FloatArray:
    """Return the numbers in a list, of whatever depth; NaN where they are none."""
    try:
        return np.array(np.ravel(() if value is None else value), dtype=float)
    except (TypeError, ValueError):
        return np.array([np.nan])


def _flat(document: Any) -> list[dict[str, Any]]:
    """Return the lesions in lists and mappings of lists, their keys with spaces."""
    if (
        isinstance(document, Mapping)
        and _SOURCE not in document
        and document
        and all(isinstance(value, (Mapping, list)) for value in document.values())
    ):
        document = list(document.values())
    if isinstance(document, list):
        return [lesion for part in document for lesion in _flat(part)]
    if not isinstance(document, Mapping):
        raise ValueError(f"a lesion is a mapping, got {str(document)[:40]}")
    return [{str(key).replace("_", " "): value for key, value in document.items()}]


def _dlt_pair(source: Path, target: Path, group: Sequence[Mapping[str, Any]]) -> LesionPair:
    stems = [_SUFFIX.sub("", path.name) for path in (source, target)]
    here, there = (_voxels(group, visit) for visit in (_SOURCE, _TARGET))
    return LesionPair("_to_".join(stems), source, target, here, there)


def _voxels(group: Sequence[Mapping[str, Any]], visit: str) -> VoxelLesions:
    boxes = np.array([box if len(box := lesion[f"{visit} box"]) else [np.nan] * 6 for lesion in group])
    centers = np.array([lesion[f"{visit} center"] for lesion in group])
    return VoxelLesions(centers, (boxes[:, 3:5] - boxes[:, :2]).max(axis=1) / 2)


def _volume(images: Path, name: str) -> Path:
    """Return the file of a volume; one that is missing is reported when its pair's turn comes."""
    stem = _SUFFIX.sub("", name)
    candidates = [images / name, *(images / f"{stem}{suffix}" for suffix in (".nii.gz", ".nii"))]
    return next((path for path in candidates if path.is_file()), candidates[1])


def track_pairs(
    pairs: Sequence[LesionPair],
    out: str | os.PathLike[str],
    *,
    model: Any = None,
    device: str = "auto",
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> tuple[list[Outcome], TrackingErrors | None]:
    """Track the lesions of many pairs of visits.

    ``out`` receives a folder a pair (:meth:`LesionTracks.save`, and ``errors.csv`` where the true centres are known)
    and ``summary.csv``. A pair that fails is recorded there, and the others go on. A run that was stopped goes on where
    it stopped: results are kept while scans, lesions, model and options stay the same.

    Parameters
    ----------
    pairs
        From :func:`read_pairs` or :func:`read_dlt`.
    out
        Folder for the results.
    model, device, seed
        As in :func:`track`; the model as a name or path.
    jobs
        Pairs at a time.
    progress
        Called with what is being done.

    Returns
    -------
    list of Outcome
        Of the pairs, in order.
    TrackingErrors or None
        Over all lesions whose true centres are known; None where there are none.

    Raises
    ------
    InputError
        When an option is at fault, two pairs share a name, or the disk is full.
    """
    import joblib

    from samreg.embedding import DEFAULT_MODEL, load_model

    report = progress or (lambda text: None)
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")
    _require_names(pairs, "")
    out = Path(out)
    options = {"model": model, "device": device, "seed": seed}
    identity = load_model(DEFAULT_MODEL if model is None else model).identity
    tasks = (joblib.delayed(_track_one)(pair, out / pair.name, options, identity) for pair in pairs)
    outcomes: list[Outcome] = []
    for outcome in joblib.Parallel(n_jobs=jobs, return_as="generator")(tasks):
        outcomes.append(outcome)
        report(f"{len(outcomes)} of {len(pairs)}, {outcome.name}: {outcome.status} {outcome.reason}")
    write_summary(out / "summary.csv", outcomes)
    return outcomes, _accuracy([out / outcome.name / _ERRORS for outcome in outcomes if outcome])


def _track_one(pair: LesionPair, out: Path, options: Mapping[str, Any], identity: str) -> Outcome:
    """Track one pair in whatever process."""
    given = (pair.lesions, pair.truth)
    files = [pair.baseline, pair.followup, *(part for part in given if isinstance(part, Path))]
    voxels = [[part.index.tolist(), str(part.radii)] for part in given if isinstance(part, VoxelLesions)]

    def work(folder: Path) -> None:
        baseline, followup = read_image(pair.baseline), read_image(pair.followup)
        lesions = _on(pair.lesions, baseline.grid)
        truth = None if pair.truth is None else _on(pair.truth, followup.grid)
        lost = () if truth is None else _unmatched(lesions, truth)
        tracks = track(baseline, followup, lesions, **options)
        if not tracks:
            raise SamregError(f"the scans could not be aligned: {tracks.reason}")
        replace(tracks, notes=(*tracks.notes, *lost)).save(folder)
        if truth is not None:
            _write_errors(folder / _ERRORS, tracks, truth)

    inputs = {"model": identity, "seed": options["seed"], "voxels": voxels}
    return run_step(out, work, files=files, inputs=inputs, packages=("torch", "scipy"))


def _on(lesions: Path | VoxelLesions, grid: Grid) -> Lesions:
    return lesions.on(grid) if isinstance(lesions, VoxelLesions) else as_lesions(lesions, grid)


def _unmatched(lesions: Lesions, truth: Lesions) -> tuple[str, ...]:
    """Return a note when the truth has other lesions too; raise :class:`InputError` when it has others alone."""
    names, known = set(lesions.points.names), set(truth.points.names)
    if not names & known:
        raise InputError(f"the truth has lesions {sorted(known)}, but none of {sorted(names)}; name them alike")
    lost = len(known - names)
    return (f"the truth has {lost} more lesions, of other names; they were left out of the errors",) if lost else ()


def _write_errors(path: Path, tracks: LesionTracks, truth: Lesions) -> None:
    """Write found and true centres and the radius of each lesion that the truth has."""
    radii = dict(zip(truth.points.names, truth.radii.tolist(), strict=True))
    rows = []
    for lesion in tracks.lesions:
        if lesion.name in radii:
            true = truth.points.named([lesion.name]).positions[0]
            size = lesion.after or lesion.before
            radius = size.diameter / 2 if np.isnan(radii[lesion.name]) and size else radii[lesion.name]
            rows.append((lesion.name, *lesion.followup.tolist(), *true.tolist(), radius))
    write_table(path, _COLUMNS, rows)


def _accuracy(files: Sequence[Path]) -> TrackingErrors | None:
    rows = []
    for path in files:
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows += [[float(row[key]) for key in _COLUMNS[1:]] for row in csv.DictReader(file)]
    if not rows:
        return None
    table = np.array(rows)
    return tracking_errors(table[:, :3], table[:, 3:6], table[:, 6])

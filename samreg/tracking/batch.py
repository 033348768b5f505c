"""Many pairs of visits tracked in one run."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from samreg.backends import each
from samreg.errors import ImagesAtFault, InputError, require_each, require_number, require_progress, require_seed
from samreg.spatial.files import claimed_folder, require_path
from samreg.spatial.grid import Grid
from samreg.spatial.io_images import read_image
from samreg.steps import Outcome, run_step, write_summary, write_table
from samreg.tracking.accuracy import TrackingErrors, tracking_errors
from samreg.tracking.lesions import Lesions, as_lesions
from samreg.tracking.pairs import LesionPair, VoxelLesions, require_names
from samreg.tracking.result import LesionTracks
from samreg.tracking.track import track

log = logging.getLogger(__name__)

_ERRORS = "errors.csv"
_COLUMNS = ("name", "x", "y", "z", "true_x", "true_y", "true_z", "radius_mm")
_DIMENSIONS = 3
_PACKAGES = ("torch", "scipy")  # that embed and match


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
    r"""Track the lesions of many pairs of visits.

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
        Called with what is being done; the log gets it, at level INFO, unless given.

    Returns
    -------
    list of Outcome
        Of the pairs, in order.
    TrackingErrors or None
        Over all lesions whose true centres are known; None where there are none.

    Raises
    ------
    InputError
        When an option is at fault, two pairs share a name, another run writes to ``out``, or the disk is full.

    Examples
    --------
    >>> import samreg, tempfile
    >>> from samreg.tracking import read_pairs, track_pairs
    >>> folder = Path(tempfile.mkdtemp())
    >>> scan = np.random.default_rng(0).normal(0, 100, (12, 12, 12)).astype(np.float32)
    >>> samreg.write_image(samreg.Image.from_array(scan, spacing=(8, 8, 8)), folder / "scan.nii.gz")
    >>> samreg.write_points(samreg.Points([[40.0, 40.0, 40.0]]), folder / "lesions.csv")
    >>> _ = (folder / "pairs.csv").write_text("baseline,followup,lesions\nscan.nii.gz,scan.nii.gz,lesions.csv")
    >>> outcomes, errors = track_pairs(read_pairs(folder / "pairs.csv"), folder / "out", model="mind")
    >>> [(outcome.name, outcome.status) for outcome in outcomes]
    [('pair-001', 'done')]
    """
    from samreg.device import resolve_device
    from samreg.embedding.registry import default_model, load_model

    require_progress(progress)
    resolve_device(device)
    seed, jobs = require_seed(seed), require_number("jobs", jobs, minimum=1, integer=True)
    report = progress or log.info
    pairs = require_each("pairs", pairs, LesionPair, "as samreg.tracking.read_pairs returns it")
    require_names(pairs)
    out = require_path("out", out)
    options = {"model": model, "device": device, "seed": seed}
    identity = load_model(default_model(_DIMENSIONS) if model is None else model).identity
    outcomes: list[Outcome] = []
    with claimed_folder(out):
        for outcome in each(partial(_track_one, out, options, identity), pairs, jobs=jobs):
            outcomes.append(outcome)
            report(f"{len(outcomes)} of {len(pairs)}, {outcome.name}: {outcome.status} {outcome.reason}")
        write_summary(out / "summary.csv", outcomes)
    return outcomes, _accuracy([out / outcome.name / _ERRORS for outcome in outcomes if outcome])


def _track_one(out: Path, options: Mapping[str, Any], identity: str, pair: LesionPair) -> Outcome:
    """Track one pair in whatever process."""
    given = (pair.lesions, pair.truth)
    files = [pair.baseline, pair.followup, *(part for part in given if isinstance(part, Path))]
    voxels = [[part.index.tolist(), str(part.radii)] for part in given if isinstance(part, VoxelLesions)]

    def work(folder: Path) -> None:
        baseline, followup = read_image(pair.baseline), read_image(pair.followup)
        lesions = _on(pair.lesions, baseline.grid)
        truth = None if pair.truth is None else _on(pair.truth, followup.grid)
        unmatched = () if truth is None else _unmatched(lesions, truth)
        tracks = track(baseline, followup, lesions, **options)
        if not tracks:
            raise ImagesAtFault(f"the scans could not be aligned: {tracks.reason}")
        replace(tracks, notes=(*tracks.notes, *unmatched)).save(folder)
        if truth is not None:
            _write_errors(folder / _ERRORS, tracks, truth)

    inputs = {"model": identity, "seed": options["seed"], "voxels": voxels}
    return run_step(out / pair.name, work, files=files, inputs=inputs, packages=_PACKAGES)


def _on(lesions: Path | VoxelLesions, grid: Grid) -> Lesions:
    return lesions.on(grid) if isinstance(lesions, VoxelLesions) else as_lesions(lesions, grid)


def _unmatched(lesions: Lesions, truth: Lesions) -> tuple[str, ...]:
    """Return a note when the truth has other lesions too; raise :class:`InputError` when it has others alone."""
    names, known = set(lesions.points.names), set(truth.points.names)
    if not names & known:
        raise InputError(f"the truth has lesions {sorted(known)}, but none of {sorted(names)}; name them alike")
    more = len(known - names)
    return (f"the truth has {more} more lesions, of other names; they were left out of the errors",) if more else ()


def _write_errors(path: Path, tracks: LesionTracks, truth: Lesions) -> None:
    """Write tracked and true centres and the radius of each lesion that the truth has."""
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

"""How the registration of a pair ended: what is measured of it, and its line in a csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from samreg.quality import LandmarkErrors, dice, summarise_errors
from samreg.registration.pairs import RegistrationPair
from samreg.registration.result import RegistrationResult
from samreg.spatial.image import Image
from samreg.spatial.inputs import points_in
from samreg.spatial.io_images import read_image
from samreg.spatial.labels import whole_numbers
from samreg.spatial.points import Points, paired_points
from samreg.spatial.resample import resample
from samreg.spatial.tables import plain_cell
from samreg.steps import write_table


@dataclass(frozen=True)
class PairOutcome:
    """How the registration of a pair ended: a line of ``summary.csv``.

    Parameters
    ----------
    name, fixed, moving
        Of the pair.
    status
        "registered"; "not registered", where the images are at fault; "failed", which the next run tries again.
    seconds
        It took, when it was done.
    reason
        Why there is no transform.
    verdict
        "good", "check" or "failed", as in the pair's ``result.json``.
    flags
        What is to be checked, joined by semicolons: the reasons of the verdict, what was measured and expected too.
    landmarks
        How many both images have; the errors there in mm are in the moving image.
    error_before_mm, error_mean_mm, error_median_mm, error_p95_mm, error_max_mm
        Before registration, the mean; and after it. None where there are no landmarks.
    labels
        How many both images have.
    dice_mean, dice_min
        Over them; None where there are none.

    Examples
    --------
    >>> bool(PairOutcome("ANNA", "a.nii.gz", "b.nii.gz", "registered")), bool(PairOutcome("BOB", "a", "c", "failed"))
    (True, False)
    """

    name: str
    fixed: str
    moving: str
    status: str
    seconds: float = 0.0
    reason: str = ""
    verdict: str = ""
    flags: str = ""
    landmarks: int = 0
    error_before_mm: float | None = None
    error_mean_mm: float | None = None
    error_median_mm: float | None = None
    error_p95_mm: float | None = None
    error_max_mm: float | None = None
    labels: int = 0
    dice_mean: float | None = None
    dice_min: float | None = None

    def __bool__(self) -> bool:
        return self.status == "registered"


def outcome_of(pair: RegistrationPair, status: str, *, seconds: float = 0.0, reason: str = "") -> PairOutcome:
    """Return an outcome without measures."""
    return PairOutcome(pair.name, os.fspath(pair.fixed), os.fspath(pair.moving), status, seconds, reason)


def measured_outcome(
    pair: RegistrationPair, result: RegistrationResult, errors: LandmarkErrors | None, overlap: Mapping[int, float]
) -> PairOutcome:
    """Return the outcome of a registration that came to an end.

    Parameters
    ----------
    pair, result
        What was registered, and how it went.
    errors
        At the pair's landmarks; None where there are none.
    overlap
        Dice of each label, as :func:`label_overlap` returns it.
    """
    verdict = result.judge(errors)
    return replace(
        outcome_of(pair, "registered" if result else "not registered", reason=result.reason),
        verdict=verdict.status,
        flags="; ".join(verdict.reasons) if result else "",
        **_error_columns(errors),
        **_dice_columns(overlap),
    )


def landmarks_of(pair: RegistrationPair, images: tuple[Image, Image]) -> tuple[Points, Points] | None:
    """Return the landmarks that both images have, in one order; None where a pair has none."""
    paths = pair.fixed_landmarks, pair.moving_landmarks
    if paths[0] is None or paths[1] is None:
        return None
    fixed, moving = (points_in(path, image.grid, image.label) for path, image in zip(paths, images, strict=True))
    return paired_points(fixed, moving)


def labels_of(pair: RegistrationPair, *, pixel_size: float | None = None) -> tuple[Image, Image] | None:
    """Return the label maps of both images, read at a pixel size where one is given; None where a pair has none."""
    if pair.fixed_labels is None or pair.moving_labels is None:
        return None
    return read_image(pair.fixed_labels, spacing=pixel_size), read_image(pair.moving_labels, spacing=pixel_size)


def label_overlap(result: RegistrationResult, fixed: Image, moving: Image) -> dict[int, float]:
    """Return the Dice overlap of each label that both maps have, on the fixed grid."""
    fixed, moving = (labels.with_array(whole_numbers(labels)) for labels in (fixed, moving))
    warped = result.warp(moving, interpolation="nearest", fill=0)
    target = resample(fixed, result.fixed.grid, interpolation="nearest", fill=0)
    return dice(target.array, warped.array, sorted({*np.unique(fixed.array)} & {*np.unique(moving.array)} - {0}))


def _error_columns(errors: LandmarkErrors | None) -> dict[str, Any]:
    if errors is None:
        return {}
    after = summarise_errors(errors.transform)
    return {
        "landmarks": after.count,
        "error_before_mm": float(errors.before.mean()),
        "error_mean_mm": after.mean,
        "error_median_mm": after.median,
        "error_p95_mm": after.p95,
        "error_max_mm": after.maximum,
    }


def _dice_columns(overlap: Mapping[int, float]) -> dict[str, Any]:
    values = [*overlap.values()]
    return {"labels": len(values), "dice_mean": float(np.mean(values)), "dice_min": min(values)} if values else {}


def write_outcomes(path: Path, outcomes: Iterable[PairOutcome]) -> None:
    """Write a csv of outcomes, a line each."""
    write_table(path, [field.name for field in fields(PairOutcome)], map(_cells, outcomes))


def read_outcome(path: Path, pair: RegistrationPair, *, seconds: float) -> PairOutcome:
    """Return the outcome of a pair, the only one of a csv that :func:`write_outcomes` wrote."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        (row,) = csv.DictReader(file)
    texts = ("status", "reason", "verdict", "flags")
    counts = ("landmarks", "labels")
    values: dict[str, Any] = {key: plain_cell(row.get(key, "")) for key in texts} | {
        key: int(row[key]) for key in counts
    }
    for field in fields(PairOutcome):
        if field.name.startswith(("error_", "dice_")):
            values[field.name] = float(row[field.name]) if row[field.name] else None
    return replace(outcome_of(pair, values["status"]), seconds=seconds, **values)


def _cells(outcome: PairOutcome) -> list[object]:
    return [
        "" if value is None else f"{value:.4g}" if isinstance(value, float) else value for value in astuple(outcome)
    ]

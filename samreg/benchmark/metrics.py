"""What is measured of one registration."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.benchmark.datasets.base import Case
from samreg.embedding.body import body_mask
from samreg.errors import EngineError, InputError
from samreg.quality import (
    dice,
    hd95,
    jacobian_statistics,
    summarise_errors,
    target_registration_error,
)
from samreg.quality.learn2reg import learn2reg_dice, learn2reg_sdlogj, learn2reg_tre
from samreg.registration.quality import working_grid
from samreg.spatial import Grid, Image, Points, Transform, inverse_residual, resample
from samreg.spatial.io_transforms import learn2reg_displacement
from samreg.spatial.labels import whole_numbers
from samreg.spatial.points import paired_points
from samreg.spatial.standard import sample_mask

SUCCESS_MM = (5, 10, 15)
_INVERSE_POINTS = 20_000


def measure(
    fixed: Case, moving: Case, images: tuple[Image, Image], transform: Transform, inverse: Transform, *, learn2reg: bool
) -> dict[str, Any]:
    """Measure a registration against what the cases know.

    Parameters
    ----------
    fixed, moving
        The cases.
    images
        Theirs.
    transform, inverse
        Fixed to moving and back, LPS mm.
    learn2reg
        Measure as Learn2Reg's evaluation does as well, at every fixed voxel.

    Returns
    -------
    dict
        Plain numbers for JSON. ``metrics``: ``tre_*`` (mm, mean, median, p75, p95, max: fixed landmarks mapped, in the
        moving image), ``inverse_tre_mean`` (moving landmarks mapped back), ``within_5mm``, ``within_10mm`` and
        ``within_15mm`` (% of the landmarks), ``dice_mean``, ``hd95_mean`` (mm; not
        where a label was lost), ``labels_lost``, ``folding_percent`` (det J <= 0),
        ``log_jacobian_std`` (voxels that fold left out), ``log_jacobian_std_learn2reg`` (of det J + 3), and
        ``inverse_p95`` (mm), where they can be measured. ``jacobian``: how many voxels were looked at and left out.
        ``landmarks``: name, error and reader distance of each. ``labels``: Dice and HD95 of each.

    Raises
    ------
    EngineError
        When the transform is not finite.
    InputError
        When landmarks are not those of the images, or a mask is empty.
    """
    landmarks = common_landmarks(fixed, moving, images)
    parts = [_deformation(fixed, images[0], transform, inverse)]
    if landmarks is not None:
        parts.append(_landmark_errors(fixed, moving, landmarks, transform, inverse))
    if fixed.labels and moving.labels:
        parts.append(_label_overlap(fixed.labels(), moving.labels(), transform, learn2reg=learn2reg))
    if learn2reg:
        parts.append(_learn2reg(images, landmarks, transform))
    metrics = {name: value for part in parts for name, value in part.pop("metrics").items()}
    return {"metrics": metrics, **{key: value for part in parts for key, value in part.items()}}


def common_landmarks(fixed: Case, moving: Case, images: tuple[Image, Image]) -> tuple[Points, Points] | None:
    """Return the landmarks both cases have, in one order; None where one of the cases has none.

    Parameters
    ----------
    fixed, moving
        The cases.
    images
        Theirs.

    Raises
    ------
    InputError
        When landmarks lie outside their image, as those of another frame do, or cannot be paired.
    """
    points = [case.landmarks_in(image) for case, image in zip((fixed, moving), images, strict=True)]
    if points[0] is None or points[1] is None:
        return None
    try:
        return paired_points(points[0], points[1])
    except InputError as error:
        raise InputError(f"landmarks of {fixed.name} (fixed) and {moving.name} (moving): {error}") from None


def _deformation(case: Case, image: Image, transform: Transform, inverse: Transform) -> dict[str, Any]:
    """Measure folding, smoothness and inverse within the mask or the body, on a grid of about 4 mm."""
    grid = working_grid(image)
    body = sample_mask(case.mask(), grid) if case.mask else _body(image, grid)
    if not body.any():
        raise InputError(f"the mask of {case.name} is empty where its image lies; correct it, or leave it out")
    points = grid.world_points()[body]
    if not np.isfinite(transform.transform_points(points)).all():
        raise EngineError("the transform is not finite")
    jacobian = jacobian_statistics(transform, grid, body, step=float(image.spacing.max()))
    sample = np.random.default_rng(0).permutation(len(points))[:_INVERSE_POINTS]
    folded = round(jacobian.folding_percent / 100 * len(points))
    return {
        "metrics": {
            "folding_percent": jacobian.folding_percent,
            "log_jacobian_std": jacobian.log_std_unfolded,
            "log_jacobian_std_learn2reg": jacobian.log_std_learn2reg,
            "inverse_p95": inverse_residual(transform, inverse, points[sample]).p95,
        },
        "jacobian": {"voxels": len(points), "folded_and_left_out": folded},
    }


def _landmark_errors(
    fixed: Case, moving: Case, landmarks: tuple[Points, Points], transform: Transform, inverse: Transform
) -> dict[str, Any]:
    names = landmarks[0].names
    errors = target_registration_error(transform, *landmarks)
    inverse_errors = target_registration_error(inverse, *landmarks[::-1])
    summary = summarise_errors(errors)
    return {
        "metrics": {
            "tre_mean": summary.mean,
            "tre_median": summary.median,
            "tre_p75": summary.p75,
            "tre_p95": summary.p95,
            "tre_max": summary.maximum,
            "inverse_tre_mean": float(inverse_errors.mean()),
            **{f"within_{limit}mm": 100 * float(np.mean(errors <= limit)) for limit in SUCCESS_MM},
        },
        "landmarks": {
            "names": list(names),
            "error_mm": errors.tolist(),
            "inverse_error_mm": inverse_errors.tolist(),
            "reader_mm": [_reader_distance(fixed, moving, name) for name in names],
        },
    }


def _reader_distance(fixed: Case, moving: Case, name: str) -> float | None:
    """Return the distance between two readings, mean of both images, mm; None when it is not known."""
    distances = [case.reader_mm[name] for case in (fixed, moving) if name in case.reader_mm]
    return sum(distances) / 2 if len(distances) == 2 else None


def _label_overlap(fixed: Image, moving: Image, transform: Transform, *, learn2reg: bool) -> dict[str, Any]:
    """Measure Dice and HD95 (mm) of each label that both maps have."""
    fixed, moving = (labels.with_array(whole_numbers(labels)) for labels in (fixed, moving))
    warped = resample(moving, fixed.grid, transform=transform, interpolation="nearest", fill=0)
    shared = sorted({*np.unique(fixed.array).tolist()} & {*np.unique(moving.array).tolist()} - {0})
    overlaps = {str(label): value for label, value in dice(fixed.array, warped.array, shared).items()}
    distances = {
        str(label): hd95(fixed.array == label, warped.array == label, spacing=fixed.spacing)
        for label in shared
        if (warped.array == label).any()  # what the warped map has lost has no surface
    }
    metrics: dict[str, float] = {"labels_lost": len(overlaps) - len(distances)}
    if overlaps:
        metrics["dice_mean"] = float(np.mean([*overlaps.values()]))
    if overlaps and not metrics["labels_lost"]:  # the mean of those that are left would reward losing the worst
        metrics["hd95_mean"] = float(np.mean([*distances.values()]))
    if learn2reg:
        metrics["learn2reg_dice"] = learn2reg_dice(fixed.array, moving.array, warped.array)
    return {"metrics": metrics, "labels": {"dice": overlaps, "hd95_mm": distances}}


def _learn2reg(
    images: tuple[Image, Image], landmarks: tuple[Points, Points] | None, transform: Transform
) -> dict[str, Any]:
    """Measure by the formulas of Learn2Reg's evaluation, of the displacement at every fixed voxel."""
    displacement = learn2reg_displacement(transform, images[0].grid, images[1].grid)
    metrics = {"log_jacobian_std_learn2reg": learn2reg_sdlogj(displacement)}
    if landmarks is not None:
        fixed, moving = (image.grid.world_to_index(p.positions) for image, p in zip(images, landmarks, strict=True))
        metrics["learn2reg_tre"] = float(learn2reg_tre(displacement, fixed, moving, images[1].spacing).mean())
    return {"metrics": metrics}


def _body(image: Image, grid: Grid) -> NDArray[np.bool_]:
    body = sample_mask(image.with_array(body_mask(image).astype(np.uint8)), grid)
    return body if body.any() else np.ones(grid.shape, dtype=bool)

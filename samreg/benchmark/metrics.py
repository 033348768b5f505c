"""What is measured of one registration."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.benchmark.datasets.base import Case
from samreg.embedding.body import body_mask
from samreg.errors import EngineError
from samreg.quality import (
    dice,
    hd95,
    jacobian_statistics,
    summarise_errors,
    target_registration_error,
)
from samreg.quality.learn2reg import learn2reg_dice, learn2reg_sdlogj, learn2reg_tre
from samreg.registration.quality import working_grid
from samreg.spatial import Image, Points, Transform, inverse_residual, resample
from samreg.spatial.io_transforms import learn2reg_displacement
from samreg.spatial.points import require_equal_counts, require_inside
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
    """
    grid = working_grid(images[0])
    body = sample_mask(fixed.mask(), grid) if fixed.mask else _body(images[0], grid)
    points = grid.world_points()[body]
    if not np.isfinite(transform.transform_points(points)).all():
        raise EngineError("the transform is not finite")
    jacobian = jacobian_statistics(transform, grid, body, step=float(images[0].spacing.max()))
    chosen = np.random.default_rng(0).permutation(len(points))[:_INVERSE_POINTS]
    metrics = {
        "folding_percent": jacobian.folding_percent,
        "log_jacobian_std": jacobian.log_std_unfolded,
        "log_jacobian_std_learn2reg": jacobian.log_std_learn2reg,
        "inverse_p95": inverse_residual(transform, inverse, points[chosen]).p95,
    }
    folded = round(jacobian.folding_percent / 100 * len(points))
    record: dict[str, Any] = {"metrics": metrics, "jacobian": {"voxels": len(points), "folded_and_left_out": folded}}
    pair = common_landmarks(fixed, moving)
    if pair is not None:
        errors = target_registration_error(transform, *pair)
        back = target_registration_error(inverse, *pair[::-1])
        summary = summarise_errors(errors)
        metrics |= {
            "tre_mean": summary.mean, "tre_median": summary.median, "tre_p75": summary.p75, "tre_p95": summary.p95,
            "tre_max": summary.maximum, "inverse_tre_mean": float(back.mean()),
            **{f"within_{limit}mm": 100 * float(np.mean(errors <= limit)) for limit in SUCCESS_MM},
        }  # fmt: skip
        record["landmarks"] = {
            "names": list(pair[0].names),
            "error_mm": errors.tolist(),
            "inverse_error_mm": back.tolist(),
            "reader_mm": [_reader(fixed, moving, name) for name in pair[0].names],
        }
    if fixed.labels and moving.labels:
        target, source = fixed.labels(), moving.labels()
        warped = resample(source, target.grid, transform=transform, interpolation="nearest", fill=0)
        shared = sorted({*np.unique(target.array).tolist()} & {*np.unique(source.array).tolist()} - {0})
        found = {str(label): value for label, value in dice(target.array, warped.array, shared).items()}
        # a structure that the warped map has lost has no surface
        distances = {
            str(label): hd95(target.array == label, warped.array == label, spacing=target.spacing)
            for label in shared
            if (warped.array == label).any()
        }
        record["labels"] = {"dice": found, "hd95_mm": distances}
        metrics |= {"dice_mean": float(np.mean([*found.values()]))} if found else {}
        metrics["labels_lost"] = len(found) - len(distances)
        if found and not metrics["labels_lost"]:  # the mean of those that are left would reward losing the worst
            metrics["hd95_mean"] = float(np.mean([*distances.values()]))
        if learn2reg:
            metrics["learn2reg_dice"] = learn2reg_dice(target.array, source.array, warped.array)
    if learn2reg:
        displacement = learn2reg_displacement(transform, images[0].grid, images[1].grid)
        metrics["log_jacobian_std_learn2reg"] = learn2reg_sdlogj(displacement)
        if pair is not None:
            here, there = (image.grid.world_to_index(side.positions) for image, side in zip(images, pair, strict=True))
            metrics["learn2reg_tre"] = float(learn2reg_tre(displacement, here, there, images[1].spacing).mean())
    return record


def common_landmarks(
    fixed: Case, moving: Case, images: tuple[Image, Image] | None = None
) -> tuple[Points, Points] | None:
    """Return the landmarks both cases have, in one order.

    Parameters
    ----------
    fixed, moving
        The cases.
    images
        Theirs; the landmarks must lie inside.

    Raises
    ------
    InputError
        When landmarks lie outside their image, as those of another frame do, or a numbered one has been lost.
    """
    if fixed.landmarks is None or moving.landmarks is None:
        return None
    pair = fixed.landmarks(), moving.landmarks()
    for case, points, image in zip((fixed, moving), pair, images or (), strict=False):
        require_inside(points, image.grid, f"the image of {case.name}")
    require_equal_counts(*pair)
    names = [name for name in pair[0].names if name in set(pair[1].names)]
    return (pair[0].named(names), pair[1].named(names)) if names else None


def _reader(fixed: Case, moving: Case, name: str) -> float | None:
    """Return the distance between two readings, mean of both images; None when it is not known."""
    distances = [case.reader_mm.get(name) for case in (fixed, moving)]
    return None if None in distances else sum(distances) / 2  # type: ignore[arg-type]


def _body(image: Image, grid: Any) -> NDArray[np.bool_]:
    body = sample_mask(image.with_array(body_mask(image).astype(np.uint8)), grid)
    return body if body.any() else np.ones(grid.shape, dtype=bool)

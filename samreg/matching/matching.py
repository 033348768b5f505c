"""From features to correspondences: single points, a lattice over the body, and stable matches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from samreg.errors import require_choice
from samreg.matching.correspondences import Correspondences
from samreg.matching.features import Features, interpolate, on_device
from samreg.matching.reliability import DEFAULT_CALIBRATION, Calibration
from samreg.matching.search import Prediction, best_places, find
from samreg.spatial.grid import FloatArray


def match_points(
    fixed: Features,
    points: ArrayLike,
    moving: Features,
    *,
    prediction: Prediction | None = None,
    coarse: bool = False,
    home: str = "near",
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> Correspondences:
    """Match points of the fixed image to the moving image and back.

    Parameters
    ----------
    fixed, moving
        Features of the two images.
    points
        (N, d) world points of the fixed image, LPS mm.
    prediction
        Where their matches are expected in the moving image. Everywhere unless given.
    coarse
        Search every second voxel first; for thousands of points.
    home
        Where the way back is searched if there is a prediction: "near" the points, in a window of the same
        radius, or "anywhere" in the body, which tells wrong matches better.
    calibration
        Turns similarity and cycle error into reliability.

    Returns
    -------
    Correspondences
        One for each point, in order; ``cycle_error`` is the distance at which the way back ends.

    Examples
    --------
    >>> from samreg.embedding.api import embed
    >>> from samreg.matching import features
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> body = features(embed({"array": noise, "spacing": (8, 8, 8)}, model="mind"))
    >>> pairs = match_points(body, [[60.0, 60.0, 60.0]], body)
    >>> bool(pairs.cycle_error.max() < 8)  # mm
    True
    """
    require_choice("home", home, ("near", "anywhere"))
    points = np.asarray(points, dtype=np.float64)
    wanted = on_device(points, fixed)
    there, similarity = best_places(interpolate(fixed, wanted), moving, prediction=prediction, coarse=coarse)
    home_window = None if prediction is None or home == "anywhere" else replace(prediction, positions=points)
    # searching the whole body for the way back by every second voxel tells as much, eight times as fast
    back, _ = best_places(
        interpolate(moving, there), fixed, prediction=home_window, coarse=coarse or home == "anywhere"
    )
    cycle_error = torch.linalg.vector_norm(back - wanted, dim=1)
    result = torch.column_stack([there, similarity, cycle_error]).cpu().numpy()
    matches = Correspondences(points, result[:, :-2], result[:, -2], result[:, -2], result[:, -1])
    return replace(matches, reliability=calibration(matches.similarity, matches.cycle_error))


def lattice(source: Features, spacing: float) -> FloatArray:
    """Return body voxels on a lattice of about ``spacing`` mm, (N, d) world points, LPS mm."""
    steps = np.maximum(1, np.round(spacing / source.grid.spacing)).astype(int).tolist()
    chosen = torch.ones(len(source), dtype=torch.bool, device=source.device)
    for axis, step in enumerate(steps):
        chosen &= source.index[:, axis] % step == step // 2
    return source.grid.index_to_world(source.index[chosen].cpu().numpy())


def stable_matches(
    fixed: Features,
    moving: Features,
    *,
    spacing: float = 12.0,
    rounds: int = 5,
    tolerance: float | None = None,
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> Correspondences:
    """Return matches that are fixed points of going there and back.

    From every lattice point the nearest neighbour is followed to the moving image and back, again and again;
    a pair is kept when another round leads back to where it started, and once only (stable matching of SAME++,
    arXiv 2311.14986, section III-B, and the fixed points of UAE, arXiv 2311.15111).

    Parameters
    ----------
    fixed, moving
        Features of the two images.
    spacing
        Distance of the starting points, mm.
    rounds
        Alternations.
    tolerance
        A fixed point returns within this many mm; one voxel diagonal unless given.
    calibration
        Turns similarity and cycle error into reliability.
    """
    tolerance = float(np.linalg.norm(fixed.grid.spacing)) if tolerance is None else tolerance
    points = lattice(fixed, spacing)
    for _ in range(rounds - 1):
        forward = find(interpolate(fixed, points), moving, coarse=True)
        points = find(interpolate(moving, forward.positions), fixed, coarse=True).positions
        points = _distinct(points, tolerance)
    pairs = match_points(fixed, points, moving, coarse=True, calibration=calibration)
    return pairs.take(pairs.cycle_error <= tolerance)


def _distinct(points: FloatArray, distance: float) -> FloatArray:
    """Return one point of every cell of ``distance`` mm."""
    _, first = np.unique(np.floor(points / distance).astype(int), axis=0, return_index=True)
    return points[np.sort(first)]

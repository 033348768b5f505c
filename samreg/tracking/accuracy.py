"""Errors of tracked lesions, as Deep Lesion Tracker measures them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from samreg.errors import InputError
from samreg.spatial.grid import as_points_array


@dataclass(frozen=True)
class TrackingErrors:
    """Errors of N lesions (Cai et al., Deep Lesion Tracker, CVPR 2021).

    Parameters
    ----------
    count
        N.
    mean, std
        Of the Euclidean distance between true and tracked centre, mm (their MED).
    x, y, z
        Mean absolute error along each axis, LPS mm.
    within_10mm
        Share of the lesions found within 10 mm of the true centre (their CPM@10mm).
    within_radius
        Share found within the lesion's radius (their CPM@Radius); None where no radius is known.
    """

    count: int
    mean: float
    std: float
    x: float
    y: float
    z: float
    within_10mm: float
    within_radius: float | None


def tracking_errors(tracked: ArrayLike, truth: ArrayLike, radii: ArrayLike | None = None) -> TrackingErrors:
    """Measure tracked centres against true ones.

    Parameters
    ----------
    tracked, truth
        (N, 3) LPS mm in the follow-up.
    radii
        (N,) mm, of the lesions; those that are NaN are left out of ``within_radius``.

    Raises
    ------
    InputError
        When there are none, or the numbers differ.

    Examples
    --------
    >>> errors = tracking_errors([[0, 0, 0], [3, 0, 4]], [[0, 0, 0], [0, 0, 0]], radii=[4, 4])
    >>> errors.mean, errors.within_10mm, errors.within_radius
    (2.5, 1.0, 0.5)
    """
    tracked, truth = as_points_array(tracked, 3), as_points_array(truth, 3)
    radius = np.full(len(tracked), np.nan) if radii is None else np.asarray(radii, dtype=float)
    if not len(tracked) == len(truth) == len(radius) > 0:
        raise InputError(
            f"{len(tracked)} tracked centres, {len(truth)} true ones and {len(radius)} radii; give pairs, at least one"
        )
    x, y, z = (float(value) for value in np.abs(tracked - truth).mean(axis=0))
    distance = np.linalg.norm(tracked - truth, axis=1)
    known = np.isfinite(radius)
    return TrackingErrors(
        count=len(tracked),
        mean=float(distance.mean()),
        std=float(distance.std()),
        x=x,
        y=y,
        z=z,
        within_10mm=float((distance <= 10).mean()),
        within_radius=float((distance <= radius)[known].mean()) if known.any() else None,
    )

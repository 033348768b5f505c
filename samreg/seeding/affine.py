"""A robust rigid, similarity or affine transform from correspondences with many outliers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.matching.correspondences import Correspondences
from samreg.spatial.grid import FloatArray
from samreg.spatial.transforms import AffineTransform

KINDS = ("rigid", "similarity", "affine")
_STRETCH = (0.4, 2.5)  # a person is not further from another along any direction


@dataclass(frozen=True, eq=False)
class AffineFit:
    """A fitted transform, or why there is none; false when it failed.

    Parameters
    ----------
    transform
        Fixed to moving, LPS mm; None when the fit failed.
    inliers
        (N,) which correspondences agree with it.
    inlier_share
        Share of the total reliability that the inliers hold, in [0, 1].
    residual
        Median distance of the inliers, mm.
    reason
        Why it failed; empty when it did not.
    """

    transform: AffineTransform | None
    inliers: NDArray[np.bool_]
    inlier_share: float
    residual: float
    reason: str = ""

    def __bool__(self) -> bool:
        return self.transform is not None


def fit_affine(
    correspondences: Correspondences,
    *,
    kind: str = "affine",
    tolerance: float = 15.0,
    min_inliers: int = 12,
    min_share: float = 0.08,
    scale: float = 1.0,
    seed: int = 0,
) -> AffineFit:
    """Fit a transform that most of the reliability agrees with.

    Similarity transforms through random triples give the start (RANSAC, Fischler and Bolles 1981, scored by
    a truncated quadratic); reweighted least squares with a shrinking Geman-McClure scale refine it (graduated
    non-convexity, Yang et al., RA-L 2020). An affine is drawn towards the similarity by a weak ridge, so that a
    thin or one-sided overlap cannot shear it.

    Parameters
    ----------
    correspondences
        Pairs, fixed to moving; weighted by their reliability.
    kind
        "rigid", "similarity" or "affine".
    tolerance
        A pair within this many mm is an inlier.
    min_inliers, min_share
        Fewer inliers, or a smaller share of the reliability, is a failure.
    scale
        Multiplies the tolerance; of the features that were matched.
    seed
        Of the random triples.

    Returns
    -------
    AffineFit
        False, with a reason, when there are too few matches or they do not agree.

    Raises
    ------
    InputError
        For an unknown kind.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    tolerance = scale * tolerance
    n = len(correspondences)
    nothing = np.zeros(n, dtype=bool)
    if n < min_inliers:
        return AffineFit(None, nothing, 0.0, np.inf, f"too few matches: {n}, at least {min_inliers} are needed")
    fixed, moving = correspondences.fixed, correspondences.moving
    weight = np.maximum(correspondences.reliability, 1e-3)
    start = _ransac(fixed, moving, weight, 2 * tolerance, np.random.default_rng(seed))
    if start is None:
        return AffineFit(None, nothing, 0.0, np.inf, "the matches lie on a line or in one place")
    transform = start
    scales = np.geomspace(2 * tolerance, tolerance / 2, 10)
    for i, scale in enumerate(scales):
        residual = _distance(transform, fixed, moving)
        robust = weight * (scale**2 / (scale**2 + residual**2)) ** 2
        # the first rounds stay a similarity: with many outliers a free affine can run away
        transform = fit_least_squares(fixed, moving, robust, kind=kind if kind != "affine" or i >= 3 else "similarity")
    residual = _distance(transform, fixed, moving)
    inliers = residual <= tolerance
    share = float(weight[inliers].sum() / weight.sum())
    stretch = np.linalg.svd(transform.matrix, compute_uv=False)
    if stretch.min() < _STRETCH[0] or stretch.max() > _STRETCH[1]:
        reason = (
            f"the matches ask for an implausible stretch ({stretch.min():.2f} to {stretch.max():.2f}); do the images "
            "show the same part of the body, and are their voxel sizes right?"
        )
        return AffineFit(None, inliers, share, np.inf, reason)
    middle = float(np.median(residual[inliers])) if inliers.any() else np.inf
    if inliers.sum() < min_inliers or share < min_share:
        reason = (
            f"the matches do not agree on one {kind} transform: {inliers.sum()} of {n} within {tolerance:g} mm "
            f"({share:.0%} of the reliability); do the images show the same part of the body?"
        )
        return AffineFit(None, inliers, share, middle, reason)
    return AffineFit(transform, inliers, share, middle)


def fit_least_squares(
    fixed: FloatArray, moving: FloatArray, weight: FloatArray, *, kind: str, ridge: float = 0.02
) -> AffineTransform:
    """Return the weighted least-squares transform of paired points (N, d), fixed to moving, LPS mm.

    Rigid and similarity follow Umeyama (PAMI 1991); the affine minimises the squared distance plus ``ridge``
    times the squared distance between it and the similarity over the same points spread evenly in all
    directions.
    """
    weight = weight / weight.sum()
    center_f, center_m = weight @ fixed, weight @ moving
    f, m = fixed - center_f, moving - center_m
    covariance = (m * weight[:, None]).T @ f
    spread = (f * weight[:, None]).T @ f
    u, s, vt = np.linalg.svd(covariance)
    sign = np.ones(len(s))
    sign[-1] = np.sign(np.linalg.det(u @ vt)) or 1.0
    matrix = (u * sign) @ vt
    if kind != "rigid":
        matrix = matrix * ((s * sign).sum() / max(np.trace(spread), 1e-9))
    if kind == "affine":
        prior = ridge * np.trace(spread) / len(s) * np.eye(len(s))
        matrix = (covariance + matrix @ prior) @ np.linalg.inv(spread + prior + 1e-9 * np.eye(len(s)))
    return AffineTransform(matrix, center_m - matrix @ center_f)


def _ransac(
    fixed: FloatArray, moving: FloatArray, weight: FloatArray, tolerance: float, rng: np.random.Generator
) -> AffineTransform | None:
    """Return the best of many similarity transforms through d random pairs, or None."""
    n, ndim = fixed.shape
    probability = weight / weight.sum()
    triples = rng.choice(n, size=(1500, ndim), p=probability)
    f, m = fixed[triples], moving[triples]
    fc, mc = f.mean(axis=1, keepdims=True), m.mean(axis=1, keepdims=True)
    size_f = np.linalg.norm(f - fc, axis=(1, 2))
    size_m = np.linalg.norm(m - mc, axis=(1, 2))
    scale = size_m / np.maximum(size_f, 1e-9)
    spread = np.linalg.norm(fixed - fixed.mean(axis=0), axis=1).mean()
    usable = (size_f > 0.5 * spread) & (scale > 0.5) & (scale < 2.0)
    if not usable.any():
        return None
    f, m, fc, mc, scale = f[usable], m[usable], fc[usable], mc[usable], scale[usable]
    u, _, vt = np.linalg.svd(np.swapaxes(m - mc, 1, 2) @ (f - fc))
    sign = np.ones((len(u), 1, ndim))
    sign[:, 0, -1] = np.sign(np.linalg.det(u @ vt))
    matrix = (u * sign) @ vt * scale[:, None, None]
    translation = mc[:, 0] - np.einsum("hij,hj->hi", matrix, fc[:, 0])
    some = rng.choice(n, size=min(n, 800), replace=False, p=probability if n > 800 else None)
    predicted = np.einsum("hij,nj->hni", matrix, fixed[some]) + translation[:, None]
    squared = ((predicted - moving[some]) ** 2).sum(axis=-1)
    score = np.maximum(0, 1 - squared / tolerance**2).sum(axis=1)
    best = int(score.argmax())
    return AffineTransform(matrix[best], translation[best])


def _distance(transform: AffineTransform, fixed: FloatArray, moving: FloatArray) -> FloatArray:
    return np.linalg.norm(transform.transform_points(fixed) - moving, axis=1)

"""A robust rigid, similarity or affine transform from correspondences with many outliers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from samreg.brief import brief_repr
from samreg.errors import require_choice
from samreg.matching.correspondences import Correspondences
from samreg.spatial.grid import FloatArray
from samreg.spatial.transforms import AffineTransform

KINDS = ("rigid", "similarity", "affine")
_STRETCH_RANGE = (0.4, 2.5)  # by which bodies differ along any direction
_MIN_RELIABILITY = 1e-3  # a match counts at least this much
_RIDGE = 0.02  # pull of the similarity on the affine
_REFINEMENTS, _SIMILARITY_REFINEMENTS = 10, 3  # in all, and those before a free affine is fitted
_HYPOTHESES = 1500
_MAX_SCORED_MATCHES = 800  # by which the hypotheses are compared
_MIN_SAMPLE_SIZE = 0.5  # of the matches' mean distance from their middle; smaller triples say little of a scale
_HYPOTHESIS_SCALE_RANGE = (0.5, 2.0)


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

    __repr__ = brief_repr

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
    device: str | torch.device = "cpu",
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
    device
        Where the transforms through them are compared, in double precision.

    Returns
    -------
    AffineFit
        False, with a reason, when there are too few matches or they do not agree.

    Raises
    ------
    InputError
        For an unknown kind.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.matching import Correspondences
    >>> points = np.random.default_rng(0).uniform(0, 300, (40, 3))
    >>> fit = fit_affine(Correspondences.from_points(points, points + [5.0, 0.0, 20.0]), kind="rigid")
    >>> bool(fit), fit.transform.transform_points([[1.0, 2.0, 3.0]]).round(3).tolist()
    (True, [[6.0, 2.0, 23.0]])
    """
    require_choice("kind", kind, KINDS)
    tolerance = scale * tolerance
    n = len(correspondences)
    none = np.zeros(n, dtype=bool)
    if n < min_inliers:
        return AffineFit(None, none, 0.0, np.inf, f"too few matches: {n}, at least {min_inliers} are needed")
    fixed, moving = correspondences.fixed, correspondences.moving
    weight = np.maximum(correspondences.reliability, _MIN_RELIABILITY)
    start = _ransac(fixed, moving, weight, 2 * tolerance, np.random.default_rng(seed), device)
    if start is None:
        return AffineFit(None, none, 0.0, np.inf, "the matches lie on a line or in one place")
    transform = _refined(start, fixed, moving, weight, kind=kind, tolerance=tolerance)
    residual = _distance(transform, fixed, moving)
    inliers = residual <= tolerance
    share = float(weight[inliers].sum() / weight.sum())
    stretch = np.linalg.svd(transform.matrix, compute_uv=False)
    if stretch.min() < _STRETCH_RANGE[0] or stretch.max() > _STRETCH_RANGE[1]:
        reason = (
            f"the matches ask for an implausible stretch ({stretch.min():.2f} to {stretch.max():.2f}); do the images "
            "show the same part of the body, and are their voxel sizes right?"
        )
        return AffineFit(None, inliers, share, np.inf, reason)
    median = float(np.median(residual[inliers])) if inliers.any() else np.inf
    if inliers.sum() < min_inliers or share < min_share:
        reason = (
            f"the matches do not agree on one {kind} transform: {inliers.sum()} of {n} within {tolerance:g} mm "
            f"({share:.0%} of the reliability); do the images show the same part of the body?"
        )
        return AffineFit(None, inliers, share, median, reason)
    return AffineFit(transform, inliers, share, median)


def _refined(
    start: AffineTransform, fixed: FloatArray, moving: FloatArray, weight: FloatArray, *, kind: str, tolerance: float
) -> AffineTransform:
    """Return the fit by reweighted least squares, the residuals of outliers counting less from round to round."""
    transform = start
    for i, width in enumerate(np.geomspace(2 * tolerance, tolerance / 2, _REFINEMENTS)):
        residual = _distance(transform, fixed, moving)
        robust = weight * (width**2 / (width**2 + residual**2)) ** 2
        # with many outliers a free affine can run away at first
        early = kind == "affine" and i < _SIMILARITY_REFINEMENTS
        transform = fit_least_squares(fixed, moving, robust, kind="similarity" if early else kind)
    return transform


def fit_least_squares(
    fixed: FloatArray, moving: FloatArray, weight: FloatArray, *, kind: str, ridge: float = _RIDGE
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
    fixed: FloatArray,
    moving: FloatArray,
    weight: FloatArray,
    tolerance: float,
    rng: np.random.Generator,
    device: str | torch.device,
) -> AffineTransform | None:
    """Return the best of many similarity transforms through d random pairs, or None."""
    n, ndim = fixed.shape
    probability = weight / weight.sum()
    triples = rng.choice(n, size=(_HYPOTHESES, ndim), p=probability)
    f, m = fixed[triples], moving[triples]
    fc, mc = f.mean(axis=1, keepdims=True), m.mean(axis=1, keepdims=True)
    size_f = np.linalg.norm(f - fc, axis=(1, 2))
    size_m = np.linalg.norm(m - mc, axis=(1, 2))
    scale = size_m / np.maximum(size_f, 1e-9)
    spread = np.linalg.norm(fixed - fixed.mean(axis=0), axis=1).mean()
    usable = (size_f > _MIN_SAMPLE_SIZE * spread) & (scale > _HYPOTHESIS_SCALE_RANGE[0])
    usable &= scale < _HYPOTHESIS_SCALE_RANGE[1]
    if not usable.any():
        return None
    f, m, fc, mc, scale = f[usable], m[usable], fc[usable], mc[usable], scale[usable]
    u, _, vt = np.linalg.svd(np.swapaxes(m - mc, 1, 2) @ (f - fc))
    sign = np.ones((len(u), 1, ndim))
    sign[:, 0, -1] = np.sign(np.linalg.det(u @ vt))
    matrix = (u * sign) @ vt * scale[:, None, None]
    translation = mc[:, 0] - np.einsum("hij,hj->hi", matrix, fc[:, 0])
    count = min(n, _MAX_SCORED_MATCHES)
    scored = rng.choice(n, size=count, replace=False, p=probability if n > count else None)
    hypotheses = np.concatenate([matrix, translation[..., None]], axis=2)
    best = _best_hypothesis(hypotheses, np.stack([fixed[scored], moving[scored]]), tolerance, device)
    return AffineTransform(matrix[best], translation[best])


def _best_hypothesis(hypotheses: FloatArray, pairs: FloatArray, tolerance: float, device: str | torch.device) -> int:
    """Return which transform (H, d, d + 1) brings pairs (2, N, d) together best, by a truncated quadratic."""
    transforms, points = (torch.from_numpy(array).to(device) for array in (hypotheses, pairs))
    squared = points.new_zeros(len(hypotheses), pairs.shape[1])
    for axis in range(pairs.shape[2]):
        predicted = torch.addmm(transforms[:, axis, -1:], transforms[:, axis, :-1], points[0].T)
        squared += (predicted - points[1, :, axis]).square_()
    return int((1 - squared / tolerance**2).clamp_(min=0).sum(dim=1).argmax())


def _distance(transform: AffineTransform, fixed: FloatArray, moving: FloatArray) -> FloatArray:
    distance: FloatArray = np.linalg.norm(transform.transform_points(fixed) - moving, axis=1)
    return distance

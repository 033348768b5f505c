"""Where single points go, judged by the matches around them."""

from __future__ import annotations

import numpy as np

from samreg.matching.correspondences import Correspondences
from samreg.spatial.grid import FloatArray
from samreg.spatial.transforms import AffineTransform

_AFFINE_WEIGHT = 0.5  # weight of "the affine is right here", in reliable neighbours
_REFINEMENTS = 6


def predict_locally(
    correspondences: Correspondences,
    affine: AffineTransform,
    points: FloatArray,
    *,
    reach: float = 30.0,
    noise: float = 8.0,
    scale: float = 1.0,
) -> FloatArray:
    """Predict where points go: the affine plus a robust mean of what it leaves in their neighbourhood.

    The cheap counterpart of a displacement field where only a few points are asked for; in the spirit of the
    local affine transport of UAE (arXiv 2311.15111, section III-C).

    Parameters
    ----------
    correspondences
        Pairs, fixed to moving; weighted by their reliability.
    affine
        Fixed to moving, LPS mm.
    points
        (N, d) fixed points, LPS mm.
    reach
        Standard deviation of the neighbourhood, mm.
    noise
        Expected error of a good match, mm; neighbours that disagree by several times this count little.
    scale
        Multiplies both; of the features that were matched.

    Returns
    -------
    ndarray
        (N, d) points in the moving image, LPS mm.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.matching import Correspondences
    >>> from samreg.spatial import AffineTransform
    >>> points = np.random.default_rng(0).uniform(0, 60, (200, 3))
    >>> pairs = Correspondences.from_points(points, points + [5.0, 0.0, 0.0])
    >>> predict_locally(pairs, AffineTransform.identity(3), points[:1]).round() - points[:1].round()
    array([[5., 0., 0.]])
    """
    reach, noise = scale * reach, scale * noise
    by_affine = affine.transform_points(points)
    residuals = correspondences.moving - affine.transform_points(correspondences.fixed)
    distance = np.linalg.norm(points[:, None] - correspondences.fixed[None], axis=-1)
    nearness = correspondences.reliability * np.exp(-0.5 * (distance / reach) ** 2)
    offset = np.zeros_like(by_affine)
    for width in np.geomspace(5 * noise, 2 * noise, _REFINEMENTS):
        miss = np.linalg.norm(residuals[None] - offset[:, None], axis=-1)
        weight = nearness * (width**2 / (width**2 + miss**2)) ** 2
        offset = weight @ residuals / (weight.sum(axis=1, keepdims=True) + _AFFINE_WEIGHT)
    return by_affine + offset

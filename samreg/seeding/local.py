"""Where single points go, judged by what is known around them."""

from __future__ import annotations

import numpy as np

from samreg.spatial.grid import FloatArray
from samreg.spatial.transforms import AffineTransform

_REACH_MM, _OFF_AFFINE_MM = 30.0, 20.0  # at a scale of 1


def predict_locally(
    fixed: FloatArray,
    moving: FloatArray,
    noise: FloatArray,
    affine: AffineTransform,
    points: FloatArray,
    *,
    scale: float = 1.0,
) -> FloatArray:
    """Predict where points go: an affine, and by Gaussian process regression what it leaves at known places.

    The cheap counterpart of a displacement field where only a few points are asked for (Rasmussen and Williams,
    Gaussian Processes for Machine Learning, 2006, equation 2.25, each direction by itself).

    Parameters
    ----------
    fixed, moving
        (M, d) places known in both images, LPS mm.
    noise
        (M,) standard deviation of their error, mm, above 0.
    affine
        Fixed to moving, LPS mm; far from all known places it has the last word.
    points
        (N, d) fixed points, LPS mm.
    scale
        Multiplies how far a place reaches, 30 mm, and what the affine is expected to leave, 20 mm; of the features that
        were matched.

    Returns
    -------
    ndarray
        (N, d) points in the moving image, LPS mm.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.spatial import AffineTransform
    >>> places = np.random.default_rng(0).uniform(0, 60, (200, 3))
    >>> sure, identity = np.ones(200), AffineTransform.identity(3)
    >>> predict_locally(places, places + [5.0, 0.0, 0.0], sure, identity, places[:1]).round() - places[:1].round()
    array([[5., 0., 0.]])
    """
    from scipy.interpolate import RBFInterpolator

    by_affine = affine.transform_points(points)
    if not len(fixed) or not len(points):
        return by_affine
    offset = RBFInterpolator(
        fixed,
        moving - affine.transform_points(fixed),
        kernel="gaussian",
        epsilon=1 / (np.sqrt(2) * _REACH_MM * scale),
        smoothing=(noise / (_OFF_AFFINE_MM * scale)) ** 2,
        degree=-1,
    )
    return np.asarray(by_affine + offset(points))

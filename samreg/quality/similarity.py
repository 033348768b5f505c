"""Likeness of two images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.spatial.standard import mask_voxels


def ncc(fixed: ArrayLike, moving: ArrayLike, mask: NDArray[np.bool_] | None = None) -> float:
    """Return the normalised cross-correlation (Pearson's) of two images.

    Parameters
    ----------
    fixed, moving
        Intensities of the same shape.
    mask
        Where to look; everywhere unless given. Voxels that are not finite are left out.

    Returns
    -------
    float
        In [-1, 1]; 0 where an image is constant or nothing is left to compare.

    Examples
    --------
    >>> from samreg.quality import ncc
    >>> round(ncc([1, 2, 3, 5], [12, 14, 16, 20]), 6)
    1.0
    """
    a, b = np.asarray(fixed, dtype=np.float64), np.asarray(moving, dtype=np.float64)
    valid = np.isfinite(a) & np.isfinite(b)
    valid = valid if mask is None else valid & mask_voxels(mask)
    if not valid.any():
        return 0.0
    a, b = a[valid] - a[valid].mean(), b[valid] - b[valid].mean()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    # rounding leaves a constant image a norm that is tiny, not 0
    return float(np.clip(a @ b / norm, -1, 1)) if norm > 1e-9 * a.size else 0.0

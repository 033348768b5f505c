"""Likeness of two images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.quality.arrays import numbers, require_same_shape
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
        In [-1, 1], whatever the unit of the intensities; 0 where an image is constant or nothing is left to compare.

    Raises
    ------
    InputError
        When the shapes differ, or something is no array of numbers.

    Examples
    --------
    >>> from samreg.quality import ncc
    >>> round(ncc([1, 2, 3, 5], [12, 14, 16, 20]), 6)
    1.0
    """
    a, b = (numbers(values, name).astype(np.float64) for values, name in ((fixed, "fixed"), (moving, "moving")))
    inside = np.ones(a.shape, dtype=bool) if mask is None else mask_voxels(numbers(mask, "mask"))
    require_same_shape(a, b)
    require_same_shape(a, inside)
    valid = np.isfinite(a) & np.isfinite(b) & inside
    if not valid.any():
        return 0.0
    a, b = _deviations(a[valid]), _deviations(b[valid])
    return float(np.clip(a @ b, -1, 1))


def _deviations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the deviations from the mean (N,) as a unit vector; zeros where the values are constant."""
    deviations = values - values.mean()
    norm = float(np.linalg.norm(deviations))
    # rounding leaves a constant image a norm that is tiny beside its values, not 0
    return deviations / norm if norm > 1e-12 * float(np.linalg.norm(values)) else np.zeros_like(values)

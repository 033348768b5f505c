"""What measures are given: arrays of numbers, of one shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.grid import require_unmasked


def numbers(values: object, what: str) -> NDArray[Any]:
    """Return an array of numbers or booleans; images, which would say nothing of their grids, are refused.

    Examples
    --------
    >>> from samreg import Image
    >>> numbers(Image.from_array([[0, 1]], spacing=1), "mask")
    Traceback (most recent call last):
    samreg.errors.InputError: mask must be an array of numbers, got Image; give its voxels, image.array, on the grid ...
    """
    require_unmasked(values, what)
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"{what} must be an array of numbers, got {type(values).__name__}; give its voxels, image.array, on the "
            "grid of the others"
        )
    return array


def require_same_shape(a: NDArray[Any], b: NDArray[Any]) -> None:
    """Raise :class:`InputError` unless two arrays have one shape."""
    if a.shape != b.shape:
        raise InputError(f"both maps must have one shape, got {a.shape} and {b.shape}; warp onto the fixed grid")

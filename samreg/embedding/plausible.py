"""What every image of a body must be, whatever made it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samreg.errors import InputError
from samreg.spatial.image import Image

_EXTENT_RANGE_MM = (4.0, 3000.0)


@dataclass(frozen=True)
class Kind:
    """What images of one kind are like, and what to do about one that is not.

    Parameters
    ----------
    name
        Such as "3D CT".
    ndim
        Number of dimensions.
    spacing_range
        Smallest and largest voxel or pixel size, mm.
    element
        "voxel" or "pixel".
    give, check, background
        Remedies: what to give in place of an image of another dimension, what to check where the extent is impossible,
        and what to put in place of values that are not finite.
    """

    name: str
    ndim: int
    spacing_range: tuple[float, float]
    element: str
    give: str
    check: str
    background: str


def require_plausible(image: Image, kind: Kind) -> None:
    """Raise :class:`InputError` unless an image can be of a kind.

    Its dimensions, voxel size and extent must be possible, and its values finite.
    """
    label = image.label
    if image.ndim != kind.ndim:
        raise InputError(f"{label}: a {image.ndim}D image; this model embeds {kind.name}, give {kind.give}")
    low, high = kind.spacing_range
    if image.spacing.min() < low or image.spacing.max() > high:
        raise InputError(
            f"{label}: {kind.element} size {np.round(image.spacing, 5).tolist()} mm is not that of {kind.name}; "
            "set the spacing in mm"
        )
    low, high = _EXTENT_RANGE_MM
    if image.grid.extent.min() < low or image.grid.extent.max() > high:
        raise InputError(
            f"{label}: extent {np.round(image.grid.extent, 1).tolist()} mm is not that of a body; "
            f"check the spacing (mm){kind.check}"
        )
    if image.array.dtype.kind == "f":  # plane by plane, as a flipped view would be copied whole
        with np.errstate(over="ignore"):  # of float64, for which networks have no room
            planes = (np.isfinite(plane.astype(np.float32, copy=False)) for plane in image.array)
            count = sum(int(finite.size - finite.sum()) for finite in planes)
        if count:
            raise InputError(
                f"{label}: {count} {kind.element}s are NaN, infinite or beyond float32; replace them by "
                f"{kind.background}"
            )

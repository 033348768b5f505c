"""Images and points from whatever the user has: files, objects of other packages, arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from samreg.errors import InputError
from samreg.spatial.adapters import from_ants, from_itk, from_nibabel, from_sitk
from samreg.spatial.image import Image
from samreg.spatial.points import Points


def as_image(source: Any, *, name: str = "") -> Image:
    """Return an :class:`Image` from whatever the user has.

    Parameters
    ----------
    source
        An Image, a path, a SimpleITK, ITK, ANTs or nibabel image, a dictionary
        ``{"array", "spacing", "origin", "direction"}``, or an array or tensor (z, y, x) that carries no
        geometry, which is refused unless wrapped in the dictionary.
    name
        What to call it in messages when it has no name of its own.

    Raises
    ------
    InputError
        When the type is unknown, or an array comes without its spacing.
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, (str, os.PathLike)):
        from samreg.spatial.io_images import read_image

        return read_image(source)
    module = type(source).__module__.split(".")[0]
    if module == "SimpleITK":
        return from_sitk(source, name=name)
    if module == "ants":
        return from_ants(source, name=name)
    if module == "itk":
        return from_itk(source, name=name)
    if module == "nibabel":
        return from_nibabel(source, name=name)
    if isinstance(source, Mapping) and "array" in source:
        array = np.asarray(source["array"])
        geometry = {key: source.get(key) for key in ("origin", "spacing", "direction")}
        return Image.from_array(array, **geometry, name=name)
    if isinstance(source, np.ndarray) or module == "torch":
        raise InputError(
            f"{name or 'image'}: an array does not say where its voxels lie; give "
            "samreg.Image.from_array(array, spacing=(x, y, z), origin=..., direction=...), array order (z, y, x)"
        )
    raise InputError(
        f"{name or 'image'}: cannot read a {type(source).__module__}.{type(source).__name__}; give a path, or a "
        "samreg, SimpleITK, ITK, ANTs or nibabel image"
    )


def as_points(points: object, ndim: int) -> Points:
    """Return :class:`Points` from Points, an array (N, d) in LPS mm, or the path of a points file.

    Raises
    ------
    InputError
        When the points have another number of coordinates than ``ndim``.
    """
    import os

    if isinstance(points, (str, os.PathLike)):
        from samreg.spatial.io_points import read_points

        points = read_points(points)
    if not isinstance(points, Points):
        points = Points(np.atleast_2d(np.asarray(points, dtype=np.float64)))
    if points.ndim != ndim:
        raise InputError(f"points have {points.ndim} coordinates, the image has {ndim} dimensions")
    return points

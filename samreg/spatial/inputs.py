"""Images and points from whatever the user has: files, objects of other packages, arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from samreg.errors import InputError
from samreg.spatial.adapters import from_ants, from_itk, from_nibabel, from_sitk
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.points import Points, require_inside, require_some


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


def as_points(points: object, ndim: int, *, grid: Grid | None = None) -> Points:
    """Return :class:`Points` from Points, an array (N, d) in LPS mm, or the path of a points file.

    Parameters
    ----------
    points
        Also a single position (d,), or an empty list.
    ndim
        Number of coordinates they must have.
    grid
        Of the image they belong to; voxel indices in a file refer to it.

    Raises
    ------
    InputError
        When they are no points, or have another number of coordinates than ``ndim``.

    Examples
    --------
    >>> as_points([10.0, 20.0, 30.0], 3).positions.tolist()
    [[10.0, 20.0, 30.0]]
    """
    if isinstance(points, (str, os.PathLike)):
        from samreg.spatial.io_points import read_points

        points = read_points(points, grid=grid)
    if not isinstance(points, Points):
        points = _points_of(points, ndim)
    if points.ndim != ndim:
        raise InputError(f"points have {points.ndim} coordinates, the image has {ndim} dimensions")
    return points


def points_in(points: object, grid: Grid, what: str) -> Points:
    """Return the points of an image, as :func:`as_points` takes them: at least one, and all of them inside.

    This is the check of every function that takes points, since points of another frame (RAS, voxel indices, another
    image) seldom all lie inside.

    Parameters
    ----------
    points
        LPS mm.
    grid
        Of the image.
    what
        What the image is, for messages.

    Raises
    ------
    InputError
        When there is no point, one lies outside, or as :func:`as_points` does.

    Examples
    --------
    >>> from samreg.spatial import Grid
    >>> points_in([[50.0, 5.0, 5.0]], Grid.make((10, 10, 10)), "the template")
    Traceback (most recent call last):
    samreg.errors.InputError: 1 of 1 points lie outside the template: 1 [50.0, 5.0, 5.0]; it spans ...
    """
    inside = as_points(points, grid.ndim, grid=grid)
    require_some(inside, f"points in {what}")
    require_inside(inside, grid, what)
    return inside


def _points_of(values: Any, ndim: int) -> Points:
    """Return the points in an array, a list or one position."""
    if hasattr(values, "detach"):  # a tensor, perhaps on a GPU
        values = values.detach().cpu()
    if isinstance(values, (Mapping, bytes)) or values is None:
        raise InputError(f"points must be a file, samreg.Points or an array (N, {ndim}), got {type(values).__name__}")
    if np.size(np.asarray(values, dtype=object)) == 0:
        return Points(np.zeros((0, ndim)))
    if np.ndim(np.asarray(values, dtype=object)) == 1 and len(values) == ndim:
        values = [values]
    return Points(values)

"""Images and points from whatever the user has: files, objects of other packages, arrays."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from samreg.errors import InputError
from samreg.spatial.adapters import from_ants, from_channels, from_itk, from_nibabel, from_sitk
from samreg.spatial.grid import Grid, require_unmasked
from samreg.spatial.image import Image
from samreg.spatial.points import Points, require_inside, require_some
from samreg.spatial.remarks import remark, remarks_kept

log = logging.getLogger(__name__)

_KEYS = ("array", "spacing", "origin", "direction", "name")
_FROM = {
    "SimpleITK": from_sitk, "ants": from_ants, "itk": from_itk, "monai": from_channels, "torchio": from_channels
}  # fmt: skip
_RAS = ("monai", "torchio")  # what these make of an array lies along their axes


def as_image(source: Any, *, name: str = "") -> Image:
    """Return an :class:`Image` from whatever the user has.

    Parameters
    ----------
    source
        An Image, a path, a SimpleITK, ITK, ANTs, nibabel or TorchIO image, a MetaTensor of MONAI of one channel, or a
        dictionary with the keys ``array``, (z, y, x),
        and ``spacing``, mm, and maybe ``origin``, ``direction`` and ``name``, as :meth:`Image.from_array` takes them.
        An array or tensor alone carries no geometry and is refused.
    name
        What to call it in messages when it has no name of its own.

    Raises
    ------
    InputError
        When the type is unknown, a file cannot be read, a dictionary has another key, or nothing says the voxel size.

    Examples
    --------
    >>> import numpy as np
    >>> import samreg
    >>> samreg.as_image({"array": np.zeros((3, 4, 5)), "spacing": (0.8, 0.8, 2.5)}).spacing.tolist()
    [0.8, 0.8, 2.5]
    """
    with remarks_kept() as remarks:
        image = _converted(source, name)
    if remarks:
        image = replace(image, remarks=(*image.remarks, *remarks))
    if not image.spacing_known:
        raise InputError(
            f"{image.label}: says no voxel size; give it in mm: samreg.read_image(path, spacing=...), "
            "samreg.Image.from_array(array, spacing=(x, y, z)), or --pixel-size on the command line"
        )
    return image


def _converted(source: Any, name: str) -> Image:
    if isinstance(source, Image):
        return source
    if isinstance(source, (str, os.PathLike)):
        from samreg.spatial.io_images import read_image

        return read_image(source)
    module = type(source).__module__.split(".")[0]
    if module in _FROM:
        image = _FROM[module](source, name=name)
        if _is_default(image, is_ras=module in _RAS):
            remark(
                log,
                "%s: spacing 1 mm, origin 0: what %s gives an image made from an array; set its true geometry",
                image.label, module,
            )  # fmt: skip
        return image
    if module == "nibabel":
        return from_nibabel(source, name=_file_of(source) or name)
    if isinstance(source, Mapping) and "array" in source:
        return _from_mapping(source, name)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        raise InputError(
            f"{name or 'image'}: an array does not say where its voxels lie; give "
            "samreg.Image.from_array(array, spacing=(x, y, z), origin=..., direction=...), array order (z, y, x)"
        )
    raise InputError(
        f"{name or 'image'}: cannot read a {type(source).__module__}.{type(source).__name__}; give a path, or a "
        "samreg, SimpleITK, ITK, ANTs, nibabel, MONAI or TorchIO image, or a dictionary with array and spacing"
    )


def _file_of(image: Any) -> str:
    """Return the file that an image of nibabel was loaded from; empty where there is none."""
    return str((image.get_filename() if hasattr(image, "get_filename") else None) or "")


def _is_default(image: Image, *, is_ras: bool) -> bool:
    grid = image.grid
    axes = np.diag([-1.0, -1.0, 1.0]) if is_ras else np.eye(grid.ndim)
    return bool((grid.spacing == 1).all() and not grid.origin.any() and np.array_equal(grid.direction, axes))


def _from_mapping(source: Mapping[Any, Any], name: str) -> Image:
    label = name or "image"
    unknown = [key for key in source if key not in _KEYS]
    if unknown:
        raise InputError(
            f"{label}: unknown keys {', '.join(map(repr, unknown))} of a dictionary; an image has {', '.join(_KEYS)}, "
            "in LPS mm, the array (z, y, x)"
        )
    if source.get("spacing") is None:
        raise InputError(f"{label}: a dictionary without spacing; give the voxel size (x, y, z) in mm")
    array = source["array"]
    array = array.detach().cpu() if hasattr(array, "detach") else array  # a tensor, maybe on a GPU
    geometry = {key: source.get(key) for key in ("origin", "spacing", "direction")}
    return Image.from_array(array, **geometry, name=str(source.get("name") or name))


def as_points(points: object, ndim: int, *, grid: Grid | None = None) -> Points:
    """Return :class:`Points` from Points, an array (N, d) in LPS mm, a data frame, or the path of a points file.

    Parameters
    ----------
    points
        Also a single position (d,), or an empty list. A data frame is read by the names of its columns, as a csv is.
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
    require_unmasked(values, "points")
    frame = _frame_of(values)
    if frame is not None:
        from samreg.spatial.io_points_csv import points_of_frame

        return points_of_frame(frame)
    if isinstance(values, (Mapping, bytes)) or values is None:
        raise InputError(f"points must be a file, samreg.Points or an array (N, {ndim}), got {type(values).__name__}")
    if np.size(np.asarray(values, dtype=object)) == 0:
        return Points(np.zeros((0, ndim)))
    if np.ndim(np.asarray(values, dtype=object)) == 1 and len(values) == ndim:
        values = [values]
    return Points(values)


def _frame_of(values: Any) -> Any:
    """Return a data frame whose columns have names, also of a series, one row of such a frame; None for all else."""
    if hasattr(values, "to_frame") and any(isinstance(name, str) for name in getattr(values, "index", ())):
        values = values.to_frame().T
    named = any(isinstance(column, str) for column in getattr(values, "columns", ()))
    return values if named else None

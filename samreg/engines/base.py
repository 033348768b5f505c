"""What every engine shares: options, and how images, masks and a start become what it registers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from samreg.engines.request import Request
from samreg.errors import ImagesAtFault, InputError, require_choice, require_flag, require_number, require_options
from samreg.spatial import AffineTransform, Grid, Image, Transform, as_mask, resample, sample_mask
from samreg.spatial.grid import FloatArray
from samreg.spatial.standard import has_hounsfield_units

#: How far the pre-warped moving image reaches beyond the fixed grid, mm: tissue just outside the fixed view
#: stays within the remainder's reach.
MARGIN_MM = 25.0

MIN_VOXELS = 4  # along each axis, of ITK's recursive Gaussian filter, with which ANTs and elastix smooth
WINDOW_HU = (-1000.0, 1000.0)  # to which engines clip CT where nothing else is said
_BRIGHT_PERCENTILE = 99.9  # of the intensities of volumes without a unit, beyond which they are clipped

OptionsT = TypeVar("OptionsT")
Window = tuple[float, float] | Literal["auto"] | None


def make_options(kind: type[OptionsT], options: Mapping[str, Any] | object | None) -> OptionsT:
    """Return an options object of ``kind`` from one, from a mapping, or the defaults from None.

    Raises
    ------
    InputError
        When an option is unknown or at fault, or the object is of another kind.

    Examples
    --------
    >>> from samreg.engines.ants import AntsOptions
    >>> make_options(AntsOptions, {"iterations": [20, 10]}).iterations
    (20, 10)
    """
    if isinstance(options, kind):
        return options
    if dataclasses.is_dataclass(options):
        raise InputError(f"engine_options must be a mapping or {kind.__name__}, got {type(options).__name__}")
    values = require_options("engine_options", options)
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise InputError(f"unknown options {unknown} of {kind.__name__}; there are {', '.join(known)}")
    return kind(**values)


def check_types(options: object) -> None:
    """Check the fields of an options object against their types, to be called first by its ``__post_init__``.

    Lists become tuples, and numbers of numpy those of Python.

    Raises
    ------
    InputError
        When a value has another type than its field.
    """
    for name, kind in get_type_hints(type(options)).items():
        object.__setattr__(options, name, _as_declared(name, getattr(options, name), kind))


def _as_declared(name: str, value: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        choices = [argument for argument in arguments if get_origin(argument) is Literal]
        others = [argument for argument in arguments if argument is not NoneType and argument not in choices]
        return _as_declared(name, value, choices[0] if choices and isinstance(value, str) else others[0])
    if origin is Literal:
        require_choice(name, value, arguments)
        return value
    if origin is tuple:
        count = None if arguments[-1] is Ellipsis else len(arguments)
        values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else None
        if values is None or (count is not None and len(values) != count):
            kind = f"list of {'' if count is None else f'{count} '}numbers"
            remedy = f"; for one, give {name}=[{value}]" if count is None and isinstance(value, Real) else ""
            raise InputError(f"{name} must be a {kind}, got {value!r}{remedy}")
        return tuple(_as_declared(name, element, arguments[0]) for element in values)
    if kind is bool:
        return require_flag(name, value)
    return require_number(name, value, integer=True) if kind is int else require_number(name, value)


@dataclass(frozen=True, eq=False)
class Pair:
    """What an engine is given to register: float32 intensities with the lowest at 0, uint8 masks.

    Parameters
    ----------
    fixed, moving
        The images; ``moving`` is warped by the start where there is one.
    fixed_mask, moving_mask
        On the grids of ``fixed`` and ``moving``; 1 where the images are compared.
    """

    fixed: Image
    moving: Image
    fixed_mask: Image | None
    moving_mask: Image | None


def prepare(request: Request, window: Window, *, default: tuple[float, float] = WINDOW_HU) -> Pair:
    """Return what an engine is to register from the identity: the moving image is warped by the start.

    Parameters
    ----------
    request
        At the voxel size to work at.
    window, default
        Each image's intensities are clipped to the range that :func:`clipping` gives for it.

    Raises
    ------
    InputError
        When an image is constant or not finite, or a mask is empty or off its image.
    ImagesAtFault
        When nothing of the fixed image or its mask lies on the moving image or its mask after the start.
    """
    fixed, moving = (_windowed(image, clipping(window, image, default)) for image in (request.fixed, request.moving))
    fixed_mask = None if request.fixed_mask is None else mask_on(request.fixed_mask, fixed.grid, "fixed mask")
    moving_mask = None if request.moving_mask is None else mask_on(request.moving_mask, moving.grid, "moving mask")
    if request.start is not None:
        moving, moving_mask = prewarp(moving, moving_mask, request.start, fixed.grid.padded(MARGIN_MM))
        if moving_mask is not None and not _meet(fixed_mask, moving_mask, fixed.grid, None):
            raise ImagesAtFault(
                f"no overlap: after the start, nothing of {fixed.label} lies on {moving.label}, masks considered; "
                "check the masks and the start"
            )
    return Pair(fixed, moving, fixed_mask, moving_mask)


def require_masks_meet(pair: Pair) -> None:
    """Raise :class:`ImagesAtFault` unless the masks meet with the images' centres of mass on each other.

    Where engines begin without a start.
    """
    if pair.fixed_mask is None and pair.moving_mask is None:
        return
    offset = center_of_mass(pair.moving) - center_of_mass(pair.fixed)
    moving_mask = pair.moving_mask or pair.moving.with_array(np.ones(pair.moving.shape, np.uint8))
    centred = AffineTransform(np.eye(pair.fixed.ndim), offset)
    if not _meet(pair.fixed_mask, moving_mask, pair.fixed.grid, centred):
        raise ImagesAtFault(
            f"no overlap: with the centres of mass on each other, the mask of {pair.fixed.label} meets nothing of "
            f"{pair.moving.label} within its mask; check the masks, or give start="
        )


def require_contrast_in_masks(pair: Pair) -> None:
    """Raise :class:`InputError` where an image is constant within its mask, for engines that compare nothing else."""
    for image, mask in ((pair.fixed, pair.fixed_mask), (pair.moving, pair.moving_mask)):
        if mask is not None and np.ptp(image.array[mask.array > 0]) == 0:
            raise InputError(
                f"{image.label} is constant within its mask, clipped as the engine clips it; give a larger mask, or "
                'set engine="torch" (--engine torch)'
            )


def center_of_mass(image: Image) -> FloatArray:
    """Return where the centre of mass lies (d,), LPS mm, of intensities that are 0 in air."""
    weight = image.array.astype(np.float64)
    index = [
        (weight.sum(axis=tuple(a for a in range(weight.ndim) if a != axis)) * np.arange(weight.shape[axis])).sum()
        for axis in reversed(range(weight.ndim))
    ]
    center: FloatArray = image.grid.index_to_world(np.array(index)[None] / weight.sum())[0]
    return center


def _meet(fixed_mask: Image | None, moving_mask: Image, grid: Grid, transform: Transform | None) -> bool:
    """Tell whether the masks have a voxel of the fixed grid in common."""
    within = resample(moving_mask, grid, transform=transform, interpolation="nearest", fill=0).array > 0
    return bool((within if fixed_mask is None else within & (fixed_mask.array > 0)).any())


def length_scale(image: Image) -> float:
    """Return what lengths that suit volumes are multiplied by: 1 in 3D, 0.3 in 2D, where X-rays show finer detail."""
    return 1.0 if image.ndim == 3 else 0.3


def clipping(window: Window, image: Image, default: tuple[float, float] = WINDOW_HU) -> tuple[float, float] | None:
    """Return the range to which an image's intensities are clipped.

    It is as given. "auto" is the default, HU, for CT; for other volumes, whose intensities have no unit, all but the
    brightest thousandth of what is not background; 2D images are kept.

    Raises
    ------
    InputError
        When it is neither a range, None nor "auto".
    """
    if window == "auto":
        if image.ndim == 2:
            return None
        return default if has_hounsfield_units(image) else _range_without_unit(image)
    if window is None:
        return None
    if isinstance(window, str) or len(window) != 2 or not window[0] < window[1]:
        raise InputError(f'window must be two rising numbers, None or "auto", got {window!r}')
    return window


def _range_without_unit(image: Image) -> tuple[float, float] | None:
    low = image.array.min()
    seen = image.array[image.array > low].astype(np.float32, copy=False)  # numpy has no percentile of booleans
    return (float(low), float(np.percentile(seen, _BRIGHT_PERCENTILE))) if seen.size else None


def prewarp(moving: Image, mask: Image | None, start: Transform, grid: Grid) -> tuple[Image, Image | None]:
    """Warp the moving image onto ``grid``, and mask out what it does not show.

    Parameters
    ----------
    moving
        Intensities.
    mask
        On the grid of ``moving``, or None.
    start
        Fixed to moving, LPS mm.
    grid
        Where to warp it, in the fixed frame.

    Returns
    -------
    warped : Image
        The moving image at ``start(x)``, its border repeated outwards.
    mask : Image or None
        1 where it holds data, and the given mask is set; None where that is everywhere.

    Raises
    ------
    ImagesAtFault
        When no voxel is left.
    """
    # Engines average voxels at coarse levels. Without this mask, or with a fill of air that bleeds into what it leaves,
    # the border of the view pulls like a strong edge.
    valid = mask if mask is not None else moving.with_array(np.ones(moving.shape, np.uint8))
    valid = resample(valid, grid, transform=start, interpolation="nearest", fill=0)
    if not valid.array.any():
        raise ImagesAtFault(f"no overlap: the start carries the whole fixed image outside {moving.label}")
    warped = resample(moving, grid, transform=start, fill="edge")
    return warped, None if valid.array.all() else valid


def mask_on(mask: Image, grid: Grid, what: str) -> Image:
    """Return a mask on the grid of its image, 1 inside.

    Parameters
    ----------
    mask
        Inside where it is finite and not zero, in the same world as the image.
    grid
        Of the image.
    what
        What to call it in messages, such as "fixed mask".

    Raises
    ------
    InputError
        When it is empty, or marks nothing of the image.
    """
    label = f"{what} {mask.name}".strip()
    mask = as_mask(mask)
    if not mask.array.any():
        raise InputError(f"{label} is empty; mark the voxels to compare, or leave the mask out")
    inside = sample_mask(mask, grid)
    if not inside.any():
        raise InputError(f"{label} does not overlap its image; are both in the same world frame?")
    return Image(inside.astype(np.uint8), grid, mask.name)


_mask_on = mask_on  # as it was called in samreg 0.1


def _windowed(image: Image, window: tuple[float, float] | None) -> Image:
    with np.errstate(over="ignore"):
        array = image.array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{image.label} contains NaN, infinity or numbers beyond float32; replace them")
    low = float(array.min())
    if window is not None:
        low = float(window[0])
        array = np.clip(array, low, float(window[1]))
    if array.min() == array.max():
        within = "" if window is None else f" within the window {window}"
        raise InputError(f"{image.label} is constant{within}; there is nothing to register")
    # Engines start from centres of mass: air must weigh nothing.
    return image.with_array(array - low)

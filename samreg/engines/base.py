"""What every engine shares: the protocol, the registry, and how a start reaches an engine.

A start S, affine or deformable, reaches every engine in the same way: the moving image is warped by S onto the
fixed grid, the engine registers what is left from the identity, giving the remainder R, and the result is S
after R: x -> S(R(x)). No engine needs to know how S was made, and none of the ways in which engines mistreat a
displacement field as initial transform can occur (elastix ignores it, ANTs returns wrong inverses).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from samreg.errors import EngineError, InputError, MissingExtraError
from samreg.spatial import Grid, Image, Transform, as_mask, resample, sample_mask

TransformKind = Literal["rigid", "affine", "deformable"]
TRANSFORM_KINDS = ("rigid", "affine", "deformable")

#: How far the pre-warped moving image reaches beyond the fixed grid, mm: tissue just outside the fixed view
#: stays within the remainder's reach.
MARGIN_MM = 25.0

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, eq=False)
class EngineResult:
    """What an engine found.

    Parameters
    ----------
    transform
        Fixed to moving, LPS mm, with the start included.
    log
        Everything the engine printed.
    version
        The engine and its version, such as "antspyx 0.6.3".
    """

    transform: Transform
    log: str
    version: str


class Engine(Protocol):
    """An intensity-based registration method.

    Attributes
    ----------
    native
        Whether ``register`` also takes ``embeddings``, a pair of :class:`samreg.embedding.Embedding`, ``landmarks``,
        a pair of points (N, d), ``device`` and ``progress``.
    """

    name: str
    native: bool

    def seed_transform(
        self, transform: TransformKind, options: Mapping[str, Any] | object | None = None
    ) -> TransformKind:
        """Return the kind of start that embeddings should make for a transform with these options."""

    def register(
        self,
        fixed: Image,
        moving: Image,
        *,
        start: Transform | None = None,
        transform: TransformKind = "deformable",
        fixed_mask: Image | None = None,
        moving_mask: Image | None = None,
        seed: int | None = None,
        threads: int | None = None,
        verbose: bool = False,
        options: Mapping[str, Any] | object | None = None,
    ) -> EngineResult:
        """Register ``moving`` to ``fixed``.

        Parameters
        ----------
        fixed, moving
            Images at the voxel size to work at; 2 mm suits a body CT.
        start
            Fixed to moving, LPS mm. The engine starts exactly there. Without one it starts from the images'
            centres of mass.
        transform
            What to estimate: on top of the start where there is one. "deformable" without a start estimates an
            affine first.
        fixed_mask, moving_mask
            Where the images are compared: non-zero voxels, on any grid in the same world as their image.
        seed
            Makes the run repeatable: same inputs, machine and ``threads``, same result bit for bit.
        threads
            CPU threads; the engine's own choice unless given.
        verbose
            Pass the engine's log on at level INFO while it runs, instead of DEBUG.
        options
            The engine's own options, as a mapping or as its options object.

        Raises
        ------
        InputError
            When an argument is at fault: an empty mask, an unknown option, images of differing dimensions.
        MissingExtraError
            When the engine's package is not installed.
        EngineError
            When the engine fails, or the start leaves no overlap.
        """
        ...


class _Entry(NamedTuple):
    distribution: str  # the package on PyPI, asked for its version
    install: str
    module: str
    attribute: str


_ENGINES = {
    "ants": _Entry("antspyx", "antspyx", "samreg.engines.ants", "AntsEngine"),
    "elastix": _Entry("itk-elastix", '"samreg[elastix]"', "samreg.engines.elastix", "ElastixEngine"),
    "torch": _Entry("torch", "torch", "samreg.engines.torch_engine", "TorchEngine"),
}


def available_engines() -> tuple[str, ...]:
    """Return the names of the engines whose packages are installed."""
    return tuple(name for name in _ENGINES if _version(name) is not None)


def get_engine(name: str) -> Engine:
    """Return the engine of this name.

    Raises
    ------
    InputError
        When there is no such engine.
    MissingExtraError
        When its package is not installed.
    """
    if name not in _ENGINES:
        raise InputError(f"unknown engine {name!r}; choose one of {', '.join(_ENGINES)}")
    engine_version(name)
    entry = _ENGINES[name]
    engine: Engine = getattr(importlib.import_module(entry.module), entry.attribute)()
    return engine


def engine_version(name: str) -> str:
    """Return the engine's package and version, such as "antspyx 0.6.3".

    Raises
    ------
    MissingExtraError
        When the package is not installed.
    """
    version = _version(name)
    if version is None:
        entry = _ENGINES[name]
        raise MissingExtraError(f"the {name} engine needs {entry.distribution}: pip install {entry.install}")
    return f"{_ENGINES[name].distribution} {version}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(_ENGINES[name].distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def make_options(kind: type[OptionsT], options: Mapping[str, Any] | object | None) -> OptionsT:
    """Return an options object of ``kind`` from one, from a mapping, or the defaults from None.

    Raises
    ------
    InputError
        When an option is unknown, or the object is of another kind.
    """
    if isinstance(options, kind):
        return options
    if options is not None and not isinstance(options, Mapping):
        raise InputError(f"options must be a mapping or {kind.__name__}, got {type(options).__name__}")
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = [key for key in options or {} if key not in known]
    if unknown:
        raise InputError(f"unknown options {unknown} of {kind.__name__}; there are {', '.join(known)}")
    try:
        return kind(**(options or {}))
    except TypeError as error:  # what the options' own checks raise for a value they cannot compare
        raise InputError(
            f"an option of {kind.__name__} has the wrong type: {error}; given {dict(options or {})}"
        ) from error


def check_kind(transform: str) -> None:
    """Raise :class:`InputError` unless ``transform`` is a kind the engines estimate."""
    if transform not in TRANSFORM_KINDS:
        raise InputError(f"unknown transform {transform!r}; choose one of {', '.join(TRANSFORM_KINDS)}")


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


def prepare(
    fixed: Image,
    moving: Image,
    *,
    start: Transform | None,
    fixed_mask: Image | None,
    moving_mask: Image | None,
    window: tuple[float, float] | None,
) -> Pair:
    """Check the arguments every engine shares, and return the images it is to register from the identity.

    Parameters
    ----------
    fixed, moving, start, fixed_mask, moving_mask
        As in :meth:`Engine.register`.
    window
        Intensities are clipped to this range, HU; None keeps them.

    Raises
    ------
    InputError
        When an argument is at fault.
    EngineError
        When the start carries the fixed view wholly outside the moving image or its mask.
    """
    dimensions = {part.ndim for part in (fixed, moving, start, fixed_mask, moving_mask) if part is not None}
    if len(dimensions) != 1:
        raise InputError(
            f"{fixed.label} is {fixed.ndim}D, {moving.label} {moving.ndim}D: images, masks and start must all be of "
            "one dimension"
        )
    fixed_mask = None if fixed_mask is None else _mask_on(fixed_mask, fixed.grid, "fixed mask")
    moving_mask = None if moving_mask is None else _mask_on(moving_mask, moving.grid, "moving mask")
    fixed, moving = _windowed(fixed, window), _windowed(moving, window)
    if start is not None:
        moving, moving_mask = prewarp(moving, moving_mask, start, fixed.grid.padded(MARGIN_MM))
    return Pair(fixed, moving, fixed_mask, moving_mask)


def length_scale(image: Image) -> float:
    """Return what lengths that suit volumes are multiplied by: 1 in 3D, 0.3 in 2D, where X-rays show finer detail."""
    return 1.0 if image.ndim == 3 else 0.3


def clipping(
    window: tuple[float, float] | str | None, image: Image, default: tuple[float, float]
) -> tuple[float, float] | None:
    """Return the range intensities are clipped to: as given, or for "auto" the default for volumes, none in 2D.

    Raises
    ------
    InputError
        When it is neither a range, None nor "auto".
    """
    if window == "auto":
        return default if image.ndim == 3 else None
    if isinstance(window, str) or (window is not None and len(window) != 2):
        raise InputError(f'window must be two numbers, None or "auto", got {window!r}')
    return window


def prewarp(moving: Image, mask: Image | None, start: Transform, grid: Grid) -> tuple[Image, Image | None]:
    """Warp the moving image onto ``grid``, and mask out what it does not show.

    Parameters
    ----------
    moving
        Intensities with air at 0, which fills what lies outside the view.
    mask
        On the grid of ``moving``, or None.
    start
        Fixed to moving, LPS mm.
    grid
        Where to warp it, in the fixed frame.

    Returns
    -------
    warped : Image
        The moving image at ``start(x)``.
    mask : Image or None
        1 where it holds data, and the given mask is set; None where that is everywhere.

    Raises
    ------
    EngineError
        When no voxel is left.
    """
    # Without this mask the border of the view, where data end and the fill begins, pulls like a strong edge.
    valid = mask if mask is not None else moving.with_array(np.ones(moving.shape, np.uint8))
    valid = resample(valid, grid, transform=start, interpolation="nearest", fill=0)
    if not valid.array.any():
        raise EngineError(
            f"the start leaves no overlap of the images: it carries the fixed view outside {moving.label}"
        )
    warped = resample(moving, grid, transform=start, fill=0.0)
    return warped, None if valid.array.all() else valid


def _mask_on(mask: Image, grid: Grid, what: str) -> Image:
    label = f"{what} {mask.name}".strip()
    mask = as_mask(mask)
    if not mask.array.any():
        raise InputError(f"{label} is empty; mark the voxels to compare, or leave the mask out")
    inside = sample_mask(mask, grid)
    if not inside.any():
        raise InputError(f"{label} does not overlap its image; are both in the same world frame?")
    return Image(inside.astype(np.uint8), grid, mask.name)


def _windowed(image: Image, window: tuple[float, float] | None) -> Image:
    array = image.array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{image.label} contains NaN or infinity; replace them")
    low = float(array.min())
    if window is not None:
        low = float(window[0])
        array = np.clip(array, low, float(window[1]))
    if array.min() == array.max():
        raise InputError(f"{image.label} is constant within the window {window}; there is nothing to register")
    # Engines start from centres of mass: air must weigh nothing.
    return image.with_array(array - low)

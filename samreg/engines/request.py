"""What an engine is asked, what it answers, and what makes an engine.

A start S, affine or deformable, reaches every engine in the same way: the moving image is warped by S onto the
fixed grid, the engine registers what is left from the identity, giving the remainder R, and the result is S
after R: x -> S(R(x)). No engine needs to know how S was made, and none of the ways in which engines mistreat a
displacement field as initial transform can occur (elastix ignores it, ANTs returns wrong inverses).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from samreg.device import MAX_THREADS
from samreg.errors import (
    InputError,
    require_choice,
    require_flag,
    require_number,
    require_progress,
    require_seed,
)
from samreg.spatial.grid import FloatArray, as_points_array
from samreg.spatial.image import Image
from samreg.spatial.resample import resample_spacing
from samreg.spatial.transforms import Transform

if TYPE_CHECKING:
    from samreg.embedding import Embedding

TransformKind = Literal["rigid", "affine", "deformable"]
TRANSFORM_KINDS: tuple[TransformKind, ...] = get_args(TransformKind)


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """One registration, as :func:`samreg.register` asks it of an engine.

    Parameters
    ----------
    fixed, moving
        The images.
    transform
        What to estimate: on top of the start where there is one. "deformable" without a start estimates an affine
        first.
    start
        Fixed to moving, LPS mm. The engine starts exactly there. Without one it starts from the images' centres of
        mass.
    fixed_mask, moving_mask
        Where the images are compared: non-zero voxels, on any grid in the same world as their image.
    landmarks
        Points (N, d) of the fixed and of the moving image that correspond, LPS mm, to be drawn together.
    anchors
        The same of points that were found, and may err, for an engine with ``uses_anchors``.
    embeddings
        Of the fixed and of the moving image, by one model, for an engine with ``uses_embeddings``.
    one_person
        Both images show one person, as far as their matches tell: their intensities then say more than embeddings.
    spacing
        Voxel size to work at, mm, never finer than the image's own; see :meth:`resampled`. The images' own unless
        given.
    options
        The engine's own options, as a mapping or as its options object.
    seed
        Makes the run repeatable: same inputs, machine and ``threads``, same result bit for bit. None leaves random
        samples to chance.
    threads
        CPU threads; the engine's own choice unless given.
    device
        "auto", "cpu", "cuda" or "mps", for an engine that runs in torch.
    progress
        Called with what the engine does as it starts it.
    verbose
        Pass the engine's log on at level INFO while it runs, instead of DEBUG.

    Raises
    ------
    InputError
        When a value is of another kind or out of range, images, masks, start and landmarks are not all 2D or all 3D,
        or the landmarks are no pairs.

    Examples
    --------
    >>> import numpy as np
    >>> import samreg
    >>> from samreg.engines import Request
    >>> image = samreg.Image.from_array(np.zeros((20, 30, 40)), spacing=1.0)
    >>> Request(fixed=image, moving=image, transform="rigid", spacing=2.0).resampled().fixed.shape
    (10, 15, 20)
    """

    fixed: Image
    moving: Image
    transform: TransformKind = "deformable"
    start: Transform | None = None
    fixed_mask: Image | None = None
    moving_mask: Image | None = None
    landmarks: tuple[FloatArray, FloatArray] | None = None
    anchors: tuple[FloatArray, FloatArray] | None = None
    embeddings: tuple[Embedding, Embedding] | None = None
    one_person: bool = False
    spacing: float | None = None
    options: Mapping[str, Any] | object | None = None
    seed: int | None = None
    threads: int | None = None
    device: str = "auto"
    progress: Callable[[str], None] | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        require_choice("transform", self.transform, TRANSFORM_KINDS)
        parts = (
            (self.fixed.label, self.fixed),
            (self.moving.label, self.moving),
            ("the fixed mask", self.fixed_mask),
            ("the moving mask", self.moving_mask),
            ("the start", self.start),
        )
        dimensions = [(name, part.ndim) for name, part in parts if part is not None]
        if len({ndim for _, ndim in dimensions}) != 1:
            listed = ", ".join(f"{name} is {ndim}D" for name, ndim in dimensions)
            raise InputError(f"{listed}; they must all be 2D or all be 3D")
        checks: dict[str, Callable[[object], float]] = {
            "seed": require_seed,
            "threads": partial(require_number, "threads", minimum=1, maximum=MAX_THREADS, integer=True),
            "spacing": partial(require_number, "spacing", minimum=0.2, maximum=20, unit="mm"),
        }
        for name, check in checks.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check(getattr(self, name)))
        require_flag("verbose", self.verbose)
        require_progress(self.progress)
        for name in ("landmarks", "anchors"):
            pairs = getattr(self, name)
            if pairs is None:
                continue
            fixed, moving = (as_points_array(points, self.fixed.ndim) for points in pairs)
            if len(fixed) != len(moving) or len(fixed) == 0:
                raise InputError(f"{name} must come in pairs, got {len(fixed)} fixed and {len(moving)} moving points")
            object.__setattr__(self, name, (fixed, moving))

    def resampled(self) -> Request:
        """Return the request with both images at the voxel size to work at; the masks stay as they are."""
        if self.spacing is None:
            return self
        fixed, moving = (at_spacing(image, self.spacing) for image in (self.fixed, self.moving))
        return replace(self, fixed=fixed, moving=moving)


def at_spacing(image: Image, spacing: float) -> Image:
    """Return the image at isotropic voxels of this size, mm, or of its own smallest where that is larger."""
    return resample_spacing(image, max(float(spacing), float(image.spacing.min())))


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


class Engine(ABC):
    """An intensity-based registration method; subclass it to add one.

    Attributes
    ----------
    name
        As in ``register(engine=...)`` and in the results' options.
    uses_embeddings
        Whether it compares embeddings as well; else they are computed only where they make the start.
    uses_anchors
        Whether a deformable registration of its own is guided by landmarks found in both images.
    min_voxels
        How many voxels of the size to work at it needs along every axis of both images.
    """

    name: str
    uses_embeddings: bool = False
    uses_anchors: bool = False
    min_voxels: int = 2

    def check(self, request: Request) -> None:
        """Refuse what this engine cannot do, before anything is computed.

        Unless overridden, landmarks are refused and all else is taken.

        Raises
        ------
        InputError
            When an option is unknown or out of range, or the engine cannot use the landmarks.
        """
        if request.landmarks is not None:
            raise InputError(f'the {self.name} engine cannot be guided by landmarks; set engine="torch" or "elastix"')

    def seed_transform(self, request: Request) -> TransformKind:
        """Return the kind of start that embeddings should make: of the transform itself, unless overridden."""
        return request.transform

    @abstractmethod
    def register(self, request: Request) -> EngineResult:
        """Register the moving image to the fixed one.

        Parameters
        ----------
        request
            Images at the voxel size to work at, start, masks and options.

        Raises
        ------
        InputError
            When an argument is at fault: an empty mask, an unknown option.
        ImagesAtFault
            When the images or their masks do not overlap, at the start or at any initial position tried.
        MissingExtraError
            When the engine's package is not installed.
        EngineError
            When the engine fails.
        """

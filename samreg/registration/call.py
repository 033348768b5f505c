"""What register() may be given: engines, atlases, guides and starts by name or file, and what cannot be done."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samreg.device import resolve_device
from samreg.engines.base import mask_on
from samreg.engines.registry import as_engine, available_engines, get_engine
from samreg.engines.request import TRANSFORM_KINDS, Engine, Request
from samreg.errors import InputError, require_flag
from samreg.registration import store
from samreg.registration.result import RegistrationResult
from samreg.spatial.image import Image
from samreg.spatial.inputs import points_in
from samreg.spatial.io_transforms import as_transform
from samreg.spatial.points import Points, paired_points
from samreg.spatial.transforms import Transform

if TYPE_CHECKING:
    from samreg.landmarks.atlas import LandmarkAtlas

METHODS = ("hybrid", "embedding", "registration")
TRANSFORMS = TRANSFORM_KINDS
_WORDS = ("yes", "no", "true", "false", "on", "off")  # that are meant as flags


def chosen_engine(engine: str | Engine | None, method: str) -> Engine:
    """Return the engine of this name, one's own, or the one that suits the method best of those installed."""
    if engine is not None:
        return get_engine(engine) if isinstance(engine, str) else as_engine(engine)
    present = available_engines()
    if not present:
        raise InputError('no registration engine is installed; pip install antspyx, or use method="embedding"')
    # torch alone compares embeddings; without them the long-tried ones come first
    return get_engine("torch" if method == "hybrid" and "torch" in present else present[0])


def chosen_atlas(
    anchors: bool | np.bool_ | LandmarkAtlas | str | os.PathLike[str],
    method: str,
    transform: str,
) -> bool | LandmarkAtlas:
    """Return whether to use the atlas that samreg ships, or another that was given.

    Raises
    ------
    InputError
        When it is neither, cannot be read, or nothing would be guided by it.
    """
    from samreg.landmarks.atlas import LandmarkAtlas

    is_word = isinstance(anchors, str) and anchors.lower() in _WORDS and not Path(anchors).exists()
    if is_word or isinstance(anchors, (bool, np.bool_)):
        return require_flag("anchors", anchors)
    if not isinstance(anchors, (str, os.PathLike, LandmarkAtlas)):
        raise InputError(f"anchors must be True, False, or a landmark atlas or its file, got {type(anchors).__name__}")
    if method == "registration" or transform != "deformable":
        raise InputError(
            'an atlas given as anchors guides deformable registrations by embeddings; set method="hybrid" and '
            'transform="deformable", or leave anchors out'
        )
    return anchors if isinstance(anchors, LandmarkAtlas) else LandmarkAtlas.load(anchors)


def atlas_given(
    anchors: bool | np.bool_ | LandmarkAtlas | str | os.PathLike[str],
    method: str,
    request: Request,
    engine: Engine | None,
) -> bool | LandmarkAtlas:
    """Return whether to use the atlas that samreg ships, or another that was given and is of the images' dimension."""
    atlas = chosen_atlas(anchors, method, request.transform)
    if not isinstance(atlas, bool) and request.start is not None and not (engine and engine.uses_anchors):
        raise InputError(
            "an atlas given as anchors guides what begins from a given start by the torch engine alone; set "
            'engine="torch", or leave anchors or start out'
        )
    if not isinstance(atlas, bool) and atlas.positions.shape[2] != request.fixed.ndim:
        raise InputError(f"the landmark atlas is {atlas.positions.shape[2]}D, the images are {request.fixed.ndim}D")
    return atlas


def start_of(start: object, fixed: Image, moving: Image) -> Transform:
    """Return the transform to start from: one in memory, a file, or the folder of a saved result."""
    if isinstance(start, RegistrationResult):
        raise InputError("start must be a transform, got RegistrationResult; give result.transform")
    if isinstance(start, (str, os.PathLike)) and Path(start).is_dir():
        return store.load_transform(start, "transform")
    return as_transform(start, name="start", fixed_grid=fixed.grid, moving_grid=moving.grid)


def guides_of(landmarks: object, fixed: Image, moving: Image) -> tuple[Points, Points]:
    """Return the landmarks that both images have, in one order; each must lie in its image."""
    if not isinstance(landmarks, (tuple, list)) or len(landmarks) != 2:
        raise InputError("landmarks must be two sets of points, those of the fixed and those of the moving image")
    return paired_points(
        points_in(landmarks[0], fixed.grid, f"the fixed image {fixed.name}".strip()),
        points_in(landmarks[1], moving.grid, f"the moving image {moving.name}".strip()),
    )


def require_used(method: str, *, engine: object, engine_options: object, model: object) -> None:
    """Raise :class:`InputError` for an option that the method would ignore."""
    unused: dict[str, object] = {}
    if method == "embedding":
        unused = {"engine": engine, "engine_options": engine_options or None}
    elif method == "registration":
        unused = {"model": model}
    for name, value in unused.items():
        if value is not None:
            raise InputError(f'method "{method}" uses no {name}; leave {name} out, or set method="hybrid"')


def require_possible(request: Request, engine: Engine | None) -> None:
    """Raise :class:`InputError` for what cannot be done, before anything is computed."""
    resolve_device(request.device)
    if request.start is not None and (engine is None or request.transform != "deformable"):
        raise InputError("start is what an engine's deformable registration begins from; leave it out otherwise")
    if engine is None and request.landmarks is not None:
        raise InputError('landmarks guide an engine, and method "embedding" has none; set method="hybrid"')
    for image in (request.fixed, request.moving):
        if min(image.shape) < 2:
            raise InputError(
                f"{image.label} is one voxel thick, {' x '.join(map(str, image.grid.size))}; give a volume of several "
                "slices, or both slices as 2D images"
            )
    for mask, image, what in (
        (request.fixed_mask, request.fixed, "fixed mask"),
        (request.moving_mask, request.moving, "moving mask"),
    ):
        if mask is not None:
            mask_on(mask, image.grid, what)
    if engine is not None:
        _require_thick_enough(request, engine)
        engine.check(request)


def _require_thick_enough(request: Request, engine: Engine) -> None:
    for image in (request.fixed, request.moving):
        assert request.spacing is not None
        spacing = max(request.spacing, float(image.spacing.min()))
        thickness = min(image.grid.with_spacing(spacing).shape)
        extent = " x ".join(f"{length:.3g}" for length in image.grid.extent)
        if thickness < 2:
            raise InputError(
                f"{image.label} is one voxel thick at {spacing:g} mm, as it measures {extent} mm; check that its "
                "header is in mm, or give a thicker volume or a smaller spacing"
            )
        if thickness < engine.min_voxels:
            raise InputError(
                f"{image.label} is {thickness} voxels thick at {spacing:g} mm, as it measures {extent} mm, and the "
                f'engine {engine.name} needs {engine.min_voxels}; set engine="torch" (--engine torch), or give a '
                "thicker volume or a smaller spacing"
            )


def notes_of_reading(request: Request, remarks: Iterable[str]) -> tuple[str, ...]:
    """Return, once each, what was decided in reading the images, and the remarks on masks and landmarks."""
    images = (request.fixed, request.moving, request.fixed_mask, request.moving_mask)
    return tuple(dict.fromkeys([*(text for image in images if image for text in image.remarks), *remarks]))

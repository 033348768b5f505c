"""register(): two scans in, a transform and its quality out."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from samreg.errors import EngineError, InputError
from samreg.registration.result import RegistrationResult
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image, as_points
from samreg.spatial.points import paired_points
from samreg.spatial.resample import resample_spacing
from samreg.spatial.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    components,
    compose,
    sample_displacement,
    tapered,
)

if TYPE_CHECKING:
    from samreg.engines import Engine
    from samreg.engines.base import TransformKind

METHODS = ("hybrid", "embedding", "registration")
TRANSFORMS = ("deformable", "affine", "rigid")
_SPACINGS = {2: 0.6, 3: 2.0}  # mm, at which engines work by number of dimensions
_FIELD_MARGIN = 30.0  # mm around the fixed image over which a field falls to zero

log = logging.getLogger(__name__)


def register(
    fixed: Any,
    moving: Any,
    *,
    method: str = "hybrid",
    engine: str | Engine | None = None,
    transform: str = "deformable",
    model: Any = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    landmarks: tuple[Any, Any] | None = None,
    start: Transform | None = None,
    device: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    spacing: float | None = None,
    engine_options: Mapping[str, Any] | None = None,
    verbose: bool = False,
    progress: Callable[[str], None] | None = None,
) -> RegistrationResult:
    """Register two scans of the body.

    Parameters
    ----------
    fixed, moving
        Paths, DICOM folders, SimpleITK, ITK, ANTs or nibabel images, or :class:`samreg.Image`; CT in HU, or
        2D X-rays, for the methods that embed. Grids, spacings and extents may differ.
    method
        "embedding": correspondences of anatomical embeddings alone. "registration": the engine alone.
        "hybrid": the engine, seeded by the embeddings.
    engine
        "ants", "elastix", "torch", or one's own :class:`~samreg.engines.Engine`. Unless given, "torch" for a hybrid,
        as it compares the embeddings too, and the first that is installed for a registration.
    transform
        "rigid", "affine" or "deformable".
    model
        Name, path or model for the embeddings; samreg's default unless given.
    fixed_mask, moving_mask
        Where to look, non-zero voxels; embeddings are matched and engines compare only there.
    landmarks
        Points of the fixed and of the moving image that correspond: files, :class:`samreg.Points`, paired by name, or
        arrays (N, d) in LPS mm. A deformable registration by the torch engine draws them together.
    start
        Fixed to moving, LPS mm: what the engine's deformable registration begins from, such as an earlier result's
        transform, instead of the embeddings' seed or the images' centres of mass.
    device
        "auto", "cpu", "cuda" or "mps", for the embeddings and the torch engine.
    seed
        Makes the run repeatable on one machine; see the engines for what that costs.
    threads
        CPU threads; all unless given.
    spacing
        Voxel size at which engines work, mm; 2 in 3D and 0.6 in 2D unless given, never finer than the fixed image.
    engine_options
        Options of the engine, as :class:`~samreg.engines.ants.AntsOptions`.
    verbose
        Log what the engine prints at level INFO.
    progress
        Called with the name of each stage as it starts.

    Returns
    -------
    RegistrationResult
        False, with a ``reason``, where the images are at fault: too few matches, no overlap, mirrored.

    Raises
    ------
    InputError
        When the call is at fault: a missing or damaged file, no CT, an unknown option.
    MissingExtraError
        When the engine is not installed; the message says what to install.
    EngineError
        When the engine fails.
    """
    _check_choice("method", method, METHODS)
    _check_choice("transform", transform, TRANSFORMS)
    kind = cast("TransformKind", transform)
    backend = None if method == "embedding" else _choose_engine(engine, method)
    if start is not None and (backend is None or transform != "deformable"):
        raise InputError("start is what an engine's deformable registration begins from; leave it out otherwise")
    if landmarks is not None and not (backend is not None and backend.native and transform == "deformable"):
        raise InputError('landmarks guide deformable registration by the torch engine alone; set engine="torch"')
    fixed, moving = as_image(fixed, name="fixed image"), as_image(moving, name="moving image")
    if fixed.ndim != moving.ndim:
        raise InputError(
            f"{fixed.label} is {fixed.ndim}D and {moving.label} is {moving.ndim}D; give both in one dimension"
        )
    guides = None if landmarks is None else paired_points(*(as_points(points, fixed.ndim) for points in landmarks))
    spacing = _SPACINGS[fixed.ndim] if spacing is None else spacing
    _check_spacing(spacing)
    masks = [None if mask is None else as_image(mask, name="mask") for mask in (fixed_mask, moving_mask)]
    clock = _Clock(progress)
    options = {
        "method": method,
        "engine": None if backend is None else backend.name,
        "transform": transform,
        "model": None,
        "fixed_mask": None if masks[0] is None else masks[0].label,
        "moving_mask": None if masks[1] is None else masks[1].label,
        "landmarks": None if guides is None else len(guides[0]),
        "start": None if start is None else type(start).__name__,
        "device": device,
        "seed": seed,
        "threads": threads,
        "spacing": spacing,
        "engine_options": _as_mapping(engine_options),
    }
    versions = {"samreg": importlib.metadata.version("samreg"), "python": platform.python_version()}
    found, embeddings, body, engine_log = None, None, None, ""
    notes: tuple[str, ...] = ()
    with _threads(threads):
        if method != "registration":
            found, embeddings, notes, versions["model"] = _seed(
                fixed, moving, masks, start=start, model=model, device=device, seed=seed, clock=clock,
                transform=kind if backend is None else backend.seed_transform(kind, engine_options),
            )  # fmt: skip
            options["model"] = _model_name(model, versions["model"])
            versions["torch"] = importlib.metadata.version("torch")
            body = _body(embeddings[0])
            if start is None and not found:
                return RegistrationResult(
                    fixed,
                    moving,
                    None,
                    seed=found,
                    body=body,
                    options=options,
                    timings=clock.timings,
                    versions=versions,
                    notes=notes,
                    reason=found.reason,
                )
            start = found.transform if start is None else start
        if backend is None:
            assert start is not None
            result = start
        else:
            # a turned image was embedded as it lies; only its seed is in the right pose
            own = {
                "embeddings": None if notes else embeddings,
                "landmarks": None if guides is None else tuple(points.positions for points in guides),
                "device": device,
                "progress": progress,
            }
            with clock("registration"):
                outcome = backend.register(
                    _working(fixed, spacing),
                    _working(moving, spacing),
                    start=start,
                    transform=kind,
                    fixed_mask=masks[0],
                    moving_mask=masks[1],
                    seed=seed,
                    threads=threads,
                    verbose=verbose,
                    options=engine_options,
                    **(own if backend.native else {}),
                )
            result, engine_log = outcome.transform, outcome.log
            versions[backend.name] = outcome.version
        with clock("composition"):
            result = _on_one_grid(result, fixed.grid, _working_spacing(fixed, spacing))
    if not np.isfinite(result.transform_points(fixed.grid.corners())).all():
        raise EngineError(f"{options['engine'] or 'the embedding'} returned a transform that is not finite")
    return RegistrationResult(
        fixed,
        moving,
        result,
        seed=found,
        body=body,
        options=options,
        timings=clock.timings,
        versions=versions,
        notes=notes,
        log=engine_log,
    )


def _seed(
    fixed: Image,
    moving: Image,
    masks: list[Image | None],
    *,
    start: Transform | None,
    model: Any,
    transform: str,
    device: str,
    seed: int,
    clock: _Clock,
) -> tuple[Any, tuple[Any, Any], tuple[str, ...], str]:
    """Embed both images; return the seed unless there is a start, the embeddings, notes, and the model's name."""
    from samreg.embedding.registry import model_for
    from samreg.seeding import seed_any_orientation

    with clock("model"):
        network = model_for(model, fixed.ndim)
    with clock("embedding"):
        fixed_embedding = network.embed(fixed, mask=masks[0], device=device)
        moving_embedding = network.embed(moving, mask=masks[1], device=device)
    if start is not None:
        return None, (fixed_embedding, moving_embedding), (), fixed_embedding.model
    with clock("seeding"):
        found, notes = seed_any_orientation(
            fixed,
            moving,
            fixed_embedding,
            moving_embedding,
            embed=lambda image, mask: network.embed(image, mask=mask, device=device),
            moving_mask=masks[1],
            transform=transform,
            seed=seed,
        )
    return found, (fixed_embedding, moving_embedding), notes, fixed_embedding.model


def _model_name(given: Any, identity: str) -> str:
    """Return what finds the model again: the name or path that was given, or its own name."""
    return os.fspath(given) if isinstance(given, (str, os.PathLike)) else identity.split("@")[0]


def _as_mapping(options: Any) -> dict[str, Any]:
    return dataclasses.asdict(options) if dataclasses.is_dataclass(options) else dict(options or {})  # type: ignore[arg-type]


def _body(embedding: Any) -> Image:
    return Image(embedding.body.astype(np.uint8), embedding.local_grid, "body")


def _on_one_grid(transform: Transform, grid: Grid, spacing: float) -> Transform:
    """Return the transform as one displacement field, zero at its border, followed by one affine."""
    parts = components(transform)
    if len(parts) == 1 and isinstance(parts[0], AffineTransform):
        return transform
    affine = parts[-1] if isinstance(parts[-1], AffineTransform) else AffineTransform.identity(transform.ndim)
    # a quarter of the finest field's voxel: between coarser ones the inverse, sampled too, misses its kinks
    finest = min(float(part.grid.spacing.min()) for part in parts if isinstance(part, DisplacementField))
    grid = grid.with_spacing(np.minimum(max(spacing, finest / 4), grid.extent)).padded(_FIELD_MARGIN)
    residual = sample_displacement(compose(transform, affine.inverse()), grid)
    return compose(tapered(residual, _FIELD_MARGIN), affine)


def _working(image: Image, spacing: float) -> Image:
    """Return the image at the voxel size engines work at."""
    return resample_spacing(image, _working_spacing(image, spacing))


def _working_spacing(image: Image, spacing: float) -> float:
    return max(float(spacing), float(image.spacing.min()))


def _choose_engine(name: str | Engine | None, method: str) -> Engine:
    """Return the engine of this name, one's own, or the one that suits the method best of those installed."""
    from samreg.engines import available_engines, get_engine

    if name is not None and not isinstance(name, str):
        return name
    present = available_engines()
    if name is None and not present:
        raise InputError('no registration engine is installed; pip install antspyx, or use method="embedding"')
    if name is None:
        # it alone compares embeddings; without them the long-tried ones come first
        name = "torch" if method == "hybrid" and "torch" in present else present[0]
    return get_engine(name)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")


def _check_spacing(spacing: float) -> None:
    if not (np.isfinite(spacing) and 0.2 <= spacing <= 20):
        raise InputError(f"spacing must be between 0.2 and 20 mm, got {spacing}")


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """Let torch and SimpleITK use this many threads within the block."""
    if threads is None:
        yield
        return
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    import SimpleITK as sitk
    import torch

    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])


class _Clock:
    """Times the stages and tells the user which one runs."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        self.timings: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if self._progress is not None:
            self._progress(stage)
        log.debug("stage %s", stage)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - start

"""register(): two scans in, a transform and its quality out."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.device import cpu_threads, resolve_device
from samreg.engines.base import mask_on
from samreg.engines.registry import as_engine, available_engines, get_engine
from samreg.engines.request import TRANSFORM_KINDS, Engine, EngineResult, Request
from samreg.errors import (
    EngineError,
    ImagesAtFault,
    InputError,
    require_choice,
    require_flag,
    require_options,
    require_progress,
)
from samreg.registration import store
from samreg.registration.result import RegistrationResult
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image, points_in
from samreg.spatial.io_transforms import read_transform
from samreg.spatial.points import Points, paired_points
from samreg.spatial.remarks import remarks_kept
from samreg.spatial.standard import as_mask
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
    from samreg.embedding import Embedding
    from samreg.landmarks.atlas import LandmarkAtlas
    from samreg.matching import Correspondences
    from samreg.registration.anchors import Anchors
    from samreg.registration.misses import LandmarkMisses
    from samreg.seeding import Seed

METHODS = ("hybrid", "embedding", "registration")
TRANSFORMS = TRANSFORM_KINDS
_SPACING_MM = {2: 0.6, 3: 2.0}  # at which engines work, by number of dimensions
_FIELD_MARGIN_MM = 30.0  # around the fixed image, over which a field falls to zero
_WORDS = ("yes", "no", "true", "false", "on", "off")  # that are meant as flags
_ATLAS_IN_MEMORY = "a landmark atlas"  # in the options of a result
_MIN_DETERMINANT = 1e-9  # of the affine part; less has collapsed the image

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
    anchors: bool | LandmarkAtlas | str | os.PathLike[str] | None = True,
    start: Transform | str | os.PathLike[str] | None = None,
    device: str = "auto",
    seed: int | None = 0,
    threads: int | None = None,
    spacing: float | None = None,
    engine_options: Mapping[str, Any] | object | None = None,
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
        "ants", "elastix", "torch", the name of an engine that an installed package adds, FILE.py:CLASS, or one's own
        :class:`~samreg.engines.Engine`. Unless given, "torch" for a hybrid, as it compares the embeddings too, and the
        first that is installed for a registration.
    transform
        "rigid", "affine" or "deformable".
    model
        Name, path or model for the embeddings; samreg's default unless given.
    fixed_mask, moving_mask
        Where to look, non-zero voxels; embeddings are matched and engines compare only there.
    landmarks
        Points of the fixed and of the moving image that correspond: files, :class:`samreg.Points`, paired by name, or
        arrays (N, d) in LPS mm. The torch engine's deformable registration, and all of elastix', draw them together;
        ``quality`` says how near they come.
    anchors
        Whether landmarks and bones that samreg's atlas finds in both volumes (:func:`samreg.find_landmarks`) guide a
        deformable hybrid or embedding: the field that the embeddings make, and the torch engine; or an atlas of one's
        own, or its file, to find them by. Ribs guide as a whole, their landmarks do not; nor do vertebrae that could
        not be counted, nor domes of the diaphragm that cannot be seen. None, as a result's options have it where
        nothing could be guided, stands for True.
    start
        Fixed to moving, LPS mm: what the engine's deformable registration begins from, such as an earlier result's
        transform, its folder or a file, instead of the embeddings' seed or the images' centres of mass.
    device
        "auto", "cpu", "cuda" or "mps", for the embeddings, their matching and the torch engine.
    seed
        0 to 2**32 - 1. The same seed gives the same result on one machine with the same number of threads; None lets
        ANTs and elastix draw their samples anew.
    threads
        CPU threads. Unless given all, but with a seed one for ANTs' affine stages, those within "SyN" included, which
        repeat on one alone.
    spacing
        Voxel size at which engines work, mm; 2 in 3D and 0.6 in 2D unless given, never finer than the fixed image.
    engine_options
        Options of the engine, as :class:`~samreg.engines.ants.AntsOptions`.
    verbose
        Log what the engine prints at level INFO.
    progress
        Called with the name of each stage as it starts; the log gets it, at level INFO, unless given.

    Returns
    -------
    RegistrationResult
        False, with a ``reason``, where the images are at fault: too few matches, no overlap of the images or their
        masks, mirrored.

    Raises
    ------
    InputError
        When the call is at fault: a missing or damaged file, no CT, an unknown option.
    MissingExtraError
        When the engine is not installed; the message says what to install.
    EngineError
        When the engine fails.

    Examples
    --------
    >>> import numpy as np
    >>> import samreg
    >>> from samreg.spatial import Image
    >>> distance = np.linalg.norm(np.mgrid[-10:10, -10:10, -10:10] * [[[[1.0]]], [[[1.3]]], [[[0.8]]]], axis=0)
    >>> ball = np.where(distance < 7, 40 * np.cos(distance), -1000).astype(np.float32)
    >>> fixed = Image.from_array(ball, spacing=4.0, name="fixed")
    >>> moving = Image.from_array(ball, spacing=4.0, origin=(8.0, 0.0, 0.0), name="moving")
    >>> result = samreg.register(fixed, moving, method="registration", engine="torch", transform="rigid")
    >>> result.transform_points([[40.0, 40.0, 40.0]], to="moving").round()
    array([[48., 40., 40.]])
    """
    require_choice("method", method, METHODS)
    require_progress(progress)
    anchors = True if anchors is None else anchors
    backend = None if method == "embedding" else chosen_engine(engine, method)
    with remarks_kept() as remarks:
        images = as_image(fixed, name="fixed image"), as_image(moving, name="moving image")
        guides = None if landmarks is None else _guides(landmarks, *images)
        request = Request(
            fixed=images[0],
            moving=images[1],
            transform=transform,  # type: ignore[arg-type]  # which it checks
            start=None if start is None else _as_transform(start, *images),
            fixed_mask=None if fixed_mask is None else as_mask(as_image(fixed_mask, name="mask")),
            moving_mask=None if moving_mask is None else as_mask(as_image(moving_mask, name="mask")),
            landmarks=None if guides is None else (guides[0].positions, guides[1].positions),
            spacing=_SPACING_MM[images[0].ndim] if spacing is None else spacing,
            options=engine_options,
            seed=seed,
            threads=threads,
            device=device,
            progress=progress,
            verbose=verbose,
        )
    _require_used(method, engine=engine, engine_options=engine_options, model=model)
    _check(request, backend)
    atlas = _atlas_given(anchors, method, request, backend)
    run = _Run(request, method, backend, model, atlas, _Clock(progress), notes=_notes_of_reading(request, remarks))
    with cpu_threads(request.threads):
        try:
            found, reason = run.transform(), ""
        except ImagesAtFault as fault:
            found, reason = None, fault.reason
        error_map = None if found is None else run.expected_errors(found)
    return RegistrationResult(
        *images,
        found,
        seed=run.seed,
        body=run.body,
        options=_options(run, engine, anchors, start),
        timings=run.clock.timings,
        versions=run.versions,
        notes=run.notes,
        log=run.log,
        reason=reason,
        start=request.start,
        guides=guides,
        error_map=error_map,
        landmark_misses=None if found is None else run.landmark_misses(found),
        shown_by_one=() if run.anchors is None else run.anchors.shown_by_one(),
    )


@dataclass(eq=False)
class _Run:
    """A registration under way: what it was asked, and what it has gathered, whether or not it fails in the end."""

    request: Request
    method: str
    engine: Engine | None
    model: Any
    anchor_atlas: bool | LandmarkAtlas  # whether to use the one that samreg ships, or another
    clock: _Clock
    seed: Seed | None = None
    body: Image | None = None
    notes: tuple[str, ...] = ()
    log: str = ""
    embeddings: tuple[Embedding, Embedding] | None = None
    whole: Correspondences | None = None  # of the embeddings, unless the registration was given a start
    turn: FloatArray | None = None  # of the moving body, upright as the fixed one lies
    anchors: Anchors | None = None
    versions: dict[str, str] = field(
        default_factory=lambda: {
            "samreg": importlib.metadata.version("samreg"),
            "python": platform.python_version(),
        }
    )

    def transform(self) -> Transform:
        """Return the transform, fixed to moving, LPS mm: displacement fields, followed by an affine.

        Raises
        ------
        ImagesAtFault
            When the images cannot be registered.
        EngineError
            When the engine fails.
        """
        request = self.request
        if self.method != "registration" and (request.start is None or self._engine_compares_embeddings):
            request = self._embedded(request)
        if request.embeddings is not None:
            self.embeddings = request.embeddings
            request = self._anchored(request, request.embeddings)
        transform = request.start if self.engine is None else self._engine_transform(self.engine, request)
        assert transform is not None
        with self.clock("composition"):
            spacing = max(self._spacing, float(request.fixed.spacing.min()))
            transform = _fields_then_affine(transform, request.fixed.grid, spacing)
        if not np.isfinite(transform.transform_points(request.fixed.grid.corners())).all():
            name = "the embedding" if self.engine is None else self.engine.name
            raise EngineError(f"{name} returned a transform that is not finite")
        return transform

    def expected_errors(self, transform: Transform) -> Image | None:
        """Return how far off the transform is likely to be; None where that is not known."""
        from samreg.registration.confidence import expected_errors

        if self.embeddings is None:
            return None
        with self.clock("expected error"):
            return expected_errors(
                self.request.fixed,
                transform,
                self.embeddings,
                method="embedding" if self.engine is None else "engine",
                anchors=self.anchors if isinstance(self.anchor_atlas, bool) else None,
                turn=self.turn,
                whole=self.whole,
                device=self.request.device,
            )

    def landmark_misses(self, transform: Transform) -> LandmarkMisses | None:
        """Return by how much the transform misses the landmarks found in both images; None where none were sought."""
        return None if self.anchors is None else self.anchors.missed(transform, guided=self.is_guided)

    @property
    def is_guided(self) -> bool:
        """Whether landmarks that are found in both images guide the start or the engine."""
        takes_them = self.request.start is None or (self.engine is not None and self.engine.uses_anchors)
        is_deformable = self.method != "registration" and self.request.transform == "deformable"
        return takes_them and is_deformable and self.anchor_atlas is not False

    @property
    def _spacing(self) -> float:
        assert self.request.spacing is not None
        return self.request.spacing

    @property
    def _engine_compares_embeddings(self) -> bool:
        return self.engine is not None and self.engine.uses_embeddings

    def _embedded(self, request: Request) -> Request:
        """Return the request with both embeddings and, unless it has one, a start made of them."""
        from samreg.embedding.registry import default_notes, model_for

        with self.clock("model"):
            network = model_for(self.model, request.fixed, request.moving)
        if not isinstance(self.anchor_atlas, bool):
            self.anchor_atlas.require_model(network.identity)

        def embed(image: Image, mask: Image | None) -> Embedding:
            return network.embed_on_device(image, mask=mask, device=request.device)

        def embed_globally(image: Image, mask: Image | None) -> Embedding | None:
            return network.embed_globally(image, mask=mask, device=request.device)

        if self.model is None:
            self.notes += default_notes(request.fixed, request.moving)
        with self.clock("embedding"):
            fixed = embed(request.fixed, request.fixed_mask)
            moving = embed(request.moving, request.moving_mask)
        self.versions |= {"model": fixed.model, "torch": importlib.metadata.version("torch")}
        self.body = Image(fixed.body.astype(np.uint8), fixed.local_grid, "body")
        if request.start is not None:
            return replace(request, embeddings=(fixed, moving))
        return self._seeded(request, fixed, moving, embed, embed_globally)

    def _anchored(self, request: Request, embeddings: tuple[Embedding, Embedding]) -> Request:
        """Return the request with the landmarks that guide the engine, where both images show some."""
        if self.anchors is None:
            self._find_anchors(embeddings, self.turn)
        if self.anchors is None:
            return request
        if self.anchor_atlas is not False and self.anchors.show_different_parts:
            raise ImagesAtFault(
                f"{request.moving.label} shows another part of the body than {request.fixed.label}: "
                f"{'; '.join(self.anchors.shown_by_one())}; give images that overlap, or set anchors=False (--anchors "
                "no) to register them all the same"
            )
        if not isinstance(self.anchor_atlas, bool) and self.anchors.guides is None:  # whoever gives one expects guides
            self.notes += (self.anchors.why_unguided(),)
        takes_them = self.is_guided and self.engine is not None and self.engine.uses_anchors
        return replace(request, anchors=self.anchors.guides) if takes_them else request

    def _find_anchors(
        self, embeddings: tuple[Embedding, Embedding], turn: FloatArray | None
    ) -> tuple[FloatArray, FloatArray] | None:
        """Find the landmarks of both images, where there is an atlas; return those that guide."""
        from samreg.landmarks.atlas import shipped_atlas
        from samreg.registration.anchors import find_anchors

        atlas = shipped_atlas(embeddings[0].model) if isinstance(self.anchor_atlas, bool) else self.anchor_atlas
        if atlas is None or atlas.positions.shape[2] != self.request.fixed.ndim:
            return None
        with self.clock("landmarks"):
            self.anchors = find_anchors(embeddings, atlas, turn=turn, device=self.request.device)
        return self.anchors.guides

    def _seeded(
        self,
        request: Request,
        fixed: Embedding,
        moving: Embedding,
        embed: Callable[[Image, Image | None], Embedding],
        embed_globally: Callable[[Image, Image | None], Embedding | None],
    ) -> Request:
        """Return the request with the start that the embeddings make, and the embeddings that fit it."""
        from samreg.landmarks.atlas import shipped_atlas
        from samreg.landmarks.laterality import laterality
        from samreg.seeding import seed_any_orientation

        kind = request.transform if self.engine is None else self.engine.seed_transform(request)
        with self.clock("seeding"):
            oriented = seed_any_orientation(
                request.fixed,
                request.moving,
                fixed,
                moving,
                embed=embed,
                embed_globally=embed_globally,
                fixed_mask=request.fixed_mask,
                moving_mask=request.moving_mask,
                laterality=None if shipped_atlas(fixed.model) is None else partial(laterality, device=request.device),
                guides=self._find_anchors if self.is_guided else None,
                transform=kind,
                device=request.device,
                seed=0 if request.seed is None else request.seed,
            )
        self.seed, self.whole, self.turn = oriented.seed, oriented.whole, oriented.turn
        self.notes += oriented.notes
        if oriented.seed.transform is None:
            raise ImagesAtFault(oriented.seed.reason)
        return replace(request, start=oriented.seed.transform, embeddings=(fixed, oriented.moving))

    def _engine_transform(self, engine: Engine, request: Request) -> Transform:
        with self.clock("registration"):
            outcome = engine.register(request.resampled())
        if not isinstance(outcome, EngineResult):
            raise EngineError(f"the engine {engine.name} returned {type(outcome).__name__}, not an EngineResult")
        self.log = outcome.log
        self.versions[engine.name] = outcome.version
        return outcome.transform


class _Clock:
    """Times the stages, one within another by itself, and tells the user which one runs."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        self.timings: dict[str, float] = {}
        self._report = progress or log.info
        self._within = 0.0  # seconds of the stages within the one that runs

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._report(stage)
        start, before, self._within = time.perf_counter(), self._within, 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.timings[stage] = self.timings.get(stage, 0.0) + spent - self._within
            self._within = before + spent


def chosen_engine(engine: str | Engine | None, method: str) -> Engine:
    """Return the engine of this name, one's own, or the one that suits the method best of those installed."""
    if engine is not None:
        return get_engine(engine) if isinstance(engine, str) else as_engine(engine)
    present = available_engines()
    if not present:
        raise InputError('no registration engine is installed; pip install antspyx, or use method="embedding"')
    # torch alone compares embeddings; without them the long-tried ones come first
    return get_engine("torch" if method == "hybrid" and "torch" in present else present[0])


def _notes_of_reading(request: Request, remarks: Iterable[str]) -> tuple[str, ...]:
    """Return, once each, what was decided in reading the images, and the remarks on masks and landmarks."""
    images = (request.fixed, request.moving, request.fixed_mask, request.moving_mask)
    return tuple(dict.fromkeys([*(text for image in images if image for text in image.remarks), *remarks]))


def _require_used(method: str, *, engine: object, engine_options: object, model: object) -> None:
    """Raise :class:`InputError` for an option that the method would ignore."""
    unused: dict[str, object] = {}
    if method == "embedding":
        unused = {"engine": engine, "engine_options": engine_options or None}
    elif method == "registration":
        unused = {"model": model}
    for name, value in unused.items():
        if value is not None:
            raise InputError(f'method "{method}" uses no {name}; leave {name} out, or set method="hybrid"')


def _check(request: Request, engine: Engine | None) -> None:
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
        _check_working_size(request)
        engine.check(request)


def _check_working_size(request: Request) -> None:
    for image in (request.fixed, request.moving):
        assert request.spacing is not None
        spacing = max(request.spacing, float(image.spacing.min()))
        if min(image.grid.with_spacing(spacing).shape) < 2:
            extent = " x ".join(f"{length:.3g}" for length in image.grid.extent)
            raise InputError(
                f"{image.label} is one voxel thick at {spacing:g} mm, as it measures {extent} mm; check that its "
                "header is in mm, or give a thicker volume or a smaller spacing"
            )


def _atlas_given(
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


def _as_transform(start: object, fixed: Image, moving: Image) -> Transform:
    """Return the transform to start from: one in memory, a file, or the folder of a saved result."""
    if isinstance(start, Transform):
        return start
    if isinstance(start, (str, os.PathLike)):
        if Path(start).is_dir():
            return store.load_transform(start, "transform")
        return read_transform(start, fixed_grid=fixed.grid, moving_grid=moving.grid)
    remedy = "; give result.transform" if isinstance(start, RegistrationResult) else ""
    raise InputError(
        f"start must be a transform, such as an earlier result's, or a file of one, got {type(start).__name__}{remedy}"
    )


def _guides(landmarks: object, fixed: Image, moving: Image) -> tuple[Points, Points]:
    """Return the landmarks that both images have, in one order; each must lie in its image."""
    if not isinstance(landmarks, (tuple, list)) or len(landmarks) != 2:
        raise InputError("landmarks must be two sets of points, those of the fixed and those of the moving image")
    return paired_points(
        points_in(landmarks[0], fixed.grid, f"the fixed image {fixed.name}".strip()),
        points_in(landmarks[1], moving.grid, f"the moving image {moving.name}".strip()),
    )


def _options(
    run: _Run,
    engine: str | Engine | None,
    anchors: object,
    start: Transform | str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """Return how register() was called, so that it can be called so again."""
    request = run.request
    return {
        "method": run.method,
        "engine": engine if isinstance(engine, str) and run.engine else getattr(run.engine, "name", None),
        "transform": request.transform,
        "model": _model_name(run.model, run.versions.get("model")),
        "fixed_mask": None if request.fixed_mask is None else request.fixed_mask.label,
        "moving_mask": None if request.moving_mask is None else request.moving_mask.label,
        "landmarks": None if request.landmarks is None else len(request.landmarks[0]),
        "anchors": _anchors_name(anchors, run.is_guided),
        # a transform in memory is saved beside the result
        "start": None if start is None else store.START if isinstance(start, Transform) else os.fspath(start),
        "device": request.device,
        "seed": request.seed,
        "threads": request.threads,
        "spacing": request.spacing,
        "engine_options": require_options("engine_options", request.options),
    }


def _anchors_name(given: object, is_guided: bool) -> bool | str | None:
    """Return what to give again as anchors; None where all was left to samreg and no landmark could guide anything."""
    if isinstance(given, (bool, np.bool_)):
        return bool(given) if is_guided or not given else None
    return os.fspath(given) if isinstance(given, (str, os.PathLike)) else _ATLAS_IN_MEMORY


def _model_name(given: Any, identity: str | None) -> str | None:
    """Return what finds the model again: the name or path that was given, or its own name; None where none was used."""
    if identity is None:
        return None
    return os.fspath(given) if isinstance(given, (str, os.PathLike)) else identity.split("@")[0]


def _fields_then_affine(transform: Transform, grid: Grid, spacing: float) -> Transform:
    """Return the transform as displacement fields, zero at their borders, followed by one affine.

    Fields stay on their own grids. Those that are finer than ``spacing``, mm, and other kinds of transforms are sampled
    as one field, on a grid that covers ``grid``, that of the fixed image, and a margin.
    """
    parts = components(transform)
    affine = parts[-1] if isinstance(parts[-1], AffineTransform) else AffineTransform.identity(transform.ndim)
    if not abs(np.linalg.det(affine.matrix)) > _MIN_DETERMINANT:
        raise ImagesAtFault("the affine part of the transform collapses the image; are these scans of the same region?")
    if len(parts) == 1 and isinstance(parts[0], AffineTransform):
        return transform
    fields = [part for part in parts if isinstance(part, DisplacementField)]
    others = [part for part in parts if not isinstance(part, DisplacementField) and part is not affine]
    if not others and all(_covers(field.grid, grid, spacing) for field in fields):
        reached = grid  # where points of the image can be when a field moves them on
        zeroed = []
        for field in fields:
            zeroed.append(_zero_at_border(field, reached))
            reached = reached.padded(float(np.linalg.norm(field.displacement, axis=-1).max()))
        return compose(*zeroed, affine)
    grid = grid.with_spacing(np.minimum(spacing, grid.extent)).padded(_FIELD_MARGIN_MM)
    residual = sample_displacement(compose(transform, affine.inverse()), grid)
    return compose(tapered(residual, _FIELD_MARGIN_MM), affine)


def _covers(field: Grid, image: Grid, spacing: float) -> bool:
    """Tell whether a field is no finer than ``spacing``, mm, and ends at most a voxel before the image does."""
    return bool(field.spacing.min() >= 0.99 * spacing and field.depth(image.corners()).min() >= -field.spacing.max())


def _faces(displacement: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the outermost layers of a field along each axis of its grid."""
    for axis in range(displacement.ndim - 1):
        yield np.moveaxis(displacement, axis, 0)[0]
        yield np.moveaxis(displacement, axis, 0)[-1]


def _zero_at_border(field: DisplacementField, image: Grid) -> DisplacementField:
    """Return the field as it is within the image, and falling to zero over a margin around it.

    One that ends at zero is returned as it is: a second fall could fold what the first does not.
    """
    if all(not face.any() for face in _faces(field.displacement)):
        return field
    voxel = float(field.grid.spacing.max())
    missing = max(_FIELD_MARGIN_MM, 3 * voxel) - float(field.grid.depth(image.corners()).min())
    if missing > 0:
        grid = field.grid.padded(missing)
        width = [((n - m) // 2,) * 2 for n, m in zip(grid.shape, field.grid.shape, strict=True)]
        field = DisplacementField(np.pad(field.displacement, [*width, (0, 0)], mode="edge"), grid)
    return tapered(field, float(field.grid.depth(image.corners()).min()) - 1.5 * voxel)

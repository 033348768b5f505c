"""One registration, stage by stage: embeddings, landmarks, seed, engine, composition, expected error."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.engines.request import Engine, EngineResult, Request
from samreg.errors import EngineError, ImagesAtFault, require_options
from samreg.registration import result_folder
from samreg.registration.composition import fields_then_affine
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.transforms import Transform

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.landmarks.atlas import LandmarkAtlas
    from samreg.matching import Correspondences
    from samreg.registration.anchors import Anchors
    from samreg.registration.misses import LandmarkMisses
    from samreg.seeding import Seed

_ATLAS_IN_MEMORY = "a landmark atlas"  # in the options of a result

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """A registration under way: what it was asked, and what it has gathered, whether or not it fails in the end."""

    request: Request
    method: str
    engine: Engine | None
    model: Any
    anchor_atlas: bool | LandmarkAtlas  # whether to use the one that samreg ships, or another
    clock: Clock
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
            transform = fields_then_affine(transform, request.fixed.grid, spacing)
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
        return takes_them and is_deformable and self.anchor_atlas is not False and not self._matches_are_nearer

    @property
    def _matches_are_nearer(self) -> bool:
        """Whether the matches bring the images nearer to each other than the landmarks that samreg ships."""
        from samreg.landmarks.guided import show_one_person

        return isinstance(self.anchor_atlas, bool) and self.whole is not None and show_one_person(self.whole)

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

    def _guides(
        self, embeddings: tuple[Embedding, Embedding], turn: FloatArray, matches: Correspondences
    ) -> tuple[FloatArray, FloatArray] | None:
        """Find the landmarks of both images; return those that guide the seed."""
        self.whole = matches
        guides = self._find_anchors(embeddings, turn)
        return guides if self.is_guided else None

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
        from samreg.landmarks.guided import show_one_person
        from samreg.landmarks.laterality import laterality
        from samreg.seeding import seed_any_orientation

        has_atlas = shipped_atlas(fixed.model) is not None
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
                laterality=partial(laterality, device=request.device) if has_atlas else None,
                guides=self._guides if self.is_guided else None,
                transform=kind,
                device=request.device,
                seed=0 if request.seed is None else request.seed,
            )
        self.seed, self.whole, self.turn = oriented.seed, oriented.whole, oriented.turn
        self.notes += oriented.notes
        if oriented.seed.transform is None:
            raise ImagesAtFault(oriented.seed.reason)
        return replace(
            request,
            start=oriented.seed.transform,
            embeddings=(fixed, oriented.moving),
            # what similarity tells one person from two is known of the models that have an atlas
            one_person=has_atlas and self.whole is not None and show_one_person(self.whole),
        )

    def _engine_transform(self, engine: Engine, request: Request) -> Transform:
        with self.clock("registration"):
            outcome = engine.register(request.resampled())
        if not isinstance(outcome, EngineResult):
            raise EngineError(f"the engine {engine.name} returned {type(outcome).__name__}, not an EngineResult")
        self.log = outcome.log
        self.versions[engine.name] = outcome.version
        return outcome.transform


class Clock:
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


def options(
    run: Run,
    engine: str | Engine | None,
    anchors: object,
    start: object,
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
        "start": _start_name(start),
        "device": request.device,
        "seed": request.seed,
        "threads": request.threads,
        "spacing": request.spacing,
        "engine_options": require_options("engine_options", request.options),
    }


def _start_name(start: Any) -> str | None:
    """Return the file of a start; a transform in memory is saved beside the result."""
    if start is None:
        return None
    return os.fspath(start) if isinstance(start, (str, os.PathLike)) else result_folder.START


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

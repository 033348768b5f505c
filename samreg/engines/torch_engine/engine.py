"""The torch engine: affine, then a velocity field on image and embedding similarity."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from samreg.device import cpu_threads, resolve_device, torch_defaults
from samreg.engines.base import clipping, length_scale, make_options, prepare
from samreg.engines.registry import engine_version
from samreg.engines.request import Engine, EngineResult, Request, TransformKind, at_spacing
from samreg.engines.torch_engine.affine import register_affine
from samreg.engines.torch_engine.deformable import register_velocity
from samreg.engines.torch_engine.options import TorchOptions
from samreg.errors import InputError
from samreg.spatial import AffineTransform, Transform, compose
from samreg.spatial.standard import has_hounsfield_units

logger = logging.getLogger(__name__)

_EMBEDDING_SPACING_MM = 8.0  # in 3D, voxels of the embeddings compared
_WINDOW_HU = (-1000.0, 600.0)


class TorchEngine(Engine):
    """Deformable registration in torch, on image and, where given, embedding similarity.

    A discrete search (SAMConvex, Li et al., MICCAI 2023; Heinrich et al., MICCAI 2014) starts a stationary velocity
    field (Arsigny et al., MICCAI 2006), which Adam optimises on local correlation or MIND-SSC and the embeddings.
    Landmarks and anchors guide a deformable registration, as strongly as ``landmark_weight`` and ``anchor_weight`` say.

    Notes
    -----
    No randomness: the same inputs on the same machine with the same number of threads give the same result.
    """

    name = "torch"
    uses_embeddings = True
    uses_anchors = True

    def check(self, request: Request) -> None:
        """Refuse what cannot be registered so; see :meth:`samreg.engines.Engine.check`."""
        settings = make_options(TorchOptions, request.options)
        clipping(settings.window, request.fixed, _WINDOW_HU)
        if settings.similarity == "mind" and request.fixed.ndim != 3:
            raise InputError('similarity "mind" is for volumes; use "lncc" for 2D images')
        if request.landmarks is not None and request.transform != "deformable":
            raise InputError(
                f"landmarks guide the torch engine's deformable registration alone; {request.transform} transforms can "
                'be guided with engine="elastix"'
            )

    def seed_transform(self, request: Request) -> TransformKind:
        """An affine for the "fast" preset, whose search is wide; see :meth:`samreg.engines.Engine.seed_transform`."""
        fast = make_options(TorchOptions, request.options).preset == "fast"
        return "affine" if fast and request.transform == "deformable" else request.transform

    @torch_defaults()
    def register(self, request: Request) -> EngineResult:
        """Register the moving image to the fixed one; see :meth:`samreg.engines.Engine.register`."""
        self.check(request)
        report = _Log(logging.INFO if request.verbose else logging.DEBUG, request.progress)
        with cpu_threads(request.threads):
            transform = request.start
            if transform is None or request.transform != "deformable":
                transform = self._affine(request, report)
            if request.transform == "deformable":
                transform = self._deformable(replace(request, start=transform), report)
        return EngineResult(transform, report.text, engine_version(TorchEngine.name))

    def _affine(self, request: Request, report: _Log) -> Transform:
        """Return the rigid or affine transform, the start included."""
        settings, device = self._settings(request)
        start = request.start
        affine = register_affine(
            prepare(request, settings.window, default=_WINDOW_HU),
            kind="rigid" if request.transform == "rigid" else "affine",
            start=None if start is None else AffineTransform.identity(request.fixed.ndim),
            options=settings,
            device=device,
        )
        report(f"affine: {np.round(affine.matrix, 4).tolist()}, {np.round(affine.translation, 2).tolist()} mm")
        return affine if start is None else compose(affine, start)

    def _deformable(self, request: Request, report: _Log) -> Transform:
        """Return the velocity's flow after the start."""
        settings, device = self._settings(request)
        assert request.start is not None
        assert settings.levels is not None
        fixed, moving = (at_spacing(image, settings.levels[-1]) for image in (request.fixed, request.moving))
        field = register_velocity(
            prepare(replace(request, fixed=fixed, moving=moving), settings.window, default=_WINDOW_HU),
            embeddings=request.embeddings,
            landmarks=[
                (weight, points)
                for weight, points in (
                    (settings.landmark_weight, request.landmarks),
                    (settings.anchor_weight, request.anchors),
                )
                if points is not None and weight > 0
            ],
            start=request.start,
            embedding_spacing=_EMBEDDING_SPACING_MM * length_scale(fixed),
            options=settings,
            device=device,
            report=report,
        )
        return compose(field, request.start)

    @staticmethod
    def _settings(request: Request) -> tuple[TorchOptions, torch.device]:
        settings = make_options(TorchOptions, request.options).resolved(
            length_scale(request.fixed), one_person=request.one_person
        )
        if settings.similarity == "auto":  # "mind" compares no intensities, which a Jacobian could multiply
            settings = replace(settings, similarity="lncc" if settings.mass_preserving else _suited(request))
        return settings, resolve_device(request.device)


def _suited(request: Request) -> Literal["lncc", "mind"]:
    """Return what compares the images best: "mind" for volumes of which one is no CT, so that contrasts may differ."""
    images = (request.fixed, request.moving)
    return "lncc" if request.fixed.ndim == 2 or all(map(has_hounsfield_units, images)) else "mind"


class _Log:
    """What the engine has to say, passed on and kept."""

    def __init__(self, level: int, progress: Callable[[str], None] | None) -> None:
        self.level = level
        self.progress = progress
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        logger.log(self.level, line)
        if self.progress is not None:
            self.progress(line)
        self.lines.append(line)

    @property
    def text(self) -> str:
        """All that was said, one line each."""
        return "\n".join(self.lines)

"""The torch engine: affine, then a velocity field on image and embedding similarity."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from samreg.engines.base import (
    EngineResult,
    TransformKind,
    check_kind,
    clipping,
    engine_version,
    length_scale,
    make_options,
    prepare,
)
from samreg.engines.torch_engine.affine import register_affine
from samreg.engines.torch_engine.deformable import Landmarks, register_velocity
from samreg.engines.torch_engine.options import TorchOptions
from samreg.errors import InputError
from samreg.spatial import AffineTransform, Image, Transform, compose, resample_spacing
from samreg.spatial.grid import as_points_array

if TYPE_CHECKING:
    from samreg.embedding import Embedding

logger = logging.getLogger(__name__)

_COARSE = 8.0  # mm in 3D, voxels of the embeddings compared


class TorchEngine:
    """Deformable registration in torch, on image and, where given, embedding similarity.

    A discrete search (SAMConvex, Li et al., MICCAI 2023; Heinrich et al., MICCAI 2014) starts a stationary velocity
    field (Arsigny et al., MICCAI 2006), which Adam optimises on local correlation or MIND-SSC and the embeddings.

    Notes
    -----
    No randomness: the same inputs on the same machine with the same number of threads give the same result.
    """

    name = "torch"
    native = True

    def seed_transform(
        self, transform: TransformKind, options: Mapping[str, Any] | TorchOptions | None = None
    ) -> TransformKind:
        """An affine for the "fast" preset, whose search is wide; see :meth:`samreg.engines.base.Engine`."""
        fast = make_options(TorchOptions, options).preset == "fast"
        return "affine" if fast and transform == "deformable" else transform

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
        options: Mapping[str, Any] | TorchOptions | None = None,
        embeddings: tuple[Embedding, Embedding] | None = None,
        landmarks: tuple[ArrayLike, ArrayLike] | None = None,
        device: str = "auto",
        progress: Callable[[str], None] | None = None,
    ) -> EngineResult:
        """Register ``moving`` to ``fixed``; see :meth:`samreg.engines.base.Engine.register`.

        Parameters
        ----------
        embeddings
            Of the fixed and the moving image, by one model: compared beside the intensities.
        landmarks
            Points (N, d) of the fixed and of the moving image that correspond, LPS mm: a deformable registration
            draws them together, as strongly as ``landmark_weight`` says.
        device
            "auto", "cpu", "cuda" or "mps".
        progress
            Called with what runs.
        """
        from samreg.device import resolve_device

        version = engine_version(self.name)
        scale = length_scale(fixed)
        settings = make_options(TorchOptions, options).resolved(scale)
        check_kind(transform)
        points = None if landmarks is None else _checked(landmarks, fixed.ndim)
        report = _Log(logging.INFO if verbose else logging.DEBUG, progress)
        where = resolve_device(device)
        shared: dict[str, Any] = {
            "fixed_mask": fixed_mask,
            "moving_mask": moving_mask,
            "window": clipping(settings.window, fixed, (-1000.0, 600.0)),
        }
        with _threads(threads):
            if start is None or transform != "deformable":
                pair = prepare(fixed, moving, start=start, **shared)
                affine = register_affine(
                    pair.fixed, pair.moving, fixed_mask=pair.fixed_mask, moving_mask=pair.moving_mask,
                    kind="rigid" if transform == "rigid" else "affine",
                    start=None if start is None else AffineTransform.identity(fixed.ndim),
                    iterations=settings.affine_iterations, tolerance=settings.tolerance,
                    window=settings.window_voxels, device=where,
                )  # fmt: skip
                report(f"affine: {np.round(affine.matrix, 4).tolist()}, {np.round(affine.translation, 2).tolist()} mm")
                start = affine if start is None else compose(affine, start)
            if transform != "deformable":
                return EngineResult(start, report.text, version)
            assert settings.levels is not None
            fixed, moving = (_no_finer(image, settings.levels[-1]) for image in (fixed, moving))
            field = register_velocity(
                prepare(fixed, moving, start=start, **shared), embeddings=embeddings, landmarks=points, start=start,
                coarse=_COARSE * scale, options=settings, device=where, report=report,
            )  # fmt: skip
        return EngineResult(compose(field, start), report.text, version)


def _no_finer(image: Image, size: float) -> Image:
    """The image at voxels of `size` mm, or at its own where they are larger."""
    return resample_spacing(image, max(size, float(image.spacing.min())))


def _checked(landmarks: tuple[ArrayLike, ArrayLike], ndim: int) -> Landmarks:
    fixed, moving = (as_points_array(points, ndim) for points in landmarks)
    if len(fixed) != len(moving) or len(fixed) == 0:
        raise InputError(f"landmarks must come in pairs, got {len(fixed)} fixed and {len(moving)} moving points")
    return fixed, moving


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        return "\n".join(self.lines)

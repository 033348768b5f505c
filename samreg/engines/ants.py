"""ANTs, through antspyx: rigid, affine and SyN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from samreg.engines.base import (
    EngineResult,
    TransformKind,
    check_kind,
    clipping,
    engine_version,
    make_options,
    prepare,
)
from samreg.engines.child import run_worker
from samreg.errors import InputError
from samreg.spatial import Image, Transform, compose

_VARIANTS = ("auto", "SyN", "SyNOnly", "quick")
_METRICS = ("mattes", "cc", "meansquares", "demons")
# These stages compare every voxel; the affine ones draw random samples.
_WITHOUT_SAMPLING = ("SyNOnly", "antsRegistrationSyNQuick[so]")


@dataclass(frozen=True, kw_only=True)
class AntsOptions:
    """Options of the ANTs engine; the defaults are those of ``ants.registration``.

    Parameters
    ----------
    variant
        Of the deformable transform: "SyN" (affine, then SyN), "SyNOnly" (no affine), "quick"
        (antsRegistrationSyNQuick, with its own schedule: of the options below only ``window`` counts), or
        "auto": "SyNOnly" from a start, "SyN" without. From a start, "SyN" optimises an affine again on top of
        it, and may lose a good start.
    iterations
        Of SyN, one number a level, coarsest first; the voxel size doubles from level to level.
    affine_iterations
        Of "rigid" and "affine", for shrink factors 6, 4, 2, 1.
    metric
        Of SyN: "mattes" (mutual information), "cc" (local cross-correlation), "meansquares" or "demons".
    sampling
        Histogram bins for "mattes" (32 unless given), else the window radius in voxels (4 unless given).
    gradient_step
        Of SyN, in voxels.
    flow_sigma, total_sigma
        Smoothing of SyN's update and total field, variance in voxels squared.
    window
        Intensities are clipped to this range; None keeps them (MR). "auto" is -1000 to 1000 HU for volumes, and
        keeps 2D images, whose intensities have no unit.
    """

    variant: Literal["auto", "SyN", "SyNOnly", "quick"] = "auto"
    iterations: tuple[int, ...] = (40, 20, 0)
    affine_iterations: tuple[int, int, int, int] = (2100, 1200, 1200, 10)
    metric: Literal["mattes", "cc", "meansquares", "demons"] = "mattes"
    sampling: int | None = None
    gradient_step: float = 0.2
    flow_sigma: float = 3.0
    total_sigma: float = 0.0
    window: tuple[float, float] | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        if self.variant not in _VARIANTS:
            raise InputError(f"unknown variant {self.variant!r}; choose one of {', '.join(_VARIANTS)}")
        if self.metric not in _METRICS:
            raise InputError(f"unknown metric {self.metric!r}; choose one of {', '.join(_METRICS)}")
        if not self.iterations or min(self.iterations) < 0:
            raise InputError(f"iterations must be one number of at least 0 a level, got {self.iterations}")
        if len(self.affine_iterations) != 4 or min(self.affine_iterations) < 0:
            raise InputError(f"affine_iterations must be 4 numbers of at least 0, got {self.affine_iterations}")


class AntsEngine:
    """ANTs (Avants et al., Symmetric diffeomorphic image registration, Med. Image Anal. 2008).

    Notes
    -----
    ANTs' affine stages draw random samples and repeat bit for bit only on one thread, so ``seed`` without
    ``threads`` runs them on one. SyN from a start ("SyNOnly") draws none: it repeats on any thread count, and
    ``seed`` leaves its threads alone.
    """

    name = "ants"
    native = False

    def seed_transform(
        self, transform: TransformKind, options: Mapping[str, Any] | object | None = None
    ) -> TransformKind:
        """The transform itself; see :meth:`samreg.engines.base.Engine`."""
        return transform

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
        options: Mapping[str, Any] | AntsOptions | None = None,
    ) -> EngineResult:
        """Register ``moving`` to ``fixed``; see :meth:`samreg.engines.base.Engine.register`."""
        version = engine_version(self.name)
        settings = make_options(AntsOptions, options)
        check_kind(transform)
        pair = prepare(
            fixed,
            moving,
            start=start,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            window=clipping(settings.window, fixed, (-1000.0, 1000.0)),
        )
        kind = _type_of_transform(transform, settings.variant, start is not None)
        job: dict[str, Any] = {
            "type_of_transform": kind,
            "initial_transform": None if start is None else "Identity",
            "mask_all_stages": True,
            "aff_iterations": settings.affine_iterations,
            "reg_iterations": settings.iterations,
            "syn_metric": settings.metric,
            "syn_sampling": settings.sampling or (32 if settings.metric == "mattes" else 4),
            "grad_step": settings.gradient_step,
            "flow_sigma": settings.flow_sigma,
            "total_sigma": settings.total_sigma,
        }
        if seed is not None and threads is None and kind not in _WITHOUT_SAMPLING:
            threads = 1
        result = run_worker(
            "samreg.engines._ants_worker",
            pair,
            job,
            threads=threads,
            # ANTs takes 0 for "seed from the clock"
            environment={} if seed is None else {"ANTS_RANDOM_SEED": str(seed + 1)},
            verbose=verbose,
        )
        found = result.transform if start is None else compose(result.transform, start)
        return EngineResult(found, result.log, version)


def _type_of_transform(transform: str, variant: str, seeded: bool) -> str:
    """Return the name ``ants.registration`` has for it."""
    if transform != "deformable":
        return transform.capitalize()
    if variant == "quick":
        return "antsRegistrationSyNQuick[so]" if seeded else "antsRegistrationSyNQuick[s]"
    if variant == "auto":
        return "SyNOnly" if seeded else "SyN"
    return variant

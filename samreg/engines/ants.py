"""ANTs, through antspyx: rigid, affine and SyN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from samreg.engines.base import (
    MIN_VOXELS,
    check_types,
    clipping,
    make_options,
    prepare,
    require_contrast_in_masks,
    require_masks_meet,
)
from samreg.engines.child import run_worker
from samreg.engines.registry import engine_version
from samreg.engines.request import Engine, EngineResult, Request
from samreg.errors import InputError, require_number
from samreg.spatial import compose

_MAX_SEED = 2**31 - 2  # of ANTs, which takes 0 for "seed from the clock"
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
        Intensities are clipped to this range; None keeps them. "auto" is -1000 to 1000 HU for CT, cuts the
        brightest thousandth off other volumes, and keeps 2D images.
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
        check_types(self)
        if not self.iterations:
            raise InputError("iterations must be one number a level, got none")
        for number in (*self.iterations, *self.affine_iterations):
            require_number("iterations", number, minimum=0)
        if self.sampling is not None:
            require_number("sampling", self.sampling, minimum=1)
        for name in ("gradient_step", "flow_sigma", "total_sigma"):
            require_number(name, getattr(self, name), minimum=0)


class AntsEngine(Engine):
    """ANTs (Avants et al., Symmetric diffeomorphic image registration, Med. Image Anal. 2008).

    Notes
    -----
    ANTs' affine stages draw random samples and repeat bit for bit only on one thread, so ``seed`` without
    ``threads`` runs them on one. SyN from a start ("SyNOnly") draws none: it repeats on any thread count, and
    ``seed`` leaves its threads alone.
    """

    name = "ants"
    min_voxels = MIN_VOXELS

    def check(self, request: Request) -> None:
        """Refuse landmarks and unknown options; see :meth:`samreg.engines.Engine.check`."""
        super().check(request)
        settings = make_options(AntsOptions, request.options)
        clipping(settings.window, request.fixed)

    def register(self, request: Request) -> EngineResult:
        """Register the moving image to the fixed one; see :meth:`samreg.engines.Engine.register`."""
        version = engine_version(AntsEngine.name)
        self.check(request)
        settings = make_options(AntsOptions, request.options)
        pair = prepare(request, settings.window)
        require_contrast_in_masks(pair)
        if request.start is None:
            require_masks_meet(pair)
        kind = _type_of_transform(request.transform, settings.variant, request.start is not None)
        job: dict[str, Any] = {
            "type_of_transform": kind,
            "initial_transform": None if request.start is None else "Identity",
            "mask_all_stages": True,
            "aff_iterations": settings.affine_iterations,
            "reg_iterations": settings.iterations,
            "syn_metric": settings.metric,
            "syn_sampling": settings.sampling or (32 if settings.metric == "mattes" else 4),
            "grad_step": settings.gradient_step,
            "flow_sigma": settings.flow_sigma,
            "total_sigma": settings.total_sigma,
        }
        draws_samples = kind not in _WITHOUT_SAMPLING
        result = run_worker(
            "samreg.engines._ants_worker",
            pair,
            job,
            threads=1 if draws_samples and request.seed is not None and request.threads is None else request.threads,
            environment={} if request.seed is None else {"ANTS_RANDOM_SEED": str(request.seed % _MAX_SEED + 1)},
            verbose=request.verbose,
        )
        transform = result.transform if request.start is None else compose(result.transform, request.start)
        return EngineResult(transform, result.log, version)


def _type_of_transform(transform: str, variant: str, seeded: bool) -> str:
    """Return the name ``ants.registration`` has for it."""
    if transform != "deformable":
        return transform.capitalize()
    if variant == "quick":
        return "antsRegistrationSyNQuick[so]" if seeded else "antsRegistrationSyNQuick[s]"
    if variant == "auto":
        return "SyNOnly" if seeded else "SyN"
    return variant

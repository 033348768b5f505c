"""elastix, through itk-elastix: rigid, affine and B-spline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

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
from samreg.spatial.grid import FloatArray, as_points_array

_METRICS = {
    "mattes": "AdvancedMattesMutualInformation",
    "correlation": "AdvancedNormalizedCorrelation",
    "meansquares": "AdvancedMeanSquares",
}
_TRANSFORMS = {"rigid": "EulerTransform", "affine": "AffineTransform", "deformable": "BSplineTransform"}
_RESOLUTIONS_UNSEEDED = {"rigid": 4, "affine": 4, "deformable": 3}
_RESOLUTIONS_SEEDED = 2
_NEWTON_STEPS = 15


@dataclass(frozen=True, kw_only=True)
class ElastixOptions:
    """Options of the elastix engine.

    Parameters
    ----------
    resolutions
        Levels of the image pyramid, the smoothing doubling from level to level. Unless given, 2 from a start,
        as coarse levels drag a good one away; without one 4, and 3 for the B-spline.
    iterations
        Of stochastic gradient descent, at each level.
    samples
        Random voxels compared in each iteration.
    metric
        "mattes" (mutual information), "correlation" (normalised) or "meansquares".
    grid_spacing
        Distance of the B-spline's control points at the finest level, mm.
    bending_weight
        Weight of the B-spline's bending energy against the metric's 1.
    corresponding_points
        Fixed and moving points, both (N, d), LPS mm, that should come to lie on each other: a second metric,
        their mean distance in mm.
    points_weight
        Its weight against the metric's 1.
    window
        Intensities are clipped to this range; None keeps them (MR). "auto" is -1000 to 1000 HU for volumes, and
        keeps 2D images, whose intensities have no unit.
    """

    resolutions: int | None = None
    iterations: int = 256
    samples: int = 4096
    metric: Literal["mattes", "correlation", "meansquares"] = "mattes"
    grid_spacing: float = 16.0
    bending_weight: float = 1.0
    corresponding_points: tuple[ArrayLike, ArrayLike] | None = None
    points_weight: float = 0.1
    window: tuple[float, float] | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        if self.metric not in _METRICS:
            raise InputError(f"unknown metric {self.metric!r}; choose one of {', '.join(_METRICS)}")
        if self.resolutions is not None and self.resolutions < 1:
            raise InputError(f"resolutions must be at least 1, got {self.resolutions}")
        if self.iterations < 0 or self.samples < 1:
            raise InputError(
                f"iterations must be at least 0 and samples at least 1, got {self.iterations} and {self.samples}"
            )
        if self.grid_spacing <= 0:
            raise InputError(f"grid_spacing must be positive mm, got {self.grid_spacing}")


class ElastixEngine:
    """elastix (Klein et al., elastix: a toolbox for intensity-based medical image registration, TMI 2010).

    Notes
    -----
    With ``seed``, runs with the same number of threads repeat bit for bit. A B-spline is returned as a
    displacement field sampled at the voxels of the fixed image.
    """

    name = "elastix"
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
        options: Mapping[str, Any] | ElastixOptions | None = None,
    ) -> EngineResult:
        """Register ``moving`` to ``fixed``; see :meth:`samreg.engines.base.Engine.register`."""
        version = engine_version(self.name)
        settings = make_options(ElastixOptions, options)
        check_kind(transform)
        resolutions = settings.resolutions or (
            _RESOLUTIONS_UNSEEDED[transform] if start is None else _RESOLUTIONS_SEEDED
        )
        masks: dict[str, Any] = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
        run: dict[str, Any] = {"threads": threads, "verbose": verbose}
        log = ""
        if start is None and transform == "deformable":
            affine = self.register(fixed, moving, transform="affine", **masks, seed=seed, **run, options=settings)
            start, log = affine.transform, affine.log
        pair = prepare(fixed, moving, start=start, **masks, window=clipping(settings.window, fixed, (-1000.0, 1000.0)))
        points = settings.corresponding_points
        if points is not None:
            points = _remaining_points(*points, start, fixed.ndim)
        job = {
            "parameters": _parameters(
                transform, settings, resolutions, initialise=start is None, points=points is not None, seed=seed
            ),
            "linear": transform != "deformable",
            "points": None if points is None else [part.tolist() for part in points],
        }
        result = run_worker("samreg.engines._elastix_worker", pair, job, **run)
        found = result.transform if start is None else compose(result.transform, start)
        return EngineResult(found, log + result.log, version)


def _parameters(
    transform: str, settings: ElastixOptions, resolutions: int, *, initialise: bool, points: bool, seed: int | None
) -> dict[str, tuple[str, ...]]:
    """Return an elastix parameter map; the names are explained in the elastix manual."""
    metrics = [(_METRICS[settings.metric], 1.0)]
    if points:  # elastix wants it after the image metric
        metrics.append(("CorrespondingPointsEuclideanDistanceMetric", settings.points_weight))
    if transform == "deformable" and settings.bending_weight > 0:
        metrics.append(("TransformBendingEnergyPenalty", settings.bending_weight))
    registration = "MultiMetricMultiResolutionRegistration" if len(metrics) > 1 else "MultiResolutionRegistration"
    values: dict[str, object] = {
        "Registration": registration,
        "FixedImagePyramid": "FixedSmoothingImagePyramid",
        "MovingImagePyramid": "MovingSmoothingImagePyramid",
        "NumberOfResolutions": resolutions,
        "Interpolator": "LinearInterpolator",
        "ResampleInterpolator": "FinalBSplineInterpolator",
        "Resampler": "DefaultResampler",
        "WriteResultImage": "false",
        "UseDirectionCosines": "true",
        "ImageSampler": "RandomCoordinate",
        "NumberOfSpatialSamples": settings.samples,
        "NewSamplesEveryIteration": "true",
        "RequiredRatioOfValidSamples": 0.05,  # partly overlapping views
        "Optimizer": "AdaptiveStochasticGradientDescent",
        "MaximumNumberOfIterations": settings.iterations,
        "AutomaticParameterEstimation": "true" if settings.iterations else "false",
        "AutomaticScalesEstimation": "true",
        "Transform": _TRANSFORMS[transform],
        "AutomaticTransformInitialization": "true" if initialise else "false",
        "AutomaticTransformInitializationMethod": "CenterOfGravity",
        "FinalGridSpacingInPhysicalUnits": settings.grid_spacing,
    }
    parameters: dict[str, tuple[str, ...]] = {key: (str(value),) for key, value in values.items()}
    parameters["Metric"] = tuple(name for name, _ in metrics)
    for i, (_, weight) in enumerate(metrics):
        parameters[f"Metric{i}Weight"] = (str(weight),)
    if seed is not None:
        parameters["RandomSeed"] = (str(seed),)
    return parameters


def _remaining_points(
    fixed: ArrayLike, moving: ArrayLike, start: Transform | None, ndim: int
) -> tuple[FloatArray, FloatArray]:
    """Return corresponding points of the fixed and the pre-warped moving image, LPS mm.

    The moving points m go to the points y with start(y) = m, found by Newton's method from the fixed points;
    pairs for which there is none within 1 mm are left out.
    """
    fixed, moving = as_points_array(fixed, ndim), as_points_array(moving, ndim)
    if len(fixed) != len(moving) or len(fixed) == 0:
        raise InputError(f"corresponding_points must be as many of both, got {len(fixed)} fixed, {len(moving)} moving")
    if start is None:
        return fixed, moving
    found = fixed
    for _ in range(_NEWTON_STEPS):
        miss = start.transform_points(found) - moving
        found = found - (np.linalg.pinv(start.jacobian(found, step=1.0)) @ miss[..., None])[..., 0]
    near = np.linalg.norm(start.transform_points(found) - moving, axis=1) < 1.0
    if not near.any():
        raise InputError("the start reaches none of the corresponding moving points; are they in LPS mm?")
    return fixed[near], found[near]

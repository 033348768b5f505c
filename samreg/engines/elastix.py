"""elastix, through itk-elastix: rigid, affine and B-spline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

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
from samreg.errors import ImagesAtFault, InputError, require_number
from samreg.spatial import Transform, compose
from samreg.spatial.grid import FloatArray

_METRICS = {
    "mattes": "AdvancedMattesMutualInformation",
    "correlation": "AdvancedNormalizedCorrelation",
    "meansquares": "AdvancedMeanSquares",
}
_TRANSFORMS = {"rigid": "EulerTransform", "affine": "AffineTransform", "deformable": "BSplineTransform"}
_RESOLUTIONS = {"rigid": 4, "affine": 4, "deformable": 3}  # without a start
_RESOLUTIONS_STARTED = 2
_NEWTON_STEPS = 15
_MAX_MISS_MM = 1.0  # of a landmark that is carried back through the start


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
    landmark_weight
        Of the mean distance of the landmarks given, 1/mm, against the metric's 1.
    window
        Intensities are clipped to this range; None keeps them. "auto" is -1000 to 1000 HU for CT, cuts the
        brightest thousandth off other volumes, and keeps 2D images.
    """

    resolutions: int | None = None
    iterations: int = 256
    samples: int = 4096
    metric: Literal["mattes", "correlation", "meansquares"] = "mattes"
    grid_spacing: float = 16.0
    bending_weight: float = 1.0
    landmark_weight: float = 0.1
    window: tuple[float, float] | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        if self.resolutions is not None:
            require_number("resolutions", self.resolutions, minimum=1)
        for name, minimum in (("iterations", 0), ("samples", 1), ("bending_weight", 0), ("landmark_weight", 0)):
            require_number(name, getattr(self, name), minimum=minimum)
        if self.grid_spacing <= 0:
            raise InputError(f"grid_spacing must be positive mm, got {self.grid_spacing}")


class ElastixEngine(Engine):
    """elastix (Klein et al., elastix: a toolbox for intensity-based medical image registration, TMI 2010).

    Notes
    -----
    With ``seed``, runs with the same number of threads repeat bit for bit. A B-spline is returned as a
    displacement field sampled at the voxels of the fixed image.
    """

    name = "elastix"
    min_voxels = MIN_VOXELS

    def check(self, request: Request) -> None:
        """Refuse unknown options; see :meth:`samreg.engines.Engine.check`."""
        if isinstance(request.options, Mapping) and {"corresponding_points", "points_weight"} & request.options.keys():
            raise InputError(
                "the options corresponding_points and points_weight are gone: give register(landmarks=(fixed, moving)) "
                "and their weight as landmark_weight"
            )
        settings = make_options(ElastixOptions, request.options)
        clipping(settings.window, request.fixed)

    def register(self, request: Request) -> EngineResult:
        """Register the moving image to the fixed one; see :meth:`samreg.engines.Engine.register`."""
        version = engine_version(ElastixEngine.name)
        self.check(request)
        log = ""
        if request.start is None and request.transform == "deformable":
            affine = self.register(replace(request, transform="affine"))
            request, log = replace(request, start=affine.transform), affine.log
        settings, start = make_options(ElastixOptions, request.options), request.start
        pair = prepare(request, settings.window)
        require_contrast_in_masks(pair)
        if start is None:
            require_masks_meet(pair)
        points = None if request.landmarks is None else _remaining_points(*request.landmarks, start)
        job = {
            "parameters": _parameters(request, settings),
            "linear": request.transform != "deformable",
            "points": None if points is None else [part.tolist() for part in points],
        }
        result = run_worker(
            "samreg.engines._elastix_worker", pair, job, threads=request.threads, verbose=request.verbose
        )
        transform = result.transform if start is None else compose(result.transform, start)
        return EngineResult(transform, log + result.log, version)


def _parameters(request: Request, settings: ElastixOptions) -> dict[str, tuple[str, ...]]:
    """Return an elastix parameter map; the names are explained in the elastix manual."""
    transform, started = request.transform, request.start is not None
    resolutions = settings.resolutions or (_RESOLUTIONS_STARTED if started else _RESOLUTIONS[transform])
    metrics = [(_METRICS[settings.metric], 1.0)]
    if request.landmarks is not None:  # elastix wants it after the image metric
        metrics.append(("CorrespondingPointsEuclideanDistanceMetric", settings.landmark_weight))
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
        "AutomaticTransformInitialization": "false" if started else "true",
        "AutomaticTransformInitializationMethod": "CenterOfGravity",
        "FinalGridSpacingInPhysicalUnits": settings.grid_spacing,
    }
    parameters: dict[str, tuple[str, ...]] = {key: (str(value),) for key, value in values.items()}
    parameters["Metric"] = tuple(name for name, _ in metrics)
    for i, (_, weight) in enumerate(metrics):
        parameters[f"Metric{i}Weight"] = (str(weight),)
    if request.seed is not None:
        parameters["RandomSeed"] = (str(request.seed),)
    return parameters


def _remaining_points(fixed: FloatArray, moving: FloatArray, start: Transform | None) -> tuple[FloatArray, FloatArray]:
    """Return corresponding points (N, d) of the fixed and the pre-warped moving image, LPS mm.

    The moving points m go to the points y with start(y) = m, found by Newton's method from the fixed points;
    pairs for which there is none within 1 mm are left out.
    """
    if start is None:
        return fixed, moving
    prewarped = fixed
    for _ in range(_NEWTON_STEPS):
        miss = start.transform_points(prewarped) - moving
        prewarped = prewarped - (np.linalg.pinv(start.jacobian(prewarped, step=1.0)) @ miss[..., None])[..., 0]
    reached = np.linalg.norm(start.transform_points(prewarped) - moving, axis=1) < _MAX_MISS_MM
    if not reached.any():
        raise ImagesAtFault("the start reaches none of the moving landmarks; check the landmarks and the start")
    return fixed[reached], prewarped[reached]

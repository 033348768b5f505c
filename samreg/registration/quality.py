"""Quality of a registration without ground truth, and what a careful reader should look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samreg.errors import SamregError
from samreg.quality.deformation import jacobian_statistics
from samreg.quality.landmarks import LandmarkErrors, target_registration_error
from samreg.quality.similarity import ncc
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.points import Points, paired_points
from samreg.spatial.resample import resample, resample_spacing
from samreg.spatial.standard import sample_mask
from samreg.spatial.transforms import AffineTransform, components, inverse_residual

if TYPE_CHECKING:
    from samreg.registration.result import RegistrationResult

_SPACING_MM = 4.0  # at which quality is sampled
_MIN_VOXELS = 32  # along an axis of an image that is small in mm
_INVERSE_POINTS = 20_000
_MIN_COMMON_SHARE = 0.1  # of the body, under which two world frames are unrelated

# Beyond these a flag is raised.
_MAX_LOST_BODY_PERCENT = 10.0
_MAX_FOLDING_PERCENT = 0.1
_MAX_INVERSE_P95_MM, _MAX_INVERSE_MM = 1.0, 10.0
_GOOD_CORRELATION = 0.9  # that a registration need not improve
_MIN_CORRELATION = 0.7
_MIN_JACOBIAN = 0.05
_MIN_INLIER_PERCENT = 30.0
_MIN_MATCHES = 30
_MAX_VOLUME_FACTOR = 2.0
_SAME_MM = 0.5  # within which a landmark is one that guided
_MAX_LANDMARK_MISS_MM = 10.0


def registration_quality(result: RegistrationResult) -> Mapping[str, float]:
    """Measure a registration on a grid of about 4 mm within the fixed body.

    Parameters
    ----------
    result
        A registration that did not fail.

    Returns
    -------
    mapping
        Finite numbers, the unit in the name:

        - ``overlap_percent``: share of the fixed body whose counterpart lies inside the moving image.
        - ``correlation_before``, ``correlation_after``: normalised cross-correlation within body and overlap;
          before, the images lie as :func:`initial_alignment` says.
        - ``folding_percent``, ``log_jacobian_std``, ``jacobian_min``: of det J; folds are det J <= 0.
        - ``inverse_residual_mean_mm``, ``inverse_residual_p95_mm``, ``inverse_residual_max_mm``: the distance
          between a point and inverse(transform(point)).
        - ``mean_displacement_mm``: between a fixed point and its counterpart, in world coordinates.
        - ``scale``: change of volume by the affine part.
        - with a seed also ``matches``; ``inlier_percent``, the share of the matches, weighted by reliability,
          that agree with one affine transform; and ``mean_reliability``, in [0, 1].
        - with guiding landmarks also ``guide_miss_mean_mm`` and ``guide_miss_max_mm``: how far from its counterpart
          a landmark comes to lie.

    Raises
    ------
    SamregError
        When the registration failed.

    Examples
    --------
    >>> import numpy as np
    >>> import samreg
    >>> from samreg.registration import registration_quality
    >>> from samreg.spatial import AffineTransform, Image
    >>> image = Image.from_array(np.indices((20, 20, 20)).sum(axis=0), spacing=2.0)
    >>> result = samreg.RegistrationResult(image, image, AffineTransform(np.eye(3), [4.0, 0.0, 0.0]))
    >>> registration_quality(result)["mean_displacement_mm"]
    4.0
    """
    transform = result.transform
    if transform is None:
        raise SamregError(f"a failed registration has no quality: {result.reason}")
    grid = working_grid(result.fixed)
    body = body_on(result, grid)
    points = grid.world_points()[body]
    mapped = transform.transform_points(points)
    inside = result.moving.grid.contains(mapped)
    fixed = _averaged(result.fixed, grid.spacing)
    moving = _averaged(result.moving, np.maximum(result.moving.spacing, grid.spacing.max()))
    before, _ = alignment_before(result.fixed.grid, result.moving.grid, points)
    inside_before = result.moving.grid.contains(before.transform_points(points))
    warped = resample(moving, grid, transform=transform).array[body]
    unwarped = resample(moving, grid, transform=before).array[body]
    target = fixed.array[body]
    jacobian = jacobian_statistics(transform, grid, body, step=float(result.fixed.spacing.max()))
    chosen = np.random.default_rng(0).permutation(len(points))[:_INVERSE_POINTS]
    inverse = inverse_residual(transform, result.inverse, points[chosen])
    affine = [part.matrix for part in components(transform) if isinstance(part, AffineTransform)]
    quality = {
        "overlap_percent": 100 * float(inside.mean()),
        "correlation_before": ncc(target, unwarped, inside_before),
        "correlation_after": ncc(target, warped, inside),
        "folding_percent": jacobian.folding_percent,
        "log_jacobian_std": jacobian.log_std,
        "jacobian_min": jacobian.minimum,
        "inverse_residual_mean_mm": inverse.mean,
        "inverse_residual_p95_mm": inverse.p95,
        "inverse_residual_max_mm": inverse.maximum,
        "mean_displacement_mm": float(np.linalg.norm(mapped - points, axis=1).mean()),
        "scale": float(np.prod([abs(np.linalg.det(matrix)) for matrix in affine])),
    }
    if result.seed is not None:
        pairs = result.seed.correspondences
        quality["matches"] = float(len(pairs))
        quality["inlier_percent"] = 100 * float(result.seed.affine.inlier_share)
        quality["mean_reliability"] = float(pairs.reliability.mean()) if len(pairs) else 0.0
    if result.guides is not None:
        misses = target_registration_error(transform, *result.guides)
        quality["guide_miss_mean_mm"], quality["guide_miss_max_mm"] = float(misses.mean()), float(misses.max())
    return quality


def quality_flags(quality: Mapping[str, float]) -> tuple[str, ...]:
    """Say in plain words what stands out in the measures of :func:`registration_quality`.

    Parameters
    ----------
    quality
        The measures; one that is missing raises no flag.

    Returns
    -------
    tuple of str
        Empty when nothing stands out.

    Examples
    --------
    >>> from samreg.registration import quality_flags
    >>> quality_flags({"overlap_percent": 60.0, "folding_percent": 0.0})
    ('40 % of the fixed body has no counterpart in the moving image',)
    """
    flags = []
    lost = 100 - quality.get("overlap_percent", 100.0)
    if lost > _MAX_LOST_BODY_PERCENT:
        flags.append(f"{lost:.0f} % of the fixed body has no counterpart in the moving image")
    before, after = quality.get("correlation_before", -1.0), quality.get("correlation_after", 1.0)
    if after <= before and after < _GOOD_CORRELATION:
        flags.append("the images are no more alike after registration than before")
    elif after < _MIN_CORRELATION:
        flags.append(f"the images are little alike after registration: correlation {after:.2f}")
    folding = quality.get("folding_percent", 0.0)
    if folding > _MAX_FOLDING_PERCENT:
        flags.append(f"{folding:.1f} % of the voxels fold")
    miss = quality.get("inverse_residual_p95_mm", 0.0)
    if miss > _MAX_INVERSE_P95_MM:
        flags.append(f"the inverse misses by {miss:.1f} mm (95th percentile)")
    largest = quality.get("inverse_residual_max_mm", 0.0)
    if largest > _MAX_INVERSE_MM:
        flags.append(f"the inverse misses by up to {largest:.0f} mm; map points of the moving image there with care")
    smallest = quality.get("jacobian_min", 1.0)
    if folding <= _MAX_FOLDING_PERCENT and smallest < _MIN_JACOBIAN:
        flags.append(f"tissue shrinks to {100 * max(smallest, 0.0):.0f} % of its volume in places")
    agreeing = quality.get("inlier_percent", 100.0)
    if agreeing < _MIN_INLIER_PERCENT:
        flags.append(f"only {agreeing:.0f} % of the matches agree with one affine transform")
    matches = quality.get("matches", _MIN_MATCHES)
    if matches < _MIN_MATCHES:
        flags.append(f"only {matches:.0f} matches carry the seed")
    scale = quality.get("scale", 1.0)
    if not 1 / _MAX_VOLUME_FACTOR <= scale <= _MAX_VOLUME_FACTOR:
        flags.append(f"volume changes by a factor of {scale:.2g}")
    guides = quality.get("guide_miss_max_mm", 0.0)
    if guides > _MAX_LANDMARK_MISS_MM:
        flags.append(f"a guiding landmark is missed by {guides:.0f} mm; check the landmarks, or give them more weight")
    return tuple(flags)


def landmark_errors(result: RegistrationResult, fixed: Points, moving: Points) -> LandmarkErrors:
    """Measure the errors at the landmarks that both images have; see :meth:`RegistrationResult.landmark_errors`."""
    assert result.transform is not None
    fixed, moving = paired_points(fixed, moving)
    guiding = _near_guides(result, fixed)
    left_out = tuple(name for name, is_guide in zip(fixed.names, guiding, strict=True) if is_guide)
    guided = bool(guiding.all())
    if not guided:
        chosen = np.flatnonzero(~guiding).tolist()
        fixed, moving = fixed.take(chosen), moving.take(chosen)
    return LandmarkErrors(
        fixed.names,
        target_registration_error(initial_alignment(result)[0], fixed, moving),
        target_registration_error(result.transform, fixed, moving),
        target_registration_error(result.inverse, moving, fixed),
        guided=guided,
        left_out=() if guided else left_out,
    )


def _near_guides(result: RegistrationResult, fixed: Points) -> NDArray[np.bool_]:
    """Tell which landmarks of the fixed image are those that guided the registration."""
    if result.guides is None or not len(result.guides[0]):
        return np.zeros(len(fixed), dtype=bool)
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(fixed.positions, result.guides[0].positions).min(axis=1) <= _SAME_MM)


def initial_alignment(result: RegistrationResult) -> tuple[AffineTransform, str]:
    """Return how the images lay before registration; see :func:`alignment_before`."""
    grid = working_grid(result.fixed)
    return alignment_before(result.fixed.grid, result.moving.grid, grid.world_points()[body_on(result, grid)])


def alignment_before(fixed: Grid, moving: Grid, points: FloatArray) -> tuple[AffineTransform, str]:
    """Return how two images lie without registration, fixed to moving, and that in words.

    As their world frames place them; with their centres on each other where that shows hardly any of the fixed
    body, as in scans of different patients or scanners.

    Parameters
    ----------
    fixed, moving
        Grids of the images.
    points
        (N, d) points of the fixed body, LPS mm.
    """
    if moving.contains(points).mean() >= _MIN_COMMON_SHARE:
        return AffineTransform.identity(fixed.ndim), "as the world places it"
    return AffineTransform(np.eye(fixed.ndim), moving.center - fixed.center), "centred on the fixed image"


def working_grid(image: Image) -> Grid:
    """Return a grid over the image of about 4 mm, never finer than its voxels."""
    grid = image.grid
    spacing = np.maximum(grid.spacing, np.minimum(_SPACING_MM, grid.extent / _MIN_VOXELS))
    return grid if np.allclose(spacing, grid.spacing) else grid.with_spacing(spacing)


def body_on(result: RegistrationResult, grid: Grid) -> NDArray[np.bool_]:
    """Return the fixed body on a grid of the fixed frame, (*grid.shape); everything where it is not known."""
    everything = np.ones(grid.shape, dtype=bool)
    if result.body is None:
        return everything
    body = sample_mask(result.body, grid)
    return body if body.any() else everything


def _averaged(image: Image, spacing: FloatArray) -> Image:
    """Return the image averaged to this voxel size, NaN and infinity as numbers."""
    image = image.with_array(np.nan_to_num(image.array)) if image.array.dtype.kind == "f" else image
    return image if np.allclose(spacing, image.spacing) else resample_spacing(image, spacing)

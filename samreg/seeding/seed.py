"""From two embeddings to a transform that seeds an engine, or is the result itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from samreg.embedding.embedding import Embedding
from samreg.errors import ImagesAtFault, InputError, require_choice
from samreg.matching.correspondences import Correspondences
from samreg.matching.features import Features, features
from samreg.matching.matching import lattice, match_points
from samreg.matching.reliability import DEFAULT_CALIBRATION, Calibration
from samreg.matching.search import Prediction
from samreg.seeding.affine import AffineFit, fit_affine
from samreg.seeding.field import fit_displacement
from samreg.spatial.displacement import DisplacementField, jacobian_determinant, sample_displacement
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.transforms import AffineTransform, Transform, compose

Guides = tuple[FloatArray, FloatArray]
TRANSFORMS = ("rigid", "affine", "deformable")
_MIN_TOLERANCE_SCALE = 0.6  # of the affine fits: what people differ by does not shrink with the voxels
_MIN_MATCHES = 12
_MIN_LATTICE = 3 * _MIN_MATCHES  # points; half of them may be matched wrongly
# Mean reliability of the global matches that agree. Noise or water against a chest have 0.2 to 0.35 where enough agree;
# a neck or an abdomen against a chest, and 80 mm of one, 0.73 and more; any-small 0.5 on 25 mm in reversed contrast.
_MIN_AGREEING_RELIABILITY = 0.4
# lengths at a scale of 1 (:attr:`samreg.matching.Features.scale`):
_COARSE_LATTICE_MM = 24.0  # for the global affine
_FINE_LATTICE_MM = 20.0  # for the refined affine and the field
_GUIDE_MM, _GUIDE_WEIGHT = 12.0, 100.0  # around a guide matches have no say; of a guide, a sure match being 1
_GUIDED_STEPS, _GUIDED_MM, _GUIDED_JACOBIAN = 6, 2.0, 0.3  # at most; left between guides; smallest of each step
_STEP_SHARES = (1.0, 0.5, 0.25)  # of a step that are tried
# smallest of all steps together; and of those made one field, which has none below 0.04 between its voxels then
_MIN_JACOBIAN, _MIN_JACOBIAN_OF_ONE = 0.03, 0.1
_VIEW_MARGIN_MM = 4.0  # by which a match may be expected outside the moving image


@dataclass(frozen=True)
class _Pass:
    """A search around what is known so far: its radius, the similarity lost at that radius, the field's voxel."""

    radius_mm: float
    penalty: float
    voxel_mm: float


_PASSES = (_Pass(36.0, 0.15, 8.0), _Pass(20.0, 0.10, 4.0))


@dataclass(frozen=True, eq=False)
class Seed:
    """A transform from embeddings alone, or why there is none; false when it failed.

    Parameters
    ----------
    transform
        Fixed to moving, LPS mm: an affine, or a displacement field followed by an affine. None when it failed.
    affine
        The robust fit to the global matches, fixed to moving, LPS mm.
    correspondences
        The matches the transform was fitted to, both in the world of the images as they were given, LPS mm.
    reason
        Why it failed; empty when it did not.
    """

    transform: Transform | None
    affine: AffineFit
    correspondences: Correspondences
    reason: str = ""

    def __bool__(self) -> bool:
        return self.transform is not None


def global_affine(
    fixed: Features,
    moving: Features,
    *,
    kind: str = "affine",
    spacing: float | None = None,
    calibration: Calibration,
    seed: int = 0,
) -> tuple[AffineFit, Correspondences]:
    """Match a lattice over the whole body and fit one robust transform.

    Parameters
    ----------
    fixed, moving
        Features of the two images.
    kind
        "rigid", "similarity" or "affine".
    spacing
        Distance of the lattice points, mm; unless given 24 times the features' scale, and less where the body is small.
    calibration
        Turns similarity and cycle error into reliability.
    seed
        Of the random hypotheses.
    """
    pairs = match_lattice(fixed, moving, spacing=spacing, calibration=calibration)
    return fit_globally(pairs, fixed, kind, seed=seed), pairs


def match_lattice(
    fixed: Features, moving: Features, *, spacing: float | None = None, calibration: Calibration
) -> Correspondences:
    """Match a lattice over the whole body, as :func:`global_affine` does."""
    return match_points(fixed, body_lattice(fixed, spacing), moving, coarse=True, calibration=calibration)


def body_lattice(fixed: Features, spacing: float | None = None) -> FloatArray:
    """Return a lattice (N, d) over the whole body, LPS mm, as :func:`global_affine` matches it."""
    return _lattice_of(fixed, _COARSE_LATTICE_MM) if spacing is None else lattice(fixed, spacing)


def _lattice_of(fixed: Features, spacing: float) -> FloatArray:
    """Return a lattice of points so many mm apart at a scale of 1; closer together in a body that holds few of them.

    Such as a mask of one organ, or a slab of a few slices between which none of the lattice's may lie.
    """
    spacing, voxel = spacing * fixed.scale, float(fixed.grid.spacing.min())
    points = lattice(fixed, spacing)
    while len(points) < _MIN_LATTICE and spacing > voxel:
        spacing /= 2
        points = lattice(fixed, spacing)
    return points


def fit_globally(pairs: Correspondences, fixed: Features, kind: str, *, seed: int = 0) -> AffineFit:
    """Fit one robust transform to matches, with a tolerance that suits the features of the fixed image."""
    scale = max(fixed.scale, _MIN_TOLERANCE_SCALE)
    return fit_affine(pairs, kind=kind, seed=seed, scale=scale, device=fixed.device)


def make_seed(
    fixed: Embedding,
    moving: Embedding,
    *,
    transform: str = "deformable",
    grid: Grid | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Seed:
    """Fit a transform to the correspondences of two embeddings.

    A lattice matched over the whole body gives a robust global transform; matches searched near its prediction
    refine it and, for "deformable", carry a smooth displacement field, in passes of shrinking radius.

    Parameters
    ----------
    fixed, moving
        Embeddings by the same model.
    transform
        "rigid", "affine" or "deformable".
    grid
        Where a displacement field is needed; the grid of the fixed image unless given.
    device
        Where to search: "auto", "cpu" or "cuda". Apple's "mps" has no double precision; the CPU searches instead.
    seed
        Of the random hypotheses.

    Returns
    -------
    Seed
        False, with a reason, when the matches are too few, do not agree, or do not fit into a field without folds.

    Raises
    ------
    InputError
        When the embeddings come from different models, or the transform is unknown.
    """
    require_choice("transform", transform, TRANSFORMS)
    require_one_model(fixed, moving)
    f, m = features(fixed, device=device), features(moving, device=device)
    calibration = Calibration.from_mapping(fixed.calibration)
    fit, pairs = global_affine(f, m, kind=global_kind(transform), calibration=calibration, seed=seed)
    return refine_seed(
        f, m, fit, pairs, transform=transform, grid=fixed.image_grid if grid is None else grid,
        moving_grid=moving.image_grid, calibration=calibration, seed=seed,
    )  # fmt: skip


def refine_seed(
    fixed: Features,
    moving: Features,
    fit: AffineFit,
    pairs: Correspondences,
    *,
    transform: str,
    grid: Grid,
    moving_grid: Grid,
    calibration: Calibration,
    guides: Guides | None = None,
    seed: int = 0,
) -> Seed:
    """Refine a global fit by matches near it; the second step of :func:`make_seed`.

    Parameters
    ----------
    fixed, moving
        Features of the two images.
    fit, pairs
        Of the whole bodies, fixed to moving.
    transform
        "rigid", "affine" or "deformable".
    grid
        Where a displacement field is needed, in the fixed world.
    moving_grid
        What the moving image shows.
    calibration
        Turns similarity and cycle error into reliability.
    guides
        Corresponding points (N, d) of the fixed and the moving image, LPS mm, that a displacement field is to bring
        together.
    seed
        Of the random hypotheses.

    Returns
    -------
    Seed
        False as :func:`make_seed` returns it.
    """
    scale = fixed.scale
    if fit.transform is None:
        return Seed(None, fit, pairs, fit.reason)
    if reason := _why_by_chance(fit, pairs, calibration):
        return Seed(None, fit, pairs, reason)
    affine = fit.transform
    current: Transform = affine
    points = _lattice_of(fixed, _FINE_LATTICE_MM)
    try:
        # an affine has nothing to gain from the second pass: it bends no further
        for search in _PASSES if transform == "deformable" else _PASSES[:1]:
            pairs = match_near(
                current, fixed, points, moving,
                grid=moving_grid, radius_mm=search.radius_mm, penalty=search.penalty, calibration=calibration,
            )  # fmt: skip
            if transform == "deformable":
                field = fit_displacement(pairs, affine, grid, spacing=search.voxel_mm, scale=scale, device=fixed.device)
                current = compose(field, affine)
            else:
                fit = fit_globally(pairs, fixed, transform, seed=seed)
                if fit.transform is None:
                    return Seed(None, fit, pairs, fit.reason)
                current = affine = fit.transform
    except ImagesAtFault as fault:
        return Seed(None, fit, pairs, fault.reason)
    if guides is not None and transform == "deformable":
        current = _guided(field, affine, pairs, guides, grid, scale=scale, device=fixed.device)
    return Seed(current, fit, pairs)


def _why_by_chance(fit: AffineFit, pairs: Correspondences, calibration: Calibration) -> str:
    """Return why the matches that agree do so by chance only; "" where they do not, or no probability tells."""
    reliability = float(pairs.reliability[fit.inliers].mean())
    if calibration == DEFAULT_CALIBRATION or reliability >= _MIN_AGREEING_RELIABILITY:
        return ""
    return (
        f"the two images have nothing in common that samreg recognises: {fit.inliers.sum()} of {len(pairs)} "
        f"matches agree, as by chance, for their mean reliability is {reliability:.2f}, where "
        f"{_MIN_AGREEING_RELIABILITY:g} is needed; do they show the same part of the body?"
    )


def match_near(
    transform: Transform,
    fixed: Features,
    points: FloatArray,
    moving: Features,
    *,
    grid: Grid,
    radius_mm: float,
    penalty: float,
    calibration: Calibration,
    at_least: int = _MIN_MATCHES,
) -> Correspondences:
    """Match points of the fixed image near where a transform takes them, those that it takes into the moving image.

    A point whose counterpart lies outside the moving image could only be matched wrongly.

    Parameters
    ----------
    transform
        Fixed to moving, LPS mm.
    fixed, moving
        Features of the two images.
    points
        (N, d) of the fixed image, LPS mm.
    grid
        What the moving image shows.
    radius_mm, penalty
        Of the search, at a scale of 1, and similarity lost at that distance.
    calibration
        Turns similarity and cycle error into reliability.
    at_least
        So many points must lie in the moving image.

    Raises
    ------
    ImagesAtFault
        When fewer do.
    """
    expected = transform.transform_points(points)
    visible = grid.contains(expected, margin=_VIEW_MARGIN_MM * fixed.scale)
    if visible.sum() < at_least:
        raise ImagesAtFault(f"too few matches: {visible.sum()} of {len(points)} points lie in the moving image")
    prediction = Prediction(expected[visible], radius_mm * fixed.scale, penalty)
    return match_points(fixed, points[visible], moving, prediction=prediction, coarse=True, calibration=calibration)


def _guided(
    field: DisplacementField,
    affine: AffineTransform,
    pairs: Correspondences,
    guides: Guides,
    grid: Grid,
    *,
    scale: float,
    device: str | torch.device,
) -> Transform:
    """Return a transform that brings guides together, and keeps the matches that are not near any.

    One displacement field and the affine; where that field would be near a fold between its voxels, which a sequence of
    fields is not, the field, each step towards the guides before it, and the affine.

    Parameters
    ----------
    field, affine
        Fixed to moving, the field first, LPS mm.
    pairs
        Matches that these were fitted to.
    guides
        (N, d) points of the fixed and the moving image, LPS mm.
    grid
        Where a displacement field is needed.
    scale
        Of the features that were matched.
    device
        Where the field is fitted.
    """
    from scipy.spatial import KDTree

    kept = pairs.take(KDTree(guides[0]).query(pairs.fixed)[0] > _GUIDE_MM * scale)
    fixed = np.concatenate([kept.fixed, guides[0]])
    # what the start makes of the other matches is to stay, as some of them are wrong
    moving = np.concatenate([compose(field, affine).transform_points(kept.fixed), guides[1]])
    reliability = np.concatenate([kept.reliability, np.full(len(guides[0]), _GUIDE_WEIGHT)])
    back = affine.inverse().matrix
    parts, whole, smallest = [field], field, 1.0
    for _ in range(_GUIDED_STEPS):
        left = (moving - compose(*parts, affine).transform_points(fixed)) @ back.T
        if np.linalg.norm(left[len(kept) :], axis=1).mean() < _GUIDED_MM * scale:
            break
        step = fit_displacement(
            Correspondences.from_points(fixed, fixed + left, reliability=reliability),
            AffineTransform.identity(grid.ndim),
            grid,
            spacing=_PASSES[-1].voxel_mm,
            scale=scale,
            min_jacobian=_GUIDED_JACOBIAN,
            shorten=True,
            device=device,
        )
        advanced = _advanced(step, whole)
        if advanced is None:
            break
        step, whole, smallest = advanced
        parts.insert(0, step)
    return compose(whole, affine) if smallest >= _MIN_JACOBIAN_OF_ONE else compose(*parts, affine)


def _advanced(
    step: DisplacementField, field: DisplacementField
) -> tuple[DisplacementField, DisplacementField, float] | None:
    """Return a step, shortened where it and then a field would fold, both as one field, and its smallest Jacobian.

    None where even the shortest step that is tried folds.
    """
    for share in _STEP_SHARES:
        shortened = DisplacementField(share * step.displacement, step.grid)
        whole = sample_displacement(compose(shortened, field), field.grid)
        smallest = float(jacobian_determinant(whole, whole.grid).min())
        if smallest >= _MIN_JACOBIAN:
            return shortened, whole, smallest
    return None


def require_one_model(fixed: Embedding, moving: Embedding) -> None:
    """Raise :class:`InputError` unless both embeddings come from the same model."""
    if fixed.model != moving.model:
        raise InputError(
            f"the embeddings come from different models: {fixed.model} and {moving.model}; embed both with one model"
        )


def global_kind(transform: str) -> str:
    """Return the kind of the global fit that starts a transform."""
    return "rigid" if transform == "rigid" else "affine"

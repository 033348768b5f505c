"""From two embeddings to a transform that seeds an engine, or is the result itself."""

from __future__ import annotations

from dataclasses import dataclass

from samreg.embedding.embedding import Embedding
from samreg.errors import InputError
from samreg.matching.correspondences import Correspondences
from samreg.matching.features import Features, features
from samreg.matching.matching import lattice, match_points
from samreg.matching.reliability import Calibration
from samreg.matching.search import Prediction
from samreg.seeding.affine import AffineFit, fit_affine
from samreg.seeding.field import fit_displacement
from samreg.spatial.grid import Grid
from samreg.spatial.transforms import Transform, compose

TRANSFORMS = ("rigid", "affine", "deformable")
_LEAST_SCALE = 0.6  # of the tolerance of affines: what people differ by does not shrink with the voxels
# at a scale of 1 (:attr:`samreg.matching.Features.scale`):
_COARSE_LATTICE = 24.0  # mm, for the global affine
_FINE_LATTICE = 20.0  # mm, for the refined affine and the field
# (search radius mm, similarity lost at that radius, voxel mm of the field) of the passes that refine the prediction
_PASSES = ((36.0, 0.15, 8.0), (20.0, 0.10, 4.0))


@dataclass(frozen=True, eq=False)
class Seed:
    """A transform from embeddings alone, or why there is none; false when it failed.

    Parameters
    ----------
    transform
        Fixed to moving, LPS mm: an affine, or a displacement field followed by an affine. None when it failed.
    affine
        The robust fit to the global matches.
    correspondences
        The matches the transform was fitted to.
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
        Distance of the lattice points, mm; 24 times the features' scale unless given.
    calibration
        Turns similarity and cycle error into reliability.
    seed
        Of the random hypotheses.
    """
    points = lattice(fixed, _COARSE_LATTICE * fixed.scale if spacing is None else spacing)
    pairs = match_points(fixed, points, moving, coarse=True, calibration=calibration)
    return fit_affine(pairs, kind=kind, seed=seed, scale=max(fixed.scale, _LEAST_SCALE)), pairs


def make_seed(
    fixed: Embedding,
    moving: Embedding,
    *,
    transform: str = "deformable",
    grid: Grid | None = None,
    device: str = "cpu",
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
        Where to search.
    seed
        Of the random hypotheses.

    Returns
    -------
    Seed
        False, with a reason, when the matches are too few or do not agree.

    Raises
    ------
    InputError
        When the embeddings come from different models, or the transform is unknown.
    """
    if transform not in TRANSFORMS:
        raise InputError(f"unknown transform {transform!r}; choose one of {', '.join(TRANSFORMS)}")
    require_one_model(fixed, moving)
    calibration = Calibration.from_mapping(fixed.calibration)
    f, m = features(fixed, device=device), features(moving, device=device)
    fit, pairs = global_affine(
        f, m, kind="rigid" if transform == "rigid" else "affine", calibration=calibration, seed=seed
    )
    if fit.transform is None:
        return Seed(None, fit, pairs, fit.reason)
    current: Transform = fit.transform
    scale = f.scale
    points = lattice(f, _FINE_LATTICE * scale)
    # an affine has nothing to gain from the second: it bends no further
    for radius, penalty, voxel in _PASSES if transform == "deformable" else _PASSES[:1]:
        # a point whose counterpart lies outside the moving image can only be matched wrongly
        expected = current.transform_points(points)
        shown = moving.image_grid.contains(expected, margin=4.0 * scale)
        if shown.sum() < 12:
            reason = f"too few matches: {shown.sum()} of {len(points)} points lie in the moving image"
            return Seed(None, fit, pairs, reason)
        prediction = Prediction(expected[shown], radius * scale, penalty)
        pairs = match_points(f, points[shown], m, prediction=prediction, coarse=True, calibration=calibration)
        if transform == "deformable":
            wanted = fixed.image_grid if grid is None else grid
            field = fit_displacement(pairs, fit.transform, wanted, spacing=voxel, scale=scale)
            current = compose(field, fit.transform)
        else:
            refit = fit_affine(pairs, kind=transform, seed=seed, scale=max(scale, _LEAST_SCALE))
            if refit.transform is None:
                return Seed(None, refit, pairs, refit.reason)
            fit, current = refit, refit.transform
    return Seed(current, fit, pairs)


def require_one_model(fixed: Embedding, moving: Embedding) -> None:
    """Raise :class:`InputError` unless both embeddings come from the same model."""
    if fixed.model != moving.model:
        raise InputError(
            f"the embeddings come from different models: {fixed.model} and {moving.model}; embed both with one model"
        )

"""Points matched near where a robust alignment, the matches around and places that both images show expect them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from samreg.landmarks.atlas import shipped_atlas
from samreg.landmarks.skeleton import CommonPlaces, common_places, no_places, survey
from samreg.matching import Calibration, Correspondences, Features, Prediction, match_points, vote
from samreg.seeding import AffineFit, global_affine, predict_locally
from samreg.spatial.grid import FloatArray, Grid

if TYPE_CHECKING:
    from samreg.embedding import Embedding

# at a scale of 1 (:attr:`samreg.matching.Features.scale`):
_GUIDE_LATTICE_MM = 32.0  # distance of the matches that guide the search
# radius of the search around the prediction, and similarity lost at that distance: for the point and its neighbours,
# then for the point alone around what they agree on, which says how sure that is
_WIDE_MM, _WIDE_PENALTY = 45.0, 0.3
_LED_MM, _LED_PENALTY = 20.0, 0.2  # the same where both images show places
_NARROW_MM, _NARROW_PENALTY = 20.0, 0.2
_NOISE_MM, _MIN_RELIABILITY = 12.0, 0.05  # standard deviation of the error of a match, sure at most and least
_PLACE_NOISE_MM = 4.0  # of the error of a place that both images show
_LEADS_MM = 90.0  # how far from it such a place still says something
_BONE_SHARE = 0.5  # of the bone's word, of a point on or beside one
# Median similarity of matches over the body, by version 3 of ct-small: at most 0.897 of two people, at least 0.912 of
# one person whose second visit was simulated (docs/models/landmark-atlas.md).
_ONE_PERSON = 0.91
# of a point that goes with a place that both images show by themselves, and of one that surely does
_AT_PLACE_MM, _SURELY_AT_PLACE_MM = 8.0, 6.0


@dataclass(frozen=True, eq=False)
class GuidedMatches:
    """Matches of N points, and what the points around them say.

    Parameters
    ----------
    matches
        Fixed to moving; their reliability leaves the rest out of account.
    spread
        (N,) of the votes (:class:`samreg.matching.Votes`) and of these from where they were expected, mm.
    depth
        (N,) how deep in the moving image the points are expected, mm; negative outside.
    fit
        The robust alignment.
    seen
        (N,) those within 6 mm of a place that both images show by themselves, which go with it; what the search says
        is no evidence for them.
    """

    matches: Correspondences
    spread: FloatArray
    depth: FloatArray
    fit: AffineFit
    seen: NDArray[np.bool_]


def show_one_person(pairs: Correspondences) -> bool:
    """Whether matches over the body are as alike as those of one person alone.

    They are then nearer than what a landmark atlas finds in both images, which is known to 3 to 6 mm.

    Parameters
    ----------
    pairs
        Of a lattice over the fixed body with all of the moving image.
    """
    return bool(len(pairs) and np.median(pairs.similarity) > _ONE_PERSON)


def guided_matches(
    fixed: Features,
    points: FloatArray,
    moving: Features,
    *,
    grid: Grid,
    calibration: Calibration,
    places: CommonPlaces | None = None,
    seed: int = 0,
) -> tuple[GuidedMatches | None, str]:
    """Match points where a robust alignment, the matches around and places that both images show expect them.

    Parameters
    ----------
    fixed, moving
        Features of the two images.
    points
        (N, d) world points of the fixed image, LPS mm.
    grid
        Of the moving image: what it shows.
    calibration
        Turns similarity and cycle error into reliability.
    places
        That both images show; none unless given. Where both are of one person they are left out.
    seed
        Of the robust fit.

    Returns
    -------
    GuidedMatches or None
        None when there is no common alignment.
    str
        Why there is none.
    """
    places, scale = no_places(points.shape[1]) if places is None else places, fixed.scale
    fit, pairs = global_affine(fixed, moving, spacing=_GUIDE_LATTICE_MM * scale, calibration=calibration, seed=seed)
    if fit.transform is None:
        return None, fit.reason
    if show_one_person(pairs):
        places = no_places(points.shape[1])
    residual_mm = np.linalg.norm(fit.transform.transform_points(pairs.fixed) - pairs.moving, axis=1)
    pairs = pairs.take(residual_mm < _WIDE_MM * scale)
    noise = _NOISE_MM * scale / np.sqrt(np.maximum(pairs.reliability, _MIN_RELIABILITY))
    expected = predict_locally(
        np.concatenate([pairs.fixed, places.fixed]),
        np.concatenate([pairs.moving, places.moving]),
        np.concatenate([noise, np.full(len(places.fixed), _PLACE_NOISE_MM)]),
        fit.transform,
        points,
        scale=scale,
    )
    around = (_LED_MM, _LED_PENALTY) if len(places.fixed) else (_WIDE_MM, _WIDE_PENALTY)
    window = Prediction(expected, around[0] * scale, around[1])
    votes = vote(fixed, points, moving, prediction=window, matrix=fit.transform.matrix)
    narrow = Prediction(votes.positions, _NARROW_MM * scale, _NARROW_PENALTY)
    alone = match_points(fixed, points, moving, prediction=narrow, home="anywhere", calibration=calibration)
    spread = np.hypot(votes.spread, np.linalg.norm(votes.positions - expected, axis=1))
    # votes are searched inside the image and cannot leave it; the prediction can
    found = GuidedMatches(
        replace(alone, moving=votes.positions), spread, grid.depth(expected), fit, np.zeros(len(points), dtype=bool)
    )
    return _at_places(found, places, grid), ""


def _at_places(found: GuidedMatches, places: CommonPlaces, grid: Grid) -> GuidedMatches:
    """Return the matches with points on bones half-way to where these take them, and points at seen places with these.

    The spread of the latter is how far search and place disagree.
    """
    points, seen = found.matches.fixed, found.seen
    moving, spread, depth = (values.copy() for values in (found.matches.moving, found.spread, found.depth))
    rows, taken = places.on_bones(points)
    off = taken - moving[rows]
    moving[rows] += _BONE_SHARE * off
    spread[rows] = np.hypot(spread[rows], _BONE_SHARE * np.linalg.norm(off, axis=1))
    depth[rows] = grid.depth(taken)
    if places.seen.any():
        distance, nearest = KDTree(places.fixed[places.seen]).query(points)
        seen, near = distance <= _SURELY_AT_PLACE_MM, distance <= _AT_PLACE_MM
        taken = (points + (places.moving - places.fixed)[places.seen][nearest])[near]
        spread[near] = np.linalg.norm(taken - moving[near], axis=1)
        moving[near], depth[near] = taken, grid.depth(taken)
    return GuidedMatches(replace(found.matches, moving=moving), spread, depth, found.fit, seen)


def places_for(
    embeddings: tuple[Embedding, Embedding], targets: tuple[Features, Features], points: FloatArray
) -> CommonPlaces:
    """Return the places that the shipped landmark atlas finds in two images, if any is near points of the first.

    Parameters
    ----------
    embeddings, targets
        Of the images, and their features.
    points
        (N, d) LPS mm.
    """
    atlas = shipped_atlas(embeddings[0].model)
    if atlas is None or any(embedding.volume is None for embedding in embeddings):
        return no_places(points.shape[1])
    first = survey(atlas, embeddings[0], targets[0])
    shown = common_places(first, first).fixed
    if not len(shown) or KDTree(shown).query(points)[0].min() > _LEADS_MM:
        return no_places(points.shape[1])
    return common_places(first, survey(atlas, embeddings[1], targets[1]))

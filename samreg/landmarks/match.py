"""match(): one-shot landmark detection, points of a template found in another image."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError, require_choice, require_progress, require_seed
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image, points_in
from samreg.spatial.points import Points
from samreg.spatial.remarks import remarks_kept

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.landmarks.skeleton import CommonPlaces
    from samreg.matching import Calibration, Correspondences, ExpectedError, Features
    from samreg.seeding import AffineFit
    from samreg.spatial import Grid

log = logging.getLogger(__name__)

#: Made by ``python -m samreg.training.match_reliability``.
MATCH_RELIABILITY = Path(__file__).with_name("match_reliability.json")
EXPECTED_ERROR = "expected_error"  # its part that holds expected errors, beside the calibrations

SEARCHES = ("guided", "global")
_OUTSIDE_FACTOR = 0.5  # of the reliability of a point that is expected outside the image
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
# of a point that goes with a place that both images show by themselves, and of one that surely does
_AT_PLACE_MM, _SURELY_AT_PLACE_MM = 8.0, 6.0
# at least and at most, of a point that surely does: of 123 between people whom the atlas does not know 96 % lie within
# 10 mm, 91 % within 8; of 24 from 6 to 8 mm away 67 and 50 %
_SEEN_RELIABILITY, _SEEN_ERROR_MM = 0.89, 8.0


@dataclass(frozen=True, eq=False)
class LandmarkMatches:
    """Where the template's points were found.

    Parameters
    ----------
    points
        (N, d) positions in the target, LPS mm.
    names
        As in the template.
    similarity
        (N,) of the embeddings, best around there, at most 1.
    reliability
        (N,) calibrated probability in [0, 1] that the match lies within 10 mm of the truth (with ``ct-small``, between
        people; with other models and in a global search as the model's own calibration has it).
    cycle_error
        (N,) where the most similar place around there leads back to, distance from the template's point, mm.
    spread
        (N,) how far the points around the point, matched too, disagree about its place, with each other and with where
        it was looked for, mm; where it goes with a place that both images show, how far that is from the match
        otherwise. NaN in a global search.
    inside
        (N,) False where the matches around it put the point outside the target's field of view.
    notes
        What the user should know, in plain words: that one of two CTs looks mirrored among it, where both were given as
        images.
    expected_error
        (N,) in four of five places the error is at most so much, mm, as fitted to landmarks of pairs of people; two
        scans of one person are judged too severely. NaN where the model has no such fit (of those shipped, the
        ``ct-small`` models have one) and in a global search; left out, NaN.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> matches = LandmarkMatches(np.zeros((1, 3)), ("carina",), one, 0.9 * one, one, one, one > 0)
    >>> len(matches), matches.to_points().names
    (1, ('carina',))
    """

    points: FloatArray
    names: tuple[str, ...]
    similarity: FloatArray
    reliability: FloatArray
    cycle_error: FloatArray
    spread: FloatArray
    inside: NDArray[np.bool_]
    notes: tuple[str, ...] = ()
    expected_error: FloatArray = field(default_factory=lambda: np.empty(0), kw_only=True)

    def __post_init__(self) -> None:
        if not len(self.expected_error):
            object.__setattr__(self, "expected_error", np.full(len(self), np.nan))

    def __len__(self) -> int:
        return len(self.points)

    def to_points(self) -> Points:
        """Return the positions as :class:`Points`, scored by reliability."""
        return Points(self.points, self.names, self.reliability)

    def error_column(self) -> dict[str, FloatArray]:
        """Return the expected errors by the name of their column in tables, mm; nothing where none is known."""
        return {"expected_error_mm": self.expected_error} if np.isfinite(self.expected_error).any() else {}


def match(
    template: Any,
    points: Any,
    target: Any,
    *,
    model: Any = None,
    search: str = "guided",
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> LandmarkMatches:
    """Find points of a template image in a target image.

    Parameters
    ----------
    template, target
        Images as :func:`samreg.register` takes, or embeddings (:func:`samreg.embed`) to match many times.
    points
        :class:`Points`, an array (N, d) in LPS mm, or a points file, in the template.
    model
        Name, path or model; samreg's default unless given. Must be the embeddings' own where they are given.
    search
        "guided" matches a coarse lattice first, predicts each point from a robust affine, the matches around it and,
        in CT, landmarks and places on bones that both images show (:func:`samreg.seeding.predict_locally`), lets the
        point and its neighbours look within 20 mm of that (45 mm without such places; 13.5 in X-rays, whose embeddings
        are finer), and goes where they agree; on a shoulder blade or rib that both images show half-way from there to
        where it takes the point. Points within 8 mm of a place that both images show by themselves, such as a carina,
        go with it. Embeddings read from files have no image in which such places could be found.
        "global" takes the most similar voxel of the whole body (Yan et al., SAM, TMI 2022).
    device
        "auto", "cpu", "cuda" or "mps", where to embed and to match.
    seed
        Of the robust fit.
    progress
        Called with the name of each stage as it starts; the log gets it, at level INFO, unless given.

    Returns
    -------
    LandmarkMatches
        One for each point, in order.

    Raises
    ------
    InputError
        For no points, points outside the template, an unknown search, options of another type, images the model does
        not take, or embeddings of different models.

    Examples
    --------
    >>> from samreg.embedding.embed import embed
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16))
    >>> embedding = embed({"array": noise.astype(np.float32), "spacing": (8, 8, 8)}, model="mind")
    >>> matches = match(embedding, [[60.0, 60.0, 60.0]], embedding, search="global")
    >>> bool(abs(matches.points - 60).max() < 8)  # mm
    True
    """
    from samreg.device import resolve_device
    from samreg.embedding.ct import ANY_CONTRAST_MODEL
    from samreg.embedding.registry import default_notes, model_for
    from samreg.landmarks.laterality import why_mirrored
    from samreg.seeding.seed import require_one_model

    require_choice("search", search, SEARCHES)
    seed = require_seed(seed)
    require_progress(progress)
    report = progress or log.info
    resolve_device(device)
    template, target = read(template, "template"), read(target, "target")
    images = [source for source in (template, target) if isinstance(source, Image)]
    network = model_for(model, *images) if images else None
    for source, name in ((template, "template"), (target, "target")):
        if network is not None and not isinstance(source, Image) and source.model != network.identity:
            own = source.model.split("@")[0]
            remedy = f'choose the embedding\'s: model="{own}" (--model {own})'
            if model is None and network.name == ANY_CONTRAST_MODEL:  # a model for CT would refuse that image
                remedy = (
                    f"it is not in Hounsfield units: embed the {name} by {ANY_CONTRAST_MODEL} as well (samreg embed "
                    f"--model {ANY_CONTRAST_MODEL}), or, where {own} takes any contrast, {remedy}"
                )
            raise InputError(
                f"the {name} is an embedding by the model {source.model}, and the other image would be embedded by "
                f"{network.identity}; {remedy}"
            )
    fixed, moving = (
        embedded(source, network or model, device, name, report)
        for source, name in ((template, "template"), (target, "target"))
    )
    require_one_model(fixed, moving)
    with remarks_kept() as remarks:
        wanted = points_in(points, fixed.image_grid, "the template")
    report("matching")
    found, fit = match_embedded(fixed, wanted, moving, search=search, device=device, seed=seed)
    notes = (*(text for image in images for text in image.remarks), *remarks)
    notes += default_notes(*images) if images and model is None else ()
    notes += found.notes
    if fit is not None and isinstance(template, Image) and isinstance(target, Image) and network is not None:
        notes += mirrored_note(why_mirrored((template, target), (fixed, moving), fit, network, device))
    return replace(found, notes=notes)


def mirrored_note(reason: str) -> tuple[str, ...]:
    """Return what matches say where an image looks mirrored, and why (:func:`samreg.landmarks.laterality`)."""
    return (f"{reason}; until then left is found for right",) if reason else ()


def match_embedded(
    fixed: Embedding, wanted: Points, moving: Embedding, *, search: str, device: str, seed: int
) -> tuple[LandmarkMatches, AffineFit | None]:
    """Find points of one embedding in another, as :func:`match` does.

    Returns
    -------
    LandmarkMatches
        With a note where no common alignment was found.
    AffineFit or None
        The alignment that guided the search; None without.
    """
    from samreg.matching import Calibration, features, match_points

    fixed_features, moving_features = (features(embedding, device=device) for embedding in (fixed, moving))
    calibration = Calibration.from_mapping(fixed.calibration)
    notes: tuple[str, ...] = ()
    if search == "guided":
        guided, reason = guided_matches(
            fixed_features, wanted.positions, moving_features,
            grid=moving.image_grid, calibration=calibration, seed=seed,
            places=places_for((fixed, moving), (fixed_features, moving_features), wanted.positions),
        )  # fmt: skip
        if guided is not None:
            stored = Calibration.from_mapping(fixed.calibration, landmarks=True)
            reliability = _between_people(fixed.model) or stored
            return _from_guided(wanted.names, guided, reliability, expected_error_of(fixed.model)), guided.fit
        notes = (f"no common alignment was found ({reason}); every point was searched in the whole body",)
    pairs = match_points(fixed_features, wanted.positions, moving_features, calibration=calibration)
    found = LandmarkMatches(
        pairs.moving, wanted.names, pairs.similarity, pairs.reliability, pairs.cycle_error,
        np.full(len(wanted), np.nan), np.ones(len(wanted), dtype=bool), notes,
    )  # fmt: skip
    return found, None


def _from_guided(
    names: tuple[str, ...],
    guided: GuidedMatches,
    calibration: Calibration,
    expected: ExpectedError | None,
) -> LandmarkMatches:
    """Return the matches with what the votes and the field of view say of their reliability and error."""
    pairs = guided.matches
    reliability = calibration(pairs.similarity, pairs.cycle_error, spread=guided.spread, depth=guided.depth)
    reliability = np.where(guided.seen, np.maximum(reliability, _SEEN_RELIABILITY), reliability)
    error = np.full(len(names), np.nan)
    if expected is not None:
        error = expected(pairs.cycle_error, guided.spread, depth=guided.depth)
        error = np.where(guided.seen, np.minimum(error, _SEEN_ERROR_MM), error)
    return LandmarkMatches(
        pairs.moving,
        names,
        pairs.similarity,
        np.where(guided.depth >= 0, reliability, _OUTSIDE_FACTOR * reliability),
        pairs.cycle_error,
        guided.spread,
        guided.depth >= 0,
        expected_error=error,
    )


@cache
def _between_people(model: str) -> Calibration | None:
    """Return the calibration on landmarks of a shipped model, ``name@fingerprint``; None where there is none."""
    from samreg.matching import Calibration

    known = json.loads(MATCH_RELIABILITY.read_text(encoding="utf-8")).get(model)
    return None if known is None else Calibration(**known)


@cache
def expected_error_of(model: str) -> ExpectedError | None:
    """Return the expected error between people of a shipped model, ``name@fingerprint``; None where there is none."""
    from samreg.matching import ExpectedError

    fits = json.loads(MATCH_RELIABILITY.read_text(encoding="utf-8")).get(EXPECTED_ERROR, {})
    return ExpectedError(**fits[model]) if model in fits else None


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
        That both images show; none unless given.
    seed
        Of the robust fit.

    Returns
    -------
    GuidedMatches or None
        None when there is no common alignment.
    str
        Why there is none.
    """
    from samreg.landmarks.skeleton import no_places
    from samreg.matching import Prediction, match_points, vote
    from samreg.seeding import global_affine, predict_locally

    places, scale = no_places(points.shape[1]) if places is None else places, fixed.scale
    fit, pairs = global_affine(fixed, moving, spacing=_GUIDE_LATTICE_MM * scale, calibration=calibration, seed=seed)
    if fit.transform is None:
        return None, fit.reason
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
    from scipy.spatial import KDTree

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
    from scipy.spatial import KDTree

    from samreg.landmarks.atlas import shipped_atlas
    from samreg.landmarks.skeleton import common_places, no_places, survey

    atlas = shipped_atlas(embeddings[0].model)
    if atlas is None or any(embedding.volume is None for embedding in embeddings):
        return no_places(points.shape[1])
    first = survey(atlas, embeddings[0], targets[0])
    shown = common_places(first, first).fixed
    if not len(shown) or KDTree(shown).query(points)[0].min() > _LEADS_MM:
        return no_places(points.shape[1])
    return common_places(first, survey(atlas, embeddings[1], targets[1]))


def embedded(source: Any, model: Any, device: str, name: str, report: Callable[[str], None]) -> Embedding:
    """Return the embedding of an image, or the embedding given, in memory or as an .h5 file.

    Raises
    ------
    InputError
        When a model is given that is not the embedding's own.
    """
    from samreg.embedding.registry import model_for

    image = read(source, name)
    if isinstance(image, Image):
        report(f"embedding the {name}")
        return model_for(model, image).embed_on_device(image, device=device)
    if model is not None and (given := model_for(model).identity) != image.model:
        own = image.model.split("@")[0]
        raise InputError(
            f"the {name} is an embedding by the model {image.model}, not by {given}; leave the model out, or choose "
            f'the embedding\'s: model="{own}" (--model {own})'
        )
    return image


def read(source: Any, name: str) -> Image | Embedding:
    """Return the image, or the embedding where one is given, in memory or as an .h5 file."""
    from samreg.embedding import Embedding

    if isinstance(source, Embedding):
        return source
    if isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(".h5"):
        return Embedding.load(source)
    return as_image(source, name=name)

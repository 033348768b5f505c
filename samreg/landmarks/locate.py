"""Where an atlas's landmarks lie in an image: what its people say around a first guess, and what the image shows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from samreg.landmarks.atlas import LandmarkAtlas
from samreg.landmarks.placement import Placed, place
from samreg.landmarks.ribs import first_rib_level
from samreg.landmarks.spine import LEVELS, count_bodies, first_level, is_counted_from_above, on_bodies
from samreg.landmarks.structures import LED_BY, Structures, find_structures, on_structures
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image

if TYPE_CHECKING:
    from samreg.matching import Features

# at a scale of 1 (:attr:`samreg.matching.Features.scale`):
_WINDOW_MM, _WINDOW_PENALTY = 16.0, 0.2  # of the search around the place chosen
_ROUNDS, _SETTLED_MM = 2, 3.0  # of votes in volumes; those that moved by less are not held again
_MEDIAN_SOFTNESS_MM = 2.0
_LEAST_SPREAD_MM = 4.0  # added to the spread of a person's votes, by which they are weighed
_MAX_SPREAD_MM = 1e3  # told of landmarks of which nobody voted
#: Of landmarks that the image itself shows: of 95 in 19 people 90 lie within 10 mm.
SEEN_RELIABILITY = 0.9
_SURE_RELIABILITY = 0.5  # of landmarks that say which part of the body the image shows
_RIB_ON_T2 = (1.45, 2.2)  # levels of the first ribs; 1.3 at most in 17 people whose vertebrae were counted rightly
#: Of the landmarks in an image: 0.6 in chests, 0.25 at most in those turned upside down.
MIN_MEAN_RELIABILITY = 0.4


class LandmarkEvidence(NamedTuple):
    """What speaks for the places of L landmarks, (L,) of each kind.

    Parameters
    ----------
    similarity
        Of the vectors.
    misfit
        Distance from where the neighbours put the landmark, mm.
    spread
        Of what the people of the atlas say, mm.
    depth
        How deep in the image the landmark is expected, mm; negative outside.
    """

    similarity: FloatArray
    misfit: FloatArray
    spread: FloatArray
    depth: FloatArray


@dataclass(frozen=True, eq=False)
class Located:
    """Places of L landmarks and what speaks for them.

    Parameters
    ----------
    positions
        (L, d) LPS mm.
    evidence
        What speaks for them.
    counted
        (L,) vertebrae whose level was counted from the upper thoracic spine down.
    seen
        (L,) landmarks on ribs, diaphragm, kidneys and aorta that the image itself shows.
    structures
        What the image shows besides: shoulder blades, ribs, single points such as carinas.
    """

    positions: FloatArray
    evidence: LandmarkEvidence
    counted: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    structures: Structures = field(default_factory=Structures)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """(L,) landmarks expected in the image."""
        return np.asarray(self.evidence.depth >= 0)


def locate(
    atlas: LandmarkAtlas,
    target: Features,
    grid: Grid,
    *,
    image: Image | None = None,
    placed: Placed | None = None,
) -> Located:
    """Find an atlas's landmarks in features of the same model.

    Parameters
    ----------
    atlas
        With at least two landmarks on one person.
    target
        Of the image.
    grid
        Of the image: what it shows.
    image
        The image itself, a volume in which vertebrae are counted (:mod:`samreg.landmarks.spine`) and shoulder blades,
        ribs, diaphragm, kidneys and arteries found (:mod:`samreg.landmarks.structures`), as
        :attr:`samreg.embedding.Embedding.volume` has it; they are not unless given.
    placed
        What :func:`samreg.landmarks.placement.place` returns for these, where that is known already.

    Raises
    ------
    InputError
        When how the landmarks lie to each other cannot be learnt from the atlas.
    """
    placed = place(atlas, target, grid) if placed is None else placed
    found = _settled(atlas, target, placed, rounds=_ROUNDS if grid.ndim == 3 else 1)
    none = np.zeros(len(found.positions), dtype=bool)
    if image is None or image.ndim != 3:
        return _weighed(atlas, placed, grid, found, none, none)
    shown = placed.looked_for & (grid.depth(placed.by_neighbours(atlas, found.positions)) >= 0)
    on_levels, counted = _counted(atlas, target, image, found.positions, shown)
    moved = np.flatnonzero((on_levels != found.positions).any(axis=1))
    found, _ = _voted_again(atlas, target, found._replace(positions=on_levels), moved)
    reliability = reliability_of(_weighed(atlas, placed, grid, found, counted, none), atlas)
    structures = find_structures(image, atlas.names, found.positions, reliability, counted)
    neighbours_say = placed.by_neighbours(atlas, found.positions)
    positions, seen = on_structures(structures, atlas.names, found.positions, neighbours_say)
    moved = np.flatnonzero(placed.looked_for & (positions != found.positions).any(axis=1))
    found, places = _voted_again(atlas, target, found._replace(positions=positions), moved)
    led = np.array([atlas.names[i] in LED_BY for i in moved], dtype=bool)
    positions[moved[led]] = places[led]
    return replace(_weighed(atlas, placed, grid, found, counted, seen), structures=structures)


class _Found(NamedTuple):
    """L landmarks so far: positions (L, d), LPS mm, and of the votes around them similarity and spread (L,), mm."""

    positions: FloatArray
    similarity: FloatArray
    spread: FloatArray


def _settled(atlas: LandmarkAtlas, target: Features, placed: Placed, *, rounds: int) -> _Found:
    """Return the landmarks where the atlas's people vote them to, from the first guess on, in some rounds of votes."""
    count = len(placed.positions)
    found = _Found(placed.positions, np.zeros(count), np.full(count, np.inf))
    rows = np.flatnonzero(placed.looked_for)
    for _ in range(rounds):
        found, places = _voted_again(atlas, target, found, rows)
        moved_mm = np.linalg.norm(places - found.positions[rows], axis=1)
        positions = found.positions.copy()
        positions[rows] = places
        found, rows = found._replace(positions=positions), rows[moved_mm > _SETTLED_MM * target.scale]
    return found


def _voted_again(
    atlas: LandmarkAtlas, target: Features, found: _Found, rows: NDArray[np.int64]
) -> tuple[_Found, FloatArray]:
    """Return the landmarks with the votes around some of them held anew, and where these votes put those, (R, d)."""
    if not len(rows):
        return found, found.positions[rows]
    similarity, spread = found.similarity.copy(), found.spread.copy()
    places, similarity[rows], spread[rows] = _voted(atlas, target, found.positions, rows)
    return found._replace(similarity=similarity, spread=spread), places


def _weighed(
    atlas: LandmarkAtlas,
    placed: Placed,
    grid: Grid,
    found: _Found,
    counted: NDArray[np.bool_],
    seen: NDArray[np.bool_],
) -> Located:
    """Return the landmarks with all that speaks for them."""
    positions, similarity, spread = found
    neighbours_say = placed.by_neighbours(atlas, positions)
    misfit = np.linalg.norm(positions - neighbours_say, axis=1)
    # what is seen in the image lies in it, whatever its neighbours say
    depth = np.where(seen, np.maximum(grid.depth(positions), 0.0), grid.depth(neighbours_say))
    return Located(
        positions, LandmarkEvidence(similarity, misfit, np.minimum(spread, _MAX_SPREAD_MM), depth), counted, seen
    )


def reliability_of(located: Located, atlas: LandmarkAtlas) -> FloatArray:
    """Return the probability (L,) that each landmark lies within 10 mm of the truth.

    0 outside the image, and on another part of the body than the sure landmarks say.
    """
    similarity, misfit, spread, depth = located.evidence
    calibrated = atlas.calibration(similarity, misfit, spread=spread, depth=depth)
    calibrated = np.where(located.seen, np.maximum(calibrated, SEEN_RELIABILITY), calibrated)
    sure = located.inside & (calibrated >= _SURE_RELIABILITY)
    misplaced = atlas.constellation.misplaced(located.positions, sure)
    return np.where(located.inside & ~misplaced, calibrated, 0.0)


def looks_known(reliability: FloatArray, inside: NDArray[np.bool_]) -> bool:
    """Whether an image looks as the atlas's people do, upright, by its landmarks: reliability and inside are (L,)."""
    return bool(inside.any()) and float(reliability[inside].mean()) >= MIN_MEAN_RELIABILITY


def _counted(
    atlas: LandmarkAtlas, target: Features, image: Image, positions: FloatArray, shown: NDArray[np.bool_]
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return the positions (L, 3) with the vertebrae that are shown on the bodies of their levels, and which these are.

    As they were, and none, where the bodies are not seen; none where the upper thoracic spine is not in view.
    """
    from samreg.matching import interpolate

    rows = [i for i, name in enumerate(atlas.names) if shown[i] and name in LEVELS]
    levels = [LEVELS.index(atlas.names[i]) for i in rows]
    bodies = count_bodies(image, levels, positions[rows])
    counted = np.zeros(len(positions), dtype=bool)
    if bodies is None:
        return positions, counted
    whitening, means = (part.to(target.device) for part in atlas.metric)
    vectors = interpolate(target, bodies.centres).float() @ whitening.T
    score = vectors @ means.T - 0.5 * means.square().sum(dim=1) - 0.5 * vectors.square().sum(dim=1)[:, None]
    log_likelihood = np.full((len(bodies.centres), len(LEVELS)), np.nan)
    known = [i for i, name in enumerate(atlas.names) if name in LEVELS]
    log_likelihood[:, [LEVELS.index(atlas.names[i]) for i in known]] = score[:, known].cpu().numpy()
    first = first_level(bodies, levels, positions[rows], log_likelihood)
    if first is None:
        return positions, counted
    above = is_counted_from_above(levels)
    if above and _hangs_low(image, first, bodies.centres):
        first -= 1
    result = positions.copy()
    result[rows] = on_bodies(bodies, first, levels, positions[rows])
    if above:
        counted[rows] = [0 <= level - first < len(bodies.centres) for level in levels]
    return result, counted


def _hangs_low(image: Image, first: int, centres: FloatArray) -> bool:
    """Whether the first ribs hang on the body (N, 3) counted as T2, the first of them being of the level ``first``."""
    levels = first + np.arange(len(centres))
    known = (levels >= 0) & (levels < len(LEVELS))
    low, high = _RIB_ON_T2
    return low < first_rib_level(image, levels[known].tolist(), centres[known]) < high


def _voted(
    atlas: LandmarkAtlas, target: Features, positions: FloatArray, wanted: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Match every person's landmarks around the positions (L, d); return place, similarity, spread of those wanted."""
    from samreg.matching import Prediction, geometric_median, vote_of

    scale = target.scale
    landmark = atlas.rows[:, 1]
    used = np.isin(landmark, wanted)
    landmark = landmark[used]
    around = replace(
        atlas.around, vectors=atlas.around.vectors[torch.from_numpy(used)].to(target.device),
        offsets=atlas.around.offsets[used], in_body=atlas.around.in_body[used],
    )  # fmt: skip
    window = Prediction(positions[landmark], _WINDOW_MM * scale, _WINDOW_PENALTY)
    votes = vote_of(around, target, prediction=window, matrix=np.eye(positions.shape[1]))
    owns = [np.flatnonzero(landmark == i) for i in wanted]
    said = np.zeros((len(wanted), max(map(len, owns)), positions.shape[1]))
    weight = np.zeros(said.shape[:2])  # of nothing, where a landmark has fewer people
    for k, own in enumerate(owns):
        said[k, : len(own)] = votes.positions[own]
        weight[k, : len(own)] = 1 / (votes.spread[own] + _LEAST_SPREAD_MM * scale)
    places = geometric_median(said, weight, soft=_MEDIAN_SOFTNESS_MM * scale)
    similarity = np.array([np.median(votes.similarity[own]) for own in owns])
    off = np.linalg.norm(said - places[:, None], axis=2)
    spread = np.array([np.median(off[k, : len(own)]) for k, own in enumerate(owns)])
    return places, similarity, spread

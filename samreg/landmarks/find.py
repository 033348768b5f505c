"""find_landmarks(): the named landmarks of a scan, without a template of one's own."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.landmarks.atlas import LandmarkAtlas
from samreg.landmarks.match import embedded
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.points import Points

if TYPE_CHECKING:
    from samreg.matching import Features

ATLASES = Path(__file__).parent / "atlases"
MIN_RELIABILITY = 0.5  # below which a landmark is called unsure

_CANDIDATES = 24  # places considered for each landmark
_SEARCHED = 3000  # most likely voxels among which they are
# at a scale of 1 (:attr:`samreg.matching.Features.scale`):
_APART_MM = 8.0  # between two candidates
_OUTSIDE_MM = 40.0  # outside the image a landmark is not looked for
_WINDOW_MM, _WINDOW_PENALTY = 16.0, 0.2  # of the search around the place chosen
_MEDIAN_SOFTNESS_MM = 2.0
_SCORE_WEIGHT = 0.15  # of the discriminant's log likelihood: neighbouring channels and voxels say the same
_BLOCK_MB = 256
_VERTEBRA = "vertebra_"
_MIN_MEAN_RELIABILITY = 0.4  # of the landmarks in an image: 0.6 in chests, 0.25 at most in those turned upside down
_LEVEL_MM = 12.0  # an error beyond which a vertebra lies on another level: about half the distance between two


@dataclass(frozen=True, eq=False)
class FoundLandmarks:
    """Where the landmarks of an atlas lie in an image.

    Parameters
    ----------
    points
        (N, d) positions, LPS mm; for a landmark outside the image where it is expected.
    names
        Of the landmarks: all that the atlas has.
    reliability
        (N,) calibrated probability that the landmark lies within 10 mm; 0 outside the image, and where it was found at
        the place of a surer one.
    spread
        (N,) median distance of what the atlas's people say from the position, mm; NaN outside the image.
    inside
        (N,) whether the landmark is expected in the image.
    notes
        What the user should know, in plain words.

    Examples
    --------
    >>> one = np.ones(2)
    >>> found = FoundLandmarks(np.zeros((2, 3)), ("carina", "apex"), 0.4 * one + [0.5, 0], one, one > 0)
    >>> found.sure.tolist(), found.to_points().names
    ([True, False], ('carina',))
    """

    points: FloatArray
    names: tuple[str, ...]
    reliability: FloatArray
    spread: FloatArray
    inside: NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    @property
    def sure(self) -> NDArray[np.bool_]:
        """(N,) landmarks in the image with a reliability of at least 0.5."""
        return self.inside & (self.reliability >= MIN_RELIABILITY)

    def to_points(self, *, unsure: bool = False) -> Points:
        """Return the landmarks that are sure as :class:`samreg.Points`, scored by reliability.

        Parameters
        ----------
        unsure
            Also those in the image that are not.
        """
        kept = self.inside if unsure else self.sure
        return Points(self.points, self.names, self.reliability).take(np.flatnonzero(kept))


def find_landmarks(
    image: Any, *, atlas: LandmarkAtlas | str | os.PathLike[str] | None = None, model: Any = None, device: str = "auto"
) -> FoundLandmarks:
    """Find named landmarks in an image.

    The candidates for a landmark are the places most like it in the people of the atlas, by linear discriminant
    analysis of the embeddings; the most plausible constellation of candidates is chosen; and around each, the people's
    landmarks are matched one by one with their neighbourhoods, and their geometric median is taken.

    Parameters
    ----------
    image
        As :func:`samreg.register` takes it, or its embedding (:func:`samreg.embed`).
    atlas
        From :func:`samreg.build_landmark_atlas`, or its file. The atlas of the trunk that samreg ships unless given:
        bones, vessels, airways and organs from neck to pelvis.
    model
        Name, path or model; must be the atlas's own. samreg's default unless given.
    device
        "auto", "cpu", "cuda" or "mps", where to embed and to search.

    Returns
    -------
    FoundLandmarks

    Raises
    ------
    InputError
        When there is no atlas for the model, the atlas is of another model, or the image cannot be embedded.

    Examples
    --------
    >>> from samreg.embedding.embed import embed
    >>> from samreg.landmarks import Template, build_landmark_atlas
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> embedding = embed({"array": noise, "spacing": (8, 8, 8)}, model="mind")
    >>> points = Points([[60.0, 60.0, 60.0], [60.0, 60.0, 100.0]], ("carina", "apex"))
    >>> atlas = build_landmark_atlas([Template(name, embedding, points) for name in ("ALICE", "BOB")])
    >>> found = find_landmarks(embedding, atlas=atlas)
    >>> bool(abs(found.points - points.positions).max() < 8)  # mm
    True
    """
    embedding = embedded(image, model, device, "image")
    known = _atlas_for(embedding.model) if atlas is None else atlas
    if not isinstance(known, LandmarkAtlas):
        known = LandmarkAtlas.load(known)
    if known.model != embedding.model:
        raise InputError(
            f"the landmark atlas is of the model {known.model}, the image was embedded by {embedding.model}; embed it "
            "by the atlas's model, or build an atlas by `samreg landmarks build`"
        )
    from samreg.matching import features

    located = locate(known, features(embedding, device=device), embedding.image_grid)
    similarity, misfit, spread, depth = located.evidence
    inside = depth >= 0
    reliability = np.where(inside, known.calibration(similarity, misfit, spread=spread, depth=depth), 0.0)
    for pair in known.constellation.clashing(located.positions):  # one of them was found where the other is
        reliability[pair[reliability[pair].argmin()]] = 0.0
    found = FoundLandmarks(located.positions, known.names, reliability, np.where(inside, spread, np.nan), inside)
    return replace(found, notes=_notes(found, known))


def _notes(found: FoundLandmarks, atlas: LandmarkAtlas) -> tuple[str, ...]:
    sure, inside = int(found.sure.sum()), int(found.inside.sum())
    notes = [f"{sure} landmarks found, {inside - sure} unsure, {len(found) - inside} expected outside the image"]
    if inside and found.reliability[found.inside].mean() < _MIN_MEAN_RELIABILITY:
        notes.append(
            "little of the image looks as in the atlas's people: check that it shows what the atlas covers, in the "
            "atlas's units, and that its header has head and feet, front and back where they are"
        )
    is_vertebra = np.array([name.startswith(_VERTEBRA) for name in found.names])
    levels = [found.names[i].removeprefix(_VERTEBRA) for i in np.flatnonzero(found.sure & is_vertebra)]
    if levels:
        notes.append(f"vertebrae {', '.join(levels)}" + _level_warning(atlas, is_vertebra))
    return tuple(notes)


def _level_warning(atlas: LandmarkAtlas, is_vertebra: NDArray[np.bool_]) -> str:
    """Return how often the atlas's own people had a vertebra on another level."""
    errors = np.zeros(0) if atlas.errors is None else atlas.errors[:, is_vertebra]
    errors = errors[~np.isnan(errors)]
    if not len(errors):
        return "; count the levels before use"
    wrong = np.mean(errors > _LEVEL_MM)
    return f"; {wrong:.0%} of the vertebrae of the atlas's people were put on another level: count before use"


@lru_cache(maxsize=4)
def _read(path: Path) -> LandmarkAtlas:
    return LandmarkAtlas.load(path)


def _atlas_for(model: str) -> LandmarkAtlas:
    """Return the atlas shipped for a model, ``name@fingerprint``."""
    name = model.split("@")[0]
    path = ATLASES / f"{name}.h5"
    if not path.is_file():
        shipped = sorted(file.stem for file in ATLASES.glob("*.h5"))
        raise InputError(
            f"samreg has no landmark atlas for the model {name}, but for {', '.join(shipped) or 'none'}; give atlas=, "
            "built by `samreg landmarks build`"
        )
    return _read(path)


@dataclass(frozen=True, eq=False)
class Located:
    """Places of L landmarks and what speaks for them.

    Parameters
    ----------
    positions
        (L, d) LPS mm.
    evidence
        Four (L,): similarity of the vectors, distance from where the neighbours put the landmark (mm), spread of what
        the people say (mm), how deep in the image the landmark is expected (mm, negative outside).
    """

    positions: FloatArray
    evidence: tuple[FloatArray, FloatArray, FloatArray, FloatArray]


def locate(atlas: LandmarkAtlas, target: Features, grid: Grid) -> Located:
    """Find an atlas's landmarks in features of the same model.

    Parameters
    ----------
    atlas
        With at least two landmarks on one person.
    target
        Of the image.
    grid
        Of the image: what it shows.

    Raises
    ------
    InputError
        When how the landmarks lie to each other cannot be learnt from the atlas.
    """
    constellation, scale = atlas.constellation, target.scale
    candidates, scores = _candidates(atlas, target)
    size, shift = constellation.align(np.array([places[0] for places in candidates]))
    expected = size * constellation.mean + shift
    looked_for = grid.depth(expected) > -_OUTSIDE_MM * scale
    nothing = np.zeros((0, expected.shape[1]))
    chosen = constellation.choose(
        [(c - shift) / size if wanted else nothing for c, wanted in zip(candidates, looked_for, strict=True)],
        [s if wanted else s[:0] for s, wanted in zip(scores, looked_for, strict=True)],
    )
    positions = np.array([c[i] if i >= 0 else place for c, i, place in zip(candidates, chosen, expected, strict=True)])
    similarity, spread = np.zeros(len(positions)), np.full(len(positions), np.inf)
    voted = np.flatnonzero(looked_for)
    positions[voted], similarity[voted], spread[voted] = _voted(atlas, target, positions, voted)
    seen = np.where(looked_for[:, None], (positions - shift) / size, np.nan)
    neighbours_say = size * constellation.expected(seen) + shift
    neighbours_say = np.where(np.isnan(neighbours_say), expected, neighbours_say)
    misfit = np.linalg.norm(positions - neighbours_say, axis=1)
    return Located(positions, (similarity, misfit, np.minimum(spread, 1e3), grid.depth(neighbours_say)))


def _candidates(atlas: LandmarkAtlas, target: Features) -> tuple[list[FloatArray], list[FloatArray]]:
    """Return for each landmark the most likely places (K, d), best first, and their log likelihoods less the best's."""
    whitening, means = atlas.metric
    device = target.device
    whitening, means = whitening.to(device), means.to(device)
    best = torch.full((len(means), 0), 0.0, device=device)
    rows = torch.zeros((len(means), 0), dtype=torch.long, device=device)
    block = max(1, _BLOCK_MB * 2**20 // (4 * (len(means) + 2 * whitening.shape[0])))
    for part in torch.arange(len(target), device=device).split(block):
        vectors = target.vectors(part).float() @ whitening.T
        score = means @ vectors.T - 0.5 * vectors.square().sum(dim=1)
        score, order = torch.cat([best, score], dim=1).topk(min(_SEARCHED, best.shape[1] + len(part)), dim=1)
        rows = torch.cat([rows, part.expand(len(means), -1)], dim=1).gather(1, order)
        best = score
    apart = _APART_MM * target.scale
    places, scores = [], []
    for score, row in zip(best.cpu().numpy(), rows, strict=True):
        position = target.positions(row)
        kept: list[int] = []
        free = np.ones(len(position), dtype=bool)
        while free.any() and len(kept) < _CANDIDATES:
            kept.append(int(free.argmax()))
            free &= ((position - position[kept[-1]]) ** 2).sum(axis=1) > apart**2
        places.append(position[kept])
        scores.append(2 * _SCORE_WEIGHT * (score[kept] - score[kept[0]]))
    return places, scores


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
    places, similarity, spread = [], [], []
    for i in wanted:
        own = landmark == i
        weight = 1 / (votes.spread[own] + 4.0 * scale)
        place = geometric_median(votes.positions[own][None], weight[None], soft=_MEDIAN_SOFTNESS_MM * scale)[0]
        places.append(place)
        similarity.append(float(np.median(votes.similarity[own])))
        spread.append(float(np.median(np.linalg.norm(votes.positions[own] - place, axis=1))))
    return np.array(places), np.array(similarity), np.array(spread)

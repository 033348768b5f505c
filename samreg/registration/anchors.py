"""Anchors: an atlas's landmarks, found in both images of a pair.

They guide an engine, tell by name what one image alone shows, and are evidence of how good a registration is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samreg.device import run_in_threads
from samreg.quality.regions import region_of
from samreg.registration.misses import LandmarkMisses
from samreg.spatial.grid import FloatArray
from samreg.spatial.points import Points
from samreg.spatial.transforms import Transform

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.landmarks.atlas import LandmarkAtlas

#: Landmarks that guide no engine: these points slide along ribs, which guide as a whole.
_SLIDING = re.compile(r"(^|_)rib\d+_(lateral|tip)$")
#: Those that guide where the image itself shows them; an embedding alone lets them slide.
_TO_SEE = re.compile(r"diaphragm_dome$")
#: Where they are not counted, vertebrae are found one level off, many together.
_COUNTED = re.compile(r"^vertebra_")
_MIN_RELIABILITY = 0.35  # in both images, of a landmark that guides
_MIN_GUIDES = 5  # fewer may all be wrong
# Landmarks so near each other in one image are not that much farther apart in the other, in mm and as a share.
_NEAR_MM, _FARTHER_MM, _FARTHER = 25.0, 12.0, 0.8
_BESIDE_MM = 20.0  # places on ribs lie 24 mm apart, and landmarks on their surface
_CLEARLY_OUTSIDE_MM = 10.0
_MIN_ALONE = 8  # landmarks that each of two images surely shows alone, for them to show different parts of the body
_MAX_NAMES = 3  # of a region, to be listed one by one


@dataclass(frozen=True, eq=False)
class Anchors:
    """Where an atlas finds its L landmarks in the fixed and in the moving image.

    Parameters
    ----------
    names
        Of the landmarks.
    fixed, moving
        (L, d) positions, LPS mm; of a landmark outside an image, where it is expected.
    reliability
        (2, L) probability that it lies within 10 mm in the fixed and in the moving image; 0 outside the image.
    depth
        (2, L) how deep in the images the landmarks are expected, mm; negative outside.
    counted
        (2, L) vertebrae whose level was counted in each image.
    seen
        (2, L) landmarks that each image shows by itself (:mod:`samreg.landmarks.structures`).
    on_scapulae, on_ribs
        (2, S, d) places on shoulder blades and on ribs, found by what they are in both images, LPS mm.
    points
        (2, P, d) single points, such as apices of lungs and carinas, that both images show by themselves, LPS mm.

    Examples
    --------
    >>> places, sure = np.zeros((2, 3)), np.array([[0.9, 0.9], [0.9, 0.1]])
    >>> none = np.zeros((2, 2), bool)
    >>> anchors = Anchors(("carina", "vertebra_T7"), places, places, sure, np.ones((2, 2)), none, none)
    >>> anchors.sure.tolist(), anchors.guides is None  # one is too few
    ([True, False], True)
    """

    names: tuple[str, ...]
    fixed: FloatArray
    moving: FloatArray
    reliability: FloatArray
    depth: FloatArray
    counted: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    on_scapulae: FloatArray = field(default_factory=lambda: np.zeros((2, 0, 3)))
    on_ribs: FloatArray = field(default_factory=lambda: np.zeros((2, 0, 3)))
    points: FloatArray = field(default_factory=lambda: np.zeros((2, 0, 3)))

    @property
    def sure(self) -> NDArray[np.bool_]:
        """(L,) landmarks that are surely found in both images."""
        return np.asarray(self._sure_in_each.all(axis=0))

    @property
    def is_credible(self) -> bool:
        """Whether both images look as the atlas's people do, upright and right way round."""
        from samreg.landmarks.locate import looks_known

        return all(map(looks_known, self.reliability, self.depth >= 0))

    @property
    def guiding(self) -> NDArray[np.bool_]:
        """(L,) landmarks that guide an engine; none where there are too few.

        They are reliable and steady, and none beside them that is more reliable contradicts them.
        """
        to_see, to_count = self._are(_TO_SEE), self._are(_COUNTED)
        steady = ~self._are(_SLIDING) & (~to_see | self.seen.all(axis=0)) & (~to_count | self.counted.all(axis=0))
        reliability = self.reliability.min(axis=0)
        chosen = np.flatnonzero((reliability >= _MIN_RELIABILITY) & steady)
        chosen = chosen[_uncontradicted(self.fixed[chosen], self.moving[chosen], reliability[chosen])]
        guiding = np.zeros(len(self.names), dtype=bool)
        guiding[chosen] = self.is_credible and len(chosen) >= _MIN_GUIDES
        return guiding

    @property
    def guides(self) -> tuple[FloatArray, FloatArray] | None:
        """Those of the fixed and of the moving image that guide an engine, (N, d) each, LPS mm; None without any."""
        chosen = self.guiding
        if not chosen.any():
            return None
        fixed, moving = (
            np.concatenate([positions[chosen], places])
            for positions, places in zip((self.fixed, self.moving), self._by_themselves, strict=True)
        )
        return fixed, moving

    @property
    def single(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Single places that both images show, of the fixed and the moving one, (N, d) each, LPS mm; reliability.

        They are the landmarks and points that guide, and lateral places and tips of ribs. Places on bones are not
        among them: they say where a bone lies, and less of which place along it is which. The reliability (N,) is that
        in the image in which it is smaller. None of them where there are no :attr:`guides`.
        """
        from samreg.landmarks.locate import SEEN_RELIABILITY

        chosen = self.guiding
        points = self.points if chosen.any() else self.points[:, :0]
        if chosen.any():
            chosen |= self._are(_SLIDING) & self.seen.all(axis=0) & (self.reliability.min(axis=0) >= _MIN_RELIABILITY)
        fixed, moving = (
            np.concatenate([positions[chosen], own])
            for positions, own in zip((self.fixed, self.moving), points, strict=True)
        )
        reliability = np.append(self.reliability.min(axis=0)[chosen], np.full(points.shape[1], SEEN_RELIABILITY))
        return fixed, moving, reliability

    def _are(self, kind: re.Pattern[str]) -> NDArray[np.bool_]:
        """(L,) landmarks whose names are of a kind."""
        return np.array([bool(kind.search(name)) for name in self.names], dtype=bool)

    @property
    def _by_themselves(self) -> FloatArray:
        """(2, S, d) places on bones and single points, LPS mm."""
        return np.concatenate([self.on_scapulae, self.on_ribs, self.points], axis=1)

    def why_unguided(self) -> str:
        """Return in one line why none of them guides an engine."""
        why = (
            f"at least {_MIN_GUIDES} are needed that do not slide along ribs and, if vertebrae, were counted"
            if self.is_credible
            else "the images do not look as its people do"
        )
        return (
            f"the landmark atlas given as anchors guided nothing: {self.sure.sum()} of its {len(self.names)} landmarks "
            f"were surely found in both images; {why}"
        )

    def offset(self, transform: Transform) -> FloatArray:
        """Return where the landmarks lie in the moving image, less where a transform takes them, (L, d) mm."""
        return np.asarray(self.moving - transform.transform_points(self.fixed))

    def missed(self, transform: Transform, *, guided: bool) -> LandmarkMisses:
        """Return how far a transform misses the sure ones; ``guided``: the engine had :attr:`guides`.

        Those beside places on bones, or single points, that guide count as guided too.
        """
        chosen = np.flatnonzero(self.sure)
        names = tuple(self.names[i] for i in chosen)
        fixed, moving = (
            Points(positions[chosen], names, scores[chosen])
            for positions, scores in zip((self.fixed, self.moving), self.reliability, strict=True)
        )
        distance = np.linalg.norm(self.offset(transform)[chosen], axis=1)
        has_guide = self.guiding.copy()
        places = self._by_themselves[0]
        if self.guides is not None and len(places):
            beside = np.linalg.norm(self.fixed[:, None] - places, axis=2).min(axis=1)
            has_guide |= beside < _BESIDE_MM
        return LandmarkMisses(fixed, moving, distance, has_guide[chosen] & guided)

    @property
    def show_different_parts(self) -> bool:
        """Whether the images surely show different parts of the body: no landmark both, and each several alone."""
        return bool(not self.sure.any() and self._alone.sum(axis=1).min() >= _MIN_ALONE)

    def shown_by_one(self) -> tuple[str, ...]:
        """Return, by region and name, what one image surely shows and the other surely does not.

        Examples
        --------
        >>> names = ("vertebra_L4", "vertebra_L5", "carina")
        >>> depth = np.array([[60.0, 30.0, 200.0], [-20.0, -50.0, 90.0]])
        >>> places = np.zeros((3, 3))
        >>> none = depth > 1e3
        >>> print(*Anchors(names, places, places, 0.9 * (depth > 0), depth, none, none).shown_by_one())
        only the fixed image shows the lumbar spine (vertebra L4, vertebra L5)
        """
        if not (self.is_credible or self.show_different_parts):
            return ()
        notes = []
        for role, shown in zip(("fixed", "moving"), self._alone, strict=True):
            regions: dict[str, list[str]] = {}
            for i in np.flatnonzero(shown):
                regions.setdefault(region_of(self.names[i]), []).append(self.names[i].replace("_", " "))
            if regions:
                told = (
                    f"the {region} ({', '.join(names) if len(names) <= _MAX_NAMES else f'{len(names)} landmarks'})"
                    for region, names in regions.items()
                )
                notes.append(f"only the {role} image shows {', '.join(told)}")
        return tuple(notes)

    @property
    def _alone(self) -> NDArray[np.bool_]:
        """(2, L) landmarks that an image surely shows and the other surely does not."""
        return np.asarray(self._sure_in_each & (self.depth[::-1] < -_CLEARLY_OUTSIDE_MM))

    @property
    def _sure_in_each(self) -> NDArray[np.bool_]:
        from samreg.landmarks.find import MIN_RELIABILITY

        return np.asarray(self.reliability >= MIN_RELIABILITY)


def find_anchors(
    embeddings: tuple[Embedding, Embedding],
    atlas: LandmarkAtlas,
    *,
    turn: FloatArray | None = None,
    device: str = "cpu",
) -> Anchors:
    """Find an atlas's landmarks, and bones, in the fixed and in the moving image.

    Parameters
    ----------
    embeddings
        Of the images, by the atlas's model; bones are found in those that have their image beside them
        (:attr:`samreg.embedding.Embedding.volume`).
    atlas
        With the calibration of its reliability.
    turn
        (d, d) orthogonal matrix that brings the moving body upright, about the centre of its image; it lies upright
        unless given.
    device
        Where to search.
    """
    from samreg.landmarks.skeleton import common_points, paired_bones, survey
    from samreg.matching import features
    from samreg.seeding.turns import turned_embedding

    turn = np.eye(embeddings[1].image_grid.ndim) if turn is None else turn
    center = embeddings[1].image_grid.center
    upright = embeddings[0], turned_embedding(embeddings[1], turn, center)
    both = run_in_threads([partial(survey, atlas, one, features(one, device=device)) for one in upright])
    located = [one.located for one in both]
    places = [*paired_bones(*both), common_points(*both)] if len(turn) == 3 else 3 * [np.zeros((2, 0, len(turn)))]

    def lying(upright: FloatArray) -> FloatArray:
        """Return places (N, d) of the upright moving image where they lie in the one given."""
        return np.asarray((upright - center) @ turn + center)

    return Anchors(
        atlas.names,
        located[0].positions,
        lying(located[1].positions),
        np.stack([one.reliability for one in both]),
        np.stack([one.evidence.depth for one in located]),
        np.stack([one.counted for one in located]),
        np.stack([one.seen for one in located]),
        *(np.stack([on_fixed, lying(on_moving)]) for on_fixed, on_moving in places),
    )


def _uncontradicted(fixed: FloatArray, moving: FloatArray, reliability: FloatArray) -> NDArray[np.int64]:
    """Return which landmarks (N, d) of the fixed and the moving image no more reliable one beside them contradicts.

    An engine would follow both, as the top of a spleen found on the dome of the diaphragm in one image alone.
    """
    kept: list[int] = []
    for i in np.argsort(-reliability, kind="stable"):
        distances = [np.linalg.norm(places[kept] - places[i], axis=1) for places in (fixed, moving)]
        near, far = np.minimum(*distances), np.maximum(*distances)
        if not ((near < _NEAR_MM) & (far > near + np.maximum(_FARTHER_MM, _FARTHER * near))).any():
            kept.append(int(i))
    return np.array(sorted(kept), dtype=np.int64)

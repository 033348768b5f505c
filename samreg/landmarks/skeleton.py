"""Bones, airways and other landmarks of two images, found by what they are, and where they take points near them.

Neighbouring vertebrae look alike to an embedding, as do the places of a shoulder blade. Found as a counted spine and by
its shape, a bone says where it is in either image, and with that where everything on it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from samreg.landmarks.locate import Located, locate, looks_known, placed_in, reliability_of
from samreg.landmarks.rib_pairs import paired_ribs
from samreg.landmarks.scapulae import shared_places
from samreg.landmarks.spine import LEVELS
from samreg.seeding.affine import fit_least_squares
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.standard import sample_mask

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.landmarks.atlas import LandmarkAtlas
    from samreg.matching import Features

_SCAPULA_REACH_MM, _SPINE_REACH_MM = 16.0, 35.0  # from the places of a bone, of a point that goes with it
_SCAPULA_WIDTH_MM, _SPINE_WIDTH_MM = 15.0, 25.0  # standard deviation of the places by which a point is taken
_RIB_REACH_MM, _RIB_WIDTH_MM = 16.0, 25.0
_POINT_REACH_MM, _AROUND_REACH_MM = 8.0, 25.0  # of a single place: at it, and around it
_MIN_RELIABILITY = 0.6  # of a landmark that the embedding alone shows
_FROM_SCAPULA_MM = 30.0
_MIN_VERTEBRAE = 4
_MIN_PLACES = 4  # of a bone, for a similarity of them
_MIN_RIB_PLACES = 12
_AIR_HU = -1024
_FAR_WEIGHT = 1e-3  # of places however far, so that a few always count


@dataclass(frozen=True, eq=False)
class Survey:
    """What an atlas finds in an image.

    Parameters
    ----------
    names
        Of its L landmarks.
    located
        Where they and the bones lie.
    reliability
        (L,) probability that each lies within 10 mm; 0 outside the image.
    """

    names: tuple[str, ...]
    located: Located
    reliability: FloatArray

    @property
    def is_credible(self) -> bool:
        """Whether the image looks as the atlas's people do, upright and right way round."""
        return looks_known(self.reliability, self.located.evidence[3] >= 0)

    @property
    def vertebrae(self) -> NDArray[np.bool_]:
        """(L,) those in the image that were counted."""
        is_level = np.array([name in LEVELS for name in self.names], dtype=bool)
        return np.asarray(is_level & self.located.counted & (self.located.evidence[3] >= 0))


_SURVEYS: WeakKeyDictionary[Embedding, WeakKeyDictionary[LandmarkAtlas, Survey]] = WeakKeyDictionary()


def survey(atlas: LandmarkAtlas, embedding: Embedding, target: Features) -> Survey:
    """Find an atlas's landmarks and, where the embedding has its image beside it, the bones; once for each atlas.

    Parameters
    ----------
    atlas
        Of the embedding's model.
    embedding, target
        Of an image in which the body lies upright, and its features.
    """
    known = _SURVEYS.setdefault(embedding, WeakKeyDictionary())
    if atlas not in known:
        placed = placed_in(atlas, embedding, target)
        located = locate(atlas, target, embedding.image_grid, image=_shown(embedding), placed=placed)
        known[atlas] = Survey(atlas.names, located, reliability_of(located, atlas))
    return known[atlas]


def _shown(embedding: Embedding) -> Image | None:
    """Return the CT beside an embedding as far as its body and the caller's mask go; air elsewhere."""
    if embedding.volume is None:
        return None
    inside = sample_mask(Image(embedding.body, embedding.local_grid), embedding.volume.grid)
    return embedding.volume.with_array(np.where(inside, embedding.volume.array, np.int16(_AIR_HU)))


@dataclass(frozen=True, eq=False)
class PairedBone:
    """A bone, or single places such as apices of lungs, that two images show.

    Parameters
    ----------
    fixed, moving
        (N, 3) places on it, LPS mm.
    reach
        How near a point goes with it, mm.
    width
        Standard deviation of the places that take a point along, mm; 0 where the nearest alone does.
    share
        Of the bone's word where a match near it says something else.

    Examples
    --------
    >>> places = np.random.default_rng(0).normal(0, 30, (9, 3))
    >>> bone = PairedBone(places, places + [0.0, 0.0, 5.0], reach=20.0, width=20.0)
    >>> bone.near(places[:1]).tolist(), np.allclose(bone.taken(places[:1]), places[:1] + [0.0, 0.0, 5.0])
    ([True], True)
    """

    fixed: FloatArray
    moving: FloatArray
    reach: float
    width: float
    share: float = 0.5

    def near(self, points: FloatArray) -> NDArray[np.bool_]:
        """Return which of the points (N, 3) of the fixed image go with the bone."""
        return np.asarray(KDTree(self.fixed).query(points)[0] <= self.reach)

    def taken(self, points: FloatArray) -> FloatArray:
        """Return where the bone takes points (N, 3), by a similarity of the places around each, or with the nearest."""
        if self.width == 0:
            return np.asarray(points + (self.moving - self.fixed)[KDTree(self.fixed).query(points)[1]])
        result = np.empty_like(points)
        for row, point in enumerate(points):
            squared = ((self.fixed - point) ** 2).sum(axis=1)
            weight = np.exp(-0.5 * squared / self.width**2) + _FAR_WEIGHT
            around = fit_least_squares(self.fixed, self.moving, weight, kind="similarity")
            result[row] = around.transform_points(point[None])[0]
        return result


def paired_bones(fixed: Survey, moving: Survey) -> tuple[PairedBone, ...]:
    """Return the bones and single places that both images show, those first that say most of a point.

    None where one of the images does not look as the atlas's people do.
    """
    if not (fixed.is_credible and moving.is_credible):
        return ()
    seen, named = _paired_landmarks(fixed, moving)
    seen = np.concatenate([paired_points(fixed, moving), seen], axis=1)
    bones = [
        PairedBone(seen[0], seen[1], _POINT_REACH_MM, 0.0, share=1.0),
        PairedBone(named[0], named[1], _POINT_REACH_MM, 0.0),
    ]
    bones += [
        PairedBone(places[0], places[1], _SCAPULA_REACH_MM, _SCAPULA_WIDTH_MM)
        for places in paired_scapulae(fixed, moving)
    ]
    counted = np.flatnonzero(fixed.vertebrae & moving.vertebrae)
    if len(counted) >= _MIN_VERTEBRAE:
        spines = fixed.located.positions[counted], moving.located.positions[counted]
        bones.append(PairedBone(spines[0], spines[1], _SPINE_REACH_MM, _SPINE_WIDTH_MM, share=0.0))
    ribs = paired_ribs(fixed.located.structures.ribs, moving.located.structures.ribs)
    if ribs.shape[1] >= _MIN_RIB_PLACES:
        bones.append(PairedBone(ribs[0], ribs[1], _RIB_REACH_MM, _RIB_WIDTH_MM))
    bones.append(PairedBone(seen[0], seen[1], _AROUND_REACH_MM, 0.0, share=0.0))
    return tuple(bone for bone in bones if len(bone.fixed))


def _paired_landmarks(fixed: Survey, moving: Survey) -> tuple[FloatArray, FloatArray]:
    """Return landmarks that both images show by themselves, and those an embedding surely does, (2, S, 3) LPS mm each.

    Without vertebrae, whose like lies beside them.
    """
    both = [one.located for one in (fixed, moving)]
    positions = np.stack([one.positions for one in both])
    inside = np.all([one.evidence[3] >= 0 for one in both], axis=0)
    seen = np.all([one.seen for one in both], axis=0)
    is_level = np.array([name in LEVELS for name in fixed.names], dtype=bool)
    sure = np.minimum(fixed.reliability, moving.reliability) >= _MIN_RELIABILITY
    return positions[:, inside & seen], positions[:, inside & sure & ~seen & ~is_level]


def paired_scapulae(fixed: Survey, moving: Survey) -> list[FloatArray]:
    """Return places on the shoulder blades that both images show, (2, S, 3) LPS mm for each."""
    first, second = fixed.located.structures.scapulae, moving.located.structures.scapulae
    pairs = [shared_places(first[side], second[side]) for side in sorted(first.keys() & second.keys())]
    return [places for places in pairs if places.shape[1] >= _MIN_PLACES]


def paired_points(fixed: Survey, moving: Survey) -> FloatArray:
    """Return single points (:class:`Structures`) that both images show, (2, S, 3) LPS mm."""
    first, second = fixed.located.structures.points, moving.located.structures.points
    shared = sorted(first.keys() & second.keys())
    return np.array([[one[name] for name in shared] for one in (first, second)]).reshape(2, len(shared), 3)


def paired_places(fixed: Survey, moving: Survey) -> FloatArray:
    """Return places on shoulder blades and ribs, and single points, that both images show, (2, S, 3) LPS mm.

    Those on ribs under a shoulder blade, which moves against them, are left out.
    """
    scapulae = paired_scapulae(fixed, moving)
    ribs = paired_ribs(fixed.located.structures.ribs, moving.located.structures.ribs)
    for scapula in scapulae:
        near = [KDTree(blade).query(places)[0] < _FROM_SCAPULA_MM for blade, places in zip(scapula, ribs, strict=True)]
        ribs = ribs[:, ~np.any(near, axis=0)]
    return np.concatenate([*scapulae, ribs, paired_points(fixed, moving)], axis=1)


@dataclass(frozen=True, eq=False)
class Taken:
    """Which of N points of the fixed image go with a bone, and where it takes them.

    Parameters
    ----------
    rows
        (M,) of the points that do.
    positions
        (M, 3) in the moving image, LPS mm.
    share
        (M,) of the bone's word (:class:`PairedBone`).
    """

    rows: NDArray[np.int64]
    positions: FloatArray
    share: FloatArray


def taken_by_bones(bones: Sequence[PairedBone], points: FloatArray) -> Taken:
    """Return where bones take points (N, 3) of the fixed image, LPS mm; of several, the first."""
    free = np.ones(len(points), dtype=bool)
    rows, positions, shares = [np.zeros(0, dtype=np.int64)], [np.zeros((0, 3))], [np.zeros(0)]
    for bone in bones:
        near = np.flatnonzero(free & bone.near(points))
        free[near] = False
        rows.append(near)
        positions.append(bone.taken(points[near]))
        shares.append(np.full(len(near), bone.share))
    return Taken(np.concatenate(rows), np.concatenate(positions), np.concatenate(shares))

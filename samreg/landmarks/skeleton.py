"""Places on bones, in airways and elsewhere that two images show, found by what they are.

Neighbouring vertebrae look alike to an embedding, as do the places of a shoulder blade. Found as a counted spine and by
its shape, a bone says where it is in either image, and with that about where everything around it goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from samreg.landmarks.locate import Located, locate, looks_known, reliability_of
from samreg.landmarks.placement import placed_in
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

_MIN_RELIABILITY = 0.6  # of a landmark that the embedding alone shows
_FROM_SCAPULA_MM = 30.0
_MIN_VERTEBRAE = 4
_MIN_PLACES = 4  # on a bone
_ON_BONE_MM, _AROUND_MM = 16.0, 20.0  # of a point that goes with a bone; standard deviation of its places' weights
_FAR_WEIGHT = 1e-3  # of places however far, so that a few always count
_MIN_RIB_PLACES = 12
_AIR_HU = -1024
_DOME = "diaphragm_dome"


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
        (L,) probability that each lies within 10 mm; 0 outside the image, and on another part of the body than the sure
        landmarks say.
    """

    names: tuple[str, ...]
    located: Located
    reliability: FloatArray

    @property
    def is_credible(self) -> bool:
        """Whether the image looks as the atlas's people do, upright and right way round."""
        return looks_known(self.reliability, self.located.inside)

    @property
    def vertebrae(self) -> NDArray[np.bool_]:
        """(L,) those in the image that were counted."""
        is_level = np.array([name in LEVELS for name in self.names], dtype=bool)
        return np.asarray(is_level & self.located.counted & self.located.inside)


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
class CommonPlaces:
    """Places that two images show.

    Parameters
    ----------
    fixed, moving
        (N, d) LPS mm.
    seen
        (N,) those that the images show by themselves, such as apices of lungs; where the others lie, an embedding or
        the shape of a bone says as well.
    bones
        Which of them lie on a bone that moves as a whole, whatever lies beside it does: indices for each.

    Examples
    --------
    >>> blade = np.random.default_rng(0).normal(0, 30, (9, 3))
    >>> places = CommonPlaces(blade, blade + [0.0, 0.0, 5.0], np.zeros(9, dtype=bool), (np.arange(9),))
    >>> rows, positions = places.on_bones(np.array([blade[0], [0.0, 0.0, 500.0]]))
    >>> rows.tolist(), np.allclose(positions, blade[:1] + [0.0, 0.0, 5.0])
    ([0], True)
    """

    fixed: FloatArray
    moving: FloatArray
    seen: NDArray[np.bool_]
    bones: tuple[NDArray[np.int64], ...] = ()

    def on_bones(self, points: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
        """Return the rows of points (N, 3), LPS mm, on or beside a bone, and where it takes them, (M, 3) LPS mm.

        Each goes with a similarity of the places around it on the bone; of several bones, with the first.
        """
        rows, positions = [np.zeros(0, dtype=np.int64)], [np.zeros((0, points.shape[1]))]
        free = np.ones(len(points), dtype=bool)
        for bone in self.bones:
            fixed, moving = self.fixed[bone], self.moving[bone]
            near = np.flatnonzero(free & (KDTree(fixed).query(points)[0] <= _ON_BONE_MM))
            free[near] = False
            taken = np.empty((len(near), points.shape[1]))
            for row, point in enumerate(points[near]):
                weight = np.exp(-0.5 * ((fixed - point) ** 2).sum(axis=1) / _AROUND_MM**2) + _FAR_WEIGHT
                around = fit_least_squares(fixed, moving, weight, kind="similarity")
                taken[row] = around.transform_points(point[None])[0]
            rows.append(near)
            positions.append(taken)
        return np.concatenate(rows), np.concatenate(positions)


def no_places(ndim: int) -> CommonPlaces:
    """Return none, of images of so many dimensions."""
    return CommonPlaces(np.zeros((0, ndim)), np.zeros((0, ndim)), np.zeros(0, dtype=bool))


def common_places(fixed: Survey, moving: Survey) -> CommonPlaces:
    """Return all places that both images show: landmarks, counted vertebrae, places on bones, single points.

    None where one of the images does not look as the atlas's people do.
    """
    if not (fixed.is_credible and moving.is_credible):
        return no_places(3)
    seen, found = _common_landmarks(fixed, moving)
    seen = np.concatenate([common_points(fixed, moving), seen], axis=1)
    bones = paired_scapulae(fixed, moving)
    ribs = paired_ribs(fixed.located.structures.ribs, moving.located.structures.ribs)
    if ribs.shape[1] >= _MIN_RIB_PLACES:
        bones.append(ribs)
    others = [found]
    counted = np.flatnonzero(fixed.vertebrae & moving.vertebrae)
    if len(counted) >= _MIN_VERTEBRAE:
        others.append(np.stack([one.located.positions[counted] for one in (fixed, moving)]))
    places = np.concatenate([seen, *others, *bones], axis=1)
    index = np.arange(places.shape[1])
    sizes = [bone.shape[1] for bone in bones]
    starts = np.cumsum([places.shape[1] - sum(sizes), *sizes])[:-1]
    return CommonPlaces(places[0], places[1], index < seen.shape[1], tuple(np.split(index, starts)[1:]))


def without_places(places: CommonPlaces, points: FloatArray, reach: float) -> CommonPlaces:
    """Return the places that lie farther than ``reach`` mm from all points (N, d)."""
    if not len(places.fixed):
        return places
    kept = KDTree(points).query(places.fixed)[0] > reach
    index = np.cumsum(kept) - 1
    bones = [index[bone[kept[bone]]] for bone in places.bones]
    return CommonPlaces(
        places.fixed[kept], places.moving[kept], places.seen[kept],
        tuple(bone for bone in bones if len(bone) >= _MIN_PLACES),
    )  # fmt: skip


def _common_landmarks(fixed: Survey, moving: Survey) -> tuple[FloatArray, FloatArray]:
    """Return landmarks that both images show by themselves, and others that are surely found, (2, S, 3) LPS mm each.

    Without vertebrae, whose like lies beside them. Domes of the diaphragm are among the others, as an image may show
    another hump.
    """
    both = [one.located for one in (fixed, moving)]
    positions = np.stack([one.positions for one in both])
    reliability = np.minimum(fixed.reliability, moving.reliability)
    shown = np.all([one.inside for one in both], axis=0) & (reliability > 0)
    is_level = np.array([name in LEVELS for name in fixed.names], dtype=bool)
    is_dome = np.array([name.endswith(_DOME) for name in fixed.names], dtype=bool)
    seen = shown & np.all([one.seen for one in both], axis=0) & ~is_dome
    sure = shown & (reliability >= _MIN_RELIABILITY)
    return positions[:, seen], positions[:, sure & ~seen & ~is_level]


def paired_scapulae(fixed: Survey, moving: Survey) -> list[FloatArray]:
    """Return places on the shoulder blades that both images show, (2, S, 3) LPS mm for each."""
    first, second = fixed.located.structures.scapulae, moving.located.structures.scapulae
    pairs = [shared_places(first[side], second[side]) for side in sorted(first.keys() & second.keys())]
    return [places for places in pairs if places.shape[1] >= _MIN_PLACES]


def common_points(fixed: Survey, moving: Survey) -> FloatArray:
    """Return single points (:class:`Structures`) that both images show, (2, S, 3) LPS mm."""
    first, second = fixed.located.structures.points, moving.located.structures.points
    shared = sorted(first.keys() & second.keys())
    return np.array([[one[name] for name in shared] for one in (first, second)]).reshape(2, len(shared), 3)


def paired_bones(fixed: Survey, moving: Survey) -> tuple[FloatArray, FloatArray]:
    """Return places on shoulder blades, and on ribs, that both images show, (2, S, 3) LPS mm each.

    Those on ribs under a shoulder blade, which moves against them, are left out.
    """
    scapulae = paired_scapulae(fixed, moving)
    ribs = paired_ribs(fixed.located.structures.ribs, moving.located.structures.ribs)
    for scapula in scapulae:
        near = [KDTree(blade).query(places)[0] < _FROM_SCAPULA_MM for blade, places in zip(scapula, ribs, strict=True)]
        ribs = ribs[:, ~np.any(near, axis=0)]
    return np.concatenate([np.zeros((2, 0, 3)), *scapulae], axis=1), ribs

"""The shoulder blades, found by their shape.

A scapula moves over the rib cage as the arm does, by up to 90 mm, and its blade looks much the same everywhere: an
embedding finds its ends and loses what lies between. But in CT it is a bone of a known shape. Its mean shape is laid
over the landmarks that an atlas finds on it, in every way that shoulders are held, and brought to the bone around by
iterated closest points (Besl & McKay, IEEE Trans. Pattern Anal. 1992): a similarity, an affine, and a smooth
deformation, from the shape to the bone and from the bone to the shape. Ribs are left out, as they lie at the lung.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from samreg.device import run_in_threads
from samreg.embedding.body import body_mask
from samreg.landmarks.bone import bone_voxels, part_of
from samreg.seeding.affine import fit_least_squares
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.standard import has_hounsfield_units, standardised
from samreg.spatial.transforms import AffineTransform

#: Made by ``python -m samreg.training.scapula_shape``.
SHAPE = Path(__file__).with_name("shapes") / "scapula.npz"
SIDES = ("left", "right")

_BONE_HU, _AIR_HU, _LUNG_SPACING_MM = 180.0, -350.0, 4.0
# ribs lie at the lung: bone nearer than the first is left out, and up to the second counts as farther off than it is
_FROM_LUNG_MM, _CLEAR_OF_LUNG_MM, _RIB_WEIGHT = 6.0, 12.0, 0.7
_REACH_MM = (110.0, 110.0, 170.0)  # of the bone around a landmark of it, x, y, z
_FAR_MM = 130.0  # from the middle of the shape
_MIN_LANDMARK = 0.35  # reliability of a landmark that says where the bone is
_COARSE, _MOST_BONE = 5, 5000  # every so many points of the shape tried, points of bone that look back
_TRY_STEPS, _SIMILARITY_STEPS, _AFFINE_STEPS, _SMOOTH_STEPS = 15, 20, 20, 10
_STRETCH_RANGE, _MIN_ASPECT = (0.6, 1.5), 0.72  # of the affine, and its least stretch by its most
_STIFFNESS, _SMOOTH_STIFFNESS = 0.01, 0.002  # of the affine, of the deformation
_KNOT_EVERY, _KNOT_MM = 16, 35.0  # points of the shape that carry the deformation, and its standard deviation
_LOOK_BACK_MM, _LOOK_BACK_LAST_MM = 25.0, 15.0
_MISSED_MM = 12.0  # as far off as any point counts when starts are compared
_LANDMARK_WEIGHT = 0.1  # of landmarks missed, against points of the shape
_ON_BONE_MM = 3.0
_APART_MM = 12.0  # between two places that guide
_MIN_ON_BONE, _MIN_INSIDE = 0.8, 0.35  # shares of the shape in the image, and of the whole shape
_MAX_LANDMARK_MISS_MM = 20.0  # of the middle one: one or two of five may be wrong


@dataclass(frozen=True, eq=False)
class BoneShape:
    """The mean shape of a bone of the right side.

    Parameters
    ----------
    points
        (N, 3) on and in the bone, mm, of a body that lies upright.
    apart
        (N,) whether no other bone lies near.
    names
        Of K landmarks on it, without their side.
    landmarks
        (K, 3) where they are, mm.
    poses
        (P, 3, 3) rotations in which the bone was seen.
    """

    points: FloatArray
    apart: NDArray[np.bool_]
    names: tuple[str, ...]
    landmarks: FloatArray
    poses: FloatArray

    @classmethod
    def load(cls, path: Path) -> BoneShape:
        """Read a shape that :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            points, landmarks, poses = (file[name].astype(np.float64) for name in ("points", "landmarks", "poses"))
            return cls(points, file["apart"], tuple(str(name) for name in file["names"]), landmarks, poses)

    def save(self, path: Path) -> None:
        """Write the shape to an npz file."""
        parts = {name: getattr(self, name).astype(np.float32) for name in ("points", "landmarks", "poses")}
        np.savez_compressed(path, apart=self.apart, names=np.array(self.names), **parts)

    def mirrored(self) -> BoneShape:
        """Return the shape of the left side."""
        flip = np.diag([-1.0, 1.0, 1.0])
        return replace(self, points=self.points @ flip, landmarks=self.landmarks @ flip, poses=flip @ self.poses @ flip)


@dataclass(frozen=True, eq=False)
class FoundBone:
    """A bone in an image.

    Parameters
    ----------
    points
        (N, 3) the points of the shape, LPS mm; where the image ends, as the rest of the bone has it.
    seen
        (N,) those that lie on bone, in the image.
    landmarks
        (K, 3) its landmarks by the shape, LPS mm.
    """

    points: FloatArray
    seen: NDArray[np.bool_]
    landmarks: FloatArray


@cache
def scapula_shape() -> BoneShape:
    """Return the shape of the right scapula that samreg ships."""
    return BoneShape.load(SHAPE)


def find_scapulae(
    image: Image, names: Sequence[str], positions: FloatArray, reliability: FloatArray
) -> dict[str, FoundBone]:
    """Find the shoulder blades in a CT.

    Parameters
    ----------
    image
        Volume in Hounsfield units in which the body lies upright.
    names, positions, reliability
        Of L landmarks, those of shoulders among them ("left_glenoid"); (L, 3) LPS mm and (L,).

    Returns
    -------
    dict
        By side, "left" and "right"; a scapula that is not found, or of which little is in the image, is left out.
    """
    if not has_hounsfield_units(image):
        return {}
    both = run_in_threads([partial(_found, image, side, names, positions, reliability) for side in SIDES])
    return {side: bone for side, bone in zip(SIDES, both, strict=True) if bone is not None}


def _found(
    image: Image, side: str, names: Sequence[str], positions: FloatArray, reliability: FloatArray
) -> FoundBone | None:
    """Find the scapula of a side; the other parameters as in :func:`find_scapulae`."""
    shape = scapula_shape() if side == "right" else scapula_shape().mirrored()
    rows = {name: row for row, name in enumerate(names)}
    known = [(k, rows[f"{side}_{name}"]) for k, name in enumerate(shape.names) if f"{side}_{name}" in rows]
    known = [(k, row) for k, row in known if reliability[row] >= _MIN_LANDMARK]
    if not known:
        return None
    own, there = (list(part) for part in zip(*known, strict=True))
    bone = bone_around(image, positions[there])
    if len(bone) < len(shape.points):
        return None
    return fit_bone(shape, bone, shape.landmarks[own], positions[there], reliability[there], image.grid)


def shared_places(fixed: FoundBone, moving: FoundBone) -> FloatArray:
    """Return places on a bone that both images show, (2, S, 3) LPS mm, none near another."""
    seen = np.flatnonzero(fixed.seen & moving.seen)
    seen = seen[_spread(scapula_shape().points[seen])]
    return np.stack([fixed.points[seen], moving.points[seen]])


def fit_bone(
    shape: BoneShape, bone: FloatArray, own: FloatArray, places: FloatArray, weight: FloatArray, grid: Grid
) -> FoundBone | None:
    """Bring a shape to the bone around landmarks.

    Parameters
    ----------
    shape
        Of the side.
    bone
        (B, 4) voxels of bone, LPS mm, and how much farther off than they are they count, mm.
    own, places, weight
        (K, 3) landmarks of the shape, where they lie, LPS mm, and how sure they are (K,).
    grid
        Of the image: what it shows.

    Returns
    -------
    FoundBone or None
        None where the bone there has not the shape, or too little of it is in the image.
    """
    affine = _best_start(shape, bone, own, places, weight, grid)
    middle = affine.transform_points(shape.points).mean(axis=0)
    bone = bone[((bone[:, :3] - middle) ** 2).sum(axis=1) < _FAR_MM**2]
    if len(bone) < len(shape.points):
        return None
    fit = _Fit(shape, bone)
    for step in range(_SIMILARITY_STEPS):
        moved = affine.transform_points(shape.points)
        rows, targets, w = fit.pairs(moved, max(8.0, 15 * 0.95**step), _LOOK_BACK_MM)
        affine = fit_least_squares(shape.points[rows], targets, w, kind="similarity")
    for step in range(_AFFINE_STEPS):
        moved = affine.transform_points(shape.points)
        rows, targets, w = fit.pairs(moved, max(4.0, 12 * 0.93**step), _LOOK_BACK_MM)
        affine = fit_least_squares(shape.points[rows], targets, w, kind="affine", ridge=_STIFFNESS)
    stretch = np.linalg.svd(affine.matrix, compute_uv=False)
    if stretch[-1] < max(_STRETCH_RANGE[0], _MIN_ASPECT * stretch[0]) or stretch[0] > _STRETCH_RANGE[1]:
        return None
    start = affine.transform_points(shape.points)
    knots = start[::_KNOT_EVERY]
    basis = _kernel(start, knots)
    moved, coefficients = start, np.zeros_like(knots)
    for step in range(_SMOOTH_STEPS):
        rows, targets, w = fit.pairs(moved, max(3.0, 8 * 0.9**step), _LOOK_BACK_LAST_MM)
        total = np.bincount(rows, w, len(start))  # weight of each point, and where it is pulled
        pull = np.column_stack([np.bincount(rows, w * axis, len(start)) for axis in (targets - start[rows]).T])
        system = (basis * total[:, None]).T @ basis + _SMOOTH_STIFFNESS * w.sum() * np.eye(len(knots))
        coefficients = np.linalg.solve(system, basis.T @ pull)
        moved = start + basis @ coefficients
    inside = grid.contains(moved)
    on_bone = KDTree(bone[:, :3]).query(moved)[0] < _ON_BONE_MM
    if inside.mean() < _MIN_INSIDE or on_bone[inside].mean() < _MIN_ON_BONE:
        return None

    def brought(landmarks: FloatArray) -> FloatArray:
        landmarks = affine.transform_points(landmarks)
        return np.asarray(landmarks + _kernel(landmarks, knots) @ coefficients)

    if np.median(np.linalg.norm(brought(own) - places, axis=1)) > _MAX_LANDMARK_MISS_MM:
        return None
    return FoundBone(moved, inside & on_bone, brought(shape.landmarks))


class _Fit:
    """Pairs of a shape's points and bone, both ways."""

    def __init__(self, shape: BoneShape, bone: FloatArray) -> None:
        self.apart = shape.apart
        self.bone, self.tree = bone[:, :3], KDTree(bone)
        clear = np.flatnonzero(bone[:, 3] == 0)
        chosen = np.random.default_rng(0).permutation(len(clear))[:_MOST_BONE]
        self.looking_back = self.bone[clear[chosen]]

    def pairs(self, points: FloatArray, width: float, reach: float) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Return rows of the shape, where they belong (mm), and weights; bone far from ``points`` (N, 3) has no say."""
        distance, nearest = self.tree.query(_flat(points))
        back, row = KDTree(points).query(self.looking_back, distance_upper_bound=reach)
        used = np.isfinite(back)
        used[used] &= self.apart[row[used]]
        rows = np.concatenate([np.arange(len(points)), row[used]])
        targets = np.concatenate([self.bone[nearest], self.looking_back[used]])
        share = np.concatenate([np.ones(len(points)), np.full(used.sum(), len(points) / max(1, used.sum()))])
        off = np.concatenate([distance, back[used]])
        return rows, targets, share / (1 + (off / width) ** 2) ** 2


def _best_start(
    shape: BoneShape, bone: FloatArray, own: FloatArray, places: FloatArray, weight: FloatArray, grid: Grid
) -> AffineTransform:
    """Return the similarity from which the shape comes nearest to the bone, among the poses and what landmarks say."""
    points, tree = shape.points[::_COARSE], KDTree(bone)
    weight = weight / weight.sum()
    starts = [AffineTransform(pose, weight @ (places - own @ pose.T)) for pose in shape.poses]
    if len(own) > 2:
        starts.append(fit_least_squares(own, places, weight, kind="similarity"))
    best, chosen = np.inf, starts[0]
    for transform in starts:
        for step in range(_TRY_STEPS):
            distance, nearest = tree.query(_flat(transform.transform_points(points)))
            w = 1 / (1 + (distance / max(6.0, 20 * 0.9**step)) ** 2) ** 2
            transform = fit_least_squares(
                np.concatenate([points, own]),
                np.concatenate([bone[nearest, :3], places]),
                np.concatenate([w, weight * _LANDMARK_WEIGHT * len(points)]),
                kind="similarity",
            )
        moved = transform.transform_points(points)
        off = np.minimum(tree.query(_flat(moved))[0], _MISSED_MM)[grid.contains(moved)]
        missed = np.minimum(np.linalg.norm(transform.transform_points(own) - places, axis=1), 4 * _MISSED_MM)
        score = (off.mean() if len(off) else _MISSED_MM) + _LANDMARK_WEIGHT * float(weight @ missed)
        if score < best:
            best, chosen = score, transform
    return chosen


def _kernel(points: FloatArray, knots: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-((points[:, None] - knots) ** 2).sum(axis=2) / (2 * _KNOT_MM**2)))


def _flat(points: FloatArray) -> FloatArray:
    """Return points (N, 3) as (N, 4), to be compared with bone."""
    return np.column_stack([points, np.zeros(len(points))])


def bone_around(image: Image, places: FloatArray) -> FloatArray:
    """Return the bone of a CT around landmarks.

    Parameters
    ----------
    image
        In Hounsfield units.
    places
        (K, 3) LPS mm.

    Returns
    -------
    ndarray
        (B, 4) voxels, LPS mm, and how much farther off than it is each counts, mm: near
        the lung lie ribs.
    """
    part = part_of(image, places.min(axis=0) - _REACH_MM, places.max(axis=0) + _REACH_MM)
    if part is None:
        return np.zeros((0, 4))
    bone = bone_voxels(part, above=_BONE_HU)
    coarse = standardised(part, _LUNG_SPACING_MM)
    lung = ndimage.binary_opening(body_mask(coarse) & (coarse.array < _AIR_HU))
    if not lung.any():
        return _flat(bone)
    from_lung = ndimage.distance_transform_edt(~lung, sampling=coarse.spacing[::-1])
    where = coarse.grid.world_to_index(bone)[:, ::-1].T
    distance = ndimage.map_coordinates(from_lung, where, order=1, mode="nearest")
    farther = _RIB_WEIGHT * np.maximum(0.0, _CLEAR_OF_LUNG_MM - distance)
    return np.asarray(np.column_stack([bone, farther])[distance > _FROM_LUNG_MM])


def _spread(points: FloatArray) -> NDArray[np.int64]:
    """Return rows of points (N, 3) that lie apart, the farthest of those left first (Gonzalez 1985)."""
    if not len(points):
        return np.zeros(0, dtype=np.int64)
    distance = np.linalg.norm(points - points.mean(axis=0), axis=1)
    chosen = [int(distance.argmax())]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while distance.max() > _APART_MM:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen, dtype=np.int64)

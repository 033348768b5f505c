r"""The mean shape of the shoulder blade, from CTs with landmarks on it.

    python -m samreg.training.scapula_shape IMAGES data/landmarks/train/landmarks.csv --first LIDC-IDRI-0002 \
        --leave-out AMOS-0336 NSCLCRG-R01-001 CPTAC-C3N-00249

The right scapula of one person, whose bone stands free once humeral head and clavicle are cut away, is brought to both
scapulae of every person with three landmarks of it or more (:mod:`samreg.landmarks.scapulae`). The mean of what they
make of it, brought to its size and place and mirrored where it is of the left, is brought to them again, three times in
all.
Written is ``samreg/landmarks/shapes/scapula.npz``: positions, and no image.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samreg.errors import InputError
from samreg.landmarks.scapulae import SHAPE, BoneShape, FoundBone, bone_around, fit_bone
from samreg.seeding.affine import fit_least_squares
from samreg.seeding.turns import turned_grid
from samreg.spatial import Grid, Image, Points, read_image
from samreg.spatial.grid import FloatArray
from samreg.training.data import named_images, require_left_out
from samreg.training.landmark_pairs import read_landmarks
from samreg.training.program import faults_said

NAMES = ("glenoid", "coracoid_tip", "acromion_tip", "scapula_superior_angle", "scapula_spine_root")
_MIN_LANDMARKS = 3
_ROUNDS = 3
_POINTS = 800
_POSES = 8  # as far from each other as can be
_HEAD_MM, _CLAVICLE_MM, _REACH_MM, _FROM_SPINE_MM = 27.0, 16.0, 160.0, 45.0
_JOINT_MM = 45.0  # around the glenoid other bones lie near
_AROUND = 40  # points of the shape that carry a landmark to it
_FLIP = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class _Scapula:
    """One side of one person, as if it were the right one."""

    bone: FloatArray
    landmarks: Mapping[str, FloatArray]
    grid: Grid


def first_shape(image: Image, points: Points) -> BoneShape:
    """Cut the right scapula out of a CT.

    Parameters
    ----------
    image
        In Hounsfield units.
    points
        Landmarks of the right shoulder, its humeral head, clavicle and first rib, and the third thoracic vertebra.
    """
    where = dict(zip(points.names, points.positions, strict=True))
    bone = bone_around(image, where["right_scapula_spine_root"][None])
    bone = bone[bone[:, 3] == 0, :3]
    lateral = where["right_clavicle_lateral_end"]
    along = where["right_first_rib_anterior_end"] + [0.0, 0.0, 12.0] - lateral
    on_clavicle = lateral + np.clip((bone - lateral) @ along / (along @ along), 0.02, 1.0)[:, None] * along
    kept = (
        (np.linalg.norm(bone - where["right_humeral_head"], axis=1) > _HEAD_MM)
        & (np.linalg.norm(bone - on_clavicle, axis=1) > _CLAVICLE_MM)
        & (np.linalg.norm(bone - where["right_scapula_spine_root"], axis=1) < _REACH_MM)
        & (bone[:, 0] < where["vertebra_T3"][0] - _FROM_SPINE_MM)
    )
    cells = np.round((bone[kept] - bone.min(axis=0)) / 2.0).astype(int)
    mask = np.zeros(cells.max(axis=0) + 1, dtype=bool)
    mask[tuple(cells.T)] = True
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    own = bone[kept][parts[tuple(cells.T)] == np.bincount(parts[tuple(cells.T)]).argmax()]
    own = own[np.random.default_rng(0).permutation(len(own))[:_POINTS]]
    names = tuple(name for name in NAMES if f"right_{name}" in where)
    places = np.array([where[f"right_{name}"] for name in names])
    apart = np.linalg.norm(own - where["right_glenoid"], axis=1) > _JOINT_MM
    return BoneShape(own, apart, names, places, np.eye(3)[None])


def mean_shape(shape: BoneShape, scapulae: Sequence[_Scapula]) -> BoneShape:
    """Return the mean of what scapulae make of a shape, with landmarks and poses."""
    found = []
    for one in scapulae:
        known = [(k, one.landmarks[name]) for k, name in enumerate(shape.names) if name in one.landmarks]
        if len(known) < _MIN_LANDMARKS:
            continue
        rows, places = [k for k, _ in known], np.array([place for _, place in known])
        fitted = fit_bone(shape, one.bone, shape.landmarks[rows], places, np.ones(len(rows)), one.grid)
        if fitted is not None:
            found.append((one, fitted))
    total, count = np.zeros_like(shape.points), np.zeros(len(shape.points))
    carried: dict[str, list[FloatArray]] = {name: [] for name in NAMES}
    poses = []
    for one, fitted in found:
        weight = fitted.seen.astype(float)
        back = fit_least_squares(fitted.points, shape.points, weight + 1e-6, kind="similarity")
        total += weight[:, None] * back.transform_points(fitted.points)
        count += weight
        left, _, right = np.linalg.svd(np.linalg.inv(back.matrix))
        poses.append(left @ right)
        for name in NAMES:
            if name in one.landmarks:
                carried[name].append(_carried(one.landmarks[name], fitted, shape))
    print(f"{len(found)} of {len(scapulae)} scapulae", flush=True)
    names = tuple(name for name, places in carried.items() if places)
    landmarks = np.array([np.median(carried[name], axis=0) for name in names])
    points = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], shape.points)
    return replace(shape, points=points, names=names, landmarks=landmarks, poses=_apart(np.array(poses)))


def _carried(landmark: FloatArray, fitted: FoundBone, shape: BoneShape) -> FloatArray:
    """Return where a landmark near a bone lies on the shape."""
    near = np.argsort(np.linalg.norm(fitted.points - landmark, axis=1))[:_AROUND]
    back = fit_least_squares(fitted.points[near], shape.points[near], np.ones(len(near)), kind="similarity")
    return np.asarray(back.transform_points(landmark[None])[0])


def _apart(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a few rotations (P, 3, 3) that differ: the middle one, then the farthest from those chosen."""
    cosine = (np.einsum("aij,bij->ab", poses, poses) - 1) / 2
    angle = np.arccos(np.clip(cosine, -1, 1))
    chosen = [int(angle.mean(axis=1).argmin())]
    while len(chosen) < min(_POSES, len(poses)):
        chosen.append(int(angle[chosen].min(axis=0).argmax()))
    return np.asarray(poses[chosen])


def _scapulae(image: Image, points: Points) -> list[_Scapula]:
    """Return both scapulae of a person, the left one mirrored."""
    where = dict(zip(points.names, points.positions, strict=True))
    sides = []
    for side in ("right", "left"):
        own = {name: where[f"{side}_{name}"] for name in NAMES if f"{side}_{name}" in where}
        if len(own) < _MIN_LANDMARKS:
            continue
        bone = bone_around(image, np.array([*own.values()]))
        if side == "left":
            bone = bone @ np.diag([-1.0, 1.0, 1.0, 1.0])
            own = {name: place @ _FLIP for name, place in own.items()}
        sides.append(_Scapula(bone, own, turned_grid(image.grid, _FLIP, np.zeros(3)) if side == "left" else image.grid))
    return sides


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("landmarks", type=Path)
    parser.add_argument("--first", required=True, help="the person whose right scapula begins")
    parser.add_argument("--leave-out", nargs="*", default=[], help="people who are to test it")
    parser.add_argument("--out", type=Path, default=SHAPE)
    given = parser.parse_args(arguments)
    with faults_said(parser):
        _build(given)
    return 0


def _build(arguments: argparse.Namespace) -> None:
    landmarks = read_landmarks(arguments.landmarks)
    require_left_out("--leave-out", arguments.leave_out, landmarks)
    people = [name for name in landmarks if name not in arguments.leave_out]
    if arguments.first not in people:
        raise InputError(f"--first {arguments.first}: no such person; there are {', '.join(people)}")
    images = {name: read_image(path) for name, path in named_images(arguments.images, people).items() if name in people}
    shape = first_shape(images[arguments.first], landmarks[arguments.first])
    scapulae = [one for name in people for one in _scapulae(images[name], landmarks[name])]
    for _ in range(_ROUNDS):
        shape = mean_shape(shape, scapulae)
    shape.save(arguments.out)


if __name__ == "__main__":
    sys.exit(main())

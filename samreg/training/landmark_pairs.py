"""Positive pairs of different people from landmarks that were read on both.

A thin-plate spline through the shared landmarks maps one person to the other: right to the readings' precision at the
landmarks, and the less the farther from them. So the embedding learns from true matches between people, as UAE does
from organ labels (arXiv:2311.15111), without a label at test time.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.files import require_file
from samreg.spatial.io_points_csv import read_point_table
from samreg.spatial.points import Points
from samreg.training.data import Map, Pair, Shoulder, Volume, require_left_out
from samreg.training.prepared import PreparedFile, is_prepared

logger = logging.getLogger(__name__)

_GRID_SPACING_MM = 8.0  # of the stored map
_REACH_MM = 16.0  # over which a landmark speaks for its surroundings
_READING_MM = 2.5  # two readings of a landmark differ by about this much; the spline need not follow it closer
_MIN_SHARED = 5  # landmarks, for an affine map and something beside it
_MAX_RANGE_MM = 15.0  # beyond the landmarks' bounding box the spline is held constant
_GIRDLE = ("humeral_head", "glenoid", "coracoid_tip", "acromion_tip")
_MEDIAL_BORDER = ("scapula_superior_angle", "scapula_spine_root")
_SCAPULA_LENGTH_MM = 100.0  # from the upper part of the medial border to the inferior angle


def read_landmarks(path: str | os.PathLike[str], *, leave_out: Collection[str] = ()) -> dict[str, Points]:
    """Read a table of landmarks of many people.

    Parameters
    ----------
    path
        A .csv with columns subject, landmark, x, y, z, LPS mm, as :func:`samreg.read_points` takes it, or a prepared
        file that holds landmarks.
    leave_out
        Names of landmarks that are not used, so that the embedding can be validated on classes it never saw.

    Returns
    -------
    dict
        The points of each subject.

    Raises
    ------
    InputError
        When the file is missing or lacks a column, a cell is no number, or a landmark to be left out is not there.
    """
    if is_prepared(path):
        known = PreparedFile(path).landmarks()
    else:
        table = read_point_table(require_file(Path(path), "table of landmarks"))
        if not {"subject", "name"} <= set(table.columns):
            raise InputError(f"{path}: give columns subject, landmark, x, y, z in LPS mm")
        known = {subject: table.points(subject) for subject in table.subjects()}
    names = {name for points in known.values() for name in points.names}
    require_left_out("left_out_landmarks", leave_out, names)
    kept = {
        subject: points.take([i for i, name in enumerate(points.names) if name not in leave_out])
        for subject, points in known.items()
    }
    return {subject: points for subject, points in kept.items() if len(points)}


def landmark_pairs(
    volumes: Sequence[Volume], landmarks: Mapping[str, Points], *, slack: tuple[float, float]
) -> list[Pair]:
    """Pair the volumes whose people share landmarks.

    Parameters
    ----------
    volumes
        Training volumes, found by their name.
    landmarks
        Of each person, LPS mm.
    slack
        How far from its match a point may truly lie, mm: at a landmark, and where no landmark is near.

    Returns
    -------
    list of Pair
        All ordered pairs that share enough.

    Raises
    ------
    InputError
        When no two do.
    """
    known = [volume for volume in volumes if volume.name in landmarks]
    pairs = []
    for fixed, moving in itertools.permutations(known, 2):
        names = [name for name in landmarks[fixed.name].names if name in set(landmarks[moving.name].names)]
        if len(names) < _MIN_SHARED:
            continue
        first, second = (landmarks[volume.name].named(names).positions - volume.origin for volume in (fixed, moving))
        mapping = landmark_map(first, second, fixed)
        read = (_tensor(first, fixed), _tensor(second, moving))
        pairs.append(Pair(fixed, moving, mapping, slack=slack, landmarks=read))
    if not pairs:
        raise InputError(
            f"no two of the {len(volumes)} training volumes share {_MIN_SHARED} landmarks; the subjects of the table "
            f"must be names of images, and are {', '.join(sorted(landmarks))}"
        )
    logger.info("%d pairs of %d people share landmarks", len(pairs), len(known))
    return pairs


def landmark_map(fixed: NDArray[np.float64], moving: NDArray[np.float64], volume: Volume) -> Map:
    """Map a volume to another person by landmarks.

    Parameters
    ----------
    fixed, moving
        (N, 3) corresponding points, mm from the centre of the first voxel of their volumes.
    volume
        The fixed one.

    Returns
    -------
    Map
        Its trust is 1 at a landmark and falls to 0.14 at twice 16 mm from the nearest one.
    """
    size = [int(np.ceil(n / _GRID_SPACING_MM)) + 1 for n in volume.extent.tolist()]
    axes = [_GRID_SPACING_MM * np.arange(n) for n in size]
    points = np.stack(np.meshgrid(*axes[::-1], indexing="ij")[::-1], axis=-1).reshape(-1, len(size))
    held = np.clip(points, fixed.min(axis=0) - _MAX_RANGE_MM, fixed.max(axis=0) + _MAX_RANGE_MM)
    affine = _ridge_affine(fixed, moving)
    weights, constant = _linear_spline(fixed, moving - _apply(affine, fixed))
    displacement = _apply(affine, points) - _distances(held, fixed) @ weights + constant - points
    trust = np.exp(-0.5 * (_distances(points, fixed).min(axis=1) / _REACH_MM) ** 2)
    shape = size[::-1]
    device = volume.fine.device
    return Map(
        torch.from_numpy(displacement.astype(np.float32))
        .reshape(*shape, -1)
        .movedim(-1, 0)[None]
        .contiguous()
        .to(device),
        torch.from_numpy(trust.astype(np.float32)).reshape(1, 1, *shape).to(device),
        _GRID_SPACING_MM,
    )


def _linear_spline(
    points: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (N, d) of minus the distances from points (N, 3), and a constant (d,), that come near values (N, d).

    The biharmonic spline in three dimensions, smoothed; Wahba, Spline models for observational data, 1990.
    """
    count = len(points)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = _READING_MM * np.eye(count) - _distances(points, points)
    system[count, count] = 0.0
    right = np.vstack([values, np.zeros(values.shape[1])])
    solution = np.asarray(np.linalg.solve(system, right), np.float64)
    return solution[:-1], solution[-1]


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances (N, M) of points (N, d) from points (M, d)."""
    exact = "donot_use_mm_for_euclid_dist"
    distances: NDArray[np.float64] = torch.cdist(
        torch.from_numpy(a)[None], torch.from_numpy(b)[None], compute_mode=exact
    )[0].numpy()
    return distances


def _ridge_affine(fixed: NDArray[np.float64], moving: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine (3, 4) by least squares, drawn towards a translation where the points do not say otherwise."""
    middle = fixed.mean(axis=0)
    centred = fixed - middle
    target = moving - fixed - (moving - fixed).mean(axis=0)
    ridge = len(fixed) * _REACH_MM**2 * np.eye(fixed.shape[1])
    linear = np.linalg.solve(centred.T @ centred + ridge, centred.T @ target).T + np.eye(fixed.shape[1])
    return np.column_stack([linear, moving.mean(axis=0) - linear @ middle])


def _apply(affine: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points @ affine[:, :-1].T + affine[:, -1]


def with_shoulders(volume: Volume, landmarks: Points | None) -> Volume:
    """Return the volume with the shoulder girdles that its landmarks show, which views may move."""
    if landmarks is None or volume.ndim != 3:
        return volume
    shoulders = []
    for side, outwards in (("right", -1.0), ("left", 1.0)):
        place = {
            name.removeprefix(f"{side}_"): position - volume.origin
            for name, position in zip(landmarks.names, landmarks.positions, strict=True)
            if name.startswith(f"{side}_")
        }
        girdle = [place[name] for name in _GIRDLE if name in place]
        medial = [place[name] for name in _MEDIAL_BORDER if name in place]
        if girdle and medial:
            tip = np.mean(medial, axis=0) + np.array([outwards * 20.0, 0.0, -_SCAPULA_LENGTH_MM])
            shoulders.append(Shoulder(_tensor(np.mean(girdle, axis=0), volume), _tensor(tip, volume), outwards))
    return replace(volume, shoulders=tuple(shoulders))


def _tensor(position: NDArray[np.float64], volume: Volume) -> torch.Tensor:
    return torch.from_numpy(position.astype(np.float32)).to(volume.fine.device)

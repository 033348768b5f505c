"""The mean shape of shoulder blades that are made of a known one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from samreg.landmarks.scapulae import BoneShape, scapula_shape
from samreg.spatial import Grid, Image, Points
from samreg.training.scapula_shape import NAMES, _Scapula, first_shape, mean_shape

GRID = Grid((120, 110, 110), np.array([-210.0, -60.0, -250.0]), np.full(3, 2.0), np.eye(3))


def turned(degrees: float, size: float) -> np.ndarray:
    return size * Rotation.from_rotvec(np.radians(degrees) * np.array([0.2, -0.6, 0.4])).as_matrix()


def scapula(degrees: float, size: float) -> _Scapula:
    """A person's bone and landmarks, from the shipped shape."""
    shape, matrix = scapula_shape(), turned(degrees, size)
    middle = shape.points.mean(axis=0)
    points, landmarks = ((part - middle) @ matrix.T + middle for part in (shape.points, shape.landmarks))
    spread = np.repeat(points, 12, axis=0) + np.random.default_rng(0).normal(0, 1.0, (12 * len(points), 3))
    bone = np.column_stack([spread, np.zeros(len(spread))])
    return _Scapula(bone, dict(zip(shape.names, landmarks, strict=True)), GRID)


def test_the_mean_of_bones_of_one_shape_is_that_shape(capsys) -> None:
    shape = scapula_shape()
    people = [scapula(degrees, size) for degrees, size in ((0, 1.0), (20, 0.9), (-20, 1.1))]
    few = _Scapula(people[0].bone, {"glenoid": people[0].landmarks["glenoid"]}, GRID)  # too few to begin with
    bent = BoneShape(shape.points * [1.05, 0.97, 1.0], shape.apart, shape.names, shape.landmarks, shape.poses)
    found = mean_shape(bent, [*people, few])
    assert "3 of 4 scapulae" in capsys.readouterr().out
    assert set(found.names) == set(NAMES)
    for name, place in zip(found.names, found.landmarks, strict=True):
        assert np.linalg.norm(place - shape.landmarks[shape.names.index(name)]) < 10
    size = float(np.linalg.norm(found.points.std(axis=0)) / np.linalg.norm(shape.points.std(axis=0)))
    assert size == pytest.approx(1, abs=0.06)
    angles = [np.degrees(Rotation.from_matrix(pose).magnitude()) for pose in found.poses]
    assert sorted(np.round(angles)) == pytest.approx([0, 15, 15], abs=5)  # 20 degrees about a shorter axis


def test_the_first_shape_is_one_bone_without_its_neighbours() -> None:
    shape = scapula_shape()
    spots = {
        "right_humeral_head": [-170.0, 30.0, -50.0], "right_clavicle_lateral_end": [-150.0, 60.0, -35.0],
        "right_first_rib_anterior_end": [-40.0, -30.0, -70.0], "vertebra_T3": [0.0, 60.0, -100.0],
    }  # fmt: skip
    places = dict(zip((f"right_{name}" for name in shape.names), shape.landmarks, strict=True)) | spots
    array = np.full(GRID.shape, 40, np.int16)
    painted = [*shape.points, *(np.array(spots["right_humeral_head"]) + 8.0 * np.array(list(np.ndindex(3, 3, 3))) - 8)]
    for point in painted:
        x, y, z = np.round(GRID.world_to_index(point[None])[0]).astype(int)
        array[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = 500
    found = first_shape(Image(array, GRID, "one"), Points(np.array([*places.values()], dtype=float), tuple(places)))
    assert set(found.names) == set(shape.names)
    assert KDTree(shape.points).query(found.points)[0].max() < 7  # nothing of the humeral head
    assert np.linalg.norm(found.points - spots["right_humeral_head"], axis=1).min() > 25
    assert found.apart.any()
    assert not found.apart.all()

"""Shoulder blades found by their shape in made-up CTs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from samreg.landmarks.scapulae import BoneShape, find_scapulae, scapula_shape, shared_places
from samreg.spatial import Grid, Image

GRID = Grid((150, 130, 200), np.array([-200.0, -110.0, -260.0]), np.full(3, 2.0), np.eye(3))
SPINE = "scapula_spine_root"


def placed(side: str, *, turn: float = 25.0, size: float = 0.9, shift: float = 0.0) -> BoneShape:
    """The shape as a made-up person has it."""
    shape = scapula_shape() if side == "right" else scapula_shape().mirrored()
    matrix = size * Rotation.from_rotvec(np.radians(turn) * np.array([0.3, -0.8, 0.5])).as_matrix()
    middle = shape.points.mean(axis=0)
    goal = np.array([-90.0 if side == "right" else 95.0, 20.0, -110.0 + shift])
    points, landmarks = ((part - middle) @ matrix.T + goal for part in (shape.points, shape.landmarks))
    return replace(shape, points=points, landmarks=landmarks)


def chest(*bones: BoneShape, spare: str = "") -> Image:
    """A CT of soft tissue, two lungs with ribs around them, and these bones."""
    x, y, z = GRID.world_points().transpose(3, 0, 1, 2)
    array = np.where((x / 190) ** 2 + (y / 100) ** 2 < 1, 40.0, -1000.0)
    around = ((np.abs(x) - 50) / 33) ** 2 + ((y + 20) / 45) ** 2 + ((z + 150) / 110) ** 2
    array[around < 1] = -850
    array[(around > 1) & (around < 1.15) & (z % 24 < 10) & (spare != "ribs")] = 400  # ribs
    for bone in bones:
        for step in np.ndindex(3, 3, 3):
            index = np.round(GRID.world_to_index(bone.points)).astype(int) + np.array(step) - 1
            index = index[((index >= 0) & (index < GRID.size)).all(axis=1)]
            array[tuple(index[:, ::-1].T)] = 500
    return Image(array.astype(np.int16), GRID, "chest")


def landmarks(*bones: tuple[str, BoneShape]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    names = tuple(f"{side}_{name}" for side, bone in bones for name in bone.names)
    places = np.concatenate([bone.landmarks for _, bone in bones])
    return names, places + np.random.default_rng(0).normal(0, 3, places.shape), np.full(len(names), 0.8)


def off(found: np.ndarray, bone: BoneShape) -> float:
    return float(np.median(np.linalg.norm(found - bone.points, axis=1)))


@pytest.fixture(scope="module")
def right() -> BoneShape:
    return placed("right")


@pytest.fixture(scope="module")
def left() -> BoneShape:
    return placed("left", turn=-15.0, size=1.05)


@pytest.fixture(scope="module")
def image(right, left) -> Image:
    return chest(right, left)


def test_both_are_found_beside_ribs(image, right, left) -> None:
    found = find_scapulae(image, *landmarks(("right", right), ("left", left)))
    assert set(found) == {"left", "right"}
    for side, bone in (("right", right), ("left", left)):
        assert off(found[side].points, bone) < 3
        assert found[side].seen.mean() > 0.9
        assert np.linalg.norm(found[side].landmarks - bone.landmarks, axis=1).max() < 6


def test_places_that_two_images_share_are_the_same_places(image, right, left) -> None:
    other = placed("right", turn=-20.0, size=1.0)
    first = find_scapulae(image, *landmarks(("right", right)))["right"]
    second = find_scapulae(chest(other), *landmarks(("right", other)))["right"]
    places = shared_places(first, second)
    rows = KDTree(first.points).query(places[0])[1]
    np.testing.assert_array_equal(places[0], first.points[rows])
    np.testing.assert_array_equal(places[1], second.points[rows])
    assert len(rows) > 40
    assert KDTree(scapula_shape().points[rows]).query(scapula_shape().points[rows], k=2)[0][:, 1].min() >= 11.9
    lowest = right.points[:, 2].argmin()  # the tip is a place of its own, as are all ends
    assert np.linalg.norm(places[0] - right.points[lowest], axis=1).min() < 8


@pytest.mark.parametrize("kept", [[SPINE], ["glenoid", SPINE]])
def test_one_landmark_is_enough(image, right, kept) -> None:
    names, places, sure = landmarks(("right", right))
    rows = [names.index(f"right_{name}") for name in kept]
    found = find_scapulae(image, [names[i] for i in rows], places[rows], sure[rows])
    assert off(found["right"].points, right) < 4


def test_a_wrong_landmark_does_not_matter(image, right) -> None:
    names, places, sure = landmarks(("right", right))
    places[names.index("right_scapula_spine_root")] += [40.0, 0.0, 30.0]
    assert off(find_scapulae(image, names, places, sure)["right"].points, right) < 4


def test_what_lies_outside_the_image_is_not_seen() -> None:
    bone = placed("right", shift=-110.0)  # the lower part is cut off
    found = find_scapulae(chest(bone), *landmarks(("right", bone)))["right"]
    inside = GRID.contains(bone.points)
    assert 0.4 < inside.mean() < 0.9
    assert not found.seen[~GRID.contains(found.points)].any()
    assert np.median(np.linalg.norm(found.points - bone.points, axis=1)[inside]) < 4


def test_the_order_of_the_array_does_not_matter(image, right) -> None:
    array = np.ascontiguousarray(image.array.transpose(2, 1, 0)[:, :, ::-1])
    axes = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    first = image.grid.index_to_world([[0, 0, image.grid.size[2] - 1]])[0]
    moved = Image(array, Grid(array.shape, first, image.spacing, axes), "permuted")
    known = landmarks(("right", right))
    np.testing.assert_allclose(
        find_scapulae(moved, *known)["right"].points, find_scapulae(image, *known)["right"].points, atol=2.0
    )


@pytest.mark.parametrize("what", ["no bone", "no units", "unsure", "others"])
def test_none_is_found_where_there_is_none(image, right, what) -> None:
    names, places, sure = landmarks(("right", right))
    if what == "no bone":
        image = chest(spare="ribs")
    elif what == "no units":
        image = Image(np.clip(image.array, 0, None), image.grid, "8 bits")
    elif what == "unsure":
        sure = sure - 0.6
    else:
        names = tuple(name.removeprefix("right_") for name in names)
    assert find_scapulae(image, names, places, sure) == {}


def test_ribs_alone_are_no_scapula(right) -> None:
    assert find_scapulae(chest(), *landmarks(("right", right))) == {}


def test_a_shape_is_read_as_it_was_written(tmp_path: Path) -> None:
    shape = scapula_shape()
    shape.save(tmp_path / "shape.npz")
    read = BoneShape.load(tmp_path / "shape.npz")
    for name in ("points", "apart", "landmarks", "poses"):
        np.testing.assert_array_equal(getattr(read, name), getattr(shape, name))
    assert read.names == shape.names
    np.testing.assert_allclose(shape.mirrored().mirrored().poses, shape.poses)

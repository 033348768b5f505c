"""Turns of a body, and the words that say how it lies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from samreg.seeding.turns import angle_between, describe_reflection, describe_turn, nearest_rotation
from samreg.spatial import AffineTransform


def about(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    return Rotation.from_rotvec(np.deg2rad(degrees) * np.array(axis) / np.linalg.norm(axis)).as_matrix()


@pytest.mark.parametrize(("axis", "degrees"), [*itertools.product(((1, 0, 0), (0, 1, 0), (0, 0, 1)), (90, 180))])
def test_words_name_where_each_end_of_the_body_lies(axis, degrees) -> None:
    ends = {"left": (1, 0, 0), "back": (0, 1, 0), "head": (0, 0, 1)}
    opposite = {"left": "right", "back": "front", "head": "foot"}
    turn = about(axis, degrees)
    text = describe_turn(turn)
    for name, direction in ends.items():
        moved = turn @ direction
        target = next(end for end, other in ends.items() if abs(moved @ other) > 0.9)
        target = target if moved @ ends[target] > 0 else opposite[target]
        assert (f"its {name} lies towards the {target}" in text) == (name != target)


def test_words_for_pictures_and_oblique_axes() -> None:
    assert describe_turn(np.array([[0.0, -1.0], [1.0, 0.0]])) == "by 90 degrees clockwise"
    assert describe_turn(about((1, 1, 1), 50)).startswith("by 50 degrees about an oblique axis")
    assert describe_reflection(np.diag([1.0, -1.0])) == "top and bottom are exchanged"


def test_the_nearest_rotation_of_a_stretched_turn() -> None:
    turn = about((1, 2, 3), 40)
    stretched = AffineTransform(turn @ np.diag([1.2, 0.9, 1.0]), np.zeros(3))
    assert angle_between(nearest_rotation(stretched), turn) < 1e-4

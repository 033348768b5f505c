"""Arms raised or down, told by the shoulder blades: on the people whose landmarks were read, and turned bodies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samreg.landmarks.arms import arms, in_words
from samreg.landmarks.find import FoundLandmarks, _notes
from samreg.registration import LandmarkMisses
from samreg.spatial import Points, read_points
from samreg.spatial.tables import read_table

NO_ATLAS: Any = None  # which says nothing of arms
READ = Path(__file__).parents[2] / "data" / "landmarks" / "train" / "landmarks.csv"
TRUNK = {"vertebra_T1": (0, 80, 0), "vertebra_T8": (0, 90, -150), "carina": (0, 40, -60), "aortic_valve": (9, 10, -120)}
NAMES = ("left_scapula_spine_root", "left_glenoid", "right_scapula_spine_root", "right_glenoid", *TRUNK)


def person(left: float, right: float) -> np.ndarray:
    """(8, 3) LPS mm: glenoids so many mm above the spines' roots, 90 mm beside them."""
    blades = [[60, 110, -40], [140, 70, -40 + left], [-60, 110, -40], [-140, 70, -40 + right]]
    return np.array([*blades, *TRUNK.values()], dtype=float)


def test_all_who_were_read_have_their_arms_as_they_lie() -> None:
    told = {}
    for subject in {cells["subject"] for cells in read_table(READ, "landmarks").records()}:
        points = read_points(READ, subject=subject)
        told[subject] = in_words(arms(points.names, points.positions))
    assert told["HNPETCT-CHUS-052"] == "arms down"
    others = [text for subject, text in told.items() if subject != "HNPETCT-CHUS-052"]
    assert sorted({*others}) == ["", "arms raised", "left arm raised", "right arm raised"]
    assert others.count("arms raised") >= 11


@pytest.mark.parametrize(
    ("left", "right", "told"),
    [(50, 40, "arms raised"), (0, 5, "arms down"), (60, 0, "left arm raised, right arm down"), (14, 14, "")],
)
def test_what_is_in_between_is_not_told(left, right, told) -> None:
    assert in_words(arms(NAMES, person(left, right))) == told


def found(points: np.ndarray, reliability: float) -> FoundLandmarks:
    count = len(points)
    return FoundLandmarks(points, NAMES, np.full(count, reliability), np.ones(count), np.ones(count, bool))


def test_a_scan_is_said_to_show_arms_raised_where_its_landmarks_are_sure() -> None:
    assert "arms raised, as the shoulder blades are turned" in _notes(found(person(50, 50), 0.9), NO_ATLAS)
    assert not any("arms" in note for note in _notes(found(person(50, 50), 0.4), NO_ATLAS))


@pytest.mark.parametrize("angle", [0.0, 70.0])  # degrees by which the moving body is tilted in its scanner
def test_arms_that_differ_are_told_however_the_moving_body_lies(angle) -> None:
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    tilt = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    fixed, moving = (Points(points, NAMES) for points in (person(50, 50), person(0, 0) @ tilt.T))
    misses = LandmarkMisses(fixed, moving, np.ones(len(NAMES)), np.zeros(len(NAMES), bool))
    assert misses.arms_that_differ == "arms raised in the fixed image and arms down in the moving image"
    alike = LandmarkMisses(fixed, Points(person(50, 50) @ tilt.T, NAMES), misses.distance, misses.guided)
    assert alike.arms_that_differ == ""


def test_a_bent_spine_does_not_hide_that_arms_differ() -> None:
    """Of a chest and a neck with arms down nothing was told: the spine's bend had been taken for a tilt of the body."""
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    bent = person(0, 0)
    bent[4:] = bent[4:] @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T
    misses = LandmarkMisses(Points(person(50, 50), NAMES), Points(bent, NAMES), np.ones(8), np.zeros(8, bool))
    assert misses.arms_that_differ == "arms raised in the fixed image and arms down in the moving image"

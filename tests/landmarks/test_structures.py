"""Landmarks are taken from the structures that an image itself shows."""

from __future__ import annotations

import numpy as np

from samreg.landmarks.kidneys import FoundKidney
from samreg.landmarks.ribs import FoundRib
from samreg.landmarks.scapulae import FoundBone, scapula_shape
from samreg.landmarks.structures import Structures, on_structures

NAMES = ("carina", "left_rib8_lateral", "left_rib12_tip", "right_diaphragm_dome", "left_glenoid")
PLACES = np.arange(15.0).reshape(5, 3)


def rib(*, lateral: object = None, tip: object = None) -> FoundRib:
    parts = (None if part is None else np.asarray(part, dtype=float) for part in (lateral, tip))
    return FoundRib(np.zeros((5, 3)), *parts)


def test_ribs_and_domes_are_where_the_image_shows_them() -> None:
    ribs = {"left_rib8": rib(lateral=[9, 0, 0]), "left_rib12": rib(lateral=[1, 1, 1], tip=[0, 9, 0])}
    structures = Structures(ribs=ribs, domes={"right": np.array([0.0, 0.0, 9.0])})
    positions, seen = on_structures(structures, NAMES, PLACES, PLACES)
    assert positions[1:4].tolist() == [[9, 0, 0], [0, 9, 0], [0, 0, 9]]
    assert positions[[0, 4]].tolist() == PLACES[[0, 4]].tolist()
    assert seen.tolist() == [False, True, True, True, False]
    assert PLACES[1].tolist() == [3, 4, 5]  # the given ones stay


def test_a_rib_far_from_where_its_neighbours_put_it_says_nothing() -> None:
    structures = Structures(ribs={"left_rib8": rib(lateral=[90, 0, 0]), "left_rib3": rib(lateral=[0, 0, 0])})
    positions, seen = on_structures(structures, NAMES, PLACES, PLACES)
    assert positions.tolist() == PLACES.tolist()
    assert not seen.any()


def test_poles_of_kidneys_are_where_the_image_shows_them() -> None:
    names = ("left_kidney_upper_pole", "left_kidney_lower_pole", "right_kidney_upper_pole", "right_kidney_lower_pole")
    kidneys = {"left": FoundKidney(np.array([9.0, 0, 0]), None), "right": FoundKidney(np.ones(3), np.full(3, 2.0))}
    positions, seen = on_structures(Structures(kidneys=kidneys), names, PLACES[:4], PLACES[:4])
    assert positions.tolist() == [[9, 0, 0], PLACES[1].tolist(), [1, 1, 1], [2, 2, 2]]
    assert seen.tolist() == [True, False, True, True]
    only_upper, _ = on_structures(Structures(kidneys=kidneys), names[:1], PLACES[:1], PLACES[:1])
    assert only_upper.tolist() == [[9, 0, 0]]


def test_a_kidney_is_not_both_the_left_and_the_right_one() -> None:
    """In a scan of the left half of the body the right kidney was found in the left one's place, and called sure."""
    names = ("left_kidney_upper_pole", "right_kidney_upper_pole", "right_kidney_lower_pole")
    expected = np.array([[60.0, 0.0, 0.0], [-60.0, 0.0, 0.0], [-70.0, 0.0, -100.0]])
    only = FoundKidney(np.array([55.0, 0.0, 0.0]), np.array([65.0, 0.0, -100.0]))
    positions, seen = on_structures(
        Structures(kidneys=dict.fromkeys(("left", "right"), only)), names, expected, expected
    )
    assert positions.tolist() == [[55.0, 0.0, 0.0], *expected[1:].tolist()]
    assert seen.tolist() == [True, False, False]


def test_origins_of_arteries_are_where_the_image_shows_them_and_the_vein_below_comes_along() -> None:
    names = ("celiac_trunk_origin", "left_renal_vein_crossing", "sma_origin")
    origins = {"celiac_trunk_origin": PLACES[0] + 1.0, "sma_origin": PLACES[2] + [0.0, 2.0, -15.0]}
    positions, seen = on_structures(Structures(origins=origins), names, PLACES[:3], PLACES[:3])
    np.testing.assert_allclose(positions - PLACES[:3], [[1, 1, 1], [0, 2, -15], [0, 2, -15]])
    assert seen.tolist() == [True, False, True]
    alone, seen = on_structures(Structures(), names, PLACES[:3], PLACES[:3])
    assert alone.tolist() == PLACES[:3].tolist()
    assert not seen.any()


def test_shoulder_blades_have_a_share_in_their_landmarks() -> None:
    shape = scapula_shape()
    k = shape.names.index("glenoid")
    for off, share in (([10.0, 0.0, 0.0], 0.4), ([40.0, 0.0, 0.0], 1.0)):
        landmarks = np.zeros((len(shape.names), 3))
        landmarks[k] = PLACES[4] + off
        bone = FoundBone(shape.points, np.ones(len(shape.points), dtype=bool), landmarks)
        positions, seen = on_structures(Structures(scapulae={"left": bone}), NAMES, PLACES, PLACES)
        np.testing.assert_allclose(positions[4], PLACES[4] + share * np.array(off))
        assert not seen.any()

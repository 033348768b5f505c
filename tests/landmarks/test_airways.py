"""The carinas of the airways in made-up CTs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from samreg.landmarks.airways import find_carinas
from samreg.spatial import Grid, Image

GRID = Grid((110, 90, 110), np.array([-110.0, -110.0, -190.0]), np.full(3, 2.0), np.eye(3))  # z from -190 to 28 mm
SPINE = np.array([[2.0 * level, 40.0, -24.0 * level] for level in range(5)])
FORKS = {
    "carina": np.array([0.0, -10.0, -80.0]),
    "right_upper_lobe_carina": np.array([-22.0, -8.0, -93.0]),
    "right_middle_lobe_carina": np.array([-26.0, -10.0, -122.0]),
    "left_secondary_carina": np.array([40.0, -2.0, -104.0]),
}
#: From a fork or a place to another, and the airway's radius, mm.
AIRWAYS = {
    "windpipe": ((0.0, -20.0, 28.0), "carina", 8.0),
    "right": ("carina", "right_upper_lobe_carina", 6.0),
    "left": ("carina", "left_secondary_carina", 5.0),
    "right upper": ("right_upper_lobe_carina", (-50.0, -14.0, -80.0), 4.0),
    "intermedius": ("right_upper_lobe_carina", "right_middle_lobe_carina", 5.0),
    "middle": ("right_middle_lobe_carina", (-40.0, -44.0, -140.0), 3.5),
    "right lower": ("right_middle_lobe_carina", (-34.0, 14.0, -165.0), 4.0),
    "left upper": ("left_secondary_carina", (60.0, -20.0, -84.0), 4.0),
    "left lower": ("left_secondary_carina", (48.0, 14.0, -150.0), 4.0),
}


def place(end: str | tuple[float, ...]) -> np.ndarray:
    return FORKS[end] if isinstance(end, str) else np.array(end)


@cache
def chest(*, without: tuple[str, ...] = (), mirrored: bool = False, leaks: tuple[str, ...] = ()) -> Image:
    """A CT of soft tissue and two lungs, with airways through walls, and holes in those that leak."""
    points = GRID.world_points()
    if mirrored:
        points = points * [-1.0, 1.0, 1.0]
    x, y, z = points.transpose(3, 0, 1, 2)
    is_lung = (np.abs(x) > 24) & (np.abs(x) < 90) & (np.abs(y) < 80) & (z < -10)
    array = np.where(is_lung, -860.0, 40.0)
    off = {}
    for name, (start, end, radius) in AIRWAYS.items():
        if name not in without:
            first, along = place(start), place(end) - place(start)
            share = np.clip(((points - first) @ along) / (along @ along), 0, 1)
            off[name] = np.linalg.norm(points - first - share[..., None] * along, axis=-1) - radius
    for name, mm in off.items():
        array[mm < (0.0 if name in leaks else 3.0)] = 40.0
    for mm in off.values():
        array[mm < 0] = -990.0
    return Image(array.astype(np.int16), GRID, "chest")  # which no test changes


def test_carinas_are_where_the_airways_part() -> None:
    found = find_carinas(chest(), SPINE)
    assert set(found) == set(FORKS)
    for name, fork in FORKS.items():  # the ridge lies where the walls meet, beyond the fork of the middle lines
        assert np.linalg.norm(found[name] - fork) < 13, name
        assert found[name][2] < fork[2] + 4, name
    assert abs(found["carina"][0]) < 3


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        (("left upper",), {"left_secondary_carina"}),
        (("right upper",), {"right_upper_lobe_carina", "right_middle_lobe_carina"}),
        (("middle",), {"right_middle_lobe_carina"}),
        (("left", "left upper", "left lower"), set(FORKS)),
        (("windpipe",), set(FORKS)),
    ],
)
def test_what_no_airway_leads_to_is_left_out(without: tuple[str, ...], missing: set[str]) -> None:
    assert set(find_carinas(chest(without=without), SPINE)) == set(FORKS) - missing


def test_the_next_fork_is_not_taken_for_the_one_before() -> None:
    """A branch too narrow to be seen must not give its name to the next."""
    whole, part = find_carinas(chest(), SPINE), find_carinas(chest(without=("right upper",)), SPINE)
    assert np.allclose(whole["carina"], part["carina"], atol=2)
    assert "right_upper_lobe_carina" not in part


def test_airways_open_to_a_lung_far_off_show_the_first_carinas() -> None:
    found = find_carinas(chest(leaks=("right lower", "left lower")), SPINE)
    assert {"carina", "right_upper_lobe_carina"} <= set(found)
    for name, fork in find_carinas(chest(), SPINE).items():
        assert name not in found or np.linalg.norm(found[name] - fork) < 4, name


def test_a_mirrored_body_has_the_long_main_bronchus_on_the_right() -> None:
    found = find_carinas(chest(mirrored=True), SPINE)
    assert abs(found["carina"][0]) < 3
    assert "right_upper_lobe_carina" not in found  # it comes too late to be one


def test_where_too_few_vertebrae_were_counted_or_lie_elsewhere_there_is_none() -> None:
    image = chest()
    for spine in (SPINE[:3], np.zeros((0, 3)), SPINE + [0.0, 0.0, 900.0], SPINE - [0.0, 70.0, 0.0]):
        assert find_carinas(image, spine) == {}


def test_without_hounsfield_units_there_is_none() -> None:
    image = chest()
    assert find_carinas(image.with_array(np.clip(image.array, 0, 255).astype(np.uint8)), SPINE) == {}


def test_a_volume_whose_axes_are_turned_has_the_same_carinas() -> None:
    image = chest()
    turned = Image(
        np.ascontiguousarray(image.array.transpose(1, 2, 0)[:, ::-1]),
        Grid(
            (90, 110, 110), GRID.origin + [2.0 * 109, 0, 0], GRID.spacing,
            np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
        ),
        "turned",
    )  # fmt: skip
    found = find_carinas(turned, SPINE)
    for name, place_found in find_carinas(image, SPINE).items():
        assert np.abs(found[name] - place_found).max() < 1e-6, name

"""Kidneys in made-up CTs."""

from __future__ import annotations

import numpy as np
import pytest

from samreg.landmarks.kidneys import find_kidneys
from samreg.spatial import Grid, Image

GRID = Grid((110, 90, 170), np.array([-170.0, -90.0, -140.0]), np.full(3, 2.0), np.eye(3))
HALF = np.array([28.0, 24.0, 52.0])
CENTRES = {"left": np.array([65.0, 30.0, -30.0]), "right": np.array([-65.0, 30.0, -40.0])}
UPPER = {side: centre + [0, 0, HALF[2]] for side, centre in CENTRES.items()}
LOWER = {side: centre - [0, 0, HALF[2]] for side, centre in CENTRES.items()}


def abdomen(*, around: float = -100.0, bridge: bool = False) -> Image:
    """A CT of two kidneys beside muscle, in fat or in other tissue; a thin bridge may join each to the muscle."""
    x, y, z = GRID.world_points().transpose(3, 0, 1, 2)
    array = np.where((x / 165) ** 2 + (y / 88) ** 2 < 1, around, -1000.0)
    array[(np.abs(x) < 22) & (y > -10) & (y < 60)] = 50.0
    for centre in CENTRES.values():
        inside = sum(((axis - c) / h) ** 2 for axis, c, h in zip((x, y, z), centre, HALF, strict=True)) < 1
        array[inside] = 35.0
        if bridge:
            between = (np.abs(x) < 60) & (np.sign(x) == np.sign(centre[0]))
            array[between & (np.abs(y - 30) < 5) & (np.abs(z - centre[2]) < 5)] = 40.0
    return Image(array.astype(np.int16), GRID, "abdomen")


@pytest.mark.parametrize("bridge", [False, True])
def test_poles_are_the_ends_of_the_kidneys(bridge: bool) -> None:
    off = {side: place + [14.0, -10.0, -12.0] for side, place in UPPER.items()}
    found = find_kidneys(abdomen(bridge=bridge), off)
    assert set(found) == {"left", "right"}
    for side, kidney in found.items():
        assert np.abs(kidney.upper - UPPER[side]).max() < 4, side
        assert np.abs(kidney.lower - LOWER[side]).max() < 4, side


def test_a_kidney_that_the_image_cuts_has_no_lower_pole() -> None:
    image = abdomen()
    first = 45
    cut = Image(image.array[first:], Grid(
        (GRID.shape[0] - first, *GRID.shape[1:]), GRID.origin + [0, 0, 2.0 * first], GRID.spacing, GRID.direction
    ), "cut")  # fmt: skip
    found = find_kidneys(cut, UPPER)
    assert set(found) == {"left", "right"}
    for side, kidney in found.items():
        assert np.abs(kidney.upper - UPPER[side]).max() < 4
        assert kidney.lower is None


def test_a_mask_cuts_a_kidney_as_the_end_of_the_image_does() -> None:
    """Beyond a mask there is air, and a kidney cut by it seemed to end there."""
    image = abdomen()
    z = GRID.world_points()[..., 2]
    below = image.with_array(np.where(z < -40, -1024, image.array).astype(np.int16))
    found = find_kidneys(below, UPPER)
    assert set(found) == {"left", "right"}
    assert all(kidney.lower is None for kidney in found.values())
    above = image.with_array(np.where(z > 5, -1024, image.array).astype(np.int16))
    assert find_kidneys(above, UPPER) == {}


def test_without_fat_around_it_a_kidney_is_left_out() -> None:
    assert find_kidneys(abdomen(around=40.0), UPPER) == {}


def test_none_is_found_where_none_is_expected() -> None:
    assert find_kidneys(abdomen(), {}) == {}
    assert find_kidneys(abdomen(), {"left": UPPER["left"] + [0, 0, 45.0]}) == {}
    assert find_kidneys(abdomen(), {"left": np.array([65.0, 30.0, 900.0])}) == {}


def test_without_hounsfield_units_there_is_none() -> None:
    image = abdomen()
    assert find_kidneys(image.with_array(np.clip(image.array, 0, 255).astype(np.uint8)), UPPER) == {}


def test_a_volume_whose_axes_are_turned_has_the_same_kidneys() -> None:
    image = abdomen()
    turned = Image(
        np.ascontiguousarray(image.array.transpose(1, 2, 0)[:, ::-1]),
        Grid(
            (90, 170, 110), GRID.origin + [2.0 * 169, 0, 0], GRID.spacing,
            np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
        ),
        "turned",
    )  # fmt: skip
    found = find_kidneys(turned, UPPER)
    assert set(found) == {"left", "right"}
    for side, kidney in found.items():
        assert np.abs(kidney.upper - UPPER[side]).max() < 4

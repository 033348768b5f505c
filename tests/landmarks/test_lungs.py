"""The apices of the lungs in made-up CTs."""

from __future__ import annotations

import numpy as np
import pytest

from samreg.landmarks.lungs import find_apices
from samreg.spatial import Grid, Image

GRID = Grid((120, 110, 170), np.array([-170.0, -110.0, -120.0]), np.full(3, 2.0), np.eye(3))  # z from -120 to 118 mm
APICES = {"left": np.array([45.0, 20.0, 8.0]), "right": np.array([-42.0, 10.0, -6.0])}
SPINE = np.array([[4.0 * level, 60.0, -25.0 * level] for level in range(5)])


def chest(*, windpipe: float | None = 3.0, emphysema: bool = False, tumour: bool = False) -> Image:
    """A CT of soft tissue with two lungs, a windpipe at x, gas under the skin, and a tumour that parts an apex."""
    x, y, z = GRID.world_points().transpose(3, 0, 1, 2)
    array = np.where((x / 165) ** 2 + (y / 105) ** 2 < 1, 40.0, -1000.0)
    for apex in APICES.values():
        array[z < apex[2] - ((x - apex[0]) ** 2 + (y - apex[1]) ** 2) / 30] = -850.0
    array[np.abs(x) < 4] = 40.0  # the mediastinum
    if windpipe is not None:
        array[(x - windpipe) ** 2 + (y + 40) ** 2 < 8**2] = -1000.0
    if tumour:
        array[(x < 0) & (np.abs(z + 40) < 8)] = 40.0
    if emphysema:
        array[(np.abs(x - 100) < 20) & (np.abs(y) < 20) & (np.abs(z - 30) < 8)] = -1000.0
    return Image(array.astype(np.int16), GRID, "chest")


@pytest.mark.parametrize("options", [{}, {"windpipe": None}, {"windpipe": 12.0}, {"emphysema": True}, {"tumour": True}])
def test_apices_are_the_highest_places_of_the_lungs(options) -> None:
    found = find_apices(chest(**options), SPINE)
    assert set(found) == set(APICES)
    for side, place in APICES.items():
        assert np.abs(found[side] - place).max() < 3, side


def test_where_too_few_vertebrae_were_counted_there_is_none() -> None:
    assert find_apices(chest(), SPINE[:3]) == {}
    assert find_apices(chest(), np.zeros((0, 3))) == {}


def test_where_vertebrae_lie_elsewhere_there_is_none() -> None:
    assert find_apices(chest(), SPINE - [0.0, 0.0, 60.0]) == {}
    assert find_apices(chest(), SPINE + [0.0, 0.0, 900.0]) == {}


def test_a_lung_that_the_image_cuts_has_no_apex() -> None:
    image = chest()
    slices = 63  # up to 4 mm: above the right apex, below the left one
    cut = Image(image.array[:slices], Grid((slices, 110, 170), GRID.origin, GRID.spacing, GRID.direction), "cut")
    assert set(find_apices(cut, SPINE)) == {"right"}


@pytest.mark.parametrize("masked", [False, True])
def test_a_lung_that_the_image_or_a_mask_cuts_from_the_side_has_no_apex(masked) -> None:
    """The highest place of what is left of it was its apex, 20 mm off in the right half of a person."""
    image, columns = chest(), 104  # up to 36 mm: beside the left apex
    array = image.array[..., :columns]
    if masked:
        array = np.where(np.arange(170) < columns, image.array, -1024).astype(np.int16)
    cut = Image(array, Grid(array.shape, GRID.origin, GRID.spacing, GRID.direction), "cut")
    assert set(find_apices(cut, SPINE)) == {"right"}


def test_where_a_mask_ends_a_lung_is_no_apex() -> None:
    image = chest()
    z = GRID.world_points()[..., 2]
    assert find_apices(image.with_array(np.where(z > -30, -1024, image.array).astype(np.int16)), SPINE) == {}


def test_without_hounsfield_units_there_is_none() -> None:
    image = chest()
    assert find_apices(image.with_array(np.clip(image.array, 0, 255).astype(np.uint8)), SPINE) == {}


def test_a_volume_whose_axes_are_turned_has_the_same_apices() -> None:
    image = chest()
    turned = Image(
        np.ascontiguousarray(image.array.transpose(1, 2, 0)[:, ::-1]),
        Grid(
            (110, 170, 120), GRID.origin + [2.0 * 169, 0, 0], GRID.spacing,
            np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
        ),
        "turned",
    )  # fmt: skip
    found = find_apices(turned, SPINE)
    assert set(found) == set(APICES)
    for side, place in APICES.items():
        assert np.abs(found[side] - place).max() < 3, side

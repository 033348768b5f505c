"""The domes of the diaphragm in made-up CTs."""

from __future__ import annotations

import numpy as np
import pytest

from samreg.landmarks.diaphragm import find_domes
from samreg.spatial import Grid, Image

GRID = Grid((140, 100, 170), np.array([-170.0, -100.0, -140.0]), np.full(3, 2.0), np.eye(3))
DOMES = {"left": np.array([75.0, 5.0, -30.0]), "right": np.array([-70.0, -10.0, -10.0])}


def chest(*, gas: bool = False, lower: float = 0.0) -> Image:
    """A CT of soft tissue with a lung over each dome, and gas in the stomach under the left one."""
    x, y, z = GRID.world_points().transpose(3, 0, 1, 2)
    array = np.where((x / 165) ** 2 + (y / 95) ** 2 < 1, 40.0, -1000.0)
    for dome in DOMES.values():
        height = dome[2] - lower - ((x - dome[0]) ** 2 + (y - dome[1]) ** 2) / 90
        array[((x - dome[0]) / 52) ** 2 + ((y - dome[1]) / 60) ** 2 + ((z - 20) / 110) ** 2 < (z > height)] = -850.0
    if gas:
        array[((x - 80) ** 2 + y**2 + (z + 62) ** 2) < 22**2] = -1000.0
    return Image(array.astype(np.int16), GRID, "chest")


@pytest.mark.parametrize("gas", [False, True])
def test_domes_are_the_highest_places_of_the_lungs_base(gas: bool) -> None:
    off = {side: place + [18.0, -20.0, 12.0] for side, place in DOMES.items()}
    found = find_domes(chest(gas=gas), off)
    for side, place in DOMES.items():
        assert np.abs(found[side] - place).max() < 4, side


def test_what_is_expected_nowhere_near_a_lung_is_left_out() -> None:
    assert find_domes(chest(), {"left": np.array([75.0, 5.0, -500.0])}) == {}
    assert find_domes(chest(), {}) == {}


def test_a_lung_that_goes_on_below_the_image_has_no_dome() -> None:
    cut = chest(lower=200.0)
    assert find_domes(cut, DOMES) == {}


def test_without_hounsfield_units_there_is_none() -> None:
    image = chest()
    assert find_domes(image.with_array(np.clip(image.array, 0, 255).astype(np.uint8)), DOMES) == {}


def test_a_volume_whose_axes_are_turned_has_the_same_domes() -> None:
    image = chest()
    turned = Image(
        np.ascontiguousarray(image.array.transpose(1, 2, 0)[:, ::-1]),
        Grid(
            (100, 170, 140), GRID.origin + [2.0 * 169, 0, 0], GRID.spacing,
            np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
        ),
        "turned",
    )  # fmt: skip
    for side, place in find_domes(turned, DOMES).items():
        assert np.abs(place - DOMES[side]).max() < 4
    assert set(find_domes(turned, DOMES)) == set(DOMES)


def test_where_a_mask_ends_a_lung_is_no_dome() -> None:
    """Beyond a mask there is air outside the body, and the lung seemed to end there."""
    image = chest()
    z = GRID.world_points()[..., 2]
    assert find_domes(image.with_array(np.where(z < 20, -1024, image.array).astype(np.int16)), DOMES) == {}

"""Origins of arteries in made-up CTs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from samreg.landmarks.aorta import CELIAC, MESENTERIC, find_artery_origins
from samreg.spatial import Grid, Image

GRID = Grid((90, 80, 120), np.array([-90.0, -80.0, -120.0]), np.full(3, 2.0), np.eye(3))
RADIUS = 9.0
ORIGINS = {CELIAC: np.array([8.0, 1.0, 9.0]), MESENTERIC: np.array([6.0, 1.0, -6.0])}
BLOOD = 180.0


def _axis(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return 6.0 + 0.05 * z, 10.0 - 0.1 * z  # leaning to the left and to the front as the spine does


def abdomen(
    *,
    blood: float = BLOOD,
    arteries: tuple[str, ...] = (CELIAC, MESENTERIC),
    vein: bool = True,
    end: float = -np.inf,
    origins: Mapping[str, NDArray[np.float64]] = ORIGINS,
) -> Image:
    """A CT of an aorta before a spine, its arteries, and a vein that crosses in front of it below them."""
    x, y, z = GRID.world_points().transpose(3, 0, 1, 2)
    array = np.where((x / 88) ** 2 + (y / 78) ** 2 < 1, -90.0, -1000.0)
    array[(np.abs(x) < 20) & (y > 24 - 0.1 * z) & (y < 60)] = 220.0
    array[(x < -30) & (y < 30) & (z > -60)] = 60.0
    middle_x, middle_y = _axis(z)
    for name in arteries:
        origin = origins[name]
        tube = (
            (np.hypot(x - origin[0], z - origin[2] - 0.3 * (y - origin[1])) < 4) & (y < middle_y) & (y > origin[1] - 25)
        )
        array[tube] = blood
    if vein:
        off = np.hypot(x - middle_x, y - middle_y) - RADIUS - 4.5  # drawn over the front, as it is
        array[(np.hypot(off, z + 22) < 4) & (y < middle_y)] = blood
    array[np.hypot(x - middle_x, y - middle_y) < RADIUS] = blood
    array[z < end] = -1024.0
    return Image(array.astype(np.int16), GRID, "abdomen")


def off_by(offset: tuple[float, float, float]) -> dict[str, NDArray[np.float64]]:
    return {name: origin + np.array(offset) for name, origin in ORIGINS.items()}


@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.0), (3.0, -3.0, 16.0), (-4.0, 4.0, -14.0)])
@pytest.mark.parametrize("blood", [110.0, BLOOD, 350.0])
def test_both_origins_are_found_from_afar(offset: tuple[float, float, float], blood: float) -> None:
    found = find_artery_origins(abdomen(blood=blood), off_by(offset))
    assert set(found) == set(ORIGINS)
    for name, place in found.items():
        assert np.linalg.norm(place - ORIGINS[name]) < 4, name
        x, y = _axis(place[2])
        assert np.hypot(place[0] - x, place[1] - y) == pytest.approx(RADIUS, abs=2), "on the wall"


@pytest.mark.parametrize("stored", ["LPS", "RAS", "axes turned round"])
@pytest.mark.parametrize("degrees", [-30.0, 30.0])
def test_origins_to_either_side_are_those_of_the_world_however_the_image_is_stored(stored: str, degrees: float) -> None:
    turn = np.deg2rad(degrees)
    origins = {}
    for name, z in ((CELIAC, 9.0), (MESENTERIC, -6.0)):
        x, y = _axis(np.array(z))
        origins[name] = np.array([x + RADIUS * np.sin(turn), y - RADIUS * np.cos(turn), z])
    image = abdomen(origins=origins, vein=False)
    if stored == "RAS":  # x and y run the other way
        corner = GRID.index_to_world([[GRID.size[0] - 1.0, GRID.size[1] - 1.0, 0.0]])[0]
        grid = Grid(image.shape, corner, GRID.spacing, np.diag([-1.0, -1.0, 1.0]))
        image = Image(np.ascontiguousarray(image.array[:, ::-1, ::-1]), grid, "RAS")
    elif stored == "axes turned round":  # the index runs along z, x, y
        array = np.ascontiguousarray(image.array.transpose(1, 2, 0))
        image = Image(array, Grid(array.shape, GRID.origin, GRID.spacing, np.eye(3)[:, [2, 0, 1]]), "axes")
    found = find_artery_origins(image, {name: origin + [0.0, 0.0, 8.0] for name, origin in origins.items()})
    assert set(found) == set(origins)
    for name, place in found.items():
        np.testing.assert_allclose(place, origins[name], atol=4.0)
        assert np.sign(place[0] - _axis(place[2])[0]) == np.sign(degrees), "to the left is positive"


def test_a_vein_that_crosses_in_front_is_no_origin() -> None:
    """With the lower artery gone it is the next that is bright below the upper one."""
    assert find_artery_origins(abdomen(arteries=(CELIAC,)), ORIGINS) == {}


@pytest.mark.parametrize("blood", [45.0, 80.0])
def test_without_contrast_nothing_is_said(blood: float) -> None:
    assert find_artery_origins(abdomen(blood=blood), ORIGINS) == {}


def test_both_are_needed_to_tell_them_apart() -> None:
    image = abdomen()
    assert find_artery_origins(image, {CELIAC: ORIGINS[CELIAC]}) == {}
    assert find_artery_origins(abdomen(end=0.0), ORIGINS) == {}, "a mask ends between them"
    far = {name: origin + [0.0, 0.0, 45.0] for name, origin in ORIGINS.items()}
    assert find_artery_origins(image, far) == {}
    assert find_artery_origins(image, {name: origin + 1000.0 for name, origin in ORIGINS.items()}) == {}


def test_an_artery_far_below_is_another() -> None:
    """The next that was bright, 44 mm below the celiac trunk, was once taken for the mesenteric artery."""
    image = abdomen(arteries=(CELIAC,), vein=False)
    x, y, z = GRID.world_points().transpose(3, 0, 1, 2)
    middle_x, middle_y = _axis(z)
    another = (np.hypot(x - middle_x, z - ORIGINS[CELIAC][2] + 42) < 4) & (y < middle_y) & (y > middle_y - 34)
    image = image.with_array(np.where(another, BLOOD, image.array).astype(np.int16))
    assert find_artery_origins(image, ORIGINS) == {}


def test_other_intensities_are_not_read() -> None:
    image = abdomen()
    assert find_artery_origins(image.with_array((image.array + 1024).astype(np.int16)), ORIGINS) == {}

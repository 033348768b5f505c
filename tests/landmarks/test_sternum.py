"""The sternal angle in made-up CTs."""

from __future__ import annotations

import numpy as np
import pytest

from samreg.landmarks.sternum import find_sternal_angle
from samreg.spatial import Grid, Image

GRID = Grid((110, 110, 80), np.array([-80.0, -160.0, -190.0]), np.full(3, 2.0), np.eye(3))  # z from -190 to 28 mm
LEVELS = [1, 2, 3, 4, 5, 6]
SPINE = np.array([[2.0, 30.0, -22.0 * (level - 1)] for level in LEVELS])
LEAN = 0.5  # to the back, upwards
JOINT = np.array([4.0, -75.0, -76.0])  # the front of it; T4 lies at -66


def chest(*, joint: bool = True, dense: float = 420.0, second: float | None = None, heart: float = 40.0) -> Image:
    """A CT with a sternum of cortex and marrow that leans, denser where its parts join, in front of lung and heart."""
    x, y, z = GRID.world_points().transpose(3, 0, 1, 2)
    front = JOINT[1] + LEAN * (z - JOINT[2])
    depth = y - front  # behind the front of the sternum
    array = np.where(depth > -20, 40.0, -1000.0)  # muscle under the skin, and fat over it
    array[(depth > -16) & (depth < 0)] = -100.0
    array[depth > 24] = -850.0
    array[(depth > 30) & (np.abs(x + 10) < 40) & (z < -90)] = heart
    array[(depth > 70) & (np.abs(x) < 60)] = 40.0
    bone = (np.abs(x - JOINT[0]) < 16) & (depth >= 0) & (depth < 14) & (z < -20)
    array[bone] = 110.0
    array[bone & ((depth < 4) | (depth > 10))] = 260.0
    for place in ([JOINT[2]] if joint else []) + ([] if second is None else [second]):
        array[bone & (np.abs(z + LEAN * (depth - 7) - place) < 5)] = dense
    return Image(array.astype(np.int16), GRID, "chest")


@pytest.mark.parametrize("heart", [40.0, 350.0])
def test_the_joint_is_where_the_sternum_is_brightest(heart: float) -> None:
    found = find_sternal_angle(chest(heart=heart), LEVELS, SPINE)
    assert found is not None
    assert np.abs(found - JOINT)[1:].max() < 6
    assert abs(found[0] - JOINT[0]) < 9  # it is as bright all across


def test_levels_may_be_missing() -> None:
    rows = [1, 2, 4, 5]
    found = find_sternal_angle(chest(), [LEVELS[i] for i in rows], SPINE[rows])
    np.testing.assert_allclose(found, find_sternal_angle(chest(), LEVELS, SPINE))


@pytest.mark.parametrize(
    "options", [{"joint": False}, {"second": -100.0}, {"joint": False, "second": -130.0}]
)  # none; two alike; one where none is searched
def test_where_no_joint_or_more_than_one_stands_out_there_is_none(options: dict[str, float]) -> None:
    assert find_sternal_angle(chest(**options), LEVELS, SPINE) is None


@pytest.mark.parametrize("masked", [False, True])
def test_where_the_image_or_its_mask_ends_beside_the_joint_there_is_none(masked) -> None:
    """In a field of view without the sternum it was found 53 mm off, at bone beside the edge."""
    image, columns = chest(), 45  # up to 8 mm, of a sternum that reaches to 20
    array = image.array[..., :columns]
    if masked:
        array = np.where(np.arange(80) < columns, image.array, -1024).astype(np.int16)
    cut = Image(array, Grid(array.shape, GRID.origin, GRID.spacing, GRID.direction), "cut")
    assert find_sternal_angle(cut, LEVELS, SPINE) is None


def test_where_too_few_vertebrae_were_counted_or_lie_elsewhere_there_is_none() -> None:
    image = chest()
    assert find_sternal_angle(image, LEVELS[:3], SPINE[:3]) is None
    assert find_sternal_angle(image, [], np.zeros((0, 3))) is None
    assert find_sternal_angle(image, LEVELS, SPINE + [0.0, 0.0, 900.0]) is None
    assert find_sternal_angle(image, LEVELS, SPINE + [0.0, 0.0, 80.0]) is None  # its lower half is cut


def test_without_hounsfield_units_there_is_none() -> None:
    image = chest()
    assert find_sternal_angle(image.with_array(np.clip(image.array, 0, 255).astype(np.uint8)), LEVELS, SPINE) is None


def test_a_volume_whose_axes_are_turned_has_the_same_joint() -> None:
    image = chest()
    turned = Image(
        np.ascontiguousarray(image.array.transpose(1, 2, 0)[:, ::-1]),
        Grid(
            (110, 80, 110), GRID.origin + [2.0 * 79, 0, 0], GRID.spacing,
            np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
        ),
        "turned",
    )  # fmt: skip
    found, known = (find_sternal_angle(one, LEVELS, SPINE) for one in (turned, image))
    np.testing.assert_allclose(found, known, atol=1e-6)


def test_a_deep_chest_is_looked_at_to_its_front() -> None:
    image, back = chest(), 60
    array = np.pad(image.array, ((0, 0), (0, back), (0, 0)), constant_values=40)
    deep = Image(array, Grid(array.shape, GRID.origin, GRID.spacing, GRID.direction), "deep")
    found = find_sternal_angle(deep, LEVELS, SPINE + [0.0, 2.0 * back, 0.0])
    np.testing.assert_allclose(found, find_sternal_angle(image, LEVELS, SPINE), atol=1e-6)

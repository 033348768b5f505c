"""The top of the aortic arch in made-up CTs."""

from __future__ import annotations

import numpy as np
import pytest

from samreg.landmarks.arch import BRANCHES, find_arch
from samreg.spatial import Grid, Image

GRID = Grid((100, 120, 120), np.array([-120.0, -120.0, -110.0]), np.full(3, 2.0), np.eye(3))
RADIUS, THICKNESS, TURN = 32.0, 13.0, np.radians(25.0)
ALONG = np.array([np.sin(TURN), np.cos(TURN), 0.0])
MIDDLE = np.array([0.0, 0.0, -20.0])  # of the half circle that the arch is; its top lies 45 mm higher
TOP = MIDDLE + [0.0, 0.0, RADIUS + THICKNESS]
EXPECTED = dict(zip(BRANCHES, (TOP - 12 * ALONG, TOP + 4 * ALONG), strict=True))


def chest(*, blood: float = 40.0, arch: bool = True) -> Image:
    """A CT of fat between two lungs, with an aorta that bends from front to back, and two branches."""
    points = GRID.world_points() - MIDDLE
    along, up = points @ ALONG, points[..., 2]
    aside = points @ np.array([ALONG[1], -ALONG[0], 0.0])
    array = np.where(np.abs(aside) < 20, -100.0, -850.0)
    bent = np.hypot(np.hypot(along, np.maximum(up, 0)) - RADIUS, aside) < THICKNESS
    if arch:
        array[bent] = blood
        for name, place in EXPECTED.items():
            off = np.hypot(along - (place - MIDDLE) @ ALONG, aside)
            array[(off < (4.0 if "carotid" in name else 5.0)) & (up > RADIUS)] = blood
    return Image(array.astype(np.int16), GRID, "chest")


@pytest.mark.parametrize("blood", [40.0, 300.0])
@pytest.mark.parametrize("off", [[0, 0, 0], [6, -6, 8], [-6, 6, -8]])
def test_the_top_is_seen_with_contrast_and_without(blood: float, off: list[float]) -> None:
    found = find_arch(chest(blood=blood), {name: place + off for name, place in EXPECTED.items()})
    assert found is not None
    assert abs(found[2] - TOP[2]) < 3
    assert np.linalg.norm(found - TOP) < 9  # it is flat up there


def test_without_an_arch_there_is_no_top() -> None:
    assert find_arch(chest(arch=False), EXPECTED) is None
    assert find_arch(chest(), {name: place - [0.0, 0.0, 500.0] for name, place in EXPECTED.items()}) is None


def test_one_branch_does_not_say_where_to_look() -> None:
    assert find_arch(chest(), {BRANCHES[0]: EXPECTED[BRANCHES[0]]}) is None
    assert find_arch(chest(), {}) is None


def test_an_arch_that_the_image_cuts_has_no_top() -> None:
    image = chest()
    slices = int((TOP[2] - 6 - GRID.origin[2]) / 2)
    cut = Image(image.array[:slices], Grid((slices, 120, 120), GRID.origin, GRID.spacing, GRID.direction), "cut")
    assert find_arch(cut, EXPECTED) is None


def test_without_hounsfield_units_there_is_none() -> None:
    image = chest()
    assert find_arch(image.with_array(np.clip(image.array, 0, 255).astype(np.uint8)), EXPECTED) is None


def test_the_order_of_the_array_does_not_matter() -> None:
    image = chest()
    axes = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    first = GRID.index_to_world([[0, 0, GRID.size[2] - 1]])[0]
    array = np.ascontiguousarray(image.array.transpose(2, 1, 0)[:, :, ::-1])
    moved = Image(array, Grid(array.shape, first, image.spacing, axes), "permuted")
    np.testing.assert_allclose(find_arch(moved, EXPECTED), find_arch(image, EXPECTED), atol=2.0)

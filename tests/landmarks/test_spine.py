"""Vertebral bodies counted in a made-up spine, and the levels they get."""

from __future__ import annotations

import numpy as np
import pytest

from samreg.landmarks.spine import (
    _SPACING_MM,
    LEVELS,
    Bodies,
    count_bodies,
    first_level,
    is_counted_from_above,
    on_bodies,
)
from samreg.spatial import Grid, Image

SHAPE = (220, 60, 60)  # 440 x 120 x 120 mm
T1, T8, L3 = (LEVELS.index(f"vertebra_{name}") for name in ("T1", "T8", "L3"))


def spine(size: float = 1.0, *, discs: bool = True, noise: float = 15.0) -> tuple[Image, np.ndarray]:
    """An image of C7 to L5, cut by its borders, on a curved line, and the centres (N, 3) of the bodies."""
    below = 430.0 - size * np.concatenate([[0.0], np.cumsum(_SPACING_MM)])[: len(LEVELS)]

    def line(z: np.ndarray) -> np.ndarray:
        return np.stack([60 + 4 * np.sin(z / 90), 60 + 25 * np.sin(z / 140)], axis=-1)

    z, y, x = np.meshgrid(*(2.0 * np.arange(n) for n in SHAPE), indexing="ij")
    around = np.linalg.norm(np.stack([x, y], axis=-1) - line(z), axis=-1) < 16
    middle = (below[1:] + below[:-1]) / 2
    from_disc = np.abs(z[:, 0, 0][:, None] - middle).min(axis=1)
    along = np.select([from_disc < 2.5, from_disc < 6], [90.0, 330.0], 170.0) if discs else np.full(len(z), 170.0)
    array = np.where(around, along[:, None, None], 40.0) + np.random.default_rng(0).normal(0, noise, SHAPE)
    centres = np.column_stack([line(below), below])
    return Image.from_array(array.astype(np.float32), spacing=2.0), centres[below > 5]


@pytest.mark.parametrize("size", [0.85, 1.0, 1.15])
def test_bodies_are_found_though_landmarks_skip_one(size: float) -> None:
    image, truth = spine(size)
    levels = np.arange(T1, min(L3, len(truth) - 1))
    found = truth[np.where(levels < T8, levels, levels + 1)]  # all from T8 on are one level too low
    bodies = count_bodies(image, levels, found)
    assert bodies is not None
    distance = np.linalg.norm(bodies.centres[:, None] - truth[None], axis=2)
    assert distance.min(axis=1).max() < 4
    assert (np.diff(distance.argmin(axis=1)) == 1).all()


def test_the_order_and_direction_of_the_array_do_not_matter() -> None:
    image, truth = spine()
    levels = np.arange(T1, L3)
    expected = count_bodies(image, levels, truth[levels])
    assert expected is not None
    # the same voxels in the same places, their array from foot to head and with x slowest
    turned = np.ascontiguousarray(image.array.transpose(2, 1, 0)[:, :, ::-1])
    last = image.grid.index_to_world([[0, 0, image.grid.size[2] - 1]])[0]
    axes = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # of array x, y, z, as columns
    moved = Image(turned, Grid(turned.shape, last, image.spacing, axes), "permuted")
    index = moved.grid.world_to_index(truth[:1])
    np.testing.assert_allclose(moved.grid.index_to_world(index), truth[:1])
    found = count_bodies(moved, levels, truth[levels])
    assert found is not None
    np.testing.assert_allclose(found.centres, expected.centres, atol=0.01)


def test_levels_are_counted_from_above() -> None:
    image, truth = spine()
    levels = np.arange(T1, L3)
    for shift in (-1, 1):
        found = truth[np.where(levels < T8, levels, levels + shift)]
        bodies = count_bodies(image, levels, found)
        assert bodies is not None
        first = first_level(bodies, levels, found, np.zeros((len(bodies.centres), len(LEVELS))))
        assert first is not None
        np.testing.assert_allclose(on_bodies(bodies, first, levels, found), truth[levels], atol=4)


def test_vectors_outweigh_landmarks_that_are_all_off() -> None:
    image, truth = spine()
    levels = np.arange(T1 + 1, L3)
    found = truth[levels + 1]
    bodies = count_bodies(image, levels, found)
    assert bodies is not None
    top = int(np.linalg.norm(truth - bodies.centres[0], axis=1).argmin())
    likely = -10.0 * np.abs(np.arange(len(LEVELS))[None] - top - np.arange(len(bodies.centres))[:, None])
    assert first_level(bodies, levels, found, likely * 20) == top
    assert first_level(bodies, levels, found, likely / 100) == top - 1


def test_without_the_upper_spine_levels_are_counted_from_below() -> None:
    image, truth = spine(0.95)
    l5 = len(LEVELS) - 1
    levels = np.arange(T8, l5 + 1)
    found = truth[np.where(levels > L3, levels, levels - 1)]  # right at the end, one too high above it
    assert not is_counted_from_above(levels)
    bodies = count_bodies(image, levels, found)
    assert bodies is not None
    first = first_level(bodies, levels, found, np.zeros((len(bodies.centres), len(LEVELS))))
    assert first is not None
    np.testing.assert_allclose(on_bodies(bodies, first, levels, found), truth[levels], atol=4)
    assert is_counted_from_above(range(T1, L3))
    assert not is_counted_from_above([4, 5, *levels])  # as bunched at the upper border


def test_landmarks_near_their_body_stay() -> None:
    centres = np.array([[0.0, 0.0, -20.0 * i] for i in range(6)])
    bodies = Bodies(centres, np.full(6, 20.0), 1.0)
    near = centres + [0.0, 3.0, 4.0]
    np.testing.assert_array_equal(on_bodies(bodies, 2, range(2, 8), near), near)
    outside = on_bodies(bodies, 2, [1, 8], near[:2])  # not counted
    np.testing.assert_array_equal(outside, near[:2])
    far = centres + [0.0, 0.0, 11.0]
    np.testing.assert_array_equal(on_bodies(bodies, 2, range(2, 8), far), centres)


def test_where_no_disc_is_seen_nothing_is_counted() -> None:
    image, truth = spine(discs=False)
    levels = np.arange(T1, L3)
    assert count_bodies(image, levels, truth[levels]) is None
    image, truth = spine()
    assert count_bodies(image, levels[:4], truth[levels[:4]]) is None  # too few
    assert count_bodies(image, levels, truth[levels] + [0.0, 0.0, 2000.0]) is None  # outside the image
    assert count_bodies(image, levels, np.tile(truth[5], (len(levels), 1))) is None  # all in one place
    array = image.array.copy()
    array[:, 20:40, 20:40] = np.nan
    assert count_bodies(image.with_array(array), levels, truth[levels]) is None

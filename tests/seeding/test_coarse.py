"""Turns that coarse correlation proposes, on phantoms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from samreg.phantoms.phantom import phantom_pair
from samreg.seeding.coarse import masked_correlation, propose_turns, rotations
from samreg.seeding.turns import angle_between, turned_image
from samreg.spatial import Grid, Image


@pytest.mark.parametrize("ndim", [2, 3])
def test_rotations_cover_all_poses(ndim) -> None:
    covered = rotations(ndim)
    np.testing.assert_array_equal(covered[0], np.eye(ndim))
    poses = Rotation.random(200, random_state=0).as_matrix()
    if ndim == 2:
        poses = Rotation.from_euler("z", np.linspace(0, 360, 50), degrees=True).as_matrix()[:, :2, :2]
    furthest = max(min(angle_between(pose, rotation) for rotation in covered) for pose in poses)
    assert furthest < (23 if ndim == 2 else 33)


def test_the_rotation_that_undoes_a_turn_is_proposed_first() -> None:
    pair = phantom_pair(1, 2, spacing=10.0)
    turn = rotations(3)[100]
    turned = turned_image(pair.moving.image, turn, pair.moving.image.grid.center)
    assert angle_between(propose_turns(pair.fixed.image, turned, rotations(3))[0], turn.T) < 1


def test_no_turn_is_proposed_for_a_header_in_cm() -> None:
    """At the voxels of an image so small it took minutes."""
    pair = phantom_pair(1, 2, spacing=14.0)
    grid = pair.moving.image.grid
    tiny = Image(
        pair.moving.image.array, Grid(grid.shape, grid.origin / 10, grid.spacing / 10, grid.direction), "in cm"
    )
    assert propose_turns(pair.fixed.image, tiny, rotations(3)) == []


def test_turns_are_proposed_alike_however_many_are_compared_at_once(monkeypatch) -> None:
    """Each batch once had a box of its own, half a voxel off others', and the best turn hung on it."""
    pair = phantom_pair(1, 2, spacing=14.0)
    turn = rotations(3)[60]
    turned = turned_image(pair.moving.image, turn, pair.moving.image.grid.center)
    expected = propose_turns(pair.fixed.image, turned, rotations(3)[:64])
    for count in (3, 64):
        monkeypatch.setattr("samreg.seeding.coarse._TURNS_AT_ONCE", count)
        np.testing.assert_array_equal(propose_turns(pair.fixed.image, turned, rotations(3)[:64]), expected)


def test_correlation_is_that_of_the_best_shift() -> None:
    rng = np.random.default_rng(0)
    moving = rng.normal(size=(6, 7))
    mask = np.ones_like(moving)
    mask[0] = 0
    fixed = np.zeros((9, 8))
    fixed[2:8, 1:8] = 3 * moving + 5
    fixed_mask = np.zeros_like(fixed)
    fixed_mask[2:8, 1:8] = 1
    both = np.stack([moving, rng.normal(size=(6, 7))])
    same, unrelated = masked_correlation(
        *(torch.from_numpy(array) for array in (fixed, fixed_mask, both, np.stack([mask, mask])))
    )
    assert float(same) == pytest.approx(1.0)
    assert unrelated < 0.9

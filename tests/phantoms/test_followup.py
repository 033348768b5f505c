"""Simulated follow-ups: the truth they promise is what the voxels show."""

from __future__ import annotations

import numpy as np
import pytest

import samreg
from samreg.errors import InputError
from samreg.phantoms import FollowUp, make_phantom, simulate_followup


@pytest.fixture(scope="module")
def image() -> samreg.Image:
    return make_phantom(0, spacing=4.0, field_of_view=(-95.0, 75.0)).image


@pytest.fixture(scope="module")
def pair(image) -> FollowUp:
    return simulate_followup(image, lesions=5, seed=1)


def nearest(image: samreg.Image, points: np.ndarray) -> np.ndarray:
    index = np.rint(image.grid.world_to_index(points)).astype(int)
    return image.array[tuple(index[:, ::-1].T)]


def test_the_map_and_its_inverse_are_exact(pair):
    points = pair.baseline.grid.center + np.random.default_rng(0).uniform(-150, 150, (200, 3))
    there = pair.transform.transform_points(points)
    np.testing.assert_allclose(pair.inverse.transform_points(there), points, atol=1e-9)
    np.testing.assert_allclose(pair.transform.transform_points(pair.lesions.centers), pair.centers, atol=1e-9)


def test_lesions_are_where_the_truth_says(pair):
    assert nearest(pair.labels, pair.lesions.centers).tolist() == list(range(1, len(pair.lesions) + 1))
    before, after = nearest(pair.baseline, pair.lesions.centers), nearest(pair.followup, pair.centers)
    assert (np.abs(before - pair.lesions.hu) < 40).all()
    assert (np.abs(after - pair.lesions.hu) < 130).all()  # of other contrast, and noisy
    assert (pair.followup.grid.depth(pair.centers) > 15).all()


def test_sizes_are_those_of_the_truth(pair):
    counted = np.bincount(pair.labels.array.ravel())[1:] * np.prod(pair.labels.spacing)
    np.testing.assert_allclose(counted, pair.volumes[:, 0], rtol=0.2)  # of voxels of 4 mm
    ratio = pair.volumes[:, 1] / pair.volumes[:, 0] / pair.lesions.growth**3
    assert (np.abs(np.log(ratio)) < 0.5).all()


def test_the_same_seed_gives_the_same_visit_and_another_one_does_not(image, pair):
    again, other = simulate_followup(image, lesions=5, seed=1), simulate_followup(image, lesions=5, seed=2)
    np.testing.assert_array_equal(again.followup.array, pair.followup.array)
    assert other.followup.shape != pair.followup.shape or (other.followup.array != pair.followup.array).any()


def test_air_has_no_room_for_lesions(image):
    with pytest.raises(InputError, match="no room"):
        simulate_followup(image.with_array(np.full_like(image.array, -1000)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lesions": 0}, "lesions must be a whole number of at least 1"), ({"strength": -1}, "strength must be a number")],
)
def test_a_wrong_option_is_named(image, options, message):
    with pytest.raises(InputError, match=message):
        simulate_followup(image, **options)


def test_what_is_no_ct_is_refused(image):
    with pytest.raises(InputError, match="is 2D; lesions are painted into a 3D CT"):
        simulate_followup(samreg.Image.from_array(image.array[0]))
    with pytest.raises(InputError, match="NaN or infinity; replace them"):
        simulate_followup(image.with_array(np.full(image.shape, np.nan)))

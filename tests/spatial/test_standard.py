"""Images on standard axes and voxel sizes; what a mask is, and masks on other grids."""

from __future__ import annotations

import itertools
import logging

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from samreg.engines.base import _mask_on
from samreg.errors import InputError
from samreg.quality import surface_distances
from samreg.quality.deformation import determinants
from samreg.quality.similarity import ncc
from samreg.spatial import AffineTransform, Grid, Image, as_mask, sample_mask
from samreg.spatial.adapters import from_nibabel, from_sitk, to_nibabel, to_sitk
from samreg.spatial.standard import has_hounsfield_units, mask_voxels, oriented, standardised

# axes and voxel sizes


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_orientation_keeps_every_voxel_in_its_place(order):
    rng = np.random.default_rng(0)
    direction = np.eye(3)[:, list(order)] * [-1, 1, -1]
    image = Image.from_array(
        rng.normal(size=(3, 4, 5)), origin=(7, 8, 9), spacing=(1, 2, 3), direction=direction, name="turned"
    )
    turned = oriented(image)
    np.testing.assert_allclose(turned.direction, np.eye(3), atol=1e-12)
    points = image.grid.world_points().reshape(-1, 3)
    index = np.rint(turned.grid.world_to_index(points)).astype(int)
    np.testing.assert_array_equal(turned.array[index[:, 2], index[:, 1], index[:, 0]], image.array.ravel())


def test_standard_image_is_unchanged():
    image = Image(np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.int16), Grid.make((3, 4, 5), spacing=2.0))
    result = standardised(image, 2.0)
    np.testing.assert_array_equal(result.array, image.array)
    assert result.array.dtype == np.float32
    assert result.grid.same_as(image.grid)


def test_oblique_image_lands_in_place():
    angle = np.deg2rad(20)
    direction = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    array = np.full((20, 40, 40), -1000, np.int16)
    array[8:12, 28:32, 10:14] = 1000
    image = Image.from_array(array, spacing=(2, 2, 2), direction=direction, origin=(5, 6, 7))
    result = standardised(image, 2.0)
    np.testing.assert_allclose(result.direction, np.eye(3))
    weight = result.array.astype(float).clip(0)
    centre = (result.grid.world_points() * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    np.testing.assert_allclose(centre, image.grid.index_to_world([[11.5, 29.5, 9.5]])[0], atol=0.2)
    assert result.array.min() >= -1024


def test_downsampling_averages():
    rng = np.random.default_rng(0)
    image = Image.from_array(rng.normal(0, 100, (24, 90, 90)).astype(np.int16), spacing=(0.7, 0.7, 1.25))
    assert standardised(image, 2.0).array.std() < 45


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_orientation_is_that_of_simpleitk_and_nibabel(grids, random_image, data):
    image = random_image(np.random.default_rng(0), data.draw(grids(3)), np.int16)
    ours = oriented(image)
    theirs = from_sitk(sitk.DICOMOrient(to_sitk(image), "LPS"))
    # where two axes are nearly as far from an axis of the world, either choice is right, and both are nearly as near
    nearest = np.abs(image.direction).max(axis=0)
    if np.array_equal(np.sort(np.abs(image.direction).argmax(axis=0)), range(3)) and nearest.min() > 0.75:
        assert ours.grid.same_as(theirs.grid)
        assert np.array_equal(ours.array, theirs.array)
        nearby = nib.as_closest_canonical(to_nibabel(image))  # RAS
        canonical = from_nibabel(nearby)
        assert ours.grid.same_as(oriented(canonical).grid)
        assert np.array_equal(ours.array, canonical.array[:, ::-1, ::-1])
    assert np.trace(ours.direction) >= np.trace(theirs.direction) - 1e-6


# masks

INSIDE = np.zeros((5, 6, 7), bool)
INSIDE[2:4, 2:5, 2:4] = True


def _masks():
    numbers = {"u1": 1, "B": 255, "i1": -1, "u2": 7}
    whole = {f"{kind} of {number}": (INSIDE * number).astype(kind) for kind, number in numbers.items()}
    return whole | {
        "bool": INSIDE,
        "NaN outside": np.where(INSIDE, 1, np.nan).astype(np.float32),
        "infinite outside": np.where(INSIDE, 2, -np.inf),
        "NaN and zero outside": np.where(INSIDE, -3.0, np.where(np.arange(7) % 2, 0, np.nan)),
        "probabilities": np.where(INSIDE, 0.2, 0).astype(np.float32),
        "half precision": np.where(INSIDE, 0.2, 0).astype(np.float16),
        "other byte order": INSIDE.astype(">i2"),
    }


@pytest.mark.parametrize("array", _masks().values(), ids=_masks().keys())
def test_a_mask_is_the_same_voxels_everywhere(array):
    mask = Image.from_array(array, spacing=2, name="mask")
    assert np.array_equal(mask_voxels(array), INSIDE)
    assert np.array_equal(as_mask(mask).array, INSIDE)
    assert np.array_equal(sample_mask(mask, mask.grid), INSIDE)
    assert np.array_equal(_mask_on(mask, mask.grid, "mask").array, INSIDE)
    finer = mask.grid.with_spacing(1)
    assert np.array_equal(_mask_on(mask, finer, "mask").array, sample_mask(mask, finer))
    assert sample_mask(mask, finer).sum() == 8 * INSIDE.sum()
    ramp = np.arange(INSIDE.size).reshape(INSIDE.shape)
    assert ncc(ramp, np.where(INSIDE, ramp, 0), array) == pytest.approx(1)
    assert [side.max() for side in surface_distances(array, INSIDE, spacing=2)] == [0, 0]
    assert len(determinants(AffineTransform.identity(3), mask.grid, array)) == INSIDE.sum()


def test_a_map_of_probabilities_is_told_of(caplog):
    soft = Image.from_array(np.array([[0, 0.25], [0.5, 1]], np.float32), spacing=1, name="lung.nii")
    with caplog.at_level(logging.WARNING, "samreg"):
        as_mask(soft)
    assert "lung.nii" in caplog.text
    assert "0.25" in caplog.text
    assert "Threshold" in caplog.text
    caplog.clear()
    as_mask(soft.with_array(np.array([[0.0, 1], [2, np.nan]])))
    assert not caplog.text


def test_a_mask_of_another_dimension_is_refused():
    with pytest.raises(InputError, match="both must be 2D or both 3D"):
        sample_mask(Image.from_array(np.eye(4), spacing=1, name="flat"), Grid.make((4, 4, 4)))


# units


@pytest.mark.parametrize(("intercept", "padding"), [(-1024, -2000), (-1000, -2000), (-1024, -1024), (-1024, -3024)])
def test_stored_values_around_which_scanners_pad_are_no_hounsfield_units(intercept, padding):
    hu = np.random.default_rng(0).normal(-1000, 20, (10, 20, 20))
    hu[:, 4:16, 4:16] = np.random.default_rng(1).normal(-100, 20, (10, 12, 12))  # fat
    hu[:, 6:14, 6:14] = 40  # soft tissue
    hu[:, 8:12, 8:12] = 900  # bone
    outside = np.zeros(hu.shape, bool)
    outside[:, :3, :3] = True
    ct = np.where(outside, padding, hu)
    stored = np.where(outside, padding, hu - intercept)
    assert has_hounsfield_units(Image.from_array(ct, spacing=2))
    assert not has_hounsfield_units(Image.from_array(stored, spacing=2))


def test_a_skull_without_its_fat_has_hounsfield_units():
    hu = np.random.default_rng(0).uniform(300, 1900, (8, 20, 20))  # bone, as much of it at 850 to 974 as at 990 to 1124
    hu[:, 4:18, 3:17] = 35
    hu[:, :2] = -1000
    assert has_hounsfield_units(Image.from_array(hu, spacing=2.0))

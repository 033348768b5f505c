"""The body mask and the gate."""

from __future__ import annotations

import numpy as np
import pytest

from samreg.embedding.body import body_mask
from samreg.embedding.ct import Preprocessing, check_ct
from samreg.errors import InputError
from samreg.spatial.image import Image


def phantom(shape=(40, 60, 80), spacing=3.0) -> Image:
    """A body with two lungs on a table, in air."""
    _, y, x = np.indices(shape)
    cy, cx = shape[1] * 0.45, (shape[2] - 1) / 2
    hu = np.full(shape, -1000, np.int16)
    hu[((y - cy) / 20) ** 2 + ((x - cx) / 32) ** 2 < 1] = 40
    for side in (-1, 1):
        hu[((y - cy) / 12) ** 2 + ((x - cx - side * 15) / 9) ** 2 < 1] = -850
    hu[:, shape[1] - 4, 5:-5] = 100  # table
    return Image.from_array(hu, spacing=(spacing,) * 3, origin=(-100, -80, 30), name="phantom")


def test_preprocessing_is_the_published_one():
    scaled = Preprocessing().normalise(np.float32([-2000, -1024, 1023.5, 3071, 9000]))
    np.testing.assert_allclose(scaled, [-50, -50, 77.5, 205, 205], atol=1e-4)


def test_body_has_lungs_and_no_table():
    image = phantom()
    body = body_mask(image)
    truth = image.array > -900
    truth[:, -8:] = False
    assert body.shape == image.shape
    assert (body & truth).sum() > 0.97 * truth.sum()
    assert (body & ~truth).sum() < 0.05 * truth.sum()


def test_body_of_a_lung_crop_is_nearly_everything():
    image = phantom()
    crop = image.array[10:30, 15:40, 12:40]  # one lung, cut by no outside air
    body = body_mask(Image.from_array(crop, spacing=(3, 3, 3)))
    assert body[crop > -900].mean() > 0.95


def test_body_of_air_is_empty():
    air = np.random.default_rng(0).normal(-1000, 20, (20, 30, 30)).astype(np.int16)
    assert not body_mask(Image.from_array(air, spacing=(4, 4, 4))).any()


def test_gas_within_a_crop_that_tissue_surrounds_is_of_the_body():
    """As in a crop of the abdomen, or a CT whose background is 0; it ended in scipy's ValueError."""
    crop = np.full((12, 20, 20), 40, np.int16)
    crop[3:9, 5:15, 5:15] = -1000
    assert body_mask(Image.from_array(crop, spacing=(4, 4, 4))).all()


GOOD = np.random.default_rng(0).integers(-1000, 400, (8, 8, 8))
PADDED = np.where(np.indices(GOOD.shape)[2] == 0, -2000, GOOD + 1024).astype(np.int16)


@pytest.mark.parametrize(
    ("array", "spacing", "match"),
    [
        (np.where(GOOD > 350, np.nan, GOOD.astype(np.float32)), 2, "NaN"),
        (np.where(GOOD > 350, np.inf, GOOD.astype(np.float32)), 2, "infinite"),
        (GOOD * 1e300, 2, "beyond float32"),
        (((GOOD + 1000) // 6).astype(np.uint8), 2, "8-bit"),
        ((GOOD + 1024).astype(np.int16), 2, "rescale"),
        (PADDED, 2, "rescale"),
        ((GOOD / 1000).astype(np.float32), 2, "normalised"),
        (np.full((8, 8, 8), -1000, np.int16), 2, "constant"),
        (GOOD.astype(np.int16), 0.002, "spacing"),
        (GOOD.astype(np.int16), 50, "spacing"),
        (GOOD[:1].astype(np.int16), 2, "extent"),
    ],
)
def test_gate(array, spacing, match):
    with pytest.raises(InputError, match=match) as info:
        check_ct(Image.from_array(array, spacing=(spacing,) * 3, name="scan.nii"))
    assert "scan.nii" in str(info.value)


def test_gate_lets_ct_pass_and_refuses_2d():
    check_ct(phantom())
    with pytest.raises(InputError, match="2D"):
        check_ct(Image.from_array(GOOD[0], spacing=(1, 1)))


def test_preprocessing_refuses_nonsense():
    with pytest.raises(InputError, match="hu_range"):
        Preprocessing(hu_range=(100, -100))
    with pytest.raises(InputError, match="spacing"):
        Preprocessing(spacing=0)


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0005), (4.0000001, 4.0, 4.0), (5.0, 5.0, 5.0000001)])
def test_a_body_is_found_whatever_the_last_digits_of_the_spacing(spacing):
    _, y, x = np.mgrid[-16:16, -16:16, -16:16]
    hu = np.where(x**2 + y**2 < 100, 40.0, -1000.0).astype(np.float32)
    mask = body_mask(Image.from_array(hu, spacing=spacing))
    assert mask.shape == hu.shape
    assert (mask != (hu > 0)).mean() < 0.01

"""Requests, options, and how a start and masks are turned into what an engine registers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from samreg.engines import Request, base
from samreg.engines.ants import AntsOptions
from samreg.engines.elastix import ElastixOptions, _remaining_points
from samreg.engines.torch_engine import TorchOptions
from samreg.errors import ImagesAtFault, InputError
from samreg.spatial import AffineTransform, Image

WINDOW = (-1000.0, 1000.0)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (AntsOptions, {"itertions": (1,)}, "itertions.*iterations"),
        (AntsOptions, {"metric": "ncc"}, "mattes"),
        (AntsOptions, {"variant": "TV"}, "SyNOnly"),
        (AntsOptions, {"iterations": ()}, "iterations"),
        (AntsOptions, {"affine_iterations": (1, 2)}, "4 numbers"),
        (ElastixOptions, {"metric": "cc"}, "correlation"),
        (ElastixOptions, {"resolutions": 0}, "resolutions"),
        (ElastixOptions, {"iterations": -1}, "iterations"),
        (ElastixOptions, {"grid_spacing": 0.0}, "grid_spacing"),
        (ElastixOptions, AntsOptions(), "ElastixOptions"),
        (AntsOptions, "fast", "engine_options must map names to values"),
        (
            AntsOptions,
            {"iterations": 20},
            r"must be a list of numbers, got 20; for one, give iterations=\[20\]",
        ),
        (AntsOptions, {"iterations": ["20"]}, "iterations must be a whole number"),
        (AntsOptions, {"gradient_step": "small"}, "gradient_step must be a number"),
        (AntsOptions, {"window": (1.0, 2.0, 3.0)}, "window must be a list of 2 numbers"),
        (AntsOptions, {"window": "wide"}, "unknown window 'wide'; choose one of auto"),
        (ElastixOptions, {"samples": True}, "samples must be a whole number"),
        (TorchOptions, {"mass_preserving": 1}, "mass_preserving must be True or False"),
        (TorchOptions, {"levels": None, "preset": None}, "unknown preset None"),
    ],
)
def test_bad_options_name_the_remedy(kind, options, message):
    with pytest.raises(InputError, match=message):
        base.make_options(kind, options)


def test_options_pass_through():
    options = AntsOptions(metric="cc")
    assert base.make_options(AntsOptions, options) is options
    assert base.make_options(AntsOptions, {"metric": "cc"}) == options
    assert base.make_options(AntsOptions, None) == AntsOptions()
    assert base.make_options(AntsOptions, {"iterations": [np.int64(3), 1]}) == AntsOptions(iterations=(3, 1))


def test_intensities_are_clipped_and_air_weighs_nothing(phantom):
    pair = base.prepare(phantom.request(), (-900.0, 100.0))
    assert pair.fixed.array.min() == 0.0
    assert pair.fixed.array.max() == 1000.0
    assert pair.fixed.array.dtype == np.float32


def test_volumes_without_a_unit_lose_their_brightest_voxels_alone(phantom):
    mr = phantom.fixed.with_array(2 * (phantom.fixed.array + 1000))
    mr.array[5:7, 5, 5] = 1e5  # next to a coil
    assert base.clipping("auto", phantom.fixed) == WINDOW
    low, high = base.clipping("auto", mr)
    assert low == mr.array.min()
    assert 2500 < high < 3100
    assert base.clipping(None, mr) is None
    assert base.clipping("auto", mr.with_array(mr.array > 0)) == (0.0, 1.0)
    assert base.clipping("auto", Image.from_array(mr.array[0], spacing=(1, 1))) is None
    pair = base.prepare(replace(phantom.request(), moving=mr), "auto")  # each image as it is
    assert pair.fixed.array.max() == pytest.approx(np.clip(phantom.fixed.array, *WINDOW).max() + 1000)
    assert pair.moving.array.max() == pytest.approx(high - low)


def test_prewarp_repeats_the_border_and_masks_what_is_not_seen(phantom):
    away = AffineTransform(phantom.truth.matrix, phantom.truth.translation + np.array([40.0, 0.0, 0.0]))
    pair = base.prepare(phantom.request(start=away), WINDOW)
    assert pair.moving.grid.same_as(phantom.fixed.grid.padded(base.MARGIN_MM))
    points = pair.moving.grid.world_points().reshape(-1, 3)
    seen = phantom.moving.grid.contains(away.transform_points(points), margin=-0.01)
    unseen = ~phantom.moving.grid.contains(away.transform_points(points), margin=0.01)
    assert pair.moving_mask.array.ravel()[seen].all()
    assert not pair.moving_mask.array.ravel()[unseen].any()
    grid = phantom.moving.grid
    index = np.rint(grid.world_to_index(away.transform_points(points[unseen]))).clip(0, np.array(grid.size) - 1)
    nearest = phantom.moving.array[tuple(index.astype(int).T[::-1])]
    assert pair.moving.array.ravel()[unseen] == pytest.approx(nearest.clip(*WINDOW) - WINDOW[0], abs=0.01)


def test_prewarp_needs_no_mask_where_all_is_seen(phantom):
    inner = Image(phantom.fixed.array[20:28, 20:28, 20:28], _crop(phantom.fixed, 20, 8), "inner")
    image, mask = base.prewarp(phantom.moving, None, phantom.truth, inner.grid)
    assert mask is None
    assert image.grid is inner.grid


def test_masks_are_resampled_and_must_not_be_empty(phantom):
    coarse = phantom.fixed.grid.with_spacing(5.0)
    mask = Image(np.ones(coarse.shape, bool), coarse, "lungs")
    pair = base.prepare(phantom.request(fixed_mask=mask), WINDOW)
    assert pair.fixed_mask.grid.same_as(phantom.fixed.grid)
    empty = mask.with_array(np.zeros(coarse.shape))
    with pytest.raises(InputError, match="fixed mask lungs is empty"):
        base.prepare(phantom.request(fixed_mask=empty), WINDOW)
    away = Image.from_array(np.ones((4, 4, 4)), origin=(5000, 0, 0), name="away")
    with pytest.raises(InputError, match="does not overlap"):
        base.prepare(phantom.request(moving_mask=away), WINDOW)


def test_bad_images_are_refused(phantom):
    hollow = phantom.fixed.with_array(np.where(phantom.fixed.array > 0, np.nan, 0.0))
    with pytest.raises(InputError, match="NaN"):
        base.prepare(replace(phantom.request(), fixed=hollow), WINDOW)
    with pytest.raises(InputError, match="beyond float32"):
        base.prepare(replace(phantom.request(), fixed=phantom.fixed.with_array(phantom.fixed.array * 1e300)), WINDOW)
    with pytest.raises(InputError, match="constant"):
        base.prepare(replace(phantom.request(), fixed=phantom.fixed.with_array(np.zeros(phantom.fixed.shape))), WINDOW)
    far = AffineTransform(np.eye(3), [1e4, 0.0, 0.0])
    with pytest.raises(ImagesAtFault, match="no overlap"):
        base.prepare(phantom.request(start=far), WINDOW)


@pytest.mark.parametrize("masked", ["fixed_mask", "moving_mask", "both"])
def test_masks_that_do_not_meet_are_the_images_fault(phantom, masked):
    lower, upper = (np.zeros(phantom.fixed.shape, np.uint8) for _ in range(2))
    lower[:8], upper[-8:] = 1, 1
    moving = Image(lower, phantom.fixed.grid)
    masks = {"fixed_mask": Image(upper, phantom.fixed.grid), "moving_mask": moving}
    aside = AffineTransform(np.eye(3), [0.0, 0.0, 300.0])
    request = Request(fixed=phantom.fixed, moving=phantom.fixed, **(masks if masked == "both" else {}))
    if masked != "both":  # a mask that lies where the other image does not reach
        request = replace(request, start=aside, **{masked: masks[masked]})
        with pytest.raises(ImagesAtFault, match="no overlap"):
            base.prepare(request, WINDOW)
        return
    with pytest.raises(ImagesAtFault, match="centres of mass"):
        base.require_masks_meet(base.prepare(request, WINDOW))
    with pytest.raises(ImagesAtFault, match="after the start"):
        base.prepare(replace(request, start=AffineTransform.identity(3)), WINDOW)
    base.require_masks_meet(base.prepare(replace(request, moving_mask=masks["fixed_mask"]), WINDOW))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"transform": "elastic"}, "rigid, affine, deformable"),
        ({"seed": -1}, "seed must be"),
        ({"threads": 0}, "threads must be"),
        ({"threads": 1.5}, "threads must be"),
        ({"threads": 2**31}, "threads must be a whole number between 1 and 1024"),
        ({"spacing": "fine"}, "spacing must be"),
        ({"verbose": "no"}, "verbose must be"),
        ({"landmarks": (np.zeros((2, 3)), np.zeros((3, 3)))}, "in pairs"),
        ({"fixed_mask": Image.from_array(np.eye(8))}, "the fixed mask is 2D; they must all be 2D or all be 3D"),
        ({"fixed": Image.from_array(np.eye(8), name="slice")}, "slice is 2D"),
    ],
)
def test_a_request_is_checked(phantom, values, message):
    with pytest.raises(InputError, match=message):
        replace(phantom.request(), **values)


def test_corresponding_points_are_pulled_back_through_the_start(phantom, deformable_start):
    moving = deformable_start.transform_points(phantom.points + 2.0)
    fixed, pulled = _remaining_points(phantom.points, moving, deformable_start)
    assert np.abs(fixed - phantom.points).max() == 0.0
    assert np.abs(pulled - phantom.points - 2.0).max() < 1e-3
    with pytest.raises(ImagesAtFault, match="reaches none"):
        _remaining_points(phantom.points, moving + 5000.0, AffineTransform(np.zeros((3, 3)), np.zeros(3)))


def _crop(image, first, count):
    grid = image.grid
    return type(grid)((count,) * 3, grid.index_to_world([first] * 3)[0], grid.spacing, grid.direction)

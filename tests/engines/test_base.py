"""The registry, the options, and how a start and masks are turned into what an engine registers."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest

from samreg.engines import available_engines, base, get_engine
from samreg.engines.ants import AntsOptions
from samreg.engines.elastix import ElastixOptions, _remaining_points
from samreg.errors import EngineError, InputError, MissingExtraError
from samreg.spatial import AffineTransform, Image

NOTHING = {"start": None, "fixed_mask": None, "moving_mask": None, "window": (-1000.0, 1000.0)}


def test_unknown_engine_lists_the_engines():
    with pytest.raises(InputError, match="ants, elastix"):
        get_engine("demons")


def test_missing_package_says_what_to_install(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingExtraError, match=r'pip install "samreg\[elastix\]"'):
        get_engine("elastix")
    assert available_engines() == ()


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


def test_intensities_are_clipped_and_air_weighs_nothing(phantom):
    pair = base.prepare(phantom.fixed, phantom.moving, **{**NOTHING, "window": (-900.0, 100.0)})
    assert pair.fixed.array.min() == 0.0
    assert pair.fixed.array.max() == 1000.0
    assert pair.fixed.array.dtype == np.float32


def test_prewarp_fills_with_air_and_masks_what_is_not_seen(phantom):
    away = AffineTransform(phantom.truth.matrix, phantom.truth.translation + np.array([40.0, 0.0, 0.0]))
    pair = base.prepare(phantom.fixed, phantom.moving, **{**NOTHING, "start": away})
    assert pair.moving.grid.same_as(phantom.fixed.grid.padded(base.MARGIN_MM))
    points = pair.moving.grid.world_points().reshape(-1, 3)
    seen = phantom.moving.grid.contains(away.transform_points(points), margin=-0.01)
    unseen = ~phantom.moving.grid.contains(away.transform_points(points), margin=0.01)
    assert pair.moving_mask.array.ravel()[seen].all()
    assert not pair.moving_mask.array.ravel()[unseen].any()
    assert not pair.moving.array.ravel()[unseen].any()


def test_prewarp_needs_no_mask_where_all_is_seen(phantom):
    inner = Image(phantom.fixed.array[20:28, 20:28, 20:28], _crop(phantom.fixed, 20, 8), "inner")
    image, mask = base.prewarp(phantom.moving, None, phantom.truth, inner.grid)
    assert mask is None
    assert image.grid is inner.grid


def test_masks_are_resampled_and_must_not_be_empty(phantom):
    coarse = phantom.fixed.grid.with_spacing(5.0)
    mask = Image(np.ones(coarse.shape, bool), coarse, "lungs")
    pair = base.prepare(phantom.fixed, phantom.moving, **{**NOTHING, "fixed_mask": mask})
    assert pair.fixed_mask.grid.same_as(phantom.fixed.grid)
    empty = mask.with_array(np.zeros(coarse.shape))
    with pytest.raises(InputError, match="fixed mask lungs is empty"):
        base.prepare(phantom.fixed, phantom.moving, **{**NOTHING, "fixed_mask": empty})
    away = Image.from_array(np.ones((4, 4, 4)), origin=(5000, 0, 0), name="away")
    with pytest.raises(InputError, match="does not overlap"):
        base.prepare(phantom.fixed, phantom.moving, **{**NOTHING, "moving_mask": away})


def test_bad_images_are_refused(phantom):
    hollow = phantom.fixed.with_array(np.where(phantom.fixed.array > 0, np.nan, 0.0))
    with pytest.raises(InputError, match="NaN"):
        base.prepare(hollow, phantom.moving, **NOTHING)
    with pytest.raises(InputError, match="constant"):
        base.prepare(phantom.fixed.with_array(np.zeros(phantom.fixed.shape)), phantom.moving, **NOTHING)
    with pytest.raises(InputError, match="2D"):
        base.prepare(Image.from_array(np.eye(8)), phantom.moving, **NOTHING)
    far = AffineTransform(np.eye(3), [1e4, 0.0, 0.0])
    with pytest.raises(EngineError, match="no overlap"):
        base.prepare(phantom.fixed, phantom.moving, **{**NOTHING, "start": far})
    with pytest.raises(InputError, match="deformable"):
        get_engine("ants").register(phantom.fixed, phantom.moving, transform="elastic")


def test_corresponding_points_are_pulled_back_through_the_start(phantom, deformable_start):
    moving = deformable_start.transform_points(phantom.points + 2.0)
    fixed, pulled = _remaining_points(phantom.points, moving, deformable_start, 3)
    assert np.abs(fixed - phantom.points).max() == 0.0
    assert np.abs(pulled - phantom.points - 2.0).max() < 1e-3
    with pytest.raises(InputError, match="as many"):
        _remaining_points(phantom.points, moving[:3], deformable_start, 3)


def _crop(image, first, count):
    grid = image.grid
    return type(grid)((count,) * 3, grid.index_to_world([first] * 3)[0], grid.spacing, grid.direction)

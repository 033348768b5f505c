"""Growing nodules: spheres in made-up lungs, whose volume is known."""

from __future__ import annotations

import importlib
import re

import numpy as np
import pytest

import samreg
from samreg.tracking import Extent, NotGrown, grow

CENTER = np.array([3.0, -7.0, 11.0])


def lung(radius: float, *, offset: float = 0.0, vessel: bool = False, spacing: float = 1.5) -> samreg.Image:
    """Return a lung with a sphere at CENTER; the wall begins ``offset`` mm beyond it where that is given."""
    grid = samreg.spatial.Grid.make((64, 64, 64), origin=CENTER - 31.5 * spacing, spacing=spacing)
    points = grid.world_points() - CENTER
    distance = np.linalg.norm(points, axis=-1)
    array = -850 + 890 * np.clip(0.5 - (distance - radius) / spacing, 0, 1)
    if offset:
        array[points[..., 0] > radius + offset] = 40
    if vessel:
        array[np.hypot(points[..., 1], points[..., 2]) < 1.2] = 40
    noise = np.random.default_rng(0).normal(0, 20, array.shape)
    return samreg.Image((array + noise).astype(np.int16), grid)


@pytest.mark.parametrize("radius", [4.0, 7.0, 13.0])
@pytest.mark.parametrize("vessel", [False, True])
def test_a_sphere_in_lung_is_measured(radius, vessel):
    found = grow(lung(radius, vessel=vessel), CENTER + [1.5, -1, 0.5], search=4, reach=1.5 * radius + 5)
    assert isinstance(found, Extent)
    assert found.diameter == pytest.approx(2 * radius, rel=0.06)
    assert found.longest_axial == pytest.approx(2 * radius, abs=4 if vessel else 1.5)
    np.testing.assert_allclose(found.center, CENTER, atol=0.6)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (lung(7.0, offset=-3.0), "border of its own|surrounds it"),
        (lung(0.5), "no soft tissue"),
        (lung(7.0).with_array(np.full((64, 64, 64), 30, np.int16)), "no lung"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_reason(image, why):
    found = grow(image, CENTER, search=4, reach=20)
    assert isinstance(found, NotGrown)
    assert re.search(why, found.why)


@pytest.mark.parametrize(("reach", "why"), [(200.0, "no lung|no border"), (5000.0, "no lung|no border")])
def test_no_more_is_grown_in_than_the_image(reach, why, monkeypatch):
    sizes = []
    resample = importlib.import_module("samreg.tracking.size").resample

    def counted(image, grid, **options):
        sizes.append(np.prod(grid.shape))
        return resample(image, grid, **options)

    monkeypatch.setattr("samreg.tracking.size.resample", counted)
    found = grow(lung(7.0), CENTER, search=4, reach=reach)
    assert isinstance(found, Extent) or re.search(why, found.why)
    assert max(sizes) < 130**3  # the image is 96 mm wide
    assert "no lung" in grow(lung(7.0), CENTER + 1e4, search=4, reach=20).why


def test_what_does_not_fit_in_memory_is_not_measured():
    grid = samreg.spatial.Grid.make((50, 50, 50), spacing=8.0)
    found = grow(samreg.Image(np.full((50, 50, 50), -850, np.int16), grid), grid.center, search=4, reach=300)
    assert re.search("too large to be grown: what lies within 300 mm", found.why)


def test_a_patch_cut_to_the_image_changes_no_size():
    whole, at = lung(7.0), CENTER + [36.0, 0, 0]  # 3 mm from the border of the image
    near = samreg.Image(np.roll(whole.array, 24, axis=2), whole.grid)
    found, wider = (grow(near, at, search=4, reach=reach) for reach in (20, 80))
    assert isinstance(found, Extent)
    assert isinstance(wider, Extent)
    assert found.volume == pytest.approx(wider.volume, rel=0.02)


def test_a_nodule_cut_by_the_view_is_refused():
    whole = lung(9.0)
    cut = samreg.Image(
        whole.array[:32], samreg.spatial.Grid((32, 64, 64), whole.origin, whole.spacing, whole.direction)
    )
    assert isinstance(grow(cut, CENTER - [0, 0, 4], search=4, reach=20), NotGrown)


@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_the_longest_axial_diameter_lies_in_axial_slices_however_they_are_stored(axes):
    """Of a mask drawn on sagittal slices it was measured in these."""
    mask = np.zeros((20, 12, 14), bool)
    mask[2:18, 4:6, 4:8] = True  # tall
    upright = samreg.Image.from_array(mask, spacing=(1.0, 2.0, 3.0), origin=(5, 6, 7))
    # array axis k of the other one is array axis axes[k] of this one; world axes are counted from the last array axis
    direction = np.eye(3)[:, [2 - axis for axis in reversed(axes)]]
    spacing = upright.spacing[[2 - axis for axis in reversed(axes)]]
    stored = samreg.Image.from_array(mask.transpose(axes), spacing=spacing, origin=(5, 6, 7), direction=direction)
    first, second = (Extent(image.array, image.grid) for image in (upright, stored))
    np.testing.assert_allclose(second.center, first.center)
    assert first.longest_axial == pytest.approx(np.hypot(3 * 1, 1 * 2) + 1.5)
    assert second.longest_axial == pytest.approx(first.longest_axial)

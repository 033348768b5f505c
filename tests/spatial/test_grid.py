"""Grids: where voxels lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samreg.errors import InputError
from samreg.spatial import Grid, Image, Points, as_points
from samreg.spatial.points import require_inside

DIMENSIONS = pytest.mark.parametrize("ndim", [2, 3])


@DIMENSIONS
@given(data=st.data())
def test_index_and_world_invert_each_other(grids, ndim, data):
    grid = data.draw(grids(ndim))
    index = np.random.default_rng(0).uniform(-20, 20, (30, ndim))
    assert np.allclose(grid.world_to_index(grid.index_to_world(index)), index, atol=1e-9)


@DIMENSIONS
@given(data=st.data())
def test_index_to_world_agrees_with_itk(grids, ndim, data):
    import SimpleITK as sitk

    grid = data.draw(grids(ndim))
    image = sitk.Image(grid.size, sitk.sitkUInt8)
    image.SetOrigin(grid.origin.tolist())
    image.SetSpacing(grid.spacing.tolist())
    image.SetDirection(grid.direction.ravel().tolist())
    index = np.random.default_rng(1).uniform(-5, 15, (10, ndim))
    expected = [image.TransformContinuousIndexToPhysicalPoint(i) for i in index.tolist()]
    assert np.allclose(grid.index_to_world(index), expected, atol=1e-9)


@DIMENSIONS
@given(data=st.data())
def test_world_points_are_the_voxel_centres_in_array_order(grids, ndim, data):
    grid = data.draw(grids(ndim))
    where = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    assert np.allclose(grid.world_points()[where], grid.index_to_world(where[::-1])[0], atol=1e-9)


@DIMENSIONS
@given(data=st.data(), spacing=st.floats(0.5, 4))
def test_with_spacing_keeps_middle_and_extent(grids, ndim, data, spacing):
    grid = data.draw(grids(ndim))
    other = grid.with_spacing(spacing)
    assert np.allclose(other.spacing, spacing)
    assert np.allclose(other.center, grid.center, atol=1e-9)
    assert np.allclose(other.direction, grid.direction)
    # the size is a whole number of voxels: half a voxel may be lost or won at either end
    assert (np.abs(other.extent - grid.extent) <= np.maximum(spacing / 2, spacing - grid.extent) + 1e-9).all()


@DIMENSIONS
@given(data=st.data(), margin=st.floats(0, 30))
def test_padding_grows_by_the_margin_and_moves_no_voxel(grids, ndim, data, margin):
    grid = data.draw(grids(ndim))
    padded = grid.padded(margin)
    assert (padded.extent >= grid.extent + 2 * margin - 1e-9).all()
    assert (padded.extent < grid.extent + 2 * margin + 2 * grid.spacing + 1e-9).all()
    steps = padded.world_to_index(grid.index_to_world(np.zeros(ndim)))
    assert np.allclose(steps, np.round(steps), atol=1e-9)
    assert padded.contains(grid.corners(), margin=1e-6).all()
    assert grid.padded(0).same_as(grid)


@DIMENSIONS
@given(data=st.data())
def test_contains_ends_at_the_voxel_borders(grids, ndim, data):
    grid = data.draw(grids(ndim))
    corners = grid.corners()
    inward = (grid.center - corners) * 1e-6
    assert grid.contains(corners + inward).all()
    assert not grid.contains(corners - inward).any()
    # a step of 1 mm outward along each axis from a corner
    diagonal = np.linalg.norm(corners - corners[0], axis=1).argmax()
    outward = grid.direction @ np.sign(grid.direction.T @ (corners[diagonal] - corners[0]))
    assert grid.contains(corners[diagonal] + 0.99 * outward, margin=1.0).all()
    assert not grid.contains(corners[diagonal] + 1.01 * outward, margin=1.0).any()


def test_same_as_notices_a_shift_and_a_flip():
    grid = Grid.make((4, 5, 6), spacing=2)
    assert grid.same_as(Grid.make((4, 5, 6), spacing=2, origin=(0, 0, 5e-4)))
    assert not grid.same_as(Grid.make((4, 5, 6), spacing=2, origin=(0, 0, 0.01)))
    assert not grid.same_as(Grid.make((4, 5, 6), spacing=2, direction=np.diag([-1.0, 1, 1])))
    assert not grid.same_as(Grid.make((6, 5, 4), spacing=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (4,)}, "2D or 3D"),
        ({"shape": (2, 3, 4, 5)}, "2D or 3D"),
        ({"shape": (0, 3, 4)}, "empty"),
        ({"spacing": (1, 0, 1)}, "spacing must be positive"),
        ({"spacing": (1, -1, 1)}, "spacing must be positive"),
        ({"spacing": (1, np.nan, 1)}, "spacing must be finite"),
        ({"spacing": (1, 2)}, "spacing must have shape"),
        ({"direction": np.eye(2)}, "direction must have shape"),
        ({"origin": (np.inf, 0, 0)}, "origin must be finite"),
        ({"direction": np.triu(np.ones((3, 3)))}, "not orthonormal"),
        ({"direction": np.zeros((3, 3))}, "not orthonormal"),
    ],
)
def test_impossible_grids_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Grid.make(**{"shape": (3, 4, 5), **options})


def test_a_grid_is_frozen():
    grid = Grid.make((3, 4, 5))
    with pytest.raises(ValueError, match="read-only"):
        grid.origin[0] = 1


def test_points_that_are_no_points():
    grid = Grid.make((3, 4, 5))
    with pytest.raises(InputError, match="shape"):
        grid.world_to_index([[1, 2]])
    with pytest.raises(InputError, match=r"rows \[1\]"):
        grid.world_to_index([[1, 2, 3], [np.nan, 0, 0]])
    with pytest.raises(InputError, match=r"rows \[0\]"):
        Points([[np.inf, 0, 0]])
    with pytest.raises(InputError, match="2 names for 1 points"):
        Points([[1, 2, 3]], ("a", "b"))
    with pytest.raises(InputError, match="scores"):
        Points([[1, 2, 3]], scores=[1, 2])
    with pytest.raises(InputError, match="2 coordinates"):
        as_points([[1, 2]], 3)


def test_points_by_name_and_index():
    points = Points([[0, 0, 0], [1, 1, 1], [2, 2, 2]], ("a", "b", "c"), [0.1, 0.2, 0.3])
    assert points.named(["c", "a"]).positions[:, 0].tolist() == [2, 0]
    assert points.take([False, True, True]).names == ("b", "c")
    assert points.take([2]).scores.tolist() == [0.3]
    assert len(points.take([])) == 0
    with pytest.raises(InputError, match="no points named \\['x'\\]"):
        points.named(["x"])


def test_points_outside_are_named():
    grid = Grid.make((10, 10, 10))
    require_inside(Points([[0, 0, 0], [9.5, 0, 0]]), grid, "the image")
    with pytest.raises(InputError, match=r"1 of 2 points lie outside the image: far .*RAS"):
        require_inside(Points([[0, 0, 0], [50, 0, 0]], ("near", "far")), grid, "the image")


def test_images_need_fitting_numbers():
    with pytest.raises(InputError, match="shape"):
        Image(np.zeros((3, 4)), Grid.make((4, 3)))
    with pytest.raises(InputError, match="real numbers"):
        Image.from_array(np.zeros((3, 4), dtype=complex))
    with pytest.raises(InputError, match="mine: spacing"):
        Image.from_array(np.zeros((3, 4)), spacing=0, name="mine")


@pytest.mark.parametrize("made", [np.asarray, np.ascontiguousarray, memoryview, lambda array: array[::-1, ::-1]])
def test_an_image_of_an_array_keeps_its_numbers(made):
    array = np.zeros((4, 6), np.float32)
    image = Image.from_array(made(array))
    view = array.view()
    view.flags.writeable = False
    of_view = Image.from_array(view)
    array[:] = 7
    assert image.array.max() == of_view.array.max() == 0
    frozen = np.frombuffer(bytes(96), np.float32).reshape(4, 6)
    assert np.may_share_memory(Image.from_array(frozen).array, frozen), "which nobody can change"

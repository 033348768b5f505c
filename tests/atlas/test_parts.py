"""The pure parts of an atlas: mean affine, frame, shape update, averages, spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import samreg
from samreg.atlas import (
    average,
    common_frame,
    common_grid,
    landmark_spread,
    mean_affine,
    probability,
    shape_update,
    sharpened,
    sharpness,
)
from samreg.errors import InputError
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, compose


def some_affine(seed: int) -> AffineTransform:
    random = np.random.default_rng(seed)
    return AffineTransform(np.eye(3) + random.uniform(-0.15, 0.15, (3, 3)), random.uniform(-300, 300, 3))


def product(a: AffineTransform, b: AffineTransform) -> AffineTransform:
    found = compose(b, a)
    assert isinstance(found, AffineTransform)
    return found


@settings(max_examples=8)  # logarithms of matrices are slow
@given(seed=st.integers(0, 10_000))
def test_the_mean_affine_follows_its_frames(seed):
    affines = [some_affine(seed + i) for i in range(4)]
    left, right = some_affine(seed + 7), some_affine(seed + 8)
    moved = mean_affine([product(product(left, a), right) for a in affines])
    expected = product(product(left, mean_affine(affines)), right)
    np.testing.assert_allclose(moved.matrix, expected.matrix, atol=1e-6)
    np.testing.assert_allclose(moved.translation, expected.translation, atol=1e-3)


def test_opposite_affines_have_the_identity_as_their_mean():
    affine = some_affine(1)
    mean = mean_affine([affine, affine.inverse()])
    np.testing.assert_allclose(mean.matrix, np.eye(3), atol=1e-8)
    np.testing.assert_allclose(mean.translation, 0, atol=1e-6)


def test_a_mirrored_subject_has_no_mean_with_the_others():
    with pytest.raises(InputError, match="mirrored"):
        mean_affine([AffineTransform.identity(3), AffineTransform(np.diag([-1.0, 1, 1]), np.zeros(3))])


def test_the_common_frame_lies_in_the_middle_whatever_the_reference():
    subjects = {str(i): some_affine(i) for i in range(3)}  # from some frame to each subject
    frames = []
    for reference in subjects.values():
        frame = common_frame({name: product(a, reference.inverse()) for name, a in subjects.items()})
        mean = mean_affine(list(frame.values()))
        np.testing.assert_allclose(mean.matrix, np.eye(3), atol=1e-8)
        frames.append(frame)
    for name in subjects:  # frames differ by one rigid change of coordinates at most: relative maps are the same
        relative = [product(f[name], f["0"].inverse()).matrix for f in frames]
        np.testing.assert_allclose(relative[0], relative[1], atol=1e-8)


def test_the_grid_is_what_half_of_the_subjects_show():
    grids = {str(n): Grid.make((n, 50, 60), spacing=2.0) for n in (20, 40, 80)}
    frame = {name: AffineTransform.identity(3) for name in grids}
    grid = common_grid(grids, frame, 4.0)
    np.testing.assert_allclose(grid.extent, (120, 100, 80))
    np.testing.assert_allclose(grid.corners().min(axis=0), -1)


def test_the_shape_update_leaves_no_mean_displacement():
    grid = Grid.make((24, 26, 28), origin=(-50, 20, 300), spacing=5.0)
    coarse = grid.padded(60.0)
    points = coarse.world_points() - grid.center
    window = np.exp(-((np.linalg.norm(points, axis=-1) / 50) ** 2))[..., None]
    waves = [np.array([9.0, 3, -5]), np.array([2.0, -4, 1]), np.array([1.0, 7, -2])]
    fields = [DisplacementField((window * wave).astype(np.float32), coarse) for wave in waves]
    affines = [some_affine(i) for i in range(3)]
    transforms = [compose(field, affine) for field, affine in zip(fields, affines, strict=True)]
    views = [
        Grid.make((400, 400, 400), origin=affine.transform_points(grid.center[None])[0] - 800, spacing=4.0)
        for affine in affines
    ]
    mean, update = shape_update(transforms, affines, views, grid)
    middle = mean.displacement_at(grid.center[None])[0]
    np.testing.assert_allclose(middle, np.mean(waves, axis=0), atol=0.1)
    inner = grid.world_points().reshape(-1, 3)
    after = [
        affine.inverse().transform_points(transform.transform_points(update.transform_points(inner))) - inner
        for transform, affine in zip(transforms, affines, strict=True)
    ]
    assert np.linalg.norm(np.mean(after, axis=0), axis=1).max() < 0.1


def test_who_shows_little_has_little_say_in_the_shape():
    grid = Grid.make((20, 20, 20), spacing=5.0)
    same, shift = AffineTransform.identity(3), AffineTransform(np.eye(3), np.array([8.0, 0, 0]))
    wide, narrow = grid.padded(100.0), Grid.make((20, 20, 8), spacing=5.0)
    mean, _ = shape_update([same, shift], [same, same], [wide, narrow], grid)
    inside, outside = mean.displacement_at([[15.0, 50, 50], [90.0, 50, 50]])
    assert 1 < inside[0] < 4
    assert abs(outside[0]) < 0.2


def test_images_count_where_they_have_data():
    grid = Grid.make((6, 7, 8))
    first = Image(np.full((6, 7, 8), 10, np.int16), grid)
    half = Image(np.full((3, 7, 8), 30, np.int16), Grid.make((3, 7, 8)))
    third = Image(np.full((6, 7, 8), 20, np.int16), Grid.make((6, 7, 8), origin=(100, 0, 0)))
    same, away = AffineTransform.identity(3), AffineTransform(np.eye(3), np.array([100.0, 0, 0]))
    found = average([(first, same), (half, same), (third, away)], grid)
    np.testing.assert_allclose(found.mean.array[:3], 20)
    np.testing.assert_allclose(found.variance.array[:3], 100)
    np.testing.assert_allclose(found.mean.array[3:], 15)
    np.testing.assert_allclose(found.variance.array[3:], 50)
    assert found.coverage.array[0, 0, 0] == 3
    assert found.coverage.array[5, 0, 0] == 2
    nothing = average([(third, same)], grid)
    assert (nothing.mean.array == 20).all()
    assert (nothing.coverage.array == 0).all()


def test_sharpening_steepens_edges_and_keeps_the_mean():
    from scipy.ndimage import gaussian_filter

    array = gaussian_filter((np.indices((20, 20, 20)).sum(axis=0) % 14 < 7).astype(np.float32) * 400, 1.5)
    image, inside = Image.from_array(array, spacing=(2, 2, 2)), np.ones((20, 20, 20), bool)
    after = sharpened(image)
    assert after.grid.same_as(image.grid)
    assert sharpness(after, inside) > 1.2 * sharpness(image, inside)
    assert after.array.mean() == pytest.approx(image.array.mean(), rel=0.05)


def test_sharpness_is_intensity_over_mm():
    ramp = Image.from_array(np.arange(10.0)[None, None].repeat(5, 0).repeat(5, 1) * 6, spacing=(2, 1, 1))
    assert sharpness(ramp, np.ones((5, 5, 10), bool)) == pytest.approx(3)


def test_landmarks_spread_about_their_mean():
    found = landmark_spread(
        {
            "a": samreg.Points([[0, 0, 0], [5, 5, 5]], ("tip", "notch")),
            "b": samreg.Points([[6, 0, 0]], ("tip",)),
        }
    )
    assert found.points.names == ("tip", "notch")
    np.testing.assert_allclose(found.points.positions, [[3, 0, 0], [5, 5, 5]])
    np.testing.assert_allclose(found.spread, [3, 0])
    assert found.count.tolist() == [2, 1]


def test_label_probabilities_leave_out_who_shows_nothing():
    maps = [Image.from_array(np.array([[[v, 1, 2]]], np.int16)) for v in (-1, 2, 0)]
    np.testing.assert_allclose(probability(maps, 1).array, [[[0, 1, 0]]])
    np.testing.assert_allclose(probability(maps, 2).array, [[[0.5, 0, 1]]])
    np.testing.assert_allclose(probability(maps, 0).array, [[[0.5, 0, 0]]])

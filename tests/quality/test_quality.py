from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from samreg.errors import InputError, SamregError
from samreg.quality import (
    LandmarkErrors,
    dice,
    hd95,
    jacobian_statistics,
    mean_surface_distance,
    ncc,
    summarise_errors,
    surface_distances,
    target_registration_error,
)
from samreg.registration.quality import initial_alignment, quality_flags, registration_quality, working_grid
from samreg.registration.result import RegistrationResult
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, Points, jacobian_determinant


def cube(shift=(0, 0, 0), shape=(20, 24, 28)):
    mask = np.zeros(shape, dtype=bool)
    z, y, x = shift
    mask[4 + z : 12 + z, 5 + y : 13 + y, 6 + x : 14 + x] = True
    return mask


def test_error_of_a_translation():
    transform = AffineTransform(np.eye(3), [3.0, 4.0, 0.0])
    fixed = np.array([[0.0, 0, 0], [1, 2, 3]])
    assert target_registration_error(transform, fixed, fixed) == pytest.approx([5.0, 5.0])
    assert target_registration_error(transform, fixed, fixed + [3, 4, 0]) == pytest.approx([0.0, 0.0])


def test_named_landmarks_are_paired_by_name():
    fixed = Points([[0.0, 0, 0], [10, 0, 0]], ("carina", "apex"))
    moving = Points([[10.0, 0, 0], [0, 0, 1], [5, 5, 5]], ("apex", "carina", "spare"))
    assert target_registration_error(AffineTransform.identity(3), fixed, moving) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("fixed", "moving"),
    [
        (Points(np.zeros((2, 3)), ("a", "b")), Points(np.zeros((2, 3)), ("a", "c"))),
        (Points(np.zeros((2, 3)), ("a", "a")), Points(np.zeros((2, 3)), ("a", "b"))),
        (Points(np.zeros((2, 3)), ("a", "b")), np.zeros((2, 3))),
        (np.zeros((2, 3)), np.zeros((3, 3))),
    ],
)
def test_landmarks_that_do_not_pair_are_refused(fixed, moving):
    with pytest.raises(InputError):
        target_registration_error(AffineTransform.identity(3), fixed, moving)


def test_landmark_errors_before_and_both_ways(tmp_path):
    image = Image.from_array(np.zeros((20, 20, 20), np.float32))
    transform = AffineTransform(2 * np.eye(3), [1.0, 0, 0])
    fixed = Points([[4.0, 4, 4], [5, 6, 7]], ("one, quoted", "two"))
    moving = Points(transform.transform_points(fixed.positions) + [0, 0, 3], fixed.names)
    errors = RegistrationResult(image, image, transform).landmark_errors(fixed, moving)
    np.testing.assert_allclose(errors.before, np.linalg.norm(moving.positions - fixed.positions, axis=1))
    np.testing.assert_allclose(errors.transform, 3)
    np.testing.assert_allclose(errors.inverse, 1.5)
    for other, says in ((("one, quoted",) * 2, "more than once"), (("three", "four"), "no name in common")):
        with pytest.raises(InputError, match=says):
            RegistrationResult(image, image, transform).landmark_errors(fixed, Points(moving.positions, other))
    errors.write(tmp_path / "landmarks.csv")
    again = LandmarkErrors.read(tmp_path / "landmarks.csv")
    assert again.names == fixed.names
    np.testing.assert_allclose(again.before, errors.before, atol=1e-3)
    (tmp_path / "landmarks.csv").write_text("name,before_mm\na,1\n")
    with pytest.raises(InputError, match=r"landmarks\.csv"):
        LandmarkErrors.read(tmp_path / "landmarks.csv")


def test_summary_of_errors():
    summary = summarise_errors(np.arange(101))
    assert (summary.mean, summary.median, summary.p75, summary.p95, summary.maximum) == (50, 50, 75, 95, 100)
    assert summary.count == 101
    for bad in ([], [1.0, np.nan]):
        with pytest.raises(InputError):
            summarise_errors(bad)


def test_dice_of_shifted_cubes():
    assert dice(cube(), cube((0, 0, 4))) == {1: pytest.approx(0.5)}
    labels = cube().astype(np.int16) * 7
    other = labels + 3 * cube((0, 8, 0))
    assert dice(labels, other) == {3: 0.0, 7: 1.0}
    assert dice(labels, other, labels=(7, 9)) == {7: 1.0}
    assert dice(labels.astype(np.float32), labels) == {7: 1.0}
    with pytest.raises(InputError):
        dice(labels * 0.5, labels)
    with pytest.raises(InputError):
        dice(labels, labels[1:])


@pytest.mark.filterwarnings("error")
def test_dice_of_labels_in_half_precision():
    """It warned of an overflow."""
    labels = np.array([0, 1, 2, 2])
    assert dice(labels.astype(np.float16), labels) == {1: 1.0, 2: 1.0}


def test_surface_distance_honours_spacing():
    spacing = (1.0, 2.0, 5.0)  # x, y, z
    assert hd95(cube(), cube((2, 0, 0)), spacing=spacing) == pytest.approx(10.0)
    assert hd95(cube(), cube((0, 2, 0)), spacing=spacing) == pytest.approx(4.0)
    assert hd95(cube(), cube((0, 0, 2)), spacing=spacing) == pytest.approx(2.0)
    assert hd95(cube(), cube(), spacing=spacing) == 0.0
    assert mean_surface_distance(cube(), cube(), spacing=spacing) == 0.0


def test_surface_distance_of_two_voxels():
    a, b = np.zeros((2, 9, 9), dtype=bool)
    a[2, 2], b[5, 6] = True, True
    from_a, from_b = surface_distances(a, b, spacing=2.0)
    assert from_a == pytest.approx([10.0])
    assert from_b == pytest.approx([10.0])
    assert mean_surface_distance(a, b, spacing=2.0) == pytest.approx(10.0)
    with pytest.raises(InputError, match="second mask is empty"):
        hd95(a, np.zeros_like(a), spacing=2.0)


@pytest.mark.parametrize("step", [None, 0.5])
def test_jacobian_of_a_scaling(step):
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, -1]])
    grid = Grid.make((6, 7, 8), spacing=(1, 2, 3), direction=turn, origin=(5, 6, 7))
    found = jacobian_statistics(AffineTransform(np.diag([2.0, 1.0, 0.5]) * 1.1, np.ones(3)), grid, step=step)
    assert (found.minimum, found.p01, found.p99) == pytest.approx((1.1**3,) * 3)
    assert (found.folding_percent, found.log_std) == pytest.approx((0, 0), abs=1e-9)


def test_jacobian_finds_folds_and_agrees_with_the_determinant_image():
    grid = Grid.make((12, 12, 20), spacing=2.0)
    displacement = np.zeros((*grid.shape, 3), dtype=np.float32)
    displacement[:, :, 10:, 0] = -6.0  # det = 1 - 6 / 4 at the two voxels beside the step
    field = DisplacementField(displacement, grid)
    found = jacobian_statistics(field, grid)
    assert found.folding_percent == pytest.approx(100 * 2 / 20)
    assert found.minimum == pytest.approx(-0.5)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[:, :, :5] = True
    assert jacobian_statistics(field, grid, mask).folding_percent == 0
    displacement = np.random.default_rng(0).normal(size=displacement.shape).astype(np.float32)
    field = DisplacementField(displacement, grid)
    expected = jacobian_determinant(field, grid)
    found = jacobian_statistics(field, grid)
    assert found.minimum == pytest.approx(float(expected.min()), rel=1e-4)
    assert found.log_std == pytest.approx(float(np.log(np.maximum(expected, 1e-9)).std()), rel=1e-4)
    with pytest.raises(InputError):
        jacobian_statistics(field, grid, np.zeros(grid.shape, dtype=bool))


def test_ncc():
    image = np.random.default_rng(0).normal(size=(8, 8, 8))
    assert ncc(image, 3 * image + 100) == pytest.approx(1.0)
    assert ncc(image, -image) == pytest.approx(-1.0)
    assert ncc(image, np.full_like(image, 0.1)) == 0.0
    assert ncc(image, image, np.zeros(image.shape, dtype=bool)) == 0.0
    holed = image.copy()
    holed[0] = np.nan
    assert ncc(holed, image) == pytest.approx(1.0)


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1.0, 1e9])
def test_ncc_is_that_of_any_unit(unit):
    """Below 1e-6, as of diffusion in SI units, every pair was told to be uncorrelated."""
    image, other = np.random.default_rng(0).normal(size=(2, 8, 8, 8))
    assert ncc(unit * image, unit * (image + other)) == pytest.approx(ncc(image, image + other))
    assert ncc(unit * image, np.full(image.shape, 0.1 * unit)) == 0.0
    assert ncc(np.full(image.shape, 0.1 * unit, np.float32), unit * image) == 0.0


@pytest.mark.parametrize("spacing", [0, -1.0, (1, 2), (1, 1, np.nan), "1 mm", np.inf])
def test_spacings_that_are_none_are_refused(spacing):
    with pytest.raises(InputError, match="spacing must be"):
        hd95(cube(), cube(), spacing=spacing)


def test_what_is_no_array_of_one_shape_is_refused():
    labels = np.ones((3, 4, 5), np.uint8)
    image = Image.from_array(labels, spacing=1.0)
    for measure in (
        lambda: dice(image, image),
        lambda: hd95(image, image, spacing=1.0),
        lambda: ncc(image, image),
        lambda: jacobian_statistics(AffineTransform.identity(3), image.grid, image),
    ):
        with pytest.raises(InputError, match=r"must be an array of numbers, got Image; give its voxels, image\.array"):
            measure()
    for measure in (lambda: ncc(labels, labels[:1]), lambda: ncc(labels, labels, labels[0, 0])):
        with pytest.raises(InputError, match="one shape"):
            measure()
    for odd in ([1.0, np.inf], [1.0, np.nan]):
        with pytest.raises(InputError, match="whole numbers"):
            dice(odd, odd)
    for asked in (1, ["a"], [1.5]):
        with pytest.raises(InputError, match="labels must be a list of whole numbers"):
            dice(labels, labels, labels=asked)


def blobs(shape=(30, 36, 40), shift=(0.0, 0.0, 0.0), spacing=4.0):
    """Return an image of smooth blobs, displaced by ``shift`` mm."""
    grid = Grid.make(shape, spacing=spacing)
    points = grid.world_points() - np.asarray(shift)
    array = sum(
        weight * np.exp(-((points - center) ** 2).sum(axis=-1) / 2 / 15**2)
        for weight, center in ((900, (60, 60, 50)), (600, (100, 80, 70)), (700, (70, 100, 40)))
    )
    return Image((array - 1000).astype(np.int16), grid, "blobs")


def result_of(transform, shift=(0.0, 0.0, 0.0), **options):
    return RegistrationResult(blobs(), blobs(shift=shift), transform, **options)


def test_quality_of_a_known_translation():
    quality = registration_quality(result_of(AffineTransform(np.eye(3), [24.0, 0, 0]), shift=(24.0, 0, 0)))
    assert all(math.isfinite(value) for value in quality.values())
    assert quality["correlation_after"] > 0.999 > quality["correlation_before"]
    assert quality["overlap_percent"] == pytest.approx(100 * (1 - 6 / 40))
    assert quality["mean_displacement_mm"] == pytest.approx(24)
    assert (quality["scale"], quality["jacobian_min"]) == pytest.approx((1, 1))
    assert (quality["folding_percent"], quality["inverse_residual_max_mm"]) == pytest.approx((0, 0), abs=1e-6)
    assert "matches" not in quality
    assert quality_flags(quality) == ("15 % of the fixed body has no counterpart in the moving image",)


def test_quality_is_measured_in_the_body_and_counts_the_seed():
    body = np.zeros((15, 18, 20), dtype=np.uint8)
    body[:, :, :10] = 1

    class Pairs:
        reliability = np.array([0.5, 1.0])

        def __len__(self):
            return 2

    seed = SimpleNamespace(correspondences=Pairs(), affine=SimpleNamespace(inlier_share=0.18))
    half = Image(body, blobs().grid.with_spacing(8.0), "body")
    quality = registration_quality(result_of(AffineTransform(np.eye(3), [24.0, 0, 0]), body=half, seed=seed))
    assert quality["overlap_percent"] == 100
    assert (quality["matches"], quality["inlier_percent"], quality["mean_reliability"]) == pytest.approx((2, 18, 0.75))
    flags = quality_flags(quality)
    assert "only 18 % of the matches agree with one affine transform" in flags
    assert "only 2 matches carry the seed" in flags
    assert "the images are no more alike after registration than before" in flags


def test_quality_has_no_nan_where_nothing_is_in_common():
    moving = blobs().with_array(np.full(blobs().shape, np.nan, dtype=np.float32))
    result = RegistrationResult(blobs(), moving, AffineTransform(np.eye(3), [1e4, 0, 0]))
    quality = registration_quality(result)
    assert all(math.isfinite(value) for value in quality.values())
    assert quality["overlap_percent"] == 0


def test_quality_of_flat_images():
    image = Image.from_array(blobs().array[12], spacing=1.0)
    quality = registration_quality(RegistrationResult(image, image, AffineTransform.identity(2)))
    assert quality["correlation_after"] == pytest.approx(1, abs=0.01)
    assert quality_flags(quality) == ()


def test_a_failed_result_has_no_quality():
    with pytest.raises(SamregError, match="too few matches"):
        registration_quality(result_of(None, reason="too few matches"))


def test_flags_are_plain_words():
    assert quality_flags({}) == ()
    bad = {"folding_percent": 0.4, "inverse_residual_p95_mm": 1.23, "scale": 2.1}
    assert quality_flags(bad) == (
        "0.4 % of the voxels fold",
        "the inverse misses by 1.2 mm (95th percentile)",
        "volume changes by a factor of 2.1",
    )


def test_images_start_where_their_world_places_them_unless_that_shows_nothing():
    transform = AffineTransform.identity(3)
    near, how = initial_alignment(result_of(transform))
    assert how == "as the world places it"
    assert near.translation.tolist() == [0, 0, 0]
    far = Image(blobs().array, Grid.make(blobs().shape, spacing=4.0, origin=(2000, 0, 0)))
    centred, how = initial_alignment(RegistrationResult(blobs(), far, transform))
    assert how == "centred on the fixed image"
    assert centred.translation == pytest.approx([2000, 0, 0])


def test_working_grid_is_coarse_but_never_finer_than_the_image():
    grid = working_grid(Image.from_array(np.zeros((20, 200, 200)), spacing=(1, 1, 5)))
    assert grid.spacing.tolist() == [4, 4, 5]
    assert working_grid(Image.from_array(np.zeros((64, 64)), spacing=0.01)).size == (32, 32)

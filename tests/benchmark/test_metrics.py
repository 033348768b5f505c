from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.ndimage import correlate, gaussian_filter, map_coordinates

import samreg
from samreg.benchmark import Case, load_dataset
from samreg.benchmark.metrics import common_landmarks, measure
from samreg.errors import EngineError, InputError
from samreg.quality.learn2reg import learn2reg_dice, learn2reg_sdlogj, learn2reg_tre
from samreg.spatial import AffineTransform, DisplacementField, Image, compose, resample
from samreg.spatial.io_transforms import learn2reg_displacement


@pytest.fixture(scope="module")
def example():
    """A stored example of Learn2Reg's form: displacement (x, y, z, 3) voxels, keypoints, labels, and the transform."""
    random = np.random.default_rng(5)
    image = Image.from_array(np.zeros((12, 14, 16)), origin=(3, 4, 5), spacing=(1.5, 2.0, 2.5))
    u = np.stack([gaussian_filter(random.normal(size=image.shape), 2) * 25 for _ in range(3)], axis=-1)
    transform = DisplacementField(u.astype(np.float32), image.grid)
    fixed = random.uniform(3, 9, (6, 3))
    moving = fixed + random.normal(size=(6, 3))
    labels = np.digitize(gaussian_filter(random.normal(size=image.shape), 2), (0, 0.03, 0.06)).astype(np.uint8)
    labels[0, 0, 0] = 9  # a label that only one map has
    return image, transform, fixed, moving, labels


def test_learn2reg_numbers_are_those_of_its_formulas(example):
    image, transform, fixed, moving, labels = example
    disp = learn2reg_displacement(transform, image.grid, image.grid)
    np.testing.assert_allclose(disp[3, 5, 7], transform.displacement[7, 5, 3] / image.spacing, rtol=1e-3, atol=1e-5)

    # keypoints: cubic interpolation of the displacement, distance in the moving image's millimetres
    u = np.array([map_coordinates(disp[..., k].astype(float), fixed.T) for k in range(3)]).T
    expected = np.sqrt((((fixed + u - moving) * image.spacing) ** 2).sum(axis=1))
    np.testing.assert_allclose(learn2reg_tre(disp, fixed, moving, image.spacing), expected, rtol=1e-4)

    # SDlogJ: det of identity + central differences inside a border of 2, plus 3, clipped, logarithm, deviation
    jacobian = np.empty((*disp.shape[:3], 3, 3))
    for k, axis in itertools.product(range(3), range(3)):
        kernel = np.zeros((3, 3, 3))
        kernel[tuple(np.eye(3, dtype=int)[axis] * -1 + 1)] = -0.5
        kernel[tuple(np.eye(3, dtype=int)[axis] + 1)] = 0.5
        jacobian[..., k, axis] = correlate(disp[..., k].astype(float), kernel, mode="constant") + (k == axis)
    det = np.linalg.det(jacobian[2:-2, 2:-2, 2:-2])
    assert det.std() > 0.3
    expected = np.log((det + 3).clip(1e-9, 1e9)).std()
    assert learn2reg_sdlogj(disp) == pytest.approx(expected, rel=1e-6)

    # Dice: mean over the labels that both unwarped maps have
    other = np.roll(labels, 2, axis=1)
    other[other == 9] = 0
    warped = resample(image.with_array(other), image.grid, transform=transform, interpolation="nearest").array
    dices = [2 * ((labels == i) & (warped == i)).sum() / ((labels == i).sum() + (warped == i).sum()) for i in (1, 2, 3)]
    assert learn2reg_dice(labels, other, warped) == pytest.approx(np.mean(dices))


def _case(name, image, landmarks=None, labels=None, mask=None, reader=None):
    return Case(
        name,
        {"name": name},
        lambda: image,
        landmarks=None if landmarks is None else lambda: landmarks,
        labels=None if labels is None else lambda: labels,
        mask=None if mask is None else lambda: mask,
        reader_mm=reader or {},
    )


def test_a_known_error_is_measured():
    image = Image.from_array(np.zeros((20, 20, 20)), spacing=(2, 2, 2))
    x = np.array([[10.0, 10, 10], [20, 20, 20], [30, 10, 20], [10, 30, 25]])
    errors = np.array([[3.0, 0, 0], [0, 8, 0], [0, 0, 12], [0, -20, 0]])
    fixed_points, moving_points = samreg.Points(x, tuple("abcd")), samreg.Points(x[::-1] + errors[::-1], tuple("dcba"))
    labels = np.zeros(image.shape, np.uint8)
    labels[5:15, 5:15, 5:15] = 1
    labels[0, 0, 0] = 4  # not in the moving image
    moved = np.roll(np.where(labels == 4, 0, labels), 1, axis=2)
    fixed = _case("f", image, fixed_points, image.with_array(labels), reader={"a": 1, "b": 2})
    moving = _case("m", image, moving_points, image.with_array(moved), reader={"a": 2, "c": 1})
    identity = AffineTransform.identity(3)
    record = measure(fixed, moving, (image, image), identity, identity, learn2reg=True)
    assert record["landmarks"]["names"] == ["a", "b", "c", "d"]
    np.testing.assert_allclose(record["landmarks"]["error_mm"], [3, 8, 12, 20])
    np.testing.assert_allclose(record["landmarks"]["inverse_error_mm"], [3, 8, 12, 20])
    assert record["landmarks"]["reader_mm"] == [1.5, None, None, None]
    m = record["metrics"]
    assert (m["tre_mean"], m["tre_median"], m["tre_max"]) == pytest.approx((10.75, 10, 20))
    assert (m["within_5mm"], m["within_10mm"], m["within_15mm"]) == (25, 50, 75)
    assert list(record["labels"]["dice"]) == ["1"]
    assert (m["dice_mean"], m["learn2reg_dice"]) == pytest.approx((0.9, 0.9))
    assert m["hd95_mean"] == pytest.approx(2.0)  # one voxel
    assert m["learn2reg_tre"] == pytest.approx(10.75)
    assert (m["folding_percent"], m["log_jacobian_std"], m["log_jacobian_std_learn2reg"]) == pytest.approx(
        (0, 0, 0), abs=1e-6
    )
    assert m["inverse_p95"] == 0
    assert m["labels_lost"] == 0


def test_a_lost_label_is_counted_and_leaves_no_mean_distance():
    image = Image.from_array(np.zeros((20, 20, 20)), spacing=(2, 2, 2))
    labels = np.zeros(image.shape, np.uint8)
    labels[2:8, 2:8, 2:8], labels[2:4, 2:4, 16:18] = 1, 2
    case = _case("f", image, labels=image.with_array(labels))
    away = AffineTransform(np.eye(3), [6.0, 0.0, 0.0])
    lost = np.where(labels == 2, 0, labels)
    lost[10, 10, 0] = 2  # moves out of the view
    moving = _case("m", image, labels=image.with_array(lost))
    m = measure(case, moving, (image, image), away, away.inverse(), learn2reg=False)["metrics"]
    assert m["labels_lost"] == 1
    assert "hd95_mean" not in m


def test_numbered_landmarks_of_different_number_are_refused():
    image = Image.from_array(np.zeros((20, 20, 20)))
    cases = [_case(f"c{n}", image, samreg.Points(np.ones((n, 3)))) for n in (5, 4)]
    with pytest.raises(InputError, match=r"landmarks of c5 \(fixed\) and c4 \(moving\): .*5 fixed and 4 moving"):
        common_landmarks(*cases, (image, image))


def test_landmarks_with_no_name_in_common_are_refused():
    image = Image.from_array(np.zeros((20, 20, 20)))
    cases = [_case(name, image, samreg.Points([[1.0, 2.0, 3.0]], (name,))) for name in ("carina", "Carina")]
    with pytest.raises(InputError, match="no name in common"):
        measure(*cases, (image, image), AffineTransform.identity(3), AffineTransform.identity(3), learn2reg=False)


def test_an_empty_mask_is_refused():
    image = Image.from_array(np.zeros((20, 20, 20)))
    case = _case("f", image, mask=image.with_array(np.zeros(image.shape, np.uint8)))
    with pytest.raises(InputError, match="the mask of f is empty"):
        measure(case, case, (image, image), AffineTransform.identity(3), AffineTransform.identity(3), learn2reg=False)


def test_landmarks_of_another_frame_are_refused():
    image = Image.from_array(np.zeros((20, 20, 20)), origin=(50, 60, 70))
    inside = samreg.Points([[55.0, 65.0, 75.0]])
    turned = samreg.Points([[-55.0, -65.0, 75.0]])
    with pytest.raises(InputError, match=r"1 of 1 points lie outside the image of m: .*RAS"):
        common_landmarks(_case("f", image, inside), _case("m", image, turned), (image, image))


def test_folds_are_counted_and_left_out_of_the_logarithm():
    image = Image.from_array(np.zeros((24, 24, 24)), spacing=(4, 4, 4))
    u = np.zeros((*image.shape, 3), np.float32)
    u[..., 12:15, 0] = np.linspace(0, -30, 3)
    u[..., 15:, 0] = -30
    fold = DisplacementField(u, image.grid)
    mask = np.zeros(image.shape, np.uint8)
    mask[2:-2, 2:-2, 6:20] = 1
    case = _case("f", image, mask=image.with_array(mask))
    identity = AffineTransform.identity(3)
    record = measure(case, case, (image, image), fold, identity, learn2reg=False)
    folded = record["jacobian"]["folded_and_left_out"]
    assert record["jacobian"]["voxels"] == mask.sum()
    assert record["metrics"]["folding_percent"] == pytest.approx(100 * folded / mask.sum())
    assert folded > 0
    # what does not fold has det J = 1 but beside the fold; with folds clipped at 1e-9 it would be several
    assert record["metrics"]["log_jacobian_std"] < 1
    assert record["metrics"]["inverse_p95"] == pytest.approx(30, abs=1)


def test_cases_without_ground_truth_measure_the_deformation_alone(folder):
    data = load_dataset(folder)
    image = data.cases["A"].image()
    bare = _case("bare", image)
    scale = AffineTransform.about(image.grid.center, np.diag([1.1, 1, 1]))
    record = measure(bare, data.cases["B"], (image, image), scale, scale.inverse(), learn2reg=False)
    assert set(record) == {"metrics", "jacobian"}
    assert record["metrics"]["inverse_p95"] == pytest.approx(0, abs=1e-9)


def test_a_transform_that_is_not_finite_is_no_result(folder):
    case = load_dataset(folder).cases["A"]

    class Nan(AffineTransform):
        def transform_points(self, points):
            return np.full(np.shape(points), np.nan)

    images, identity = (case.image(), case.image()), AffineTransform.identity(3)
    with pytest.raises(EngineError, match="not finite"):
        measure(case, case, images, Nan(np.eye(3), np.zeros(3)), identity, learn2reg=False)


def test_the_official_direction_is_fixed_to_moving():
    image = Image.from_array(np.zeros((8, 8, 8)), spacing=(2, 2, 2))
    moving = Image.from_array(np.zeros((8, 8, 8)), origin=(10, 0, 0), spacing=(1, 2, 4))
    transform = compose(AffineTransform(np.eye(3), [12.0, 4, 8]))
    disp = learn2reg_displacement(transform, image.grid, moving.grid)
    np.testing.assert_allclose(disp[1, 2, 3], [(2 + 12 - 10) / 1 - 1, 8 / 2 - 2, 14 / 4 - 3], atol=1e-5)

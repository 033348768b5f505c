"""Fits to correspondences with noise, outliers and known truth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from samreg.device import search_device
from samreg.embedding.api import embed
from samreg.errors import ImagesAtFault, InputError
from samreg.matching import Correspondences
from samreg.matching.reliability import Calibration
from samreg.seeding import field, fit_affine, fit_displacement, predict_locally
from samreg.seeding.affine import AffineFit
from samreg.seeding.seed import _MIN_JACOBIAN, _MIN_JACOBIAN_OF_ONE, _advanced, _guided, make_seed, refine_seed
from samreg.seeding.spline import _MEMBRANE_WEIGHT, Cosines, Spline
from samreg.spatial import (
    AffineTransform,
    DisplacementField,
    Grid,
    Image,
    compose,
    inverse_residual,
    invert,
    jacobian_determinant,
)
from samreg.spatial.displacement import tapered
from samreg.spatial.transforms import components


def rotation(degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])


GRID = Grid.make((40, 45, 50), origin=(-150, -130, 900), spacing=6.0, direction=rotation(10))
TRUE = {
    "rigid": AffineTransform.about(GRID.center, rotation(12), [30, -20, 60]),
    "similarity": AffineTransform.about(GRID.center, 1.2 * rotation(-8), [30, -20, 60]),
    "affine": AffineTransform.about(GRID.center, rotation(7) @ np.diag([1.15, 0.9, 1.05]), [-35, 12, 50]),
}


def pairs(true, *, n: int = 1500, noise: float = 3.0, outliers: float = 0.0, seed: int = 0) -> Correspondences:
    rng = np.random.default_rng(seed)
    fixed = GRID.index_to_world(rng.uniform(0, np.array(GRID.size) - 1, (n, 3)))
    moving = true.transform_points(fixed) + rng.normal(size=fixed.shape) * noise
    wrong = rng.random(n) < outliers
    moving[wrong] = true.transform_points(GRID.index_to_world(rng.uniform(0, 39, (wrong.sum(), 3))))
    return Correspondences.from_points(fixed, moving)


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
@pytest.mark.parametrize("outliers", [0.0, 0.7])
def test_affine_kinds_are_recovered(kind: str, outliers: float) -> None:
    given = pairs(TRUE[kind], outliers=outliers)
    fit = fit_affine(given, kind=kind)
    assert fit
    corners = GRID.corners()
    error = np.linalg.norm(fit.transform.transform_points(corners) - TRUE[kind].transform_points(corners), axis=1)
    assert error.max() < (3.0 if outliers == 0 else 8.0)
    assert abs(fit.inlier_share - (1 - outliers)) < 0.12


def test_rigid_keeps_lengths() -> None:
    fit = fit_affine(pairs(TRUE["affine"]), kind="rigid", min_share=0.0)
    np.testing.assert_allclose(fit.transform.matrix @ fit.transform.matrix.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(fit.transform.matrix) > 0


def test_reliability_decides_between_two_answers() -> None:
    right, wrong = pairs(TRUE["affine"], n=400), pairs(TRUE["rigid"], n=600, seed=1)
    both = Correspondences.from_points(
        np.concatenate([right.fixed, wrong.fixed]),
        np.concatenate([right.moving, wrong.moving]),
        reliability=np.repeat([0.9, 0.05], [400, 600]),
    )
    fit = fit_affine(both)
    assert (
        np.linalg.norm(fit.transform.transform_points(GRID.center) - TRUE["affine"].transform_points(GRID.center)) < 3
    )


def test_a_thin_overlap_does_not_shear() -> None:
    rng = np.random.default_rng(0)
    index = rng.uniform(0, 1, (500, 3)) * [49, 44, 2]  # 12 mm of z
    fixed = GRID.index_to_world(index)
    moving = TRUE["rigid"].transform_points(fixed) + rng.normal(size=fixed.shape) * 5
    fit = fit_affine(Correspondences.from_points(fixed, moving))
    assert np.linalg.norm(fit.transform.matrix - TRUE["rigid"].matrix, ord=2) < 0.15


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (pairs(TRUE["rigid"], n=5), "too few matches"),
        (pairs(TRUE["rigid"], n=400, outliers=1.0), "do not agree"),
        (Correspondences.from_points(np.ones((50, 3)), np.ones((50, 3))), "one place"),
    ],
)
def test_failures_are_falsy_and_say_why(given: Correspondences, reason: str) -> None:
    fit = fit_affine(given)
    assert not fit
    assert fit.transform is None
    assert reason in fit.reason


def test_the_same_seed_gives_the_same_fit() -> None:
    given = pairs(TRUE["affine"], outliers=0.6)
    first, second = fit_affine(given, seed=4), fit_affine(given, seed=4)
    np.testing.assert_array_equal(first.transform.matrix, second.transform.matrix)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="unknown kind"):
        fit_affine(pairs(TRUE["rigid"]), kind="projective")


@pytest.fixture(scope="module")
def warped() -> tuple[Correspondences, AffineTransform, DisplacementField, object]:
    """Correspondences of a smooth 15 mm warp followed by an affine, a third of them wrong."""
    points = GRID.world_points()
    phase = (points - GRID.center) / 60.0
    u = np.stack([np.sin(phase[..., 1]), np.sin(phase[..., 2]), np.cos(phase[..., 0])], axis=-1) * 12
    true = compose(DisplacementField(u.astype(np.float32), GRID), TRUE["affine"])
    given = pairs(true, n=3000, noise=2.0, outliers=0.3)
    fit = fit_affine(given)
    near = np.linalg.norm(fit.transform.transform_points(given.fixed) - given.moving, axis=1) < 40
    kept = given.take(near)
    return kept, fit.transform, fit_displacement(kept, fit.transform, GRID), true


def test_field_recovers_a_smooth_warp(warped) -> None:
    _, affine, fitted, true = warped
    inner = GRID.index_to_world(np.random.default_rng(5).uniform(0.15, 0.85, (500, 3)) * np.array(GRID.size))
    truth = true.transform_points(inner)
    before = np.linalg.norm(affine.transform_points(inner) - truth, axis=1).mean()
    after = np.linalg.norm(compose(fitted, affine).transform_points(inner) - truth, axis=1).mean()
    assert after < 0.35 * before
    assert after < 3.0


def test_field_has_no_folds_and_an_inverse(warped) -> None:
    _, affine, field, _ = warped
    assert jacobian_determinant(field, field.grid).min() > 0
    transform = compose(field, affine)
    assert inverse_residual(transform, invert(transform), GRID.world_points().reshape(-1, 3)).p95 < 0.1


def test_field_is_zero_at_its_border(warped) -> None:
    field = warped[2]
    for axis in range(3):
        assert np.abs(field.displacement.take([0, -1], axis=axis)).max() == 0
    assert GRID.padded(30).contains(field.grid.center[None]).all()
    assert field.grid.contains(GRID.corners()).all()


@pytest.mark.parametrize("shape", [(9, 11, 13), (9, 11)])
def test_the_spline_is_that_of_scipy_and_falls_to_zero_as_fields_do(shape) -> None:
    ndim = len(shape)
    turn = rotation(20)[:ndim, :ndim]
    spline = Spline.over(Grid.make(shape, spacing=4.0 + np.arange(ndim), direction=turn), 11.0)
    rng = np.random.default_rng(0)
    index = rng.uniform(0, 1, (30, ndim)) * (np.array(spline.grid.size) - 1)
    index[0], index[1] = 0, np.array(spline.grid.size) - 1  # the ends
    coefficients = rng.normal(size=(ndim, *spline.shape))
    knots = tuple(np.arange(n + 4) - 3.0 for n in spline.shape)

    def expected(points: np.ndarray) -> np.ndarray:
        """The tensor product of one-dimensional splines; points (..., d), d axes as the coefficients have them."""
        flat = points.reshape(-1, ndim)
        values = np.broadcast_to(coefficients, (len(flat), *coefficients.shape))
        for axis in reversed(range(ndim)):
            values = np.einsum("p...n,pn->p...", values, BSpline.design_matrix(flat[:, axis], knots[axis], 3).toarray())
        return values.reshape(*points.shape[:-1], ndim)

    columns, weights = spline.design(torch.from_numpy(index))
    values = (weights[..., None] * torch.from_numpy(coefficients.reshape(ndim, -1).T)[columns]).sum(dim=1)
    np.testing.assert_allclose(values, expected((index / spline.step)[:, ::-1]), atol=1e-9)

    evaluation = field._Evaluation.on(spline, 10.0, torch.device("cpu"))
    result = evaluation.displacement(torch.from_numpy(coefficients))
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    dense = expected(voxels / spline.step[::-1]).astype(np.float32)
    tapering = tapered(DisplacementField(dense, spline.grid), 10.0)
    np.testing.assert_allclose(np.moveaxis(result.numpy(), 0, -1), tapering.displacement, atol=1e-5)
    lowest = jacobian_determinant(tapering, spline.grid).min()
    assert evaluation.smallest_jacobian(result) == pytest.approx(lowest, abs=1e-4)


def test_the_smoothness_is_that_of_the_differences() -> None:
    x = torch.randn(3, 6, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    second = sum(
        (1 if a == b else 2) * x.diff(dim=a).diff(dim=b).square().sum() for a in (1, 2, 3) for b in range(a, 4)
    )
    first = sum(x.diff(dim=a).square().sum() for a in (1, 2, 3))
    energy = (second + _MEMBRANE_WEIGHT * first + 1e-6 * x.square().sum()) / 2
    (expected,) = torch.autograd.grad(energy, x)
    cosines, x = Cosines.of(x.shape[1:], x), x.detach()
    torch.testing.assert_close(cosines.coefficients(cosines.spectrum(x)), x)
    torch.testing.assert_close(cosines.coefficients(cosines.smoothness(cosines.spectrum(x))), expected)
    inner = torch.zeros_like(x)
    inner[:, 3, 3, 4] = 1  # where the border is not felt, the cosines diagonalise it
    spectrum = cosines.spectrum(inner)
    torch.testing.assert_close(cosines.inner_smoothness * spectrum, cosines.smoothness(spectrum), atol=0.2, rtol=0)


def test_inconsistent_correspondences_do_not_fold() -> None:
    rng = np.random.default_rng(2)
    fixed = GRID.index_to_world(rng.uniform(0, np.array(GRID.size) - 1, (800, 3)))
    wild = Correspondences.from_points(fixed, fixed + rng.normal(size=fixed.shape) * 40)
    field = fit_displacement(wild, AffineTransform.identity(3), GRID)
    assert jacobian_determinant(field, field.grid).min() > 0


def test_steps_are_shortened_until_all_of_them_do_not_fold() -> None:
    """Each squeezes the middle to a third along x; the third is shortened, and later ones are not taken."""
    points = GRID.world_points()
    from_middle = points - GRID.center
    near = np.exp(-((from_middle / 40.0) ** 2).sum(axis=-1, keepdims=True))
    squeeze = DisplacementField((-0.65 * near * from_middle * [1.0, 0.0, 0.0]).astype(np.float32), GRID)
    parts, whole, smallest = [squeeze], squeeze, [float(jacobian_determinant(squeeze, GRID).min())]
    while (advanced := _advanced(squeeze, whole)) is not None:
        step, whole, value = advanced
        parts.insert(0, step)
        smallest.append(value)
        places = points.reshape(-1, 3)
        np.testing.assert_allclose(whole.transform_points(places), compose(*parts).transform_points(places), atol=1.0)
    assert 3 <= len(parts) <= 6
    assert np.abs(parts[0].displacement).max() < np.abs(squeeze.displacement).max()
    assert smallest == sorted(smallest, reverse=True)
    assert _MIN_JACOBIAN <= jacobian_determinant(whole, GRID).min() == smallest[-1]


@pytest.mark.parametrize(("squeeze", "is_one"), [(0.5, True), (0.8, False)])
def test_guides_are_brought_together_by_one_field_unless_it_comes_near_a_fold(squeeze: float, is_one: bool) -> None:
    """They squeeze the middle in several steps, together to less than a tenth of its volume in the second case."""
    grid, affine = GRID.with_spacing(6.0).padded(40.0), TRUE["affine"]
    start = DisplacementField(np.zeros((*grid.shape, 3), np.float32), grid)
    from_middle = np.random.default_rng(1).normal(0, 35, (1500, 3))
    near = np.exp(-((from_middle / 50.0) ** 2).sum(axis=1, keepdims=True))
    fixed, moving = GRID.center + from_middle, GRID.center + (1 - squeeze * near) * from_middle
    guides = fixed, affine.transform_points(moving)
    pairs = Correspondences.from_points(GRID.corners(), affine.transform_points(GRID.corners()))
    made = _guided(start, affine, pairs, guides, GRID, scale=1.0, device="cpu")
    *parts, last = components(made)
    before, after = (
        np.linalg.norm(transform.transform_points(fixed) - guides[1], axis=1).mean() for transform in (affine, made)
    )
    smallest = jacobian_determinant(compose(*parts), grid).min()
    assert last is affine
    assert (len(parts) == 1) == is_one == (smallest >= _MIN_JACOBIAN_OF_ONE)
    assert after < 1.0 < 5.0 < before
    assert smallest >= _MIN_JACOBIAN


def test_local_prediction_follows_the_neighbours(warped) -> None:
    given, affine, _, true = warped
    noise = np.full(len(given.fixed), 2.0)
    inner = GRID.index_to_world(np.random.default_rng(6).uniform(0.2, 0.8, (60, 3)) * np.array(GRID.size))
    truth = true.transform_points(inner)
    before = np.linalg.norm(affine.transform_points(inner) - truth, axis=1).mean()
    after = np.linalg.norm(predict_locally(given.fixed, given.moving, noise, affine, inner) - truth, axis=1).mean()
    assert after < 0.6 * before


def test_local_prediction_far_from_matches_is_the_affine(warped) -> None:
    given, affine, _, _ = warped
    far = GRID.center[None] + 5000.0
    for places in (given, given.take(np.zeros(len(given.fixed), dtype=bool))):
        known = places.fixed, places.moving, np.ones(len(places.fixed))
        np.testing.assert_allclose(predict_locally(*known, affine, far), affine.transform_points(far), atol=1e-6)


def test_local_prediction_believes_places_as_far_as_they_are_sure() -> None:
    places = np.repeat(GRID.center[None], 2, axis=0)
    moved = places + [[0.0, 0.0, 10.0], [0.0, 0.0, -10.0]]
    affine = AffineTransform.identity(3)
    for noise, sign in (([1.0, 8.0], 1), ([8.0, 1.0], -1)):
        offset = (predict_locally(places, moved, np.array(noise), affine, places[:1]) - places[:1])[0, 2]
        assert 8.0 < sign * offset < 10.0


def test_no_correspondences_are_the_images_fault() -> None:
    empty = Correspondences.from_points(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ImagesAtFault, match="no matches"):
        fit_displacement(empty, AffineTransform.identity(3), GRID)


def test_matches_that_only_a_fold_fits_are_the_images_fault() -> None:
    grid = Grid.make((6, 6, 6), spacing=20.0)
    points = grid.world_points().reshape(-1, 3)
    shifted = Correspondences.from_points(points, points + [0.5, 0.0, 0.0])
    with pytest.raises(ImagesAtFault, match="folds"):
        fit_displacement(shifted, AffineTransform.identity(3), grid, spacing=20.0, min_jacobian=1.5)


def test_the_cpu_searches_where_the_device_has_no_double_precision(monkeypatch) -> None:
    monkeypatch.setattr("samreg.device.resolve_device", lambda device: torch.device(device))
    assert search_device("mps") == torch.device("cpu")
    assert search_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize("transform", ["affine", "deformable"])
def test_matches_that_agree_by_chance_are_refused_in_plain_words(transform: str) -> None:
    """Noise against a chest was registered: of a thousand matches some agree, and around them all others then did."""
    points = GRID.index_to_world(np.random.default_rng(0).uniform(0, 39, (500, 3)))
    agree = np.arange(500) < 44
    by_chance = Correspondences.from_points(points, points, reliability=np.where(agree, 0.2, 0.03))
    fit = AffineFit(AffineTransform.identity(3), agree, 0.24, 8.0)
    features = SimpleNamespace(scale=1.0)
    seed = refine_seed(
        features, features, fit, by_chance, transform=transform, grid=GRID, moving_grid=GRID,
        calibration=Calibration(0.0, 4.0, -1.0),
    )  # fmt: skip
    assert not seed
    assert seed.reason.startswith("the two images have nothing in common that samreg recognises: 44 of 500 matches")
    assert "reliability is 0.20" in seed.reason
    assert seed.correspondences is by_chance


@pytest.mark.parametrize("part", ["three slices", "mask of an organ"])
def test_bodies_that_hold_few_points_of_the_lattice_get_a_finer_one(part: str) -> None:
    """In 12 mm of 4 mm voxels no point of a lattice of 24 mm lay, nor enough of them in an organ's mask."""
    noise = np.random.default_rng(0).normal(0, 100, (3 if part == "three slices" else 16, 20, 20)).astype(np.float32)
    image = Image.from_array(noise, spacing=4.0)
    mask = image.with_array(np.zeros(image.shape, np.uint8))
    mask.array[:, 4:14, 4:14] = 1
    embedding = embed(image, model="mind", mask=mask)
    seed = make_seed(embedding, embedding, transform="affine", device="cpu")
    assert len(seed.correspondences) >= 12, seed.reason
    np.testing.assert_allclose(seed.transform.transform_points([image.grid.center]), [image.grid.center], atol=1.0)

"""Matching on made-up embeddings whose exact correspondence is known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from samreg.embedding.embedding import Embedding
from samreg.errors import InputError
from samreg.matching import (
    Calibration,
    Prediction,
    features,
    find,
    fit_calibration,
    interpolate,
    lattice,
    match_points,
    search,
    stable_matches,
    vote,
)
from samreg.matching.features import nearest_rows
from samreg.spatial import Grid

SHIFT = np.array([5.3, -3.1, 7.7])  # mm, moving minus fixed: no multiple of the 4 mm grid


def smooth_vectors(points: np.ndarray, channels: int, length: float, seed: int) -> np.ndarray:
    """Unit vectors (N, channels) that vary smoothly in space: random Fourier features of a Gaussian kernel."""
    rng = np.random.default_rng(seed)
    phase = points @ rng.normal(size=(points.shape[1], channels // 2)) / length
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=1) / np.sqrt(channels // 2)


def make_embedding(shift: np.ndarray, *, origin: tuple[float, ...] = (-40.0, 10.0, 5.0)) -> Embedding:
    grid = Grid.make((20, 22, 24), origin=origin, spacing=4.0)
    coarse = Grid.make((10, 11, 12), origin=np.asarray(origin) + 2, spacing=8.0)

    def volume(at: Grid, length: float, seed: int) -> torch.Tensor:
        vectors = smooth_vectors(at.world_points().reshape(-1, 3) - shift, 64, length, seed)
        return torch.tensor(vectors.reshape(*at.shape, 64)).movedim(-1, 0).half()

    body = np.zeros(grid.shape, dtype=bool)
    body[2:-2, 2:-2, 2:-2] = True
    return Embedding(
        local=volume(grid, 9.0, 1),
        local_grid=grid,
        global_=volume(coarse, 40.0, 2),
        global_grid=coarse,
        body=body,
        image_grid=grid,
        model="test@0",
    )


@pytest.fixture(scope="module")
def pair() -> tuple[Embedding, Embedding]:
    return make_embedding(np.zeros(3)), make_embedding(SHIFT, origin=(-36.0, 8.0, 12.0))


@pytest.fixture(scope="module")
def inner_points(pair: tuple[Embedding, Embedding]) -> np.ndarray:
    center = pair[0].local_grid.center
    return center + np.random.default_rng(3).uniform(-18, 18, (40, 3))


def errors(found: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(found - points - SHIFT, axis=1)


@pytest.mark.parametrize("parts", [("local", "global"), ("local",)])
def test_sub_voxel_accuracy(pair, inner_points, parts) -> None:
    fixed, moving = (features(e, parts=parts) for e in pair)
    matches = match_points(fixed, inner_points, moving)
    assert errors(matches.moving, inner_points).mean() < 1.0  # a plain arg-max on a 4 mm grid averages 1.9 mm
    assert matches.cycle_error.mean() < 1.0
    assert (matches.similarity > 0.8).all()


def test_coarse_search_agrees_with_the_exhaustive_one(pair, inner_points) -> None:
    fixed, moving = (features(e) for e in pair)
    query = interpolate(fixed, inner_points)
    exhaustive, coarse = find(query, moving), find(query, moving, coarse=True)
    assert np.linalg.norm(exhaustive.positions - coarse.positions, axis=1).mean() < 1.0


def test_memory_limit_does_not_change_the_result(pair, inner_points) -> None:
    fixed, moving = (features(e) for e in pair)
    query = interpolate(fixed, inner_points)
    wide, narrow = find(query, moving), find(query, moving, memory_limit_mb=1)
    np.testing.assert_allclose(wide.positions, narrow.positions, atol=1e-6)


@pytest.mark.parametrize("coarse", [False, True])
def test_prediction_bounds_the_search(pair, inner_points, coarse) -> None:
    fixed, moving = (features(e) for e in pair)
    near = Prediction(inner_points + SHIFT + 6.0, radius=16.0)
    found = find(interpolate(fixed, inner_points), moving, prediction=near, coarse=coarse)
    assert errors(found.positions, inner_points).mean() < 1.0
    far = Prediction(inner_points + SHIFT + [28.0, 0, 0], radius=12.0)
    found = find(interpolate(fixed, inner_points), moving, prediction=far, coarse=coarse)
    distance = np.linalg.norm(found.positions - far.positions, axis=1)
    assert (distance <= 12.0 + 8.0).all()  # the climb to a neighbour and between voxels may leave by one voxel


@pytest.mark.parametrize("coarse", [False, True])
def test_a_search_around_predictions_takes_the_best_voxel_of_each_ball(pair, inner_points, coarse, monkeypatch) -> None:
    fixed, moving = (features(e) for e in pair)
    query = interpolate(fixed, inner_points)
    near = Prediction(inner_points + SHIFT + [9.0, -5.0, 3.0], radius=17.0, penalty=0.4)
    rows = moving.sparse_rows if coarse else torch.arange(len(moving))
    away = np.linalg.norm(moving.positions(rows)[None] - near.positions[:, None], axis=2) / near.radius
    score = (query @ moving.vectors(rows).float().T).numpy() - near.penalty * away**2
    best = np.where(away <= 1, score, -np.inf).max(axis=1)
    monkeypatch.setattr(search, "_refine", lambda query, target, best, limit: (target.places(best), best.double()))
    for size, limit in itertools.product((1, 4, 8), (256, 1)):  # one block, and many
        monkeypatch.setattr(search, "_CELL_SIZES", (size,))
        chosen = find(query, moving, prediction=near, coarse=coarse, memory_limit_mb=limit).similarity.astype(int)
        found = score[np.arange(len(query)), [int((rows == row).nonzero()[0, 0]) for row in chosen]]
        np.testing.assert_allclose(found, best, atol=0.01)  # half precision


@pytest.mark.parametrize("coarse", [False, True])
def test_queries_that_share_a_window_find_what_each_finds_alone(pair, inner_points, coarse) -> None:
    """Some windows are shared by more queries than are searched at once, others by few or by none else."""
    fixed, moving = (features(e) for e in pair)
    rng = np.random.default_rng(0)
    query = interpolate(fixed, inner_points[rng.integers(len(inner_points), size=300)])
    shared = (
        inner_points[np.concatenate([np.zeros(150, int), rng.integers(1, 30, 100), np.arange(30, 40), np.arange(40)])]
        + SHIFT
    )
    order = rng.permutation(300)
    together = find(query, moving, prediction=Prediction(shared[order], 20.0, 0.2), coarse=coarse)
    for row in range(0, 300, 7):
        window = Prediction(shared[order[row]][None], 20.0, 0.2)
        alone = find(query[row : row + 1], moving, prediction=window, coarse=coarse)
        np.testing.assert_allclose(together.positions[row], alone.positions[0], atol=1e-4)
    nothing = find(query[:0], moving, prediction=Prediction(np.zeros((0, 3)), 20.0), coarse=coarse)
    assert nothing.positions.shape == (0, 3)


def test_a_window_without_body_takes_the_nearest_voxel(pair) -> None:
    fixed, moving = (features(e) for e in pair)
    outside = Prediction(np.array([[500.0, 500.0, 500.0]]), radius=8.0)
    found = find(interpolate(fixed, fixed.grid.center[None]), moving, prediction=outside)
    assert np.isfinite(found.positions).all()
    assert moving.grid.contains(found.positions).all()


def test_stable_matches_are_mutual_and_right(pair) -> None:
    fixed, moving = (features(e) for e in pair)
    matches = stable_matches(fixed, moving, spacing=16.0)
    assert len(matches) > 20
    assert (matches.cycle_error <= np.linalg.norm(fixed.grid.spacing)).all()
    inner = moving.grid.contains(matches.fixed + SHIFT, margin=-12.0)
    assert errors(matches.moving, matches.fixed)[inner].mean() < 1.5


def test_lattice_lies_in_the_body(pair) -> None:
    source = features(pair[0])
    points = lattice(source, 12.0)
    index = np.round(source.grid.world_to_index(points)).astype(int)
    assert pair[0].body[tuple(index[:, ::-1].T)].all()
    steps = np.unique(np.diff(np.unique(index[:, 0])))
    assert steps.tolist() == [3]


def test_similarity_is_the_mean_of_local_and_global(pair, inner_points) -> None:
    both, local, global_ = (features(pair[0], parts=p) for p in (("local", "global"), ("local",), ("global",)))
    q, w = inner_points[:5], inner_points[5:10]
    dots = [(interpolate(s, q) * interpolate(s, w)).sum(dim=1) for s in (both, local, global_)]
    torch.testing.assert_close(dots[0], (dots[1] + dots[2]) / 2, atol=1e-5, rtol=0)


def test_unknown_part_and_empty_mask_are_refused(pair) -> None:
    with pytest.raises(InputError, match="unknown part 'texture'"):
        features(pair[0], parts=("texture",))
    with pytest.raises(InputError, match="no voxel"):
        features(pair[0], inside=np.zeros(pair[0].local_grid.shape, dtype=bool))


def test_votes_of_neighbours_outvote_a_misleading_point(pair, inner_points) -> None:
    """Where the vectors around the points themselves are wrong, their neighbours still say where they are."""
    fixed, moving = pair
    local, points = fixed.local.clone(), inner_points[:8]
    index = np.round(fixed.local_grid.world_to_index(points)).astype(int)
    elsewhere = fixed.local[:, 4:7, 4:7, 4:7]
    for x, y, z in index:
        local[:, z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = elsewhere
    # only the neighbourhood disagrees with the point: its own vectors point to one far corner
    misled = features(replace(fixed, local=local), parts=("local",))
    clean = features(moving, parts=("local",))
    prediction = Prediction(points + SHIFT + [6.0, -6.0, 4.0], 45.0, 0.0)
    alone = match_points(misled, points, clean, prediction=prediction).moving
    votes = vote(misled, points, clean, prediction=prediction, matrix=np.eye(3))
    assert np.median(errors(alone, points)) > 8
    assert np.median(errors(votes.positions, points)) < 2
    undisturbed = vote(features(fixed), points, features(moving), prediction=prediction, matrix=np.eye(3))
    assert errors(undisturbed.positions, points).max() < 2
    assert undisturbed.spread.max() < votes.spread.max()
    with pytest.raises(InputError, match="as many predictions"):
        vote(misled, points[:3], clean, prediction=prediction, matrix=np.eye(3))


def test_the_way_back_through_the_whole_body_finds_repetitions(pair, inner_points) -> None:
    """A point that looks like another one far away leads back there, unless the way back is kept near."""
    place, far = np.s_[:, 8:13, 9:14, 4:9], np.s_[:, 8:13, 9:14, 14:19]
    original = pair[0].local.float()
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=original[place].shape) / 8).float()
    blank, doubled = torch.full_like(original, 0.01), torch.full_like(original, 0.01)
    blank[place] = doubled[far] = original[place]
    doubled[place] = original[place] + noise
    f, m = (features(replace(pair[0], local=local), parts=("local",)) for local in (doubled, blank))
    at = pair[0].local_grid.index_to_world([[6, 11, 10]])
    prediction = Prediction(at, 16.0, 0.0)
    assert match_points(f, at, m, prediction=prediction).cycle_error < 6
    assert match_points(f, at, m, prediction=prediction, home="anywhere").cycle_error > 30


def test_calibration_learns_which_matches_are_right() -> None:
    rng = np.random.default_rng(0)
    similarity, cycle = rng.uniform(0.5, 1, 4000), rng.exponential(8, 4000)
    right = rng.random(4000) < 1 / (1 + np.exp(-(8 * (similarity - 0.75) - 1.0 * (np.log1p(cycle / 4) - 1))))
    error = np.where(right, 3.0, 40.0)
    fitted = fit_calibration(similarity, cycle, error)
    probability = fitted(similarity, cycle)
    for low, high in ((0.1, 0.4), (0.4, 0.6), (0.6, 0.9)):
        chosen = (probability >= low) & (probability < high)
        assert abs(right[chosen].mean() - probability[chosen].mean()) < 0.06
    assert Calibration.from_mapping(fitted.as_dict()) == fitted


def test_calibration_of_landmarks_uses_votes_and_view() -> None:
    rng = np.random.default_rng(0)
    similarity, cycle = rng.uniform(0.5, 1, 4000), rng.exponential(8, 4000)
    spread, depth = rng.exponential(8, 4000), rng.uniform(-40, 60, 4000)
    wrong = (spread > 12) | (depth < 0)
    fitted = fit_calibration(similarity, cycle, np.where(wrong, 40.0, 3.0), spread=spread, depth=depth)
    probability = fitted(similarity, cycle, spread=spread, depth=depth)
    assert fitted.spread < 0 < fitted.depth
    assert probability[~wrong].mean() > probability[wrong].mean() + 0.4
    stored = {**Calibration(1.0, 2.0, -1.0).as_dict(), **fitted.as_dict(landmarks=True)}
    assert Calibration.from_mapping(stored, landmarks=True) == fitted
    assert Calibration.from_mapping(stored) == Calibration(1.0, 2.0, -1.0)


def test_weights_without_coefficients_for_landmarks_get_the_default() -> None:
    stored = {"bias": 1.0, "similarity": 2.0, "cycle": -1.0, "tolerance": 15.0}
    default = Calibration.from_mapping(stored, landmarks=True)
    assert default == Calibration.from_mapping(None, landmarks=True)
    near, far, outside = default(0.8, [1.0, 60.0, 1.0], spread=[2.0, 2.0, 2.0], depth=[30.0, 30.0, -30.0])
    assert near > 0.5 > max(far, outside)


def test_the_nearest_voxel_is_searched_in_bounded_memory(pair, monkeypatch):
    source = features(pair[0])
    index = np.random.default_rng(0).uniform(-10, 30, (500, 3))
    expected = cKDTree(source.sparse_positions.numpy()).query(source.grid.index_to_world(index))[0]
    blocks: list[int] = []

    def measured(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distances = torch.linalg.norm(a[:, None] - b, dim=2)
        blocks.append(distances.numel() * distances.element_size())
        return distances

    monkeypatch.setattr(torch, "cdist", measured)
    rows = nearest_rows(source, index, memory_limit_mb=1)
    found = np.linalg.norm(source.positions(rows) - source.grid.index_to_world(index), axis=1)
    np.testing.assert_allclose(found, expected)
    assert len(blocks) > 1
    assert max(blocks) <= 2**20
    assert len(nearest_rows(source, np.zeros((0, 3)))) == 0

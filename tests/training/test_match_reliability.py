"""What is told of matches holds: their reliability as a probability, their expected error in four of five."""

from __future__ import annotations

import numpy as np
import pytest

import samreg
from samreg.landmarks.match_reliability import calibration_of, expected_error_of, expected_error_of_sets
from samreg.matching import fit_expected_error
from samreg.phantoms.phantom import make_phantom
from samreg.training.match_reliability import calibration_error, errors_left_out, fit_error, left_out, template_sets


def made_up_pairs(people: int = 6) -> list[tuple[set[str], np.ndarray]]:
    """Matches that err the more, the more their votes spread."""
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(people):
        spread, cycle = rng.exponential(10.0, 300), rng.exponential(5.0, 300)
        is_right = rng.random(300) < 1 / (1 + np.exp(2.0 * np.log1p(spread / 4) - 2.0))
        error = np.where(is_right, 5.0, 25.0)
        values = np.column_stack([rng.uniform(0.5, 1, 300), cycle, spread, error])
        pairs.append(({f"P{i}", f"P{(i + 1) % people}"}, values))
    return pairs


def test_what_is_told_of_people_left_out_is_how_often_it_is_right() -> None:
    pairs = made_up_pairs()
    told = left_out(pairs)
    right = np.concatenate([values[:, 3] for _, values in pairs]) <= 10
    assert calibration_error(told, right) < 0.05
    assert calibration_error(np.full(len(right), 0.9), right) == pytest.approx(0.9 - right.mean(), abs=0.01)


def test_people_unseen_by_the_model_set_the_level() -> None:
    pairs = made_up_pairs(8)
    larger = np.random.default_rng(1).uniform(2.1, 3.5, 300)
    worse = [(people, np.column_stack([values[:, :3], values[:, 3] * larger])) for people, values in pairs[::2]]
    everyone = [*worse, *pairs[1::2]]
    right = np.concatenate([values[:, 3] for _, values in worse]) <= 10
    assert not right.any()
    assert left_out(everyone, worse).mean() == pytest.approx(0.01, abs=0.005)
    assert left_out(everyone).mean() > 0.2
    within = [
        values[:, 3] <= errors for (_, values), errors in zip(worse, errors_left_out(everyone, worse), strict=True)
    ]
    assert 0.75 < np.mean(within) < 0.9


def test_the_default_model_is_calibrated_on_landmarks_and_others_as_they_say() -> None:
    """Reliability was 0.91 on average where 64 % of the matches were within 10 mm."""
    calibration = calibration_of(samreg.load_model("ct-small").identity)
    assert calibration is not None, "the weights changed: run python -m samreg.training.match_reliability"
    assert calibration.tolerance == 10.0
    assert calibration_of("ct-small@12345678") is None, "other weights of the same name"
    assert expected_error_of(samreg.load_model("ct-small-1").identity) is not None
    assert expected_error_of(samreg.load_model("mind").identity) is None


def test_four_of_five_errors_are_within_what_is_told_wherever_the_evidence_lies() -> None:
    rng = np.random.default_rng(0)
    cycle, spread = rng.exponential(5.0, (2, 4000))
    error = np.expm1(1.0 + 0.8 * np.log1p(spread / 4) + rng.exponential(0.5, 4000))
    expected = fit_expected_error(cycle, spread, error)
    told = expected(cycle, spread)
    for part in np.array_split(np.argsort(spread), 4):
        assert np.mean(error[part] <= told[part]) == pytest.approx(0.8, abs=0.03)
    assert expected.spread == pytest.approx(0.8, abs=0.1)
    assert 0 <= expected.cycle < 0.1, "the cycle error says nothing here"


def test_the_larger_the_evidence_the_larger_what_is_told() -> None:
    """Made-up errors that fall with the evidence, as few pairs may show by chance."""
    spread = np.linspace(0.0, 20.0, 200)
    expected = fit_expected_error(spread, spread, 30.0 - spread)
    assert (expected.cycle, expected.spread) == (0.0, 0.0)
    assert expected([1.0], [1.0]) == pytest.approx(np.quantile(30.0 - spread, 0.8), abs=0.2)


def test_errors_are_told_of_people_left_out() -> None:
    pairs = [(people, values[:120]) for people, values in made_up_pairs()]
    told = errors_left_out(pairs)
    within = [values[:, 3] <= errors for (_, values), errors in zip(pairs, told, strict=True)]
    assert 0.75 < np.mean(within) < 0.9


def test_sets_of_people_are_drawn_for_each_person_searched() -> None:
    """Three people place two landmarks in BOB, one of them 30 mm off; ALICE has a landmark that no other has."""
    landmarks = {
        "BOB": samreg.Points([[0.0, 0, 0], [50, 0, 0], [90, 0, 0]], ("tip", "notch", "apex")),
        "EVE": samreg.Points([[5.0, 5, 5]], ("tip",)),
    }

    def matches(names: tuple[str, ...], x: float, expected: float) -> samreg.LandmarkMatches:
        places = landmarks["BOB"].named(names).positions + [x, 0, 0]
        half = np.full(len(names), 0.5)
        return samreg.LandmarkMatches(
            places, names, half, half, half, half, half > 0, expected_error=np.full(len(names), expected)
        )

    matched = {
        ("ALICE", "BOB"): matches(("tip", "notch", "apex"), 1.0, 4.0),
        ("CAROL", "BOB"): matches(("tip", "notch"), 2.0, 8.0),
        ("DAVE", "BOB"): matches(("tip", "notch"), 30.0, 40.0),
        ("BOB", "EVE"): matches(("tip",), 0.0, 1.0),
    }
    sets = template_sets(matched, landmarks)
    assert [people for people, _ in sets] == [{"BOB"}, {"BOB"}], "two and three people; one cannot agree with itself"
    values = sets[1][1]
    assert values[:, 1].tolist() == [8.0, 8.0], "the median of what is expected of the matches"
    assert (values[:, 3] < 5).all(), "two of three agree"
    assert np.isfinite(fit_error(sets).bias)


def test_the_default_model_tells_the_error_of_places_that_templates_agree_on() -> None:
    model = samreg.load_model("ct-small").identity
    one, several = expected_error_of(model), expected_error_of_sets(model)
    assert one is not None
    assert several is not None, "the weights changed: run python -m samreg.training.match_reliability"
    alone = one(4.0, 4.0)
    assert several(alone, 2.0) < alone, "places that several agree on err less"
    assert expected_error_of_sets(samreg.load_model("mind").identity) is None


def test_a_match_outside_the_view_errs_by_so_much_more() -> None:
    expected = expected_error_of(samreg.load_model("ct-small").identity)
    assert expected is not None, "the weights changed: run python -m samreg.training.match_reliability"
    inside, border, outside = expected(2.0, [3.0, 3.0, 3.0], depth=[20.0, 0.0, -15.0])
    assert inside == border
    assert outside == pytest.approx(border + 15.0)


def test_a_file_of_calibrations_alone_is_read(tmp_path, monkeypatch) -> None:
    """As it was before it held expected errors."""
    entry = '{"ours@1": {"bias": 1.0, "similarity": 0.0, "cycle": -1.0, "tolerance": 10.0}}'
    (tmp_path / "old.json").write_text(entry)
    monkeypatch.setattr("samreg.landmarks.match_reliability.MATCH_RELIABILITY", tmp_path / "old.json")
    for read in (calibration_of, expected_error_of):
        read.cache_clear()
    try:
        assert expected_error_of("ours@1") is None
        calibration = calibration_of("ours@1")
        assert calibration is not None
        assert calibration.tolerance == 10.0
    finally:
        for read in (calibration_of, expected_error_of):
            read.cache_clear()


def test_a_point_outside_the_view_is_less_reliable_than_the_same_evidence_inside() -> None:
    template, target = (make_phantom(subject, spacing=8.0, field_of_view=(-60.0, 60.0)) for subject in (1, 2))
    fixed, moving = template.image, target.image
    half = samreg.Image(
        moving.array[: moving.shape[0] // 2],
        type(moving.grid)((moving.shape[0] // 2, *moving.shape[1:]), moving.origin, moving.spacing, moving.direction),
    )
    shared = [name for name in template.landmarks.names if name in target.landmarks.names]
    points = template.landmarks.named(shared)
    found = samreg.match(fixed, points, half)
    assert 0 < (~found.inside).sum() < len(points)
    assert found.reliability[~found.inside].max() <= 0.5
    assert found.reliability[found.inside].mean() > found.reliability[~found.inside].mean()
    assert np.isfinite(found.expected_error).all()
    assert found.expected_error[found.inside].mean() < found.expected_error[~found.inside].mean()
    assert np.isnan(samreg.match(fixed, points, half, search="global").expected_error).all()

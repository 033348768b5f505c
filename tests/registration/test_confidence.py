"""Expected errors: fitted, gathered, stored with a result, told beside points, and what the verdict makes of them."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import samreg
from samreg.cli import app
from samreg.errors import InputError, SamregError
from samreg.landmarks.atlas import shipped_atlas
from samreg.matching import Calibration, Correspondences, features
from samreg.phantoms.phantom import PhantomPair, phantom_pair
from samreg.quality.regions import region_of
from samreg.registration.anchors import Anchors
from samreg.registration.confidence import MEASURED, ErrorModel, Evidence, at_points, expected_errors
from samreg.registration.misses import LandmarkMisses
from samreg.seeding.seed import match_lattice
from samreg.spatial import AffineTransform, Points, compose
from samreg.training.expected_error import Case, between_people, fit, gather_followup, left_out

pytestmark = pytest.mark.usefixtures("embeddings_kept")


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return phantom_pair(1, 2, spacing=8.0, field_of_view=(-60.0, 50.0))


@pytest.fixture(scope="module")
def result(pair: PhantomPair) -> samreg.RegistrationResult:
    return samreg.register(pair.fixed.image, pair.moving.image, method="embedding")


def cases(people: int = 8) -> list[Case]:
    """Made-up registrations whose errors grow with the residual, and are larger at one of two landmarks."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(people):
        measured = {kind: rng.normal(0, 1, 200) for kind in MEASURED}
        measured["residual"] = rng.uniform(1.5, 4.0, 200)
        place = np.arange(200) % 2
        errors = np.expm1(0.7 * measured["residual"] + place - 0.5 + rng.normal(0, 0.3, 200)).clip(0.1)
        names = tuple(np.array(["carina", "scapula"])[place])
        evidence = Evidence(measured, np.eye(2)[place], ("carina", "scapula"))
        made.append(Case((f"P{i}", f"P{(i + 1) % people}"), "engine", names, evidence, errors))
    return made


def test_four_of_five_errors_of_people_left_out_stay_below_what_is_told() -> None:
    known = cases()
    told, errors = np.concatenate(left_out(known)), np.concatenate([case.errors for case in known])
    assert np.mean(errors <= told) == pytest.approx(0.8, abs=0.05)
    assert np.mean(errors[told <= 10] <= 10) > 0.8


def test_people_unseen_by_the_model_set_the_level() -> None:
    known = cases()
    worse = [dataclasses.replace(case, errors=2 * case.errors + 1) for case in known[:3]]
    model = fit([*worse, *known[3:]], worse)
    told = np.concatenate([model(case.evidence) for case in worse])
    assert np.mean(np.concatenate([case.errors for case in worse]) <= told) == pytest.approx(0.82, abs=0.01)
    told = np.concatenate(left_out([*worse, *known[3:]], worse))
    assert len(told) == 600


def test_second_visits_teach_what_small_errors_look_like_and_nothing_of_places() -> None:
    known = cases()
    small = [
        dataclasses.replace(
            case, people=(f"P{i}", f"P{i}"), names=(), errors=np.full(200, 0.5),
            evidence=dataclasses.replace(case.evidence, measured={k: np.full(200, 1.4) for k in MEASURED}),
        )
        for i, case in enumerate(known)
    ]  # fmt: skip
    assert between_people([*small, *known]) == known
    assert fit([*known, *small], known).places == fit(known).places
    told = np.concatenate(left_out([*known, *small], known, of=small))
    assert np.median(told) < 3.0
    assert np.median(np.concatenate(left_out(known, known, of=small))) > np.median(told)


def test_a_second_visit_is_simulated_registered_and_measured(pair) -> None:
    engine, embedding = gather_followup("A", pair.fixed.image, samreg.load_model("ct-small"), seed=0)
    assert (engine.method, embedding.method) == ("engine", "embedding")
    assert engine.is_of_one_person
    assert len(engine.errors) == len(engine.evidence.near) == 10
    assert max(engine.errors.mean(), embedding.errors.mean()) < 8.0  # one voxel


def test_evidence_that_tells_nothing_weighs_nothing_and_places_differ() -> None:
    model = fit(cases())
    assert model.places["scapula"] > model.places["carina"] + 0.5
    assert model.weights["residual"] == pytest.approx(0.7, abs=0.1)
    assert model.weights["place"] > 0.5
    assert max(model.weights[kind] for kind in MEASURED[1:]) < 0.05


def test_a_registration_that_is_moved_off_is_expected_to_be_off(pair) -> None:
    embeddings = tuple(samreg.embed(phantom.image) for phantom in (pair.fixed, pair.moving))
    images = pair.fixed.image, pair.moving.image
    points = pair.fixed_landmarks.positions
    right, off = (
        expected_errors(images[0], transform, embeddings)
        for transform in (
            pair.transform,
            compose(pair.transform, AffineTransform(np.eye(3), [0.0, 30.0, 0.0])),
        )
    )
    told = [
        samreg.RegistrationResult(*images, pair.transform, error_map=m).expected_error(points) for m in (right, off)
    ]
    assert np.median(told[1]) > 2 * np.median(told[0])
    assert np.mean(told[1] > told[0]) > 0.95


def test_at_a_place_that_both_images_show_the_error_is_as_small_as_it_is_there(pair) -> None:
    grid = pair.fixed.image.grid
    middle = grid.index_to_world(np.array(grid.size) // 2)  # a voxel of the map, too
    fixed, moving = np.tile(middle, (6, 1)), np.tile(pair.moving.image.grid.center, (6, 1))
    names = ("carina", "xiphoid_tip", "left_glenoid", "right_glenoid", "left_rib5_lateral", "right_rib5_lateral")
    none = np.zeros((2, 6), dtype=bool)
    shown = Anchors(names, fixed, moving, np.full((2, 6), 0.9), np.full((2, 6), 50.0), none, none)
    place = np.stack([fixed[:1], moving[:1]])
    embeddings = tuple(samreg.embed(phantom.image) for phantom in (pair.fixed, pair.moving))
    shift = AffineTransform(np.eye(3), moving[0] - fixed[0])
    off = compose(shift, AffineTransform(np.eye(3), [0.0, 40.0, 0.0]))  # the place is missed by 40 mm

    def told(transform, anchors: Anchors) -> list[float]:
        """Return what is told at the place, and 10 and 60 mm above it."""
        error_map = expected_errors(pair.fixed.image, transform, embeddings, anchors=anchors)
        assert error_map is not None
        return [float(at_points(error_map, fixed[:1] + [0.0, 0.0, up])[0]) for up in (0.0, 10.0, 60.0)]

    unsure = dataclasses.replace(shown, reliability=np.full((2, 6), 0.1))  # which shows no place
    seen = dataclasses.replace(shown, names=tuple(f"place_{i}" for i in range(6)), points=place)
    without = dataclasses.replace(unsure, names=seen.names)
    assert seen.guides is not None
    assert without.guides is None
    here, near, far = told(shift, seen)
    here_without, _, far_without = told(shift, without)
    assert here == pytest.approx(np.round(16 * 2.0 * np.exp(1.9 * 0.1)) / 16)  # the map tells sixteenths of a mm
    assert here_without > 10.0
    assert here < near
    np.testing.assert_allclose(far, far_without)
    np.testing.assert_allclose(told(off, seen)[0], told(off, without)[0])
    less_sure = dataclasses.replace(seen, points=np.zeros((2, 0, 3)), reliability=np.full((2, 6), 0.6))
    assert here < told(shift, less_sure)[0] < here_without
    aside = dataclasses.replace(seen, points=np.zeros((2, 0, 3)), fixed=seen.fixed + 80.0, moving=seen.moving + 80.0)
    for bone, most in (("on_scapulae", 10.0), ("on_ribs", 9.0)):
        on_bone = dataclasses.replace(aside, **{bone: place})
        assert here_without > told(shift, on_bone)[0] == pytest.approx(most, abs=0.01)
        np.testing.assert_allclose(told(off, on_bone)[0], told(off, aside)[0])
    too_few = dataclasses.replace(unsure, on_scapulae=place)  # to guide
    np.testing.assert_allclose(told(shift, too_few), told(shift, unsure))


def test_less_is_told_of_two_scans_of_one_person_but_not_by_embeddings_alone(pair, monkeypatch) -> None:
    embeddings = tuple(samreg.embed(phantom.image) for phantom in (pair.fixed, pair.moving))
    far, none = np.full((2, 3), -1e3), np.zeros((2, 2), dtype=bool)
    anchors = Anchors(("carina", "xiphoid_tip"), far, far, np.zeros((2, 2)), np.ones((2, 2)), none, none)
    source, target = map(features, embeddings)
    whole = match_lattice(source, target, calibration=Calibration.from_mapping(embeddings[0].calibration))
    asked = []

    def told(method: str, *, one_person: bool, known: Correspondences | None = whole) -> np.ndarray:
        monkeypatch.setattr("samreg.landmarks.guided.show_one_person", lambda pairs: asked.append(pairs) or one_person)
        images = pair.fixed.image, pair.transform, embeddings
        error_map = expected_errors(*images, method=method, anchors=anchors, whole=known)
        assert error_map is not None
        return error_map.array

    for method, share in (("engine", 0.6), ("embedding", 1.0)):
        within, between = (told(method, one_person=one_person) for one_person in (True, False))
        np.testing.assert_allclose(within, share * between, atol=0.07)
    told("engine", one_person=True, known=None)  # as of a start that was given
    np.testing.assert_array_equal(asked[-1].moving, whole.moving)


def test_it_is_told_at_every_point_and_kept_with_the_result(result, pair, tmp_path) -> None:
    points = pair.fixed_landmarks
    told = result.expected_error(points)
    assert told.shape == (len(points),)
    assert ((told > 0) & (told <= 100)).all()
    corners = result.fixed.grid.corners()
    assert np.isfinite(result.expected_error(0.98 * corners + 0.02 * result.fixed.grid.center)).all()
    for phantom in (pair.fixed, pair.moving):
        samreg.write_image(phantom.image, tmp_path / f"{phantom.subject}.nii.gz")
    folder = result.save(tmp_path / "out")
    again = samreg.RegistrationResult.load(folder, fixed=pair.fixed.image, moving=pair.moving.image)
    np.testing.assert_allclose(again.expected_error(points), told, atol=1e-3)
    assert str(again.verdict) == str(result.verdict)
    with pytest.raises(InputError, match="outside"):
        result.expected_error([[5000.0, 0.0, 0.0]])
    samreg.write_points(points, tmp_path / "fixed.csv")
    run = CliRunner().invoke(
        app, ["apply", str(folder), str(tmp_path / "fixed.csv"), "-o", str(tmp_path / "there.csv"), "--to", "moving"]
    )
    assert run.exit_code == 0, run.output
    rows = list(csv.DictReader((tmp_path / "there.csv").open()))
    np.testing.assert_allclose([float(row["expected_error_mm"]) for row in rows], told, atol=0.06)
    back = CliRunner().invoke(
        app, ["apply", str(folder), str(tmp_path / "there.csv"), "-o", str(tmp_path / "back.csv"), "--to", "fixed"]
    )
    assert back.exit_code == 0, back.output
    rows = list(csv.DictReader((tmp_path / "back.csv").open()))
    np.testing.assert_allclose([float(row["expected_error_mm"]) for row in rows], told, atol=1.0)


@pytest.mark.parametrize("method", ["engine", "embedding"])
def test_the_shipped_weights_are_calibrated(method) -> None:
    identity = samreg.load_model("ct-small").identity
    shipped = ErrorModel.shipped(identity, method)
    assert shipped is not None, "the weights changed: run python -m samreg.training.expected_error"


def test_without_a_calibrated_model_nothing_is_told(body) -> None:
    plain = samreg.register(body, body, method="embedding", model="mind", transform="affine")
    assert plain.error_map is None
    assert ErrorModel.shipped("mind@12345678", "engine") is None
    with pytest.raises(SamregError, match="not known"):
        plain.expected_error([plain.fixed.grid.center])
    assert plain.verdict.status == "check"


def test_a_region_whose_named_landmarks_are_missed_is_named(result, pair) -> None:
    names = ("left_rib5_lateral", "left_rib8_lateral", "left_rib12_tip", "vertebra_T7", "vertebra_T8")
    points = Points(np.tile(result.fixed.grid.center, (5, 1)), names, np.full(5, 0.9))
    misses = LandmarkMisses(points, points, np.array([20.0, 31.0, 40.0, 50.0, 60.0]), np.zeros(5, bool))
    judged = dataclasses.replace(result, landmark_misses=misses).verdict
    assert "left ribs: 3 landmarks found in both images are missed by 31 mm (median)" in judged.reasons
    assert not any("spine" in reason for reason in judged.reasons)  # two landmarks are too few
    assert judged.status == "check"


def test_arms_that_differ_are_told_in_the_verdict(result) -> None:
    names = ("left_scapula_spine_root", "left_glenoid")
    fixed, moving = (Points([[60.0, 50.0, 0.0], [140.0, 10.0, up]], names, [0.9, 0.9]) for up in (60.0, 0.0))
    misses = LandmarkMisses(fixed, moving, np.ones(2), np.ones(2, bool))
    verdict = dataclasses.replace(result, landmark_misses=misses).verdict
    told = "shoulders unsure: arms differ (left arm raised in the fixed image and left arm down in the moving image)"
    assert told in verdict.text
    assert told in verdict.reasons


def test_named_landmarks_come_back_from_the_folder_and_stand_on_the_page(result, pair, tmp_path) -> None:
    assert result.landmark_misses is not None
    moved = result.transform_points(result.landmark_misses.fixed.positions, to="moving")
    missed = np.linalg.norm(moved - result.landmark_misses.moving.positions, axis=1)
    np.testing.assert_allclose(result.landmark_misses.distance, missed, atol=1e-6)
    names = ("left_rib5_lateral", "vertebra_T7")
    points = Points(np.tile(result.fixed.grid.center, (2, 1)), names, np.array([0.9, 0.6]))
    misses = LandmarkMisses(points, points, np.array([3.0, 4.0]), np.array([True, False]))
    known = dataclasses.replace(result, landmark_misses=misses, shown_by_one=("only the fixed image shows the pelvis",))
    folder = known.save(tmp_path / "out")
    again = samreg.RegistrationResult.load(folder, fixed=pair.fixed.image, moving=pair.moving.image)
    assert again.landmark_misses is not None
    assert again.landmark_misses.fixed.names == names
    np.testing.assert_allclose(again.landmark_misses.moving.positions, points.positions, atol=1e-3)
    np.testing.assert_allclose(again.landmark_misses.distance, [3.0, 4.0])
    assert again.landmark_misses.guided.tolist() == [True, False]
    assert again.shown_by_one == known.shown_by_one
    told = json.loads((folder / "result.json").read_text())["named_landmarks"]
    assert [region["region"] for region in told] == ["cervical and thoracic spine", "left ribs"]
    page = known.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Named landmarks found in both images" in page
    assert "left ribs" in page
    assert "Only the fixed image shows the pelvis." in page


def test_every_landmark_of_the_shipped_atlas_belongs_to_a_region() -> None:
    atlas = shipped_atlas(samreg.load_model("ct-small").identity)
    assert atlas is not None
    regions = {name: region_of(name) for name in atlas.names}
    assert [name for name, region in regions.items() if region == "elsewhere"] == []
    assert regions["right_first_rib_anterior_end"] == "right ribs"
    assert regions["left_clavicle_lateral_end"] == "left shoulder"
    assert regions["left_renal_vein_crossing"] == "upper abdomen"

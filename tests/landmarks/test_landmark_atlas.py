"""Landmark atlases: constellations, finding by them, what is outside, files, commands; on phantoms."""

from __future__ import annotations

import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import samreg
from samreg.cli import app
from samreg.errors import InputError
from samreg.landmarks import find
from samreg.landmarks.atlas import ATLASES, LandmarkAtlas
from samreg.landmarks.build import _fitted, build_landmark_atlas
from samreg.landmarks.constellation import Constellation
from samreg.landmarks.find import _notes, find_landmarks
from samreg.landmarks.laterality import laterality, mirror_image
from samreg.landmarks.locate import LandmarkEvidence, Located, locate, reliability_of
from samreg.landmarks.placement import place
from samreg.landmarks.templates import Template
from samreg.matching import Calibration, features
from samreg.phantoms.phantom import make_phantom
from samreg.seeding.turns import turned_image
from samreg.spatial import Grid

pytestmark = pytest.mark.usefixtures("embeddings_kept")

PEOPLE = 4
FIELD_OF_VIEW = (-95.0, 80.0)  # levels, mm


@pytest.fixture(scope="module")
def templates() -> list[Template]:
    phantoms = [make_phantom(i, spacing=5.0, field_of_view=FIELD_OF_VIEW) for i in range(PEOPLE)]
    return [Template(f"P{i}", samreg.embed(p.image), p.landmarks) for i, p in enumerate(phantoms)]


@pytest.fixture(scope="module")
def atlas(templates) -> LandmarkAtlas:
    return build_landmark_atlas(templates[:-1])


@pytest.fixture(scope="module")
def found(atlas, templates):
    return find_landmarks(templates[-1].embedding, atlas=atlas)


def spine(count: int, rng: np.random.Generator) -> np.ndarray:
    """People (K, L, 3): levels 20 mm apart, 2 mm of variation, and a landmark beside the first."""
    place = np.zeros((8, count + 1, 3))
    place[:, :count, 2] = -20.0 * np.arange(count)
    place[:, count] = [60.0, 0.0, 0.0]
    return place * rng.uniform(0.9, 1.1, (8, 1, 1)) + rng.normal(0, 2.0, place.shape) + rng.normal(0, 50, (8, 1, 3))


def test_the_right_level_is_chosen_though_each_looks_more_like_its_neighbour() -> None:
    """Of the candidates at every level a wrong one scores higher, but for the first landmark and that beside it."""
    count = 8
    rng = np.random.default_rng(0)
    constellation = Constellation.from_positions(spine(count, rng))
    levels = constellation.mean[0] + np.outer(np.arange(count + 1), [0.0, 0.0, -20.0])
    candidates = [levels] * count + [constellation.mean[count][None]]
    scores = [np.where(np.arange(count + 1) == i + (i > 0), 0.0, -0.5) for i in range(count)] + [np.zeros(1)]
    scores[0] = np.where(np.arange(count + 1) == 0, 0.0, -20.0)
    assert constellation.choose(candidates, scores).tolist() == [*range(count), 0]


def test_landmarks_without_candidates_are_not_chosen_and_hinder_none() -> None:
    constellation = Constellation.from_positions(spine(5, np.random.default_rng(1)))
    places = [place[None] for place in constellation.mean]
    places[2] = np.zeros((0, 3))
    chosen = constellation.choose(places, [np.zeros(len(place)) for place in places])
    assert chosen.tolist() == [0, 0, -1, 0, 0, 0]


def test_size_and_place_are_found_though_most_landmarks_are_wrong() -> None:
    rng = np.random.default_rng(2)
    constellation = Constellation.from_positions(spine(12, rng))
    places = 1.15 * constellation.mean + [100.0, -50.0, 20.0]
    wrong = rng.permutation(len(places))[:7]
    places[wrong] += rng.normal(0, 200, (7, 3))
    size, shift = constellation.align(places)
    right = np.setdiff1d(np.arange(len(places)), wrong)
    assert abs(size * constellation.mean + shift - places)[right].max() < 3


def test_landmarks_at_one_place_clash() -> None:
    constellation = Constellation.from_positions(spine(4, np.random.default_rng(3)))
    assert len(constellation.clashing(constellation.mean)) == 0
    places = constellation.mean.copy()
    places[1] = places[0]
    assert [0, 1] in constellation.clashing(places).tolist()


def abdomen_in_neck() -> tuple[Constellation, np.ndarray]:
    """Landmarks of a trunk, and their places in a turned scan of its neck, where the last three were found too."""
    constellation = Constellation.from_positions(spine(20, np.random.default_rng(4)))
    angle = np.radians(20)
    turned = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    places = 1.2 * constellation.mean @ turned + [30.0, -80.0, 400.0]
    places[17:20] += places[2] - places[18]
    return constellation, places


def test_landmarks_on_another_part_of_the_body_than_the_sure_ones_say_are_misplaced() -> None:
    constellation, places = abdomen_in_neck()
    sure = np.ones(21, dtype=bool)
    assert np.flatnonzero(constellation.misplaced(places, sure)).tolist() == [17, 18, 19]
    sure[17:19] = False  # whether they are sure or not
    assert np.flatnonzero(constellation.misplaced(places, sure)).tolist() == [17, 18, 19]
    assert not constellation.misplaced(places, np.arange(21) > 16).any()  # too few
    places[:17] = np.random.default_rng(5).normal(0, 500, (17, 3))
    assert not constellation.misplaced(places, np.ones(21, dtype=bool)).any()  # no two say the same


def test_misplaced_landmarks_are_never_reliable() -> None:
    """However alike they look, and though the image itself shows something there."""
    constellation, places = abdomen_in_neck()
    evidence = LandmarkEvidence(np.ones(21), np.zeros(21), np.zeros(21), np.full(21, 50.0))
    located = Located(places, evidence, np.zeros(21, dtype=bool), np.arange(21) == 18)
    knows = SimpleNamespace(constellation=constellation, calibration=Calibration(0.0, 2.0, 0.0))
    assert np.flatnonzero(reliability_of(located, knows) == 0).tolist() == [17, 18, 19]


def test_landmarks_of_another_person_are_found(found, templates) -> None:
    truth = templates[-1].points
    shown = np.isin(found.names, truth.names)
    error = np.linalg.norm(found.points[shown] - truth.named(np.array(found.names)[shown]).positions, axis=1)
    assert np.median(error) < 6  # the voxels are 5 mm
    assert np.mean(error < 15) > 0.8
    assert found.inside[shown].mean() > 0.9
    assert set(found.to_points().names) <= set(found.to_points(unsure=True).names) <= set(found.names)


def test_landmarks_are_looked_for_again_from_where_they_moved_to(atlas, templates, monkeypatch) -> None:
    """One window about the place of the constellation did not reach what lies farther off."""
    embedding, truth = templates[-1].embedding, templates[-1].points
    target = features(embedding)
    placed = place(atlas, target, embedding.image_grid)
    off = replace(placed, positions=placed.positions + [0.0, 0.0, 24.0])
    shown = np.isin(atlas.names, truth.names)
    errors = []
    for rounds in (1, 2):
        monkeypatch.setattr("samreg.landmarks.locate._ROUNDS", rounds)
        found = locate(atlas, target, embedding.image_grid, placed=off).positions[shown]
        errors.append(np.linalg.norm(found - truth.named(np.array(atlas.names)[shown]).positions, axis=1))
    assert np.median(errors[0]) > 10
    assert np.median(errors[1]) < 7


def test_the_places_are_those_of_the_world_however_the_image_is_stored(found, atlas) -> None:
    """The same scan with its first index axis turned round and its axes in another order."""
    image = make_phantom(PEOPLE - 1, spacing=5.0, field_of_view=FIELD_OF_VIEW).image
    grid, axes = image.grid, (2, 0, 1)
    array = image.array[:, :, ::-1].transpose(axes)
    last = grid.index_to_world([[grid.size[0] - 1.0, 0.0, 0.0]])[0]
    direction = grid.direction * [-1.0, 1.0, 1.0]
    order = [2 - axes[2 - i] for i in range(3)]  # of the index axes (x, y, z); arrays are (z, y, x)
    stored = samreg.Image(
        np.ascontiguousarray(array), Grid(array.shape, last, grid.spacing[order], direction[:, order])
    )
    again = find_landmarks(stored, atlas=atlas)
    assert again.inside.tolist() == found.inside.tolist()
    assert np.linalg.norm(again.points - found.points, axis=1)[found.sure].max() < 1.0


def test_the_errors_told_are_those_of_each_person_by_the_others(atlas, templates) -> None:
    assert atlas.errors.shape == (PEOPLE - 1, len(atlas.names))
    others = build_landmark_atlas(templates[:2])
    located = find_landmarks(templates[2].embedding, atlas=others)
    expected = {
        name: np.linalg.norm(located.points[others.names.index(name)] - place)
        for name, place in zip(templates[2].points.names, templates[2].points.positions, strict=True)
        if name in others.names
    }
    told = dict(zip(atlas.names, atlas.errors[2], strict=True))
    assert {name for name, error in told.items() if np.isfinite(error)} == set(expected)
    assert all(abs(told[name] - error) < 0.1 for name, error in expected.items())


def test_an_atlas_is_tested_on_the_people_that_are_named(atlas, templates) -> None:
    tested = build_landmark_atlas(templates[:-1], test_on=["P1"])
    assert np.isnan(tested.errors[[0, 2]]).all()
    np.testing.assert_array_equal(tested.errors[1], atlas.errors[1])
    with pytest.raises(InputError, match="test_on names P9; choose from P0, P1, P2"):
        build_landmark_atlas(templates[:-1], test_on=["P9"])


def test_people_to_test_on_are_a_list_of_names() -> None:
    with pytest.raises(InputError, match=r"test_on must be a list of names, such as \['ALICE'\], got 'ALICE'"):
        build_landmark_atlas([], test_on="ALICE")


def test_how_sure_to_be_comes_from_those_tested_on_and_what_tells_it_from_all() -> None:
    """The others do better, as a model does on people it was trained on."""
    rng = np.random.default_rng(0)

    def evidence(count: int, shift: float) -> np.ndarray:
        similarity, misfit, spread = rng.uniform(0.4, 1.0, count), rng.uniform(0, 30, count), rng.uniform(0, 20, count)
        right = rng.uniform(size=count) < 1 / (1 + np.exp(-8 * (similarity - 0.7) - shift))
        return np.column_stack([similarity, misfit, spread, np.full(count, 20.0), np.where(right, 3.0, 30.0)])

    others, tests = evidence(3000, 2.0), evidence(120, -1.0)
    told = _fitted(others, tests, 1.0)
    rows = tests[:, 0], tests[:, 1]
    assert told(*rows, spread=tests[:, 2], depth=tests[:, 3]).mean() == pytest.approx(
        (tests[:, 4] < 10).mean(), abs=0.01
    )
    alone = _fitted(np.zeros((0, 5)), others, 1.0)
    assert told.similarity == pytest.approx(alone.similarity, rel=0.15)
    assert told.bias < alone.bias - 1.5


def test_what_the_image_does_not_show_is_said_to_be_outside(atlas) -> None:
    top = make_phantom(PEOPLE - 1, spacing=5.0, field_of_view=(10.0, 80.0))
    whole = make_phantom(PEOPLE - 1, spacing=5.0, field_of_view=FIELD_OF_VIEW).landmarks
    result = find_landmarks(top.image, atlas=atlas)
    names = [name for name in result.names if name in whole.names]
    rows = [result.names.index(name) for name in names]
    depth = top.image.grid.depth(whole.named(names).positions)
    clear = np.abs(depth) > 25
    assert (depth[clear] < 0).sum() > 2
    assert (depth[clear] > 0).sum() > 2
    assert (result.inside[rows] == (depth > 0))[clear].mean() > 0.9
    assert not (result.sure[rows] & (depth < -25)).any()
    assert (result.reliability[~result.inside] == 0).all()
    assert "outside the image" in result.notes[0]


def test_an_image_unlike_the_atlas_is_told(atlas, found) -> None:
    assert "little of the image" not in " ".join(found.notes)
    image = make_phantom(PEOPLE - 1, spacing=5.0, field_of_view=FIELD_OF_VIEW).image
    turned = samreg.Image(np.ascontiguousarray(image.array[::-1, ::-1]), image.grid)
    assert "little of the image" in " ".join(find_landmarks(turned, atlas=atlas).notes)


def test_wrong_levels_are_told_as_often_as_they_were_measured(atlas, found) -> None:
    names = ("vertebra_T1", *atlas.names[1:])
    errors = np.zeros_like(atlas.errors)
    errors[0, 0] = 20.0
    surely = replace(found, names=names, reliability=np.ones(len(names)))
    told = _notes(replace(surely, counted=np.arange(len(names)) == 0), replace(atlas, errors=errors))
    assert told[1].startswith(
        "vertebrae T1, counted along the spine; of 3 vertebrae of 3 people it was tested on 33% lay"
    )
    for uncounted in (None, np.zeros(len(names), bool)):
        told = _notes(replace(surely, counted=uncounted), replace(atlas, errors=errors))
        assert told[1] == "vertebrae T1; they could not be counted from above: count them before use"


def test_an_atlas_comes_back_as_it_was(atlas, found, templates, tmp_path) -> None:
    atlas.save(tmp_path / "atlas.h5")
    again = find_landmarks(templates[-1].embedding, atlas=tmp_path / "atlas.h5")
    assert again.names == found.names
    np.testing.assert_allclose(again.points, found.points, atol=0.5)  # half precision
    np.testing.assert_allclose(again.reliability, found.reliability, atol=0.02)
    assert LandmarkAtlas.load(tmp_path / "atlas.h5").people == atlas.people


def test_damaged_and_other_files_are_refused(atlas, templates, tmp_path) -> None:
    atlas.save(tmp_path / "atlas.h5")
    whole = (tmp_path / "atlas.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    templates[0].embedding.save(tmp_path / "embedding.h5")
    for name in ("half.h5", "embedding.h5", "missing.h5"):
        with pytest.raises(InputError, match=name):
            LandmarkAtlas.load(tmp_path / name)


def test_an_atlas_of_another_model_is_refused(atlas, templates) -> None:
    other = samreg.embed(make_phantom(0, spacing=8.0).image, model="mind")
    with pytest.raises(InputError, match="landmark atlas is of the model ct-small"):
        find_landmarks(other, atlas=atlas)
    with pytest.raises(InputError, match=r"embedded by mind, for which samreg has no landmark atlas"):
        find_landmarks(other)


def test_an_atlas_that_cannot_be_used_is_refused_before_the_image_is_embedded(tmp_path, atlas, monkeypatch) -> None:
    image = make_phantom(0, spacing=8.0).image
    monkeypatch.setattr(find, "embedded", lambda *_: pytest.fail("embedded"))
    with pytest.raises(InputError, match=r"none\.h5"):
        find_landmarks(image, atlas=tmp_path / "none.h5")
    with pytest.raises(InputError, match="landmark atlas is of the model ct-small"):
        find_landmarks(image, atlas=atlas, model="mind")
    with pytest.raises(InputError, match="no landmark atlas"):
        find_landmarks(image, model="mind")


def test_an_image_of_another_contrast_is_told_that_landmarks_are_those_of_ct(monkeypatch) -> None:
    """It was told that any-small embedded it and has no atlas, not why, nor what to do of a CT without intercept."""
    monkeypatch.setattr(find, "embedded", lambda *_: pytest.fail("embedded"))
    ct = make_phantom(3, spacing=8.0).image
    image = samreg.Image(ct.array + 1100, ct.grid, "patient/mr.nii.gz")
    told = (
        r"mr\.nii\.gz: the intensities are not Hounsfield .* rescale slope .*samreg landmarks build --model any-small"
    )
    with pytest.raises(InputError, match=told):
        find_landmarks(image)


def test_one_person_or_two_of_one_name_are_no_atlas(templates) -> None:
    with pytest.raises(InputError, match="at least 2"):
        build_landmark_atlas(templates[:1])
    with pytest.raises(InputError, match="name of its own"):
        build_landmark_atlas([templates[0], templates[0]])


def test_people_are_left_out_by_their_names() -> None:
    atlas = LandmarkAtlas.load(ATLASES / "ct-small.h5")
    first, last = atlas.people[0], atlas.people[-1]
    others = atlas.without_people([last, "NOBODY", first])
    assert others.people == atlas.people[1:-1]
    kept = [atlas.names.index(name) for name in others.names]
    np.testing.assert_array_equal(others.positions, atlas.positions[1:-1, kept])
    left = [row for row in atlas.rows.tolist() if row[0] not in (0, len(atlas.people) - 1)]
    assert len(others.around.vectors) == len(left)
    assert atlas.without_people(["NOBODY"]) is atlas


def test_the_atlas_that_is_shipped_fits_the_model_that_is_shipped() -> None:
    shipped = LandmarkAtlas.load(ATLASES / "ct-small.h5")
    assert shipped.model == samreg.load_model("ct-small").identity
    assert {"vertebra_T5", "left_glenoid", "aortic_valve", "pubic_symphysis"} <= set(shipped.names)
    assert np.nanmedian(shipped.errors) < 6


def test_commands(tmp_path, templates) -> None:
    phantoms = [make_phantom(i, spacing=8.0, field_of_view=(-40.0, 40.0)) for i in range(3)]
    rows = [("subject", "landmark", "x", "y", "z")]
    for i, phantom in enumerate(phantoms):
        samreg.write_image(phantom.image, tmp_path / "set" / "images" / f"P{i}.nii.gz")
        if i < 2:
            positions = phantom.landmarks.positions.tolist()
            rows += [(f"P{i}", name, *p) for name, p in zip(phantom.landmarks.names, positions, strict=True)]
    with (tmp_path / "set" / "landmarks.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    run = CliRunner().invoke
    built = run(app, ["landmarks", "build", str(tmp_path / "set"), "-o", str(tmp_path / "atlas.h5"), "-q"])
    assert built.exit_code == 0, built.output
    scan, out, page = tmp_path / "set" / "images" / "P2.nii.gz", tmp_path / "out.csv", tmp_path / "page.html"
    options = ["--atlas", str(tmp_path / "atlas.h5"), "-o", str(out), "--unsure", "--report", str(page)]
    result = run(app, ["landmarks", str(scan), *options])
    assert result.exit_code == 0, result.output
    assert "landmarks found" in result.output
    assert len(samreg.read_points(out)) > 5
    assert "data:image" in page.read_text()
    refused = run(app, ["landmarks", str(scan), "-o", str(tmp_path / "out.txt.gz")])
    assert refused.exit_code == 2
    assert "out.txt.gz" in refused.output


def test_a_mirrored_scan_is_said_to_be_and_the_right_way_round_nothing() -> None:
    """Landmarks were named in a mirrored scan as if nothing were wrong, left for right."""
    image = make_phantom(2, spacing=8.0).image
    assert not any("mirrored" in note for note in find_landmarks(image).notes)
    assert find_landmarks(mirror_image(image)).notes[-1].startswith("the image looks mirrored")
    # turned about the front-back axis, nothing is mirrored, and to mirror it would be wrong
    turned = turned_image(image, np.diag([-1.0, 1.0, -1.0]), image.grid.center)
    notes = find_landmarks(turned).notes
    assert any("little of the image looks as in the atlas's people" in note for note in notes)
    assert not any("mirrored" in note for note in notes)


def test_laterality_asks_nothing_of_a_model_without_an_atlas() -> None:
    embedding = samreg.embed(make_phantom(2, spacing=8.0).image, model="mind")
    assert laterality(embedding, embedding) == 0.0

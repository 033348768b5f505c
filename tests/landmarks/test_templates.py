"""Templates vote: phantoms whose landmarks are exact, and what goes wrong in folders."""

from __future__ import annotations

import csv
import importlib
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Picture

import samreg
from samreg.errors import InputError
from samreg.landmarks.folder import _write
from samreg.landmarks.match import LandmarkMatches
from samreg.landmarks.templates import Template, combined
from samreg.matching import ExpectedError
from samreg.phantoms.phantom import Phantom, make_phantom

pytestmark = pytest.mark.usefixtures("embeddings_kept")

MICROMETRE = 1e-3  # mm


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(i, spacing=5.0, field_of_view=(-95.0, 80.0)) for i in range(4)]


@pytest.fixture(scope="module")
def folder(phantoms, tmp_path_factory) -> Path:
    """Templates 0 to 2 as images/ and landmarks.csv; beside/ holds them with a file each; targets/ has number 3."""
    folder = tmp_path_factory.mktemp("set")
    rows = []
    for phantom, suffix in zip(phantoms[:3], (".csv", ".mrk.json", ".fcsv"), strict=True):
        name = phantom.image.name
        samreg.write_image(phantom.image, folder / "images" / f"{name}.nii.gz")
        samreg.write_image(phantom.image, folder / "beside" / f"{name}.nii.gz")
        samreg.write_points(phantom.landmarks, folder / "beside" / f"{name}{suffix}")
        rows += [
            (name, n, *p) for n, p in zip(phantom.landmarks.names, phantom.landmarks.positions.tolist(), strict=True)
        ]
    with (folder / "landmarks.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("subject", "landmark", "x", "y", "z"), *rows])
    samreg.write_image(phantoms[3].image, folder / "targets" / "phantom-003.nii.gz")
    return folder


@pytest.fixture(scope="module")
def templates(folder) -> tuple[Template, ...]:
    return samreg.read_templates(folder, cache=folder / "cache")


@pytest.fixture(scope="module")
def target(folder) -> samreg.Embedding:
    """Number 3 as its file has it: its header rounds places, which bfloat16 makes 0.1 mm of."""
    return samreg.embed(folder / "targets" / "phantom-003.nii.gz")


@pytest.fixture(scope="module")
def together(templates, target) -> samreg.TemplateMatches:
    return samreg.match_set(templates, target)


def errors(found: samreg.TemplateMatches, phantom: Phantom) -> np.ndarray:
    shared = [name for name in found.names if name in phantom.landmarks.names]
    truth = phantom.landmarks.named(shared).positions
    return np.linalg.norm(found.to_points().named(shared).positions - truth, axis=1)


def test_a_set_is_nearer_than_its_templates_alone(templates, phantoms, target, together):
    alone = np.concatenate([errors(samreg.match_set([template], target), phantoms[3]) for template in templates])
    assert errors(together, phantoms[3]).mean() < 0.9 * alone.mean()
    assert errors(together, phantoms[3]).max() < 12
    assert together.reliability.min() >= 0
    assert together.reliability.max() <= 1


def test_one_template_says_what_match_says(templates, target):
    found = samreg.match_set(templates[:1], target)
    plain = samreg.match(templates[0].embedding, templates[0].points, target)
    np.testing.assert_allclose(found.points, plain.points, atol=1e-9)
    np.testing.assert_allclose(found.reliability, plain.reliability)
    assert found.names == plain.names
    assert (found.spread < 1e-9).all()


def answer(points: list[list[float]], names: tuple[str, ...], reliability: list[float]) -> LandmarkMatches:
    n = len(points)
    zero = np.zeros(n)
    return LandmarkMatches(np.array(points, float), names, zero, np.array(reliability), zero, zero, np.ones(n, bool))


def test_a_mirrored_target_is_said_to_be_and_what_was_decided_in_reading_it(templates, phantoms, monkeypatch, tmp_path):
    """The landmarks of a mirrored scan were found on the wrong side, and nothing was said."""
    module = importlib.import_module("samreg.landmarks.laterality")
    asked = []

    def mirrored(images, embeddings, fit, network, device):
        asked.append([image.label for image in images])
        return "visit 2 looks mirrored"

    monkeypatch.setattr(module, "why_mirrored", mirrored)
    target = replace(phantoms[3].image, name="visit 2", remarks=("the spacing was guessed",))
    found = samreg.match_set(templates[:2], target)
    assert found.notes[0] == "the spacing was guessed"
    assert found.notes[1] == "visit 2 looks mirrored; until then left is found for right"
    assert asked in (
        [["template phantom-000", "visit 2"]],
        [["template phantom-001", "visit 2"]],
    )  # one of them is asked
    _write(found, "visit 2", tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8").splitlines() == list(found.notes)


def test_votes_follow_the_majority_and_the_reliable():
    answers = {
        "a": answer([[0, 0, 0], [0, 0, 0]], ("tip", "notch"), [0.8, 0.99]),
        "b": answer([[1, 0, 0], [50, 0, 0]], ("tip", "notch"), [0.8, 0.30]),
        "c": answer([[90, 0, 0], [7, 7, 7]], ("tip", "apex"), [0.8, 0.60]),
    }
    found = combined(answers)
    assert found.names == ("tip", "notch", "apex")
    assert found.templates.tolist() == [3, 2, 1]
    assert np.linalg.norm(found.points[0]) < 4  # two of three agree
    assert np.linalg.norm(found.points[1]) < 2  # the reliable one outweighs
    np.testing.assert_allclose(found.points[2], [7, 7, 7])
    np.testing.assert_allclose(found.reliability, [2 * 0.8 / 3, 0.99 / 2, 0.6])


def test_the_error_of_an_agreed_place_is_told_by_what_is_expected_of_the_answers_and_how_they_agree():
    def told(error, x, is_inside=True):
        one = answer([[x, 0, 0]], ("tip",), [0.5])
        return replace(one, expected_error=np.array([error]), inside=np.array([is_inside]))

    expected = ExpectedError(bias=0.1, cycle=1.0, spread=0.5)
    near = combined({"a": told(20.0, 0), "b": told(30.0, 2), "c": told(25.0, 4)}, expected=expected)
    assert near.expected_error == pytest.approx(expected([25.0], near.spread))
    apart = combined({"a": told(20.0, 0), "b": told(30.0, 60), "c": told(25.0, 90)}, expected=expected)
    assert near.expected_error < apart.expected_error
    assert combined({"a": told(20.0, 0)}, expected=expected).expected_error.tolist() == [20.0], "one alone"
    beyond = combined({"a": told(70.0, 0, False), "b": told(90.0, 2, False)}, expected=expected)
    assert beyond.expected_error.tolist() == [80.0], "outside the image the answers know how far"
    without = combined({"a": told(20.0, 0), "b": told(30.0, 2)})
    assert without.expected_error.tolist() == [25.0], "models without a fit for several"
    unknown = combined({"a": told(np.nan, 0), "b": told(np.nan, 2)}, expected=expected)
    assert np.isnan(unknown.expected_error).all()
    assert unknown.error_column() == {}


def test_both_forms_of_a_set_are_the_same_to_a_micrometre(templates, folder, phantoms):
    beside = samreg.read_templates(folder / "beside")
    for one, other, phantom in zip(templates, beside, phantoms, strict=False):
        assert one.name == other.name == phantom.image.name
        assert one.points.names == other.points.names
        for points in (one.points, other.points):
            assert np.abs(points.positions - phantom.landmarks.positions).max() < MICROMETRE


@given(
    positions=arrays(float, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-2e3, 2e3)),
    frame=st.sampled_from(["LPS", "RAS"]),
)
def test_points_pass_through_files_within_a_micrometre(tmp_path_factory, positions, frame):
    folder = tmp_path_factory.mktemp("points")
    points = samreg.Points(positions, scores=np.linspace(0, 1, len(positions)))
    for suffix in (".csv", ".mrk.json", ".fcsv"):
        path = folder / f"p{suffix}"
        samreg.write_points(points, path)
        if suffix == ".mrk.json" and frame == "RAS":  # as Slicer 5 may be set to save
            text = path.read_text().replace('"LPS"', '"RAS"')
            path.write_text(text)
            assert np.abs(samreg.read_points(path).positions - positions * [-1, -1, 1]).max() < MICROMETRE
            continue
        again = samreg.read_points(path)
        assert np.abs(again.positions - positions).max() < MICROMETRE
        np.testing.assert_array_equal(again.scores, points.scores)


def test_a_folder_of_targets_is_resumable_and_records_what_fails(templates, folder, together, monkeypatch):
    out = folder / "out"
    cut = folder / "targets" / "cut.nii.gz"
    cut.write_bytes((folder / "targets" / "phantom-003.nii.gz").read_bytes()[:3000])
    outcomes = samreg.match_folder(folder, folder / "targets", out, cache=folder / "cache")
    assert {o.name: o.status for o in outcomes} == {"cut": "failed", "phantom-003": "done"}
    assert "cut.nii.gz" in outcomes[0].reason
    for path in (
        out / "phantom-003" / "landmarks.csv",
        out / "phantom-003" / "landmarks.mrk.json",
        out / "landmarks.csv",
    ):
        points = samreg.read_points(path)
        assert points.names == together.names
        assert np.abs(points.positions - together.points).max() < MICROMETRE
        np.testing.assert_allclose(points.scores, together.reliability)
    with (out / "phantom-003" / "templates.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == sum(len(t.points) for t in templates)
    with (out / "landmarks.csv").open(newline="") as file:
        told = [float(row["expected_error_mm"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(told, together.expected_error)

    matched: list[str] = []

    def canned(known: object, target: Path, **_: object) -> samreg.TemplateMatches:
        matched.append(Path(target).name)
        return together

    monkeypatch.setattr("samreg.landmarks.folder.match_set", canned)
    cut.write_bytes((folder / "targets" / "phantom-003.nii.gz").read_bytes())
    outcomes = samreg.match_folder(folder, folder / "targets", out, cache=folder / "cache")
    assert {o.name: o.status for o in outcomes} == {"cut": "done", "phantom-003": "kept"}
    assert matched == ["cut.nii.gz"]
    again = samreg.match_folder(folder, folder / "targets", out, cache=folder / "cache", seed=1)
    assert {o.status for o in again} == {"done"}  # other options, other results
    table = [samreg.read_points(out / "landmarks.csv", subject=name) for name in ("cut", "phantom-003")]
    np.testing.assert_array_equal(table[0].positions, table[1].positions)
    monkeypatch.setattr("samreg.steps._version", lambda package: "of tomorrow")
    anew = samreg.match_folder(folder, folder / "targets", out, cache=folder / "cache", seed=1)
    assert {o.status for o in anew} == {"done"}  # what another version made is made again


def test_corrected_landmarks_are_matched_in_the_same_process(folder, templates, together, tmp_path, monkeypatch):
    shutil.copytree(folder / "images", tmp_path / "images")
    text = (folder / "landmarks.csv").read_text()
    x = np.format_float_positional(templates[0].points.positions[0, 0])
    matched: list[float] = []

    def canned(known: tuple[Template, ...], target: Path, **_: object) -> samreg.TemplateMatches:
        matched.append(known[0].points.positions[0, 0])
        return together

    monkeypatch.setattr("samreg.landmarks.folder.match_set", canned)
    for table in (text, text.replace(x, "1.5", 1)):
        (tmp_path / "landmarks.csv").write_text(table)
        samreg.match_folder(tmp_path, folder / "targets" / "phantom-003.nii.gz", tmp_path / "o", cache=folder / "cache")
    assert matched == [templates[0].points.positions[0, 0], 1.5]


def test_a_table_of_a_spreadsheet_makes_the_same_set(folder, templates, tmp_path):
    shutil.copytree(folder / "images", tmp_path / "images")
    rows = (folder / "landmarks.csv").read_text().replace(",", ";").replace(".", ",").splitlines()
    rows[0] = "Patient;Label;X (mm);Y (mm);Z (mm)"
    (tmp_path / "landmarks.csv").write_text("\r\n".join(rows), encoding="utf-16")
    again = samreg.read_templates(tmp_path, cache=folder / "cache")
    for one, other in zip(templates, again, strict=True):
        assert (one.name, one.points.names) == (other.name, other.points.names)
        assert np.array_equal(one.points.positions, other.points.positions)


def test_flat_templates_are_embedded_by_the_flat_model(tmp_path):
    texture = np.random.default_rng(0).normal(100, 30, (128, 128)).astype(np.float32)
    samreg.write_image(samreg.Image.from_array(texture, spacing=(0.6, 0.6)), tmp_path / "a.nii.gz")
    (tmp_path / "a.csv").write_text("name,x,y\ntip,30,30\n")
    (template,) = samreg.read_templates(tmp_path)
    assert template.embedding.model.startswith("xray-ceph@")


def test_pictures_of_a_folder_are_templates_and_targets_at_the_pixel_size_given(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("set/images/a.png", "set/images/b.png", "targets/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(rng.integers(0, 255, (96, 96), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "set" / "landmarks.csv").write_text("subject,landmark,x,y\na,tip,30,30\nb,tip,40,30\n")
    with pytest.raises(InputError, match="--pixel-size"):  # the files say none
        samreg.read_templates(tmp_path / "set")
    templates = samreg.read_templates(tmp_path / "set", pixel_size=0.5)
    assert [template.embedding.image_grid.spacing.tolist() for template in templates] == [[0.5, 0.5]] * 2
    assert samreg.build_landmark_atlas(tmp_path / "set", pixel_size=0.5).people == ("a", "b")
    call = partial(samreg.match_folder, tmp_path / "set", tmp_path / "targets", tmp_path / "out")
    assert [outcome.status for outcome in call(pixel_size=0.5)] == ["done"]
    assert [outcome.status for outcome in call(pixel_size=0.5)] == ["kept"]
    assert [outcome.status for outcome in call(pixel_size=0.6)] == ["done"]


def test_folders_that_are_no_set_are_refused(folder, tmp_path, phantoms):
    with pytest.raises(InputError, match="no landmarks"):
        samreg.read_templates(folder / "images")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii.gz").touch()
    (tmp_path / "landmarks.csv").write_text("subject,landmark,x,y,z\nb,tip,0,0,0\n")
    with pytest.raises(InputError, match=r"no image for the subjects \['b'\]"):
        samreg.read_templates(tmp_path)
    (tmp_path / "landmarks.csv").write_text("name,x,y,z\ntip,0,0,0\n")
    with pytest.raises(InputError, match="no column subject"):
        samreg.read_templates(tmp_path)
    with pytest.raises(InputError, match="at least one"):
        samreg.match_set((), phantoms[0].image)


@pytest.mark.parametrize("given", ["MR", "CT"])
def test_a_target_of_another_contrast_than_the_templates_is_refused_with_the_model_for_both(given, monkeypatch):
    """It was embedded first, and then both were to be embedded "with one model", whichever that may be."""
    monkeypatch.setattr("samreg.landmarks.templates.embedded", None)  # nothing is
    hu = np.random.default_rng(0).normal(0, 300, (8, 8, 8)).astype(np.float32)
    target = samreg.Image.from_array(hu if given == "CT" else hu + 2000, spacing=8, name=given)
    embedding = samreg.embed(samreg.Image.from_array(hu, spacing=8), model="mind")
    own = samreg.load_model("any-small" if given == "CT" else "ct-small").identity
    template = Template("ALICE", replace(embedding, model=own), samreg.Points([[30.0, 30.0, 30.0]], ("carina",)))
    with pytest.raises(InputError, match=rf'ALICE is embedded by.*, and {given} would be.*model="any-small"'):
        samreg.match_set([template], target)


def test_names_that_occur_twice_are_refused(templates):
    with pytest.raises(InputError, match="more than once"):
        Template("t", templates[0].embedding, samreg.Points(templates[0].points.positions[:2], ("tip", "tip")))

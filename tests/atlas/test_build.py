"""Atlases of phantoms, whose landmarks are exact; and of tiny images: a broken input, a full disk."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import samreg
from samreg.atlas import Atlas, Average, api, body_of, mean_affine, sharpness
from samreg.atlas.api import _default_model
from samreg.cli import app
from samreg.embedding.mind import MindModel
from samreg.errors import InputError
from samreg.phantoms.phantom import make_phantom
from samreg.spatial.transforms import AffineTransform, components

pytestmark = pytest.mark.usefixtures("embeddings_kept")

SPACING = 9.0  # mm
ENGINE_OPTIONS = {"levels": (9.0,), "iterations": (20,), "search_radius": 36.0}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def spread(atlas: Atlas) -> float:
    return float(np.mean([float(row["spread_mm"]) for row in table(atlas.folder / "template_landmarks.csv")]))


@pytest.fixture(scope="module")
def population(tmp_path_factory) -> Path:
    """Three phantoms with labels and landmarks."""
    folder = tmp_path_factory.mktemp("population")
    rows = [("subject", "landmark", "x", "y", "z")]
    for phantom in (make_phantom(i, spacing=SPACING, field_of_view=(-50.0, 40.0)) for i in range(3)):
        name, points = phantom.image.name, phantom.landmarks
        samreg.write_image(phantom.image, folder / "images" / f"{name}.nii.gz")
        samreg.write_image(phantom.labels, folder / "labels" / f"{name}.nii.gz")
        rows += [(name, n, *p) for n, p in zip(points.names, points.positions.tolist(), strict=True)]
    with (folder / "landmarks.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def test_subjects_share_the_processors_that_the_process_may_use(population, tmp_path, monkeypatch):
    def options(**given):
        raise InputError(f"{given['threads']} threads")

    monkeypatch.setattr(api, "available_cpus", lambda: 6)
    monkeypatch.setattr(api, "RegistrationOptions", options)
    with pytest.raises(InputError, match="3 threads"):
        samreg.build_atlas(population / "images", tmp_path / "out", jobs=2)
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        samreg.build_atlas(population / "images", tmp_path / "out", device="gpu")


def build(population: Path, out: str, iterations: int) -> Atlas:
    return samreg.build_atlas(
        population / "images", population / out, labels=population / "labels", landmarks=population / "landmarks.csv",
        iterations=iterations, engine_options=ENGINE_OPTIONS, spacing=SPACING,
    )  # fmt: skip


@pytest.fixture(scope="module")
def affine_only(population) -> Atlas:
    found = build(population, "atlas", 0)
    return replace(found, folder=Path(shutil.copytree(found.folder, population / "affine")))


@pytest.fixture(scope="module")
def atlas(population, affine_only) -> Atlas:
    return build(population, "atlas", 1)


def test_landmarks_and_labels_lie_closer_than_in_an_affine_template(affine_only, atlas):
    assert spread(atlas) < 0.6 * spread(affine_only)
    overlaps = [
        np.mean([float(row["mean_dice_with_majority"]) for row in table(a.folder / "labels" / "dice.csv")])
        for a in (affine_only, atlas)
    ]
    assert overlaps[1] > overlaps[0] + 0.05


def test_the_template_is_sharper_and_its_subjects_more_alike(affine_only, atlas):
    parts = [Average(a.mean, a.variance, samreg.read_image(a.folder / "coverage.nii.gz")) for a in (affine_only, atlas)]
    inside = body_of(parts[0]) & body_of(parts[1])
    before, after = (sharpness(part.mean, inside) for part in parts)
    assert after > 1.03 * before
    assert atlas.convergence[1].deviation < 0.6 * atlas.convergence[0].deviation
    assert atlas.convergence[1].residual_mm > 0


def test_transforms_lead_to_the_subjects_and_back(atlas, population):
    grid = atlas.template.grid
    points = grid.center + np.random.default_rng(0).uniform(-0.3, 0.3, (2000, 3)) * grid.extent
    for name in atlas.names:
        there = atlas.transform(name).transform_points(points)
        back = np.linalg.norm(atlas.inverse(name).transform_points(there) - points, axis=1)
        assert np.percentile(back, 95) < 0.5
        image = samreg.read_image(population / "images" / f"{name}.nii.gz")
        again = samreg.spatial.resample(image, grid, transform=atlas.transform(name))
        warped = samreg.read_image(atlas.folder / "subjects" / name / "warped.nii.gz")
        assert np.abs(again.array - warped.array).max() <= 1


def test_the_affine_template_is_no_nearer_to_one_subject(affine_only):
    affines = [components(affine_only.transform(name))[-1] for name in affine_only.names]
    mean = mean_affine([affine for affine in affines if isinstance(affine, AffineTransform)])
    np.testing.assert_allclose(mean.matrix, np.eye(3), atol=1e-6)


def test_everything_is_written(atlas):
    names = {path.name for path in atlas.folder.iterdir()}
    assert names >= {
        *("template.nii.gz", "mean.nii.gz", "variance.nii.gz", "coverage.nii.gz", "convergence.csv", "summary.csv"),
        *("landmarks.csv", "template_landmarks.csv", "template_landmarks.mrk.json", "labels", "subjects"),
    }
    for number in (0, 1):
        folder = atlas.folder / f"iteration-{number}" / "average"
        assert {"template.nii.gz", "mean.nii.gz", "variance.nii.gz", "picture.png"} <= {
            p.name for p in folder.iterdir()
        }
    lung = samreg.read_image(atlas.folder / "labels" / "label-004.nii.gz")
    assert 0.9 < lung.array.max() <= 1
    assert lung.array.min() == 0
    assert [int(row["subjects"]) for row in table(atlas.folder / "convergence.csv")] == [3, 3]


# from here on registrations are canned: what matters is how the steps fare


def canned(fixed, moving, **_):
    """Stand for samreg.register: the images' centres are laid on each other."""
    images = [samreg.as_image(image) for image in (fixed, moving)]
    shift = images[1].grid.center - images[0].grid.center
    return samreg.RegistrationResult(*images, AffineTransform(np.eye(3), shift))


@pytest.fixture
def images(tmp_path, monkeypatch) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path / "images"
    for i, name in enumerate("abcd"):
        array = random.normal(0, 100, (12, 13, 14)).astype(np.int16)
        samreg.write_image(
            samreg.Image.from_array(array, origin=(10 * i, 0, 0), spacing=(4, 4, 4)), folder / f"{name}.nii"
        )
    monkeypatch.setattr("samreg.registration.register", canned)
    monkeypatch.setattr("samreg.atlas.steps.write_template_picture", lambda *parts: parts[-1].touch())  # slow to draw
    return folder


CALL = {"method": "registration", "engine": "ants", "iterations": 2, "spacing": 4.0}


def make(images: Path, **changes: object) -> Atlas:
    return samreg.build_atlas(images, images.parent / "out", **{**CALL, **changes})


def steps(images: Path) -> dict[str, str]:
    """Return when each step was finished, by its folder."""
    out = images.parent / "out"
    return {str(path.parent.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("done.json")}


def test_a_second_run_keeps_everything_and_another_option_little(images):
    first = make(images)
    before = steps(images)
    assert len(before) == 4 * (1 + 1 + 2 + 1) + 3
    make(images)
    assert steps(images) == before
    changed = make(images, spacing=5.0)
    after = steps(images)
    assert {name for name in after if after[name] == before[name]} == {f"inputs/{name}" for name in "abcd"}
    assert changed.template.spacing[0] == 5
    assert first.names == tuple("abcd")


def test_each_subject_and_each_template_is_embedded_once(images, monkeypatch):
    embedded = []

    def embed(self, image, **options):
        embedded.append(Path(image.name).name.partition(".")[0])
        return whole(self, image, **options)

    def register(fixed, moving, *, model, **_):
        for image in (fixed, moving):
            model.embed_on_device(image)
        return canned(fixed, moving)

    def seeded(reference, subject, _):
        return AffineTransform(np.eye(3), subject.image_grid.center - reference.image_grid.center)

    whole = MindModel.embed
    monkeypatch.setattr(MindModel, "embed", embed)
    monkeypatch.setattr("samreg.registration.register", register)
    monkeypatch.setattr("samreg.atlas.steps._seeded", seeded)
    atlas = make(images, method="hybrid", engine="torch", model="mind")
    assert atlas.names == tuple("abcd")
    assert sorted(embedded) == [*"abcd", "template", "template"]


def test_a_folder_for_the_results_among_the_images_is_no_subject(images):
    for _ in range(2):
        atlas = samreg.build_atlas(images, images / "out", method="registration", engine="ants", iterations=0)
        assert [outcome.name for outcome in atlas.outcomes] == list("abcd")


def test_one_broken_input_is_named_and_left_out(images):
    whole = (images / "b.nii").read_bytes()
    (images / "b.nii").write_bytes(whole[:500])
    atlas = make(images)
    assert atlas.names == ("a", "c", "d")
    rows = {row["name"]: row for row in table(atlas.folder / "summary.csv")}
    assert {name: row["status"] for name, row in rows.items()} == {"a": "done", "b": "failed", "c": "done", "d": "done"}
    assert "b.nii" in rows["b"]["reason"]
    assert samreg.read_image(atlas.folder / "coverage.nii.gz").array.max() == 3
    (images / "b.nii").write_bytes(whole)
    assert make(images).names == tuple("abcd")


def test_a_subject_that_cannot_be_registered_is_left_out_of_the_average(images, monkeypatch):
    def fails(fixed, moving, **options):
        images = [samreg.as_image(image) for image in (fixed, moving)]
        if images[1].name.endswith("d.nii") and "iteration-1" in images[0].name:
            return samreg.RegistrationResult(*images, None, reason="no overlap")
        return canned(*images, **options)

    monkeypatch.setattr("samreg.registration.register", fails)
    atlas = make(images)
    assert atlas.names == ("a", "b", "c")
    assert [c.subjects for c in atlas.convergence] == [4, 4, 3]
    assert [o.reason for o in atlas.outcomes if not o] == ["not registered: no overlap"]


def test_a_full_disk_stops_with_a_message_and_the_next_run_goes_on_to_the_same_template(images, tmp_path, monkeypatch):
    from samreg.atlas import steps as module

    write = module.write_image

    def full(image: object, path: Path) -> None:
        if "iteration-1" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(image, path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_image", full)
        with pytest.raises(InputError, match=r"No space left.*make room"):
            make(images)
    before = steps(images)
    assert "iteration-1/subjects/d" in before
    assert "iteration-1/average" not in before
    resumed = make(images)
    after = steps(images)
    assert {name: after[name] for name in before} == before
    whole = samreg.build_atlas(images, tmp_path / "whole", **CALL)
    np.testing.assert_array_equal(resumed.template.array, whole.template.array)


def test_one_subject_is_no_atlas(images):
    for name in "bcd":
        (images / f"{name}.nii").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"1 of 4 subjects are left.*b\.nii"):
        make(images)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"iterations": -1}, "iterations"),
        ({"jobs": 0}, "jobs"),
        ({"reference": "z"}, "unknown reference 'z'; choose one of a, b, c, d"),
        ({"engine": object()}, "by its name"),
        ({"engine": "anst"}, "unknown engine 'anst'"),
        ({"method": "hybird"}, "unknown method 'hybird'"),
        ({"spacing": 0}, "spacing"),
        ({"iterations": 1.5}, "iterations"),
    ],
)
def test_bad_options_are_refused(images, changes, says):
    with pytest.raises(InputError, match=says):
        make(images, **changes)


def test_only_what_the_last_call_gave_is_left(images, tmp_path):
    for name in "abcd":
        array = (samreg.read_image(images / f"{name}.nii").array > 0).astype(np.uint8)
        image = samreg.read_image(images / f"{name}.nii").with_array(array)
        samreg.write_image(image, tmp_path / "labels" / f"{name}.nii")
    rows = [f"{name},tip,{10 * i + 8},20,20" for i, name in enumerate("abcd")]
    (tmp_path / "points.csv").write_text("\n".join(["subject,landmark,x,y,z", *rows]))
    make(images, iterations=0, labels=tmp_path / "labels", landmarks=tmp_path / "points.csv")
    out = tmp_path / "out"
    (out / "subjects" / "mine").mkdir()
    assert {"labels", "landmarks.csv", "template_landmarks.csv"} <= {path.name for path in out.iterdir()}
    (images / "d.nii").unlink()
    make(images, iterations=0)
    assert {path.name for path in (out / "subjects").iterdir()} == {*"abc", "mine"}
    assert {path.name for path in out.iterdir()} == {
        "template.nii.gz", "mean.nii.gz", "variance.nii.gz", "coverage.nii.gz", "convergence.csv", "summary.csv",
        "inputs", "start", "subjects", "iteration-0",
    }  # fmt: skip


def test_landmarks_outside_and_odd_labels_are_refused_before_the_iterations(images, tmp_path):
    (tmp_path / "points.csv").write_text("subject,landmark,x,y,z\na,tip,900,0,0\n")
    with pytest.raises(InputError, match=r"outside the image a \(.*points.csv"):
        make(images, landmarks=tmp_path / "points.csv")
    image = samreg.read_image(images / "a.nii")
    for value in (1.5, 40000.0, np.nan):
        samreg.write_image(image.with_array(np.full(image.shape, value, np.float32)), tmp_path / "labels" / "a.nii")
        with pytest.raises(InputError, match=r"a\.nii is no label map"):
            make(images, labels=tmp_path / "labels")
    assert not (tmp_path / "out" / "iteration-0").exists()


def test_given_landmarks_are_not_overwritten(images):
    (images.parent / "out").mkdir()
    table = images.parent / "out" / "landmarks.csv"
    table.write_text("subject,landmark,x,y,z\na,tip,8,20,20\n")
    with pytest.raises(InputError, match="would be overwritten"):
        make(images, iterations=0, landmarks=table)


def test_options_of_an_engine_come_as_to_register(images):
    @dataclass
    class Options:
        iterations: int = 3

    make(images, iterations=1, engine_options=Options())
    done = json.loads((images.parent / "out/iteration-1/subjects/a/done.json").read_text())
    assert done["inputs"]["engine_options"] == {"iterations": 3}


def test_flat_images_are_embedded_by_the_flat_model(tmp_path):
    texture = np.random.default_rng(0).normal(100, 30, (64, 64)).astype(np.float32)
    for name in ("b", "c"):
        samreg.write_image(samreg.Image.from_array(texture, spacing=(0.6, 0.6)), tmp_path / f"{name}.nii.gz")
    (tmp_path / "a.nii.gz").write_bytes(b"cut")
    paths = {path.name: path for path in sorted(tmp_path.iterdir())}
    assert _default_model(paths) == "xray-ceph"


def test_images_without_hounsfield_units_are_embedded_by_the_model_for_any_contrast(tmp_path, caplog):
    array = np.linspace(-1000, 1000, 64, dtype=np.float32).reshape(4, 4, 4)
    files = {"CT": tmp_path / "CT.nii.gz", "MR": tmp_path / "MR.nii.gz", "BROKEN": tmp_path / "BROKEN.nii.gz"}
    samreg.write_image(samreg.Image.from_array(array, spacing=4), files["CT"])
    samreg.write_image(samreg.Image.from_array(array + 1000, spacing=4), files["MR"])
    files["BROKEN"].write_bytes(b"no image")
    assert _default_model({name: files[name] for name in ("BROKEN", "CT")}) == "ct-small"
    assert not caplog.messages
    assert _default_model({name: files[name] for name in ("BROKEN", "CT", "MR")}) == "any-small"
    assert any("MR.nii.gz" in text and "not Hounsfield units" in text for text in caplog.messages)


def test_labels_of_other_names_are_refused(images, tmp_path):
    samreg.write_image(samreg.read_image(images / "a.nii"), tmp_path / "labels" / "z.nii")
    with pytest.raises(InputError, match="no labels"):
        make(images, labels=tmp_path / "labels")


def test_labels_and_landmarks_without_an_image_are_named(images, tmp_path, caplog):
    """A misspelt subject had no labels in the template, and nothing said so."""
    for name in ("a", "b_seg"):
        samreg.write_image(samreg.read_image(images / "a.nii"), tmp_path / "labels" / f"{name}.nii")
    (tmp_path / "points.csv").write_text("subject,landmark,x,y,z\nb,tip,1,2,3\nB,tip,1,2,3\n")
    options = api.RegistrationOptions("registration", None, {}, None, 0, 9.0, "cpu", 1)
    given = {name: images / f"{name}.nii" for name in "ab"}
    known = api._subjects(
        given, api.AtlasFolder(tmp_path / "out"), options, tmp_path / "labels", tmp_path / "points.csv"
    )
    assert (known.labels.keys() & given.keys(), known.landmarks.keys() & given.keys()) == ({"a"}, {"b"})
    told = [re.search(r"^(labels|landmarks) in .* left out: (.*)$", text).groups() for text in caplog.messages]
    assert told == [("labels", "b_seg"), ("landmarks", "B")]


def test_the_command_names_what_failed(images, tmp_path):
    (images / "b.nii").write_bytes(b"cut")
    call = ["atlas", str(images), "-o", str(tmp_path / "out"), "--method", "registration", "--iterations", "1"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 1, done.output
    assert "b.nii" in done.output
    assert "convergence" in done.output
    assert json.loads((tmp_path / "out/iteration-1/average/convergence.json").read_text())["subjects"] == 3


@pytest.mark.parametrize("name", ["template.nii.gz", "landmarks.csv", "convergence.csv", "summary.csv"])
def test_ones_own_files_are_not_replaced(images, name):
    (images.parent / "out").mkdir()
    mine = images.parent / "out" / name
    mine.write_text("mine\n")
    with pytest.raises(InputError, match=rf"{name} would be replaced"):
        make(images, iterations=0)
    assert mine.read_text() == "mine\n"

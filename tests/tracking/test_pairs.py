"""Many pairs in one run: annotations read, one broken pair, a full disk; nothing lost, and it goes on."""

from __future__ import annotations

import csv
import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import samreg
import samreg.tracking.store
from samreg.cli import app
from samreg.errors import InputError
from samreg.phantoms import write_dicom_series
from samreg.spatial import AffineTransform
from samreg.tracking import (
    LesionPair,
    LesionTracks,
    TrackedLesion,
    VoxelLesions,
    as_lesions,
    read_dlt,
    read_pairs,
    track_pairs,
)

pytestmark = pytest.mark.usefixtures("embeddings_kept")


def canned(baseline, followup, lesions, **_):
    """Stand for samreg.track where a run of many is the matter: each lesion is found 1 mm off along each axis."""
    points = as_lesions(lesions, baseline.grid).points
    rows = tuple(
        TrackedLesion(name, place, place + 1.0, 0.9, 0.8, 1.0, 2.0, True, None, None, None, "not tried")
        for name, place in zip(points.names, points.positions, strict=True)
    )
    return LesionTracks(rows, baseline, followup, AffineTransform.identity(3))


@pytest.fixture
def pairs(tmp_path) -> tuple[LesionPair, ...]:
    """Three pairs of tiny images, as files, with a csv that lists them."""
    image = samreg.Image.from_array(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), spacing=(2, 2, 2))
    samreg.write_points(samreg.Points([[4.0, 6.0, 8.0]], ("nodule",)), tmp_path / "lesions.csv")
    samreg.write_points(samreg.Points([[5.0, 7.0, 8.0]], ("nodule",)), tmp_path / "truth.csv")
    rows = [("name", "baseline", "followup", "lesions", "truth")]
    for name in ("a", "b", "c"):
        samreg.write_image(image, tmp_path / f"{name}.nii.gz")
        rows.append((name, f"{name}.nii.gz", f"{name}.nii.gz", "lesions.csv", "truth.csv"))
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return read_pairs(tmp_path / "pairs.csv")


def statuses(outcomes) -> dict[str, str]:
    return {outcome.name: outcome.status for outcome in outcomes}


def test_pairs_are_tracked_and_measured_against_the_truth(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("samreg.tracking.batch.track", canned)
    outcomes, errors = track_pairs(pairs, tmp_path / "out")
    assert statuses(outcomes) == {"a": "done", "b": "done", "c": "done"}
    assert errors.count == 3
    assert (errors.x, errors.y, errors.z) == pytest.approx((0, 0, 1))
    assert statuses(track_pairs(pairs, tmp_path / "out")[0]) == {"a": "kept", "b": "kept", "c": "kept"}


def test_what_another_version_tracked_is_tracked_again(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("samreg.tracking.batch.track", canned)
    track_pairs(pairs[:1], tmp_path / "out")
    monkeypatch.setattr("samreg.steps._version", lambda package: "of tomorrow")
    assert statuses(track_pairs(pairs[:1], tmp_path / "out")[0]) == {"a": "done"}


def test_a_list_of_pairs_from_a_spreadsheet(pairs, tmp_path):
    text = (tmp_path / "pairs.csv").read_text().replace(",", ";")
    (tmp_path / "excel.csv").write_text(f"sep=;\n{text};;;;\n", encoding="utf-16")
    assert list(map(vars, read_pairs(tmp_path / "excel.csv"))) == list(map(vars, pairs))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,baseline,followup\na,a,b\n", r"no columns \['lesions'\]"),
        ("baseline,followup,lesions\na,b,c,d\n", "line 2: 4 cells where the header has 3 columns"),
        ("baseline,followup,lesions\na, ,c\n", "line 2: no followup"),
        ("baseline,followup,lesions,lesions\na,b,c,d\n", "'lesions' occurs twice"),
        ("name,baseline,followup,lesions\n../up,a,b,c\n", "cannot name a folder"),
        ("baseline,followup,lesions\n", "at least one pair"),
        ("baseline,followup,lesions,thruth\na,b,c,d\n", r"unknown columns \['thruth'\]; choose from name, .*, truth$"),
        ("\n\n", "is blank"),
    ],
)
def test_a_list_of_pairs_that_is_none(tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_pairs(tmp_path / "p.csv")


def test_truth_of_other_names_is_named_not_dropped(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("samreg.tracking.batch.track", canned)
    truth = samreg.Points([[5.0, 7.0, 8.0], [5.0, 7.0, 8.0]], ("nodule", "node"))
    samreg.write_points(truth, tmp_path / "truth.csv")
    (outcome,), errors = track_pairs(pairs[:1], tmp_path / "out")
    assert (outcome.status, errors.count) == ("done", 1)
    assert "the truth has 1 more" in (tmp_path / "out" / "a" / "lesions.json").read_text()
    samreg.write_points(samreg.Points([[5.0, 7.0, 8.0]], ("node",)), tmp_path / "truth.csv")
    (outcome,), errors = track_pairs(pairs[:1], tmp_path / "out")
    assert errors is None
    assert "['node']" in outcome.reason
    assert "['nodule']" in outcome.reason
    with pytest.raises(InputError, match="share the names"):
        track_pairs([pairs[0], pairs[0]], tmp_path / "out")


def test_one_broken_pair_is_named_and_stops_no_other(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("samreg.tracking.batch.track", canned)
    whole = pairs[1].followup.read_bytes()
    pairs[1].followup.write_bytes(whole[:100])
    outcomes, errors = track_pairs(pairs, tmp_path / "out")
    assert statuses(outcomes) == {"a": "done", "b": "failed", "c": "done"}
    assert "b.nii.gz" in outcomes[1].reason
    assert errors.count == 2
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["done", "failed", "done"]
    pairs[1].followup.write_bytes(whole)
    assert statuses(track_pairs(pairs, tmp_path / "out")[0]) == {"a": "kept", "b": "done", "c": "kept"}


def test_a_full_disk_stops_with_a_message_and_loses_nothing(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("samreg.tracking.batch.track", canned)
    write, out = samreg.tracking.store.write_points, tmp_path / "out"

    def full(points: object, path: Path, **columns: object) -> None:
        if ".b.part" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(points, path, **columns)

    with monkeypatch.context() as patch:
        patch.setattr("samreg.tracking.store.write_points", full)
        with pytest.raises(InputError, match=r"No space left.*make room"):
            track_pairs(pairs, out)
    assert [path.name for path in out.iterdir()] == ["a"]
    assert statuses(track_pairs(pairs, out)[0]) == {"a": "kept", "b": "done", "c": "done"}


def lesion(**changes: object) -> dict[str, object]:
    return {
        "source": "001_01.nii.gz",
        "target": "001_02.nii.gz",
        "source center": [3, 4, 5],
        "target center": [4, 4, 5],
        "target box": [0, 0, 3, 6, 4, 6],
        **changes,
    }


def write_json(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("wrap", [list, lambda lesions: {"test": lesions}, lambda lesions: dict(enumerate(lesions))])
def test_dlt_annotations_are_grouped_by_pair(tmp_path, wrap):
    (tmp_path / "001_01.nii.gz").touch()
    second = {key.replace(" ", "_"): value for key, value in lesion(**{"source center": [1, 1, 1]}).items()}
    found = read_dlt(write_json(tmp_path / "test.json", wrap([lesion(), second, lesion(target="001_03")])), tmp_path)
    assert [pair.name for pair in found] == ["001_01_to_001_02", "001_01_to_001_03"]
    assert found[0].baseline == tmp_path / "001_01.nii.gz"
    np.testing.assert_array_equal(found[0].lesions.index, [[3, 4, 5], [1, 1, 1]])
    np.testing.assert_array_equal(found[0].truth.index, [[4, 4, 5]] * 2)
    np.testing.assert_array_equal(found[0].truth.radii, [3, 3])
    assert np.isnan(found[0].lesions.radii).all()


def test_dlt_names_boxes_and_nulls_as_they_come(tmp_path):
    (tmp_path / "001_01.nii.gz").touch()
    same = lesion(source="001_01", **{"target box": None, "source box": [[0, 0, 3], [4, 2, 6]]})
    (pair,) = read_dlt(write_json(tmp_path / "test.json", [lesion(), same]), tmp_path)
    np.testing.assert_array_equal(pair.truth.radii, [3, np.nan])
    np.testing.assert_array_equal(pair.lesions.radii, [np.nan, 2])
    doubled = write_json(tmp_path / "test.json", [lesion(source="a/1.nii.gz"), lesion(source="b/1.nii.gz")])
    with pytest.raises(InputError, match=r"share the names \['1_to_001_02'\]"):
        read_dlt(doubled, tmp_path)


def test_voxels_come_to_the_world_of_their_image():
    grid = samreg.spatial.Grid.make((9, 9, 9), origin=(10, 20, 30), spacing=(0.5, 0.5, 3))
    lesions = VoxelLesions(np.array([[2.0, 4.0, 6.0]]), np.array([8.0])).on(grid)
    np.testing.assert_allclose(lesions.points.positions, [[11, 22, 48]])
    np.testing.assert_allclose(lesions.radii, [4])
    with pytest.raises(InputError, match="as many radii"):
        as_lesions([[1.0, 2, 3], [4, 5, 6]], grid, radii=[2.0])


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([{"src": "a", "tgt": "b"}], r"no \['source', 'target'.*'src', 'tgt'"),
        ([lesion(**{"source center": [1, 2]})], "source center"),
        ([lesion(**{"target box": [1, 2, 3]})], "target box"),
        ([lesion(**{"target center": [1, 2, "x"]})], "target center"),
        ([], "no lesions"),
        ([3], "mapping"),
    ],
)
def test_other_annotations_are_refused_with_what_they_have(tmp_path, document, says):
    with pytest.raises(InputError, match=says):
        read_dlt(write_json(tmp_path / "other.json", document), tmp_path)


def test_a_list_of_pairs_must_name_its_columns(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("fixed,moving\na,b\n")
    with pytest.raises(InputError, match="baseline"):
        read_pairs(path)
    path.write_text("name,baseline,followup,lesions\nx,a,b,c\nx,a,b,c\n")
    with pytest.raises(InputError, match="name of its own"):
        read_pairs(path)
    path.write_text("baseline,followup,lesions\na,b,c\na,b\n")
    with pytest.raises(InputError, match=r"pairs\.csv, line 3: no lesions"):
        read_pairs(path)


def test_the_command_tracks_a_pair_and_says_what_it_found(folder, visits, tmp_path):
    out = tmp_path / "out"
    call = ["track", *(str(folder / f"{name}.nii.gz") for name in ("baseline", "followup", "lesions")), "-o", str(out)]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "%" in done.output
    assert "not measured" in done.output
    found = samreg.read_points(out / "followup.csv")
    assert np.linalg.norm(found.positions - visits.centers, axis=1).max() < 10
    assert (out / "lesions.html").stat().st_size > 10_000


def test_the_command_takes_a_series_of_each_visit(folder, tmp_path, monkeypatch):
    visit = samreg.read_image(folder / "baseline.nii.gz")
    visit = samreg.Image.from_array(visit.array[:8, :16, :16], spacing=5.0)
    for name in ("before", "after"):
        write_dicom_series(replace(visit, name=name), tmp_path / name)
        for number, file in enumerate(sorted((tmp_path / name).iterdir())):
            (tmp_path / "both").mkdir(exist_ok=True)
            file.rename(tmp_path / "both" / f"{name}{number}.dcm")
    given = []

    def record(*images, **_):
        given.extend(images)
        return LesionTracks((), *images[:2], None)

    monkeypatch.setattr(samreg, "track", record)
    both, out = str(tmp_path / "both"), ["-o", str(tmp_path / "out")]
    series = ["--baseline-series", "before", "--followup-series", "after"]
    CliRunner().invoke(app, ["track", both, both, str(folder / "lesions.nii.gz"), *series, *out])
    assert [image.shape for image in given[:2]] == [visit.shape] * 2
    assert "2 DICOM series" in CliRunner().invoke(app, ["track", both, both, "lesions.csv", *out]).output
    refused = CliRunner().invoke(app, ["track", "--pairs", "pairs.csv", *series, *out])
    assert (refused.exit_code, "--baseline-series" in refused.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("a.nii.gz", "b.nii.gz"), "LESIONS"), ((), "--pairs"), (("a.nii.gz", "b.nii.gz", "c.csv"), "a.nii.gz")],
)
def test_a_bad_call_exits_2(tmp_path, arguments, says):
    done = CliRunner().invoke(app, ["track", *arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert says in done.output.replace("\n", "")


def test_a_broken_pair_of_many_exits_1(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("samreg.tracking.batch.track", canned)
    pairs[0].baseline.write_bytes(b"cut")
    done = CliRunner().invoke(app, ["track", "--pairs", str(tmp_path / "pairs.csv"), "-o", str(tmp_path / "out")])
    assert done.exit_code == 1, done.output
    assert "a.nii.gz" in done.output
    assert "CPM@10mm" in done.output

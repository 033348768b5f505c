"""The commands on small volumes: what they print, what they write, how they end."""

from __future__ import annotations

import csv
import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import samreg
from samreg.embedding.registry import WEIGHTS
from samreg.errors import EngineError, ImagesAtFault, MissingExtraError
from samreg.phantoms import phantom_pair
from samreg.spatial import AffineTransform

pytestmark = pytest.mark.usefixtures("embeddings_kept")


def test_help_lists_the_commands():
    done = subprocess.run([sys.executable, "-m", "samreg.cli", "--help"], capture_output=True, text=True, check=True)
    commands = "register match track atlas apply report view embed train benchmark info demo landmarks"
    for command in commands.split():
        assert command in done.stdout


def test_help_imports_nothing_heavy():
    heavy = {"torch", "ants", "itk", "SimpleITK", "scipy", "matplotlib"}
    code = f"import sys, samreg.cli; print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version(run):
    assert run("--version").output.strip() == f"samreg {samreg.__version__}"


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "samreg", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"samreg {samreg.__version__}"


def test_under_a_locale_that_is_not_utf_8_names_in_files_are_those_on_disk():
    code = "import sys, samreg.cli as cli; cli.app = lambda: print(sys.getfilesystemencoding(), *sys.argv); cli.main()"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, "été"]
    done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, **locale})
    assert done.stdout.decode("ascii").split() == ["utf-8", "-c", "?t?"]  # the terminal keeps its encoding


def test_register_writes_everything_and_shows_the_landmark_error(registered, files):
    out, done = registered
    assert done.exit_code == 0, done.output
    names = {path.name for path in out.iterdir()}
    assert names >= {
        *("warped.nii.gz", "affine.tfm", "correspondences.csv", "preview.png", "result.json", "report.html"),
        *(f"{name}.{ending}" for name in ("transform", "inverse") for ending in ("h5", "nii.gz", "npz")),
        "landmarks.csv",
    }
    assert not [name for name in names if name.startswith(".")]
    with (out / "landmarks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(samreg.read_points(files.fixed_points).names)
    assert min(float(row["before_mm"]) for row in rows) > 10
    assert max(float(row[way]) for row in rows for way in ("transform_mm", "inverse_mm")) < 1.5
    for word in ("transform", "inverse", "before", "time, embedding"):
        assert word in done.output
    summary = json.loads((out / "result.json").read_text())
    assert summary["ok"] is True
    assert summary["options"]["method"] == "embedding"


def test_report_of_a_saved_result(run, registered, tmp_path):
    out, _ = registered
    page = tmp_path / "page.html"
    done = run("report", out, "-o", page)
    assert done.exit_code == 0, done.output
    first = (out / "report.html").read_text()
    assert "Error at 5 landmarks" in first
    numbers = re.findall(r'class="number">([^<]*)<', first)
    assert re.findall(r'class="number">([^<]*)<', page.read_text()) == numbers


def test_report_says_which_image_has_moved_and_takes_it_and_landmarks_from_elsewhere(run, registered, files, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(registered[0], out, ignore=shutil.ignore_patterns("report.html", "landmarks.csv"))
    summary = json.loads((out / "result.json").read_text())
    summary["fixed"]["path"] = "/nowhere/fixed.nii.gz"
    (out / "result.json").write_text(json.dumps(summary))
    done = run("report", out)
    assert done.exit_code == 2
    assert "/nowhere/fixed.nii.gz" in done.output
    assert "--fixed" in done.output
    landmarks = ("--landmarks", files.fixed_points, files.moving_points)
    done = run("report", out, "--fixed", files.fixed, *landmarks)
    assert done.exit_code == 0, done.output
    assert "Error at 5 landmarks" in (out / "report.html").read_text()


def test_report_of_one_dicom_series_of_several(run, tmp_path):
    folder, out = tmp_path / "visit", tmp_path / "out"
    folder.mkdir()
    for series in range(2):
        noise = np.random.default_rng(series).normal(0, 300, (24, 24, 24))
        write_dicom_series(folder, noise, uid=f"1.2.3.{series + 1}")
    images = [samreg.read_image(folder, series=series) for series in (1, 2)]
    samreg.RegistrationResult(*images, AffineTransform.identity(3)).save(out, formats=("h5",))
    there = ("--fixed", folder, "--moving", folder, "--moving-series", "2")
    for arguments, exit_code, said in (
        ((), 2, "--fixed-series"),
        (("--fixed-series", "1"), 2, "--fixed FOLDER"),
        (there, 2, "1.2.3.1"),
        ((*there, "--fixed-series", "1"), 0, "written to"),
    ):
        done = run("report", out, *arguments)
        assert done.exit_code == exit_code, done.output
        assert said in done.output
    assert (out / "report.html").is_file()


def write_dicom_series(folder, array, *, uid):
    """Axial slices of 2 mm, named by series and number."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for i, plane in enumerate(array.astype(np.int16)):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((2.0, 2.0, 2.0))
        tags = {
            "0008|0060": "CT", "0020|000e": uid, "0020|000d": "1.2.3", "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{i + 1}", "0020|0013": str(i + 1), "0020|0032": f"0\\0\\{2 * i}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }  # fmt: skip
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid}-{i:03d}.dcm"))
        writer.Execute(image)


def test_view_opens_napari_or_says_how_to_install_it(run, registered, monkeypatch):
    from unittest.mock import MagicMock

    napari = MagicMock()
    monkeypatch.setitem(sys.modules, "napari", napari)
    done = run("view", registered[0])
    assert done.exit_code == 0, done.output
    assert [call.kwargs["name"] for call in napari.Viewer().add_image.call_args_list][-1] == "warped"
    napari.run.assert_called_once()
    monkeypatch.setitem(sys.modules, "napari", None)
    done = run("view", registered[0])
    assert done.exit_code == 3
    assert 'pip install "samreg[view]"' in done.output


def test_apply_brings_points_both_ways(run, registered, files, tmp_path):
    out, _ = registered
    there, back = tmp_path / "there.mrk.json", tmp_path / "back.csv"
    assert run("apply", out, files.fixed_points, "-o", there, "--to", "moving").exit_code == 0
    fixed, moving = samreg.read_points(files.fixed_points), samreg.read_points(files.moving_points)
    np.testing.assert_allclose(samreg.read_points(there).positions, moving.positions, atol=1.5)
    assert samreg.read_points(there).names == fixed.names
    assert run("apply", out, there, "-o", back).exit_code == 0
    np.testing.assert_allclose(samreg.read_points(back).positions, fixed.positions, atol=0.05)
    by_file = tmp_path / "by_file.csv"
    assert run("apply", out / "transform.h5", there, "-o", by_file).exit_code == 0
    np.testing.assert_allclose(samreg.read_points(by_file).positions, fixed.positions, atol=0.05)


@pytest.mark.parametrize("transform", ["", "transform.h5", "transform.nii.gz", "transform.npz"])
def test_apply_warps_the_moving_image_as_register_did(run, registered, files, tmp_path, transform):
    out, _ = registered
    warped = tmp_path / "warped.nii.gz"
    extra = ("--reference", files.fixed) if transform else ()
    done = run("apply", out / transform, files.moving, "-o", warped, *extra)
    assert done.exit_code == 0, done.output
    again, first = samreg.read_image(warped), samreg.read_image(out / "warped.nii.gz")
    assert again.grid.same_as(first.grid)
    inner = (slice(4, -4),) * 3
    assert np.abs(again.array[inner] - first.array[inner].astype(float)).mean() < 2


def test_apply_needs_no_images_for_npz_and_refuses_a_failed_registration(run, registered, files, tmp_path):
    out, there = tmp_path / "out", tmp_path / "there.csv"
    shutil.copytree(registered[0], out, ignore=shutil.ignore_patterns("*.h5", "transform.nii.gz", "inverse.nii.gz"))
    for target, source, truth in (
        ("moving", files.fixed_points, files.moving_points), ("fixed", files.moving_points, files.fixed_points),
    ):  # fmt: skip
        done = run("apply", out, source, "-o", there, "--to", target)
        assert done.exit_code == 0, done.output
        np.testing.assert_allclose(samreg.read_points(there).positions, samreg.read_points(truth).positions, atol=1.5)
    summary = json.loads((out / "result.json").read_text())
    (out / "result.json").write_text(json.dumps({**summary, "ok": False, "reason": "too few matches"}))
    done = run("apply", out, files.moving, "-o", tmp_path / "warped.nii.gz")
    assert done.exit_code == 2
    assert "too few matches" in done.output
    (out / "result.json").unlink()
    assert "result.json" in run("apply", out, files.fixed_points, "-o", there).output


def test_apply_brings_labels_to_the_moving_grid(run, registered, files, tmp_path):
    out, _ = registered
    fixed = samreg.read_image(files.fixed)
    labels, there = tmp_path / "labels.nii.gz", tmp_path / "there.nii.gz"
    samreg.write_image(fixed.with_array((fixed.array > -500).astype(np.uint8)), labels)
    common = ("apply", out, labels, "-o", there, "--to", "moving", "--interpolation", "nearest")
    assert "--reference" in run(*common).output
    assert run(*common, "--reference", files.moving).exit_code == 0
    found, moving = samreg.read_image(there), samreg.read_image(files.moving)
    assert found.array.dtype == np.uint8
    truth = moving.array > -500
    assert 2 * (found.array.astype(bool) & truth).sum() / (found.array.sum() + truth.sum()) > 0.97


def test_embed_and_match(run, files, tmp_path):
    embedded, found = tmp_path / "fixed.h5", tmp_path / "found.csv"
    done = run("embed", files.fixed, "-o", embedded, "--model", "mind")
    assert done.exit_code == 0, done.output
    assert "mind@" in run("info", embedded).output
    done = run("match", embedded, files.fixed_points, files.moving, "-o", found, "--model", "mind")
    assert done.exit_code == 0, done.output
    assert "[red]heart[/red]" in done.output  # a name is text, not markup
    points = samreg.read_points(found)
    truth = samreg.read_points(files.moving_points)
    assert points.names == truth.names
    assert np.median(np.linalg.norm(points.positions - truth.positions, axis=1)) < 4
    assert "expected_error" not in found.read_text(), "other models have no such fit"
    assert "at most mm" not in done.output


def test_match_tells_the_expected_error_beside_each_point(run, files, tmp_path):
    found, page = tmp_path / "found.csv", tmp_path / "found.html"
    (tmp_path / "set").mkdir()
    fixed, moving = tmp_path / "set" / "fixed.nii.gz", tmp_path / "moving.nii.gz"
    for whole, part in ((files.fixed, fixed), (files.moving, moving)):
        nib.save(nib.load(whole).slicer[:, :, 14:46], part)  # the levels of the points, as the network takes its time
    done = run("match", fixed, files.fixed_points, moving, "-o", found, "--report", page)
    assert done.exit_code == 0, done.output
    assert "at most mm" in done.output
    assert "expected error mm" in page.read_text().replace("<wbr>", "")
    rows = list(csv.DictReader(found.read_text().splitlines()))
    told = [float(row["expected_error_mm"]) for row in rows]
    assert len(told) == 5
    assert all(0.5 <= error <= 100 for error in told)
    assert len(samreg.read_points(found)) == 5
    shutil.copy(files.fixed_points, tmp_path / "set" / "fixed.csv")
    done = run("match", "--template-set", tmp_path / "set", moving, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    for table in ("templates.csv", "landmarks.csv"):  # what one template alone says is what all of them say
        answers = list(csv.DictReader((tmp_path / "out" / "moving" / table).read_text().splitlines()))
        again = [float(row["expected_error_mm"]) for row in answers]
        np.testing.assert_allclose(again, told, atol=0.1)


def test_match_with_a_set_of_templates(run, files, tmp_path):
    for name in ("a", "b"):
        shutil.copy(files.fixed, tmp_path / f"{name}.nii.gz")
        shutil.copy(files.fixed_points, tmp_path / f"{name}.csv")
    out, found = tmp_path / "out", tmp_path / "found.mrk.json"
    call = ("match", "--template-set", tmp_path, "--model", "mind", "-o")
    done = run(*call, found, files.moving)
    assert done.exit_code == 0, done.output
    points, truth = samreg.read_points(found), samreg.read_points(files.moving_points)
    assert points.names == truth.names
    assert np.median(np.linalg.norm(points.positions - truth.positions, axis=1)) < 4
    broken = tmp_path / "targets" / "broken.nii.gz"
    broken.parent.mkdir()
    broken.write_bytes(b"no image")
    shutil.copy(files.moving, broken.parent / "moving.nii.gz")
    done = run(*call, out, broken.parent)
    assert (done.exit_code, "broken.nii.gz" in done.output) == (1, True), done.output
    again = samreg.read_points(out / "moving" / "landmarks.mrk.json")
    np.testing.assert_allclose(again.positions, points.positions, atol=1e-6)


def test_info_describes_the_installation_and_an_image(run, files):
    done = run("info")
    assert done.exit_code == 0
    for word in ("torch", "ants", "elastix", "mind (default)" if samreg.embedding.DEFAULT_MODEL == "mind" else "mind"):
        assert word in done.output
    done = run("info", files.fixed)
    assert "72, 52, 56" in done.output
    assert "int16" in done.output


def test_info_says_how_to_install_a_missing_engine(run, monkeypatch):
    monkeypatch.setattr("samreg.engines.registry.EngineEntry.version", None)
    assert 'pip install "samreg[elastix]"' in run("info").output.replace("\n", " ")


def test_train_names_what_is_wrong_with_its_configuration(run, tmp_path):
    done = run("train", tmp_path / "none.yaml")
    assert done.exit_code == 2
    assert "none.yaml" in done.output
    (tmp_path / "odd.yaml").write_text("images: .\noutput: out\nstepps: 5\n")
    done = run("train", tmp_path / "odd.yaml")
    assert done.exit_code == 2
    assert "stepps" in done.output


def test_quiet_prints_nothing(run, files, tmp_path):
    done = run("embed", files.fixed, "-o", tmp_path / "e.h5", "--model", "mind", "--quiet")
    assert (done.exit_code, done.output) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("register", "none.nii.gz", "{moving}", "-o", "{tmp}/o"), "none.nii.gz"),
        (("register", "{fixed}", "{moving}", "-o", "{tmp}/o", "--method", "magic"), "magic"),
        (("register", "{fixed}", "{moving}", "-o", "{tmp}/o", "--engine", "magic"), "magic"),
        (("register", "{fixed}", "{moving}", "-o", "{tmp}/o", "--model", "magic"), "magic"),
        (("register", "{fixed}", "{moving}", "-o", "{tmp}/o", "--option", "iterations"), "key=value"),
        (("register", "{fixed}", "{moving}", "-o", "{tmp}/o", "--formats", "h5,pickle"), "pickle"),
        (("register", "{fixed}", "{moving}", "-o", "{fixed}"), "is a file"),
        (
            ("register", "{fixed}", "{moving}", "-o", "{tmp}/o", "--landmarks", "{fixed_points}", "{tmp}/no.csv"),
            "no.csv",
        ),
        (("register", "{fixed}", "{moving}"), "--out"),
        (("match", "{fixed}", "{fixed_points}", "{moving}", "-o", "{tmp}/found.xlsx"), "found.xlsx"),
        (("match", "{fixed}", "{moving_points}", "{moving}", "-o", "{tmp}/f.csv", "--search", "magic"), "magic"),
        (("match", "{fixed}", "-o", "{tmp}/f.csv"), "--template-set"),
        (("match", "--template-set", "{tmp}", "{fixed}", "{moving}", "-o", "{tmp}/f.csv"), "name a folder"),
        (("match", "--template-set", "{tmp}/none", "{fixed}", "-o", "{tmp}/f.csv"), "none"),
        (("match", "--template-set", "{tmp}", "{fixed}", "-o", "{tmp}/f.csv", "--subject", "A"), "--subject"),
        (("match", "--template-set", "{tmp}", "{fixed}", "-o", "{tmp}/o", "--target-series", "2"), "--target-series"),
        (
            ("match", "{tmp}/e.h5", "{fixed_points}", "{fixed}", "-o", "{tmp}/f.csv", "--template-series", "1"),
            "series says",
        ),
        (("match", "{tmp}/e.h5", "p.csv", "{tmp}/e.h5", "-o", "{tmp}/f.csv", "--pixel-size", "2"), "--pixel-size says"),
        (("landmarks", "{tmp}/e.h5", "-o", "{tmp}/f.csv", "--series", "2"), "--series says"),
        (("apply", "{tmp}", "{fixed_points}", "-o", "{tmp}/p.csv"), "transform.h5"),
        (("apply", "{tmp}", "{fixed_points}", "-o", "{tmp}/p.csv", "--to", "magic"), "magic"),
        (("report", "{tmp}"), "no result.json"),
        (("report", "{tmp}", "-o", "{tmp}/r.pdf"), ".html"),
        (("embed", "{fixed}", "-o", "{tmp}/e.npz"), ".h5"),
        (("embed", "{fixed}", "-o", "{tmp}/e.h5", "--device", "magic"), "magic"),
        (("info", "none.nii.gz"), "none.nii.gz"),
        (
            ("register", "{fixed}", "{moving}", "-o", "{tmp}/o", "--option", "a=1", "--option", "a=2"),
            "a is given twice",
        ),
        (("match", "{fixed}", "{fixed_points}", "{moving}", "-o", "{tmp}/f.csv", "--jobs", "0"), "--jobs is for"),
        (
            ("match", "{fixed}", "{fixed_points}", "{moving}", "-o", "{tmp}/f.csv", "--cache", "{tmp}/c"),
            "--cache is for",
        ),
        (("magic",), "magic"),
    ],
)
def test_a_bad_call_exits_2_with_a_message(run, files, tmp_path, arguments, says):
    places = {**vars(files), "tmp": tmp_path}
    done = run(*(argument.format(**places) for argument in arguments))
    assert done.exit_code == 2
    assert says in done.output.replace("\n", "")
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


_REGISTER = ("register", "{set}/a.nii.gz", "{moving}", "-o")


@pytest.mark.parametrize(
    ("arguments", "mine"),
    [
        (("match", "--template-set", "{set}", "{moving}", "-o", "{set}"), "set/landmarks.csv"),
        (("match", "--template-set", "{set}", "{moving}", "-o", "{set}/landmarks.csv"), "set/landmarks.csv"),
        (("match", "--template-set", "{beside}", "{moving}", "-o", "{beside}/a.csv"), "beside/a.csv"),
        (("match", "--template-set", "{beside}", "{moving}", "-o", "{beside}/landmarks.csv"), "beside/landmarks.csv"),
        (("match", "--template-set", "{set}", "{moving}", "-o", "{tmp}/mine"), "mine/landmarks.csv"),
        (("match", "{fixed}", "{fixed_points}", "{moving}", "-o", "{result}/named_landmarks.csv"), "result/named"),
        (("track", "{fixed}", "{moving}", "{tmp}/mine/followup.csv", "-o", "{tmp}/mine"), "mine/followup.csv"),
        (("track", "{fixed}", "{moving}", "{fixed_points}", "-o", "{tmp}/mine"), "mine/followup.csv"),
        (("track", "--pairs", "{beside}/summary.csv", "-o", "{beside}"), "beside/summary.csv"),
        (("batch", "{tmp}/summary.csv", "-o", "{tmp}"), "summary.csv"),
        (("batch", "{tmp}/pairs.csv", "-o", "{tmp}"), "summary.csv"),
        (("demo", "-o", "{tmp}/mine"), "mine/fixed.csv"),
        (("demo", "--data-only", "-o", "{tmp}/mine"), "mine/fixed.csv"),
        ((*_REGISTER, "{tmp}/mine"), "mine/body.nii.gz"),
        ((*_REGISTER, "{result}", "--start", "{result}"), "result"),
        ((*_REGISTER, "{result}", "--landmarks", "{fixed_points}", "{moving_points}"), "result/landmarks.csv"),
        ((*_REGISTER, "{beside}", "--report"), "beside/report.html"),
        (("apply", "{result}", "{moving}", "-o", "{result}/transform.nii.gz"), "result/transform.nii.gz"),
        (("apply", "{result}/transform.h5", "{moving}", "-o", "{result}/Body.nii.gz"), "result/Body.nii.gz"),
        (("apply", "{result}", "{moving_points}", "-o", "{result}/landmarks.csv"), "result/landmarks.csv"),
    ],
)
def test_what_a_user_made_is_never_replaced(run, registered, files, tmp_path, arguments, mine):
    for name in ("set", "beside"):
        (tmp_path / name).mkdir()
        shutil.copy(files.fixed, tmp_path / name / "a.nii.gz")
    rows = [row.split(",", 1) for row in files.fixed_points.read_text().splitlines()[1:]]
    table = "".join(f"a,{name},{','.join(rest.split(',')[:3])}\n" for name, rest in rows)
    (tmp_path / "set" / "landmarks.csv").write_text("subject,landmark,x,y,z\n" + table)
    shutil.copy(files.fixed_points, tmp_path / "beside" / "a.csv")
    (tmp_path / "beside" / "report.html").write_text("mine")
    shutil.copytree(registered[0], tmp_path / "result")
    (tmp_path / "result" / "landmarks.csv").write_text("name,x,y,z\nmine,1,2,3\n")
    (tmp_path / "mine").mkdir()
    for name in ("body.nii.gz", "fixed.csv", "followup.csv", "landmarks.csv"):
        shutil.copy(files.fixed_points, tmp_path / "mine" / name)
    (tmp_path / "beside" / "summary.csv").write_text(
        f"baseline,followup,lesions\n{files.fixed},{files.moving},{files.fixed_points}\n"
    )
    for name in ("summary.csv", "pairs.csv"):
        (tmp_path / name).write_text(f"fixed,moving\n{files.fixed},{files.moving}\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {**vars(files), "tmp": tmp_path, **{name: tmp_path / name for name in ("set", "beside", "result")}}
    done = run(*(argument.format(**places) for argument in arguments))
    assert done.exit_code == 2, done.output
    output = done.output.replace("\n", "")
    assert mine in output
    assert "would" in output
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_folder_may_hold_results_and_a_users_other_files(run, registered, files, by_shift, tmp_path):
    result = shutil.copytree(registered[0], tmp_path / "result")
    for _ in range(2):  # its own file may be replaced
        done = run("apply", result, files.moving_points, "-o", result / "points.csv")
        assert done.exit_code == 0, done.output
    (result / "landmarks.csv").write_text("name,x,y,z\nmine,1,2,3\n")
    assert (result / "report.html").is_file()
    done = run("report", result)  # which needs no landmarks, and replaces its own page
    assert done.exit_code == 0, done.output
    done = run("register", files.fixed, files.fixed, "-o", result, *by_shift)
    assert done.exit_code == 0, done.output
    assert (result / "landmarks.csv").read_text().startswith("name,x,y,z\nmine")
    assert (result / "points.csv").exists()


def test_images_that_cannot_be_registered_exit_1_with_the_reason(run, files, tmp_path):
    image = samreg.read_image(files.fixed)
    crumb, out = tmp_path / "crumb.nii.gz", tmp_path / "out"
    array = np.zeros(image.shape, np.uint8)
    array[28, 26, 36] = 1  # too little for an affine
    samreg.write_image(image.with_array(array), crumb)
    call = ("register", files.fixed, files.moving, "-o", out, "--method", "embedding", "--model", "mind")
    done = run(*call, "--fixed-mask", crumb)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit), done.output
    summary = json.loads((out / "result.json").read_text())
    assert summary["ok"] is False
    assert summary["reason"] in done.output.replace("\n", " ")
    assert not (out / "warped.nii.gz").exists()


@pytest.mark.parametrize("error", [EngineError, MissingExtraError])
def test_a_failed_engine_exits_3(run, files, tmp_path, monkeypatch, error):
    def fail(*_: object, **__: object) -> None:
        raise error("[bold]the end of its log[/bold]")

    monkeypatch.setattr(importlib.import_module("samreg.registration.call"), "get_engine", fail)
    done = run("register", files.fixed, files.moving, "-o", tmp_path / "out", "--method", "registration")
    assert done.exit_code == 3
    assert "[bold]the end of its log[/bold]" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (MemoryError(), "a larger --spacing, cropped images, a larger machine"),
        (RuntimeError("alloc_cpu.cpp:127: can't allocate memory"), "a larger --spacing, cropped images"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), "a larger --spacing, --device cpu, cropped"),
        (RuntimeError("itkContainer.hxx:179:\nFailed to allocate memory for image."), "a larger --spacing, cropped"),
    ],
)
def test_short_memory_exits_3_with_what_helps(run, files, tmp_path, monkeypatch, error, helps):
    """What torch and ITK say of it ended in a traceback."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("samreg.registration.call"), "get_engine", fail)
    done = run("register", files.fixed, files.moving, "-o", tmp_path / "out", "--method", "registration")
    assert done.exit_code == 3
    assert f"; what helps: {helps}" in done.output.replace("\n", " ")


@functools.cache
def short_pair(**options):
    return phantom_pair(field_of_view=(-50, 20), **options)


@pytest.fixture
def short_phantoms(monkeypatch):
    """A third of the chest is enough to see what a demo does."""
    monkeypatch.setattr("samreg.phantoms.phantom.phantom_pair", short_pair)


def test_demo_compares_three_methods_on_phantoms(run, short_phantoms, tmp_path):
    done = run("demo", "--quick", "--model", "mind", "-o", tmp_path / "demo")
    assert done.exit_code == 0, done.output
    for word in ("phantom", "before", "embedding alone", "ANTs alone", "hybrid"):
        assert word in done.output
    for name in ("fixed.nii.gz", "moving.csv", "before_after.png", "hybrid/result.json", "report.html"):
        assert (tmp_path / "demo" / name).stat().st_size > 0
    assert json.loads((tmp_path / "demo" / "hybrid" / "result.json").read_text())["options"]["engine"] == "torch"
    assert "and two scans of yours: samreg register fixed.nii.gz" in done.output


def test_demo_writes_a_pair_to_try_on(run, short_phantoms, tmp_path):
    done = run("demo", "--quick", "--data-only", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert "samreg register" in done.output
    truth = samreg.read_transform(tmp_path / "truth.h5")
    fixed, moving = (samreg.read_points(tmp_path / f"{name}.csv") for name in ("fixed", "moving"))
    errors = np.linalg.norm(truth.transform_points(fixed.positions) - moving.positions, axis=1)
    assert errors.max() < 0.5  # of the field between its voxels
    for name in ("fixed", "moving"):
        image, labels = (samreg.read_image(tmp_path / f"{name}{end}.nii.gz") for end in ("", "_labels"))
        assert labels.grid.same_as(image.grid)
        assert labels.array.max() > 1
    assert not (tmp_path / "report.html").exists()
    assert run("demo", "--quick", "--data-only", "-o", tmp_path).exit_code == 0, "its own files it replaces"


def test_demo_does_without_ants(run, short_phantoms, tmp_path, monkeypatch):
    engines = []

    def stop(*_: object, engine: str | None = None, **__: object) -> None:
        engines.append(engine)
        raise ImagesAtFault("seen enough")

    monkeypatch.setattr(importlib.import_module("samreg.engines"), "available_engines", lambda: ("torch",))
    monkeypatch.setattr(samreg, "register", stop)
    assert "seen enough" in run("demo", "--quick", "-o", tmp_path).output
    assert engines == [None]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures of blobs, the second one 3 mm to the right; a small 2D model; points of both."""
    import SimpleITK as sitk
    import torch
    from scipy.ndimage import gaussian_filter

    from samreg.embedding.checkpoint import save_checkpoint
    from samreg.embedding.compact import CompactNetwork
    from samreg.embedding.xray import XrayPreprocessing

    folder = tmp_path_factory.mktemp("pictures")
    texture = gaussian_filter(np.random.default_rng(0).normal(size=(150, 170)), 3)
    texture = np.rint(255 * (texture - texture.min()) / np.ptp(texture)).astype(np.uint8)
    for name, first in (("a", 10), ("b", 4)):  # 6 pixels of 0.5 mm
        sitk.WriteImage(sitk.GetImageFromArray(texture[:140, first : first + 150]), str(folder / f"{name}.png"))
    torch.manual_seed(0)
    config = {"ndim": 2, "coarse": [16, 16, 16], "blocks": [1, 1, 1], "fine": 16, "windows": [[0, 1]]}
    settings = XrayPreprocessing(spacing=0.5)
    save_checkpoint(
        folder / "m.safetensors", CompactNetwork(**config), architecture="compact", name="m", config=config,
        preprocessing=settings,
    )  # fmt: skip
    (folder / "points.csv").write_text("subject,name,x,y\na,left,30,35\na,right,45,25\na,low,35,50\n")
    return folder


def test_match_draws_the_points_in_pictures(run, pictures, tmp_path):
    arguments = ("match", pictures / "a.png", pictures / "points.csv", pictures / "b.png", "--pixel-size", "0.5")
    options = ("--model", pictures / "m.safetensors", "-o", tmp_path / "found.csv", "--report")
    for name in ("found.html", "found.png"):
        done = run(*arguments, *options, tmp_path / name)
        assert done.exit_code == 0, done.output
    found = samreg.read_points(tmp_path / "found.csv")
    np.testing.assert_allclose(found.positions, [[33, 35], [48, 25], [38, 50]], atol=1.0)
    page = (tmp_path / "found.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in ("left", "right", "low"))
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    wrong = run(*arguments, *options, tmp_path / "found.pdf")
    assert wrong.exit_code == 2
    assert ".html" in wrong.output


def test_registered_pictures_are_reported_and_warped_at_their_pixel_size(run, pictures, tmp_path):
    out, warped = tmp_path / "out", tmp_path / "warped.nii.gz"
    images = [samreg.read_image(pictures / f"{name}.png", spacing=0.5) for name in "ab"]
    result = samreg.RegistrationResult(*images, samreg.spatial.AffineTransform(np.eye(2), np.array([3.0, 0.0])))
    result.save(out)
    done = run("report", out)
    assert done.exit_code == 0, done.output
    done = run("apply", out, pictures / "b.png", "-o", warped, "--pixel-size", "0.5")
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(samreg.read_image(warped).array, result.warped.array, atol=0.6)


def test_masks_of_pictures_take_the_pixel_size(run, pictures, tmp_path):
    import SimpleITK as sitk

    mask = np.zeros((140, 150), np.uint8)
    mask[:, 75:] = 1
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / "mask.png"))
    options = ("--model", pictures / "m.safetensors", "--pixel-size", "0.5")
    done = run("embed", pictures / "a.png", "-o", tmp_path / "a.h5", *options, "--mask", tmp_path / "mask.png")
    assert done.exit_code == 0, done.output
    body = samreg.embedding.Embedding.load(tmp_path / "a.h5").body
    assert not body[:, :37].any()  # of 75 columns, 1 mm each
    assert body[:, 38:].mean() > 0.9
    images = ("register", pictures / "a.png", pictures / "b.png", "--method", "embedding", "--transform", "rigid")
    done = run(*images, "-o", tmp_path / "out", *options, "--fixed-mask", tmp_path / "mask.png")
    assert done.exit_code == 0, done.output


def test_match_draws_slices_of_volumes(run, files, tmp_path):
    done = run(
        "match", files.fixed, files.fixed_points, files.moving, "--model", "mind", "-o", tmp_path / "found.csv",
        "--report", tmp_path / "found.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    page = (tmp_path / "found.html").read_text().replace("<wbr>", "")
    assert "&lt;td&gt;" not in page
    assert "[red]heart[/red]" in page


def test_landmark_detectors_are_trained_and_used(run, pictures, tmp_path):
    detector, labels = tmp_path / "detector.safetensors", tmp_path / "labels.csv"
    labels.write_text((pictures / "points.csv").read_text() + "away,left,1,1\n")
    done = run(
        "landmarks", "train", pictures, labels, "-o", detector, "--pixel-size", "0.5", "--steps", "20",
        "--model", pictures / "m.safetensors", "--learning-rate", "0.002",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "3 landmarks, trained on 1 images" in done.output
    assert "no image of away" in done.output
    done = run("landmarks", "predict", detector, pictures / "b.png", "-o", tmp_path / "f.csv", "--pixel-size", "0.5")
    assert done.exit_code == 0, done.output
    found = samreg.read_points(tmp_path / "f.csv")
    assert found.names == ("left", "right", "low")
    np.testing.assert_allclose(found.positions, [[33, 35], [48, 25], [38, 50]], atol=1.5)
    nobody = tmp_path / "points.csv"
    nobody.write_text("subject,name,x,y\nnobody,left,30,35\n")
    done = run("landmarks", "train", pictures, nobody, "-o", detector, "--pixel-size", "0.5")
    assert done.exit_code == 2
    assert "none of the 2 images" in done.output
    done = run("landmarks", "train", pictures, tmp_path / "no.csv", "-o", detector)
    assert done.exit_code == 2
    assert "no.csv" in done.output


def test_a_detector_does_not_replace_the_model_that_it_starts_from(run, tmp_path):
    model = tmp_path / "m.safetensors"
    model.write_bytes(b"weights")
    done = run("landmarks", "train", tmp_path, tmp_path / "points.csv", "-o", model, "--model", model)
    assert done.exit_code == 2
    assert "would replace the input" in done.output.replace("\n", " ")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_info_tells_fields_from_images_by_their_headers(run, tmp_path, suffix):
    vectors = sitk.GetImageFromArray(np.ones((4, 5, 6, 3), np.float32), isVector=True)
    sitk.WriteImage(vectors, str(tmp_path / f"f{suffix}"))
    done = run("info", tmp_path / f"f{suffix}")
    assert (done.exit_code, "field, size, voxels" in done.output) == (0, True), done.output


def test_info_takes_one_value_a_voxel_for_an_image(run, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5, 1, 1), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    done = run("info", tmp_path / "a.nii.gz")
    assert (done.exit_code, "intensities" in done.output) == (0, True), done.output


@pytest.mark.parametrize(("air", "says"), [(-1000.0, ["-1000 to 40", "1 of 27 voxels"]), (np.nan, ["27 of 27 voxels"])])
def test_info_says_the_intensities_beside_voxels_that_are_not_finite(run, tmp_path, air, says):
    """They were "nan to nan" wherever a program had put NaN around the body."""
    array = np.full((3, 3, 3), air, np.float32)
    array[0, 0, 0], array[1, 1, 1] = np.nan, 40.0 if np.isfinite(air) else np.nan
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    done = run("info", tmp_path / "a.nii.gz")
    output = " ".join(done.output.split())
    assert (done.exit_code, "nan" in output) == (0, False), done.output
    for words in says:
        assert words in output


def test_info_names_parameter_files_of_elastix(run, tmp_path):
    """They were taken for points."""
    path = tmp_path / "TransformParameters.0.txt"
    path.write_text('// elastix\n\n(Transform "EulerTransform")\n(NumberOfParameters 6)\n')
    done = run("info", path)
    assert done.exit_code == 2
    assert "a parameter file of elastix and transformix" in " ".join(done.output.split())
    assert "points" not in done.output


def test_info_describes_results_transforms_points_labels_and_embeddings(run, registered, files, tmp_path):
    out, _ = registered
    fixed = samreg.read_image(files.fixed)
    samreg.write_image(fixed.with_array((fixed.array > -500).astype(np.uint8) * 7), tmp_path / "labels.nii.gz")
    samreg.write_transform(files.truth, tmp_path / "truth.txt")
    assert run("embed", files.fixed, "-o", tmp_path / "e.h5", "--model", "mind", "--quiet").exit_code == 0
    texture = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    noise = samreg.embed({"array": texture, "spacing": (8, 8, 8)}, model="mind")
    one = samreg.Points([[60.0, 60.0, 60.0], [60.0, 60.0, 100.0]], ("carina", "apex"))
    samreg.build_landmark_atlas([samreg.Template(name, noise, one) for name in "AB"]).save(tmp_path / "atlas.h5")
    verdict = json.loads((out / "result.json").read_text())["verdict"]
    for path, words in (
        (out, ("a saved registration", "registered", "fixed.nii.gz", "correlation after", "warped.nii.gz", verdict)),
        (tmp_path / "atlas.h5", ("a landmark atlas in 3D", "mind@", "2: A, B", "apex", "p95")),
        (WEIGHTS / "ct-small.safetensors", ("a model", "compact", "2,7", "calibrated")),
        (out / "transform.h5", ("a transform in 3D", "affine, matrix", "fixed to moving")),
        (out / "inverse.nii.gz", ("a transform in 3D", "field, voxel size, mm", "largest")),
        (tmp_path / "truth.txt", ("affine, translation mm", "change of volume")),
        (files.fixed_points, ("points in 3D", "number", "carina, left", "LPS mm")),
        (tmp_path / "labels.nii.gz", ("1 beside 0: 0, 7", "uint8")),
        (tmp_path / "e.h5", ("mind", "channels")),
    ):
        done = run("info", path)
        assert done.exit_code == 0, done.output
        for word in words:
            assert word in " ".join(done.output.split()), done.output
    done = run("info", out / "result.json")
    assert (done.exit_code, "a saved registration" in " ".join(done.output.split())) == (0, True), done.output
    done = run("info", out / "transform.npz")
    assert (done.exit_code, "describe its folder" in " ".join(done.output.split())) == (2, True)


@pytest.mark.parametrize(
    "arguments", [("a.nii.gz", "b.nii.gz", "-o", ""), ("a.nii.gz", "", "--out=x"), ("a", "b", "--out=")]
)
def test_empty_argument_of_an_unset_variable_is_not_the_working_folder(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("register", *arguments)
    assert result.exit_code == 2
    assert "followed by an empty argument; is a variable of the shell unset?" in result.output
    assert not [*tmp_path.iterdir()]

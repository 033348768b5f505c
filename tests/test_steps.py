"""Steps of long runs: kept, redone, killed, failed, on a full disk."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from samreg.errors import InputError
from samreg.steps import (
    Outcome,
    failure,
    find_inputs,
    fingerprint,
    recorded,
    require_folder_names,
    require_summary,
    run_step,
    write_summary,
)


def write(folder: Path) -> None:
    (folder / "result.txt").write_text("42")


def refuse(folder: Path) -> None:
    raise AssertionError("what is done is not done again")


def test_a_step_is_kept_while_its_inputs_stay_the_same(tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "deep" / "step"
    source.write_text("a")
    call = {"files": [source], "inputs": {"seed": 0, "names": ("x",)}}
    assert run_step(out, write, **call).status == "done"
    assert run_step(out, refuse, **call).status == "kept"
    source.write_text("b")
    assert run_step(out, write, **call).status == "done"
    assert run_step(out, write, files=[source], inputs={"seed": 1}).status == "done"
    assert sorted(p.name for p in out.parent.iterdir()) == ["step"]


def test_what_another_version_made_is_made_again(tmp_path, monkeypatch):
    versions = {"samreg": "0.1.0", "torch": "2.4.0"}

    def version(package: str) -> str:
        if package not in versions:
            raise importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr("importlib.metadata.version", version)
    call = {"inputs": {"seed": 0}, "packages": ("torch", "antspyx")}
    out = tmp_path / "step"
    assert run_step(out, write, **call).status == "done"
    assert recorded(out)["versions"] == {"samreg": "0.1.0", "torch": "2.4.0", "antspyx": None}
    for package, found in (("samreg", "0.1.1"), ("torch", "2.5.0"), ("antspyx", "0.6.3")):
        assert run_step(out, refuse, **call).status == "kept"
        versions[package] = found
        assert run_step(out, write, **call).status == "done"


def test_what_was_made_before_versions_were_recorded_is_made_again(tmp_path):
    out = tmp_path / "step"
    run_step(out, write, inputs={"seed": 0})
    record = json.loads((out / "done.json").read_text())
    del record["versions"]
    (out / "done.json").write_text(json.dumps(record))
    assert run_step(out, write, inputs={"seed": 0}).status == "done"
    (out / "done.json").write_text("[1, 2]")  # not by any run
    assert "no earlier run" in run_step(out, write, inputs={"seed": 0}).reason


def test_a_failed_step_is_an_outcome_and_leaves_what_was_there(tmp_path):
    def fail(folder: Path) -> None:
        write(folder)
        raise InputError("the image is cut")

    run_step(tmp_path / "step", write, inputs={"seed": 0})
    outcome = run_step(tmp_path / "step", fail, inputs={"seed": 1})
    assert not outcome
    assert outcome.reason == "the image is cut (step still holds the result of an earlier run)"
    assert recorded(tmp_path / "step")["inputs"]["seed"] == 0

    def raise_as_libraries_do(folder: Path) -> None:
        raise RuntimeError("CUDA out of memory")

    reason = run_step(tmp_path / "new", raise_as_libraries_do, inputs={}).reason
    assert reason.startswith("out of memory (CUDA out of memory); what helps: fewer jobs")
    missing = run_step(tmp_path / "other", write, files=[tmp_path / "none"], inputs={})
    assert "none" in missing.reason
    assert [p.name for p in tmp_path.iterdir()] == ["step"]


def test_reasons_are_one_line_in_plain_words(tmp_path):
    """They held ITK's source locations, and torch's words alone for short memory."""
    itk = (
        "Exception thrown in SimpleITK ResampleImageFilter_Execute: /tmp/ITK/itkImportImageContainer.hxx:179:\n"
        "Failed to allocate memory for image."
    )
    assert failure(RuntimeError(itk)).startswith("out of memory (Failed to allocate memory for image); what helps:")
    assert failure(ValueError("matrices\n cannot be multiplied")) == "ValueError: matrices cannot be multiplied"
    assert failure(InputError("give another file")) == "give another file"
    assert failure(KeyboardInterrupt()) == "KeyboardInterrupt"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_stops_the_run_and_says_what_to_do(tmp_path, wrapped):
    def fill(folder: Path) -> None:
        write(folder)
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if wrapped:
                raise InputError("cannot write x") from error
            raise

    with pytest.raises(InputError, match=r"No space left.*kept.*make room"):
        run_step(tmp_path / "step", fill, inputs={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["ANNA", "BOB", "ANNA"], r"^pairs share the names \['ANNA'\]; give"),
        (["ANNA", "BOB", "Anna"], r"\['ANNA', 'Anna'\], which are one on Windows and macOS"),
        (["Ren\u00e9", "Rene\u0301"], "which are one on Windows and macOS"),
        (["\u00e9" * 125], "too long for a folder's"),
    ],
)
def test_names_that_would_share_a_folder_or_have_none_are_refused(names, says):
    with pytest.raises(InputError, match=says):
        require_folder_names(names)
    require_folder_names(["ANNA", "BOB", "x" * 249])


def test_an_error_of_reading_is_no_full_disk(tmp_path, monkeypatch):
    image = tmp_path / "scan.nii.gz"
    image.write_bytes(b"voxels")

    def broken(self: Path, *args: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))

    def read(folder: Path) -> None:
        broken(image)

    outcome = run_step(tmp_path / "step", read, inputs={})
    assert not outcome
    assert "Input/output error" in outcome.reason
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", broken)
        outcome = run_step(tmp_path / "step", write, files=[image], inputs={})
    assert "scan.nii.gz" in outcome.reason


def test_a_folder_that_cannot_be_written_to_stops_the_run(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match=r"cannot write.*check the permissions"):
        run_step(tmp_path / "out" / "step", write, inputs={})


def test_what_a_killed_run_left_is_no_result(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from samreg.steps import run_step\n"
        "def work(folder):\n"
        "    (folder / 'half.txt').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "run_step(Path(sys.argv[1]), work, inputs={})"
    )
    out = tmp_path / "step"
    done = subprocess.run([sys.executable, "-c", code, out], check=False)
    assert done.returncode == -signal.SIGKILL
    assert recorded(out) is None
    assert run_step(out, write, inputs={}).status == "done"
    assert [p.name for p in tmp_path.iterdir()] == ["step"]
    assert not (out / "half.txt").exists()


@pytest.mark.parametrize("rename", [True, False], ids=["before the new comes in", "before the old is removed"])
def test_a_kill_while_results_are_replaced_loses_neither(tmp_path, monkeypatch, rename):
    out = tmp_path / "step"
    run_step(out, write, inputs={"seed": 0})
    owner, name = (Path, "rename") if rename else (shutil, "rmtree")
    original = getattr(owner, name)

    def killed(path: Path, *rest: object, **options: object) -> object:
        if Path(path).name == (".step.part" if rename else ".step.old") and Path(path).exists():
            raise KeyboardInterrupt
        return original(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            run_step(out, write, inputs={"seed": 1})
    assert len(list(tmp_path.rglob("result.txt"))) >= 1
    assert run_step(out, refuse, inputs={"seed": 0 if rename else 1}).status == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["step"]


@pytest.mark.parametrize(
    ("header", "said", "data"),
    [
        ("a.mhd", "NDims = 3\nElementDataFile = a b.raw\n", "a b.raw"),
        ("a.mhd", "ElementDataFile = LIST\na1.raw\na2.raw\n", "a2.raw"),
        ("a.mhd", "ElementDataFile = a%02d.raw 1 2 1\n", "a02.raw"),
        ("a.nhdr", "NRRD0004\ntype: short\ndata file: a.raw.gz\n", "a.raw.gz"),
        ("a.nhdr", "NRRD0004\ndata file: LIST 2\na1.raw\na2.raw\n", "a2.raw"),
        ("a.nhdr", "NRRD0004\ndatafile: a%d.raw 1 3 1\n", "a3.raw"),
    ],
)
def test_fingerprint_follows_the_data_of_a_header(tmp_path, header, said, data):
    (tmp_path / header).write_text(said)
    for name in ("a1.raw", "a2.raw", "a3.raw", "a01.raw", "a02.raw", data):
        (tmp_path / name).write_bytes(b"1")
    first = fingerprint(tmp_path / header)
    (tmp_path / data).write_bytes(b"2")
    assert fingerprint(tmp_path / header) != first
    (tmp_path / data).unlink()
    with pytest.raises(InputError, match=data):
        fingerprint(tmp_path / header)


@pytest.mark.parametrize("given", ["a.hdr", "a.img"])
@pytest.mark.parametrize("changed", ["a.hdr", "a.img", "a.mat"])
def test_fingerprint_follows_all_files_of_a_pair(tmp_path, given, changed):
    for name in ("a.hdr", "a.img", "a.mat", "b.img"):
        (tmp_path / name).write_bytes(b"1")
    first = fingerprint(tmp_path / given)
    (tmp_path / "b.img").write_bytes(b"2")
    assert fingerprint(tmp_path / given) == first
    (tmp_path / changed).write_bytes(b"2")
    assert fingerprint(tmp_path / given) != first


def test_fingerprint_takes_an_empty_file_beside_the_slices(tmp_path):
    (tmp_path / "1.dcm").write_bytes(b"1")
    (tmp_path / "Icon").touch()
    first = fingerprint(tmp_path)
    (tmp_path / "1.dcm").write_bytes(b"2")
    assert fingerprint(tmp_path) != first
    with pytest.raises(InputError, match="is empty"):
        fingerprint(tmp_path / "Icon")


def test_fingerprint_follows_contents_not_times(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"1")
    first = fingerprint(folder)
    os.utime(folder / "1.dcm", (0, 0))
    assert fingerprint(folder) == first
    (folder / "1.dcm").write_bytes(b"2")
    assert fingerprint(folder) != first


def test_a_folder_that_leads_to_the_results_is_no_image(tmp_path):
    out = tmp_path / "results" / "affine"
    for name in ("a.nii.gz", "b.nii.gz", "series/1.dcm", "series/found/x.csv", "results/affine/summary.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert list(find_inputs(out, tmp_path)) == ["a", "b", "series"]
    assert list(find_inputs(tmp_path / "series" / "found", tmp_path)) == ["a", "b", "results", "series"]


@pytest.mark.parametrize("labels", ["scans/labels", "scans/labels/a.nii.gz"])
def test_a_folder_of_labels_among_the_images_is_no_image(tmp_path, labels):
    for name in ("a.nii.gz", "labels/a.nii.gz", "dicom/0001.dcm"):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    images = find_inputs(tmp_path / "out", tmp_path / "scans", beside=[tmp_path / labels])
    assert {*images} == {"a", "dicom"}


def test_slices_with_their_labels_among_them_are_an_image(tmp_path):
    """The subject was left out without a word."""
    for name, content in (("A/1.dcm", bytes(128) + b"DICM"), ("A/A.nii.gz", b"1"), ("B.nii.gz", b"1")):
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scans" / name).write_bytes(content)
    beside = [tmp_path / "scans" / "A" / "A.nii.gz"]
    assert [*find_inputs(tmp_path / "out", tmp_path / "scans", beside=beside)] == ["A", "B"]


def test_a_summary_replaces_no_input_and_no_table_of_ones_own(tmp_path):
    path = tmp_path / "summary.csv"
    require_summary(path)
    write_summary(path, [Outcome("a", "done", 1.0)])
    require_summary(path)
    with pytest.raises(InputError, match="would replace the input"):
        require_summary(path, [None, path])
    path.write_text("name,baseline,followup,lesions\n")
    with pytest.raises(InputError, match="would be replaced by the run's summary"):
        require_summary(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        require_summary(path)

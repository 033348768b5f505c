"""Many pairs in one run: what is recorded, kept, computed once, and gone on with after a kill."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

import samreg
from samreg.cli import app
from samreg.embedding.mind import MindModel
from samreg.errors import InputError
from samreg.landmarks.atlas import ATLASES
from samreg.phantoms import write_dicom_series
from samreg.registration import batch
from samreg.registration.pairs import RegistrationPair, pairs_in_folder, read_registration_pairs
from samreg.spatial import Image

RIGID = ("--method", "registration", "--engine", "torch", "--transform", "rigid", "--spacing", "4")
OPTIONS = {"method": "registration", "engine": "torch", "transform": "rigid", "spacing": 4.0}
SHIFT_MM = 8.0
ATLAS = str(ATLASES / "ct-small.h5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An egg with stripes, the same moved along x, landmarks and labels of both, and an image that is cut."""
    z, y, x = np.mgrid[-12:12, -12:12, -12:12]
    radius = np.sqrt(x**2 + 1.7 * y**2 + z**2)
    egg = np.where(radius < 9, 40 + 20 * np.sin(radius) + x, -1000).astype(np.float32)
    for name, shift in (("fixed", 0.0), ("moving", SHIFT_MM)):
        origin = (shift, 0.0, 0.0)
        labels = np.zeros(egg.shape, np.uint8)
        labels[6:18, 6:18, 6:12], labels[6:18, 6:18, 12:18] = 1, 2
        samreg.write_image(Image.from_array(egg, spacing=4.0, origin=origin), tmp_path / f"{name}.nii.gz")
        samreg.write_image(Image.from_array(labels, spacing=4.0, origin=origin), tmp_path / f"{name}_labels.nii.gz")
        points = samreg.Points(np.array([[40.0, 44.0, 56.0], [60.0, 40.0, 44.0]]) + origin, ("=carina", "apex"))
        samreg.write_points(points, tmp_path / f"{name}.csv")
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "moving.nii.gz").read_bytes()[:2000])
    return tmp_path


def write_table(folder: Path, *rows: str) -> Path:
    table = folder / "pairs.csv"
    header = "name,fixed,moving,fixed_landmarks,moving_landmarks,fixed_labels,moving_labels,fixed_mask"
    table.write_text("\n".join([header, *rows]))
    return table


FULL = "full,fixed.nii.gz,moving.nii.gz,fixed.csv,moving.csv,fixed_labels.nii.gz,moving_labels.nii.gz,"


def write_engine(folder: Path, register: str = "pass") -> str:
    """Write an engine that does this and leaves everything where it is; return its name."""
    path = folder / "engine.py"
    path.write_text(
        "import os, signal, time\n"
        "from samreg.engines import Engine, EngineResult\n"
        "from samreg.spatial import AffineTransform\n"
        "class Mine(Engine):\n"
        "    name = 'mine'\n"
        "    def register(self, request):\n"
        f"        {register}\n"
        "        return EngineResult(AffineTransform.identity(request.fixed.ndim), version='1', log='')\n"
    )
    return f"{path}:Mine"


def keep_one_slice(folder: Path) -> None:
    """Make the volumes slices, of which no picture is drawn, as it takes each process seconds to load what draws."""
    for name in ("fixed", "moving"):
        volume = samreg.read_image(folder / f"{name}.nii.gz")
        samreg.write_image(Image.from_array(volume.array[12], spacing=4.0), folder / f"{name}.nii.gz")


def run(*arguments: object):
    return CliRunner().invoke(app, ["batch", *map(str, arguments)])


def read_summary(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_is_measured_and_a_failing_pair_stops_nothing(folder):
    table = write_table(folder, "broken,fixed.nii.gz,cut.nii.gz", FULL)
    out = folder / "out"
    done = run(table, "-o", out, *RIGID)
    assert done.exit_code == 1, done.output
    assert "1 of 2 not registered, first broken: " in done.output
    broken, full = read_summary(out)
    assert (broken["status"], "cut.nii.gz" in broken["reason"]) == ("failed", True)
    assert (full["status"], full["landmarks"], full["labels"]) == ("registered", "2", "2")
    assert float(full["error_before_mm"]) == pytest.approx(SHIFT_MM)
    assert float(full["error_mean_mm"]) < 0.5 < float(full["dice_min"])
    assert sorted(path.name for path in out.iterdir()) == ["full", "summary.csv"]
    assert (out / "full" / "landmarks.csv").is_file()
    assert json.loads((out / "full" / "result.json").read_text())["verdict"].startswith("good: measured at 2 landmarks")
    assert (out / "full" / "dice.csv").read_text().startswith("label,dice\n1,")
    result = samreg.RegistrationResult.load(out / "full")
    np.testing.assert_allclose(result.transform.transform_points([[40, 40, 40]]), [[48, 40, 40]], atol=0.5)


def test_the_table_gives_the_verdict_of_each_result(folder):
    options = {**OPTIONS, "engine": write_engine(folder)}
    pairs = [RegistrationPair("ANNA", folder / "fixed.nii.gz", folder / "fixed.nii.gz")]
    (outcome,) = samreg.register_many(pairs, folder / "out", **options)
    told = json.loads((folder / "out" / "ANNA" / "result.json").read_text())
    assert outcome.verdict == told["status"] == "check"
    assert outcome.flags == "; ".join(told["to_check"])
    assert "neither measured" in outcome.flags
    (kept,) = samreg.register_many(pairs, folder / "out", **options)
    assert kept.verdict == outcome.verdict


def write_two_series(folder: Path) -> Path:
    """Write both images as DICOM series of one folder, described by their names."""
    for name in ("fixed", "moving"):
        image = replace(samreg.read_image(folder / f"{name}.nii.gz"), name=name)
        write_dicom_series(image, folder / name)
        for slice_ in (folder / name).iterdir():
            (folder / "both").mkdir(exist_ok=True)
            slice_.rename(folder / "both" / f"{name}-{slice_.name}")
    return folder / "both"


def test_the_table_says_which_series_of_a_folder(folder):
    write_two_series(folder)
    table = folder / "pairs.csv"
    table.write_text("fixed,moving,fixed_series,moving_series\nboth,both,fixed,moving\nboth,both,,\n")
    told, untold = samreg.register_many(table, folder / "out", **OPTIONS)
    assert (told.status, untold.status) == ("registered", "failed")
    assert "2 DICOM series" in untold.reason
    images = {name: samreg.read_image(folder / "both", series=name) for name in ("fixed", "moving")}
    result = samreg.RegistrationResult.load(folder / "out" / "pair-001", **images)
    np.testing.assert_allclose(result.transform.transform_points([[40, 40, 40]]), [[48, 40, 40]], atol=0.5)
    table.write_text("fixed,moving,fixed_series,moving_series\nboth,both,fixed,fixed\n")
    (again,) = samreg.register_many(table, folder / "out", **OPTIONS)  # which is another pair
    assert again.status == "registered"
    assert "both" in again.fixed


def test_pictures_take_the_pixel_size_that_is_given(folder):
    for name in ("a", "b"):
        array = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
        Picture.fromarray(array).save(folder / f"{name}.png")
    table = folder / "pairs.csv"
    table.write_text("fixed,moving\na.png,b.png\n")
    options = {**OPTIONS, "engine": write_engine(folder)}
    assert "--pixel-size" in samreg.register_many(table, folder / "out", **options)[0].reason
    (outcome,) = samreg.register_many(table, folder / "out", pixel_size=0.5, **options)
    assert outcome.status == "registered"
    told = json.loads((folder / "out" / "pair-001" / "result.json").read_text())
    assert told["fixed"]["spacing_mm"] == [0.5, 0.5]


def test_results_are_saved_as_they_are_wanted(folder):
    table, options = write_table(folder, FULL), {**OPTIONS, "engine": write_engine(folder)}
    said: list[str] = []
    assert samreg.register_many(table, folder / "out", **options)[0].status == "registered"
    assert not (folder / "out" / "full" / "report.html").exists()
    saved = {"formats": ("nii", "npz"), "field_grid": "full", "report": True}
    samreg.register_many(table, folder / "out", **options, **saved, progress=said.append)
    names = {path.name for path in (folder / "out" / "full").iterdir()}
    assert {"transform.nii.gz", "transform.npz", "report.html"} <= names
    assert "transform.h5" not in names
    assert "kept" not in said[-1]
    with pytest.raises(InputError, match="tiff"):
        samreg.register_many(table, folder / "out", **options, formats="tiff")


def test_only_what_changed_is_done_again(folder, monkeypatch):
    table = write_table(folder, FULL, "masked,fixed.nii.gz,moving.nii.gz,,,,,fixed_labels.nii.gz")
    out, said = folder / "out", []
    options = {**OPTIONS, "engine": write_engine(folder)}
    first = samreg.register_many(table, out, **options)
    assert samreg.register_many(table, out, **options, progress=said.append) == first
    assert said == ["1 of 2, full: registered (kept)", "2 of 2, masked: registered (kept)"]
    points = samreg.read_points(folder / "moving.csv")
    samreg.write_points(samreg.Points(points.positions + 1.0, points.names), folder / "moving.csv")
    said.clear()
    again = samreg.register_many(table, out, **options, progress=said.append)
    assert [text.split(";")[0] for text in said] == ["1 of 2, full: registered", "2 of 2, masked: registered (kept)"]
    assert again[0].error_mean_mm > first[0].error_mean_mm + 0.5
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    said.clear()
    samreg.register_many(table, out, **options, progress=said.append)
    assert said[0] == "1 of 2, full: registered; under a minute left"


def test_the_embedding_of_a_shared_image_is_computed_once(body, folder, monkeypatch):
    for name, shift in (("fixed", 0.0), ("moving", SHIFT_MM)):
        image = Image.from_array(body.array, spacing=4.0, origin=(shift, 0.0, 0.0))
        samreg.write_image(image, folder / f"{name}.nii.gz")
    embedded = []
    embed = MindModel.embed

    def counted(self, image, **options):
        embedded.append((Path(image.name).name, tuple(image.direction.ravel())))
        return embed(self, image, **options)

    monkeypatch.setattr(MindModel, "embed", counted)
    rows = [f"{name},fixed.nii.gz,{moving}" for name, moving in (("a", "moving.nii.gz"), ("b", "fixed.nii.gz"))]
    out = folder / "out"
    options = {"method": "embedding", "transform": "rigid", "model": "mind"}
    outcomes = samreg.register_many(write_table(folder, *rows), out, **options)
    assert [outcome.status for outcome in outcomes] == ["registered"] * 2
    fixed = [call for call in embedded if call[0] == "fixed.nii.gz"]
    assert len(set(fixed)) == len(fixed), "as it lies, and mirrored, once each"
    assert len(list((out / "embeddings").glob("*.h5"))) == len(fixed)
    pair = samreg.register(folder / "fixed.nii.gz", folder / "moving.nii.gz", **options)
    result = samreg.RegistrationResult.load(out / "a")
    points = [[40.0, 40.0, 40.0], [60.0, 50.0, 40.0]]
    np.testing.assert_allclose(
        result.transform.transform_points(points), pair.transform.transform_points(points), atol=1e-3
    )
    assert {**result.options, "threads": None} == pair.options


def test_what_a_library_raises_is_recorded(folder, monkeypatch):
    def out_of_memory(self, image, **options):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(MindModel, "embed", out_of_memory)
    table = write_table(folder, "a,fixed.nii.gz,moving.nii.gz", "b,fixed.nii.gz,moving.nii.gz")
    outcomes = samreg.register_many(table, folder / "out", method="embedding", model="mind")
    assert [outcome.reason.split(";")[0] for outcome in outcomes] == ["out of memory (CUDA out of memory)"] * 2


def test_pairs_may_come_one_by_one(folder):
    """Of a generator none was registered, and nothing was said."""
    table = write_table(folder, "a,fixed.nii.gz,none.nii.gz", "b,none.nii.gz,moving.nii.gz")
    pairs = (pair for pair in read_registration_pairs(table))
    outcomes = samreg.register_many(pairs, folder / "out", method="registration", engine="torch")
    assert [(outcome.name, outcome.status) for outcome in outcomes] == [("a", "failed"), ("b", "failed")]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_killed_run_of_six_pairs_goes_on(folder):
    keep_one_slice(folder)
    engine = write_engine(folder, "time.sleep(float(os.environ.get('PAIR_TAKES_S', '0')))")
    table = write_table(folder, *(f"{name},fixed.nii.gz,moving.nii.gz" for name in "abcdef"))
    out = folder / "out"
    call = (table, "-o", out, "--method", "registration", "--engine", engine, "--transform", "rigid")
    command = [sys.executable, "-m", "samreg.cli", "batch", *map(str, call), "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PAIR_TAKES_S": "1"}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 60
    while not list(out.glob("*/done.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)  # in which its workers end
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/done.json")}
    assert 1 <= len(written) < 6
    assert run(*call).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert [(row["name"], row["status"]) for row in read_summary(out)] == [(name, "registered") for name in "abcdef"]
    assert sorted(path.name for path in out.iterdir()) == [*"abcdef", "summary.csv"]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_pair_whose_process_dies_stops_nothing(folder):
    keep_one_slice(folder)
    engine = write_engine(folder, "if 'cut' in request.moving.name: os.kill(os.getpid(), signal.SIGKILL)")
    (folder / "cut.nii.gz").write_bytes((folder / "moving.nii.gz").read_bytes())
    moving = ("cut", "moving", "fixed", "moving", "fixed")
    table = write_table(
        folder, *(f"{name},fixed.nii.gz,{file}.nii.gz" for name, file in zip("abcde", moving, strict=True))
    )
    outcomes = samreg.register_many(
        table, folder / "out", method="registration", engine=engine, transform="rigid", jobs=2
    )
    statuses = [outcome.status for outcome in outcomes]
    assert statuses[0] == "failed"
    assert "ended by the system" in outcomes[0].reason
    assert statuses.count("registered") >= 3, "but the one, and perhaps the one beside it"


def test_a_dask_cluster_carries_it(folder):
    distributed = pytest.importorskip("distributed")
    table = write_table(folder, "broken,fixed.nii.gz,cut.nii.gz", "whole,fixed.nii.gz,moving.nii.gz")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options, local_directory=str(folder / "dask")) as cluster:
        outcomes = samreg.register_many(
            table, folder / "out", backend="dask", scheduler=cluster.scheduler_address, **OPTIONS
        )
    assert [outcome.status for outcome in outcomes] == ["failed", "registered"]
    with pytest.raises(InputError, match="give one to a cluster"):
        samreg.register_many(table, folder / "out", backend="dask", scheduler="none", device="cpu,cpu")


def test_workers_of_a_cluster_have_folders_of_their_own(folder, monkeypatch):
    @contextlib.contextmanager
    def elsewhere(*_, **__):
        (folder / "worker").mkdir()
        monkeypatch.chdir(folder / "worker")
        yield 1

    write_table(folder, FULL)
    engine = "from samreg.engines.torch_engine import TorchEngine\n\nclass Own(TorchEngine):\n    pass\n"
    (folder / "own.py").write_text(engine)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(batch, "workers", elsewhere)
    (outcome,) = samreg.register_many(
        "pairs.csv", folder / "out", backend="dask", **{**OPTIONS, "engine": "own.py:Own"}
    )
    assert outcome.status == "registered", outcome.reason
    assert outcome.landmarks == outcome.labels == 2


def test_each_process_claims_a_device_of_its_own(tmp_path):
    program = (
        "import sys; from samreg.registration.batch import _slot\n"
        "print(_slot(sys.argv[1]), _slot(sys.argv[1]), flush=True); sys.stdin.read()"
    )
    start = [sys.executable, "-c", program, str(tmp_path)]
    with (
        subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second,
    ):
        claimed = sorted(process.stdout.readline() for process in (first, second))
        first.communicate()
        second.communicate()
    assert claimed == ["0 0\n", "1 1\n"]


def test_pairs_of_a_folder(folder):
    for name in ("fixed_labels", "moving_labels"):
        (folder / f"{name}.nii.gz").unlink()
    assert [pair.name for pair in pairs_in_folder(folder)] == ["cut--fixed", "cut--moving", "fixed--moving"]
    out = folder / "out"
    done = run(folder, "--fixed", folder / "fixed.nii.gz", "-o", out, *RIGID)
    assert done.exit_code == 1
    assert {row["name"]: row["status"] for row in read_summary(out)} == {"cut": "failed", "moving": "registered"}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["a,fixed.nii.gz,"], "line 2: no moving image"),
        (["a,fixed.nii.gz,moving.nii.gz", "a,fixed.nii.gz,cut.nii.gz"], r"share the names \['a'\]"),
        (["a/b,fixed.nii.gz,moving.nii.gz"], "line 2: the name 'a/b'"),
        (["embeddings,fixed.nii.gz,moving.nii.gz"], "'embeddings'"),
        (["a,fixed.nii.gz,moving.nii.gz,fixed.csv"], "landmarks of its fixed image alone"),
        ([], "at least one pair"),
    ],
)
def test_tables_at_fault(folder, rows, says):
    with pytest.raises(InputError, match=says):
        read_registration_pairs(write_table(folder, *rows))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["."], "give --fixed IMAGE or --all-pairs"),
        (["pairs.csv", "--all-pairs"], "is no folder"),
        (["none.csv"], "none.csv"),
        (["pairs.csv", "--device", "cpu,tpu"], "tpu"),
        (["pairs.csv", "--jobs", "0"], "jobs must be"),
        (["pairs.csv", "--engine", "antz"], "unknown engine 'antz'"),
        (["pairs.csv", "--backend", "dask"], "address of its scheduler"),
        (["pairs.csv", "--model", "ct-huge"], "unknown model"),
        (["pairs.csv", "--anchors", "none.h5"], "none.h5"),
        (["pairs.csv", "--anchors", "pairs.csv"], "pairs.csv is no landmark atlas file"),
        (
            ["pairs.csv", "--anchors", ATLAS, "--method", "registration"],
            "guides deformable registrations by embeddings",
        ),
        (["pairs.csv", "--anchors", ATLAS, "--transform", "affine"], "guides deformable registrations by embeddings"),
        (["pairs.csv", "--anchors", ATLAS, "--model", "mind"], "the landmark atlas is of the model ct-small@"),
    ],
)
def test_calls_at_fault_end_before_the_work(folder, monkeypatch, arguments, says):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(batch, "register", lambda *_, **__: pytest.fail("registered"))
    write_table(folder, "a,fixed.nii.gz,moving.nii.gz")
    done = run(*arguments, "-o", "out")
    assert done.exit_code == 2, done.output
    assert says in " ".join(done.output.split())
    assert not (folder / "out").exists()


def test_the_index_of_pandas_is_told(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text(",fixed,moving\n0,a.nii.gz,b.nii.gz\n")
    with pytest.raises(InputError, match=r"index=False"):
        read_registration_pairs(table)


def test_options_and_pairs_are_named_in_messages(tmp_path):
    pair = RegistrationPair("a", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    with pytest.raises(InputError, match="unknown option presets; choose from method, engine"):
        samreg.register_many([pair], tmp_path / "out", presets="fast")
    with pytest.raises(InputError, match="share the names"):
        samreg.register_many([pair, pair], tmp_path / "out")


def test_a_table_is_not_replaced_by_the_summary_of_its_run(tmp_path) -> None:
    table = tmp_path / "summary.csv"
    table.write_text("fixed,moving\na.nii.gz,b.nii.gz\n")
    with pytest.raises(InputError, match=r"summary\.csv"):
        samreg.register_many(table, tmp_path, method="embedding")
    assert table.read_text().startswith("fixed,moving")

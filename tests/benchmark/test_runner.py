from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from samreg import backends
from samreg.benchmark import load_dataset, plan, run_jobs
from samreg.benchmark.datasets.base import sha256
from samreg.benchmark.job import execute, run
from samreg.errors import InputError, MissingExtraError


def calls(methods: Path) -> Counter[str]:
    """How often a method came to its end for each pair."""
    path = methods.with_name("calls.txt")
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def jobs(folder, methods, tmp_path, *names, **options):
    return plan(load_dataset(folder), [f"{methods}:{name}" for name in names], tmp_path / "out", **options)


def test_a_record_holds_everything(folder, methods, tmp_path):
    (record,) = run_jobs(jobs(folder, methods, tmp_path, "right", pairs=1, seed=4))
    assert record["ok"] is True
    assert (record["fixed"], record["moving"], record["seed"], record["threads"]) == ("A", "B", 4, 1)
    np.testing.assert_allclose(record["landmarks"]["error_mm"], 0, atol=1e-9)
    assert record["metrics"]["dice_mean"] == 1
    assert record["landmarks"]["reader_mm"] == [1, 2, 3]
    assert set(record["timings"]) == {"shift", "inverse"}
    assert record["job_seconds"] > record["seconds"] >= 0
    assert 0.02 < record["peak_memory_gb"] < 4
    assert set(record["versions"]) == {"samreg"}
    assert json.loads(Path(record["record"]).read_text()) == record
    assert not list((tmp_path / "out").rglob(".samreg-*"))


def test_a_run_goes_on_where_it_stopped(folder, methods, tmp_path):
    todo = jobs(folder, methods, tmp_path, "right", pairs=2)
    run_jobs(todo[:1])
    seen = []
    records = run_jobs(todo, progress=seen.append)
    assert [record["moving"] for record in records] == ["B", "C"]
    assert [(now.done, now.total, now.record["moving"]) for now in seen] == [(2, 2, "C")]
    assert set(calls(methods).values()) == {1}
    Path(todo[0].record).write_text('{"half a rec')  # what no run of ours leaves
    assert all(record["ok"] for record in run_jobs(todo))
    assert sorted(calls(methods).values()) == [1, 2]


def test_other_data_options_code_or_seeds_are_other_results(folder, methods, tmp_path):
    def keys(**options):
        return [job.key for job in jobs(folder, methods, tmp_path, "right", pairs=1, **options)]

    before = keys()
    assert keys() == before
    assert keys(seed=1) != before
    assert keys(threads=2) != before
    methods.write_text(methods.read_text() + "\nANOTHER = 1\n")
    assert keys() != before
    before = keys()
    landmarks = folder / "landmarks.csv"
    landmarks.write_text(landmarks.read_text().replace("B,point_0,28.0", "B,point_0,29.0"))
    assert keys() != before


def test_what_fails_is_recorded_and_stops_nothing(folder, methods, tmp_path):
    todo = jobs(folder, methods, tmp_path, "raises", "gives_up", "crashes", "right", pairs=1)
    records = run_jobs(todo, parallel=2)
    reasons = [record["reason"] for record in records]
    assert [record["ok"] for record in records] == [False, False, False, True]
    assert reasons[:2] == ["these images are too square", "too few matches"]
    assert "killed by signal 9 (out of memory?)" in reasons[2]
    methods.write_text(methods.read_text())
    again = run_jobs(todo, retry_failed=False)
    assert again == records
    seen = []
    run_jobs(todo[1::2], retry_failed=True, progress=seen.append)
    assert [now.record["reason"] for now in seen] == ["too few matches"]
    assert calls(methods).total() == 1


def test_missing_images_and_damaged_ones_are_failures_of_their_pairs(folder, methods, tmp_path):
    (folder / "images" / "C.nii.gz").write_bytes(b"no image")
    records = run_jobs(jobs(folder, methods, tmp_path, "right", pairs=2))
    assert [record["ok"] for record in records] == [True, False]
    assert "C.nii.gz" in records[1]["reason"]


def test_landmarks_of_another_frame_are_refused_before_the_method_runs(folder, methods, tmp_path):
    table = folder / "landmarks.csv"
    table.write_text(table.read_text().replace("B,point_0,28.0,16.0", "B,point_0,-28.0,-16.0"))
    (job,) = jobs(folder, methods, tmp_path, "right", pairs=1)
    record = run(job)
    assert not record["ok"]
    assert record["reason"].startswith(f"{table}: 1 of 3 points lie outside the image of B: point_0 [-28.0")
    assert not calls(methods)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes in /proc")
def test_a_run_that_is_killed_loses_nothing_that_was_done(folder, methods, tmp_path, monkeypatch):
    todo = jobs(folder, methods, tmp_path, "right", "slow", pairs=1)
    program = (
        "import json, sys; from samreg.benchmark import run_jobs; from samreg.benchmark.job import Job; "
        "run_jobs([Job(**job) for job in json.loads(sys.argv[1])])"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    process = subprocess.Popen([sys.executable, "-c", program, json.dumps([*map(asdict, todo)])], env=environment)
    (started,) = wait_for(lambda: list(tmp_path.glob("started-*")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    child = int(started.name.split("-")[1])
    wait_for(lambda: not Path(f"/proc/{child}").exists() or _zombie(child))  # its job dies with it
    right, slow = (Path(job.record) for job in todo)
    assert (right.exists(), slow.exists()) == (True, False)
    before = right.stat().st_mtime_ns
    monkeypatch.setenv("SLOW_S", "0")
    assert all(record["ok"] for record in run_jobs(todo))
    assert right.stat().st_mtime_ns == before
    assert slow.exists()
    assert calls(methods).total() == 2


def test_relative_paths_count_from_where_the_run_was_planned(folder, methods, tmp_path, monkeypatch):
    elsewhere = tmp_path / "worker"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    (job,) = jobs(os.path.relpath(folder), os.path.relpath(methods), tmp_path, "right", pairs=1)
    monkeypatch.chdir(elsewhere)
    assert execute(job)["ok"]


def test_the_numbers_of_a_pair_are_the_same_when_rerun(folder, methods, tmp_path):
    hashes = {f"images/{name}.nii.gz": sha256(folder / "images" / f"{name}.nii.gz") for name in "AB"}
    files = {name: {"sha256": value, "pictures": True} for name, value in hashes.items()}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    todo = [
        plan(load_dataset(folder), [f"{methods}:noisy"], tmp_path / out, pairs=1, seed=seed)
        for out, seed in (("once", 3), ("again", 3), ("other", 4))
    ]
    once, again, other = (run(job) for jobs in todo for job in jobs)
    for part in ("metrics", "landmarks", "labels", "jacobian"):
        assert once[part] == again[part]
    assert once["landmarks"] != other["landmarks"]
    assert Path(once["record"]).with_suffix(".png").exists()  # the manifest allows it


def test_arguments_are_checked(folder, methods, tmp_path):
    for options, message in (
        ({"pairs": 0}, "pairs must be a whole number of at least 1, got 0"),
        ({"threads": "2"}, "threads must be a whole number of at least 1, got '2'"),
        ({"seed": -1}, "seed must be a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            jobs(folder, methods, tmp_path, "right", **options)
    for names in ([], "identity"):
        with pytest.raises(InputError, match="name at least one method in a list"):
            plan(load_dataset(folder), names, tmp_path)
    with pytest.raises(InputError, match="unknown model 'no-such-model'"):
        plan(load_dataset(folder), ["identity", "embedding-affine:no-such-model"], tmp_path)
    todo = jobs(folder, methods, tmp_path, "right", pairs=1)
    with pytest.raises(InputError, match="unknown backend 'ray'"):
        run_jobs(todo, backend="ray")
    with pytest.raises(InputError, match="needs the address of its scheduler"):
        run_jobs(todo, backend="dask")
    with pytest.raises(InputError, match="jobs must be a whole number of at least 1, got 0"):
        run_jobs(todo, parallel=0)


def test_no_scheduler_and_no_dask(folder, methods, tmp_path, monkeypatch):
    todo = jobs(folder, methods, tmp_path, "right", pairs=1)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"samreg\[cluster\]"):
        run_jobs(todo, backend="dask", scheduler="tcp://127.0.0.1:1")


def test_a_scheduler_without_workers(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(backends, "_WORKERS_TIMEOUT_S", 0.1)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster,
        pytest.raises(InputError, match=r"has no workers, after 0\.1 s"),
        backends.workers("dask", scheduler=cluster.scheduler_address),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_is_no_failure(folder, methods, tmp_path, monkeypatch, number):
    (job,) = jobs(folder, methods, tmp_path, "slow", pairs=1)
    popen = _Interrupted(subprocess.Popen, lambda: list(tmp_path.glob("started-*")), number)
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(KeyboardInterrupt):
        execute(job)
    assert not Path(job.record).exists()


class _Interrupted:
    """Popen whose wait() interrupts the child once it works."""

    def __init__(self, popen, started, number):
        self.popen, self.started, self.number = popen, started, number

    def __call__(self, *arguments, **options):
        process = self.popen(*arguments, **options)
        wait = process.wait

        def interrupt():
            wait_for(self.started)
            process.send_signal(self.number)
            return wait()

        process.wait = interrupt
        return process


def test_a_dask_worker_killed_midway_loses_nothing_and_repeats_nothing(folder, methods, tmp_path):
    distributed = pytest.importorskip("distributed")
    todo = jobs(folder, methods, tmp_path, "slow", pairs=4)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options, local_directory=str(tmp_path / "dask")) as cluster:
        killed = []

        def kill_one(now):
            if not killed:
                killed.append(now_running(cluster, methods.parent))
                os.kill(killed[0], signal.SIGKILL)

        records = run_jobs(todo, backend="dask", scheduler=cluster.scheduler_address, progress=kill_one)
    assert killed
    assert [(r["fixed"], r["moving"], r["ok"]) for r in records] == [(j.fixed, j.moving, True) for j in todo]
    assert len(list((tmp_path / "out").rglob("*.json"))) == 4
    assert set(calls(methods).values()) == {1}
    assert len(calls(methods)) == 4


def now_running(cluster, folder: Path) -> int:
    """The process of a worker whose job is in the middle of the method `slow`, with a second of it left at least."""
    import psutil

    def begun(child):
        with contextlib.suppress(FileNotFoundError):
            return time.time() - (folder / f"started-{child.pid}").stat().st_mtime < 2
        return False

    def busy():
        for worker in cluster.workers.values():
            with contextlib.suppress(psutil.Error):  # it has just ended
                children = psutil.Process(worker.pid).children(recursive=True)
                if any(begun(child) for child in children):
                    return worker.pid
        return None

    return wait_for(busy)


def wait_for(condition, seconds: float = 120.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)
    return value


def _zombie(pid: int) -> bool:
    return " Z " in Path(f"/proc/{pid}/stat").read_text()

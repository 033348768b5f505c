"""One registration of the benchmark, in a process of its own.

A process of its own has exactly the threads it is given, its peak memory is that of the method, and a crash in an
engine, or the kernel's out-of-memory killer, takes nothing else down.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from samreg.engines.child import die_with_parent, own_peak, spawn, worker_peaks
from samreg.spatial.files import atomic_path, scratch_folder
from samreg.steps import failure

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
# signals that end a run and, where they go to all its processes, its jobs; Windows lacks the last
_INTERRUPTS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_LOG_CHARACTERS = 2000  # of a crashed job's output that are shown


@dataclass(frozen=True)
class Job:
    """A pair and a method.

    Parameters
    ----------
    data, method
        As :func:`~samreg.benchmark.datasets.load_dataset` and :func:`~samreg.benchmark.methods.get_method` take them.
    fixed, moving
        Names of the cases.
    threads, seed
        For the method.
    key
        Hash of all that the result depends on.
    record
        The file for the result; it exists once the job is done.
    folder
        From which relative paths of ``data`` and ``method`` count: other processes work elsewhere.
    """

    data: str
    method: str
    fixed: str
    moving: str
    threads: int
    seed: int
    key: str
    record: str
    folder: str


def read_record(path: str) -> dict[str, Any] | None:
    """Return what a job left; None when there is nothing whole."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def execute(job: Job) -> dict[str, Any]:
    """Do the job in a child process unless its record is there already, and return the record.

    A crash of the child becomes a record of a failure.

    Raises
    ------
    KeyboardInterrupt
        When the child was interrupted; it leaves no record.
    """
    if record := read_record(job.record):
        return record
    start = time.perf_counter()
    environment = dict.fromkeys(_THREADS, str(job.threads))
    with scratch_folder() as folder, (folder / "output.txt").open("w+b") as output:
        child = spawn("samreg.benchmark.job", environment=environment, stdout=output)
        try:
            assert child.stdin is not None
            child.stdin.write(json.dumps(asdict(job)) + "\n")
            child.stdin.flush()  # and keep it open: its end tells the child that we are gone
            status = child.wait()
        except BaseException:
            child.kill()
            raise
        if record := read_record(job.record):
            return record
        if -status in _INTERRUPTS:
            raise KeyboardInterrupt
        output.seek(0)
        log = output.read().decode(errors="replace")[-_LOG_CHARACTERS:].strip()
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    hint = " (out of memory?)" if status == -9 else ""
    return _write(job, {"ok": False, "reason": f"the process {how}{hint}\n{log}".strip()}, start)


def run(job: Job) -> dict[str, Any]:
    """Do the job in this process, write its record, and return it.

    What the method or its data raise becomes a record of a failure.
    """
    start = time.perf_counter()
    try:
        content = _register_and_measure(job)
    except (Exception, SystemExit) as error:  # users' methods raise anything
        content = {"ok": False, "reason": failure(error)}
    return _write(job, content, start)


def _register_and_measure(job: Job) -> dict[str, Any]:
    from samreg.benchmark.datasets import load_dataset
    from samreg.benchmark.methods.registry import get_method
    from samreg.benchmark.metrics import common_landmarks, measure
    from samreg.benchmark.report.pictures import write_case_picture

    data, method = load_dataset(job.data), get_method(job.method)
    fixed, moving = data.cases[job.fixed], data.cases[job.moving]
    images = fixed.image(), moving.image()
    landmarks = common_landmarks(fixed, moving, images)  # which raises for those of another frame: before the method
    start = time.perf_counter()
    with worker_peaks() as peaks:
        result = method(*images, threads=job.threads, seed=job.seed)
    seconds, memory = time.perf_counter() - start, _peak_memory(max(peaks, default=0))
    timings = dict(getattr(result, "timings", None) or {})
    about = {
        "versions": method.versions, "options": dict(method.options), "seconds": seconds, "peak_memory_gb": memory,
        "timings": timings,
    }  # fmt: skip
    if not result:
        return {"ok": False, "reason": str(getattr(result, "reason", "")) or "the method gave up", **about}
    start = time.perf_counter()
    inverse = getattr(result, "inverse", None) or result.transform.inverse()
    timings["inverse"] = time.perf_counter() - start
    if fixed.pictures and landmarks is not None:
        edges = images[1] if moving.pictures else None
        back = inverse.transform_points(landmarks[1].positions)
        write_case_picture(Path(job.record).with_suffix(".png"), images[0], edges, result.transform, landmarks[0], back)
    measures = measure(fixed, moving, images, result.transform, inverse, learn2reg=data.learn2reg)
    return {"ok": True, "reason": "", **about, **measures}


def _write(job: Job, content: Mapping[str, Any], start: float) -> dict[str, Any]:
    record = {**asdict(job), **content, "job_seconds": time.perf_counter() - start}
    with atomic_path(job.record) as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    return record


def _peak_memory(worker: int) -> float | None:
    """Return the most memory this process held at once plus the most a child did, GB; None on Windows.

    On Linux a process begins with the peak of the one that started it, so its own is read from its status, and a
    child's counts only where it is above what this process had held, or where an engine's worker says what it held,
    ``worker`` bytes.
    """
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    process = own_peak()
    return (process + (children if children > process else worker)) / 1e9


def _main() -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    die_with_parent()
    with suppress(OSError):  # a cluster's worker may lack it, and needs it for relative paths alone
        os.chdir(job.folder)
    run(job)


if __name__ == "__main__":
    _main()

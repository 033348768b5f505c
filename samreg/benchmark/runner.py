"""Running every method on every pair: in parallel, resumable, on one machine or a cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from samreg.backends import BACKENDS, workers
from samreg.benchmark.datasets import DataSet
from samreg.benchmark.datasets.base import digest
from samreg.benchmark.job import Job, execute, read_record
from samreg.benchmark.methods import Method, get_method
from samreg.errors import InputError, require_choice, require_number, require_seed
from samreg.spatial.files import require_path

_RECORD_VERSION = 1  # to be raised when a measure changes


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a job.

    Parameters
    ----------
    record
        Of the job that has just ended.
    done, total
        Jobs.
    remaining_s
        Estimate, from how long the same methods took so far.
    """

    record: dict[str, Any]
    done: int
    total: int
    remaining_s: float


def plan(
    data: DataSet,
    methods: Sequence[str],
    out: str | os.PathLike[str],
    *,
    pairs: int | None = None,
    threads: int = 1,
    seed: int = 0,
) -> list[Job]:
    """Return the jobs of a benchmark, pair by pair.

    Parameters
    ----------
    data
        The data set.
    methods
        As :func:`samreg.benchmark.methods.get_method` takes them.
    out
        Folder of the records.
    pairs
        How many of the pairs, from the first; all unless given.
    threads, seed
        For each method. They are part of what a record is for: another number of threads is another run.

    Raises
    ------
    InputError
        For an unknown method or model, no method or no pairs.
    MissingExtraError
        When a method needs a package that is not installed.

    Examples
    --------
    >>> from pathlib import Path
    >>> from samreg.benchmark import load_dataset, plan
    >>> jobs = plan(load_dataset("phantom:2:8"), ["identity", "embedding-affine"], Path("out"), pairs=1)
    >>> [(job.method, job.fixed, job.moving) for job in jobs]
    [('identity', 'phantom-000', 'phantom-001'), ('embedding-affine', 'phantom-000', 'phantom-001')]
    """
    if pairs is not None:
        require_number("pairs", pairs, minimum=1, integer=True)
    if not methods or isinstance(methods, str):
        raise InputError(f"name at least one method in a list, such as ['identity'], got {methods!r}")
    threads = require_number("threads", threads, minimum=1, integer=True)
    seed, out = require_seed(seed), require_path("out", out)
    fingerprints = {name: _checked(get_method(name)).fingerprint for name in methods}
    jobs = []
    for fixed, moving in data.pairs[:pairs]:
        for name, fingerprint in fingerprints.items():
            cases = [data.cases[case].fingerprint for case in (fixed, moving)]
            key = digest([_RECORD_VERSION, cases, fingerprint, threads, seed])
            file = f"{_file_name(fixed)}--{_file_name(moving)}--{key[:12]}.json"
            record = out.absolute() / "records" / _file_name(data.name) / _file_name(name) / file
            jobs.append(Job(data.spec, name, fixed, moving, threads, seed, key, str(record), os.getcwd()))
    return jobs


def _checked(method: Method) -> Method:
    """Return the method if its model, where it has one, can be loaded: said before hours of work, not after."""
    if "model" in method.options:
        from samreg.embedding import load_model

        load_model(method.options["model"])
    return method


def run_jobs(
    jobs: Sequence[Job],
    *,
    parallel: int = 1,
    backend: str = "local",
    scheduler: str | None = None,
    retry_failed: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> list[dict[str, Any]]:
    """Do the jobs that have no record yet, and return the records of all, in order.

    A record is written whole as soon as its job ends, so that a run that is killed loses the jobs in flight alone.

    Parameters
    ----------
    jobs
        From :func:`plan`.
    parallel
        Jobs at a time on this machine.
    backend
        "local", or "dask": on a cluster whose workers see data, records and code under the same paths.
    scheduler
        Address of the Dask scheduler.
    retry_failed
        Do the failed ones again.
    progress
        Called after each job.

    Raises
    ------
    InputError
        For an unknown backend, or a scheduler that is missing or does not answer.
    MissingExtraError
        When Dask is not installed.
    """
    import joblib

    require_choice("backend", backend, BACKENDS)
    records = {job.record: read_record(job.record) for job in jobs}
    for path, record in records.items():
        if record:
            record["record"] = path  # the folder may have moved
    failed = [path for path, record in records.items() if record and not record["ok"]]
    for path in failed if retry_failed else []:
        Path(path).unlink()
        records[path] = None
    todo = [job for job in jobs if records[job.record] is None]
    # each thread waits for a process of its own
    with workers(backend, jobs=parallel, scheduler=scheduler, local="threading") as count:
        # jobs take minutes, so none may wait for another in a batch
        work = joblib.Parallel(n_jobs=count, batch_size=1, return_as="generator_unordered")
        for record in work(joblib.delayed(execute)(job) for job in todo):
            records[record["record"]] = record
            if progress is not None:
                progress(Progress(record, *_estimate(records, jobs, count)))
    return [record for record in records.values() if record is not None]


def _estimate(records: dict[str, dict[str, Any] | None], jobs: Sequence[Job], workers: int) -> tuple[int, int, float]:
    """Return how many jobs are done, of how many, and the seconds that the others will take."""
    seconds: dict[str, list[float]] = {}
    for record in filter(None, records.values()):
        seconds.setdefault(record["method"], []).append(record["job_seconds"])
    typical = {name: median(times) for name, times in seconds.items()}
    expected = [typical.get(job.method, mean(typical.values())) for job in jobs if records[job.record] is None]
    return len(records) - len(expected), len(records), sum(expected) / workers


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name)

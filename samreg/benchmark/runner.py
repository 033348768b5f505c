"""Running every method on every pair: in parallel, resumable, on one machine or a cluster."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from samreg.benchmark.datasets import DataSet
from samreg.benchmark.datasets.base import digest
from samreg.benchmark.job import Job, execute, read_record
from samreg.benchmark.methods.registry import get_method
from samreg.errors import InputError, MissingExtraError

BACKENDS = ("local", "dask")
_FORMAT = 1  # of the records; raise it when a measure changes


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
    out: Path,
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
        For an unknown method, no method or no pairs.
    MissingExtraError
        When a method needs a package that is not installed.
    """
    if pairs is not None and pairs < 1:
        raise InputError(f"pairs must be at least 1, got {pairs}")
    if not methods:
        raise InputError("name at least one method; `samreg benchmark --methods list` shows them")
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    prints = {name: get_method(name).fingerprint for name in methods}
    jobs = []
    for fixed, moving in data.pairs[:pairs]:
        for name, fingerprint in prints.items():
            cases = [data.cases[case].fingerprint for case in (fixed, moving)]
            key = digest([_FORMAT, cases, fingerprint, threads, seed])
            file = f"{_plain(fixed)}--{_plain(moving)}--{key[:12]}.json"
            record = out.absolute() / "records" / _plain(data.name) / _plain(name) / file
            jobs.append(Job(data.spec, name, fixed, moving, threads, seed, key, str(record)))
    return jobs


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

    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    records = {job.record: read_record(job.record) for job in jobs}
    for path, record in records.items():
        if record:
            record["record"] = path  # the folder may have moved
    again = [path for path, record in records.items() if retry_failed and record and not record["ok"]]
    for path in again:
        Path(path).unlink()
        records[path] = None
    todo = [job for job in jobs if records[job.record] is None]
    with _backend(backend, scheduler, parallel) as workers:
        # jobs take minutes, so none may wait for another in a batch
        work = joblib.Parallel(n_jobs=workers, batch_size=1, return_as="generator_unordered")
        for record in work(joblib.delayed(execute)(job) for job in todo):
            records[record["record"]] = record
            if progress is not None:
                progress(Progress(record, *_estimate(records, jobs, workers)))
    return [record for record in records.values() if record is not None]


@contextlib.contextmanager
def _backend(name: str, scheduler: str | None, parallel: int) -> Iterator[int]:
    """Make joblib run jobs there, and yield how many at a time."""
    import joblib

    if name == "local":
        if parallel < 1:
            raise InputError(f"jobs must be at least 1, got {parallel}")
        with joblib.parallel_config(backend="threading"):  # each thread waits for a process of its own
            yield parallel
        return
    if scheduler is None:
        raise InputError("the dask backend needs the address of its scheduler, as tcp://HOST:8786")
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError('the dask backend needs distributed: pip install "samreg[cluster]"') from error
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {scheduler}: {error}") from error
    with client, joblib.parallel_config(backend="dask"):
        client.wait_for_workers(1, timeout=60)
        yield sum(client.ncores().values())


def _estimate(records: dict[str, dict[str, Any] | None], jobs: Sequence[Job], workers: int) -> tuple[int, int, float]:
    took: dict[str, list[float]] = {}
    for record in filter(None, records.values()):
        took.setdefault(record["method"], []).append(record["job_seconds"])
    typical = {name: median(times) for name, times in took.items()}
    rest = [typical.get(job.method, mean(typical.values())) for job in jobs if records[job.record] is None]
    return len(records) - len(rest), len(records), sum(rest) / workers


def _plain(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name)

"""Where the parts of a long run are computed: in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from samreg.errors import InputError, MissingExtraError, SamregError, require_choice, require_number
from samreg.spatial.files import scratch_folder, scratch_within

T = TypeVar("T")
R = TypeVar("R")

BACKENDS = ("local", "dask")
_SCHEDULER_TIMEOUT_S, _WORKERS_TIMEOUT_S = 10, 60
_NO_ANSWER = (OSError, asyncio.TimeoutError)  # the latter is no OSError in Python 3.10
_PARENT_CHECK_S = 0.5
_watched: set[int] = set()  # parents whose end this process waits for


@contextlib.contextmanager
def workers(name: str, *, jobs: int = 1, scheduler: str | None = None, local: str = "loky") -> Iterator[int]:
    """Let ``joblib.Parallel`` work on this machine or on a cluster within the block.

    Parameters
    ----------
    name
        "local", or "dask": on a cluster whose workers see code, data and results under the same paths.
    jobs
        Tasks at a time on this machine; a cluster decides for itself.
    scheduler
        Address of the Dask scheduler.
    local
        joblib's backend on this machine.

    Yields
    ------
    int
        How many tasks run at a time.

    Raises
    ------
    InputError
        For an unknown backend, or a scheduler that is missing, does not answer or has no workers.
    MissingExtraError
        When Dask is not installed.

    Examples
    --------
    >>> import joblib
    >>> with workers("local", jobs=2, local="threading") as count:
    ...     joblib.Parallel(n_jobs=count)(joblib.delayed(abs)(number) for number in (-1, -2))
    [1, 2]
    """
    import joblib

    require_choice("backend", name, BACKENDS)
    if name == "local":
        require_number("jobs", jobs, minimum=1, integer=True)
        with joblib.parallel_config(backend=local):
            yield jobs
        return
    if scheduler is None:
        raise InputError("the dask backend needs the address of its scheduler, as tcp://HOST:8786")
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError('the dask backend needs distributed: pip install "samreg[cluster]"') from error
    try:
        client = Client(scheduler, timeout=_SCHEDULER_TIMEOUT_S)
    except (*_NO_ANSWER, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {scheduler}: {error}") from error
    with client, joblib.parallel_config(backend="dask"):
        try:
            client.wait_for_workers(1, timeout=_WORKERS_TIMEOUT_S)
        except _NO_ANSWER as error:
            raise InputError(
                f"the Dask scheduler at {scheduler} has no workers, after {_WORKERS_TIMEOUT_S} s; start some"
            ) from error
        yield sum(client.ncores().values())


def each(work: Callable[[T], R], items: Iterable[T], *, jobs: int) -> Iterator[R]:
    """Yield what a function returns of each item, in their order, from processes that follow this one.

    Parameters
    ----------
    work
        A function of a module, or a partial of one, as any process must find it.
    items
        What it is called with.
    jobs
        Processes; 1 is this one.

    Raises
    ------
    SamregError
        When the system ends a process.

    Examples
    --------
    >>> list(each(abs, (-1, -2), jobs=1))
    [1, 2]
    """
    import joblib

    parent = this_process()
    try:
        with scratch_folder() as scratch:
            tasks = (joblib.delayed(_beside)(*parent, scratch, work, item) for item in items)
            yield from joblib.Parallel(n_jobs=jobs, batch_size=1, return_as="generator")(tasks)
    except BrokenProcessPool as error:
        raise SamregError(
            "a process was ended by the system, probably out of memory; what was finished is kept: run the same "
            "command again with fewer jobs"
        ) from error


def _beside(parent: int, folder: str, scratch: Path, work: Callable[[T], R], item: T) -> R:
    follow(parent, folder)
    with scratch_within(scratch):
        return work(item)


def this_process() -> tuple[int, str]:
    """Return what a worker process needs to :func:`follow` this one.

    Raises
    ------
    InputError
        When the working folder was removed.
    """
    try:
        return os.getpid(), os.getcwd()
    except FileNotFoundError:
        raise InputError("the working folder no longer exists; change to one that does (cd, os.chdir)") from None


def follow(parent: int, folder: str) -> None:
    """Let this worker process work in the folder of the process that started it, and end with it, even a killed one.

    joblib keeps its workers for the next call, minutes later, in the folder in which they were started: relative paths
    would be those of another folder. And they finish the task at hand when their parent is gone, and would write where
    the next run writes.

    Parameters
    ----------
    parent
        Process id of the parent. Where that is not this process's parent, as in the parent itself, nothing is done.
    folder
        The parent's working folder.
    """
    if os.getppid() != parent:
        return
    os.chdir(folder)
    if parent in _watched:
        return
    _watched.add(parent)

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def duration_text(seconds: float) -> str:
    """Return a duration in words, to the minute.

    Examples
    --------
    >>> [duration_text(seconds) for seconds in (20, 130, 7300)]
    ['under a minute', '2 min', '2 h 2 min']
    """
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else "under a minute"
    )

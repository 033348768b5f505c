"""Where arithmetic runs: the torch device, its floating-point type, and the number of CPU threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samreg._forked import cuda_is_lost, usable_threads
from samreg.errors import InputError, require_number

if TYPE_CHECKING:
    import torch

MAX_THREADS = 1024  # more than machines have processors; tens of thousands end the process


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the torch device to run on; "auto" takes the first present of cuda, mps and cpu.

    Raises
    ------
    InputError
        When the device is unknown or not present.

    Examples
    --------
    >>> from samreg.device import resolve_device
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    import torch

    if cuda_is_lost() and not str(device).startswith("cpu"):
        raise InputError(
            f"device {str(device)[:40]!r}: this process was forked from one that had used CUDA, which cannot be used "
            'here; start processes with "spawn", or give device="cpu"'
        )
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = [name for name, is_present in available.items() if is_present]
    if isinstance(device, str) and device == "auto":
        return torch.device(names[0])
    choices = ", ".join(("auto", *names))
    try:
        if isinstance(device, bool):  # for torch a number
            raise TypeError
        resolved = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise InputError(f"unknown device {str(device)[:40]!r}; choose one of {choices}") from None
    if resolved.type not in names:
        raise InputError(f"device {device!r} is not available on this machine; choose one of {choices}")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {device!r} is not available: this machine has {torch.cuda.device_count()} CUDA devices; "
            "choose cuda:0"
        )
    return resolved


def search_device(device: str | torch.device) -> torch.device:
    """Return where to search for matches: the device, or the CPU in place of one without double precision (MPS).

    Raises
    ------
    InputError
        As :func:`resolve_device` does.

    Examples
    --------
    >>> search_device("cpu")
    device(type='cpu')
    """
    import torch

    resolved = resolve_device(device)
    return torch.device("cpu") if resolved.type == "mps" else resolved


def inference_dtype(device: torch.device) -> torch.dtype:
    """Return the fastest safe floating-point type: half precision where the hardware computes in it.

    Examples
    --------
    >>> import torch
    >>> inference_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)
    True
    """
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_computes_in_bfloat16() else torch.float32


def _cpu_computes_in_bfloat16() -> bool:
    import torch

    if hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 and newer
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:  # another system than Linux: single precision is always right
        return False
    return "avx512_bf16" in flags


def available_cpus() -> int:
    """Return how many processors this process may use: those of its affinity, within the quota of its container.

    Examples
    --------
    >>> available_cpus() >= 1
    True
    """
    import joblib

    return int(joblib.cpu_count())


@contextmanager
def cpu_threads(threads: int | None = None) -> Iterator[None]:
    """Let torch and SimpleITK use this many threads within the block, and BLAS one.

    A BLAS that shares its tiny products among threads waits for them in a loop; where other programs want the cores
    too, it waits for most of the time. Blocks may be nested, and run in several Python threads: the number that was
    entered last counts for all of them, since torch and SimpleITK keep one for the process, and what was set before the
    first block is set again after the last.

    Parameters
    ----------
    threads
        As many as torch is set to unless given, but not more than the process may use.

    Raises
    ------
    InputError
        When ``threads`` is not a whole number from 1 to 1024.

    Examples
    --------
    >>> import torch
    >>> with cpu_threads(1):
    ...     torch.get_num_threads()
    1
    """
    import torch

    if threads is None:
        count = min(torch.get_num_threads(), available_cpus())
    else:
        count = require_number("threads", threads, minimum=1, maximum=MAX_THREADS, integer=True)
    with _POOLS.limited(count):
        yield


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Let torch compute within the block as it does by default, whatever the caller has set for work of their own.

    That is: gradients can be taken (no ``torch.no_grad()`` or ``torch.inference_mode()``), nothing is rounded by
    ``torch.autocast``, and new tensors are of single precision and on the CPU unless the code says otherwise. The
    precision is one for the process: other threads see it for as long as a block runs. All is set back at the end.

    Public functions that compute with torch are decorated with it.

    Examples
    --------
    >>> import torch
    >>> with torch.inference_mode(), torch_defaults():
    ...     torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    (False, True)
    """
    import torch

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # turns gradients on, too
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_SINGLE_PRECISION)
        yield


#: Threads that tasks within a task may take; 0 outside :func:`run_in_threads`.
_WIDTH: ContextVar[int] = ContextVar("width", default=0)


def run_in_threads(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run tasks in Python threads of their own, which share torch's threads, and return their results in order.

    Small steps one after another gain little from threads of torch, and less than nothing from those that others use.
    As many run at once as torch has threads, tasks within tasks too; one after another where it has one.

    Parameters
    ----------
    tasks
        Those that take longest first.

    Examples
    --------
    >>> run_in_threads([lambda: 1, lambda: 2])
    [1, 2]
    """
    import torch
    from joblib import Parallel, delayed

    with cpu_threads():
        width = _WIDTH.get() or torch.get_num_threads()
        count = min(len(tasks), width)
        if count < 2:
            return [task() for task in tasks]

        def run(task: Callable[[], Any]) -> tuple[Any, Exception | None]:
            before = _WIDTH.set(width)
            try:
                return task(), None
            except Exception as error:  # raised when all have ended, as none may run on in a block that is left
                return None, error
            finally:
                _WIDTH.reset(before)

        with cpu_threads(max(1, torch.get_num_threads() // count)):
            outcomes = Parallel(n_jobs=count, require="sharedmem")(delayed(run)(task) for task in tasks)
    for _, error in outcomes:
        if error is not None:
            raise error
    return [result for result, _ in outcomes]


class _ThreadPools:
    """The thread pools of the process, and the blocks that limit them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[object, int] = {}  # of the blocks that are entered, in order
        self._before = ExitStack()

    @contextmanager
    def limited(self, count: int) -> Iterator[None]:
        """Limit torch and SimpleITK to so many threads within the block, and BLAS to one."""
        block = object()
        with self._lock:
            if not self._counts:
                self._before = self._restorer()
            self._counts[block] = count
        try:
            with self._lock:
                self._set(count)
            yield
        finally:
            with self._lock:
                del self._counts[block]
                if self._counts:
                    self._set([*self._counts.values()][-1])
                else:
                    self._before.close()

    @staticmethod
    def _set(count: int) -> None:
        import SimpleITK as sitk
        import torch

        torch.set_num_threads(usable_threads(count))
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)

    @staticmethod
    def _restorer() -> ExitStack:
        """Limit BLAS, and return what sets all pools as they were."""
        import scipy.linalg  # noqa: F401  # a library that is not loaded yet cannot be limited
        import SimpleITK as sitk
        import torch
        from threadpoolctl import ThreadpoolController

        stack = ExitStack()
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads, sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        )
        controller = ThreadpoolController()
        stack.enter_context(controller.limit(limits=1, user_api="blas"))
        for library in controller.lib_controllers:
            # threadpoolctl 3.8 and newer let only the thread that set a limit lift it; ours may be left in another one
            release = getattr(library, "clear_controlling_thread", None)
            if release is not None:
                stack.callback(release, force=True)
        return stack


_POOLS = _ThreadPools()


class _SinglePrecision:
    """Makes new tensors float32, from when the first thread enters until the last one has left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before: Any = None

    def __enter__(self) -> None:
        import torch

        with self._lock:
            if not self._blocks:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self._blocks += 1

    def __exit__(self, *error: object) -> None:
        import torch

        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                torch.set_default_dtype(self._before)


_SINGLE_PRECISION = _SinglePrecision()

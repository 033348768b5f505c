"""Child processes that see what their parent sees, die with it, and say how much memory they held.

ITK reads its thread count and random seed from the environment when it is loaded, C++ code cannot be
interrupted from Python, and a crash in it takes the whole process down. A child process settles all three: it
starts with the environment a run needs, dies on Ctrl-C, and its crash is an exception in the parent. The engines of
ANTs and elastix run so (:func:`run_worker`), and so does every job of the benchmark.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from samreg.engines.base import Pair
from samreg.errors import EngineError, ImagesAtFault, InputError, is_out_of_memory
from samreg.spatial.adapters import field_from_sitk, to_sitk, transform_from_sitk
from samreg.spatial.files import itk_path, reason, require_room, scratch_folder, temporary_files_error
from samreg.spatial.image import Image
from samreg.spatial.numeric_locale import decimal_points
from samreg.spatial.transforms import Transform, compose

logger = logging.getLogger(__name__)

_LOG_LINES_SHOWN = 15
_PEAK_FILE = "peak_memory.txt"  # bytes, left by the worker
# what ITK's metrics and elastix print where the images, or their masks, share too little
_NO_OVERLAP = re.compile(
    r"samples map outside moving image buffer|do not sufficiently overlap|Could not find enough image samples", re.I
)
_worker_peaks: ContextVar[list[int] | None] = ContextVar("_worker_peaks", default=None)


def spawn(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Start ``python -m module`` in a process that imports from where this one does.

    Its stdin is a pipe that must be held open: its end tells the child, where that called :func:`die_with_parent`, that
    its parent has gone.

    Parameters
    ----------
    module, arguments
        What to run.
    environment
        Variables beside those of this process.
    stdout
        Where the child's output goes, errors included.
    """
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8:surrogateescape", **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )


def die_with_parent() -> None:
    """End this process on Ctrl-C, within C++ code too, and when the one that spawned it ends.

    To be called by the child, once it has read from its stdin what it needs.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def wait_for_the_end() -> None:
        while os.read(0, 4096):  # sys.stdin would hold a lock that the end of the interpreter waits for
            pass
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


def own_peak() -> int:
    """Return the most memory this process has held at once, bytes; 0 on Windows."""
    status = Path("/proc/self/status")
    if status.exists():  # the peak that resource gives on Linux begins with that of the parent process
        lines = status.read_bytes().splitlines()  # a process may have a name in any encoding
        line = next(line for line in lines if line.startswith(b"VmHWM:"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def worker_peaks() -> Iterator[list[int]]:
    """Yield a list that receives the peak memory, bytes, of each worker that ends within the block."""
    peaks: list[int] = []
    token = _worker_peaks.set(peaks)
    try:
        yield peaks
    finally:
        _worker_peaks.reset(token)


@dataclass(frozen=True, eq=False)
class WorkerResult:
    """What a worker left: its transform, fixed to moving, LPS mm, and all it printed."""

    transform: Transform
    log: str


def run_worker(
    module: str,
    pair: Pair,
    job: Mapping[str, Any],
    *,
    threads: int | None,
    environment: Mapping[str, str] | None = None,
    verbose: bool = False,
) -> WorkerResult:
    """Register ``pair`` in a child process running ``python -m module folder``.

    The folder holds ``fixed.nrrd``, ``moving.nrrd``, the masks there are, and ``job.json``. The worker writes
    ``result.json``, the list of its transform files, the one applied to points first being the first. The folder is
    removed whatever happens.

    Parameters
    ----------
    module
        The worker module.
    pair
        What to register.
    job
        What else the worker needs, as JSON.
    threads
        CPU threads; ITK's own choice unless given.
    environment
        Further environment variables.
    verbose
        Pass the output on at level INFO instead of DEBUG.

    Raises
    ------
    InputError
        When there is no room for temporary files, the worker's included.
    ImagesAtFault
        When the worker found too little overlap of the images or their masks.
    EngineError
        When the worker fails or crashes; the message ends with the end of its log.
    """
    with scratch_folder() as folder:
        for key in ("fixed", "moving", "fixed_mask", "moving_mask"):
            image = getattr(pair, key)
            if image is not None:  # NRRD keeps the geometry in full precision; NIfTI does not
                _write_image(image, folder / f"{key}.nrrd")
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        itk_threads = {} if threads is None else {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads)}
        child = spawn(module, str(folder), environment={**(environment or {}), **itk_threads})
        log = _output(child, logging.INFO if verbose else logging.DEBUG)
        # ANTs goes on after an exception within a stage, with what the stage began with
        if child.returncode != 0 or "ITK ERROR" in log:
            require_room(folder)
            raise _failure(module, child.returncode, log, pair)
        peaks = _worker_peaks.get()
        if peaks is not None:
            peaks.append(int((folder / _PEAK_FILE).read_text(encoding="utf-8")))
        files = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        try:
            return WorkerResult(compose(*(_read_transform(folder / file) for file in files)), log)
        except InputError as error:
            require_room(folder)  # or the file was cut off
            raise EngineError(f"{module} left a transform that cannot be used: {error}") from error


def worker_main(run: Callable[[Path], None]) -> None:
    """Call ``run`` in the folder given on the command line, in a process that dies with its parent.

    Parameters
    ----------
    run
        The worker, called in the folder and with its relative path. What it raises as RuntimeError, as the engines do,
        ends the process with status 1.
    """
    die_with_parent()
    if hasattr(signal, "SIGPIPE"):  # C++ code may not let the thread run that waits for the parent's end: then the next
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # line of output, which nobody reads, ends the process
    try:
        os.chdir(sys.argv[1])  # whose name need not be UTF-8, in which C++ code takes names
        run(Path())
        Path(_PEAK_FILE).write_text(str(own_peak()), encoding="utf-8")
    except RuntimeError as error:
        sys.exit(str(error))


def _output(child: subprocess.Popen[str], level: int) -> str:
    """Return all that a child prints, passed on line by line; a child whose parent stops reading is killed."""
    lines: list[str] = []
    with child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                lines.append(line)
                logger.log(level, "%s", line.rstrip())
        except BaseException:
            child.kill()
            raise
    return "".join(lines)


def _failure(module: str, status: int, log: str, pair: Pair) -> EngineError | ImagesAtFault:
    if _NO_OVERLAP.search(log):
        return ImagesAtFault(
            f"no overlap: too little of {pair.fixed.label} lies on {pair.moving.label}, masks considered; check the "
            "masks, or give start="
        )
    how = f"failed with exit status {status}" if status else "failed in one of its stages"
    if status == -9:  # by which Linux ends the largest process when memory is short
        how += ", ended by the system: out of memory? Give a larger spacing, or crop the images"
    return EngineError(f"{module} {how}; the end of its log:\n{_tail(log.splitlines())}")


def _tail(lines: Sequence[str]) -> str:
    return "\n".join([line for line in lines if line.strip()][-_LOG_LINES_SHOWN:])


def _write_image(image: Image, path: Path) -> None:
    import SimpleITK as sitk

    try:
        with decimal_points():
            sitk.WriteImage(to_sitk(image), itk_path(path))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise temporary_files_error(error) from error


def _read_transform(path: Path) -> Transform:
    import SimpleITK as sitk

    try:
        if path.suffix in (".mat", ".tfm"):
            return transform_from_sitk(sitk.ReadTransform(itk_path(path)))
        with decimal_points():
            field = sitk.ReadImage(itk_path(path))
        return field_from_sitk(field, name=path.name)
    except RuntimeError as error:  # the file is cut off, where the disk was full
        raise InputError(reason(error)) from error

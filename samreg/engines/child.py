"""Running an engine in a process of its own.

ITK reads its thread count and random seed from the environment when it is loaded, C++ code cannot be
interrupted from Python, and a crash in it takes the whole process down. A child process settles all three: it
starts with the environment a run needs, dies on Ctrl-C, and its crash is an exception here. Its files lie in a
temporary folder that is removed whatever happens.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samreg.engines.base import Pair
from samreg.errors import EngineError, InputError
from samreg.spatial.adapters import field_from_sitk, to_sitk, transform_from_sitk
from samreg.spatial.transforms import Transform, compose

logger = logging.getLogger(__name__)

_LOG_LINES_SHOWN = 15
_PEAK = "peak_memory.txt"  # bytes, left by the worker
_peaks: list[int] = []  # of the workers of this process


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
    ``result.json``, the list of its transform files, the one applied to points first being the first.

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
        When ``threads`` is not positive.
    EngineError
        When the worker fails or crashes; the message ends with the end of its log.
    """
    import SimpleITK as sitk

    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    with tempfile.TemporaryDirectory(prefix="samreg-") as name:
        folder = Path(name)
        for key in ("fixed", "moving", "fixed_mask", "moving_mask"):
            image = getattr(pair, key)
            if image is not None:  # NRRD keeps the geometry in full precision; NIfTI does not
                sitk.WriteImage(to_sitk(image), str(folder / f"{key}.nrrd"))
        (folder / "job.json").write_text(json.dumps(job))
        child = dict(os.environ, PYTHONPATH=os.pathsep.join(path or os.getcwd() for path in sys.path))
        child.update(environment or {})
        if threads is not None:
            child["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
        log = _run([sys.executable, "-m", module, str(folder)], child, logging.INFO if verbose else logging.DEBUG)
        _peaks.append(int((folder / _PEAK).read_text()))
        files = json.loads((folder / "result.json").read_text())
        return WorkerResult(compose(*(_read_transform(folder / file) for file in files)), log)


def own_peak() -> int:
    """Return the most memory this process has held at once, bytes; 0 on Windows."""
    status = Path("/proc/self/status")
    if status.exists():  # the peak that resource gives on Linux begins with that of the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def worker_peak() -> int:
    """Return the most memory that a worker of this process has held at once, bytes; 0 when there was none."""
    return max(_peaks, default=0)


def _run(command: list[str], environment: Mapping[str, str], level: int) -> str:
    lines: list[str] = []
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                logger.log(level, "%s", line.rstrip())
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        tail = "".join([line for line in lines if line.strip()][-_LOG_LINES_SHOWN:])
        raise EngineError(f"{command[2]} failed with exit status {process.returncode}; the end of its log:\n{tail}")
    return "".join(lines)


def _read_transform(path: Path) -> Transform:
    import SimpleITK as sitk

    if path.suffix in (".mat", ".tfm"):
        return transform_from_sitk(sitk.ReadTransform(str(path)))
    return field_from_sitk(sitk.ReadImage(str(path)), name=path.name)


def worker_main(run: Callable[[Path], None]) -> None:
    """Call ``run`` with the folder given on the command line, in a process that dies with its parent.

    Parameters
    ----------
    run
        The worker. What it raises as RuntimeError, as the engines do, ends the process with status 1.
    """
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, within C++ too
    if hasattr(signal, "SIGPIPE"):  # and so does its next line of output once its parent has gone
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        folder = Path(sys.argv[1])
        run(folder)
        (folder / _PEAK).write_text(str(own_peak()))
    except RuntimeError as error:
        sys.exit(str(error))

"""The work of the Slicer module SamReg, without Slicer: samreg's commands, the process that runs them, their results.

Files carry everything between Slicer and samreg, and each says its frame: NRRD and .mrk.json are in LPS, as is ITK's
.h5. Slicer turns them to its RAS when it reads them, and back when it writes them, so that no coordinate is turned
here.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MIN_PYTHON = (3, 10)
METHODS = ("hybrid", "embedding", "registration")
TRANSFORMS = ("deformable", "affine", "rigid")
PRESETS = ("default", "fast", "accurate")
LANDMARK_USES = ("measure", "guide")

_REPOSITORY = Path(__file__).resolve().parents[4]
_STAGE = re.compile(r"\[ *([0-9.]+) s\] (.+)")
_PROVIDED = frozenset({"simpleitk"})  # Slicer has a build of its own, which reads and writes its images
_KILL_AFTER_S = 5.0  # of having been asked to end


# what to install


def requirement(repository: Path = _REPOSITORY) -> str:
    """Return what pip is to install: the repository in which this module lies, or the package where it lies alone."""
    project = repository / "pyproject.toml"
    is_ours = project.is_file() and 'name = "samreg"' in project.read_text(encoding="utf-8")
    return str(repository) if is_ours else "samreg"


def dependencies(requires: Iterable[str]) -> list[str]:
    """Return what pip is to install beside a package: its requirements without extras and what Slicer provides.

    Parameters
    ----------
    requires
        As ``importlib.metadata.requires("samreg")`` says them, after it was installed without any.
    """
    from packaging.requirements import Requirement  # comes with Slicer

    wanted = [Requirement(text) for text in requires]
    return [
        f"{one.name}{one.specifier}"
        for one in wanted
        if (one.marker is None or one.marker.evaluate({"extra": ""})) and one.name.lower() not in _PROVIDED
    ]


def is_installed(package: str = "samreg") -> bool:
    """Tell whether a package is there with all that it needs: an installation may have ended half-way."""
    importlib.invalidate_caches()
    try:
        needed = dependencies(importlib.metadata.requires(package) or ())
        for text in needed:
            importlib.metadata.version(re.split("[<>=!~ ]", text)[0])
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# what to run


@dataclass(frozen=True)
class Inputs:
    """Files to register, all of them in LPS mm.

    Parameters
    ----------
    fixed, moving
        Volumes.
    fixed_mask, moving_mask
        Where to look.
    labels
        Of the moving image and on its grid, to be brought to the fixed one.
    fixed_points, moving_points
        Markups; those of the moving image are brought to the fixed one. Where both are given, those of one name measure
        or guide.
    """

    fixed: Path
    moving: Path
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    labels: Path | None = None
    fixed_points: Path | None = None
    moving_points: Path | None = None


@dataclass(frozen=True)
class Settings:
    """How to register.

    Parameters
    ----------
    method, transform
        As in ``samreg register``.
    preset
        Of the engine in torch, which a hybrid runs.
    landmarks
        What points that both images have are for: to "measure" the error, or to "guide" the engine.

    Raises
    ------
    ValueError
        When one is unknown.
    """

    method: str = "hybrid"
    transform: str = "deformable"
    preset: str = "default"
    landmarks: str = "measure"

    def __post_init__(self) -> None:
        for name, choices in (
            ("method", METHODS),
            ("transform", TRANSFORMS),
            ("preset", PRESETS),
            ("landmarks", LANDMARK_USES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")


@dataclass(frozen=True)
class Step:
    """One command of a run, and what it is called while it runs."""

    title: str
    command: tuple[str, ...]


def plan(inputs: Inputs, settings: Settings, out: Path, python: str = sys.executable) -> list[Step]:
    """Return the commands of a run: the registration, then what is brought along.

    Parameters
    ----------
    inputs, settings
        What to register, and how.
    out
        Folder for the results.
    python
        The interpreter in which samreg is installed; within Slicer that is PythonSlicer.
    """
    samreg = (python, "-u", "-m", "samreg.cli")  # a line is seen when it is written
    result = str(out)
    register = [
        *samreg,
        "register",
        str(inputs.fixed),
        str(inputs.moving),
        "-o",
        result,
        "--formats",
        "h5,mrk",
        "--report",
    ]
    register += ["--method", settings.method, "--transform", settings.transform]
    if settings.preset != "default" and settings.method == "hybrid":
        register += ["--option", f"preset={settings.preset}"]
    for option, mask in (("--fixed-mask", inputs.fixed_mask), ("--moving-mask", inputs.moving_mask)):
        register += [] if mask is None else [option, str(mask)]
    if inputs.fixed_points is not None and inputs.moving_points is not None:
        option = "--guide" if settings.landmarks == "guide" else "--landmarks"
        register += [option, str(inputs.fixed_points), str(inputs.moving_points)]
    steps = [Step("registering", tuple(register))]
    for title, source, name in (
        ("warping the labels", inputs.labels, WARPED_LABELS),
        ("bringing the points", inputs.moving_points, MOVED_POINTS),
    ):
        if source is not None:
            steps.append(Step(title, (*samreg, "apply", result, str(source), "-o", str(out / name), "--to", "fixed")))
    return steps


def stage(line: str) -> str | None:
    """Return the stage that a line of samreg's progress names; None for any other line.

    Examples
    --------
    >>> stage("[  12.3 s] embedding the fixed image")
    'embedding the fixed image'
    """
    found = _STAGE.match(line.strip())
    return found[2] if found else None


class Run:
    """Commands that run one after the other beside the program that asks for them.

    Parameters
    ----------
    steps
        What to run; a step that fails ends the run.
    environment
        Of the processes; that of this one unless given.

    Examples
    --------
    >>> run = Run([Step("greeting", (sys.executable, "-c", "print('[0.1 s] hello')"))])
    >>> while run.poll() == "running":
    ...     pass
    >>> run.state, [stage(line) for line in run.new_lines()]
    ('done', ['hello'])
    """

    def __init__(self, steps: Sequence[Step], environment: Mapping[str, str] | None = None) -> None:
        self._waiting = list(steps)
        given = os.environ if environment is None else environment
        self._environment = {**given, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}  # as it is read here
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.state = "running"
        self.code: int | None = None
        self.log: list[str] = []
        self._start()

    @property
    def title(self) -> str:
        """What runs now, or ran last."""
        return self._step.title

    def poll(self) -> str:
        """Return "running", "done", "failed" or "cancelled", and go on to the next command where one has ended."""
        if self.state == "running" and self._process.poll() is not None and not self._reader.is_alive():
            self.code = self._process.returncode
            if self.code:
                self.state = "failed"
            elif self._waiting:
                self._start()
            else:
                self.state = "done"
        return self.state

    def new_lines(self) -> list[str]:
        """Return the lines that were printed since the last call."""
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        self.log += lines
        return lines

    def cancel(self) -> None:
        """End the command with all processes that it has started; samreg leaves nothing half-written."""
        if self.state != "running":
            return
        self.state = "cancelled"
        self._end(signal.SIGTERM)
        try:
            self._process.wait(_KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            self._end(getattr(signal, "SIGKILL", signal.SIGTERM))
            self._process.wait()

    def _start(self) -> None:
        self._step = self._waiting.pop(0)
        self._process = subprocess.Popen(
            self._step.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=self._environment,
            start_new_session=True,  # PythonSlicer is a launcher: what works is its child
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip("\n"))

    def _end(self, sign: int) -> None:
        if os.name == "nt":
            subprocess.run(["taskkill", "/PID", str(self._process.pid), "/T", "/F"], capture_output=True, check=False)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, sign)


# what came of it

WARPED_LABELS, MOVED_POINTS = "labels_on_fixed.seg.nrrd", "points_on_fixed.mrk.json"


@dataclass(frozen=True)
class Loadable:
    """A file of a result, and where it belongs in Slicer's scene.

    Parameters
    ----------
    kind
        "volume", "transform", "segmentation" or "markups".
    path
        The file.
    name
        For the node.
    under_transform
        Whether its coordinates are those of the moving image, so that the transform is to be its parent.
    """

    kind: str
    path: Path
    name: str
    under_transform: bool = False


def loadables(out: Path, moving: str) -> list[Loadable]:
    """Return what of a result to load, the transform first, since others get it as their parent.

    Slicer reads an ITK transform as it is meant for resampling, fixed to moving, from the parent's space. A node of
    the moving image that gets it as its parent is moved by its inverse: onto the fixed image.

    Parameters
    ----------
    out
        Folder of the result.
    moving
        Name of the moving volume.
    """
    files = [
        Loadable("transform", out / "transform.h5", f"{moving} to fixed"),
        Loadable("volume", out / "warped.nii.gz", f"{moving} on fixed"),
        Loadable("segmentation", out / WARPED_LABELS, f"{moving} labels on fixed"),
        Loadable("markups", out / MOVED_POINTS, f"{moving} points on fixed"),
        Loadable("markups", out / "fixed_matches.mrk.json", "matches, fixed"),
        Loadable("markups", out / "moving_matches.mrk.json", "matches, moving", under_transform=True),
    ]
    return [file for file in files if file.path.is_file()]


@dataclass(frozen=True)
class Verdict:
    """What samreg thinks of its result.

    Parameters
    ----------
    status
        "good", "check" or "failed".
    text
        In one line.
    to_check
        What to look at.
    """

    status: str
    text: str
    to_check: tuple[str, ...] = ()


def verdict(out: Path) -> Verdict:
    """Read the verdict of a saved result."""
    summary = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return Verdict(summary["status"], summary["verdict"], tuple(summary["to_check"]))


def why_failed(run: Run) -> str:
    """Return what to tell of a run that failed: samreg's own message, or the end of what was printed."""
    messages = [line for line in run.log if line.startswith("samreg: ")]
    if messages:
        return messages[-1].removeprefix("samreg: ")
    return "\n".join(run.log[-10:]) or f"{run.title} ended with code {run.code}"


def segment_names(names: Sequence[str], value: int) -> str:
    """Return the name of a segment by its value in a labelmap that Slicer exported, which counts segments from 1."""
    return names[value - 1] if 0 < value <= len(names) else f"Label {value}"

"""What the commands share: options, exit codes, progress, tables, and checks that come before the work."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TextIO

import typer

from samreg.errors import ImagesAtFault, InputError, SamregError, is_out_of_memory
from samreg.spatial.files import reason, require_not_input, require_writable

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.registration.result import RegistrationResult
    from samreg.registration.verdict import Verdict
    from samreg.spatial.image import Image
    from samreg.spatial.points import Points
    from samreg.steps import Outcome

log = logging.getLogger(__name__)

P = ParamSpec("P")

Model = Annotated[
    str | None,
    typer.Option(help="Embedding model: a name that `samreg info` lists, or a checkpoint file.", show_default="best"),
]
Method = Annotated[
    str,
    typer.Option(metavar="hybrid|embedding|registration", help="The engine seeded by embeddings, or either alone."),
]
Engine = Annotated[
    str | None,
    typer.Option(
        help="Registration engine: a name that `samreg info` lists, such as ants, elastix or torch, or FILE.py:CLASS.",
        show_default="torch for a hybrid, else ants",
    ),
]
EngineOption = Annotated[
    list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="Engine option, repeatable: preset=accurate.")
]
AnchorChoice = Annotated[
    str,
    typer.Option(
        "--anchors",
        metavar="yes|no|ATLAS.h5",
        help="Let landmarks and bones found in both images guide the registration.",
    ),
]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to embed, match, and run the torch engine.")
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result on one machine.")]
TransformKind = Annotated[str, typer.Option(metavar="deformable|affine|rigid", help="What to estimate.")]
EngineSpacing = Annotated[
    float | None, typer.Option(help="Voxel size at which the engine works, mm.", show_default="2; in 2D 0.6")
]
Series = Annotated[str | None, typer.Option(help="DICOM series: number, UID or description.")]
PixelSize = Annotated[
    float | None,
    typer.Option(help="Pixel size of the images, mm, where their files (PNG, JPEG) say none.", show_default=False),
]
Formats = Annotated[
    str,
    typer.Option(
        help="Transforms as h5 (ITK, Slicer), nii (displacement field), npz (Learn2Reg); matches as mrk (Slicer); "
        "comma-separated."
    ),
]
FieldGrid = Annotated[
    str,
    typer.Option(
        metavar="compact|full",
        help="Displacement fields on grids as coarse as 0.05 mm allow, or at every voxel of the images, larger and "
        "less exact where a field bends within a voxel.",
    ),
]
Report = Annotated[bool, typer.Option("--report", help="Write report.html as well.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log the stages and what the engine prints.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def anchors_given(text: str) -> bool | str:
    """Return what ``--anchors`` says, as :func:`samreg.register` takes it."""
    return {"yes": True, "no": False}.get(text, text)


def exit_codes(command: Callable[P, None]) -> Callable[P, None]:
    """Return the command with what samreg raises in it as a message on stderr and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ImagesAtFault as error:
            fail(str(error), 1)
        except InputError as error:
            fail(str(error), 2)
        except SamregError as error:
            fail(str(error), 3)
        except KeyboardInterrupt:
            fail("interrupted", 130)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            fail(f"out of memory ({reason(error)}); {_memory_remedy(error, kwargs)}", 3)

    return run


def _memory_remedy(error: Exception, options: Mapping[str, Any]) -> str:
    """Return what helps against an error of memory in a command with these options."""
    remedies = {
        "a larger --spacing": "spacing" in options,
        "fewer --jobs": (options.get("jobs") or 1) > 1,
        "--device cpu": "device" in options and "cuda" in str(error).lower(),
        "cropped images": True,
        "a larger machine": True,
    }
    return f"what helps: {', '.join(remedy for remedy, is_one in remedies.items() if is_one)}"


def fail(message: str, code: int) -> NoReturn:
    """Print a message on stderr and end the command with an exit code."""
    typer.secho(f"samreg: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(code)


class _Outlet:
    """A stream that stops no work: what nobody reads, as behind ``| head -1``, or no disk holds is dropped.

    Parameters
    ----------
    stream
        Of text, with a file descriptor.

    Attributes
    ----------
    fault
        Why the rest could not be written; None where all was, or its reader closed it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        with self._dropping_unread():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._dropping_unread():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _dropping_unread(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # the descriptor leads nowhere from here on, for libraries and at the exit as well
            self.fault = None if isinstance(error, BrokenPipeError) else error  # nobody misses what nobody reads
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def restart_in_utf8() -> None:
    """Start the command again in Python's UTF-8 mode where the locale has another encoding; return where it has none.

    Tables hold paths and names in UTF-8. Under another encoding Python would not find the files they name, nor tell
    that a file bears such a name. What is printed stays in the terminal's encoding.
    """
    if os.name != "posix" or sys.getfilesystemencoding() == "utf-8" or "utf8" in sys._xoptions or not sys.executable:
        return
    environment = {**os.environ, "PYTHONUTF8": "1"}  # for the processes that it starts
    if sys.stdout is not None:
        environment.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


def heed_termination() -> None:
    """Let the signals of ``kill``, ``timeout``, a cluster's time limit and a closed terminal interrupt as Ctrl-C does.

    By default they end Python at once: temporary files, scans among them, and a half-written result's would stay.
    What was told to ignore them, as ``nohup`` does, goes on ignoring them.
    """
    for name in ("SIGTERM", "SIGHUP"):  # the latter is POSIX
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def tolerate_any_terminal() -> None:
    """Print a question mark for each character that the terminal, or the log file, has no code for.

    A reader that closes early neither stops the work nor changes the exit code; nor does a log on a full disk stop the
    work, or a stream that was closed from the start, as where a service or ``>&-`` starts the command.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for as long as the process lives
            setattr(sys, name, stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
            setattr(sys, name, _Outlet(stream))


def lost_output() -> str:
    """Return why a part of what was printed on stdout is lost, as on a full disk; nothing where all was written."""
    sys.stdout.flush()
    fault = sys.stdout.fault if isinstance(sys.stdout, _Outlet) else None
    return "" if fault is None else str(fault.strerror or fault)


@contextmanager
def session(*, verbose: bool = False, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show logs, and the stage that runs, on stderr: on a terminal as it runs, elsewhere a line as each one starts.

    Yields
    ------
    callable
        To be told the name of each stage as it starts.
    """
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    live = console.is_terminal and not quiet
    handler = RichHandler(console=console, show_path=False) if live else logging.StreamHandler()
    if not live:
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("samreg")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console, transient=True, disable=not live) as bar:
            task = bar.add_task("reading", total=None)

            start = time.monotonic()

            def stage(name: str) -> None:
                bar.update(task, description=name)
                log.info("%s", name)
                if not (live or quiet or verbose):
                    typer.echo(f"[{time.monotonic() - start:6.1f} s] {name}", err=True)

            yield stage
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def show_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout, floats to two decimals; names come from files and are never read as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table(box=SIMPLE_HEAD, show_header=any(header))
    for i, name in enumerate(header):
        numeric = any(isinstance(row[i], float) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{cell:.2f}" if isinstance(cell, float) else str(cell)) for cell in row))
    say(title)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def show_outcomes(outcomes: Sequence[Outcome], out: Path, *, quiet: bool) -> None:
    """Print how the steps of a run ended; exit with 1 when one failed."""
    if not quiet:
        rows = [(o.name, o.status, f"{o.seconds:.1f} s", o.reason) for o in outcomes]
        show_table(f"written to {out}", ("", "", "time", "reason"), rows)
    failed = [o for o in outcomes if not o]
    if failed:
        fail(f"{len(failed)} of {len(outcomes)} failed, first {failed[0].name}: {failed[0].reason}", 1)


def say(text: str) -> None:
    """Print a line on stdout as it is."""
    typer.echo(text)


def say_verdict(verdict: Verdict) -> None:
    """Print a verdict on stdout, its status in the colours of a traffic light."""
    colour = {"good": typer.colors.GREEN, "check": typer.colors.YELLOW, "failed": typer.colors.RED}[verdict.status]
    typer.echo(f"{typer.style(verdict.status, fg=colour, bold=True)}: {verdict.text}")


def require_images(options: Mapping[str, object], *paths: Path) -> None:
    """Raise :class:`InputError` where an option says how to read an image, and all paths are those of embeddings."""
    for option, value in options.items():
        if value is not None and all(path.suffix.lower() == ".h5" for path in paths):
            raise InputError(f"{option} says how to read an image, but {paths[-1]} is an embedding; leave it out")


def load_image(path: Path, series: str | None = None, pixel_size: float | None = None) -> Image:
    """Read an image; ``series`` chooses within a DICOM folder, ``pixel_size`` replaces the file's, mm."""
    from samreg.spatial.io_images import read_image

    return read_image(path, series=series, spacing=pixel_size)


def load_result(
    folder: Path, fixed: Path | None, moving: Path | None, fixed_series: str | None, moving_series: str | None
) -> RegistrationResult:
    """Read a saved result; its images from where they were, or from here, each perhaps one DICOM series of several."""
    from samreg.registration.result import RegistrationResult

    images: dict[str, Path | Image | None] = {}
    for role, path, series in (("fixed", fixed, fixed_series), ("moving", moving, moving_series)):
        if series is not None and path is None:
            raise InputError(f"--{role}-series chooses within a folder; give it with --{role} FOLDER")
        images[role] = path if path is None or series is None else load_image(path, series)
    return RegistrationResult.load(folder, **images)


def load_points(path: Path, image: Image | Embedding, subject: str | None = None) -> Points:
    """Read points of an image, at least one and all of them inside; ``subject`` chooses rows of a csv."""
    from samreg.spatial.image import Image
    from samreg.spatial.inputs import points_in
    from samreg.spatial.io_points import read_points

    grid = image.grid if isinstance(image, Image) else image.image_grid
    what = image.label if isinstance(image, Image) else "the image"
    return points_in(read_points(path, grid=grid, subject=subject), grid, f"{what}, to which {path} belongs")


def require_suffix(
    path: Path, suffixes: Sequence[str], *, inputs: Iterable[Path | None] = (), adds: Iterable[str] = ()
) -> None:
    """Raise :class:`InputError` before the work when the output file could not be written after it, or is an input.

    Files of a saved result are not replaced either, but those of the names that the command ``adds`` to one.
    """
    from samreg.registration.result_folder import require_not_of_result

    require_not_input(path, inputs)
    require_not_of_result(path, but=adds)
    if not path.name.lower().endswith(tuple(suffixes)):
        raise InputError(f"cannot write {path}: name it with one of {', '.join(suffixes)}")
    require_writable(path.parent)


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Turn ``key=value`` into a mapping: numbers, true, false, null, lists as 40,20,0; other values are text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--option {pair!r} must read key=value, such as iterations=40,20,0")
        if key in options:
            raise InputError(f"--option {key} is given twice, {options[key]!r} and {_value(value)!r}; leave one out")
        options[key] = _value(value)
    return options


def parse_formats(text: str) -> tuple[str, ...]:
    """Return what ``--formats`` says, as :meth:`samreg.RegistrationResult.save` takes it."""
    from samreg.registration.result_folder import SAVE_FORMATS

    formats = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in formats if part not in SAVE_FORMATS]
    if unknown or not formats:
        raise InputError(f"--formats {text!r}: choose from {', '.join(SAVE_FORMATS)}, comma-separated")
    return formats


def _value(text: str) -> Any:
    for candidate in (text, f"[{text}]"):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        return tuple(value) if isinstance(value, list) else value
    return text

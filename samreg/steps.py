"""Long runs in steps: each step is written whole, kept while its inputs stay the same, and may fail alone."""

from __future__ import annotations

import csv
import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samreg.errors import InputError, SamregError, is_out_of_memory
from samreg.spatial.files import atomic_path, reason, require_file, require_not_input
from samreg.spatial.io_images import files_of, find_images, holds_dicom
from samreg.spatial.tables import safe_cell

#: The file of a step that is finished.
RECORD = "done.json"
_BLOCK_BYTES = 2**22  # read at a time
_MAX_NAME_BYTES = 255  # of a file or folder, on all usual file systems


class Outcome(NamedTuple):
    """How a step ended.

    Parameters
    ----------
    name
        Of the step: its folder's.
    status
        "done", "kept" (an earlier run did it) or "failed".
    seconds
        It took, when it was done.
    reason
        Why it failed.

    Examples
    --------
    >>> bool(Outcome("scan-007", "failed", 3.2, "the file is cut"))
    False
    """

    name: str
    status: str
    seconds: float
    reason: str = ""

    def __bool__(self) -> bool:
        return self.status != "failed"


def fingerprint(*paths: str | os.PathLike[str]) -> str:
    """Return a hash of what files hold, with the voxels of a header (.mhd, .nhdr, .hdr), and of the files in folders.

    Raises
    ------
    InputError
        When one is missing or unreadable, or empty outside a folder; what lies in a folder may be no image.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in map(require_file, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            files = [p if p.stat().st_size == 0 else require_file(p) for p in inside]
        else:
            files = [*map(require_file, files_of(path))]
        for file in files:
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK_BYTES):
                    digest.update(block)
    return digest.hexdigest()


def run_step(
    folder: Path,
    work: Callable[[Path], None],
    *,
    files: Sequence[str | os.PathLike[str]] = (),
    inputs: Mapping[str, Any],
    packages: Sequence[str] = (),
) -> Outcome:
    """Do a piece of work whose results fill a folder, unless an earlier run has done it alike.

    Alike are the same inputs, the same version of samreg, and the same versions of the packages that do the work. The
    work writes into a folder beside, which takes its place when all is there, with ``done.json``: the inputs, the
    versions and the seconds. Whenever the process is killed, ``folder`` is whole, or absent until the next run. Where
    the work fails, what an earlier run made of other inputs stays, and the reason says so.

    Parameters
    ----------
    folder
        Where the results go; replaced when they were made from other inputs.
    work
        Called with the folder to fill. An exception it raises is the outcome's reason.
    files
        What the results depend on: files and folders, by their contents.
    inputs
        What else they depend on, as plain values: options, and the identity of a model.
    packages
        The installed packages that do the work, by their names on PyPI, such as "torch"; samreg always counts.

    Raises
    ------
    InputError
        When the disk is full or cannot be written to: no step would fare better.

    Examples
    --------
    >>> import tempfile
    >>> def work(folder):
    ...     _ = (folder / "result.txt").write_text("42")
    >>> step = Path(tempfile.mkdtemp(), "step")
    >>> [run_step(step, work, inputs={"seed": seed}).status for seed in (0, 0, 1)]
    ['done', 'kept', 'done']
    """
    start = time.perf_counter()
    staging, aside = _staging(folder), folder.with_name(f".{folder.name}.old")
    try:
        if aside.is_dir() and not folder.exists():  # killed between the two renames below
            aside.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
        wanted = json.loads(json.dumps({**inputs, "files": fingerprint(*files)}))
        versions = {name: _version(name) for name in ("samreg", *packages)}
        earlier = recorded(folder)
        if earlier is not None and earlier["inputs"] == wanted and earlier.get("versions") == versions:
            return Outcome(folder.name, "kept", earlier["seconds"])
        if earlier is None and folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder} holds files that no earlier run has written; choose another folder")
        shutil.rmtree(staging, ignore_errors=True)  # what a killed run left
        staging.mkdir(parents=True)
        work(staging)
        seconds = round(time.perf_counter() - start, 3)
        record = {"inputs": wanted, "versions": versions, "seconds": seconds}
        (staging / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        if folder.exists():
            folder.rename(aside)
        staging.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    except Exception as error:  # libraries raise anything; it must not stop the other steps
        full = _disk_full(error)
        if full or _is_at_output(error, staging, folder, aside):
            raise InputError(
                f"cannot write {folder}: {full or error}; what was finished before is kept: "
                f"{'make room' if full else 'check the permissions'}, then run the same command again"
            ) from error
        why = failure(error)
        if recorded(folder) is not None:  # whoever looks into the folder would take it for this run's
            why += f" ({folder.name} still holds the result of an earlier run)"
        return Outcome(folder.name, "failed", time.perf_counter() - start, why)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Outcome(folder.name, "done", seconds)


def failure(error: BaseException) -> str:
    """Return why a step failed, for a table: samreg's own words; of other errors their kind, and their gist in a line.

    Examples
    --------
    >>> failure(ValueError("no such option"))
    'ValueError: no such option'
    >>> failure(MemoryError("Unable to allocate 9 GiB"))
    'out of memory (Unable to allocate 9 GiB); what helps: fewer jobs at a time, cropped images, a larger machine'
    """
    if isinstance(error, SamregError):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory ({reason(error)}); what helps: fewer jobs at a time, cropped images, a larger machine"
    return f"{type(error).__name__}: {reason(error)}" if str(error).strip() else type(error).__name__


def is_under_way(folder: Path) -> bool:
    """Tell whether a process fills the folder, or was killed while it did."""
    return _staging(folder).exists()


def forget_unfinished(folder: Path) -> None:
    """Remove what a killed process had written for the folder."""
    shutil.rmtree(_staging(folder), ignore_errors=True)


def _staging(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.part")


def recorded(folder: Path) -> dict[str, Any] | None:
    """Return what ``done.json`` says, inputs, versions and seconds; None when the step was not finished."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"inputs", "seconds"} <= record.keys() else None


def _version(package: str) -> str | None:
    """Return the version of an installed package; None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def require_folder_names(names: Sequence[str], where: str = "") -> None:
    """Raise :class:`InputError` when two pairs of a run would share a folder, or a name is too long for one's.

    Windows and macOS take names that differ only in case, or in how accents are composed, for one.

    Parameters
    ----------
    names
        Of the pairs.
    where
        How the message begins.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    if shared := sorted({name for group in groups.values() if len(group) > 1 for name in group}):
        alike = "" if len(shared) == 1 or len({*names}) < len(names) else ", which are one on Windows and macOS"
        raise InputError(f"{where}pairs share the names {shared[:5]}{alike}; give each pair a name of its own")
    # with what the folder is called while it is filled
    if too_long := [name for name in names if len(f".{name}.part".encode(errors="surrogateescape")) > _MAX_NAME_BYTES]:
        raise InputError(
            f"{where}the name {too_long[0]!r} of a pair is too long for a folder's; give it a shorter one, by a list "
            "of pairs with the column name"
        )


def find_inputs(
    out: Path, *paths: str | os.PathLike[str], beside: Iterable[str | os.PathLike[str]] = ()
) -> dict[str, Path]:
    """Return the images that paths stand for, by name, without the folder for the results where it lies among them.

    Nor is a folder an image where it leads to that one by folders alone, or where what is read ``beside`` the images
    lies, such as their labels; one of DICOM slices is, with a file of labels among them too.

    Raises
    ------
    InputError
        When there is none, and as :func:`samreg.spatial.find_images` raises it.
    """
    given = [*map(Path, beside)]
    folders = [out, *(path for path in given if path.is_dir())]
    around_files = [path.parent for path in given if not path.is_dir()]

    def is_image(path: Path) -> bool:
        if not path.is_dir():
            return True
        leads = any(_leads_to(path, folder) for folder in folders)
        return not leads and (holds_dicom(path) or not any(_leads_to(path, folder) for folder in around_files))

    images = {name: path for name, path in find_images(*paths).items() if is_image(path)}
    if not images:
        raise InputError(f"no images in {', '.join(map(str, paths))} beside the results")
    return images


def _leads_to(path: Path, out: Path) -> bool:
    """Tell a folder that is the other, or holds nothing but folders and that within one of them."""
    if path.resolve() == out.resolve():
        return True
    return path.resolve() in out.resolve().parents and not any(inside.is_file() for inside in path.iterdir())


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a csv, whole or not at all."""
    with (
        atomic_path(path) as temporary,
        # names of files that the system's encoding cannot tell are written byte by byte
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([safe_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)


def write_summary(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write how the steps ended as a csv."""
    write_table(path, Outcome._fields, ((o.name, o.status, f"{o.seconds:.1f}", o.reason) for o in outcomes))


def require_summary(path: Path, inputs: Iterable[str | os.PathLike[str] | None] = ()) -> None:
    """Raise :class:`InputError`, before the work, where the summary of a run would replace an input or a user's file.

    Parameters
    ----------
    path
        Where :func:`write_summary`, or a table with its first columns, would write.
    inputs
        What the run reads.
    """
    require_not_input(path, inputs)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; choose another folder for the results")
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        columns = next(csv.reader(file), [])
    if not {*Outcome._fields} <= {*columns}:
        raise InputError(
            f"{path} would be replaced by the run's summary, and samreg did not write it; move it, or choose another "
            "folder"
        )


def _is_at_output(error: BaseException, staging: Path, *others: Path) -> bool:
    """Tell an error of the system at a folder to write to, what is in it or leads to it, from one at an input."""
    if not isinstance(error, OSError) or not isinstance(error.filename, (str, os.PathLike)):
        return False
    path = Path(error.filename)
    return path in (*others, staging, *staging.parents) or staging in path.parents


def _disk_full(error: BaseException | None) -> str:
    """Return the system's words where a full disk is behind an error, else nothing."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return os.strerror(error.errno)
        if "No space left on device" in str(error):  # libraries that put the number into words
            return os.strerror(errno.ENOSPC)
        error = error.__cause__ or error.__context__
    return ""

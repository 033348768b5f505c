"""Files: writing so that nothing is ever half-written, and what every reader shares."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from samreg.errors import InputError, SamregError, is_out_of_memory
from samreg.spatial.numeric_locale import decimal_points

_ITK = re.compile(r".*(?:ITK |itk::)ERROR: (?:\w+\(0x[0-9a-f]+\): )?")
_THROWN = re.compile(r"Exception thrown in SimpleITK \w+: .*:\d+:$")
_TEEM = re.compile(r"^\[nrrd\] \w+: ")
_ROOM = 1 << 20  # bytes: a disk that does not hold as many more is full

_LOCKED: set[Path] = set()  # folders to which this process writes
_scratch_place: ContextVar[Path | None] = ContextVar("_scratch_place", default=None)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` that takes its place on success.

    The temporary file lies in the same folder and ends with the same name, so that writers which look at the
    suffix work. On any exception, Ctrl-C included, it is removed and an older ``path`` stays as it was.

    Parameters
    ----------
    path
        The file to write. Its folder is made when missing.

    Raises
    ------
    InputError
        When the folder cannot be made or written to, or the disk is full.
    """
    path = require_path("path", path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".samreg-", dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = Path(folder) / path.name
    try:
        yield temporary
        if not temporary.exists():
            raise InputError(f"cannot write {path}: the writer produced no file; is the disk full?")
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.rmdir(folder)


@contextlib.contextmanager
def replaced_files(folder: str | os.PathLike[str], *, summary: str, others: Collection[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder whose files take the place of an earlier result's, all of them or none.

    On any exception an earlier result stays as it was. Files of other names are a user's own and stay, as does
    everything where the folder holds no ``summary``: a file there that the result would replace is refused.

    Parameters
    ----------
    folder
        Made when missing.
    summary
        The file that comes last: where it is, the whole result is.
    others
        All other files that a result may have; those that the new one lacks are removed.

    Raises
    ------
    InputError
        When something cannot be written, or would replace a user's own file.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> for names in (("table.csv", "done.json"), ("done.json",)):
    ...     with replaced_files(folder, summary="done.json", others=["table.csv"]) as staging:
    ...         for name in names:
    ...             (staging / name).touch()
    >>> [path.name for path in folder.iterdir()]
    ['done.json']
    """
    folder = require_path("folder", folder)
    with staging_folder(folder) as staging, locked_folder(folder):
        yield staging
        files = sorted(staging.iterdir(), key=lambda file: file.name == summary)
        require_replaceable(folder, [file.name for file in files], mark=summary)
        if (folder / summary).is_file():
            (folder / summary).unlink()  # what is replaced from here on is no longer what it sums up
            for name in set(others) - {file.name for file in files}:
                (folder / name).unlink(missing_ok=True)
        for file in files:
            os.replace(file, folder / file.name)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Let no other process write a result to a folder that exists, within the block.

    The lock ends with the process. Where the system has none, as on Windows and some network drives, nothing is locked.

    Raises
    ------
    InputError
        When another process writes to it.
    """
    where = folder.resolve()
    if where in _LOCKED:  # by this process
        yield
        return
    handle = None
    try:
        import fcntl

        handle = os.open(where, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        assert handle is not None
        os.close(handle)
        raise InputError(f"another run of samreg writes to {folder}; wait until it ends, or choose another") from None
    except (ImportError, OSError):
        pass
    _LOCKED.add(where)
    try:
        yield
    finally:
        _LOCKED.discard(where)
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def claimed_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Make a folder and lock it, as :func:`locked_folder` does, within the block; one still empty then is removed."""
    folder = require_path("folder", folder)
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        with locked_folder(folder):
            yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder within one that is made when missing; it is gone in the end.

    Raises
    ------
    InputError
        When something cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".samreg-", dir=folder))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield staging
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder among the system's temporary files; it is gone in the end.

    Raises
    ------
    InputError
        When there is no place for temporary files, or no room left.

    Examples
    --------
    >>> with scratch_folder() as folder:
    ...     (folder / "intermediate.txt").touch()
    >>> folder.exists()
    False
    """
    with contextlib.ExitStack() as stack:
        try:
            place = _scratch_place.get() or tempfile.gettempdir()
            # a process that is being ended may still write there
            made = tempfile.TemporaryDirectory(prefix="samreg-", dir=place, ignore_cleanup_errors=True)
            folder = stack.enter_context(made)
        except OSError as error:
            raise temporary_files_error(error) from error
        try:
            yield Path(folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or _has_room(Path(folder)):
                raise  # of something else that is done in the block, as is writing to another disk
            raise temporary_files_error(error) from error


@contextlib.contextmanager
def scratch_within(place: Path | None) -> Iterator[None]:
    """Let :func:`scratch_folder` make its folders in another one within the block.

    A worker process that is ended cannot remove its own; those in the scratch folder of the process that waits for it
    go with that.

    Parameters
    ----------
    place
        None: among the system's temporary files, as without this.
    """
    token = _scratch_place.set(place)
    try:
        yield
    finally:
        _scratch_place.reset(token)


def _has_room(folder: Path) -> bool:
    try:
        (folder / "room").write_bytes(bytes(_ROOM))
    except OSError:
        return False
    return True


def require_room(folder: Path) -> None:
    """Raise :class:`InputError` when the disk of a folder of temporary files is full, which others do not say clearly.

    Parameters
    ----------
    folder
        That of :func:`scratch_folder`.
    """
    if not _has_room(folder):
        raise temporary_files_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def temporary_files_error(error: Exception) -> InputError:
    """Return what to raise when a temporary file cannot be written, with the remedy."""
    what = (error.strerror if isinstance(error, OSError) else None) or reason(error).rstrip(":")
    where = f" to {tempfile.tempdir}" if tempfile.tempdir else ""  # unset where no folder could be used
    return InputError(
        f"cannot write temporary files{where}: {what}; make room there, or let the environment "
        "variable TMPDIR name a folder that has room"
    )


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], remedy: str = "is it complete? Copy or export it again") -> Iterator[None]:
    """Turn whatever a reader raises on a damaged or foreign file into an :class:`InputError` that names it.

    Parameters
    ----------
    path
        The file being read.
    remedy
        What the user can do about it.
    """
    try:
        yield
    except SamregError:
        raise
    except Exception as error:  # third-party readers raise anything on damaged bytes
        if is_out_of_memory(error):
            raise memory_error(path, error) from error
        raise InputError(f"cannot read {path}: {reason(error)}; {remedy}") from error


def memory_error(path: str | os.PathLike[str], error: Exception) -> InputError:
    """Return what to raise where memory is too short for a file: a larger file than others, or a damaged header."""
    return InputError(
        f"cannot read {path}: memory is too short ({reason(error)}); free memory, or use a larger machine; where the "
        "file is not that large, its header is damaged"
    )


def reason(error: BaseException) -> str:
    """Return the gist of an exception in one line, without ITK's source locations.

    Teem, which reads NRRD within ITK, says in its last line what is wrong, and before it where it was.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not _THROWN.match(line)]
    itk, teem = ([line for line in lines if pattern.search(line)] for pattern in (_ITK, _TEEM))
    text = _TEEM.sub("", teem[-1]) if teem else _ITK.sub("", itk[0]) if itk else " ".join(lines)
    return (text or type(error).__name__)[:300].rstrip(". ")


def require_path(name: str, value: object) -> Path:
    """Return a path to write to; raise :class:`InputError` where something else is given.

    An empty text is none: ``Path("")`` is the working folder, which nobody means by an unset variable.

    Examples
    --------
    >>> require_path("folder", None)
    Traceback (most recent call last):
    samreg.errors.InputError: folder must be a path, such as "out", got None
    """
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise InputError(f'{name} must be a path, such as "out", got {value!r}')
    return Path(value)


def require_file(path: str | os.PathLike[str], what: str = "file") -> Path:
    """Return ``path`` as a ``Path``; raise :class:`InputError` when it is missing, unreadable or empty."""
    if isinstance(path, str) and not path:  # which Path takes for the working folder
        raise InputError(f"{what}: the path is empty; give one")
    try:
        path = Path(path)
        exists = path.exists()
    except (TypeError, ValueError, OSError) as error:  # no path at all, or one that no system allows
        raise InputError(f"{what}: give a path, got {str(path)[:200]!r} ({error})") from None
    if not exists:
        raise InputError(f"{what} not found: {path}; check the path (working folder: {Path.cwd()})")
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{what} is no regular file but a pipe, socket or device: {path}; copy it into a file")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{what} is empty (0 bytes): {path}; copy or export it again")
    if not os.access(path, os.R_OK):
        raise InputError(f"no permission to read {what}: {path}; change its permissions")
    return path


def path_text(path: str | os.PathLike[str]) -> str:
    r"""Return a path as files in UTF-8 hold it, whatever the locale is; bytes that are no UTF-8 as surrogates.

    Under a locale that is not UTF-8, Python holds the letters of a path otherwise than those of other texts.

    Examples
    --------
    >>> path_from_text(path_text("scans/fixed.nii.gz"))
    'scans/fixed.nii.gz'
    """
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def path_from_text(text: str) -> str:
    """Return the path that :func:`path_text` made a text of, as this process's locale has it."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def itk_path(path: str | os.PathLike[str]) -> str:
    """Return a path as ITK takes it, in UTF-8 whatever the locale is.

    Under a locale that is not UTF-8, Python holds the letters it cannot decode as surrogates, and SimpleITK ends the
    process at those.

    Raises
    ------
    InputError
        When the name on disk is not UTF-8.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{os.fspath(path)!a}: the name is not UTF-8, which ITK needs; rename the file") from None


def write_by_itk(image: Any, path: Path) -> None:
    """Write an image of SimpleITK, compressed; a file of that name is replaced only when the new one is complete.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    import SimpleITK as sitk

    with atomic_path(path) as temporary:
        try:
            with decimal_points():
                sitk.WriteImage(image, itk_path(temporary), useCompression=True)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"cannot write {path}: {reason(error)}; check the folder's permissions and the free disk space"
            ) from error


def require_writable(folder: str | os.PathLike[str], *, space: float = 0) -> None:
    """Raise :class:`InputError` unless files can be written to a folder; it is tried, and nothing is left there.

    Parameters
    ----------
    folder
        One that exists, or is to be made.
    space
        What is to be written, bytes.
    """
    folder = require_path("folder", folder)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise InputError(f"cannot write to {folder}: {existing} is a file; choose another folder")
    try:
        with tempfile.TemporaryDirectory(prefix=".samreg-", dir=existing) as trial:
            Path(trial, "file").touch()
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}; choose another folder") from None
    if free < space:
        raise InputError(
            f"cannot write to {folder}: about {space / 1e6:.0f} MB are needed there, {free / 1e6:.0f} MB are free; "
            "make room, or choose another folder"
        )


def require_not_input(out: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Raise :class:`InputError` when a file to write is one that is read, by this or another name or link."""
    for path in inputs:
        if path is not None and os.path.exists(path) and os.path.exists(out) and os.path.samefile(path, out):
            raise InputError(f"{out} would replace the input {path}; choose another name")


def require_replaceable(
    folder: str | os.PathLike[str],
    names: Iterable[str],
    *,
    mark: str | None,
    inputs: Iterable[str | os.PathLike[str] | None] = (),
) -> None:
    """Raise :class:`InputError` when results would replace a file that is read, or one that samreg did not write.

    Parameters
    ----------
    folder
        For the results; it need not exist.
    names
        Of the files that may be written there.
    mark
        The file by which a folder is known to hold earlier results of this kind, which may be replaced; None where
        every file there may be, but for the inputs.
    inputs
        What is read.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "table.csv").touch()
    >>> try:
    ...     require_replaceable(folder, ["table.csv"], mark="done.json")
    ... except InputError as error:
    ...     print(str(error).replace(str(folder), "OUT")[:60])
    OUT/table.csv would be replaced, and samreg did not write it
    """
    folder, inputs = Path(folder), [*inputs]
    is_earlier = mark is None or (folder / mark).is_file()
    for name in names:
        require_not_input(folder / name, inputs)
        if not is_earlier and os.path.lexists(folder / name):
            raise InputError(
                f"{folder / name} would be replaced, and samreg did not write it: no {mark} is in {folder}; move it, "
                "or choose another folder"
            )


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {path}: {error.strerror or error}; check the folder's permissions and the free disk space"
    )

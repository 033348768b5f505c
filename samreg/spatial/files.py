"""Files: writing so that nothing is ever half-written, and what every reader shares."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from samreg.errors import InputError, SamregError

_MAX_DEFLATE_RATIO = 1032


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
    path = Path(path)
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
    everything where the folder holds no ``summary``.

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
        When something cannot be written.

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
    folder = Path(folder)
    with staging_folder(folder) as staging:
        yield staging
        files = sorted(staging.iterdir(), key=lambda file: file.name == summary)
        if (folder / summary).is_file():
            (folder / summary).unlink()  # what is replaced from here on is no longer what it sums up
            for name in set(others) - {file.name for file in files}:
                (folder / name).unlink(missing_ok=True)
        for file in files:
            os.replace(file, folder / file.name)


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
        raise InputError(f"cannot read {path}: {reason(error)}; {remedy}") from error


def reason(error: Exception) -> str:
    """Return the gist of an exception in one line, without ITK's source locations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    itk = [line for line in lines if "ITK ERROR" in line]
    text = re.sub(r".*ITK ERROR: (\w+\(0x[0-9a-f]+\): )?", "", itk[0]) if itk else " ".join(lines)
    return (text or type(error).__name__)[:300].rstrip(". ")


def require_file(path: str | os.PathLike[str], what: str = "file") -> Path:
    """Return ``path`` as a ``Path``; raise :class:`InputError` when it is missing, unreadable or empty."""
    try:
        path = Path(path)
        exists = path.exists()
    except (TypeError, ValueError, OSError) as error:  # no path at all, or one that no system allows
        raise InputError(f"{what}: give a path, got {str(path)[:200]!r} ({error})") from None
    if not exists:
        raise InputError(f"{what} not found: {path}; check the path (working folder: {Path.cwd()})")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{what} is empty (0 bytes): {path}; copy or export it again")
    if not os.access(path, os.R_OK):
        raise InputError(f"no permission to read {what}: {path}; change its permissions")
    return path


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


def require_plausible_size(path: Path, size: int, *, compressed: bool = False) -> None:
    """Refuse a file whose header claims more data than it can hold, or than this machine's memory.

    Parameters
    ----------
    path
        The file with the data.
    size
        What its header claims, bytes.
    compressed
        Whether the data are compressed by deflate (gzip, zlib), which shrinks at most by a factor of 1032.

    Raises
    ------
    InputError
        When the claim cannot be true or cannot be met.
    """
    stored = path.stat().st_size
    if size > stored * (_MAX_DEFLATE_RATIO if compressed else 1):
        raise InputError(
            f"cannot read {path}: its header claims {size / 1e6:.4g} MB of data, more than a file of "
            f"{stored / 1e6:.4g} MB holds; is it complete? Copy or export it again"
        )
    memory = _physical_memory()
    if memory is not None and size > memory:
        raise InputError(
            f"cannot read {path}: its data need {size / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB of memory; "
            "crop or resample the image elsewhere"
        )


def _physical_memory() -> int | None:
    """Return this machine's memory in bytes, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {path}: {error.strerror or error}; check the folder's permissions and the free disk space"
    )

"""HDF5 files whose numbers carry a checksum, and that a full disk cannot break."""

from __future__ import annotations

import contextlib
import io
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError, SamregError, is_out_of_memory
from samreg.spatial.files import memory_error, require_file

_CHECKSUM = "crc32"  # attribute of a data set


@contextlib.contextmanager
def create_hdf5(path: Path) -> Iterator[Any]:
    """Yield a new ``h5py.File``, to be written within the ``with`` block.

    Its headers have checksums of their own (HDF5 1.8 and newer).

    Raises
    ------
    OSError
        When it could not be written; the file is to be removed then, as :func:`samreg.spatial.files.atomic_path` does.
    """
    import h5py

    with path.open("w+b", buffering=0) as raw:
        sink = _Sink(raw)
        with h5py.File(sink, "w", libver=("v108", "v108")) as file:
            yield file
    if sink.error is not None:
        raise sink.error


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike[str], kind: str, *, file_format: str, version: int, remedy: str) -> Iterator[Any]:
    """Yield an ``h5py.File`` of one of samreg's own formats, to be read within the ``with`` block.

    Parameters
    ----------
    path
        The file.
    kind
        What it should be, as messages call it: "embedding".
    file_format, version
        Its attributes ``format``, and the newest ``version`` that can be read.
    remedy
        How such a file comes about.

    Raises
    ------
    InputError
        When the file is missing, damaged, of another kind or of a newer version; also for what the block raises.
    """
    import h5py

    path = require_file(path, kind)
    if path.is_dir():
        raise InputError(f"{path} is a folder, no {kind} file; {remedy}")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is no {kind} file; {remedy}")
    is_own = False
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != file_format:
                raise InputError(f"{path} is no samreg {kind}; {remedy}")
            is_own = True
            if (written := int(file.attrs["version"])) > version:
                raise InputError(f"{path}: {kind} format {written} is newer than {version}; update samreg")
            yield file
    except SamregError:
        raise
    except Exception as error:  # h5py raises anything on damaged bytes
        if is_out_of_memory(error):
            raise memory_error(path, error) from error
        # a file that cannot be opened may be of another program
        advice = f"delete it and {remedy}" if is_own else f"copy it again, or {remedy}"
        raise InputError(f"{path} is not a whole {kind} file ({error}); {advice}") from error


def write_array(group: Any, name: str, array: NDArray[Any], **options: Any) -> None:
    """Write an array as a data set of an h5py group, with its checksum; ``options`` are those of ``create_dataset``."""
    dataset = group.create_dataset(name, data=array, **options)
    dataset.attrs[_CHECKSUM] = _checksum(array)


def read_array(dataset: Any) -> NDArray[Any]:
    """Return the array of an h5py data set.

    Raises
    ------
    InputError
        When it does not fit the checksum written with it, or a part of it is missing.
    """
    if dataset.chunks is not None:  # a chunk that is not there reads as zeros
        expected = math.prod(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        if dataset.id.get_num_chunks() < expected:
            raise InputError(f"{dataset.file.filename}: {dataset.name} is not complete; copy or export the file again")
    array: NDArray[Any] = np.asarray(dataset[()])
    if _CHECKSUM in dataset.attrs and int(dataset.attrs[_CHECKSUM]) != _checksum(array):
        raise InputError(
            f"{dataset.file.filename}: {dataset.name} is damaged, it does not fit its checksum; copy or export the "
            "file again"
        )
    return array


def _checksum(array: NDArray[Any]) -> int:
    little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return zlib.crc32(little_endian.reshape(-1).view(np.uint8).data)


class _Sink(io.RawIOBase):
    """A file that never fails: HDF5 ends the process when a write fails, so what no longer fits is held in memory.

    Parameters
    ----------
    file
        Opened for reading and writing, without a buffer.

    Attributes
    ----------
    error
        Why the first write failed, or None.
    """

    def __init__(self, file: io.RawIOBase | io.FileIO) -> None:
        self._file: Any = file
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        return int(self._file.readinto(buffer))

    def truncate(self, size: int | None = None) -> int:
        return self._attempt(lambda: int(self._file.truncate(size)))

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):  # a file without a buffer may take a part only
            written += self._attempt(lambda rest=view[written:]: int(self._file.write(rest)))
        return written

    def _attempt(self, action: Any) -> int:
        try:
            return int(action())
        except OSError as error:
            self.error = error
            position = self._file.tell()
            self._file.seek(0)
            self._file = io.BytesIO(self._file.read())
            self._file.seek(position)
            return int(action())

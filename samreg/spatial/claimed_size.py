"""Whether a file holds as much data as its header claims, and this machine's memory can."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from samreg.errors import InputError
from samreg.spatial.remarks import remark

_MAX_DEFLATE_RATIO = 1032  # by which gzip and zlib shrink at most
_MEMORY_FACTOR = 1.25  # of an image's size in memory while it is read


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
    memory = _available_memory()
    if memory is not None and size * _MEMORY_FACTOR > memory:
        raise InputError(
            f"cannot read {path}: its data need {size * _MEMORY_FACTOR / 1e9:.1f} GB of memory, "
            f"{memory / 1e9:.1f} GB are free; crop or resample the image elsewhere, or use a larger machine"
        )


def remark_surplus(log: logging.Logger, path: Path, held: int, size: int) -> None:
    """Remark that a file holds more bytes of data than its header claims: voxels may have been taken for others."""
    if held > size:
        remark(
            log,
            "%s: holds %d bytes of data, %d more than its header claims; are the size, the type and the offset that it "
            "states right?",
            path,
            held,
            held - size,
        )


def _available_memory() -> int | None:
    """Return how many bytes of memory this process may still take, or None where the system does not say."""
    limits = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):  # of a container
        folder = Path("/sys/fs/cgroup")
        most, held = (int((folder / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        limits.append(most - held)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            limits.append(max(0, limit - pages * os.sysconf("SC_PAGE_SIZE")))
    if not limits:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf
            limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)

"""Decimal points in files, whatever the locale of the process is."""

from __future__ import annotations

import contextlib
import locale
import threading
from collections.abc import Iterator

_LOCK = threading.Lock()
_before: list[str] = []  # the locale outside all blocks, once for each that is entered


@contextlib.contextmanager
def decimal_points() -> Iterator[None]:
    """Let C code write and read numbers with decimal points within the block.

    Qt, and with it napari, sets the locale of the process to the user's. Where that has decimal commas, Teem, which
    writes and reads NRRD within ITK, writes 0,7 and reads 0.7 as 0. The locale is one for all threads: it is set again
    when the last of them leaves its block.

    Examples
    --------
    >>> with decimal_points():
    ...     locale.localeconv()["decimal_point"]
    '.'
    """
    with _LOCK:
        _before.append(_before[0] if _before else locale.setlocale(locale.LC_NUMERIC))
        locale.setlocale(locale.LC_NUMERIC, "C")
    try:
        yield
    finally:
        with _LOCK:
            before = _before.pop()
            if not _before:
                locale.setlocale(locale.LC_NUMERIC, before)

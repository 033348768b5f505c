"""What a reader decided where a file leaves doubt: said in the log at once, and kept for the results made from it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_REMARKS: ContextVar[list[str] | None] = ContextVar("remarks", default=None)


def remark(log: logging.Logger, message: str, *values: object) -> None:
    """Log a warning, and keep it where :func:`remarks_kept` asks for it.

    Parameters
    ----------
    log
        Of the module that warns.
    message, values
        As of :meth:`logging.Logger.warning`.
    """
    log.warning(message, *values)
    remarks = _REMARKS.get()
    if remarks is not None:
        remarks.append(message % values)


@contextmanager
def remarks_kept() -> Iterator[list[str]]:
    """Yield a list that receives the remarks made within the block, but those of a block within it.

    Examples
    --------
    >>> log = logging.getLogger("samreg.example")
    >>> log.disabled = True
    >>> with remarks_kept() as remarks:
    ...     remark(log, "%s: the orientation is a guess", "scan.img")
    >>> remarks
    ['scan.img: the orientation is a guess']
    """
    remarks: list[str] = []
    token = _REMARKS.set(remarks)
    try:
        yield remarks
    finally:
        _REMARKS.reset(token)

"""The exceptions samreg raises on purpose.

A fault of the *call* (a missing file, a wrong option, an image that is no CT) is an exception that names the
value and the remedy. A fault of the *images* (no overlap, too few matches) is a falsy result with a ``reason``.
"""

from __future__ import annotations


class SamregError(Exception):
    """Base of every exception samreg raises on purpose."""


class InputError(SamregError, ValueError):
    """The input is at fault; the message names the file or value and the remedy."""


class MissingExtraError(SamregError, ImportError):
    """An optional package is needed; the message says what to install."""


class EngineError(SamregError, RuntimeError):
    """A registration engine failed; the message carries the end of its log."""

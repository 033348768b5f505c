"""The exceptions samreg raises on purpose, and the check of a choice.

A fault of the *call* (a missing file, a wrong option, an image that is no CT) is an :class:`InputError` that names the
value and the remedy. A fault of the *images* (no overlap, too few matches, a field that cannot be unfolded) is an
:class:`ImagesAtFault`, which :func:`samreg.register` turns into a falsy result with a ``reason``.
"""

from __future__ import annotations

from collections.abc import Iterable


class SamregError(Exception):
    """Base of every exception samreg raises on purpose."""


class InputError(SamregError, ValueError):
    """The input is at fault; the message names the file or value and the remedy."""


class ImagesAtFault(SamregError):
    """The images cannot be registered or matched, though the call is right.

    Parameters
    ----------
    reason
        Why, in plain words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MissingExtraError(SamregError, ImportError):
    """An optional package is needed; the message says what to install."""


class EngineError(SamregError, RuntimeError):
    """A registration engine failed; the message carries the end of its log."""


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise :class:`InputError` unless a value is one of the choices.

    Parameters
    ----------
    name
        What is chosen, for the message.
    value
        What was given.
    choices
        What there is.

    Examples
    --------
    >>> require_choice("method", "hybird", ("hybrid", "embedding"))
    Traceback (most recent call last):
    samreg.errors.InputError: unknown method 'hybird'; choose one of hybrid, embedding
    """
    choices = tuple(choices)
    if not (isinstance(value, str) and value in choices):
        raise InputError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")

"""The exceptions samreg raises on purpose, and the checks of plain options that raise them.

A fault of the *call* (a missing file, a wrong option, an image that is no CT) is an :class:`InputError` that names the
value and the remedy. A fault of the *images* (no overlap, too few matches, a field that cannot be unfolded) is an
:class:`ImagesAtFault`, which :func:`samreg.register` turns into a falsy result with a ``reason``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, overload

T = TypeVar("T")

_MAX_SEED = 2**32 - 1  # numpy, torch and ANTs all take it
_OUT_OF_MEMORY = re.compile(
    r"out of memory|(?:allocate|not enough|insufficient) memory|memory allocation failed|bad_alloc|_ALLOC_FAILED|"
    r"failed to map segment|cannot map zero-fill",  # of a library that is loaded
    re.IGNORECASE,
)


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


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory is short, as Python and numpy, torch on any device, ITK or HDF5 do.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


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
        raise InputError(f"unknown {name} {_shown(value)}; choose one of {', '.join(choices)}")


@overload
def require_number(
    name: str,
    value: object,
    *,
    minimum: float | None = ...,
    maximum: float | None = ...,
    integer: Literal[True],
    unit: str = ...,
) -> int: ...
@overload
def require_number(
    name: str,
    value: object,
    *,
    minimum: float | None = ...,
    maximum: float | None = ...,
    integer: Literal[False] = ...,
    unit: str = ...,
) -> float: ...
def require_number(
    name: str,
    value: object,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    integer: bool = False,
    unit: str = "",
) -> float:
    """Return an option as a plain number; raise :class:`InputError` where it is none, or out of range.

    Numbers of numpy and arrays of no dimension count; text, booleans, lists, NaN and infinity do not.

    Parameters
    ----------
    name
        Of the option, for the message.
    value
        What was given.
    minimum, maximum
        The range, both ends included.
    integer
        Take whole numbers of an integer type alone: 2, not 2.0.
    unit
        For the message, such as "mm".

    Examples
    --------
    >>> require_number("threads", 2, minimum=1, integer=True)
    2
    >>> require_number("spacing", (2, 2, 2), minimum=0.2, maximum=20, unit="mm")
    Traceback (most recent call last):
    samreg.errors.InputError: spacing must be a number between 0.2 and 20 mm, got (2, 2, 2)
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a scalar of numpy or torch
        value = value.item()
    number: float | None = None
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
    elif isinstance(value, Real) and not integer and not isinstance(value, bool):
        number = float(value)
    low, high = -float("inf") if minimum is None else minimum, float("inf") if maximum is None else maximum
    if number is None or not low <= number <= high or number in (float("inf"), -float("inf")):
        kind = "a whole number" if integer else "a number"
        raise InputError(f"{name} must be {kind}{_range(minimum, maximum)}{unit and f' {unit}'}, got {_shown(value)}")
    return number


def require_seed(value: object) -> int:
    """Return the seed of a random generator as an int; raise :class:`InputError` unless it is 0 to 2**32 - 1.

    Examples
    --------
    >>> require_seed(-1)
    Traceback (most recent call last):
    samreg.errors.InputError: seed must be a whole number between 0 and 4294967295, got -1
    """
    return require_number("seed", value, minimum=0, maximum=_MAX_SEED, integer=True)


def require_flag(name: str, value: object) -> bool:
    """Return an option that is on or off; raise :class:`InputError` unless it is True or False.

    Examples
    --------
    >>> require_flag("verbose", "no")
    Traceback (most recent call last):
    samreg.errors.InputError: verbose must be True or False, got 'no'
    """
    if isinstance(value, bool):
        return value
    if getattr(value, "shape", None) == () and str(getattr(value, "dtype", "")) == "bool":  # of numpy
        return bool(value)
    raise InputError(f"{name} must be True or False, got {_shown(value)}")


def require_type(name: str, value: object, kind: type, remedy: str) -> None:
    """Raise :class:`InputError` unless a value is of one of samreg's types.

    Parameters
    ----------
    name
        Of the argument, for the message.
    value
        What was given.
    kind
        The type.
    remedy
        Where one comes from, for the message.

    Examples
    --------
    >>> from samreg.spatial import Grid
    >>> require_type("grid", [20, 20], Grid, "such as image.grid")
    Traceback (most recent call last):
    samreg.errors.InputError: grid must be a samreg Grid, such as image.grid, got list
    """
    if not isinstance(value, kind):
        raise InputError(f"{name} must be a samreg {kind.__name__}, {remedy}, got {type(value).__name__}")


def require_each(name: str, values: object, kind: type[T], remedy: str) -> tuple[T, ...]:
    """Return values as a tuple; raise :class:`InputError` unless they are several, each of one of samreg's types.

    Parameters
    ----------
    name
        Of the argument, for the message.
    values
        What was given: a list, or any other iterable.
    kind
        The type of each.
    remedy
        What else may be given, or where they come from, for the message.

    Examples
    --------
    >>> from samreg.registration import RegistrationPair
    >>> require_each("pairs", ["a.nii.gz"], RegistrationPair, "or a csv file")
    Traceback (most recent call last):
    samreg.errors.InputError: pairs must be a list of samreg's RegistrationPair, or a csv file, got ['a.nii.gz']
    """
    known = tuple(values) if isinstance(values, Iterable) else ()
    if not isinstance(values, Iterable) or not all(isinstance(value, kind) for value in known):
        raise InputError(f"{name} must be a list of samreg's {kind.__name__}, {remedy}, got {_shown(values)}")
    return known


def require_progress(value: object) -> None:
    """Raise :class:`InputError` unless ``progress`` can be called, or is None.

    Examples
    --------
    >>> require_progress(True)
    Traceback (most recent call last):
    samreg.errors.InputError: progress must be a function of one text, such as print, got True
    """
    if value is not None and not callable(value):
        raise InputError(f"progress must be a function of one text, such as print, got {_shown(value)}")


def require_options(name: str, value: object) -> dict[str, Any]:
    """Return options by their names; raise :class:`InputError` unless they are a mapping, a dataclass or None.

    Examples
    --------
    >>> require_options("engine_options", {"iterations": [20, 0]})
    {'iterations': [20, 0]}
    >>> require_options("engine_options", "fast")
    Traceback (most recent call last):
    samreg.errors.InputError: engine_options must map names to values, such as {'iterations': [20, 10]}, got 'fast'
    """
    if value is None:
        return {}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise InputError(f"{name} must map names to values, such as {{'iterations': [20, 10]}}, got {_shown(value)}")


def _range(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f" between {minimum:g} and {maximum:.10g}"
    return f" of at least {minimum:g}" if minimum is not None else "" if maximum is None else f" of at most {maximum:g}"


def _shown(value: object) -> str:
    """Return a value for a message: on one line, and no longer than that."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."

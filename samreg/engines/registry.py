"""The engines there are: those built in, those that installed packages add by entry point, and those in a file."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samreg.engines.request import Engine
from samreg.errors import InputError, MissingExtraError
from samreg.spatial.files import reading, require_file

ENTRY_POINTS = "samreg.engines"
_HOW = "see docs/howto/own-engine.md"


@dataclass(frozen=True)
class EngineEntry:
    """What is known of an engine before it is loaded.

    Parameters
    ----------
    name
        As in ``register(engine=...)``.
    distribution
        The package on PyPI that does the work, asked for its version.
    install
        What ``pip install`` needs to be told.
    target
        ``module:class``.
    code
        Files and folders of samreg whose code changes the engine's results.
    """

    name: str
    distribution: str
    install: str
    target: str
    code: tuple[str, ...] = ()

    @property
    def version(self) -> str | None:
        """Version of the package; None when it is not installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


_CODE = ("engines/base.py", "engines/request.py")
BUILT_IN = (
    EngineEntry(
        "ants",
        "antspyx",
        "antspyx",
        "samreg.engines.ants:AntsEngine",
        (*_CODE, "engines/child.py", "engines/ants.py", "engines/_ants_worker.py"),
    ),
    EngineEntry(
        "elastix",
        "itk-elastix",
        '"samreg[elastix]"',
        "samreg.engines.elastix:ElastixEngine",
        (*_CODE, "engines/child.py", "engines/elastix.py", "engines/_elastix_worker.py"),
    ),
    EngineEntry("torch", "torch", "torch", "samreg.engines.torch_engine:TorchEngine", (*_CODE, "engines/torch_engine")),
)


def engine_entries() -> dict[str, EngineEntry]:
    """Return what is known of each engine, by name: the built-in ones, then those of installed packages."""
    entries = {entry.name: entry for entry in BUILT_IN}
    for entry in _installed(_folders_of_packages()):
        entries.setdefault(entry.name, entry)
    return entries


@functools.lru_cache(maxsize=1)
def _installed(_: tuple[tuple[str, int], ...]) -> tuple[EngineEntry, ...]:
    """Return the engines of installed packages, read again when the folders of packages are other ones.

    Reading takes 25 ms with a few hundred packages, and a registration asks several times.
    """
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    packages = [point.dist.name if point.dist is not None else point.module for point in points]
    return tuple(
        EngineEntry(point.name, package, package, point.value) for point, package in zip(points, packages, strict=True)
    )


def _folders_of_packages() -> tuple[tuple[str, int], ...]:
    """Return where Python looks for packages, each with the time of its last change, as when one is installed."""
    return tuple((folder, os.stat(folder or ".").st_mtime_ns) for folder in sys.path if os.path.exists(folder or "."))


def engine_packages(name: str | None = None) -> tuple[str, ...]:
    """Return the packages on PyPI that may do a registration: those of one engine, or of all where none is named.

    Examples
    --------
    >>> engine_packages("ants")
    ('torch', 'SimpleITK', 'scipy', 'antspyx')
    """
    entries = engine_entries()
    chosen = [entries[name]] if name in entries else list(entries.values())
    return tuple(dict.fromkeys(("torch", "SimpleITK", "scipy", *(entry.distribution for entry in chosen))))


def available_engines() -> tuple[str, ...]:
    """Return the names of the engines whose packages are installed.

    Examples
    --------
    >>> from samreg.engines import available_engines
    >>> "torch" in available_engines()
    True
    """
    return tuple(name for name, entry in engine_entries().items() if entry.version is not None)


def get_engine(name: str) -> Engine:
    """Return an engine.

    Parameters
    ----------
    name
        "ants", "elastix", "torch", the name of an entry point ``samreg.engines`` of an installed package, or
        FILE.py:CLASS.

    Raises
    ------
    InputError
        When there is no such engine, or it is none.
    MissingExtraError
        When its package is not installed.

    Examples
    --------
    >>> from samreg.engines import get_engine
    >>> get_engine("torch").name
    'torch'
    """
    if ".py:" in name:
        path, _, attribute = name.rpartition(":")
        return as_engine(from_file(path, attribute))
    entries = engine_entries()
    if name not in entries:
        raise InputError(f"unknown engine {name!r}; choose one of {', '.join(entries)}, or FILE.py:CLASS")
    engine_version(name)
    module, _, attribute = entries[name].target.partition(":")
    with reading(f"the engine {name}", f"is {entries[name].distribution} installed whole?"):
        found = getattr(importlib.import_module(module), attribute)
    return as_engine(found)


def engine_version(name: str) -> str:
    """Return the engine's package and version, such as "antspyx 0.6.3".

    Raises
    ------
    MissingExtraError
        When the package is not installed.
    """
    entry = engine_entries()[name]
    if entry.version is None:
        raise MissingExtraError(f"the {name} engine needs {entry.distribution}: pip install {entry.install}")
    return f"{entry.distribution} {entry.version}"


def as_engine(engine: Any) -> Engine:
    """Return a user's engine, made if it is given as its class.

    Raises
    ------
    InputError
        When it is no :class:`~samreg.engines.Engine`, or its ``register`` does not take one request.
    """
    if isinstance(engine, type):
        try:
            engine = engine()
        except TypeError as error:
            raise InputError(
                f"the engine {engine.__name__} cannot be made without arguments: {error}; {_HOW}"
            ) from error
    if not (callable(getattr(engine, "register", None)) and isinstance(getattr(engine, "name", None), str)):
        raise InputError(f"{engine!r} is no engine: subclass samreg.engines.Engine; {_HOW}")
    if not _takes_one_request(engine.register):
        raise InputError(
            f"the engine {engine.name} has register{inspect.signature(engine.register)}, the protocol of samreg 0.1: "
            f"make it register(self, request), with request.fixed, request.moving, request.start, ...; {_HOW}"
        )
    if not isinstance(engine, Engine):
        raise InputError(f"the engine {engine.name} must be a subclass of samreg.engines.Engine; {_HOW}")
    return engine


def from_file(path: str | Path, name: str) -> Any:
    """Return what a file of Python code defines under a name.

    Raises
    ------
    InputError
        When there is no such file, it does not run, or does not define the name.
    """
    path = require_file(path, "file of Python code").resolve()
    module_name = f"samreg_{path.stem}_{zlib.crc32(os.fsencode(path)):08x}"  # that no installed module has
    specification = importlib.util.spec_from_file_location(module_name, path)
    if specification is None or specification.loader is None:
        raise InputError(f"{path} is no file of Python code")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = module  # where dataclasses look their annotations up
    with reading(path, "does the file run on its own?"):
        specification.loader.exec_module(module)
    if not hasattr(module, name):
        raise InputError(f"{path} defines no {name!r}")
    return getattr(module, name)


def _takes_one_request(register: Callable[..., Any]) -> bool:
    try:
        inspect.signature(register).bind(object())
    except TypeError:
        return False
    return "fixed" not in inspect.signature(register).parameters

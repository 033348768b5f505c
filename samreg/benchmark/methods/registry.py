"""The methods the benchmark compares, by name, and how users add theirs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import samreg
from samreg.benchmark.methods.base import Method, Outcome, source_files
from samreg.benchmark.methods.careful import careful
from samreg.benchmark.methods.convexadam import convexadam
from samreg.engines.registry import BUILT_IN, from_file
from samreg.errors import InputError
from samreg.registration.quality import alignment_before, working_grid
from samreg.registration.result import RegistrationResult
from samreg.spatial import Image
from samreg.spatial.files import reading

ENTRY_POINTS = "samreg.benchmark.methods"
_EMBEDDING = ("spatial", "registration", "embedding", "matching", "seeding", "landmarks")
# what every registration goes through
_SHARED = (
    "spatial",
    "registration",
    "embedding/ct.py",
    "embedding/body.py",
    "quality/similarity.py",
)
_ENGINES = {entry.name: entry for entry in BUILT_IN}
# on a phantom pair local correlation was no nearer than mutual information, at four times the cost
_TUNED_SYN = {"iterations": (100, 70, 50, 0)}
_TUNED_BSPLINE = {"resolutions": 4, "iterations": 500, "samples": 8192, "grid_spacing": 16.0, "bending_weight": 10.0}


def _identity(fixed: Image, moving: Image, *, threads: int, seed: int) -> Outcome:
    """Leave the images as their worlds place them, or centred where those are unrelated."""
    transform, _ = alignment_before(fixed.grid, moving.grid, working_grid(fixed).world_points().reshape(-1, fixed.ndim))
    return Outcome(transform, transform.inverse())


def _register(fixed: Image, moving: Image, **options: Any) -> RegistrationResult:
    return samreg.register(fixed, moving, **options)


def _registered(name: str, **options: Any) -> Method:
    """Return a method that is a call of :func:`samreg.register`."""
    engine = options.get("engine", "")
    embeds = options["method"] != "registration"
    packages = {"torch"} if embeds else set()
    if engine:
        packages.add(_ENGINES[engine].distribution)
    code = (_EMBEDDING if embeds else ()) + (_engine_code(engine) if engine else ())
    return Method(name, _register, options, tuple(sorted(packages)), code, embeds=embeds)


def _engine_code(engine: str) -> tuple[str, ...]:
    return (*_SHARED, *_ENGINES[engine].code)


def _careful(name: str, engine: str, deformable: Mapping[str, Any] | None = None, *, seeded: bool = False) -> Method:
    options = {"engine": engine, "deformable": deformable, "seeded": seeded}
    packages = (_ENGINES[engine].distribution, *(("torch",) if seeded else ()))
    code = ("benchmark/methods/careful.py", *(_EMBEDDING if seeded else ()), *_engine_code(engine))
    return Method(name, careful, options, packages, code, embeds=seeded)


def _convexadam(name: str, start: str) -> Method:
    embeds = start == "embedding"
    packages = ("convexAdam", "torch", *(() if embeds else (_ENGINES["ants"].distribution,)))
    code = ("benchmark/methods/convexadam.py", *(_EMBEDDING if embeds else _engine_code("ants")))
    return Method(name, convexadam, {"start": start}, packages, code, embeds=embeds)


_ALONE: dict[str, Any] = {"method": "registration"}
_BUILT_IN = {
    method.name: method
    for method in (
        Method("identity", _identity, code=("spatial", "registration/quality.py")),
        _registered("embedding-affine", method="embedding", transform="affine"),
        _registered("embedding-deformable", method="embedding"),
        _registered("ants-affine", **_ALONE, engine="ants", transform="affine"),
        _registered("ants-syn", **_ALONE, engine="ants"),
        _registered("ants-synquick", **_ALONE, engine="ants", engine_options={"variant": "quick"}),
        _registered("elastix-affine", **_ALONE, engine="elastix", transform="affine"),
        _registered("elastix-bspline", **_ALONE, engine="elastix"),
        _careful("ants-careful-affine", "ants"),
        _careful("ants-careful-syn", "ants", _TUNED_SYN),
        _careful("elastix-careful-bspline", "elastix", _TUNED_BSPLINE),
        _registered("hybrid-ants", method="hybrid", engine="ants"),
        _registered("hybrid-elastix", method="hybrid", engine="elastix"),
        _careful("hybrid-ants-careful", "ants", _TUNED_SYN, seeded=True),
        _careful("hybrid-elastix-careful", "elastix", _TUNED_BSPLINE, seeded=True),
        _registered("hybrid-torch", method="hybrid", engine="torch"),
        _registered("hybrid-torch-fast", method="hybrid", engine="torch", engine_options={"preset": "fast"}),
        _registered("hybrid-torch-accurate", method="hybrid", engine="torch", engine_options={"preset": "accurate"}),
        _convexadam("convexadam-ants", "ants-affine"),
        _convexadam("convexadam-embedding", "embedding"),
    )
}  # fmt: skip


def available_methods() -> tuple[str, ...]:
    """Return the names of the methods built in and of those that installed packages add by entry point.

    Examples
    --------
    >>> from samreg.benchmark import available_methods
    >>> "embedding-affine" in available_methods()
    True
    """
    return (*_BUILT_IN, *_entry_points())


def get_method(spec: str) -> Method:
    """Return a method.

    Parameters
    ----------
    spec
        A name of :func:`available_methods`, or FILE.py:FUNCTION; and :MODEL after either for a method that embeds, with
        a model's name or checkpoint.

    Raises
    ------
    InputError
        When there is no such method, or it takes no model.

    Examples
    --------
    >>> from samreg.benchmark import get_method
    >>> get_method("embedding-affine:mind").options["model"]
    'mind'
    """
    file, is_file, rest = spec.partition(".py:")
    name, _, model = (rest if is_file else spec).partition(":")
    if is_file:
        name = f"{file}.py:{name}"
        method = _as_method(name, from_file(f"{file}.py", name.rpartition(":")[2]))
        # the file counts beside what it takes from others, such as a decorator or the function that it calls in part
        code = dict.fromkeys((*(method.code or source_files(method.run)), str(Path(f"{file}.py").resolve())))
        method = replace(method, code=tuple(code))
    elif name in _BUILT_IN:
        method = _BUILT_IN[name]
    else:
        points = _entry_points()
        if name not in points:
            choices = ", ".join(available_methods())
            raise InputError(f"unknown method {spec!r}; choose from {choices}, NAME:MODEL, or FILE.py:FUNCTION")
        with reading(f"the entry point {name}", "is the package that adds it installed whole?"):
            method = _as_method(name, points[name].load())
    return method.with_model(model) if model else method


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _as_method(name: str, content: Any) -> Method:
    if isinstance(content, Method):
        return replace(content, name=name)
    if not callable(content):
        raise InputError(f"{name} is no callable method(fixed, moving, *, threads, seed)")
    return Method(name, content)

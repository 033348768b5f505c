"""Modules and names that have moved: the old ones still import, with a DeprecationWarning, until version 0.3."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "samreg.atlas.build": "samreg.atlas.api",
    "samreg.benchmark.anatomy": "samreg.phantoms.anatomy",
    "samreg.benchmark.careful": "samreg.benchmark.methods.careful",
    "samreg.benchmark.charts": "samreg.benchmark.report.charts",
    "samreg.benchmark.convexadam": "samreg.benchmark.methods.convexadam",
    "samreg.benchmark.followup": "samreg.phantoms.followup",
    "samreg.benchmark.method": "samreg.benchmark.methods.base",
    "samreg.benchmark.phantom": "samreg.phantoms.phantom",
    "samreg.benchmark.pictures": "samreg.benchmark.report.pictures",
    "samreg.benchmark.statistics": "samreg.benchmark.report.statistics",
    "samreg.benchmark.tables": "samreg.benchmark.report.tables",
    "samreg.detector": "samreg.landmarks.detector",
    "samreg.engines.worker": "samreg.engines.child",
    "samreg.quality.registration": "samreg.registration.quality",
    "samreg.report.landmarks": "samreg.report.landmark_page",
    "samreg.result": "samreg.registration.result",
    "samreg.runs": "samreg.steps",
    "samreg.saved": "samreg.registration.store",
    "samreg.templates": "samreg.landmarks.templates",
    "samreg.tracking.errors": "samreg.tracking.accuracy",
    "samreg.training.detector": "samreg.training.landmarks",
}

#: Names that left a module which is still there.
MOVED_NAMES = {
    "samreg.spatial.transforms": dict.fromkeys(
        ("DisplacementField", "InverseField", "invert", "jacobian_determinant", "sample_displacement", "tapered"),
        "samreg.spatial.displacement",
    ),
}


def moved_name(module: str, name: str) -> object:
    """Return what a module's ``__getattr__`` is asked for, from where it is now; older pickles hold such names."""
    target = MOVED_NAMES[module].get(name)
    if target is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} is now {target}.{name}", DeprecationWarning, stacklevel=3)
    return getattr(importlib.import_module(target), name)


class _Loader(importlib.abc.Loader):
    """Fills a module whose names are those of the module it has become."""

    def exec_module(self, module: ModuleType) -> None:
        target = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is now {target}", DeprecationWarning, stacklevel=2)
        moved = importlib.import_module(target)
        module.__doc__ = moved.__doc__
        module.__getattr__ = lambda name: getattr(moved, name)  # type: ignore[method-assign]


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, _Loader()) if fullname in MOVED else None


def install() -> None:
    """Let the old names be imported; once is enough."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())

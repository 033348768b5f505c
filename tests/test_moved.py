"""Names that modules had in earlier versions."""

from __future__ import annotations

import importlib
import sys

import pytest

from samreg._moved import MOVED, MOVED_NAMES


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_gives_what_the_new_one_holds(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        module = importlib.import_module(old)
    new = importlib.import_module(MOVED[old])
    names = [name for name in vars(new) if not name.startswith("__")]
    assert names
    assert all(getattr(module, name) is getattr(new, name) for name in names)


@pytest.mark.parametrize(("module", "name"), [(old, name) for old in MOVED_NAMES for name in MOVED_NAMES[old]])
def test_a_name_that_left_its_module_imports_from_there(module, name):
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is now"):
        moved = getattr(importlib.import_module(module), name)
    assert moved is getattr(importlib.import_module(MOVED_NAMES[module][name]), name)
    assert not hasattr(importlib.import_module(module), "nothing")

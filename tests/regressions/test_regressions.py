"""Situations from public trackers of this field that once went wrong here: each program ends with 0 when all is right."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PROGRAMS = sorted(
    path.stem for path in FOLDER.glob("*.py") if path.stem not in ("conftest", "test_regressions", "tinydicom")
)
NEEDS_SCANS = {"rolled_patient"}  # run in tests/real


def run(name: str) -> None:
    """Run a program as ``python NAME.py`` does; it may end with SystemExit, whose code is its verdict."""
    verdict = None
    try:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        verdict = end.code
    assert not verdict, verdict


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in NEEDS_SCANS])
def test_what_went_wrong_once(name, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    run(name)
    sys.modules.pop("tinydicom", None)


def test_there_are_as_many_as_were_reported():
    assert len(PROGRAMS) == 22

"""What tests/conftest.py promises: under CI=true no part of samreg goes untested unseen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_WITHIN_A_TEST = """
import pytest

def test_of_a_missing_package():
    pytest.importorskip("no_such_package")

@pytest.mark.xfail(reason="known")
def test_known_to_fail():
    assert False
"""
_OF_A_MODULE = """
import pytest

pytest.importorskip("no_such_package")
"""


@pytest.mark.parametrize(
    ("tests", "ci", "summary"),
    [
        (_WITHIN_A_TEST, "true", "2 failed, 1 passed"),
        (_WITHIN_A_TEST, "", "1 passed, 1 skipped, 1 xfailed"),
        (_OF_A_MODULE, "true", "1 error"),
        (_OF_A_MODULE, "", "1 passed, 1 skipped"),
    ],
)
def test_skips_and_expected_failures_are_failures_under_ci(tmp_path, tests, ci, summary):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_fine.py").write_text("def test_fine(): pass")
    (tmp_path / "test_some.py").write_text(tests)
    command = (sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "-W", "ignore")
    run = subprocess.run(
        [*command, f"--rootdir={tmp_path}", tmp_path],
        env=os.environ | {"CI": ci, "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # napari's is slow
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = run.stdout.splitlines()[-1]
    assert f" {summary} in " in last, run.stdout
    assert "could not import 'no_such_package'" in run.stdout
    assert (run.returncode != 0) == (ci == "true")

"""The experiments: none of them imports what is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_every_program_imports():
    names = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    call = [sys.executable, "-c", code, *names]
    done = subprocess.run(call, cwd=EXPERIMENTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(names) > 10

"""The experiments: each runs, tells its options, and is listed; what they share is right."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PROGRAMS = sorted(path.stem for path in EXPERIMENTS.glob("*.py") if not path.name.startswith("_"))


@pytest.fixture
def load(monkeypatch):
    """Import a program, or what programs share, as ``python experiments/NAME.py`` does."""
    monkeypatch.syspath_prepend(EXPERIMENTS)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"experiment_{name}", EXPERIMENTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_tells_its_options_and_refuses_others(name, load, monkeypatch, capsys):
    program = load(name)
    for call, status in ((["--help"], 0), (["--no-such-option"], 2)):
        monkeypatch.setattr(sys, "argv", [name, *call])
        with pytest.raises(SystemExit) as ended:
            program.main()
        assert ended.value.code == status
    shown = capsys.readouterr()
    assert f"python experiments/{name}.py" in shown.out
    assert "error:" in shown.err
    assert f"experiments/{name}.py" in (EXPERIMENTS / "README.md").read_text(encoding="utf-8")


def test_the_import_time_is_measured(load, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["import_time", "--repeats", "1"])
    load("import_time").main()
    assert capsys.readouterr().out.startswith("import samreg: ")


def test_landmark_errors_are_summed_up(load):
    landmarks = load("_landmarks")
    assert landmarks.describe([1.0, 2.0, 6.0]) == "3.0 / 2.0 / 5.6"
    positive = np.array([True, True, False, False])
    assert landmarks.auc(np.array([0.9, 0.5, 0.5, 0.1]), positive) == pytest.approx(0.875)

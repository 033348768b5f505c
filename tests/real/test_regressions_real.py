"""The program of tests/regressions that needs a real scan."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.usefixtures("embeddings_kept")
def test_a_rolled_patient_is_not_called_mirrored(data_dir, monkeypatch):
    monkeypatch.setenv("SAMREG_DATA", str(data_dir))
    program = Path(__file__).parents[1] / "regressions" / "rolled_patient.py"
    verdict = None
    try:
        runpy.run_path(str(program), run_name="__main__")
    except SystemExit as end:
        verdict = end.code
    assert not verdict, verdict

"""The programs end as a command should when they are called wrongly."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "pipelines" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "call", "says"),
    [
        ("segmentation_unet", ["none.nii.gz", "none.nii.gz", "none.nii.gz", "-o", "out"], "none.nii.gz"),
        ("training/calibrate", ["scans", "none.safetensors", "out", "none.txt"], "list of pairs not found: none.txt"),
        ("training/cross_subject", ["scans", "none.safetensors", "out"], "checkpoint not found: none.safetensors"),
    ],
)
def test_a_bad_call_ends_with_2(name, call, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        load(name).main(call)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

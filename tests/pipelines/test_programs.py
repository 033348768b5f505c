"""The thin programs: what they pass on, what they print, how they end. The work itself is tested with its functions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import samreg
from samreg.atlas import Atlas, Convergence
from samreg.runs import Outcome
from samreg.tracking import TrackingErrors


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "pipelines" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("failed", 1)])
def test_build_atlas(tmp_path, monkeypatch, capsys, status, code):
    calls = {}

    def build(**options: object) -> Atlas:
        calls.update(options)
        return Atlas(tmp_path, ("a",), (Convergence(1, 2.5, 4.0, 0.01, 60.0, 2),), (Outcome("a", status, 1.0),))

    monkeypatch.setattr(samreg, "build_atlas", build)
    call = ["scans", "-o", str(tmp_path), "--engine", "torch", "--preset", "fast", "--jobs", "2", "--iterations", "1"]
    assert load("build_atlas").main(call) == code
    assert "drift 2.50 mm" in capsys.readouterr().out
    given = {key: calls[key] for key in ("images", "engine", "engine_options", "jobs", "iterations", "spacing")}
    assert given == {
        "images": [Path("scans")], "engine": "torch", "engine_options": {"preset": "fast"}, "jobs": 2, "iterations": 1,
        "spacing": 2.0,
    }  # fmt: skip
    assert "method" not in calls


def test_track_lesions(tmp_path, monkeypatch, capsys):
    program = load("track_lesions")
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "pairs.csv").write_text("baseline,followup,lesions\na.nii.gz,b.nii.gz,l.csv\n")
    errors = TrackingErrors(1, 3.0, 0.0, 1.0, 2.0, 2.0, 1.0, None)
    seen = []

    def track(pairs: tuple, out: Path, **_: object) -> tuple:
        seen.extend(pairs)
        return [Outcome("pair-001", "failed", 1.0, "cut")], errors

    monkeypatch.setattr(program, "track_pairs", track)
    assert program.main([str(tmp_path / "pairs.csv"), "-o", str(tmp_path / "out")]) == 1
    assert seen[0].followup == tmp_path / "b.nii.gz"
    printed = capsys.readouterr().out
    assert "within_10mm: 1.0" in printed
    assert "within_radius: None" in printed


@pytest.mark.parametrize(
    ("name", "call", "says"),
    [
        ("build_atlas", ["none", "-o", "out"], "none"),
        ("track_lesions", ["dlt.json", "-o", "out"], "--images"),
        ("track_lesions", ["none.csv", "-o", "out"], "none.csv"),
        ("propagate_landmarks", ["none", "none", "-o", "out"], "none"),
        ("segmentation_unet", ["none.nii.gz", "none.nii.gz", "none.nii.gz", "-o", "out"], "none.nii.gz"),
    ],
)
def test_a_bad_call_ends_with_2(name, call, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        load(name).main(call)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

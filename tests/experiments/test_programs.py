"""The experiments: each runs, tells its options, and is listed; what they share is right."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from samreg.errors import InputError
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, compose, resample

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PROGRAMS = sorted(path.stem for path in EXPERIMENTS.glob("*.py") if not path.name.startswith("_"))


@pytest.fixture
def load(monkeypatch):
    """Import a program, or what programs share, as ``python experiments/NAME.py`` does."""
    monkeypatch.syspath_prepend(EXPERIMENTS)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"experiment_{name}", EXPERIMENTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
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


@pytest.mark.usefixtures("embeddings_kept")
def test_the_gpu_is_measured_in_one_go_and_a_step_that_fails_stops_no_other(load, monkeypatch, tmp_path, capsys):
    def broken(setting):
        yield gpu.Row("phantom", "half of it", 1.0)
        raise RuntimeError("no kernel image is available")

    gpu = load("gpu")
    monkeypatch.setattr(gpu, "QUICK_SIZE", 11)
    monkeypatch.setitem(gpu.STEPS, "phantom", (broken, 60))
    steps = ["phantom", "chests", "default", "points", "batch"]
    call = ["run", "--quick", "--device", "cpu", "--in-process", "--out", str(tmp_path), "--steps", *steps]
    monkeypatch.setattr(sys, "argv", ["gpu", *call])
    gpu.main()
    rows = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["rows"]
    assert list(dict.fromkeys(row["step"] for row in rows)) == steps
    assert [row["what"] for row in rows if "FAILED" in row["what"]] == [
        "FAILED: RuntimeError: no kernel image is available"
    ]
    assert "no kernel image" in (tmp_path / "gpu.log").read_text(encoding="utf-8")
    of_chests = [row for row in rows if row["step"] == "chests"]
    assert len(of_chests) == 6
    assert all(row["cpu_s"] > 0 and row["device_s"] > 0 for row in of_chests)
    assert all(float(row["distance"].split("/")[-1]) < 0.5 for row in of_chests)  # mm
    shown = capsys.readouterr().out
    assert all(line in shown for line in (tmp_path / "gpu.md").read_text(encoding="utf-8").splitlines() if "|" in line)


def test_what_stands_in_for_simpleitk_resamples_as_it_does(monkeypatch):
    rng = np.random.default_rng(0)
    array = rng.normal(0, 300, (12, 14, 16)).astype(np.float32)
    axes = np.diag([1.0, -1.0, -1.0])
    image = Image.from_array(array, spacing=(2, 3, 1.5), origin=(3, 4, 5), direction=axes)
    labels = image.with_array((array > 100).astype(np.uint8))
    field = DisplacementField(rng.normal(0, 3, (5, 5, 5, 3)).astype(np.float32), Grid.make((5, 5, 5), spacing=10))
    bent = compose(field, AffineTransform(np.eye(3) + rng.normal(0, 0.03, (3, 3)), [3, 2, 1]))
    grid = Grid.make((14, 13, 12), origin=(0, -40, -15), spacing=(2.2, 2.7, 1.4))

    def resampled():
        return [
            resample(source, grid, transform=transform, interpolation=kind, fill=fill).array
            for source, kind in ((image, "linear"), (image, "nearest"), (labels, "nearest"))
            for transform in (None, bent)
            for fill in (0, "edge")
        ]

    expected = resampled()
    monkeypatch.delitem(sys.modules, "SimpleITK")
    monkeypatch.syspath_prepend(EXPERIMENTS / "gpu_stand_in")
    for array, other in zip(expected, resampled(), strict=True):
        assert array.dtype == other.dtype
        np.testing.assert_allclose(other, array, atol=0.05)  # HU
    with pytest.raises(InputError, match="install SimpleITK"):
        resample(image, grid, interpolation="bspline")

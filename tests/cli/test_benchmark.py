from __future__ import annotations

import numpy as np
import pytest

import samreg
from samreg.benchmark import available_methods
from samreg.spatial import Image


@pytest.fixture
def boxes(tmp_path):
    """The folder of a data set of three mottled boxes."""
    array = np.full((16, 18, 20), -1000, np.int16)
    array[3:13, 3:15, 4:16] = np.random.default_rng(0).integers(-200, 300, (10, 12, 12))
    rows = ["subject,landmark,x,y,z"]
    for name, x in (("A", 0), ("B", 8), ("C", 16)):
        image = Image.from_array(array, origin=(x, 0, 0), spacing=(4, 4, 5))
        samreg.write_image(image, tmp_path / "boxes" / "images" / f"{name}.nii.gz")
        rows += [f"{name},first,{x + 20},20,30", f"{name},second,{x + 40},30,40"]
    (tmp_path / "boxes" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "boxes"


def test_benchmark_compares_prints_and_resumes(run, boxes, tmp_path):
    arguments = ("benchmark", "phantom:1:12", "--methods", "identity,ants-affine:mind", "-o", tmp_path / "out")
    done = run(*arguments)
    assert done.exit_code == 2
    assert "ants-affine takes no model" in done.output
    arguments = ("benchmark", boxes, "--methods", "identity", "--pairs", "1", "-o", tmp_path / "out")
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert "1/1 identity A <- B" in done.output
    for words in ("identity", "mean", "p95", "report.html"):
        assert words in done.output
    assert (tmp_path / "out" / "report.html").exists()
    assert "1/1" not in run(*arguments).output  # nothing was left to do


def test_benchmark_lists_methods_and_checks_its_arguments(run, tmp_path):
    assert set(run("benchmark", "--methods", "list").output.split()) == set(available_methods())
    for arguments, words in (
        (("--pairs", "few"), "must be all, or a number"),
        (("--methods", " , "), "name at least one method"),
        (("nowhere",), "no such folder"),
        (("--backend", "dask"), "needs the address of its scheduler"),
    ):
        done = run("benchmark", *arguments, "-o", tmp_path / "out", *(() if "nowhere" in arguments else ("--quiet",)))
        assert done.exit_code == 2, done.output
        assert words in done.output


def test_a_run_of_failures_ends_with_1(run, boxes, tmp_path):
    (tmp_path / "bad.py").write_text("def bad(fixed, moving, *, threads, seed):\n    raise ValueError('no')\n")
    bad = f"{tmp_path / 'bad.py'}:bad"
    done = run("benchmark", boxes, "--methods", bad, "--pairs", "1", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "every registration failed, the first: ValueError: no" in done.output

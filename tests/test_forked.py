"""Processes forked after torch has used its threads: what hung for ever runs on one thread."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from samreg import _forked
from samreg.device import resolve_device
from samreg.errors import InputError

PROGRAM = """
import multiprocessing, sys
import numpy as np, torch
import samreg
from samreg.device import cpu_threads
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image

radius = np.linalg.norm(np.mgrid[-10:10, -10:10, -10:10] * np.array([1, 1.3, 0.8]).reshape(3, 1, 1, 1), axis=0)
image = Image.from_array(np.where(radius < 7, 40 * np.cos(radius), -1000).astype(np.float32), spacing=6)
grid = Grid.make((30, 30, 30), spacing=4.0)
field = DisplacementField(np.ones((*grid.shape, 3), np.float32), grid)


def threaded():
    return float((torch.rand(400, 400) @ torch.rand(400, 400)).sum())


def job(kind):
    if kind == "points":
        return field.transform_points(grid.world_points().reshape(-1, 3)).shape
    call = {"threads": 2} if kind == "threads" else {}
    if kind == "embedding":
        return bool(samreg.register(image, image, method="embedding", model="mind", transform="affine"))
    return bool(samreg.register(image, image, method="registration", engine="torch", transform="affine", **call))


if __name__ == "__main__":
    torch.set_num_threads(2)
    threaded()
    with cpu_threads(2):
        job("points"), job("plain")
    assert torch.get_num_threads() == 2, "the parent keeps its threads"
    with multiprocessing.get_context("fork").Pool(1) as pool:
        for kind in ("points", "plain", "threads", "embedding"):
            pool.map_async(job, [kind]).get(timeout=100)
            print(kind, flush=True)
    assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
def test_a_forked_process_runs_what_its_parent_ran(tmp_path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["points", "plain", "threads", "embedding"]
    assert "computes on one thread" in done.stderr, "asked for two"


def test_cuda_of_the_parent_is_refused_in_the_child(monkeypatch) -> None:
    monkeypatch.setattr(_forked, "_cuda_lost", True)
    for device in ("auto", "cuda", "cuda:0"):
        with pytest.raises(InputError, match=r"forked from one that had used CUDA.*spawn"):
            resolve_device(device)
    assert resolve_device("cpu") == torch.device("cpu")

"""A tiny data set in samreg's own form: three textured boxes in other places, and methods in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import samreg
from samreg.spatial import Image

OFFSETS = {"A": (0.0, 0.0, 0.0), "B": (8.0, -4.0, 4.0), "C": (-12.0, 0.0, 8.0)}  # mm, of each subject's world

METHODS = """
import os, time
from pathlib import Path

import numpy as np

from samreg.benchmark import Outcome
from samreg.errors import InputError
from samreg.spatial import AffineTransform


def _log(fixed, moving):
    # one line for each call that came to its end
    path = Path(__file__).with_name("calls.txt")
    with path.open("a") as file:
        file.write(f"{Path(fixed.name).name} {Path(moving.name).name}\\n")


def right(fixed, moving, *, threads, seed):
    _log(fixed, moving)
    offset = moving.grid.origin - fixed.grid.origin
    return Outcome(AffineTransform(np.eye(3), offset), timings={"shift": 0.25})


def slow(fixed, moving, *, threads, seed):
    Path(__file__).with_name(f"started-{os.getpid()}").touch()
    time.sleep(float(os.environ.get("SLOW_S", 3)))
    return right(fixed, moving, threads=threads, seed=seed)


def noisy(fixed, moving, *, threads, seed):
    offset = moving.grid.origin - fixed.grid.origin
    return Outcome(AffineTransform(np.eye(3), offset + np.random.default_rng(seed).normal(size=3)))


def raises(fixed, moving, *, threads, seed):
    raise InputError("these images are too square")


def gives_up(fixed, moving, *, threads, seed):
    return Outcome(None, reason="too few matches")


def crashes(fixed, moving, *, threads, seed):
    os.kill(os.getpid(), 9)
"""


def write_subject(folder: Path, name: str, offset: tuple[float, float, float]) -> None:
    """Write image and labels of one subject, and return nothing."""
    random = np.random.default_rng(0)
    array = np.full((16, 18, 20), -1000, np.int16)
    array[3:13, 3:15, 4:16] = random.integers(-200, 300, (10, 12, 12))
    labels = np.zeros_like(array, dtype=np.uint8)
    labels[5:11, 6:12, 6:13] = 1
    labels[3:5, 3:15, 4:16] = 2
    for kind, values in (("images", array), ("labels", labels)):
        samreg.write_image(Image.from_array(values, origin=offset, spacing=(4, 4, 5)), folder / kind / f"{name}.nii.gz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data set's folder."""
    root = tmp_path / "boxes"
    rows = ["subject,landmark,x,y,z,reader_mm"]
    for name, offset in OFFSETS.items():
        write_subject(root, name, offset)
        for i, (x, y, z) in enumerate(((20, 20, 30), (40, 30, 40), (30, 40, 25))):
            rows.append(f"{name},point_{i},{x + offset[0]},{y + offset[1]},{z + offset[2]},{i + 1}")
    rows.append("A,alone,30,30,30,0.5")
    (root / "landmarks.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def methods(tmp_path: Path) -> Path:
    """A file of methods."""
    path = tmp_path / "my_methods.py"
    path.write_text(METHODS)
    return path

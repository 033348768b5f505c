"""A textured volume on an oblique, flipped grid and its moving counterpart, related by a known transform."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from samreg.engines import Request, child
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, Transform, compose, resample


@dataclass(frozen=True, eq=False)
class Phantom:
    fixed: Image
    moving: Image
    truth: AffineTransform  # fixed to moving
    points: np.ndarray  # fixed, well inside

    def request(self, **options: Any) -> Request:
        """Ask an engine to register the two."""
        return Request(fixed=self.fixed, moving=self.moving, **options)

    def error(self, transform: Transform) -> float:
        """Mean distance to the truth, mm."""
        difference = transform.transform_points(self.points) - self.truth.transform_points(self.points)
        return float(np.linalg.norm(difference, axis=1).mean())


def rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="package")
def phantom() -> Phantom:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=(48, 52, 56)), 3)
    texture = (texture - texture.min()) / np.ptp(texture) * 1500 - 1000
    fixed = Image.from_array(
        texture.astype(np.float32),
        origin=(-30, 200, -500),
        spacing=(2, 2, 2.5),
        direction=rotation(0.3) @ np.diag([1.0, 1.0, -1.0]),
        name="fixed",
    )
    matrix = [[1.03, 0.05, 0.0], [-0.04, 0.98, 0.02], [0.0, 0.03, 1.01]]
    truth = AffineTransform.about(fixed.grid.center, matrix, (6.0, -5.0, 4.0))
    size = np.array([60, 56, 50])
    spacing, direction = np.array([2.0, 2.0, 2.5]), rotation(-0.1) @ np.diag([-1.0, 1.0, 1.0])
    origin = truth.transform_points(fixed.grid.center)[0] - (direction * spacing) @ ((size - 1) / 2)
    grid = Grid(tuple(size[::-1]), origin, spacing, direction)
    moving = Image(resample(fixed, grid, transform=truth.inverse()).array, grid, "moving")
    points = fixed.grid.index_to_world(rng.uniform(10, 37, (200, 3)))
    return Phantom(fixed, moving, truth, points)


@pytest.fixture(scope="package")
def affine_start(phantom: Phantom) -> AffineTransform:
    """The truth missed by 2.6 mm."""
    return AffineTransform(phantom.truth.matrix, phantom.truth.translation + 1.5)


@pytest.fixture(scope="package")
def deformable_start(phantom: Phantom, affine_start: AffineTransform) -> Transform:
    """The affine start after a smooth deformation of up to 3 mm."""
    grid = phantom.fixed.grid.padded(10.0).with_spacing(8.0)
    phase = np.arange(grid.shape[0])[:, None, None, None] / 3.0
    bend = np.sin(phase) * np.array([1.5, -1.0, 2.0]) * np.ones((*grid.shape, 1))
    return compose(DisplacementField(bend, grid), affine_start)


@pytest.fixture
def worker_here(monkeypatch):
    """Let workers work in this process, which loads their library once; their log is left out.

    For tests of what the libraries find; those of logs, threads and failures have a process for each run.
    """

    def work(module, folder, *, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        importlib.import_module(module).main(Path(folder))
        return MagicMock(stdout=[], returncode=0)

    monkeypatch.setattr(child, "spawn", work)

"""Grids, fields and images that are hard on geometry: oblique, flipped, anisotropic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from samreg.spatial import AffineTransform, DisplacementField, Grid, Image


def _random_grid(rng: np.random.Generator, ndim: int, shape: tuple[int, ...] | None = None) -> Grid:
    direction, _ = np.linalg.qr(rng.normal(size=(ndim, ndim)))  # either handedness: half of them are flipped
    shape = shape or tuple(int(n) for n in rng.integers(3, 13, size=ndim))
    return Grid(shape, rng.uniform(-300, 300, ndim), rng.uniform(0.4, 5, ndim), direction)


@st.composite
def _grids(draw: st.DrawFn, ndim: int) -> Grid:
    return _random_grid(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), ndim)


@pytest.fixture(scope="session")
def grids():
    """Return the hypothesis strategy of oblique grids of a dimension."""
    return _grids


@pytest.fixture(scope="session")
def random_grid():
    return _random_grid


@pytest.fixture(scope="session")
def random_image():
    def make(rng: np.random.Generator, grid: Grid, dtype: type = np.float32) -> Image:
        values = rng.random(grid.shape) * 100
        return Image(values > 50 if dtype is bool else values.astype(dtype), grid, "random")

    return make


@pytest.fixture(scope="session")
def random_affine():
    def make(rng: np.random.Generator, ndim: int) -> AffineTransform:
        matrix = np.eye(ndim) + rng.normal(scale=0.1, size=(ndim, ndim))
        return AffineTransform(matrix, rng.normal(scale=15, size=ndim))

    return make


@pytest.fixture(scope="session")
def smooth_field():
    def make(grid: Grid, amplitude: float = 3.0, waves: float = 1.0) -> DisplacementField:
        """Return a sum of sines that is nowhere steep: |du/dx| < 0.5 for waves of the grid's own length."""
        phase = (grid.world_points() - grid.origin) / grid.extent.max() * 2 * np.pi * waves
        u = np.stack([np.sin(phase[..., i - 1] + i) * np.cos(phase[..., i]) for i in range(grid.ndim)], axis=-1)
        return DisplacementField((amplitude * u).astype(np.float32), grid)

    return make


@pytest.fixture(scope="session")
def points_inside():
    def make(rng: np.random.Generator, grid: Grid, count: int = 40) -> np.ndarray:
        return grid.index_to_world(rng.random((count, grid.ndim)) * (np.asarray(grid.size) - 1))

    return make


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """A folder that hypothesis's examples may share."""
    return tmp_path_factory.mktemp("scratch")

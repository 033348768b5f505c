"""A small body that the engines register in a moment, and slices of it."""

from __future__ import annotations

import numpy as np
import pytest

from samreg.spatial import Image


@pytest.fixture(scope="session")
def body() -> Image:
    """An egg with stripes in it, 40 voxels of 4 mm a side."""
    z, y, x = np.mgrid[-20:20, -20:20, -20:20]
    radius = np.sqrt(x**2 + 1.7 * y**2 + z**2)
    return Image.from_array(
        np.where(radius < 15, 40 + 20 * np.sin(radius) + x, -1000).astype(np.float32), spacing=4.0, name="body"
    )

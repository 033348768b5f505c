"""Seconds of what users wait for, on phantoms of 6 mm voxels: small, so that a long history is affordable."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import samreg
from samreg.phantoms.phantom import phantom_pair

_SPACING = 6.0  # mm


class Import:
    """A fresh interpreter that imports samreg."""

    def time_import(self) -> None:
        """Import samreg."""
        subprocess.run([sys.executable, "-c", "import samreg"], check=True)


class Registration:
    """The methods of :func:`samreg.register`, and what is done with a result."""

    timeout = 600

    def setup_cache(self) -> tuple[samreg.Image, samreg.Image]:
        """Make the phantoms once."""
        pair = phantom_pair(spacing=_SPACING, seed=0)
        return pair.fixed.image, pair.moving.image

    def setup(self, images: tuple[samreg.Image, samreg.Image]) -> None:
        """Load the model, and register once for what follows."""
        samreg.load_model("ct-small")
        self.result = samreg.register(*images, method="embedding")
        self.points = np.repeat(self.result.fixed.grid.center[None], 10_000, axis=0)

    def time_embedding(self, images: tuple[samreg.Image, samreg.Image]) -> None:
        """Embed one image."""
        samreg.embed(images[0])

    def time_register_embedding(self, images: tuple[samreg.Image, samreg.Image]) -> None:
        """Correspondences and a smooth field."""
        samreg.register(*images, method="embedding")

    def time_register_hybrid_fast(self, images: tuple[samreg.Image, samreg.Image]) -> None:
        """The torch engine from the seed."""
        samreg.register(*images, engine="torch", engine_options={"preset": "fast"})

    def time_transform_points(self, images: tuple[samreg.Image, samreg.Image]) -> None:
        """Map 10,000 points."""
        self.result.transform_points(self.points, to="moving")

    def time_save(self, images: tuple[samreg.Image, samreg.Image]) -> None:
        """Write a result's folder."""
        with tempfile.TemporaryDirectory() as folder:
            self.result.save(Path(folder) / "out")

    def peakmem_register_embedding(self, images: tuple[samreg.Image, samreg.Image]) -> None:
        """Memory of the same."""
        samreg.register(*images, method="embedding")

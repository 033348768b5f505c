"""The input of models for images whose intensities have no unit: two percentiles of an image become 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError


@dataclass(frozen=True)
class PercentilePreprocessing:
    """How a model wants its input where intensities have no unit; the kinds of image derive from it.

    Attributes
    ----------
    spacing
        Isotropic voxel or pixel size, mm.
    percentiles
        Of the intensities, mapped onto 0 and 1; what lies beyond is clipped.
    """

    fill: ClassVar[float | None] = None  # outside the image: its smallest value
    padding: ClassVar[float] = 0.0

    spacing: float = 1.0
    percentiles: tuple[float, float] = (0.5, 99.5)

    def __post_init__(self) -> None:
        low, high = (float(value) for value in self.percentiles)
        if not 0 <= low < high <= 100:
            raise InputError(f"preprocessing: percentiles must rise within 0 to 100, got {(low, high)}")
        object.__setattr__(self, "percentiles", (low, high))
        if not self.spacing > 0:
            raise InputError(f"preprocessing: spacing must be positive mm, got {self.spacing}")

    def normalise(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map the intensities of one whole image to network input, float32 of the same shape."""
        low, high = np.percentile(image, self.percentiles)
        scaled: NDArray[np.float32] = np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
        return scaled

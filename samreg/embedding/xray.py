"""All that is peculiar to X-rays: how a model wants its input, and what cannot be an X-ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from samreg.embedding.percentiles import PercentilePreprocessing
from samreg.embedding.plausible import Kind, require_plausible
from samreg.errors import InputError
from samreg.spatial.image import Image

_MIN_SHARE, _MIN_SHARE_OF_BOTH = 0.05, 0.6  # of the pixels of a CT slice: air and soft tissue, each and together
_TEXTURE_MM, _TEXTURE = 6.0, 0.015  # an X-ray shows something where its standard deviation over 6 mm is larger
_XRAY = Kind(
    name="2D X-rays", ndim=2, spacing_range=(0.01, 5.0), element="pixel", give="a projection", check="",
    background="the value of the background",
)  # fmt: skip


@dataclass(frozen=True)
class XrayPreprocessing(PercentilePreprocessing):
    """How an X-ray model wants its input. Intensities have no unit: two percentiles of the image become 0 and 1.

    Attributes
    ----------
    spacing
        Isotropic pixel size, mm.
    percentiles
        Of the intensities, mapped onto 0 and 1; what lies beyond is clipped.
    """

    modality: ClassVar[str] = "xray"
    ndim: ClassVar[int] = 2

    spacing: float = 0.6

    def check(self, image: Image) -> None:
        """Refuse what cannot be an X-ray; see ``check_xray``."""
        check_xray(image)

    def body(self, image: Image) -> NDArray[np.bool_]:
        """Where there is something to see: the image changes nearby. All but even background and collimation."""
        from scipy import ndimage

        width = max(3, round(_TEXTURE_MM / self.spacing))
        array = self.normalise(image.array).astype(np.float64)
        mean = ndimage.uniform_filter(array, width)
        spread = np.sqrt(np.maximum(ndimage.uniform_filter(array**2, width) - mean**2, 0))
        padded = np.pad(spread > _TEXTURE, width, mode="edge")
        body: NDArray[np.bool_] = ndimage.binary_closing(padded, iterations=width)[width:-width, width:-width]
        return body


def check_xray(image: Image) -> None:
    """Refuse what cannot be an X-ray picture of the body.

    Raises
    ------
    InputError
        For an image that is not 2D, holds NaN or infinity, has a pixel size or extent no X-ray has, or is constant.
        The message says the remedy.
    """
    require_plausible(image, _XRAY)
    low, high = float(image.array.min()), float(image.array.max())
    if _looks_like_ct(image.array):
        raise InputError(
            f"{image.label}: intensities from {low:g} to {high:g} are Hounsfield units, a slice of a CT; this model "
            'embeds X-ray projections: give the volume, or use method="registration"'
        )
    if low == high:
        raise InputError(f"{image.label}: all pixels have the value {low:g}; give an X-ray image")


def _looks_like_ct(array: NDArray[Any]) -> bool:
    """Tell whether a picture holds Hounsfield units: hardly anything but soft tissue, and air, lung or padding."""
    air = float((array < -800).mean())
    tissue = float(((array > -200) & (array < 200)).mean())
    return min(air, tissue) > _MIN_SHARE and air + tissue > _MIN_SHARE_OF_BOTH

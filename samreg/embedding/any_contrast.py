"""All that is peculiar to 3D images whose intensities have no unit: MR, cone-beam CT, CT on a wrong scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from samreg.embedding.body import mask_on_finer
from samreg.embedding.percentiles import PercentilePreprocessing
from samreg.embedding.plausible import Kind, require_plausible
from samreg.errors import InputError
from samreg.spatial.image import Image
from samreg.spatial.labels import is_label_image
from samreg.spatial.standard import has_hounsfield_units, standardised

_ANY = Kind(
    name="3D images of the body", ndim=3, spacing_range=(0.05, 20.0), element="voxel", give="a volume",
    check=", and give a volume of several slices", background="the value of the background",
)  # fmt: skip
_BODY_SPACING_MM = 4.0  # the mask is computed at this voxel size
_MIN_SPREAD = 0.03  # standard deviation over three voxels, of the image's range: something is to be seen there
_MIN_CONTRAST = 0.12  # to the background, of the image's range
_MIN_PART_SHARE = 0.1  # of the largest part's voxels
_PADDING = 3  # voxels, so that nothing is lost at the image's border


@dataclass(frozen=True)
class AnyContrastPreprocessing(PercentilePreprocessing):
    """How a model of any contrast wants its input: two percentiles of the image become 0 and 1.

    Attributes
    ----------
    spacing
        Isotropic voxel size, mm.
    percentiles
        Of the intensities, mapped onto 0 and 1; what lies beyond is clipped.
    """

    modality: ClassVar[str] = "any"
    ndim: ClassVar[int] = 3

    spacing: float = 2.0

    def check(self, image: Image) -> None:
        """Refuse what cannot be a 3D image of the body; see ``check_any_contrast``."""
        check_any_contrast(image)

    def body(self, volume: Image) -> NDArray[np.bool_]:
        """Where the body is: what differs from the background, filled in each slice, without small parts."""
        coarse = standardised(volume, max(_BODY_SPACING_MM, float(volume.spacing.min())), fill=self.fill)
        return mask_on_finer(_inside_body(self.normalise(coarse.array)), coarse.grid, volume.grid)


def _inside_body(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Body mask of an axis-aligned volume (z, y, x) of about 4 mm voxels with intensities 0 to 1.

    What differs from the background or changes nearby, filled in each slice.
    """
    from scipy import ndimage

    values = array.astype(np.float64)
    mean = ndimage.uniform_filter(values, 3)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(values**2, 3) - mean**2, 0))
    seen = np.pad((spread > _MIN_SPREAD) | (np.abs(mean - _background(array)) > _MIN_CONTRAST), _PADDING, mode="edge")
    closed = ndimage.binary_closing(seen)
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in closed])
    # what is to be seen at a border is seen a voxel beyond it; the opening cuts a table off
    opened = ndimage.binary_opening(ndimage.binary_erosion(filled, border_value=1), iterations=2)
    labels, _ = ndimage.label(opened if opened.any() else filled)
    sizes = np.bincount(labels.ravel(), minlength=2)
    sizes[0] = 0
    kept = (sizes >= max(1, _MIN_PART_SHARE * sizes.max()))[labels]
    body: NDArray[np.bool_] = kept[(slice(_PADDING, -_PADDING),) * 3]
    return body


def _background(array: NDArray[np.float32]) -> float:
    """Return the most frequent intensity at the sides of the slices."""
    sides = np.concatenate([side.ravel() for side in (array[:, 0], array[:, -1], array[:, :, 0], array[:, :, -1])])
    counts, edges = np.histogram(sides, bins=32, range=(0.0, 1.0))
    most = int(counts.argmax())
    return float(edges[most] + edges[most + 1]) / 2


def check_any_contrast(image: Image) -> None:
    """Refuse what cannot be a 3D image of the body.

    Raises
    ------
    InputError
        For an image that is not 3D, holds NaN or infinity, has a voxel size or extent no image of a body has, is
        constant, or holds labels. The message says the remedy.
    """
    require_plausible(image, _ANY)
    low, high = float(image.array.min()), float(image.array.max())
    if low == high:
        raise InputError(f"{image.label}: all voxels have the value {low:g}; give an image of the body")
    if is_label_image(image) and not has_hounsfield_units(image):  # a phantom's CT may have as few values
        raise InputError(
            f"{image.label}: whole numbers from {low:g} to {high:g}, in areas of one value, are labels; "
            "give the image that they belong to"
        )

"""All that is peculiar to CT: how a model wants its input, and what cannot be a CT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from samreg.embedding.body import body_mask
from samreg.embedding.plausible import Kind, require_plausible
from samreg.errors import InputError
from samreg.spatial.image import Image
from samreg.spatial.standard import AIR, MIN_RANGE_HU, has_hounsfield_units, lacks_intercept, oriented

ANY_CONTRAST_MODEL = "any-small"  # for what is no CT
_MAX_AIR_HU = -800.0  # of what lies around a body
_MIN_BACKGROUND_SHARE = 0.5  # of the sides' voxels, for one value
_CT = Kind(
    name="3D CT", ndim=3, spacing_range=(0.05, 20.0), element="voxel", give="a volume",
    check=", and give a volume of several slices", background="-1024 HU where they lie outside the body",
)  # fmt: skip


@dataclass(frozen=True)
class Preprocessing:
    """How a CT model wants its input; the defaults are those of the published SAM.

    Attributes
    ----------
    spacing
        Isotropic voxel size, mm.
    hu_range
        Hounsfield units are clipped to this interval,
    scale_range
        which is mapped linearly onto this one.
    """

    modality: ClassVar[str] = "ct"
    ndim: ClassVar[int] = 3
    fill: ClassVar[float] = AIR  # outside the image

    spacing: float = 2.0
    hu_range: tuple[float, float] = (-1024.0, 3071.0)
    scale_range: tuple[float, float] = (-50.0, 205.0)

    def __post_init__(self) -> None:
        for name in ("hu_range", "scale_range"):
            low, high = (float(value) for value in getattr(self, name))
            if not low < high:
                raise InputError(f"preprocessing: {name} must rise, got {(low, high)}")
            object.__setattr__(self, name, (low, high))
        if not self.spacing > 0:
            raise InputError(f"preprocessing: spacing must be positive mm, got {self.spacing}")

    def normalise(self, hu: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map Hounsfield units to network input, float32 of the same shape."""
        (low, high), (bottom, top) = self.hu_range, self.scale_range
        scaled: NDArray[np.float32] = np.clip(hu, low, high, dtype=np.float32)
        scaled -= low
        scaled *= (top - bottom) / (high - low)
        scaled += bottom
        return scaled

    @property
    def padding(self) -> float:
        """Network input beyond the image's end: air."""
        return float(self.normalise(np.array([AIR], np.float32))[0])

    def check(self, image: Image) -> None:
        """Refuse what cannot be a CT; see ``check_ct``."""
        check_ct(image)

    def body(self, volume: Image) -> NDArray[np.bool_]:
        """Where the body is; see ``body_mask``."""
        return body_mask(volume)


def check_ct(image: Image) -> None:
    """Refuse what cannot be a CT in Hounsfield units.

    Raises
    ------
    InputError
        For an image that is not 3D, holds NaN or infinity, has a voxel size or extent no CT of a body has, is
        constant, or whose range is not that of Hounsfield units. The message says the remedy.
    """
    require_plausible(image, _CT)
    if fault := _intensity_fault(image):
        raise InputError(fault)


def background_notes(*images: Image) -> tuple[str, ...]:
    """Return what a user should know of CTs in Hounsfield units that do not show air around the body.

    The sides of their slices show one value that is not that of air: a background of 0, as programs that mask leave
    it, or the lower end of a window. The body's mask takes it for tissue.

    Examples
    --------
    >>> hu = np.random.default_rng(0).normal(40, 20, (8, 8, 8))
    >>> hu[:, 0], hu[:, -1], hu[:, :, 0], hu[:, :, -1] = -160, -160, -160, -160
    >>> [note[:42] for note in background_notes(Image.from_array(hu, spacing=4, name="ct"))]
    ['ct: -160 HU in 100 % of the voxels at the ']
    """
    notes = []
    for image in filter(has_hounsfield_units, images):
        array = oriented(image).array
        sides = np.concatenate([face.ravel() for face in (array[:, 0], array[:, -1], array[:, :, 0], array[:, :, -1])])
        values, counts = np.unique(sides, return_counts=True)
        value, share = float(values[counts.argmax()]), counts.max() / sides.size
        if value > _MAX_AIR_HU and share > _MIN_BACKGROUND_SHARE:
            notes.append(
                f"{image.label}: {value:g} HU in {100 * share:.0f} % of the voxels at the sides of its slices, where a "
                "CT shows air: the background was replaced, or the values were cut off at a window; give the original "
                "CT, or set the background to -1024"
            )
    return tuple(notes)


def _intensity_fault(image: Image) -> str:
    """Return why the intensities are no Hounsfield units, and the remedy; empty where they can be."""
    low, high = float(image.array.min()), float(image.array.max())
    where = f"{image.label}: intensities from {low:g} to {high:g}"
    other = f'for images without such units use model="{ANY_CONTRAST_MODEL}"'
    if high - low < MIN_RANGE_HU:
        return f"{where} are constant or normalised; give the original CT in Hounsfield units; {other}"
    if low >= 0 and high <= 255:
        return f"{where} look like an 8-bit picture; give the original CT in Hounsfield units (air -1000); {other}"
    if low >= 0 or lacks_intercept(image):
        return (
            f"{where} are not Hounsfield units (air -1000, water 0): stored CT values need their rescale slope and "
            f"intercept (often value - 1024); {other}"
        )
    return ""

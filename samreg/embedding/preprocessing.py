"""From an image in any orientation to the axis-aligned, isotropic one an embedding model expects: CT and X-ray."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample, resample_spacing

AIR = -1024.0
_BODY_SPACING = 4.0  # mm; the mask is computed at this voxel size
_TISSUE_HU = -500.0  # air and lung lie below, every other tissue above
_OUTSIDE_HU = -930.0  # median of the air around a body lies below; of lung, emphysema included, above
_TEXTURE_MM, _TEXTURE = 6.0, 0.015  # an X-ray shows something where its standard deviation over 6 mm is larger
_BENEATH_HU = -880.0  # the same for air with a table in it, which spans the image from left to right


@dataclass(frozen=True)
class Preprocessing:
    """How a CT model wants its input; the defaults are those of the published SAM.

    Attributes
    ----------
    spacing : float
        Isotropic voxel size, mm.
    hu_range : tuple of float
        Hounsfield units are clipped to this interval,
    scale_range : tuple of float
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
        scaled = np.clip(hu, low, high, dtype=np.float32)
        scaled -= low
        scaled *= (top - bottom) / (high - low)
        scaled += bottom
        return scaled

    @property
    def padding(self) -> float:
        """Network input beyond the image's end: air."""
        return float(self.normalise(np.array([AIR], np.float32))[0])

    def check(self, image: Image) -> None:
        """Refuse what cannot be a CT; see `check_ct`."""
        check_ct(image)

    def body(self, volume: Image) -> NDArray[np.bool_]:
        """Where the body is; see `body_mask`."""
        return body_mask(volume)


@dataclass(frozen=True)
class XrayPreprocessing:
    """How an X-ray model wants its input. Intensities have no unit: two percentiles of the image become 0 and 1.

    Attributes
    ----------
    spacing : float
        Isotropic pixel size, mm.
    percentiles : tuple of float
        Of the intensities, mapped onto 0 and 1; what lies beyond is clipped.
    """

    modality: ClassVar[str] = "xray"
    ndim: ClassVar[int] = 2
    fill: ClassVar[float | None] = None  # the image's smallest value
    padding: ClassVar[float] = 0.0

    spacing: float = 0.6
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
        return np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)

    def check(self, image: Image) -> None:
        """Refuse what cannot be an X-ray; see `check_xray`."""
        check_xray(image)

    def body(self, image: Image) -> NDArray[np.bool_]:
        """Where there is something to see: the image changes nearby. All but even background and collimation."""
        from scipy import ndimage

        width = max(3, round(_TEXTURE_MM / self.spacing))
        array = self.normalise(image.array).astype(np.float64)
        mean = ndimage.uniform_filter(array, width)
        spread = np.sqrt(np.maximum(ndimage.uniform_filter(array**2, width) - mean**2, 0))
        return ndimage.binary_closing(np.pad(spread > _TEXTURE, width, mode="edge"), iterations=width)[
            width:-width, width:-width
        ]


AnyPreprocessing = Preprocessing | XrayPreprocessing


def preprocessing_to_dict(settings: AnyPreprocessing) -> dict[str, Any]:
    """Return the settings as checkpoints store them."""
    return {"modality": settings.modality, **asdict(settings)}


def preprocessing_from_dict(values: Mapping[str, Any]) -> AnyPreprocessing:
    """Return the settings a checkpoint stores; those of CT where it names no modality.

    Raises
    ------
    ValueError
        For an unknown modality.
    """
    values = dict(values)
    kinds = {kind.modality: kind for kind in (Preprocessing, XrayPreprocessing)}
    name = values.pop("modality", "ct")
    if name not in kinds:
        raise ValueError(f"unknown modality {name!r}, samreg knows {', '.join(kinds)}")
    return kinds[name](**values)


def oriented(image: Image) -> Image:
    """Permute and flip the axes so that the direction is as near to the identity (LPS) as can be.

    The array becomes a view; no voxel moves in the world.
    """
    direction = image.direction
    order = max(
        itertools.permutations(range(image.ndim)),
        key=lambda axes: sum(abs(direction[i, axis]) for i, axis in enumerate(axes)),
    )
    flip = [direction[i, axis] < 0 for i, axis in enumerate(order)]
    # index axis k is array axis ndim - 1 - k
    array = image.array.transpose([image.ndim - 1 - axis for axis in reversed(order)])
    array = array[tuple(slice(None, None, -1 if f else 1) for f in reversed(flip))]
    signs = np.where(flip, -1.0, 1.0)
    first = np.zeros(image.ndim)
    for axis, flipped in zip(order, flip, strict=True):
        first[axis] = image.grid.size[axis] - 1 if flipped else 0
    grid = Grid(
        array.shape,
        image.grid.index_to_world(first)[0],
        image.spacing[list(order)],
        direction[:, list(order)] * signs,
    )
    return Image(array, grid, image.name)


def standardised(image: Image, spacing: float, *, fill: float | None = AIR) -> Image:
    """Resample an image to isotropic voxels on axes along x, y, z of the world (LPS).

    Axis-aligned images keep their borders; oblique ones are resampled onto the axis-aligned box around them
    and filled up. Coarser voxels average finer ones.

    Parameters
    ----------
    image : Image
        Any orientation.
    spacing : float
        New voxel size, mm.
    fill : float or None
        Value outside the image, air unless given; None takes its smallest value.

    Returns
    -------
    Image
        float32; an image that fits already keeps its values.
    """
    image = oriented(image)
    if np.abs(image.spacing - spacing).max() > 1e-3:
        image = resample_spacing(image, spacing)
    if np.abs(image.direction - np.eye(image.ndim)).max() > 1e-3:
        image = resample(image, _box_grid(image.grid, spacing), fill=fill)
    return Image(np.ascontiguousarray(image.array, dtype=np.float32), image.grid, image.name)


def check_ct(image: Image) -> None:
    """Refuse what cannot be a CT in Hounsfield units.

    Raises
    ------
    InputError
        For an image that is not 3D, holds NaN or infinity, has a voxel size or extent no CT of a body has, is
        constant, or whose range is not that of Hounsfield units. The message says the remedy.
    """
    label = image.label
    if image.ndim != 3:
        raise InputError(f"{label}: a {image.ndim}D image; this model embeds 3D CT, give a volume")
    if image.spacing.min() < 0.05 or image.spacing.max() > 20:
        raise InputError(
            f"{label}: voxel size {np.round(image.spacing, 5).tolist()} mm is not a CT's; set the spacing in mm"
        )
    if image.grid.extent.max() > 3000 or image.grid.extent.min() < 4:
        raise InputError(
            f"{label}: extent {np.round(image.grid.extent, 1).tolist()} mm is not a body's; check the "
            f"spacing (mm), and "
            "give a volume of several slices"
        )
    if image.array.dtype.kind == "f":
        bad = sum(int(plane.size - np.isfinite(plane).sum()) for plane in image.array)
        if bad:
            raise InputError(f"{label}: {bad} voxels are NaN or infinite; replace them, outside the body with -1024 HU")
    low, high = float(image.array.min()), float(image.array.max())
    where = f"{label}: intensities from {low:g} to {high:g}"
    if high - low < 100:
        raise InputError(f"{where} are constant or normalised; give the original CT in Hounsfield units")
    if low >= 0 and high <= 255:
        raise InputError(f"{where} look like an 8-bit picture; give the original CT in Hounsfield units (air -1000)")
    if low >= 0:
        raise InputError(
            f"{where} are not Hounsfield units (air -1000, water 0): stored CT values need their rescale "
            f"slope and "
            "intercept (often value - 1024), and other modalities are not supported by this model"
        )


def check_xray(image: Image) -> None:
    """Refuse what cannot be an X-ray picture of the body.

    Raises
    ------
    InputError
        For an image that is not 2D, holds NaN or infinity, has a pixel size or extent no X-ray has, or is constant.
        The message says the remedy.
    """
    label = image.label
    if image.ndim != 2:
        raise InputError(f"{label}: a {image.ndim}D image; this model embeds 2D X-rays, give a projection")
    if image.spacing.min() < 0.01 or image.spacing.max() > 5:
        raise InputError(
            f"{label}: pixel size {np.round(image.spacing, 5).tolist()} mm is not an X-ray's; give spacing= in mm"
        )
    if image.grid.extent.max() > 3000 or image.grid.extent.min() < 4:
        raise InputError(
            f"{label}: extent {np.round(image.grid.extent, 1).tolist()} mm is not a body's; give the true spacing (mm)"
        )
    if not np.isfinite(image.array).all():
        raise InputError(f"{label}: pixels are NaN or infinite; replace them by the value of the background")
    if image.array.min() == image.array.max():
        raise InputError(f"{label}: all pixels have the value {image.array.flat[0]:g}; give an X-ray image")


def body_mask(image: Image) -> NDArray[np.bool_]:
    """Find the body: inside the skin, lungs and bowel gas included, the table left out.

    Works on partial views: air is outside only where it reaches the border of its axial slice and is as thin
    as air is, so that lungs cut by the border stay inside.

    Parameters
    ----------
    image : Image
        3D CT in Hounsfield units.

    Returns
    -------
    ndarray of bool
        On the grid of `image`; all False where there is nothing but air.
    """
    coarse = standardised(image, max(_BODY_SPACING, float(image.spacing.min())))
    # one more voxel all around, since the coarse grid may end a little short of the fine one
    inside = np.pad(_inside_body(coarse.array), 1, mode="edge")
    return sample_mask(Image(inside, coarse.grid.padded(float(coarse.spacing.max()))), image.grid)


def sample_mask(mask: Image, grid: Grid) -> NDArray[np.bool_]:
    """Sample a mask onto another grid, nearest neighbour, False outside; returns (z, y, x) bool."""
    if mask.ndim != grid.ndim:
        raise InputError(f"{mask.name or 'mask'} is {mask.ndim}D, the image {grid.ndim}D; give a mask of the image")
    binary = mask.with_array((mask.array > 0).astype(np.uint8))
    return resample(binary, grid, interpolation="nearest", fill=0).array.astype(bool)


def _inside_body(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Body mask of an axis-aligned volume (z, y, x) of about 4 mm voxels."""
    from scipy import ndimage

    tissue = _large_parts(hu > _TISSUE_HU)
    in_slice = np.zeros((3, 3, 3), bool)
    in_slice[1] = ndimage.generate_binary_structure(2, 1)
    labels, count = ndimage.label(~tissue, structure=in_slice)
    if count == 0:
        return tissue
    at_border = np.zeros(count + 1, bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        at_border[edge.ravel()] = True
    spans = np.isin(np.arange(count + 1), np.intersect1d(labels[:, :, 0], labels[:, :, -1]))
    median = np.asarray(ndimage.median(hu, labels, np.arange(1, count + 1)))
    outside = at_border & (np.append(np.inf, median) < np.where(spans, _BENEATH_HU, _OUTSIDE_HU))
    outside[0] = False
    return ~outside[labels]


def _large_parts(tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Open by one voxel, which cuts the table off, and keep parts of at least a tenth of the largest."""
    from scipy import ndimage

    # edges are repeated outwards so that tissue cut by the border is not eroded there
    padded = np.pad(tissue, 1, mode="edge")
    eroded = ndimage.binary_erosion(padded, border_value=1)
    labels, count = ndimage.label(eroded)
    if count == 0:
        return tissue
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = (sizes >= 0.1 * sizes.max())[labels]
    return (ndimage.binary_dilation(kept) & padded)[1:-1, 1:-1, 1:-1]


def _box_grid(grid: Grid, spacing: float) -> Grid:
    """Axis-aligned grid over the bounding box of another."""
    corners = grid.corners()
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.maximum(1, np.ceil((high - low) / spacing - 1e-3)).astype(int)
    origin = (low + high) / 2 - spacing * (size - 1) / 2
    return Grid.make(tuple(size[::-1]), origin=origin, spacing=spacing)

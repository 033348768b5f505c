"""How large a lesion is. A nodule of soft tissue in lung can be grown from its centre; others are refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample
from samreg.spatial.standard import oriented, sample_mask

_SPACING_MM = 1.0  # at which lesions are grown
_MAX_LUNG_HU = -500.0  # below which tissue is aerated lung
_MIN_CORE_HU = -300.0  # which a nodule's core exceeds
_CORE_VOXELS = 5  # width of what is averaged as core
_VESSEL_RADIUS_MM = 2.0  # of what is cut off: vessels that end in the nodule
_COLLAR_MM = (2.0, 7.0)  # around the nodule, where lung must prevail
_MAX_VOXELS = 2e7  # of what is grown in: about 2 GB, and a nodule of 16 cm at least
_MIN_LUNG_SHARE = 0.5  # of the collar that must be lung


@dataclass(frozen=True, eq=False)
class Extent:
    """The voxels of one lesion.

    Parameters
    ----------
    mask
        (*grid.shape), True inside.
    grid
        Where they lie.
    """

    mask: NDArray[np.bool_]
    grid: Grid

    @property
    def volume(self) -> float:
        """mm^3."""
        return float(self.mask.sum() * np.prod(self.grid.spacing))

    @property
    def diameter(self) -> float:
        """Of the sphere of the same volume, mm."""
        return float((6 * self.volume / np.pi) ** (1 / 3))

    @cached_property
    def center(self) -> FloatArray:
        """(3,) centroid, LPS mm."""
        centroid: FloatArray = self.grid.index_to_world(np.argwhere(self.mask)[:, ::-1].mean(axis=0))[0]
        return centroid

    @cached_property
    def longest_axial(self) -> float:
        """Longest diameter within an axial slice, mm, as RECIST measures; from voxel border to voxel border."""
        from scipy.ndimage import binary_erosion
        from scipy.spatial.distance import pdist

        longest, upright = 0.0, oriented(Image(self.mask, self.grid))  # slices may be stored sagittal or coronal
        for plane in upright.array:
            rim = np.argwhere(plane & ~binary_erosion(plane)) * upright.spacing[1::-1]
            longest = max(longest, float(pdist(rim).max())) if len(rim) > 1 else longest
        return longest + float(upright.spacing[:2].mean())

    def on(self, grid: Grid) -> NDArray[np.bool_]:
        """Return the mask on another grid, (*grid.shape)."""
        return sample_mask(Image(self.mask, self.grid), grid)

    def at(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Tell which world points (N, d), LPS mm, lie in voxels that are inside, (N,)."""
        index = np.rint(self.grid.world_to_index(points)).astype(int)
        known = ((index >= 0) & (index < self.grid.size)).all(axis=1)
        inside = np.zeros(len(index), bool)
        inside[known] = self.mask[tuple(index[known, ::-1].T)]
        return inside


@dataclass(frozen=True)
class NotGrown:
    """Why a lesion cannot be measured.

    Parameters
    ----------
    why
        In plain words.
    is_lung
        Whether the image shows lung alone where the lesion was looked for.
    """

    why: str
    is_lung: bool = False


_NO_LUNG = NotGrown("no lung around it: sizes are measured in lung alone")


def grow(image: Image, center: ArrayLike, *, search: float, reach: float) -> Extent | NotGrown:
    """Grow a nodule of soft tissue in lung from its centre.

    The threshold lies half way between the nodule's core and the lung around it; an opening cuts vessels off.

    Parameters
    ----------
    image
        CT in HU.
    center
        (3,) LPS mm.
    search
        How far from there the core is looked for, mm.
    reach
        How far from there the nodule can extend, mm.

    Returns
    -------
    Extent or NotGrown
        The latter where it cannot be measured so.

    Examples
    --------
    >>> grid = Grid.make((48, 48, 48), origin=(-23.5, -23.5, -23.5))
    >>> nodule = np.where(np.linalg.norm(grid.world_points(), axis=-1) < 7, 40, -850)
    >>> extent = grow(Image(nodule, grid), [0.0, 0.0, 0.0], search=4, reach=14)
    >>> round(extent.diameter)
    14
    >>> grow(Image(nodule * 0, grid), [0.0, 0.0, 0.0], search=4, reach=14).why
    'no lung around it: sizes are measured in lung alone'
    """
    from scipy.ndimage import label, uniform_filter

    middle = np.asarray(center, dtype=np.float64)
    grid = _patch(image.grid, middle, reach + _COLLAR_MM[1])
    if grid is None:
        return _NO_LUNG
    if np.prod(grid.shape) > _MAX_VOXELS:
        return NotGrown(f"too large to be grown: what lies within {reach:.0f} mm does not fit in memory")
    # beyond the image there is no lung in which a nodule could end
    hu, away = resample(image, grid, fill=0.0).array, _distance(grid, middle)
    lung = hu < _MAX_LUNG_HU
    if not lung.any():
        return _NO_LUNG
    smooth = uniform_filter(hu, size=_CORE_VOXELS)
    start = np.unravel_index(np.where(away <= max(search, _SPACING_MM), smooth, -np.inf).argmax(), hu.shape)
    if smooth[start] < _MIN_CORE_HU:
        return NotGrown(f"no soft tissue within {search:.0f} mm; the densest has {smooth[start]:.0f} HU", is_lung=True)
    dense = (hu > (smooth[start] + np.median(hu[lung])) / 2) & (away <= reach)
    opened = dense & _dilated(_eroded(dense, _VESSEL_RADIUS_MM), _VESSEL_RADIUS_MM)
    parts, _ = label(opened if opened[start] else dense)
    mask = parts == parts[start]
    reaches_out = (mask & (away > reach - 1.5 * _SPACING_MM)).any() or any(
        face.any() for axis in range(3) for face in np.moveaxis(mask, axis, 0)[[0, -1]]
    )
    if not parts[start] or reaches_out:
        return NotGrown(f"no border of its own within {reach:.0f} mm: it touches other tissue")
    share = lung[_dilated(mask, _COLLAR_MM[1]) & ~_dilated(mask, _COLLAR_MM[0])].mean()
    if share < _MIN_LUNG_SHARE:
        return NotGrown(f"lung is {share:.0%} of what surrounds it")
    return Extent(mask, grid)


def _patch(image: Grid, middle: FloatArray, reach: float) -> Grid | None:
    """Return the grid on which a lesion is grown: what lies near the middle and in the image; None without any.

    It extends beyond the image by the collar and more, so that what surrounds a nodule at the image's border counts.
    """
    steps = np.ceil(reach / _SPACING_MM)
    corners = (image.corners() - middle) / _SPACING_MM
    margin = np.ceil((_COLLAR_MM[1] + image.spacing.max()) / _SPACING_MM) + _CORE_VOXELS
    low = np.maximum(-steps, np.floor(corners.min(axis=0)) - margin)
    high = np.minimum(steps, np.ceil(corners.max(axis=0)) + margin)
    if (high < low).any():
        return None
    size = (high - low).astype(int) + 1
    return Grid.make(size[::-1].tolist(), origin=middle + _SPACING_MM * low, spacing=_SPACING_MM)


def _distance(grid: Grid, point: FloatArray) -> NDArray[np.float32]:
    """Return how far the voxels of a grid along the world's axes are from a point, mm; no more memory than that."""
    squares = [
        ((grid.origin[i] + grid.spacing[i] * np.arange(grid.size[i]) - point[i]) ** 2).astype(np.float32)
        for i in range(3)
    ]
    return np.asarray(np.sqrt(squares[2][:, None, None] + squares[1][:, None] + squares[0]))


def _dilated(mask: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(~mask, sampling=_SPACING_MM)) <= distance


def _eroded(mask: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    return ~_dilated(~mask, distance)

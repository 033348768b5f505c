"""How large a lesion is. A nodule of soft tissue in lung can be grown from its centre; others are refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample
from samreg.spatial.standard import sample_mask

_SPACING_MM = 1.0  # at which lesions are grown
_MAX_LUNG_HU = -500.0  # below which tissue is aerated lung
_MIN_CORE_HU = -300.0  # which a nodule's core exceeds
_CORE_VOXELS = 5  # width of what is averaged as core
_VESSEL_RADIUS_MM = 2.0  # of what is cut off: vessels that end in the nodule
_COLLAR_MM = (2.0, 7.0)  # around the nodule, where lung must prevail
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
        """Longest diameter within a slice, mm, as RECIST measures; from voxel border to voxel border."""
        from scipy.ndimage import binary_erosion
        from scipy.spatial.distance import pdist

        longest = 0.0
        for plane in self.mask:
            rim = np.argwhere(plane & ~binary_erosion(plane)) * self.grid.spacing[1::-1]
            longest = max(longest, float(pdist(rim).max())) if len(rim) > 1 else longest
        return longest + float(self.grid.spacing[:2].mean())

    def on(self, grid: Grid) -> NDArray[np.bool_]:
        """Return the mask on another grid, (*grid.shape)."""
        return sample_mask(Image(self.mask, self.grid), grid)


def grow(image: Image, center: ArrayLike, *, search: float, reach: float) -> Extent | str:
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
    Extent or str
        Or why it cannot be measured so, in plain words.

    Examples
    --------
    >>> grid = Grid.make((48, 48, 48), origin=(-23.5, -23.5, -23.5))
    >>> nodule = np.where(np.linalg.norm(grid.world_points(), axis=-1) < 7, 40, -850)
    >>> extent = grow(Image(nodule, grid), [0.0, 0.0, 0.0], search=4, reach=14)
    >>> round(extent.diameter)
    14
    >>> grow(Image(nodule * 0, grid), [0.0, 0.0, 0.0], search=4, reach=14)
    'no lung around it: sizes are measured in lung alone'
    """
    from scipy.ndimage import label, uniform_filter

    size = int(np.ceil(2 * (reach + _COLLAR_MM[1]) / _SPACING_MM)) + 1
    middle = np.asarray(center, dtype=np.float64)
    origin = middle - _SPACING_MM * (size - 1) / 2
    # beyond the image there is no lung in which a nodule could end
    patch = resample(image, Grid.make((size,) * 3, origin=origin, spacing=_SPACING_MM), fill=0.0)
    hu, away = patch.array, np.linalg.norm(patch.grid.world_points() - middle, axis=-1)
    lung = hu < _MAX_LUNG_HU
    if not lung.any():
        return "no lung around it: sizes are measured in lung alone"
    smooth = uniform_filter(hu, size=_CORE_VOXELS)
    start = np.unravel_index(np.where(away <= max(search, _SPACING_MM), smooth, -np.inf).argmax(), hu.shape)
    if smooth[start] < _MIN_CORE_HU:
        return f"no soft tissue within {search:.0f} mm; the densest has {smooth[start]:.0f} HU"
    dense = (hu > (smooth[start] + np.median(hu[lung])) / 2) & (away <= reach)
    opened = dense & _dilated(_eroded(dense, _VESSEL_RADIUS_MM), _VESSEL_RADIUS_MM)
    parts, _ = label(opened if opened[start] else dense)
    mask = parts == parts[start]
    if not parts[start] or (mask & (away > reach - 1.5 * _SPACING_MM)).any():
        return f"no border of its own within {reach:.0f} mm: it touches other tissue"
    share = lung[_dilated(mask, _COLLAR_MM[1]) & ~_dilated(mask, _COLLAR_MM[0])].mean()
    if share < _MIN_LUNG_SHARE:
        return f"lung is {share:.0%} of what surrounds it"
    return Extent(mask, patch.grid)


def _dilated(mask: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(~mask, sampling=_SPACING_MM)) <= distance


def _eroded(mask: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    return ~_dilated(~mask, distance)

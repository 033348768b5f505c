"""Slices of images as radiologists look at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.registration.quality import body_on, working_grid
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image

if TYPE_CHECKING:
    from samreg.registration.result import RegistrationResult

_CT_WINDOW_HU = (-900.0, 400.0)  # wide enough to show lungs, soft tissue and bone at once
_MAX_AIR_HU = -500.0  # an image with less is shown as CT
_DEPTH_MM = 30.0  # below the surface of what both images show, where a page opens


@dataclass(frozen=True)
class View:
    """One way to look at a volume whose axes run along LPS.

    Parameters
    ----------
    name
        Its name.
    across, down
        World axes (0 = x, 1 = y, 2 = z) that run across and up or down the picture.
    through
        World axis looked along; None in 2D.
    labels
        What lies at the left and at the right edge of the picture.
    """

    name: str
    across: int
    down: int
    through: int | None
    labels: tuple[str, str]

    def picture(self, array: NDArray[Any], index: int) -> NDArray[Any]:
        """Return the slice (rows, columns) at ``index`` of an array whose axes run along LPS, head upwards."""
        if self.through is None:
            return array
        plane: NDArray[Any] = array.take(index, axis=2 - self.through)
        return plane[::-1] if self.down == 2 else plane

    def extent(self, grid: Grid) -> tuple[float, float, float, float]:
        """Return the borders of the picture in mm from the first voxel's border: left, right, bottom, top."""
        width, height = grid.extent[self.across], grid.extent[self.down]
        return (0.0, width, 0.0, height) if self.down == 2 else (0.0, width, height, 0.0)

    def place(self, grid: Grid, points: ArrayLike) -> FloatArray:
        """Return the positions (N, 2), mm across and down or up, of world points (N, d) in the picture."""
        position = (grid.world_to_index(points) + 0.5) * grid.spacing
        return position[:, [self.across, self.down]]


#: The patient's right is at the left of axial and coronal pictures, the front at the left of sagittal ones.
_VIEWS = (
    View("axial", 0, 1, 2, ("R", "L")),
    View("coronal", 0, 2, 1, ("R", "L")),
    View("sagittal", 1, 2, 0, ("A", "P")),
)
_VIEWS_2D = (View("image", 0, 1, None, ("", "")),)  # a projection may show the body from any side


def views_of(ndim: int) -> tuple[View, ...]:
    """Return axial, coronal and sagittal, or the one view of a 2D image."""
    return _VIEWS if ndim == 3 else _VIEWS_2D


def slice_grid(grid: Grid, view: View, index: int) -> Grid:
    """Return the grid of one slice, one voxel thick; the whole grid in 2D."""
    if view.through is None:
        return grid
    shape = list(grid.shape)
    shape[2 - view.through] = 1
    return Grid(tuple(shape), grid.origin + index * grid.index_matrix[:, view.through], grid.spacing, grid.direction)


def middle(result: RegistrationResult) -> FloatArray:
    """Return the fixed point (d,), LPS mm, in the middle of what both images show of the body."""
    points, _ = _shown_by_both(result, working_grid(result.fixed))
    return np.asarray((points.min(axis=0) + points.max(axis=0)) / 2)


def focus(result: RegistrationResult) -> FloatArray:
    """Return the fixed point (d,), LPS mm, with the largest expected error inside what both images show of the body.

    At its surface, where errors are often largest, slices would show next to nothing. Where no error is known, the
    middle of it.
    """
    if result.error_map is None:
        return middle(result)
    from scipy.ndimage import distance_transform_edt

    grid = result.error_map.grid
    points, rows = _shown_by_both(result, grid)
    shown = np.zeros(grid.shape, dtype=bool)
    shown.ravel()[rows] = True
    depth = distance_transform_edt(np.pad(shown, 1), grid.spacing[::-1])[(slice(1, -1),) * grid.ndim].ravel()[rows]
    inside = depth >= min(_DEPTH_MM, float(depth.max()) / 2)
    return np.asarray(points[inside][result.error_map.array.ravel()[rows[inside]].argmax()])


def _shown_by_both(result: RegistrationResult, grid: Grid) -> tuple[FloatArray, NDArray[np.intp]]:
    """Return the points (N, d) of the fixed body, LPS mm, that the moving image shows, and which of the grid they are.

    All of the fixed body where it shows none.
    """
    rows = np.flatnonzero(body_on(result, grid))
    points = grid.world_points().reshape(-1, grid.ndim)[rows]
    if result.transform is not None:
        inside = result.moving.grid.contains(result.transform.transform_points(points))
        if inside.any():
            return points[inside], rows[inside]
    return points, rows


def slice_indices(grid: Grid, point: FloatArray) -> Mapping[str, int]:
    """Return the index of the slice through a world point for each view of a grid along LPS."""
    index = np.clip(np.rint(grid.world_to_index(point)[0]).astype(int), 0, np.asarray(grid.size) - 1)
    return {view.name: 0 if view.through is None else int(index[view.through]) for view in views_of(grid.ndim)}


def window(image: Image) -> tuple[float, float]:
    """Return the intensities shown black and white: a wide CT window, or percentiles of what is no CT."""
    array = image.array[tuple(slice(None, None, max(1, n // 64)) for n in image.shape)]
    finite = array[np.isfinite(array)]
    if finite.size == 0:
        return 0.0, 1.0
    if finite.min() <= _MAX_AIR_HU:
        return _CT_WINDOW_HU
    low, high = (float(value) for value in np.percentile(finite, (0.5, 99.5)))
    return low, max(high, low + 1e-6)


def grey(picture: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
    """Return the picture between 0 (black) and 1 (white)."""
    low, high = limits
    return np.clip((np.nan_to_num(picture.astype(np.float32)) - low) / (high - low), 0, 1)


def overlay(fixed: NDArray[np.float32], moving: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (rows, columns, 3): the fixed picture red, the moving one cyan, grey where they agree."""
    return np.stack([fixed, moving, moving], axis=-1)

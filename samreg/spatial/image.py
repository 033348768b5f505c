"""Image: an array and the grid that places it in the world."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid


@dataclass(frozen=True, eq=False)
class Image:
    """A scalar image, 2D or 3D, in the world frame LPS mm.

    Parameters
    ----------
    array
        Intensities in array order (z, y, x) or (y, x), as SimpleITK's ``GetArrayFromImage``.
    grid
        Where the voxels lie.
    name
        What to call the image in messages and reports, such as its file path.

    Raises
    ------
    InputError
        When the array's shape is not the grid's, or it holds no numbers.
    """

    array: NDArray[Any]
    grid: Grid
    name: str = ""

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.shape != self.grid.shape:
            raise InputError(f"{self.label}: array shape {array.shape} is not the grid's {self.grid.shape}")
        if array.dtype.kind not in "biuf":
            raise InputError(f"{self.label}: intensities must be real numbers, got dtype {array.dtype}")
        object.__setattr__(self, "array", array)

    @classmethod
    def from_array(
        cls,
        array: ArrayLike,
        *,
        origin: ArrayLike | None = None,
        spacing: ArrayLike | None = None,
        direction: ArrayLike | None = None,
        name: str = "",
    ) -> Image:
        """Make an image from an array (z, y, x); origin 0, spacing 1 mm, identity direction unless given."""
        array = np.asarray(array)
        try:
            grid = Grid.make(array.shape, origin=origin, spacing=spacing, direction=direction)
        except InputError as error:
            raise InputError(f"{name or 'image'}: {error}") from None
        return cls(array, grid, name)

    def __repr__(self) -> str:
        return f"Image({self.label}, {self.array.dtype}, {self.grid})"

    @property
    def label(self) -> str:
        """The name, or the word "image"."""
        return self.name or "image"

    @property
    def ndim(self) -> int:
        """Number of dimensions, 2 or 3."""
        return self.grid.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape, (z, y, x) or (y, x)."""
        return self.grid.shape

    @property
    def origin(self) -> FloatArray:
        """(d,) world position of the first voxel's centre, LPS mm."""
        return self.grid.origin

    @property
    def spacing(self) -> FloatArray:
        """(d,) voxel size along x, y, z, mm."""
        return self.grid.spacing

    @property
    def direction(self) -> FloatArray:
        """(d, d) columns are the grid axes in LPS."""
        return self.grid.direction

    def with_array(self, array: NDArray[Any]) -> Image:
        """Return an image of other intensities on the same grid."""
        return replace(self, array=array)

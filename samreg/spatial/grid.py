"""The sampling grid of an image: where its voxels lie in the world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError, require_type

FloatArray = NDArray[np.float64]

_SLAB_VOXELS = 500_000  # at most, to bound memory


def require_unmasked(values: object, what: str) -> None:
    """Raise :class:`InputError` for an array of which numpy masks a part: read as an array, it would lose its mask.

    Examples
    --------
    >>> require_unmasked(np.ma.masked_equal([1.0, -1.0], -1.0), "errors")
    Traceback (most recent call last):
    samreg.errors.InputError: errors: a masked array, whose mask would be lost; leave out what is masked, or fill it ...
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError(
            f"{what}: a masked array, whose mask would be lost; leave out what is masked, or fill it with a value first"
        )


def as_points_array(points: ArrayLike, ndim: int) -> FloatArray:
    """Return ``points`` as an (N, ndim) float64 array; one point may be given as (ndim,).

    Raises
    ------
    InputError
        When the shape does not fit, a coordinate is not finite, or a data frame has other columns than x, y(, z).
    """
    require_columns_xyz(points)
    require_unmasked(points, "points")
    try:
        array = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"points must be an array (N, {ndim}) of numbers: {str(error)[:100]}") from None
    if array.ndim == 1 and array.size == ndim:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != ndim:
        raise InputError(f"points must have shape (N, {ndim}), got {array.shape}; give x, y(, z) in LPS mm")
    if not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))[:5].tolist()
        raise InputError(f"points contain NaN or infinity in rows {bad}; remove them or give coordinates")
    return array


def require_columns_xyz(points: object) -> None:
    """Raise :class:`InputError` for a data frame whose columns have names, but others than x, y(, z) in this order."""
    names = [str(name) for name in getattr(points, "columns", ())]
    numbered = all(name.isdecimal() for name in names)
    if not numbered and [name.lower() for name in names] != ["x", "y", "z"][: len(names)]:
        raise InputError(
            f"a data frame with columns {', '.join(names)} where positions x, y(, z) are needed; "
            "samreg.spatial.as_points(frame, 3) reads it by the names of its columns"
        )


def lengths(vectors: NDArray[Any]) -> NDArray[Any]:
    """Return the lengths (...,) of vectors (..., d), in their type; three times faster than a norm along rows."""
    result: NDArray[Any] = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))
    return result


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxel centres in the world (LPS mm).

    Parameters
    ----------
    shape
        Number of voxels in array order, (z, y, x) or (y, x).
    origin
        (d,) world position (x, y, z) of the centre of the first voxel, mm.
    spacing
        (d,) distance between neighbouring centres along the grid axes x, y, z, mm.
    direction
        (d, d) columns are the unit vectors of the grid axes x, y, z in LPS.

    Raises
    ------
    InputError
        When the shape is empty, the spacing is not positive and finite, or the direction is not orthonormal.
    """

    shape: tuple[int, ...]
    origin: FloatArray
    spacing: FloatArray
    direction: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        ndim = len(shape)
        if ndim not in (2, 3):
            raise InputError(f"an image must be 2D or 3D, got {ndim} axes of shape {shape}; select one volume")
        if min(shape) < 1:
            raise InputError(f"the image is empty: shape {shape}; give an image with at least one voxel per axis")
        origin = _frozen(self.origin, (ndim,), "origin")
        spacing = _frozen(self.spacing, (ndim,), "spacing")
        direction = _frozen(self.direction, (ndim, ndim), "direction")
        if spacing.min() <= 0:
            raise InputError(f"spacing must be positive mm, got {spacing.tolist()}; set the true voxel size")
        # 1e-3 admits the rounding of NIfTI quaternions and DICOM cosines, and refuses shears
        if np.abs(direction.T @ direction - np.eye(ndim)).max() > 1e-3:
            raise InputError(
                f"direction is not orthonormal: {direction.tolist()}; a sheared grid must be resampled first"
            )
        for name, value in (("shape", shape), ("origin", origin), ("spacing", spacing), ("direction", direction)):
            object.__setattr__(self, name, value)

    @classmethod
    def make(
        cls,
        shape: Sequence[int],
        *,
        origin: ArrayLike | None = None,
        spacing: ArrayLike | None = None,
        direction: ArrayLike | None = None,
    ) -> Grid:
        """Return a grid with origin 0, spacing 1 mm and identity direction where these are not given.

        Parameters
        ----------
        shape
            Number of voxels in array order, (z, y, x) or (y, x).
        origin
            (d,) position (x, y, z) of the first voxel's centre, LPS mm.
        spacing
            Voxel size, mm: one number, or (d,) along x, y(, z).
        direction
            (d, d), or its d * d numbers row by row; columns are the grid axes x, y, z in LPS.

        Examples
        --------
        >>> from samreg.spatial import Grid
        >>> grid = Grid.make((40, 512, 512), spacing=(0.8, 0.8, 5), origin=(-200, -200, -100))
        >>> grid.extent.tolist()
        [409.6, 409.6, 200.0]
        """
        ndim = len(shape)
        spacing = _numbers(1.0 if spacing is None else spacing, "spacing")
        direction = _numbers(np.eye(ndim) if direction is None else direction, "direction")
        return cls(
            tuple(shape),
            np.zeros(ndim) if origin is None else _numbers(origin, "origin"),
            np.full(ndim, spacing) if spacing.ndim == 0 else spacing,
            direction.reshape(ndim, ndim) if direction.size == ndim**2 else direction,
        )

    def __repr__(self) -> str:
        return (
            f"Grid(size={self.size}, spacing={np.round(self.spacing, 4).tolist()}, "
            f"origin={np.round(self.origin, 3).tolist()}, direction={np.round(self.direction, 4).tolist()})"
        )

    @property
    def ndim(self) -> int:
        """Number of dimensions, 2 or 3."""
        return len(self.shape)

    @property
    def size(self) -> tuple[int, ...]:
        """Number of voxels along x, y(, z)."""
        return self.shape[::-1]

    @property
    def extent(self) -> FloatArray:
        """(d,) physical length of the grid along its axes x, y, z from voxel border to voxel border, mm."""
        extent: FloatArray = np.asarray(self.size) * self.spacing
        return extent

    @property
    def center(self) -> FloatArray:
        """(d,) world position of the middle of the grid, mm."""
        center: FloatArray = self.index_to_world((np.asarray(self.size) - 1) / 2)[0]
        return center

    @cached_property
    def index_matrix(self) -> FloatArray:
        """(d, d) matrix from index steps (x, y, z) to world mm."""
        return self.direction * self.spacing

    @cached_property
    def _world_matrix(self) -> FloatArray:
        return np.linalg.inv(self.index_matrix).astype(np.float64, copy=False)

    def index_to_world(self, index: ArrayLike) -> FloatArray:
        """Map continuous voxel indices (N, d), order (x, y, z), to world points (N, d), LPS mm."""
        world: FloatArray = as_points_array(index, self.ndim) @ self.index_matrix.T + self.origin
        return world

    def world_to_index(self, points: ArrayLike) -> FloatArray:
        """Map world points (N, d), LPS mm, to continuous voxel indices (N, d), order (x, y, z)."""
        index: FloatArray = (as_points_array(points, self.ndim) - self.origin) @ self._world_matrix.T
        return index

    def depth(self, points: ArrayLike) -> FloatArray:
        """Return how deep world points (N, d), LPS mm, lie inside the voxel borders, (N,) mm; negative outside."""
        index = self.world_to_index(points)
        nearest = np.minimum(index + 0.5, np.asarray(self.size) - 0.5 - index) * self.spacing
        depth: FloatArray = np.minimum.reduce(list(nearest.T))  # several times faster than along rows
        return depth

    def contains(self, points: ArrayLike, *, margin: float = 0.0) -> NDArray[np.bool_]:
        """Tell which world points (N, d), LPS mm, lie inside the voxel borders grown by ``margin`` mm."""
        return self.depth(points) >= -margin

    def overlaps(self, other: Grid) -> bool:
        """Tell whether the boxes around both grids, along the axes of this one, have a place in common."""
        index = self.world_to_index(other.corners())
        return bool((index.max(axis=0) > -0.5).all() and (index.min(axis=0) < np.asarray(self.size) - 0.5).all())

    def world_points(self) -> FloatArray:
        """Return the world position of every voxel centre, shape (*shape, d), LPS mm."""
        points = np.zeros((*self.shape, self.ndim))
        points += self.origin
        for axis in range(self.ndim):  # index axis x is the last array axis
            steps = np.arange(self.size[axis], dtype=float)
            shape = [1] * self.ndim
            shape[self.ndim - 1 - axis] = -1
            points += steps.reshape(*shape, 1) * self.index_matrix[:, axis]
        return points

    def corners(self) -> FloatArray:
        """Return the 2**d outer corners (voxel borders) in the world, (2**d, d), LPS mm."""
        bounds = [(-0.5, n - 0.5) for n in self.size]
        return self.index_to_world(np.stack(np.meshgrid(*bounds, indexing="ij"), axis=-1).reshape(-1, self.ndim))

    def with_spacing(self, spacing: ArrayLike) -> Grid:
        """Return a grid of about the same physical extent and the same direction with another spacing (mm)."""
        spacing = _numbers(spacing, "spacing")
        if spacing.shape not in ((), (self.ndim,)):
            raise InputError(f"spacing must be one number or {self.ndim}, mm, got {spacing.tolist()}")
        spacing = np.broadcast_to(spacing, (self.ndim,))
        if not (np.isfinite(spacing) & (spacing > 0)).all():
            raise InputError(f"spacing must be positive mm, got {spacing.tolist()}")
        size = np.maximum(1, np.round(self.extent / spacing).astype(int))
        origin = self.center - (self.direction * spacing) @ ((size - 1) / 2)
        return Grid(tuple(size[::-1]), origin, spacing, self.direction)

    def padded(self, margin: float) -> Grid:
        """Return the grid grown on every side by at least ``margin`` mm; its voxels stay where they were."""
        extra: NDArray[np.int_] = np.ceil(margin / self.spacing).astype(int)
        return self.between(-extra, np.asarray(self.size) - 1 + extra)

    def between(self, first: ArrayLike, last: ArrayLike) -> Grid:
        """Return the grid of the voxels from one index to another (d,), order (x, y, z), which may lie outside it."""
        first, last = np.asarray(first), np.asarray(last)
        origin = self.index_to_world(first)[0]
        return Grid(tuple((last - first + 1)[::-1]), origin, self.spacing, self.direction)

    def same_as(self, other: Grid, *, tolerance: float = 1e-3) -> bool:
        """Tell whether both grids have the same shape and all corners agree within ``tolerance`` mm."""
        return self.shape == other.shape and bool(np.abs(self.corners() - other.corners()).max() <= tolerance)


def slabs(grid: Grid) -> Iterator[tuple[int, FloatArray]]:
    """Yield (first slice, world points) of slabs of a grid along the first array axis, so that few are held at once."""
    per_slice = max(1, int(np.prod(grid.shape[1:])))
    thickness = max(1, _SLAB_VOXELS // per_slice)
    last_axis = grid.index_matrix[:, grid.ndim - 1]
    for start in range(0, grid.shape[0], thickness):
        count = min(thickness, grid.shape[0] - start)
        slab = Grid((count, *grid.shape[1:]), grid.origin + start * last_axis, grid.spacing, grid.direction)
        yield start, slab.world_points()


def require_grid(value: object, name: str = "grid") -> None:
    """Raise :class:`InputError` unless a value is a :class:`Grid`; an image is none, but has one.

    Examples
    --------
    >>> from samreg.spatial import Image
    >>> require_grid(Image.from_array([[0, 1]], spacing=1))
    Traceback (most recent call last):
    samreg.errors.InputError: grid must be a samreg Grid, such as image.grid, got Image
    """
    require_type(name, value, Grid, "such as image.grid")


def _numbers(value: ArrayLike, name: str) -> FloatArray:
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers, got {value!r}") from None


def _frozen(value: ArrayLike, shape: tuple[int, ...], name: str) -> FloatArray:
    array = _numbers(value, name)
    if array.shape != shape:
        raise InputError(f"{name} must have shape {shape}, got {array.shape}; the image is {shape[0]}D")
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite, got {array.tolist()}; correct the header")
    array.flags.writeable = False
    return array

"""Displacement fields: sampled on a grid, interpolated, inverted, and measured by their Jacobian."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.device import run_in_threads
from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid, as_points_array, lengths, require_grid, slabs
from samreg.spatial.inversion import LandedPoints, landed_points, solve, target_range
from samreg.spatial.transforms import Transform, components, compose, require_transform

_CONTINUED_VOXELS = 3  # beyond its border, so that an inverse can be interpolated up to where the border goes
_MAX_POINTS_AT_ONCE = 500_000  # to bound memory
_INVERTED_AT_ONCE = 125_000  # points, by each thread
_MAX_VOXELS_REFINED = 25_000_000  # of an inverse that is sampled more finely than its field
_REFINING_ITERATIONS = 8  # at full resolution, from the inverse on a coarser grid


@dataclass(frozen=True, eq=False)
class DisplacementField(Transform):
    """y = x + u(x), u interpolated linearly on a grid in the fixed frame; u = 0 outside it, as in ITK.

    Parameters
    ----------
    displacement
        (*grid.shape, d) float32, components (x, y, z) in LPS mm.
    grid
        Where the displacements are known.

    Raises
    ------
    InputError
        When the shapes do not fit, or vectors are NaN or infinite: how many and where is said.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.spatial import DisplacementField, Grid
    >>> field = DisplacementField(np.full((5, 5, 2), 3.0), Grid.make((5, 5), spacing=2))
    >>> field.transform_points([[4, 4], [100, 4]])  # the second lies outside the grid
    array([[  7.,   7.],
           [100.,   4.]])
    """

    displacement: NDArray[np.float32]
    grid: Grid

    def __post_init__(self) -> None:
        require_grid(self.grid)
        displacement = np.asarray(self.displacement, dtype=np.float32)
        expected = (*self.grid.shape, self.grid.ndim)
        if displacement.shape != expected:
            raise InputError(f"displacement must have shape {expected}, got {displacement.shape}")
        require_known_vectors(displacement)
        object.__setattr__(self, "displacement", displacement)

    def __repr__(self) -> str:
        return f"DisplacementField({self.grid})"

    @property
    def ndim(self) -> int:
        """Number of dimensions, 2 or 3."""
        return self.grid.ndim

    def displacement_at(self, points: ArrayLike) -> FloatArray:
        """Return the displacement (N, d) in mm at world points (N, d) of the fixed image."""
        import torch

        points = as_points_array(points, self.ndim)
        result = np.zeros_like(points)
        last = np.maximum(np.asarray(self.grid.size) - 1, 1)
        for start in range(0, len(points), _MAX_POINTS_AT_ONCE):
            chunk = slice(start, start + _MAX_POINTS_AT_ONCE)
            index = self.grid.world_to_index(points[chunk])
            within = (index >= -0.5) & (index <= np.asarray(self.grid.size) - 0.5)
            inside = np.logical_and.reduce(list(within.T))  # several times faster than along rows
            position = torch.from_numpy((2 * index / last - 1).astype(np.float32))  # -1 to 1, as torch counts
            sampled = torch.nn.functional.grid_sample(
                self._volume,
                position.reshape(1, *[1] * (self.ndim - 1), -1, self.ndim),
                padding_mode="border",
                align_corners=True,
            )
            result[chunk] = sampled.reshape(self.ndim, -1).T.numpy() * inside[:, None]
        return result

    @cached_property
    def _volume(self) -> Any:
        """The displacement as torch samples it, (1, d, *grid.shape), sharing memory where torch can."""
        import torch

        values = np.moveaxis(self.displacement, -1, 0)[None]
        if min(values.strides) < 0 or not values.flags.writeable:  # flipped, or mapped from a file
            values = values.copy()
        return torch.from_numpy(values)

    @cached_property
    def _landed(self) -> LandedPoints:
        return landed_points(self)

    @cached_property
    def _target_range(self) -> tuple[FloatArray, FloatArray]:
        return target_range(self)

    def transform_points(self, points: ArrayLike) -> FloatArray:
        """Map points (N, d) of the fixed image to the moving image, LPS mm."""
        points = as_points_array(points, self.ndim)
        return points + self.displacement_at(points)

    def inverse(self) -> InverseField:
        """Return the inverse, moving to fixed, solved at each point that it maps."""
        return InverseField(self)


def require_known_vectors(vectors: NDArray[Any]) -> None:
    """Refuse a field some of whose vectors are unknown, as those outside a mask are in fields of other programs.

    DICOM lets a vector be NaN, "not defined" (PS3.3 C.20.3.1.3). samreg's transforms map every point, and nothing asks
    whether a point has a counterpart: such a field is refused, from whatever file.

    Parameters
    ----------
    vectors
        (z, y, x, 3) or (y, x, 2), of any unit.

    Raises
    ------
    InputError
        When vectors are NaN or infinite: how many, and where.
    """
    if np.isfinite(vectors).all():
        return
    unknown = ~np.isfinite(vectors).all(axis=-1)
    found = np.argwhere(unknown)[:, ::-1]
    first, last = tuple(found.min(axis=0).tolist()), tuple(found.max(axis=0).tolist())
    raise InputError(
        f"{len(found)} of {unknown.size} vectors of the displacement field are NaN or infinite, in voxels {first} to "
        f"{last}, (x, y, z) counted from 0: where these points go is not known; export the field without a mask, cut "
        "it to where it is known, or set such vectors to 0 where nothing is to move"
    )


@dataclass(frozen=True, eq=False)
class InverseField(Transform):
    """The inverse of a displacement field, solved at each point that it maps; see :func:`invert` for the equation.

    Parameters
    ----------
    forward
        The field.
    tolerance
        Largest error at which the iteration stops, mm.
    iterations
        Most iterations.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.spatial import DisplacementField, Grid
    >>> grid = Grid.make((20, 20), spacing=2)
    >>> bump = np.exp(-((grid.world_points() - grid.center) ** 2).sum(axis=-1, keepdims=True) / 100)
    >>> field = DisplacementField(3 * bump * [1, 0], grid)
    >>> field.inverse().transform_points(field.transform_points([[19, 19]])).round(1)
    array([[19., 19.]])
    """

    forward: DisplacementField
    tolerance: float = 0.02
    iterations: int = 40

    @property
    def ndim(self) -> int:
        """Number of dimensions, 2 or 3."""
        return self.forward.ndim

    def transform_points(self, points: ArrayLike) -> FloatArray:
        """Map points (N, d) of the moving image to the fixed image, LPS mm."""
        points = as_points_array(points, self.ndim)
        if len(points) <= _INVERTED_AT_ONCE:  # setting threads takes longer than a few points do
            return self._solve(points)
        chunks = [points[start : start + _INVERTED_AT_ONCE] for start in range(0, len(points), _INVERTED_AT_ONCE)]
        return np.concatenate(run_in_threads([partial(self._solve, chunk) for chunk in chunks]))

    def inverse(self) -> DisplacementField:
        """Return the field itself, fixed to moving."""
        return self.forward

    @cached_property
    def field(self) -> DisplacementField:
        """The inverse sampled on a grid, four times finer than the field where that is not too large."""
        grid = self._grid()
        factor = next((n for n in (4, 2) if np.prod(grid.shape) * n**grid.ndim <= _MAX_VOXELS_REFINED), 1)
        return self._sampled(grid.with_spacing(grid.spacing / factor))

    def _grid(self) -> Grid:
        """Return the field's grid, or where its border moves, the box on its voxels around where the field takes them.

        Frames of two scanners may lie 400 mm apart, and a field of the total displacement that far from its own grid.
        """
        grid, border = self.forward.grid, border_values(self.forward.displacement)
        if lengths(border).max(initial=0.0) <= self.tolerance:
            return grid
        # where the border goes, what it encloses goes too
        index = border_values(np.moveaxis(np.indices(grid.shape, dtype=np.float32)[::-1], 0, -1))
        moved = grid.world_to_index(grid.index_to_world(index) + border)
        low = np.floor(moved.min(axis=0) - 0.5).astype(int)  # a field reaches half a voxel beyond its outermost centres
        high = np.ceil(moved.max(axis=0) + 0.5).astype(int)
        return grid.between(low, high)

    def _sampled(self, grid: Grid) -> DisplacementField:
        """Solve for the inverse at the voxels of a grid, of the field as it continues beyond its border."""
        return _solve_on(grid, replace(self, forward=_continued(self.forward, self.tolerance)))

    def _solve(self, target: FloatArray, guess: FloatArray | None = None) -> FloatArray:
        """Return the fixed points of moving ones (N, d), sought from ``guess``, or from the field's value there."""
        if guess is None:
            guess = target - self.forward.displacement_at(target)
        return solve(self.forward, target, guess, tolerance=self.tolerance, iterations=self.iterations)


def invert(transform: Transform, *, tolerance: float = 0.02, iterations: int = 40) -> Transform:
    """Invert a transform: affines exactly, displacement fields numerically.

    A field's inverse v fulfils v(y) = -u(y + v(y)) and is solved at every voxel by a fixed-point iteration
    (Chen et al., A simple fixed-point approach to invert a deformation field, Med. Phys. 2008) that is damped
    where it does not converge. Measure the result with :func:`~samreg.spatial.inverse_residual`; where a field folds,
    no inverse exists and the residual says so. A field whose border moves is continued by its slope there, so that its
    inverse can be interpolated up to where the border goes; beyond, it is zero as the field is outside its grid.

    Parameters
    ----------
    transform
        Fixed to moving.
    tolerance
        Largest error at a voxel centre at which its iteration stops, mm.
    iterations
        Most iterations.

    Returns
    -------
    Transform
        Moving to fixed.

    Raises
    ------
    InputError
        When an affine part is singular, or a part is of a kind that has no inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.spatial import DisplacementField, Grid, invert
    >>> grid = Grid.make((20, 20), spacing=2)
    >>> bump = np.exp(-((grid.world_points() - grid.center) ** 2).sum(axis=-1, keepdims=True) / 100)
    >>> field = DisplacementField(3 * bump * [1, 0], grid)
    >>> back = invert(field).transform_points(field.transform_points([[19, 19]]))
    >>> back.round(1)
    array([[19., 19.]])
    """

    def inverted(part: Transform) -> Transform:
        if isinstance(part, DisplacementField):
            inverse = InverseField(part, tolerance, iterations)
            return inverse._sampled(inverse._grid())
        return part.inverse()

    return compose(*(inverted(part) for part in reversed(components(transform))))


def _continued(field: DisplacementField, tolerance: float) -> DisplacementField:
    """Continue a field a few voxels beyond its border: by its slope where the border moves, else by its value, zero.

    Voxels of an inverse just beyond where the border goes have neighbours within. With the zeros that are outside a
    field, points between the two were taken somewhere on the way from there to their counterparts.
    """
    if lengths(border_values(field.displacement)).max(initial=0.0) <= tolerance:
        return field
    n, around = _CONTINUED_VOXELS, [(_CONTINUED_VOXELS, _CONTINUED_VOXELS)] * field.ndim
    continued = np.pad(field.displacement, [*around, (0, 0)], mode="reflect", reflect_type="odd")
    ends = np.pad(lengths(field.displacement) <= tolerance, around, mode="edge")
    ends[(slice(n, -n),) * field.ndim] = False
    continued[ends] = 0
    return DisplacementField(continued, field.grid.between(np.full(field.ndim, -n), np.array(field.grid.size) - 1 + n))


def _solve_on(grid: Grid, inverse: InverseField) -> DisplacementField:
    """Solve for an inverse at the voxels of a grid; large grids start from the solution on every second voxel."""
    coarse = None
    if np.prod(grid.shape) > _MAX_POINTS_AT_ONCE:
        coarse = _solve_on(grid.with_spacing(2 * grid.spacing), inverse)
        inverse = replace(inverse, iterations=_REFINING_ITERATIONS)
    displacement = np.empty((*grid.shape, grid.ndim), dtype=np.float32)
    for start, points in slabs(grid):
        target = points.reshape(-1, grid.ndim)
        solution = inverse._solve(target, None if coarse is None else coarse.transform_points(target))
        displacement[start : start + len(points)] = (solution - target).reshape(points.shape)
    return DisplacementField(displacement, grid)


def border_values(displacement: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vectors (N, d) of a field's outermost voxels; those of edges and corners come several times."""
    ndim = displacement.ndim - 1
    sides = [displacement.take(i, axis=axis).reshape(-1, ndim) for axis in range(ndim) for i in (0, -1)]
    return np.concatenate(sides)


def sample_displacement(transform: Transform, grid: Grid) -> DisplacementField:
    """Return the total displacement of ``transform`` at the voxel centres of ``grid`` as one field.

    A field that has this very grid is returned as it is.

    Parameters
    ----------
    transform
        Fixed to moving.
    grid
        Where to sample it, in the fixed frame.

    Examples
    --------
    >>> from samreg.spatial import AffineTransform, Grid, sample_displacement
    >>> double = AffineTransform([[2, 0], [0, 2]], [0, 0])
    >>> sample_displacement(double, Grid.make((3, 3), spacing=5)).displacement[2, 1].tolist()  # at (5, 10) mm
    [5.0, 10.0]
    """
    require_transform(transform)
    require_grid(grid)
    if isinstance(transform, DisplacementField) and transform.grid is grid:
        return transform
    displacement = np.empty((*grid.shape, grid.ndim), dtype=np.float32)
    for start, points in slabs(grid):
        moved = transform.transform_points(points.reshape(-1, grid.ndim)).reshape(points.shape)
        displacement[start : start + len(points)] = moved - points
    return DisplacementField(displacement, grid)


def tapered(transform: DisplacementField, margin: float) -> DisplacementField:
    """Let a field fall smoothly to zero over its outermost ``margin`` mm.

    Outside its grid a field is zero, so this makes it continuous everywhere, and invertible where it does not
    fold.

    Parameters
    ----------
    transform
        Fixed to moving.
    margin
        Width of the border, mm.
    """
    displacement = transform.displacement.copy()
    grid = transform.grid
    for axis, (n, spacing) in enumerate(zip(grid.shape, grid.spacing[::-1], strict=True)):
        to_border = np.minimum(np.arange(n), np.arange(n)[::-1]) * spacing
        t = np.clip(to_border / max(margin, 1e-6), 0, 1)
        window = (t * t * (3 - 2 * t)).astype(np.float32)
        displacement *= window.reshape([-1 if i == axis else 1 for i in range(grid.ndim)] + [1])
    return DisplacementField(displacement, grid)


def jacobian_determinant(transform: Transform, grid: Grid) -> NDArray[np.float32]:
    """Return det(dT/dx) at the voxel centres of ``grid`` by central differences.

    Parameters
    ----------
    transform
        Fixed to moving.
    grid
        Where to evaluate, in the fixed frame; at least 2 voxels along each axis.

    Returns
    -------
    ndarray
        Shape grid.shape. 1 keeps volume, above 1 the moving image's structure is larger, 0 or less is a fold.

    Raises
    ------
    InputError
        When an axis has a single voxel.

    Examples
    --------
    >>> from samreg.spatial import AffineTransform, Grid, jacobian_determinant
    >>> stretch = AffineTransform([[2, 0], [0, 1]], [0, 0])
    >>> jacobian_determinant(stretch, Grid.make((2, 3), spacing=5)).tolist()
    [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    require_grid(grid)
    if min(grid.shape) < 2:
        raise InputError(f"the Jacobian needs at least 2 voxels along every axis, got shape {grid.shape}")
    moved = sample_displacement(transform, grid).displacement
    ndim, matrix = grid.ndim, grid.index_matrix.astype(np.float32)
    # contiguous components are several times faster than those of a field; array axis k is index axis ndim-1-k
    parts = [np.ascontiguousarray(moved[..., component]) for component in range(ndim)]
    rows = [
        [np.gradient(part, axis=ndim - 1 - axis) + matrix[component, axis] for axis in range(ndim)]
        for component, part in enumerate(parts)
    ]  # d(x + u)/d(index)
    return _determinant(rows) / np.float32(np.linalg.det(grid.index_matrix))


def _determinant(rows: list[list[NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Return the determinants (...,) of small matrices, whose elements (...,) are listed by row and column."""
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)

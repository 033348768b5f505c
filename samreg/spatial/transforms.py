"""Transforms of points, and how they compose and invert.

Every transform maps points of the fixed image to points of the moving image, in LPS mm. This is the direction
in which images are resampled: the warped image at x takes the moving image's value at ``transform(x)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.device import side_by_side
from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid, as_points_array, lengths

_NEWTON_ITERATIONS = 30
_DIFFERENCE_VOXELS = 0.005  # over which an inverse takes derivatives: within one cell, above float32's rounding
_INSIDE_VOXELS = 1e-6  # from the border, so that rounding puts no point outside
_CONTINUED_VOXELS = 3  # beyond its border, so that an inverse can be interpolated up to where the border goes
_LANDING_PER_AXIS = 25  # points of a field, among which the start of its inverse is looked up
_LANDING_REACH = 1.5  # largest distances between neighbours where they land: nothing of the field lands farther off
_MAX_POINTS_AT_ONCE = 500_000  # to bound memory
_INVERTED_AT_ONCE = 125_000  # points, by each thread
_MAX_VOXELS_REFINED = 25_000_000  # of an inverse that is sampled more finely than its field
_REFINING_ITERATIONS = 8  # at full resolution, from the inverse on a coarser grid
_MIN_DETERMINANT = 1e-12  # of a matrix that has an inverse


class Transform(ABC):
    """A map of world points, fixed to moving, LPS mm.

    Subclasses give ``ndim`` and ``transform_points``, and where they can an ``inverse``.
    """

    @property
    @abstractmethod
    def ndim(self) -> int:
        """Number of dimensions, 2 or 3."""

    @abstractmethod
    def transform_points(self, points: ArrayLike) -> FloatArray:
        """Map points (N, d) of the fixed image to the moving image, LPS mm."""

    def inverse(self) -> Transform:
        """Return the inverse, moving to fixed: exact where the kind has one, else solved at the points it maps.

        :func:`invert` samples it on a grid instead; :func:`inverse_residual` measures the result.

        Raises
        ------
        InputError
            When an affine part is singular, or a part is of a kind that has no inverse.

        Examples
        --------
        >>> from samreg.spatial import AffineTransform
        >>> shift = AffineTransform([[1, 0], [0, 1]], [10, 20])
        >>> shift.inverse().transform_points([[10, 20]])
        array([[0., 0.]])
        """
        return compose(*(_inverse_part(part) for part in reversed(components(self))))

    def jacobian(self, points: ArrayLike, *, step: ArrayLike = 0.5, within: Grid | None = None) -> FloatArray:
        """Return the derivatives at points by central differences.

        Parameters
        ----------
        points
            (N, d) points of the fixed image, LPS mm.
        step
            How far to either side the differences reach, mm: a number, or (d,) one for each axis.
        within
            A grid whose axes are differenced along, those of the world unless given. Differences do not reach beyond
            its outermost voxel centres, where a field may end: they are one-sided there.

        Returns
        -------
        ndarray
            (N, d, d): element [n, i, j] is the derivative of component i of the moving point by component j of the
            fixed point.

        Raises
        ------
        InputError
            When the step is not positive, or ``within`` has a single voxel along an axis.

        Examples
        --------
        >>> from samreg.spatial import AffineTransform
        >>> stretch = AffineTransform([[2, 0], [0, 1]], [10, 20])
        >>> stretch.jacobian([[5, 5]])
        array([[[2., 0.],
                [0., 1.]]])
        """
        points = as_points_array(points, self.ndim)
        steps = np.broadcast_to(np.asarray(step, dtype=np.float64), (self.ndim,))
        if not (np.isfinite(steps) & (steps > 0)).all():
            raise InputError(f"the step of a Jacobian must be positive mm, got {np.asarray(step).tolist()}")
        if within is not None and min(within.shape) < 2:
            raise InputError(f"the Jacobian needs at least 2 voxels along every axis, got shape {within.shape}")
        axes = np.eye(self.ndim) if within is None else within.direction
        ahead, behind = np.tile(steps, (len(points), 1)), np.tile(steps, (len(points), 1))
        if within is not None:
            position = within.world_to_index(points) * within.spacing  # mm from the first voxel along each axis
            length = (np.asarray(within.size) - 1) * within.spacing
            ahead, behind = np.clip(length - position, 0, ahead), np.clip(position, 0, behind)
        slopes = np.empty((len(points), self.ndim, self.ndim))
        for k in range(self.ndim):
            after = self.transform_points(points + ahead[:, k, None] * axes[:, k])
            before = self.transform_points(points - behind[:, k, None] * axes[:, k])
            slopes[:, :, k] = (after - before) / (ahead + behind)[:, k, None]
        # derivatives along the grid's axes become those along the world's
        return slopes @ np.linalg.inv(axes)


@dataclass(frozen=True, eq=False)
class AffineTransform(Transform):
    """y = matrix @ x + translation, from fixed to moving, LPS mm.

    Parameters
    ----------
    matrix
        (d, d).
    translation
        (d,) mm.

    Raises
    ------
    InputError
        When the shapes do not fit or a number is not finite.

    Examples
    --------
    >>> from samreg.spatial import AffineTransform
    >>> turn = AffineTransform([[0, -1], [1, 0]], [10, 0])
    >>> turn.transform_points([[1, 2]])
    array([[8., 1.]])
    """

    matrix: FloatArray
    translation: FloatArray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        translation = np.array(self.translation, dtype=np.float64)
        d = len(translation) if translation.ndim == 1 else 0
        if d not in (2, 3) or matrix.shape != (d, d):
            raise InputError(f"an affine needs matrix (d, d) and translation (d,): {matrix.shape}, {translation.shape}")
        if not (np.isfinite(matrix).all() and np.isfinite(translation).all()):
            raise InputError("an affine transform must be finite")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "translation", translation)

    @classmethod
    def identity(cls, ndim: int) -> AffineTransform:
        """Return the identity."""
        return cls(np.eye(ndim), np.zeros(ndim))

    @classmethod
    def about(cls, center: ArrayLike, matrix: ArrayLike, translation: ArrayLike = 0.0) -> AffineTransform:
        """Return y = matrix @ (x - center) + center + translation.

        Parameters
        ----------
        center
            (d,) the point that a turn keeps where it is, LPS mm.
        matrix
            (d, d).
        translation
            (d,) mm.

        Examples
        --------
        >>> from samreg.spatial import AffineTransform
        >>> AffineTransform.about([1, 1], [[0, -1], [1, 0]]).transform_points([[1, 1], [2, 1]])
        array([[1., 1.],
               [1., 2.]])
        """
        center, matrix = np.asarray(center, dtype=float), np.asarray(matrix, dtype=float)
        return cls(matrix, center - matrix @ center + translation)

    @property
    def ndim(self) -> int:
        """Number of dimensions, 2 or 3."""
        return len(self.translation)

    def transform_points(self, points: ArrayLike) -> FloatArray:
        """Map points (N, d) of the fixed image to the moving image, LPS mm."""
        return as_points_array(points, self.ndim) @ self.matrix.T + self.translation

    def inverse(self) -> AffineTransform:
        """Return the exact inverse, moving to fixed.

        Raises
        ------
        InputError
            When the matrix is singular.
        """
        if abs(np.linalg.det(self.matrix)) < _MIN_DETERMINANT:
            raise InputError(f"the affine matrix {self.matrix.tolist()} is singular and has no inverse")
        inverse: FloatArray = np.linalg.inv(self.matrix).astype(np.float64, copy=False)
        return AffineTransform(inverse, -inverse @ self.translation)

    def jacobian(self, points: ArrayLike, *, step: ArrayLike = 0.5, within: Grid | None = None) -> FloatArray:
        """Return the matrix for each of the points, (N, d, d)."""
        return np.tile(self.matrix, (len(as_points_array(points, self.ndim)), 1, 1))


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
    def _landing(self) -> tuple[FloatArray, Any, float]:
        """Points all over the grid (N, d), a tree of where they land, and how far from these the field lands, mm."""
        from scipy.spatial import KDTree

        spacing = np.maximum(self.grid.spacing, self.grid.extent / _LANDING_PER_AXIS)
        coarse = self.grid.with_spacing(spacing)
        points = coarse.world_points().reshape(-1, self.ndim)
        last = np.array(self.grid.size) - 1
        within = np.minimum(0.25, last / 2)  # voxels from the border, on which there is a slope to either side
        points = self.grid.index_to_world(np.clip(self.grid.world_to_index(points), within, last - within))
        landed = self.transform_points(points)
        lattice = landed.reshape(*coarse.shape, self.ndim)
        apart = [lengths(np.diff(lattice, axis=axis)).max(initial=0.0) for axis in range(self.ndim)]
        return points, KDTree(landed), _LANDING_REACH * float(max(*apart, spacing.max()))

    @cached_property
    def _reached(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest index, (d,) each, to which the field takes a point of its grid."""
        low, high = np.full(self.ndim, np.inf), np.full(self.ndim, -np.inf)
        for start, points in slabs(self.grid):
            landed = (points + self.displacement[start : start + len(points)]).reshape(-1, self.ndim)
            for axis, index in enumerate(self.grid.world_to_index(landed).T):
                low[axis], high[axis] = min(low[axis], index.min()), max(high[axis], index.max())
        return low - 0.5, high + 0.5  # a field reaches half a voxel beyond its outermost centres

    def transform_points(self, points: ArrayLike) -> FloatArray:
        """Map points (N, d) of the fixed image to the moving image, LPS mm."""
        points = as_points_array(points, self.ndim)
        return points + self.displacement_at(points)


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
            return self._counterparts(points)
        chunks = [points[start : start + _INVERTED_AT_ONCE] for start in range(0, len(points), _INVERTED_AT_ONCE)]
        return np.concatenate(side_by_side([partial(self._counterparts, chunk) for chunk in chunks]))

    def _counterparts(self, target: FloatArray) -> FloatArray:
        guess = target - self.forward.displacement_at(target)
        return _invert_at(self.forward, target, guess, self.tolerance, self.iterations)

    def inverse(self) -> DisplacementField:
        """Return the field itself, fixed to moving."""
        return self.forward

    @cached_property
    def field(self) -> DisplacementField:
        """The inverse sampled on a grid, four times finer than the field where that is not too large."""
        grid = _grid_of_inverse(self.forward, self.tolerance)
        factor = next((n for n in (4, 2) if np.prod(grid.shape) * n**grid.ndim <= _MAX_VOXELS_REFINED), 1)
        return _invert_on(self.forward, grid.with_spacing(grid.spacing / factor), self.tolerance, self.iterations)


@dataclass(frozen=True, eq=False)
class CompositeTransform(Transform):
    """Transforms applied one after the other; the first element is applied to the points first.

    Note that ITK's composite lists them the other way round: it applies the last one first. :func:`compose` makes one.

    Parameters
    ----------
    transforms
        At least one, all of one dimension.
    """

    transforms: tuple[Transform, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        if not self.transforms or len({t.ndim for t in self.transforms}) != 1:
            dimensions = ", ".join(f"{t.ndim}D" for t in self.transforms) or "none"
            raise InputError(f"a composite needs at least one transform, all of one dimension, got {dimensions}")

    @property
    def ndim(self) -> int:
        """Number of dimensions, 2 or 3."""
        return self.transforms[0].ndim

    def transform_points(self, points: ArrayLike) -> FloatArray:
        """Map points (N, d) of the fixed image to the moving image, LPS mm."""
        points = as_points_array(points, self.ndim)
        for transform in self.transforms:
            points = transform.transform_points(points)
        return points


def components(transform: Transform) -> tuple[Transform, ...]:
    """Return the elementary transforms, the one applied first being the first."""
    if isinstance(transform, CompositeTransform):
        return tuple(part for inner in transform.transforms for part in components(inner))
    return (transform,)


def compose(*transforms: Transform) -> Transform:
    """Compose transforms, the first one applied first; neighbouring affines become one.

    Parameters
    ----------
    *transforms
        At least one, all of one dimension.

    Raises
    ------
    InputError
        When there is none or their dimensions differ.

    Examples
    --------
    >>> from samreg.spatial import AffineTransform, compose
    >>> shift = AffineTransform([[1, 0], [0, 1]], [10, 0])
    >>> double = AffineTransform([[2, 0], [0, 2]], [0, 0])
    >>> compose(shift, double).transform_points([[1, 1]])
    array([[22.,  2.]])
    """
    merged: list[Transform] = []
    for part in (part for transform in transforms for part in components(transform)):
        last = merged[-1] if merged else None
        if isinstance(part, AffineTransform) and isinstance(last, AffineTransform) and part.ndim == last.ndim:
            merged[-1] = AffineTransform(part.matrix @ last.matrix, part.matrix @ last.translation + part.translation)
        else:
            merged.append(part)
    return merged[0] if len(merged) == 1 else CompositeTransform(tuple(merged))


@dataclass(frozen=True)
class InverseResidual:
    """How far a numerical inverse misses, in mm: the distance from x to inverse(forward(x)).

    Parameters
    ----------
    mean, p95, maximum
        Mean, 95th percentile and largest distance over the points tested, mm.
    count
        How many points were tested.
    """

    mean: float
    p95: float
    maximum: float
    count: int


def inverse_residual(forward: Transform, inverse: Transform, points: ArrayLike) -> InverseResidual:
    """Measure |inverse(forward(x)) - x| at fixed points (N, d), mm.

    Parameters
    ----------
    forward
        Fixed to moving.
    inverse
        Moving to fixed.
    points
        (N, d) fixed points, LPS mm.

    Raises
    ------
    InputError
        When there are no points to test.

    Examples
    --------
    >>> from samreg.spatial import AffineTransform, inverse_residual
    >>> shift, back = AffineTransform([[1, 0], [0, 1]], [10, 0]), AffineTransform([[1, 0], [0, 1]], [-9, 0])
    >>> inverse_residual(shift, back, [[0, 0], [5, 5]]).mean
    1.0
    """
    points = as_points_array(points, forward.ndim)
    if len(points) == 0:
        raise InputError("no points to measure the inverse at; give at least one")
    distance = lengths(inverse.transform_points(forward.transform_points(points)) - points)
    return InverseResidual(
        float(distance.mean()), float(np.percentile(distance, 95)), float(distance.max()), len(points)
    )


def invert(transform: Transform, *, tolerance: float = 0.02, iterations: int = 40) -> Transform:
    """Invert a transform: affines exactly, displacement fields numerically.

    A field's inverse v fulfils v(y) = -u(y + v(y)) and is solved at every voxel by a fixed-point iteration
    (Chen et al., A simple fixed-point approach to invert a deformation field, Med. Phys. 2008) that is damped
    where it does not converge. Measure the result with :func:`inverse_residual`; where a field folds, no
    inverse exists and the residual says so. A field whose border moves is continued by its slope there, so that its
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
    return compose(*(_invert_part(part, tolerance, iterations) for part in reversed(components(transform))))


def _invert_part(part: Transform, tolerance: float, iterations: int) -> Transform:
    if isinstance(part, DisplacementField):
        return _invert_on(part, _grid_of_inverse(part, tolerance), tolerance, iterations)
    return _inverse_part(part)


def _inverse_part(part: Transform) -> Transform:
    if isinstance(part, DisplacementField):
        return InverseField(part)
    if type(part).inverse is not Transform.inverse:
        return part.inverse()
    raise InputError(f"a {type(part).__name__} has no inverse; sample it as a displacement field first")


def _grid_of_inverse(forward: DisplacementField, tolerance: float) -> Grid:
    """Return the field's grid, or where its border moves, the box on its voxels around where the field takes them.

    Frames of two scanners may lie 400 mm apart, and a field of the total displacement that far from its own grid.
    """
    grid, border = forward.grid, _border_values(forward.displacement)
    if lengths(border).max(initial=0.0) <= tolerance:
        return grid
    # where the border goes, what it encloses goes too
    index = _border_values(np.moveaxis(np.indices(grid.shape, dtype=np.float32)[::-1], 0, -1))
    moved = grid.world_to_index(grid.index_to_world(index) + border)
    low = np.floor(moved.min(axis=0) - 0.5).astype(int)  # a field reaches half a voxel beyond its outermost centres
    high = np.ceil(moved.max(axis=0) + 0.5).astype(int)
    return grid.between(low, high)


def _invert_on(forward: DisplacementField, grid: Grid, tolerance: float, iterations: int) -> DisplacementField:
    """Solve for the inverse at the voxels of ``grid``; large grids start from the solution on every second voxel."""
    return _invert_continued(_continued(forward, tolerance), grid, tolerance, iterations)


def _continued(field: DisplacementField, tolerance: float) -> DisplacementField:
    """Continue a field a few voxels beyond its border: by its slope where the border moves, else by its value, zero.

    Voxels of an inverse just beyond where the border goes have neighbours within. With the zeros that are outside a
    field, points between the two were taken somewhere on the way from there to their counterparts.
    """
    if lengths(_border_values(field.displacement)).max(initial=0.0) <= tolerance:
        return field
    n, around = _CONTINUED_VOXELS, [(_CONTINUED_VOXELS, _CONTINUED_VOXELS)] * field.ndim
    continued = np.pad(field.displacement, [*around, (0, 0)], mode="reflect", reflect_type="odd")
    ends = np.pad(lengths(field.displacement) <= tolerance, around, mode="edge")
    ends[(slice(n, -n),) * field.ndim] = False
    continued[ends] = 0
    return DisplacementField(continued, field.grid.between(np.full(field.ndim, -n), np.array(field.grid.size) - 1 + n))


def _invert_continued(forward: DisplacementField, grid: Grid, tolerance: float, iterations: int) -> DisplacementField:
    coarse = None
    if np.prod(grid.shape) > _MAX_POINTS_AT_ONCE:
        coarse = _invert_continued(forward, grid.with_spacing(2 * grid.spacing), tolerance, iterations)
        iterations = _REFINING_ITERATIONS
    displacement = np.empty((*grid.shape, grid.ndim), dtype=np.float32)
    for start, points in slabs(grid):
        target = points.reshape(-1, grid.ndim)
        guess = (forward if coarse is None else coarse).displacement_at(target)
        guess = target - guess if coarse is None else target + guess
        solution = _invert_at(forward, target, guess, tolerance, iterations)
        displacement[start : start + len(points)] = (solution - target).reshape(points.shape)
    return DisplacementField(displacement, grid)


def _invert_at(
    forward: DisplacementField, target: FloatArray, guess: FloatArray, tolerance: float, iterations: int
) -> FloatArray:
    """Return the points x with x + u(x) = target, or the best found from ``guess``.

    Where u is not zero at the grid's border, some targets have two solutions, one inside the grid and one beyond it,
    where u is zero at once: that inside, found with u continued by its border values, is preferred. It is sought from
    where the field lands nearest: steps from far off do not arrive where it turns the frame by half a turn.
    """
    last = np.array(forward.grid.size) - 1.0

    def continued(points: FloatArray) -> FloatArray:
        index = np.clip(forward.grid.world_to_index(points), _INSIDE_VOXELS, last - _INSIDE_VOXELS)
        return points + forward.displacement_at(forward.grid.index_to_world(index))

    difference = _DIFFERENCE_VOXELS * float(forward.grid.spacing.min())
    best, error = _solve(forward.transform_points, target, guess, tolerance, iterations, difference)
    beyond = np.flatnonzero((error <= tolerance) & ~forward.grid.contains(best))
    if len(beyond):
        low, high = forward._reached
        index = forward.grid.world_to_index(target[beyond])
        beyond = beyond[((index >= low) & (index <= high)).all(axis=1)]
    tried = np.union1d(np.flatnonzero(error > tolerance), beyond)
    if len(tried) == 0:
        return best
    nodes, tree, reach = forward._landing
    distance, nearest = tree.query(target[tried])
    near = distance <= reach
    tried, start = tried[near], nodes[nearest[near]]
    inside, _ = _approached(
        continued, target[tried], start, tolerance, _NEWTON_ITERATIONS, _newton(continued, difference)
    )
    # one that ends beyond the border by less than its error is on it
    index = np.clip(forward.grid.world_to_index(inside), _INSIDE_VOXELS - 0.5, last + 0.5 - _INSIDE_VOXELS)
    inside = forward.grid.index_to_world(index)
    miss = lengths(forward.transform_points(inside) - target[tried])
    taken = miss <= np.maximum(error[tried], 2 * tolerance)
    best[tried[taken]] = inside[taken]
    return best


def _solve(
    forward: Callable[[FloatArray], FloatArray],
    target: FloatArray,
    guess: FloatArray,
    tolerance: float,
    iterations: int,
    difference: float,
) -> tuple[FloatArray, FloatArray]:
    """Return the points x that come nearest to forward(x) = target, and how far from it they end (N,), mm.

    A damped fixed-point iteration, which is quick, but does not converge where forward stretches much; from where it
    ends, damped Newton steps with derivatives from differences over ``difference`` mm.
    """
    best, error = _approached(forward, target, guess, tolerance, iterations, lambda _, miss: miss)
    left = np.flatnonzero(error > tolerance)
    if len(left):
        best[left], error[left] = _approached(
            forward, target[left], best[left], tolerance, _NEWTON_ITERATIONS, _newton(forward, difference)
        )
    return best, error


def _newton(
    forward: Callable[[FloatArray], FloatArray], difference: float
) -> Callable[[FloatArray, FloatArray], FloatArray]:
    """Return Newton's change, (points, miss) to (N, d), with derivatives from differences over so many mm."""

    def change(points: FloatArray, miss: FloatArray) -> FloatArray:
        steps = difference * np.eye(points.shape[1])
        slopes = np.stack([(forward(points + h) - forward(points - h)) / (2 * difference) for h in steps], axis=-1)
        result: FloatArray = (np.linalg.pinv(slopes) @ miss[..., None])[..., 0]
        return result

    return change


def _approached(
    forward: Callable[[FloatArray], FloatArray],
    target: FloatArray,
    guess: FloatArray,
    tolerance: float,
    iterations: int,
    change: Callable[[FloatArray, FloatArray], FloatArray],
) -> tuple[FloatArray, FloatArray]:
    """Step by ``change(points, miss)`` against the miss, less far where that does not help; see :func:`_solve`."""
    best, error = guess.copy(), np.zeros(len(target))
    left, point, step = np.arange(len(target)), guess, np.ones(len(target))
    miss = forward(point) - target
    length = lengths(miss)
    for _ in range(iterations):
        open_ = length > tolerance
        if not open_.all():
            best[left], error[left] = point, length
            left, point, step, target = left[open_], point[open_], step[open_], target[open_]
            miss, length = miss[open_], length[open_]
        if len(left) == 0:
            break
        moved = point - step[:, None] * change(point, miss)
        new_miss = forward(moved) - target
        new_length = lengths(new_miss)
        better = new_length < length
        step = np.where(better, np.minimum(1.0, step * 1.2), step * 0.5)
        point, miss = np.where(better[:, None], moved, point), np.where(better[:, None], new_miss, miss)
        length = np.where(better, new_length, length)
    best[left], error[left] = point, length
    return best, error


def _border_values(displacement: NDArray[np.float32]) -> NDArray[np.float32]:
    ndim = displacement.ndim - 1
    sides = [displacement.take(i, axis=axis).reshape(-1, ndim) for axis in range(ndim) for i in (0, -1)]
    return np.concatenate(sides)


def sample_displacement(transform: Transform, grid: Grid) -> DisplacementField:
    """Return the total displacement of ``transform`` at the voxel centres of ``grid`` as one field.

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
    if min(grid.shape) < 2:
        raise InputError(f"the Jacobian needs at least 2 voxels along every axis, got shape {grid.shape}")
    moved = sample_displacement(transform, grid).displacement
    inverse_matrix = np.linalg.inv(grid.index_matrix).astype(np.float32)
    ndim = grid.ndim
    # array axis k is index axis ndim-1-k; d(u)/d(index) times d(index)/d(world)
    by_index = np.stack(
        [np.gradient(moved, axis=ndim - 1 - axis) for axis in range(ndim)], axis=-1
    )  # (*shape, component, index axis)
    jacobian = by_index @ inverse_matrix + np.eye(ndim, dtype=np.float32)
    return _determinant(jacobian)


def _determinant(matrices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the determinants (...,) of small matrices (..., d, d); much faster than one LU each."""
    if matrices.shape[-1] == 2:
        return matrices[..., 0, 0] * matrices[..., 1, 1] - matrices[..., 0, 1] * matrices[..., 1, 0]
    (a, b, c), (d, e, f), (g, h, i) = (
        (matrices[..., row, 0], matrices[..., row, 1], matrices[..., row, 2]) for row in range(3)
    )
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def slabs(grid: Grid) -> Iterator[tuple[int, FloatArray]]:
    """Yield (first slice, world points) of slabs of the grid along the first array axis."""
    per_slice = max(1, int(np.prod(grid.shape[1:])))
    thickness = max(1, _MAX_POINTS_AT_ONCE // per_slice)
    last_axis = grid.index_matrix[:, grid.ndim - 1]
    for start in range(0, grid.shape[0], thickness):
        count = min(thickness, grid.shape[0] - start)
        slab = Grid((count, *grid.shape[1:]), grid.origin + start * last_axis, grid.spacing, grid.direction)
        yield start, slab.world_points()

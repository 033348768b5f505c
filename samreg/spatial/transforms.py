"""Transforms of points, and how they compose and invert.

Every transform maps points of the fixed image to points of the moving image, in LPS mm. This is the direction
in which images are resampled: the warped image at x takes the moving image's value at ``transform(x)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from samreg.errors import InputError, require_type
from samreg.spatial.grid import FloatArray, Grid, as_points_array, lengths

_MIN_DETERMINANT = 1e-12  # of a matrix that has an inverse


class Transform(ABC):
    """A map of world points, fixed to moving, LPS mm.

    Subclasses give ``ndim`` and ``transform_points``, and where they can an ``inverse``.
    """

    @property
    @abstractmethod
    def ndim(self) -> int:
        """Number of dimensions, 2 or 3."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds: without what was computed for speed, which is computed again."""
        kind = type(self)
        return {
            name: value
            for name, value in self.__dict__.items()
            if not isinstance(getattr(kind, name, None), cached_property)
        }

    @abstractmethod
    def transform_points(self, points: ArrayLike) -> FloatArray:
        """Map points (N, d) of the fixed image to the moving image, LPS mm."""

    def inverse(self) -> Transform:
        """Return the inverse, moving to fixed: exact where the kind has one, else solved at the points it maps.

        :func:`~samreg.spatial.invert` samples it on a grid instead; :func:`inverse_residual` measures the result.

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
        raise InputError(f"a {type(self).__name__} has no inverse; sample it as a displacement field first")

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
        for part in self.transforms:
            require_transform(part)
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

    def inverse(self) -> Transform:
        """Return the inverses of the transforms, composed the other way round; raise what these raise."""
        return compose(*(part.inverse() for part in reversed(components(self))))


def require_transform(value: object, name: str = "transform") -> None:
    """Raise :class:`InputError` unless a value is one of samreg's transforms.

    Examples
    --------
    >>> import SimpleITK
    >>> require_transform(SimpleITK.Euler3DTransform())
    Traceback (most recent call last):
    samreg.errors.InputError: transform must be a samreg Transform, which samreg.spatial.as_transform makes of ...
    """
    require_type(name, value, Transform, "which samreg.spatial.as_transform makes of others")


def components(transform: Transform) -> tuple[Transform, ...]:
    """Return the elementary transforms, the one applied first being the first."""
    require_transform(transform)
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
    require_transform(forward, "forward")
    require_transform(inverse, "inverse")
    points = as_points_array(points, forward.ndim)
    if len(points) == 0:
        raise InputError("no points to measure the inverse at; give at least one")
    distance = lengths(inverse.transform_points(forward.transform_points(points)) - points)
    return InverseResidual(
        float(distance.mean()), float(np.percentile(distance, 95)), float(distance.max()), len(points)
    )


if not TYPE_CHECKING:  # which would let any name pass

    def __getattr__(name: str) -> object:
        from samreg._moved import moved_name

        return moved_name(__name__, name)

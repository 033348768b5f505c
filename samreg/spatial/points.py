"""Points: named positions in the world."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.brief import brief_repr
from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid, require_columns_xyz, require_unmasked
from samreg.spatial.remarks import remark

_MARGIN_MM = 1e-3  # by which rounding may put a point outside an image

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Points:
    """Named positions in the world frame LPS mm.

    Parameters
    ----------
    positions
        (N, d) float64 world positions (x, y, z), LPS mm; perhaps none.
    names
        N names; "1", "2", ... unless given.
    scores
        Optional (N,) confidence, higher is better.

    Raises
    ------
    InputError
        When a position is not finite or the lengths differ.

    Examples
    --------
    >>> points = Points([[10.0, -20.0, 5.0], [0.0, 0.0, 0.0]], ("carina", "apex"))
    >>> len(points), points.ndim
    (2, 3)
    >>> points.named(["apex"]).positions.tolist()
    [[0.0, 0.0, 0.0]]
    """

    positions: FloatArray
    names: tuple[str, ...] = ()
    scores: FloatArray | None = None

    __repr__ = brief_repr

    def __post_init__(self) -> None:
        require_columns_xyz(self.positions)
        positions = as_numbers(self.positions, "points").copy()
        if positions.ndim != 2 or positions.shape[1] not in (2, 3):
            raise InputError(f"points must have shape (N, 2) or (N, 3), got {positions.shape}")
        if not np.isfinite(positions).all():
            bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))[:5].tolist()
            raise InputError(f"points contain NaN or infinity in rows {bad}; remove them or give coordinates")
        if isinstance(self.names, str) or not isinstance(self.names, Iterable):
            raise InputError(f"names must be a list of {len(positions)} texts, got {self.names!r}")
        names = tuple(str(n) for n in self.names) or tuple(str(i + 1) for i in range(len(positions)))
        if len(names) != len(positions):
            raise InputError(f"{len(names)} names for {len(positions)} points; give one name a point")
        scores = None if self.scores is None else as_numbers(self.scores, "scores")
        if scores is not None and scores.shape != (len(positions),):
            raise InputError(f"scores must have shape ({len(positions)},), got {scores.shape}")
        for key, value in (("positions", positions), ("names", names), ("scores", scores)):
            object.__setattr__(self, key, value)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return int(self.positions.shape[1])

    def take(self, index: ArrayLike) -> Points:
        """Return the points chosen by an index or boolean array (N,).

        Examples
        --------
        >>> Points([[0.0, 0.0], [1.0, 1.0]]).take([1]).names
        ('2',)
        """
        index = np.asarray(index)
        chosen = np.arange(len(self))[index if index.size else slice(0)]  # an empty list is no index array
        scores = None if self.scores is None else self.scores[chosen]
        return Points(self.positions[chosen], tuple(self.names[i] for i in chosen), scores)

    def named(self, names: Iterable[str]) -> Points:
        """Return the points of these names, in this order.

        Raises
        ------
        InputError
            When a name is missing.
        """
        rows = {name: i for i, name in enumerate(self.names)}
        names = list(names)
        missing = [name for name in names if name not in rows]
        if missing:
            raise InputError(f"no points named {missing}; there are {list(self.names)}")
        return self.take(np.array([rows[name] for name in names], dtype=int))


def paired_points(fixed: Points, moving: Points) -> tuple[Points, Points]:
    """Return the points both images have, matched by name, in one order; what is left out is logged.

    Raises
    ------
    InputError
        When there are none, a name occurs twice in one image, or points that are only numbered differ in number.

    Examples
    --------
    >>> fixed = Points([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], ("apex", "carina"))
    >>> moving = Points([[5.0, 5.0, 5.0]], ("carina",))
    >>> [points.positions.tolist() for points in paired_points(fixed, moving)]
    [[[1.0, 1.0, 1.0]], [[5.0, 5.0, 5.0]]]
    """
    require_equal_counts(fixed, moving)
    for points, role in ((fixed, "fixed"), (moving, "moving")):
        require_some(points, f"{role} landmarks")
        if len(set(points.names)) < len(points.names):
            raise InputError(f"the {role} landmarks have the same name more than once; give each its own")
    names = [name for name in fixed.names if name in set(moving.names)]
    if not names:
        raise InputError(
            f"the fixed landmarks ({_some(fixed.names)}) and the moving ones ({_some(moving.names)}) have no name in "
            "common; they are matched by name"
        )
    for points, role in ((fixed, "fixed"), (moving, "moving")):
        if alone := [name for name in points.names if name not in names]:
            remark(log, "%d %s landmarks have no counterpart and are left out: %s", len(alone), role, _some(alone))
    return fixed.named(names), moving.named(names)


def require_equal_counts(fixed: Points, moving: Points) -> None:
    """Raise :class:`InputError` when points that are only numbered, 1 to N, differ in number: one has been lost."""
    numbered = all(points.names == tuple(map(str, range(1, len(points) + 1))) for points in (fixed, moving))
    if numbered and len(fixed) != len(moving):
        raise InputError(
            f"{len(fixed)} fixed and {len(moving)} moving landmarks without names: which belong together? Give as many "
            "of each, or name them"
        )


def require_some(points: Points, what: str) -> None:
    """Raise :class:`InputError` when there is no point.

    Parameters
    ----------
    points
        Perhaps none.
    what
        What they are, for the message.
    """
    if not len(points):
        raise InputError(f"no {what}: the list is empty, or none of its points is placed; give at least one")


def require_inside(points: Points, grid: Grid, what: str) -> None:
    """Raise :class:`InputError` naming the points that lie outside ``grid``.

    Parameters
    ----------
    points
        World positions, LPS mm; none lies outside when there is none.
    grid
        The grid that should contain them.
    what
        What the grid belongs to, for the message.
    """
    if points.ndim != grid.ndim:
        raise InputError(f"points have {points.ndim} coordinates, {what} has {grid.ndim} dimensions")
    outside: NDArray[np.bool_] = ~grid.contains(points.positions, margin=_MARGIN_MM)
    if not outside.any():
        return
    lost = points.take(outside)
    shown = ", ".join(f"{n} {np.round(p, 1).tolist()}" for n, p in zip(lost.names[:5], lost.positions[:5], strict=True))
    low, high = grid.corners().min(axis=0), grid.corners().max(axis=0)
    raise InputError(
        f"{len(lost)} of {len(points)} points lie outside {what}: {shown}{', ...' if len(lost) > 5 else ''}; "
        f"it spans {np.round(low, 1).tolist()} to {np.round(high, 1).tolist()} mm in LPS. {_frame_hint(points, grid)}"
    )


def _frame_hint(points: Points, grid: Grid) -> str:
    """Return what the user should try: the frame in which all points would lie inside, if there is one."""
    turned = points.positions * np.where(np.arange(grid.ndim) < 2, -1.0, 1.0)
    if grid.contains(turned, margin=_MARGIN_MM).all():
        return "They would lie inside if they were in RAS: turn the signs of x and y"
    size = np.asarray(grid.size)
    if ((points.positions >= 0) & (points.positions <= size)).all():
        return "Are they voxel indices? Give world coordinates in mm"
    return "Were the points given in RAS, or as voxel indices?"


def as_numbers(values: ArrayLike, what: str) -> FloatArray:
    """Return an array of numbers; ragged lists, complex numbers, dates and other objects are refused."""
    require_unmasked(values, what)
    try:
        array = np.asarray(values)
        if array.dtype.kind in "OSU" and array.size:
            array = np.array([float(value) for value in array.ravel()]).reshape(array.shape)
        elif array.dtype.kind not in "biufOSU":
            raise TypeError(f"of type {array.dtype}")
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} must be numbers: {str(error)[:100]}; give an array (N, d) in LPS mm") from None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

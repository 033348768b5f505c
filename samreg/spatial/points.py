"""Points: named positions in the world."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid


@dataclass(frozen=True, eq=False)
class Points:
    """Named positions in the world frame LPS mm.

    Parameters
    ----------
    positions
        (N, d) float64 world positions (x, y, z), LPS mm.
    names
        N names; "1", "2", ... unless given.
    scores
        Optional (N,) confidence, higher is better.

    Raises
    ------
    InputError
        When a position is not finite or the lengths differ.
    """

    positions: FloatArray
    names: tuple[str, ...] = ()
    scores: FloatArray | None = None

    def __post_init__(self) -> None:
        positions = np.array(self.positions, dtype=np.float64)
        if positions.ndim != 2 or positions.shape[1] not in (2, 3):
            raise InputError(f"points must have shape (N, 2) or (N, 3), got {positions.shape}")
        if not np.isfinite(positions).all():
            bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))[:5].tolist()
            raise InputError(f"points contain NaN or infinity in rows {bad}; remove them or give coordinates")
        names = tuple(str(n) for n in self.names) or tuple(str(i + 1) for i in range(len(positions)))
        if len(names) != len(positions):
            raise InputError(f"{len(names)} names for {len(positions)} points; give one name a point")
        scores = None if self.scores is None else np.asarray(self.scores, dtype=np.float64)
        if scores is not None and scores.shape != (len(positions),):
            raise InputError(f"scores must have shape ({len(positions)},), got {scores.shape}")
        for key, value in (("positions", positions), ("names", names), ("scores", scores)):
            object.__setattr__(self, key, value)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return self.positions.shape[1]

    def take(self, index: ArrayLike) -> Points:
        """Return the points chosen by an index or boolean array (N,)."""
        index = np.asarray(index)
        chosen = np.arange(len(self))[index if index.size else slice(0)]
        scores = None if self.scores is None else self.scores[chosen]
        return Points(self.positions[chosen], tuple(self.names[i] for i in chosen), scores)

    def named(self, names: Iterable[str]) -> Points:
        """Return the points of these names, in this order.

        Raises
        ------
        InputError
            When a name is missing.
        """
        where = {name: i for i, name in enumerate(self.names)}
        names = list(names)
        missing = [n for n in names if n not in where]
        if missing:
            raise InputError(f"no points named {missing}; there are {list(self.names)}")
        return self.take(np.array([where[n] for n in names], dtype=int))


def paired_points(fixed: Points, moving: Points) -> tuple[Points, Points]:
    """Return the points both images have, matched by name, in one order.

    Raises
    ------
    InputError
        When there are none, a name occurs twice in one image, or points that are only numbered differ in number.
    """
    require_equal_counts(fixed, moving)
    for points, which in ((fixed, "fixed"), (moving, "moving")):
        if len(set(points.names)) < len(points.names):
            raise InputError(f"the {which} landmarks have the same name more than once; give each its own")
    names = [name for name in fixed.names if name in set(moving.names)]
    if not names:
        raise InputError("the fixed and the moving landmarks have no name in common; they are matched by name")
    return fixed.named(names), moving.named(names)


def require_equal_counts(fixed: Points, moving: Points) -> None:
    """Raise :class:`InputError` when points that are only numbered, 1 to N, differ in number: one has been lost."""
    numbered = all(points.names == tuple(map(str, range(1, len(points) + 1))) for points in (fixed, moving))
    if numbered and len(fixed) != len(moving):
        raise InputError(
            f"{len(fixed)} fixed and {len(moving)} moving landmarks without names: which belong together? Give as many "
            "of each, or name them"
        )


def require_inside(points: Points, grid: Grid, what: str) -> None:
    """Raise :class:`InputError` naming the points that lie outside ``grid``.

    Parameters
    ----------
    points
        World positions, LPS mm.
    grid
        The grid that should contain them.
    what
        What the grid belongs to, for the message.
    """
    outside: NDArray[np.bool_] = ~grid.contains(points.positions, margin=1e-3) if len(points) else np.zeros(0, bool)
    if not outside.any():
        return
    lost = points.take(outside)
    shown = ", ".join(f"{n} {np.round(p, 1).tolist()}" for n, p in zip(lost.names[:5], lost.positions[:5], strict=True))
    low, high = grid.corners().min(axis=0), grid.corners().max(axis=0)
    raise InputError(
        f"{len(lost)} of {len(points)} points lie outside {what}: {shown}{', ...' if len(lost) > 5 else ''}; "
        f"it spans {np.round(low, 1).tolist()} to {np.round(high, 1).tolist()} mm in LPS. "
        "Were the points given in RAS, or as voxel indices?"
    )

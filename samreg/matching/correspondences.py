"""Correspondences: pairs of points of the same anatomy in two images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from samreg.brief import brief_repr
from samreg.errors import InputError
from samreg.spatial.grid import FloatArray


@dataclass(frozen=True, eq=False)
class Correspondences:
    """N pairs of corresponding points.

    Parameters
    ----------
    fixed, moving
        (N, d) world positions in the fixed and the moving image, LPS mm.
    similarity
        (N,) similarity of the two embeddings, at most 1.
    reliability
        (N,) calibrated probability in [0, 1] that the match is right.
    cycle_error
        (N,) distance between a fixed point and where its match leads back to, mm.

    Raises
    ------
    InputError
        When the shapes do not fit.

    Examples
    --------
    >>> pairs = Correspondences.from_points([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]], [[1.0, 0.0, 0.0], [8.0, 9.0, 9.0]])
    >>> len(pairs), pairs.take(pairs.moving[:, 0] > 5).fixed.tolist()
    (2, [[9.0, 9.0, 9.0]])
    """

    fixed: FloatArray
    moving: FloatArray
    similarity: FloatArray
    reliability: FloatArray
    cycle_error: FloatArray

    __repr__ = brief_repr

    def __post_init__(self) -> None:
        n = len(self.fixed)
        if self.fixed.ndim != 2 or self.moving.shape != self.fixed.shape:
            raise InputError(f"fixed and moving must both be (N, d): {self.fixed.shape}, {self.moving.shape}")
        for name in ("similarity", "reliability", "cycle_error"):
            if getattr(self, name).shape != (n,):
                raise InputError(f"{name} must have shape ({n},), got {getattr(self, name).shape}")

    def __len__(self) -> int:
        return len(self.fixed)

    def take(self, index: ArrayLike) -> Correspondences:
        """Return the pairs chosen by an index or boolean array (N,)."""
        index = np.asarray(index)
        return Correspondences(
            self.fixed[index],
            self.moving[index],
            self.similarity[index],
            self.reliability[index],
            self.cycle_error[index],
        )

    @classmethod
    def from_points(
        cls, fixed: ArrayLike, moving: ArrayLike, *, reliability: ArrayLike | None = None
    ) -> Correspondences:
        """Make correspondences from two point arrays (N, d), LPS mm, such as paired landmarks."""
        fixed = np.asarray(fixed, dtype=np.float64)
        ones = np.ones(len(fixed))
        weights = ones if reliability is None else np.asarray(reliability, dtype=np.float64)
        return cls(fixed, np.asarray(moving, dtype=np.float64), ones, weights, np.zeros(len(fixed)))

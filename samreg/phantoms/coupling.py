"""Smooth random maps of the body that have an exact inverse: chains of affine couplings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from samreg.spatial import Transform
from samreg.spatial.grid import FloatArray, as_points_array


@dataclass(frozen=True, eq=False)
class Waves:
    """A smooth function of two coordinates: the sum of amplitude * cos(frequency . (u, v) + phase).

    Parameters
    ----------
    frequency
        (K, 2) rad/mm.
    phase, amplitude
        (K,); the function has the unit of the amplitude.
    """

    frequency: FloatArray
    phase: FloatArray
    amplitude: FloatArray

    def __call__(self, u: FloatArray, v: FloatArray) -> FloatArray:
        """Return the values (N,) at coordinates u, v (N,), mm."""
        total = np.zeros_like(u)
        for (fu, fv), phase, amplitude in zip(self.frequency, self.phase, self.amplitude, strict=True):
            total += amplitude * np.cos(fu * u + fv * v + phase)
        return total


@dataclass(frozen=True, eq=False)
class Coupling(Transform):
    """Scale and shift one coordinate by smooth functions of the two others; exactly invertible.

    With u, v the two coordinates that stay, y_axis = center + (x_axis - center) * exp(scale(u, v)) + shift(u, v): the
    affine coupling of Dinh et al., Density estimation using Real NVP, ICLR 2017, eq. 7 and 8. The Jacobian determinant
    is exp(scale), always positive.

    Parameters
    ----------
    axis
        The coordinate that moves: 0, 1, 2 for x, y, z.
    shift
        mm.
    scale
        Logarithm of the stretch.
    center
        Where the stretch is anchored, mm.
    inverted
        Whether this is the inverse of the map above.
    """

    axis: int
    shift: Waves
    scale: Waves
    center: float = 0.0
    inverted: bool = False

    @property
    def ndim(self) -> int:
        """Always 3."""
        return 3

    def transform_points(self, points: ArrayLike) -> FloatArray:
        """Map points (N, 3), LPS mm."""
        result = as_points_array(points, 3).copy()
        u, v = (result[:, i] for i in range(3) if i != self.axis)
        offset = result[:, self.axis] - self.center
        stretch, shift = np.exp(self.scale(u, v)), self.shift(u, v)
        moved = (offset - shift) / stretch if self.inverted else offset * stretch + shift
        result[:, self.axis] = moved + self.center
        return result

    def inverse(self) -> Coupling:
        """Return the exact inverse."""
        return replace(self, inverted=not self.inverted)

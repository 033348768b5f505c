"""From similarity and cycle error to the probability that a match is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from samreg.spatial.grid import FloatArray


@dataclass(frozen=True)
class Calibration:
    """A logistic model of "the match lies within ``tolerance`` mm of the true place".

    probability = 1 / (1 + exp(-(bias + similarity * s + cycle * log(1 + c / 4 mm)))), where s is the
    similarity and c the cycle error in mm (Platt, 1999, with two inputs).

    Parameters
    ----------
    bias, similarity, cycle
        Coefficients.
    tolerance
        What counted as right when they were fitted, mm.
    """

    bias: float
    similarity: float
    cycle: float
    tolerance: float = 15.0

    def __call__(self, similarity: ArrayLike, cycle_error: ArrayLike) -> FloatArray:
        """Return the probability (N,) that matches with this similarity and cycle error (mm) are right."""
        logit = self.bias + np.stack(_inputs(similarity, cycle_error), axis=-1) @ [self.similarity, self.cycle]
        return 1 / (1 + np.exp(-np.clip(logit, -30, 30)))

    @classmethod
    def from_mapping(cls, values: Mapping[str, float] | None) -> Calibration:
        """Return the calibration stored with a model, or the cautious default where it has none."""
        return cls(**values) if values else DEFAULT_CALIBRATION

    def as_dict(self) -> dict[str, float]:
        """Return the coefficients as a plain dictionary."""
        return asdict(self)


# No model-specific fit: half of the matches that return within 8 mm are taken as right.
DEFAULT_CALIBRATION = Calibration(bias=1.1, similarity=0.0, cycle=-1.0)


def fit_calibration(
    similarity: ArrayLike, cycle_error: ArrayLike, error: ArrayLike, *, tolerance: float = 15.0
) -> Calibration:
    """Fit a calibration to matches of known error.

    Parameters
    ----------
    similarity, cycle_error
        (N,) as matched; cycle error in mm.
    error
        (N,) distance to the true place, mm.
    tolerance
        Errors up to this many mm count as right.

    Returns
    -------
    Calibration
        Logistic regression with a weak ridge, so that perfectly separable data stay finite.
    """
    from scipy.optimize import minimize

    columns = np.stack(_inputs(similarity, cycle_error), axis=-1)
    center, scale = columns.mean(axis=0), columns.std(axis=0) + 1e-6
    design = np.column_stack([np.ones(len(columns)), (columns - center) / scale])
    sign = np.where(np.asarray(error) <= tolerance, 1.0, -1.0)

    def loss(beta: FloatArray) -> tuple[float, FloatArray]:
        margin = sign * (design @ beta)
        value = np.logaddexp(0, -margin).mean() + 1e-3 * (beta[1:] ** 2).sum()
        gradient = design.T @ (-sign / (1 + np.exp(margin))) / len(sign)
        gradient[1:] += 2e-3 * beta[1:]
        return value, gradient

    beta = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B").x
    slope = beta[1:] / scale
    return Calibration(
        bias=float(beta[0] - slope @ center),
        similarity=float(slope[0]),
        cycle=float(slope[1]),
        tolerance=tolerance,
    )


def _inputs(similarity: ArrayLike, cycle_error: ArrayLike) -> tuple[FloatArray, FloatArray]:
    return np.asarray(similarity, dtype=float), np.log1p(np.asarray(cycle_error, dtype=float) / 4.0)

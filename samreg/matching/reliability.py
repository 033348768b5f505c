"""From similarity, cycle error and votes to the probability that a match is right, and to its expected error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from samreg.spatial.grid import FloatArray

_LANDMARK_PREFIX = "landmark_"
_MAX_DEPTH_MM = 30.0  # inside or outside the image, beyond which it makes no difference
_ERROR_RANGE_MM = (0.5, 100.0)  # that is told


@dataclass(frozen=True)
class Calibration:
    """A logistic model of "the match lies within ``tolerance`` mm of the true place".

    probability = 1 / (1 + exp(-(bias + similarity * s + cycle * log(1 + c / 4 mm) + spread * log(1 + v / 4 mm)
    + depth * d / 10 mm))), where s is the similarity, c the cycle error, v the spread of the neighbours' votes and d
    how deep in the image the match is expected (Platt, 1999, with several inputs).

    Parameters
    ----------
    bias, similarity, cycle, spread, depth
        Coefficients.
    tolerance
        What counted as right when they were fitted, mm.

    Examples
    --------
    >>> calibration = Calibration(bias=1.1, similarity=0.0, cycle=-1.0)
    >>> calibration([0.8, 0.8], [0.0, 40.0]).round(2)
    array([0.75, 0.21])
    """

    bias: float
    similarity: float
    cycle: float
    spread: float = 0.0
    depth: float = 0.0
    tolerance: float = 15.0

    def __call__(
        self,
        similarity: ArrayLike,
        cycle_error: ArrayLike,
        *,
        spread: ArrayLike = 0.0,
        depth: ArrayLike = _MAX_DEPTH_MM,
    ) -> FloatArray:
        """Return the probability (N,) that matches are right.

        Parameters
        ----------
        similarity, cycle_error
            (N,) as matched; cycle error in mm.
        spread
            (N,) of the votes, mm.
        depth
            (N,) of the expected place inside the moving image, mm; negative outside.
        """
        columns = _inputs(similarity, cycle_error, spread, depth)
        logit = self.bias + columns @ [self.similarity, self.cycle, self.spread, self.depth]
        return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))))

    @classmethod
    def from_mapping(cls, values: Mapping[str, float] | None, *, landmarks: bool = False) -> Calibration:
        """Return the calibration stored with a model, or the cautious default where it has none.

        Parameters
        ----------
        values
            Coefficients by name; those for landmarks, which have votes, are named ``landmark_...``.
        landmarks
            Return that for landmarks.
        """
        chosen = {k: v for k, v in (values or {}).items() if k.startswith(_LANDMARK_PREFIX) == landmarks}
        if not chosen:
            return DEFAULT_LANDMARK_CALIBRATION if landmarks else DEFAULT_CALIBRATION
        return cls(**{key.removeprefix(_LANDMARK_PREFIX): value for key, value in chosen.items()})

    def as_dict(self, *, landmarks: bool = False) -> dict[str, float]:
        """Return the coefficients as a plain dictionary, under the names :meth:`from_mapping` takes."""
        return {(_LANDMARK_PREFIX if landmarks else "") + key: value for key, value in asdict(self).items()}


# No model-specific fit: half of the matches that return within 8 mm are taken as right.
DEFAULT_CALIBRATION = Calibration(bias=1.1, similarity=0.0, cycle=-1.0)
# The same for landmarks deep in the image; half of that for one expected at its border.
DEFAULT_LANDMARK_CALIBRATION = Calibration(bias=-0.1, similarity=0.0, cycle=-0.7, spread=-0.5, depth=0.5)


def fit_calibration(
    similarity: ArrayLike,
    cycle_error: ArrayLike,
    error: ArrayLike,
    *,
    spread: ArrayLike = 0.0,
    depth: ArrayLike = _MAX_DEPTH_MM,
    tolerance: float = 15.0,
) -> Calibration:
    """Fit a calibration to matches of known error.

    Parameters
    ----------
    similarity, cycle_error
        (N,) as matched; cycle error in mm.
    error
        (N,) distance to the true place, mm.
    spread, depth
        (N,) as for :class:`Calibration`, mm; left out, their coefficients are zero.
    tolerance
        Errors up to this many mm count as right.

    Returns
    -------
    Calibration
        Logistic regression with a weak ridge, so that perfectly separable data stay finite.
    """
    from scipy.optimize import minimize

    columns = _inputs(similarity, cycle_error, spread, depth)
    center, scale = columns.mean(axis=0), columns.std(axis=0) + 1e-6
    design = np.column_stack([np.ones(len(columns)), (columns - center) / scale])
    sign = np.where(np.asarray(error) <= tolerance, 1.0, -1.0)

    def loss(beta: FloatArray) -> tuple[float, FloatArray]:
        margin = sign * (design @ beta)
        value = np.logaddexp(0, -margin).mean() + 1e-3 * (beta[1:] ** 2).sum()
        gradient = design.T @ (-sign / (1 + np.exp(margin))) / len(sign)
        gradient[1:] += 2e-3 * beta[1:]
        return value, gradient

    beta = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    slope = beta[1:] / scale
    values = dict(zip(("similarity", "cycle", "spread", "depth"), map(float, slope), strict=True))
    return Calibration(bias=float(beta[0] - slope @ center), **values, tolerance=tolerance)


def with_mean(
    calibration: Calibration,
    mean: float,
    similarity: ArrayLike,
    cycle_error: ArrayLike,
    *,
    spread: ArrayLike = 0.0,
    depth: ArrayLike = _MAX_DEPTH_MM,
) -> Calibration:
    """Return a calibration that weighs the evidence alike and is as sure on the whole as some matches are right.

    Parameters
    ----------
    calibration
        Fitted to other matches.
    mean
        Of the probabilities that it shall give these matches, within 0.01 to 0.99.
    similarity, cycle_error, spread, depth
        (N,) of these matches, as for :class:`Calibration`.

    Examples
    --------
    >>> told = with_mean(DEFAULT_CALIBRATION, 0.5, [0.9, 0.9], [2.0, 10.0])
    >>> round(float(told([0.9, 0.9], [2.0, 10.0]).mean()), 6)
    0.5
    """
    from scipy.optimize import brentq

    wanted = float(np.clip(mean, 0.01, 0.99))

    def surplus(shift: float) -> float:
        shifted = replace(calibration, bias=calibration.bias + shift)
        return float(shifted(similarity, cycle_error, spread=spread, depth=depth).mean()) - wanted

    return replace(calibration, bias=calibration.bias + float(brentq(surplus, -20.0, 20.0)))


@dataclass(frozen=True)
class ExpectedError:
    """A linear model of the error that four of five matches stay below.

    ln(1 + error / 1 mm) = bias + cycle * log(1 + c / 4 mm) + spread * log(1 + v / 4 mm), where c is the cycle error and
    v the spread of the neighbours' votes; of a place that several matches agree on (:func:`samreg.match_set`), c is the
    median of the errors expected of these and v their median distance from it. It is a quantile regression (Koenker and
    Bassett, Econometrica 1978).

    Parameters
    ----------
    bias, cycle, spread
        Coefficients.

    Examples
    --------
    >>> expected = ExpectedError(bias=2.0, cycle=0.2, spread=0.5)
    >>> expected([0.0, 8.0], [0.0, 12.0]).round(1)
    array([ 6.4, 17.4])
    """

    bias: float
    cycle: float
    spread: float

    def __call__(self, cycle_error: ArrayLike, spread: ArrayLike, *, depth: ArrayLike = _MAX_DEPTH_MM) -> FloatArray:
        """Return the errors (N,), mm, that four of five such matches stay below.

        Parameters
        ----------
        cycle_error, spread
            (N,) as matched and voted, mm.
        depth
            (N,) of the expected place inside the moving image, mm; negative outside, where the match, which cannot
            leave the image, errs by so much more.
        """
        logarithm = self.bias + _distances(cycle_error, spread) @ [self.cycle, self.spread]
        outside_mm = np.maximum(-np.asarray(depth, dtype=float), 0.0)
        return np.asarray(np.clip(np.expm1(np.minimum(logarithm, 10.0)) + outside_mm, *_ERROR_RANGE_MM))


def fit_expected_error(
    cycle_error: ArrayLike, spread: ArrayLike, error: ArrayLike, *, quantile: float = 0.8
) -> ExpectedError:
    """Fit an expected error to matches of known error.

    Parameters
    ----------
    cycle_error, spread, error
        (N,) as matched and voted, and the distance to the true place, mm.
    quantile
        Share of the errors that lie below what is told.

    Returns
    -------
    ExpectedError
        With slopes of at least 0: the larger cycle error and spread, the larger the error.
    """
    from scipy import sparse
    from scipy.optimize import linprog

    columns, target = _distances(cycle_error, spread), np.log1p(np.asarray(error, dtype=float))
    count, slopes = columns.shape
    # residuals are split into their parts above and below, which the quantile weighs
    above = sparse.identity(count)
    design = sparse.hstack([sparse.csr_array(np.column_stack([np.ones(count), columns])), above, -above])
    cost = np.concatenate([np.zeros(1 + slopes), np.full(count, quantile), np.full(count, 1 - quantile)])
    bounds = [(None, None)] + [(0, None)] * (slopes + 2 * count)
    solution = linprog(cost, A_eq=design.tocsc(), b_eq=target, bounds=bounds, method="highs").x
    return ExpectedError(*map(float, solution[: 1 + slopes]))


def _distances(*distances: ArrayLike) -> FloatArray:
    columns = (np.log1p(np.asarray(values, dtype=float) / 4.0) for values in distances)
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _inputs(similarity: ArrayLike, cycle_error: ArrayLike, spread: ArrayLike, depth: ArrayLike) -> FloatArray:
    columns = (
        np.asarray(similarity, dtype=float),
        np.log1p(np.asarray(cycle_error, dtype=float) / 4.0),
        np.log1p(np.asarray(spread, dtype=float) / 4.0),
        np.clip(np.asarray(depth, dtype=float), -_MAX_DEPTH_MM, _MAX_DEPTH_MM) / 10.0,
    )
    return np.stack(np.broadcast_arrays(*columns), axis=-1)

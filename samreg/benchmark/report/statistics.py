"""Paired statistics between methods."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.benchmark.report.tables import Record, by_method
from samreg.spatial.grid import FloatArray

_RESAMPLES = 5000
_BATCH = 50  # resamples in memory at a time
_CONFIDENCE = 0.95
_MIN_DIFFERENCES = 2  # from which an interval can be drawn


def compare(records: Sequence[Record], *, seed: int = 0) -> list[dict[str, Any]]:
    """Compare every method with every other on what both of them registered.

    Two rows for each: over pairs (the mean landmark error of each pair), and over landmarks, which takes the landmarks
    of a pair as independent and so says too much. Ordered pairs of few people are not independent either.

    Parameters
    ----------
    records
        Of a run.
    seed
        Of the bootstrap.

    Returns
    -------
    list of dict
        ``over`` ("pairs" or "landmarks"), ``reference``, ``method``, ``n``, ``difference`` of the means (mm; above 0
        the method is farther off than the reference), ``low`` and ``high``, its 95 % bootstrap confidence interval
        (percentile method, Efron and Tibshirani 1993), ``p``, two-sided, of the Wilcoxon signed-rank test, and
        ``p_holm``, corrected by Holm (1979) for the number of methods compared with the same reference.
    """
    errors = {
        method: {(r["fixed"], r["moving"]): np.asarray(r["landmarks"]["error_mm"]) for r in group if "landmarks" in r}
        for method, group in by_method(records).items()
    }
    rows: list[dict[str, Any]] = []
    for over, reference in itertools.product(("pairs", "landmarks"), errors):
        family: list[dict[str, Any]] = []
        for method in errors:
            shared = [pair for pair in errors[method] if pair in errors[reference]]
            if method == reference or not shared:
                continue
            paired = [errors[method][pair] - errors[reference][pair] for pair in shared]
            difference = np.array([part.mean() for part in paired]) if over == "pairs" else np.concatenate(paired)
            if len(difference) < _MIN_DIFFERENCES:
                continue
            low, high = confidence_interval(difference, seed=seed)
            family.append(
                {"over": over, "reference": reference, "method": method, "n": len(difference),
                 "difference": float(difference.mean()), "low": low, "high": high, "p": wilcoxon(difference)}
            )  # fmt: skip
        rows += [{**row, "p_holm": p} for row, p in zip(family, holm([row["p"] for row in family]), strict=True)]
    return rows


def confidence_interval(difference: FloatArray, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap confidence interval of the mean of paired differences (N,).

    Parameters
    ----------
    difference
        At least two.
    seed
        Of the resampling.

    Examples
    --------
    >>> low, high = confidence_interval(np.array([0.5, 1.0, 1.5, 2.0]))
    >>> 0.5 <= low < 1.25 < high <= 2.0
    True
    """
    from scipy import stats

    interval = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        confidence_level=_CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def wilcoxon(difference: FloatArray) -> float:
    """Return the two-sided p of the Wilcoxon signed-rank test; 1 where nothing differs."""
    from scipy import stats

    return float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """Return p-values corrected for their number (Holm, A simple sequentially rejective procedure, 1979)."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(raised, 1.0)
    return corrected

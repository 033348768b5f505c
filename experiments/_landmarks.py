"""What the landmark experiments share: how errors are summed up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GROSS_MM = 15.0  # beyond which a landmark is not where it should be


def describe(errors: Sequence[float] | NDArray[np.floating]) -> str:
    """Return mean / median / 95th percentile."""
    e = np.asarray(errors)
    return f"{e.mean():.1f} / {np.median(e):.1f} / {np.percentile(e, 95):.1f}"


def auc(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Return the probability that a positive scores above a negative; ties count half."""
    a, b = score[positive][:, None], score[~positive][None]
    return float(((a > b) + 0.5 * (a == b)).mean())

"""How reliable matches of landmarks between people are, and how large their errors: fits that samreg ships."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samreg.matching import Calibration, ExpectedError

#: Made by ``python -m samreg.training.match_reliability``.
MATCH_RELIABILITY = Path(__file__).with_name("match_reliability.json")
#: Its parts that hold expected errors, beside the calibrations: of one template, and of where several agree.
EXPECTED_ERROR, EXPECTED_ERROR_OF_SETS = "expected_error", "expected_error_of_sets"


@cache
def calibration_of(model: str) -> Calibration | None:
    """Return the calibration on landmarks of a shipped model, ``name@fingerprint``; None where there is none."""
    from samreg.matching import Calibration

    known = json.loads(MATCH_RELIABILITY.read_text(encoding="utf-8")).get(model)
    return None if known is None else Calibration(**known)


@cache
def expected_error_of(model: str) -> ExpectedError | None:
    """Return the expected error between people of a shipped model, ``name@fingerprint``; None where there is none."""
    return _fitted(EXPECTED_ERROR, model)


@cache
def expected_error_of_sets(model: str) -> ExpectedError | None:
    """Return the expected error of places that the landmarks of several people agree on, as :func:`expected_error_of`.

    The median of the errors expected of their matches stands for the cycle error, the median distance of these from the
    place for the spread.
    """
    return _fitted(EXPECTED_ERROR_OF_SETS, model)


def _fitted(part: str, model: str) -> ExpectedError | None:
    from samreg.matching import ExpectedError

    fits = json.loads(MATCH_RELIABILITY.read_text(encoding="utf-8")).get(part, {})
    return ExpectedError(**fits[model]) if model in fits else None

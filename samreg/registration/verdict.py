"""One verdict on a registration in plain words: good, to be checked, or failed.

Measured errors come first, then what the expected error says of the body, then what stands out in the measures. The
thresholds are explained in ``docs/howto/report.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samreg.registration.confidence import share_within
from samreg.registration.quality import body_on, working_grid
from samreg.spatial.grid import FloatArray

if TYPE_CHECKING:
    from samreg.quality import LandmarkErrors
    from samreg.registration.result import RegistrationResult

STATUSES = ("good", "check", "failed")

_FINE_MM, _GOOD_MM, _UNSURE_MM = 5.0, 10.0, 30.0  # of the expected error
_MIN_FINE_SHARE, _MIN_GOOD_SHARE = 0.7, 0.8  # of the body, within 5 mm and within 10 mm
_MIN_UNSURE_SHARE = 0.05  # of the body, for its place to be named
# Of the body, expected to be further off, for all of a result to be in doubt: where matches agree by chance it is 0.77
# to 0.99, of a neck against a chest 0.34.
_LOST_MM, _MIN_LOST_SHARE = 40.0, 0.7
MAX_MEAN_MM, MAX_LARGEST_MM = 5.0, 15.0  # of measured errors, in a good result
_PERSON_MM = 100.0  # longest extent of a body from which on these distances hold; in a mouse, of 40 mm, shorter ones do
_MIN_PLACE_SHARE = 0.15  # of what is unsure or not shown, for a third of the body to be named
_ONE_SIDED_SHARE = 0.75  # of that, for a side, or both, to be named
_OUTER = 0.25  # of the body's width, from where a side begins when both are named
_NOWHERE_ELSE = "elsewhere the error was neither measured nor could it be estimated"
_ENDS = ("foot end", "middle", "head end")
_BOTH_SIDES = "both sides"


@dataclass(frozen=True)
class Verdict:
    """What to think of a registration.

    Parameters
    ----------
    status
        "good", "check" or "failed".
    text
        Why, in one line.
    reasons
        What to check, in plain words, the most important first; empty when good.

    Examples
    --------
    >>> str(Verdict("good", "expected within 5 mm in 80 % of the body"))
    'good: expected within 5 mm in 80 % of the body'
    """

    status: str
    text: str
    reasons: tuple[str, ...] = ()

    @property
    def further(self) -> tuple[str, ...]:
        """The reasons that the text does not name."""
        return tuple(reason for reason in self.reasons if reason not in self.text)

    def __str__(self) -> str:
        return f"{self.status}: {self.text}"


def judge(result: RegistrationResult, landmarks: LandmarkErrors | None = None) -> Verdict:
    """Return the verdict on a registration; measured errors, where there are some, rule over expected ones.

    Parameters
    ----------
    result
        Failed or not.
    landmarks
        Errors that were measured.
    """
    if not result:
        return Verdict("failed", result.reason, result.notes)
    expected, doubts = result.expectation
    lines: tuple[str, ...]
    reasons: tuple[str, ...]
    if landmarks is not None and len(landmarks.transform):
        measured, is_good = _measured(landmarks, scale_of(result))
        lines, reasons = (measured, *expected), () if is_good else (measured,)
        if landmarks.guided:  # the registration was to bring these together: they say little of other places
            lines = lines if expected else (measured, _NOWHERE_ELSE)
            reasons = (*reasons, *(doubts if expected else (_NOWHERE_ELSE,)))
    elif expected:
        lines, reasons = expected, doubts
    else:
        lines = reasons = ("the error was neither measured nor could it be estimated",)
    reasons = tuple(dict.fromkeys((*reasons, *_missed(result), *result.flags)))
    return Verdict("check" if reasons else "good", "; ".join(lines), reasons)


def _measured(landmarks: LandmarkErrors, scale: float) -> tuple[str, bool]:
    """Return what was measured at landmarks, and whether it is good in a body of a scale."""
    errors, worst = landmarks.transform, int(landmarks.transform.argmax())
    mean, largest = float(errors.mean()), float(errors[worst])
    which = f"the {len(errors)} guiding landmarks" if landmarks.guided else f"{len(errors)} landmarks"
    if landmarks.left_out:
        which += f" ({len(landmarks.left_out)} that guided the registration left out)"
    text = f"measured at {which}: mean error {mean:.1f} mm, largest {largest:.1f} mm ({landmarks.names[worst]})"
    return text, mean <= scale * MAX_MEAN_MM and largest <= scale * MAX_LARGEST_MM


def expectation_of(result: RegistrationResult) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return in plain words what the expected error says of the body, and what of that is to be checked."""
    if result.error_map is None or result.transform is None:
        return (), ()
    grid = result.error_map.grid
    body = body_on(result, grid)
    points = grid.world_points()
    shown = result.moving.grid.contains(result.transform.transform_points(points[body]))
    error = result.error_map.array[body]
    if not shown.any():
        lost = "nothing of the fixed body lies in the moving image"
        return (lost,), (lost,)
    fine, good, unsure_from, lost_from = scale_of(result) * np.array([_FINE_MM, _GOOD_MM, _UNSURE_MM, _LOST_MM])
    within = [share_within(error[shown], limit) for limit in (fine, good)]
    lost_share = float((error[shown] > lost_from).mean())
    if lost_share > _MIN_LOST_SHARE:
        lost = f"most likely wrong: the error is expected to exceed {lost_from:.2g} mm in {lost_share:.0%} of the body"
        return (_spaced(lost),), (_spaced(lost),)
    limit, share = (fine, within[0]) if within[0] >= _MIN_FINE_SHARE else (good, within[1])
    lines = [f"expected within {limit:.2g} mm in {share:.0%} of the body"]
    reasons = lines[:1] if within[1] < _MIN_GOOD_SHARE else []
    unsure = shown & (error > unsure_from)
    if unsure.sum() > _MIN_UNSURE_SHARE * shown.sum():
        lines.append(f"unsure at {_regions(points[body], unsure)}")
        reasons.append(lines[-1])
    if (~shown).mean() > _MIN_UNSURE_SHARE:
        lines.append(f"not in the moving image: {_regions(points[body], ~shown)}")
    if other_arms := "" if result.landmark_misses is None else result.landmark_misses.arms_that_differ:
        lines.append(f"shoulders unsure: arms differ ({other_arms})")
        reasons.append(lines[-1])
    return tuple(map(_spaced, lines)), tuple(map(_spaced, reasons))


def _missed(result: RegistrationResult) -> tuple[str, ...]:
    """Return the regions whose named landmarks are missed by much."""
    misses = result.landmark_misses
    return () if misses is None else tuple(str(region) for region in misses.by_region() if region.is_doubtful)


def scale_of(result: RegistrationResult) -> float:
    """Return by what to multiply distances that hold in a person: 1 but for small fixed bodies in 3D."""
    if result.fixed.ndim != len("xyz"):
        return 1.0
    grid = working_grid(result.fixed)
    longest = float((np.ptp(grid.world_points()[body_on(result, grid)], axis=0) + grid.spacing.max()).max())
    return min(1.0, longest / _PERSON_MM)


def _spaced(text: str) -> str:
    return text.replace("%", " %")


def _regions(body: FloatArray, chosen: NDArray[np.bool_]) -> str:
    """Return where points chosen of the body (N, 3), LPS mm, lie, such as "the head end (left) and middle"."""
    low, high = np.percentile(body, (2, 98), axis=0)
    place = (body[chosen] - low) / np.maximum(high - low, 1e-6)
    third = np.clip(np.floor(3 * place[:, 2]), 0, 2).astype(int)
    counts = np.bincount(third, minlength=3)
    named = [end for end in np.argsort(-counts) if counts[end] >= _MIN_PLACE_SHARE * counts.sum()]
    sides = [_side(place[third == end, 0]) for end in named]
    if len(named) == len(_ENDS) and sides[0] and len(set(sides)) == 1:
        return sides[0] if sides[0] == _BOTH_SIDES else f"the {sides[0]} side"
    places = [_ENDS[end] + (f" ({side})" if side else "") for end, side in zip(named, sides, strict=True)]
    return "the " + " and ".join(filter(None, (", ".join(places[:-1]), places[-1])))


def _side(across: FloatArray) -> str:
    """Return the side of the body on which most of the places lie, from 0, its right, to 1, or both; "" for none."""
    left = float((across > 0.5).mean())
    if left > _ONE_SIDED_SHARE:
        return "left"
    if left < 1 - _ONE_SIDED_SHARE:
        return "right"
    return _BOTH_SIDES if (np.abs(across - 0.5) > _OUTER).mean() > _ONE_SIDED_SHARE else ""

"""Whether a person's arms are raised or down, told by how the shoulder blades are turned.

With the arms a shoulder blade turns upwards on the rib cage: its glenoid rises against where its spine begins. So it is
told in a scan that shows no arm, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from samreg.spatial.grid import FloatArray

#: How far the glenoid lies above the spine's root, seen from there, degrees. Found by an atlas without them, the mean
#: of the sides is 13 to 38 in 17 people with arms raised, and 1 in the one with arms down, in whom it was read as 2.
_RAISED_DEG, _DOWN_DEG = 12.0, 6.0
_ALIKE_DEG = 15.0  # between the sides, up to which both are told by their mean
_SIDES = ("left", "right")


def arms(names: Sequence[str], positions: FloatArray) -> Mapping[str, str]:
    """Return which arms are "raised" and which are "down", by "left" and "right"; nothing of one that is in between.

    Parameters
    ----------
    names, positions
        Of landmarks that are surely found in an upright body, among them "left_glenoid" and "left_scapula_spine_root"
        for the left arm; (N, 3) LPS mm.

    Examples
    --------
    >>> names = ("left_scapula_spine_root", "left_glenoid")
    >>> dict(arms(names, np.array([[60.0, 50.0, 0.0], [140.0, 10.0, 60.0]])))
    {'left': 'raised'}
    """
    steepness = {side: angle for side in _SIDES if (angle := _elevation(side, names, positions)) is not None}
    if len(steepness) == len(_SIDES) and np.ptp([*steepness.values()]) < _ALIKE_DEG:
        steepness = dict.fromkeys(_SIDES, float(np.mean([*steepness.values()])))
    return {
        side: "raised" if angle >= _RAISED_DEG else "down"
        for side, angle in steepness.items()
        if angle >= _RAISED_DEG or angle <= _DOWN_DEG
    }


def in_words(found: Mapping[str, str]) -> str:
    """Return how the arms lie, in plain words; nothing where it is not known.

    Examples
    --------
    >>> in_words({"left": "raised", "right": "raised"}), in_words({"right": "down"})
    ('arms raised', 'right arm down')
    """
    if len(found) == len(_SIDES) and len({*found.values()}) == 1:
        return f"arms {next(iter(found.values()))}"
    return ", ".join(f"{side} arm {position}" for side, position in found.items())


def are_other(first: Mapping[str, str], second: Mapping[str, str]) -> NDArray[np.bool_]:
    """Return for the left and the right arm whether it is raised in one body and down in the other.

    Examples
    --------
    >>> are_other({"left": "raised", "right": "down"}, {"left": "down"}).tolist()
    [True, False]
    """
    return np.array([len({one.get(side) for one in (first, second)} - {None}) > 1 for side in _SIDES])


def _elevation(side: str, names: Sequence[str], positions: FloatArray) -> float | None:
    """Return how far the glenoid rises against the spine's root, degrees; None where one of them is not there."""
    wanted = [f"{side}_{place}" for place in ("scapula_spine_root", "glenoid")]
    if not {*wanted} <= {*names}:
        return None
    root, glenoid = (positions[names.index(name)] for name in wanted)
    across, up = np.hypot(*(glenoid - root)[:2]), (glenoid - root)[2]
    return float(np.degrees(np.arctan2(up, across)))

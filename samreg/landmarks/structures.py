"""What a CT shows by itself, not by an embedding: shoulder blades, ribs, sternum, lungs, airways, kidneys, the aorta.

An embedding says about where they are; the landmarks on them are then taken from the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from samreg.device import run_in_threads
from samreg.landmarks.airways import find_carinas
from samreg.landmarks.aorta import CELIAC, MESENTERIC, find_artery_origins
from samreg.landmarks.arch import BRANCHES, find_arch
from samreg.landmarks.diaphragm import find_domes
from samreg.landmarks.kidneys import FoundKidney, find_kidneys
from samreg.landmarks.lungs import find_apices
from samreg.landmarks.ribs import FoundRib, find_ribs
from samreg.landmarks.scapulae import SIDES, FoundBone, find_scapulae, scapula_shape
from samreg.landmarks.spine import LEVELS
from samreg.landmarks.sternum import find_sternal_angle
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image

_SCAPULA_SHARE, _SCAPULA_NEAR_MM = 0.4, 15.0  # of the bone's word, unless a landmark lies this far off
_FAR_MM = 50.0  # from where its neighbours put a landmark: no place of it, though on a rib, or a pole of a kidney
_THORACIC = tuple(level for level in LEVELS if level.startswith("vertebra_T"))
_MIN_ARTERY = 0.35  # reliability of landmarks that say where arteries leave the aorta

#: Landmarks that are looked for again from where another was seen: the vein passes below the artery.
LED_BY: Mapping[str, str] = MappingProxyType({"left_renal_vein_crossing": MESENTERIC})


@dataclass(frozen=True, eq=False)
class Structures:
    """What was found in a CT.

    Parameters
    ----------
    scapulae
        By side, "left" and "right".
    ribs
        By name, "left_rib1" to "right_rib12".
    domes
        Of the diaphragm, by side, (3,) LPS mm.
    kidneys
        By side.
    origins
        Of the celiac trunk and the superior mesenteric artery, by the landmark's name, (3,) LPS mm.
    points
        Apices of the lungs, top of the aortic arch, carinas of the airways and sternal angle, by name, (3,) LPS mm.
    """

    scapulae: Mapping[str, FoundBone] = field(default_factory=dict)
    ribs: Mapping[str, FoundRib] = field(default_factory=dict)
    domes: Mapping[str, FloatArray] = field(default_factory=dict)
    kidneys: Mapping[str, FoundKidney] = field(default_factory=dict)
    origins: Mapping[str, FloatArray] = field(default_factory=dict)
    points: Mapping[str, FloatArray] = field(default_factory=dict)


def find_structures(
    image: Image,
    names: Sequence[str],
    positions: FloatArray,
    reliability: FloatArray,
    counted: NDArray[np.bool_],
) -> Structures:
    """Find shoulder blades, ribs, domes of the diaphragm, kidneys, origins of arteries and single points in a CT.

    Parameters
    ----------
    image
        Volume in which the body lies upright.
    names, positions, reliability
        Of L landmarks; (L, 3) LPS mm, and (L,), 0 outside the image.
    counted
        (L,) vertebrae that were counted.
    """
    scapulae = find_scapulae(image, names, positions, reliability)
    shown = reliability > 0
    vertebrae = np.flatnonzero(counted & shown)

    def by_side(landmark: str) -> dict[str, FloatArray]:
        rows = {side: names.index(f"{side}_{landmark}") for side in SIDES if f"{side}_{landmark}" in names}
        return {side: positions[i] for side, i in rows.items() if shown[i]}

    arteries = [names.index(name) for name in (CELIAC, MESENTERIC) if name in names]
    leaving = {names[i]: positions[i] for i in arteries if reliability[i] >= _MIN_ARTERY}
    levels = [LEVELS.index(names[i]) for i in vertebrae]
    numbers = {_THORACIC.index(names[i]) + 1: i for i in vertebrae if names[i] in _THORACIC}
    thoracic = [numbers[number] for number in sorted(numbers)]
    rows = [names.index(name) for name in BRANCHES if name in names]
    is_sure = bool(rows) and reliability[rows].mean() >= _MIN_ARTERY
    branches = {names[i]: positions[i] for i in rows if is_sure}
    ribs, kidneys, arch, domes, origins, apices, carinas, joint = run_in_threads(
        [
            partial(find_ribs, image, levels, positions[vertebrae], scapulae),
            partial(find_kidneys, image, by_side("kidney_upper_pole")),
            partial(find_arch, image, branches),
            partial(find_domes, image, by_side("diaphragm_dome")),
            partial(find_artery_origins, image, leaving),
            partial(find_apices, image, positions[thoracic]),
            partial(find_carinas, image, positions[thoracic]),
            partial(find_sternal_angle, image, sorted(numbers), positions[thoracic]),
        ]
    )
    points = {f"{side}_lung_apex": place for side, place in apices.items()} | carinas
    points |= {name: at for name, at in (("aortic_arch_top", arch), ("sternal_angle", joint)) if at is not None}
    return Structures(scapulae, ribs, domes, kidneys, origins, points)


def on_structures(
    structures: Structures, names: Sequence[str], positions: FloatArray, by_neighbours: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return landmarks (L, 3), LPS mm, with those on structures where these have them, and others led by them.

    Parameters
    ----------
    structures
        Found in the image.
    names, positions
        Of the L landmarks.
    by_neighbours
        (L, 3) where its neighbours put each.

    Returns
    -------
    positions : ndarray
        (L, 3) LPS mm.
    seen : ndarray of bool
        (L,) those that the image itself shows: lateral places and tips of ribs, domes, poles of kidneys, origins.
    """
    row = {name: i for i, name in enumerate(names)}
    result, seen = positions.copy(), np.zeros(len(positions), dtype=bool)

    def takes(i: int | None, place: FloatArray | None) -> bool:
        return i is not None and place is not None and bool(np.linalg.norm(place - by_neighbours[i]) < _FAR_MM)

    for side, bone in structures.scapulae.items():
        for name, place in zip(scapula_shape().names, bone.landmarks, strict=True):
            i = row.get(f"{side}_{name}")
            if i is not None:
                near = np.linalg.norm(place - positions[i]) <= _SCAPULA_NEAR_MM
                result[i] = positions[i] + (_SCAPULA_SHARE if near else 1.0) * (place - positions[i])
    for name, rib in structures.ribs.items():
        for kind, place in (("lateral", rib.lateral), ("tip", rib.tip)):
            i = row.get(f"{name}_{kind}")
            if takes(i, place):
                result[i], seen[i] = place, True
    for side, dome in structures.domes.items():
        i = row[f"{side}_diaphragm_dome"]
        result[i], seen[i] = dome, True
    for side, kidney in structures.kidneys.items():
        for end, pole in (("upper", kidney.upper), ("lower", kidney.lower)):
            i = row.get(f"{side}_kidney_{end}_pole")
            if takes(i, pole):  # else it is the other kidney's, as where the image shows that one alone
                result[i], seen[i] = pole, True
    for name, origin in structures.origins.items():
        result[row[name]], seen[row[name]] = origin, True
    for name, leader in LED_BY.items():
        if name in row and leader in structures.origins:
            result[row[name]] += structures.origins[leader] - positions[row[leader]]
    return result, seen

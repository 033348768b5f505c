"""The anatomy of the phantom: one synthetic chest, painted from analytic shapes.

Everything lies in the *canonical frame*: LPS mm, the body's midline at x = 0, the tip of the carina at about
(-10, 0, 0). Distances between landmarks follow adult chests; shapes are tubes, ellipsoids and superellipses, so
it is a phantom that looks like a chest CT, not an atlas of anybody. Organs are painted one over the other with
soft edges of one voxel; the landmarks are computed from the same shapes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samreg.phantoms.canvas import FAT, LABELS, VOXEL_MM, Array, Canvas
from samreg.phantoms.organs import paint_abdomen, paint_body, paint_heart, paint_lungs, paint_mediastinum
from samreg.phantoms.skeleton import paint_shoulders, paint_spine_and_ribs, paint_sternum
from samreg.phantoms.vessels import great_vessels, paint_airways
from samreg.spatial import Grid, Points

__all__ = ["LABELS", "LANDMARK_NAMES", "VOXEL_MM", "Anatomy", "canonical_anatomy"]

#: Landmarks, in their order.
LANDMARK_NAMES = (
    "carina",
    "right_upper_lobe_carina",
    "left_secondary_carina",
    "aortic_arch_top",
    "azygos_arch_top",
    "pulmonary_bifurcation",
    "left_ventricular_apex",
    "right_lung_apex",
    "left_lung_apex",
    "right_middle_lobe_carina",
    "right_first_rib_head",
    "left_first_rib_head",
    "xiphisternal_joint",
    "jugular_notch",
    "sternal_angle",
    "right_clavicle_medial_end",
    "left_clavicle_medial_end",
    "right_scapula_inferior_angle",
    "left_scapula_inferior_angle",
)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The canonical chest.

    Parameters
    ----------
    grid
        Grid of the volumes below, in the canonical frame.
    hu
        (z, y, x) float32 HU without contrast agent.
    enhancement
        (z, y, x) float32, share of the contrast agent's HU that is added, 0 to 1.
    labels
        (z, y, x) uint8, values of :data:`LABELS`.
    landmarks
        The 19 landmarks of :data:`LANDMARK_NAMES`, in the canonical frame, mm.
    """

    grid: Grid
    hu: NDArray[np.float32]
    enhancement: NDArray[np.float32]
    labels: NDArray[np.uint8]
    landmarks: Points


@functools.cache
def canonical_anatomy() -> Anatomy:
    """Return the canonical chest; painted in two seconds on the first call, and kept for the rest of the process."""
    canvas = Canvas()
    landmarks: dict[str, Array] = {}
    paint_body(canvas)
    landmarks |= paint_lungs(canvas)
    paint_mediastinum(canvas)
    vessels, vessel_landmarks = great_vessels(canvas)
    for (box, distance), _ in vessels:
        canvas.paint((box, distance - 2.5), FAT)
    paint_abdomen(canvas)
    landmarks |= vessel_landmarks | paint_heart(canvas)
    for region, tissue in vessels:
        canvas.paint(region, tissue)
    landmarks |= paint_airways(canvas)
    landmarks |= paint_spine_and_ribs(canvas)
    landmarks |= paint_sternum(canvas)
    landmarks |= paint_shoulders(canvas)
    for volume in (canvas.hu, canvas.enhancement, canvas.labels):
        volume.flags.writeable = False  # shared by all who ask
    points = Points(np.array([landmarks[name] for name in LANDMARK_NAMES]), LANDMARK_NAMES)
    return Anatomy(canvas.grid, canvas.hu, canvas.enhancement, canvas.labels, points)

"""The trunk that organs and bones are laid out by: skin, rib cage, spine, diaphragm and the space of the lungs."""

from __future__ import annotations

import numpy as np

from samreg.phantoms.canvas import HIGH_MM, LOW_MM, Array, interpolate_column, intersection

# rows: z, half width, centre y, half depth (mm)
SKIN_OUTLINE = np.array(
    [
        (-218, 152, -18, 108),
        (-150, 160, -16, 114),
        (-66, 164, -11, 117),
        (0, 163, -6, 107),
        (22, 164, -3, 101),
        (62, 168, 6, 82),
        (95, 150, 6, 66),
        (118, 100, 2, 62),
        (140, 68, 2, 58),
        (168, 62, 0, 56),
    ],
    dtype=float,
)
CAGE = np.array(  # inner surface of the ribs
    [
        (-218, 128, -22, 92),
        (-150, 132, -20, 95),
        (-66, 131, -9.5, 90),
        (0, 119, -6, 80),
        (22, 109, -5, 71),
        (62, 76, 1, 46),
        (82, 50, 8, 31),
        (100, 30, 6, 22),
        (168, 28, 6, 20),
    ],
    dtype=float,
)
_SPINE = np.array(  # z, y of the vertebral bodies' centres
    [(-218, 20), (-180, 33), (-130, 45), (-75, 51), (-20, 49), (25, 39), (60, 24), (85, 10), (120, -6), (168, -14)],
    dtype=float,
)
VERTEBRA_Z_MM = (
    *(165, 149, 133, 117, 100),  # C3 to C7
    *(82, 63, 43.5, 23.5, 3, -18, -39.5, -61.5, -84, -107, -131, -156),  # T1 to T12
    *(-182, -209),  # L1, L2
)
FIRST_THORACIC = 5
SKIN_POWER, CAGE_POWER = 2.5, 2.3
_APEX_Z = 76.0
LUNG_APEX = {-1: np.array([-44.0, 10, _APEX_Z]), 1: np.array([46.0, 11, _APEX_Z + 1])}
_DIAPHRAGM_DOME = {-1: (-68.0, -25.0, -94.0), 1: (66.0, -22.0, -108.0)}  # top of each half of the diaphragm


def outline_distance(table: Array, power: float, x: Array, y: Array, z: Array) -> Array:
    """Return the radial signed distance of the superellipse that a table's rows (z, half width, y, half depth) give."""
    half_width, center, half_depth = (interpolate_column(z, table, i).astype(np.float32) for i in (1, 2, 3))
    scaled = ((np.abs(x) / half_width) ** power + (np.abs(y - center) / half_depth) ** power) ** np.float32(1 / power)
    radius = np.sqrt(x * x + (y - center) ** 2)
    distance: Array = radius * (1 - 1 / np.maximum(scaled, np.float32(1e-3)))
    return distance


def cage_distance(x: Array, y: Array, z: Array) -> Array:
    """Return the signed distance of the space within the ribs."""
    return outline_distance(CAGE, CAGE_POWER, x, y, z)


def diaphragm_height(side: int, x: Array, y: Array) -> Array:
    """Return the height z of one half of the diaphragm's upper surface, mm."""
    cx, cy, top = _DIAPHRAGM_DOME[side]
    dx, dy = np.abs(x - cx), y - cy
    outwards = np.where(side * (x - cx) > 0, dx * dx / 75, dx * dx / 600)
    height: Array = np.maximum(top - outwards - dy * dy / np.where(dy > 0, 150, 240), -178).astype(np.float32)
    return height


def lung_distance(side: int, x: Array, y: Array, z: Array) -> Array:
    """Return the signed distance of a lung: within the ribs, below its apex, above the diaphragm, off the midline."""
    ax, ay, top = LUNG_APEX[side]
    ceiling = z - np.float32(top) + ((x - np.float32(ax)) ** 2 + (y - np.float32(ay)) ** 2) / 62
    steep = np.sqrt(1 + 4 * ((x - np.float32(ax)) ** 2 + (y - np.float32(ay)) ** 2) / 62**2)
    floor = (diaphragm_height(side, x, y) - z) * np.float32(0.75)  # its slope, to make it a distance
    return intersection(cage_distance(x, y, z) + 2, ceiling / steep, floor, 6 - side * x)


def points_in_lung(side: int, count: int, seed: int) -> Array:
    """Return points (count, 3) spread evenly through a lung (best-candidate sampling)."""
    random = np.random.default_rng(seed)
    points = random.uniform((14, -104, -175), (132, 82, 76), (count * 40, 3)) * np.array([side, 1, 1])
    inside = lung_distance(side, *(points[:, i].astype(np.float32) for i in range(3))) < -5
    points = points[inside][: count * 8]
    chosen, gap = [points[0]], np.full(len(points), np.inf)
    for _ in range(count - 1):
        gap = np.minimum(gap, np.linalg.norm(points - chosen[-1], axis=1))
        chosen.append(points[np.argmax(gap)])
    return np.array(chosen)


HILUM = {  # where arteries and veins enter, and the lobar bronchi's ends
    -1: {"artery": (-46, -14, -28), "vein": (-42, -6, -44)},
    1: {"artery": (46, 6, -6), "vein": (42, 0, -42)},
}


def spine_frame(z: float) -> tuple[Array, Array, Array]:
    """Return the spine's centre, its upward tangent and its posterior normal at a height."""
    y, above, below = interpolate_column([z, z + 4, z - 4], _SPINE, 1)
    tangent = np.array([0, (above - below) / 8, 1.0])
    tangent /= np.linalg.norm(tangent)
    return np.array([0, y, z]), tangent, np.array([0, tangent[2], -tangent[1]])


def spine_centers() -> tuple[Array, Array]:
    """Return the centres of the spine, 3 mm apart (N, 3), and its posterior normals (N, 3)."""
    centers, _, back = zip(*(spine_frame(z) for z in np.arange(LOW_MM[2], HIGH_MM[2] + 3, 3)), strict=True)
    return np.stack(centers), np.stack(back)

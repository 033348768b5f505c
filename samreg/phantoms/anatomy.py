"""The anatomy of the phantom: one synthetic chest, painted from analytic shapes.

Everything lies in the *canonical frame*: LPS mm, the body's midline at x = 0, the tip of the carina at about
(-10, 0, 0). Distances between landmarks follow adult chests; shapes are tubes, ellipsoids and superellipses, so
it is a phantom that looks like a chest CT, not an atlas of anybody. Organs are painted one over the other with
soft edges of one voxel; the landmarks are computed from the same shapes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.spatial import Grid, Points

Array = NDArray[np.floating]
Region = tuple[tuple[slice, slice, slice], Array]  # a box of the canvas and the signed distance in it, mm

VOXEL = 1.5  # mm, of the canonical volume
LOW = np.array([-222.0, -160.0, -218.0])  # mm, what the canonical volume spans
HIGH = np.array([222.0, 118.0, 168.0])

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

LABELS = {
    name: value
    for value, name in enumerate(
        (
            "outside",
            "skin",
            "fat",
            "muscle",
            "right_lung",
            "left_lung",
            "pulmonary_vessel",
            "airway",
            "airway_wall",
            "heart",
            "heart_cavity",
            "aorta",
            "pulmonary_artery",
            "vein",
            "artery",
            "oesophagus",
            "vertebra",
            "disc",
            "spinal_canal",
            "rib",
            "cartilage",
            "sternum",
            "clavicle",
            "scapula",
            "humerus",
            "liver",
            "spleen",
            "stomach",
            "gas",
            "kidney",
        )
    )
}


@dataclass(frozen=True)
class Tissue:
    """What is painted: its label, its HU without contrast agent, and the share of the contrast it takes up."""

    label: str
    hu: float
    enhancement: float = 0.0


SKIN = Tissue("skin", 20)
FAT = Tissue("fat", -100)
MUSCLE = Tissue("muscle", 52, 0.05)
WALL = Tissue("airway_wall", 10)
AIR = Tissue("airway", -990)
HEART = Tissue("heart", 45, 0.35)
CAVITY = Tissue("heart_cavity", 42, 0.9)
VESSEL = Tissue("pulmonary_vessel", 42, 0.9)


def _cortex(label: str) -> Tissue:
    return Tissue(label, 700)


def _marrow(label: str, hu: float = 220) -> Tissue:
    return Tissue(label, hu)


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
    """Paint the canonical chest: about five seconds on the first call, kept for the rest of the process."""
    canvas = _Canvas()
    landmarks: dict[str, Array] = {}
    _paint_body(canvas)
    landmarks |= _paint_lungs(canvas)
    _paint_mediastinum(canvas)
    vessels, vessel_landmarks = _great_vessels(canvas)
    for (box, distance), _ in vessels:
        canvas.paint((box, distance - 2.5), FAT)
    _paint_abdomen(canvas)
    landmarks |= vessel_landmarks | _paint_heart(canvas)
    for region, tissue in vessels:
        canvas.paint(region, tissue)
    landmarks |= _paint_airways(canvas)
    landmarks |= _paint_spine_and_ribs(canvas)
    landmarks |= _paint_sternum(canvas)
    landmarks |= _paint_shoulders(canvas)
    for volume in (canvas.hu, canvas.enhancement, canvas.labels):
        volume.flags.writeable = False  # shared by all who ask
    points = Points(np.array([landmarks[name] for name in LANDMARK_NAMES]), LANDMARK_NAMES)
    return Anatomy(canvas.grid, canvas.hu, canvas.enhancement, canvas.labels, points)


# --- shapes: signed distances in mm, negative inside ------------------------------------------------------------


class _Canvas:
    """The canonical volumes while they are painted."""

    def __init__(self) -> None:
        shape = tuple(np.round((HIGH - LOW) / VOXEL).astype(int)[::-1] + 1)
        self.grid = Grid.make(shape, origin=LOW, spacing=VOXEL)
        self.hu = np.full(shape, -1000, dtype=np.float32)
        self.enhancement = np.zeros(shape, dtype=np.float32)
        self.labels = np.zeros(shape, dtype=np.uint8)

    def box(self, low: ArrayLike, high: ArrayLike) -> tuple[slice, slice, slice]:
        """Return the slices (z, y, x) of the voxels between two corners (x, y, z) and one voxel around them."""
        first = np.floor((np.asarray(low) - LOW) / VOXEL).astype(int) - 1
        last = np.ceil((np.asarray(high) - LOW) / VOXEL).astype(int) + 2
        size = np.asarray(self.grid.size)
        first, last = np.clip(first, 0, size), np.clip(last, 0, size)
        x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return z, y, x

    def coordinates(self, box: tuple[slice, slice, slice]) -> tuple[Array, Array, Array]:
        """Return x, y, z of a box, shapes that broadcast to it."""
        z, y, x = (
            (start + VOXEL * np.arange(part.start, part.stop)).astype(np.float32)
            for start, part in zip(LOW[::-1], box, strict=True)
        )
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def solid(self, low: ArrayLike, high: ArrayLike, distance: Callable[[Array, Array, Array], Array]) -> Region:
        """Evaluate a signed distance of (x, y, z) in a box."""
        box = self.box(low, high)
        return box, distance(*self.coordinates(box))

    def ellipsoid(self, center: ArrayLike, radii: ArrayLike, axis: ArrayLike | None = None) -> Region:
        """Ellipsoid with its first radius along x, or along ``axis`` with the third one nearest to z."""
        center, radii = np.asarray(center, dtype=float), np.asarray(radii, dtype=float)
        frame = np.eye(3) if axis is None else _frame(axis)
        half = np.sqrt(((frame * radii) ** 2).sum(axis=1))
        return self.solid(center - half, center + half, functools.partial(_ellipsoid, center, radii, frame))

    def tube(self, path: ArrayLike, radius: ArrayLike, *, height: float = 1.0) -> Region:
        """Tube around a path (N, 3); ``height`` makes it taller along z than it is thick."""
        path = np.asarray(path, dtype=float)
        radius = np.broadcast_to(np.asarray(radius, dtype=float), (len(path),))
        reach = radius.max() * np.array([1, 1, height]) + VOXEL
        box = self.box(path.min(axis=0) - reach, path.max(axis=0) + reach)
        distance = np.full([s.stop - s.start for s in box], 99, dtype=np.float32)
        squash = np.array([1, 1, 1 / height])
        for a, b, radius_a, radius_b in zip(path[:-1], path[1:], radius[:-1], radius[1:], strict=True):
            part = self.box(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
            x, y, z = self.coordinates(part)
            (ax, ay, az), (dx, dy, dz) = a * squash, (b - a) * squash
            px, py, pz = x - np.float32(ax), y - np.float32(ay), z * np.float32(squash[2]) - np.float32(az)
            length2 = dx * dx + dy * dy + dz * dz + 1e-9
            t = np.clip(
                px * np.float32(dx / length2) + py * np.float32(dy / length2) + pz * np.float32(dz / length2), 0, 1
            )
            gap2 = (px - t * np.float32(dx)) ** 2 + (py - t * np.float32(dy)) ** 2 + (pz - t * np.float32(dz)) ** 2
            gap = np.sqrt(gap2) - np.float32(radius_a) - t * np.float32(radius_b - radius_a)
            inner = tuple(slice(p.start - s.start, p.stop - s.start) for p, s in zip(part, box, strict=True))
            np.minimum(distance[inner], gap, out=distance[inner])
        return box, distance

    def paint(self, region: Region, tissue: Tissue, *, hu: Array | None = None) -> None:
        """Paint a tissue where the distance is negative, with an edge one voxel wide."""
        box, distance = region
        cover = np.clip(0.5 - distance / VOXEL, 0, 1)
        for volume, value in ((self.hu, tissue.hu if hu is None else hu), (self.enhancement, tissue.enhancement)):
            volume[box] += cover * (value - volume[box])
        self.labels[box][cover > 0.5] = LABELS[tissue.label]

    def paint_bone(self, region: Region, label: str, *, cortex: float = 1.6, marrow: float = 220) -> None:
        """Paint a bone with a cortex ``cortex`` mm thick and marrow of ``marrow`` HU inside."""
        self.paint(region, _cortex(label))
        self.paint((region[0], region[1] + cortex), _marrow(label, marrow))


def _frame(axis: ArrayLike) -> Array:
    """Return an orthonormal frame (columns) whose first axis is ``axis`` and third one nearest to z."""
    first = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    third = np.array([0.0, 0, 1]) - first[2] * first
    third /= np.linalg.norm(third)
    return np.stack([first, np.cross(third, first), third], axis=1)


def _ellipsoid(center: Array, radii: Array, frame: Array, x: Array, y: Array, z: Array) -> Array:
    """Signed distance of an ellipsoid, first order (exact on its surface)."""
    offset = (x - np.float32(center[0]), y - np.float32(center[1]), z - np.float32(center[2]))
    k0: Any = np.float32(0)
    k1: Any = np.float32(0)
    for column, radius in zip(frame.T, radii, strict=True):
        along = sum(o * np.float32(c) for o, c in zip(offset, column, strict=True)) / np.float32(radius)
        k0 = k0 + along * along
        k1 = k1 + (along / np.float32(radius)) ** 2
    k0, k1 = np.sqrt(k0), np.sqrt(k1)
    return k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))


def _ellipse(u: Array, v: Array, a: float, b: float) -> Array:
    """Signed distance of an ellipse, first order."""
    k0 = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    k1 = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2)
    return k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))


def _both(*regions: Array) -> Array:
    return functools.reduce(np.maximum, regions)


def _smooth_min(a: Array, b: Array, width: float) -> Array:
    """Union of two solids with a fillet of ``width`` mm."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b + (a - b) * h - width * h * (1 - h)


def _curve(z: ArrayLike, table: Array, column: int) -> Array:
    """Interpolate a column of a table of rows (z, values...) at heights z, without overshoot."""
    from scipy.interpolate import PchipInterpolator

    heights = np.clip(z, table[0, 0], table[-1, 0])
    return PchipInterpolator(table[:, 0], table[:, column])(heights)


def _path(knots: Sequence[ArrayLike], step: float = 4.0) -> Array:
    """Return a smooth path (N, 3) through knots, with points about ``step`` mm apart."""
    from scipy.interpolate import CubicSpline

    nodes = np.asarray(knots, dtype=float)
    length = np.concatenate([[0], np.linalg.norm(np.diff(nodes, axis=0), axis=1).cumsum()])
    return CubicSpline(length, nodes, bc_type="natural")(
        np.linspace(0, length[-1], max(2, round(length[-1] / step) + 1))
    )


def _crotch(node: ArrayLike, end_a: ArrayLike, radius_a: float, end_b: ArrayLike, radius_b: float) -> Array:
    """Return the tip of the ridge between two tubes that leave ``node``: the point on both of their surfaces."""
    node = np.asarray(node, dtype=float)
    a, b = (np.asarray(end, dtype=float) - node for end in (end_a, end_b))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    cosine = float(a @ b)
    sine = np.sqrt(1 - cosine**2)
    normal = (b - cosine * a) / sine  # perpendicular to a, towards b
    return node + a * (radius_b + radius_a * cosine) / sine + normal * radius_a


def _mirror(points: ArrayLike, side: int) -> Array:
    return np.asarray(points, dtype=float) * np.array([side, 1, 1])


# --- the chest --------------------------------------------------------------------------------------------------

# rows: z, half width, centre y, half depth (mm)
_SKIN = np.array(
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
_CAGE = np.array(  # inner surface of the ribs
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
_VERTEBRAE = (
    *(165, 149, 133, 117, 100),  # C3 to C7
    *(82, 63, 43.5, 23.5, 3, -18, -39.5, -61.5, -84, -107, -131, -156),  # T1 to T12
    *(-182, -209),  # L1, L2
)
_FIRST_THORACIC = 5
_POWER_SKIN, _POWER_CAGE = 2.5, 2.3
_APEX_Z = 76.0
_APEX = {-1: np.array([-44.0, 10, _APEX_Z]), 1: np.array([46.0, 11, _APEX_Z + 1])}
_DOME = {-1: (-68.0, -25.0, -94.0), 1: (66.0, -22.0, -108.0)}  # top of each half of the diaphragm


def _superellipse(table: Array, power: float, x: Array, y: Array, z: Array) -> Array:
    """Radial signed distance of the outline that a table gives at every height."""
    half_width, center, half_depth = (_curve(z, table, i).astype(np.float32) for i in (1, 2, 3))
    scaled = ((np.abs(x) / half_width) ** power + (np.abs(y - center) / half_depth) ** power) ** np.float32(1 / power)
    radius = np.sqrt(x * x + (y - center) ** 2)
    return radius * (1 - 1 / np.maximum(scaled, np.float32(1e-3)))


def _cage(x: Array, y: Array, z: Array) -> Array:
    return _superellipse(_CAGE, _POWER_CAGE, x, y, z)


def _diaphragm(side: int, x: Array, y: Array) -> Array:
    """Height z of the diaphragm's upper surface."""
    cx, cy, top = _DOME[side]
    dx, dy = np.abs(x - cx), y - cy
    outwards = np.where(side * (x - cx) > 0, dx * dx / 75, dx * dx / 600)
    return np.maximum(top - outwards - dy * dy / np.where(dy > 0, 150, 240), -178).astype(np.float32)


def _paint_body(canvas: _Canvas) -> None:
    body = canvas.solid(LOW, HIGH, functools.partial(_superellipse, _SKIN, _POWER_SKIN))
    distance = body[1]
    for side in (-1, 1):  # raised arms
        box, arm = canvas.tube(_mirror([(150, 8, 62), (172, 4, 105), (178, 4, 172)], side), [56, 45, 40])
        distance[box] = _smooth_min(distance[box], arm, 30)
    canvas.paint(body, SKIN)
    canvas.paint((body[0], distance + 2.2), FAT)
    x, y, z = canvas.coordinates(body[0])
    # subcutaneous fat is thicker in front and towards the belly
    fat = 9 + 5 * np.clip(-y / 100, -0.6, 1) + 4 * np.clip(-z / 150, -0.5, 1) + 2 * np.cos(x / 40)
    canvas.paint((body[0], distance + fat.astype(np.float32)), MUSCLE)
    for side in (-1, 1):  # fat of the axilla and between the muscles of the back
        canvas.paint(canvas.ellipsoid((side * 133, -6, 34), (15, 30, 36), (side * 0.5, -0.2, -1)), FAT)
        canvas.paint(canvas.tube(_mirror([(60, 78, 55), (112, 62, 10), (134, 38, -40)], side), 2.2, height=4), FAT)

    def plane(x: Array, y: Array, z: Array) -> Array:  # of fat between the muscles of the chest wall
        return _both(np.abs(_cage(x, y, z) - 13) - 0.9, z - 40)

    canvas.paint(canvas.solid((-155, -125, -160), (155, 105, 40), plane), FAT)


def _lung(side: int, x: Array, y: Array, z: Array) -> Array:
    ax, ay, top = _APEX[side]
    ceiling = z - np.float32(top) + ((x - np.float32(ax)) ** 2 + (y - np.float32(ay)) ** 2) / 62
    steep = np.sqrt(1 + 4 * ((x - np.float32(ax)) ** 2 + (y - np.float32(ay)) ** 2) / 62**2)
    floor = (_diaphragm(side, x, y) - z) * np.float32(0.75)  # its slope, to make it a distance
    return _both(_cage(x, y, z) + 2, ceiling / steep, floor, 6 - side * x)


def _paint_lungs(canvas: _Canvas) -> dict[str, Array]:
    for side, label in ((-1, "right_lung"), (1, "left_lung")):
        low, high = (-136, -112, -180), (0, 85, 80)
        if side > 0:
            low, high = (0, -112, -180), (136, 85, 80)
        region = canvas.solid(low, high, functools.partial(_lung, side))
        y = canvas.coordinates(region[0])[1]
        canvas.paint(region, Tissue(label, -850), hu=-852 + 0.35 * (y + 10))  # denser where it lies
        _paint_vessels(canvas, side)
    return {"right_lung_apex": _APEX[-1], "left_lung_apex": _APEX[1]}


def _tree(root: Array, targets: Array, leaf_radius: float) -> tuple[Array, Array, Array]:
    """Connect targets (N, 3) to a root by a branching tree.

    Each target, from near to far, joins the node that keeps both the new branch and its way to the root short;
    radii follow Murray's law, the cube of a branch's being the sum of the cubes of its daughters'.

    Returns
    -------
    parent : (N + 1,) index of each node's parent, the root's being itself
    nodes : (N + 1, 3)
    radius : (N + 1,) of the branch that ends at each node, mm
    """
    order = np.argsort(np.linalg.norm(targets - root, axis=1))
    nodes = np.concatenate([root[None], targets[order]])
    parent, way = np.zeros(len(nodes), dtype=int), np.zeros(len(nodes))
    for i in range(1, len(nodes)):
        branch = np.linalg.norm(nodes[:i] - nodes[i], axis=1)
        parent[i] = np.argmin(branch + 0.55 * way[:i])
        way[i] = way[parent[i]] + branch[parent[i]]
    cubes = np.zeros(len(nodes))
    for i in range(len(nodes) - 1, 0, -1):
        cubes[i] = max(cubes[i], leaf_radius**3)
        cubes[parent[i]] += cubes[i]
    return parent, nodes, np.cbrt(cubes)


def _lung_targets(side: int, count: int, seed: int) -> Array:
    """Return points spread evenly through a lung (best-candidate sampling)."""
    random = np.random.default_rng(seed)
    points = random.uniform((14, -104, -175), (132, 82, 76), (count * 40, 3)) * np.array([side, 1, 1])
    inside = _lung(side, *(points[:, i].astype(np.float32) for i in range(3))) < -5
    points = points[inside][: count * 8]
    chosen, gap = [points[0]], np.full(len(points), np.inf)
    for _ in range(count - 1):
        gap = np.minimum(gap, np.linalg.norm(points - chosen[-1], axis=1))
        chosen.append(points[np.argmax(gap)])
    return np.array(chosen)


_HILUM = {  # where arteries and veins enter, and the lobar bronchi's ends
    -1: {"artery": (-46, -14, -28), "vein": (-42, -6, -44)},
    1: {"artery": (46, 6, -6), "vein": (42, 0, -42)},
}


def _paint_vessels(canvas: _Canvas, side: int) -> None:
    for kind, seed in (("artery", 3), ("vein", 5)):
        targets = _lung_targets(side, 190, seed + side)
        parent, nodes, radius = _tree(np.array(_HILUM[side][kind], dtype=float), targets, 0.95)
        start = np.minimum(radius[parent], radius * 1.25)
        for i in range(1, len(nodes)):
            canvas.paint(canvas.tube(nodes[[parent[i], i]], [start[i], radius[i]]), VESSEL)


def _spine_centers() -> tuple[Array, Array]:
    """Return the centres of the spine, 3 mm apart (N, 3), and its posterior normals (N, 3)."""
    centers, _, back = zip(*(_spine_frame(z) for z in np.arange(LOW[2], HIGH[2] + 3, 3)), strict=True)
    return np.stack(centers), np.stack(back)


def _paint_abdomen(canvas: _Canvas) -> None:
    low, high = (-140, -125, LOW[2]), (140, 85, -85)
    box = canvas.box(low, high)
    x, y, z = canvas.coordinates(box)
    left = np.clip(x / 50 + 0.5, 0, 1)  # both halves meet in the central tendon
    floor = (1 - left) * _diaphragm(-1, x, y) + left * _diaphragm(1, x, y)
    inside = _both(_cage(x, y, z) + 2, (z - floor) * np.float32(0.75))  # beneath the diaphragm
    canvas.paint((box, inside), MUSCLE)
    canvas.paint((box, inside + 3), FAT)

    def fill(center: tuple, radii: tuple, tissue: Tissue, margin: float = 3.5) -> None:
        part = functools.partial(_ellipsoid, np.array(center, float), np.array(radii, float), np.eye(3))
        canvas.paint((box, _both(part(x, y, z), inside + margin)), tissue)

    fill((-62, -18, -165), (108, 98, 84), Tissue("liver", 58, 0.35))
    for path, radius in (
        ([(-20, 0, -150), (-60, -20, -148), (-95, -10, -140)], 4.5),
        ([(-60, -20, -148), (-80, 20, -160)], 3.5),
        ([(-28, 4, -112), (-60, 10, -118), (-88, -5, -125)], 3.5),
    ):
        canvas.paint(canvas.tube(_path(path), radius), Tissue("vein", 44, 0.75))
    fill((88, 38, -152), (34, 42, 48), Tissue("spleen", 50, 0.5))
    fill((58, -38, -152), (48, 42, 40), Tissue("stomach", 40, 0.1))
    fill((62, -58, -143), (34, 17, 22), Tissue("gas", -960), 8)
    for side in (-1, 1):
        fill((side * 56, 42, -222), (29, 27, 58), Tissue("kidney", 35, 0.8))
    for path in ([(-30, -85, -215), (10, -95, -205), (60, -88, -208)], [(95, -30, -212), (100, -50, -205)]):
        canvas.paint(canvas.tube(_path(path), 19), MUSCLE)
        canvas.paint(canvas.tube(_path(path), 15), Tissue("gas", -900))
    spine = _spine_centers()[0]
    canvas.paint(canvas.tube(spine[spine[:, 2] < 80], 24), FAT)


def _paint_mediastinum(canvas: _Canvas) -> None:
    width = np.array([(-125, 24), (-60, 26), (0, 26), (40, 30), (70, 30), (95, 26)], dtype=float)

    def mediastinum(x: Array, y: Array, z: Array) -> Array:
        half = _curve(z, width, 1).astype(np.float32)
        front, back = (_curve(z, _CAGE, 2) - _curve(z, _CAGE, 3) + 1).astype(np.float32), np.float32(52)
        depth = (back - front) / 2
        scaled = np.sqrt(((x - 2) / half) ** 2 + (np.abs(y - (front + back) / 2) / depth) ** 2)
        return _both((scaled - 1) * half, z - 92, -128 - z)

    canvas.paint(canvas.solid((-45, -115, -130), (45, 56, 95), mediastinum), FAT)


_LV_APEX = np.array([80.0, -76, -92])
_LV_BASE = np.array([10.0, -20, -48])


def _paint_heart(canvas: _Canvas) -> dict[str, Array]:
    axis = (_LV_APEX - _LV_BASE) / np.linalg.norm(_LV_APEX - _LV_BASE)
    ventricle = _LV_APEX - 46 * axis
    chambers = (  # wall, cavity: centre, radii, axis
        ((-36, -38, -58), (27, 29, 36), None, 3),  # right atrium
        ((4, 2, -44), (38, 21, 24), None, 3),  # left atrium
        ((20, -66, -75), (46, 24, 28), (0.75, -0.2, -0.45), 4),  # right ventricle
        (tuple(ventricle), (46, 35, 34), axis, 11),  # left ventricle
    )
    low, high = (-80, -125, -125), (100, 40, 5)
    box = canvas.box(low, high)
    sac = np.full([s.stop - s.start for s in box], 99, dtype=np.float32)
    for center, radii, along, _ in chambers:
        frame = np.eye(3) if along is None else _frame(along)
        part = _ellipsoid(np.array(center, float), np.array(radii, float), frame, *canvas.coordinates(box))
        sac = _smooth_min(sac, part, 14)
    canvas.paint((box, sac - 2.5), FAT)
    canvas.paint((box, sac + 1.0), HEART)
    for center, radii, along, _ in chambers:
        canvas.paint(canvas.ellipsoid(center, radii, along), HEART)
    for center, radii, along, wall in chambers:
        inner = np.asarray(center) - (0.0 if along is None else wall * 0.35 * np.asarray(along))
        canvas.paint(canvas.ellipsoid(inner, np.asarray(radii) - wall, along), CAVITY)
    septum = canvas.tube(_path([ventricle + (-28, -4, 12), ventricle + (0, -26, 4), ventricle + 30 * axis]), 3.5)
    canvas.paint(septum, HEART)
    return {"left_ventricular_apex": _LV_APEX}


def _top(path: Array, radius: Array) -> Array:
    """Return the most superior point of a tube's surface."""
    highest = np.argmax(path[:, 2] + radius)
    return path[highest] + (0, 0, radius[highest])


def _great_vessels(canvas: _Canvas) -> tuple[list[tuple[Region, Tissue]], dict[str, Array]]:
    """Return the vessels of the mediastinum in the order to paint them, and their landmarks."""
    arterial, venous, pulmonary = (
        Tissue("artery", 42, 1.0),
        Tissue("vein", 42, 0.8),
        Tissue("pulmonary_artery", 42, 1.0),
    )
    veins = (
        ([(-34, -34, -50), (-33, -28, -20), (-32, -26, 10), (-28, -30, 40)], 9.5),
        ([(-28, -30, 40), (-33, -28, 62), (-38, -22, 84), (-40, -24, 150)], 7),
        ([(-28, -30, 40), (-2, -44, 46), (28, -40, 58), (38, -24, 84), (40, -24, 150)], 6.5),
        ([(-34, -22, -72), (-28, -6, -100), (-24, 6, -140), (-20, 14, -216)], 11.5),
        ([(-38, -22, 84), (-75, -18, 92), (-130, 0, 80)], 5.5),
        ([(38, -24, 84), (75, -18, 92), (130, 0, 80)], 5.5),
    )
    arteries = (
        ([(-1, -24, 30), (-10, -26, 52), (-24, -16, 74), (-60, -6, 90), (-125, 6, 84)], 5.5),
        ([(-20, -18, 70), (-25, -20, 100), (-27, -22, 160)], 3.8),
        ([(15, -2, 30), (17, -10, 60), (25, -20, 100), (27, -22, 160)], 3.8),
        ([(22, 9, 24), (25, 6, 60), (40, 0, 84), (70, -4, 90), (125, 6, 84)], 5),
    )
    vessels = [(canvas.tube(_path(knots), radius), venous) for knots, radius in veins]
    vessels += [(canvas.tube(_path(knots), radius), arterial) for knots, radius in arteries]
    azygos_radius = 4.6
    azygos = _path(
        [(-4, 28, -160), (-8, 31, -60), (-12, 30, -10), (-24, 24, 8), (-31, 8, 14.5), (-32, -12, 12), (-32, -24, 8)], 1
    )
    vessels.append((canvas.tube(azygos, azygos_radius), venous))

    node, right, left, radius = (9.0, -31.0, -14.0), (-34.0, -17.0, -23.0), (36.0, -5.0, 2.0), 9.2
    trunk = _path([(26, -66, -46), (20, -54, -30), node], 3)
    vessels += [
        (canvas.tube(trunk, np.linspace(14, 9.5, len(trunk))), pulmonary),
        (canvas.tube([node, right, _HILUM[-1]["artery"]], [radius, radius, 7.5]), pulmonary),
        (canvas.tube([node, left, _HILUM[1]["artery"], (46, 20, -26)], [radius, radius, 8, 6]), pulmonary),
    ]
    for side in (-1, 1):  # pulmonary veins into the left atrium
        for z, y in ((-30, -8), (-54, 12)):
            vessels.append((canvas.tube([(side * 46, y, z), (side * 28, 2, -44)], [5, 6]), venous))
    aorta = _path(
        [(2, -34, -44), (-9, -42, -20), (-12, -42, 6), (-2, -29, 23), (12, -8, 26.5), (22, 16, 17)]
        + [(25, 31, -4), (24, 36, -40), (20, 35, -90), (10, 28, -140), (4, 14, -180), (3, 0, -217)],
        1,
    )
    aorta_radius = np.interp(np.linspace(0, 1, len(aorta)), [0, 0.12, 0.2, 0.4, 1], [16, 15.5, 12.8, 12, 10.5])
    vessels.append((canvas.tube(aorta, aorta_radius), Tissue("aorta", 42, 1.0)))
    return vessels, {
        "aortic_arch_top": _top(aorta, aorta_radius),
        "azygos_arch_top": _top(azygos, np.full(len(azygos), azygos_radius)),
        "pulmonary_bifurcation": _crotch(node, right, radius, left, radius),
    }


def _paint_airways(canvas: _Canvas) -> dict[str, Array]:
    oesophagus = _path(
        [(2, -12, 160), (3, -4, 110), (5, 10, 60), (3, 19, 10), (4, 25, -45), (12, 14, -105), (30, -8, -138)]
    )
    canvas.paint(canvas.tube(oesophagus, 7, height=0.9), Tissue("oesophagus", 35, 0.1))
    fork, right, middle, left = (-10, -1.5, 11), (-31, 0, -5), (-38, -1, -31), (32, 8, -17)
    lobes = {  # ends of the lobar bronchi
        "right_upper": (-52, 4, 3),
        "right_middle": (-54, -24, -46),
        "right_lower": (-48, 15, -58),
        "left_upper": (52, -6, -17),
        "left_lower": (43, 20, -44),
    }
    lumens: list[tuple[Array, float]] = [(_path([(0, -40, 166), (-2, -32, 100), (-7, -14, 45), fork], 3), 8.4)]
    lumens += [
        (np.array(ends, dtype=float), lumen)
        for *ends, lumen in (
            (fork, right, 6.6),
            (fork, left, 6.0),
            (right, lobes["right_upper"], 4.4),
            (right, middle, 5.3),
            (middle, lobes["right_middle"], 3.4),
            (middle, lobes["right_lower"], 4.4),
            (left, lobes["left_upper"], 4.4),
            (left, lobes["left_lower"], 4.4),
        )
    ]
    for seed, (lobe, root) in enumerate(lobes.items(), start=11):  # segmental bronchi
        targets = _lung_targets(-1 if lobe.startswith("right") else 1, 60, seed)
        near = targets[np.linalg.norm(targets - root, axis=1) < 62][:9]
        parent, nodes, radius = _tree(np.array(root, dtype=float), near, 1.35)
        lumens += [(nodes[[parent[i], i]], min(radius[i], 2.4)) for i in range(1, len(nodes))]
    for path, lumen in lumens:
        canvas.paint(canvas.tube(path, lumen + (1.6 if lumen > 3 else 0.9)), WALL)
    for path, lumen in lumens:  # after all walls, so that the branches open into each other
        canvas.paint(canvas.tube(path, lumen), AIR)
    return {
        "carina": _crotch(fork, right, 6.6, left, 6.0),
        "right_upper_lobe_carina": _crotch(right, lobes["right_upper"], 4.4, middle, 5.3),
        "right_middle_lobe_carina": _crotch(middle, lobes["right_middle"], 3.4, lobes["right_lower"], 4.4),
        "left_secondary_carina": _crotch(left, lobes["left_upper"], 4.4, lobes["left_lower"], 4.4),
    }


def _spine_frame(z: float) -> tuple[Array, Array, Array]:
    """Return the spine's centre, its upward tangent and its posterior normal at a height."""
    y, above, below = _curve([z, z + 4, z - 4], _SPINE, 1)
    tangent = np.array([0, (above - below) / 8, 1.0])
    tangent /= np.linalg.norm(tangent)
    return np.array([0, y, z]), tangent, np.array([0, tangent[2], -tangent[1]])


def _paint_spine_and_ribs(canvas: _Canvas) -> dict[str, Array]:
    centers, back = _spine_centers()
    canvas.paint(canvas.tube(centers, 12.5), Tissue("disc", 85))
    for i, height in enumerate(_VERTEBRAE):
        _paint_vertebra(canvas, i, height)
    canal = centers + 23 * back
    canvas.paint(canvas.tube(canal, 7.5), Tissue("spinal_canal", 25))

    heads = {}
    for rib in range(1, 13):
        for side in (-1, 1):
            head = _paint_rib(canvas, rib, side)
            if rib == 1:
                heads["right_first_rib_head" if side < 0 else "left_first_rib_head"] = head
    return heads


def _paint_vertebra(canvas: _Canvas, number: int, height: float) -> None:
    center, up, back = _spine_frame(height)
    size = float(np.interp(number, [0, _FIRST_THORACIC, 18], [0.72, 0.84, 1.15]))
    thickness = float(np.interp(number, [0, _FIRST_THORACIC, 18], [11.5, 14.5, 21]))
    width, depth = 17.5 * size, 13.5 * size

    def body(x: Array, y: Array, z: Array) -> Array:
        u = (y - center[1]) * up[1] + (z - center[2]) * up[2]
        v = (y - center[1]) * back[1] + (z - center[2]) * back[2]
        waist = 2.0 * (1 - (2 * u / thickness) ** 2)
        return _both(_ellipse(x, v, width, depth) + waist, np.abs(u) - thickness / 2).astype(np.float32)

    reach = np.array([25, 28, 22])
    canal = center + 23 * back
    ring = canvas.tube([canal - 4.5 * up, canal + 4.5 * up], 11)
    canvas.paint_bone(ring, "vertebra", marrow=320)
    tip = canal + (26 if number < 17 else 30) * back - (14 if number >= _FIRST_THORACIC else 5) * up
    canvas.paint_bone(canvas.tube([canal + 9 * back, tip], [4.2, 3.2]), "vertebra")
    for side in (-1, 1):
        pedicle = center + 8 * back + np.array([side * 11.0 * size, 0, 0]) + 2 * up
        root = center + 22 * back + np.array([side * 11.0, 0, 0]) + 2 * up
        canvas.paint_bone(canvas.tube([pedicle, root], 4.2), "vertebra")
        length = 33 - 0.6 * max(0, number - _FIRST_THORACIC) if number >= _FIRST_THORACIC else 22
        canvas.paint_bone(
            canvas.tube([root, center + 31 * back + np.array([side * length, 0, 0]) + 2 * up], 4), "vertebra"
        )
    canvas.paint_bone(canvas.solid(center - reach, center + reach, body), "vertebra", marrow=190)


_RIB_DROP = (32, 48, 60, 72, 82, 88, 92, 92, 88, 78, 55, 35)  # from the head to the front end, mm
_RIB_END = (2.45, 2.4, 2.35, 2.3, 2.25, 2.2, 2.15, 2.1, 2.05, 1.95, 1.6, 1.25)  # angle about the cage, 0 = back
_STERNAL_Z = (48, 21, 0, -20, -38, -51, -61)  # where cartilages 1 to 7 meet the sternum


def _on_cage(angle: Array, z: Array, offset: float) -> Array:
    """Return points (N, 3) of the left half of the rib cage at angles from the back (0) to the front (pi)."""
    half_width, center, half_depth = (_curve(z, _CAGE, i) for i in (1, 2, 3))
    s, c = np.sin(angle), np.cos(angle)
    scale = (np.abs(s) ** _POWER_CAGE + np.abs(c) ** _POWER_CAGE) ** (-1 / _POWER_CAGE)
    return np.stack([(half_width + offset) * s * scale, center + (half_depth + offset) * c * scale, z], axis=1)


def _paint_rib(canvas: _Canvas, rib: int, side: int) -> Array:
    """Paint one rib and its cartilage; return the centre of its head."""
    center, up, back = _spine_frame(_VERTEBRAE[_FIRST_THORACIC + rib - 1])
    head = center + np.array([17.0 + 0.2 * rib, 0, 0]) + 8 * back + 4 * up
    tubercle = center + np.array([34.0, 0, 0]) + 27 * back + 2 * up
    angle = np.linspace(0.58, _RIB_END[rib - 1], 24)
    share = (angle - 0.58) / (angle[-1] - 0.58)
    z = tubercle[2] - 2 - _RIB_DROP[rib - 1] * (0.35 * share + 0.65 * share**1.3)
    arc = _on_cage(angle, z, 4.5)
    path = np.concatenate([[head], _path([tubercle, arc[1]], 6), arc[2:]])
    end = arc[-1]
    if rib <= 10:
        if rib <= 7:
            goal = np.array([16.0, _sternum_y(_STERNAL_Z[rib - 1]), _STERNAL_Z[rib - 1]])
        else:  # joins the cartilage above
            goal = _on_cage(np.array([_RIB_END[rib - 1] + 0.42]), np.array([end[2] + 16]), 4.5)[0]
        middle = _on_cage(np.array([(_RIB_END[rib - 1] + 2.95) / 2]), np.array([0.6 * end[2] + 0.4 * goal[2]]), 4.5)[0]
        bend = _path([end, middle, goal] if rib <= 7 else [end, goal])
        canvas.paint(canvas.tube(_mirror(bend, side), 4.2, height=1.3), Tissue("cartilage", 100))
    bone = canvas.tube(_mirror(path, side), 3.9, height=1.55)
    canvas.paint_bone(bone, "rib", cortex=1.5)
    return _mirror(head, side)


_NOTCH, _ANGLE, _JOINT, _XIPHOID = ((0, -52.0, 62.0), (0, -84.0, 21.0), (0, -106.0, -66.0), (0, -103.0, -92.0))
_STERNUM_HALF = 5.5  # half its thickness, mm


def _sternum_y(z: ArrayLike) -> Array:
    knots = np.array([_XIPHOID, _JOINT, _ANGLE, _NOTCH])
    return np.interp(np.asarray(z, dtype=float), knots[:, 2], knots[:, 1])


def _paint_sternum(canvas: _Canvas) -> dict[str, Array]:
    notch, angle, joint, xiphoid = (np.array(p) for p in (_NOTCH, _ANGLE, _JOINT, _XIPHOID))
    plates = (  # top, bottom, half widths from top to bottom, depth of the notch in the top
        (notch, angle, (17, 26, 24, 17), 5.0),
        (angle, joint, (15, 16, 19, 15), 0.0),
        (joint, xiphoid, (11, 9, 6, 3), 0.0),
    )
    for center, half in ((angle, 15), (joint, 11)):  # cartilage of the two joints
        canvas.paint(
            canvas.tube([center - (half, 0, 0), center + (half, 0, 0)], _STERNUM_HALF), Tissue("cartilage", 100)
        )
    normals = []
    for top, bottom, half_widths, dip in plates:
        length = float(np.linalg.norm(top - bottom))
        up = (top - bottom) / length
        front = np.array([0, -up[2], up[1]])
        normals.append(front)

        def plate(x, y, z, top=top, up=up, front=front, length=length, half_widths=half_widths, dip=dip):
            u = (y - top[1]) * up[1] + (z - top[2]) * up[2]  # 0 at the top border's midline, negative below
            v = (y - top[1]) * front[1] + (z - top[2]) * front[2]
            half = np.interp(-u / length, [0, 0.25, 0.6, 1], half_widths)
            rise = dip * np.clip(np.abs(x) / 12, 0, 1) ** 2
            return _both(np.abs(x) - half, np.abs(v) - _STERNUM_HALF, u - rise, -length + 1.5 - u).astype(np.float32)

        corners = np.stack([top, bottom])
        region = canvas.solid(corners.min(axis=0) - (30, 9, 9), corners.max(axis=0) + (30, 9, 9), plate)
        canvas.paint_bone(region, "sternum", marrow=150)

    def anterior(point: Array, a: Array, b: Array) -> Array:
        return point + _STERNUM_HALF * (a + b) / (1 + a @ b)  # where both plates' front faces meet

    return {
        "jugular_notch": notch,
        "sternal_angle": anterior(angle, normals[0], normals[1]),
        "xiphisternal_joint": anterior(joint, normals[1], normals[2]),
    }


def _paint_shoulders(canvas: _Canvas) -> dict[str, Array]:
    landmarks = {}
    for side, name in ((-1, "right"), (1, "left")):
        clavicle = _mirror(_path([(27, -47, 65), (60, -50, 76), (100, -22, 92), (140, 8, 100)]), side)
        canvas.paint_bone(canvas.tube(clavicle, 6.2), "clavicle", cortex=1.8)
        inward = (clavicle[0] - clavicle[1]) / np.linalg.norm(clavicle[0] - clavicle[1])
        landmarks[f"{name}_clavicle_medial_end"] = clavicle[0] + 6.2 * inward

        tip, top, socket = (_mirror(p, side) for p in ((143, 34, -52), (82, 66, 62), (146, 12, 68)))
        blade = []
        for share in np.linspace(0, 1, 25):  # ribs of the blade, close enough to make a plate
            outer = top + share * (socket - top)
            bow = (tip + outer) / 2 + np.array([side * 8.0, 6, 0])
            blade.append(_path([tip, bow, outer], 8))
        for line in blade:
            canvas.paint(canvas.tube(line, 1.9), Tissue("scapula", 420))
        canvas.paint_bone(canvas.tube(blade[-1], 4.5), "scapula", cortex=1.8)
        canvas.paint_bone(canvas.tube(blade[0], 3.2), "scapula")
        crest = _mirror(_path([(92, 70, 40), (128, 52, 62), (150, 26, 100), (142, 8, 104)]), side)
        canvas.paint_bone(canvas.tube(crest, 4.2, height=1.4), "scapula")
        landmarks[f"{name}_scapula_inferior_angle"] = tip - (0, 0, 4.5)
        canvas.paint_bone(canvas.ellipsoid(socket, (9, 13, 17)), "scapula", marrow=300)
        humerus = _mirror([(170, 4, 84), (174, 4, 110), (178, 4, 172)], side)
        canvas.paint_bone(canvas.tube(humerus, [22, 12, 11]), "humerus", cortex=3, marrow=120)
    return landmarks

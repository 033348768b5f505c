"""Analytic shapes and the volume they are painted into.

Shapes are signed distances in mm, negative inside, in the canonical frame of :mod:`samreg.phantoms.anatomy`. They are
painted one over the other, each with a soft edge of one voxel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.spatial import Grid

Array = NDArray[np.floating[Any]]
Region = tuple[tuple[slice, slice, slice], Array]  # a box of the canvas and the signed distance in it, mm

VOXEL_MM = 1.5  # mm, of the canonical volume
LOW_MM = np.array([-222.0, -160.0, -218.0])  # mm, what the canonical volume spans
HIGH_MM = np.array([222.0, 118.0, 168.0])


#: Value of each structure in a label map.
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


class Canvas:
    """The canonical volumes while they are painted."""

    def __init__(self) -> None:
        shape = tuple(np.round((HIGH_MM - LOW_MM) / VOXEL_MM).astype(int)[::-1] + 1)
        self.grid = Grid.make(shape, origin=LOW_MM, spacing=VOXEL_MM)
        self.hu = np.full(shape, -1000, dtype=np.float32)
        self.enhancement = np.zeros(shape, dtype=np.float32)
        self.labels = np.zeros(shape, dtype=np.uint8)

    def box(self, low: ArrayLike, high: ArrayLike) -> tuple[slice, slice, slice]:
        """Return the slices (z, y, x) of the voxels between two corners (x, y, z) and one voxel around them."""
        first = np.floor((np.asarray(low) - LOW_MM) / VOXEL_MM).astype(int) - 1
        last = np.ceil((np.asarray(high) - LOW_MM) / VOXEL_MM).astype(int) + 2
        size = np.asarray(self.grid.size)
        first, last = np.clip(first, 0, size), np.clip(last, 0, size)
        x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return z, y, x

    def coordinates(self, box: tuple[slice, slice, slice]) -> tuple[Array, Array, Array]:
        """Return x, y, z of a box, shapes that broadcast to it."""
        z, y, x = (
            (start + VOXEL_MM * np.arange(part.start, part.stop)).astype(np.float32)
            for start, part in zip(LOW_MM[::-1], box, strict=True)
        )
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def solid(self, low: ArrayLike, high: ArrayLike, distance: Callable[[Array, Array, Array], Array]) -> Region:
        """Evaluate a signed distance of (x, y, z) in a box."""
        box = self.box(low, high)
        return box, distance(*self.coordinates(box))

    def ellipsoid(self, center: ArrayLike, radii: ArrayLike, axis: ArrayLike | None = None) -> Region:
        """Ellipsoid with its first radius along x, or along ``axis`` with the third one nearest to z."""
        center, radii = np.asarray(center, dtype=float), np.asarray(radii, dtype=float)
        frame = np.eye(3) if axis is None else frame_along(axis)
        half = np.sqrt(((frame * radii) ** 2).sum(axis=1))
        return self.solid(center - half, center + half, functools.partial(ellipsoid_distance, center, radii, frame))

    def tube(self, path: ArrayLike, radius: ArrayLike, *, height: float = 1.0) -> Region:
        """Tube around a path (N, 3); ``height`` makes it taller along z than it is thick."""
        path = np.asarray(path, dtype=float)
        radius = np.broadcast_to(np.asarray(radius, dtype=float), (len(path),))
        reach = radius.max() * np.array([1, 1, height]) + VOXEL_MM
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
        cover = np.clip(0.5 - distance / VOXEL_MM, 0, 1)
        for volume, value in ((self.hu, tissue.hu if hu is None else hu), (self.enhancement, tissue.enhancement)):
            volume[box] += cover * (value - volume[box])
        self.labels[box][cover > 0.5] = LABELS[tissue.label]

    def paint_bone(self, region: Region, label: str, *, cortex: float = 1.6, marrow: float = 220) -> None:
        """Paint a bone with a cortex ``cortex`` mm thick and marrow of ``marrow`` HU inside."""
        self.paint(region, _cortex(label))
        self.paint((region[0], region[1] + cortex), _marrow(label, marrow))


def frame_along(axis: ArrayLike) -> Array:
    """Return an orthonormal frame (columns) whose first axis is ``axis`` and whose third is nearest to z."""
    first = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    third = np.array([0.0, 0, 1]) - first[2] * first
    third /= np.linalg.norm(third)
    frame: Array = np.stack([first, np.cross(third, first), third], axis=1)
    return frame


def ellipsoid_distance(center: Array, radii: Array, frame: Array, x: Array, y: Array, z: Array) -> Array:
    """Return the signed distance of an ellipsoid, to first order (exact on its surface)."""
    offset = (x - np.float32(center[0]), y - np.float32(center[1]), z - np.float32(center[2]))
    k0: Any = np.float32(0)
    k1: Any = np.float32(0)
    for column, radius in zip(frame.T, radii, strict=True):
        along = sum(o * np.float32(c) for o, c in zip(offset, column, strict=True)) / np.float32(radius)
        k0 = k0 + along * along
        k1 = k1 + (along / np.float32(radius)) ** 2
    k0, k1 = np.sqrt(k0), np.sqrt(k1)
    distance: Array = k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))
    return distance


def ellipse_distance(u: Array, v: Array, a: float, b: float) -> Array:
    """Return the signed distance of an ellipse of half axes ``a``, ``b``, to first order."""
    k0 = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    k1 = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2)
    distance: Array = k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))
    return distance


def intersection(*distances: Array) -> Array:
    """Return the signed distance of what several solids have in common."""
    return functools.reduce(np.maximum, distances)


def smooth_union(a: Array, b: Array, width: float) -> Array:
    """Return the signed distance of the union of two solids, with a fillet of ``width`` mm."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    distance: Array = b + (a - b) * h - width * h * (1 - h)
    return distance


def interpolate_column(z: ArrayLike, table: Array, column: int) -> Array:
    """Interpolate a column of a table of rows (z, values...) at heights z, without overshoot."""
    from scipy.interpolate import PchipInterpolator

    heights = np.clip(z, table[0, 0], table[-1, 0])
    values: Array = PchipInterpolator(table[:, 0], table[:, column])(heights)
    return values


def smooth_path(knots: Sequence[ArrayLike], step: float = 4.0) -> Array:
    """Return a smooth path (N, 3) through knots, with points about ``step`` mm apart."""
    from scipy.interpolate import CubicSpline

    nodes = np.asarray(knots, dtype=float)
    length = np.concatenate([[0], np.linalg.norm(np.diff(nodes, axis=0), axis=1).cumsum()])
    count = max(2, round(length[-1] / step) + 1)
    path: Array = CubicSpline(length, nodes, bc_type="natural")(np.linspace(0, length[-1], count))
    return path


def bifurcation_ridge(node: ArrayLike, end_a: ArrayLike, radius_a: float, end_b: ArrayLike, radius_b: float) -> Array:
    """Return the tip of the ridge between two tubes that leave ``node``: the point on both of their surfaces."""
    node = np.asarray(node, dtype=float)
    a, b = (offset / np.linalg.norm(offset) for offset in (np.asarray(end_a) - node, np.asarray(end_b) - node))
    cosine = float(a @ b)
    sine = np.sqrt(1 - cosine**2)
    normal = (b - cosine * a) / sine  # perpendicular to a, towards b
    tip: Array = node + a * (radius_b + radius_a * cosine) / sine + normal * radius_a
    return tip


def mirrored(points: ArrayLike, side: int) -> Array:
    """Return points (N, 3) of the left half on a side, -1 right or 1 left."""
    moved: Array = np.asarray(points, dtype=float) * (side, 1, 1)
    return moved


def branching_tree(root: Array, targets: Array, leaf_radius: float) -> tuple[Array, Array, Array]:
    """Connect targets (N, 3) to a root by a branching tree.

    Each target, from near to far, joins the node that keeps both the new branch and its way to the root short.
    Radii follow Murray's law (The physiological principle of minimum work, PNAS 1926): the cube of a branch's radius
    is the sum of the cubes of its daughters'.

    Returns
    -------
    parent
        (N + 1,) index of each node's parent; the root is its own.
    nodes
        (N + 1, 3) positions, the root first.
    radius
        (N + 1,) of the branch that ends at each node, mm.
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

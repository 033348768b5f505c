"""The soft tissues of the chest: body wall, lungs, mediastinum, heart, and what of the abdomen a chest scan shows."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike

from samreg.phantoms.canvas import (
    CAVITY,
    FAT,
    HEART,
    HIGH_MM,
    LOW_MM,
    MUSCLE,
    SKIN,
    VESSEL,
    Array,
    Canvas,
    Tissue,
    branching_tree,
    ellipsoid_distance,
    frame_along,
    interpolate_column,
    intersection,
    mirrored,
    smooth_path,
    smooth_union,
)
from samreg.phantoms.trunk import (
    CAGE,
    HILUM,
    LUNG_APEX,
    SKIN_OUTLINE,
    SKIN_POWER,
    cage_distance,
    diaphragm_height,
    lung_distance,
    outline_distance,
    points_in_lung,
    spine_centers,
)


def paint_body(canvas: Canvas) -> None:
    """Paint skin, fat and the muscles of the body wall, arms raised."""
    body = canvas.solid(LOW_MM, HIGH_MM, functools.partial(outline_distance, SKIN_OUTLINE, SKIN_POWER))
    distance = body[1]
    for side in (-1, 1):  # raised arms
        box, arm = canvas.tube(mirrored([(150, 8, 62), (172, 4, 105), (178, 4, 172)], side), [56, 45, 40])
        distance[box] = smooth_union(distance[box], arm, 30)
    canvas.paint(body, SKIN)
    canvas.paint((body[0], distance + 2.2), FAT)
    x, y, z = canvas.coordinates(body[0])
    # subcutaneous fat is thicker in front and towards the belly
    fat = 9 + 5 * np.clip(-y / 100, -0.6, 1) + 4 * np.clip(-z / 150, -0.5, 1) + 2 * np.cos(x / 40)
    canvas.paint((body[0], distance + fat.astype(np.float32)), MUSCLE)
    for side in (-1, 1):  # fat of the axilla and between the muscles of the back
        canvas.paint(canvas.ellipsoid((side * 133, -6, 34), (15, 30, 36), (side * 0.5, -0.2, -1)), FAT)
        canvas.paint(canvas.tube(mirrored([(60, 78, 55), (112, 62, 10), (134, 38, -40)], side), 2.2, height=4), FAT)

    def plane(x: Array, y: Array, z: Array) -> Array:  # of fat between the muscles of the chest wall
        return intersection(np.abs(cage_distance(x, y, z) - 13) - 0.9, z - 40)

    canvas.paint(canvas.solid((-155, -125, -160), (155, 105, 40), plane), FAT)


def paint_lungs(canvas: Canvas) -> dict[str, Array]:
    """Paint both lungs with their vessels, and return the landmarks of their apices."""
    for side, label in ((-1, "right_lung"), (1, "left_lung")):
        low, high = (-136, -112, -180), (0, 85, 80)
        if side > 0:
            low, high = (0, -112, -180), (136, 85, 80)
        region = canvas.solid(low, high, functools.partial(lung_distance, side))
        y = canvas.coordinates(region[0])[1]
        canvas.paint(region, Tissue(label, -850), hu=-852 + 0.35 * (y + 10))  # denser where it lies
        _paint_vessels(canvas, side)
    return {"right_lung_apex": LUNG_APEX[-1], "left_lung_apex": LUNG_APEX[1]}


def _paint_vessels(canvas: Canvas, side: int) -> None:
    for kind, seed in (("artery", 3), ("vein", 5)):
        targets = points_in_lung(side, 190, seed + side)
        parent, nodes, radius = branching_tree(np.array(HILUM[side][kind], dtype=float), targets, 0.95)
        start = np.minimum(radius[parent], radius * 1.25)
        for i in range(1, len(nodes)):
            canvas.paint(canvas.tube(nodes[[parent[i], i]], [start[i], radius[i]]), VESSEL)


def paint_abdomen(canvas: Canvas) -> None:
    """Paint diaphragm, liver, spleen, stomach, kidneys and bowel."""
    low, high = (-140, -125, LOW_MM[2]), (140, 85, -85)
    box = canvas.box(low, high)
    x, y, z = canvas.coordinates(box)
    left = np.clip(x / 50 + 0.5, 0, 1)  # both halves meet in the central tendon
    floor = (1 - left) * diaphragm_height(-1, x, y) + left * diaphragm_height(1, x, y)
    inside = intersection(cage_distance(x, y, z) + 2, (z - floor) * np.float32(0.75))  # beneath the diaphragm
    canvas.paint((box, inside), MUSCLE)
    canvas.paint((box, inside + 3), FAT)

    def fill(center: ArrayLike, radii: ArrayLike, tissue: Tissue, margin: float = 3.5) -> None:
        part = functools.partial(ellipsoid_distance, np.array(center, float), np.array(radii, float), np.eye(3))
        canvas.paint((box, intersection(part(x, y, z), inside + margin)), tissue)

    fill((-62, -18, -165), (108, 98, 84), Tissue("liver", 58, 0.35))
    for path, radius in (
        ([(-20, 0, -150), (-60, -20, -148), (-95, -10, -140)], 4.5),
        ([(-60, -20, -148), (-80, 20, -160)], 3.5),
        ([(-28, 4, -112), (-60, 10, -118), (-88, -5, -125)], 3.5),
    ):
        canvas.paint(canvas.tube(smooth_path(path), radius), Tissue("vein", 44, 0.75))
    fill((88, 38, -152), (34, 42, 48), Tissue("spleen", 50, 0.5))
    fill((58, -38, -152), (48, 42, 40), Tissue("stomach", 40, 0.1))
    fill((62, -58, -143), (34, 17, 22), Tissue("gas", -960), 8)
    for side in (-1, 1):
        fill((side * 56, 42, -222), (29, 27, 58), Tissue("kidney", 35, 0.8))
    for path in ([(-30, -85, -215), (10, -95, -205), (60, -88, -208)], [(95, -30, -212), (100, -50, -205)]):
        canvas.paint(canvas.tube(smooth_path(path), 19), MUSCLE)
        canvas.paint(canvas.tube(smooth_path(path), 15), Tissue("gas", -900))
    spine = spine_centers()[0]
    canvas.paint(canvas.tube(spine[spine[:, 2] < 80], 24), FAT)


def paint_mediastinum(canvas: Canvas) -> None:
    """Paint the fat between the lungs."""
    width = np.array([(-125, 24), (-60, 26), (0, 26), (40, 30), (70, 30), (95, 26)], dtype=float)

    def mediastinum(x: Array, y: Array, z: Array) -> Array:
        half = interpolate_column(z, width, 1).astype(np.float32)
        front, back = (
            (interpolate_column(z, CAGE, 2) - interpolate_column(z, CAGE, 3) + 1).astype(np.float32),
            np.float32(52),
        )
        depth = (back - front) / 2
        scaled = np.sqrt(((x - 2) / half) ** 2 + (np.abs(y - (front + back) / 2) / depth) ** 2)
        return intersection((scaled - 1) * half, z - 92, -128 - z)

    canvas.paint(canvas.solid((-45, -115, -130), (45, 56, 95), mediastinum), FAT)


_VENTRICLE_APEX = np.array([80.0, -76, -92])
_VENTRICLE_BASE = np.array([10.0, -20, -48])


def paint_heart(canvas: Canvas) -> dict[str, Array]:
    """Paint the heart and its chambers, and return the landmark of its apex."""
    axis = (_VENTRICLE_APEX - _VENTRICLE_BASE) / np.linalg.norm(_VENTRICLE_APEX - _VENTRICLE_BASE)
    ventricle = _VENTRICLE_APEX - 46 * axis
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
        frame = np.eye(3) if along is None else frame_along(along)
        part = ellipsoid_distance(np.array(center, float), np.array(radii, float), frame, *canvas.coordinates(box))
        sac = smooth_union(sac, part, 14)
    canvas.paint((box, sac - 2.5), FAT)
    canvas.paint((box, sac + 1.0), HEART)
    for center, radii, along, _ in chambers:
        canvas.paint(canvas.ellipsoid(center, radii, along), HEART)
    for center, radii, along, wall in chambers:
        inner = np.asarray(center) - (0.0 if along is None else wall * 0.35 * np.asarray(along))
        canvas.paint(canvas.ellipsoid(inner, np.asarray(radii) - wall, along), CAVITY)
    septum = canvas.tube(smooth_path([ventricle + (-28, -4, 12), ventricle + (0, -26, 4), ventricle + 30 * axis]), 3.5)
    canvas.paint(septum, HEART)
    return {"left_ventricular_apex": _VENTRICLE_APEX}

"""The bones of the chest: spine, ribs, sternum and shoulders."""

from __future__ import annotations

import functools

import numpy as np

from samreg.phantoms.canvas import (
    Array,
    Canvas,
    Tissue,
    ellipse_distance,
    interpolate_column,
    intersection,
    mirrored,
    smooth_path,
)
from samreg.phantoms.trunk import CAGE, CAGE_POWER, FIRST_THORACIC, VERTEBRA_Z_MM, spine_centers, spine_frame


def paint_spine_and_ribs(canvas: Canvas) -> dict[str, Array]:
    """Paint vertebrae, discs, spinal canal and ribs, and return the landmarks of the first ribs' heads."""
    centers, back = spine_centers()
    canvas.paint(canvas.tube(centers, 12.5), Tissue("disc", 85))
    for i, height in enumerate(VERTEBRA_Z_MM):
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


def _paint_vertebra(canvas: Canvas, number: int, height: float) -> None:
    center, up, back = spine_frame(height)
    size = float(np.interp(number, [0, FIRST_THORACIC, 18], [0.72, 0.84, 1.15]))
    thickness = float(np.interp(number, [0, FIRST_THORACIC, 18], [11.5, 14.5, 21]))
    width, depth = 17.5 * size, 13.5 * size

    def body(x: Array, y: Array, z: Array) -> Array:
        u = (y - center[1]) * up[1] + (z - center[2]) * up[2]
        v = (y - center[1]) * back[1] + (z - center[2]) * back[2]
        waist = 2.0 * (1 - (2 * u / thickness) ** 2)
        return intersection(ellipse_distance(x, v, width, depth) + waist, np.abs(u) - thickness / 2).astype(np.float32)

    reach = np.array([25, 28, 22])
    canal = center + 23 * back
    ring = canvas.tube([canal - 4.5 * up, canal + 4.5 * up], 11)
    canvas.paint_bone(ring, "vertebra", marrow=320)
    tip = canal + (26 if number < 17 else 30) * back - (14 if number >= FIRST_THORACIC else 5) * up
    canvas.paint_bone(canvas.tube([canal + 9 * back, tip], [4.2, 3.2]), "vertebra")
    for side in (-1, 1):
        pedicle = center + 8 * back + np.array([side * 11.0 * size, 0, 0]) + 2 * up
        root = center + 22 * back + np.array([side * 11.0, 0, 0]) + 2 * up
        canvas.paint_bone(canvas.tube([pedicle, root], 4.2), "vertebra")
        length = 33 - 0.6 * max(0, number - FIRST_THORACIC) if number >= FIRST_THORACIC else 22
        canvas.paint_bone(
            canvas.tube([root, center + 31 * back + np.array([side * length, 0, 0]) + 2 * up], 4), "vertebra"
        )
    canvas.paint_bone(canvas.solid(center - reach, center + reach, body), "vertebra", marrow=190)


_RIB_DROP_MM = (32, 48, 60, 72, 82, 88, 92, 92, 88, 78, 55, 35)  # from the head to the front end, mm
_RIB_END_RAD = (2.45, 2.4, 2.35, 2.3, 2.25, 2.2, 2.15, 2.1, 2.05, 1.95, 1.6, 1.25)  # angle about the cage, 0 = back
_CARTILAGE_Z_MM = (48, 21, 0, -20, -38, -51, -61)  # where cartilages 1 to 7 meet the sternum


def _on_cage(angle: Array, z: Array, offset: float) -> Array:
    """Return points (N, 3) of the left half of the rib cage at angles from the back (0) to the front (pi)."""
    half_width, center, half_depth = (interpolate_column(z, CAGE, i) for i in (1, 2, 3))
    s, c = np.sin(angle), np.cos(angle)
    scale = (np.abs(s) ** CAGE_POWER + np.abs(c) ** CAGE_POWER) ** (-1 / CAGE_POWER)
    return np.stack([(half_width + offset) * s * scale, center + (half_depth + offset) * c * scale, z], axis=1)


def _paint_rib(canvas: Canvas, rib: int, side: int) -> Array:
    """Paint one rib and its cartilage; return the centre of its head."""
    center, up, back = spine_frame(VERTEBRA_Z_MM[FIRST_THORACIC + rib - 1])
    head = center + np.array([17.0 + 0.2 * rib, 0, 0]) + 8 * back + 4 * up
    tubercle = center + np.array([34.0, 0, 0]) + 27 * back + 2 * up
    angle = np.linspace(0.58, _RIB_END_RAD[rib - 1], 24)
    share = (angle - 0.58) / (angle[-1] - 0.58)
    z = tubercle[2] - 2 - _RIB_DROP_MM[rib - 1] * (0.35 * share + 0.65 * share**1.3)
    arc = _on_cage(angle, z, 4.5)
    path = np.concatenate([[head], smooth_path([tubercle, arc[1]], 6), arc[2:]])
    if rib <= 10:  # the last two end free
        canvas.paint(canvas.tube(mirrored(_cartilage(rib, arc[-1]), side), 4.2, height=1.3), Tissue("cartilage", 100))
    canvas.paint_bone(canvas.tube(mirrored(path, side), 3.9, height=1.55), "rib", cortex=1.5)
    return mirrored(head, side)


def _cartilage(rib: int, end: Array) -> Array:
    """Return the path (N, 3) of a left rib's cartilage from the end of its bone."""
    end_angle = _RIB_END_RAD[rib - 1]
    if rib > 7:  # joins the cartilage above
        return smooth_path([end, _on_cage(np.array([end_angle + 0.42]), np.array([end[2] + 16]), 4.5)[0]])
    height = _CARTILAGE_Z_MM[rib - 1]
    goal = np.array([16.0, _sternum_y(height), height])
    middle = _on_cage(np.array([(end_angle + 2.95) / 2]), np.array([0.6 * end[2] + 0.4 * height]), 4.5)[0]
    return smooth_path([end, middle, goal])


_NOTCH, _ANGLE, _JOINT, _XIPHOID = ((0, -52.0, 62.0), (0, -84.0, 21.0), (0, -106.0, -66.0), (0, -103.0, -92.0))
_STERNUM_HALF_MM = 5.5  # half its thickness, mm


def _sternum_y(z: float) -> float:
    knots = np.array([_XIPHOID, _JOINT, _ANGLE, _NOTCH])
    return float(np.interp(z, knots[:, 2], knots[:, 1]))


def paint_sternum(canvas: Canvas) -> dict[str, Array]:
    """Paint the sternum's three parts and their joints, and return its landmarks."""
    notch, angle, joint, xiphoid = (np.array(p) for p in (_NOTCH, _ANGLE, _JOINT, _XIPHOID))
    plates = (  # top, bottom, half widths from top to bottom, depth of the notch in the top
        (notch, angle, (17, 26, 24, 17), 5.0),
        (angle, joint, (15, 16, 19, 15), 0.0),
        (joint, xiphoid, (11, 9, 6, 3), 0.0),
    )
    for center, half in ((angle, 15), (joint, 11)):  # cartilage of the two joints
        canvas.paint(
            canvas.tube([center - (half, 0, 0), center + (half, 0, 0)], _STERNUM_HALF_MM), Tissue("cartilage", 100)
        )
    normals = []
    for top, bottom, half_widths, dip in plates:
        length = float(np.linalg.norm(top - bottom))
        up = (top - bottom) / length
        front = np.array([0, -up[2], up[1]])
        normals.append(front)
        corners = np.stack([top, bottom])
        plate = functools.partial(_plate_distance, top, up, front, length, half_widths, dip)
        region = canvas.solid(corners.min(axis=0) - (30, 9, 9), corners.max(axis=0) + (30, 9, 9), plate)
        canvas.paint_bone(region, "sternum", marrow=150)

    return {
        "jugular_notch": notch,
        "sternal_angle": _where_plates_meet(angle, normals[0], normals[1]),
        "xiphisternal_joint": _where_plates_meet(joint, normals[1], normals[2]),
    }


def _plate_distance(
    top: Array, up: Array, front: Array, length: float, half_widths: tuple[float, ...], dip: float, *xyz: Array
) -> Array:
    """Return the signed distance of one of the sternum's three plates."""
    x, y, z = xyz
    u = (y - top[1]) * up[1] + (z - top[2]) * up[2]  # 0 at the top border's midline, negative below
    v = (y - top[1]) * front[1] + (z - top[2]) * front[2]
    half = np.interp(-u / length, [0, 0.25, 0.6, 1], half_widths)
    rise = dip * np.clip(np.abs(x) / 12, 0, 1) ** 2
    distance = intersection(np.abs(x) - half, np.abs(v) - _STERNUM_HALF_MM, u - rise, -length + 1.5 - u)
    return distance.astype(np.float32)


def _where_plates_meet(point: Array, front_a: Array, front_b: Array) -> Array:
    """Return where the front faces of two plates meet, whose middles meet at a point."""
    meeting: Array = point + _STERNUM_HALF_MM * (front_a + front_b) / (1 + front_a @ front_b)
    return meeting


def paint_shoulders(canvas: Canvas) -> dict[str, Array]:
    """Paint clavicles, scapulae and humeri, and return their landmarks."""
    landmarks = {}
    for side, name in ((-1, "right"), (1, "left")):
        clavicle = mirrored(smooth_path([(27, -47, 65), (60, -50, 76), (100, -22, 92), (140, 8, 100)]), side)
        canvas.paint_bone(canvas.tube(clavicle, 6.2), "clavicle", cortex=1.8)
        inward = (clavicle[0] - clavicle[1]) / np.linalg.norm(clavicle[0] - clavicle[1])
        landmarks[f"{name}_clavicle_medial_end"] = clavicle[0] + 6.2 * inward

        tip, top, socket = (mirrored(p, side) for p in ((143, 34, -52), (82, 66, 62), (146, 12, 68)))
        blade = []
        for share in np.linspace(0, 1, 25):  # ribs of the blade, close enough to make a plate
            outer = top + share * (socket - top)
            bow = (tip + outer) / 2 + np.array([side * 8.0, 6, 0])
            blade.append(smooth_path([tip, bow, outer], 8))
        for line in blade:
            canvas.paint(canvas.tube(line, 1.9), Tissue("scapula", 420))
        canvas.paint_bone(canvas.tube(blade[-1], 4.5), "scapula", cortex=1.8)
        canvas.paint_bone(canvas.tube(blade[0], 3.2), "scapula")
        crest = mirrored(smooth_path([(92, 70, 40), (128, 52, 62), (150, 26, 100), (142, 8, 104)]), side)
        canvas.paint_bone(canvas.tube(crest, 4.2, height=1.4), "scapula")
        landmarks[f"{name}_scapula_inferior_angle"] = tip - (0, 0, 4.5)
        canvas.paint_bone(canvas.ellipsoid(socket, (9, 13, 17)), "scapula", marrow=300)
        humerus = mirrored([(170, 4, 84), (174, 4, 110), (178, 4, 172)], side)
        canvas.paint_bone(canvas.tube(humerus, [22, 12, 11]), "humerus", cortex=3, marrow=120)
    return landmarks

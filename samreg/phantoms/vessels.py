"""What runs through the mediastinum as tubes: great vessels, oesophagus and airways."""

from __future__ import annotations

import numpy as np

from samreg.phantoms.canvas import (
    AIR,
    WALL,
    Array,
    Canvas,
    Region,
    Tissue,
    bifurcation_ridge,
    branching_tree,
    smooth_path,
)
from samreg.phantoms.trunk import HILUM, points_in_lung


def _highest_point(path: Array, radius: Array) -> Array:
    """Return the most superior point of a tube's surface."""
    highest = np.argmax(path[:, 2] + radius)
    point: Array = path[highest] + (0, 0, radius[highest])
    return point


def great_vessels(canvas: Canvas) -> tuple[list[tuple[Region, Tissue]], dict[str, Array]]:
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
    vessels = [(canvas.tube(smooth_path(knots), radius), venous) for knots, radius in veins]
    vessels += [(canvas.tube(smooth_path(knots), radius), arterial) for knots, radius in arteries]
    azygos_radius = 4.6
    azygos = smooth_path(
        [(-4, 28, -160), (-8, 31, -60), (-12, 30, -10), (-24, 24, 8), (-31, 8, 14.5), (-32, -12, 12), (-32, -24, 8)], 1
    )
    vessels.append((canvas.tube(azygos, azygos_radius), venous))

    node, right, left, radius = (9.0, -31.0, -14.0), (-34.0, -17.0, -23.0), (36.0, -5.0, 2.0), 9.2
    trunk = smooth_path([(26, -66, -46), (20, -54, -30), node], 3)
    vessels += [
        (canvas.tube(trunk, np.linspace(14, 9.5, len(trunk))), pulmonary),
        (canvas.tube([node, right, HILUM[-1]["artery"]], [radius, radius, 7.5]), pulmonary),
        (canvas.tube([node, left, HILUM[1]["artery"], (46, 20, -26)], [radius, radius, 8, 6]), pulmonary),
    ]
    for side in (-1, 1):  # pulmonary veins into the left atrium
        for z, y in ((-30, -8), (-54, 12)):
            vessels.append((canvas.tube([(side * 46, y, z), (side * 28, 2, -44)], [5, 6]), venous))
    aorta = smooth_path(
        [(2, -34, -44), (-9, -42, -20), (-12, -42, 6), (-2, -29, 23), (12, -8, 26.5), (22, 16, 17)]
        + [(25, 31, -4), (24, 36, -40), (20, 35, -90), (10, 28, -140), (4, 14, -180), (3, 0, -217)],
        1,
    )
    aorta_radius = np.interp(np.linspace(0, 1, len(aorta)), [0, 0.12, 0.2, 0.4, 1], [16, 15.5, 12.8, 12, 10.5])
    vessels.append((canvas.tube(aorta, aorta_radius), Tissue("aorta", 42, 1.0)))
    return vessels, {
        "aortic_arch_top": _highest_point(aorta, aorta_radius),
        "azygos_arch_top": _highest_point(azygos, np.full(len(azygos), azygos_radius)),
        "pulmonary_bifurcation": bifurcation_ridge(node, right, radius, left, radius),
    }


def paint_airways(canvas: Canvas) -> dict[str, Array]:
    """Paint oesophagus, trachea and bronchi, and return the landmarks of the bronchi's branchings."""
    oesophagus = smooth_path(
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
    lumens: list[tuple[Array, float]] = [(smooth_path([(0, -40, 166), (-2, -32, 100), (-7, -14, 45), fork], 3), 8.4)]
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
        targets = points_in_lung(-1 if lobe.startswith("right") else 1, 60, seed)
        near = targets[np.linalg.norm(targets - root, axis=1) < 62][:9]
        parent, nodes, radius = branching_tree(np.array(root, dtype=float), near, 1.35)
        lumens += [(nodes[[parent[i], i]], min(radius[i], 2.4)) for i in range(1, len(nodes))]
    for path, lumen in lumens:
        canvas.paint(canvas.tube(path, lumen + (1.6 if lumen > 3 else 0.9)), WALL)
    for path, lumen in lumens:  # after all walls, so that the branches open into each other
        canvas.paint(canvas.tube(path, lumen), AIR)
    return {
        "carina": bifurcation_ridge(fork, right, 6.6, left, 6.0),
        "right_upper_lobe_carina": bifurcation_ridge(right, lobes["right_upper"], 4.4, middle, 5.3),
        "right_middle_lobe_carina": bifurcation_ridge(middle, lobes["right_middle"], 3.4, lobes["right_lower"], 4.4),
        "left_secondary_carina": bifurcation_ridge(left, lobes["left_upper"], 4.4, lobes["left_lower"], 4.4),
    }

"""The tables of a saved result: its matches, and the landmarks found in both images; places in LPS mm."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samreg.quality.regions import region_of
from samreg.registration.misses import LandmarkMisses
from samreg.spatial.files import reading
from samreg.spatial.grid import FloatArray
from samreg.spatial.points import Points

if TYPE_CHECKING:
    from samreg.matching import Correspondences


def write_correspondences(pairs: Correspondences, path: Path) -> None:
    """Write matches, one a row."""
    axes = "xyz"[: pairs.fixed.shape[1]]
    header = (
        [f"fixed_{a}" for a in axes] + [f"moving_{a}" for a in axes] + ["similarity", "reliability", "cycle_error_mm"]
    )
    table = np.column_stack([pairs.fixed, pairs.moving, pairs.similarity, pairs.reliability, pairs.cycle_error])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([[f"{value:.4f}" for value in row] for row in table])


def read_correspondences(path: Path) -> Correspondences:
    """Read what :func:`write_correspondences` wrote."""
    from samreg.matching import Correspondences

    with reading(path), path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
        table = np.array(rows, dtype=np.float64).reshape(-1, len(header))
        d = (len(header) - 3) // 2
        return Correspondences(table[:, :d], table[:, d : 2 * d], *table[:, 2 * d :].T)


def write_misses(misses: LandmarkMisses, path: Path) -> None:
    """Write landmarks found in both images, one a row, and by how much the transform misses them."""
    fixed, moving = misses.fixed, misses.moving
    assert fixed.scores is not None
    assert moving.scores is not None
    places = [column for role in ("fixed", "moving") for column in _place_columns(role, fixed.ndim)]
    numbers = np.column_stack([misses.distance, fixed.positions, fixed.scores, moving.positions, moving.scores])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["landmark", "region", "miss_mm", *places, "guided"])
        rows = zip(fixed.names, numbers, misses.guided, strict=True)
        writer.writerows(
            [name, region_of(name), *(f"{value:.4f}" for value in row), "yes" if guided else "no"]
            for name, row, guided in rows
        )


def read_misses(path: Path) -> LandmarkMisses:
    """Read what :func:`write_misses` wrote."""
    with reading(path), path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        header, rows = table.fieldnames or (), [*table]
        names = tuple(row["landmark"] for row in rows)
        ndim = 3 if "fixed_z" in header else 2

        def numbers(columns: Sequence[str]) -> FloatArray:
            return np.array([[row[column] for column in columns] for row in rows], dtype=np.float64).reshape(
                -1, len(columns)
            )

        fixed, moving = (
            Points(places[:, :ndim], names, places[:, ndim])
            for places in (numbers(_place_columns(role, ndim)) for role in ("fixed", "moving"))
        )
        # results before this column had none
        guided = np.array([row.get("guided") == "yes" for row in rows], dtype=bool)
        return LandmarkMisses(fixed, moving, numbers(["miss_mm"])[:, 0], guided)


def _place_columns(role: str, ndim: int) -> list[str]:
    """Return the columns that say where landmarks lie in the "fixed" or "moving" image, and how reliably."""
    return [*(f"{role}_{axis}" for axis in "xyz"[:ndim]), f"{role}_reliability"]

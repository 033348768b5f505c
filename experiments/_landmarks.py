"""What the landmark benchmarks share: the landmarks of a folder, and errors in a line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def read_landmarks(path: Path) -> dict[str, dict[str, list[float]]]:
    """Return positions, LPS mm, by subject and landmark, of a csv with columns subject, landmark, x, y, z."""
    subjects: dict[str, dict[str, list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            subjects.setdefault(row["subject"], {})[row["landmark"]] = [float(row[axis]) for axis in "xyz"]
    return subjects


def describe(errors: Sequence[float] | np.ndarray) -> str:
    """Return mean / median / 95th percentile."""
    e = np.asarray(errors)
    return f"{e.mean():.1f} / {np.median(e):.1f} / {np.percentile(e, 95):.1f}"

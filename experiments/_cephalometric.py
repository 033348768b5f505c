"""The cephalometric X-rays of the ISBI 2015 challenge as the benchmarks here read them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

import samreg
from samreg.spatial import Grid

PIXEL = 0.3  # mm; three original pixels of 0.1 mm averaged into one, whose centre lies at 0.3 i + 0.1 mm
FIRST = 0.1
RADII = (2.0, 2.5, 3.0, 4.0)  # mm, of the success rates


def read_image(folder: Path, name: str) -> samreg.Image:
    """Read an X-ray, placed as its landmarks are."""
    image = samreg.read_image(folder / "images" / f"{name}.jpg", spacing=PIXEL)
    return replace(image, grid=Grid.make(image.shape, origin=(FIRST, FIRST), spacing=PIXEL))


def read_landmarks(folder: Path, split: str) -> dict[str, np.ndarray]:
    """Return (19, 2) mm of every image of a split, the mean of its two readers."""
    readings: dict[str, list[np.ndarray]] = {}
    with (folder / "landmarks.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == split:
                points = [[float(row[f"{axis}{i}"]) for axis in "xy"] for i in range(1, 20)]
                readings.setdefault(row["image"], []).append(np.array(points))
    return {name: np.mean(both, axis=0) for name, both in readings.items()}


def summary(errors: np.ndarray) -> str:
    """Mean radial error and success detection rates of errors (N, 19) mm, as cells of a table."""
    rates = " | ".join(f"{100 * np.mean(errors <= radius):.1f}" for radius in RADII)
    return f"{errors.mean():.2f} | {np.median(errors):.2f} | {rates}"


def header(first: str) -> str:
    """Head of the table whose rows `summary` makes."""
    rates = " | ".join(f"within {radius:g} mm, %" for radius in RADII)
    return f"| {first} | mean, mm | median, mm | {rates} |\n|{'---|' * (3 + len(RADII))}"


def write_errors(path: Path, errors: dict[str, np.ndarray]) -> None:
    """Write errors (19,) mm of each image as csv."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *range(1, 20)])
        writer.writerows([name, *np.round(row, 3)] for name, row in errors.items())

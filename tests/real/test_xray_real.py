"""xray-ceph on cephalograms it was not trained on."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import samreg
from samreg.spatial import Grid


@pytest.fixture(scope="module")
def folder(data_dir: Path) -> Path:
    return data_dir / "xray" / "cephalometric"


def read(folder: Path, name: str) -> tuple[samreg.Image, np.ndarray]:
    """Return an image and its 19 landmarks, the mean of both readers."""
    image = samreg.read_image(folder / "images" / f"{name}.jpg", spacing=0.3)
    with (folder / "landmarks.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["image"] == name]
    points = [[[float(row[f"{axis}{i}"]) for axis in "xy"] for i in range(1, 20)] for row in rows]
    return replace(image, grid=Grid.make(image.shape, origin=(0.1, 0.1), spacing=0.3)), np.mean(points, axis=0)


def test_one_template_finds_the_landmarks_of_others(folder) -> None:
    template, points = read(folder, "125")
    embedding = samreg.embed(template)
    assert embedding.model.startswith("xray-ceph@")  # the default in 2D
    errors, reliability = [], []
    for name in ("155", "200", "245", "290"):
        target, truth = read(folder, name)
        found = samreg.match(embedding, points, target)
        errors.append(np.linalg.norm(found.points - truth, axis=1))
        reliability.append(found.reliability)
    errors, reliability = np.array(errors), np.array(reliability)
    assert errors.mean() < 3.0
    assert np.mean(errors <= 2.0) > 0.45
    assert errors[reliability > np.median(reliability)].mean() < errors[reliability <= np.median(reliability)].mean()

"""The tables in data/landmarks: names that are defined, people that are many, readings that agree."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "data" / "landmarks"


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def positions(name: str) -> dict[tuple[str, str], np.ndarray]:
    return {(row["subject"], row["landmark"]): np.array([float(row[axis]) for axis in "xyz"]) for row in rows(name)}


@pytest.mark.parametrize("name", ["train/landmarks.csv", "train/second_reading.csv"])
def test_every_landmark_is_defined_and_read_once(name):
    defined = {row["name"] for row in rows("train/definitions.csv")}
    read = Counter((row["subject"], row["landmark"]) for row in rows(name))
    assert {landmark for _, landmark in read} <= defined
    assert set(read.values()) == {1}


def test_training_landmarks_leave_the_benchmark_one_shot():
    benchmark = {row["name"] for row in rows("chest19.csv")}
    assert not benchmark & {row["name"] for row in rows("train/definitions.csv")}


def test_many_people_and_what_two_readers_differ_by():
    first, second = positions("train/landmarks.csv"), positions("train/second_reading.csv")
    assert len({subject for subject, _ in first}) >= 19
    apart = [np.linalg.norm(first[key] - position) for key, position in second.items()]
    assert np.median(apart) < 2.5


def test_vertebrae_lie_in_order_and_ribs_and_shoulders_on_their_side():
    table = positions("train/landmarks.csv")
    order = ["C7", *(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6))]
    for subject in {subject for subject, _ in table}:
        heights = [table[key][2] for level in order if (key := (subject, f"vertebra_{level}")) in table]
        assert all(upper > lower for upper, lower in zip(heights, heights[1:], strict=False)), subject
        for (name, landmark), position in table.items():
            left = (name, landmark.replace("right_", "left_", 1))
            if name == subject and landmark.startswith("right_") and left in table:
                assert table[left][0] > position[0], (subject, landmark)

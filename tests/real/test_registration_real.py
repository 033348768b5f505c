"""register(), match() and match_set() on real scans: landmarks of different people, two visits of one."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import samreg
from samreg.quality import dice

pytestmark = pytest.mark.usefixtures("embeddings_kept")

FIXED, MOVING = "LUNG1-001", "LIDC-0004"


@pytest.fixture(scope="module")
def images(data_dir: Path) -> dict[str, samreg.Image]:
    return {name: samreg.read_image(data_dir / "ct/benchmark/images" / f"{name}.nii.gz") for name in (FIXED, MOVING)}


@pytest.fixture(scope="module")
def landmarks(data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    points: dict[str, dict[str, list[float]]] = {FIXED: {}, MOVING: {}}
    with (data_dir / "ct/benchmark/landmarks.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["subject"] in points:
                points[row["subject"]][row["landmark"]] = [float(row[axis]) for axis in "xyz"]
    shared = [name for name in points[FIXED] if name in points[MOVING]]
    return tuple(np.array([points[subject][name] for name in shared]) for subject in (FIXED, MOVING))


@pytest.fixture(scope="module")
def embedded(images: dict[str, samreg.Image]) -> samreg.RegistrationResult:
    return samreg.register(images[FIXED], images[MOVING], method="embedding")


def test_embeddings_align_two_people(embedded, landmarks) -> None:
    x, y = landmarks
    there = np.linalg.norm(embedded.transform_points(x, to="moving") - y, axis=1)
    back = np.linalg.norm(embedded.transform_points(y, to="fixed") - x, axis=1)
    assert there.mean() < 20  # ANTs SyN alone averages 22 mm over the pairs of this benchmark
    assert back.mean() < 25


def test_inverse_is_true_inside_the_body(embedded) -> None:
    assert embedded.quality["inverse_residual_p95_mm"] < 0.5
    assert embedded.quality["folding_percent"] == 0


def test_the_report_of_a_real_pair_is_small(embedded, tmp_path) -> None:
    assert embedded.report(tmp_path / "report.html").stat().st_size < 5e6


@pytest.mark.slow
def test_hybrid_brings_two_people_closer_than_the_embeddings_alone(images, landmarks, embedded) -> None:
    x, y = landmarks
    result = samreg.register(images[FIXED], images[MOVING])
    assert result.options["engine"] == "torch"
    hybrid, alone = (np.linalg.norm(r.transform_points(x, to="moving") - y, axis=1) for r in (result, embedded))
    assert hybrid.mean() < alone.mean()
    assert result.quality["folding_percent"] == 0
    assert result.quality["inverse_residual_p95_mm"] < 0.5


def test_match_finds_landmarks_of_another_person(images, landmarks) -> None:
    x, y = landmarks
    found = samreg.match(images[FIXED], x, images[MOVING])
    assert np.median(np.linalg.norm(found.points - y, axis=1)) < 14


def test_three_templates_are_nearer_than_one(data_dir: Path) -> None:
    templates = samreg.read_templates(data_dir / "ct/benchmark")
    target = next(template for template in templates if template.name == MOVING)
    others = [template for template in templates if template is not target]
    found = samreg.match_set(others, target.embedding)

    def mean_error(points: samreg.Points) -> float:
        shared = [name for name in points.names if name in target.points.names]
        distance = points.named(shared).positions - target.points.named(shared).positions
        return np.linalg.norm(distance, axis=1).mean()

    assert len(found.answers) == 3
    alone = np.mean([mean_error(answer.to_points()) for answer in found.answers.values()])
    assert mean_error(found.to_points()) < 0.85 * alone


def test_two_visits_of_one_lung(data_dir: Path) -> None:
    fixed, moving, fixed_mask, moving_mask = (
        samreg.read_image(data_dir / "ct/lung_pair" / f"3DCT_lung_{name}.nii.gz")
        for name in ("baseline", "followup", "baseline_mask", "followup_mask")
    )
    result = samreg.register(
        fixed, moving, method="embedding", fixed_mask=fixed_mask, moving_mask=moving_mask, transform="affine"
    )
    assert result
    after = result.warp(moving_mask, interpolation="nearest").array > 0
    assert dice(after, fixed_mask.array > 0)[1] > 0.85

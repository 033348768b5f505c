"""Template sets and lesion tracking on real scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import samreg
from samreg.phantoms.followup import simulate_followup
from samreg.tracking import tracking_errors


def test_three_templates_are_nearer_than_one(data_dir: Path, tmp_path: Path) -> None:
    templates = samreg.read_templates(data_dir / "ct/benchmark", cache=tmp_path)
    target = next(template for template in templates if template.name == "LIDC-0004")
    others = [template for template in templates if template is not target]

    def errors(some: list[samreg.Template]) -> np.ndarray:
        found = samreg.match_set(some, target.embedding).to_points()
        shared = [name for name in found.names if name in target.points.names]
        return np.linalg.norm(found.named(shared).positions - target.points.named(shared).positions, axis=1)

    alone = np.mean([errors([template]).mean() for template in others])
    assert errors(others).mean() < 0.85 * alone


def test_lesions_of_a_simulated_follow_up_are_found(data_dir: Path) -> None:
    image = samreg.read_image(data_dir / "ct/benchmark/images/LUNG1-003.nii.gz")
    visits = simulate_followup(image, seed=1)
    tracks = samreg.track(visits.baseline, visits.followup, visits.labels)
    errors = tracking_errors(tracks.points, visits.centers)
    assert errors.count >= 6
    assert errors.within_10mm >= 0.91
    assert errors.mean < 4
    truth = 100 * ((visits.volumes[:, 1] / visits.volumes[:, 0]) ** (1 / 3) - 1)
    measured = [(lesion.change, true) for lesion, true in zip(tracks.lesions, truth, strict=True) if lesion.change]
    assert measured
    assert np.abs(np.subtract(*np.array(measured).T)).max() < 10

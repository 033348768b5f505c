"""Lesion tracking on real scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import samreg
from samreg.phantoms.followup import simulate_followup
from samreg.tracking import tracking_errors

LUNGS = slice(10, 85)  # slices that show them, of those of the scan


def test_lesions_of_a_simulated_follow_up_are_found(data_dir: Path) -> None:
    scan = samreg.read_image(data_dir / "ct/benchmark/images/LUNG1-003.nii.gz")
    image = samreg.Image.from_array(
        scan.array[LUNGS], origin=scan.grid.index_to_world([0, 0, LUNGS.start])[0], spacing=scan.spacing
    )
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

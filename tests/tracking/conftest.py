"""A phantom with five lesions and its simulated second visit."""

from __future__ import annotations

from pathlib import Path

import pytest

import samreg
from samreg.phantoms.followup import FollowUp, simulate_followup
from samreg.phantoms.phantom import make_phantom
from samreg.tracking import LesionTracks


def simulate(lowest: float, highest: float) -> FollowUp:
    phantom = make_phantom(0, spacing=4.0, field_of_view=(lowest, highest))
    return simulate_followup(phantom.image, lesions=5, seed=3)


@pytest.fixture(scope="session")
def visits() -> FollowUp:
    return simulate(-40.0, 40.0)


@pytest.fixture(scope="session")
def tall_visits() -> FollowUp:
    """So much of the body that a part of it can be cut off and the rest still be aligned."""
    return simulate(-110.0, 90.0)


@pytest.fixture(scope="session")
def tracks(visits) -> LesionTracks:
    return samreg.track(visits.baseline, visits.followup, visits.labels)


@pytest.fixture(scope="session")
def folder(visits, tmp_path_factory) -> Path:
    """Both visits and their lesions as files."""
    folder = tmp_path_factory.mktemp("visits")
    samreg.write_image(visits.baseline, folder / "baseline.nii.gz")
    samreg.write_image(visits.followup, folder / "followup.nii.gz")
    samreg.write_image(visits.labels, folder / "lesions.nii.gz")
    samreg.write_points(samreg.Points(visits.centers, visits.points.names), folder / "truth.csv")
    return folder

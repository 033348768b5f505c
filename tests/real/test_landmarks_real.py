"""Named landmarks in people whom the training of `ct-small` left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import samreg
from samreg.landmarks.atlas import atlas_for
from samreg.landmarks.locate import locate
from samreg.matching import features
from samreg.training.landmark_pairs import read_landmarks

LANDMARKS = Path(__file__).parents[2] / "data" / "landmarks" / "train" / "landmarks.csv"


@pytest.mark.parametrize("person", ["AMOS-0336", "CPTAC-C3N-00249", "NSCLCRG-R01-001"])
def test_vertebrae_are_found_on_their_levels(data_dir, person: str) -> None:
    image = samreg.read_image(data_dir / "ct" / "train" / "images" / f"{person}.nii.gz")
    embedding = samreg.embed(image)
    atlas = atlas_for(embedding.model, person)
    others = atlas.without(atlas.people.index(person))
    found = locate(others, features(embedding), embedding.image_grid, image=image)
    known = read_landmarks(LANDMARKS)[person]
    rows = [i for i, name in enumerate(others.names) if name.startswith("vertebra_") and name in known.names]
    assert found.counted[rows].all()
    truth = known.named([others.names[i] for i in rows]).positions
    errors = np.linalg.norm(found.positions[rows] - truth, axis=1)
    assert errors.max() < 12
    assert errors.mean() < 5

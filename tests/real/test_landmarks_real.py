"""Named landmarks in people whom the training of `ct-small` left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import samreg
from samreg.landmarks.atlas import LandmarkAtlas, atlas_for
from samreg.landmarks.scapulae import scapula_shape
from samreg.landmarks.skeleton import Survey, paired_bones, survey, taken_by_bones
from samreg.matching import features
from samreg.training.landmark_pairs import read_landmarks

LANDMARKS = Path(__file__).parents[2] / "data" / "landmarks" / "train" / "landmarks.csv"


PEOPLE = ("AMOS-0336", "CPTAC-C3N-00249", "NSCLCRG-R01-001")


@pytest.fixture(scope="module")
def surveys(data_dir) -> dict[str, Survey]:
    """What the landmark atlas of all others finds in them."""
    found = {}
    for person in PEOPLE:
        embedding = samreg.embed(data_dir / "ct" / "train" / "images" / f"{person}.nii.gz")
        atlas: LandmarkAtlas = atlas_for(embedding.model, person)
        for left_out in PEOPLE:
            atlas = atlas.without(atlas.people.index(left_out))
        found[person] = survey(atlas, embedding, features(embedding))
    return found


@pytest.mark.parametrize("person", PEOPLE)
def test_vertebrae_are_found_on_their_levels(surveys, person: str) -> None:
    names, located = surveys[person].names, surveys[person].located
    known = read_landmarks(LANDMARKS)[person]
    rows = [i for i, name in enumerate(names) if name.startswith("vertebra_") and name in known.names]
    assert located.counted[rows].all()
    errors = np.linalg.norm(located.positions[rows] - known.named([names[i] for i in rows]).positions, axis=1)
    assert errors.max() < 12
    assert errors.mean() < 5


def test_all_shoulder_blades_are_found_by_their_shape(surveys) -> None:
    """Their landmarks to within what readers leave open, 10 mm at the root of the spine."""
    errors = []
    for person in PEOPLE:
        known = read_landmarks(LANDMARKS)[person]
        scapulae = surveys[person].located.structures.scapulae
        assert set(scapulae) == {"left", "right"}
        for side, bone in scapulae.items():
            assert bone.seen.mean() > 0.8
            for name, place in zip(scapula_shape().names, bone.landmarks, strict=True):
                if f"{side}_{name}" in known.names:
                    errors.append(float(np.linalg.norm(place - known.named([f"{side}_{name}"]).positions[0])))
    assert len(errors) > 20
    assert np.median(errors) < 10
    assert max(errors) < 20


@pytest.mark.parametrize("pair", [PEOPLE[:2], PEOPLE[1:], (PEOPLE[2], PEOPLE[0])])
def test_bones_take_landmarks_to_the_other_person(surveys, pair: tuple[str, str]) -> None:
    bones = paired_bones(*(surveys[person] for person in pair))
    assert len(bones) == 3
    first, second = (read_landmarks(LANDMARKS)[person] for person in pair)
    names = [name for name in first.names if name in second.names and name.startswith("vertebra_T")]
    taken = taken_by_bones(bones, first.named(names).positions)
    assert sorted(taken.rows) == list(range(len(names)))
    truth = second.named([names[i] for i in taken.rows]).positions
    assert np.median(np.linalg.norm(taken.positions - truth, axis=1)) < 6

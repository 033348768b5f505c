"""Which of the poses that are tried is taken, told of matches that are made up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from samreg.matching import Correspondences
from samreg.matching.reliability import DEFAULT_CALIBRATION
from samreg.seeding import poses
from samreg.seeding.affine import AffineFit
from samreg.seeding.orientation import turn_notes
from samreg.seeding.poses import Pose, PoseSearch
from samreg.spatial import AffineTransform, Image
from tests.seeding.test_turns import about

SHORT = Image.from_array(np.zeros((4, 4, 4), np.float32), name="short")


def matched(turn: np.ndarray, share: float, distance: float) -> Pose:
    """Return a pose whose matches are as close as told, and agree so far on a body that lies upright."""
    rng = np.random.default_rng(round(1000 * distance))
    points = rng.uniform(0, 100, (40, 3))
    similarity = 1 - distance + rng.normal(0, 0.02, len(points))
    pairs = replace(Correspondences.from_points(points, points), similarity=similarity)
    fit = AffineFit(AffineTransform.identity(3), np.ones(40, bool), share, 1.0)
    return Pose(turn, None, pairs, fit)


@dataclass(frozen=True, eq=False)
class Told(PoseSearch):
    """Knows what the matches after each turn would be."""

    known: tuple[Pose, ...] = ()
    tried: list[Pose] = field(default_factory=list)

    def pose(self, turn, embedding=None) -> Pose:
        self.tried.append(next(pose for pose in self.known if np.array_equal(pose.turn, turn)))
        return self.tried[-1]


def search(monkeypatch, *known: Pose) -> Told:
    """Return a search that is proposed these poses' turns in order."""
    turns = [pose.turn for pose in known]
    answers = iter([turns, []])  # rotations, then reflections
    monkeypatch.setattr(poses, "propose_turns", lambda *_, **__: next(answers))
    features = SimpleNamespace(device="cpu")
    return Told(SHORT, SHORT, None, features, DEFAULT_CALIBRATION, None, "affine", 0, known=known)  # type: ignore[arg-type]


WEAK = matched(np.eye(3), 0.15, 0.34)
UPSIDE_DOWN = matched(about((1, 0, 0), 180), 0.37, 0.23)  # as measured on 155 mm of a phantom, turned by 150 degrees
RIGHT = matched(about((1, 2, -1), 150), 0.65, 0.11)
ANOTHER = matched(about((0, 0, 1), 90), 0.2, 0.3)


def test_a_pose_that_matches_agree_on_by_a_third_is_not_taken_before_the_others_are_tried(monkeypatch) -> None:
    """A body turned upside down was, 132 mm off."""
    given = search(monkeypatch, UPSIDE_DOWN, RIGHT, ANOTHER)
    assert given.best_pose(WEAK) is RIGHT
    assert given.tried == [UPSIDE_DOWN, RIGHT]  # a sure one ends the search


@pytest.mark.parametrize("order", [(UPSIDE_DOWN, ANOTHER), (ANOTHER, UPSIDE_DOWN)])
def test_the_closest_is_taken_where_none_is_sure(monkeypatch, order) -> None:
    assert search(monkeypatch, *order).best_pose(WEAK) is UPSIDE_DOWN


@pytest.mark.parametrize(("pose", "is_sure"), [(RIGHT, True), (UPSIDE_DOWN, False)])
def test_of_a_turn_that_few_matches_agree_on_the_user_is_told_that_it_is_unsure(pose, is_sure) -> None:
    assert pose.is_sure == is_sure
    (note,) = turn_notes(AffineTransform(pose.turn, np.zeros(3)), SHORT, SHORT, pose=pose)
    assert "lies turned" in note
    assert ("how it lies is unsure: only 37 % of the matches agree" in note) != is_sure

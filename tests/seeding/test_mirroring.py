"""How evidence of left and right is combined."""

from __future__ import annotations

import numpy as np

from samreg.seeding.mirroring import MirrorProbabilities, PairedDifference


def test_sides_that_both_images_show_outweigh_doubtful_matches() -> None:
    assert MirrorProbabilities.from_log_odds(-3.0).opposite_laterality > 0.9
    assert MirrorProbabilities.from_log_odds(-3.0, 6.0, 6.0).opposite_laterality < 0.1
    assert MirrorProbabilities.from_log_odds(3.0, 5.0, -5.0).opposite_laterality > 0.5


def test_what_rounding_changes_is_no_evidence():
    """A body with two like sides was said to show which is which, on processors that compute in bfloat16."""
    one = np.ones(150)
    rounded = one - np.random.default_rng(0).uniform(1e-6, 1e-5, one.shape)
    assert abs(PairedDifference.of(one, rounded).log_odds) < 0.5
    assert not PairedDifference.of(one, rounded).favours_first
    assert PairedDifference.of(one, one - np.random.default_rng(0).normal(0.05, 0.05, one.shape)).favours_first

"""How evidence of left and right is combined."""

from __future__ import annotations

from samreg.seeding.mirroring import MirrorProbabilities


def test_sides_that_both_images_show_outweigh_doubtful_matches() -> None:
    assert MirrorProbabilities.from_log_odds(-3.0).opposite_laterality > 0.9
    assert MirrorProbabilities.from_log_odds(-3.0, 6.0, 6.0).opposite_laterality < 0.1
    assert MirrorProbabilities.from_log_odds(3.0, 5.0, -5.0).opposite_laterality > 0.5

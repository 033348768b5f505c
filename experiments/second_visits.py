"""Simulated second visits of real CTs by each engine, at points whose true places are known.

    python experiments/second_visits.py IMAGE [IMAGE ...] --engines torch elastix ants --anchors yes no

Each image and its second visit (`samreg.phantoms.simulate_followup`) are registered by hybrids, with and without the
landmarks found in both as guides. Prints the errors of the seed's field and of the result at points of the body that
lie 10 mm and more within the second scan, mean / median / 95th percentile in mm, how many of them are below the
expected error, and the median similarity of the matches over the body, which tells one person from two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _landmarks import describe

import samreg
from samreg.embedding.embedding import Embedding
from samreg.matching import Calibration, features
from samreg.phantoms.followup import FollowUp, simulate_followup
from samreg.seeding import global_affine

MARGIN_MM = 10.0
BODY_HU = -300.0


def points_of(visit: FollowUp, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, 3) of the body at the first visit, and where they are at the second, LPS mm."""
    index = np.argwhere(visit.baseline.array > BODY_HU)
    chosen = index[np.random.default_rng(0).choice(len(index), min(count, len(index)), replace=False)]
    points = visit.baseline.grid.index_to_world(chosen[:, ::-1])
    truth = visit.transform.transform_points(points)
    shown = visit.followup.grid.contains(truth, margin=-MARGIN_MM)
    return points[shown], truth[shown]


def similarity(fixed: Embedding, moving: Embedding) -> float:
    """Return the median similarity of matches over the body, as registrations judge by it."""
    calibration = Calibration.from_mapping(fixed.calibration)
    _, pairs = global_affine(features(fixed), features(moving), calibration=calibration)
    return float(np.median(pairs.similarity))


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--engines", nargs="+", default=["torch", "elastix", "ants"])
    parser.add_argument("--anchors", nargs="+", default=["yes"], choices=["yes", "no"])
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--points", type=int, default=3000)
    arguments = parser.parse_args()
    for path in arguments.images:
        visit = simulate_followup(samreg.read_image(path), strength=arguments.strength, seed=arguments.seed)
        points, truth = points_of(visit, arguments.points)
        alike = similarity(samreg.embed(visit.baseline), samreg.embed(visit.followup))
        print(f"{path.name}: {len(points)} points, median similarity {alike:.3f}", flush=True)
        for engine in arguments.engines:
            for anchors in arguments.anchors:
                result = samreg.register(
                    visit.baseline, visit.followup, engine=engine, anchors=anchors == "yes", seed=0
                )
                if not result:
                    print(f"  {engine}: {result.reason}")
                    continue
                seed, found = (
                    np.linalg.norm(transform.transform_points(points) - truth, axis=1)
                    for transform in (result.seed.transform, result.transform)
                )
                below = np.mean(found <= result.expected_error(points))
                print(
                    f"  {engine}, anchors {anchors}: seed {describe(seed)}, result {describe(found)}, {below:.0%} "
                    f"below what is told; {result.verdict}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

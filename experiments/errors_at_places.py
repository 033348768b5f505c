"""What errors stay below around landmarks that both images show, which :mod:`samreg.registration.confidence` tells.

    python experiments/errors_at_places.py IMAGES data/landmarks/train/landmarks.csv \
        --left-out AMOS-0336 NSCLCRG-R01-001 CPTAC-C3N-00249

Pairs of training people are registered with the landmark atlas without both. At their own landmarks the error is
compared with the distance from the nearest guide, added to what the registration misses that guide by. A quantile
regression on this and the guide's reliability is fitted to all pairs but one, and measured on that one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
from scipy.optimize import minimize
from scipy.stats import spearmanr

import samreg
from samreg.landmarks.atlas import atlas_for
from samreg.registration.anchors import find_anchors
from samreg.registration.confidence import ErrorModel, gather
from samreg.spatial import Points, Transform
from samreg.spatial.grid import FloatArray
from samreg.training.data import named_images
from samreg.training.expected_error import pairs_of
from samreg.training.landmark_pairs import read_landmarks

QUANTILE, REACH_MM = 0.8, 16.0
FAR_MM = 1e3  # from a place where there is none


class Case(NamedTuple):
    """Landmarks (N,) of a pair: errors, what matches tell, and how near guides are: distance and miss, mm."""

    errors: FloatArray
    told: FloatArray
    near: FloatArray
    reliability: FloatArray  # of the nearest guide
    near_scapula: FloatArray
    near_rib: FloatArray


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("landmarks", type=Path)
    parser.add_argument("--left-out", nargs="+", required=True, help="people the model's training left out")
    parser.add_argument("--pairs", type=int, default=18, help="with one of these")
    parser.add_argument("--others", type=int, default=10, help="pairs of other people")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    landmarks = {name: points for name, points in read_landmarks(given.landmarks).items() if len(points) >= 8}
    unseen = set(given.left_out)
    others = [pair for pair in pairs_of(landmarks, len(landmarks) ** 2) if not unseen & set(pair)]
    pairs = [*pairs_of(landmarks, given.pairs, unseen=given.left_out), *others[: given.others]]
    images = named_images(given.images, {person for pair in pairs for person in pair})
    tasks = (joblib.delayed(case_of)([images[p] for p in pair], [landmarks[p] for p in pair], pair) for pair in pairs)
    report([case for case in joblib.Parallel(n_jobs=given.jobs)(tasks) if case is not None])


def case_of(paths: list[Path], landmarks: list[Points], pair: tuple[str, str]) -> Case | None:
    """Register a pair and measure its landmarks; None where it failed."""
    model = samreg.load_model("ct-small")
    fixed, moving = (samreg.read_image(path) for path in paths)
    atlas = atlas_for(model.identity, pair[0]).without_people(pair)
    transform = samreg.register(fixed, moving, model=model, anchors=atlas, threads=1).transform
    if transform is None:
        return None
    embeddings = model.embed(fixed), model.embed(moving)
    names = [name for name in landmarks[0].names if name in set(landmarks[1].names)]
    first, second = (points.named(names).positions for points in landmarks)
    anchors = find_anchors(embeddings, atlas)
    evidence = gather(first, transform, embeddings, anchors)
    fitted = ErrorModel.shipped(model.identity, "engine")
    assert evidence is not None
    assert fitted is not None
    own_fixed, own_moving, reliability = anchors.single
    near, row = nearest(first, own_fixed, own_moving, transform)
    bones = anchors.on_scapulae, anchors.on_ribs
    scapula, rib = (nearest(first, on_fixed, on_moving, transform)[0] for on_fixed, on_moving in bones)
    errors = np.linalg.norm(transform.transform_points(first) - second, axis=1)
    print(f"{pair[0]} <- {pair[1]}: {len(names)} landmarks, {errors.mean():.1f} mm", flush=True)
    sure = reliability[row] if len(reliability) else np.zeros(len(first))
    return Case(errors, fitted(evidence), near, sure, scapula, rib)


def nearest(
    points: FloatArray, fixed: FloatArray, moving: FloatArray, transform: Transform
) -> tuple[FloatArray, np.ndarray]:
    """Return the least distance (N,) from a place, its miss added, mm, and which place that is."""
    if not len(fixed):
        return np.full(len(points), FAR_MM), np.zeros(len(points), dtype=np.int64)
    missed = np.linalg.norm(transform.transform_points(fixed) - moving, axis=1)
    off = np.linalg.norm(points[:, None] - fixed, axis=2) + missed
    return off.min(axis=1), off.argmin(axis=1)


def below(line: FloatArray, case: Case) -> FloatArray:
    """Return below what errors stay by a line (at, rise, unsure), mm; infinite far from all guides."""
    told = (line[0] + line[1] * case.near) * np.exp(line[2] * (1 - case.reliability))
    return np.where(case.near < REACH_MM, told, np.inf)


def fit(cases: list[Case]) -> FloatArray:
    """Fit (at, rise, unsure) of :func:`below`: quantile regression of ln(mm + 1) near guides."""

    def pinball(line: FloatArray) -> float:
        told = np.concatenate([below(line, case) for case in cases])
        errors = np.concatenate([case.errors for case in cases])[np.isfinite(told)]
        residual = np.log1p(errors) - np.log1p(np.maximum(told[np.isfinite(told)], 0.1))
        return float(np.maximum(QUANTILE * residual, (QUANTILE - 1) * residual).mean())

    return np.asarray(minimize(pinball, [2.0, 1.5, 0.0], method="Nelder-Mead", options={"maxiter": 4000}).x)


def report(cases: list[Case]) -> None:
    """Print the fit, errors by distance, and what is told of pairs that are left out of the fit."""
    errors = np.concatenate([case.errors for case in cases])
    told = f"{errors.mean():.1f} / {np.median(errors):.1f} / {np.percentile(errors, 95):.1f} mm"
    print(f"{len(cases)} pairs, {len(errors)} landmarks: mean / median / 95th percentile {told}")
    print(f"at, rise, unsure: {fit(cases).round(2)}")
    for title, kind in (("guide", "near"), ("place on a shoulder blade", "near_scapula"), ("on a rib", "near_rib")):
        distance = np.concatenate([getattr(case, kind) for case in cases])
        for low, high in ((0, 2), (2, 4), (4, 6), (6, 8), (8, 12), (12, 16)):
            chosen = errors[(distance >= low) & (distance < high)]
            if len(chosen):
                print(f"{title}, {low} to {high} mm: {len(chosen)}, 80 % below {np.percentile(chosen, 80):.1f} mm")
    by_matches = [case.told for case in cases]
    rest = [below(fit([other for other in cases if other is not case]), case) for case in cases]
    by_guides = [np.minimum(*both) for both in zip(by_matches, rest, strict=True)]
    for title, told in (("matches alone", by_matches), ("guides as well", by_guides)):
        every = np.concatenate(told)
        within = every <= 10
        overall = spearmanr(every, errors)[0]
        in_pair = np.mean([spearmanr(one, case.errors)[0] for one, case in zip(told, cases, strict=True)])
        print(
            f"{title}: Spearman {overall:.2f}, in a pair {in_pair:.2f}; {np.mean(errors <= every):.0%} below; "
            f"{within.mean():.0%} told within 10 mm, of these right {np.mean(errors[within] <= 10):.0%}"
        )


if __name__ == "__main__":
    main()

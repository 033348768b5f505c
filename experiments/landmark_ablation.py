"""One-shot landmark matching without any registration: what each part of it is worth, on all ordered pairs of a folder.

The folder holds ``images/NAME.nii.gz`` and ``landmarks.csv`` (subject, landmark, x, y, z in LPS mm).

    python experiments/landmark_ablation.py FOLDER --models mind ct-small

Prints, for every model and variant, mean / median / 95th percentile of the error, the share within 10 mm, and the
share of the errors above 15 mm that the quarter of least reliability holds; then, with the targets cut, how well the
reliability tells landmarks outside the field of view from those inside.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
from _landmarks import GROSS_MM, auc, describe

import samreg
from samreg.matching import Calibration, Prediction, features, match_points, stable_matches
from samreg.seeding import fit_affine, global_affine, make_seed, predict_locally
from samreg.spatial import Grid, Image
from samreg.spatial.io_points import find_points

WINDOW = (45.0, 0.3)
NOISE_MM = 12.0  # standard deviation of a sure match's error


def variants(fixed, moving, points):
    """Name, positions (N, 3) and reliability (N,) of every way to match."""
    calibration = Calibration.from_mapping(fixed.calibration)
    for parts in (("local",), ("global",), ("local", "global")) if fixed.global_ is not None else (("local",),):
        f, m = (features(e, parts=parts) for e in (fixed, moving))
        matches = match_points(f, points, m, calibration=calibration)
        yield " + ".join(parts) + ", nearest neighbour in the body", matches.moving, matches.reliability
    lattices = {
        "lattice matches": global_affine(f, m, spacing=32.0, calibration=calibration)[1],
        "fixed points (stable matches)": stable_matches(f, m, spacing=24.0, calibration=calibration),
    }
    for name, pairs in lattices.items():
        fit = fit_affine(pairs)
        if not fit:
            yield f"within {WINDOW[0]:g} mm of the {name} around it", *nothing(points)
            continue
        left = np.linalg.norm(fit.transform.transform_points(pairs.fixed) - pairs.moving, axis=1)
        near = pairs.take(left < WINDOW[0])
        noise = NOISE_MM / np.sqrt(near.reliability.clip(min=0.05))
        expected = predict_locally(near.fixed, near.moving, noise, fit.transform, points)
        matches = match_points(f, points, m, prediction=Prediction(expected, *WINDOW), calibration=calibration)
        yield f"within {WINDOW[0]:g} mm of the {name} around it", matches.moving, matches.reliability
    voted = samreg.match(fixed, points, moving)
    yield "the same with votes of neighbours (samreg.match)", voted.points, voted.reliability
    for name, transform in (("robust affine", "affine"), ("smooth field", "deformable")):
        seed = make_seed(fixed, moving, transform=transform)
        if seed:
            yield f"{name} of the seed", seed.transform.transform_points(points), np.ones(len(points))
        else:
            yield f"{name} of the seed", *nothing(points)


def nothing(points):
    return np.full_like(points, np.nan), np.zeros(len(points))


def gross_share(error, reliability):
    """Share of the gross errors held by the quarter of least reliability."""
    gross = error > GROSS_MM
    lowest = np.argsort(reliability, kind="stable")[: round(len(error) / 4)]
    return gross[lowest].sum() / max(1, gross.sum())


def halves(image: Image, points):
    """The image cut through the middle of the landmarks: lower, upper, right and left half."""
    x, _, z = np.median(image.grid.world_to_index(points), axis=0).round().astype(int)
    parts = [np.s_[:z], np.s_[z:], np.s_[:, :, :x], np.s_[:, :, x:]]
    for part, first in zip(parts, [(0, 0, 0), (0, 0, z), (0, 0, 0), (x, 0, 0)], strict=True):
        grid = image.grid
        array = image.array[part]
        origin = grid.index_to_world([first])[0]
        yield Image(array, Grid.make(array.shape, origin=origin, spacing=grid.spacing, direction=grid.direction))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["mind", "ct-small"])
    parser.add_argument("--per-landmark", action="store_true")
    arguments = parser.parse_args()
    table = arguments.folder / "landmarks.csv"
    landmarks = {name: samreg.read_points(table, subject=name) for name in find_points(table, ())}
    names = next(iter(landmarks.values())).names
    images = {name: samreg.read_image(arguments.folder / "images" / f"{name}.nii.gz") for name in landmarks}
    positions = {subject: points.named(names).positions for subject, points in landmarks.items()}
    for model in arguments.models:
        loaded = samreg.load_model(model)
        embeddings = {name: loaded.embed(image) for name, image in images.items()}
        errors, reliabilities = defaultdict(list), defaultdict(list)
        for fixed, moving in itertools.permutations(landmarks, 2):
            for name, matched, reliability in variants(embeddings[fixed], embeddings[moving], positions[fixed]):
                errors[name].append(np.linalg.norm(matched - positions[moving], axis=1))
                reliabilities[name].append(reliability)
        print(f"\n| {model} | mean / median / p95 mm | within 10 mm | gross errors in the least reliable quarter |")
        print("|---|---|---|---|")
        for name, by_pair in errors.items():
            error, reliability = np.concatenate(by_pair), np.concatenate(reliabilities[name])
            known = np.isfinite(error)
            lost = f" ({(~known).sum()} without an answer)" if not known.all() else ""
            share = f"{gross_share(error, reliability):.0%}" if np.ptp(reliability) > 0 else ""
            print(f"| {name}{lost} | {describe(error[known])} | {(error <= 10).mean():.0%} | {share} |")
        if arguments.per_landmark:
            columns = np.array(errors["the same with votes of neighbours (samreg.match)"])
            for name, column in sorted(zip(names, columns.T, strict=True), key=lambda item: item[1].mean()):
                print(f"{name:40s} {describe(column)}")
        outside, score = [], []
        for moving, image in images.items():
            for part in halves(image, positions[moving]):
                target = loaded.embed(part)
                for fixed in landmarks:
                    if fixed != moving:
                        score.append(samreg.match(embeddings[fixed], positions[fixed], target).reliability)
                        outside.append(~part.grid.contains(positions[moving]))
        outside, score = np.concatenate(outside), np.concatenate(score)
        lost = f"{outside.sum()} of {len(outside)} landmarks lie outside"
        print(f"targets cut in half: {lost}, AUC {auc(-score, outside):.3f}")


if __name__ == "__main__":
    main()

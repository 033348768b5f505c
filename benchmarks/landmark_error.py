"""Landmark error of every method on pairs of a folder of images with landmarks, both ways.

The folder holds ``images/NAME.nii.gz`` and ``landmarks.csv`` (subject, landmark, x, y, z in LPS mm). A pair is
written FIXED:MOVING; ``all`` takes every ordered pair.

    python benchmarks/landmark_error.py FOLDER LUNG1-001:LIDC-0004 --runs embedding registration/ants hybrid/ants
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

import numpy as np

import samreg


def read_landmarks(path: Path) -> dict[str, dict[str, list[float]]]:
    subjects: dict[str, dict[str, list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            subjects.setdefault(row["subject"], {})[row["landmark"]] = [float(row[axis]) for axis in "xyz"]
    return subjects


def describe(errors: list[float]) -> str:
    e = np.asarray(errors)
    return f"{e.mean():.1f} / {np.median(e):.1f} / {np.percentile(e, 95):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pairs", nargs="+")
    parser.add_argument(
        "--runs",
        nargs="+",
        default=["embedding", "registration/ants", "registration/elastix", "hybrid/ants", "hybrid/elastix"],
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--transform", default="deformable")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    landmarks = read_landmarks(arguments.folder / "landmarks.csv")
    pairs = [tuple(pair.split(":")) for pair in arguments.pairs]
    if arguments.pairs == ["all"]:
        pairs = list(itertools.permutations(landmarks, 2))
    images = {
        name: samreg.read_image(arguments.folder / "images" / f"{name}.nii.gz") for pair in pairs for name in pair
    }
    totals: dict[str, list[list[float]]] = {}
    print(
        "| fixed <- moving | method | transform, mean / median / p95 mm | inverse | inverse residual p95 mm | seconds |"
    )
    print("|---|---|---|---|---|---|")
    for fixed, moving in pairs:
        names = [name for name in landmarks[fixed] if name in landmarks[moving]]
        x, y = (np.array([landmarks[s][name] for name in names]) for s in (fixed, moving))
        # the world frames of two people are unrelated: before means with the image centres laid on each other
        before = np.linalg.norm(x - images[fixed].grid.center - (y - images[moving].grid.center), axis=1)
        report(totals, fixed, moving, "before", before, before, 0.0, 0.0)
        for run in arguments.runs:
            method, _, engine = run.partition("/")
            result = samreg.register(
                images[fixed],
                images[moving],
                method=method,
                engine=engine or None,
                transform=arguments.transform,
                model=arguments.model,
                threads=arguments.threads,
            )
            if not result:
                print(f"| {fixed} <- {moving} | {run} | failed: {result.reason} | | | |", flush=True)
                continue
            forward = np.linalg.norm(result.transform_points(x, to="moving") - y, axis=1)
            back = np.linalg.norm(result.transform_points(y, to="fixed") - x, axis=1)
            report(
                totals,
                fixed,
                moving,
                run,
                forward,
                back,
                result.quality["inverse_residual_p95_mm"],
                sum(result.timings.values()),
            )
    for run, errors in totals.items():
        there, back = zip(*errors, strict=True)
        print(f"| all {len(pairs)} pairs | {run} | {describe(there)} | {describe(back)} | | |")


def report(totals, fixed, moving, run, forward, back, residual, seconds) -> None:
    totals.setdefault(run, []).extend(zip(forward, back, strict=True))
    print(
        f"| {fixed} <- {moving} | {run} | {describe(forward)} | {describe(back)} | {residual:.3f} | {seconds:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()

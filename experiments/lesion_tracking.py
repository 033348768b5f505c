"""Lesions followed through simulated follow-ups of real CTs, whose true centres and sizes are known exactly.

    python experiments/lesion_tracking.py RESULTS.csv IMAGE [IMAGE ...] [--strength 1] [--compare]
    python experiments/lesion_tracking.py RESULTS.csv     # only sum up

Each image gets eight lesions, ellipsoids of 4 to 14 mm radius in lung and soft tissue, and a second visit: warped,
turned, shifted, cropped, of other contrast, sharpness, voxels and noise, the lesions grown or shrunk
(``samreg.phantoms.followup``). Results are added to RESULTS.csv image by image, so that many runs make one table. It
prints the measures of Deep Lesion Tracker (Cai et al., CVPR 2021) and the error of the measured change of diameter.
``--compare`` adds what the centre's own match and the field of the embeddings alone give.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

import samreg
from samreg.phantoms.followup import FollowUp, simulate_followup
from samreg.tracking import tracking_errors

COLUMNS = (
    "image", "strength", "method", "lesion", "x", "y", "z", "true_x", "true_y", "true_z", "radius_mm", "reliability",
    "true_change_percent", "change_percent",
)  # fmt: skip


def follow(image: Path, strength: float, compare: bool) -> list[tuple]:
    name = image.name.split(".")[0]
    pair = simulate_followup(samreg.read_image(image), strength=strength, seed=sum(map(ord, name)))
    tracks = samreg.track(pair.baseline, pair.followup, pair.labels)
    if not tracks:
        raise SystemExit(f"{image}: {tracks.reason}")
    changes = [lesion.change for lesion in tracks.lesions]
    rows = table(name, strength, "samreg.track", pair, tracks.points, tracks.to_points().scores, changes)
    if compare:
        found = samreg.match(pair.baseline, pair.points, pair.followup)
        field = tracks.transform.transform_points(pair.lesions.centers)
        rows += table(name, strength, "samreg.match of the centre", pair, found.points, found.reliability)
        rows += table(name, strength, "field of the embeddings", pair, field, np.ones(len(field)))
    return rows


def table(
    name: str,
    strength: float,
    method: str,
    pair: FollowUp,
    points,
    reliability,
    changes: list[float | None] | None = None,
) -> list[tuple]:
    growth = 100 * ((pair.volumes[:, 1] / pair.volumes[:, 0]) ** (1 / 3) - 1)
    return [
        (
            name, strength, method, i + 1, *points[i].tolist(), *pair.centers[i].tolist(),
            (pair.volumes[i, 1] * 3 / 4 / np.pi) ** (1 / 3), reliability[i], growth[i],
            "" if changes is None or changes[i] is None else changes[i],
        )
        for i in range(len(points))
    ]  # fmt: skip


def sum_up(rows: list[dict[str, str]]) -> None:
    print(
        "| strength | method | lesions (images) | centre error mm | x, y, z mm | CPM@10mm | CPM@Radius | size change |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for strength, method in sorted({(row["strength"], row["method"]) for row in rows}):
        own = [row for row in rows if (row["strength"], row["method"]) == (strength, method)]
        points, truth = (
            np.array([[float(row[f"{which}{axis}"]) for axis in "xyz"] for row in own]) for which in ("", "true_")
        )
        errors = tracking_errors(points, truth, [float(row["radius_mm"]) for row in own])
        pairs = [(float(r["change_percent"]), float(r["true_change_percent"])) for r in own if r["change_percent"]]
        miss = np.abs(np.subtract(*np.array(pairs).T)) if pairs else np.zeros(0)
        size = f"{len(pairs)} measured, off by {miss.mean():.1f} (at most {miss.max():.1f}) points" if pairs else ""
        print(
            f"| {strength} | {method} | {errors.count} ({len({row['image'] for row in own})}) | {errors.mean:.2f} ± "
            f"{errors.std:.2f} | {errors.x:.2f}, {errors.y:.2f}, {errors.z:.2f} | {errors.within_10mm:.1%} | "
            f"{errors.within_radius:.1%} | {size} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--compare", action="store_true")
    arguments = parser.parse_args()
    for image in arguments.images:
        new = follow(image, arguments.strength, arguments.compare)
        first = not arguments.results.exists()
        with arguments.results.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *new] if first else new)
    with arguments.results.open(newline="", encoding="utf-8") as file:
        sum_up(list(csv.DictReader(file)))


if __name__ == "__main__":
    main()

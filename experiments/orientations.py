"""Bodies turned by any angle, and mirrored scans: registered rightly, refused, or wrong, on people and phantoms.

python experiments/orientations.py FOLDER --out runs.csv      (FOLDER: images/*.nii.gz and landmarks.csv)
python experiments/orientations.py phantoms --out runs.csv

Every ordered pair of people is registered upright, with the moving one turned, and mirrored; and every person with
himself turned and mirrored. The header is turned, not the voxels, so the truth is known. "right": the landmarks (of a
person with himself, the corners of the image's middle half) lie at most 10 mm further off than upright.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

import samreg
from samreg.embedding import load_model
from samreg.phantoms.phantom import phantom_pair
from samreg.seeding import seed_any_orientation
from samreg.seeding.turns import turned_image
from samreg.spatial import AffineTransform, resample_spacing

MIRROR = np.diag([-1.0, 1.0, 1.0])
AXES = {"z": (0, 0, 1), "x": (1, 0, 0), "y": (0, 1, 0), "oblique": (1, 1, 1)}
SAME = {"z": (15, 30, 45, 60, 70, 90, 120, 150, 180), "x": (45, 90, 180), "y": (60,), "oblique": (60, 120, 180)}
OTHERS = {"z": (70, 180), "x": (60,), "oblique": (100,)}
ALLOWED_MM = 10.0


def turns(same: bool) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield the kind of a situation, its name, and what is done to the moving image."""
    yield "upright", "upright", np.eye(3)
    for axis, angles in (SAME if same else OTHERS).items():
        for angle in angles:
            vector = np.array(AXES[axis]) / np.linalg.norm(AXES[axis])
            yield "turned", f"{axis} {angle}", Rotation.from_rotvec(np.deg2rad(angle) * vector).as_matrix()
    for name, flip in (("x", MIRROR), ("z", np.diag([1.0, 1, -1]))):
        yield "mirrored", f"mirror {name}", flip
    yield "mirrored", "mirror x, z 70", Rotation.from_euler("z", 70, degrees=True).as_matrix() @ MIRROR


def people(folder: Path, spacing: float) -> Iterator[tuple]:
    """Yield pairs of images with their points, and whether both are one person."""
    paths = sorted((folder / "images").glob("*.nii.gz"))
    images = {path.name.split(".")[0]: resample_spacing(samreg.read_image(path), spacing) for path in paths}
    points: dict[str, dict[str, list[float]]] = {name: {} for name in images}
    with (folder / "landmarks.csv").open() as file:
        for row in csv.DictReader(file):
            if row["subject"] in points:
                points[row["subject"]][row["landmark"]] = [float(row[axis]) for axis in "xyz"]
    for a in images:
        inner = images[a].grid.center + 0.25 * (images[a].grid.corners() - images[a].grid.center) * 2
        yield (images[a], inner), (images[a], inner), True
    for a, b in itertools.permutations(images, 2):
        names = sorted(set(points[a]) & set(points[b]))
        yield *((images[n], np.array([points[n][name] for name in names])) for n in (a, b)), False


def phantoms(spacing: float) -> Iterator[tuple]:
    """Yield pairs of phantoms as :func:`people` does."""
    for a, b in ((1, 2), (3, 4)):
        pair = phantom_pair(a, b, spacing=spacing)
        yield *((s.image, p.positions) for s, p in (
            (pair.fixed, pair.fixed_landmarks), (pair.moving, pair.moving_landmarks))), False  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--model", default="ct-small")
    parser.add_argument("--spacing", type=float, default=4.0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    pairs = phantoms if arguments.folder == "phantoms" else lambda mm: people(Path(arguments.folder), mm)
    counts: Counter[tuple[str, str, str]] = Counter()
    with arguments.out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("fixed", "moving", "pair", "kind", "situation", "outcome", "error_mm", "upright_mm", "said"))
        for (fixed, fixed_points), (moving, moving_points), same in pairs(arguments.spacing):
            fixed_embedding, upright = model.embed(fixed), np.nan
            for kind, name, turn in turns(same):
                image = turned_image(moving, turn, moving.grid.center)
                undo = AffineTransform.about(moving.grid.center, turn).inverse()
                found = seed_any_orientation(
                    fixed, image, fixed_embedding, model.embed(image), transform="affine",
                    embed=lambda turned, mask: model.embed(turned, mask=mask),
                )  # fmt: skip
                said, error, outcome = found.seed.reason or "; ".join(found.notes), np.nan, "refused"
                if found.seed:
                    there = undo.transform_points(found.seed.transform.transform_points(fixed_points))
                    error = float(np.linalg.norm(there - moving_points, axis=1).mean())
                    upright = error if kind == "upright" else upright
                    right = kind != "mirrored" and error <= upright + ALLOWED_MM
                    outcome = "right" if right else "wrong, side doubted" if "told apart" in said else "wrong"
                elif "mirrored" in said:
                    outcome = "called mirrored"
                counts["same" if same else "other", kind, outcome] += 1
                row = (Path(fixed.label).name, Path(image.label).name, "same" if same else "other", kind, name, outcome)
                table.writerow((*row, f"{error:.1f}", f"{upright:.1f}", said))
                file.flush()
    for key, count in sorted(counts.items()):
        print(*key, count, sep=" | ")


if __name__ == "__main__":
    main()

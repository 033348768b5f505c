"""Templates of the same images, built in three ways with equal iterations: how sharp they are, and how well they agree.

    python experiments/atlas.py OUT IMAGE [IMAGE ...] [--landmarks CSV] [--iterations 4] [--spacing 2] [--jobs 1]

- affine: the embeddings' affine transforms alone, averaged in the middle of the subjects;
- ANTs: affine and deformable registrations by ANTs without embeddings, the same construction;
- samreg: hybrid, seeded by embeddings, by the torch engine.

All three start from the first image. Prints the sharpness of the mean (mean gradient over the body, HU/mm), the
subjects' standard deviation, the spread of landmarks where they are given (root mean square distance from their mean),
and the mean Dice overlap with the majority of lungs and bone, which are labelled by thresholds: lung below -500 HU
inside the body, bone above 250 HU. Each template is left in OUT; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np

import samreg
from samreg.atlas import Atlas, Average, body_of, sharpness
from samreg.embedding import body_mask
from samreg.spatial import find_images

WAYS = {
    "affine": {"iterations": 0},
    "ANTs": {"method": "registration", "engine": "ants"},
    "samreg": {"method": "hybrid", "engine": "torch"},
}


def label(image: samreg.Image) -> samreg.Image:
    """Lungs 1, bone 2."""
    inside = body_mask(image)
    labels = np.where(inside & (image.array < -500), 1, np.where(inside & (image.array > 250), 2, 0))
    return image.with_array(labels.astype(np.uint8))


def mean_of(path: Path, column: str) -> str:
    if not path.is_file():
        return ""
    with path.open(newline="", encoding="utf-8") as file:
        values = [float(row[column]) for row in csv.DictReader(file)]
    return f"{np.mean(values):.3f}"


def describe(way: str, atlas: Atlas, seconds: float) -> str:
    parts = Average(atlas.mean, atlas.variance, samreg.read_image(atlas.folder / "coverage.nii.gz"))
    inside = body_of(parts)
    deviation = float(np.sqrt(parts.variance.array[inside]).mean())
    spread = mean_of(atlas.folder / "template_landmarks.csv", "spread_mm")
    dice = mean_of(atlas.folder / "labels" / "dice.csv", "mean_dice_with_majority")
    last = atlas.convergence[-1]
    return (
        f"| {way} | {len(atlas.names)} | {sharpness(parts.mean, inside):.1f} | {deviation:.0f} | {spread} | {dice} | "
        f"{last.residual_mm:.2f} / {last.change:.4f} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("images", type=Path, nargs="+", help="images, or folders of images")
    parser.add_argument("--landmarks", type=Path, help="csv with subject, landmark, x, y, z")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--preset", default="default", help="of the torch engine")
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    images = find_images(*arguments.images)
    labels = arguments.out / "labels"
    for name, path in images.items():
        if not (labels / f"{name}.nii.gz").is_file():
            samreg.write_image(label(samreg.read_image(path)), labels / f"{name}.nii.gz")
    print(
        "| template | subjects | sharpness HU/mm | deviation HU | landmark spread mm | Dice | last drift mm / change | "
        "seconds |\n|---|---|---|---|---|---|---|---|"
    )
    for way in arguments.ways:
        options = {"iterations": arguments.iterations, **WAYS[way]}
        if way == "samreg":
            options["engine_options"] = {"preset": arguments.preset}
        start = time.perf_counter()
        atlas = samreg.build_atlas(
            arguments.images,
            arguments.out / way,
            labels=labels,
            landmarks=arguments.landmarks,
            reference=next(iter(images)),
            spacing=arguments.spacing,
            jobs=arguments.jobs,
            **options,
        )
        print(describe(way, atlas, time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()

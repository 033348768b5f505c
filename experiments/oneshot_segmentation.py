"""One-shot segmentation in CT: a U-Net trained on one labelled scan, pretrained or not, and labels propagated.

Trains on ct/train/images/LIDC-IDRI-0001 with its organ labels, tests on the scans of ct/benchmark that have labels.
Dice of heart, oesophagus and spinal cord.

    python experiments/oneshot_segmentation.py ../shared/data/ct --seeds 5
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import samreg
from samreg.embedding import encoder
from samreg.quality.labels import dice
from samreg.spatial import resample

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipelines"))
from segmentation_unet import segment, train

# organ: its value in the labels of the training scan, and in those of the benchmark
ORGANS = {"heart": (51, 3), "oesophagus": (15, 4), "spinal cord": (79, 5)}
TEMPLATE = "LIDC-IDRI-0001.nii.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ct-small")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--methods", nargs="+", default=["propagation", "pretrained", "random"])
    arguments = parser.parse_args()
    image = samreg.read_image(arguments.folder / "train" / "images" / TEMPLATE)
    labels = samreg.read_image(arguments.folder / "train" / "labels" / TEMPLATE)
    tests = {
        path.name.split(".")[0]: (samreg.read_image(path.parents[1] / "images" / path.name), samreg.read_image(path))
        for path in sorted((arguments.folder / "benchmark" / "labels").glob("*.nii.gz"))
    }
    values = [value for value, _ in ORGANS.values()]
    print(f"| method | seed | scan | {' | '.join(ORGANS)} |\n|---|---|---|{'---|' * len(ORGANS)}")
    for method in arguments.methods:
        for seed in range(1 if method == "propagation" else arguments.seeds):
            if method == "propagation":
                results = {name: samreg.register(test, image) for name, (test, _) in tests.items()}
                found = {name: result.warp(labels, interpolation="nearest") for name, result in results.items()}
            else:
                backbone = encoder(arguments.model, pretrained=method == "pretrained", seed=seed)
                network = train(backbone, image, labels, values, steps=arguments.steps, seed=seed)
                found = {name: segment(network, test, values) for name, (test, _) in tests.items()}
            for name, (_, truth) in tests.items():
                scores = compare(found[name], truth)
                cells = " | ".join("" if np.isnan(s) else f"{s:.3f}" for s in scores)
                print(f"| {method} | {seed} | {name} | {cells} |", flush=True)


def compare(found: samreg.Image, truth: samreg.Image) -> list[float]:
    """Dice of each organ on the grid of the truth; NaN where that does not draw it."""
    array = resample(found, truth.grid, interpolation="nearest", fill=0).array
    return [
        dice(array == ours, truth.array == theirs)[1] if (truth.array == theirs).any() else np.nan
        for ours, theirs in ORGANS.values()
    ]


if __name__ == "__main__":
    main()

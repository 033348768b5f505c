"""What labels are worth in cephalometric X-rays: detectors fine-tuned with k labelled images, and from scratch.

Trains on k random images of the split ``train`` (the mean of the two readers) from the pretrained weights and from
random ones, same images, steps and augmentation, and tests on another split. Every run is a row of OUTPUT; runs that
are there already are not repeated.

    python experiments/ceph_labels.py ../shared/data/xray/cephalometric results/labels.csv --labels 1 5 10 25 50 150
"""

from __future__ import annotations

import argparse
import csv
import logging
import time
from pathlib import Path

import _cephalometric as ceph
import numpy as np

import samreg
from samreg.embedding.backbone import reinitialise
from samreg.training.landmarks import train_detector

RATES = [f"within_{radius:g}_mm" for radius in ceph.RADII]
RUN = ("model", "start", "labels", "seed", "steps", "learning_rate", "split", "images")
COLUMNS = (*RUN, "mean_mm", "median_mm", *RATES, "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="xray-ceph")
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 5, 10, 25, 50, 150])
    parser.add_argument("--starts", nargs="+", choices=["pretrained", "random"], default=["pretrained", "random"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--random-learning-rate", type=float, default=1e-3, help="of the network from random weights")
    parser.add_argument("--split", default="test1")
    parser.add_argument("--images", type=int, default=None, help="test on the first so many of the split")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = arguments.folder
    train, test = ceph.read_landmarks(folder, "train"), ceph.read_landmarks(folder, arguments.split)
    tests = [(ceph.read_image(folder, name), points) for name, points in list(test.items())[: arguments.images]]
    done = read(arguments.output)
    rates = {"pretrained": arguments.learning_rate, "random": arguments.random_learning_rate}
    identity = samreg.load_model(arguments.model).identity
    for seed in range(arguments.seeds):
        order = np.random.default_rng(seed).permutation(list(train))
        for k in arguments.labels:
            for start in arguments.starts:
                run = identity, start, k, seed, arguments.steps, rates[start], arguments.split, len(tests)
                if tuple(map(str, run)) in done:
                    continue
                model = samreg.load_model(arguments.model)
                if start == "random":
                    reinitialise(model.network, seed=seed)
                began = time.perf_counter()
                detector = train_detector(
                    model, [ceph.read_image(folder, name) for name in order[:k]],
                    [samreg.Points(train[name]) for name in order[:k]], steps=arguments.steps, seed=seed,
                    learning_rate=rates[start],
                )  # fmt: skip
                seconds = time.perf_counter() - began
                errors = np.array([np.linalg.norm(detector(i).positions - p, axis=1) for i, p in tests])
                within = [100 * np.mean(errors <= radius) for radius in ceph.RADII]
                numbers = [f"{v:.3f}" for v in (errors.mean(), np.median(errors), *within, seconds)]
                append(arguments.output, [*run, *numbers])
                print(f"{start}, {k} labels, seed {seed}: {ceph.summary(errors)}", flush=True)


def read(path: Path) -> set[tuple[str, ...]]:
    if not path.exists():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise SystemExit(f"{path} has other columns than {', '.join(COLUMNS)}; name another file")
        return {tuple(row[key] for key in RUN) for row in rows}


def append(path: Path, row: list[object]) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(row)


if __name__ == "__main__":
    main()

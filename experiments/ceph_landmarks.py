"""One-shot landmarks in cephalometric X-rays: one template, or a few, and no other label.

Errors are distances to the mean of the two readers, mm. The template is the medoid of the split ``train``
(samreg.landmarks.templates), found without labels, unless given.

    python experiments/ceph_landmarks.py ../shared/data/xray/cephalometric --output results/
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import _cephalometric as ceph
import numpy as np

import samreg
from samreg.landmarks.templates import template_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="xray-ceph")
    parser.add_argument("--split", default="test1")
    parser.add_argument("--images", type=int, default=None, help="the first so many of the split")
    parser.add_argument("--template", default=None, help="name of an image of train")
    parser.add_argument("--search", default="guided")
    parser.add_argument("--output", type=Path, default=None, help="folder for errors.csv")
    arguments = parser.parse_args()
    folder, model = arguments.folder, samreg.load_model(arguments.model)
    train = ceph.read_landmarks(folder, "train")
    truth = dict(list(ceph.read_landmarks(folder, arguments.split).items())[: arguments.images])
    name = arguments.template or medoid(folder, model, list(train))
    template = model.embed(ceph.read_image(folder, name))
    errors, embedding, matching = {}, [], []
    for other, points in truth.items():
        image = ceph.read_image(folder, other)
        start = time.perf_counter()
        target = model.embed(image)
        middle = time.perf_counter()
        found = samreg.match(template, train[name], target, search=arguments.search)
        embedding.append(middle - start)
        matching.append(time.perf_counter() - middle)
        errors[other] = np.linalg.norm(found.points - points, axis=1)
    table = np.array(list(errors.values()))
    print(f"model {model.identity}, template {name}, {len(errors)} images of {arguments.split}")
    print(ceph.header("landmark"))
    for i in range(table.shape[1]):
        print(f"| {i + 1} | {ceph.summary(table[:, i])} |")
    print(f"| all | {ceph.summary(table)} |")
    print(f"seconds an image: {statistics.median(embedding):.3f} to embed, {statistics.median(matching):.3f} to match")
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        ceph.write_errors(arguments.output / "errors.csv", errors)


def medoid(folder: Path, model: samreg.embedding.EmbeddingModel, names: list[str]) -> str:
    scores = template_scores([model.embed(ceph.read_image(folder, name)) for name in names])
    return names[int(np.argmax(scores))]


if __name__ == "__main__":
    main()

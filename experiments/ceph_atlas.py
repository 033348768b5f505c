"""Landmark atlases of k cephalometric X-rays, and the same k as templates that vote: no training but the embedding's.

The k images are those of ``ceph_labels.py``, drawn at random from the split ``train``, with the mean of both readings.

    python experiments/ceph_atlas.py ../shared/data/xray/cephalometric --labels 5 10 25
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _cephalometric as ceph
import numpy as np

import samreg
from samreg.landmarks import Template


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 10, 25])
    parser.add_argument("--split", default="test1")
    parser.add_argument("--images", type=int, default=None, help="test on the first so many of the split")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train, test = (ceph.read_landmarks(arguments.folder, split) for split in ("train", arguments.split))
    order = np.random.default_rng(arguments.seed).permutation(list(train))
    truth = dict(list(test.items())[: arguments.images])
    targets = {name: samreg.embed(ceph.read_image(arguments.folder, name)) for name in truth}
    print(ceph.header("method, images"), flush=True)
    for k in arguments.labels:
        templates = [
            Template(name, samreg.embed(ceph.read_image(arguments.folder, name)), samreg.Points(train[name]))
            for name in order[:k]
        ]
        atlas = samreg.build_landmark_atlas(templates)
        methods = {
            "atlas": lambda target, atlas=atlas: samreg.find_landmarks(target, atlas=atlas).points,
            "templates that vote": lambda target, templates=templates: samreg.match_set(templates, target).points,
        }
        for method, find in methods.items():
            errors = np.array([np.linalg.norm(find(target) - truth[name], axis=1) for name, target in targets.items()])
            print(f"| {method}, {k} | {ceph.summary(errors)} |", flush=True)


if __name__ == "__main__":
    main()

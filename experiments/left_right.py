"""Mirrored scans of other people: refused, told that left and right are unsure, or passed unsaid.

    python experiments/left_right.py FOLDER --pairs 60      (FOLDER: images/*.nii.gz)

Ordered pairs of people, drawn at random, are seeded as they are, with the moving image mirrored, and with the fixed one
mirrored. The headers are mirrored, not the voxels. People whom the landmark atlas holds are taken out of it.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import samreg
from samreg.landmarks.atlas import LandmarkAtlas, shipped_atlas
from samreg.landmarks.laterality import laterality, mirror_image
from samreg.seeding import seed_any_orientation


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ct-small")
    parser.add_argument("--pairs", type=int, default=60)
    arguments = parser.parse_args()
    model = samreg.load_model(arguments.model)
    images = {
        path.name.split(".")[0]: samreg.read_image(path) for path in sorted(arguments.folder.glob("images/*.nii.gz"))
    }
    pairs = list(itertools.permutations(images, 2))
    chosen = np.random.default_rng(0).permutation(len(pairs))[: arguments.pairs]
    counts: Counter[tuple[str, str]] = Counter()
    for fixed, moving in (pairs[i] for i in chosen):
        for situation in ("as they are", "moving mirrored", "fixed mirrored"):
            given = [replace(images[name], name=name) for name in (fixed, moving)]
            if situation != "as they are":
                index = int(situation == "moving mirrored")
                given[index] = replace(mirror_image(given[index]), name="culprit")
            embeddings = [model.embed(image) for image in given]
            atlas = shipped_atlas(embeddings[0].model)
            oriented = seed_any_orientation(
                *given,
                *embeddings,
                embed=lambda image, mask: model.embed(image, mask=mask),
                laterality=None if atlas is None else partial(laterality, atlas=_without(atlas, {fixed, moving})),
                transform="affine",
            )
            said = _said(oriented)
            counts[situation, said] += 1
            print(
                f"{fixed} <- {moving}, {situation}: {said}; {oriented.seed.reason or ', '.join(oriented.notes)}",
                flush=True,
            )
    for (situation, said), count in sorted(counts.items()):
        print(f"| {situation} | {said} | {count} of {len(chosen)} |")


def _without(atlas: LandmarkAtlas, people: set[str]) -> LandmarkAtlas:
    for person in people & set(atlas.people):
        atlas = atlas.without(atlas.people.index(person))
    return atlas


def _said(oriented: samreg.seeding.OrientedSeed) -> str:
    if "looks mirrored" in oriented.seed.reason:
        return "refused, and named" if oriented.seed.reason.startswith("culprit looks") else "refused as mirrored"
    if not oriented.seed:
        return "refused for another reason"
    unsure = any("told apart" in note or "both look mirrored" in note for note in oriented.notes)
    return "left and right unsure" if unsure else "passed"


if __name__ == "__main__":
    main()

"""Mirrored scans of other people: how often they are refused, told to be unsure, or passed unsaid; and true pairs.

    python experiments/left_right.py FOLDER --pairs 150      (FOLDER: images/*.nii.gz)

Each image and its mirror image are embedded, and the evidence of :mod:`samreg.seeding.orientation` is gathered for
ordered pairs of people drawn at random. Mirroring an image exchanges the two embeddings, and so turns its evidence
round. People whom the landmark atlas holds are taken out of it when they are looked at.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from pathlib import Path

import numpy as np

import samreg
from samreg.landmarks.atlas import LandmarkAtlas, shipped_atlas
from samreg.landmarks.laterality import laterality, mirror_image
from samreg.matching import features
from samreg.matching.reliability import Calibration
from samreg.seeding.orientation import Lead, Sides, is_credible
from samreg.seeding.seed import fit_globally, match_lattice


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ct-small")
    parser.add_argument("--pairs", type=int, default=150)
    arguments = parser.parse_args()
    model = samreg.load_model(arguments.model)
    embeddings, own = {}, {}
    for path in sorted(arguments.folder.glob("images/*.nii.gz")):
        name, image = path.name.split(".")[0], samreg.read_image(path)
        embeddings[name] = model.embed(image), model.embed(mirror_image(image))
        own[name] = laterality(*embeddings[name], atlas=_without(shipped_atlas(embeddings[name][0].model), name))
        print(f"{name}: {own[name]:.1f}", flush=True)
    pairs = list(itertools.permutations(embeddings, 2))
    chosen = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[: arguments.pairs]]
    counts: Counter[tuple[str, str]] = Counter()
    for fixed, moving in chosen:
        source, *targets = (features(e) for e in (embeddings[fixed][0], *embeddings[moving]))
        calibration = Calibration.from_mapping(embeddings[fixed][0].calibration)
        matches = [match_lattice(source, target, calibration=calibration) for target in targets]
        believed = is_credible(fit_globally(matches[0], source, "affine"))
        pair = Lead.of(*(found.similarity for found in matches)).log_odds if believed else 0.0
        f, m = own[fixed], own[moving]
        for situation, sides in (
            ("neither mirrored", Sides.of(pair, f, m)),
            ("moving mirrored", Sides.of(-pair, f, -m)),
            ("fixed mirrored", Sides.of(-pair, -f, m)),
        ):
            counts[situation, _said(sides)] += 1
            if situation == "neither mirrored" and sides.is_opposed:
                print(f"refused though neither is mirrored: {fixed} <- {moving}", flush=True)
    for situation in ("neither mirrored", "moving mirrored", "fixed mirrored"):
        said = [counts[situation, answer] for answer in ("refused", "unsure", "passed")]
        print(f"| {situation} | {len(chosen)} | {' | '.join(map(str, said))} |")


def _without(atlas: LandmarkAtlas | None, person: str) -> LandmarkAtlas | None:
    return atlas.without(atlas.people.index(person)) if atlas is not None and person in atlas.people else atlas


def _said(sides: Sides) -> str:
    return "refused" if sides.is_opposed else "passed" if sides.is_sure else "unsure"


if __name__ == "__main__":
    main()

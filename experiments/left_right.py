"""Mirrored scans of other people: how often they are refused, told to be unsure, or passed unsaid; and true pairs.

    python experiments/left_right.py FOLDER --pairs 150      (FOLDER: images/*.nii.gz)

Each image and its mirror image are embedded, and the evidence of :mod:`samreg.seeding.mirroring` is gathered for
ordered pairs of people drawn at random. Mirroring an image exchanges the two embeddings, and so turns its evidence
round. People whom the landmark atlas holds are taken out of it when they are looked at. Global vectors
alone decide where they leave no doubt, as in :func:`samreg.register`.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

import samreg
from samreg.embedding import Embedding
from samreg.landmarks.atlas import LandmarkAtlas, shipped_atlas
from samreg.landmarks.laterality import laterality, mirror_image
from samreg.matching import features, find, interpolate
from samreg.matching.reliability import Calibration
from samreg.seeding.mirroring import MAX_DOUBT_BY_GLOBAL_VECTORS, MirrorProbabilities, PairedDifference
from samreg.seeding.poses import is_credible
from samreg.seeding.seed import fit_globally, match_lattice
from samreg.spatial.grid import FloatArray

# what is said of, and the signs of the evidence that the fixed and the moving image give by themselves
SITUATIONS = (("neither mirrored", 1, 1), ("moving mirrored", 1, -1), ("fixed mirrored", -1, 1))


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ct-small")
    parser.add_argument("--pairs", type=int, default=150)
    arguments = parser.parse_args()
    model = samreg.load_model(arguments.model)
    embeddings, own, global_own = {}, {}, {}
    for path in sorted(arguments.folder.glob("images/*.nii.gz")):
        name, image = path.name.split(".")[0], samreg.read_image(path)
        embeddings[name] = model.embed(image), model.embed(mirror_image(image))
        atlas = _without(shipped_atlas(embeddings[name][0].model), name)
        own[name] = laterality(*embeddings[name], atlas=atlas)
        global_own[name] = laterality(embeddings[name][0], _global_part(embeddings[name][1]), atlas=atlas)
        print(f"{name}: {own[name]:.1f}, by global vectors alone {global_own[name]:.1f}", flush=True)
    pairs = list(itertools.permutations(embeddings, 2))
    chosen = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[: arguments.pairs]]
    counts: Counter[tuple[str, str]] = Counter()
    for fixed, moving in chosen:
        source, *targets = (features(e) for e in (embeddings[fixed][0], *embeddings[moving]))
        calibration = Calibration.from_mapping(embeddings[fixed][0].calibration)
        matches = [match_lattice(source, target, calibration=calibration) for target in targets]
        believed = is_credible(fit_globally(matches[0], source, "affine"))
        pair = PairedDifference.of(*(found.similarity for found in matches)).log_odds if believed else 0.0
        global_pair = _global_log_odds(embeddings[fixed][0], embeddings[moving], matches[0].fixed) if believed else 0.0
        for situation, fixed_sign, moving_sign in SITUATIONS:
            f, m = fixed_sign, moving_sign
            mirrored = MirrorProbabilities.from_log_odds(f * m * pair, f * own[fixed], m * own[moving])
            by_global = MirrorProbabilities.from_log_odds(
                f * m * global_pair, f * global_own[fixed], m * global_own[moving]
            )
            if by_global.opposite_laterality < MAX_DOUBT_BY_GLOBAL_VECTORS:
                counts[situation, "by global vectors"] += 1
                mirrored = by_global
            counts[situation, _said(mirrored)] += 1
            if situation == "neither mirrored" and mirrored.surely_opposite_laterality:
                print(f"refused though neither is mirrored: {fixed} <- {moving}", flush=True)
    for situation, _, _ in SITUATIONS:
        said = [counts[situation, answer] for answer in ("refused", "unsure", "passed", "by global vectors")]
        print(f"| {situation} | {len(chosen)} | {' | '.join(map(str, said))} |")


def _global_part(embedding: Embedding) -> Embedding:
    return replace(embedding, local=embedding.local[:0])


def _global_log_odds(fixed: Embedding, moving: tuple[Embedding, Embedding], points: FloatArray) -> float:
    """Return the log odds that global vectors alone give a moving image over its mirror image."""
    source, *targets = (features(_global_part(embedding)) for embedding in (fixed, *moving))
    query = interpolate(source, points)
    return PairedDifference.of(*(find(query, target, coarse=True).similarity for target in targets)).log_odds


def _without(atlas: LandmarkAtlas | None, person: str) -> LandmarkAtlas | None:
    return None if atlas is None else atlas.without_people([person])


def _said(mirrored: MirrorProbabilities) -> str:
    if mirrored.surely_opposite_laterality:
        return "refused"
    return "passed" if mirrored.surely_same_laterality else "unsure"


if __name__ == "__main__":
    main()

"""How well ribs, domes, kidneys and arteries are found, and whether registered ribs lie on ribs of the same number.

    python experiments/structures.py IMAGES data/landmarks/train/landmarks.csv --pairs NSCLCRG-R01-001/CPTAC-C3N-00249

Everybody is searched by the landmark atlas of the others. First, how far what is found is from landmarks that were
read: mean / median / 95th percentile in mm, beside where the embedding alone puts them. Then, for each pair
FIXED/MOVING, which share of the places of the fixed image's ribs a registration takes nearest to the rib of the same
number, how far they are from that rib, and the error of all landmarks: without all these as guides, and with.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from scipy.spatial import KDTree

import samreg
from samreg.landmarks import structures
from samreg.landmarks.atlas import LandmarkAtlas, atlas_for
from samreg.landmarks.ribs import FoundRib
from samreg.landmarks.skeleton import Survey, survey
from samreg.matching import features
from samreg.quality import target_registration_error
from samreg.spatial import Image, Points, Transform
from samreg.training.data import named_images
from samreg.training.landmark_pairs import read_landmarks

_KINDS = {
    "_lateral": "lateral places of ribs",
    "rib12_tip": "tips of the twelfth ribs",
    "_dome": "domes of the diaphragm",
    "kidney_upper_pole": "upper poles of kidneys",
    "kidney_lower_pole": "lower poles of kidneys",
    "celiac_trunk_origin": "origins of the celiac trunk",
    "sma_origin": "origins of the superior mesenteric artery",
}


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("landmarks", type=Path)
    parser.add_argument("--pairs", nargs="*", default=[], help="FIXED/MOVING each")
    parser.add_argument("--preset", default="fast", help="of the torch engine")
    arguments = parser.parse_args()
    landmarks = read_landmarks(arguments.landmarks)
    known = named_images(arguments.images, set(landmarks))
    images = {name: samreg.read_image(path) for name, path in known.items() if name in landmarks}
    surveys = _found(images, landmarks)
    for pair in arguments.pairs:
        fixed, moving = pair.split("/")
        names = [name for name in landmarks[fixed].names if name in set(landmarks[moving].names)]
        told = []
        for guided in (False, True):
            transform = _registered(images, (fixed, moving), arguments.preset, guided=guided)
            right, off = _on_ribs(surveys[fixed], surveys[moving], transform)
            error = target_registration_error(
                transform, *(landmarks[person].named(names) for person in (fixed, moving))
            )
            told.append(f"{right:.0%} on the right rib, {off:.1f} mm off it, landmarks {error.mean():.1f} mm")
        print(f"{fixed} <- {moving}: without {told[0]}; with {told[1]}", flush=True)


def _atlas_without(*people: str) -> LandmarkAtlas:
    return atlas_for(samreg.load_model("ct-small").identity, people[0]).without_people(people)


@contextmanager
def _unseen() -> Iterator[None]:
    """Let neither ribs nor domes, kidneys nor arteries be found."""
    with ExitStack() as stack:
        for name in ("find_ribs", "find_domes", "find_kidneys", "find_artery_origins"):
            stack.enter_context(patch.object(structures, name, return_value={}))
        yield


def _found(images: dict[str, Image], landmarks: dict[str, Points]) -> dict[str, Survey]:
    """Survey everybody, and print how far what is found is from where it was read."""
    surveys: dict[str, Survey] = {}
    errors: dict[str, list[tuple[float, float]]] = defaultdict(list)
    missing: dict[str, int] = defaultdict(int)
    for person, image in images.items():
        embedding = samreg.embed(image)
        atlas = _atlas_without(person)
        with _unseen():
            alone = survey(atlas, embedding, features(embedding))
        embedding = samreg.embed(image)  # what was found is kept with the embedding
        surveys[person] = survey(atlas, embedding, features(embedding))
        for name, place in zip(landmarks[person].names, landmarks[person].positions, strict=True):
            kind = next((kind for ending, kind in _KINDS.items() if name.endswith(ending)), None)
            if kind is None or name not in atlas.names:
                continue
            row = atlas.names.index(name)
            if not surveys[person].located.seen[row]:
                missing[kind] += 1
                continue
            both = (one.located.positions[row] for one in (alone, surveys[person]))
            errors[kind].append(tuple(float(np.linalg.norm(found - place)) for found in both))
    for kind, values in errors.items():
        texts = [f"{np.mean(v):.1f} / {np.median(v):.1f} / {np.percentile(v, 95):.1f}" for v in np.array(values).T]
        count = f"{len(values)} of {len(values) + missing[kind]} found"
        print(f"{kind}: {count}; {texts[1]} mm, by the embedding alone {texts[0]} mm", flush=True)
    return surveys


def _registered(images: dict[str, Image], pair: tuple[str, str], preset: str, *, guided: bool) -> Transform:
    options = {"anchors": _atlas_without(*pair), "engine_options": {"preset": preset}}
    if guided:
        result = samreg.register(*(images[person] for person in pair), **options)
    else:
        with _unseen():
            result = samreg.register(*(images[person] for person in pair), **options)
    if result.transform is None:
        raise SystemExit(f"{pair[0]} <- {pair[1]}: {result.reason}")
    return result.transform


def _on_ribs(fixed: Survey, moving: Survey, transform: Transform) -> tuple[float, float]:
    """Return the share of places taken nearest to the rib of the same number, and how far from it they are, mm."""
    there: dict[str, KDTree] = {name: KDTree(rib.centreline) for name, rib in moving.located.structures.ribs.items()}
    own: dict[str, FoundRib] = {name: rib for name, rib in fixed.located.structures.ribs.items() if name in there}
    right, off = [], []
    for name, rib in own.items():
        places = transform.transform_points(rib.centreline)
        side = [other for other in there if other.split("_")[0] == name.split("_")[0]]
        distance = np.array([there[other].query(places)[0] for other in side])
        right.append(distance.argmin(axis=0) == side.index(name))
        off.append(distance[side.index(name)])
    return float(np.concatenate(right).mean()), float(np.concatenate(off).mean())


if __name__ == "__main__":
    main()

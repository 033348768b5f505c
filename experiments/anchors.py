"""What landmarks found in both images are worth as guides: hybrids of people with and without them.

    python experiments/anchors.py IMAGES data/landmarks/train/landmarks.csv \
        --left-out AMOS-0336 NSCLCRG-R01-001 CPTAC-C3N-00249 --preset fast

All ordered pairs of people whom the model's training left out, and pairs of one of them with another. The landmark
atlas is that of samreg without the two people. Errors at their own landmarks are mm, mean / median / 95th percentile.
In the end, how far off regions of the body are whose landmarks the registration is said to miss, and all others.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import samreg
from samreg.embedding.kept import KeepingModel
from samreg.landmarks.atlas import atlas_for
from samreg.quality import target_registration_error
from samreg.quality.regions import region_of
from samreg.spatial import Points
from samreg.training.data import named_images
from samreg.training.expected_error import pairs_of
from samreg.training.landmark_pairs import read_landmarks

Doubts = dict[bool, list[float]]  # mean errors of regions, doubtful by their landmarks or not
Errors = dict[str, dict[bool, list[float]]]  # by region, with anchors or without


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("landmarks", type=Path)
    parser.add_argument("--left-out", nargs="+", required=True, help="people the model's training left out")
    parser.add_argument("--pairs", type=int, default=30, help="of one of them with another")
    parser.add_argument("--preset", default="fast", help="of the torch engine")
    parser.add_argument("--model", default="ct-small")
    arguments = parser.parse_args()
    landmarks = read_landmarks(arguments.landmarks)
    both = list(itertools.permutations(arguments.left_out, 2))
    mixed = [pair for pair in pairs_of(landmarks, arguments.pairs, unseen=arguments.left_out) if pair not in both]
    people = {person for pair in (*both, *mixed) for person in pair}
    images = {name: samreg.read_image(path) for name, path in named_images(arguments.images, people).items()}
    with TemporaryDirectory() as folder:
        model = KeepingModel(samreg.load_model(arguments.model), Path(folder), [*images.values()])
        doubts: Doubts = {False: [], True: []}
        for title, pairs in (("two people left out", both), ("one", mixed)):
            errors: Errors = defaultdict(lambda: {False: [], True: []})
            gains = []
            for pair in pairs:
                gains.append(_compare(pair, images, landmarks, model, arguments.preset, errors, doubts))
                print(f"{pair[0]} <- {pair[1]}: {gains[-1]:+.2f} mm", flush=True)
            _report(title, errors, np.array([gain for gain in gains if np.isfinite(gain)]))
    for doubtful, values in doubts.items():
        what = "missed by more than 15 mm (median)" if doubtful else "others"
        print(f"regions with three landmarks and more, {what}: {len(values)}, mean error {np.mean(values):.1f} mm")


def _compare(
    pair: tuple[str, str],
    images: dict[str, samreg.Image],
    landmarks: dict[str, Points],
    model: KeepingModel,
    preset: str,
    errors: Errors,
    doubts: Doubts,
) -> float:
    """Add the errors of a pair's landmarks by region; return what anchors change of their mean, NaN if it failed."""
    atlas = atlas_for(model.identity, pair[0]).without_people(pair)
    names = [name for name in landmarks[pair[0]].names if name in set(landmarks[pair[1]].names)]
    known = [landmarks[person].named(names) for person in pair]
    found, misses = {}, None
    for guided in (False, True):
        result = samreg.register(
            *(images[person] for person in pair),
            model=model,
            anchors=atlas if guided else False,
            engine_options={"preset": preset},
        )
        if result.transform is None:
            return float("nan")
        found[guided], misses = target_registration_error(result.transform, *known), result.landmark_misses
    assert misses is not None
    for region in misses.by_region():
        own = [error for name, error in zip(names, found[True], strict=True) if region_of(name) == region.region]
        if own and region.count >= 3:
            doubts[region.is_doubtful].append(float(np.mean(own)))
    for guided, values in found.items():
        for name, value in zip(names, values, strict=True):
            errors[region_of(name).removeprefix("left ").removeprefix("right ")][guided].append(float(value))
    return float(found[True].mean() - found[False].mean())


def _report(title: str, errors: Errors, gains: np.ndarray) -> None:
    error_of_mean = gains.std(ddof=1) / len(gains) ** 0.5
    print(
        f"{title}: {len(gains)} pairs, {(gains < 0).sum()} better with anchors, {gains.mean():+.2f} +- "
        f"{error_of_mean:.2f} mm"
    )
    total: dict[bool, list[float]] = {
        guided: [e for by in errors.values() for e in by[guided]] for guided in (False, True)
    }
    for region, by in [*sorted(errors.items()), ("all", total)]:
        texts = [f"{np.mean(e):.1f} / {np.median(e):.1f} / {np.percentile(e, 95):.1f}" for e in by.values()]
        print(f"    {region} ({len(by[True])}): without {texts[0]}, with {texts[1]}")


if __name__ == "__main__":
    main()

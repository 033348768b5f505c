"""One-shot landmarks of people that training left out: how an embedding does on the next patient.

    python experiments/left_out_landmarks.py IMAGES data/landmarks/train/landmarks.csv \
        --left-out AMOS-0336 NSCLCRG-R01-001 CPTAC-C3N-00249 --templates LIDC-IDRI-0001 LIDC-IDRI-0003 \
        --unseen right_glenoid left_glenoid --models ct-small runs/new/weights.safetensors

Every template's landmarks are searched in every left-out person by `samreg.match`, those people being templates too;
errors are mm, mean / median / 95th percentile, over landmark classes the training saw and those it did not. It is the
embedding that is measured: no bones are found, as the landmark atlas that finds them knows these people.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

import samreg
from samreg.training.landmark_pairs import read_landmarks
from samreg.training.modality import remapped


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("landmarks", type=Path)
    parser.add_argument("--left-out", nargs="+", required=True)
    parser.add_argument("--templates", nargs="*", default=[])
    parser.add_argument("--unseen", nargs="*", default=[], help="landmarks that training left out")
    parser.add_argument("--models", nargs="+", default=["ct-small"])
    parser.add_argument("--remapped", action="store_true", help="random intensities in the people searched")
    parser.add_argument("--by-landmark", action="store_true")
    arguments = parser.parse_args()
    landmarks = read_landmarks(arguments.landmarks)
    for name in arguments.models:
        model = samreg.load_model(name)
        people = [*arguments.left_out, *arguments.templates]
        images = {p: samreg.read_image(next(arguments.images.glob(f"{p}.*"))) for p in people}
        embeddings = targets = {p: _embedded(image, model) for p, image in images.items()}
        if arguments.remapped:
            targets = {p: _embedded(remapped(images[p], seed=i), model) for i, p in enumerate(arguments.left_out)}
        errors = _errors(embeddings, landmarks, {p: targets[p] for p in arguments.left_out})
        print(name)
        for origin, templates in (("left-out", arguments.left_out), ("training", arguments.templates)):
            for kind, wanted in (("seen", False), ("unseen", True)):
                some = [
                    error
                    for (template, landmark), values in errors.items()
                    for error in values
                    if template in templates and wanted == (landmark in arguments.unseen)
                ]
                if some:
                    print(f"  {origin} template, {kind} landmarks: {_summary(some)}")
        if arguments.by_landmark:
            by_class = defaultdict(list)
            for (_, landmark), some in errors.items():
                by_class[landmark] += some
            for landmark, some in sorted(by_class.items(), key=lambda item: -float(np.mean(item[1]))):
                print(f"    {landmark}: {_summary(some)}")


def _embedded(image: samreg.Image, model: samreg.embedding.EmbeddingModel) -> samreg.Embedding:
    return replace(samreg.embed(image, model=model), volume=None)


def _errors(
    embeddings: dict[str, samreg.Embedding],
    landmarks: dict[str, samreg.Points],
    targets: dict[str, samreg.Embedding],
) -> dict[tuple[str, str], list[float]]:
    """Distances (mm) of the matches in left-out people, by template and landmark."""
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for template in embeddings:
        for target in targets:
            if target == template:
                continue
            names = [n for n in landmarks[template].names if n in set(landmarks[target].names)]
            truth = landmarks[target].named(names).positions
            matches = samreg.match(embeddings[template], landmarks[template].named(names), targets[target])
            for landmark, error in zip(names, np.linalg.norm(matches.points - truth, axis=1), strict=True):
                errors[template, landmark].append(float(error))
    return errors


def _summary(errors: list[float]) -> str:
    return f"{np.mean(errors):.1f} / {np.median(errors):.1f} / {np.percentile(errors, 95):.1f} (n = {len(errors)})"


if __name__ == "__main__":
    main()

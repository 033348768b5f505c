"""How well a landmark atlas names the landmarks of people it does not hold.

    python experiments/landmark_atlas.py IMAGES data/landmarks/train/landmarks.csv [--model ct-small]

Each person is searched by an atlas of the others: errors in mm, how many vertebrae lie on another level, and how well
the reliability tells right from wrong. Then each image is cut in half, above and below: how often a landmark is called
sure that the half does not show.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _landmarks import auc, describe

import samreg
from samreg.landmarks.find import MIN_RELIABILITY
from samreg.spatial import Grid
from samreg.training.landmark_pairs import read_landmarks

RIGHT_MM = 10.0
LEVEL_MM = 12.0  # beyond which a vertebra is on another level: more than half the distance between two
MARGIN_MM = 10.0  # outside the half by which a landmark must lie to count as not shown


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("landmarks", type=Path)
    parser.add_argument("--model", default="ct-small")
    parser.add_argument("--by-landmark", action="store_true")
    arguments = parser.parse_args()
    model = samreg.load_model(arguments.model)
    landmarks = read_landmarks(arguments.landmarks)
    images = {name: samreg.read_image(next(arguments.images.glob(f"{name}.*"))) for name in landmarks}
    templates = [samreg.Template(name, model.embed(images[name]), points) for name, points in landmarks.items()]
    atlas = samreg.build_landmark_atlas(templates)
    errors = {name: column[~np.isnan(column)] for name, column in zip(atlas.names, atlas.errors.T, strict=True)}
    all_errors = np.concatenate(list(errors.values()))
    vertebrae = np.concatenate([e for name, e in errors.items() if name.startswith("vertebra")])
    print(f"all {len(all_errors)} landmarks: {describe(all_errors)}; within 10 mm {np.mean(all_errors < RIGHT_MM):.0%}")
    print(f"vertebrae on another level: {np.mean(vertebrae > LEVEL_MM):.0%} of {len(vertebrae)}")
    if arguments.by_landmark:
        for name, values in sorted(errors.items(), key=lambda item: float(np.median(item[1]) if len(item[1]) else 1e9)):
            print(f"| {name} | {len(values)} | {describe(values) if len(values) else ''} |")
    _halves(model, images, templates, atlas)


def _halves(model, images, templates, atlas) -> None:
    """Print what the reliability is worth in whole images, and what is called sure in half of one that is not there."""
    reliability, right, shown, hidden, called = [], [], 0, 0, 0
    for k, template in enumerate(templates):
        others = atlas.without(k)
        names = [name for name in template.points.names if name in others.names]
        truth = template.points.named(names).positions
        rows = [others.names.index(name) for name in names]
        found = samreg.find_landmarks(template.embedding, atlas=others)
        reliability += list(found.reliability[rows])
        right += list(np.linalg.norm(found.points[rows] - truth, axis=1) <= RIGHT_MM)
        image = images[template.name]
        middle = image.shape[0] // 2
        for low, high in ((0, middle), (middle, image.shape[0])):
            origin = image.grid.index_to_world([[0.0, 0.0, float(low)]])[0]
            grid = Grid((high - low, *image.shape[1:]), origin, image.grid.spacing, image.grid.direction)
            half = samreg.find_landmarks(model.embed(samreg.Image(image.array[low:high], grid)), atlas=others)
            depth = grid.depth(truth)
            called += int((half.sure[rows] & (depth < -MARGIN_MM)).sum())
            hidden += int((depth < -MARGIN_MM).sum())
            shown += int(half.sure.sum())
    reliability, right = np.array(reliability), np.array(right)
    sure = reliability >= MIN_RELIABILITY
    print(f"sure {sure.mean():.0%}, within 10 mm {right[sure].mean():.0%}; of the unsure {right[~sure].mean():.0%}")
    print(f"reliability tells right from wrong with an AUC of {auc(reliability, right):.2f}")
    print(f"halves: {called} of {hidden} landmarks outside are called sure ({shown} sure in all)")


if __name__ == "__main__":
    main()

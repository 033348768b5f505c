"""Carry points of labelled organs to other people and back: the share that returns into its own organ.

The labels lie on the image's grid; matching is the nearest neighbour in the whole body, both ways.

    python experiments/organ_cycle.py IMAGE LABELS OTHER [OTHER ...] --model ct-small
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import samreg
from samreg.training.validate import organ_cycle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    parser.add_argument("--model", default="ct-small")
    arguments = parser.parse_args()
    model = samreg.load_model(arguments.model)
    labels = samreg.read_image(arguments.labels)
    fixed = model.embed(samreg.read_image(arguments.image))
    for other in arguments.others:
        shares = organ_cycle(fixed, labels, model.embed(samreg.read_image(other)))
        values = np.array(list(shares.values()))
        print(
            f"{other.name}: {len(values)} organs, mean share {values.mean():.2f}, median {np.median(values):.2f}, "
            f"{(values < 0.5).sum()} below one half"
        )


if __name__ == "__main__":
    main()

"""Maps between training subjects, found by a model: ``python cross_subject.py IMAGES WEIGHTS OUTPUT [PAIRS]``.

PAIRS is a text file with two volume names per line; all pairs unless given. Each gives a map and its inverse.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import samreg
from samreg.spatial.files import require_file
from samreg.training.cross_subject import build_maps
from samreg.training.landmark_pairs import read_landmarks


def main(given: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("pairs", type=Path, nargs="?")
    parser.add_argument("--landmarks", type=Path, help="csv with subject, landmark, x, y, z in LPS mm: guides the maps")
    parser.add_argument("--leave-out", nargs="*", default=[], help="landmarks that do not guide, to validate on")
    parser.add_argument("--image-spacing", type=float, default=None, help="mm, where the files say none")
    arguments = parser.parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        pairs = None
        if arguments.pairs is not None:
            pairs = [
                tuple(line.split())
                for line in require_file(arguments.pairs, "list of pairs").read_text().splitlines()
                if line.strip()
            ]
        landmarks = None
        if arguments.landmarks is not None:
            landmarks = read_landmarks(arguments.landmarks, leave_out=arguments.leave_out)
        build_maps(
            arguments.images, samreg.load_model(arguments.weights), arguments.output, pairs=pairs, landmarks=landmarks,
            image_spacing=arguments.image_spacing,
        )  # fmt: skip
    except samreg.InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

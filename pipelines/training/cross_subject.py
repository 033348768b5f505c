"""Maps between training subjects, found by a model: ``python cross_subject.py IMAGES WEIGHTS OUTPUT [PAIRS]``.

PAIRS is a text file with two volume names per line, fixed and moving; all pairs unless given.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import samreg
from samreg.training.cross_subject import build_maps


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("pairs", type=Path, nargs="?")
    parser.add_argument("--image-spacing", type=float, default=None, help="mm, where the files say none")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pairs = None
    if arguments.pairs is not None:
        pairs = [tuple(line.split()) for line in arguments.pairs.read_text().splitlines() if line.strip()]
    build_maps(
        arguments.images, samreg.load_model(arguments.weights), arguments.output, pairs=pairs,
        image_spacing=arguments.image_spacing,
    )  # fmt: skip


if __name__ == "__main__":
    main()

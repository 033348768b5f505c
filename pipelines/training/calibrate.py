"""Calibrate a trained model's reliability: ``python calibrate.py IMAGES WEIGHTS OUTPUT PAIRS [--name NAME]``.

PAIRS is a text file with two volume names per line, fixed and moving; some should overlap only in part, for matches
that lead out of the image. OUTPUT is the model as it is shipped: the weights with the coefficients beside them.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import samreg
from samreg.embedding.checkpoint import load_checkpoint, save_checkpoint
from samreg.spatial.files import require_file
from samreg.training.calibrate import calibrate


def main(given: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--name", default="ct-small")
    parser.add_argument("--tolerance", type=float, default=15.0, help="mm within which a match is right; 4 for X-rays")
    parser.add_argument("--image-spacing", type=float, default=None, help="mm, where the files say none")
    arguments = parser.parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        pairs = [
            tuple(line.split())
            for line in require_file(arguments.pairs, "list of pairs").read_text().splitlines()
            if line.strip()
        ]
        coefficients = calibrate(
            arguments.images, samreg.load_model(arguments.weights), pairs, tolerance=arguments.tolerance,
            image_spacing=arguments.image_spacing,
        )  # fmt: skip
        checkpoint = load_checkpoint(arguments.weights)
        save_checkpoint(
            arguments.output, checkpoint.network.half(), architecture=checkpoint.architecture, name=arguments.name,
            config=checkpoint.config, preprocessing=checkpoint.preprocessing, calibration=coefficients,
        )  # fmt: skip
        print(coefficients)
    except samreg.InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Build one unbiased template of the images of a folder.

    python pipelines/build_atlas.py IMAGES --out OUT [--labels FOLDER] [--landmarks CSV] [--jobs 2] ...

OUT receives the template, mean, variance, each subject's transforms, label probabilities, landmarks, and a picture of
every iteration. A run that was interrupted goes on where it stopped; a subject that fails is named in
OUT/summary.csv and left out, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import samreg


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+", help="images, or folders of images")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="folder of label maps by the images' names")
    parser.add_argument(
        "--landmarks", type=Path, help="csv with subject, landmark, x, y, z, or a folder of points files"
    )
    parser.add_argument("--iterations", type=int, default=4)
    for name in ("method", "engine", "model"):
        parser.add_argument(f"--{name}", help=f"as of samreg.register's {name}=")
    parser.add_argument("--preset", choices=("fast", "default", "accurate"), help="of the torch engine")
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel size of the template, mm (default 2)")
    parser.add_argument("--jobs", type=int, default=1, help="subjects at a time (default 1)")
    given = vars(parser.parse_args(arguments))
    chosen = {key: given.pop(key) for key in ("method", "engine", "model")}
    preset = given.pop("preset")
    options = {key: value for key, value in chosen.items() if value is not None}
    try:
        atlas = samreg.build_atlas(
            **given, **options, engine_options={"preset": preset} if preset else None, progress=print
        )
    except samreg.InputError as error:
        parser.error(str(error))
    for step in atlas.convergence:
        print(f"iteration {step.iteration}: drift {step.residual_mm:.2f} mm, change {step.change:.4f}")
    return 0 if all(atlas.outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

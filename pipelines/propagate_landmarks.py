#!/usr/bin/env python3
"""Find the landmarks of a set of templates in every image of a folder.

    python pipelines/propagate_landmarks.py TEMPLATES TARGET ... --out OUT [--jobs 2] [--model ct-small]

TEMPLATES holds images and landmarks.csv (subject, landmark, x, y, z in LPS mm), or a points file beside each image.
The templates are embedded once, and vote in every target. OUT/landmarks.csv has the same form, so that what was
found and checked becomes the next set. A run that was interrupted goes on where it stopped; a target that fails is
recorded in OUT/summary.csv, and the exit code is then 1.
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
    parser.add_argument("templates", type=Path)
    parser.add_argument("targets", type=Path, nargs="+", help="images, or folders of images")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default 1)")
    parser.add_argument("--model", help="as of samreg.match's model=")
    parser.add_argument("--doubtful", type=float, default=0.5, help="name landmarks less reliable than this")
    given = parser.parse_args(arguments)
    try:
        outcomes = samreg.match_folder(
            given.templates, given.targets, given.out, model=given.model, jobs=given.jobs, progress=print
        )
    except samreg.InputError as error:
        parser.error(str(error))
    for outcome in filter(None, outcomes):
        found = samreg.read_points(given.out / outcome.name / "landmarks.csv")
        doubtful = [name for name, p in zip(found.names, found.scores, strict=True) if p < given.doubtful]
        if doubtful:
            print(f"look at {outcome.name}: {', '.join(doubtful)}")
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

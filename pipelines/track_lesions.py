#!/usr/bin/env python3
"""Follow the lesions of many pairs of visits.

    python pipelines/track_lesions.py PAIRS.csv --out OUT [--jobs 2]        # baseline, followup, lesions[, name, truth]
    python pipelines/track_lesions.py DLT.json --images VOLUMES --out OUT   # lesion pairs of DeepLesion

Each pair gets a folder in OUT with tables, points for 3D Slicer and lesions.html, which shows both visits of each
lesion side by side. Where the true centres are known, the measures of Deep Lesion Tracker are printed. A run that was
interrupted goes on where it stopped; a pair that fails is recorded in OUT/summary.csv, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import samreg
from samreg.tracking import read_dlt, read_pairs, track_pairs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path, help="csv of pairs, or DLT's annotations as .json")
    parser.add_argument("--images", type=Path, help="folder of the volumes that DLT's annotations name")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="pairs at a time (default 1)")
    parser.add_argument("--model", help="as of samreg.track's model=")
    given = parser.parse_args(arguments)
    if (given.pairs.suffix.lower() == ".json") != (given.images is not None):
        parser.error("DLT's annotations (.json) need --images, and a csv of pairs has its own paths")
    try:
        pairs = read_pairs(given.pairs) if given.images is None else read_dlt(given.pairs, given.images)
        outcomes, errors = track_pairs(pairs, given.out, model=given.model, jobs=given.jobs, progress=print)
    except samreg.InputError as error:
        parser.error(str(error))
    if errors is not None:
        for measure, value in asdict(errors).items():
            print(f"{measure}: {value if value is None else round(value, 3)}")
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

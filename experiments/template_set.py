"""Landmark error of a set of templates against its size: every subject in turn is the target, the others are templates.

The folder holds ``images/NAME.nii.gz`` and ``landmarks.csv`` (subject, landmark, x, y, z in LPS mm).

    python experiments/template_set.py FOLDER

Prints, for 1, 2, ... templates, mean / median / 95th percentile of the error over all targets and all sets of that size
without the target, the share within 10 mm, and how well the reliability tells errors above 15 mm.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from _landmarks import GROSS_MM, auc, describe

import samreg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps the embeddings")
    arguments = parser.parse_args()
    templates = samreg.read_templates(arguments.folder, model=arguments.model, cache=arguments.cache)
    print("| templates | sets x targets | mean / median / p95 mm | within 10 mm | mean reliability | right | AUC |")
    print("|---|---|---|---|---|---|---|")
    for size in range(1, len(templates)):
        errors, reliability, runs = [], [], 0
        for target in templates:
            others = [template for template in templates if template is not target]
            for chosen in itertools.combinations(others, size):
                matches = samreg.match_set(chosen, target.embedding)
                shared = [name for name in matches.names if name in target.points.names]
                points = matches.to_points().named(shared)
                errors.append(np.linalg.norm(points.positions - target.points.named(shared).positions, axis=1))
                reliability.append(points.scores)
                runs += 1
        error, score = np.concatenate(errors), np.concatenate(reliability)
        right = error <= GROSS_MM
        print(
            f"| {size} | {runs} | {describe(error)} | {(error <= 10).mean():.0%} | {score.mean():.2f} | "
            f"{right.mean():.2f} | {auc(score, right):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

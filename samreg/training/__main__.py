"""Train: ``python -m samreg.training [PREPARED] CONFIG``, or ``torchrun --nproc-per-node N -m samreg.training ...``.

Needs torch and numpy alone where PREPARED is a file of ``samreg.training.prepare`` and CONFIG is JSON, or TOML.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from samreg.training.config import TrainingConfig
from samreg.training.loop import train
from samreg.training.prepared import is_prepared
from samreg.training.program import faults_said


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m samreg.training", description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path, nargs="?", help="file of images, landmarks and maps; else CONFIG's")
    parser.add_argument("config", type=Path, help="configuration: .json, .toml or, with pyyaml, .yaml")
    given = parser.parse_args(arguments)
    if given.prepared is not None and not is_prepared(given.prepared):
        parser.error(f"{given.prepared} is no prepared file (.npz); make one with python -m samreg.training.prepare")
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun
    logging.basicConfig(level=logging.INFO if is_first else logging.WARNING, format="%(message)s")
    with faults_said(parser):
        weights = train(TrainingConfig.from_file(given.config, prepared=given.prepared))
    if is_first:
        print(f"written to {weights}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

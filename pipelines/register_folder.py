#!/usr/bin/env python3
"""Register every image of a folder to one fixed image.

    python pipelines/register_folder.py FIXED FOLDER --out OUT [--jobs 2] [--method hybrid] ...

Each image gets a folder of its own in OUT, as ``samreg register`` writes it, and a line in ``OUT/summary.csv``. A
run that was interrupted goes on where it stopped: results are kept while both images, the model and the options stay
the same. An image that cannot be read or registered is recorded with its reason, and the others go on; the exit code
is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib

import samreg
from samreg.embedding import default_model
from samreg.engines.registry import engine_packages
from samreg.steps import find_inputs, run_step, write_table


class Outcome(NamedTuple):
    """A line of the summary."""

    image: str
    status: str  # "registered", "not registered" (the images are at fault) or "error"
    seconds: float
    reason: str


def register_one(
    fixed: Path, moving: Path, out: Path, options: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Outcome:
    """Register one image and save the result, unless an earlier run has."""

    def work(folder: Path) -> None:
        samreg.register(fixed, moving, **options).save(folder)

    packages = engine_packages(options.get("engine"))
    step = run_step(out, work, files=[fixed, moving], inputs=inputs, packages=packages)
    if not step:
        return Outcome(moving.name, "error", step.seconds, step.reason)
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return Outcome(moving.name, "registered" if result["ok"] else "not registered", step.seconds, result["reason"])


def register_folder(
    fixed: Path, folder: Path, out: Path, options: Mapping[str, Any], *, jobs: int = 1, device: str = "auto"
) -> list[Outcome]:
    """Register the images of ``folder`` to ``fixed``, so many at a time, and write ``summary.csv``.

    Raises
    ------
    InputError
        When the folder holds no images, the fixed image or an option is at fault, or the disk is full.
    """
    images = find_inputs(out, folder)
    inputs = {**options, "model": _identity(fixed, options)}
    options = {**options, "device": device, "threads": max(1, (os.cpu_count() or 1) // jobs)}
    tasks = (joblib.delayed(register_one)(fixed, path, out / name, options, inputs) for name, path in images.items())
    outcomes: list[Outcome] = []
    for outcome in joblib.Parallel(n_jobs=jobs, return_as="generator")(tasks):
        print(f"[{len(outcomes) + 1}/{len(images)}] {outcome.image}: {outcome.status} {outcome.reason}", flush=True)
        outcomes.append(outcome)
    write_table(out / "summary.csv", Outcome._fields, (o._replace(seconds=f"{o.seconds:.1f}") for o in outcomes))
    return outcomes


def _identity(fixed: Path, options: Mapping[str, Any]) -> str | None:
    """Return which model embeds, whatever its file is called; None where none does."""
    if options.get("method") == "registration":
        return None
    model = options.get("model")
    return samreg.load_model(default_model(samreg.read_image(fixed).ndim) if model is None else model).identity


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fixed", type=Path)
    parser.add_argument("folder", type=Path, help="of the moving images")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="registrations at a time (default 1)")
    for name in ("method", "engine", "transform", "model"):
        parser.add_argument(f"--{name}", help=f"as of samreg.register's {name}=")
    parser.add_argument("--device", default="auto", help="as of samreg.register's device=; jobs share it")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args(arguments))
    options = {key: given[key] for key in ("method", "engine", "transform", "model", "seed") if given[key] is not None}
    if given["jobs"] < 1:
        parser.error("--jobs must be at least 1")
    try:
        outcomes = register_folder(
            given["fixed"], given["folder"], given["out"], options, jobs=given["jobs"], device=given["device"]
        )
    except samreg.InputError as error:
        parser.error(str(error))
    return 0 if all(outcome.status == "registered" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Register every image of a folder to one fixed image.

    python pipelines/register_folder.py FIXED FOLDER --out OUT [--jobs 2] [--method hybrid] ...

Each image gets a folder of its own in OUT, as ``samreg register`` writes it, and a line in ``OUT/summary.csv``. A
run that was interrupted goes on where it stopped. An image that cannot be read or registered is recorded with its
reason, and the others go on; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib

import samreg
from samreg.spatial import find_images
from samreg.spatial.files import atomic_path


class Outcome(NamedTuple):
    """A line of the summary."""

    image: str
    status: str  # "registered", "not registered" (the images are at fault) or "error"
    seconds: float
    reason: str


def register_one(fixed: Path, moving: Path, out: Path, options: Mapping[str, Any]) -> Outcome:
    """Register one image and save the result, unless an earlier run has."""
    if (out / "result.json").is_file():
        earlier = json.loads((out / "result.json").read_text(encoding="utf-8"))
        return _outcome(moving, earlier["ok"], sum(earlier["timings_s"].values()), earlier["reason"])
    start = time.perf_counter()
    try:
        result = samreg.register(fixed, moving, **options)
        result.save(out)
    except samreg.SamregError as error:
        return Outcome(moving.name, "error", time.perf_counter() - start, str(error))
    return _outcome(moving, bool(result), time.perf_counter() - start, result.reason)


def _outcome(moving: Path, ok: bool, seconds: float, reason: str) -> Outcome:
    return Outcome(moving.name, "registered" if ok else "not registered", seconds, reason)


def register_folder(
    fixed: Path, folder: Path, out: Path, options: Mapping[str, Any], *, jobs: int = 1
) -> list[Outcome]:
    """Register the images of ``folder`` to ``fixed`` and write ``summary.csv``.

    Raises
    ------
    InputError
        When the folder holds no images, or ``out`` the results of another call.
    """
    images = find_images(folder)
    _claim(out, {"fixed": str(fixed.resolve()), "samreg": samreg.__version__, **options})
    options = {**options, "threads": max(1, (os.cpu_count() or 1) // jobs)}
    tasks = (joblib.delayed(register_one)(fixed, path, out / name, options) for name, path in images.items())
    outcomes: list[Outcome] = []
    for outcome in joblib.Parallel(n_jobs=jobs, return_as="generator")(tasks):
        print(f"[{len(outcomes) + 1}/{len(images)}] {outcome.image}: {outcome.status} {outcome.reason}", flush=True)
        outcomes.append(outcome)
    with atomic_path(out / "summary.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Outcome._fields)
        writer.writerows((o.image, o.status, f"{o.seconds:.1f}", o.reason) for o in outcomes)
    return outcomes


def _claim(out: Path, call: Mapping[str, Any]) -> None:
    """Note in ``out`` how it is being filled; refuse to mix the results of two calls."""
    note = out / "call.json"
    if note.is_file():
        if json.loads(note.read_text(encoding="utf-8")) != dict(call):
            raise samreg.InputError(f"{out} holds the results of another call, see {note}; choose another folder")
        return
    with atomic_path(note) as temporary:
        temporary.write_text(json.dumps(dict(call), indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fixed", type=Path)
    parser.add_argument("folder", type=Path, help="of the moving images")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="registrations at a time (default 1)")
    for name in ("method", "engine", "transform", "model"):
        parser.add_argument(f"--{name}", help=f"as of samreg.register's {name}=")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args(arguments))
    options = {key: given[key] for key in ("method", "engine", "transform", "model", "seed") if given[key] is not None}
    if given["jobs"] < 1:
        parser.error("--jobs must be at least 1")
    try:
        outcomes = register_folder(given["fixed"], given["folder"], given["out"], options, jobs=given["jobs"])
    except samreg.InputError as error:
        parser.error(str(error))
    return 0 if all(outcome.status == "registered" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

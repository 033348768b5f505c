"""Wall time of the torch engine's presets against ANTs SyN: whole processes in turns, imports and embedding included.

    python experiments/preset_speed.py FIXED MOVING --rounds 2 --threads 2

Prints seconds of every run, the medians, and their share of SyN's. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUN = """
import sys, samreg
fixed, moving, name, threads = sys.argv[1:]
if name == "SyN":
    options = {"method": "registration", "engine": "ants", "seed": None}
else:
    options = {"engine": "torch", "engine_options": {"preset": name}}
result = samreg.register(fixed, moving, threads=int(threads), **options)
sys.exit(0 if result else result.reason)
"""
METHODS = ("SyN", "fast", "default", "accurate")


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixed", type=Path)
    parser.add_argument("moving", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(arguments.rounds):
        for name in METHODS:
            call = [
                sys.executable,
                "-c",
                RUN,
                str(arguments.fixed),
                str(arguments.moving),
                name,
                str(arguments.threads),
            ]
            began = time.perf_counter()
            subprocess.run(call, check=True)
            seconds[name].append(time.perf_counter() - began)
    syn = statistics.median(seconds["SyN"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name}: {', '.join(f'{value:.1f}' for value in values)} s; median {median:.1f}, {median / syn:.2f} of SyN"
        )


if __name__ == "__main__":
    main()

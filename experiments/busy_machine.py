"""Seconds of a registration alone and beside one busy program per processor, stage by stage.

python experiments/busy_machine.py FIXED MOVING --repeats 2

Run it on a machine that does nothing else. The fair share beside as many busy programs as processors is half of them,
so twice the time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import samreg
from samreg.device import available_cpus
from samreg.spatial import resample_spacing

METHODS = {
    "embedding": {"method": "embedding"},
    "hybrid, fast": {"method": "hybrid", "engine": "torch", "engine_options": {"preset": "fast"}},
}


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Let so many programs compute without end."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def seconds(fixed: samreg.Image, moving: samreg.Image, options: dict, repeats: int) -> dict[str, float]:
    """Return the median seconds of each stage."""
    runs = [samreg.register(fixed, moving, **options).timings for _ in range(repeats)]
    return {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixed")
    parser.add_argument("moving")
    parser.add_argument("--spacing", type=float, default=2.0, help="mm")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    images = [
        resample_spacing(samreg.read_image(path), arguments.spacing) for path in (arguments.fixed, arguments.moving)
    ]
    for name, options in METHODS.items():
        seconds(*images, options, 1)  # what is loaded once
        alone = seconds(*images, options, arguments.repeats)
        with busy_programs(available_cpus()):
            beside = seconds(*images, options, arguments.repeats)
        alone["all"], beside["all"] = sum(alone.values()), sum(beside.values())
        for stage in alone:
            ratio = beside[stage] / max(alone[stage], 0.01)
            print(f"{name} | {stage} | {alone[stage]:.1f} s | {beside[stage]:.1f} s | x {ratio:.1f}")


if __name__ == "__main__":
    main()

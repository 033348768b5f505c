"""Cost of a seed (embedding + matching + fit) as a share of ANTs SyN's wall time, on one pair at 2 mm.

python experiments/seeding_speed.py FIXED MOVING --models mind sam-random --repeats 3
"""

from __future__ import annotations

import argparse
import statistics
import time

import samreg
from samreg.device import cpu_threads
from samreg.embedding import EmbeddingModel, load_model
from samreg.engines import Request, get_engine
from samreg.seeding import make_seed
from samreg.spatial import resample_spacing


def seed_seconds(model: EmbeddingModel, fixed: samreg.Image, moving: samreg.Image) -> tuple[float, float]:
    """Return the seconds of two embeddings, and of matching and fitting."""
    start = time.perf_counter()
    embeddings = [model.embed(image) for image in (fixed, moving)]
    middle = time.perf_counter()
    make_seed(*embeddings, grid=fixed.grid)
    return middle - start, time.perf_counter() - middle


def syn_seconds(fixed: samreg.Image, moving: samreg.Image, threads: int) -> float:
    """Return the seconds of ANTs' affine + SyN with its defaults."""
    start = time.perf_counter()
    get_engine("ants").register(Request(fixed=fixed, moving=moving, threads=threads))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixed")
    parser.add_argument("moving")
    parser.add_argument("--models", nargs="+", default=["mind", "sam-random"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with cpu_threads(arguments.threads):
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Measure what the arguments name, and print it."""
    fixed, moving = (resample_spacing(samreg.read_image(path), 2.0) for path in (arguments.fixed, arguments.moving))
    print(f"fixed {fixed.grid.size}, moving {moving.grid.size}, 2 mm, {arguments.threads} threads")
    engine_times, stages = [], {name: [] for name in arguments.models}
    models = {name: load_model(name) for name in arguments.models}
    for _ in range(arguments.repeats):  # interleaved, so that a drifting machine drifts for all
        for name, model in models.items():
            stages[name].append(seed_seconds(model, fixed, moving))
        engine_times.append(syn_seconds(fixed, moving, arguments.threads))
    reference = statistics.median(engine_times)
    print(f"ANTs SyN (affine + SyN, defaults): median {reference:.1f} s of {[round(t, 1) for t in engine_times]}")
    for name, times in stages.items():
        embedding, seeding = (statistics.median(part) for part in zip(*times, strict=True))
        total = statistics.median(sum(pair) for pair in times)
        print(
            f"{name}: two embeddings {embedding:.1f} s + matching and fit {seeding:.1f} s = {total:.1f} s, "
            f"{total / reference:.2f} of SyN"
        )


if __name__ == "__main__":
    main()

"""Peak memory of embedding and matching two 512 x 512 x 300 volumes of 0.7 x 0.7 x 1.25 mm.

python benchmarks/memory.py --model mind
"""

from __future__ import annotations

import argparse
import resource

import numpy as np

import samreg
from samreg.seeding import make_seed


def body(seed: int) -> samreg.Image:
    """Return an elliptic cylinder of tissue with two lungs and random vessels, int16 HU."""
    z, y, x = 300, 512, 512
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:y, :x].astype(np.float32)
    inside = ((xx - 256) / 230) ** 2 + ((yy - 256) / 170) ** 2 < 1
    lungs = (((np.abs(xx - 256) - 110) / 75) ** 2 + ((yy - 250) / 110) ** 2) < 1
    array = np.empty((z, y, x), np.int16)
    for k in range(z):
        plane = np.where(inside, 40, -1000) + rng.integers(-30, 30, (y, x))
        array[k] = np.where(lungs & (40 < k < 260), -850 + rng.integers(-60, 60, (y, x)), plane)
    return samreg.Image.from_array(array, spacing=(0.7, 0.7, 1.25), name=f"volume {seed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mind")
    name = parser.parse_args().model
    model = samreg.load_model(name)
    fixed, moving = body(0), body(1)
    seed = make_seed(model.embed(fixed), model.embed(moving))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name}: peak {peak:.2f} GB with both images held, {len(seed.correspondences)} matches")


if __name__ == "__main__":
    main()

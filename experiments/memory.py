"""Peak memory of embedding and matching two volumes, or of registering them with the torch engine.

python experiments/memory.py --model mind                     # 512 x 512 x 300 voxels of 0.7 x 0.7 x 1.25 mm
python experiments/memory.py --register default               # 256 x 256 x 256 voxels of 2 mm
"""

from __future__ import annotations

import argparse
import resource

import numpy as np

import samreg
from samreg.seeding import make_seed


def body(seed: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> samreg.Image:
    """Return an elliptic cylinder of tissue with two lungs and random vessels, int16 HU."""
    z, y, x = shape
    rng = np.random.default_rng(seed)
    yy, xx = (np.mgrid[:y, :x] * 512 / x).astype(np.float32)
    inside = ((xx - 256) / 230) ** 2 + ((yy - 256) / 170) ** 2 < 1
    lungs = (((np.abs(xx - 256) - 110) / 75) ** 2 + ((yy - 250) / 110) ** 2) < 1
    array = np.empty((z, y, x), np.int16)
    for k in range(z):
        plane = np.where(inside, 40, -1000) + rng.integers(-30, 30, (y, x))
        lung = lungs & (0.13 * z < k < 0.87 * z)
        array[k] = np.where(lung, -850 + rng.integers(-60, 60, (y, x)), plane)
    return samreg.Image.from_array(array, spacing=spacing, name=f"volume {seed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ct-small")
    parser.add_argument("--register", choices=("fast", "default", "accurate"))
    arguments = parser.parse_args()
    if arguments.register:
        images = [body(i, (256, 256, 256), (2.0, 2.0, 2.0)) for i in range(2)]
        result = samreg.register(
            *images, model=arguments.model, engine="torch", engine_options={"preset": arguments.register}
        )
        what = f"torch, {arguments.register}: {'registered' if result else result.reason}"
    else:
        model = samreg.load_model(arguments.model)
        images = [body(i, (300, 512, 512), (0.7, 0.7, 1.25)) for i in range(2)]
        seed = make_seed(*(model.embed(image) for image in images))
        what = f"{arguments.model}: {len(seed.correspondences)} matches"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}, peak {peak:.2f} GB with both images held")


if __name__ == "__main__":
    main()

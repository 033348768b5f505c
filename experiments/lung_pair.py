"""Overlap of the lung masks of two visits before and after registration.

python experiments/lung_pair.py FOLDER     # with 3DCT_lung_{baseline,followup}{,_mask}.nii.gz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import samreg
from samreg.quality import dice, mean_surface_distance
from samreg.spatial import as_mask, resample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    fixed, moving, fixed_mask, moving_mask = (
        samreg.read_image(folder / f"3DCT_lung_{name}.nii.gz")
        for name in ("baseline", "followup", "baseline_mask", "followup_mask")
    )
    reference = as_mask(fixed_mask).array

    def show(name: str, mask: samreg.Image) -> None:
        warped = as_mask(mask).array
        distance = mean_surface_distance(warped, reference, spacing=fixed_mask.spacing)
        print(f"| {name} | {dice(warped, reference)[1]:.3f} | {distance:.2f} |", flush=True)

    print("| method | Dice of the lung masks | mean surface distance, mm |\n|---|---|---|")
    show("before", resample(moving_mask, fixed_mask.grid, interpolation="nearest"))
    for method, engine, options in (
        ("embedding", None, None),
        ("registration", "ants", None),
        ("registration", "elastix", None),
        ("hybrid", "ants", None),
        ("hybrid", "elastix", None),
        ("hybrid", "torch", None),
        ("hybrid", "torch", {"preset": "accurate"}),
    ):
        result = samreg.register(
            fixed, moving, method=method, engine=engine, engine_options=options,
            fixed_mask=fixed_mask, moving_mask=moving_mask,
        )  # fmt: skip
        name = " ".join(filter(None, (method, engine, *(options or {}).values())))
        if result:
            show(name, result.warp(moving_mask, interpolation="nearest"))
        else:
            print(f"| {name} | failed: {result.reason} | |")


if __name__ == "__main__":
    main()

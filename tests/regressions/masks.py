"""Masks: NaN outside counts as inside for an engine; -1 (255 kept as int8) is "non-zero" for an engine, empty for embeddings."""

import numpy as np
from samreg import InputError
from samreg.spatial.standard import sample_mask
from samreg.engines.base import _mask_on
from samreg.spatial import Image

inside = np.zeros((6, 6, 6), bool)
inside[2:4, 2:4, 2:4] = True
masks = {"NaN outside": np.where(inside, 1, np.nan).astype("f4"), "-1 inside": np.where(inside, -1, 0).astype("i1")}
bad = []
for name, array in masks.items():
    mask = Image.from_array(array, spacing=2)
    try:
        engine, embedding = int(_mask_on(mask, mask.grid, "mask").array.sum()), int(sample_mask(mask, mask.grid).sum())
    except InputError as error:
        print(name, "refused:", error)
        continue
    print(f"{name}: {inside.sum()} voxels meant; engines take {engine}, embeddings {embedding}")
    bad += [] if engine == embedding == inside.sum() else [name]
raise SystemExit(f"FAULT: {bad}" if bad else 0)

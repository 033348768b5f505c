"""convexAdam as a peer: MIND features, coupled convex optimisation and Adam, after an affine or samreg's seed.

Siebert, Großbröhmer, Hansen and Heinrich, ConvexAdam: self-configuring dual-optimisation-based 3D multitask medical
image registration, TMI 2024.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import samreg
from samreg.benchmark.methods.base import Outcome
from samreg.spatial import DisplacementField, Grid, Image, compose, resample
from samreg.spatial.standard import standardised

_SPACING_MM = 2.0
_BLOCK_VOXELS = 6  # of its coarse grid; it stretches the field of an image that is no multiple of them
_WINDOW_HU = (-1000.0, 1000.0)


def convexadam(
    fixed: Image, moving: Image, *, start: str, threads: int, seed: int, model: str | None = None
) -> Outcome:
    """Register with convexAdam's defaults at 2 mm, from a start.

    Parameters
    ----------
    fixed, moving
        CT in HU.
    start
        "ants-affine" or "embedding", samreg's deformable seed.
    threads, seed
        Of the start and of torch, which has its own back afterwards.
    model
        Of the seed's embeddings; samreg's default unless given.
    """
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    from samreg.device import cpu_threads

    options: dict[str, Any] = {"method": "registration", "engine": "ants", "transform": "affine"}
    if start == "embedding":
        options = {"method": "embedding", "model": model}
    seeded = samreg.register(fixed, moving, threads=threads, seed=seed, **options)
    if seeded.transform is None:
        return Outcome(None, reason=seeded.reason)
    begin = time.perf_counter()
    grid = _whole_blocks(standardised(fixed, _SPACING_MM).grid)
    images = resample(fixed, grid), resample(moving, grid, transform=seeded.transform)
    with cpu_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        voxels = convex_adam_pt(
            *(np.clip(image.array, *_WINDOW_HU) for image in images), dtype=torch.float32, device=torch.device("cpu")
        )
    rest = displacement_field(voxels, grid)
    timings = {**seeded.timings, "convexadam": time.perf_counter() - begin}
    return Outcome(compose(rest, seeded.transform), timings=timings)


def displacement_field(voxels: NDArray[np.floating], grid: Grid) -> DisplacementField:
    """Return convexAdam's displacement as a field in LPS mm.

    Parameters
    ----------
    voxels
        (*grid.shape, 3) displacement from fixed to moving in voxels, components in the order of the array's axes.
    grid
        Of both images it was given.
    """
    return DisplacementField((voxels[..., ::-1] @ grid.index_matrix.T).astype(np.float32), grid)


def _whole_blocks(grid: Grid) -> Grid:
    """Return the grid grown at its ends to whole blocks of convexAdam's coarse grid."""
    shape = tuple(-(-n // _BLOCK_VOXELS) * _BLOCK_VOXELS for n in grid.shape)
    return Grid(shape, grid.origin, grid.spacing, grid.direction)

"""Registration as a careful user does it without embeddings.

Body masks on both images, both at 2 mm, an affine from several starts of which the most similar result is kept, and a
tuned deformable registration from there: the best that the engines give on scans of different people and coverage.
And the same with samreg's seed in place of the starts, which tells what the seed is worth where all else is equal.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import samreg
from samreg.benchmark.methods.base import Outcome
from samreg.embedding.body import body_mask
from samreg.engines import Engine, Request, get_engine
from samreg.errors import EngineError, ImagesAtFault
from samreg.quality import ncc
from samreg.spatial import AffineTransform, Image, Transform, resample, resample_spacing
from samreg.spatial.standard import standardised

_FINE_SPACING_MM, _COARSE_SPACING_MM = 2.0, 6.0
_SHIFTS_MM = (-120.0, -60.0, 0.0, 60.0, 120.0)  # along z, of the fixed body's centre in the moving image
_TURNS_DEGREES = (-15.0, 15.0)  # about x and about z, without shift
_MIN_OVERLAP = 0.4  # share of the smaller body that both must show
_WINDOW_HU = (-1000.0, 1000.0)


def careful(
    fixed: Image,
    moving: Image,
    *,
    engine: str,
    threads: int,
    seed: int,
    deformable: Mapping[str, Any] | None = None,
    seeded: bool = False,
    model: str | None = None,
) -> Outcome:
    """Register as a careful user does.

    Parameters
    ----------
    fixed, moving
        CT in HU.
    engine
        "ants" or "elastix".
    threads, seed
        As in :func:`samreg.register`.
    deformable
        Options of the deformable registration; the affine alone unless given.
    seeded
        Start the deformable registration from samreg's deformable seed instead of the best of several affines.
    model
        Of the seed's embeddings; samreg's default unless given.

    Returns
    -------
    Outcome
        False when no start leads anywhere.
    """
    backend = get_engine(engine)
    begin = time.perf_counter()
    fine = standardised(fixed, _FINE_SPACING_MM), standardised(moving, _FINE_SPACING_MM)
    masks = [image.with_array(body_mask(image).astype(np.uint8)) for image in fine]
    request = Request(
        fixed=fine[0], moving=fine[1], fixed_mask=masks[0], moving_mask=masks[1], seed=seed, threads=threads
    )
    timings = {"preparation": time.perf_counter() - begin}
    if seeded:
        seed_result = samreg.register(fixed, moving, method="embedding", model=model, threads=threads, seed=seed)
        start = Outcome(seed_result.transform, timings=seed_result.timings, reason=seed_result.reason)
    else:
        start = best_affine(backend, request)
    timings.update(start.timings)
    if start.transform is None or deformable is None:
        return Outcome(start.transform, timings=timings, reason=start.reason)
    begin = time.perf_counter()
    transform = backend.register(replace(request, start=start.transform, options=deformable)).transform
    return Outcome(transform, timings={**timings, "deformable": time.perf_counter() - begin})


def best_affine(backend: Engine, request: Request) -> Outcome:
    """Return the most similar of the affines from several starts, found on coarse images and refined on these.

    Parameters
    ----------
    backend
        The engine.
    request
        Images at 2 mm, and masks.
    """
    clock = [time.perf_counter()]
    assert request.fixed_mask is not None
    assert request.moving_mask is not None
    masks = request.fixed_mask, request.moving_mask
    fixed, moving = (resample_spacing(image, _COARSE_SPACING_MM) for image in (request.fixed, request.moving))
    coarse = replace(request, fixed=fixed, moving=moving, transform="affine")
    best_score, best = -1.0, None
    for start in starts(*masks):
        try:
            candidate = backend.register(replace(coarse, start=start)).transform
        except (EngineError, ImagesAtFault):  # a start that shows too little in common
            continue
        score = similarity(fixed, moving, *masks, candidate)
        if score > best_score:
            best_score, best = score, candidate
    clock.append(time.perf_counter())
    if best is None:
        return Outcome(None, reason="no start of the affine registration led anywhere")
    transform = backend.register(replace(request, start=best, transform="affine")).transform
    clock.append(time.perf_counter())
    return Outcome(transform, timings=dict(zip(("starts", "affine"), np.diff(clock).tolist(), strict=True)))


def starts(fixed_mask: Image, moving_mask: Image) -> list[AffineTransform]:
    """Return rigid starts, fixed to moving: body centres on each other, shifted along z, and turned."""
    from scipy.spatial.transform import Rotation

    fixed_center, moving_center = (
        mask.grid.index_to_world(np.argwhere(mask.array)[:, ::-1].mean(axis=0))[0] for mask in (fixed_mask, moving_mask)
    )
    offset = moving_center - fixed_center
    shifted = [AffineTransform(np.eye(3), offset + (0, 0, shift)) for shift in _SHIFTS_MM]
    turned = [
        AffineTransform.about(fixed_center, Rotation.from_euler(axis, angle, degrees=True).as_matrix(), offset)
        for angle in _TURNS_DEGREES
        for axis in "xz"
    ]
    return shifted + turned


def similarity(fixed: Image, moving: Image, fixed_mask: Image, moving_mask: Image, transform: Transform) -> float:
    """Return the normalised cross-correlation within both bodies, -1 where they share less than 40 % of the smaller."""
    within = resample(fixed_mask, fixed.grid, interpolation="nearest", fill=0).array > 0
    both = within & (resample(moving_mask, fixed.grid, transform=transform, interpolation="nearest", fill=0).array > 0)
    volume = [mask.array.sum() * np.prod(mask.spacing) for mask in (fixed_mask, moving_mask)]
    if both.sum() * np.prod(fixed.spacing) < _MIN_OVERLAP * min(volume):
        return -1.0
    warped = resample(moving, fixed.grid, transform=transform)
    return ncc(np.clip(fixed.array, *_WINDOW_HU), np.clip(warped.array, *_WINDOW_HU), both)

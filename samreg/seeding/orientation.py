"""Images whose axes are turned or mirrored: noticed, tried, and said.

Embeddings know how a body lies: a scan turned by 90 degrees or more, or mirrored by a wrong header, matches
badly, or matches the wrong side. A low-resolution correlation over all 48 axis orientations proposes another
one; the embedding of the re-oriented image must then agree far better before it is believed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from samreg.embedding.embedding import Embedding
from samreg.seeding.seed import Seed, make_seed
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample, resample_spacing
from samreg.spatial.transforms import AffineTransform, compose

_SPACING = 16.0  # mm, of the volumes that are correlated
_GLANCE, _LOOKED_AT = 28.0, 8  # mm, at which all orientations are compared; how many of the best are looked at
_CLEARLY_BETTER = 0.02  # correlation by which another orientation must win to be tried
_WEAK = 0.3  # inlier share under which the best other orientation is tried in any case
_FAR_BETTER = 0.93  # the matches of the other orientation must be this much nearer in embedding space


@dataclass(frozen=True, eq=False)
class OrientedSeed:
    """A seed, and what was learnt about how the bodies lie.

    Parameters
    ----------
    seed
        False when there is none, or the moving image is mirrored.
    moving
        Embedding of the moving image that fits the seed; None where the image matches only after a turn, in which it
        is not embedded.
    notes
        What the user should know about the orientation, in plain words.
    """

    seed: Seed
    moving: Embedding | None
    notes: tuple[str, ...] = ()


def seed_any_orientation(
    fixed: Image,
    moving: Image,
    fixed_embedding: Embedding,
    moving_embedding: Embedding,
    *,
    embed: Callable[[Image, Image | None], Embedding],
    moving_mask: Image | None = None,
    transform: str,
    seed: int = 0,
) -> OrientedSeed:
    """Return the seed of two images whose axes may be turned against each other.

    Parameters
    ----------
    fixed, moving
        CT images in HU, which are checked, or 2D X-rays, which are not.
    fixed_embedding, moving_embedding
        Their embeddings.
    embed
        Embeds the re-oriented moving image, within its mask where there is one.
    moving_mask
        Where to look in the moving image.
    transform
        "rigid", "affine" or "deformable".
    seed
        Of the random hypotheses.

    Returns
    -------
    OrientedSeed
        Through the turned image where that matches far better; its seed is false when the moving image looks mirrored.
    """
    found = make_seed(fixed_embedding, moving_embedding, transform=transform, grid=fixed.grid, seed=seed)
    if fixed.ndim == 2:  # the search below is for volumes in HU
        return OrientedSeed(found, moving_embedding)
    turn = propose_orientation(fixed, moving, weak=found.affine.inlier_share < _WEAK)
    if turn is None:
        return OrientedSeed(found, moving_embedding)
    center = moving.grid.center
    turned, undo = reoriented(moving, turn, center)
    mask = None if moving_mask is None else reoriented(moving_mask, turn, center)[0]
    other = make_seed(fixed_embedding, embed(turned, mask), transform=transform, grid=fixed.grid, seed=seed)
    if not other or (found and _distance(other) > _FAR_BETTER * _distance(found)):
        return OrientedSeed(found, moving_embedding)
    how = describe_orientation(turn)
    if np.linalg.det(turn) < 0:
        reason = (
            f"{moving.label} looks mirrored ({how}): its mirror image matches {fixed.label} better than itself; "
            "mend its direction or flip the array"
        )
        return OrientedSeed(Seed(None, other.affine, other.correspondences, reason), None)
    assert other.transform is not None
    pairs = other.correspondences
    pairs = type(pairs)(
        pairs.fixed, undo.transform_points(pairs.moving), pairs.similarity, pairs.reliability, pairs.cycle_error
    )
    note = (
        f"{moving.label} lies turned against {fixed.label} ({how}); it was registered so. "
        "If that is not how the patient lay, mend its direction"
    )
    return OrientedSeed(Seed(compose(other.transform, undo), other.affine, pairs), None, (note,))


def _distance(seed: Seed) -> float:
    """Return the mean of 1 - similarity of the matches behind a seed."""
    return float(1 - seed.correspondences.similarity.mean())


def propose_orientation(fixed: Image, moving: Image, *, weak: bool = False) -> FloatArray | None:
    """Return the signed permutation of the world axes after which ``moving`` correlates clearly best, or None.

    Parameters
    ----------
    fixed, moving
        CT images in HU.
    weak
        Ask for the best other orientation even when it is not clearly better.

    Returns
    -------
    ndarray or None
        (3, 3) matrix R; the image re-oriented by it has the voxel of x at R (x - c) + c.
    """
    identity, *turns = _orientations()
    scores = _correlations(fixed, moving, turns, _GLANCE)
    turns = [turns[i] for i in np.argsort(scores)[::-1][:_LOOKED_AT]]
    here, *scores = _correlations(fixed, moving, [identity, *turns], _SPACING)
    best = int(np.argmax(scores))
    return turns[best] if scores[best] > here + (0.0 if weak else _CLEARLY_BETTER) else None


def _correlations(fixed: Image, moving: Image, turns: list[FloatArray], spacing: float) -> list[float]:
    import joblib
    import torch

    target, source = _standard(fixed, spacing), _standard(moving, spacing)
    # threads, whatever backend the caller's joblib context names: each takes milliseconds, outside Python's lock
    work = joblib.Parallel(n_jobs=torch.get_num_threads(), require="sharedmem")
    return list(work(joblib.delayed(_correlation)(target, _turned(source, turn)) for turn in turns))


def reoriented(image: Image, turn: FloatArray, center: FloatArray) -> tuple[Image, AffineTransform]:
    """Turn the image about a point of the world; the array stays as it is.

    Returns
    -------
    Image
        The turned image.
    AffineTransform
        From the turned image's world to the given one's.
    """
    grid = image.grid
    forward = AffineTransform.about(center, turn)
    origin = forward.transform_points(grid.origin)[0]
    turned = Image(image.array, Grid(grid.shape, origin, grid.spacing, turn @ grid.direction), image.name)
    return turned, forward.inverse()


def describe_orientation(turn: FloatArray) -> str:
    """Say in words where the patient's left, back and head went."""
    names = (("right", "left"), ("front", "back"), ("foot", "head"))
    parts = []
    for axis in range(3):
        to = int(np.abs(turn[:, axis]).argmax())
        if to != axis or turn[to, axis] < 0:
            parts.append(f"its {names[axis][1]} is where the {names[to][int(turn[to, axis] > 0)]} should be")
    return ", ".join(parts)


def _orientations() -> list[FloatArray]:
    turns = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            turn = np.zeros((3, 3))
            turn[order, range(3)] = signs
            turns.append(turn)
    return turns


def _turned(volume: FloatArray, turn: FloatArray) -> FloatArray:
    """Return an axis-aligned volume (z, y, x) with its world axes permuted and flipped by ``turn``."""
    source = np.abs(turn).argmax(axis=1)  # world axis b comes from world axis source[b]
    turned = volume.transpose([2 - source[b] for b in (2, 1, 0)])
    return turned[tuple(slice(None, None, int(turn[b, source[b]])) for b in (2, 1, 0))]


def _standard(image: Image, spacing: float) -> FloatArray:
    """Return a small axis-aligned volume, tissue between 0 (air) and 1 (bone)."""
    coarse = resample_spacing(image, np.maximum(spacing, image.spacing))
    corners = coarse.grid.corners()
    size = np.maximum(1, np.round(np.ptp(corners, axis=0) / spacing)).astype(int)
    box = Grid.make(tuple(size[::-1]), origin=corners.min(axis=0) + spacing / 2, spacing=spacing)
    if not box.same_as(coarse.grid):
        coarse = resample(coarse, box, fill=-1000.0)
    return (np.clip(coarse.array, -1000, 300) + 1000) / 1300


def _correlation(fixed: FloatArray, moving: FloatArray) -> float:
    """Return the best normalised correlation over all shifts that keep most of the smaller image."""
    import SimpleITK as sitk

    f, m = (sitk.GetImageFromArray(np.ascontiguousarray(a, dtype=np.float32)) for a in (fixed, moving))
    overlap = 0.6 * min(fixed.size, moving.size) / max(fixed.size, moving.size)
    result = sitk.FFTNormalizedCorrelation(f, m, 0, overlap)
    return float(sitk.GetArrayViewFromImage(result).max())

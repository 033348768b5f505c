"""Which turns of the moving image look like the fixed one, at a few centimetres a voxel.

A body may lie in any pose. Correlating coarse images over rotations that cover all poses takes a fraction of a second
and ranks them well enough for the embeddings, which tell the right one, to try only the best few.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample, resample_spacing
from samreg.spatial.transforms import AffineTransform

_VOXELS_ACROSS = {2: 24, 3: 12}  # of the coarse images, by number of dimensions
_MAX_VOXEL_MM = 28.0
_MIN_OVERLAP = 0.6  # of the smaller image, at the shifts that are considered
_HU_RANGE = (-1000.0, 300.0)  # air to bone
_XRAY_PERCENTILES = (0.5, 99.5)
_MIN_APART_DEG = 40.0  # between proposals; embeddings find their way within that
_MAX_PROPOSALS = 4


def propose_turns(fixed: Image, moving: Image, turns: Sequence[FloatArray], *, margin: float = 0.0) -> list[FloatArray]:
    """Return turns after which the moving image correlates better with the fixed one than as it is.

    Parameters
    ----------
    fixed, moving
        CT images in HU, or 2D X-rays.
    turns
        (d, d) orthogonal matrices of the world to choose from, such as :func:`rotations`.
    margin
        By how much the correlation must be better, 0 to 1.

    Returns
    -------
    list of ndarray
        The best first, no two alike, at most four; none when nothing is better.
    """
    voxel = min(_MAX_VOXEL_MM, *(_mean_extent(image) / _VOXELS_ACROSS[image.ndim] for image in (fixed, moving)))
    unturned = np.eye(fixed.ndim)
    target, view = _CoarseView(fixed, voxel).turned(unturned), _CoarseView(moving, voxel)
    goal = masked_correlation(*target, *view.turned(unturned)) + margin
    scores = [masked_correlation(*target, *view.turned(turn)) for turn in turns]
    proposals: list[FloatArray] = []
    for i in np.argsort(scores)[::-1]:
        if scores[i] <= goal or len(proposals) == _MAX_PROPOSALS:
            break
        if all(angle_between(turns[i], chosen) > _MIN_APART_DEG for chosen in proposals):
            proposals.append(turns[i])
    return proposals


@lru_cache
def rotations(ndim: int, *, dense: bool = True) -> tuple[FloatArray, ...]:
    """Return rotation matrices (d, d) that cover all poses, the identity first.

    In 2D eight, 45 degrees apart. In 3D 192: the 24 turns of the axes, alone and followed by 45 degrees about x, y or z
    or 60 degrees about a diagonal; every rotation is within 32 degrees of one of them.

    Parameters
    ----------
    ndim
        Number of dimensions, 2 or 3.
    dense
        False leaves only the turns of the axes, four or 24.

    Examples
    --------
    >>> len(rotations(2)), len(rotations(3)), len(rotations(3, dense=False))
    (8, 192, 24)
    """
    from scipy.spatial.transform import Rotation

    if ndim == 2:
        angles = range(0, 360, 45 if dense else 90)
        return tuple(Rotation.from_euler("z", angle, degrees=True).as_matrix()[:2, :2] for angle in angles)
    tilts = [np.zeros(3)]
    if dense:
        diagonals = np.array([(1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)]) / 3**0.5
        tilts += [*(np.eye(3) * np.pi / 4), *(diagonals * np.pi / 3)]
    distinct: list[FloatArray] = [np.eye(3)]
    for tilt in tilts:
        for rotation in (Rotation.from_rotvec(tilt) * Rotation.create_group("O")).as_matrix():
            if all(angle_between(rotation, other) > 1.0 for other in distinct):
                distinct.append(rotation)
    return tuple(distinct)


def angle_between(a: FloatArray, b: FloatArray) -> float:
    """Return the angle between two rotations (d, d), or two reflections, degrees.

    Examples
    --------
    >>> import numpy as np
    >>> round(angle_between(np.eye(2), np.array([[0, -1], [1, 0]])))
    90
    """
    difference = a @ b.T
    cosine = (np.trace(difference) - 1) / 2 if len(a) == 3 else np.trace(difference) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def masked_correlation(fixed: FloatArray, fixed_mask: FloatArray, moving: FloatArray, moving_mask: FloatArray) -> float:
    """Return the best normalised correlation over all shifts that keep most of the smaller image.

    By Fourier transforms (Padfield, IEEE TIP 2012). SimpleITK's own filter of this kind crashes on some sizes.

    Parameters
    ----------
    fixed, moving
        Arrays of one number of dimensions, of any shapes.
    fixed_mask, moving_mask
        1 where they hold data, 0 elsewhere.

    Returns
    -------
    float
        In [-1, 1]; -1 when no shift keeps enough.
    """
    from scipy import fft

    shape = [fft.next_fast_len(a + b - 1, real=True) for a, b in zip(fixed.shape, moving.shape, strict=True)]
    f, m = _centred(fixed, fixed_mask), _centred(moving, moving_mask)
    f1, f2, f3 = (fft.rfftn(part, shape) for part in (fixed_mask, f, f**2))
    m1, m2, m3 = (np.conj(fft.rfftn(part, shape)) for part in (moving_mask, m, m**2))
    count, sum_f, sum_m, covariance, variance_f, variance_m = (
        fft.irfftn(product, shape) for product in (f1 * m1, f2 * m1, f1 * m2, f2 * m2, f3 * m1, f1 * m3)
    )
    enough = count >= _MIN_OVERLAP * min(fixed_mask.sum(), moving_mask.sum())
    count = np.where(enough, count, 1.0)
    covariance -= sum_f * sum_m / count
    scale = np.sqrt(np.maximum((variance_f - sum_f**2 / count) * (variance_m - sum_m**2 / count), 0))
    enough &= scale > 1e-3 * scale.max()
    return float(np.where(enough, covariance / np.where(enough, scale, 1.0), -1.0).max())


def _centred(array: FloatArray, mask: FloatArray) -> FloatArray:
    centred: FloatArray = (array - (array * mask).sum() / mask.sum()) * mask
    return centred


def _mean_extent(image: Image) -> float:
    return float(np.prod(image.grid.extent) ** (1 / image.ndim))


class _CoarseView:
    """An image at low resolution, as it looks when it is turned."""

    def __init__(self, image: Image, voxel: float) -> None:
        coarse = resample_spacing(image, np.maximum(voxel, image.spacing))
        low, high = _HU_RANGE if image.ndim == 3 else np.percentile(coarse.array, _XRAY_PERCENTILES)
        scaled = (np.clip(coarse.array, low, high) - low) / max(high - low, 1e-6)
        self.image = coarse.with_array(scaled.astype(np.float32))
        self.data = coarse.with_array(np.ones(coarse.shape, np.uint8))
        self.voxel = voxel

    def turned(self, rotation: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the turned image on axes of the world, 0 to 1, and a mask of where it holds data."""
        grid = turned_grid(self.image.grid, rotation, self.image.grid.center)
        corners = grid.corners()
        low, high = corners.min(axis=0), corners.max(axis=0)
        size = np.maximum(1, np.ceil((high - low) / self.voxel - 0.05)).astype(int)
        box = Grid.make(tuple(size[::-1]), origin=(low + high - self.voxel * (size - 1)) / 2, spacing=self.voxel)
        array, data = (Image(part.array, grid) for part in (self.image, self.data))
        return (
            resample(array, box, fill=0.0).array.astype(np.float64),
            resample(data, box, interpolation="nearest", fill=0).array.astype(np.float64),
        )


def turned_grid(grid: Grid, turn: FloatArray, center: Sequence[float] | FloatArray) -> Grid:
    """Return a grid turned or mirrored about a point of the world by an orthogonal matrix (d, d)."""
    origin = AffineTransform.about(center, turn).transform_points(grid.origin)[0]
    return Grid(grid.shape, origin, grid.spacing, turn @ grid.direction)

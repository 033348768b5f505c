"""Which turns of the moving image look like the fixed one, at a few centimetres a voxel.

A body may lie in any pose. Correlating coarse images over rotations that cover all poses takes a fraction of a second
and ranks them well enough for the embeddings, which tell the right one, to try only the best few.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.seeding.turns import angle_between
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.resample import resample_spacing
from samreg.spatial.standard import has_hounsfield_units

_VOXELS_ACROSS = {2: 24, 3: 12}  # of the coarse images, by number of dimensions
_MAX_VOXEL_MM = 28.0
_MAX_EXTENT_RATIO = 5.0  # of two images that are compared so
_MIN_OVERLAP = 0.6  # of the smaller image, at the shifts that are considered
_HU_RANGE = (-1000.0, 300.0)  # air to bone
_PERCENTILES = (0.5, 99.5)
_MIN_APART_DEG = 40.0  # between proposals; embeddings find their way within that
_MAX_PROPOSALS = 4
_TURNS_AT_ONCE = 8


def propose_turns(
    fixed: Image,
    moving: Image,
    turns: Sequence[FloatArray],
    *,
    margin: float = 0.0,
    device: str | torch.device = "cpu",
) -> list[FloatArray]:
    """Return turns after which the moving image correlates better with the fixed one than as it is.

    Parameters
    ----------
    fixed, moving
        CT images in HU, or 2D X-rays.
    turns
        (d, d) orthogonal matrices of the world to choose from, such as :func:`rotations`.
    margin
        By how much the correlation must be better, 0 to 1.
    device
        Where to correlate.

    Returns
    -------
    list of ndarray
        The best first, no two alike, at most four; none when nothing is better.
    """
    extents = [_mean_extent(image) for image in (fixed, moving)]
    if max(extents) > _MAX_EXTENT_RATIO * min(extents):
        return []  # a header in cm, or too little of a body to be recognised so coarsely
    voxel = min(_MAX_VOXEL_MM, *(extent / _VOXELS_ACROSS[fixed.ndim] for extent in extents))
    unturned = np.eye(fixed.ndim)
    every = [unturned, *turns]
    target, target_mask = _CoarseView(fixed, voxel, [unturned], device).turned([unturned])
    view = _CoarseView(moving, voxel, every, device)
    goal, *scores = torch.cat(
        [
            masked_correlation(target[0], target_mask[0], *view.turned(every[first : first + _TURNS_AT_ONCE]))
            for first in range(0, len(every), _TURNS_AT_ONCE)
        ]
    ).tolist()
    goal += margin
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


def masked_correlation(fixed: Tensor, fixed_mask: Tensor, moving: Tensor, moving_mask: Tensor) -> Tensor:
    """Return the best normalised correlations over all shifts that keep most of the smaller image.

    By Fourier transforms (Padfield, IEEE TIP 2012).

    Parameters
    ----------
    fixed, moving
        One array, and B others (B, ...) of the same number of dimensions, of any sizes.
    fixed_mask, moving_mask
        1 where they hold data, 0 elsewhere.

    Returns
    -------
    Tensor
        (B,) in [-1, 1]; -1 when no shift keeps enough.
    """
    from scipy.fft import next_fast_len

    shape = [next_fast_len(a + b - 1, real=True) for a, b in zip(fixed.shape, moving.shape[1:], strict=True)]
    axes = tuple(range(-fixed.ndim, 0))

    def spectra(array: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = (array * mask).sum(dim=axes, keepdim=True) / mask.sum(dim=axes, keepdim=True)
        centred = (array - mean) * mask
        of_mask, of_array, of_square = torch.fft.rfftn(torch.stack([mask, centred, centred**2]), shape, dim=axes)
        return of_mask, of_array, of_square

    f1, f2, f3 = spectra(fixed, fixed_mask)
    m1, m2, m3 = (spectrum.conj() for spectrum in spectra(moving, moving_mask))
    products = torch.stack([f1 * m1, f2 * m1, f1 * m2, f2 * m2, f3 * m1, f1 * m3])
    count, sum_f, sum_m, covariance, variance_f, variance_m = torch.fft.irfftn(products, shape, dim=axes)
    smaller = torch.minimum(fixed_mask.sum(), moving_mask.sum(dim=axes, keepdim=True))
    enough = count >= _MIN_OVERLAP * smaller
    count = torch.where(enough, count, 1.0)
    covariance = covariance - sum_f * sum_m / count
    scale = ((variance_f - sum_f**2 / count) * (variance_m - sum_m**2 / count)).clamp(min=0).sqrt()
    enough &= scale > 1e-3 * scale.amax(dim=axes, keepdim=True)
    return torch.where(enough, covariance / torch.where(enough, scale, 1.0), -1.0).amax(dim=axes)


def _mean_extent(image: Image) -> float:
    return float(np.prod(image.grid.extent) ** (1 / image.ndim))


class _CoarseView:
    """An image at low resolution, as it looks after turns about its middle, all in one box that holds each of them."""

    def __init__(self, image: Image, voxel: float, turns: Sequence[FloatArray], device: str | torch.device) -> None:
        coarse = resample_spacing(image, np.maximum(voxel, image.spacing))
        low, high = _HU_RANGE if has_hounsfield_units(image) else np.percentile(coarse.array, _PERCENTILES)
        scaled = (np.clip(coarse.array, low, high) - low) / max(high - low, 1e-6)
        self.volume = torch.from_numpy(scaled.astype(np.float32)).to(device)
        grid = coarse.grid
        corners = (grid.corners() - grid.center) @ np.swapaxes(np.stack(turns), 1, 2)
        extent = (corners.max(axis=1) - corners.min(axis=1)).max(axis=0)
        self.size = np.maximum(1, np.ceil(extent / voxel - 0.05)).astype(int)
        # both count from -1 in the middle of the first voxel to 1 in that of the last
        half_box, half_image = voxel * (self.size - 1) / 2, np.maximum(np.asarray(grid.size) - 1, 1) / 2
        self._from_box, self._to_image = half_box, np.linalg.inv(grid.index_matrix) / half_image[:, None]
        self._reach = self.volume.new_tensor(np.asarray(grid.size) / 2 / half_image)

    def turned(self, turns: Sequence[FloatArray]) -> tuple[Tensor, Tensor]:
        """Return the images after turns, (B, *shape) on axes of the world, 0 to 1, and masks of where data are."""
        matrix = self._to_image @ np.swapaxes(np.stack(turns), 1, 2) * self._from_box
        theta = self.volume.new_tensor(np.concatenate([matrix, np.zeros_like(matrix[..., :1])], axis=2))
        where = F.affine_grid(theta, [len(turns), 1, *self.size[::-1].tolist()], align_corners=True)
        volume = self.volume.expand(len(turns), 1, *self.volume.shape)
        values = F.grid_sample(volume, where, padding_mode="border", align_corners=True)[:, 0]
        mask = (where.abs() <= self._reach).all(dim=-1).to(values.dtype)
        return values * mask, mask

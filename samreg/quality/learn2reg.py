"""Learn2Reg's measures as its evaluation computes them (MDL-UzL/L2R, evaluation/), for comparison with its tables.

A displacement is that of :func:`samreg.spatial.io_transforms.learn2reg_displacement`, (x, y, z, 3) voxels.
Hering et al., Learn2Reg: comprehensive multi-task medical image registration challenge, TMI 2023.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.spatial.grid import FloatArray

_BORDER_VOXELS = 2  # at every border, which the evaluation leaves out


def learn2reg_sdlogj(displacement: NDArray[np.floating]) -> float:
    """Return SDlogJ: the standard deviation of log(det J + 3) clipped to [1e-9, 1e9].

    The 3 is added to a determinant that already holds the identity, which compresses the spread; see
    :class:`samreg.quality.JacobianStatistics` for the plain one.
    """
    inner = slice(_BORDER_VOXELS, -_BORDER_VOXELS)
    ahead, behind = (slice(_BORDER_VOXELS + step, step - _BORDER_VOXELS) for step in (1, -1))
    total, square, count = 0.0, 0.0, 0
    for i in range(_BORDER_VOXELS, len(displacement) - _BORDER_VOXELS):  # a plane at a time, to bound memory
        u = displacement[i - 1 : i + 2].astype(np.float64)
        along_x = (u[2] - u[0])[inner, inner] / 2
        along_y = (u[1, ahead, inner] - u[1, behind, inner]) / 2
        along_z = (u[1, inner, ahead] - u[1, inner, behind]) / 2
        det = np.linalg.det(np.stack([along_x, along_y, along_z], axis=-1) + np.eye(3))
        log = np.log(np.clip(det + 3, 1e-9, 1e9))
        total, square, count = total + log.sum(), square + (log**2).sum(), count + log.size
    return float(np.sqrt(max(square / count - (total / count) ** 2, 0.0)))


def learn2reg_tre(
    displacement: NDArray[np.floating], fixed: ArrayLike, moving: ArrayLike, spacing: ArrayLike
) -> FloatArray:
    """Return the registration errors (N,) mm of keypoints (N, 3) in voxels; ``spacing`` is the moving image's, mm.

    The displacement is interpolated by cubic splines.
    """
    from scipy.ndimage import map_coordinates

    fixed, moving = np.asarray(fixed, dtype=float), np.asarray(moving, dtype=float)
    u = np.stack([map_coordinates(displacement[..., k], fixed.T) for k in range(3)], axis=1)
    errors: FloatArray = np.linalg.norm((fixed + u - moving) * np.asarray(spacing), axis=1)
    return errors


def learn2reg_dice(fixed: NDArray[np.integer], moving: NDArray[np.integer], warped: NDArray[np.integer]) -> float:
    """Return the mean Dice overlap of the labels that both the fixed and the unwarped moving label map have."""
    labels = np.intersect1d(np.unique(fixed), np.unique(moving))
    overlaps = [
        2 * np.sum((fixed == label) & (warped == label)) / (np.sum(fixed == label) + np.sum(warped == label))
        for label in labels[labels > 0]
    ]
    return float(np.mean(overlaps))

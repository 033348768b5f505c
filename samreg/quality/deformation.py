"""How a transform stretches and folds space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.quality.arrays import numbers
from samreg.spatial.grid import FloatArray, Grid, require_grid
from samreg.spatial.standard import mask_voxels
from samreg.spatial.transforms import Transform, require_transform

_VOXELS_AT_ONCE = 200_000  # to bound memory
_MIN_DETERMINANT = 1e-9  # a fold has no logarithm; Learn2Reg clips here


@dataclass(frozen=True)
class JacobianStatistics:
    """Statistics of det J, the local change of volume; 1 keeps it.

    Parameters
    ----------
    folding_percent
        Share of the voxels with det J <= 0, percent.
    log_std
        Standard deviation of log det J, folds clipped at 1e-9.
    log_std_unfolded
        The same over the voxels with det J > 0 alone: a fold has no logarithm. ``folding_percent`` are left out.
    log_std_learn2reg
        The same of log(det J + 3), which Learn2Reg's code computes and its tables hold
        (MDL-UzL/L2R, evaluation/evaluation.py); only for comparison with them.
    minimum, p01, p99
        Smallest, 1st and 99th percentile of det J.
    """

    folding_percent: float
    log_std: float
    log_std_unfolded: float
    log_std_learn2reg: float
    minimum: float
    p01: float
    p99: float


def jacobian_statistics(
    transform: Transform, grid: Grid, mask: NDArray[np.bool_] | None = None, *, step: float | None = None
) -> JacobianStatistics:
    """Return statistics of the Jacobian determinant by central differences, one-sided at the border.

    Parameters
    ----------
    transform
        Fixed to moving.
    grid
        At whose voxel centres to look, in the fixed frame.
    mask
        (*grid.shape) where to look; everywhere unless given.
    step
        Distance from the centre at which to difference, mm; one voxel unless given. On a coarse grid a small
        step finds folds that a whole voxel would average away.

    Raises
    ------
    InputError
        When an axis has a single voxel, or the mask is empty or of another shape.

    Examples
    --------
    >>> from samreg.quality import jacobian_statistics
    >>> from samreg.spatial import AffineTransform, Grid
    >>> doubled = AffineTransform([[2, 0], [0, 1]], [0, 0])
    >>> statistics = jacobian_statistics(doubled, Grid.make((10, 10)))
    >>> statistics.minimum, statistics.folding_percent
    (2.0, 0.0)
    """
    det = determinants(transform, grid, mask, step=step)
    p01, p99 = np.percentile(det, (1, 99))
    return JacobianStatistics(
        folding_percent=float(100 * np.mean(det <= 0)),
        log_std=float(np.log(np.maximum(det, _MIN_DETERMINANT)).std()),
        log_std_unfolded=float(np.log(det[det > 0]).std()) if (det > 0).any() else 0.0,
        log_std_learn2reg=float(np.log(np.maximum(det + 3, _MIN_DETERMINANT)).std()),
        minimum=float(det.min()),
        p01=float(p01),
        p99=float(p99),
    )


def determinants(
    transform: Transform, grid: Grid, mask: NDArray[np.bool_] | None = None, *, step: float | None = None
) -> FloatArray:
    """Return det J (N,) at the voxels of a mask, in the order of ``array[mask]``; see :func:`jacobian_statistics`."""
    require_transform(transform)
    require_grid(grid)
    if min(grid.shape) < 2:
        raise InputError(f"the Jacobian needs at least 2 voxels along every axis, got shape {grid.shape}")
    mask = np.ones(grid.shape, dtype=bool) if mask is None else mask_voxels(numbers(mask, "mask"))
    if mask.shape != grid.shape or not mask.any():
        raise InputError(f"the mask must be {grid.shape} and not empty, got {mask.shape} with {int(mask.sum())} voxels")
    steps = grid.spacing if step is None else step
    index = np.argwhere(mask)[:, ::-1]
    chunks = (grid.index_to_world(index[i : i + _VOXELS_AT_ONCE]) for i in range(0, len(index), _VOXELS_AT_ONCE))
    return np.concatenate([np.linalg.det(transform.jacobian(points, step=steps, within=grid)) for points in chunks])

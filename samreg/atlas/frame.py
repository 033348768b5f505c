"""A frame that no subject is nearer to than the others, and the change of shape that keeps it so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from samreg.errors import InputError
from samreg.spatial.displacement import DisplacementField, invert, tapered
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.transforms import AffineTransform, Transform

_MARGIN_MM = 40.0  # around the template over which the change of shape falls to zero
_SPACING_MM = 4.0  # voxels of the change of shape
_FULL_DEPTH_MM = 30.0  # inside its view, from where on a subject counts fully
_MIN_WEIGHT = 0.01  # of a subject outside its view


def mean_affine(affines: Sequence[AffineTransform]) -> AffineTransform:
    """Return the Karcher mean of affine transforms: the one from which their logarithms add up to zero.

    It does not depend on the frames on either side, as the mean of matrices does (Pennec and Arsigny, Exponential
    barycenters of the canonical Cartan connection and invariant means on Lie groups, 2013).

    Raises
    ------
    InputError
        When two of them differ by half a turn or a reflection, so that there is no mean.

    Examples
    --------
    >>> shifts = [AffineTransform(np.eye(3), [x, 0.0, 0.0]) for x in (0.0, 10.0)]
    >>> mean_affine(shifts).translation.round(6).tolist()
    [5.0, 0.0, 0.0]
    """
    from scipy.linalg import expm, logm

    matrices = [_homogeneous(affine) for affine in affines]
    mean = matrices[0]
    for _ in range(50):
        steps = [logm(np.linalg.inv(mean) @ matrix) for matrix in matrices]
        step = np.mean(steps, axis=0)
        if np.abs(np.imag(steps)).max() > 1e-6:
            raise InputError("the affines have no mean: some images are mirrored or turned by half against others")
        mean = mean @ expm(np.real(step))
        if np.abs(step).max() < 1e-9:
            break
    return AffineTransform(mean[:-1, :-1], mean[:-1, -1])


def _homogeneous(affine: AffineTransform) -> FloatArray:
    matrix = np.eye(affine.ndim + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = affine.matrix, affine.translation
    return matrix


def common_frame(affines: Mapping[str, AffineTransform]) -> dict[str, AffineTransform]:
    """Return affines from one frame to every subject whose mean is the identity's: x -> A_i(M^-1(x)).

    Parameters
    ----------
    affines
        From a reference to each subject, LPS mm; M is their mean.

    Examples
    --------
    >>> shifts = {name: AffineTransform(np.eye(3), [x, 0.0, 0.0]) for name, x in (("a", 0.0), ("b", 10.0))}
    >>> {name: affine.translation.round(6).tolist() for name, affine in common_frame(shifts).items()}
    {'a': [-5.0, 0.0, 0.0], 'b': [5.0, 0.0, 0.0]}
    """
    back = mean_affine(list(affines.values())).inverse()
    return {
        name: AffineTransform(a.matrix @ back.matrix, a.matrix @ back.translation + a.translation)
        for name, a in affines.items()
    }


def common_grid(grids: Mapping[str, Grid], frame: Mapping[str, AffineTransform], spacing: float) -> Grid:
    """Return a grid along the axes of the frame whose every face at least half of the subjects reach.

    Parameters
    ----------
    grids
        Of the subjects.
    frame
        From the frame to each subject, LPS mm.
    spacing
        Voxel size, mm.

    Raises
    ------
    InputError
        When the subjects have no such box in common.

    Examples
    --------
    >>> views = {name: Grid.make((n, 50, 60), spacing=2.0) for name, n in (("a", 20), ("b", 40), ("c", 80))}
    >>> common_grid(views, {name: AffineTransform.identity(3) for name in views}, 4.0).shape
    (20, 25, 30)
    """
    corners = np.array([frame[name].inverse().transform_points(grid.corners()) for name, grid in grids.items()])
    low, high = np.median(corners.min(axis=1), axis=0), np.median(corners.max(axis=1), axis=0)
    if (high - low < 2 * spacing).any():
        raise InputError("the subjects share no field of view; do they show the same part of the body?")
    size = np.ceil((high - low) / spacing).astype(int)
    return Grid.make(size[::-1], origin=low + spacing / 2, spacing=spacing)


def shape_update(
    transforms: Iterable[Transform], affines: Sequence[AffineTransform], views: Sequence[Grid], grid: Grid
) -> tuple[DisplacementField, DisplacementField]:
    """Return the mean residual displacement, and the map from the unbiased template to the present one.

    A template drawn towards some subjects has residuals S_i = A_i^-1 T_i that do not average to the identity. Where v
    is their mean displacement, the template pulled back by (id + v)^-1 has none (the shape update of Avants et al.,
    The optimal template effect in hippocampus studies of diseased populations, NeuroImage 2010, with a full step). So
    the template cannot wander however often this is repeated: it stays in the middle that the affines A_i define.

    Parameters
    ----------
    transforms
        T_i, template to subjects, LPS mm; held one at a time.
    affines
        A_i, common frame to subjects, LPS mm, in the same order.
    views
        Grids of the subjects, in the same order: a subject counts by how deep in its view a point lies, since
        registrations contract where a view ends.
    grid
        Of the template.

    Returns
    -------
    mean : DisplacementField
        v, mm; it falls to zero over a margin around the template.
    update : DisplacementField
        Unbiased template to present template points, LPS mm.
    """
    coarse = grid.with_spacing(np.minimum(np.maximum(_SPACING_MM, grid.spacing), grid.extent)).padded(_MARGIN_MM)
    points = coarse.world_points().reshape(-1, coarse.ndim)
    total, weight = np.zeros_like(points), np.zeros(len(points))
    for transform, affine, view in zip(transforms, affines, views, strict=True):
        mapped = transform.transform_points(points)
        share = np.clip(view.depth(mapped) / _FULL_DEPTH_MM, 0, 1) + _MIN_WEIGHT
        total += share[:, None] * (affine.inverse().transform_points(mapped) - points)
        weight += share
    field = (total / weight[:, None]).reshape(*coarse.shape, coarse.ndim).astype(np.float32)
    mean = tapered(DisplacementField(field, coarse), _MARGIN_MM)
    update = invert(mean)
    assert isinstance(update, DisplacementField)
    return mean, update

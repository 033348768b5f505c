"""Overlap and surface distance of segmented structures."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError
from samreg.quality.arrays import numbers, require_same_shape
from samreg.spatial.grid import FloatArray
from samreg.spatial.labels import as_whole
from samreg.spatial.points import as_numbers
from samreg.spatial.standard import mask_voxels


def dice(a: ArrayLike, b: ArrayLike, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Return the Dice overlap 2 |A and B| / (|A| + |B|) of each label.

    Parameters
    ----------
    a, b
        Label maps of the same shape, 0 for background; booleans have the one label 1.
    labels
        Which labels; all that occur in either map unless given.

    Returns
    -------
    dict
        Label to overlap in [0, 1]; 0 when only one map has the label. A label neither map has is left out.

    Raises
    ------
    InputError
        When the shapes differ, the maps hold no integers, or ``labels`` are none.

    Examples
    --------
    >>> from samreg.quality import dice
    >>> dice([[1, 1, 2, 0]], [[1, 0, 2, 2]])
    {1: 0.6666666666666666, 2: 0.6666666666666666}
    """
    a, b = _integers(a), _integers(b)
    require_same_shape(a, b)
    size_a, size_b, size_both = (_counts(values) for values in (a, b, a[a == b]))
    wanted = sorted((size_a.keys() | size_b.keys()) - {0}) if labels is None else _wanted(labels)
    total = {label: size_a.get(label, 0) + size_b.get(label, 0) for label in wanted}
    return {label: 2 * size_both.get(label, 0) / total[label] for label in wanted if total[label]}


def surface_distances(a: ArrayLike, b: ArrayLike, *, spacing: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return how far the surface of each structure is from the other's.

    The surface consists of the voxels that have a background voxel, or the border of the image, as a face
    neighbour; distances are between voxel centres.

    Parameters
    ----------
    a, b
        Masks of the same shape, (z, y, x) or (y, x); inside where finite and not zero.
    spacing
        (d,) voxel size along x, y(, z), mm.

    Returns
    -------
    from_a, from_b
        (N,) and (M,) mm: from each surface voxel of ``a`` to the surface of ``b``, and back.

    Raises
    ------
    InputError
        When the shapes differ, a mask is empty, or the spacing is not one positive number or one an axis.

    Examples
    --------
    >>> from samreg.quality import surface_distances
    >>> surface_distances([[1, 0, 0, 0]], [[0, 0, 1, 0]], spacing=2.0)
    (array([4.]), array([4.]))
    """
    from scipy.ndimage import distance_transform_edt

    a, b = mask_voxels(numbers(a, "the first mask")), mask_voxels(numbers(b, "the second mask"))
    require_same_shape(a, b)
    empty = [name for name, mask in (("first", a), ("second", b)) if not mask.any()]
    if empty:
        raise InputError(f"the {' and '.join(empty)} mask is empty; a surface distance needs both structures")
    sampling = _sampling(spacing, a.ndim)
    box = _bounding_box(a | b)
    surface_a, surface_b = _surface(a[box]), _surface(b[box])
    to_a, to_b = (distance_transform_edt(~surface, sampling=sampling) for surface in (surface_a, surface_b))
    return to_b[surface_a], to_a[surface_b]


def hd95(a: ArrayLike, b: ArrayLike, *, spacing: ArrayLike) -> float:
    """Return the 95 % Hausdorff distance, mm: the larger 95th percentile of the two directions.

    Parameters and errors as :func:`surface_distances`. Learn2Reg's published values take the spacing as 1.

    Examples
    --------
    >>> from samreg.quality import hd95
    >>> hd95([[1, 0, 0, 0]], [[0, 0, 1, 0]], spacing=2.0)
    4.0
    """
    return float(max(np.percentile(side, 95) for side in surface_distances(a, b, spacing=spacing)))


def mean_surface_distance(a: ArrayLike, b: ArrayLike, *, spacing: ArrayLike) -> float:
    """Return the average symmetric surface distance, mm: the mean over the voxels of both surfaces.

    Parameters and errors as :func:`surface_distances`.

    Examples
    --------
    >>> from samreg.quality import mean_surface_distance
    >>> mean_surface_distance([[1, 0, 0, 0]], [[0, 0, 1, 0]], spacing=2.0)
    4.0
    """
    return float(np.concatenate(surface_distances(a, b, spacing=spacing)).mean())


def _wanted(labels: Iterable[int]) -> list[int]:
    """Return the labels asked for."""
    array = np.asarray(list(labels) if isinstance(labels, Iterable) else labels)
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "iuf" or (array != np.rint(array)).any())):
        raise InputError(f"labels must be a list of whole numbers, got {labels!r}")
    return [int(label) for label in array]


def _sampling(spacing: ArrayLike, ndim: int) -> FloatArray:
    """Return the voxel size along the axes of an array, (z,) y, x, mm."""
    size = as_numbers(spacing, "spacing")
    if size.shape not in ((), (ndim,)) or not (np.isfinite(size) & (size > 0)).all():
        raise InputError(f"spacing must be one positive number, or {ndim} along x, y(, z), mm; got {spacing!r}")
    return np.asarray(np.broadcast_to(size, (ndim,))[::-1])


def _integers(labels: ArrayLike) -> NDArray[np.integer]:
    array = numbers(labels, "labels")
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    whole = as_whole(array)
    if whole is None:
        raise InputError(f"labels must be whole numbers, got {array.dtype}; warp them with interpolation='nearest'")
    return whole


def _counts(labels: NDArray[np.integer]) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    surface: NDArray[np.bool_] = mask & ~binary_erosion(mask)
    return surface


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    from scipy.ndimage import find_objects

    box: tuple[slice, ...] = find_objects(mask.astype(np.uint8))[0]
    return box

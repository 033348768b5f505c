"""Kidneys: soft tissue of a kidney's size with fat around it, where an upper pole is expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samreg.landmarks.bone import part_of
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.standard import has_hounsfield_units, standardised

_SPACING_MM, _SMOOTHED_MM = 2.0, 1.4
_SIDEWAYS_MM, _ABOVE_MM, _BELOW_MM = 65.0, 40.0, 150.0  # of the part that is looked at, from the upper pole
_FAT_HU = (-200.0, -30.0)
_TISSUE_HU = (-5.0, 30.0)  # above which a voxel may be kidney: what parts it from its neighbours differs
_CORES_MM = (4.0, 6.0, 8.0)  # how deep it is looked at, so that thin bridges to its neighbours part
_VOLUME_ML = (20.0, 300.0)  # the least of one that the image cuts
_MIN_FAT = 0.4  # of what surrounds it
_NEAR_MM = 30.0  # from where the upper pole is expected
_BEYOND = 2  # slices past an end that are looked at: what is not shown is air there
_AIR_HU = -500.0
_POLE_MM = 2.0  # height of the end that is called a pole


@dataclass(frozen=True, eq=False)
class FoundKidney:
    """A kidney in an image.

    Parameters
    ----------
    upper, lower
        (3,) middle of its highest and lowest 2 mm, LPS mm; ``lower`` is None where the image or its mask ends first.
    """

    upper: FloatArray
    lower: FloatArray | None


def find_kidneys(image: Image, expected: Mapping[str, FloatArray]) -> dict[str, FoundKidney]:
    """Find the kidneys in a CT.

    Parameters
    ----------
    image
        Volume in Hounsfield units in which the body lies upright.
    expected
        By side, about where each upper pole is, (3,) LPS mm.

    Returns
    -------
    dict
        By side; a kidney that touches its neighbours more than fat is left out.
    """
    if not expected or not has_hounsfield_units(image):
        return {}
    found = {side: _kidney(image, place) for side, place in expected.items()}
    return {side: kidney for side, kidney in found.items() if kidney is not None}


def _kidney(image: Image, expected: FloatArray) -> FoundKidney | None:
    """Return the piece of tissue that has most fat around it of those whose top lies near a place (3,)."""
    low = expected - [_SIDEWAYS_MM, _SIDEWAYS_MM, _BELOW_MM]
    part = part_of(image, low, expected + [_SIDEWAYS_MM, _SIDEWAYS_MM, _ABOVE_MM])
    if part is None:
        return None
    part = standardised(part, _SPACING_MM)
    hu = ndimage.gaussian_filter(part.array, _SMOOTHED_MM / _SPACING_MM)
    fat = (hu > _FAT_HU[0]) & (hu < _FAT_HU[1])
    best, chosen = _MIN_FAT, None
    for tissue in _TISSUE_HU:
        for where, piece in _pieces(hu > tissue, part.grid.world_to_index(expected[None])[0, ::-1]):
            upper, lower = (_end(part.grid, hu, where, piece, top=top) for top in (True, False))
            if upper is None or np.linalg.norm(upper - expected) > _NEAR_MM:
                continue
            around = fat[where][ndimage.binary_dilation(piece, iterations=2) & ~piece].mean()
            if around > best:
                best, chosen = around, FoundKidney(upper, lower)
    return chosen


def _pieces(tissue: NDArray[np.bool_], expected: FloatArray) -> Iterator[tuple[tuple[slice, ...], NDArray[np.bool_]]]:
    """Yield where pieces of tissue of a kidney's size are, and their voxels there.

    None that a side of the part cuts, and none whose top lies far from where it is expected, (3,) index z, y, x.
    """
    depth = ndimage.distance_transform_edt(tissue, sampling=_SPACING_MM)
    least, most = (volume * 1e3 / _SPACING_MM**3 for volume in _VOLUME_ML)
    for core in _CORES_MM:
        label, _ = ndimage.label(depth > core)
        sizes = np.bincount(label.ravel())
        margin = int(core / _SPACING_MM) + 3
        for number, box in enumerate(ndimage.find_objects(label), 1):
            if not least / 10 < sizes[number] < most:
                continue
            top = [box[0].stop - 1, *np.argwhere(label[box][-1] == number).mean(axis=0) + [box[1].start, box[2].start]]
            if np.linalg.norm(np.subtract(top, expected)) * _SPACING_MM > _NEAR_MM + 2 * core:
                continue
            where = tuple(slice(max(0, part.start - margin), part.stop + margin) for part in box)
            off = ndimage.distance_transform_edt(label[where] != number, sampling=_SPACING_MM)
            piece = (off < core + 1) & tissue[where]
            if least < piece.sum() < most and not _is_cut(piece, where, tissue.shape):
                yield where, piece


def _is_cut(piece: NDArray[np.bool_], where: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    """Whether a piece reaches a side of the part that is looked at."""
    ends = []
    for axis in (1, 2):
        across = np.moveaxis(piece, axis, 0)
        ends += [across[0].any() and where[axis].start == 0, across[-1].any() and where[axis].stop >= shape[axis]]
    return any(ends)


def _end(
    grid: Grid, hu: NDArray[np.float32], where: tuple[slice, ...], piece: NDArray[np.bool_], *, top: bool
) -> FloatArray | None:
    """Return the middle of the highest or lowest slices of a piece, (3,) LPS mm; None where no more is shown beyond."""
    z, y, x = (axis + place.start for axis, place in zip(np.nonzero(piece), where, strict=True))
    end = z.max() if top else z.min()
    last = np.abs(z - end) * _SPACING_MM <= _POLE_MM
    beyond = end + _BEYOND if top else end - _BEYOND
    if not 0 <= beyond < len(hu) or np.median(hu[beyond, y[last], x[last]]) < _AIR_HU:
        return None
    return np.asarray(grid.index_to_world([[x[last].mean(), y[last].mean(), end]])[0])

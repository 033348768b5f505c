"""The apices of the lungs: the highest places of the air beside the upper thoracic spine.

They lie on a flat dome, over which an embedding slides, and a registration with it as the bodies are tilted. But a
lung's end is seen in CT.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samreg.embedding.body import body_mask
from samreg.landmarks.bone import part_of
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.standard import has_hounsfield_units, standardised

# Lengths are those of adults.
_SIDES = {"left": 1.0, "right": -1.0}  # and the sign of x there
_SPACING_MM, _SMOOTHED_MM, _AIR_HU = 2.0, 1.0, -400.0
_SKIN_MM = 6.0  # no lung lies nearer to the air around
_MIN_VERTEBRAE = 4  # that were counted
_BELOW_MM, _ABOVE_MM = 60.0, 50.0  # the first thoracic vertebra, of the part that is looked at
_ASIDE_MM = (10.0, 80.0)  # from the middle of the spine; the windpipe and the gullet lie nearer
_BEHIND_MM = 60.0  # the same along y, to the front and the back
_MIN_ML = 3.0  # of a piece of lung: a tumour may part it from the rest
_FROM_END = 3  # slices: what reaches up there goes on
_WINDPIPE_MM = 20.0  # from the middle of the spine, nearer than any apex
_TOP_MM = 3.0  # whose middle is the apex
_FROM_SIDE_MM = 10.0  # nearer to where the image or a mask ends sideways a lung is cut; apices lie 30 mm inside
_MOST_OFF_MM = 40.0  # above or below the first thoracic vertebra


def find_apices(image: Image, spine: FloatArray) -> dict[str, FloatArray]:
    """Find the apices of the lungs in a CT.

    Parameters
    ----------
    image
        Volume in Hounsfield units in which the body lies upright.
    spine
        (V, 3) middles of thoracic vertebrae from the first one, or that below, down, LPS mm.

    Returns
    -------
    dict
        By side, (3,) LPS mm; a lung that the image or its mask cuts is left out.
    """
    if len(spine) < _MIN_VERTEBRAE or not has_hounsfield_units(image):
        return {}
    low, high = image.grid.corners().min(axis=0), image.grid.corners().max(axis=0)
    part = part_of(image, np.append(low[:2], spine[0, 2] - _BELOW_MM), np.append(high[:2], spine[0, 2] + _ABOVE_MM))
    if part is None:
        return {}
    part = standardised(part, _SPACING_MM)
    hu = ndimage.gaussian_filter(part.array, _SMOOTHED_MM / _SPACING_MM, output=np.float32)
    body = body_mask(part)
    within = ndimage.binary_erosion(body, iterations=int(_SKIN_MM / _SPACING_MM), border_value=1)
    air = within & (hu < _AIR_HU)
    upward = np.argsort(spine[:, 2])
    z, y, x = (_axis(part, k) for k in range(3))
    middle = [np.interp(z, spine[upward, 2], spine[upward, k]) for k in (0, 1)]
    air &= np.abs(y[:, None] - middle[1][:, None, None]) < _BEHIND_MM
    aside = (x - middle[0][:, None])[:, None]  # (Z, 1, X)
    found = {side: _apex(part, hu, body, air, sign * aside) for side, sign in _SIDES.items()}
    return {
        side: place for side, place in found.items() if place is not None and abs(place[2] - spine[0, 2]) < _MOST_OFF_MM
    }


def _apex(
    part: Image, hu: NDArray[np.float32], body: NDArray[np.bool_], air: NDArray[np.bool_], aside: FloatArray
) -> FloatArray | None:
    """Return the middle of the highest slices of the lung, (3,) LPS mm, so far aside (Z, 1, X) mm, in air (Z, Y, X)."""
    label, _ = ndimage.label(air & (aside > _ASIDE_MM[0]) & (aside < _ASIDE_MM[1]))
    volume = np.bincount(label.ravel()) * _SPACING_MM**3 / 1e3
    volume[0] = 0.0
    is_lung = volume >= _MIN_ML
    is_lung[np.unique(label[-_FROM_END:])] = False  # the windpipe, and air between the neck and raised arms
    if not is_lung[volume.argmax()]:  # cut
        return None
    ends = {}
    for number in np.flatnonzero(is_lung):
        z, y, x = np.nonzero(label == number)
        top = z >= z.max() - _TOP_MM / _SPACING_MM
        if aside[z[top], 0, x[top]].mean() > _WINDPIPE_MM:
            ends[int(z.max())] = y[top], x[top]
    if not ends:
        return None
    height = max(ends)
    y, x = ends[height]
    if np.median(hu[height + _FROM_END - 1, y, x]) < _AIR_HU:  # a mask ends it
        return None
    inside_mm = ndimage.distance_transform_edt(np.pad(body[height], 1))[1:-1, 1:-1] * _SPACING_MM
    if inside_mm[y, x].min() < _FROM_SIDE_MM:  # the image or a mask ends beside it
        return None
    return np.asarray(part.grid.index_to_world([[x.mean(), y.mean(), height]])[0])


def _axis(image: Image, number: int) -> FloatArray:
    """Return where the voxels of an upright image lie along an array axis, z, y or x, LPS mm."""
    along = 2 - number
    index = np.zeros((image.shape[number], 3))
    index[:, along] = np.arange(image.shape[number])
    return np.asarray(image.grid.index_to_world(index)[:, along])

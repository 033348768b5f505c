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

_SIDES = {"left": 1.0, "right": -1.0}  # and the sign of x there
_SPACING_MM, _SMOOTHED_MM, _AIR_HU = 2.0, 1.0, -400.0
_MIN_VERTEBRAE = 4  # that were counted
_BELOW_MM, _ABOVE_MM = 60.0, 50.0  # the first thoracic vertebra, of the part that is looked at
_ASIDE_MM = 10.0  # from the middle of the spine: the windpipe and the gullet lie nearer
_MIN_ML = 10.0  # of lung in the part
_FROM_END = 3  # slices: a lung that reaches up there is cut, or is the windpipe
_TOP_MM = 3.0  # whose middle is the apex
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
    air = body_mask(part) & (hu < _AIR_HU)
    places = part.grid.index_to_world(np.column_stack([np.zeros((len(hu), 2)), np.arange(len(hu))]))
    upward = np.argsort(spine[:, 2])
    middle = np.interp(places[:, 2], spine[upward, 2], spine[upward, 0])
    x = part.grid.index_to_world(np.column_stack([np.arange(hu.shape[2]), np.zeros((hu.shape[2], 2))]))[:, 0]
    aside = (x - middle[:, None])[:, None]  # (Z, 1, X)
    found = {side: _apex(part, hu, air & (sign * aside > _ASIDE_MM)) for side, sign in _SIDES.items()}
    return {
        side: place for side, place in found.items() if place is not None and abs(place[2] - spine[0, 2]) < _MOST_OFF_MM
    }


def _apex(part: Image, hu: NDArray[np.float32], air: NDArray[np.bool_]) -> FloatArray | None:
    """Return the middle of the highest slices of the lung in the air (Z, Y, X) of a side, (3,) LPS mm."""
    label, _ = ndimage.label(air)
    size = np.bincount(label.ravel())
    size[0] = 0
    whole = np.zeros(len(size), dtype=bool)
    whole[np.unique(label[0])] = True  # it goes on below
    whole[np.unique(label[-_FROM_END:])] = False
    size[~whole] = 0
    if size.max() * _SPACING_MM**3 / 1e3 < _MIN_ML:
        return None
    z, y, x = np.nonzero(label == size.argmax())
    top = z >= z.max() - _TOP_MM / _SPACING_MM
    if np.median(hu[z.max() + _FROM_END - 1, y[top], x[top]]) < _AIR_HU:  # a mask ends it
        return None
    index = np.column_stack([x[top].mean(), y[top].mean(), z.max()])
    return np.asarray(part.grid.index_to_world(index)[0])

"""The domes of the diaphragm: the highest places of the lungs' lower surface."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from samreg.embedding.body import body_mask
from samreg.landmarks.bone import part_of
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.standard import has_hounsfield_units, sample_mask, standardised

_AIR_HU = -500.0
_SPACING_MM, _BODY_SPACING_MM = 2.0, 4.0
_WINDOW_MM = 45.0  # sideways, from where a dome is expected
_BELOW_MM, _ABOVE_MM, _TOP_MM = 70.0, 50.0, 8.0  # of the part that is looked at; what is lung reaches its top
_SMOOTHED = 7  # voxels
_FROM_EDGE_MM, _PEAK_MM = 12.0, 10.0  # of the lower surface; how far around a place is the highest
_FLAT_MM = 1.0  # lower than the highest, and still taken along


def find_domes(image: Image, expected: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Find the domes of the diaphragm in a CT.

    Parameters
    ----------
    image
        Volume in Hounsfield units in which the body lies upright.
    expected
        By side, about where each is, (3,) LPS mm.

    Returns
    -------
    dict
        By side, (3,) LPS mm; a dome above which no lung is seen is left out.
    """
    if not expected or not has_hounsfield_units(image):
        return {}
    coarse = standardised(image, _BODY_SPACING_MM)
    body = Image(body_mask(coarse), coarse.grid)
    found = {side: _dome(image, body, place) for side, place in expected.items()}
    return {side: place for side, place in found.items() if place is not None}


def _dome(image: Image, body: Image, expected: FloatArray) -> FloatArray | None:
    """Return the highest place of the lower surface of the lung about a place (3,), LPS mm."""
    margin = _WINDOW_MM + _FROM_EDGE_MM
    low, high = expected - [margin, margin, _BELOW_MM], expected + [margin, margin, _ABOVE_MM]
    part = part_of(image, low, high)
    if part is None:
        return None
    part = standardised(part, _SPACING_MM)
    lung = ndimage.binary_opening(sample_mask(body, part.grid) & (part.array < _AIR_HU))
    label = ndimage.label(lung)[0]
    of_lung = np.unique(label[-int(_TOP_MM / _SPACING_MM) :])  # gas in the bowel does not reach up there
    lung = np.isin(label, of_lung[of_lung > 0])
    lowest = lung.argmax(axis=0)
    base = lowest > 0  # the lung ends within the part
    if not base.any():
        return None
    surface = ndimage.median_filter(np.where(base, lowest, -_BELOW_MM), _SMOOTHED)
    peak = surface >= ndimage.maximum_filter(surface, 1 + int(_PEAK_MM / _SPACING_MM) * 2)
    peak &= base & (ndimage.distance_transform_edt(base, sampling=_SPACING_MM) > _FROM_EDGE_MM)
    y, x = np.nonzero(peak)
    ends = part.array[lowest[y, x] - 1, y, x] > _AIR_HU  # else a mask does, beyond which there is air
    y, x = y[ends], x[ends]
    places = part.grid.index_to_world(np.column_stack([x, y, surface[y, x]]).astype(np.float64))
    places = places[np.linalg.norm((places - expected)[:, :2], axis=1) < _WINDOW_MM]
    if not len(places):
        return None
    return np.asarray(places[places[:, 2] >= places[:, 2].max() - _FLAT_MM].mean(axis=0))

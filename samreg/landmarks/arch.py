"""The top of the aortic arch, seen in CT with contrast or without.

It wanders over a flat arch with the tilt of the body, and an embedding slides along. But the arch is a tube: left of it
lies lung, right of it the windpipe, above and below it mostly fat. So circles across it are linked to a path from front
to back, as those of the abdominal aorta are (:mod:`samreg.landmarks.aorta`), on planes set up along it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from samreg.landmarks.aorta import circles, smooth_path
from samreg.landmarks.bone import part_of
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.standard import has_hounsfield_units, standardised

BRANCHES = ("left_common_carotid_origin", "left_subclavian_origin")

# Lengths are those of adults.
_SPACING_MM, _SMOOTHED_MM = 2.0, 1.0
_HU_RANGE = (-150.0, 500.0)
_BELOW_MM = 14.0  # its branches, of the middle of the arch
_ALONG_MM = np.arange(-20.0, 32.1, _SPACING_MM)  # from there to the front and the back
_ACROSS_MM = np.arange(-42.0, 42.1, _SPACING_MM)
_UP_MM, _DOWN_MM, _SIDEWAYS_MM = 26.0, 14.0, 16.0  # of the middle of the tube from where it is expected
_RADII_MM = np.arange(9.0, 18.1, 1.5)
_TURNS = np.deg2rad([15.0, 30.0, 45.0])  # of the arch to the left of straight back
_MIN_AGREE, _AGREE_MM = 2, 8.0  # of these, on where the top is
_PATH_SMOOTHED = 1.5  # steps along it
_MIN_SCORE_HU = 12.0
_TOP_MM = 1.0  # whose middle is the top


def find_arch(image: Image, expected: Mapping[str, FloatArray]) -> FloatArray | None:
    """Find the most superior place of the aortic arch, without its branches, in a CT.

    Parameters
    ----------
    image
        Volume in Hounsfield units in which the body lies upright.
    expected
        About where the :data:`BRANCHES` leave it, (3,) LPS mm.

    Returns
    -------
    ndarray or None
        (3,) LPS mm; None where no such tube is seen, or it is not wholly in the image.
    """
    if not set(BRANCHES) <= expected.keys() or not has_hounsfield_units(image):
        return None
    middle = np.mean([expected[name] for name in BRANCHES], axis=0) - [0.0, 0.0, _BELOW_MM]
    margin = np.hypot(_ACROSS_MM[-1], _ALONG_MM[-1]) + _SPACING_MM
    part = part_of(image, middle - margin, middle + margin)
    if part is None:
        return None
    part = standardised(part, _SPACING_MM)
    hu = ndimage.gaussian_filter(part.array.clip(*_HU_RANGE), _SMOOTHED_MM / _SPACING_MM, output=np.float32)
    rows = np.flatnonzero((_ACROSS_MM >= -_DOWN_MM) & (_ACROSS_MM <= _UP_MM))
    columns = np.flatnonzero(np.abs(_ACROSS_MM) <= _SIDEWAYS_MM)
    scores, tubes = [], []
    for turn in _TURNS:
        along, aside = np.array([np.sin(turn), np.cos(turn), 0.0]), np.array([np.cos(turn), -np.sin(turn), 0.0])
        planes = (
            middle
            + _ALONG_MM[:, None, None, None] * along
            + _ACROSS_MM[:, None, None] * np.array([0.0, 0.0, 1.0])
            + _ACROSS_MM[:, None] * aside
        )
        index = part.grid.world_to_index(planes.reshape(-1, 3)).T[::-1]
        across = ndimage.map_coordinates(hu, index, order=1, mode="nearest").reshape(planes.shape[:3])
        score = circles(across, rows, columns, np.asarray(_RADII_MM / _SPACING_MM, dtype=np.float64))
        slices, (up, left, size) = np.arange(len(score)), smooth_path(score).T
        scores.append(float(score[slices, up, left, size].mean()))
        tube = np.column_stack([planes[slices, rows[up], columns[left]], _RADII_MM[size]])
        tubes.append(ndimage.gaussian_filter1d(tube, _PATH_SMOOTHED, axis=0))
    tops = np.array([_top(tube) for tube in tubes])
    best = int(np.argmax(scores))
    agree = np.linalg.norm(tops - tops[best], axis=1) < _AGREE_MM
    radius = tubes[best][:, 3:] * [0.0, 0.0, 1.0]
    walls = np.concatenate([tubes[best][:, :3] + radius, tubes[best][:, :3] - radius])
    if scores[best] < _MIN_SCORE_HU or agree.sum() < _MIN_AGREE or not image.grid.contains(walls).all():
        return None
    return np.asarray(tops[best])


def _top(tube: FloatArray) -> FloatArray:
    """Return the middle of the highest places (3,) of the wall of a tube: centres and radii (N, 4), mm."""
    wall = tube[:, :3] + tube[:, 3:] * [0.0, 0.0, 1.0]
    return np.asarray(wall[wall[:, 2] > wall[:, 2].max() - _TOP_MM].mean(axis=0))

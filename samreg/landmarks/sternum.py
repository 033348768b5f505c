"""The sternal angle, where manubrium and body of the sternum join, seen in CT.

Along the sternum an embedding slides. But the sternum is a bright band under the skin of the chest, brightest at that
joint: bone is dense at its edges, and the second ribs join there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samreg.landmarks.aorta import smooth_path
from samreg.landmarks.bone import part_of
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.standard import AIR, has_hounsfield_units, standardised

# Lengths are those of adults.
_SPACING_MM = 2.0
_HU_RANGE = (-150.0, 350.0)
_MIN_VERTEBRAE = 4  # that were counted
_LEVEL = 4.0  # thoracic vertebra, about as high as the joint
_SEARCHED = (-1.8, 0.7)  # levels from there, upwards
_FOLLOWED = (-3.2, 2.6)  # the same, of the sternum
_ASIDE_MM = 45.0  # of the spine's middle, the part that is looked at
_BAND_MM = (6.0, 14.0, 18.0)  # along z, y and x, about as thick and wide as the sternum
_BESIDE_MM = 18.0  # in front of the band and behind it all is darker
_MIDDLE_MM, _OFF_MIDDLE_HU = 14.0, 10.0  # from the spine's middle, and what each mm farther off costs
_DEPTH_MM, _OFF_DEPTH_HU = (6.0, 60.0), (10.0, 5.0)  # under the skin, and what each mm less and more costs
_SMOOTHED_MM = 3.0
_PEAK_MM, _AROUND_MM = 6.0, 24.0  # on either side, where nothing is brighter, and whose mean the joint stands out from
_MIN_BRIGHT_HU, _MIN_PROMINENT_HU = 150.0, 15.0
_RIVAL = 0.92  # as bright, another peak makes it unsure
_JOINT_VOXELS = (5, 7, 5)
_ASIDE_JOINT_MM, _BRIGHT_ASIDE = 16.0, 1.1  # beside the joint, times as bright as it, it is no joint
_SHOWN_ASIDE_MM, _SHOWN_BEHIND_MM = 20.0, 12.0  # from the front of the joint: the body goes on there, or the view ends
_AIR_HU = -980.0  # mean of what is no body; of lung, emphysema included, above
_TANGENT_MM = 10.0  # up and down, for the direction of the sternum
_CORTEX_MM = np.arange(2.0, 14.1, 1.0)  # from the middle of the sternum to the front, where its cortex is looked for


def find_sternal_angle(image: Image, levels: Sequence[int], spine: FloatArray) -> FloatArray | None:
    """Find the front of the joint of manubrium and body of the sternum in a CT.

    Parameters
    ----------
    image
        Volume in Hounsfield units in which the body lies upright.
    levels
        (V,) numbers of thoracic vertebrae, 1 the first, downwards.
    spine
        (V, 3) their middles, LPS mm.

    Returns
    -------
    ndarray or None
        (3,) LPS mm; None where no such joint stands out from the third to the sixth vertebra, or more than one, and
        where the image or its mask ends beside it.
    """
    if len(spine) < _MIN_VERTEBRAE or not has_hounsfield_units(image):
        return None
    slope, start = np.polyfit(levels, spine[:, 2], 1)
    middle = np.array([np.interp(_LEVEL, levels, spine[:, k]) for k in range(2)] + [start + slope * _LEVEL])
    searched, followed = (middle[2] - slope * np.array(limits) for limits in (_SEARCHED, _FOLLOWED))
    low = np.array([middle[0] - _ASIDE_MM, image.grid.corners()[:, 1].min(), followed[0]])
    high = np.array([middle[0] + _ASIDE_MM, middle[1], followed[1]])
    part = part_of(image, low, high)
    if part is None:
        return None
    part = standardised(part, _SPACING_MM)
    hu = part.array.clip(*_HU_RANGE).astype(np.float32)
    score = _band(hu) - _unlikely(part, float(middle[0]))
    path = smooth_path(score)
    slices = np.arange(len(path))
    height = part.grid.index_to_world(np.column_stack([path[:, ::-1], slices]).astype(np.float64))
    if height[0, 2] > searched[0] or height[-1, 2] < searched[1]:
        return None
    bright = ndimage.gaussian_filter1d(score[slices, path[:, 0], path[:, 1]], _SMOOTHED_MM / _SPACING_MM)
    joint = _joint(bright, (height[:, 2] >= searched[0]) & (height[:, 2] <= searched[1]))
    if joint is None or _is_brighter_aside(hu, joint, *path[joint]):
        return None
    front = _front(hu, part, height, joint)
    return front if _is_shown_around(image, front) else None


def _band(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much brighter a band around each voxel (Z, Y, X) is than what lies in front of it and behind."""
    band = ndimage.uniform_filter(hu, [int(mm / _SPACING_MM) for mm in _BAND_MM])
    beside = int(_BESIDE_MM / _SPACING_MM)
    padded = np.pad(band, ((0, 0), (beside, beside), (0, 0)), mode="edge")
    return np.asarray(band - np.maximum(padded[:, : -2 * beside], padded[:, 2 * beside :]))


def _unlikely(part: Image, middle: float) -> NDArray[np.float32]:
    """Return what speaks against a sternum in voxels (Z, Y, X), HU: off the middle (x, mm), too shallow, too deep."""
    index = np.zeros((part.shape[2], 3))
    index[:, 0] = np.arange(part.shape[2])
    aside = np.abs(part.grid.index_to_world(index)[:, 0] - middle)
    body = ndimage.binary_opening(part.array > -300, iterations=2)
    depth = (np.arange(part.shape[1])[:, None] - body.argmax(axis=1)[:, None]) * _SPACING_MM
    shallow, deep = np.maximum(_DEPTH_MM[0] - depth, 0.0), np.maximum(depth - _DEPTH_MM[1], 0.0)
    off = np.maximum(aside - _MIDDLE_MM, 0.0) * _OFF_MIDDLE_HU
    return np.asarray(off + shallow * _OFF_DEPTH_HU[0] + deep * _OFF_DEPTH_HU[1], np.float32)


def _joint(bright: FloatArray, searched: NDArray[np.bool_]) -> int | None:
    """Return the slice of the brightest peak along the sternum, (Z,), where it is searched; None if none stands out."""
    near, around = (int(mm / _SPACING_MM) for mm in (_PEAK_MM, _AROUND_MM))
    is_peak = (bright == ndimage.maximum_filter1d(bright, 2 * near + 1)) & searched
    is_peak[[0, -1]] = False
    peaks = sorted(np.flatnonzero(is_peak), key=lambda k: -bright[k])
    if not peaks:
        return None
    best = int(peaks[0])
    stands_out = bright[best] - bright[max(0, best - around) : best + around + 1].mean()
    if bright[best] < _MIN_BRIGHT_HU or stands_out < _MIN_PROMINENT_HU:
        return None
    return None if len(peaks) > 1 and bright[peaks[1]] > _RIVAL * bright[best] else best


def _is_brighter_aside(hu: NDArray[np.float32], z: int, y: int, x: int) -> bool:
    """Return whether it is a clavicle or rib beside a voxel that is bright, not the sternum there."""
    around = ndimage.uniform_filter(hu[max(0, z - 2) : z + 3], _JOINT_VOXELS)[min(z, 2), y]
    aside = int(_ASIDE_JOINT_MM / _SPACING_MM)
    return bool(max(around[max(0, x - aside)], around[min(len(around) - 1, x + aside)]) > _BRIGHT_ASIDE * around[x])


def _is_shown_around(image: Image, front: FloatArray) -> bool:
    """Return whether the body goes on beside the joint, (3,) LPS mm: without a sternum in view other bone is taken."""
    steps = np.arange(-4.0, 4.1, 2.0)
    around = np.stack(np.meshgrid(steps, steps, [0.0]), axis=-1).reshape(-1, 3)
    for sign in (-1.0, 1.0):
        places = front + around + [sign * _SHOWN_ASIDE_MM, _SHOWN_BEHIND_MM, 0.0]
        index = image.grid.world_to_index(places).T[::-1]
        values = ndimage.map_coordinates(image.array, index, output=np.float32, order=0, mode="constant", cval=AIR)
        if values.mean() < _AIR_HU:
            return False
    return True


def _front(hu: NDArray[np.float32], part: Image, path: FloatArray, joint: int) -> FloatArray:
    """Return the front cortex (3,) of a slice of the sternum, whose middle follows a path (Z, 3), LPS mm."""
    steps = int(_TANGENT_MM / _SPACING_MM)
    along = path[min(joint + steps, len(path) - 1)] - path[max(joint - steps, 0)]
    forward = np.array([0.0, -along[2], along[1]]) / np.hypot(along[1], along[2])
    places = path[joint] + _CORTEX_MM[:, None] * forward
    shown = ndimage.map_coordinates(hu, part.grid.world_to_index(places).T[::-1], order=1, mode="nearest")
    return np.asarray(places[shown.argmax()])

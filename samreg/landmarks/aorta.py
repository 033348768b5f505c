"""Origins of the celiac trunk and superior mesenteric artery: spots on the front of an aorta with contrast in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samreg.landmarks.bone import part_of
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.standard import has_hounsfield_units, standardised

CELIAC, MESENTERIC = "celiac_trunk_origin", "sma_origin"

_SPACING_MM, _SMOOTHED_MM = 1.5, 1.0
_HU_RANGE = (-150.0, 500.0)
_BEHIND_MM = 12.0  # from an artery's origin, of the axis of the aorta
_REACH_MM, _ALONG_MM = 18.0, 55.0  # of the axis sideways, and of the part along the body past the origins
_RADII_MM = np.arange(4.5, 16.1, 1.5)
_DIRECTIONS = 16  # around the axis
_RIM_VOXELS = 2.0 / _SPACING_MM  # from the wall, inwards and outwards, where it is looked at
_MAX_WALL_HU = 80.0  # more contrast makes no better wall
_MIN_WALL_HU = 40.0  # on average around, in a slice that shows the aorta
_UNEVEN, _OFF_CENTRE = 0.7, 0.3  # weights: a vessel, other than bone, is even inside
_AXIS_SMOOTHED, _BLOOD_SMOOTHED = 2.0, 9  # slices

_FRONT = np.deg2rad(np.arange(-90.0, 90.1, 7.5))  # directions around the axis, 0 to the front, positive to the left
_MAX_DIRECTION = np.deg2rad(45.0)  # of an artery's origin
_AT_WALL_MM, _BEYOND_MM = (2.0, 3.0, 4.0), (4.0, 6.0, 8.0)  # where arteries leave it, and where veins pass by
_SOFT_HU = 60.0  # of muscle and bowel
_MIN_CONTRAST_HU = 30.0  # of the blood above these
_MIN_BRIGHTNESS = 0.3  # of an artery's origin, relative to the aorta
_SMOOTHED = 0.7  # slices and directions
_APART = 5  # slices and directions, of two origins
_WALL_SHARE, _BEYOND_SHARE = 0.35, 0.5  # of its brightness, down to which a spot extends
_MAX_WIDTH_MM = 22.0  # wider is the left renal vein, which crosses in front of the aorta
_GAP_MM, _GAP_SD_MM, _GAP_RANGE_MM = 14.0, 8.0, (4.0, 35.0)  # between the two origins
_OFF_SD_MM, _NEAR_MM = 20.0, 30.0  # from where both are expected, along the body


@dataclass(frozen=True, eq=False)
class _Aorta:
    """The aorta in a part of an image.

    Parameters
    ----------
    grid, hu
        Of the part, and its smoothed intensities (Z, Y, X).
    x, y, radius
        (Z,) its axis, index, and radius, mm, by slice.
    blood, wall
        (Z,) intensity inside, and by how much the wall parts it from what is around, HU.
    """

    grid: Grid
    hu: NDArray[np.float32]
    x: FloatArray
    y: FloatArray
    radius: FloatArray
    blood: FloatArray
    wall: FloatArray

    def front(self, from_wall: float) -> FloatArray:
        """Return the intensities (Z, F) in front of it, so many mm off the wall."""
        off = (self.radius + from_wall)[:, None] / _SPACING_MM
        x, y = self.x[:, None] + off * np.sin(_FRONT), self.y[:, None] - off * np.cos(_FRONT)
        z = np.broadcast_to(np.arange(len(self.x))[:, None], x.shape)
        return np.asarray(ndimage.map_coordinates(self.hu, [z, y, x], order=1, mode="nearest"), dtype=np.float64)

    def on_wall(self, spot: _Spot) -> FloatArray:
        """Return the place of a spot on the wall, (3,) LPS mm."""
        z, off = spot.slice, self.radius[spot.slice] / _SPACING_MM
        index = [self.x[z] + off * np.sin(spot.direction), self.y[z] - off * np.cos(spot.direction), z]
        return np.asarray(self.grid.index_to_world(np.array([index], dtype=np.float64))[0])


@dataclass(frozen=True)
class _Spot:
    """A bright spot on the front of the aorta: its slice, direction (radians), and brightness relative to the blood."""

    slice: int
    direction: float
    brightness: float


def find_artery_origins(image: Image, expected: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Find where the celiac trunk and the superior mesenteric artery leave the aorta in a CT with contrast.

    Parameters
    ----------
    image
        Volume in Hounsfield units in which the body lies upright.
    expected
        About where :data:`CELIAC` and :data:`MESENTERIC` are, (3,) LPS mm; one alone is not looked for, as the two
        are told apart by their order.

    Returns
    -------
    dict
        Both, (3,) LPS mm, on the wall of the aorta; nothing where both are not seen.
    """
    if not {CELIAC, MESENTERIC} <= expected.keys() or not has_hounsfield_units(image):
        return {}
    about = np.array([expected[CELIAC], expected[MESENTERIC]])
    aorta = _aorta(image, about)
    if aorta is None:
        return {}
    spots = _spots(aorta)
    middle = aorta.grid.world_to_index(about)[:, 2].mean()
    best, chosen = -np.inf, None
    for upper in spots:
        for lower in spots:
            gap = (upper.slice - lower.slice) * _SPACING_MM
            off = abs((upper.slice + lower.slice) / 2 - middle) * _SPACING_MM
            if not _GAP_RANGE_MM[0] <= gap <= _GAP_RANGE_MM[1] or off > _NEAR_MM:
                continue
            unusual = ((gap - _GAP_MM) / _GAP_SD_MM) ** 2 + (off / _OFF_SD_MM) ** 2
            score = upper.brightness + lower.brightness - unusual / 4
            if score > best:
                best, chosen = score, {CELIAC: upper, MESENTERIC: lower}
    return {} if chosen is None else {name: aorta.on_wall(spot) for name, spot in chosen.items()}


def _aorta(image: Image, origins: FloatArray) -> _Aorta | None:
    """Follow the aorta through the slices around about where its origins (2, 3) are, LPS mm."""
    middle = origins.mean(axis=0) + [0.0, _BEHIND_MM, 0.0]
    margin = _REACH_MM + _RADII_MM[-1] + _RIM_VOXELS * _SPACING_MM
    low, high = middle - margin, middle + margin
    low[2], high[2] = origins[:, 2].min() - _ALONG_MM, origins[:, 2].max() + _ALONG_MM
    part = part_of(image, low, high)
    if part is None:
        return None
    part = standardised(part, _SPACING_MM)
    hu = ndimage.gaussian_filter(part.array.clip(*_HU_RANGE), _SMOOTHED_MM / _SPACING_MM, output=np.float32)
    column, row = np.round(part.grid.world_to_index(middle[None])[0, :2]).astype(int)
    reach = np.arange(-int(_REACH_MM / _SPACING_MM), int(_REACH_MM / _SPACING_MM) + 1)
    score = circles(hu, row + reach, column + reach, np.asarray(_RADII_MM / _SPACING_MM, dtype=np.float64))
    slices, (i, j, size) = np.arange(len(hu)), smooth_path(score).T
    along = row + reach[i], column + reach[j], _RADII_MM[size], score[slices, i, j, size]
    y, x, radius, wall = (ndimage.gaussian_filter1d(values.astype(np.float64), _AXIS_SMOOTHED) for values in along)
    blood = ndimage.map_coordinates(hu, [slices, y, x], order=1, mode="nearest").astype(np.float64)
    return _Aorta(part.grid, hu, x, y, radius, ndimage.median_filter(blood, _BLOOD_SMOOTHED), wall)


def circles(
    hu: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64], radii: FloatArray
) -> NDArray[np.float32]:
    """Return how well circles, at these places of every slice, part an even inside from what is around.

    Parameters
    ----------
    hu
        (Z, Y, X) intensities, smoothed and clipped.
    rows, columns
        (R,) and (C,) places in Y and X.
    radii
        (K,) in voxels.

    Returns
    -------
    ndarray
        (Z, R, C, K) HU.
    """
    y, x = np.meshgrid(rows, columns, indexing="ij")
    angles = np.linspace(0.0, 2 * np.pi, _DIRECTIONS, endpoint=False)
    last = np.array(hu.shape[1:]) - 1

    def ring(radius: float) -> NDArray[np.float32]:
        at = [(y + radius * np.sin(angle), x + radius * np.cos(angle)) for angle in angles]
        index = [[np.round(axis).astype(int).clip(0, end) for axis, end in zip(yx, last, strict=True)] for yx in at]
        return np.stack([hu[:, r, c] for r, c in index])

    centre = ring(0.0)[0]
    result = []
    for radius in radii.tolist():
        inside = ring(radius - _RIM_VOXELS)
        wall = np.clip(inside - ring(radius + _RIM_VOXELS), 0.0, _MAX_WALL_HU).mean(axis=0)
        result.append(wall - _UNEVEN * inside.std(axis=0) - _OFF_CENTRE * np.abs(inside.mean(axis=0) - centre))
    return np.stack(result, axis=-1)


def smooth_path(score: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the path (Z, k) of the highest sum through scores (Z, ...), by one step at most on any axis a slice."""
    totals = [score[0]]
    for own in score[1:]:
        totals.append(own + ndimage.maximum_filter(totals[-1], 3))
    state = np.array(np.unravel_index(totals[-1].argmax(), score.shape[1:]))
    path = [state]
    for before in totals[-2::-1]:
        low = np.maximum(state - 1, 0)
        near = before[tuple(slice(a, b) for a, b in zip(low, state + 2, strict=True))]
        state = low + np.unravel_index(near.argmax(), near.shape)
        path.append(state)
    return np.array(path[::-1])


def _spots(aorta: _Aorta) -> list[_Spot]:
    """Return the bright spots in front of the aorta that are no wider than an artery."""
    contrast = aorta.blood - _SOFT_HU
    shown = (contrast > _MIN_CONTRAST_HU) & (aorta.wall > _MIN_WALL_HU)
    shown[[0, -1]] = False  # no spot, where it may go on beyond the part
    contrast = np.maximum(contrast, _MIN_CONTRAST_HU)[:, None]
    at_wall = np.min([aorta.front(off) for off in _AT_WALL_MM], axis=0)  # an artery joins the aorta, a vein does not
    beyond = np.max([aorta.front(off) for off in _BEYOND_MM], axis=0)
    bright, wide = (
        ndimage.gaussian_filter(((hu - _SOFT_HU) / contrast).clip(0.0, 1.0), _SMOOTHED) for hu in (at_wall, beyond)
    )
    peak = (bright >= ndimage.maximum_filter(bright, _APART)) & (bright > _MIN_BRIGHTNESS)
    peak &= shown[:, None] & (np.abs(_FRONT) <= _MAX_DIRECTION)
    return [
        _Spot(int(z), float(_FRONT[column]), float(bright[z, column]))
        for z, column in np.argwhere(peak)
        if max(_width(bright, z, column, _WALL_SHARE), _width(wide, z, column, _BEYOND_SHARE))
        <= _MAX_WIDTH_MM / (aorta.radius[z] + _BEYOND_MM[0])
    ]


def _width(bright: FloatArray, row: int, column: int, share: float) -> float:
    """Return over what angle (radians) a share of a place's brightness (Z, F) goes on, by a slice up or down a step."""
    least, ends = share * bright[row, column], []
    for step in (-1, 1):
        z, f = row, column
        while 0 <= f + step < bright.shape[1]:
            low = max(0, z - 1)
            z = low + int(bright[low : z + 2, f + step].argmax())
            if bright[z, f + step] < least:
                break
            f += step
        ends.append(f)
    return float(_FRONT[ends[1]] - _FRONT[ends[0]])

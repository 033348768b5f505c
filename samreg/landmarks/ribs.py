"""The ribs, numbered beside the spine and followed from there.

One rib looks like the next, to an embedding too, and a registration that is one rib off looks well. But ribs hang on
vertebrae, which are counted (:mod:`samreg.landmarks.spine`). Just beside the spine, where neither transverse processes
nor shoulder blades reach, ribs are cut across, and each cut lies at a height among the vertebrae that is that of one
rib. The bone around is then shared out among these cuts by the shortest way through bone (Dijkstra, Numer. Math. 1959),
so that ribs that touch are told apart, and each rib is the way from its cut to what is farthest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree

from samreg.landmarks.bone import bone_voxels, part_of
from samreg.landmarks.scapulae import FoundBone
from samreg.landmarks.spine import expected_spacing
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.standard import has_hounsfield_units

# Lengths are those of adults.
_SIDES = {"left": 1.0, "right": -1.0}  # and the sign of x there
# levels of the cuts of ribs 1 to 12, C7 being 0, and the ribs' lengths, mm: of training people
_HEIGHTS = np.array([0.7, 1.5, 2.6, 3.6, 4.6, 5.6, 6.65, 7.65, 8.65, 9.7, 10.85, 12.2])
_LENGTHS_MM = np.array([110, 190, 240, 270, 290, 305, 310, 305, 290, 260, 200, 140], dtype=float)
_BONE_HU = 150.0  # their ends are thin
_MIN_VERTEBRAE = 4
_BEYOND = 2.5  # vertebrae beyond those counted to which the spine is continued
_MOST_DEGREE, _POINTS_A_DEGREE = 4, 3  # of the polynomials through it
_MAX_LEAN_MM = 70.0  # between the height of a place and that of the spine straight across
_FROM_SPINE_MM = 26.0  # bone nearer to its middle is no rib's; nor is the breastbone
_CUT_MM, _CUT_FRONT_MM, _CUT_BACK_MM = (36.0, 46.0), 25.0, 70.0  # beside, before and behind the vertebral bodies
_ABOVE, _ABOVE_MM, _BELOW_MM = 0.6, 20.0, 150.0  # the vertebrae that carry ribs; levels, mm
_MIN_CUT_VOXELS, _WHOLE_CUT_VOXELS = 12, 60
_MAX_OFF_HEIGHT = 0.6  # levels, of a cut
# the first rib: about where it is sought, how far along the body, how far above C7 still, in the smallest cut
_FIRST, _FIRST_REACH_MM, _FIRST_ABOVE, _FIRST_VOXELS = 1.0, 60.0, 0.3, 20
_FROM_SCAPULA_MM = 6.5
_CELL_MM, _STEP_MM = 4.0, 9.0  # of bone, and between two cells that a way may cross
_MAX_AROUND, _THICK_COST = 36, 2.0  # cells within a step, 22 in a rib; more are in an organ full of contrast agent
_FAR, _LONG = 2.0, 1.2  # of a rib's length: the farthest way through bone that is looked at, and taken
SAMPLED_MM = 4.0  # of the centreline
_SMOOTHED, _AROUND_MM = 2.0, 8.0  # samples; the bone whose mean it is
_MIN_LENGTH_MM = 16.0
_MAX_BEND = 0.25  # cosine, between one step of 20 mm and the next
_BEND_SAMPLES = 5
_LATERAL_MM = 2.0  # within which the most lateral voxels, and those around the last one, are averaged
_END_REACH_MM = 14.0  # of the end from that of the centreline
_AIR_HU = -500.0
_FROM_END, _FROM_BORDER_MM = 3, 6.0  # samples, of the most lateral point; of a tip, from where the image ends


@dataclass(frozen=True, eq=False)
class FoundRib:
    """A rib in an image.

    Parameters
    ----------
    centreline
        (N, 3) from beside the spine to its end, 4 mm apart, LPS mm.
    lateral
        (3,) the most lateral place of its surface, LPS mm; None where it is not in the image.
    tip
        (3,) its end, LPS mm; None where it is not in the image.
    """

    centreline: FloatArray
    lateral: FloatArray | None
    tip: FloatArray | None


def find_ribs(
    image: Image, levels: Sequence[int], centres: FloatArray, scapulae: Mapping[str, FoundBone]
) -> dict[str, FoundRib]:
    """Find the ribs in a CT.

    Parameters
    ----------
    image
        Volume in Hounsfield units in which the body lies upright.
    levels, centres
        Of the vertebrae that were counted, indices into :data:`samreg.landmarks.spine.LEVELS`, and (V, 3) LPS mm.
    scapulae
        The shoulder blades, which are no ribs.

    Returns
    -------
    dict
        By name, "left_rib1" to "right_rib12", those that are found; none where fewer than four vertebrae are, or one
        lies above another that it should be below.
    """
    is_upright = bool((np.diff(centres[np.argsort(levels), 2]) < 0).all())
    if len(levels) < _MIN_VERTEBRAE or not is_upright or not has_hounsfield_units(image):
        return {}
    spine = _Spine.of(levels, centres)
    bone = _bone(image, spine, scapulae)
    if len(bone) < _MIN_CUT_VOXELS:
        return {}
    cells = _Cells(bone)
    beside = bone[:, 0] - spine.middle(bone)[:, 0]
    starts: dict[tuple[str, int], NDArray[np.int64]] = {}  # cells, by side and number
    for side, sign in _SIDES.items():
        outward = sign * beside
        for number, cut in _numbered(bone, outward, spine).items():
            inner = cut[outward[cut] <= np.median(outward[cut])]
            starts[side, number] = np.unique(cells.cell[inner])
    if not starts:
        return {}
    sources = np.concatenate(list(starts.values()))
    length, before, source = dijkstra(
        cells.graph, indices=sources, min_only=True, return_predecessors=True, limit=_FAR * _LENGTHS_MM.max()
    )
    row = np.full(len(cells.places), -1)
    row[sources] = np.repeat(np.arange(len(starts)), [len(start) for start in starts.values()])
    row = np.where(source >= 0, row[source.clip(min=0)], -1)
    found = {}
    for k, (side, number) in enumerate(starts):
        own = np.flatnonzero((row == k) & cells.is_thin)
        line = _centreline(cells.places, own, length, before, _LENGTHS_MM[number - 1] * spine.size)
        if line is not None:
            found[f"{side}_rib{number}"] = _rib(line, bone[row[cells.cell] == k], _SIDES[side], image)
    return found


@dataclass(frozen=True, eq=False)
class _Spine:
    """A curve through the vertebrae that were counted, and on beyond them.

    Parameters
    ----------
    line
        (N, 3) its points from head to foot, LPS mm, 1 mm of height apart.
    along
        (N, 3) its directions.
    level
        (N,) its levels, whole numbers in the middles of vertebrae.
    size
        Of the body, an adult's being 1.
    """

    line: FloatArray
    along: FloatArray
    level: FloatArray
    size: float

    @classmethod
    def of(cls, levels: Sequence[int], centres: FloatArray) -> _Spine:
        """Return the curve through vertebrae (V, 3) of these levels."""
        order = np.argsort(levels)
        known, places = np.asarray(levels)[order], centres[order]
        steps = -np.diff(places[:, 2]) / np.diff(known)
        size = np.median(np.linalg.norm(np.diff(places, axis=0), axis=1) / expected_spacing(known))
        top, bottom = places[0, 2], places[-1, 2]
        height = np.arange(top + _BEYOND * steps[0], bottom - _BEYOND * steps[-1], -1.0)
        level = np.interp(-height, -places[:, 2], known)
        level -= np.maximum(0.0, height - top) / steps[0]
        level += np.maximum(0.0, bottom - height) / steps[-1]
        # a polynomial goes astray beyond what it was fitted to; it goes on straight
        fit = np.polyfit(places[:, 2] - top, places[:, :2], min(_MOST_DEGREE, len(places) // _POINTS_A_DEGREE))
        within = np.clip(height, bottom, top) - top
        powers = np.arange(len(fit))[::-1]
        slope = (within[:, None] ** np.maximum(powers - 1, 0) * powers) @ fit
        sideways = within[:, None] ** powers @ fit + slope * (height - top - within)[:, None]
        along = np.column_stack([slope, np.ones(len(height))])
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        return cls(np.column_stack([sideways, height]), along, level, float(size))

    def middle(self, points: FloatArray) -> FloatArray:
        """Return the place (N, 3) of the spine at the height of points (N, 3)."""
        row = np.clip(np.round(self.line[0, 2] - points[:, 2]), 0, len(self.line) - 1).astype(np.int64)
        return np.asarray(self.line[row])

    def level_across(self, point: FloatArray) -> float:
        """Return the level at which a point (3,) lies straight across the spine."""
        offset = point - self.line
        off = np.abs((offset * self.along).sum(axis=1))
        off[np.abs(offset[:, 2]) > _MAX_LEAN_MM * self.size] = np.inf
        return float(self.level[off.argmin()])


def _bone(image: Image, spine: _Spine, scapulae: Mapping[str, FoundBone]) -> FloatArray:
    """Return the bone (B, 3), LPS mm, that may be that of ribs."""
    corners = image.grid.corners()
    low, high = corners.min(axis=0), corners.max(axis=0)
    carries_ribs = spine.line[(spine.level > -_ABOVE) & (spine.level < len(_HEIGHTS) + 1), 2]
    if not len(carries_ribs):
        return np.zeros((0, 3))
    low[2], high[2] = carries_ribs.min() - _BELOW_MM * spine.size, carries_ribs.max() + _ABOVE_MM * spine.size
    part = part_of(image, low, high)
    if part is None:
        return np.zeros((0, 3))
    bone = bone_voxels(part, above=_BONE_HU)
    bone = bone[np.abs(bone[:, 0] - spine.middle(bone)[:, 0]) > _FROM_SPINE_MM * spine.size]
    for scapula in scapulae.values():
        if scapula.seen.any():
            near = KDTree(scapula.points[scapula.seen]).query(bone, distance_upper_bound=_FROM_SCAPULA_MM)[0]
            bone = bone[~np.isfinite(near)]
    return bone


class _Cells:
    """Bone in cells of 4 mm, joined with those around.

    Attributes
    ----------
    cell
        (B,) of each voxel.
    places
        (C, 3) mean of the voxels of each, LPS mm.
    is_thin
        (C,) whether it can be that of a rib.
    graph
        (C, C) how far it is from one to the next, mm; gaps and thick bone count for more.
    """

    def __init__(self, bone: FloatArray) -> None:
        index = np.floor((bone - bone.min(axis=0)) / _CELL_MM).astype(np.int64)
        _, self.cell = np.unique(np.ravel_multi_index(tuple(index.T), index.max(axis=0) + 1), return_inverse=True)
        count = np.bincount(self.cell)
        self.places = np.column_stack([np.bincount(self.cell, axis) / count for axis in bone.T])
        tree = KDTree(self.places)
        pairs = tree.query_pairs(_STEP_MM, output_type="ndarray")
        around = np.bincount(pairs.ravel(), minlength=len(count))
        self.is_thin = around <= _MAX_AROUND
        squared = ((self.places[pairs[:, 0]] - self.places[pairs[:, 1]]) ** 2).sum(axis=1)
        cost = (squared / _CELL_MM + 1e-3) * np.where(self.is_thin[pairs].all(axis=1), 1.0, _THICK_COST)
        both = np.concatenate([pairs, pairs[:, ::-1]])
        self.graph = csr_matrix((np.tile(cost, 2), tuple(both.T)), shape=(len(count), len(count)))


def _cuts(bone: FloatArray, beside: FloatArray, spine: _Spine) -> tuple[list[NDArray[np.int64]], FloatArray]:
    """Return the voxels in which ribs of one side are cut, from head to foot, and their levels, C7 being 0.

    ``beside`` (B,) mm, is how far the bone lies from the spine on that side.
    """
    behind = bone[:, 1] - spine.middle(bone)[:, 1]
    (low, high), front, back = (spine.size * np.array(mm) for mm in (_CUT_MM, _CUT_FRONT_MM, _CUT_BACK_MM))
    rows = np.flatnonzero((beside > low) & (beside < high) & (behind > -front) & (behind < back))
    if not len(rows):
        return [], np.zeros(0)
    index = np.round((bone[rows] - bone[rows].min(axis=0)) / 2.0).astype(np.int64) + 2
    shown = np.zeros(index.max(axis=0) + 3, dtype=bool)
    shown[tuple(index.T)] = True
    label = ndimage.label(ndimage.binary_closing(shown) | shown, np.ones((3, 3, 3)))[0][tuple(index.T)]
    cuts = [rows[label == k] for k in np.unique(label)]
    cuts = [cut for cut in cuts if len(cut) >= _MIN_CUT_VOXELS]
    height = np.array([spine.level_across(bone[cut].mean(axis=0)) for cut in cuts])
    order = np.argsort(height, kind="stable")
    return [cuts[k] for k in order], height[order]


def _numbered(bone: FloatArray, beside: FloatArray, spine: _Spine) -> dict[int, NDArray[np.int64]]:
    """Return the voxels in which ribs of one side are cut, by the ribs' numbers; ``beside`` as in :func:`_cuts`."""
    cuts, height = _cuts(bone, beside, spine)
    size = np.minimum([len(cut) for cut in cuts], _WHOLE_CUT_VOXELS) / _WHOLE_CUT_VOXELS
    gain = size[:, None] * (1 - ((height[:, None] - _HEIGHTS) / _MAX_OFF_HEIGHT) ** 2)
    return {rib + 1: cuts[cut] for cut, rib in _in_order(gain)}


def first_rib_level(image: Image, levels: Sequence[int], centres: FloatArray) -> float:
    """Return the level at which the first ribs are cut beside the spine, C7 being 0: that of the highest cuts.

    It is 0.1 to 1.3 in people whose vertebrae are counted rightly: no rib hangs on C7, and none is missing on T1.

    Parameters
    ----------
    image, levels, centres
        As for :func:`find_ribs`.

    Returns
    -------
    float
        Mean of both sides; NaN where either shows no rib there, or C7 is not in view, and so perhaps no first rib.
    """
    is_upright = bool((np.diff(centres[np.argsort(levels), 2]) < 0).all())
    if len(levels) < _MIN_VERTEBRAE or not is_upright or not has_hounsfield_units(image):
        return np.nan
    spine = _Spine.of(levels, centres)
    above, top = (spine.line[np.abs(spine.level - level).argmin()] for level in (0.0, _FIRST))
    index = np.round(image.grid.world_to_index(above[None])[0, ::-1]).astype(int)
    if not image.grid.contains(above[None])[0] or image.array[tuple(index)] < _AIR_HU:
        return np.nan
    reach = spine.size * np.array([_CUT_MM[1], _CUT_BACK_MM, _FIRST_REACH_MM])
    part = part_of(image, top - reach, top + reach)
    if part is None:
        return np.nan
    bone = bone_voxels(part, above=_BONE_HU)
    beside = bone[:, 0] - spine.middle(bone)[:, 0]
    highest = []
    for sign in _SIDES.values():
        cuts, height = _cuts(bone, sign * beside, spine)
        shown = [h for h, cut in zip(height, cuts, strict=True) if h > -_FIRST_ABOVE and len(cut) >= _FIRST_VOXELS]
        highest.append(min(shown, default=np.nan))
    return float(np.mean(highest))


def _in_order(gain: FloatArray) -> list[tuple[int, int]]:
    """Return the pairs of rows and columns, both rising, of the largest sum of gains (N, M)."""
    rows, columns = gain.shape
    best = np.zeros((rows + 1, columns + 1))
    for i, j in np.ndindex(rows, columns):
        best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + gain[i, j])
    pairs = []
    i, j = rows, columns
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def _centreline(
    places: FloatArray, own: NDArray[np.int64], length: FloatArray, before: NDArray[np.int32], most: float
) -> FloatArray | None:
    """Return the centreline (N, 3) of a rib, mm; None of what is too short to be one.

    Parameters
    ----------
    places
        (C, 3) of all cells, mm.
    own
        Those of the rib.
    length, before
        (C,) the way to each cell, mm, and the cell before.
    most
        Length of the rib, mm.
    """
    if not len(own):
        return None
    way = [int(own[np.where(length[own] <= _LONG * most, length[own], -1.0).argmax()])]
    while before[way[-1]] >= 0:
        way.append(int(before[way[-1]]))
    known = places[np.union1d(own, way)]  # the way may cross thick bone, with none of the rib's around
    around = KDTree(known).query_ball_point(places[way[::-1]], _AROUND_MM)
    line = sampled(np.array([known[rows].mean(axis=0) for rows in around]))
    if len(line) > 2 * _SMOOTHED:
        line = sampled(ndimage.gaussian_filter1d(line, _SMOOTHED, axis=0, mode="nearest"))
    line = line[: int(most / SAMPLED_MM)]
    step = line[_BEND_SAMPLES:] - line[:-_BEND_SAMPLES]
    step /= np.linalg.norm(step, axis=1, keepdims=True) + 1e-9
    bends = np.flatnonzero((step[_BEND_SAMPLES:] * step[:-_BEND_SAMPLES]).sum(axis=1) < _MAX_BEND)
    if len(bends):  # into another bone
        line = line[: bends[0] + _BEND_SAMPLES]
    return line if len(line) >= _MIN_LENGTH_MM / SAMPLED_MM else None


def sampled(line: FloatArray, spacing: float = SAMPLED_MM) -> FloatArray:
    """Return points (M, 3), so many mm apart, of a line of points (N, 3)."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    even = np.arange(0.0, length[-1] + 1e-6, spacing)
    return np.column_stack([np.interp(even, length, axis) for axis in line.T])


def _rib(line: FloatArray, voxels: FloatArray, sign: float, image: Image) -> FoundRib:
    """Return the rib of a centreline (N, 3) and its voxels (V, 3), on the side of this sign of x."""
    off, row = KDTree(line).query(voxels)
    near = off <= _AROUND_MM
    lateral = tip = None
    if near.any():
        outward = np.where(near, sign * voxels[:, 0], -np.inf)
        most = outward >= outward.max() - _LATERAL_MM
        if _FROM_END <= np.median(row[most]) < len(line) - _FROM_END:
            lateral = voxels[most].mean(axis=0)
    at_end = voxels[np.linalg.norm(voxels - line[-1], axis=1) < _END_REACH_MM]
    if len(at_end):  # the means of which the centreline is made fall short of it
        beyond = (at_end - line[-1]) @ (line[-1] - line[-_FROM_END])
        last = at_end[beyond.argmax()]
        end = at_end[np.linalg.norm(at_end - last, axis=1) <= _LATERAL_MM].mean(axis=0)
        onward = (line[-1] - line[-_FROM_END]) / np.linalg.norm(line[-1] - line[-_FROM_END])
        if image.grid.depth(end[None])[0] > _FROM_BORDER_MM and _is_shown(image, end + _FROM_BORDER_MM * onward):
            tip = end
    return FoundRib(line, lateral, tip)


def _is_shown(image: Image, place: FloatArray) -> bool:
    """Whether an image shows tissue at a place (3,), and not the air beyond a mask."""
    index = np.clip(np.rint(image.grid.world_to_index(place[None])[0]).astype(int), 0, np.subtract(image.grid.size, 1))
    return bool(image.array[tuple(index[::-1])] > _AIR_HU)

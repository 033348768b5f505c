"""The airways: windpipe, main bronchi and where they fork, followed through their air.

A ridge between two bronchi looks like the next one to an embedding; counted from the windpipe down, each has its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from samreg.landmarks.bone import part_of
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.standard import has_hounsfield_units, standardised

# Lengths are those of adults.
_SPACING_MM = 2.0
_MIN_VERTEBRAE = 4  # that were counted
_ASIDE_MM, _FRONT_MM, _BEHIND_MM, _BELOW_MM, _ABOVE_MM = 80.0, 130.0, 60.0, 190.0, 20.0  # of T1, the part looked at
# of the windpipe, in slices down to the fourth vertebra: its air, its area, how much of its box it fills, and where it
# lies from the middle of the spine
_WINDPIPE_HU, _WINDPIPE_MM2, _WINDPIPE_FILLS = -600.0, (60.0, 700.0), 0.5
_WINDPIPE_ASIDE_MM, _WINDPIPE_FRONT_MM = 30.0, (10.0, 80.0)
_MIN_SLICES = 5
_TOP_MM = 30.0  # from its top down all is windpipe
_AIR_HU = np.arange(-950.0, -475.0, 25.0)  # limits of air that are tried, until one lets it into the lungs
_LEAST_ML, _MOST_ML = 6.0, 80.0  # of air, from the windpipe to the lungs
_NEAR_MM = 70.0  # the main carina: what lies farther off need not hold the air back
_MIN_AGREE = 2  # limits that show a carina
_SHELL_MM = 2.0  # of air at one distance from the top, along the airways
_WIDEST = 2.5  # times the windpipe, of a shell; a wider one is lung
_MAIN_MM, _BRANCH_MM = 30.0, 6.0  # the shortest main bronchus with all beyond it, and any other branch
# of a fork from the one before, along the airway
_LEFT_FORK_MM, _RIGHT_FORK_MM, _MIDDLE_FORK_MM = (30.0, 75.0), (8.0, 38.0), (12.0, 46.0)
_ONWARD_MM = 10.0  # from a fork to where its branches are told by
_PART_MM = 4.0  # main bronchi to the sides there, at least; the middle lobe's to the front
_CLIMB_MM = 8.0  # that far higher an upper lobe's bronchus lies there than the other


@dataclass(frozen=True, eq=False)
class Tree:
    """Air at growing distance from the top of the windpipe, parted where the airways part.

    Parameters
    ----------
    places
        (S, 3) middles of the shells, LPS mm.
    level
        (S,) distance from the top, in shells.
    reach
        (S,) that of the farthest place beyond.
    children
        Of each shell, those next to it away from the top.
    voxels
        Of each shell, (V, 3) LPS mm.
    """

    places: FloatArray
    level: NDArray[np.int64]
    reach: NDArray[np.int64]
    children: Sequence[Sequence[int]]
    voxels: Sequence[FloatArray]

    def branches(self, shell: int, shortest: float) -> list[int]:
        """Return the children that go on for so many mm."""
        return [c for c in self.children[shell] if (self.reach[c] - self.level[c] + 1) * _SHELL_MM >= shortest]

    def fork(self, shell: int, shortest: float) -> tuple[int, list[int]] | None:
        """Return the next shell with two branches or more that are so long, mm, and these; None where there is none."""
        while True:
            branches = self.branches(shell, shortest)
            if len(branches) > 1:
                return shell, branches
            onward = self.branches(shell, 0.0)
            if not onward:
                return None
            shell = max(onward, key=lambda c: self.reach[c])

    def onward(self, shell: int) -> FloatArray:
        """Return where a branch that begins with a shell has come to a little later, (3,) LPS mm."""
        for _ in range(int(_ONWARD_MM / _SHELL_MM)):
            if not self.children[shell]:
                break
            shell = max(self.children[shell], key=lambda c: self.reach[c])
        return np.asarray(self.places[shell])

    def ends(self, branches: Sequence[int], *, axis: int) -> tuple[int, int]:
        """Return the two branches that go farthest against and along an axis, x, y or z."""
        ordered = sorted(branches, key=lambda c: self.onward(c)[axis])
        return ordered[0], ordered[-1]

    def ridge(self, first: int, second: int) -> FloatArray:
        """Return the tip (3,) of the ridge between two branches, where they are nearest, LPS mm."""
        apart = np.linalg.norm(self.voxels[first][:, None] - self.voxels[second], axis=2)
        nearest = apart <= apart.min() + _SPACING_MM / 2
        rows, columns = np.nonzero(nearest)
        return np.asarray((self.voxels[first][rows] + self.voxels[second][columns]).mean(axis=0) / 2)


def find_carinas(image: Image, spine: FloatArray) -> dict[str, FloatArray]:
    """Find the carinas, the ridges between the first bronchi, in a CT.

    Parameters
    ----------
    image
        Volume in Hounsfield units in which the body lies upright.
    spine
        (V, 3) middles of thoracic vertebrae from the first one, or that below, down, LPS mm.

    Returns
    -------
    dict
        "carina", "right_upper_lobe_carina", "right_middle_lobe_carina" and "left_secondary_carina", (3,) LPS mm; those
        that are not seen are left out.
    """
    if len(spine) < _MIN_VERTEBRAE or not has_hounsfield_units(image):
        return {}
    found: dict[str, list[FloatArray]] = {}
    for tree in _trees(image, spine):
        for name, place in _carinas(tree).items():
            found.setdefault(name, []).append(place)
    return {name: np.median(places, axis=0) for name, places in found.items() if len(places) >= _MIN_AGREE}


def _carinas(tree: Tree) -> dict[str, FloatArray]:
    """Return the ridges by name."""
    main = tree.fork(int(tree.level.argmin()), _MAIN_MM)
    if main is None:
        return {}
    carina, bronchi = main
    right, left = tree.ends(bronchi, axis=0)
    found = {"carina": tree.ridge(right, left)}
    if any(sign * (tree.onward(b) - found["carina"])[0] < _PART_MM for b, sign in ((right, -1), (left, 1))):
        return {}
    lobar = tree.fork(left, _BRANCH_MM)
    if lobar is not None and _within(tree, carina, lobar[0], _LEFT_FORK_MM):
        lower, upper = tree.ends(lobar[1], axis=2)
        if _climbs(tree, upper, lower):
            found["left_secondary_carina"] = tree.ridge(upper, lower)
    lobar = tree.fork(right, _BRANCH_MM)
    if lobar is None or not _within(tree, carina, lobar[0], _RIGHT_FORK_MM):
        return found
    intermedius, upper = tree.ends(lobar[1], axis=2)
    if not _climbs(tree, upper, intermedius):
        return found
    found["right_upper_lobe_carina"] = tree.ridge(upper, intermedius)
    last = tree.fork(intermedius, _BRANCH_MM)
    if last is not None and _within(tree, lobar[0], last[0], _MIDDLE_FORK_MM):
        middle, lower = tree.ends(last[1], axis=1)
        ridge = tree.ridge(middle, lower)
        # else it is the lower lobe's, and the other its sixth segment's
        if (ridge - tree.onward(middle))[1] >= _PART_MM:
            found["right_middle_lobe_carina"] = ridge
    return found


def _climbs(tree: Tree, upper: int, lower: int) -> bool:
    return bool(tree.onward(upper)[2] - tree.onward(lower)[2] >= _CLIMB_MM)


def _within(tree: Tree, start: int, end: int, limits: tuple[float, float]) -> bool:
    """Return whether a shell lies so far beyond another, mm."""
    return bool(limits[0] <= (tree.level[end] - tree.level[start]) * _SHELL_MM <= limits[1])


def _trees(image: Image, spine: FloatArray) -> Iterator[Tree]:
    """Yield the tree of the airways for each limit of air, until it leaks into the lungs; none without a windpipe."""
    low = np.append(spine[0, :2] - (_ASIDE_MM, _FRONT_MM), spine[0, 2] - _BELOW_MM)
    high = np.append(spine[0, :2] + (_ASIDE_MM, _BEHIND_MM), spine[0, 2] + _ABOVE_MM)
    part = part_of(image, low, high)
    if part is None:
        return
    part = standardised(part, _SPACING_MM)
    windpipe = _windpipe(part, spine)
    if len(windpipe) < _MIN_SLICES:
        return
    hu, is_open = part.array.copy(), True
    for limit in _AIR_HU:
        label, _ = ndimage.label(hu < limit)
        numbers = label[tuple(windpipe.T)]
        if not numbers.any():
            continue
        airways = label == np.bincount(numbers[numbers > 0]).argmax()
        volume = airways.sum() * _SPACING_MM**3 / 1e3
        if volume > _MOST_ML:
            return
        if volume < _LEAST_ML:
            continue
        top = airways & (np.arange(len(airways)) == windpipe[airways[tuple(windpipe.T)], 0].max())[:, None, None]
        tree = _shells(airways, top, part)
        yield tree
        fork = tree.fork(int(tree.level.argmin()), _MAIN_MM)
        if is_open and fork is not None:
            hu[~_around(part, tree.places[fork[0]])] = 0
            is_open = False


def _around(part: Image, place: FloatArray) -> NDArray[np.bool_]:
    """Return which voxels (Z, Y, X) lie near a place (3,), LPS mm, or higher."""
    index = part.grid.world_to_index(place[None])[0, ::-1]
    z, y, x = ((np.arange(n) - i) * _SPACING_MM for n, i in zip(part.shape, index, strict=True))
    near = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < _NEAR_MM**2
    return np.asarray(near | (z > 0)[:, None, None])


def _windpipe(part: Image, spine: FloatArray) -> NDArray[np.int64]:
    """Return voxels (S, 3) z, y, x in the middle of the windpipe, in the slices down to the fourth vertebra."""
    upward = np.argsort(spine[:, 2])
    index = np.column_stack([np.zeros((len(part.array), 2)), np.arange(len(part.array))])
    heights = part.grid.index_to_world(index)[:, 2]
    between = (heights > spine[_MIN_VERTEBRAE - 1, 2]) & (heights < spine[0, 2] + _ABOVE_MM / 2)
    found = []
    for k in np.flatnonzero(between):
        middle = [np.interp(heights[k], spine[upward, 2], spine[upward, axis]) for axis in (0, 1)]
        label, _ = ndimage.label(part.array[k] < _WINDPIPE_HU)
        for number, box in enumerate(ndimage.find_objects(label), 1):
            inside = np.argwhere(label[box] == number)
            area = len(inside) * _SPACING_MM**2
            if not _WINDPIPE_MM2[0] < area < _WINDPIPE_MM2[1] or inside.shape[0] < _WINDPIPE_FILLS * label[box].size:
                continue
            y, x = inside.mean(axis=0) + (box[0].start, box[1].start)
            place = part.grid.index_to_world([[x, y, k]])[0]
            is_middle = abs(place[0] - middle[0]) < _WINDPIPE_ASIDE_MM
            if is_middle and _WINDPIPE_FRONT_MM[0] < middle[1] - place[1] < _WINDPIPE_FRONT_MM[1]:
                found.append((k, round(y), round(x)))
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _shells(airways: NDArray[np.bool_], top: NDArray[np.bool_], part: Image) -> Tree:
    """Return the tree of connected air at equal distances from the top, without what is wider than a windpipe."""
    voxels = np.argwhere(airways)
    joined, distance = _along(voxels, top)
    level = np.floor(distance / _SHELL_MM).astype(np.int64)
    is_same = level[joined[0]] == level[joined[1]]
    count, shell = csgraph.connected_components(
        _matrix(joined[0, is_same], joined[1, is_same], len(voxels)), directed=False
    )
    size = np.bincount(shell, minlength=count)
    world = part.grid.index_to_world(voxels[:, ::-1].astype(np.float64))
    members = np.split(world[np.argsort(shell, kind="stable")], np.cumsum(size)[:-1])
    levels = np.zeros(count, dtype=np.int64)
    levels[shell] = level
    is_down = level[joined[0]] < level[joined[1]]
    above, below = shell[np.where(is_down, joined, joined[::-1])[:, ~is_same]]
    touching = _matrix(below, above, count)
    parent = np.where(touching.sum(axis=1) > 0, touching.argmax(axis=1).ravel(), -1)  # (count, 1) of old scipy
    is_top = levels * _SHELL_MM < _TOP_MM
    kept = is_top | (size <= _WIDEST * np.median(size[is_top]))
    order, reach = np.argsort(levels, kind="stable"), levels.copy()
    for c in order:
        kept[c] &= parent[c] < 0 or kept[parent[c]]
    for c in order[::-1]:
        if kept[c] and parent[c] >= 0:
            reach[parent[c]] = max(reach[parent[c]], reach[c])
    children: list[list[int]] = [[] for _ in range(count)]
    for c in np.flatnonzero(kept & (parent >= 0)):
        children[parent[c]].append(int(c))
    return Tree(np.array([one.mean(axis=0) for one in members]), levels, reach, children, members)


def _along(voxels: NDArray[np.int64], top: NDArray[np.bool_]) -> tuple[NDArray[np.int64], FloatArray]:
    """Return which voxels (V, 3) touch, (2, N) rows, and how far each lies from the top through them, (V,) mm."""
    number = np.full(np.add(top.shape, 2), -1)
    number[tuple((voxels + 1).T)] = np.arange(len(voxels))
    steps = np.array([step for step in np.ndindex(3, 3, 3) if step > (1, 1, 1)]) - 1
    beside = np.stack([number[tuple((voxels + 1 + step).T)] for step in steps])  # (13, V)
    which, first = np.nonzero(beside >= 0)
    joined = np.stack([first, beside[which, first]])
    lengths = np.linalg.norm(steps, axis=1)[which] * _SPACING_MM
    start = np.flatnonzero(top[tuple(voxels.T)])
    matrix = _matrix(joined[0], joined[1], len(voxels), lengths)
    return joined, csgraph.dijkstra(matrix, directed=False, indices=start, min_only=True)


def _matrix(
    rows: NDArray[np.int64], columns: NDArray[np.int64], count: int, values: FloatArray | None = None
) -> sparse.csr_array:
    """Return a sparse matrix (count, count) of values, ones unless given; those of one place are added up."""
    values = np.ones(len(rows)) if values is None else values
    places = rows.astype(np.int32), columns.astype(np.int32)  # all that scipy 1.11 finds ways through
    return sparse.coo_array((values, places), shape=(count, count)).tocsr()

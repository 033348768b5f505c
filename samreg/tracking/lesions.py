"""The lesions of a baseline, from points or from a label map."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samreg.brief import brief_repr
from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image, as_points
from samreg.spatial.io_points import POINT_SUFFIXES
from samreg.spatial.labels import as_whole
from samreg.spatial.points import Points, as_numbers, require_inside
from samreg.spatial.remarks import remark
from samreg.tracking.size import Extent

log = logging.getLogger(__name__)

_MARGIN_MM = 1e-3  # beyond the scan, for rounded positions
_MAX_LABEL = 32767


@dataclass(frozen=True, eq=False)
class Lesions:
    """N lesions of one image.

    Parameters
    ----------
    points
        Their centres, LPS mm.
    radii
        (N,) mm; NaN where unknown.
    extents
        What was drawn of each; None where only the centre is known.
    """

    points: Points
    radii: FloatArray
    extents: tuple[Extent | None, ...]

    __repr__ = brief_repr

    def __len__(self) -> int:
        return len(self.points)

    def inside(self, grid: Grid, what: str) -> tuple[Lesions, tuple[str, ...]]:
        """Return the lesions whose centres lie in ``grid``, and a note on each other one.

        Raises
        ------
        InputError
            When there is none inside.
        """
        inside = grid.contains(self.points.positions, margin=_MARGIN_MM) if len(self) else np.zeros(0, bool)
        if not inside.any():
            require_inside(self.points, grid, what)
            raise InputError(f"no lesions in {what}; give points, or a label map with labels above 0")
        notes = tuple(
            f"lesion {self.points.names[i]} lies outside {what}, at {np.round(self.points.positions[i], 1).tolist()} "
            "LPS mm, and was left out"
            for i in np.flatnonzero(~inside)
        )
        index = np.flatnonzero(inside)
        return Lesions(self.points.take(index), self.radii[index], tuple(self.extents[i] for i in index)), notes


def as_lesions(lesions: Any, grid: Grid, *, radii: ArrayLike | None = None) -> Lesions:
    """Return lesions from points or from a label map.

    Parameters
    ----------
    lesions
        :class:`Lesions`, :class:`samreg.Points`, an array (N, 3) in LPS mm or a points file; or a label map, one label
        above 0 a lesion, as an image or its file. Lesions of a label map are named by their labels; where parts of one
        do not touch, as in a mask of all lesions, a warning says so.
    grid
        Of the image they lie in, to which voxel indices in a points file refer.
    radii
        (N,) mm, of lesions given by points.

    Raises
    ------
    InputError
        When a file cannot be read, a label map holds numbers that are no labels or comes with radii, or there is not a
        radius a lesion.

    Examples
    --------
    >>> grid = Grid.make((20, 20, 20), spacing=2.0)
    >>> as_lesions([[10.0, 10.0, 10.0], [20.0, 20.0, 20.0]], grid, radii=[4.0, np.nan]).points.names
    ('1', '2')
    >>> labels = np.zeros(grid.shape, np.uint8)
    >>> labels[4:7, 4:7, 4:7] = 3
    >>> lesions = as_lesions(Image(labels, grid), grid)
    >>> lesions.points.names, lesions.points.positions.tolist()
    (('3',), [[10.0, 10.0, 10.0]])
    """
    if isinstance(lesions, Lesions):
        return lesions
    is_file = isinstance(lesions, (str, os.PathLike)) and os.fspath(lesions).lower().endswith(POINT_SUFFIXES)
    if is_file or isinstance(lesions, (Points, np.ndarray, list, tuple)):
        points = as_points(lesions, grid.ndim, grid=grid)
        radii = np.full(len(points), np.nan) if radii is None else as_numbers(radii, "radii")
        if radii.shape != (len(points),):
            raise InputError(f"{len(points)} lesions need as many radii, got an array of shape {radii.shape}")
        if (radii <= 0).any() or np.isinf(radii).any():
            raise InputError(f"radii must be positive mm, or NaN where unknown, got {radii.tolist()[:10]}")
        return Lesions(points, radii, (None,) * len(points))
    labels = as_image(lesions, name="lesions")
    if radii is not None:
        raise InputError(f"the label map {labels.label} says how large its lesions are; leave out radii")
    if labels.ndim != grid.ndim:
        raise InputError(f"the label map {labels.label} is {labels.ndim}D, the scan {grid.ndim}D; give one of the scan")
    return _from_labels(labels)


def _from_labels(image: Image) -> Lesions:
    from scipy.ndimage import find_objects, label

    values = as_whole(image.array)
    if values is None or values.min() < 0 or values.max() > _MAX_LABEL:
        raise InputError(
            f"{image.label} is no label map: it must hold whole numbers from 0 to {_MAX_LABEL}, 0 outside, one label a "
            "lesion"
        )
    labels = values.astype(np.int32)
    names, extents, parted = [], [], []
    for number, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        first = image.grid.index_to_world([[part.start for part in reversed(box)]])[0]
        mask = labels[box] == number
        names.append(str(number))
        parts = label(mask, structure=np.ones((3,) * mask.ndim))[1]
        parted += [f"{number} ({parts} parts)"] if parts > 1 else []
        extents.append(Extent(mask, Grid(mask.shape, first, image.spacing, image.direction)))
    if parted:
        remark(
            log,
            "%s: one label, several parts that do not touch: %s; each label is followed as one lesion, at the centre "
            "of its parts. Give every lesion a label of its own",
            image.label, ", ".join(parted),
        )  # fmt: skip
    centers = np.array([extent.center for extent in extents]).reshape(-1, image.ndim)
    return Lesions(Points(centers, tuple(names)), np.array([e.diameter / 2 for e in extents]), tuple(extents))

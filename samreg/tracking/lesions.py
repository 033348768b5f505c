"""The lesions of a baseline, from points or from a label map."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image, as_points
from samreg.spatial.io_points import POINT_SUFFIXES
from samreg.spatial.points import Points, as_numbers, require_inside
from samreg.tracking.size import Extent


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

    def __len__(self) -> int:
        return len(self.points)

    def inside(self, grid: Grid, what: str) -> tuple[Lesions, tuple[str, ...]]:
        """Return the lesions whose centres lie in ``grid``, and a note on each other one.

        Raises
        ------
        InputError
            When there is none inside.
        """
        shown = grid.contains(self.points.positions, margin=1e-3) if len(self) else np.zeros(0, bool)
        if not shown.any():
            require_inside(self.points, grid, what)
            raise InputError(f"no lesions in {what}; give points, or a label map with labels above 0")
        notes = tuple(
            f"lesion {self.points.names[i]} lies outside {what}, at {np.round(self.points.positions[i], 1).tolist()} "
            "LPS mm, and was left out"
            for i in np.flatnonzero(~shown)
        )
        kept = np.flatnonzero(shown)
        return Lesions(self.points.take(kept), self.radii[kept], tuple(self.extents[i] for i in kept)), notes


def as_lesions(lesions: Any, grid: Grid, *, radii: ArrayLike | None = None) -> Lesions:
    """Return lesions from points or from a label map.

    Parameters
    ----------
    lesions
        :class:`Lesions`, :class:`samreg.Points`, an array (N, 3) in LPS mm or a points file; or a label map, one label
        above 0 a lesion, as an image or its file. Lesions of a label map are named by their labels.
    grid
        Of the image they lie in, to which voxel indices in a points file refer.
    radii
        (N,) mm, of lesions given by points.

    Raises
    ------
    InputError
        When a file cannot be read, a label map holds numbers that are no labels, or there is not a radius a lesion.
    """
    if isinstance(lesions, Lesions):
        return lesions
    is_file = isinstance(lesions, (str, os.PathLike)) and os.fspath(lesions).lower().endswith(POINT_SUFFIXES)
    if is_file or isinstance(lesions, (Points, np.ndarray, list, tuple)):
        points = as_points(lesions, grid.ndim, grid=grid)
        known = np.full(len(points), np.nan) if radii is None else as_numbers(radii, "radii")
        if known.shape != (len(points),):
            raise InputError(f"{len(points)} lesions need as many radii, got an array of shape {known.shape}")
        if (known <= 0).any() or np.isinf(known).any():
            raise InputError(f"radii must be positive mm, or NaN where unknown, got {known.tolist()[:10]}")
        return Lesions(points, known, (None,) * len(points))
    return _from_labels(as_image(lesions, name="lesions"))


def _from_labels(image: Image) -> Lesions:
    from scipy.ndimage import find_objects

    labels = np.rint(image.array).astype(np.int32)
    if labels.min() < 0 or not np.array_equal(labels, image.array):
        raise InputError(f"{image.label} is no label map: it must hold whole numbers, 0 outside, one label a lesion")
    names, extents = [], []
    for number, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        first = image.grid.index_to_world([[part.start for part in reversed(box)]])[0]
        mask = labels[box] == number
        names.append(str(number))
        extents.append(Extent(mask, Grid(mask.shape, first, image.spacing, image.direction)))
    centers = np.array([extent.center for extent in extents]).reshape(-1, image.ndim)
    return Lesions(Points(centers, tuple(names)), np.array([e.diameter / 2 for e in extents]), tuple(extents))

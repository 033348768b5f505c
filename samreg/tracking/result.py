"""What track() returns: the lesions of a baseline, found in its follow-up."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.brief import brief_repr
from samreg.spatial.grid import FloatArray, Grid, slabs
from samreg.spatial.image import Image
from samreg.spatial.points import Points
from samreg.spatial.transforms import AffineTransform, Transform
from samreg.tracking.size import Extent

_MAX_LABEL = np.iinfo(np.int16).max
_SIZES = (("diameter_mm", "diameter"), ("longest_axial_mm", "longest_axial"), ("volume_mm3", "volume"))


@dataclass(frozen=True, eq=False)
class TrackedLesion:
    """One lesion at both visits.

    Parameters
    ----------
    name
        As given, or its label.
    baseline, followup
        (3,) its centre at either visit, LPS mm.
    similarity
        Of the embeddings, at most 1.
    reliability
        Calibrated probability in [0, 1] that the follow-up position is right to 15 mm.
    cycle_error
        How far from the baseline position the way back ends, mm.
    spread
        How far the votes of the lesion and its surroundings disagree, mm.
    in_view
        False where the surroundings put the lesion outside the follow-up's field of view.
    before, after
        What was measured at either visit, in one way; None where it could not be measured.
    propagated
        Diameter it would have if it had changed as the tissue around it, mm; None where its size is unknown. It says
        nothing about the lesion's own growth.
    why
        Why its size could not be measured at both visits; empty when it was.
    expected_error
        In four of five places the follow-up position is off by at most so much, mm, as fitted to matches between two
        people (:class:`samreg.LandmarkMatches`): an upper bound, which judges two visits of one person too severely.
        None where the model has no such fit; of those shipped, the ``ct-small`` models have one.
    gone
        Whether the follow-up shows lung alone where the lesion is expected: it has gone, or shrunk to very little. Told
        of lesions that could be outlined in the lung at baseline, and that the follow-up's field of view shows.

    Examples
    --------
    >>> import samreg
    >>> from samreg.tracking import Extent, TrackedLesion
    >>> grid = samreg.spatial.Grid.make((9, 9, 9), spacing=2.0)
    >>> small, large = (Extent(np.linalg.norm(grid.world_points() - 8, axis=-1) < r, grid) for r in (5, 7))
    >>> center = np.array([8.0, 8.0, 8.0])
    >>> lesion = TrackedLesion("nodule", center, center, 0.9, 0.8, 1.0, 2.0, True, small, large, 10.2, "")
    >>> f"{lesion.change:+.0f} %"
    '+30 %'
    """

    name: str
    baseline: FloatArray
    followup: FloatArray
    similarity: float
    reliability: float
    cycle_error: float
    spread: float
    in_view: bool
    before: Extent | None
    after: Extent | None
    propagated: float | None
    why: str
    expected_error: float | None = None
    gone: bool = False

    @property
    def change(self) -> float | None:
        """Change of the diameter from baseline to follow-up, %; None where it was not measured."""
        if self.before is None or self.after is None or self.why:
            return None
        return 100 * (self.after.diameter / self.before.diameter - 1)

    def row(self) -> dict[str, Any]:
        """Return what the tables hold; None where nothing was measured."""
        positions = {
            f"{visit}_{axis}": round(float(value), 3)
            for visit, position in (("baseline", self.baseline), ("followup", self.followup))
            for axis, value in zip("xyz", position, strict=True)
        }
        sizes = {
            f"{visit}_{key}": None if extent is None else round(getattr(extent, attribute), 2)
            for visit, extent in (("baseline", self.before), ("followup", self.after))
            for key, attribute in _SIZES
        }
        return {
            "name": self.name,
            **positions,
            "reliability": round(self.reliability, 4),
            "spread_mm": round(self.spread, 2),
            "cycle_error_mm": round(self.cycle_error, 2),
            **({} if self.expected_error is None else {"expected_error_mm": round(self.expected_error, 1)}),
            "in_view": self.in_view,
            **sizes,
            "diameter_change_percent": None if self.change is None else round(self.change, 1),
            "propagated_diameter_mm": None if self.propagated is None else round(self.propagated, 2),
            "size_not_measured_because": self.why,
            "gone": self.gone,
        }


@dataclass(frozen=True, eq=False)
class LesionTracks:
    """The lesions of a baseline in its follow-up; false, with a ``reason``, when the scans could not be aligned.

    Parameters
    ----------
    lesions
        Of the baseline, in their order.
    baseline, followup
        The scans.
    transform
        Baseline to follow-up points, LPS mm, from embeddings alone; None when it failed.
    notes
        What the user should know, in plain words.
    reason
        Why it failed; empty when it did not.

    Examples
    --------
    >>> import samreg
    >>> scan = samreg.Image.from_array(np.zeros((4, 5, 6)), spacing=(2, 2, 2))
    >>> failed = samreg.LesionTracks((), scan, scan, None, reason="too few matches: 3")
    >>> bool(failed), len(failed), failed.reason
    (False, 0, 'too few matches: 3')
    """

    lesions: tuple[TrackedLesion, ...]
    baseline: Image
    followup: Image
    transform: Transform | None
    notes: tuple[str, ...] = ()
    reason: str = ""

    __repr__ = brief_repr

    def __bool__(self) -> bool:
        return self.transform is not None

    def __len__(self) -> int:
        return len(self.lesions)

    @property
    def points(self) -> FloatArray:
        """(N, 3) positions in the follow-up, LPS mm."""
        return np.array([lesion.followup for lesion in self.lesions]).reshape(-1, 3)

    def to_points(self) -> Points:
        """Return the positions in the follow-up as :class:`samreg.Points`, scored by reliability.

        Examples
        --------
        >>> import samreg
        >>> scan = samreg.Image.from_array(np.zeros((4, 5, 6)), spacing=(2, 2, 2))
        >>> place = np.array([2.0, 4.0, 6.0])
        >>> lesion = TrackedLesion("nodule", place, place, 0.9, 0.8, 1.0, 2.0, True, None, None, None, "no lung")
        >>> points = samreg.LesionTracks((lesion,), scan, scan, None).to_points()
        >>> points.names, points.positions.tolist(), points.scores.tolist()
        (('nodule',), [[2.0, 4.0, 6.0]], [0.8])
        """
        return Points(
            self.points,
            tuple(lesion.name for lesion in self.lesions),
            np.array([lesion.reliability for lesion in self.lesions]),
        )

    def labels(self) -> Image | None:
        """Return the lesions as a label map on the follow-up's grid; None when no extent is known.

        A lesion keeps its label, where all are named by their labels, as those of a label map are; else label i is
        lesion i, counted from 1. Drawn is the extent that was measured in the follow-up, else the one measured or
        drawn in the baseline, carried over by the transform.

        Examples
        --------
        >>> import samreg
        >>> from samreg.tracking import Extent
        >>> scan = samreg.Image.from_array(np.zeros((5, 5, 5)), spacing=(2, 2, 2))
        >>> inside = np.zeros((5, 5, 5), bool)
        >>> inside[2, 2, 2:4] = True
        >>> drawn, place = Extent(inside, scan.grid), np.array([5.0, 4.0, 4.0])
        >>> lesion = TrackedLesion("nodule", place, place, 0.9, 0.8, 1.0, 2.0, True, drawn, drawn, 3.0, "")
        >>> tracks = samreg.LesionTracks((lesion,), scan, scan, samreg.spatial.AffineTransform.identity(3))
        >>> tracks.labels().array[2, 2].tolist()
        [0, 0, 1, 1, 0]
        """
        if self.transform is None or not any(lesion.before or lesion.after for lesion in self.lesions):
            return None
        array = np.zeros(self.followup.shape, np.int16)
        identity = AffineTransform.identity(self.followup.ndim)
        carried = [(i, lesion.before, self.transform) for i, lesion in self._numbered() if lesion.after is None]
        measured = [(i, lesion.after, identity) for i, lesion in self._numbered()]  # above what is carried over
        for number, extent, transform in (*carried, *measured):
            if extent is not None:
                _draw(array, self.followup.grid, extent, transform, number)
        return Image(array, self.followup.grid, "lesions")

    def _numbered(self) -> Iterable[tuple[int, TrackedLesion]]:
        names = [lesion.name for lesion in self.lesions]
        labels = [int(name) for name in names if name.isdecimal() and 0 < int(name) <= _MAX_LABEL]
        return zip(labels if len({*labels}) == len(names) else range(1, len(names) + 1), self.lesions, strict=True)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write tables, points, labels and pictures to a folder: all files, or none.

        ``lesions.csv``, ``followup.mrk.json`` and ``followup.csv`` (positions, scored by reliability),
        ``followup_lesions.nii.gz`` (:meth:`labels`), ``lesions.html``: both visits of each lesion side by side, and
        ``lesions.json``. A failed result writes ``lesions.json`` alone.

        Parameters
        ----------
        folder
            Made when missing. Of an earlier result in it nothing is left.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        InputError
            When the folder cannot be written.

        Examples
        --------
        >>> import samreg, tempfile
        >>> scan = samreg.Image.from_array(np.zeros((4, 5, 6)), spacing=(2, 2, 2))
        >>> failed = samreg.LesionTracks((), scan, scan, None, reason="too few matches: 3")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in failed.save(folder).iterdir()]
        ['lesions.json']
        """
        from samreg.tracking.store import save

        return save(self, folder)


def _draw(array: NDArray[np.int16], grid: Grid, extent: Extent, transform: Transform, number: int) -> None:
    """Number the voxels of an array on a grid that a transform takes an extent to.

    Only where it and the voxels beside it go is the inverse computed: that of a whole field takes seconds.
    """
    from scipy.ndimage import binary_dilation

    if not extent.mask.any():
        return
    # a voxel ends halfway to its neighbours, however much the transform stretches it
    around = binary_dilation(np.pad(extent.mask, 1), np.ones((3,) * grid.ndim, bool))
    voxels = extent.grid.index_to_world(np.argwhere(around)[:, ::-1] - 1)
    index = grid.world_to_index(transform.transform_points(voxels))
    first = np.clip(np.floor(index.min(axis=0)), 0, None).astype(int)
    last = np.minimum(np.ceil(index.max(axis=0)), np.asarray(grid.size) - 1).astype(int)
    if (first > last).any():
        return
    box = array[tuple(slice(low, high + 1) for low, high in zip(first[::-1], last[::-1], strict=True))]
    back = transform.inverse()
    for start, points in slabs(grid.between(first, last)):
        inside = extent.at(back.transform_points(points.reshape(-1, grid.ndim))).reshape(points.shape[:-1])
        box[start : start + len(points)][inside] = number

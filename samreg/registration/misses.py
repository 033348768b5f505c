"""By how much a registration misses named landmarks that both images show: evidence that names a place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samreg.quality.regions import region_of
from samreg.spatial.grid import FloatArray
from samreg.spatial.points import Points

_MIN_FOR_REGION = 3  # landmarks
_DOUBTFUL_MM = 15.0  # median of a region's misses
_MIN_FOR_POSE = 4  # landmarks that say how a body lies
_TURNED_DEG = 45.0  # between two bodies, beyond any that lie upright


@dataclass(frozen=True)
class RegionMisses:
    """By how much the landmarks of a region are missed.

    Parameters
    ----------
    region
        Its name.
    count
        Of the landmarks.
    median, largest
        Of their misses, mm.
    worst
        The landmark that is missed by the most.
    guided
        How many of the landmarks guided the engine.
    """

    region: str
    count: int
    median: float
    largest: float
    worst: str
    guided: int

    @property
    def is_doubtful(self) -> bool:
        """Whether so many landmarks are missed by so much that the region is to be checked."""
        return self.count >= _MIN_FOR_REGION and self.median > _DOUBTFUL_MM

    def __str__(self) -> str:
        return f"{self.region}: {self.count} landmarks found in both images are missed by {self.median:.0f} mm (median)"


@dataclass(frozen=True, eq=False)
class LandmarkMisses:
    """Landmarks that :func:`samreg.find_landmarks`' atlas finds in both images.

    Parameters
    ----------
    fixed, moving
        N landmarks in each image, scored by their reliability there.
    distance
        (N,) between where the transform takes a landmark and where it was found in the moving image, mm. The places
        found err themselves: in other people by 7 mm on average.
    guided
        (N,) whether the engine drew a landmark to its counterpart: what is left then, it did against other evidence.

    Examples
    --------
    >>> points = Points(np.zeros((2, 3)), ("vertebra_T7", "vertebra_T8"), np.ones(2))
    >>> misses = LandmarkMisses(points, points, np.array([2.0, 4.0]), np.array([False, False]))
    >>> [region.median for region in misses.by_region()]
    [3.0]
    """

    fixed: Points
    moving: Points
    distance: FloatArray
    guided: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.distance)

    @property
    def arms_that_differ(self) -> str:
        """How the arms lie in both images, in plain words, where one is raised here and down there; else nothing."""
        from samreg.landmarks.arms import are_other, arms, in_words  # loads torch

        bodies = self.fixed.positions, self._moving_as_fixed()
        found = [arms(self.fixed.names, positions) for positions in bodies]
        if not are_other(*found).any():
            return ""
        return " and ".join(
            f"{in_words(one)} in the {role} image" for role, one in zip(("fixed", "moving"), found, strict=True)
        )

    def _moving_as_fixed(self) -> FloatArray:
        """Return where the moving image's landmarks lie, or would lie if its body lay as the fixed where it is turned.

        A body that lies about as the fixed one stays as it is: how it lies is known less well than where its arms are.
        """
        from samreg.seeding.affine import fit_least_squares  # loads torch, as the next does
        from samreg.seeding.turns import angle_between

        trunk = np.array(["shoulder" not in region_of(name) for name in self.fixed.names], dtype=bool)
        if trunk.sum() < _MIN_FOR_POSE or self.moving.ndim != len("xyz"):
            return self.moving.positions
        moving, fixed = (points.positions[trunk] for points in (self.moving, self.fixed))
        pose = fit_least_squares(moving, fixed, np.ones(len(fixed)), kind="rigid")
        if angle_between(np.eye(len(pose.matrix)), pose.matrix) < _TURNED_DEG:
            return self.moving.positions
        return np.asarray(pose.transform_points(self.moving.positions))

    def by_region(self) -> tuple[RegionMisses, ...]:
        """Return the regions, those that are missed by the most first."""
        regions: dict[str, list[int]] = {}
        for i, name in enumerate(self.fixed.names):
            regions.setdefault(region_of(name), []).append(i)
        misses = []
        for region, rows in regions.items():
            own = self.distance[rows]
            worst = self.fixed.names[rows[int(own.argmax())]]
            guided = int(self.guided[rows].sum())
            misses.append(RegionMisses(region, len(rows), float(np.median(own)), float(own.max()), worst, guided))
        return tuple(sorted(misses, key=lambda one: -one.median))

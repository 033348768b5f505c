"""Errors at landmarks."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from samreg.brief import brief_repr
from samreg.errors import InputError
from samreg.spatial.files import atomic_path, reading, require_file
from samreg.spatial.grid import FloatArray, as_points_array, require_unmasked
from samreg.spatial.points import Points
from samreg.spatial.tables import plain_cell, safe_cell
from samreg.spatial.transforms import Transform, require_transform

_COLUMNS = ("name", "before_mm", "transform_mm", "inverse_mm")
_GUIDED = "guided"


@dataclass(frozen=True)
class ErrorSummary:
    """Statistics of N errors, in the errors' unit.

    Parameters
    ----------
    mean, median
        Of all errors.
    p75, p95
        75th and 95th percentile.
    maximum
        The largest error.
    count
        N.
    """

    mean: float
    median: float
    p75: float
    p95: float
    maximum: float
    count: int


@dataclass(frozen=True, eq=False)
class LandmarkErrors:
    """Errors at N landmarks of a registration, mm.

    Parameters
    ----------
    names
        Of the landmarks.
    before
        (N,) in the moving image, as the images lay before.
    transform
        (N,) in the moving image, between a fixed landmark's image and its counterpart.
    inverse
        (N,) in the fixed image, the way back.
    guided
        Whether the registration was guided by these very landmarks, whose errors then say little of other places.
    left_out
        Names of landmarks that guided the registration and were not measured for that.
    """

    names: tuple[str, ...]
    before: FloatArray
    transform: FloatArray
    inverse: FloatArray
    guided: bool = field(default=False, kw_only=True)
    left_out: tuple[str, ...] = field(default=(), kw_only=True)

    __repr__ = brief_repr

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a csv, one landmark a line; where they guided the registration, a column ``guided`` says so.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from samreg.quality import LandmarkErrors
        >>> path = Path(tempfile.mkdtemp()) / "landmarks.csv"
        >>> LandmarkErrors(("carina",), np.array([9.0]), np.array([2.0]), np.array([2.5])).write(path)
        >>> LandmarkErrors.read(path).transform
        array([2.])
        """
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow((*_COLUMNS, _GUIDED) if self.guided else _COLUMNS)
            columns = zip(self.names, self.before, self.transform, self.inverse, strict=True)
            more = ["yes"] if self.guided else []
            writer.writerows(
                [safe_cell(name), *(f"{error:.3f}" for error in errors), *more] for name, *errors in columns
            )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LandmarkErrors:
        """Read what :meth:`write` wrote.

        Raises
        ------
        InputError
            When the file is missing or damaged.
        """
        path = require_file(path, "landmark errors")
        with reading(path), Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
            columns = (np.array([float(row[key]) for row in rows]) for key in _COLUMNS[1:])
            guided = any(row.get(_GUIDED) == "yes" for row in rows)
            return cls(tuple(plain_cell(row["name"]) for row in rows), *columns, guided=guided)


def target_registration_error(
    transform: Transform, fixed_points: Points | ArrayLike, moving_points: Points | ArrayLike
) -> FloatArray:
    """Return the distance between each mapped fixed landmark and its counterpart.

    Fitzpatrick, West and Maurer, Predicting error in rigid-body point-based registration, TMI 1998.

    Parameters
    ----------
    transform
        Fixed to moving, LPS mm.
    fixed_points, moving_points
        (N, d) LPS mm in the order of each other; or two :class:`Points`, which are paired by name.

    Returns
    -------
    ndarray
        (N,) mm, in the order of ``fixed_points``, measured in the moving image.

    Raises
    ------
    InputError
        When the numbers of points differ, names are missing or doubled, or only one of the two is Points.

    Examples
    --------
    >>> from samreg.quality import target_registration_error
    >>> from samreg.spatial import AffineTransform
    >>> shift = AffineTransform([[1, 0], [0, 1]], [3, 0])
    >>> target_registration_error(shift, [[0, 0], [10, 10]], [[3, 0], [13, 14]])
    array([0., 4.])
    """
    require_transform(transform)
    if isinstance(fixed_points, Points) and isinstance(moving_points, Points):
        for points in (fixed_points, moving_points):
            doubled = sorted({name for name in points.names if points.names.count(name) > 1})
            if doubled:
                raise InputError(f"landmark names must be unique to be paired, doubled: {doubled}")
        fixed, moving = fixed_points.positions, moving_points.named(fixed_points.names).positions
    elif isinstance(fixed_points, Points) or isinstance(moving_points, Points):
        raise InputError("give both sets of landmarks as Points, paired by name, or both as arrays (N, d)")
    else:
        fixed = as_points_array(fixed_points, transform.ndim)
        moving = as_points_array(moving_points, transform.ndim)
    if len(fixed) != len(moving):
        raise InputError(f"{len(fixed)} fixed and {len(moving)} moving landmarks; give pairs")
    errors: FloatArray = np.linalg.norm(transform.transform_points(fixed) - moving, axis=1)
    return errors


def summarise_errors(errors: ArrayLike) -> ErrorSummary:
    """Return the statistics of errors (N,).

    Raises
    ------
    InputError
        When there are none, one is not finite, or a part of them is masked.

    Examples
    --------
    >>> from samreg.quality import summarise_errors
    >>> summary = summarise_errors([1.0, 2.0, 6.0])
    >>> summary.mean, summary.median, summary.maximum, summary.count
    (3.0, 2.0, 6.0, 3)
    """
    require_unmasked(errors, "errors")
    errors = np.asarray(errors, dtype=np.float64).ravel()
    if errors.size == 0 or not np.isfinite(errors).all():
        raise InputError(f"errors must be finite and at least one, got {errors.size} values")
    median, p75, p95 = np.percentile(errors, (50, 75, 95))
    return ErrorSummary(float(errors.mean()), float(median), float(p75), float(p95), float(errors.max()), errors.size)

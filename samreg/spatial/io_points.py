"""Reading and writing points: csv, 3D Slicer, elastix, transformix and DIR-Lab files.

Whatever the file's frame, :class:`~samreg.spatial.points.Points` are in LPS mm.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from samreg.errors import InputError, require_choice
from samreg.spatial.files import atomic_path, require_file
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.io_points_csv import parse_point_table, read_point_table, write_point_table
from samreg.spatial.io_points_slicer import is_fiducials, read_fiducials, read_markups, write_fiducials, write_markups
from samreg.spatial.io_points_text import read_dirlab, read_elastix, write_elastix
from samreg.spatial.points import Points
from samreg.spatial.remarks import remark
from samreg.spatial.tables import read_text

log = logging.getLogger(__name__)

#: What :func:`read_points` reads.
FORMATS = ("csv", "mrk.json", "fcsv", "elastix", "dirlab")
_FORMAT_OF = {".csv": "csv", ".tsv": "csv", ".json": "mrk.json", ".fcsv": "fcsv", ".pts": "elastix", ".txt": "elastix"}
#: Endings of the files that hold points, in lower case; those of every one are read and written.
POINT_SUFFIXES = tuple(_FORMAT_OF)
_WRITERS = {
    "mrk.json": write_markups,
    "fcsv": write_fiducials,
    "elastix": write_elastix,
}


def read_points(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002
    grid: Grid | None = None,
    subject: str | None = None,
) -> Points:
    r"""Read points.

    Parameters
    ----------
    path
        The file.
    format
        Follows from the suffix unless given:

        - "csv" (.csv, .tsv): cells between commas, semicolons or tabs; numbers with decimal commas where these do not
          separate cells. A header names the columns x, y(, z), in LPS mm, or r, a, s or l, p, s as 3D Slicer's tables
          do; and optionally name (or label, landmark), score and subject (or case, patient), in any order and beside
          others. Without a header, x, y(, z).
        - "mrk.json", "fcsv": 3D Slicer; RAS or LPS as the file says. Points that are not placed are left out.
        - "elastix" (.pts, .txt): a first line "point" (LPS mm) or "index" (0-based voxels, needs ``grid``), the
          number of points, then the points. Of transformix's ``outputpoints.txt`` OutputPoint is read, LPS mm, and that
          is said.
        - "dirlab": rows of 1-based voxel indices x, y, z of the image as DIR-Lab stores it; needs ``grid``, is never
          guessed from the suffix .txt, and is not written.
    grid
        The grid of the image that voxel indices refer to.
    subject
        Whose points to take from a csv that holds several subjects.

    Returns
    -------
    Points
        LPS mm; perhaps none.

    Raises
    ------
    InputError
        When the file is missing, empty, damaged or not of its format, or a row has more cells than there are columns,
        as commas in numbers and names make it; the message names the line.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "landmarks.csv")
    >>> _ = path.write_text("subject;landmark;x;y;z\nA;carina;1,5;-20;30\nB;carina;2,5;-21;33\n")
    >>> points = read_points(path, subject="B")
    >>> points.names, points.positions.tolist()
    (('carina',), [[2.5, -21.0, 33.0]])
    """
    path = require_file(path, "points file")
    kind = _format_of(path, format)
    if subject is not None and kind != "csv":
        raise InputError(f"the option subject chooses rows of a csv, but {path} is {kind}; leave it out")
    text = read_text(path, "points file")
    if kind == "csv" and is_fiducials(text):  # its frame would be lost
        kind = "fcsv"
    if kind == "csv":
        points = parse_point_table(text, path).points(subject)
    elif kind == "mrk.json":
        points = read_markups(text, path)
    elif kind == "fcsv":
        points = read_fiducials(text, path)
    elif kind == "elastix":
        points = read_elastix(text, path, grid)
    else:
        points = read_dirlab(text, path, grid)
    doubled = [name for name, count in Counter(points.names).items() if count > 1]
    if doubled:
        remark(log, "%s: names occur more than once: %s", path, ", ".join(map(repr, doubled[:5])))
    return points


def find_points(where: str | os.PathLike[str], names: Iterable[str]) -> dict[str, tuple[Path, str | None]]:
    r"""Return the points files of subjects: the file, and the subject to take from it or None.

    Parameters
    ----------
    where
        A csv with a column subject (or case, patient), as :func:`read_points` reads it, whose subjects are returned; or
        a folder with a file ``NAME.mrk.json``, ``.csv``, ``.tsv`` or ``.fcsv`` for some of the names.
    names
        Of the subjects looked for in a folder.

    Raises
    ------
    InputError
        When the csv names no subjects, or a subject has two files.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "landmarks.csv")
    >>> _ = path.write_text("patient;label;x;y;z\nA;carina;1;2;3\nB;carina;4;5;6\n")
    >>> {name: subject for name, (file, subject) in find_points(path, ()).items()}
    {'A': 'A', 'B': 'B'}
    """
    where = require_file(where, "landmarks")
    if where.is_file():
        return {subject: (where, subject) for subject in read_point_table(where).subjects()}
    files: dict[str, tuple[Path, str | None]] = {}
    for name in names:
        present = [path for end in (".mrk.json", ".csv", ".tsv", ".fcsv") if (path := where / f"{name}{end}").is_file()]
        if len(present) > 1:
            raise InputError(f"{present[0]} and {present[1]} both hold the landmarks of {name}; keep one")
        if present:
            files[name] = (present[0], None)
    return files


def write_points(
    points: Points, path: str | os.PathLike[str], *, columns: Mapping[str, FloatArray] | None = None
) -> None:
    """Write points in LPS mm; the format follows from the suffix.

    .csv, .tsv, .mrk.json and .fcsv keep names and scores and read back exactly; elastix's .pts and .txt hold positions
    alone. Slicer's formats are 3D.

    Parameters
    ----------
    points
        Points, LPS mm.
    path
        The file.
    columns
        Further numbers (N,) for a csv or tsv, mm, by the names of their columns, such as expected errors.

    Raises
    ------
    InputError
        When the suffix is unknown, a format cannot hold the points, or the file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "found.csv")
    >>> write_points(Points([[1.0, 2.0, 3.0]], ("carina",)), path)
    >>> print(path.read_text())
    name,x,y,z
    carina,1.0,2.0,3.0
    <BLANKLINE>
    """
    path = Path(path)
    if not isinstance(points, Points):
        raise InputError(f"points must be samreg.Points, got {type(points).__name__}; make them of positions and names")
    kind = _format_of(path, None)
    if kind in ("mrk.json", "fcsv") and points.ndim != 3:
        raise InputError(f"cannot write {path}: 3D Slicer's points are 3D; write 2D points as .csv")
    try:
        if kind == "csv":
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            text = write_point_table(points, columns, delimiter=delimiter)
        else:
            text = _WRITERS[kind](points)
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"cannot write {path}: a name is not valid Unicode ({error.reason}); rename it") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _format_of(path: Path, given: str | None) -> str:
    if given is not None:
        require_choice(f"format of {path}:", given, FORMATS)
        return given
    kind = _FORMAT_OF.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"unknown points format: {path}; use .csv, .tsv, .mrk.json, .fcsv, .pts or .txt")
    return kind

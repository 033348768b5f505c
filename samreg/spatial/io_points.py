"""Reading and writing points: csv, 3D Slicer, elastix and DIR-Lab files.

Whatever the file's frame, :class:`~samreg.spatial.points.Points` are in LPS mm. Slicer's RAS is turned here.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from samreg.errors import InputError
from samreg.spatial.files import atomic_path, require_file
from samreg.spatial.grid import Grid
from samreg.spatial.points import Points, require_inside

log = logging.getLogger(__name__)

FORMATS = ("csv", "mrk.json", "fcsv", "elastix", "dirlab")
_SUFFIXES = {".csv": "csv", ".json": "mrk.json", ".fcsv": "fcsv", ".pts": "elastix", ".txt": "elastix"}
_NAME = ("name", "label", "landmark", "landmark_name", "point", "id")
_SCORE = ("score", "confidence", "reliability", "similarity")
SUBJECT_COLUMNS = ("subject", "case", "patient")
_FCSV_COLUMNS = [
    *("id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock"),
    *("label", "desc", "associatedNodeID"),
]
_SCORE_NOTE = "score="  # how a score is kept in the free text of Slicer's files


def read_points(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002
    grid: Grid | None = None,
    subject: str | None = None,
) -> Points:
    """Read points.

    Parameters
    ----------
    path
        The file.
    format
        Follows from the suffix unless given:

        - "csv": LPS mm. A header names the columns x, y(, z) and optionally name (or label, landmark), score
          and subject, in any order and beside others; without a header, x, y(, z).
        - "mrk.json", "fcsv": 3D Slicer; RAS or LPS as the file says.
        - "elastix" (.pts, .txt): a first line "point" (LPS mm) or "index" (0-based voxels, needs ``grid``), the
          number of points, then the points.
        - "dirlab": rows of 1-based voxel indices x, y, z of the image as DIR-Lab stores it; needs ``grid``, and
          is never guessed from the suffix .txt.
    grid
        The grid of the image that voxel indices refer to.
    subject
        Whose points to take from a csv that holds several subjects.

    Returns
    -------
    Points
        LPS mm.

    Raises
    ------
    InputError
        When the file is missing, empty, damaged or not of its format; the message names the line.
    """
    path = require_file(path, "points file")
    kind = _format_of(path, format)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a points file")
    if subject is not None and kind != "csv":
        raise InputError(f"subject= chooses rows of a csv, but {path} is {kind}; leave it out")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text ({error.reason}); export it as UTF-8") from error
    if kind == "csv":
        points = _read_csv(text, path, subject)
    elif kind == "mrk.json":
        points = _read_mrk(text, path)
    elif kind == "fcsv":
        points = _read_fcsv(text, path)
    elif kind == "elastix":
        points = _read_elastix(text, path, grid)
    else:
        points = _read_dirlab(text, path, grid)
    twice = [name for name, count in Counter(points.names).items() if count > 1]
    if twice:
        log.warning("%s: names occur more than once: %s", path, ", ".join(map(repr, twice[:5])))
    return points


def find_points(where: str | os.PathLike[str], names: Iterable[str]) -> dict[str, tuple[Path, str | None]]:
    """Return the points files of subjects: the file, and the subject to take from it or None.

    Parameters
    ----------
    where
        A csv with a column subject, whose subjects are returned; or a folder with a file ``NAME.mrk.json``, ``.csv`` or
        ``.fcsv`` for some of the names.
    names
        Of the subjects looked for in a folder.

    Raises
    ------
    InputError
        When the csv names no subjects, or a subject has two files.
    """
    where = require_file(where, "landmarks")
    if where.is_file():
        with where.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            column = next((name for name in reader.fieldnames or () if name.strip().lower() in SUBJECT_COLUMNS), None)
            if column is None:
                raise InputError(f"{where}: no column subject; it names the image a landmark belongs to")
            return {row[column]: (where, row[column]) for row in reader}
    found: dict[str, tuple[Path, str | None]] = {}
    for name in names:
        files = [where / f"{name}{end}" for end in (".mrk.json", ".csv", ".fcsv") if (where / f"{name}{end}").is_file()]
        if len(files) > 1:
            raise InputError(f"{files[0]} and {files[1]} both hold the landmarks of {name}; keep one")
        if files:
            found[name] = (files[0], None)
    return found


def write_points(points: Points, path: str | os.PathLike[str]) -> None:
    """Write points in LPS mm; the format follows from the suffix.

    .csv, .mrk.json and .fcsv keep names and scores and read back exactly; elastix's .pts and .txt hold positions
    alone. Slicer's formats are 3D.

    Raises
    ------
    InputError
        When the suffix is unknown, a format cannot hold the points, or the file cannot be written.
    """
    path = Path(path)
    kind = _format_of(path, None)
    if kind in ("mrk.json", "fcsv") and points.ndim != 3:
        raise InputError(f"cannot write {path}: 3D Slicer's points are 3D; write 2D points as .csv")
    writer = {"csv": _csv_text, "mrk.json": _mrk_text, "fcsv": _fcsv_text, "elastix": _elastix_text}[kind]
    try:
        data = writer(points).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"cannot write {path}: a name is not valid Unicode ({error.reason}); rename it") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _format_of(path: Path, given: str | None) -> str:
    if given is not None:
        if given not in FORMATS:
            raise InputError(f"{path}: unknown points format {given!r}; choose one of {', '.join(FORMATS)}")
        return given
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"unknown points format: {path}; use .csv, .mrk.json, .fcsv, .pts or .txt")
    return kind


# csv


def _read_csv(text: str, path: Path, subject: str | None) -> Points:
    head = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    delimiter = max(",;\t", key=head.count)
    rows = _rows(text, path, delimiter)
    if not rows:
        raise InputError(f"{path} holds no points; write a header name,x,y,z and one row a point")
    first = [cell.strip().lower() for cell in rows[0][1]]
    if all(_is_number(cell) for cell in first):
        if subject is not None:
            raise InputError(f"{path} has no column for the subject; leave subject= out")
        return _headerless(rows, path)
    columns = _columns(first, path)
    body = rows[1:]
    for line, row in body:
        if len(row) != len(first):
            raise InputError(f"{path}, line {line}: {len(row)} columns where the header has {len(first)}; is it cut?")
    body = _of_subject(body, columns.get("subject"), subject, path)
    axes = [columns[axis] for axis in ("x", "y", "z") if axis in columns]
    positions = [[_number(row[i], path, line) for i in axes] for line, row in body]
    names = [row[columns["name"]] for _, row in body] if "name" in columns else []
    scores = None
    if "score" in columns:
        scores = np.array([_number(row[columns["score"]] or "nan", path, line, finite=False) for line, row in body])
    return Points(np.array(positions, dtype=float).reshape(-1, len(axes)), tuple(names), scores)


def _columns(header: Sequence[str], path: Path) -> dict[str, int]:
    """Return where the columns are that we know, by their name with us."""
    known: dict[str, tuple[str, ...]] = {
        axis: (axis, f"{axis}_mm", f"{axis} (mm)", f"{axis} [mm]", f"{axis}_lps") for axis in "xyz"
    }
    known |= {"name": _NAME, "score": _SCORE, "subject": SUBJECT_COLUMNS}
    found = {}
    for key, spellings in known.items():
        chosen = next((s for s in spellings if s in header), None)
        if chosen is not None:
            if header.count(chosen) > 1:
                raise InputError(f"{path}: the column {chosen!r} occurs twice; rename one")
            found[key] = header.index(chosen)
    if "x" not in found or "y" not in found:
        raise InputError(f"{path}: no columns x, y(, z) in LPS mm; its first line has {list(header)}")
    return found


def _of_subject(
    body: list[tuple[int, list[str]]], column: int | None, subject: str | None, path: Path
) -> list[tuple[int, list[str]]]:
    if column is None:
        if subject is not None:
            raise InputError(f"{path} has no column for the subject; leave subject= out")
        return body
    subjects = sorted({row[column] for _, row in body})
    if subject is None and len(subjects) > 1:
        raise InputError(f"{path} holds the points of {len(subjects)} subjects; choose with subject=: {subjects}")
    if subject is not None and subject not in subjects:
        raise InputError(f"{path} holds no points of subject {subject!r}; there are {subjects}")
    return [(line, row) for line, row in body if subject is None or row[column] == subject]


def _headerless(rows: list[tuple[int, list[str]]], path: Path) -> Points:
    width = len(rows[0][1])
    if width not in (2, 3):
        raise InputError(f"{path}: {width} columns of numbers and no header; name them, such as name,x,y,z,score")
    return Points(_matrix(rows, path, width))


def _csv_text(points: Points) -> str:
    header = ["name", *"xyz"[: points.ndim]] + ([] if points.scores is None else ["score"])
    lines = [",".join(header)]
    for i, (name, position) in enumerate(zip(points.names, points.positions.tolist(), strict=True)):
        score = [] if points.scores is None else [repr(float(points.scores[i]))]
        lines.append(",".join([_quoted(name), *map(repr, position), *score]))
    return "\n".join(lines) + "\n"


# 3D Slicer


def _read_mrk(text: str, path: Path) -> Points:
    try:
        nodes = json.loads(text)["markups"]
        found = [_mrk_node(node, path) for node in nodes]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"cannot read {path}: not a 3D Slicer markups file, or cut ({type(error).__name__}: {error}); "
            "export it again"
        ) from error
    named = [point for points in found for point in points]
    if not named:
        return Points(np.zeros((0, 3)))
    names, positions, notes = zip(*named, strict=True)
    return Points(np.array(positions), names, _scores_from_notes(notes, path))


def _mrk_node(node: dict[str, Any], path: Path) -> list[tuple[str, list[float], str]]:
    sign = _frame_sign(node.get("coordinateSystem"), path)
    units = node.get("coordinateUnits", "mm")
    if "mm" not in (units if isinstance(units, list) else [units]):
        raise InputError(f"{path}: coordinates in {units!r}; export them in mm")
    result = []
    for i, point in enumerate(node["controlPoints"], start=1):
        label = str(point.get("label", i))
        if point.get("positionStatus", "defined") in ("undefined", "missing"):
            log.warning("%s: point %r is not placed and left out", path, label)
            continue
        position = [float(v) for v in point["position"]]
        if len(position) != 3 or not all(map(math.isfinite, position)):
            raise InputError(f"{path}: point {label!r} lies at {position}; place it again")
        result.append((label, [s * v for s, v in zip(sign, position, strict=True)], str(point.get("description", ""))))
    return result


def _mrk_text(points: Points) -> str:
    control = [
        {
            "id": str(i + 1),
            "label": name,
            "description": _note(points, i),
            "associatedNodeID": "",
            "position": position,
            "orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
        }
        for i, (name, position) in enumerate(zip(points.names, points.positions.tolist(), strict=True))
    ]
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    node = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": control}
    document = {"@schema": schema + "markups-schema-v1.0.3.json#", "markups": [node]}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _read_fcsv(text: str, path: Path) -> Points:
    head = [line.lstrip("# ").strip() for line in takewhile(lambda line: line.startswith("#"), text.splitlines())]
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in head)}
    frame = fields.get("CoordinateSystem")
    if frame is None and any(line.startswith("Fiducial List") for line in head):
        frame = "RAS"  # Slicer 3 wrote no frame and knew this one alone
    sign = _frame_sign(frame, path)
    columns = fields.get("columns", ",".join(_FCSV_COLUMNS)).split(",")
    if not {"x", "y", "z", "label"} <= set(columns):
        raise InputError(f"{path}: no columns x, y, z, label in its line '# columns'; it has {columns}")
    needed = max(columns.index(c) for c in ("x", "y", "z", "label")) + 1
    names, positions, notes = [], [], []
    for line, row in _rows(text, path, ","):
        if len(row) < needed:
            raise InputError(f"{path}, line {line}: {len(row)} columns where {needed} are needed; is it cut?")
        record = dict(zip(columns, row, strict=False))
        names.append(record["label"])
        positions.append([s * _number(record[axis], path, line) for s, axis in zip(sign, "xyz", strict=True)])
        notes.append(record.get("desc", ""))
    return Points(np.array(positions, dtype=float).reshape(-1, 3), tuple(names), _scores_from_notes(notes, path))


def _fcsv_text(points: Points) -> str:
    lines = [
        "# Markups fiducial file version = 4.11",
        "# CoordinateSystem = LPS",
        f"# columns = {','.join(_FCSV_COLUMNS)}",
    ]
    for i, (name, position) in enumerate(zip(points.names, points.positions.tolist(), strict=True)):
        place = ",".join(map(repr, position))
        lines.append(f"{i + 1},{place},0,0,0,1,1,1,0,{_quoted(name)},{_note(points, i)},")
    return "\n".join(lines) + "\n"


def _frame_sign(frame: Any, path: Path) -> tuple[float, float, float]:
    """Return the signs that turn the file's frame into LPS."""
    if str(frame) in ("LPS", "1"):
        return (1.0, 1.0, 1.0)
    if str(frame) in ("RAS", "0"):
        return (-1.0, -1.0, 1.0)
    said = "no coordinate system is given" if frame is None else f"unknown coordinate system {frame!r}"
    raise InputError(f"{path}: {said}; it must be LPS or RAS")


def _note(points: Points, i: int) -> str:
    return "" if points.scores is None else f"{_SCORE_NOTE}{float(points.scores[i])!r}"


def _scores_from_notes(notes: Iterable[str], path: Path) -> np.ndarray[Any, Any] | None:
    notes = list(notes)
    if not notes or not all(note.startswith(_SCORE_NOTE) for note in notes):
        return None
    return np.array([_number(note[len(_SCORE_NOTE) :], path, None, finite=False) for note in notes])


# elastix and DIR-Lab


def _read_elastix(text: str, path: Path, grid: Grid | None) -> Points:
    lines = [(i, line.split()) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
    kind = lines[0][1][0].lower() if lines else ""
    if kind not in ("point", "index"):
        raise InputError(
            f"{path}: the first line of an elastix points file is 'point' or 'index', here it is "
            f"{' '.join(lines[0][1]) if lines else ''!r}; for DIR-Lab's voxel indices say format='dirlab' and grid="
        )
    if len(lines) < 2 or len(lines[1][1]) != 1 or not lines[1][1][0].isdigit():
        raise InputError(f"{path}: the second line must be the number of points")
    count, rows = int(lines[1][1][0]), lines[2:]
    if len(rows) != count:
        raise InputError(f"{path}: {len(rows)} points where its second line says {count}; is the file cut?")
    ndim = len(rows[0][1]) if rows else 3 if grid is None else grid.ndim
    if ndim not in (2, 3):
        raise InputError(f"{path}, line {rows[0][0]}: {ndim} columns; a point has 2 or 3 coordinates")
    values = _matrix(rows, path, ndim)
    if kind == "point":
        return Points(values)
    return Points(_require_grid(grid, ndim, path).index_to_world(values))


def _elastix_text(points: Points) -> str:
    rows = [" ".join(map(repr, position)) for position in points.positions.tolist()]
    return "\n".join(["point", str(len(points)), *rows]) + "\n"


def _read_dirlab(text: str, path: Path, grid: Grid | None) -> Points:
    rows = [(i, line.replace(",", " ").split()) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
    grid = _require_grid(grid, 3, path)
    points = Points(grid.index_to_world(_matrix(rows, path, 3) - 1.0))  # (1, 1, 1) is the first voxel's centre
    require_inside(points, grid, f"the image that {path} belongs to")
    return points


def _require_grid(grid: Grid | None, ndim: int, path: Path) -> Grid:
    if grid is None:
        raise InputError(f"{path} holds voxel indices; give grid=, the grid of the image they refer to")
    if grid.ndim != ndim:
        raise InputError(f"{path} holds {ndim}D points, the grid is {grid.ndim}D; give its own image's grid")
    return grid


# text


def _rows(text: str, path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of the rows that are not blank; comment lines may come before the first one."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            blank = not any(cell.strip() for cell in row)
            if blank or (not rows and row[0].startswith("#")):
                continue
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise InputError(f"cannot read {path}, line {reader.line_num}: {error}; mend the quotes") from error
    return rows


def _matrix(rows: list[tuple[int, list[str]]], path: Path, width: int) -> np.ndarray[Any, Any]:
    for line, row in rows:
        if len(row) != width:
            raise InputError(f"{path}, line {line}: {len(row)} columns where there should be {width}; is it cut?")
    values = [[_number(cell, path, line) for cell in row] for line, row in rows]
    return np.array(values, dtype=float).reshape(-1, width)


def _number(text: str, path: Path, line: int | None, *, finite: bool = True) -> float:
    where = f"{path}, line {line}" if line else f"{path}"
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {text!r} is no number; write it with a decimal point") from None
    if finite and not math.isfinite(value):
        raise InputError(f"{where}: a coordinate is {text.strip()}; remove the row or give the position")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',;\t"\r\n') else text

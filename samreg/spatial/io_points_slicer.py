"""Points of 3D Slicer: markups (.mrk.json) and fiducials (.fcsv), in RAS or LPS as the file says."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray
from samreg.spatial.io_points_csv import comment_fields, frame_sign, is_placed
from samreg.spatial.points import Points
from samreg.spatial.remarks import remark
from samreg.spatial.tables import Row, comments, parse_number, quoted, split_rows

log = logging.getLogger(__name__)

_COLUMNS = ("id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID")
_FLAGS = ("vis", "sel", "lock")
_AXIS_OF_ROTATION = ("ox", "oy", "oz")
_REMEDY = "has it decimal commas, or a comma in a name or description? Export it again as .mrk.json"
_POINTS = "Fiducial"  # the type of lists that are points; others are lines, curves, planes, boxes
_SCORE_NOTE = "score="  # how a score is kept in the free text of Slicer's files
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


def read_markups(text: str, path: Path) -> Points:
    """Return the points of a markups file, of all its lists; those not placed are left out.

    Parameters
    ----------
    text
        JSON.
    path
        For messages.

    Raises
    ------
    InputError
        When it is no markups file, or a list has no frame, another unit than mm, or a point without a position.
    """
    try:
        lists = json.loads(text)["markups"]
        kinds = dict.fromkeys(str(node.get("type", _POINTS)) for node in lists)
        points = [point for node in lists for point in _markups_list(node, path)]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        is_other = isinstance(error, (TypeError, AttributeError))  # its JSON holds something else
        gist = 'no list "markups" of points' if is_other else f"{type(error).__name__}: {str(error)[:100]}"
        raise InputError(
            f"cannot read {path}: not a 3D Slicer markups file, or cut ({gist}); export it again"
        ) from error
    if drawn := [kind for kind in kinds if kind != _POINTS]:
        remark(
            log, "%s: of each %s its control points are read, as points; what they draw is left out",
            path, " and ".join(drawn),
        )  # fmt: skip
    if not points:
        return Points(np.zeros((0, 3)))
    names, positions, notes = zip(*points, strict=True)
    return Points(np.array(positions), names, _scores(notes))


def write_markups(points: Points) -> str:
    """Return the text of a markups file that keeps names, positions and scores, in LPS."""
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
    node = {"type": _POINTS, "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": control}
    return json.dumps({"@schema": _SCHEMA, "markups": [node]}, indent=1, ensure_ascii=False) + "\n"


def is_fiducials(text: str) -> bool:
    """Tell a fiducials file by its comments, whatever its name."""
    return any(re.match(r"(Markups fiducial file version|columns) *=", line) for line in comments(text))


def read_fiducials(text: str, path: Path) -> Points:
    """Return the points of a fiducials file; those not placed are left out.

    Slicer 5 writes two cells more than its header names: the position status and whether the point was made by a
    program. Any other surplus cell comes from a comma in a number, a name or a description, and is refused.

    Parameters
    ----------
    text
        Comments that start with #, then comma-separated rows.
    path
        For messages.

    Raises
    ------
    InputError
        When the frame is missing or unknown, or a row has other cells than it should.
    """
    fields = comment_fields(text, path)
    frame = fields.get("coordinatesystem")
    if frame is None and any(line.startswith("Fiducial List") for line in comments(text)):
        frame = "RAS"  # Slicer 3 wrote no frame and knew this one alone
    sign = frame_sign(frame, path)
    columns = tuple(column.strip() for column in fields.get("columns", ",".join(_COLUMNS)).split(","))
    if not {"x", "y", "z", "label"} <= set(columns):
        raise InputError(f"{path}: no columns x, y, z, label in its line '# columns'; it has {list(columns)}")
    names, positions, notes = [], [], []
    for row in split_rows(text, path, ","):
        if row.cells[0].startswith("#"):
            continue
        where = f"{path}, line {row.line}"
        record = _record(row, columns, where)
        status = record.get("positionStatus")
        if status is not None and not is_placed(status, where, flag=False):
            remark(log, "%s: point %r is not placed and left out", where, record["label"])
            continue
        names.append(record["label"])
        positions.append([s * parse_number(record[axis], where) for s, axis in zip(sign, "xyz", strict=True)])
        notes.append(record.get("desc", ""))
    return Points(np.array(positions, dtype=float).reshape(-1, 3), tuple(names), _scores(notes))


def write_fiducials(points: Points) -> str:
    """Return the text of a fiducials file that keeps names, positions and scores, in LPS."""
    lines = [
        "# Markups fiducial file version = 4.11",
        "# CoordinateSystem = LPS",
        f"# columns = {','.join(_COLUMNS)}",
    ]
    for i, (name, position) in enumerate(zip(points.names, points.positions.tolist(), strict=True)):
        place = ",".join(map(repr, position))
        lines.append(f"{i + 1},{place},0,0,0,1,1,1,0,{quoted(name)},{_note(points, i)},")
    return "\n".join(lines) + "\n"


def _markups_list(node: dict[str, Any], path: Path) -> list[tuple[str, list[float], str]]:
    """Return name, position and description of the points of one list."""
    sign = frame_sign(node.get("coordinateSystem"), path)
    units = node.get("coordinateUnits", "mm")
    if "mm" not in (units if isinstance(units, list) else [str(units).strip("[]")]):  # [mm] as some exporters write it
        raise InputError(f"{path}: coordinates in {units!r}; export them in mm")
    points = []
    for i, point in enumerate(node["controlPoints"], start=1):
        label = str(point.get("label", i))
        if not is_placed(str(point.get("positionStatus", "defined")), f"{path}, point {label!r}", flag=False):
            remark(log, "%s: point %r is not placed and left out", path, label)
            continue
        position = [float(v) for v in point["position"]]
        if len(position) != 3 or not all(map(math.isfinite, position)):
            raise InputError(f"{path}: point {label!r} lies at {position}; place it again")
        points.append((label, [s * v for s, v in zip(sign, position, strict=True)], str(point.get("description", ""))))
    return points


def _record(row: Row, columns: Sequence[str], where: str) -> dict[str, str]:
    """Return the cells of a row by their columns' names, once it is sure that none has been pushed aside."""
    cells = row.cells
    needed = max(columns.index(column) for column in ("x", "y", "z", "label")) + 1
    if len(cells) < needed:
        raise InputError(f"{where}: {len(cells)} columns where {needed} are needed; is it cut?")
    surplus = cells[len(columns) :]
    record = dict(zip(columns, cells, strict=False))
    if len(surplus) == 2 and tuple(columns) == _COLUMNS and _is_whole(surplus[0], 3) and _is_whole(surplus[1], 1):
        record["positionStatus"] = surplus[0]
    elif surplus:
        raise InputError(f"{where}: {len(cells)} cells where there are {len(columns)} columns; {_REMEDY}")
    flags = [record[flag] for flag in _FLAGS if record.get(flag, "").strip()]
    rotation = [record[axis] for axis in _AXIS_OF_ROTATION if record.get(axis, "").strip()]
    if len(cells) < len(columns) and record.get("ow", "").strip():
        rotation.append(record["ow"])  # in a whole row it may be an angle
    if any(not _is_whole(flag, 1) for flag in flags) or any(
        abs(parse_number(part, where)) > 1 + 1e-6 for part in rotation
    ):
        raise InputError(f"{where}: its flags or its orientation are none; {_REMEDY}")
    return record


def _is_whole(text: str, largest: int) -> bool:
    return text.strip() in map(str, range(largest + 1))


def _note(points: Points, i: int) -> str:
    return "" if points.scores is None else f"{_SCORE_NOTE}{float(points.scores[i])!r}"


def _scores(notes: Iterable[str]) -> FloatArray | None:
    """Return the scores that :func:`write_markups` and :func:`write_fiducials` keep in the descriptions."""
    notes = list(notes)
    if not notes or not all(note.startswith(_SCORE_NOTE) for note in notes):
        return None
    try:
        return np.array([parse_number(note[len(_SCORE_NOTE) :], "", finite=False) for note in notes])
    except InputError:
        return None  # a description of somebody's own

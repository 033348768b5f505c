"""Points in tables: csv files of people, spreadsheets and programs."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray
from samreg.spatial.points import Points
from samreg.spatial.remarks import remark
from samreg.spatial.tables import (
    Row,
    Table,
    comments,
    find_delimiter,
    is_number,
    parse_number,
    plain_cell,
    quoted,
    read_text,
    safe_cell,
    split_rows,
    with_header,
)

log = logging.getLogger(__name__)

# spellings of the columns, the first that a file has counts
_SPELLINGS = {
    "name": ("name", "label", "landmark", "landmark_name", "point", "id"),
    "score": ("score", "confidence", "reliability", "similarity"),
    "subject": ("subject", "case", "patient"),
    "placed": ("defined", "positionstatus", "position_status"),  # as 3D Slicer exports a table
}
_AXIS = re.compile(r"([xyz])[\s_]*(?:[(\[]?\s*(mm|lps|ras)\s*[)\]]?)?")
_SIGNS = {"lps": (1.0, 1.0, 1.0), "ras": (-1.0, -1.0, 1.0)}  # of a frame's axes in LPS; its letters name columns too
_PLACED = {"1": True, "true": True, "defined": True, "0": False, "false": False, "undefined": False}
_STATUS = {"0": False, "1": False, "2": True, "3": False, "preview": False, "missing": False}  # of 3D Slicer, in .fcsv


@dataclass(frozen=True)
class PointTable:
    """A table of points, perhaps of several subjects.

    Parameters
    ----------
    table
        Its cells; the header is empty where the file has none.
    columns
        Where name, x, y, z, score, subject and placed are, as far as the table has them.
    sign
        What turns its axes into LPS.
    """

    table: Table
    columns: Mapping[str, int]
    sign: tuple[float, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return self.table.path

    def subjects(self) -> tuple[str, ...]:
        """Return the subjects in the order of their first appearance.

        Raises
        ------
        InputError
            When there is no column for them, or a cell of it is empty.
        """
        if "subject" not in self.columns:
            raise InputError(f"{self.path}: no column subject; it names the image a landmark belongs to")
        subjects: dict[str, None] = {}
        for row in self.table.rows:
            subject = self._subject(row)
            if not subject:
                raise InputError(f"{self._where(row)}: no subject; name the image the landmark belongs to")
            subjects[subject] = None
        return tuple(subjects)

    def records(self, subject: str) -> list[dict[str, str]]:
        """Return the rows of a subject by the header's names."""
        return [dict(zip(self.table.header, row.cells, strict=True)) for row in self._rows(subject)]

    def points(self, subject: str | None = None) -> Points:
        """Return the points of a subject, or all of them where there is one subject; those not placed are left out.

        Raises
        ------
        InputError
            When a cell is no number, or the subject is not there or needed.
        """
        rows = [row for row in self._rows(subject) if self._is_placed(row)]
        axes = [self.columns[axis] for axis in "xyz" if axis in self.columns]
        score = self.columns.get("score")
        commas = self._decimal_commas(axes if score is None else [*axes, score])
        positions = np.array(
            [[parse_number(row.cells[i], self._where(row), decimal_comma=commas) for i in axes] for row in rows]
        ).reshape(-1, len(axes))
        scores = None
        if score is not None:
            cells = ((row.cells[score].strip() or "nan", self._where(row)) for row in rows)
            scores = np.array([parse_number(*cell, finite=False, decimal_comma=commas) for cell in cells])
        names = [plain_cell(row.cells[self.columns["name"]]) for row in rows] if "name" in self.columns else []
        return Points(positions * self.sign[: len(axes)] + 0.0, tuple(names), scores)  # + 0.0: no -0

    def numbers(self, column: str, subject: str) -> dict[str, float]:
        """Return the numbers of another column by the points' names, without those that are empty; none without it.

        Raises
        ------
        InputError
            When a cell is no number, or the subject is not there.
        """
        if column not in self.table.header or "name" not in self.columns:
            return {}
        at, name = self.table.header.index(column), self.columns["name"]
        commas = self._decimal_commas([at])
        return {
            plain_cell(row.cells[name]): parse_number(row.cells[at], self._where(row), decimal_comma=commas)
            for row in self._rows(subject)
            if row.cells[at].strip()
        }

    def _rows(self, subject: str | None) -> list[Row]:
        if "subject" not in self.columns:
            if subject is not None:
                raise InputError(f"{self.path} has no column for the subject; leave the option subject out")
            return list(self.table.rows)
        subjects = sorted({self._subject(row) for row in self.table.rows})
        if subject is None and len(subjects) > 1:
            raise InputError(
                f"{self.path} holds points of {len(subjects)} subjects, {subjects}; choose one by the option subject"
            )
        if subject is not None and subject not in subjects:
            raise InputError(f"{self.path} holds no points of subject {subject!r}; there are {subjects}")
        return [row for row in self.table.rows if subject is None or self._subject(row) == subject]

    def _subject(self, row: Row) -> str:
        return row.cells[self.columns["subject"]].strip()

    def _is_placed(self, row: Row) -> bool:
        if "placed" not in self.columns:
            return True
        column = self.columns["placed"]
        status = is_placed(row.cells[column], self._where(row), flag=self.table.header[column].lower() == "defined")
        if not status:
            remark(log, "%s: a point is not placed and left out", self._where(row))
        return status

    def _decimal_commas(self, columns: Sequence[int]) -> bool:
        """Tell whether numbers have decimal commas; where a comma separates cells they cannot."""
        if self.table.delimiter == ",":
            return False
        cells = [(row, row.cells[i]) for row in self.table.rows for i in columns]
        with_comma = [row for row, cell in cells if "," in cell]
        with_point = [row for row, cell in cells if "." in cell]
        if with_comma and with_point:
            raise InputError(
                f"{self._where(with_comma[0])} has a comma in a number, line {with_point[0].line} a point; write all "
                "numbers with a decimal point, and without thousands separators"
            )
        return bool(with_comma)

    def _where(self, row: Row) -> str:
        return f"{self.path}, line {row.line}"


def read_point_table(path: Path) -> PointTable:
    """Read a table of points.

    Raises
    ------
    InputError
        When the file cannot be read, holds nothing, or has no columns x, y(, z) in mm.
    """
    return parse_point_table(read_text(path, "points file"), path)


def parse_point_table(text: str, path: Path) -> PointTable:
    """Return the table of points in a text; ``path`` is for messages."""
    delimiter = find_delimiter(text)
    rows = split_rows(text, path, delimiter)
    said = _frame_in_comments(text, path)
    if not rows:
        raise InputError(f"{path} holds no points; write a header name,x,y,z and one row a point")
    first = rows[0].cells
    if all(is_number(cell, decimal_comma=delimiter != ",") for cell in first if cell.strip()):
        return _without_header(rows, path, delimiter, _SIGNS[said or "lps"])
    header = [cell.strip().lower() for cell in first]
    columns, frame = _columns(header, path)
    if frame and said and frame != said:
        raise InputError(
            f"{path}: its columns are in {frame.upper()}, a comment says {said.upper()}; correct one of them"
        )
    filled = {columns[axis] for axis in "xyz" if axis in columns}
    last = max(i for i, name in enumerate(header) if name)
    return PointTable(
        with_header(rows, path, delimiter, last_is_filled=last in filled), columns, _SIGNS[frame or said or "lps"]
    )


def points_of_frame(frame: Any) -> Points:
    """Return the points of a data frame of pandas or polars, read by the names of its columns as a csv is.

    Names may stand in the index of pandas.

    Raises
    ------
    InputError
        When it has no columns x, y(, z) in mm, two columns of one name, or a cell is no number.
    """
    header = [str(column) for column in frame.columns]
    if len(set(header)) < len(header):
        raise InputError(f"a data frame of points has two columns of one name, {header}; rename one")
    columns = [frame[column].to_list() for column in frame.columns]
    index = list(getattr(frame, "index", ()))
    is_named = not {column.lower() for column in header}.isdisjoint(_SPELLINGS["name"])
    if index and not is_named and all(isinstance(name, str) for name in index):
        header, columns = ["name", *header], [index, *columns]
    text = io.StringIO()
    csv.writer(text).writerows([header, *zip(*columns, strict=True)])
    return parse_point_table(text.getvalue(), Path("data frame")).points()


def is_placed(status: str, where: str, *, flag: bool) -> bool:
    """Tell whether 3D Slicer's position status says that a point was placed.

    Parameters
    ----------
    status
        "defined" or another word of the markups file; or a number.
    where
        For the message.
    flag
        The number is 0 or 1, as in tables; else 0 (undefined), 1 (preview), 2 (defined) or 3 (missing), as in .fcsv.
    """
    known = {**_STATUS, **_PLACED} if flag else {**_PLACED, **_STATUS}
    placed = known.get(status.strip().lower())
    if placed is None:
        raise InputError(f"{where}: unknown position status {status[:40]!r}; export the points again")
    return placed


def write_point_table(points: Points, columns: Mapping[str, FloatArray] | None = None, *, delimiter: str = ",") -> str:
    """Return the text of a table that keeps names, positions and scores, and further numbers (N,), mm to a tenth."""
    further = dict(columns or {})
    header = ["name", *"xyz"[: points.ndim]] + ([] if points.scores is None else ["score"]) + [*further]
    lines = [delimiter.join(header)]
    for i, (name, position) in enumerate(zip(points.names, points.positions.tolist(), strict=True)):
        score = [] if points.scores is None else [repr(float(points.scores[i]))]
        numbers = [f"{values[i]:.1f}" for values in further.values()]
        lines.append(delimiter.join([quoted(safe_cell(name)), *map(repr, position), *score, *numbers]))
    return "\n".join(lines) + "\n"


def comment_fields(text: str, path: Path) -> dict[str, str]:
    """Return what lines such as ``# CoordinateSystem = LPS`` say, by lower-case keys; of two, the first.

    Raises
    ------
    InputError
        When coordinate systems differ, as in files that were joined.
    """
    fields: dict[str, str] = {}
    for line in comments(text):
        key, equals, value = line.partition("=")
        key, value = key.strip().lower(), value.strip()
        if equals and key == "coordinatesystem" and fields.get(key, value) != value:
            raise InputError(f"{path}: coordinate systems {fields[key]} and {value} in one file; split it")
        if equals:
            fields.setdefault(key, value)
    return fields


def frame_sign(frame: object, path: Path) -> tuple[float, float, float]:
    """Return the signs that turn a frame into LPS: LPS or RAS, or 3D Slicer's numbers for them, 1 and 0.

    Raises
    ------
    InputError
        When there is none, or another.
    """
    said = {"0": "ras", "1": "lps"}.get(str(frame).strip(), str(frame).strip().lower())
    if said not in _SIGNS:
        problem = "no coordinate system is given" if frame is None else f"unknown coordinate system {frame!r}"
        raise InputError(f"{path}: {problem}; it must be LPS or RAS")
    return _SIGNS[said]


def _frame_in_comments(text: str, path: Path) -> str:
    """Return the frame that comments give, "lps" or "ras", or nothing."""
    frame = comment_fields(text, path).get("coordinatesystem")
    if frame is not None:
        return next(name for name, sign in _SIGNS.items() if sign == frame_sign(frame, path))
    words = set(re.findall(r"\b(?:RAS|LPS)\b", " ".join(comments(text))))
    if words == {"RAS"}:
        raise InputError(
            f"{path}: a comment says RAS; name the columns r, a, s if the points are in it, else remove the comment"
        )
    return ""


def _columns(header: Sequence[str], path: Path) -> tuple[dict[str, int], str]:
    """Return where the columns are that we know, by their name with us, and the frame that they name, if any."""
    columns: dict[str, int] = {}
    frames = set()
    for i, name in enumerate(header):
        said = _AXIS.fullmatch(name)
        if said:
            axis = said[1]
            if axis in columns:
                raise InputError(f"{path}: both columns {header[columns[axis]]!r} and {name!r}; keep one of them")
            columns[axis] = i
            frames.add(said[2] if said[2] in _SIGNS else "")
    if not columns:
        frame = next((frame for frame in _SIGNS if all(header.count(axis) == 1 for axis in frame)), None)
        if frame is not None:
            columns = {axis: header.index(name) for axis, name in zip("xyz", frame, strict=True)}
            frames = {frame}
    if not {"x", "y"} <= set(columns):
        raise InputError(f"{path}: no columns x, y(, z) in LPS mm; its first line has {list(header)}")
    if "ras" in frames and len(frames) > 1:
        raise InputError(f"{path}: some columns are in RAS and others not; convert them to one frame")
    for key, spellings in _SPELLINGS.items():
        chosen = next((spelling for spelling in spellings if spelling in header), None)
        if chosen is not None:
            if header.count(chosen) > 1:
                raise InputError(f"{path}: the column {chosen!r} occurs twice; rename one")
            columns[key] = header.index(chosen)
    return columns, max(frames)


def _without_header(rows: Sequence[Row], path: Path, delimiter: str, sign: tuple[float, ...]) -> PointTable:
    """Return the table of rows that hold x, y(, z) and no names; trailing separators do not count."""
    rows = [Row(row.line, _trimmed(row.cells)) for row in rows]
    width = len(rows[0].cells)
    if width not in (2, 3):
        raise InputError(f"{path}: {width} columns of numbers and no header; name them, such as name,x,y,z,score")
    first, others = rows[0].cells, [cell for row in rows[1:] for cell in row.cells]
    if [cell.strip() for cell in first] == ["0", "1", "2"][:width] and any("." in cell for cell in others):
        raise InputError(
            f"{path}: its first line, {delimiter.join(first)}, seems to number the columns, as pandas does where they "
            f"have no names; write {delimiter.join('xyz'[:width])} there"
        )
    for row in rows:
        if len(row.cells) != width:
            raise InputError(
                f"{path}, line {row.line}: {len(row.cells)} columns where there should be {width}; is it cut, or are "
                "there decimal commas?"
            )
    return PointTable(
        Table(path, (), tuple(rows), delimiter),
        dict(zip("xyz"[:width], range(width), strict=True)),
        sign,
    )


def _trimmed(cells: tuple[str, ...]) -> tuple[str, ...]:
    while cells and not cells[-1].strip():
        cells = cells[:-1]
    return cells

"""Points in bare rows of numbers: elastix, transformix and DIR-Lab."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.io_transformix import refuse_parameters
from samreg.spatial.points import Points, require_inside
from samreg.spatial.remarks import remark
from samreg.spatial.tables import Row, parse_number

log = logging.getLogger(__name__)

_TRANSFORMIX = re.compile(r"Point\s+\d+\s*;")  # how each line of its output begins
_OUTPUT_POINT = re.compile(r";\s*OutputPoint\s*=\s*\[([^]]*)\]")


def read_elastix(text: str, path: Path, grid: Grid | None) -> Points:
    """Return the points of an elastix file; voxel indices, which its first line announces, need their grid.

    Of the points that transformix printed, those that it mapped to are returned.

    Raises
    ------
    InputError
        When it is no such file, its number of points is wrong, or the grid is missing.
    """
    refuse_parameters(text, path)
    if _TRANSFORMIX.match(text.lstrip()):
        return _read_transformix(text, path)
    rows = _rows(text)
    kind = rows[0].cells[0].lower() if rows else ""
    if kind not in ("point", "index"):
        raise InputError(
            f"{path}: the first line of an elastix points file is 'point' or 'index', here it is "
            f"{' '.join(rows[0].cells)[:40] if rows else ''!r}; for DIR-Lab's voxel indices say format='dirlab' and "
            "grid="
        )
    if len(rows) < 2 or len(rows[1].cells) != 1 or not re.fullmatch("[0-9]{1,9}", rows[1].cells[0]):
        raise InputError(f"{path}: the second line must be the number of points")
    count, rows = int(rows[1].cells[0]), rows[2:]
    if len(rows) != count:
        raise InputError(f"{path}: {len(rows)} points where its second line says {count}; is the file cut?")
    ndim = len(rows[0].cells) if rows else 3 if grid is None else grid.ndim
    if ndim not in (2, 3):
        raise InputError(f"{path}, line {rows[0].line}: {ndim} columns; a point has 2 or 3 coordinates")
    values = _matrix(rows, path, ndim)
    return Points(values if kind == "point" else _require_grid(grid, ndim, path).index_to_world(values))


def _read_transformix(text: str, path: Path) -> Points:
    rows = []
    for row in _rows(text):
        line = " ".join(row.cells)
        found = _OUTPUT_POINT.search(line) if _TRANSFORMIX.match(line) else None
        if found is None:
            raise InputError(f"{path}, line {row.line}: no OutputPoint as transformix prints it; is it cut?")
        rows.append(Row(row.line, tuple(found[1].split())))
    width = len(rows[0].cells)
    if width not in (2, 3):
        raise InputError(f"{path}, line {rows[0].line}: OutputPoint has {width} coordinates; a point has 2 or 3")
    points = Points(_matrix(rows, path, width))
    remark(log, "%s: transformix's output; OutputPoint is read, where the points were mapped to, not InputPoint", path)
    return points


def write_elastix(points: Points) -> str:
    """Return the text of an elastix file that keeps the positions."""
    rows = [" ".join(map(repr, position)) for position in points.positions.tolist()]
    return "\n".join(["point", str(len(points)), *rows]) + "\n"


def read_dirlab(text: str, path: Path, grid: Grid | None) -> Points:
    """Return the points of a DIR-Lab file, voxel indices from 1 of the image as DIR-Lab stores it.

    Raises
    ------
    InputError
        When a row has not three numbers, the grid is missing, or a point lies outside it.
    """
    grid = _require_grid(grid, 3, path)
    points = Points(grid.index_to_world(_matrix(_rows(text.replace(",", " ")), path, 3) - 1.0))
    require_inside(points, grid, f"the image that {path} belongs to")
    return points


def _rows(text: str) -> list[Row]:
    lines = enumerate(text.splitlines(), start=1)
    return [Row(number, tuple(line.split())) for number, line in lines if line.strip()]


def _matrix(rows: Sequence[Row], path: Path, width: int) -> FloatArray:
    for row in rows:
        if len(row.cells) != width:
            raise InputError(
                f"{path}, line {row.line}: {len(row.cells)} columns where there should be {width}; is it cut?"
            )
    values = [[parse_number(cell, f"{path}, line {row.line}") for cell in row.cells] for row in rows]
    return np.array(values, dtype=float).reshape(-1, width)


def _require_grid(grid: Grid | None, ndim: int, path: Path) -> Grid:
    if grid is None:
        raise InputError(f"{path} holds voxel indices; give grid=, the grid of the image they refer to")
    if grid.ndim != ndim:
        raise InputError(f"{path} holds {ndim}D points, the grid is {grid.ndim}D; give its own image's grid")
    return grid

"""Tables of text as spreadsheets and other programs write them: rows of cells, and the numbers in them."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samreg.errors import InputError
from samreg.spatial.files import require_file

_DELIMITERS = "\t;,"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # with which .xlsx and .ods begin, and .xls


@dataclass(frozen=True)
class Row:
    """Cells of a table.

    Parameters
    ----------
    line
        Where the row ends in its file, from 1.
    cells
        As written, without quotes.
    """

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A header and rows that have a cell for each of its columns.

    Parameters
    ----------
    path
        The file.
    header
        Names of the columns, stripped.
    rows
        The rows that are not blank.
    delimiter
        Between the cells: a comma, a semicolon or a tab.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    delimiter: str

    def records(self) -> list[dict[str, str]]:
        """Return each row by its columns' names."""
        return [dict(zip(self.header, row.cells, strict=True)) for row in self.rows]


def read_text(path: str | os.PathLike[str], what: str = "file") -> str:
    """Return the text of a file in UTF-8, or in UTF-16 where its byte order mark says so, line ends as they are.

    Raises
    ------
    InputError
        When the file is missing, empty, a folder, a spreadsheet, or in another encoding.
    """
    path = require_file(path, what)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a {what}")
    data = path.read_bytes()
    if data.startswith(_SPREADSHEETS):
        raise InputError(f"cannot read {path}: it is a spreadsheet or an archive, not text; save it as CSV")
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text ({error.reason}); export it as UTF-8") from error


def read_table(
    path: str | os.PathLike[str], what: str = "table", *, needed: Sequence[str] = (), known: Sequence[str] = ()
) -> Table:
    r"""Read a table with a header: cells between commas, semicolons or tabs, quoted or not.

    Parameters
    ----------
    path
        The file.
    what
        What it is, for messages.
    needed
        Columns it must have.
    known
        All columns it may have; any unless given.

    Raises
    ------
    InputError
        When the file cannot be read, a column is missing, doubled or unknown, or a row has more cells than the header.
        Those that it lacks at its end are empty.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "pairs.csv")
    >>> _ = path.write_text("name;baseline\nA;a.nii.gz\n")
    >>> read_table(path).records()
    [{'name': 'A', 'baseline': 'a.nii.gz'}]
    """
    path = Path(path)
    text = read_text(path, what)
    delimiter = find_delimiter(text)
    rows = split_rows(text, path, delimiter)
    if not rows:
        raise InputError(f"{path} is blank; its first line must name the columns")
    table = with_header(rows, path, delimiter, pad=True)
    missing = [name for name in needed if name not in table.header]
    if missing:
        raise InputError(f"{path}: no columns {missing}; it has {list(table.header)}")
    doubled = sorted({name for name in table.header if name and table.header.count(name) > 1})
    if doubled:
        raise InputError(f"{path}: the column {doubled[0]!r} occurs twice; rename one")
    if known and (unknown := [name for name in table.header if name not in known]):
        nameless = "; pandas leaves the first one out by to_csv(index=False)" if "" in unknown else ""
        raise InputError(f"{path}: unknown columns {unknown}; choose from {', '.join(known)}{nameless}")
    return table


def with_header(
    rows: Sequence[Row], path: Path, delimiter: str, *, last_is_filled: bool = False, pad: bool = False
) -> Table:
    """Return the table whose first row is the header, unless a row has too many or too few cells.

    Parameters
    ----------
    rows
        At least one.
    path
        For messages.
    delimiter
        Between the cells.
    last_is_filled
        Whether the last column can have no empty cell. Then empty cells beyond it are those of trailing separators;
        otherwise a cell may have slipped to the right there, pushed by a comma that was not quoted.
    pad
        Take cells that a row lacks at its end for empty, instead of refusing the row.
    """
    header = [cell.strip() for cell in rows[0].cells]
    while header and not header[-1]:
        header.pop()
    trailing = len(rows[0].cells) - len(header)
    body = []
    for row in rows[1:]:
        extra = row.cells[len(header) :]
        if any(cell.strip() for cell in extra) or (len(extra) > trailing and not last_is_filled):
            raise InputError(
                f"{path}, line {row.line}: {len(row.cells)} cells where the header has {len(header)} columns; write "
                'decimals with a point, and put names that hold a comma in quotes ("hilum, left")'
            )
        if len(row.cells) < len(header) and not pad:
            raise InputError(
                f"{path}, line {row.line}: {len(row.cells)} cells where the header has {len(header)} columns; is the "
                "file cut?"
            )
        body.append(Row(row.line, (*row.cells, *[""] * len(header))[: len(header)]))
    return Table(path, tuple(header), tuple(body), delimiter)


def find_delimiter(text: str) -> str:
    """Return what separates the cells of a text's first row: a tab, a semicolon or a comma.

    A line ``sep=;``, as Excel reads it, decides. In a row of numbers commas may be decimal ones.

    Examples
    --------
    >>> find_delimiter("name;x;y;z")
    ';'
    >>> find_delimiter("12,5;-30,25;101,5")
    ';'
    """
    head = ""
    for line in io.StringIO(text, newline=""):
        if _excel_delimiter(line):
            return _excel_delimiter(line)
        if line.strip() and not line.startswith("#"):
            head = re.sub(r'"[^"]*"', "", line)
            break
    if not re.search("[a-df-z]", head, re.IGNORECASE):
        return next((delimiter for delimiter in _DELIMITERS if delimiter in head), ",")
    return max(reversed(_DELIMITERS), key=head.count)


def split_rows(text: str, path: Path, delimiter: str) -> list[Row]:
    """Return the rows that are not blank, without the comments (#) before the first.

    Spaces after a delimiter do not count. Raises :class:`InputError` where quotes do not match.
    """
    lines = io.StringIO(text, newline="").readlines()
    first = next((i for i, line in enumerate(lines) if not _is_head(line)), len(lines))
    reader = csv.reader(lines[first:], delimiter=delimiter, strict=True, skipinitialspace=True)
    rows = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(Row(first + reader.line_num, tuple(cells)))
    except csv.Error as error:
        line = first + reader.line_num
        raise InputError(f"cannot read {path}, line {line}: {error}; correct the quotes") from error
    return rows


def comments(text: str) -> list[str]:
    """Return the lines that start with #, without it."""
    return [line.lstrip("# ").strip() for line in io.StringIO(text, newline="") if line.startswith("#")]


def parse_number(text: str, where: str, *, finite: bool = True, decimal_comma: bool = False) -> float:
    """Return the number in a cell.

    Parameters
    ----------
    text
        The cell.
    where
        File and line, for the message.
    finite
        Refuse NaN and infinity.
    decimal_comma
        Take 12,5 as 12.5.

    Examples
    --------
    >>> parse_number(" 12,5", "a.csv, line 2", decimal_comma=True)
    12.5
    >>> parse_number("12,5", "a.csv, line 2")
    Traceback (most recent call last):
    samreg.errors.InputError: a.csv, line 2: '12,5' is not a number; write it with a decimal point
    """
    number = text.strip().replace(",", ".") if decimal_comma else text.strip()
    if not number:
        raise InputError(f"{where}: a cell that is to hold a number is empty; fill it, or remove the row")
    if not _NUMBER.fullmatch(number):
        raise InputError(f"{where}: {text[:40]!r} is not a number; write it with a decimal point")
    value = float(number)
    if finite and not math.isfinite(value):
        raise InputError(f"{where}: a coordinate is {text.strip()}; remove the row or give the position")
    return value


def is_number(text: str, *, decimal_comma: bool = False) -> bool:
    """Tell whether a cell holds a number."""
    return _NUMBER.fullmatch(text.strip().replace(",", ".") if decimal_comma else text.strip()) is not None


_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a cell begins that a spreadsheet would run


def safe_cell(text: str) -> str:
    """Return a name as a cell that no spreadsheet takes for a formula: after an apostrophe. Numbers stay as they are.

    Examples
    --------
    >>> safe_cell("=1+1"), safe_cell("-3.2"), plain_cell(safe_cell("@tip"))
    ("'=1+1", '-3.2', '@tip')
    """
    return "'" + text if text.startswith(_FORMULA) and not is_number(text) else text


def plain_cell(text: str) -> str:
    """Return a name as it was before :func:`safe_cell`."""
    return text[1:] if text[:1] == "'" and text[1:].startswith(_FORMULA) and not is_number(text[1:]) else text


def quoted(text: str) -> str:
    """Return a cell's text as a csv holds it, so that it is read as it was."""
    needs_quotes = any(c in text for c in ',;\t"\r\n') or text[:1] == " "
    return '"' + text.replace('"', '""') + '"' if needs_quotes else text


def _is_head(line: str) -> bool:
    """Tell what may stand before the first row: blank lines, comments, Excel's ``sep=``."""
    return not line.strip() or line.startswith("#") or bool(_excel_delimiter(line))


def _excel_delimiter(line: str) -> str:
    said = re.fullmatch(r'"?sep=([\t;,])"?', line.strip("\r\n "), re.IGNORECASE)
    return said[1] if said else ""

"""What all HTML pages share: colours and stylesheet, tables and pictures, and the figures they show.

The templates lie in ``samreg/report/templates``: ``page.html`` is the frame, ``parts.html`` has sections, tables and
pictures, and every page has a template of its own. A page is one file and loads nothing from elsewhere; all text is
escaped.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samreg.spatial.files import atomic_path

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.figure import Figure

#: Colours of the pages, by the names that the stylesheet has for them, in a light and in a dark scheme.
PALETTE: Mapping[str, Mapping[str, str]] = {
    "light": {
        "text": "#1c2126", "faint": "#535c65", "page": "#f6f7f8", "card": "#ffffff", "line": "#d5d9dd",
        "accent": "#0b57d0", "warn": "#fff1cc", "good": "#dff3e3", "bad": "#fbdedb",
    },
    "dark": {
        "text": "#e6e9ec", "faint": "#a8b1ba", "page": "#121517", "card": "#1b1f23", "line": "#363c42",
        "accent": "#8ab4f8", "warn": "#43380f", "good": "#173a20", "bad": "#4d1f1b",
    },
}  # fmt: skip
#: Colours of pictures of scans, which are dark in either scheme, as at a reading station.
PICTURE_GROUND, PICTURE_TEXT, PICTURE_LABEL, PICTURE_OUTLINE = "#101214", "#e8eaed", "#ffd54f", "#ffb000"

_PICTURE_DPI = 100
_NOISE = 5e-6  # numbers below it are 0, as in what saved results keep
_BREAKS = re.compile(r"(?<=[_/])(?=\w)")  # where a long name may be broken


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Parameters
    ----------
    png
        The file's bytes.
    alt
        What it shows, for those who do not see it.
    caption
        Below it; empty for none.
    """

    png: bytes
    alt: str
    caption: str = ""

    @property
    def address(self) -> str:
        """The picture as a data address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Parameters
    ----------
    rows
        Of cells: numbers, printed by :func:`number`; text; None for an empty cell. The first cell names the row.
    columns
        The headings; empty for none.
    numeric
        The columns that are aligned to the right, counted from 0.
    summary
        How many rows at the top sum up the others.
    marked
        Rows that deserve a look, counted from 0.
    style
        A class of the stylesheet.
    """

    rows: Sequence[Sequence[object]]
    columns: Sequence[str] = ()
    numeric: Collection[int] = ()
    summary: int = 0
    marked: Collection[int] = ()
    style: str = ""

    @classmethod
    def of(cls, records: Sequence[Mapping[str, object]], *, summary: int = 0) -> Table:
        """Return a table of records, the columns as they first come; those that hold numbers are numeric."""
        columns = list(dict.fromkeys(key for record in records for key in record))
        rows = [[record.get(column) for column in columns] for record in records]
        numeric = [i for i, cells in enumerate(zip(*rows, strict=True)) if i and all(map(_is_number, cells))]
        return cls(rows, columns, numeric, summary)


def number(value: float) -> str:
    """Return a number as people read it: whole, or with two digits behind the point at most.

    Examples
    --------
    >>> number(19), number(132.41), number(13.24), number(1.324), number(0.0013)
    ('19', '132', '13.2', '1.32', '<0.01')
    """
    if isinstance(value, int):
        return str(value)
    if _NOISE <= value < 0.005:
        return "<0.01"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return "0.00" if text == "-0.00" else text


def page(template: str, *, title: str, **values: object) -> str:
    """Return a page.

    Parameters
    ----------
    template
        The name of its template.
    title
        Its heading.
    values
        What the template shows: text, :class:`Table`, :class:`Picture`, ...
    """
    return _environment().get_template(template).render(title=title, **values)


def write_page(path: str | os.PathLike[str], template: str, *, title: str, **values: object) -> Path:
    """Write a page, whole or not at all; see :func:`page`.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    text = page(template, title=title, **values)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # names as the disk holds them
    return Path(path)


def dark_figure(width: float, height: float, *, layout: Any = "constrained") -> Figure:
    """Return an empty figure for scans, inches; no global state of matplotlib is touched."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_PICTURE_DPI, facecolor=PICTURE_GROUND, layout=layout)


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG; names come from files and are never read as formulas."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": "samreg"})
    return buffer.getvalue()


def write_png(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as a PNG, whole or not at all.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    picture = png(figure)
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture)
    return Path(path)


def _is_number(cell: object) -> bool:
    try:
        float(cell or 0)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


@cache
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("samreg.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": _shown, "breakable": _breakable}
    environment.globals |= {"palette": PALETTE, "source": _source}
    return environment


def _shown(cell: object) -> str | Markup:
    """Return what a cell of a table shows."""
    if cell is None:
        return ""
    return number(cell) if isinstance(cell, (int, float)) else _breakable(str(cell))


def _breakable(text: str) -> Markup:
    """Let long names and paths be broken between their parts, where a line is too short for them."""
    from markupsafe import Markup

    return Markup("<wbr>".join(escape(part) for part in _BREAKS.split(text)))


def _source(name: str) -> Markup:
    """Return a stylesheet or program among the templates as it stands."""
    from markupsafe import Markup

    environment = _environment()
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])

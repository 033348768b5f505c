"""What all pages share: escaping, numbers, tables."""

from __future__ import annotations

import pytest

from samreg.errors import InputError
from samreg.report.kit import Picture, Table, dark_figure, number, page, png, write_page

PICTURE = Picture(b"\x89PNG", "<b>a picture</b>", "<i>caption</i>")


def landmarks(**changes: object) -> str:
    values = {"title": "t", "notes": (), "picture": PICTURE, "table": Table([]), **changes}
    return page("landmarks.html", **values)


def test_all_text_is_escaped_and_nothing_is_loaded():
    nasty = "<script>alert('x')</script>"
    text = landmarks(title=nasty, notes=(nasty,), table=Table([(nasty, nasty)], (nasty, nasty)))
    assert "<script" not in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3, "3"), (0.0, "0.00"), (-0.001, "0.00"), (1e-9, "0.00"), (1e-5, "<0.01"), (-9.994, "-9.99"), (1234.5, "1234")],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_records_become_a_table_with_numbers_to_the_right():
    table = Table.of([{"name": "1", "error": 2.5}, {"name": "2", "p": "1.2e-05"}, {"name": "3", "at": "apex"}])
    assert list(table.columns) == ["name", "error", "p", "at"]
    assert list(table.numeric) == [1, 2]
    text = landmarks(table=table)
    assert '<tr><th scope="row">1</th><td class="number">2.50</td><td class="number"></td><td></td></tr>' in text
    assert "<table" not in landmarks(table=Table.of([]))


def test_long_names_can_be_broken_between_their_parts():
    assert "right_<wbr>rib_<wbr>head" in landmarks(title="right_rib_head")


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(Exception, match="undefined"):
        write_page(tmp_path / "page.html", "landmarks.html", title="no values")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_page(
            tmp_path / "file" / "page.html", "landmarks.html", title="t", notes=(), picture=PICTURE, table=Table([])
        )


def test_dollars_in_names_are_no_formulas():
    """Names of landmarks and files with two dollars were set as formulas, or ended in a traceback."""
    drawn = []
    for name in ("x", r"$x$", r"a$\q$b"):
        figure = dark_figure(3.0, 2.0)
        ax = figure.subplots()
        ax.set(title=name, yticks=[0], yticklabels=[name])
        ax.plot([0], label=name)
        ax.legend()
        drawn.append(png(figure))
    assert len(set(drawn)) == 3

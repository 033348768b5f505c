"""The report of a benchmark: one HTML page, csv and Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from samreg.benchmark.datasets import DataSet
from samreg.benchmark.report import charts
from samreg.benchmark.report.statistics import compare
from samreg.benchmark.report.tables import (
    ON_LANDMARKS,
    Record,
    csv_text,
    landmarks_csv,
    leaderboard,
    markdown,
    pair_of,
    results_csv,
    show,
)
from samreg.report.pictures import img, png
from samreg.spatial.files import atomic_path

Rows = Sequence[Mapping[str, Any]]
_MOST_COLUMNS = 40  # a heat map is legible up to here
_WORST = 10  # cases listed, and methods with pictures

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2126; background: #f6f7f8; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 18px; margin: 32px 0 8px; }
p.lead, figcaption { color: #59626b; margin: 4px 0 8px; } figure { margin: 0 0 16px; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; background: #fff; min-width: 60%; }
th, td { padding: 4px 10px; border-bottom: 1px solid #e3e6e9; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
table.ranked tr:nth-child(2) td { font-weight: 600; }
img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
"""


def write_report(data: DataSet, records: Sequence[Record], out: Path) -> Path:
    """Write ``report.html``, ``results.csv``, ``landmarks.csv``, ``statistics.csv`` and ``leaderboard.md``.

    Parameters
    ----------
    data
        The data set.
    records
        Of a run.
    out
        The folder.

    Returns
    -------
    Path
        The page; it loads nothing from elsewhere.

    Raises
    ------
    InputError
        When a file cannot be written.
    """
    rows, statistics = leaderboard(records), compare(records)
    contents = {
        "results.csv": results_csv(records),
        "landmarks.csv": landmarks_csv(records),
        "statistics.csv": csv_text(statistics),
        "leaderboard.md": markdown(rows),
        "report.html": _page(data, records, rows, statistics),
    }
    for name, text in contents.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / "report.html"


def _page(data: DataSet, records: Sequence[Record], rows: Rows, statistics: Rows) -> str:
    title = f"Benchmark: {data.name}"
    order = [row["method"] for row in rows]
    pairs = len({pair_of(record) for record in records})
    measured = [record for record in records if record["ok"] and "landmarks" in record]
    measured.sort(key=lambda record: order.index(record["method"]))
    lead = f"{pairs} pairs, {len(order)} methods, {len(records)} registrations."
    if (floor := charts.reader_distance(measured)) is not None:
        lead += f" Two readings of a landmark lie {floor:.1f} mm apart on average: differences below that mean nothing."
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(lead)} Images: {escape(data.licence or "licence not stated")}.</p>',
        _section(
            "Leaderboard",
            _table(_columns(rows, ON_LANDMARKS), ranked=True),
            "Errors at landmarks, mm, over the landmarks of all pairs that were registered.",
        ),
        _section(
            "Labels, deformation and cost",
            _table([row for row in _columns(rows, ON_LANDMARKS, inside=False) if len(row) > 1]),
            "Means over pairs; memory is the most of any. SD log J leaves out folded voxels (det J of 0 or less), and "
            "folding says how many they are; Learn2Reg's is of det J + 3.",
        ),
        *(_on_landmarks(measured, statistics, order[0]) if measured else ()),
        _section("Failures", _table(_failures(records)), "Left out of all errors above."),
        _section("How it was run", _table(_conditions(data, records))),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _on_landmarks(records: Sequence[Record], statistics: Rows, best: str) -> list[str]:
    distribution = "Left: landmarks nearer than x. Right: boxes of 25 to 75 %, whiskers 5 to 95 %, diamonds means."
    drawn = [
        ("Error distribution", charts.draw_distribution, distribution),
        ("Accuracy against time", charts.draw_time, "Each method's mean error and mean wall time."),
    ]
    if len({name for record in records for name in record["landmarks"]["names"]}) <= _MOST_COLUMNS:
        drawn.append(("Error by landmark", charts.draw_landmarks, "Median over pairs, mm."))
    if len({pair_of(record) for record in records}) <= _MOST_COLUMNS:
        drawn.append(("Error by pair", charts.draw_pairs, "Mean over the landmarks of a pair, mm."))
    return [
        *(_section(title, img(png(draw(records)), title), lead) for title, draw, lead in drawn),
        _section(
            f"Against {best}",
            _table(against(statistics, best)),
            "Paired over pairs: difference of mean errors, mm, above 0 where the other method is farther off; 95 % "
            "bootstrap confidence interval; Wilcoxon signed-rank p, with Holm's correction for this table. Pairs that "
            "share people are not independent, so intervals are too narrow. statistics.csv has every method as "
            "reference, and the same over landmarks.",
        ),
        _worst(records),
    ]


def _section(title: str, content: str, lead: str = "") -> str:
    lead = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f'<section><h2>{escape(title)}</h2>{lead}<div class="wide">{content}</div></section>' if content else ""


def _columns(rows: Rows, names: Sequence[str], *, inside: bool = True) -> list[dict[str, Any]]:
    """Return the rows with these columns alone, or with the others; both with the method."""
    return [{k: v for k, v in row.items() if k == "method" or (k in names) == inside} for row in rows]


def _table(rows: Rows, *, ranked: bool = False) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["".join(f"<th>{escape(column)}</th>" for column in columns)]
    lines += ["".join(_cell(row.get(column)) for column in columns) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table{' class=ranked' if ranked else ''}>{body}</table>" if rows else ""


def _cell(value: Any) -> str:
    return f"<td{' class=number' if isinstance(value, (int, float)) else ''}>{escape(show(value))}</td>"


def against(statistics: Rows, reference: str) -> list[dict[str, Any]]:
    """Return the comparisons over pairs with one method for people."""
    rows = [
        {"method": row["method"], "pairs": row["n"], "farther by, mm": row["difference"], "95 % from": row["low"],
         "to": row["high"], "p": f"{row['p']:.2g}", "p, Holm": f"{row['p_holm']:.2g}"}
        for row in statistics if row["over"] == "pairs" and row["reference"] == reference
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["farther by, mm"])


def _worst(records: Sequence[Record]) -> str:
    """Return the cases with the largest mean errors, and the worst of each method that may be shown."""
    ordered = sorted(records, key=lambda record: -record["metrics"]["tre_mean"])
    rows = []
    for record in ordered[:_WORST]:
        marks = record["landmarks"]
        error, name = max(zip(marks["error_mm"], marks["names"], strict=True))
        rows.append({
            "method": record["method"], "pair": pair_of(record), "mean, mm": record["metrics"]["tre_mean"],
            "largest, mm": error, "at": name.replace("_", " "),
        })  # fmt: skip
    shown: dict[str, tuple[Record, Path]] = {}
    for record in ordered:
        path = Path(record["record"]).with_suffix(".png")
        if path.exists():
            shown.setdefault(record["method"], (record, path))
    pictures = "".join(
        f"<figure>{img(path.read_bytes(), method)}<figcaption>{escape(method)}, {escape(pair_of(record))}: mean "
        f"{record['metrics']['tre_mean']:.1f} mm</figcaption></figure>"
        for method, (record, path) in list(shown.items())[:_WORST]
    )
    lead = (
        "Below, of each method the worst case that may be shown: rings are the fixed landmarks, dots where the inverse "
        "brings the moving ones; in blue (skin, lung) and orange (bone) the edges of the warped moving image, where it "
        "may be shown too."
    )
    return _section("Worst cases", _table(rows) + pictures, lead if pictures else "None of them may be shown.")


def _failures(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [
        {"method": record["method"], "pair": pair_of(record), "reason": record["reason"].splitlines()[0][:300]}
        for record in records
        if not record["ok"]
    ]


def _conditions(data: DataSet, records: Sequence[Record]) -> list[dict[str, Any]]:
    values = {
        "data": data.spec if data.name == "phantom" else data.name,  # no paths of this machine
        **{name: ", ".join(sorted({str(record[name]) for record in records})) for name in ("threads", "seed")},
        **{key: value for record in records for key, value in record.get("versions", {}).items()},
    }
    return [{"what": key, "value": value} for key, value in values.items()]

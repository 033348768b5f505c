"""The report of a benchmark: one HTML page, csv and Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
)
from samreg.report.kit import Picture, Table, page, png
from samreg.spatial.files import atomic_path

Rows = Sequence[Mapping[str, Any]]
_MAX_COLUMNS = 40  # up to which a heat map is legible
_WORST_CASES = 10  # listed, and methods with pictures
_REASON_LENGTH = 300  # characters


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
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # names as the disk holds them
    return out / "report.html"


def _page(data: DataSet, records: Sequence[Record], rows: Rows, statistics: Rows) -> str:
    order = [row["method"] for row in rows]
    pairs = len({pair_of(record) for record in records})
    measured = [record for record in records if record["ok"] and "landmarks" in record]
    measured.sort(key=lambda record: order.index(record["method"]))
    floor = charts.reader_distance(measured)
    return page(
        "benchmark.html",
        title=f"Benchmark: {data.name}",
        counts=f"{pairs} pairs, {len(order)} methods, {len(records)} registrations.",
        reader_distance=None if floor is None else f"{floor:.1f}",
        licence=data.licence or "licence not stated",
        leaderboard=Table.of(_columns(rows, ON_LANDMARKS), summary=1),
        costs=Table.of([row for row in _columns(rows, ON_LANDMARKS, inside=False) if len(row) > 1]),
        charts=_charts(measured) if measured else [],
        best=order[0] if order else "",
        against=Table.of(against(statistics, order[0])) if measured else None,
        worst=Table.of(_worst(measured)),
        pictures=_pictures(measured),
        failures=Table.of(_failures(records)),
        conditions=Table(_conditions(data, records), style="pairs"),
    )


def _charts(records: Sequence[Record]) -> list[tuple[str, str, Picture]]:
    """Return title, lead and picture of each chart."""
    distribution = "Left: landmarks nearer than x. Right: boxes of 25 to 75 %, whiskers 5 to 95 %, diamonds means."
    drawn = [
        ("Error distribution", distribution, charts.draw_distribution),
        ("Accuracy against time", "Each method's mean error and mean wall time.", charts.draw_time),
    ]
    if len({name for record in records for name in record["landmarks"]["names"]}) <= _MAX_COLUMNS:
        drawn.append(("Error by landmark", "Median over pairs, mm.", charts.draw_landmarks))
    if len({pair_of(record) for record in records}) <= _MAX_COLUMNS:
        drawn.append(("Error by pair", "Mean over the landmarks of a pair, mm.", charts.draw_pairs))
    return [(title, lead, Picture(png(draw(records)), title)) for title, lead, draw in drawn]


def _columns(rows: Rows, names: Sequence[str], *, inside: bool = True) -> list[dict[str, Any]]:
    """Return the rows with these columns alone, or with the others; both with the method."""
    return [{k: v for k, v in row.items() if k == "method" or (k in names) == inside} for row in rows]


def against(statistics: Rows, reference: str) -> list[dict[str, Any]]:
    """Return the comparisons over pairs with one method for people."""
    rows = [
        {"method": row["method"], "pairs": row["n"], "farther by, mm": row["difference"], "95 % from": row["low"],
         "to": row["high"], "p": f"{row['p']:.2g}", "p, Holm": f"{row['p_holm']:.2g}"}
        for row in statistics if row["over"] == "pairs" and row["reference"] == reference
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["farther by, mm"])


def _worst(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the cases with the largest mean errors."""
    rows = []
    for record in _worst_first(records)[:_WORST_CASES]:
        landmarks = record["landmarks"]
        error, name = max(zip(landmarks["error_mm"], landmarks["names"], strict=True))
        rows.append({
            "method": record["method"], "pair": pair_of(record), "mean, mm": record["metrics"]["tre_mean"],
            "largest, mm": error, "at": name.replace("_", " "),
        })  # fmt: skip
    return rows


def _pictures(records: Sequence[Record]) -> list[Picture]:
    """Return of each method the worst case that may be shown."""
    chosen: dict[str, tuple[Record, Path]] = {}
    for record in _worst_first(records):
        path = Path(record["record"]).with_suffix(".png")
        if path.exists():
            chosen.setdefault(record["method"], (record, path))
    return [
        Picture(path.read_bytes(), method, f"{method}, {pair_of(record)}: mean {record['metrics']['tre_mean']:.1f} mm")
        for method, (record, path) in list(chosen.items())[:_WORST_CASES]
    ]


def _worst_first(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: -record["metrics"]["tre_mean"])


def _failures(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [
        {
            "method": record["method"],
            "pair": pair_of(record),
            "reason": record["reason"].strip().partition("\n")[0][:_REASON_LENGTH],
        }
        for record in records
        if not record["ok"]
    ]


def _conditions(data: DataSet, records: Sequence[Record]) -> list[tuple[str, str]]:
    values = {
        "data": data.spec if data.name == "phantom" else data.name,  # no paths of this machine
        **{name: ", ".join(sorted({str(record[name]) for record in records})) for name in ("threads", "seed")},
        **{key: value for record in records for key, value in record.get("versions", {}).items()},
    }
    return [(key, str(value)) for key, value in values.items()]

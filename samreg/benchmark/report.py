"""The report of a benchmark: one HTML page, csv and Markdown tables."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.benchmark.datasets import DataSet
from samreg.benchmark.statistics import compare
from samreg.benchmark.tables import (
    ON_LANDMARKS,
    Record,
    by_method,
    csv_text,
    landmarks_csv,
    leaderboard,
    markdown,
    results_csv,
    show,
)
from samreg.report.pictures import png
from samreg.spatial.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LANDMARKS = 40  # a heat map is legible up to here
_WORST = 10  # cases listed, of which those that may be shown have pictures
_LOG_FROM, _LOG_TO = 1.0, 100.0  # mm

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2126; background: #f6f7f8; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 18px; margin: 32px 0 8px; }
p.lead, figcaption { color: #59626b; margin: 4px 0 8px; } figure { margin: 0 0 16px; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; background: #fff; min-width: 60%; }
th, td { padding: 4px 10px; border-bottom: 1px solid #e3e6e9; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.first td { font-weight: 600; } img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
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


def _page(
    data: DataSet, records: Sequence[Record], rows: Sequence[Mapping[str, Any]], statistics: Sequence[Mapping[str, Any]]
) -> str:
    title = f"Benchmark: {data.name}"
    measured = [record for record in records if record["ok"] and "landmarks" in record]
    order = [row["method"] for row in rows]
    pairs = len({(record["fixed"], record["moving"]) for record in records})
    lead = f"{pairs} pairs, {len(order)} methods, {len(records)} registrations."
    floor = _floor(measured)
    if floor is not None:
        lead += f" Two readings of a landmark lie {floor:.1f} mm apart on average: differences below that mean nothing."
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(lead)} Images: {escape(data.licence or "licence not stated")}.</p>',
        _section(
            "Leaderboard",
            _table(_columns(rows, ON_LANDMARKS), mark_first=True),
            "Errors at landmarks, mm, over the landmarks of all pairs that were registered.",
        ),
        _section(
            "Labels, deformation and cost",
            _table([row for row in _columns(rows, ON_LANDMARKS, inside=False) if len(row) > 1]),
            "Means over pairs; memory is the most of any. SD log J leaves out folded voxels (det J of 0 or less), and "
            "folding says how many they are; Learn2Reg's is of det J + 3.",
        ),
    ]
    if measured:
        sections += [
            _figure(
                "Error distribution",
                _draw_distribution,
                measured,
                order,
                "Left: landmarks nearer than x. Right: boxes of 25 to 75 %, whiskers 5 to 95 %, diamonds means.",
            ),
            _figure(
                "Accuracy against time", _draw_time, measured, order, "Each method's mean error and mean wall time."
            ),
            _figure("Error by landmark", _draw_landmarks, measured, order, "Median over pairs, mm.")
            if len({name for record in measured for name in record["landmarks"]["names"]}) <= _MOST_LANDMARKS
            else "",
            _figure("Error by pair", _draw_pairs, measured, order, "Mean over the landmarks of a pair, mm."),
            _section(
                f"Against {order[0]}",
                _table(_against(statistics, order[0])),
                "Paired over pairs: difference of mean errors, mm, above 0 where the other method is farther off; 95 % "
                "bootstrap confidence interval; Wilcoxon signed-rank p, with Holm's correction for this table. "
                "Pairs that share people are not independent, so intervals are too narrow. statistics.csv has "
                "every method as reference, and the same over landmarks.",
            ),
            _worst(measured),
        ]
    sections += [_failures(records), _section("How it was run", _table(_conditions(data, records)))]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, content: str, lead: str = "") -> str:
    lead = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f'<section><h2>{escape(title)}</h2>{lead}<div class="wide">{content}</div></section>' if content else ""


def _columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, inside: bool = True) -> list[dict[str, Any]]:
    """Return the rows with these columns alone, or with the others; both with the method."""
    return [{k: v for k, v in row.items() if k == "method" or (k in names) == inside} for row in rows]


def _table(rows: Sequence[Mapping[str, Any]], *, mark_first: bool = False) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr{' class=first' if mark_first and i == 0 else ''}>"
        + "".join(_cell(row.get(column)) for column in columns)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return f"<table><tr>{head}</tr>{body}</table>" if rows else ""


def _cell(value: Any) -> str:
    number = isinstance(value, (int, float))
    return f"<td{' class=number' if number else ''}>{escape(show(value))}</td>"


def _figure(title: str, draw: Callable[..., Figure], records: Sequence[Record], order: Sequence[str], lead: str) -> str:
    return _section(title, _image(png(draw(records, order)), title), lead)


def _image(data: bytes, title: str) -> str:
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(data).decode("ascii")}">'


def _floor(records: Sequence[Record]) -> float | None:
    """Return the mean distance between two readings of a landmark, mm."""
    distances = [reader for record in records for reader in record["landmarks"]["reader_mm"] if reader is not None]
    return float(np.mean(distances)) if distances else None


def _errors(records: Sequence[Record], order: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Return all landmark errors of each method that has some."""
    groups = by_method(records)
    return {
        method: np.concatenate([record["landmarks"]["error_mm"] for record in groups[method]])
        for method in order
        if method in groups
    }


def _draw_distribution(records: Sequence[Record], order: Sequence[str]) -> Figure:
    errors = _errors(records, order)
    figure = _canvas(11, max(4.0, 1.5 + 0.28 * len(errors)))
    left, right = figure.subplots(1, 2)
    colours = _colours(errors)
    for method, values in errors.items():
        x = np.sort(values)
        left.step(x, 100 * np.arange(1, len(x) + 1) / len(x), label=method, color=colours[method], linewidth=1.3)
    left.set(xscale="log", xlim=(_LOG_FROM, _LOG_TO), ylim=(0, 100), xlabel="error, mm", ylabel="landmarks, %")
    floor = _floor(records)
    if floor is not None:
        left.axvline(floor, color="#59626b", linestyle=":", label="reader distance")
    left.grid(alpha=0.3, which="both")
    left.legend(fontsize=7, loc="lower right")
    boxes = right.boxplot(
        [*errors.values()], orientation="horizontal", whis=(5, 95), showfliers=False, patch_artist=True, showmeans=True,
        meanprops={"marker": "D", "markerfacecolor": "black", "markeredgecolor": "black", "markersize": 3},
        medianprops={"color": "black"},
    )  # fmt: skip
    for box, method in zip(boxes["boxes"], errors, strict=True):
        box.set_facecolor(colours[method])
    right.set_yticks(range(1, len(errors) + 1), [*errors], fontsize=8)
    right.invert_yaxis()
    right.set(xscale="log", xlabel="error, mm")
    right.grid(alpha=0.3, axis="x", which="both")
    for ax in (left, right):
        _plain_ticks(ax.xaxis)
    return figure


def _draw_time(records: Sequence[Record], order: Sequence[str]) -> Figure:
    errors = _errors(records, order)
    groups = by_method(records)
    figure = _canvas(8, 4.5)
    ax = figure.subplots()
    colours = _colours(errors)
    for method, values in errors.items():
        seconds = np.mean([record["seconds"] for record in groups[method]])
        ax.scatter(seconds, values.mean(), color=colours[method], s=36, zorder=3)
        ax.annotate(method, (seconds, values.mean()), xytext=(5, 4), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", xlabel="wall time of a pair, s", ylabel="mean error, mm", ylim=(0, None))
    ax.margins(x=0.15)
    ax.grid(alpha=0.3, which="both")
    _plain_ticks(ax.xaxis)
    return figure


def _draw_landmarks(records: Sequence[Record], order: Sequence[str]) -> Figure:
    cells: dict[tuple[str, str], list[float]] = {}
    for record in records:
        marks = record["landmarks"]
        for name, error, reader in zip(marks["names"], marks["error_mm"], marks["reader_mm"], strict=True):
            cells.setdefault((record["method"], name), []).append(error)
            if reader is not None:
                cells.setdefault((_READER, name), []).append(reader)
    methods = [m for m in (_READER, *order) if any(m == method for method, _ in cells)]
    return _heat_map({key: float(np.median(values)) for key, values in cells.items()}, methods)


def _draw_pairs(records: Sequence[Record], order: Sequence[str]) -> Figure:
    cells = {(r["method"], f"{r['fixed']} ← {r['moving']}"): r["metrics"]["tre_mean"] for r in records}
    return _heat_map(cells, [m for m in order if any(m == method for method, _ in cells)])


_READER = "reader distance"


def _heat_map(cells: Mapping[tuple[str, str], float], rows: Sequence[str]) -> Figure:
    """Draw values by (row, column), missing ones blank."""
    columns = list(dict.fromkeys(column for _, column in cells))
    values = np.array([[cells.get((row, column), np.nan) for column in columns] for row in rows])
    figure = _canvas(max(6.0, 2.2 + 0.45 * len(columns)), max(2.8, 1.9 + 0.26 * len(rows)))
    ax = figure.subplots()
    from matplotlib.colors import LogNorm

    picture = ax.imshow(np.ma.masked_invalid(values), cmap="YlOrRd", norm=LogNorm(2, 60, clip=True), aspect="auto")
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    names = [column.replace("_", " ") for column in columns]
    ax.set_xticks(range(len(columns)), names, rotation=40, ha="right", fontsize=8, rotation_mode="anchor")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            ax.text(
                j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white" if value > 25 else "black"
            )
    bar = figure.colorbar(picture, ax=ax, label="mm", ticks=[2, 5, 10, 20, 40, 60], format="%g", pad=0.01)
    bar.ax.minorticks_off()
    return figure


def _canvas(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")


def _plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with 1, 2, 5, 10, ... instead of powers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _colours(names: Mapping[str, Any]) -> dict[str, Any]:
    from matplotlib import colormaps

    shades = colormaps["tab20"].colors
    return {name: shades[i % len(shades)] for i, name in enumerate(names)}


def _against(statistics: Sequence[Mapping[str, Any]], reference: str) -> list[dict[str, Any]]:
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
        worst = int(np.argmax(marks["error_mm"]))
        rows.append({
            "method": record["method"], "pair": _pair(record), "mean, mm": record["metrics"]["tre_mean"],
            "largest, mm": marks["error_mm"][worst], "at": marks["names"][worst].replace("_", " "),
        })  # fmt: skip
    shown: dict[str, tuple[Record, Path]] = {}
    for record in ordered:
        path = Path(record["record"]).with_suffix(".png")
        if path.exists():
            shown.setdefault(record["method"], (record, path))
    pictures = "".join(
        f"<figure>{_image(path.read_bytes(), method)}<figcaption>{escape(method)}, {escape(_pair(record))}: mean "
        f"{record['metrics']['tre_mean']:.1f} mm</figcaption></figure>"
        for method, (record, path) in list(shown.items())[:_WORST]
    )
    lead = (
        "Below, of each method the worst case whose images may be shown: rings are the fixed landmarks, dots where the "
    )
    lead += "inverse brings the moving ones; edges of the warped moving image in blue (skin, lung) and orange (bone)."
    return _section("Worst cases", _table(rows) + pictures, lead if pictures else "None of them may be shown.")


def _pair(record: Record) -> str:
    return f"{record['fixed']} ← {record['moving']}"


def _failures(records: Sequence[Record]) -> str:
    rows = [
        {"method": record["method"], "pair": _pair(record), "reason": record["reason"].splitlines()[0][:300]}
        for record in records
        if not record["ok"]
    ]
    return _section("Failures", _table(rows), "Left out of all errors above.")


def _conditions(data: DataSet, records: Sequence[Record]) -> list[dict[str, Any]]:
    versions = {key: value for record in records for key, value in record.get("versions", {}).items()}
    threads = sorted({record["threads"] for record in records})
    rows = {
        "data": data.spec if data.name == "phantom" else data.name,
        "threads of each registration": ", ".join(map(str, threads)),
        "seed": ", ".join(map(str, sorted({record["seed"] for record in records}))),
        **versions,
    }
    return [{"what": key, "value": str(value)} for key, value in rows.items()]

"""Records as tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from samreg.benchmark.metrics import SUCCESS_MM
from samreg.report.kit import number
from samreg.spatial.tables import safe_cell

Record = Mapping[str, Any]

ON_LANDMARKS = (
    "pairs", "failed", "mean", "median", "p75", "p95", "max", *(f"within {limit} mm, %" for limit in SUCCESS_MM)
)  # fmt: skip
_IDENTITY = ("method", "fixed", "moving", "ok", "reason")


def by_method(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records of each method, the methods in the order in which they come."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record["method"], []).append(record)
    return grouped


def pair_of(record: Record) -> str:
    """Return the names of the pair for people."""
    return f"{record['fixed']} ← {record['moving']}"


def leaderboard(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return a row for each method, the smallest mean error first; failed pairs count as failures, not as errors.

    Landmark columns are over all landmarks of all pairs that worked, the others means over pairs.
    """
    rows = []
    for method, group in by_method(records).items():
        good = [record for record in group if record["ok"]]
        row: dict[str, Any] = {"method": method, "pairs": len(group), "failed": len(group) - len(good)}
        errors = np.concatenate([record["landmarks"]["error_mm"] for record in good if "landmarks" in record] or [[]])
        if errors.size:
            row |= {"mean": errors.mean(), "median": np.median(errors)}
            row |= {f"p{q}": np.percentile(errors, q) for q in (75, 95)} | {"max": errors.max()}
            row |= {f"within {limit} mm, %": 100 * np.mean(errors <= limit) for limit in SUCCESS_MM}
        for name, column in _MEANS.items():
            values = [record["metrics"][name] for record in good if name in record["metrics"]]
            if values:
                row[column] = np.mean(values)
        if good:
            row["seconds"] = np.mean([record["seconds"] for record in good])
            row["memory, GB"] = np.max([record["peak_memory_gb"] or 0 for record in good])
        rows.append({key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()})
    return sorted(rows, key=lambda row: (row.get("mean", np.inf), -row.get("Dice", 0)))


_MEANS = {
    "dice_mean": "Dice", "hd95_mean": "HD95, mm", "labels_lost": "labels lost",
    "folding_percent": "folding, %", "log_jacobian_std": "SD log J",
    "log_jacobian_std_learn2reg": "SD log J, Learn2Reg", "learn2reg_tre": "TRE, Learn2Reg",
    "learn2reg_dice": "Dice, Learn2Reg", "inverse_p95": "inverse p95, mm",
}  # fmt: skip


def results_csv(records: Sequence[Record]) -> str:
    """Return one row for each pair and method as csv: measures, timings, versions."""
    flat = [
        {
            **{key: record[key] for key in _IDENTITY},
            **record.get("metrics", {}),
            **{key: record.get(key) for key in ("seconds", "peak_memory_gb", "threads", "seed")},
            **{f"seconds_{stage}": seconds for stage, seconds in record.get("timings", {}).items()},
            **{f"version_{name}": version for name, version in record.get("versions", {}).items()},
        }
        for record in records
    ]
    return csv_text(flat)


def landmarks_csv(records: Sequence[Record]) -> str:
    """Return one row for each pair, method and landmark as csv."""
    return csv_text(
        {"method": record["method"], "fixed": record["fixed"], "moving": record["moving"], "landmark": name,
         "error_mm": error, "inverse_error_mm": back, "reader_mm": reader}
        for record in records if record["ok"] and "landmarks" in record
        for name, error, back, reader in zip(*record["landmarks"].values(), strict=True)
    )  # fmt: skip


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as csv; columns as they first come, empty where a row has none."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else safe_cell(value) if isinstance(value, str) else value


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table; floats to three digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([show(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def show(value: Any) -> str:
    """Return a value for people."""
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else str(value)

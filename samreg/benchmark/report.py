"""The report of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samreg.benchmark.datasets import DataSet
from samreg.benchmark.tables import Record, landmarks_csv, leaderboard, markdown, results_csv
from samreg.spatial.files import atomic_path


def write_report(data: DataSet, records: Sequence[Record], out: Path) -> Path:
    """Write the tables; return the leaderboard's path."""
    contents = {
        "results.csv": results_csv(records),
        "landmarks.csv": landmarks_csv(records),
        "leaderboard.md": markdown(leaderboard(records)),
    }
    for name, text in contents.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / "leaderboard.md"

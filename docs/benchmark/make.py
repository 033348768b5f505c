#!/usr/bin/env python3
"""Make the tables and charts of the documentation from finished runs: ``python docs/benchmark/make.py NAME OUT...``.

Writes NAME.md, the leaderboard and the paired comparison with the best method, and NAME-*.webp beside this file. Of a
method that several OUT folders hold, the last one counts. With ``--no-times`` seconds are left out, as those of runs
beside other work say little.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import PIL.Image

from samreg.benchmark.job import read_record
from samreg.benchmark.report import charts
from samreg.benchmark.report.page import against
from samreg.benchmark.report.statistics import compare
from samreg.benchmark.report.tables import Record, by_method, leaderboard, markdown
from samreg.report.kit import png

HERE = Path(__file__).parent
ERRORS = ("mean", "median", "p95", "within 5 mm, %", "within 10 mm, %", "within 15 mm, %")
OTHERS = ("Dice", "labels lost", "folding, %", "SD log J", "inverse p95, mm", "seconds", "memory, GB")


def main() -> None:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("folders", nargs="+", metavar="OUT")
    parser.add_argument("--no-times", action="store_true")
    arguments = parser.parse_args()
    name = arguments.name
    found: dict[str, list[Record]] = {}
    for folder in arguments.folders:
        records = (read_record(str(path)) for path in sorted(Path(folder).glob("records/**/*.json")))
        found |= by_method(record for record in records if record)
    rows = leaderboard(record for group in found.values() for record in group)
    order = [row["method"] for row in rows]
    measured = [record for method in order for record in found[method] if record["ok"]]
    charted = {"errors": charts.draw_distribution, "landmarks": charts.draw_landmarks}
    others = [column for column in OTHERS if column != "seconds" or not arguments.no_times]
    if not arguments.no_times:
        charted["time"] = charts.draw_time
    for kind, draw in charted.items():
        PIL.Image.open(io.BytesIO(png(draw(measured)))).convert("RGB").save(HERE / f"{name}-{kind}.webp", quality=80)
    some = [{key: row.get(key) for key in ("method", "pairs", "failed", *ERRORS, *others)} for row in rows]
    text = [
        "<!-- written by make.py -->\n",
        f"{markdown(some)}\n",
        f"Against `{order[0]}`, paired over pairs:\n",
        f"{markdown(against(compare(measured), order[0]))}\n",
        *(f"![{kind}]({name}-{kind}.webp)\n" for kind in charted),
    ]
    (HERE / f"{name}.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()

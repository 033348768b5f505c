from __future__ import annotations

import csv
import html.parser
import re
import shutil

import numpy as np
import pytest

from samreg.benchmark import DataSet, load_dataset, write_report
from samreg.benchmark.report.tables import leaderboard, markdown, results_csv

WHOLE = {"folding_percent": 0.5, "log_jacobian_std": 0.1, "log_jacobian_std_learn2reg": 0.02, "inverse_p95": 0.2}


def record(method, pair, errors, ok=True, path="/nowhere/record.json"):
    base = {"method": method, "fixed": pair[0], "moving": pair[1], "ok": ok, "reason": "", "seed": 0, "threads": 1}
    base |= {"record": path, "versions": {"samreg": "0.1.0"}, "job_seconds": 9.0}
    if not ok:
        return {**base, "reason": "too <few> matches\nlog"}
    names = [f"point_{i}" for i in range(len(errors))]
    landmarks = {
        "names": names, "error_mm": list(errors), "inverse_error_mm": list(errors), "reader_mm": [2.0] * len(errors)
    }  # fmt: skip
    metrics = {**WHOLE, "dice_mean": 0.8, "tre_mean": float(np.mean(errors))}
    return base | {
        "landmarks": landmarks, "metrics": metrics, "seconds": 8.0, "peak_memory_gb": 1.5, "timings": {"inverse": 1.0}
    }  # fmt: skip


@pytest.fixture
def records():
    return [
        record("far", ("A", "B"), [10.0, 20.0, 30.0]),
        record("near", ("A", "B"), [1.0, 2.0, 3.0]),
        record("far", ("A", "C"), [12.0, 12.0]),
        record("near", ("A", "C"), [4.0, 16.0]),
        record("far", ("B", "C"), [], ok=False),
        record("near", ("B", "C"), [2.0, 2.0]),
    ]


def test_the_leaderboard_pools_landmarks_and_counts_failures(records):
    first, second = leaderboard(records)
    assert (first["method"], second["method"]) == ("near", "far")
    assert (first["pairs"], first["failed"], second["failed"]) == (3, 0, 1)
    errors = [1, 2, 3, 4, 16, 2, 2]
    assert first["mean"] == pytest.approx(np.mean(errors))
    assert (first["median"], first["max"]) == (2, 16)
    assert first["p95"] == pytest.approx(np.percentile(errors, 95))
    assert first["within 5 mm, %"] == pytest.approx(100 * 6 / 7)
    assert second["mean"] == pytest.approx(84 / 5)
    assert (second["Dice"], second["seconds"], second["memory, GB"]) == pytest.approx((0.8, 8, 1.5))
    table = markdown([first, second]).splitlines()
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1


def test_results_as_csv(records):
    rows = list(csv.DictReader(results_csv(records).splitlines()))
    assert len(rows) == 6
    assert float(rows[0]["tre_mean"]) == 20
    assert rows[4]["ok"] == "False"
    assert rows[4]["tre_mean"] == ""
    assert {"seconds", "peak_memory_gb", "seconds_inverse", "version_samreg"} <= rows[0].keys()


class Page(html.parser.HTMLParser):
    """Collects text, and what the page would load."""

    def __init__(self, text):
        super().__init__()
        self.text, self.sources, self.open = "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("img", "meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + " "


def test_the_page_is_whole_and_loads_nothing(records, folder, tmp_path):
    data = load_dataset(folder)
    page = Page(write_report(data, records, tmp_path / "out").read_text())
    assert page.open == []
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == 4  # distribution, time, landmarks, pairs
    for words in (
        "Benchmark: boxes", "Leaderboard", "2.0 mm apart", "Against near", "too <few> matches",
        "None of them may be shown",
        "Worst cases", "point 2", "How it was run",
    ):  # fmt: skip
        assert words in page.text
    assert "log" not in re.findall(r"too <few> matches\s*(\w*)", page.text)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("report.html", "results.csv", "landmarks.csv", "statistics.csv", "leaderboard.md")
    }


def test_pictures_of_the_worst_case_of_each_method(records, folder, tmp_path):
    picture = tmp_path / "record.png"
    from PIL import Image

    Image.new("RGB", (4, 4)).save(picture)
    records[0]["record"] = records[2]["record"] = str(tmp_path / "record.json")
    text = write_report(load_dataset(folder), records, tmp_path / "out").read_text()
    assert "far, A ← B: mean 20.0 mm" in text
    assert "A ← C: mean 12.0 mm" not in text


def test_a_run_without_landmarks_or_with_failures_alone(records, folder, tmp_path):
    data = DataSet("labels", "labels", load_dataset(folder).cases, (("A", "B"),))
    for one in records:
        one.pop("landmarks", None)
    text = write_report(data, records, tmp_path / "out").read_text()
    assert "Labels, deformation and cost" in text
    assert "Worst cases" not in text
    shutil.rmtree(tmp_path / "out")
    text = write_report(data, records[4:5], tmp_path / "out").read_text()
    assert "Failures" in text

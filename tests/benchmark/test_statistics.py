from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from samreg.benchmark.report.statistics import compare, confidence_interval, holm, wilcoxon


def _record(method, pair, errors, ok=True):
    record = {"method": method, "fixed": pair, "moving": "m", "ok": ok, "reason": ""}
    return record | ({"landmarks": {"error_mm": list(errors)}} if ok else {})


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1.0, 1.0])
    assert holm([]).size == 0


def test_the_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(1)
    samples = random.normal(0.7, 2.0, (200, 40))
    inside = [low <= 0.7 <= high for low, high in map(confidence_interval, samples)]
    assert 0.88 <= np.mean(inside) <= 0.99
    assert confidence_interval(samples[0]) == confidence_interval(samples[0])  # seeded


def test_methods_are_paired_on_what_both_registered():
    random = np.random.default_rng(0)
    base = {f"p{i}": random.uniform(5, 15, 7) for i in range(10)}
    records = [_record("good", pair, errors) for pair, errors in base.items()]
    records += [_record("bad", pair, errors + random.uniform(1, 3, 7)) for pair, errors in base.items()]
    records[-1] = _record("bad", "p9", [], ok=False)
    rows = {(row["over"], row["reference"], row["method"]): row for row in compare(records)}
    row = rows["pairs", "good", "bad"]
    assert row["n"] == 9
    assert 1 < row["low"] < row["difference"] < row["high"] < 3
    difference = [np.mean(r["landmarks"]["error_mm"]) - base[r["fixed"]].mean() for r in records[10:19]]
    assert row["p"] == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert row["p_holm"] == row["p"]  # one comparison
    assert rows["pairs", "bad", "good"]["difference"] == pytest.approx(-row["difference"])
    assert rows["landmarks", "good", "bad"]["n"] == 63


def test_equal_methods_and_single_pairs():
    assert wilcoxon(np.zeros(5)) == 1.0
    assert compare([_record("a", "p", [1.0]), _record("b", "p", [2.0])]) == []
    # one pair has no spread, its landmarks have
    rows = compare([_record("a", "p", [1.0, 2.0, 4.0]), _record("b", "p", [2.0, 5.0, 5.0])])
    assert {(row["over"], row["n"]) for row in rows} == {("landmarks", 3)}

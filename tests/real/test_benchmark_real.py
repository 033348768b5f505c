from __future__ import annotations

import numpy as np

from samreg.benchmark import load_dataset, plan, run_jobs


def test_the_chest_benchmark_is_known_by_its_hashes(data_dir, tmp_path):
    data = load_dataset(data_dir / "ct" / "benchmark")
    assert (data.name, len(data.pairs)) == ("chest-ct", 12)
    assert [name for name, case in data.cases.items() if case.pictures] == ["LIDC-0004"]
    for case in data.cases.values():
        assert case.image().grid.contains(case.landmarks().positions).all()
        assert set(case.reader_mm) == set(case.landmarks().names)
    pair = data.pairs.index(("LIDC-0004", "ITKELX-00"))
    record = run_jobs(plan(data, ["identity"], tmp_path)[pair : pair + 1])[0]
    assert record["ok"], record["reason"]
    assert len(record["landmarks"]["names"]) >= 15
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_the_lung_pair_is_measured_by_its_masks(data_dir, tmp_path):
    data = load_dataset(data_dir / "ct" / "lung_pair")
    record = run_jobs(plan(data, ["identity"], tmp_path, pairs=1))[0]
    assert record["ok"], record["reason"]
    assert 0.5 < record["metrics"]["dice_mean"] < 0.9
    assert "tre_mean" not in record["metrics"]
    assert np.isfinite(record["metrics"]["hd95_mean"])

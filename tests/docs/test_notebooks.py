"""The notebooks run as they stand, in small: their parameters are made coarser, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("embeddings_kept")

FOLDER = Path(__file__).parents[2] / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
SMALL = {
    "first_registration": {"spacing": 14.0},
    "landmarks_of_a_cohort": {"spacing": 10.0, "annotated": (1, 2), "cohort": (4,)},
    "lesions_over_time": {"spacing": 5.0, "lesions": 2},
    "my_own_method": {"data_set": "phantom:1:12", "others": ("identity",)},
    "one_atlas": {"spacing": 12.0, "people": (1, 2), "iterations": 0},
}


def cells(path: Path) -> list[tuple[str, str]]:
    """Return (head, source) of a notebook's cells of code."""
    parts = re.split(r"^# %%(.*)$", path.read_text(encoding="utf-8"), flags=re.M)[1:]
    return [(head, source) for head, source in zip(parts[::2], parts[1::2], strict=True) if "[markdown]" not in head]


def test_every_notebook_is_in_the_gallery() -> None:
    gallery = (FOLDER / "index.md").read_text(encoding="utf-8")
    menu = (FOLDER.parents[1] / "mkdocs.yml").read_text(encoding="utf-8")
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)
    for path in NOTEBOOKS:
        assert f"({path.name})" in gallery
        assert f"notebooks/{path.name}" in menu


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch, capsys) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plt.switch_backend("agg")
    small = SMALL[path.stem]
    names: dict[str, object] = {"__name__": "__main__"}
    for head, source in cells(path):
        exec(compile(source, str(path), "exec"), names)
        if "parameters" in head:
            assert set(small) <= set(names)
            names.update(small)
    assert plt.get_fignums(), "it shows a picture"
    plt.close("all")
    assert capsys.readouterr().out

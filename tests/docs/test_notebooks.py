"""The notebooks run as they stand, in small: parameters are made coarser, phantoms shorter, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import samreg
import samreg.phantoms.phantom

pytestmark = pytest.mark.usefixtures("embeddings_kept")

FOLDER = Path(__file__).parents[2] / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
SHORT = (-50, 40)  # of the chest, mm above the carina
SMALL = {
    "first_registration": {"spacing": 14.0},
    "landmarks_of_a_cohort": {"spacing": 10.0, "annotated": (1, 2), "cohort": (4,)},
    "lesions_over_time": {"spacing": 5.0, "field_of_view": SHORT, "lesions": 2},
    "my_own_method": {"data_set": "data", "others": ("identity",)},
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


@pytest.fixture
def short_phantoms(monkeypatch):
    """Make phantoms of a part of the chest where no other is asked for: what embedding costs goes by its size."""
    original = samreg.phantoms.phantom.make_phantom

    def short(subject, *, field_of_view=None, **options):
        return original(subject, field_of_view=field_of_view or SHORT, **options)

    for module in (samreg.phantoms, samreg.phantoms.phantom):
        monkeypatch.setattr(module, "make_phantom", short)
    return short


@pytest.fixture
def data(short_phantoms, tmp_path) -> None:
    """A data set of one pair, for benchmarks, whose processes would make whole phantoms."""
    for number in (1, 2):
        phantom = short_phantoms(number, spacing=12.0)
        samreg.write_image(phantom.image, tmp_path / "data" / "images" / f"person{number}.nii.gz")
        samreg.write_points(phantom.landmarks, tmp_path / "data" / "landmarks" / f"person{number}.csv")
    (tmp_path / "data" / "manifest.json").write_text(json.dumps({"pairs": [["person1", "person2"]]}))


@pytest.mark.usefixtures("data")
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
    out = capsys.readouterr().out
    assert out
    assert "failed:" not in out, out

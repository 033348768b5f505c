"""pipelines/register_folder.py: one failing image is recorded, and a second run goes on where the first stopped."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import samreg

PROGRAM = Path(__file__).parents[2] / "pipelines" / "register_folder.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("register_folder", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """Return a folder with one image that can be registered and one that is cut."""
    texture = gaussian_filter(np.random.default_rng(0).normal(size=(30, 32, 34)), 2)
    body = np.linalg.norm((np.indices(texture.shape).T - (15, 16, 17)) / (11, 12, 13), axis=-1).T < 1
    image = samreg.Image.from_array(np.where(body, 500 * texture, -1000).astype(np.float32), spacing=(3, 3, 3))
    folder = tmp_path / "scans"
    folder.mkdir()
    samreg.write_image(image, tmp_path / "fixed.nii.gz")
    samreg.write_image(
        samreg.Image.from_array(image.array, spacing=(3, 3, 3), origin=(6, 0, 0)), folder / "shifted.nii.gz"
    )
    (folder / "cut.nii.gz").write_bytes((folder / "shifted.nii.gz").read_bytes()[:2000])
    return folder


def summary(out: Path) -> dict[str, str]:
    with (out / "summary.csv").open(newline="") as file:
        return {row["image"]: row["status"] for row in csv.DictReader(file)}


def test_runs_records_and_resumes(program, folder, monkeypatch):
    out = folder.parent / "out"
    call = [str(folder.parent / "fixed.nii.gz"), str(folder), "--out", str(out)]
    call += ["--method", "registration", "--engine", "torch", "--transform", "rigid"]
    assert program.main(call) == 1
    expected = {"cut.nii.gz": "error", "shifted.nii.gz": "registered"}
    assert summary(out) == expected
    moved = samreg.read_transform(out / "shifted" / "transform.h5").transform_points([[50.0, 45.0, 40.0]])
    np.testing.assert_allclose(moved, [[56.0, 45.0, 40.0]], atol=0.5)

    def again(fixed, moving, **_):
        assert Path(moving).name == "cut.nii.gz", "what is done is not done again"
        raise samreg.InputError("still cut")

    monkeypatch.setattr(samreg, "register", again)
    assert program.main(call) == 1
    assert summary(out) == expected


def test_other_images_are_registered_again_and_the_results_are_no_image(program, folder, monkeypatch):
    out, done = folder / "out", []

    def register(fixed, moving, **_):
        done.append(Path(moving).name)
        images = [samreg.read_image(image) for image in (fixed, moving)]
        return samreg.RegistrationResult(*images, samreg.spatial.AffineTransform.identity(3))

    monkeypatch.setattr(samreg, "register", register)
    (folder / "cut.nii.gz").unlink()
    call = [str(folder.parent / "fixed.nii.gz"), str(folder), "--out", str(out), "--method", "registration"]
    for changes, expected in (([], 1), ([], 0), (["--seed", "1"], 1)):
        done.clear()
        assert program.main([*call, *changes]) == 0
        assert done == ["shifted.nii.gz"] * expected
    image = samreg.read_image(folder / "shifted.nii.gz")
    samreg.write_image(image.with_array(image.array + 1), folder / "shifted.nii.gz")
    assert program.main([*call, "--seed", "1"]) == 0
    assert done == ["shifted.nii.gz"] * 2
    assert summary(out) == {"shifted.nii.gz": "registered"}


def test_an_empty_folder_is_a_bad_call(program, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main(["fixed.nii.gz", str(tmp_path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "no images" in capsys.readouterr().err

"""A prepared file: the same run as from the images, with torch and numpy alone."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import samreg
from samreg.errors import InputError
from samreg.spatial import Image
from samreg.training.__main__ import main as train_main
from samreg.training.config import TrainingConfig
from samreg.training.data import load_volumes
from samreg.training.expected_error import main as calibrate_errors
from samreg.training.landmark_pairs import _distances, _linear_spline, read_landmarks
from samreg.training.loop import train
from samreg.training.match_reliability import main as calibrate_matches
from samreg.training.modality import Ct
from samreg.training.prepare import main as prepare_main
from samreg.training.prepare import prepare
from samreg.training.prepared import PreparedFile, StoredImage, StoredMap, write_prepared
from samreg.training.scapula_shape import main as build_scapula

NETWORK = {"fine": 8, "coarse": [8, 16, 16], "blocks": [1, 1, 1], "local_dim": 8, "global_dim": 16}
VIEWS = {"size": [24, 24, 24], "crop": 0.7}
CSV = "landmarks.csv"
SETTINGS = {
    "steps": 5, "points": 64, "candidates": 200, "patches": 1, "patch": [24, 24, 24], "network": NETWORK,
    "views": VIEWS, "landmarks": "landmarks.csv", "landmark_fraction": 0.4, "cross_subject": "maps",
    "cross_fraction": 0.3, "save_every": 5, "seed": 3, "device": "cpu", "threads": 1,
    "precision": "float32",
}  # fmt: skip
# as on a machine on which nothing but torch, numpy and what torch needs is installed
BARE = """
import importlib.abc, importlib.metadata as metadata, re, runpy, sys

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

wanted, present = ["torch", "numpy"], set()
while wanted:
    name = plain(wanted.pop())
    if name not in present:
        present.add(name)
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        wanted += [re.match(r"[\\w.-]+", text)[0] for text in needed if "extra ==" not in text]
owners = {}  # metadata.packages_distributions() lacks most of them in Python 3.10
for distribution in metadata.distributions():
    name = plain(distribution.metadata["Name"])
    for top in {file.parts[0].partition(".")[0] for file in distribution.files or ()}:
        owners.setdefault(top, set()).add(name)
missing = {name for name, owner in owners.items() if not owner & present} - {"", "samreg"}
assert {"scipy", "SimpleITK", "yaml", "lazy_loader", "joblib", "typer"} <= missing

finders = list(sys.meta_path)

class Bare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            return None
        return next((spec for finder in finders if (spec := finder.find_spec(name, path, target)) is not None), None)

sys.meta_path[:] = [Bare()]
runpy.run_module("samreg.training", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images, six landmarks of each and the map between them; the configuration, and the prepared file."""
    folder = tmp_path_factory.mktemp("prepared")
    z, y, x = np.mgrid[-1:1:49j, -1:1:52j, -1:1:51j]
    rows = ["subject,landmark,x,y,z"]
    for number, name in enumerate(("ANNA", "BOB")):
        rng = np.random.default_rng(number)
        hu = np.where((y / 0.85) ** 2 + (x / 0.9) ** 2 < 1, 30.0, -1000.0)
        for _ in range(8):
            centre, radius = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.15, 0.3)
            hu[(z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2] = rng.uniform(-800, 400)
        hu += rng.normal(0, 10, hu.shape)
        origin = np.array([-50.0, 20.0 * number, 7.0])
        image = Image.from_array(hu.astype(np.int16), spacing=2.0, origin=origin)
        samreg.write_image(image, folder / "scans" / f"{name}.nii.gz")
        points = origin + rng.uniform(20, 80, (6, 3))
        rows += [f"{name},point {i},{p[0]:.1f},{p[1]:.1f},{p[2]:.1f}" for i, p in enumerate(points)]
    (folder / "landmarks.csv").write_text("\n".join([*rows, "EVE,point 0,1,2,3"]))
    shift = np.broadcast_to(np.float32([4, 0, -2]), (13, 14, 14, 3))
    (folder / "maps").mkdir()
    np.savez(folder / "maps" / "ANNA--BOB.npz", displacement=shift, trust=np.ones((13, 14, 14), "f4"), spacing=8.0)
    (folder / "config.json").write_text(json.dumps({"images": "scans", "output": "run", **SETTINGS}))
    call = [folder / "scans", "-o", folder / "prepared.npz", "--maps", folder / "maps"]
    assert prepare_main([*map(str, call), "--landmarks", str(folder / "landmarks.csv")]) == 0
    return folder


@pytest.fixture(scope="module")
def losses(folder: Path) -> list[list[str]]:
    """Of the run from the images."""
    config = TrainingConfig.from_file(folder / "config.json")
    train(config)
    return read_losses(Path(config.output))


def read_losses(output: Path) -> list[list[str]]:
    with (output / "log.csv").open(newline="") as file:
        return [[row[key] for key in ("step", "loss", "local", "global", "pairs")] for row in csv.DictReader(file)]


def test_the_file_gives_the_losses_of_the_images(folder, losses):
    assert {row[-1] for row in losses} == {"0", "1", "3"}, "one person, two people by a map, and by landmarks"
    config = TrainingConfig.from_file(folder / "config.json", prepared=folder / "prepared.npz")
    assert {config.images, config.landmarks, config.cross_subject} == {str(folder / "prepared.npz")}
    train(replace(config, output=str(folder / "again")))
    assert read_losses(folder / "again") == losses


def test_torch_and_numpy_are_enough(folder, losses):
    config = {"output": "bare", **SETTINGS}
    (folder / "bare.json").write_text(json.dumps(config))
    environment = {**os.environ, "PYTHONPATH": str(Path(samreg.__file__).parents[1])}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", BARE, *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )

    done = run("prepared.npz", "bare.json")
    assert done.returncode == 0, done.stderr
    assert "step 5 of 5: loss" in done.stderr
    assert read_losses(folder / "bare") == losses
    weights = folder / "bare" / "weights.safetensors"
    assert samreg.load_model(weights).name == "bare"

    (folder / "next.yaml").write_text("output: next")
    refused = run("prepared.npz", "next.yaml")
    assert refused.returncode == 2
    assert "give a .toml or .json file" in refused.stderr


def test_a_run_goes_on_from_a_file_that_was_moved_and_starts_from_weights(folder, losses, tmp_path):
    config = TrainingConfig.from_file(folder / "config.json", prepared=folder / "prepared.npz")
    train(replace(config, steps=2, output=str(tmp_path / "run")))
    moved = tmp_path / "elsewhere.npz"
    moved.write_bytes((folder / "prepared.npz").read_bytes())
    again = replace(config, images=str(moved), landmarks=str(moved), cross_subject=str(moved), steps=3)
    train(replace(again, output=str(tmp_path / "run")))
    assert [row[0] for row in read_losses(tmp_path / "run")] == ["1", "2", "3"]
    initial = str(tmp_path / "run" / "weights.safetensors")
    train(replace(config, steps=1, output=str(tmp_path / "next"), initial=initial))
    assert read_losses(tmp_path / "next")[0] != losses[0]


def test_people_and_landmarks_are_left_out(folder):
    path = folder / "prepared.npz"
    settings = {"images": str(path), "output": "", "views": replace(TrainingConfig("", "").views)}
    assert [v.name for v in load_volumes(TrainingConfig(**settings, left_out=("ANNA",)), torch.device("cpu"))] == [
        "BOB"
    ]
    with pytest.raises(InputError, match="all images are left out"):
        load_volumes(TrainingConfig(**settings, left_out=("ANNA", "BOB")), torch.device("cpu"))
    kept = read_landmarks(path, leave_out=["point 1"])
    table = read_landmarks(folder / "landmarks.csv", leave_out=["point 1"])
    assert sorted(kept) == ["ANNA", "BOB"]
    assert kept["BOB"].names == table["BOB"].names
    np.testing.assert_array_equal(kept["BOB"].positions, table["BOB"].positions)


def test_maps_are_kept_to_a_hundredth_of_a_millimetre(tmp_path):
    rng = np.random.default_rng(0)
    displacement = (300 + 40 * rng.normal(size=(5, 6, 7, 3))).astype(np.float32)
    given = StoredMap("a", "b", displacement, rng.uniform(size=(5, 6, 7)).astype(np.float32), 8.0)
    write_prepared(tmp_path / "p.npz", [], modality="ct", spacing=2.0, maps=[given])
    (found,) = PreparedFile(tmp_path / "p.npz").maps()
    assert np.abs(found.displacement - displacement).max() <= 0.0101
    assert np.abs(found.trust - given.trust).max() <= 0.5 / 255 + 1e-6
    assert (found.fixed, found.moving, found.spacing) == ("a", "b", 8.0)


def test_prepared_files_at_fault(folder, tmp_path):
    path = str(folder / "prepared.npz")
    config = TrainingConfig(images=path, output="")
    with pytest.raises(InputError, match=r"spacing 2 mm, the configuration says ct and 3 mm"):
        load_volumes(replace(config, spacing=3.0), torch.device("cpu"))
    with pytest.raises(InputError, match="is no prepared file"):
        PreparedFile(folder / "maps" / "ANNA--BOB.npz")
    (tmp_path / "cut.npz").write_bytes(Path(path).read_bytes()[:-500])
    with pytest.raises(InputError, match=r"cut\.npz"):
        PreparedFile(tmp_path / "cut.npz")
    levels = np.zeros((2, 2, 2), np.uint8)
    image = StoredImage("a", levels, levels[:1, :1, :1] > 0, np.zeros(3))
    write_prepared(tmp_path / "plain.npz", [image], modality="ct", spacing=2.0)
    with pytest.raises(InputError, match="holds no landmarks"):
        read_landmarks(tmp_path / "plain.npz")
    with pytest.raises(InputError, match=r"name it with \.npz"):
        prepare(folder / "scans", tmp_path / "out.zip")
    (tmp_path / "others.csv").write_text("subject,landmark,x,y,z\nEVE,point 0,1,2,3\n")
    with pytest.raises(InputError, match="none of its subjects"):
        prepare(folder / "scans", tmp_path / "out.npz", landmarks=tmp_path / "others.csv")


@pytest.mark.parametrize(
    ("program", "call", "says"),
    [
        (prepare_main, ["none", "-o", "out.npz"], "none"),
        (train_main, ["none.json"], "none.json"),
        (train_main, ["scans", "config.json"], "scans is no prepared file"),
        (calibrate_matches, ["scans", "none.csv", "--model", "mind"], "none.csv"),
        (calibrate_errors, ["scans", "none.csv", "--model", "mind"], "none.csv"),
        (build_scapula, ["scans", "none.csv", "--first", "EVE"], "none.csv"),
        (calibrate_matches, ["scans", CSV, "--model", "mind", "--unseen", "EWE"], "EWE cannot be left out"),
        (calibrate_errors, ["scans", CSV, "--model", "mind", "--unseen", "EWE"], "EWE cannot be left out"),
        (build_scapula, ["scans", CSV, "--first", "EVE", "--leave-out", "EWE"], "EWE cannot be left out"),
        (build_scapula, ["scans", CSV, "--first", "EWE"], "--first EWE: no such person; there are EVE"),
    ],
)
def test_bad_calls_end_with_2(program, call, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path(CSV).write_text("subject,landmark,x,y,z\nEVE,point 0,1,2,3\n")
    with pytest.raises(SystemExit) as ended:
        program(call)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [CSV]


def test_levels_are_finer_than_noise():
    hu = np.linspace(-2000, 4000, 60_001).astype(np.float32)
    ct = Ct(2.0)
    error = np.abs(1000 * ct.stored(hu) - 1024 - hu)
    for low, high, largest in ((-200, 256, 4.0), (-900, -200, 8.0), (256, 3072, 16.0), (-1024, -900, 31.0)):
        assert error[(hu >= low) & (hu <= high)].max() <= largest + 0.01
    assert len(ct.levels) <= 256
    np.testing.assert_allclose(ct.stored(np.float32([-1024, 0, 40, -2000])), [0, 1.024, 1.064, 0])


def test_the_spline_is_scipys():
    scipy_interpolate = pytest.importorskip("scipy.interpolate")
    rng = np.random.default_rng(0)
    points, values, queries = rng.uniform(0, 400, (20, 3)), rng.normal(0, 5, (20, 3)), rng.uniform(0, 400, (50, 3))
    weights, constant = _linear_spline(points, values)
    expected = scipy_interpolate.RBFInterpolator(points, values, kernel="linear", smoothing=2.5, degree=0)(queries)
    np.testing.assert_allclose(constant - _distances(queries, points) @ weights, expected, atol=1e-9)

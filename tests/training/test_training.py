"""Training on two tiny synthetic bodies: learns, resumes exactly, and its parts are exact."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from samreg.embedding.compact import CompactNetwork, _blocks
from samreg.embedding.inference import embed_volume, on_device
from samreg.embedding.registry import load_model
from samreg.errors import InputError
from samreg.matching import Calibration
from samreg.spatial import Grid, Image, Points, read_image
from samreg.training.calibrate import calibrate
from samreg.training.config import TrainingConfig
from samreg.training.cross_subject import build_maps, fit_map, load_pairs, reshaped, stored_maps
from samreg.training.data import Map, Pair, Volume, load_volumes, sample
from samreg.training.loop import _place, learning_rate, train
from samreg.training.losses import info_nce, sample_embedding
from samreg.training.optimizer import optimizers_for
from samreg.training.step import TrainingStep, draw_sample
from samreg.training.validate import organ_cycle, synthetic_errors
from samreg.training.views import ViewConfig

sitk = pytest.importorskip("SimpleITK")

CPU = torch.device("cpu")
NETWORK = {"fine": 16, "coarse": [16, 32, 32], "blocks": [1, 1, 1], "local_dim": 16, "global_dim": 32}
TINY = {"fine": 8, "coarse": [8, 8, 8], "blocks": [1, 1, 1], "local_dim": 8, "global_dim": 8}


def synthetic_body(seed: int) -> np.ndarray:
    """A body of soft tissue with lungs, a spine and organs of smooth random density, HU (z, y, x)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (72, 76, 88)), indexing="ij")

    def ball(cz: float, cy: float, cx: float, *radii: float) -> np.ndarray:
        return ((z - cz) / radii[0]) ** 2 + ((y - cy) / radii[1]) ** 2 + ((x - cx) / radii[2]) ** 2 < 1

    hu = np.full(x.shape, -1000.0)
    hu[(y / 0.8) ** 2 + (x / 0.9) ** 2 < 1] = 20
    for _ in range(12):
        place, size = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.08, 0.25, 3)
        hu[ball(*place, *size)] = rng.uniform(-100, 250)
    hu[ball(0.3, -0.1, -0.45, 0.6, 0.45, 0.3)] = -850
    hu[ball(0.3, -0.1, 0.45, 0.6, 0.45, 0.25)] = -820
    hu[(y - 0.55) ** 2 + x**2 < 0.02] = 400 + 200 * np.sin(12 * z[(y - 0.55) ** 2 + x**2 < 0.02])
    return hu + rng.normal(0, 8, hu.shape)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed in range(2):
        image = sitk.GetImageFromArray(synthetic_body(seed).astype(np.int16))
        image.SetSpacing((2.0, 2.0, 2.0))
        image.SetOrigin((-80.0, 30.0 * seed, 400.0))
        sitk.WriteImage(image, str(folder / f"body{seed}.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def volumes(images) -> list[Volume]:
    return load_volumes(TrainingConfig(images=str(images), output=""), CPU)


@pytest.fixture
def config(images, tmp_path) -> TrainingConfig:
    return TrainingConfig(
        images=str(images), output=str(tmp_path / "tiny"), steps=18, warmup=5, learning_rate=3e-3,
        points=128, candidates=600, patches=1, patch=(24, 32, 32), network=NETWORK, save_every=10, ema=0.9,
        views=ViewConfig(size=(32, 32, 40), rotation=8, warp=0.15, crop=0.7), threads=2, precision="float32",
    )  # fmt: skip


def read_log(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_training_lowers_loss_and_matching_error(config, volumes, tmp_path):
    threads = torch.get_num_threads()
    weights = train(config)
    assert torch.get_num_threads() == threads  # those of the process, whatever the run had
    log = read_log(tmp_path / "tiny" / "log.csv")
    losses = np.array([float(row["loss"]) for row in log])
    assert losses[-8:].mean() < losses[:5].mean() - 1

    trained = load_model(weights)
    torch.manual_seed(0)
    fresh = CompactNetwork(**config.network)
    untrained = type(trained)(fresh, trained.preprocessing, name="untrained")
    views = replace(config.views, noise=10, lesion=0.0)
    after = synthetic_errors(trained, volumes, views=views, points=100)["both"]
    before = synthetic_errors(untrained, volumes, views=views, points=100)["both"]
    assert after.mean() < 0.8 * before.mean()


@pytest.mark.parametrize(("optimizer", "precision"), [("adamw", "float32"), ("muon", "bfloat16")])
def test_a_stopped_run_goes_on_with_the_same_losses(config, tmp_path, optimizer, precision):
    config = replace(config, optimizer=optimizer, precision=precision, network=TINY, patch=(24, 24, 24))
    whole, again = (replace(config, steps=5, save_every=2, output=str(tmp_path / name)) for name in ("whole", "again"))
    train(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("samreg.training.loop.draw_sample", _Stop(4))
        with pytest.raises(KeyboardInterrupt):
            train(again)
    train(again)
    columns = ("step", "loss", "local", "global", "learning_rate")
    logs = [read_log(Path(run.output) / "log.csv") for run in (whole, again)]
    wanted, found = ([[row[c] for c in columns] for row in log] for log in logs)
    assert found == wanted
    assert len(found) == 5


def test_a_run_has_an_output_folder_to_itself(tmp_path):
    """Two runs mixed their logs and states; a file in the folder's place ended in a traceback."""
    fcntl = pytest.importorskip("fcntl")
    config = TrainingConfig(images=str(tmp_path / "none"), output=str(tmp_path / "out"))
    Path(config.output).mkdir()
    other = os.open(config.output, os.O_RDONLY)  # a lock is of the file that is open, whichever process opened it
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(InputError, match=r"another run of samreg writes to .*out"):
        train(config)
    os.close(other)
    Path(config.output).rmdir()
    Path(config.output).write_text("notes")
    with pytest.raises(InputError, match=r"out"):
        train(config)


def test_a_run_goes_on_only_with_its_own_settings(config, tmp_path, monkeypatch):
    images = Path(shutil.copytree(config.images, tmp_path / "images"))
    config = replace(config, steps=2, save_every=1, images=str(images))
    state, log = tmp_path / "tiny" / "last.pt", tmp_path / "tiny" / "log.csv"
    with monkeypatch.context() as patch:
        patch.setattr("torch.save", _Stop(1))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert not state.exists()
    assert (tmp_path / "tiny" / "weights.safetensors").exists()  # before the state that says they are there
    log.write_text("")
    train(config)
    assert [row["step"] for row in read_log(log)] == ["1", "2"]
    with pytest.raises(InputError, match=r"last\.pt.*learning_rate was 0\.003, is 0\.1.*another output"):
        train(replace(config, learning_rate=0.1))
    with pytest.raises(InputError, match=r"views\.rotation was 8"):
        train(replace(config, views=replace(config.views, rotation=9)))
    (images / "body1.nii.gz").rename(images / "body7.nii.gz")
    with pytest.raises(InputError, match=r"2 volumes were read, now 2; gone: body1; new: body7.*another output"):
        train(config)
    (images / "body7.nii.gz").rename(images / "body1.nii.gz")
    train(replace(config, steps=3, threads=1, save_every=3))
    assert len(read_log(log)) == 3

    older = torch.load(state, weights_only=True)
    del older["settings"]
    torch.save(older, state)
    train(replace(config, steps=4, learning_rate=0.1))
    assert len(read_log(log)) == 4
    torch.save(older, state)
    other = {**NETWORK, "fine": 24}
    with pytest.raises(InputError, match=r"last\.pt.*fine_stem.*another output"):
        train(replace(config, network=other))
    initial = str(tmp_path / "tiny" / "weights.safetensors")
    with pytest.raises(InputError, match=r"weights\.safetensors.*fine_stem.*same settings"):
        train(replace(config, network=other, initial=initial, output=str(tmp_path / "other")))


def test_muon_makes_the_updates_of_inner_convolutions_orthogonal(config, monkeypatch):
    torch.manual_seed(0)
    network = on_device(CompactNetwork(**NETWORK), CPU, 3)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizers = optimizers_for(network, replace(config, optimizer="muon", weight_decay=0.0))
    for weight in network.parameters():  # some channels' gradients are a hundred times as large as others'
        weight.grad = torch.randn_like(weight) * torch.logspace(0, 2, len(weight)).view(-1, *(1,) * (weight.ndim - 1))
    optimizers.step(0.01)
    changes = {name: (weight.detach() - before[name]) for name, weight in network.named_parameters()}
    assert all(change.abs().max() > 0 for change in changes.values())
    singular = torch.linalg.svdvals(changes["stages.0.0.body.1.weight"].flatten(1))
    assert singular.max() < 3 * singular.min()
    np.testing.assert_allclose(changes["global_head.1.weight"].abs(), 0.01, rtol=1e-3)  # AdamW's first step
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match=r"needs torch 2\.9"):
        optimizers_for(network, replace(config, optimizer="muon"))


def test_diverged_training_ends_with_a_remedy(config, monkeypatch):
    monkeypatch.setattr("samreg.training.loop._MOST_SKIPPED", 1)
    with pytest.raises(InputError, match="lower learning_rate"):
        train(replace(config, learning_rate=1e30))


@pytest.mark.slow
def test_two_processes_train_one_network(images, tmp_path):
    """Started by torchrun, the processes share gradients; only one writes, and the log has each step once."""
    path = tmp_path / "run.yaml"
    path.write_text(
        f"images: {images}\noutput: run\nsteps: 3\npatches: 1\npatch: [24, 24, 24]\npoints: 64\ncandidates: 200\n"
        "threads: 1\nnetwork: {fine: 8, coarse: [8, 8, 8], blocks: [1, 1, 1]}\nviews: {size: [24, 24, 24], crop: 0.7}\n"
    )
    samreg = Path(sys.executable).with_name("samreg")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", str(samreg)]
    done = subprocess.run([*command, "train", str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in read_log(tmp_path / "run" / "log.csv")] == ["1", "2", "3"]
    assert load_model(tmp_path / "run" / "weights.safetensors").embed


class _Stop:
    """Draws samples until the given call, which is interrupted as by Ctrl-C."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, *args):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return draw_sample(*args)


def test_sampled_pairs_overlap(volumes, config):
    generator = torch.Generator().manual_seed(0)
    drawn = draw_sample([Pair(v, v) for v in volumes], config, generator)
    assert len(drawn.matches[0]) == len(drawn.matches[1]) >= 48
    results = TrainingStep(CompactNetwork(**NETWORK), config)(drawn)
    assert all(torch.isfinite(value) for value in results.values())


def test_network_in_slabs_equals_one_pass():
    torch.manual_seed(0)
    network = CompactNetwork(**NETWORK).eval()
    for parameter in network.parameters():  # the residual branches start at zero
        torch.nn.init.normal_(parameter, std=0.1)
    volume = np.random.default_rng(0).uniform(-1, 0.5, (46, 36, 40)).astype(np.float32)
    with torch.inference_mode():
        whole = network(torch.from_numpy(volume)[None, None])
    slabs = embed_volume(network, volume, pad_value=-1.024, slab=16, store=torch.float32)
    for a, b in zip(whole, slabs, strict=True):
        assert torch.allclose(a[0], b, atol=1e-4)


def test_network_geometry_is_where_its_cells_are():
    """Cells of voxels lie at the mean place of their voxels, and so do the outputs they become."""
    places = torch.arange(16.0).expand(1, 1, 16, 16, 16)
    fine = _blocks(places).mean(dim=1, keepdim=True)
    coarse = _blocks(fine).mean(dim=1, keepdim=True)
    geometry = CompactNetwork().geometry
    for cells, stride, offset in (
        (fine, geometry.local_stride, geometry.local_offset),
        (coarse, geometry.global_stride, geometry.global_offset),
    ):
        assert torch.allclose(cells[0, 0, 0, 0], stride[2] * torch.arange(16.0 / stride[2]) + offset[2])


def test_network_moves_with_its_input():
    torch.manual_seed(0)
    network = CompactNetwork(**NETWORK).eval()
    volume = torch.full((1, 1, 32, 32, 96), -1.0)
    volume[..., 36:52] = torch.rand(1, 1, 32, 32, 16)
    with torch.inference_mode():
        for here, there, stride in zip(network(volume), network(volume.roll(16, -1)), (2, 4), strict=True):
            shift = 16 // stride
            assert torch.allclose(
                here[..., shift:-shift].roll(shift, -1)[..., shift:],
                there[..., 2 * shift : -shift],
                atol=1e-4,
            )


def test_info_nce_prefers_the_match():
    vectors = torch.eye(8)
    places = torch.arange(8.0)[:, None] * torch.tensor([[100.0, 0, 0]])
    options = {"temperature": 0.1, "ignore": 10.0}
    good, accuracy = info_nce(vectors, vectors[:, None], places, vectors, places, **options)
    bad, none = info_nce(vectors, vectors.roll(1, 0)[:, None], places, vectors, places, **options)
    assert good < 0.01 < bad
    assert accuracy == 1
    assert none == 0


def test_sampled_embedding_is_linear_between_voxels():
    embedding = torch.zeros(1, 2, 2, 2, 3)
    embedding[0, 0] = torch.arange(3.0) + 1
    embedding[0, 1] = 1
    vectors = sample_embedding(embedding, torch.tensor([[14.0, 10.0, 10.0]]), torch.tensor([10.0, 10.0, 10.0]), 8.0)
    expected = torch.tensor([1.5, 1.0])
    assert torch.allclose(vectors[0], expected / expected.norm(), atol=1e-5)


def test_maps_between_volumes(volumes, tmp_path):
    """A stored shift maps points by it, and only where it is trusted."""
    shape = (20, 21, 24)
    trust = np.ones(shape, np.float32)
    trust[10:] = 0
    shift = np.broadcast_to(np.float32([4, 0, -2]), (*shape, 3))
    np.savez(tmp_path / "body0--body1.npz", displacement=shift, trust=trust, spacing=8.0)
    (pair,) = load_pairs(tmp_path, volumes, slack=(8.0, 24.0))
    matches, trusted = pair.match(torch.tensor([[50.0, 60.0, 20.0], [50.0, 60.0, 120.0]]))
    assert torch.allclose(matches[0], torch.tensor([54.0, 60.0, 18.0]))
    assert trusted.tolist() == [1, 0]
    with pytest.raises(InputError, match="no maps"):
        load_pairs(tmp_path / "none", volumes, slack=(8.0, 24.0))


def test_names_in_maps_may_hold_the_dashes_between_them(tmp_path):
    """Such a map ended the run in a ValueError."""
    np.savez(tmp_path / "A--1--B.npz", displacement=np.zeros((2, 2, 2, 3)), trust=np.zeros((2, 2, 2)), spacing=8.0)
    assert [(m.fixed, m.moving) for m in stored_maps(tmp_path, {"A--1", "B"})] == [("A--1", "B")]
    assert not [*stored_maps(tmp_path, {"A--1", "1--B"})]
    with pytest.raises(InputError, match=r"A--1--B\.npz.*could be of A and 1--B or of A--1 and B"):
        _ = [*stored_maps(tmp_path, {"A", "B", "A--1", "1--B"})]


def test_reshaped_volume_matches_the_original(volumes):
    """Deformed by a map, a volume shows at every point what the map says."""
    fixed, moving = volumes[:2]
    z, y, x = (int(n) // 8 + 2 for n in fixed.extent.flip(0))
    swell = 6 * torch.sin(torch.arange(x) * 8 / 30.0).expand(1, z, y, x)
    displacement = torch.cat([swell, torch.full_like(swell, -4.0), torch.zeros_like(swell)])[None]
    given = Pair(fixed, moving, Map(displacement, torch.zeros(1, 1, z, y, x), 8.0), slack=(8.0, 24.0))
    pair = reshaped(given)
    points = pair.fixed.body[torch.randperm(len(pair.fixed.body), generator=torch.Generator().manual_seed(0))[:500]]
    matches, trusted = pair.match(points)
    assert pair.slack is None
    assert trusted.min() > 0.99
    assert torch.allclose(matches, given.match(points)[0])
    seen = sample(pair.fixed.coarse, points, spacing=4.0, first=1.0)
    expected = sample(moving.coarse, matches, spacing=4.0, first=1.0)
    assert np.corrcoef(seen, expected)[0, 1] > 0.9


def test_inexact_matches_in_only_some_patches(volumes, config):
    """A patch without matches goes beside one whose matches may lie anywhere around them."""
    config = replace(config, patches=2)
    shift = torch.zeros(1, 3, 20, 22, 24)
    pair = Pair(volumes[0], volumes[0], Map(shift, torch.full((1, 1, 20, 22, 24), 0.6), 8.0), slack=(8.0, 24.0))
    drawn = draw_sample([pair], config, torch.Generator().manual_seed(0))
    assert drawn.slack.min() > config.cross_slack
    # all matches in one corner: the patch that does not hold it has none
    corner = [starts[:1] + [torch.zeros(3, dtype=torch.long)] for starts in drawn.starts]
    near = (drawn.matches[0] - drawn.matches[0][0]).norm(dim=1) < 30
    drawn = replace(drawn, matches=tuple(m[near] for m in drawn.matches), slack=drawn.slack[near], starts=tuple(corner))
    results = TrainingStep(CompactNetwork(**NETWORK), config)(drawn)
    assert all(torch.isfinite(value) for value in results.values())


def test_folded_maps_are_not_trusted(volumes):
    shape = (12, 12, 12)
    shift = torch.zeros(1, 3, *shape)
    shift[0, 0, :, :, 5] = 20.0
    pair = reshaped(Pair(volumes[0], volumes[1], Map(shift, torch.ones(1, 1, *shape), 8.0), slack=(8.0, 24.0)))
    assert pair.mapping.trust[0, 0, 6, 6, 2] == 1
    assert pair.mapping.trust[0, 0, 6, 6, 6] == 0


def test_views_are_deep_enough_for_bfloat16(volumes, config):
    """oneDNN's bfloat16 weight gradients are garbage for 3x3x3 convolutions over two voxels of depth."""
    generator = torch.Generator().manual_seed(1)
    flat = replace(config, views=replace(config.views, crop=0.05, crop_in_plane=1.0))
    for _ in range(5):
        drawn = draw_sample([Pair(v, v) for v in volumes], flat, generator)
        assert min(-(-n // 8) for view in drawn.views for n in view.coarse.shape[2:]) >= 3


@pytest.fixture(scope="module")
def two_visits(tmp_path_factory):
    """One body, and the same seen from 40 mm further up, 12 mm to the side; stored on RAS axes, as most NIfTI are."""
    return write_visits(tmp_path_factory.mktemp("visits"), missing=20)


def write_visits(folder, *, missing):
    body = synthetic_body(0).astype(np.int16)
    for name, array, origin in (("first", body, 0.0), ("second", body[missing:], 12.0)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((2.0, 2.0, 2.0))
        image.SetOrigin((origin, 0.0, 0.0))
        sitk.WriteImage(sitk.DICOMOrient(image, "RAS"), str(folder / f"{name}.nii.gz"))
    return folder


def test_maps_are_built_and_refined(two_visits, tmp_path):
    """The way from one view of a body to another is a known shift, where both show it."""
    paths = build_maps(two_visits, load_model("mind"), tmp_path, pairs=[("second", "first")])
    assert [path.name for path in paths] == ["second--first.npz", "first--second.npz"]
    volumes = load_volumes(TrainingConfig(images=str(two_visits), output=""), CPU)
    pairs = load_pairs(tmp_path, volumes, slack=(8.0, 24.0))
    assert [pair.fixed.name for pair in pairs] == ["first", "second"]
    for pair in pairs:
        assert pair.slack == (8.0, 24.0)
        points = pair.fixed.body
        matches, trust = pair.match(points)
        # 40 mm of the first view are missing at the bottom of the second, whose own frame starts there
        shift = 40.0 if pair.fixed.name == "second" else -40.0
        error = (matches - points - torch.tensor([0.0, 0.0, shift])).norm(dim=1)[trust > 0.6]
        assert len(error) > 200
        assert error.median() < 4


def test_landmarks_draw_maps_to_themselves(two_visits, tmp_path):
    """A landmark that says otherwise than the matches moves the map around it, and leaves what is far."""
    images = {path.name.removesuffix(".nii.gz"): path for path in two_visits.glob("*.nii.gz")}
    first, second = (load_model("mind").embed(read_image(images[name])) for name in ("first", "second"))
    places = np.array([[90.0, 70.0, 90.0], [130.0, 70.0, 150.0]])
    truth = places + [-12.0, 0.0, 40.0]  # from the second visit's frame to the first's
    plain = fit_map(second, first).transform
    pulled = truth + [[0.0, 0.0, 25.0], [0.0, 0.0, 0.0]]
    guided = fit_map(second, first, landmarks=(Points(places), Points(pulled))).transform
    moved = guided.transform_points(places) - plain.transform_points(places)
    assert 15 < moved[0, 2] < 30
    assert np.abs(moved[1]).max() < 10
    assert np.linalg.norm(guided.transform_points(places[:1]) - pulled[:1]) < 6


def test_calibration_gives_both_kinds_of_coefficients(tmp_path):
    visits = write_visits(tmp_path, missing=45)
    values = calibrate(visits, load_model("mind"), [("second", "first"), ("first", "second")])
    plain, landmarks = (Calibration.from_mapping(values, landmarks=some) for some in (False, True))
    assert set(values) == {*plain.as_dict(), *landmarks.as_dict(landmarks=True)}
    assert plain(0.9, 1.0) > plain(0.5, 60.0)
    # the first view shows 90 mm that the second does not: what is expected there cannot be right
    assert landmarks(0.9, 1.0, spread=1.0, depth=30.0) > landmarks(0.5, 60.0, spread=30.0, depth=-30.0)
    with pytest.raises(InputError, match="no images"):
        calibrate(visits / "none", load_model("mind"), [])


def test_organs_return_to_themselves(volumes):
    """An image matched with itself brings every organ back."""
    model = load_model("mind")
    array = np.clip(volumes[0].fine[0, 0].numpy() * 1000 - 1024, -1024, 3071)
    image = Image(array, Grid.make(array.shape, spacing=2.0), "body")
    labels = image.with_array((array > 300).astype(np.uint8))
    labels.array[[0, -1]] = 0
    embedding = model.embed(image)
    shares = organ_cycle(embedding, labels, embedding, points=200)
    assert min(shares.values()) > 0.6


@pytest.mark.parametrize("suffix", ["yaml", "toml"])
def test_configuration_files(tmp_path, suffix):
    text = {
        "yaml": "images: ct\noutput: run\nsteps: 7\nviews: {rotation: 5, size: [40, 40, 48]}\n",
        "toml": 'images = "ct"\noutput = "run"\nsteps = 7\n[views]\nrotation = 5\nsize = [40, 40, 48]\n',
    }[suffix]
    path = tmp_path / f"run.{suffix}"
    path.write_text(text)
    config = TrainingConfig.from_file(path)
    assert (config.steps, config.views.rotation, config.views.size) == (7, 5, (40, 40, 48))
    assert config.images == str(tmp_path / "ct")
    path.write_text(text.replace("steps = 7", "learning_rate = '1e-3'").replace("steps: 7", "learning_rate: 1e-3"))
    assert TrainingConfig.from_file(path).learning_rate == 1e-3
    for wrong in ("'fast'", "7.5"):
        path.write_text(text.replace("7", wrong))
        with pytest.raises(InputError, match=rf"run\.{suffix}: steps must be a whole number, got {wrong}"):
            TrainingConfig.from_file(path)
    path.write_text(text.replace("steps", "stpes"))
    with pytest.raises(InputError, match="stpes"):
        TrainingConfig.from_file(path)


def test_configuration_mistakes(tmp_path):
    with pytest.raises(InputError, match="no such"):
        TrainingConfig.from_file(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="multiples of 4"):
        TrainingConfig(images="a", output="b", patch=(30, 32, 32))
    with pytest.raises(InputError, match="no images"):
        load_volumes(TrainingConfig(images=str(tmp_path), output=""), CPU)


@pytest.mark.parametrize("left_out", [("body7",), ("body0.nii.gz", "body1")])
def test_what_cannot_be_left_out_is_not_trained_on_in_silence(config, left_out):
    with pytest.raises(InputError, match=rf"left_out: {left_out[0]} cannot be left out; there are body0, body1"):
        train(replace(config, left_out=left_out))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("left_out: ANNA", "left_out must be a list, got 'ANNA'; for one, give"),
        ("left_out: [17]", "left_out must be text, in quotes where it is a number, got 17"),
        ("patch: 24", "patch must be a list, got 24"),
        ("network: small", "network must be names and values"),
        ("network: {fnie: 8}", "unknown setting fnie; choose from ndim, fine"),
        ("views: 3", "settings have names, such as rotation, got 3"),
        ("steps: yes", "steps must be a whole number, got True"),
        ("tensorboard: 1", "tensorboard must be true or false, got 1"),
        ("ema: 1.5", "ema must be a number between 0 and 1"),
        ("threads: -1", "threads must be a number of at least 0"),
        ("learning_rate: -0.1", "learning_rate must be positive"),
        ("output: 2024", "output must be text"),
    ],
)
def test_settings_of_another_kind_are_refused(tmp_path, setting, says):
    path = tmp_path / "run.yaml"
    path.write_text("\n".join(["images: ct", *(["output: run"] if "output" not in setting else []), setting]))
    with pytest.raises(InputError, match=says):
        TrainingConfig.from_file(path)


def test_names_in_one_text_are_no_list():
    with pytest.raises(InputError, match="left_out must be a list of names, got 'ANNA'"):
        TrainingConfig(images="a", output="b", left_out="ANNA")


def test_learning_rate_warms_up_and_decays():
    config = TrainingConfig(images="a", output="b", steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) > 0.95
    assert rates[100] == pytest.approx(0.02)


def test_the_minimal_configuration_is_complete():
    path = Path(__file__).parents[2] / "pipelines" / "training" / "minimal.yaml"
    config = TrainingConfig.from_file(path)
    assert (config.steps, Path(config.images).name) == (2000, "scans")


@pytest.mark.parametrize(("gpus", "backend", "device"), [(1, "gloo", "cuda:0"), (2, "nccl", "cuda:1")])
def test_processes_share_a_gpu_where_there_are_too_few(monkeypatch, gpus, backend, device):
    """NCCL refuses two processes on one GPU."""
    asked = []
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("samreg.training.loop.resolve_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", asked.append)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert _place(TrainingConfig(images="i", output="o", device="cuda")) == (1, 2, torch.device(device))
    assert asked == [backend]

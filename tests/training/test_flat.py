"""Training in two dimensions, on small synthetic X-rays: one code path with volumes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from samreg.embedding.backbone import reinitialise
from samreg.embedding.compact import CompactNetwork
from samreg.embedding.models import NetworkModel
from samreg.embedding.registry import load_model
from samreg.errors import InputError
from samreg.landmarks.detector import LandmarkDetector
from samreg.landmarks.match import match
from samreg.landmarks.templates import template_scores
from samreg.matching import Calibration
from samreg.phantoms import write_dicom_series
from samreg.registration import register
from samreg.spatial import Image, Points, write_image
from samreg.training import landmarks as detectors
from samreg.training.calibrate import calibrate
from samreg.training.config import TrainingConfig
from samreg.training.cross_subject import build_maps, load_pairs, reshaped
from samreg.training.data import Pair, Volume, list_images, load_volumes, make_volume, named_images, sample
from samreg.training.landmarks import train_detector
from samreg.training.loop import train
from samreg.training.modality import MODALITIES
from samreg.training.step import TrainingStep, draw_sample
from samreg.training.validate import synthetic_errors
from samreg.training.views import ViewConfig

sitk = pytest.importorskip("SimpleITK")

CPU = torch.device("cpu")
NETWORK = {
    "ndim": 2, "fine": 24, "coarse": [24, 32, 32], "blocks": [1, 1, 1], "local_dim": 24, "global_dim": 24,
    "windows": [[0.0, 1.0]],
}  # fmt: skip
VIEWS = ViewConfig(
    size=(120, 100), rotation=10, scale=1.1, anisotropy=1.05, warp=0.15, wavelength=(30.0, 150.0), crop=0.8, mirror=0.0,
    lesion=0.2, noise=30.0,
)  # fmt: skip
SHIFT = np.array([6.0, -4.5])  # mm, by which the second picture shows the head elsewhere


def head(rng: np.random.Generator) -> np.ndarray:
    """Return (y, x) 8-bit intensities: bright outlines, blobs and a texture, on a dark background."""
    y, x = np.meshgrid(np.linspace(-1, 1, 200), np.linspace(-1, 1, 160), indexing="ij")
    picture = 90.0 * ((x / 0.8) ** 2 + (y / 0.9) ** 2 < 1) + 80 * (np.abs((x / 0.8) ** 2 + (y / 0.9) ** 2 - 0.9) < 0.08)
    for _ in range(14):
        cx, cy, radius = rng.uniform(-0.6, 0.6), rng.uniform(-0.7, 0.7), rng.uniform(0.05, 0.16)
        picture += rng.uniform(-60, 80) * ((x - cx) ** 2 + (y - cy) ** 2 < radius**2)
    picture += 25 * ndimage.gaussian_filter(rng.normal(size=x.shape), 4) / 0.07 * (picture > 0)
    return np.clip(ndimage.gaussian_filter(picture, 1), 0, 255)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of one head, the second one moved by SHIFT and brighter, as PNG files without a pixel size."""
    folder = tmp_path_factory.mktemp("xrays")
    first = head(np.random.default_rng(0))
    second = 1.1 * ndimage.shift(first, SHIFT[::-1] / 1.0, order=1) + 10
    for name, picture in (("first", first), ("second", second)):
        sitk.WriteImage(sitk.GetImageFromArray(np.clip(picture, 0, 255).astype(np.uint8)), str(folder / f"{name}.png"))
    return folder


@pytest.fixture(scope="module")
def config(images: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    return TrainingConfig(
        images=str(images), output=str(tmp_path_factory.mktemp("flat") / "tiny"), modality="xray", spacing=1.0,
        image_spacing=1.0, steps=60, warmup=5, learning_rate=3e-3, points=128, candidates=600, patches=1,
        patch=(64, 64), ignore_local=2.0, ignore_global=6.0, network=NETWORK, save_every=30, ema=0.9, views=VIEWS,
        threads=1, precision="float32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def volumes(config: TrainingConfig) -> list[Volume]:
    return load_volumes(config, CPU)


@pytest.fixture(scope="module")
def weights(config: TrainingConfig) -> Path:
    return train(config)


@pytest.fixture(scope="module")
def pictures(images: Path) -> dict[str, Image]:
    from samreg.spatial import read_image

    return {name: read_image(images / f"{name}.png", spacing=1.0) for name in ("first", "second")}


@pytest.fixture(scope="module")
def points(pictures: dict[str, Image]) -> Points:
    position = np.array([[50.0, 60.0], [80.0, 100.0], [110.0, 140.0], [60.0, 130.0], [100.0, 70.0]])
    return Points(position, ("a", "b", "c", "d", "e"))


def test_training_lowers_the_matching_error(config, volumes, weights) -> None:
    trained = load_model(weights)
    torch.manual_seed(0)
    untrained = type(trained)(CompactNetwork(**NETWORK), trained.preprocessing, name="untrained")
    views = replace(VIEWS, noise=5, lesion=0.0)
    after, before = (synthetic_errors(m, volumes, views=views, points=100)["both"] for m in (trained, untrained))
    assert trained.ndim == 2
    assert after.mean() < 0.5 * before.mean()
    assert np.median(after) < 2.0


def test_the_same_number_of_steps_gives_the_same_sample(volumes, config) -> None:
    pairs = [Pair(v, v) for v in volumes]
    first, second = (draw_sample(pairs, config, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.views[0].coarse, second.views[0].coarse)
    torch.manual_seed(0)
    results = TrainingStep(CompactNetwork(**NETWORK), config)(first)
    assert all(torch.isfinite(value) for value in results.values())


def test_maps_between_pictures(images, weights, volumes, tmp_path) -> None:
    """The way from one picture to the other is the known shift, where matches are trusted."""
    build_maps(images, load_model(weights), tmp_path, pairs=[("first", "second")], image_spacing=1.0)
    pair, _ = load_pairs(tmp_path, volumes, slack=(8.0, 24.0))
    matches, trust = pair.match(pair.fixed.body)
    error = (matches - pair.fixed.body - torch.tensor(SHIFT).float()).norm(dim=1)[trust > 0.6]
    assert len(error) > 200
    assert error.median() < 1.0
    deformed = reshaped(pair)
    shown = sample(deformed.fixed.coarse, pair.fixed.body, spacing=2.0, first=0.5)
    expected = sample(pair.moving.coarse, matches, spacing=2.0, first=0.5)
    assert np.corrcoef(shown, expected)[0, 1] > 0.95


def test_points_are_found_to_a_pixel(weights, pictures, points) -> None:
    found = match(pictures["first"], points, pictures["second"], model=weights)
    error = np.linalg.norm(found.points - points.positions - SHIFT, axis=1)
    assert error.max() < 2.0
    assert found.names == points.names


@pytest.mark.parametrize(
    ("method", "engine", "transform"),
    [("embedding", None, "affine"), ("hybrid", "torch", "deformable"), ("hybrid", "ants", "rigid")],
)
def test_pictures_are_registered(weights, pictures, points, tmp_path, method, engine, transform) -> None:
    fixed, moving = pictures["first"], pictures["second"]
    result = register(fixed, moving, method=method, engine=engine, transform=transform, model=weights, spacing=1.0)
    assert result
    there = result.transform_points(points.positions, to="moving")
    assert np.linalg.norm(there - points.positions - SHIFT, axis=1).max() < 1.5
    back = result.transform_points(there, to="fixed")
    np.testing.assert_allclose(back, points.positions, atol=0.2)
    assert result.warped.shape == fixed.shape
    assert result.quality["correlation_after"] > max(0.9, result.quality["correlation_before"])
    result.save(tmp_path / "out")
    result.report(tmp_path / "out" / "report.html")
    assert {"warped.nii.gz", "result.json", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_calibration_of_pictures(images, weights) -> None:
    pairs = [("first", "second"), ("second", "first")]
    values = calibrate(images, load_model(weights), pairs, tolerance=3.0, image_spacing=1.0)
    assert values["tolerance"] == values["landmark_tolerance"] == 3.0
    landmarks = Calibration.from_mapping(values, landmarks=True)
    # nearly all matches are right whatever their similarity: what tells is the way back and the votes
    assert landmarks(0.9, 0.2, spread=0.5) > landmarks(0.9, 30.0, spread=20.0)


def test_the_template_is_the_one_most_like_the_others(weights, pictures) -> None:
    """Of two pictures of one head and one of another, the odd one out is the worst template."""
    model = load_model(weights)
    other = pictures["first"].with_array(head(np.random.default_rng(9)).astype(np.uint8))
    scores = template_scores([model.embed(image) for image in (pictures["first"], other, pictures["second"])])
    assert scores.argmin() == 1
    with pytest.raises(InputError, match="at least 2"):
        template_scores([model.embed(other)])


def test_a_detector_learns_from_one_picture(weights, pictures, points, tmp_path) -> None:
    model = load_model(weights)
    reinitialise(model.network, seed=1)  # even without pretraining
    images, labels = [pictures["first"]], [points]
    untrained = LandmarkDetector.from_labels(model, images, labels)
    detector = train_detector(model, images, labels, steps=60, learning_rate=1e-3, precision="float32")
    expected = points.positions + SHIFT
    before, after = (np.linalg.norm(d(pictures["second"]).positions - expected, axis=1) for d in (untrained, detector))
    assert np.median(after) < 2.0
    assert after.mean() < 0.5 * before.mean()

    detector.save(tmp_path / "detector.safetensors")
    again = LandmarkDetector.load(tmp_path / "detector.safetensors")
    assert again.names == points.names
    np.testing.assert_allclose(again(pictures["second"]).positions, detector(pictures["second"]).positions, atol=0.01)
    with pytest.raises(InputError, match="without landmarks"):
        LandmarkDetector.load(weights)
    renamed = Points(points.positions, ("a", "b", "c", "d", "z"))
    with pytest.raises(InputError, match="same landmarks"):
        LandmarkDetector.from_labels(model, images * 2, [points, renamed])


def test_a_detector_of_ones_own_network_is_saved(pictures, points, tmp_path) -> None:
    """It was trained, and then lost by a KeyError."""
    network = CompactNetwork(ndim=2, fine=8, coarse=[8, 8], blocks=[1, 1], local_dim=8, global_dim=8)
    model = NetworkModel(network, load_model("xray-ceph").preprocessing, name="own")
    detector = LandmarkDetector.from_labels(model, [pictures["first"]], [points])
    detector.save(tmp_path / "own.safetensors")
    again = LandmarkDetector.load(tmp_path / "own.safetensors")
    assert again.model.fingerprint == model.fingerprint
    assert again.names == points.names


def test_landmarks_of_one_name_are_not_learnt_as_one(pictures, points) -> None:
    """Both got the vector of the first, and were found at its place."""
    twice = Points(points.positions, (*points.names[:4], points.names[0]))
    with pytest.raises(InputError, match=rf"occur more than once: \['{points.names[0]}'\]"):
        LandmarkDetector.from_labels(load_model("xray-ceph"), [pictures["first"]], [twice])


def test_a_detector_that_cannot_learn_says_so(weights, pictures, points) -> None:
    model, images = load_model(weights), [pictures["first"]]
    in_pixels = Points(10 * points.positions, points.names)  # of 0.1 mm
    with pytest.raises(InputError, match=r"outside .*first\.png"):
        train_detector(model, images, [in_pixels], steps=1)
    apart = Points(np.array([[5.0, 5.0], [155.0, 5.0], [5.0, 195.0], [155.0, 195.0]]))
    with pytest.raises(InputError, match="none of 3 views"):
        train_detector(model, images, [apart], steps=3, views=replace(VIEWS, size=(32, 32)))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"steps": -3}, "steps must be"),
        ({"steps": 1.5}, "steps must be"),
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"precision": "half"}, "precision"),
        ({"seed": "zero"}, "seed"),
    ],
)
def test_odd_options_of_a_detector_are_named(pictures, points, option, said) -> None:
    """Negative steps were said to be small views, others ended in a traceback, and NaN made a detector of NaN."""
    with pytest.raises(InputError, match=said):
        train_detector(load_model("xray-ceph"), [pictures["first"]], [points], **option)


def test_a_detector_without_finite_gradients_is_not_made(pictures, points, monkeypatch) -> None:
    """Its weights were NaN; it was saved, and refused where it was to find landmarks."""
    network = CompactNetwork(ndim=2, fine=8, coarse=[8, 8], blocks=[1, 1], local_dim=8, global_dim=8)
    model = NetworkModel(network, load_model("xray-ceph").preprocessing, name="own")
    monkeypatch.setattr(detectors._Head, "loss", lambda head, local, *others: float("nan") * local.sum())
    with pytest.raises(InputError, match="not finite any more; lower learning_rate"):
        train_detector(model, [pictures["first"]], [points], steps=9, precision="float32")


def test_lists_of_images(images, tmp_path) -> None:
    listing = tmp_path / "some.txt"
    listing.write_text(f"{images / 'second.png'}\n\n")
    assert [path.name for path in list_images(listing)] == ["second.png"]
    listing.write_text("none.png\n")
    with pytest.raises(InputError, match=r"none\.png"):
        list_images(listing)


def test_folders_of_dicom_are_images_to_train_on(tmp_path) -> None:
    scan = Image.from_array(np.full((2, 4, 4), -1000.0, np.float32), spacing=4.0)
    write_dicom_series(scan, tmp_path / "scans" / "ANNA")
    write_image(scan, tmp_path / "scans" / "BOB.nii.gz")
    write_image(scan, tmp_path / "scans" / "labels" / "BOB.nii.gz")
    (tmp_path / "some.txt").write_text("scans/ANNA\nscans/BOB.nii.gz\n")
    for source in ("scans", "some.txt"):
        assert list(named_images(tmp_path / source)) == ["ANNA", "BOB"]


def test_an_image_without_a_body_is_named() -> None:
    ct = MODALITIES["ct"](2.0)
    air = Image.from_array(np.random.default_rng(0).normal(-1000, 20, (16, 16, 16)), spacing=4.0, name="air")
    with pytest.raises(InputError, match="air shows no body"):
        make_volume(air, ct, CPU)


def test_names_of_images_are_cut_at_their_suffix_alone(images, config, tmp_path) -> None:
    for name in ("p.1.png", "p.2.png"):
        shutil.copy(images / "first.png", tmp_path / name)
    assert [volume.name for volume in load_volumes(replace(config, images=str(tmp_path)), CPU)] == ["p.1", "p.2"]
    with pytest.raises(InputError, match=r"no images named p; there are p\.1, p\.2"):
        calibrate(tmp_path, load_model("xray-ceph"), [("p", "p.1")])
    shutil.copy(images / "first.png", tmp_path / "p.1.tif")
    with pytest.raises(InputError, match=r"share the name 'p\.1'"):
        load_volumes(replace(config, images=str(tmp_path)), CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"modality": "mr"}, "mr"), ({"patch": (32, 32, 32)}, "patch is 3D"), ({"network": {}}, "network ndim is 3D")],
)
def test_configuration_mistakes(config, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        replace(config, **changes)

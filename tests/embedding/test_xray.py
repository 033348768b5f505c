"""X-rays: what is accepted, how it is normalised, and the 2D network."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import samreg
from samreg.embedding import Encoder, encoder, load_model
from samreg.embedding.checkpoint import load_checkpoint, save_checkpoint
from samreg.embedding.compact import CompactNetwork, _blocks, _doubled
from samreg.embedding.ct import Preprocessing
from samreg.embedding.inference import embed_volume
from samreg.embedding.models import NetworkModel
from samreg.embedding.preprocessing import preprocessing_from_dict, preprocessing_to_dict
from samreg.embedding.registry import WEIGHTS, model_for
from samreg.embedding.xray import XrayPreprocessing, check_xray
from samreg.errors import InputError
from samreg.spatial import Image

CONFIG = {
    "ndim": 2, "fine": 16, "coarse": [16, 24, 24, 32], "blocks": [1, 1, 1, 1], "local_dim": 16, "global_dim": 16,
    "windows": [[0.0, 1.0]],
}  # fmt: skip

PICTURE, VOLUME = (Image.from_array(np.zeros((4,) * ndim, np.float32), spacing=1) for ndim in (2, 3))


@pytest.fixture(scope="module")
def network() -> CompactNetwork:
    torch.manual_seed(0)
    network = CompactNetwork(**CONFIG).eval()
    for parameter in network.parameters():  # the residual branches start at zero
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture(scope="module")
def model(network: CompactNetwork) -> NetworkModel:
    return NetworkModel(network, XrayPreprocessing(spacing=0.5), name="flat")


@pytest.fixture(scope="module")
def xray() -> Image:
    array = np.random.default_rng(0).normal(1000, 200, (90, 71))
    array[:, :20] = 300  # nothing to see
    return Image.from_array(array, spacing=(0.5, 0.5), origin=(10.0, 20.0))


def test_the_grids_are_where_the_image_is(model, xray) -> None:
    found = model.embed(xray, device="cpu")
    assert found.local.shape == (16, 45, 36)
    assert found.global_.shape == (16, 23, 18)
    np.testing.assert_allclose(found.local_grid.origin, xray.origin + 0.25)
    np.testing.assert_allclose(found.global_grid.origin, xray.origin + 0.75)
    np.testing.assert_allclose(found.local_grid.spacing, [1, 1])
    assert not found.body[:, :6].any()
    assert found.body[:, 14:-1].all()  # the last column lies half outside


def test_intensities_have_no_unit(model, xray) -> None:
    """Scaled and shifted intensities give the same vectors."""
    vectors = [model.embed(image, device="cpu").local for image in (xray, xray.with_array(3 * xray.array + 5000))]
    assert torch.allclose(vectors[0].float(), vectors[1].float(), atol=2e-2)
    scaled = XrayPreprocessing().normalise(xray.array.astype(np.float32))
    assert (scaled.min(), scaled.max()) == (0, 1)


def test_slabs_give_the_numbers_of_the_whole(network) -> None:
    picture = np.random.default_rng(0).uniform(0, 1, (62, 44)).astype(np.float32)
    with torch.inference_mode():
        whole = network(torch.from_numpy(picture)[None, None])
    slabs = embed_volume(network, picture, pad_value=0.0, slab=16, store=torch.float32)
    for a, b in zip(whole, slabs, strict=True):
        assert torch.allclose(a[0], b, atol=1e-4)


def test_cells_keep_their_place() -> None:
    places = torch.arange(16.0).expand(1, 1, 15, 16)
    cells = _blocks(places)
    assert cells.shape == (1, 4, 8, 8)
    assert torch.allclose(cells[0, :, 0].mean(dim=0), 2 * torch.arange(8.0) + 0.5)
    assert torch.equal(_doubled(places, (29, 31))[0, 0, 5], torch.arange(16.0).repeat_interleave(2)[:31])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.from_array(np.random.default_rng(0).random((40, 40, 40)), spacing=(1, 1, 1)), "3D image"),
        (Image.from_array(np.eye(50), spacing=(8, 8)), "pixel size"),
        (Image.from_array(np.eye(50), spacing=(0.02, 0.02)), "extent"),
        (Image.from_array(np.full((50, 50), 7.0), spacing=(1, 1)), "all pixels have the value 7"),
        (Image.from_array(np.where(np.eye(50) > 0, np.nan, 0), spacing=(1, 1)), "NaN"),
    ],
)
def test_what_is_no_xray_is_refused(image, message) -> None:
    with pytest.raises(InputError, match=message):
        check_xray(image)


@pytest.mark.parametrize("settings", [Preprocessing(spacing=3.0), XrayPreprocessing(0.4, (1, 98))])
def test_preprocessing_is_stored_with_the_model(settings) -> None:
    assert preprocessing_from_dict(preprocessing_to_dict(settings)) == settings


def test_preprocessing_mistakes(network) -> None:
    with pytest.raises(InputError, match="percentiles"):
        XrayPreprocessing(percentiles=(99, 1))
    with pytest.raises(ValueError, match="ultrasound"):
        preprocessing_from_dict({"modality": "ultrasound"})
    with pytest.raises(InputError, match="2D network and 3D"):
        NetworkModel(network, Preprocessing(), name="both")


def test_checkpoints_keep_dimension_and_modality(network, tmp_path, xray, model) -> None:
    path = tmp_path / "flat.safetensors"
    settings = model.preprocessing
    save_checkpoint(path, network, architecture="compact", name="flat", config=CONFIG, preprocessing=settings)
    assert load_checkpoint(path).preprocessing == settings
    again = load_model(path)
    assert again.ndim == 2
    assert again.identity == model.identity
    assert torch.equal(again.embed(xray, device="cpu").local, model.embed(xray, device="cpu").local)


@pytest.mark.parametrize("source", ["flat", "sam-random"])
def test_the_encoder_keeps_what_it_documents(source, model) -> None:
    backbone = encoder(model if source == "flat" else source)
    size = (64, 48) if backbone.ndim == 2 else (16, 64, 48)
    maps = backbone(torch.rand(1, 1, *size))
    assert len(maps) == len(backbone.strides) == len(backbone.channels) == (5 if source == "flat" else 4)
    for features, stride, channels in zip(maps, backbone.strides, backbone.channels, strict=True):
        assert features.shape == (1, channels, *(-(-n // s) for n, s in zip(size, stride, strict=True)))
    maps[0].sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in backbone.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


def test_the_encoder_is_a_copy_with_or_without_the_weights(model, xray) -> None:
    def weights(backbone: Encoder) -> torch.Tensor:
        return backbone.network.coarse_stem.weight

    before = model.network.coarse_stem.weight.clone()
    pretrained, random, again, other = (
        encoder(model, **options)
        for options in ({}, {"pretrained": False}, {"pretrained": False}, {"pretrained": False, "seed": 1})
    )
    assert torch.equal(weights(pretrained), before)
    assert not torch.equal(weights(random), before)
    assert torch.equal(weights(random), weights(again))
    assert not torch.equal(weights(random), weights(other))
    assert torch.equal(model.network.coarse_stem.weight, before)
    assert not random.network.stages[0][0].body[-1].weight.any()  # blocks start as the identity
    prepared = pretrained.prepare(xray.array)
    assert prepared.shape == (1, 1, 90, 71)
    with pytest.raises(InputError, match="no network"):
        encoder("mind")


def test_models_known_by_name_are_loaded_once(tmp_path):
    default = model_for(None, PICTURE)
    assert default.identity == load_model("xray-ceph").identity
    assert model_for("xray-ceph", PICTURE) is default
    assert load_model("xray-ceph") is not default  # one's own, to be changed
    assert model_for(default, VOLUME) is default
    # files may change
    path = tmp_path / "weights.safetensors"
    shutil.copy(WEIGHTS / "xray-ceph.safetensors", path)
    assert model_for(path, PICTURE) is not model_for(path, PICTURE)
    with pytest.raises(InputError, match="unknown model 'xray'"):
        model_for("xray", PICTURE)


@pytest.mark.parametrize("background", [-1000.0, -1024.0, -3024.0])  # air, and what scanners pad with
def test_a_slice_of_a_ct_is_no_xray(background):
    y, x = np.mgrid[-60:60, -80:80]
    hu = np.where((x / 70.0) ** 2 + (y / 50.0) ** 2 < 1, 40.0 + x / 9.0, background)
    image = Image.from_array(hu.astype(np.float32), spacing=2.0)
    with pytest.raises(InputError, match="Hounsfield units, a slice of a CT"):
        samreg.embed(image)


def test_what_the_default_for_pictures_knows_is_said():
    texture = np.random.default_rng(0).normal(100, 30, (160, 160)).astype(np.float32)
    image = Image.from_array(texture, spacing=0.6)
    result = samreg.register(image, image, method="embedding", transform="rigid")
    assert any("lateral X-rays of the skull" in note for note in result.flags)
    assert samreg.register(image, image, method="embedding", transform="rigid", model="xray-ceph").notes == ()

"""The segmentation U-Net on a tiny 2D backbone: where its decoder puts things, and which labels it takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from samreg.embedding import NetworkModel, XrayPreprocessing, encoder
from samreg.embedding.compact import CompactNetwork
from samreg.errors import InputError
from samreg.spatial import Image, write_image

spec = importlib.util.spec_from_file_location("unet", Path(__file__).parents[2] / "pipelines" / "segmentation_unet.py")
unet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(unet)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    network = CompactNetwork(ndim=2, fine=8, coarse=[8, 8, 8], blocks=[1, 1, 1], windows=[[0.0, 1.0]])
    return encoder(NetworkModel(network, XrayPreprocessing(spacing=1.0), name="tiny"))


@pytest.fixture(scope="module")
def image():
    return Image.from_array(np.random.default_rng(0).integers(0, 255, (61, 75)).astype(np.uint8))


def test_odd_sizes_are_not_stretched(backbone):
    """A picture of any size has the logits that it has with black beside it."""
    network = unet.Unet(backbone, 3).eval()
    x = torch.rand(1, 1, 61, 75, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network(F.pad(x, (0, 5, 0, 3)))  # to multiples of 16
        assert torch.allclose(network(x), whole[..., :61, :75], atol=1e-5)


def test_labels_beyond_eight_bits_are_kept(backbone, image):
    network = unet.Unet(backbone, 2).eval()
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.tensor([0.0, 1.0])
    assert np.unique(unet.segment(network, image, [300]).array).tolist() == [300]


@pytest.mark.parametrize(
    ("other", "out", "says"),
    [("image.nii.gz", "out.xyz", "cannot write out.xyz"), ("none.nii.gz", "out.nii.gz", "none.nii.gz")],
)
def test_what_would_fail_after_the_training_is_refused_before(other, out, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unet, "train", lambda *_, **__: pytest.fail("trained for nothing"))
    volume = np.full((20, 20, 20), 40, np.int16)
    write_image(Image.from_array(volume, spacing=(2, 2, 2)), "image.nii.gz")
    write_image(Image.from_array((volume > 0).astype(np.uint8), spacing=(2, 2, 2)), "labels.nii.gz")
    with pytest.raises(SystemExit) as ended:
        unet.main(["image.nii.gz", "labels.nii.gz", other, "-o", out])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_labels_that_do_not_occur_are_named(backbone, image):
    labels = image.with_array((image.array > 100).astype(np.uint8))
    with pytest.raises(InputError, match=r"\[7\]"):
        unet.train(backbone, image, labels, [1, 7], steps=1)

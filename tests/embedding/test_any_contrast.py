"""Images whose intensities have no unit: what the model sees of them, where the body is, and when it is chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import samreg
from samreg.embedding.any_contrast import AnyContrastPreprocessing, check_any_contrast
from samreg.embedding.checkpoint import load_checkpoint, save_checkpoint
from samreg.embedding.compact import CompactNetwork
from samreg.embedding.models import NetworkModel
from samreg.embedding.registry import default_for, default_notes, model_for
from samreg.errors import InputError
from samreg.spatial import Grid
from samreg.spatial.image import Image
from tests.embedding.test_preprocessing import phantom

SETTINGS = AnyContrastPreprocessing()


def as_mr(image: Image) -> Image:
    """Return the scan with dark bone and lung, bright fat and a dark background, as T1-weighted MR has them."""
    values = np.interp(image.array, [-1000, -850, -100, 40, 300], [0, 60, 900, 400, 100])
    return image.with_array((values + np.random.default_rng(0).normal(0, 3, image.shape)).astype(np.float32))


@pytest.mark.parametrize(("slope", "offset"), [(0.01, 3.0), (40.0, -7000.0)])
def test_gain_and_offset_of_an_image_change_nothing(slope, offset):
    image = as_mr(phantom())
    other = (slope * image.array + offset).astype(np.float32)
    np.testing.assert_allclose(SETTINGS.normalise(other), SETTINGS.normalise(image.array), atol=1e-3)
    assert (SETTINGS.body(image.with_array(other)) == SETTINGS.body(image)).mean() > 0.999


@pytest.mark.parametrize("negative", [False, True])
def test_the_body_is_found_whatever_is_bright(negative):
    image = as_mr(phantom())
    truth = phantom().array > -900
    truth[:, -8:] = False  # the table
    if negative:
        image = image.with_array(-image.array)
    body = SETTINGS.body(image)
    assert (body & truth).sum() > 0.97 * truth.sum()
    assert (body & ~truth).sum() < 0.12 * truth.sum()


def test_what_shows_no_body_is_refused():
    with pytest.raises(InputError, match="all voxels have the value 7"):
        check_any_contrast(Image.from_array(np.full((8, 8, 8), 7, np.int16), spacing=3))
    labels = (phantom().array > -900).astype(np.uint8)
    with pytest.raises(InputError, match="are labels"):
        samreg.match(Image.from_array(labels, spacing=3), [[30.0, 60.0, 60.0]], phantom())
    with pytest.raises(InputError, match="2D"):
        check_any_contrast(Image.from_array(np.eye(8), spacing=(1, 1)))


@pytest.mark.parametrize("values", [{"percentiles": (50, 10)}, {"spacing": 0.0}])
def test_settings_that_cannot_be_are_refused(values):
    with pytest.raises(InputError, match=next(iter(values))):
        AnyContrastPreprocessing(**values)


def test_a_checkpoint_keeps_the_settings(tmp_path):
    network = CompactNetwork(fine=8, coarse=(8, 8), blocks=(1, 1), windows=((0.0, 1.0),))
    config = {"fine": 8, "coarse": (8, 8), "blocks": (1, 1), "windows": ((0.0, 1.0),)}
    settings = AnyContrastPreprocessing(spacing=3.0, percentiles=(1, 99))
    path = tmp_path / "any.safetensors"
    save_checkpoint(path, network, architecture="compact", name="any", config=config, preprocessing=settings)
    assert load_checkpoint(path).preprocessing == settings


def test_embeddings_are_those_of_the_image_however_it_is_scaled():
    torch.manual_seed(0)
    network = CompactNetwork(fine=8, coarse=(8, 8), blocks=(1, 1), windows=((0.0, 1.0),))
    model = NetworkModel(network, SETTINGS, name="any")
    image = as_mr(phantom())
    first = model.embed(image, device="cpu")
    second = model.embed(image.with_array(5 * image.array + 100), device="cpu")
    assert torch.nn.functional.cosine_similarity(first.local.float(), second.local.float(), dim=0).min() > 0.999


def test_the_default_model_is_that_of_the_images_together():
    ct, mr = phantom(), as_mr(phantom())
    assert default_for(ct, ct) == "ct-small"
    assert default_for(ct, mr) == default_for(mr, ct) == default_for(mr) == "any-small"
    assert model_for(None, ct, mr) is model_for("any-small", ct)
    assert default_notes(ct, ct) == ()
    assert "phantom" in default_notes(mr, ct)[0]
    assert "rescale slope" in default_notes(mr, ct)[0]


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_a_ct_that_shows_no_air_around_the_body_is_noted(axes):
    """A background of 0 put matches tens of mm off, unsaid."""
    ct = phantom()
    grid = Grid(tuple(np.array(ct.shape)[list(axes)]), ct.origin, ct.spacing, np.eye(3)[:, [2 - a for a in axes[::-1]]])
    for change, value in ((lambda hu: np.where(hu < -900, 0, hu), "0"), (lambda hu: np.clip(hu, -160, 240), "-160")):
        changed = Image(change(ct.array).transpose(axes), grid, "changed")
        (note,) = default_notes(ct, changed)
        assert note.startswith(f"changed: {value} HU in ")
        assert "set the background to -1024" in note


def test_an_empty_image_gets_the_refusal_of_ct():
    empty = Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=3, name="empty.nii")
    with pytest.raises(InputError, match=r"empty\.nii"):
        samreg.embed(empty)


def test_mr_is_matched_to_ct_and_it_is_said():
    ct, mr = phantom(), as_mr(phantom())
    points = [[20.0, -20.0, 90.0], [-30.0, -10.0, 60.0]]
    matches = samreg.match(ct, points, mr)
    assert any("any-small" in note for note in matches.notes)
    assert np.linalg.norm(matches.points - points, axis=1).max() < 15


def test_embed_warns_and_lesions_are_tracked_in_ct_alone(caplog):
    mr = as_mr(phantom())
    assert samreg.embed(mr).model.startswith("any-small@")
    assert "are not Hounsfield units" in caplog.text
    mr = mr.with_array(np.maximum(mr.array, 0))
    with pytest.raises(InputError, match="Hounsfield"):
        samreg.track(mr, mr, [[20.0, -20.0, 90.0]], radii=[8.0])

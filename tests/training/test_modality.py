"""Intensities of the views of any contrast: random, between 0 and 1, and on the same tissue everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samreg.errors import InputError
from samreg.training.augment import View, draw_view
from samreg.training.config import TrainingConfig
from samreg.training.data import Volume, make_volume
from samreg.training.modality import AnyContrast, Ct, remapped
from samreg.training.prepare import prepare
from samreg.training.views import ViewConfig
from tests.embedding.test_preprocessing import phantom

PLAIN = ViewConfig(warp=0, size=(20, 30, 40), crop=1, crop_in_plane=0, lesion=0, blur=0, shading=0, noise=0, mirror=0)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return make_volume(phantom(), AnyContrast(3.0), torch.device("cpu"))


def draw(volume: Volume, seed: int, views: ViewConfig = PLAIN) -> View:
    generator = torch.Generator().manual_seed(seed)
    return draw_view(volume, volume.extent / 2, views, generator, smallest=(8, 8, 8), mirror=False)


def test_views_lie_between_0_and_1_and_differ_in_contrast(volume):
    views = [draw(volume, seed) for seed in range(12)]
    for view in views:
        assert 0 <= view.coarse.min() < 0.05
        assert 0.95 < view.coarse.max() <= 1
    body_then_lung = []
    for view in views:
        ball = [
            view.warp.to_view(torch.tensor([place]))[0][0] - view.first
            for place in ([118.0, 30.0, 60.0], [72.0, 80.0, 60.0])
        ]
        body_then_lung.append([view.coarse[(0, 0, *(p / view.step).round().int().flip(0))].item() for p in ball])
    brighter = [body > lung for body, lung in body_then_lung]
    assert 0 < sum(brighter) < len(brighter)  # now the one is brighter, now the other


def test_fine_patches_are_normalised_as_the_whole_view_is(volume):
    view = draw(volume, 3)
    whole = torch.nn.functional.avg_pool3d(view.whole(), 2)
    assert (whole - view.coarse).abs().mean() < 0.08  # of averaging before and after the curve of intensities


def test_a_view_is_the_same_when_drawn_again(volume):
    views = ViewConfig(size=(20, 30, 40))
    torch.testing.assert_close(draw(volume, 5, views).coarse, draw(volume, 5, views).coarse)


def test_ct_and_any_contrast_are_trained_from_one_prepared_file(tmp_path):
    from samreg.spatial import write_image

    write_image(phantom(), tmp_path / "scans" / "ANNA.nii.gz")
    path = prepare(tmp_path / "scans", tmp_path / "prepared.npz", modality="any", spacing=3.0)
    from samreg.training.data import load_volumes

    volumes = {
        kind: load_volumes(
            TrainingConfig(images=str(path), output="", modality=kind, spacing=3.0), torch.device("cpu")
        )[0]
        for kind in ("ct", "any")
    }  # fmt: skip
    torch.testing.assert_close(volumes["ct"].fine, volumes["any"].fine)
    assert isinstance(volumes["any"].modality, AnyContrast)
    assert type(volumes["ct"].modality) is Ct


def test_any_contrast_is_made_from_ct_alone():
    image = phantom()
    with pytest.raises(InputError, match="Hounsfield"):
        make_volume(image.with_array((image.array + 1024).astype(np.int16)), AnyContrast(3.0), torch.device("cpu"))


def test_remapped_intensities_are_one_curve_of_the_hounsfield_units():
    image = phantom()
    others = [remapped(image, seed=seed).array for seed in range(3)]
    for array in others:
        assert 0 <= array.min() <= array.max() <= 1000
        for value in (-1000, -850, 40):
            assert np.ptp(array[image.array == value]) == 0
    assert np.abs(others[0] - others[2]).max() > 50
    np.testing.assert_array_equal(others[0], remapped(image, seed=0).array)

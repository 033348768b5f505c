"""Views of a linear ramp, which interpolation keeps as it is: what they show tells where every voxel lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from samreg.training.augment import View, draw_view
from samreg.training.data import Volume, halved, sample
from samreg.training.modality import Ct, Intensity
from samreg.training.views import ViewConfig

SPACING = 2.0
CLOSE = {"atol": 1e-3, "rtol": 0}  # half a voxel along any axis changes the ramp by at least four times as much


class Unchanged(Ct):
    """Intensities as they are stored."""

    def draw_intensity(self, points, edge, config, generator) -> Intensity:
        ndim, knots = points.shape[-1], torch.tensor([0.0, 4.0])
        return Intensity(knots, knots, torch.zeros(0, ndim + 2), (1,) * ndim, 0.0, 0, air=0.0, edge=edge)


def ramp(points: torch.Tensor) -> torch.Tensor:
    """Intensities at points (..., d), mm."""
    return 0.1 + points @ torch.tensor([0.004, 0.007, 0.011])[: points.shape[-1]]


@pytest.fixture(scope="module", params=[2, 3])
def volume(request) -> Volume:
    """A box of about 100 mm."""
    axes = [SPACING * torch.arange(float(n)) for n in (48, 52, 56)[-request.param :]]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
    fine = ramp(points)[None, None]
    body = points[(slice(None, None, 2),) * request.param].reshape(-1, request.param) + SPACING / 2
    return Volume("ramp", Unchanged(SPACING), SPACING, fine, halved(fine), body, np.zeros(request.param))


def draw(volume: Volume, *, warp: float, mirror: bool = False) -> View:
    """Draw a view of 40 mm that lies inside."""
    size = (10,) * volume.ndim
    views = ViewConfig(warp=warp, size=size, crop=1.0, rotation=10, scale=1.1, anisotropy=1.05)
    generator = torch.Generator().manual_seed(3)
    return draw_view(volume, volume.extent / 2, views, generator, smallest=size, mirror=mirror)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_view_shows_at_a_tracked_point_what_the_volume_shows_there(volume, mirror):
    view = draw(volume, warp=0.0, mirror=mirror)
    assert (torch.linalg.det(view.warp.matrix) < 0) == mirror
    points, converged = view.warp.to_view(volume.body)
    kept = converged & view.contains(points, margin=view.step)
    assert kept.sum() > 7**volume.ndim
    found = sample(view.coarse, points[kept] - view.first, spacing=view.step, first=0.0)[0]
    torch.testing.assert_close(found, ramp(volume.body[kept]), **CLOSE)


@pytest.mark.parametrize("warp", [0.0, 0.3])
def test_fine_voxels_lie_where_the_warp_puts_them(volume, warp):
    view = draw(volume, warp=warp)
    torch.testing.assert_close(view.whole()[0, 0], ramp(view.warp.to_volume(view.fine_points())), **CLOSE)


def test_patches_continue_the_coarse_view(volume):
    view = draw(volume, warp=0.0)
    start, size = torch.tensor([1, 2, 3])[: volume.ndim], (6, 8, 10)[: volume.ndim]
    pool = F.avg_pool2d if volume.ndim == 2 else F.avg_pool3d
    cut = tuple(slice(int(s), int(s) + n // 2) for s, n in zip(start, size, strict=True))
    torch.testing.assert_close(pool(view.patch(start, size), 2), view.coarse[(..., *cut)], **CLOSE)


def test_a_warp_is_inverted(volume):
    view = draw(volume, warp=0.3)
    points, converged = view.warp.to_view(volume.body)
    assert converged.float().mean() > 0.99
    assert view.warp.displacement(points).norm(dim=1).max() > 1
    assert torch.allclose(view.warp.to_volume(points[converged]), volume.body[converged], atol=0.3)

"""How alike two volumes are, as losses that torch differentiates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from samreg.engines.torch_engine.volumes import pooled

_NOISE = 0.03  # standard deviation below which a window holds nothing to compare, of intensities between 0 and 1

Loss = Callable[[Tensor, Tensor], Tensor]


def local_correlation(fixed: Tensor, weight: Tensor, *, window: int) -> Loss:
    """Return a loss: one minus the mean squared local correlation with `fixed`, (1, 1, *shape).

    Windows of `window` voxels, half a window apart, count by the mean of their weight (1, 1, *shape) and by how much
    structure they hold: the squared correlation is cov^2 / (var var + noise^4) (Cachier et al., CVIU 2003; Avants
    et al., MedIA 2008, equation 8). Flat windows then neither attract nor repel.
    """
    half = max(1, min(window, *fixed.shape[2:]) // 2)

    def mean(volume: Tensor) -> Tensor:
        return pooled(pooled(volume, half), 2, stride=1)

    share = mean(weight)
    scale = 1 / share.clamp(min=1e-3)
    fixed_mean = mean(fixed * weight) * scale
    fixed_variance = (mean(fixed * fixed * weight) * scale - fixed_mean**2).clamp(min=0)
    share = share * (fixed_variance / (fixed_variance + _NOISE**2))

    def loss(moving: Tensor, seen: Tensor) -> Tensor:
        w = weight * seen
        inside = mean(w)
        inverse = 1 / inside.clamp(min=1e-3)
        parts = mean(torch.cat([moving * w, moving * moving * w, fixed * moving * w, fixed * w, fixed * fixed * w], 1))
        m, mm, fm, f, ff = (parts * inverse).split(1, dim=1)
        covariance = fm - f * m
        product = (ff - f * f).clamp(min=0) * (mm - m * m).clamp(min=0)
        correlation = covariance * covariance.abs() / (product + _NOISE**4)
        counted = share * (inside > 0.3).float()
        return 1 - (counted * correlation).sum() / counted.sum().clamp(min=1e-6)

    return loss


def squared_distance(fixed: Tensor, weight: Tensor) -> Loss:
    """Return a loss: the mean squared distance from feature vectors `fixed`, (1, C, *shape).

    For unit vectors half of it is one minus their dot product; returned is that half.
    """

    def loss(moving: Tensor, seen: Tensor) -> Tensor:
        w = weight * seen
        distance = (fixed - moving).square().sum(dim=1, keepdim=True)
        return 0.5 * (w * distance).sum() / w.sum().clamp(min=1e-6)

    return loss

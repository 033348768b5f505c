"""How alike two volumes are, as losses that torch differentiates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from samreg.engines.torch_engine.volumes import pooled

_NOISE_LEVEL = 0.03  # standard deviation below which a window holds nothing to compare, of intensities between 0 and 1

# of the warped moving volume and where it is seen: the sum over all places, and of their weights, so that tiles add up
Loss = Callable[[Tensor, Tensor], Tensor]


def local_correlation(fixed: Tensor, weight: Tensor, *, half: int) -> Loss:
    """Return a loss: one minus the mean squared local correlation with ``fixed``, (1, 1, *shape).

    Windows of twice ``half`` voxels, ``half`` apart, count by the mean of their weight (1, 1, *shape) and by how much
    structure they hold: the squared correlation is cov^2 / (var var + noise^4) (Cachier et al., CVIU 2003; Avants
    et al., MedIA 2008, equation 8). Flat windows then neither attract nor repel.
    """

    def average(volume: Tensor) -> Tensor:
        return pooled(pooled(volume, half), 2, stride=1)

    share = average(weight)
    scale = 1 / share.clamp(min=1e-3)
    fixed_mean = average(fixed * weight) * scale
    fixed_variance = (average(fixed * fixed * weight) * scale - fixed_mean**2).clamp(min=0)
    share = share * (fixed_variance / (fixed_variance + _NOISE_LEVEL**2))

    def loss(moving: Tensor, seen: Tensor) -> Tensor:
        w = weight * seen
        inside = average(w)
        inverse = 1 / inside.clamp(min=1e-3)
        products = [moving * w, moving * moving * w, fixed * moving * w, fixed * w, fixed * fixed * w]
        m, mm, fm, f, ff = (average(torch.cat(products, 1)) * inverse).split(1, dim=1)
        covariance = fm - f * m
        product = (ff - f * f).clamp(min=0) * (mm - m * m).clamp(min=0)
        correlation = covariance * covariance.abs() / (product + _NOISE_LEVEL**4)
        counted = share * (inside > 0.3).float()
        return torch.stack([(counted * (1 - correlation)).sum(), counted.sum()])

    return loss


def squared_distance(fixed: Tensor, weight: Tensor, *, scale: float = 1.0) -> Loss:
    """Return a loss: the mean squared distance from feature vectors ``fixed``, (1, C, *shape), times half the scale.

    For unit vectors half of it is one minus their dot product.
    """

    def loss(moving: Tensor, seen: Tensor) -> Tensor:
        w = weight * seen
        distance = (fixed - moving).square().sum(dim=1, keepdim=True)
        return torch.stack([0.5 * scale * (w * distance).sum(), w.sum()])

    return loss


def mean(total: Tensor) -> Tensor:
    """Return the mean of what a loss has summed."""
    return total[0] / total[1].clamp(min=1e-6)

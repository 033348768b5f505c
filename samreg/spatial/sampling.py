"""Sampling a volume at many places, in parallel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 10_000  # places for each thread
_MOST = 4  # threads where the volume has a gradient, of which each holds its own


def sampled(volume: Tensor, at: Tensor, *, align_corners: bool = False) -> Tensor:
    """Return a volume at other places, linearly, its border repeated outwards.

    Parameters
    ----------
    volume
        (1, C, *shape).
    at
        (*other, d) normalised positions, components (x, y(, z)).
    align_corners
        Whether -1 and 1 are the centres of the outermost voxels, or their outer borders.

    Returns
    -------
    Tensor
        (1, C, *other).
    """
    import torch
    import torch.nn.functional as F

    *other, ndim = at.shape
    count = math.prod(other)
    shares = 1
    if volume.device.type == "cpu":
        # there torch gives each member of a batch to one thread, and a batch of one to one alone
        threads = torch.get_num_threads()
        shares = max(1, min(min(threads, _MOST) if volume.requires_grad else threads, count // _LEAST))
    places = at.reshape(count, ndim)
    if count % shares:
        places = F.pad(places, (0, 0, 0, -count % shares))
    found = F.grid_sample(
        volume.expand(shares, *volume.shape[1:]),
        places.reshape(shares, *[1] * (ndim - 1), -1, ndim),
        padding_mode="border",
        align_corners=align_corners,
    )
    return found.movedim(1, 0).reshape(volume.shape[1], -1)[:, :count].reshape(1, volume.shape[1], *other)

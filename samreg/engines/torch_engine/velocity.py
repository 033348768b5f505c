"""A stationary velocity field: the forward and the inverse displacement from one field, smooth and without folds."""

from __future__ import annotations

import torch
from torch import Tensor

from samreg.engines.torch_engine.volumes import moved, positions, sampled

_SQUARINGS = 5


def exponential(velocity: Tensor, extent: Tensor) -> Tensor:
    """Return the displacement (1, d, *shape), mm, of flowing along a velocity (1, d, *shape), mm, for unit time.

    Scaling and squaring (Arsigny et al., MICCAI 2006); the flow along the negative velocity is the inverse.
    """
    at = positions(velocity.shape[2:], velocity.device)
    displacement = velocity / 2**_SQUARINGS
    for _ in range(_SQUARINGS):
        displacement = displacement + sampled(displacement, moved(displacement, extent, at))
    return displacement


def roughness(velocity: Tensor, spacing: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squared first and second derivatives of a velocity (1, d, *shape), mm; spacing (d,) mm."""
    ndim = velocity.ndim - 2
    first = velocity.new_zeros(())
    second = velocity.new_zeros(())
    for axis in range(ndim):
        slope = velocity.diff(dim=2 + axis) / spacing[ndim - 1 - axis]
        first = first + slope.square().mean()
        for other in range(axis, ndim):
            bend = slope.diff(dim=2 + other) / spacing[ndim - 1 - other]
            second = second + (1 if other == axis else 2) * bend.square().mean()
    return first, second


def jacobian(displacement: Tensor, extent: Tensor) -> Tensor:
    """Return the determinant (1, 1, *shape) of the Jacobian of x + u(x) for a displacement u (1, d, *shape), mm."""
    shape = displacement.shape[2:]
    spacing = (extent / torch.tensor(shape[::-1], device=extent.device)).tolist()
    # dims of a component's array run z, y, x
    slopes = [torch.gradient(u, spacing=spacing[::-1])[::-1] for u in displacement[0]]
    rows = [torch.stack([s + float(i == j) for j, s in enumerate(row)], dim=-1) for i, row in enumerate(slopes)]
    return torch.linalg.det(torch.stack(rows, dim=-2))[None, None]

"""A stationary velocity field: the forward and the inverse displacement from one field, smooth and without folds."""

from __future__ import annotations

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

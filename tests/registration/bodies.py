"""Phantoms scanned over a short stretch of the chest, which are embedded and matched in a fraction of the time."""

from __future__ import annotations

from samreg.phantoms.phantom import PhantomPair, correspondence, make_phantom


def short_pair(spacing: float, field_of_view: tuple[float, float]) -> PhantomPair:
    """Return phantoms 1 and 2 from one level to another, mm above the carina, and the truth between them."""
    fixed, moving = (make_phantom(person, spacing=spacing, field_of_view=field_of_view) for person in (1, 2))
    shared = [name for name in fixed.landmarks.names if name in moving.landmarks.names]
    return PhantomPair(
        fixed, moving, correspondence(fixed, moving), fixed.landmarks.named(shared), moving.landmarks.named(shared)
    )

"""Correspondences to transforms: a robust affine, a smooth displacement field, and when to refuse."""

from samreg.seeding.affine import AffineFit, fit_affine
from samreg.seeding.field import fit_displacement

__all__ = ["AffineFit", "fit_affine", "fit_displacement"]

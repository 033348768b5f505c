"""Correspondences to transforms: a robust affine, a smooth displacement field, and when to refuse."""

from samreg.seeding.affine import AffineFit, fit_affine
from samreg.seeding.field import fit_displacement
from samreg.seeding.local import predict_locally
from samreg.seeding.orientation import OrientedSeed, seed_any_orientation
from samreg.seeding.seed import Seed, global_affine, make_seed

__all__ = [
    "AffineFit",
    "OrientedSeed",
    "Seed",
    "fit_affine",
    "fit_displacement",
    "global_affine",
    "make_seed",
    "predict_locally",
    "seed_any_orientation",
]

"""How good a registration is: against landmarks and labels, and without any ground truth."""

from samreg.quality.deformation import JacobianStatistics, jacobian_statistics
from samreg.quality.labels import dice, hd95, mean_surface_distance, surface_distances
from samreg.quality.landmarks import (
    ErrorSummary,
    LandmarkErrors,
    summarise_errors,
    target_registration_error,
)
from samreg.quality.similarity import ncc

__all__ = [
    "ErrorSummary",
    "JacobianStatistics",
    "LandmarkErrors",
    "dice",
    "hd95",
    "jacobian_statistics",
    "mean_surface_distance",
    "ncc",
    "summarise_errors",
    "surface_distances",
    "target_registration_error",
]

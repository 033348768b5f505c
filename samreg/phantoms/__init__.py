"""Synthetic chests and follow-up scans whose true correspondence is known everywhere."""

from samreg.phantoms.anatomy import LABELS, LANDMARK_NAMES
from samreg.phantoms.dicom import write_dicom_series
from samreg.phantoms.followup import FollowUp, Lesions, simulate_followup
from samreg.phantoms.phantom import Phantom, PhantomPair, correspondence, make_phantom, phantom_pair

__all__ = [
    "LABELS",
    "LANDMARK_NAMES",
    "FollowUp",
    "Lesions",
    "Phantom",
    "PhantomPair",
    "correspondence",
    "make_phantom",
    "phantom_pair",
    "simulate_followup",
    "write_dicom_series",
]

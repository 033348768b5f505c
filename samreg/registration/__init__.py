"""register(): two scans in, a transform, its quality and a folder of results out; register_many(): many of them."""

from samreg.registration.batch import register_many
from samreg.registration.misses import LandmarkMisses, RegionMisses
from samreg.registration.outcome import PairOutcome
from samreg.registration.pairs import RegistrationPair, pairs_in_folder, read_registration_pairs
from samreg.registration.quality import landmark_errors, quality_flags, registration_quality
from samreg.registration.register import register
from samreg.registration.result import RegistrationResult
from samreg.registration.verdict import Verdict

__all__ = [
    "LandmarkMisses",
    "PairOutcome",
    "RegionMisses",
    "RegistrationPair",
    "RegistrationResult",
    "Verdict",
    "landmark_errors",
    "pairs_in_folder",
    "quality_flags",
    "read_registration_pairs",
    "register",
    "register_many",
    "registration_quality",
]

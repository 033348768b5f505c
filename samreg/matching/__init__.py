"""Two embeddings to correspondences: search, sub-voxel refinement, consistency, reliability."""

from samreg.matching.correspondences import Correspondences
from samreg.matching.features import Features, features, interpolate
from samreg.matching.matching import lattice, match_points, stable_matches
from samreg.matching.reliability import Calibration, ExpectedError, fit_calibration, fit_expected_error
from samreg.matching.search import Prediction, find
from samreg.matching.votes import Neighbourhoods, Votes, geometric_median, neighbourhoods, vote, vote_of

__all__ = [
    "Calibration",
    "Correspondences",
    "ExpectedError",
    "Features",
    "Neighbourhoods",
    "Prediction",
    "Votes",
    "features",
    "find",
    "fit_calibration",
    "fit_expected_error",
    "geometric_median",
    "interpolate",
    "lattice",
    "match_points",
    "neighbourhoods",
    "stable_matches",
    "vote",
    "vote_of",
]

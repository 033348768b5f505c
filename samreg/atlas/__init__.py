"""Templates of many subjects."""

from samreg.atlas.api import build_atlas
from samreg.atlas.average import Average, LandmarkSpread, average, landmark_spread, probability, sharpened, sharpness
from samreg.atlas.frame import common_frame, common_grid, mean_affine, shape_update
from samreg.atlas.result import Atlas, Convergence
from samreg.atlas.steps import body_of

__all__ = [
    "Atlas",
    "Average",
    "Convergence",
    "LandmarkSpread",
    "average",
    "body_of",
    "build_atlas",
    "common_frame",
    "common_grid",
    "landmark_spread",
    "mean_affine",
    "probability",
    "shape_update",
    "sharpened",
    "sharpness",
]

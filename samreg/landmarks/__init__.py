"""Landmarks in other images: those of templates, one by one, by vote, in folders; of an atlas; of trained detectors."""

from samreg.landmarks.atlas import LandmarkAtlas
from samreg.landmarks.build import build_landmark_atlas
from samreg.landmarks.find import FoundLandmarks, find_landmarks
from samreg.landmarks.folder import match_folder
from samreg.landmarks.match import LandmarkMatches, match
from samreg.landmarks.templates import Template, TemplateMatches, match_set, read_templates, template_scores

__all__ = [
    "FoundLandmarks",
    "LandmarkAtlas",
    "LandmarkMatches",
    "Template",
    "TemplateMatches",
    "build_landmark_atlas",
    "find_landmarks",
    "match",
    "match_folder",
    "match_set",
    "read_templates",
    "template_scores",
]

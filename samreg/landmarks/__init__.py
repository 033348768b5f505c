"""Landmarks of templates found in other images, one by one, by vote, in folders; and trained detectors."""

from samreg.landmarks.folder import match_folder
from samreg.landmarks.match import LandmarkMatches, match
from samreg.landmarks.templates import Template, TemplateMatches, match_set, read_templates, template_scores

__all__ = [
    "LandmarkMatches",
    "Template",
    "TemplateMatches",
    "match",
    "match_folder",
    "match_set",
    "read_templates",
    "template_scores",
]

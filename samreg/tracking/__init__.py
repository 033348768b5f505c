"""Lesions followed from one visit to the next."""

from samreg.tracking.accuracy import TrackingErrors, tracking_errors
from samreg.tracking.batch import track_pairs
from samreg.tracking.dlt import read_dlt
from samreg.tracking.lesions import Lesions, as_lesions
from samreg.tracking.pairs import LesionPair, VoxelLesions, read_pairs
from samreg.tracking.result import LesionTracks, TrackedLesion
from samreg.tracking.size import Extent, NotGrown, grow
from samreg.tracking.track import track

__all__ = [
    "Extent",
    "LesionPair",
    "LesionTracks",
    "Lesions",
    "NotGrown",
    "TrackedLesion",
    "TrackingErrors",
    "VoxelLesions",
    "as_lesions",
    "grow",
    "read_dlt",
    "read_pairs",
    "track",
    "track_pairs",
    "tracking_errors",
]

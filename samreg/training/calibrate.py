"""Calibrating reliability on training volumes: which matches between people are right, and how sure they look."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samreg.embedding.embedding import Embedding
from samreg.embedding.models import EmbeddingModel
from samreg.errors import InputError
from samreg.matching.features import features
from samreg.matching.matching import lattice, match_points
from samreg.matching.reliability import Calibration, fit_calibration
from samreg.spatial import as_image
from samreg.training.cross_subject import FittedMap, fit_map
from samreg.training.data import list_images

logger = logging.getLogger(__name__)

_LATTICE = 20.0  # mm, between the points matched
_BEYOND = 15.0  # mm outside the moving image: there is no match to find
_TRUSTED = 0.5


def calibrate(
    images: str | os.PathLike[str],
    model: EmbeddingModel,
    pairs: Sequence[tuple[str, str]],
    *,
    tolerance: float = 15.0,
    seed: int = 0,
) -> Calibration:
    """Fit the reliability of a model to its matches between training volumes.

    A match is right within `tolerance` of the smooth map through the consistent matches, where that map can be
    trusted; any match is wrong where the map leads out of the other image.

    Parameters
    ----------
    images : path-like
        Folder of CT volumes.
    model : EmbeddingModel
    pairs : sequence of (str, str)
        Names of the volumes, fixed and moving.
    tolerance : float
        mm.
    seed : int

    Raises
    ------
    InputError
        When no pair gives a map.
    """
    paths = {path.name.split(".")[0]: path for path in list_images(images)}
    embeddings = {name: model.embed(as_image(paths[name])) for name in sorted({n for pair in pairs for n in pair})}
    parts = []
    for fixed, moving in pairs:
        fitted = fit_map(embeddings[fixed], embeddings[moving], seed=seed)
        if fitted is not None:
            parts.append(known_errors(embeddings[fixed], embeddings[moving], fitted))
            logger.info("%s -- %s: %d matches of known error", fixed, moving, len(parts[-1]))
    if not parts:
        raise InputError("no pair of volumes could be matched; train longer, or give pairs of the same body region")
    return fit_calibration(*np.concatenate(parts).T, tolerance=tolerance)


def known_errors(fixed: Embedding, moving: Embedding, fitted: FittedMap) -> NDArray[np.float64]:
    """Return similarity, cycle error (mm) and error (mm; inf outside the moving image) of matches, (N, 3)."""
    f, m = features(fixed), features(moving)
    points = lattice(f, _LATTICE)
    expected = fitted.transform.transform_points(points)
    inside = moving.image_grid.contains(expected) & (fitted.trust(points) > _TRUSTED)
    outside = ~moving.image_grid.contains(expected, margin=_BEYOND)
    points, expected, outside = (part[inside | outside] for part in (points, expected, outside))
    matches = match_points(f, points, m, coarse=True)
    error = np.where(outside, np.inf, np.linalg.norm(matches.moving - expected, axis=1))
    return np.stack([matches.similarity, matches.cycle_error, error], axis=1)

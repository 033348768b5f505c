"""Calibrating reliability on training volumes: which matches between people are right, and how sure they look."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samreg.embedding.any_contrast import AnyContrastPreprocessing
from samreg.embedding.embedding import Embedding
from samreg.embedding.models import EmbeddingModel
from samreg.errors import InputError
from samreg.landmarks.guided import guided_matches
from samreg.matching.features import features
from samreg.matching.matching import lattice, match_points
from samreg.matching.reliability import Calibration, fit_calibration
from samreg.spatial import read_image
from samreg.training.cross_subject import FittedMap, fit_map
from samreg.training.data import named_images
from samreg.training.modality import remapped

logger = logging.getLogger(__name__)

# at a scale of 1 (`samreg.matching.Features.scale`):
_LATTICE = 20.0  # mm, between the points matched
_BEYOND = 15.0  # mm outside the moving image: there is no match to find
_TRUSTED = 0.5


def calibrate(
    images: str | os.PathLike[str],
    model: EmbeddingModel,
    pairs: Sequence[tuple[str, str]],
    *,
    tolerance: float = 15.0,
    image_spacing: float | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Fit the reliability of a model to its matches between training volumes.

    A match is right within ``tolerance`` of a registration that starts from the consistent matches, where that can be
    trusted; any match is wrong where the map leads out of the other image. A model of any contrast is registered on the
    CT images, and judged with random intensities in the moving one.

    Parameters
    ----------
    images
        Folder or list of images, as in ``TrainingConfig``.
    model
        Whose matches are judged.
    pairs
        Names of the volumes, fixed and moving.
    tolerance
        mm; 15 suits volumes, 4 X-rays.
    image_spacing
        Voxel size of the files, where they do not say it, mm.
    seed
        Of the robust fits.

    Returns
    -------
    dict
        The coefficients for matches and for landmarks, as ``Calibration.from_mapping`` takes them.

    Raises
    ------
    InputError
        When no pair gives a map, or names an image that is not there.
    """
    names = sorted({name for pair in pairs for name in pair})
    paths = named_images(images, names)
    loaded = {name: read_image(paths[name], spacing=image_spacing) for name in names}
    embeddings = {name: model.embed(image) for name, image in loaded.items()}
    targets = embeddings
    if isinstance(getattr(model, "preprocessing", None), AnyContrastPreprocessing):
        targets = {name: model.embed(remapped(image, seed=seed + i)) for i, (name, image) in enumerate(loaded.items())}
    plain: list[NDArray[np.float64]] = []
    guided: list[NDArray[np.float64]] = []
    for fixed, moving in pairs:
        fitted = fit_map(embeddings[fixed], embeddings[moving], images=(loaded[fixed], loaded[moving]), seed=seed)
        if fitted is not None:
            for parts, search in ((plain, False), (guided, True)):
                parts.append(known_errors(embeddings[fixed], targets[moving], fitted, guided=search))
            logger.info("%s -- %s: %d matches of known error", fixed, moving, len(plain[-1]))
    if not plain:
        raise InputError("no pair of volumes could be matched; train longer, or give pairs of the same body region")
    similarity, cycle, _, _, error = np.concatenate(plain).T
    matches = fit_calibration(similarity, cycle, error, tolerance=tolerance)
    similarity, cycle, spread, depth, error = np.concatenate(guided).T
    landmarks = fit_calibration(similarity, cycle, error, spread=spread, depth=depth, tolerance=tolerance)
    return {**matches.as_dict(), **landmarks.as_dict(landmarks=True)}


def known_errors(
    fixed: Embedding, moving: Embedding, fitted: FittedMap, *, guided: bool = False
) -> NDArray[np.float64]:
    """Match points whose counterparts the map knows.

    Parameters
    ----------
    fixed, moving
        Of the two images, by one model.
    fitted
        The map between them.
    guided
        Match as ``samreg.match`` does, and not over the whole body.

    Returns
    -------
    ndarray, shape (N, 5)
        Similarity, cycle error, spread of the votes and expected depth in the moving image (zero unless guided), and
        error (infinite outside the moving image); mm. No rows where a guided search finds no alignment.
    """
    f, m = features(fixed), features(moving)
    points = lattice(f, _LATTICE * f.scale)
    expected = fitted.transform.transform_points(points)
    inside = moving.image_grid.contains(expected) & (fitted.trust(points) > _TRUSTED)
    outside = ~moving.image_grid.contains(expected, margin=_BEYOND * f.scale)
    used = inside | outside
    points, expected, outside = points[used], expected[used], outside[used]
    spread = depth = np.zeros(len(points))
    if guided:
        calibration = Calibration.from_mapping(fixed.calibration)
        found, _ = guided_matches(f, points, m, grid=moving.image_grid, calibration=calibration)
        if found is None:
            return np.zeros((0, 5))
        matches, spread, depth = found.matches, found.spread, found.depth
    else:
        matches = match_points(f, points, m, coarse=True)
    error = np.where(outside, np.inf, np.linalg.norm(matches.moving - expected, axis=1))
    return np.stack([matches.similarity, matches.cycle_error, spread, depth, error], axis=1)

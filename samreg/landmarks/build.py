"""build_landmark_atlas(): an atlas from annotated images, tested on each person by the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from samreg.device import torch_defaults
from samreg.errors import InputError, require_progress
from samreg.landmarks.atlas import LandmarkAtlas
from samreg.landmarks.locate import Located, locate
from samreg.landmarks.templates import Template, as_templates, read_templates
from samreg.matching.features import Features, features
from samreg.matching.reliability import DEFAULT_LANDMARK_CALIBRATION, Calibration, fit_calibration, with_mean
from samreg.matching.votes import Neighbourhoods, neighbourhoods
from samreg.spatial.grid import FloatArray, Grid

if TYPE_CHECKING:
    from samreg.embedding import Embedding, EmbeddingModel

_RIGHT_MM = 10.0  # at a scale of 1: an error up to which a landmark counts as found
_MIN_OF_EACH = 10  # landmarks that were found, and that were not, for a reliability to be fitted to them


@torch_defaults()
def build_landmark_atlas(
    templates: Sequence[Template] | str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | EmbeddingModel | None = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
    test_on: Collection[str] | None = None,
    pixel_size: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> LandmarkAtlas:
    """Make a landmark atlas from annotated images, and test it on each person by the others.

    Parameters
    ----------
    templates
        Annotated images: the folder that :func:`samreg.read_templates` takes, or what it returns. They may show
        different parts of the body and need not have the same landmarks. At least two, 2D or 3D.
    model, device, cache, pixel_size, progress
        As in :func:`samreg.read_templates`, of a folder; templates that are given have a model and a pixel size.
    test_on
        Names of the people to test on; all of them unless given. Where the model was trained with landmarks of some of
        them, name the others: only these tell what it will do in new people.

    Returns
    -------
    LandmarkAtlas
        With its errors, and with its reliability fitted to them where there are enough.

    Raises
    ------
    InputError
        For fewer than two images, two of one name, a name to test on that is none of them, or what
        :func:`samreg.read_templates` refuses.

    Examples
    --------
    >>> from samreg.embedding.api import embed
    >>> from samreg.spatial import Points
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> embedding = embed({"array": noise, "spacing": (8, 8, 8)}, model="mind")
    >>> points = Points([[60.0, 60.0, 60.0], [60.0, 60.0, 100.0]], ("carina", "apex"))
    >>> build_landmark_atlas([Template(name, embedding, points) for name in ("ALICE", "BOB")]).names
    ('carina', 'apex')
    """
    from samreg.seeding.seed import require_one_model

    require_progress(progress)
    if isinstance(test_on, str):
        raise InputError(f"test_on must be a list of names, such as ['{test_on}'], got {test_on!r}")
    if isinstance(templates, (str, os.PathLike)):
        known = read_templates(
            Path(templates), model=model, device=device, cache=cache, pixel_size=pixel_size, progress=progress
        )
    else:
        known = as_templates(templates)
    people = tuple(template.name for template in known)
    if len(known) < 2 or len(set(people)) < len(people):
        raise InputError(
            f"a landmark atlas needs at least 2 annotated images, each with a name of its own; got {list(people)}"
        )
    if unknown := sorted(set(test_on or ()) - set(people)):
        raise InputError(f"test_on names {', '.join(unknown)}; choose from {', '.join(people)}")
    for template in known[1:]:
        require_one_model(known[0].embedding, template.embedding)
    prepared = [features(template.embedding) for template in known]
    atlas = _untested(known, prepared)
    errors = np.full(atlas.positions.shape[:2], np.nan)
    of_tested, of_others = [np.zeros((0, 5))], [np.zeros((0, 5))]  # evidence in people tested on, and in the others
    for k, template in enumerate(known):
        if progress is not None:
            progress(f"{template.name} by the others")
        try:
            others = atlas.without(k)
            found = locate(others, prepared[k], template.embedding.image_grid, image=template.embedding.volume)
        except InputError:  # the others share too little to make an atlas
            continue
        columns = [atlas.names.index(name) for name in others.names]
        truth = atlas.positions[k, columns]
        is_tested = test_on is None or template.name in test_on
        if is_tested:
            errors[k, columns] = np.linalg.norm(found.positions - truth, axis=1)
        evidence = of_tested if is_tested else of_others
        evidence.append(_evidence(found, truth, template.embedding.image_grid))
        evidence.extend(_evidence_of_halves(others, template.embedding, truth))
    calibration = _fitted(np.concatenate(of_others), np.concatenate(of_tested), atlas.around.scale)
    return replace(atlas, errors=errors, calibration=calibration)


def _untested(templates: Sequence[Template], prepared: Sequence[Features]) -> LandmarkAtlas:
    """Return the atlas of templates and their features, of which nothing is known of its errors."""
    names = tuple(dict.fromkeys(name for template in templates for name in template.points.names))
    positions = np.full((len(templates), len(names), templates[0].points.ndim), np.nan)
    for k, template in enumerate(templates):
        positions[k, [names.index(name) for name in template.points.names]] = template.points.positions
    parts = [
        neighbourhoods(source, place[~np.isnan(place[:, 0])]) for source, place in zip(prepared, positions, strict=True)
    ]
    around = Neighbourhoods(
        torch.cat([part.vectors for part in parts]),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.in_body for part in parts]),
        parts[0].scale,
    )
    people = tuple(template.name for template in templates)
    return LandmarkAtlas(names, people, positions, around, templates[0].embedding.model)


def _evidence_of_halves(atlas: LandmarkAtlas, embedding: Embedding, truth: FloatArray) -> Iterator[FloatArray]:
    """Yield the evidence in each half of an image alone: what a scan looks like that does not show everything."""
    for half, inside in _halves(embedding):
        if (embedding.body & inside).any():
            yield _evidence(locate(atlas, features(embedding, inside=inside), half), truth, half)


def _halves(embedding: Embedding) -> list[tuple[Grid, NDArray[np.bool_]]]:
    """Return the grids of the two halves of an image along its last axis, and where the local vectors lie in each."""
    whole = embedding.local_grid
    middle = whole.shape[0] // 2
    halves = []
    for first, last in ((0, middle), (middle, whole.shape[0])):
        inside = np.zeros(whole.shape, dtype=bool)
        inside[first:last] = True
        start = np.zeros(whole.ndim)
        start[-1] = first
        shape = (last - first, *whole.shape[1:])
        halves.append((Grid(shape, whole.index_to_world(start[None])[0], whole.spacing, whole.direction), inside))
    return halves


def _evidence(found: Located, truth: FloatArray, grid: Grid) -> FloatArray:
    """Return evidence and error (N, 5) of the landmarks of known place, if found inside; those outside are errors."""
    rows = ~np.isnan(truth[:, 0]) & found.inside
    error = np.linalg.norm(found.positions[rows] - truth[rows], axis=1)
    error = np.where(grid.contains(truth[rows]), error, np.inf)
    return np.column_stack([*(part[rows] for part in found.evidence), error])


def _fitted(others: FloatArray, tests: FloatArray, scale: float) -> Calibration:
    """Fit the calibration to evidence and error (N, 5); the cautious default where all or none are right.

    How much each kind of evidence says is learnt from all people, how sure to be on the whole from those tested on.
    """
    tolerance = _RIGHT_MM * scale
    evidence = np.concatenate([others, tests])
    right = evidence[:, 4] <= tolerance
    if min(right.sum(), (~right).sum()) < _MIN_OF_EACH:
        return DEFAULT_LANDMARK_CALIBRATION
    similarity, misfit, spread, depth, error = evidence.T
    calibration = fit_calibration(similarity, misfit, error, spread=spread, depth=depth, tolerance=tolerance)
    if not len(others):
        return calibration
    similarity, misfit, spread, depth, error = tests.T
    share = float(np.mean(error <= tolerance))
    return with_mean(calibration, share, similarity, misfit, spread=spread, depth=depth)

"""Positive pairs of different people: smooth maps between training volumes, found by the model so far.

Each map is seeded by embedding matches, made smooth by a robust affine and a displacement field, refined by the
torch engine on intensities and embeddings, and trusted only where matches that return to where they started agree
with it.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samreg.embedding.embedding import Embedding
from samreg.embedding.models import EmbeddingModel
from samreg.errors import ImagesAtFault, InputError
from samreg.matching.correspondences import Correspondences
from samreg.matching.features import Features, features
from samreg.matching.matching import lattice
from samreg.matching.reliability import Calibration
from samreg.seeding.affine import fit_affine
from samreg.seeding.field import fit_displacement
from samreg.seeding.seed import global_affine, match_near
from samreg.spatial import DisplacementField, Grid, Image, Points, Transform, compose, read_image, resample_spacing
from samreg.spatial.files import atomic_path, reading
from samreg.spatial.standard import standardised
from samreg.training.data import Map, Pair, Volume, halved, named_images, sample
from samreg.training.prepared import PreparedFile, StoredMap, is_prepared

logger = logging.getLogger(__name__)

_SPACING = 8.0  # mm, of the stored maps
_LATTICE = 18.0  # mm, between the matches a field is fitted to
_KNOTS = 32.0  # mm, between the knots of the field
_PASSES = ((40.0, 0.15), (24.0, 0.10))  # search radius mm, similarity lost at that radius
_MIN_MATCHES = 50
_CYCLE = 10.0  # mm within which a match must return
_AGREEMENT = 10.0  # mm within which the field must agree with it
_ENGINE_SPACING = 2.0  # mm, and those of the options
_ENGINE_OPTIONS = {"levels": (8.0, 4.0), "iterations": (30, 15)}
_REACH = 16.0  # mm over which a match speaks for its surroundings
_LANDMARK_REACH_MM = 40.0  # over which a landmark moves the map
_NUGGET = 0.05  # of two readings, relative to how far maps miss landmarks
_LEAST_SHARE = 0.2  # of the matches must agree with the field, or the pair is dropped


@dataclass(frozen=True, eq=False)
class FittedMap:
    """A map between two images with the matches that speak for it.

    Attributes
    ----------
    transform
        Fixed to moving, LPS mm.
    matches
        What it was fitted to.
    agreeing
        Which matches are consistent and agree with the transform.
    scale
        Of the features.
    """

    transform: Transform
    matches: Correspondences
    agreeing: NDArray[np.bool_]
    scale: float = 1.0

    def inverse(self) -> FittedMap:
        """Return the map from the moving image to the fixed one, with the same matches."""
        matches = replace(self.matches, fixed=self.matches.moving, moving=self.matches.fixed)
        return replace(self, transform=self.transform.inverse(), matches=matches)

    @property
    def share(self) -> float:
        """Share of the matches that agree."""
        return float(self.agreeing.mean())

    def trust(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of the matches around points (N, d), LPS mm, that agree; 0 where there is none near."""
        from scipy.spatial import cKDTree

        count = min(12, len(self.agreeing))
        reach = _REACH * self.scale
        distance, index = cKDTree(self.matches.fixed).query(points, k=count, distance_upper_bound=2.5 * reach)
        near = np.isfinite(distance)
        weight = np.where(near, np.exp(-0.5 * (np.where(near, distance, 0) / reach) ** 2), 0)
        agreeing = np.append(self.agreeing, False)[index]
        trust: NDArray[np.float64] = (weight * agreeing).sum(axis=1) / (weight.sum(axis=1) + 0.5)
        return trust


def build_maps(
    images: str | os.PathLike[str],
    model: EmbeddingModel,
    output: str | os.PathLike[str],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    refine: bool = True,
    image_spacing: float | None = None,
    landmarks: Mapping[str, Points] | None = None,
    seed: int = 0,
) -> list[Path]:
    """Match training volumes with each other and store the maps that can be trusted.

    Parameters
    ----------
    images
        Folder or list of images, as in ``TrainingConfig``.
    model
        The model trained so far.
    output
        Folder for the maps, one ``FIXED--MOVING.npz`` each; give it as ``TrainingConfig.cross_subject``.
    pairs
        Names of the volumes to match, fixed and moving; all pairs unless given. Each gives a map and its inverse.
    refine
        Register each pair from its matches; without, the matches alone make the map, in half the time.
    image_spacing
        As in ``TrainingConfig``.
    landmarks
        Of the people they were read on, LPS mm: they guide the maps between two of them.
    seed
        Of the robust fits.

    Returns
    -------
    list of Path
        The files written; pairs that share too little are left out.

    Raises
    ------
    InputError
        When a pair names an image that is not there.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    if pairs is None:
        pairs = list(itertools.combinations(named_images(images), 2))
    names = sorted({name for pair in pairs for name in pair})
    paths = named_images(images, names)
    images_by_name = {name: read_image(paths[name], spacing=image_spacing) for name in names}
    embeddings = {name: model.embed(image) for name, image in images_by_name.items()}
    prepared = {name: features(embedding) for name, embedding in embeddings.items()}
    # training volumes have the model's voxels, half the size of its local ones (2 mm at a scale of 1), and LPS axes
    grids = {name: standardised(images_by_name[name], 2.0 * prepared[name].scale, fill=None).grid for name in names}
    written = []
    for fixed, moving in pairs:
        fitted = fit_map(
            embeddings[fixed], embeddings[moving], fixed_features=prepared[fixed],
            moving_features=prepared[moving], seed=seed,
            images=(images_by_name[fixed], images_by_name[moving]) if refine else None,
            landmarks=_shared(landmarks or {}, fixed, moving),
        )  # fmt: skip
        if fitted is None or fitted.share < _LEAST_SHARE:
            logger.info("%s -- %s: dropped (%s)", fixed, moving, "no map" if fitted is None else f"{fitted.share:.2f}")
            continue
        logger.info("%s -- %s: %.0f %% of %d matches agree", fixed, moving, 100 * fitted.share, len(fitted.agreeing))
        for first, second, found in ((fixed, moving, fitted), (moving, fixed, fitted.inverse())):
            path = output / f"{first}--{second}.npz"
            _write(path, found, grids[first], grids[second])
            written.append(path)
    return written


def _shared(landmarks: Mapping[str, Points], fixed: str, moving: str) -> tuple[Points, Points] | None:
    """Landmarks that were read on both; None where there are none."""
    if fixed not in landmarks or moving not in landmarks:
        return None
    names = [name for name in landmarks[fixed].names if name in set(landmarks[moving].names)]
    return (landmarks[fixed].named(names), landmarks[moving].named(names)) if names else None


def fit_map(
    fixed: Embedding,
    moving: Embedding,
    *,
    fixed_features: Features | None = None,
    moving_features: Features | None = None,
    images: tuple[Image, Image] | None = None,
    landmarks: tuple[Points, Points] | None = None,
    seed: int = 0,
) -> FittedMap | None:
    """Fit a smooth map, fixed to moving, to the matches of two embeddings; None where they do not agree.

    Landmarks that were read on both draw the map to themselves. Where the images are given, they refine the map, guided
    by the landmarks, before it is judged by the matches found around it.
    """
    f = features(fixed) if fixed_features is None else fixed_features
    m = features(moving) if moving_features is None else moving_features
    calibration, scale = Calibration.from_mapping(fixed.calibration), f.scale
    fit, _ = global_affine(f, m, calibration=calibration, seed=seed)
    affine = fit.transform
    if affine is None:
        return None
    points = lattice(f, _LATTICE * scale)

    def matched(current: Transform, radius: float, penalty: float) -> Correspondences:
        return match_near(
            current, f, points, m,
            grid=moving.image_grid, radius_mm=radius, penalty=penalty, calibration=calibration, at_least=_MIN_MATCHES,
        )  # fmt: skip

    current: Transform = affine
    try:
        for number, search in enumerate(_PASSES):
            matches = matched(current, *search)
            returned = matches.take(matches.cycle_error < 2 * _CYCLE * scale)
            if number == 0:  # a better affine first: what the field need not explain it cannot get wrong
                affine = fit_affine(returned, scale=scale, seed=seed).transform or affine
            field = fit_displacement(
                returned, affine, fixed.image_grid, knot_spacing=_KNOTS, spacing=_SPACING, scale=scale
            )
            current = compose(field, affine)
            if landmarks is not None:
                current = _drawn_to(landmarks, current, fixed.image_grid, scale)
        if images is not None:
            current = _refined(*images, (fixed, moving), current, landmarks)
            matches = matched(current, *_PASSES[-1])
    except ImagesAtFault:
        return None
    miss = np.linalg.norm(current.transform_points(matches.fixed) - matches.moving, axis=1)
    agreeing = (matches.cycle_error < _CYCLE * scale) & (miss < _AGREEMENT * scale)
    return FittedMap(current, matches, agreeing, scale)


def _drawn_to(landmarks: tuple[Points, Points], start: Transform, grid: Grid, scale: float) -> Transform:
    """Put a displacement before a map so that it leads each landmark about to itself, and what lies around with it.

    Simple kriging with a Gaussian covariance.
    """
    fixed, moving = (points.positions for points in landmarks)
    missed = start.inverse().transform_points(moving) - fixed

    def covariance(points: NDArray[np.float64]) -> NDArray[np.float64]:
        squared = ((points[:, None] - fixed[None]) ** 2).sum(axis=2)
        values: NDArray[np.float64] = np.exp(-0.5 * squared / (_LANDMARK_REACH_MM * scale) ** 2)
        return values

    weights = np.linalg.solve(covariance(fixed) + _NUGGET * np.eye(len(fixed)), missed)
    knots = grid.with_spacing(_SPACING * scale)
    displacement = covariance(knots.world_points().reshape(-1, grid.ndim)) @ weights
    return compose(DisplacementField(displacement.reshape(*knots.shape, grid.ndim), knots), start)


def _refined(
    fixed: Image,
    moving: Image,
    embeddings: tuple[Embedding, Embedding],
    start: Transform,
    landmarks: tuple[Points, Points] | None,
) -> Transform:
    from samreg.engines import Request
    from samreg.engines.base import length_scale
    from samreg.engines.torch_engine import TorchEngine

    scale = length_scale(fixed)
    fixed, moving = (resample_spacing(image, _ENGINE_SPACING * scale) for image in (fixed, moving))
    options = {**_ENGINE_OPTIONS, "levels": tuple(level * scale for level in _ENGINE_OPTIONS["levels"])}
    request = Request(
        fixed=fixed, moving=moving, start=start, embeddings=embeddings, options=options,
        landmarks=None if landmarks is None else (landmarks[0].positions, landmarks[1].positions),
    )  # fmt: skip
    return TorchEngine().register(request).transform


def load_pairs(source: str | os.PathLike[str], volumes: Sequence[Volume], *, slack: tuple[float, float]) -> list[Pair]:
    """Load the maps between these volumes.

    Parameters
    ----------
    source
        A folder of maps, or a prepared file.
    volumes
        Found by their names.
    slack
        As in :class:`~samreg.training.data.Pair`.

    Raises
    ------
    InputError
        When there is none.
    """
    by_name = {volume.name: volume for volume in volumes}
    maps: Iterator[StoredMap]
    if is_prepared(source):
        maps = (m for m in PreparedFile(source).maps() if m.fixed in by_name and m.moving in by_name)
    else:
        maps = stored_maps(source, by_name)
    pairs = [
        Pair(by_name[m.fixed], by_name[m.moving], _on_device(m, by_name[m.fixed].fine.device), slack=slack)
        for m in maps
    ]
    if not pairs:
        raise InputError(f"{source}: no maps (FIXED--MOVING.npz) between the training volumes; run build_maps")
    return pairs


def stored_maps(folder: str | os.PathLike[str], names: Container[str]) -> Iterator[StoredMap]:
    """Yield the maps of a folder between images of these names.

    Raises
    ------
    InputError
        When a file is damaged, or its name could be of two pairs.
    """
    for path in sorted(Path(folder).glob("*--*.npz")):
        parts = path.name.removesuffix(".npz").split("--")
        # a name may hold the dashes that part two names
        splits = [("--".join(parts[:k]), "--".join(parts[k:])) for k in range(1, len(parts))]
        pairs = [pair for pair in splits if pair[0] in names and pair[1] in names]
        if len(pairs) > 1:
            told = " or of ".join(" and ".join(pair) for pair in pairs)
            raise InputError(f"{path} could be of {told}; name the images without --, and build it again")
        for fixed, moving in pairs:
            with reading(path, "build it again"), np.load(path) as stored:
                yield StoredMap(fixed, moving, stored["displacement"], stored["trust"], float(stored["spacing"]))


def reshaped(pair: Pair) -> Pair:
    """The moving volume deformed into the shape of the fixed one, paired with itself as it was.

    Whatever the map is worth as anatomy, these two correspond exactly: the deformation is as large and as
    irregular as it is between people, and the person is the same.
    """
    assert pair.mapping is not None
    fixed, moving = pair.fixed, pair.moving
    fine = torch.empty_like(fixed.fine)
    first, *others = fixed.fine.shape[2:]
    for k in range(first):  # one plane at a time, to save memory
        axes = [torch.tensor([k]), *(torch.arange(n) for n in others)]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
        points = (index * fixed.spacing).to(fine.device).reshape(-1, fixed.ndim)
        matches, _ = pair.mapping(points)
        fine[0, 0, k] = sample(moving.fine, matches, spacing=moving.spacing, first=0.0).reshape(others)
    matches, _ = pair.mapping(fixed.body)
    seen = ((matches > 0) & (matches < moving.extent.to(matches.device))).all(dim=1)
    volume = replace(
        fixed, name=f"{moving.name} as {fixed.name}", fine=fine, coarse=halved(fine), body=fixed.body[seen]
    )
    return Pair(volume, moving, replace(pair.mapping, trust=_orderly(pair.mapping)))


def _orderly(mapping: Map) -> Tensor:
    """1 where the map keeps volumes between a quarter and four times their size, 0 elsewhere; (1, 1, (z,) y, x)."""
    ndim = mapping.displacement.shape[1]
    slopes = torch.gradient(mapping.displacement[0], spacing=mapping.spacing, dim=tuple(range(ndim, 0, -1)))
    jacobian = torch.stack(slopes, dim=-1).movedim(0, -2) + torch.eye(ndim, device=mapping.trust.device)
    determinant: Tensor = torch.linalg.det(jacobian)
    return ((determinant > 0.25) & (determinant < 4)).float()[None, None]


def _write(path: Path, fitted: FittedMap, fixed: Grid, moving: Grid) -> None:
    """Store the map in the frames of the two training volumes: mm from their first voxels."""
    spacing = _SPACING * fitted.scale
    size = [int(np.ceil(n / spacing)) + 1 for n in fixed.extent]
    axes = [spacing * np.arange(n) for n in size]
    points = np.stack(np.meshgrid(*axes[::-1], indexing="ij")[::-1], axis=-1).reshape(-1, len(size))
    moved = fitted.transform.transform_points(points + fixed.origin) - moving.origin
    shape = (*size[::-1], len(size))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            displacement=(moved - points).reshape(shape).astype(np.float32),
            trust=fitted.trust(points + fixed.origin).reshape(shape[:-1]).astype(np.float32),
            spacing=spacing,
        )


def _on_device(given: StoredMap, device: torch.device) -> Map:
    displacement = torch.from_numpy(given.displacement).movedim(-1, 0)[None]
    trust = torch.from_numpy(given.trust)[None, None]
    return Map(displacement.contiguous().to(device), trust.to(device), given.spacing)

"""The torch engine: affine, then a velocity field on image and embedding similarity."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.engines.base import (
    MARGIN_MM,
    EngineResult,
    TransformKind,
    check_kind,
    clipping,
    engine_version,
    length_scale,
    make_options,
    prepare,
)
from samreg.engines.torch_engine.affine import register_affine
from samreg.engines.torch_engine.discrete import convex_search
from samreg.engines.torch_engine.options import TorchOptions
from samreg.engines.torch_engine.similarity import Loss, local_correlation, squared_distance
from samreg.engines.torch_engine.velocity import exponential, roughness
from samreg.engines.torch_engine.volumes import extent_of, moved, pooled, positions, resized, sampled
from samreg.errors import InputError
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, Transform, compose, resample

if TYPE_CHECKING:
    from samreg.embedding import Embedding

logger = logging.getLogger(__name__)

_COARSE = 8.0  # mm in 3D, voxels of the velocity and of the embeddings compared
_CHANNELS = 24  # principal components of the embeddings that are compared
_CHUNK = 100_000  # points embedded at a time
_CLOSE = 10  # iterations over which a level must improve


class TorchEngine:
    """Deformable registration in torch, on image and, where given, embedding similarity.

    A discrete search (SAMConvex, Li et al., MICCAI 2023; Heinrich et al., MICCAI 2014) starts a stationary velocity
    field (Arsigny et al., MICCAI 2006), which Adam optimises on local correlation or MIND-SSC and the embeddings.

    Notes
    -----
    No randomness: the same inputs on the same machine with the same number of threads give the same result.
    """

    name = "torch"
    uses_embeddings = True

    def register(
        self,
        fixed: Image,
        moving: Image,
        *,
        start: Transform | None = None,
        transform: TransformKind = "deformable",
        fixed_mask: Image | None = None,
        moving_mask: Image | None = None,
        seed: int | None = None,
        threads: int | None = None,
        verbose: bool = False,
        options: Mapping[str, Any] | TorchOptions | None = None,
        embeddings: tuple[Embedding, Embedding] | None = None,
        device: str = "auto",
    ) -> EngineResult:
        """Register ``moving`` to ``fixed``; see :meth:`samreg.engines.base.Engine.register`.

        Parameters
        ----------
        embeddings
            Of the fixed and the moving image, by one model: compared beside the intensities.
        device
            "auto", "cpu", "cuda" or "mps".
        """
        from samreg.embedding.inference import resolve_device

        version = engine_version(self.name)
        settings = make_options(TorchOptions, options).resolved(length_scale(fixed))
        check_kind(transform)
        report = _Log(logging.INFO if verbose else logging.DEBUG)
        where = resolve_device(device)
        window = clipping(settings.window, fixed, (-1000.0, 600.0))
        with _threads(threads):
            affine = None
            if start is None or transform != "deformable":
                pair = prepare(
                    fixed, moving, start=start, fixed_mask=fixed_mask, moving_mask=moving_mask, window=window
                )
                affine = register_affine(
                    pair.fixed, pair.moving, fixed_mask=pair.fixed_mask, moving_mask=pair.moving_mask,
                    kind="rigid" if transform == "rigid" else "affine",
                    start=None if start is None else AffineTransform.identity(fixed.ndim),
                    iterations=settings.affine_iterations, tolerance=settings.tolerance,
                    window=settings.window_voxels, device=where,
                )  # fmt: skip
                report(f"affine: {np.round(affine.matrix, 4).tolist()}, {np.round(affine.translation, 2).tolist()} mm")
                start = affine if start is None else compose(affine, start)
            if transform != "deformable":
                return EngineResult(start, report.text, version)
            pair = prepare(
                fixed, moving, start=start, fixed_mask=fixed_mask, moving_mask=moving_mask, window=window
            )
            field = _register_velocity(
                pair.fixed, pair.moving, pair.fixed_mask, pair.moving_mask,
                embeddings=embeddings, start=start, options=settings, device=where, report=report,
            )  # fmt: skip
        return EngineResult(compose(field, start), report.text, version)


def _register_velocity(
    fixed: Image,
    moving: Image,
    fixed_mask: Image | None,
    moving_mask: Image | None,
    *,
    embeddings: tuple[Embedding, Embedding] | None,
    start: Transform,
    options: TorchOptions,
    device: torch.device,
    report: _Log,
) -> DisplacementField:
    """Return the displacement from `fixed` to `moving`, which the start has warped already; LPS mm."""
    assert options.levels is not None
    assert options.iterations is not None
    assert options.search_radius is not None
    assert options.search_step is not None
    block = _COARSE * length_scale(fixed)
    grid = _box(fixed.grid, block)
    images = [_on(grid, image, 0.0, "linear", device) for image in (fixed, moving)]
    scale = 1 / max(float(image.max()) for image in images)
    images = [image * scale for image in images]
    ones = [image.with_array(np.ones(image.shape, np.uint8)) for image in (fixed, moving)]
    weight, seen = (
        _on(grid, one if mask is None else mask, 0.0, "nearest", device)
        for one, mask in zip(ones, (fixed_mask, moving_mask), strict=True)
    )
    extent = extent_of(grid, device)
    coarse = _factor(grid, block)
    velocity = torch.zeros(1, grid.ndim, *(n // coarse for n in grid.shape), device=device)
    spacing = torch.tensor(grid.spacing * coarse, dtype=torch.float32, device=device)

    alike = None
    if embeddings is not None and (options.embedding_weight > 0 or options.search_radius > 0):
        vectors, present = _embedded(embeddings, start, _coarser(grid, coarse), device)
        present[0] = present[0] * pooled(weight, coarse)
        alike = squared_distance(vectors[0], present[0])
        if options.search_radius > 0:
            velocity = convex_search(
                vectors[0], vectors[1], present[0],
                spacing=spacing, radius=options.search_radius, step=options.search_step,
            )  # fmt: skip
            report(f"search: displacement of {float(velocity.norm(dim=1).mean()):.1f} mm on average")
    for size, most in zip(options.levels, options.iterations, strict=True):
        factor = _factor(grid, size)
        reduced = [pooled(v, factor) for v in (*images, weight, seen)]
        compare, compared = _comparison(reduced, options)
        velocity = _optimised(
            velocity, compare, compared, reduced[3],
            alike=alike, vectors=None if alike is None else (vectors[1], present[1]),
            extent=extent, spacing=spacing, iterations=most, options=options, report=report,
            name=f"{size:g} mm",
        )  # fmt: skip
    displacement = exponential(velocity, extent)[0].movedim(0, -1)
    # from the grid's axes to the world's
    world = displacement @ torch.tensor(grid.direction.T, dtype=torch.float32, device=device)
    return DisplacementField(world.cpu().numpy(), _coarser(grid, coarse))


def _optimised(
    velocity: Tensor,
    compare: Loss,
    moving: Tensor,
    seen: Tensor,
    *,
    alike: Loss | None,
    vectors: tuple[Tensor, Tensor] | None,
    extent: Tensor,
    spacing: Tensor,
    iterations: int,
    options: TorchOptions,
    report: _Log,
    name: str,
) -> Tensor:
    """Return the velocity of least loss at one level."""
    assert options.learning_rate is not None
    assert options.bending_weight is not None
    velocity = velocity.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([velocity], lr=options.learning_rate, betas=(0.9, 0.99))
    here, there = (positions(v.shape[2:], v.device) for v in (velocity, moving))
    best, lowest, history = velocity.detach().clone(), np.inf, []
    for number in range(iterations + 1):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * (0.1 + 0.45 * (1 + np.cos(np.pi * number / (iterations + 1))))
        displacement = exponential(velocity, extent)
        at = moved(resized(displacement, there.shape[:-1]), extent, there)
        inside = (at.abs() <= 1).all(dim=-1)[None, None].float()
        first, second = roughness(velocity, spacing)
        loss = options.diffusion_weight * first + options.bending_weight * second
        loss = loss + options.image_weight * compare(sampled(moving, at), sampled(seen, at) * inside)
        if alike is not None and vectors is not None and options.embedding_weight > 0:
            at = moved(displacement, extent, here)
            loss = loss + options.embedding_weight * alike(sampled(vectors[0], at), sampled(vectors[1], at))
        value = float(loss.detach())
        if value < lowest:
            best, lowest = velocity.detach().clone(), value
        history.append(lowest)
        if number % 10 == 0:
            report(f"{name}, iteration {number}: loss {value:.4f}")
        stalled = len(history) > _CLOSE and history[-_CLOSE - 1] - lowest < options.tolerance * history[-_CLOSE - 1]
        if number == iterations or stalled:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    report(f"{name}: loss {lowest:.4f} after {len(history) - 1} iterations")
    return best


def _comparison(volumes: list[Tensor], options: TorchOptions) -> tuple[Loss, Tensor]:
    """The image loss and what of the moving image it is given."""
    fixed, moving, weight, _ = volumes
    if options.similarity == "lncc":
        return local_correlation(fixed, weight, window=options.window_voxels), moving
    from samreg.embedding.mind import mind_ssc

    if fixed.ndim != 5:
        raise InputError('similarity "mind" is 3D only; use "lncc"')
    features = [F.normalize(mind_ssc(v[0, 0])[None], dim=1) for v in (fixed, moving)]
    return squared_distance(features[0], weight), features[1]


def _embedded(
    embeddings: tuple[Embedding, Embedding], start: Transform, grid: Grid, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Unit vectors (1, C, *shape) of both images on a grid in the fixed frame, and where there are any."""
    points = grid.world_points().reshape(-1, grid.ndim)
    vectors, present = zip(
        *(_vectors(e, p, device) for e, p in zip(embeddings, (points, start.transform_points(points)), strict=True)),
        strict=True,
    )
    # principal directions of both: dot products hardly change, and cost a fraction
    both = torch.cat([v[p] for v, p in zip(vectors, present, strict=True)])
    if len(both) == 0:
        raise InputError("the embeddings do not overlap the images; are they of these images?")
    _, directions = torch.linalg.eigh(both.T @ both)
    basis = directions[:, -_CHANNELS:]
    return (
        [F.normalize(v @ basis, dim=1).T.reshape(1, -1, *grid.shape) for v in vectors],
        [p.float().reshape(1, 1, *grid.shape) for p in present],
    )


def _vectors(embedding: Embedding, points: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Vectors (N, C) of an embedding at world points, zero outside its body, and which are inside."""
    from samreg.matching import features, interpolate
    from samreg.matching.features import rows_at

    source = features(embedding, device=device)
    index = torch.as_tensor(np.round(source.grid.world_to_index(points)).astype(int), device=device)
    inside = rows_at(source, index) >= 0
    where = inside.nonzero()[:, 0].cpu().numpy()
    result = None
    for start in range(0, len(where), _CHUNK):
        some = where[start : start + _CHUNK]
        values = interpolate(source, points[some])
        if result is None:
            result = torch.zeros(len(points), values.shape[1], device=device)
        result[some] = values
    if result is None:
        raise InputError("the embeddings do not overlap the images; are they of these images?")
    return result, inside


def _box(grid: Grid, coarsest: float) -> Grid:
    """The grid with the margin of the pre-warped image, and a size every level, to `coarsest` mm, divides."""
    padded = grid.padded(MARGIN_MM)
    block = 2 * _factor(grid, coarsest)
    size = tuple(-(-n // block) * block for n in padded.shape)
    return Grid(size, padded.origin, padded.spacing, padded.direction)


def _coarser(grid: Grid, factor: int) -> Grid:
    """The grid of blocks of `factor` voxels."""
    first = grid.index_to_world(np.full((1, grid.ndim), (factor - 1) / 2))[0]
    return Grid(tuple(n // factor for n in grid.shape), first, grid.spacing * factor, grid.direction)


def _factor(grid: Grid, size: float) -> int:
    """How many voxels make one of `size` mm: 1, 2, 4, ..., so that blocks of every level fit into each other."""
    return int(2 ** max(0, round(np.log2(size / float(grid.spacing.min())))))


def _on(grid: Grid, image: Image, fill: float, interpolation: str, device: torch.device) -> Tensor:
    """The image on a grid, (1, 1, *shape) float32."""
    array = resample(image, grid, interpolation=interpolation, fill=fill).array.astype(np.float32)
    return torch.from_numpy(array)[None, None].to(device)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Log:
    """What the engine has to say, passed on and kept."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        logger.log(self.level, line)
        self.lines.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

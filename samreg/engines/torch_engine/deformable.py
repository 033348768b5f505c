"""The deformable stage: a discrete search on embeddings, then a stationary velocity field from level to level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.engines.base import MARGIN_MM, Pair
from samreg.engines.torch_engine.descent import Descent
from samreg.engines.torch_engine.discrete import convex_search
from samreg.engines.torch_engine.options import TorchOptions
from samreg.engines.torch_engine.recompute import recomputed
from samreg.engines.torch_engine.similarity import Loss, local_correlation, mean, squared_distance
from samreg.engines.torch_engine.velocity import continued, exponential, jacobian, roughness, smoothed, unfolded
from samreg.engines.torch_engine.volumes import (
    extent_of,
    interpolated,
    moved,
    pooled,
    positions,
    resized,
    sampled,
)
from samreg.errors import EngineError, ImagesAtFault, InputError, is_out_of_memory
from samreg.spatial import (
    DisplacementField,
    Grid,
    Image,
    Transform,
    jacobian_determinant,
    resample,
    sample_displacement,
)
from samreg.spatial.grid import FloatArray

if TYPE_CHECKING:
    from samreg.embedding import Embedding

Report = Callable[[str], None]
Term = Callable[[Tensor], Tensor]
Landmarks = tuple[FloatArray, FloatArray]

_COMPONENTS = 24  # principal components of the embeddings that are compared
_POINTS_AT_ONCE = 100_000  # that are embedded
_PATIENCE = 10  # iterations over which a level must improve
_MAX_VOXELS_AT_ONCE = 2**21  # more are compared tile by tile, and computed again for the gradient
_TILE_VOXELS = 2**20
_MIN_TILE_VOXELS = 50_000
_ROUNDING_MM = 1e-6  # of displacements
_DRAWN_PASSES = (8, 4, 2, 1)  # of smoothing
_DRAWN_LEAST = 0.2  # share of a point, below which what it draws fades
_MIN_VARIANCE = 1e-8  # of intensities of at most 1; less is rounding


def register_velocity(
    pair: Pair,
    *,
    embeddings: tuple[Embedding, Embedding] | None,
    landmarks: Sequence[tuple[float, Landmarks]],
    start: Transform,
    embedding_spacing: float,
    options: TorchOptions,
    device: torch.device,
    report: Report,
) -> DisplacementField:
    """Register what the start has left.

    Parameters
    ----------
    pair
        The moving image warped by the start; isotropic voxels.
    embeddings
        Of the fixed and the moving image.
    landmarks
        Weights, and corresponding points (N, d) of the fixed and the moving image, LPS mm.
    start
        Fixed to moving, LPS mm.
    embedding_spacing
        Voxel size at which the embeddings are compared, mm.
    options
        With the choices of its preset filled in.
    device
        Where to compute.
    report
        Told what is being done.

    Returns
    -------
    DisplacementField
        In the fixed frame, LPS mm; to be applied before the start. It ends at zero, so that it is the flow of one
        velocity everywhere, and has an inverse.

    Raises
    ------
    ImagesAtFault
        When nothing of the fixed image lies on anything of the moving one, masks and embeddings considered.
    InputError
        When the fixed image is constant where it is to be compared by "ssd".
    """
    assert options.levels is not None
    assert options.iterations is not None
    assert options.embedding_weight is not None
    box = _Box.around(pair.fixed.grid, embedding_spacing, options.levels)
    extent = extent_of(box.grid, device)
    grid = _coarser(box.grid, box.factor)
    volumes = _volumes(pair, box.grid, device)
    labels = pair.fixed.label, pair.moving.label
    del pair  # large
    if options.mass_preserving:
        stretch = torch.from_numpy(jacobian_determinant(start, grid).astype(np.float32))[None, None].to(device)
        moving = volumes[2]
        moving[:, :1] *= resized(stretch, moving.shape[2:])
    velocity = torch.zeros(1, grid.ndim, *grid.shape, device=device)
    terms: list[tuple[float, Term]] = []
    if embeddings is not None and (options.embedding_weight > 0 or options.search_radius):
        vectors, present = _embedded(embeddings, start, grid, device)
        present[0] = present[0] * pooled(volumes[1], box.factor)
        if options.search_radius:
            velocity = _searched(vectors, present[0], extent, options, report)
        if options.embedding_weight > 0:
            terms.append((options.embedding_weight, _embedding_term(vectors, present, extent)))
    for weight, points in landmarks:
        guides = _Guides(points, start, grid, extent)
        velocity = guides.drawn(velocity)
        terms.append((weight, guides.distance))
    for size, iterations in zip(options.levels, options.iterations, strict=True):
        factor = _factor(box.grid, size)
        velocity = resized(velocity, tuple(n // min(2 * factor, box.block) for n in box.grid.shape))
        reduced = [pooled(volume, factor) for volume in volumes]
        compared = partial(_image_term, labels, reduced, box.inner(factor), extent, options)
        level = partial(
            _optimised, velocity, terms,
            extent=extent, iterations=iterations, options=options, report=report, name=f"{size:g} mm",
        )  # fmt: skip
        velocity = _with_smaller_tiles(level, compared, report)
    grid = _coarser(box.grid, box.grid.shape[0] // velocity.shape[2])
    if not torch.isfinite(velocity).all():
        raise EngineError("the velocity field diverged; lower learning_rate, or raise bending_weight")
    velocity, added = continued(velocity, extent)
    grid = _grown(grid, added)
    extent = extent_of(grid, device)
    displacement = exponential(unfolded(velocity, extent), extent)[0].movedim(0, -1)
    displacement = F.hardshrink(displacement, _ROUNDING_MM)  # zero at the border, not nearly
    # from the grid's axes to the world's
    world = displacement @ torch.tensor(box.grid.direction.T, dtype=torch.float32, device=device)
    return DisplacementField(world.cpu().numpy(), grid)


def _searched(vectors: list[Tensor], present: Tensor, extent: Tensor, options: TorchOptions, report: Report) -> Tensor:
    """Return the displacement (1, d, *shape), mm, at which the embeddings match best."""
    assert options.search_radius is not None
    assert options.search_step is not None
    found = convex_search(vectors, present, extent=extent, radius=options.search_radius, step=options.search_step)
    report(f"search: displacement of {float(found.norm(dim=1).mean()):.1f} mm on average")
    return found


def _optimised(
    velocity: Tensor,
    terms: list[tuple[float, Term]],
    compared: Term,
    *,
    extent: Tensor,
    iterations: int,
    options: TorchOptions,
    report: Report,
    name: str,
) -> Tensor:
    """Return the velocity of least loss at one level; the terms take a displacement."""
    assert options.learning_rate is not None
    assert options.bending_weight is not None
    velocity = velocity.detach().clone().requires_grad_(True)
    spacing = extent / torch.tensor(velocity.shape[:1:-1], device=extent.device)
    descent = Descent(velocity, betas=(0.9, 0.99))
    best, lowest, history = velocity.detach().clone(), np.inf, []
    for number in range(iterations + 1):
        displacement = exponential(velocity, extent)
        first, second = roughness(velocity, spacing)
        loss = options.diffusion_weight * first + options.bending_weight * second
        for weight, term in (*terms, (options.image_weight, compared)):
            loss = loss + weight * term(displacement)
        value = float(loss.detach())
        if value < lowest:
            best, lowest = velocity.detach().clone(), value
        history.append(lowest)
        if number % 10 == 0:
            report(f"{name}, iteration {number} of {iterations}: loss {value:.4f}")
        stalled = (
            len(history) > _PATIENCE and history[-_PATIENCE - 1] - lowest < options.tolerance * history[-_PATIENCE - 1]
        )
        if number == iterations or stalled:
            break
        loss.backward()
        descent.step(options.learning_rate * (0.1 + 0.45 * (1 + np.cos(np.pi * number / (iterations + 1)))))
    report(f"{name}: loss {lowest:.4f} after {len(history) - 1} iterations")
    return best


def _with_smaller_tiles(level: Callable[[Term], Tensor], compared: Callable[[int], Term], report: Report) -> Tensor:
    """Run a level, its images compared in tiles of so many voxels that memory suffices."""
    tile = _MAX_VOXELS_AT_ONCE
    while True:
        try:
            return level(compared(tile))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or tile // 4 < _MIN_TILE_VOXELS:
                raise
        tile //= 4
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        report(f"out of memory: images are compared in tiles of {tile} voxels, which takes longer")


def _image_term(
    labels: tuple[str, str],
    volumes: list[Tensor],
    inner: tuple[slice, ...],
    extent: Tensor,
    options: TorchOptions,
    tile: int,
) -> Term:
    """Return the image loss of a displacement (1, d, *shape), compared within ``inner``, where the fixed image lies.

    Parameters
    ----------
    labels
        Names of the two images, for messages.
    volumes
        Fixed intensities and their mask, (1, 1, *shape); moving ones with theirs, (1, 2, *shape).
    inner
        Slices of the fixed image within the box.
    extent
        (d,) of the box, mm.
    options
        Resolved.
    tile
        Voxels compared at once.
    """
    fixed, weight, moving = volumes
    if options.similarity == "mind":
        fixed, moving = _mind_features(fixed, moving)
    scale = _scale(fixed, weight, options, labels[0])
    losses: list[tuple[Any, Loss]] = []
    for part in _tiles(inner, options, tile):
        loss = (
            local_correlation(fixed[part], weight[part], half=_half_window(inner, options))
            if options.similarity == "lncc"
            else squared_distance(fixed[part], weight[part], scale=scale)
        )
        losses.append((part, loss))
    single = len(losses) == 1
    compared = partial(_compared, moving, extent, whole=single, mass_preserving=options.mass_preserving)

    def term(displacement: Tensor) -> Tensor:
        if options.mass_preserving:
            displacement = torch.cat([displacement, jacobian(displacement, extent)], dim=1)
        if single:
            total = compared(*losses[0], displacement)
        else:
            total = reduce(torch.add, (recomputed(partial(compared, *part), displacement) for part in losses))
        if options.image_weight > 0 and not float(total[1].detach()) > 0:
            raise ImagesAtFault(
                f"no overlap: nothing of {labels[0]} lies on anything of {labels[1]}, masks considered; check the "
                "masks and the start"
            )
        return mean(total)

    return term


def _mind_features(fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit MIND-SSC vectors instead of the intensities; the moving image keeps its mask as the last channel."""
    from samreg.embedding.mind import mind_ssc

    fixed, features = (F.normalize(mind_ssc(volume[0, 0])[None], dim=1) for volume in (fixed, moving))
    return fixed, torch.cat([features, moving[:, 1:]], dim=1)


def _scale(fixed: Tensor, weight: Tensor, options: TorchOptions, label: str) -> float:
    """Return what squared distances are multiplied by: for "ssd" the inverse of the fixed image's variance."""
    if options.similarity != "ssd":
        return 1.0
    share = weight / weight.sum()
    variance = float((share * (fixed - (share * fixed).sum()) ** 2).sum())
    if variance < _MIN_VARIANCE:
        raise InputError(
            f"{label} is constant within the window {options.window} and the mask: similarity "
            '"ssd" has nothing to compare there; widen the window or the mask'
        )
    return 1 / variance


def _half_window(inner: tuple[slice, ...], options: TorchOptions) -> int:
    """Return half the width of the correlation windows, voxels: no wider than the fixed image."""
    narrowest: int = min(s.stop - s.start for s in inner)
    return max(1, min(options.window_voxels, narrowest) // 2)


def _tiles(inner: tuple[slice, ...], options: TorchOptions, tile: int) -> list[Any]:
    """Return slabs of about ``tile`` voxels that cover the fixed image; windows reach over their borders."""
    half = _half_window(inner, options)
    overlap = half if options.similarity == "lncc" else 0
    plane = int(np.prod([s.stop - s.start for s in inner[1:]]))
    if plane * (inner[0].stop - inner[0].start) > tile:
        tile = min(tile, _TILE_VOXELS)
    thickness = max(2 * half, tile // plane // half * half)
    parts: list[Any] = []
    for first in range(inner[0].start, inner[0].stop, thickness):
        last = min(first + thickness + overlap, inner[0].stop)
        if overlap and last - first < 2 * half and parts:
            continue  # less than a window: the tile before has seen it
        parts.append((..., slice(first, last), *inner[1:]))
    return parts


def _compared(
    moving: Tensor, extent: Tensor, part: Any, loss: Loss, displacement: Tensor, *, whole: bool, mass_preserving: bool
) -> Tensor:
    """Return the sums of a loss over one tile: of the moving image at the displaced positions."""
    shape, ndim = moving.shape[2:], moving.ndim - 2
    at = positions(shape, displacement.device, part[1:])
    # the same values; of a tile alone, as the whole takes memory
    dense = resized(displacement, shape)[part] if whole else sampled(displacement, at)
    displaced = moved(dense[:, :ndim], extent, at)
    inside = (displaced.abs() <= 1).all(dim=-1)[None, None]
    values = sampled(moving, displaced)
    intensities = values[:, :-1] * dense[:, ndim:] if mass_preserving else values[:, :-1]
    return loss(intensities, values[:, -1:] * inside)


def _embedding_term(vectors: list[Tensor], present: list[Tensor], extent: Tensor) -> Term:
    """Return one minus the mean dot product of the embeddings, at every second voxel of the fixed image's."""
    shape = vectors[0].shape[2:]
    odd = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")).sum(dim=0) % 2
    index = ((present[0][0, 0] > 0) & (odd == 0).to(extent.device)).nonzero(as_tuple=True)
    at = positions(shape, extent.device)[index]  # (N, d)
    fixed = vectors[0][0].movedim(0, -1)[index].T  # (C, N)
    counts = present[0][0, 0][index]
    moving = torch.cat([vectors[1], present[1]], dim=1)

    def term(displacement: Tensor) -> Tensor:
        shift = interpolated(displacement, at)
        values = interpolated(moving, at + shift.T * (2 / extent))
        weight = counts * values[-1]
        distance = (fixed - values[:-1]).square().sum(dim=0)
        return mean(torch.stack([0.5 * (weight * distance).sum(), weight.sum()]))

    return term


class _Guides:
    """Corresponding points that a displacement should bring together."""

    def __init__(self, points: Landmarks, start: Transform, grid: Grid, extent: Tensor) -> None:
        self.fixed, self.moving = (
            torch.tensor((side - grid.origin) @ grid.direction, dtype=torch.float32, device=extent.device)
            for side in points
        )
        # the start is sampled, so that its gradient is known; mm along the grid's axes, like the points
        warp = sample_displacement(start, grid).displacement @ grid.direction
        self.shift = torch.from_numpy(np.ascontiguousarray(warp, dtype=np.float32)).movedim(-1, 0)[None]
        self.shift = self.shift.to(extent.device)
        self.first = torch.tensor(grid.spacing / 2, dtype=torch.float32, device=extent.device)
        self.extent = extent

    def missed(self, displacement: Tensor) -> Tensor:
        """Return what a displacement (1, d, *shape) leaves between the points, (N, d) mm."""
        mapped = self.fixed + interpolated(displacement, self._normalised(self.fixed)).T
        return self.moving - mapped - interpolated(self.shift, self._normalised(mapped)).T

    def distance(self, displacement: Tensor) -> Tensor:
        """Return the mean distance of the points, mm."""
        return (self.missed(displacement).square().sum(dim=1) + 1e-6).sqrt().mean()

    def drawn(self, displacement: Tensor) -> Tensor:
        """Return a displacement that brings the points together, and is as it was far from them.

        What is left between them is spread over ever nearer surroundings (Lee, Wolberg & Shin, IEEE Trans. Vis. Comput.
        Graph. 1997).
        """
        shape = displacement.shape[2:]
        size = torch.tensor(shape, device=displacement.device)
        voxel = ((self._normalised(self.fixed).flip(1) + 1) / 2 * size).long()
        inside = ((voxel >= 0) & (voxel < size)).all(dim=1)
        index = tuple(voxel[inside].T)
        for passes in _DRAWN_PASSES:
            left = torch.cat([self.missed(displacement), torch.ones_like(self.fixed[:, :1])], dim=1)[inside]
            total = displacement.new_zeros(*shape, left.shape[1]).index_put(index, left, accumulate=True)
            total = total.movedim(-1, 0)[None]
            for _ in range(passes):
                total = smoothed(total)
            alone = (2 * np.pi * 4 / 3 * passes) ** (-len(shape) / 2)  # the peak of one point
            displacement = displacement + total[:, :-1] / (total[:, -1:] + _DRAWN_LEAST * alone)
        return displacement

    def _normalised(self, points: Tensor) -> Tensor:
        return (points + self.first) * (2 / self.extent) - 1


def _embedded(
    embeddings: tuple[Embedding, Embedding], start: Transform, grid: Grid, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Return unit vectors (1, C, *shape) of both images on a grid in the fixed frame, and where there are any."""
    points = grid.world_points().reshape(-1, grid.ndim)
    sides = [
        _vectors(embedding, positions_, device)
        for embedding, positions_ in zip(embeddings, (points, start.transform_points(points)), strict=True)
    ]
    vectors, present = zip(*sides, strict=True)
    if not present[0].any():
        raise InputError("the fixed image's embedding does not overlap it; give that of this image")
    if not present[1].any():
        raise ImagesAtFault("no overlap: the start carries the whole fixed image outside the moving embedding's body")
    # principal directions of both: dot products hardly change, and cost a fraction
    both = torch.cat([v[p] for v, p in zip(vectors, present, strict=True)])
    _, directions = torch.linalg.eigh(both.T @ both)
    basis = directions[:, -_COMPONENTS:]
    return (
        [F.normalize(v @ basis, dim=1).T.reshape(1, -1, *grid.shape) for v in vectors],
        [p.float().reshape(1, 1, *grid.shape) for p in present],
    )


def _vectors(embedding: Embedding, points: FloatArray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the vectors (N, C) of an embedding at world points, zero outside its body, and which are inside."""
    from samreg.matching import features, interpolate
    from samreg.matching.features import on_device, rows_at

    source = features(embedding, device=device)  # not where there is no double precision
    places = on_device(points, source)
    inside = rows_at(source, source.frame.index(places).round().long()) >= 0
    parts = [interpolate(source, part) for part in places[inside].split(_POINTS_AT_ONCE)]
    vectors = parts[0].new_zeros(len(points), parts[0].shape[1])
    vectors[inside] = torch.cat(parts)
    return vectors.to(device), inside.to(device)


@dataclass(frozen=True)
class _Box:
    """What all volumes of a pair cover: the fixed image, and the moving tissue around it.

    Parameters
    ----------
    grid
        Of a size every level divides.
    factor
        Its voxels in a coarse one.
    before, size
        Where the fixed image begins, and its size, voxels (z, y, x).
    """

    grid: Grid
    factor: int
    before: int
    size: tuple[int, ...]

    @classmethod
    def around(cls, grid: Grid, embedding_spacing: float, levels: Sequence[float]) -> _Box:
        """Return the box around an image of this grid, for embeddings and levels of these voxel sizes, mm."""
        factor = _factor(grid, embedding_spacing)
        block = max(2 * factor, *(_factor(grid, size) for size in levels))
        before = block * max(1, round(MARGIN_MM / (block * float(grid.spacing.min()))))
        size = tuple(-(-(n + 2 * before) // block) * block for n in grid.shape)
        first = grid.index_to_world(np.full((1, grid.ndim), -before))[0]
        return cls(Grid(size, first, grid.spacing, grid.direction), factor, before, grid.shape)

    @property
    def block(self) -> int:
        """Voxels in one of the coarsest velocity."""
        return 2 * self.factor

    def inner(self, factor: int) -> tuple[slice, ...]:
        """Where the fixed image lies among blocks of ``factor`` voxels; two at least, which a window needs."""
        first = self.before // factor
        return tuple(slice(first, max(first + 2, -(-(self.before + n) // factor))) for n in self.size)


def _volumes(pair: Pair, grid: Grid, device: torch.device) -> list[Tensor]:
    """Return fixed intensities, at most 1, and their mask, (1, 1, *shape); moving ones with theirs, (1, 2, *shape)."""
    images = [_on(grid, image, "linear", "edge", device) for image in (pair.fixed, pair.moving)]
    scale = 1 / max(float(image.max()) for image in images)
    fixed, moving = (image * scale for image in images)
    ones = [image.with_array(np.ones(image.shape, np.uint8)) for image in (pair.fixed, pair.moving)]
    weight, seen = (
        _on(grid, one if mask is None else mask, "nearest", 0.0, device)
        for one, mask in zip(ones, (pair.fixed_mask, pair.moving_mask), strict=True)
    )
    return [fixed, weight, torch.cat([moving, seen], dim=1)]


def _coarser(grid: Grid, factor: int) -> Grid:
    """Return the grid of blocks of ``factor`` voxels."""
    first = grid.index_to_world(np.full((1, grid.ndim), (factor - 1) / 2))[0]
    return Grid(tuple(n // factor for n in grid.shape), first, grid.spacing * factor, grid.direction)


def _grown(grid: Grid, added: Sequence[tuple[int, int]]) -> Grid:
    """Return the grid with so many more voxels before and behind along each axis of the array."""
    first = grid.index_to_world([[-float(before) for before, _ in reversed(added)]])[0]
    shape = tuple(n + before + behind for n, (before, behind) in zip(grid.shape, added, strict=True))
    return Grid(shape, first, grid.spacing, grid.direction)


def _factor(grid: Grid, size: float) -> int:
    """Return how many voxels make one of ``size`` mm: 1, 2, 4, ..., so that blocks of all levels fit together."""
    return int(2 ** max(0, round(np.log2(size / float(grid.spacing.min())))))


def _on(grid: Grid, image: Image, interpolation: str, fill: float | Literal["edge"], device: torch.device) -> Tensor:
    array = resample(image, grid, interpolation=interpolation, fill=fill).array.astype(np.float32)
    return torch.from_numpy(array)[None, None].to(device)

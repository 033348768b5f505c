"""Rigid and affine stages: many starts at low resolution, the best ones refined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from samreg.engines.base import Pair, center_of_mass, length_scale
from samreg.engines.torch_engine.descent import Descent
from samreg.engines.torch_engine.options import TorchOptions
from samreg.engines.torch_engine.similarity import local_correlation, mean
from samreg.engines.torch_engine.volumes import pooled, positions, sampled
from samreg.errors import ImagesAtFault, InputError
from samreg.spatial import AffineTransform, Image
from samreg.spatial.grid import FloatArray

_LEVELS_MM = (12.0, 8.0, 4.0)  # voxel sizes in 3D
_SHIFTS_MM = (-120.0, -80.0, -40.0, 0.0, 40.0, 80.0, 120.0)  # in 3D, along the body, around the centres of mass
_REFINED_STARTS = 3  # of the first level
_LEARNING_RATE = 0.02  # of Adam; parameters are scaled so that 1 moves the border of the image by its radius
_MIN_OVERLAP = 0.15  # share of the fixed image, or of the moving one if that is smaller, that a start must show
_PATIENCE = 10  # iterations over which a level must improve


def register_affine(
    pair: Pair, *, kind: str, start: AffineTransform | None, options: TorchOptions, device: torch.device
) -> AffineTransform:
    """Register by local correlation.

    Parameters
    ----------
    pair
        Intensities from 0 (air), and masks on their grids.
    kind
        "rigid" or "affine".
    start
        Fixed to moving, LPS mm. Without one, shifts along the body around the centres of mass are tried.
    options
        With the choices of its preset filled in.
    device
        Where to compute.

    Returns
    -------
    AffineTransform
        Fixed to moving, LPS mm, start included.

    Raises
    ------
    ImagesAtFault
        When no start shows enough of the smaller image.
    InputError
        When an image is one voxel thick.
    """
    for image in (pair.fixed, pair.moving):
        if min(image.shape) < 2:
            raise InputError(
                f"{image.label} is one voxel thick at {float(image.spacing.min()):g} mm; give a thicker volume or a "
                "smaller spacing"
            )
    frame = _Frame(pair.fixed.grid.center, float(np.linalg.norm(pair.fixed.grid.extent)) / 2)
    volumes, masks = _volumes(pair, device)
    starts = [start] if start is not None else _starts(pair.fixed, pair.moving)
    candidates = [frame.parameters(transform, device) for transform in starts]
    for depth, spacing in enumerate(_LEVELS_MM):
        level = _Level(pair, volumes, masks, frame, spacing * length_scale(pair.fixed), options.window_voxels)
        if depth == 0 and len(candidates) > 1:
            candidates = _most_alike(level, candidates, pair)
        refined = [level.refine(base, kind, options) for base in candidates]
        best = min(range(len(refined)), key=lambda i: refined[i][1])
        if not np.isfinite(refined[best][1]):
            raise ImagesAtFault(
                f"too little overlap: the start lays less than {_MIN_OVERLAP:.0%} of {pair.fixed.label} and "
                f"{pair.moving.label} on each other; give another start"
            )
        # the runners-up are followed through the second level
        candidates = [parameters for parameters, _ in refined] if depth == 0 else [refined[best][0]]
    return frame.transform(candidates[0])


@dataclass(frozen=True, eq=False)
class _Frame:
    """Where parameters are scaled to: the fixed image's centre (d,), LPS mm, and its radius, mm."""

    center: FloatArray
    radius: float

    def parameters(self, transform: AffineTransform, device: torch.device) -> Tensor:
        """Return (d, d + 1): matrix and translation about the centre, in radii."""
        shift = (transform.transform_points(self.center[None])[0] - self.center) / self.radius
        return torch.tensor(np.column_stack([transform.matrix, shift]), dtype=torch.float32, device=device)

    def transform(self, parameters: Tensor) -> AffineTransform:
        """Return the transform of such parameters, fixed to moving, LPS mm."""
        matrix = parameters.cpu().double().numpy()
        return AffineTransform.about(self.center, matrix[:, :-1], matrix[:, -1] * self.radius)


class _Level:
    """The images at one resolution."""

    def __init__(
        self,
        pair: Pair,
        volumes: Sequence[Tensor],
        masks: Sequence[Tensor],
        frame: _Frame,
        spacing: float,
        window: int,
    ) -> None:
        fixed_grid, moving_grid, device = pair.fixed.grid, pair.moving.grid, volumes[0].device
        ndim = fixed_grid.ndim
        # a window needs two voxels along every axis
        factors = [
            max(1, min(round(spacing / float(g.spacing.min())), min(g.shape) // 2)) for g in (fixed_grid, moving_grid)
        ]
        fixed, self.moving = (pooled(v, f) for v, f in zip(volumes, factors, strict=True))
        weight, self.seen = (pooled(m, f) for m, f in zip(masks, factors, strict=True))
        self.compare = local_correlation(fixed, weight, half=max(1, min(window, *fixed.shape[2:]) // 2))
        # of what a start can show at most: a thin moving image never shows a whole body
        voxels = [float(np.prod(g.spacing)) * f**ndim for g, f in zip((fixed_grid, moving_grid), factors, strict=True)]
        self.total = torch.minimum(weight.sum(), self.seen.sum() * (voxels[1] / voxels[0]))
        self.weight = weight
        # fixed voxel -> world relative to the centre, in radii; world -> normalised position in the moving image.
        # pooling drops an incomplete last block: the pooled box is smaller, and its size in voxels says by how much
        index = _box_index(fixed.shape[2:], factors[0], device)
        matrix = torch.tensor(fixed_grid.index_matrix, dtype=torch.float32, device=device)
        origin = torch.tensor(fixed_grid.origin - frame.center, dtype=torch.float32, device=device)
        self.places = (index @ matrix.T + origin) / frame.radius
        inverse = np.linalg.inv(moving_grid.index_matrix)
        half = np.array([n * factors[1] / 2 for n in self.moving.shape[:1:-1]])
        self.to_moving = torch.tensor(frame.radius * inverse / half[:, None], dtype=torch.float32, device=device)
        first = (inverse @ (frame.center - moving_grid.origin) + 0.5) / half - 1
        self.first = torch.tensor(first, dtype=torch.float32, device=device)
        self.ndim = ndim

    def loss(self, base: Tensor, change: Tensor) -> Tensor:
        """Return the loss of the transform ``base`` (d, d + 1) after a small ``change``; infinite without overlap."""
        combined = _applied(base, change)
        places = self.places @ combined[:, :-1].T + combined[:, -1]
        at = places @ self.to_moving.T + self.first
        inside = (at.abs() <= 1).all(dim=-1)[None, None].float()
        seen = sampled(self.seen, at) * inside
        overlap = (self.weight * seen).sum() / self.total
        if overlap < _MIN_OVERLAP:
            return overlap.new_full((), torch.inf)
        return mean(self.compare(sampled(self.moving, at), seen))

    def refine(self, base: Tensor, kind: str, options: TorchOptions) -> tuple[Tensor, float]:
        """Return the best transform and its loss."""
        iterations, tolerance = options.affine_iterations, options.tolerance
        change = torch.zeros_like(base, requires_grad=True)
        descent = Descent(change, betas=(0.9, 0.95))
        best, lowest, history = base, torch.inf, []
        for number in range(iterations + 1):
            loss = self.loss(base, _projected(change, kind))
            if not torch.isfinite(loss):
                break
            value = float(loss.detach())
            if value < lowest:
                lowest, best = value, _applied(base, _projected(change.detach(), kind))
            history.append(lowest)
            if number == iterations or _converged(history, tolerance):
                break
            loss.backward()
            descent.step(_LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * number / (iterations + 1))))
        return best, lowest


def _converged(history: list[float], tolerance: float) -> bool:
    return len(history) > _PATIENCE and history[-_PATIENCE - 1] - history[-1] < tolerance * abs(history[-_PATIENCE - 1])


def _projected(change: Tensor, kind: str) -> Tensor:
    """Return what of a change (d, d + 1) a transform of this kind allows: a rigid one only rotates."""
    if kind != "rigid":
        return change
    turn = change[:, :-1]
    return torch.cat([(turn - turn.T) / 2, change[:, -1:]], dim=1)


def _applied(base: Tensor, change: Tensor) -> Tensor:
    """Return the transform x -> exp(A) (base x) + b for a change (A, b)."""
    matrix = torch.linalg.matrix_exp(change[:, :-1])
    return torch.cat([matrix @ base[:, :-1], matrix @ base[:, -1:] + change[:, -1:]], dim=1)


def _volumes(pair: Pair, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Return the intensities, at most 1, and the masks of both images, (1, 1, *shape)."""
    scale = np.float32(1 / max(float(pair.fixed.array.max()), float(pair.moving.array.max())))
    volumes = [torch.from_numpy(i.array * scale)[None, None].to(device) for i in (pair.fixed, pair.moving)]
    masks = [
        torch.ones_like(v) if m is None else torch.from_numpy(m.array.astype(np.float32))[None, None].to(device)
        for v, m in zip(volumes, (pair.fixed_mask, pair.moving_mask), strict=True)
    ]
    return volumes, masks


def _most_alike(level: _Level, candidates: Sequence[Tensor], pair: Pair) -> list[Tensor]:
    """Return the few candidates of least loss; those that show too little are none."""
    losses = [float(level.loss(base, torch.zeros_like(base))) for base in candidates]
    order = np.argsort(losses, kind="stable")[:_REFINED_STARTS]
    chosen = [candidates[i] for i in order if np.isfinite(losses[i])]
    if not chosen:
        raise ImagesAtFault(
            f"no overlap: no initial position lays enough of {pair.moving.label} on {pair.fixed.label}, "
            "masks considered; check the masks, or give start="
        )
    return chosen


def _starts(fixed: Image, moving: Image) -> list[AffineTransform]:
    """Return the centres of mass laid on each other, and shifts along the last axis of the world, the body's in 3D."""
    offset = center_of_mass(moving) - center_of_mass(fixed)
    along = np.eye(fixed.ndim)[-1] * length_scale(fixed)
    return [AffineTransform(np.eye(fixed.ndim), offset + shift * along) for shift in _SHIFTS_MM]


def _box_index(shape: torch.Size, factor: int, device: torch.device) -> Tensor:
    """Return the indices (*shape, d), order (x, y(, z)), in the unpooled grid, of the centres of pooled voxels."""
    half = torch.tensor([n * factor / 2 for n in reversed(shape)], device=device)
    return (positions(shape, device) + 1) * half - 0.5

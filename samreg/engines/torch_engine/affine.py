"""Rigid and affine stages: many starts at low resolution, the best ones refined."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from samreg.engines.base import length_scale
from samreg.engines.torch_engine.descent import Descent
from samreg.engines.torch_engine.similarity import local_correlation, mean
from samreg.engines.torch_engine.volumes import pooled, positions, sampled
from samreg.errors import EngineError, InputError
from samreg.spatial import AffineTransform, Grid, Image

_LEVELS = (12.0, 8.0, 4.0)  # mm in 3D
_SHIFTS = (-120.0, -80.0, -40.0, 0.0, 40.0, 80.0, 120.0)  # mm in 3D along the body, tried around the centres of mass
_KEPT = 3  # starts that are refined
_RATE = 0.02  # of Adam; parameters are scaled so that 1 moves the border of the image by its radius
_LEAST_SEEN = 0.15  # share of the fixed image, or of the moving one if that is smaller, that a start must show
_CLOSE = 10  # iterations over which a level must improve


def register_affine(
    fixed: Image,
    moving: Image,
    *,
    fixed_mask: Image | None,
    moving_mask: Image | None,
    kind: str,
    start: AffineTransform | None,
    iterations: int,
    tolerance: float,
    window: int,
    device: torch.device,
) -> AffineTransform:
    """Register by local correlation.

    Parameters
    ----------
    fixed, moving : Image
        Intensities from 0 (air).
    fixed_mask, moving_mask : Image, optional
        On their grids.
    kind : str
        "rigid" or "affine".
    start : AffineTransform, optional
        Fixed to moving, LPS mm. Without one, shifts along the body around the centres of mass are tried.
    iterations, tolerance, window
        As in `TorchOptions`.
    device : torch.device

    Returns
    -------
    AffineTransform
        Fixed to moving, LPS mm, start included.

    Raises
    ------
    EngineError
        When no start shows enough of the smaller image.
    InputError
        When an image is one voxel thick.
    """
    for image in (fixed, moving):
        if min(image.shape) < 2:
            raise InputError(
                f"{image.label} is one voxel thick at {float(image.spacing.min()):g} mm; give a thicker volume or a "
                "smaller spacing"
            )
    scale = 1 / max(float(fixed.array.max()), float(moving.array.max()))
    volumes = [torch.from_numpy(i.array * np.float32(scale))[None, None].to(device) for i in (fixed, moving)]
    masks = [
        torch.ones_like(v) if m is None else torch.from_numpy(m.array.astype(np.float32))[None, None].to(device)
        for v, m in zip(volumes, (fixed_mask, moving_mask), strict=True)
    ]
    centre = fixed.grid.center
    radius = float(np.linalg.norm(fixed.grid.extent)) / 2
    starts = [start] if start is not None else _starts(fixed, moving)
    candidates = [_parameters(s, centre, radius, device) for s in starts]
    for depth, size in enumerate(_LEVELS):
        spacing = size * length_scale(fixed)
        level = _Level(fixed.grid, moving.grid, volumes, masks, spacing, window, centre, radius, device)
        if depth == 0 and len(candidates) > 1:
            losses = [float(level.loss(base, torch.zeros_like(base))) for base in candidates]
            order = np.argsort(losses, kind="stable")[:_KEPT]
            candidates = [candidates[i] for i in order if np.isfinite(losses[i])]
            if not candidates:
                raise EngineError(f"no start lays {moving.label} over {fixed.label}; give a start")
        refined = [level.refine(base, kind, iterations, tolerance) for base in candidates]
        best = min(range(len(refined)), key=lambda i: refined[i][1])
        if not np.isfinite(refined[best][1]):
            raise EngineError(
                f"the start lays less than {_LEAST_SEEN:.0%} of {fixed.label} and {moving.label} on each other; give "
                "another start"
            )
        # the runners-up are followed through the second level
        candidates = [r[0] for r in refined] if depth == 0 else [refined[best][0]]
    matrix = candidates[0].cpu().double().numpy()
    return AffineTransform.about(centre, matrix[:, :-1], matrix[:, -1] * radius)


class _Level:
    """The images at one resolution."""

    def __init__(
        self,
        fixed_grid: Grid,
        moving_grid: Grid,
        volumes: list[Tensor],
        masks: list[Tensor],
        spacing: float,
        window: int,
        centre: np.ndarray,
        radius: float,
        device: torch.device,
    ) -> None:
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
        origin = torch.tensor(fixed_grid.origin - centre, dtype=torch.float32, device=device)
        self.places = (index @ matrix.T + origin) / radius
        inverse = np.linalg.inv(moving_grid.index_matrix)
        half = np.array([n * factors[1] / 2 for n in self.moving.shape[:1:-1]])
        self.to_moving = torch.tensor(radius * inverse / half[:, None], dtype=torch.float32, device=device)
        first = (inverse @ (centre - moving_grid.origin) + 0.5) / half - 1
        self.first = torch.tensor(first, dtype=torch.float32, device=device)
        self.ndim = ndim

    def loss(self, base: Tensor, change: Tensor) -> Tensor:
        """Loss of the transform `base` (d, d + 1) after the small one `change` describes; infinite unseen."""
        combined = _applied(base, change)
        places = self.places @ combined[:, :-1].T + combined[:, -1]
        at = places @ self.to_moving.T + self.first
        inside = (at.abs() <= 1).all(dim=-1)[None, None].float()
        seen = sampled(self.seen, at) * inside
        overlap = (self.weight * seen).sum() / self.total
        if overlap < _LEAST_SEEN:
            return overlap.new_full((), torch.inf)
        return mean(self.compare(sampled(self.moving, at), seen))

    def refine(self, base: Tensor, kind: str, iterations: int, tolerance: float) -> tuple[Tensor, float]:
        """Return the best transform and its loss."""
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
            descent.step(_RATE * 0.5 * (1 + np.cos(np.pi * number / (iterations + 1))))
        return best, lowest


def _converged(history: list[float], tolerance: float) -> bool:
    return len(history) > _CLOSE and history[-_CLOSE - 1] - history[-1] < tolerance * abs(history[-_CLOSE - 1])


def _projected(change: Tensor, kind: str) -> Tensor:
    """What of a change (d, d + 1) a transform of this kind allows: a rigid one only turns."""
    if kind != "rigid":
        return change
    turn = change[:, :-1]
    return torch.cat([(turn - turn.T) / 2, change[:, -1:]], dim=1)


def _applied(base: Tensor, change: Tensor) -> Tensor:
    """The transform x -> exp(A) (base x) + b for a change (A, b)."""
    matrix = torch.linalg.matrix_exp(change[:, :-1])
    return torch.cat([matrix @ base[:, :-1], matrix @ base[:, -1:] + change[:, -1:]], dim=1)


def _parameters(transform: AffineTransform, centre: np.ndarray, radius: float, device: torch.device) -> Tensor:
    """(d, d + 1): matrix and translation about the centre, in radii."""
    shift = (transform.transform_points(centre[None])[0] - centre) / radius
    return torch.tensor(np.column_stack([transform.matrix, shift]), dtype=torch.float32, device=device)


def _starts(fixed: Image, moving: Image) -> list[AffineTransform]:
    """Centres of mass laid on each other, and shifts along the last axis of the world, the body's in 3D."""
    middles = [_centre_of_mass(image) for image in (fixed, moving)]
    ndim = fixed.ndim
    along = [shift * length_scale(fixed) for shift in _SHIFTS]
    shifts = itertools.product(*([(0.0,)] * (ndim - 1)), along)
    return [AffineTransform(np.eye(ndim), middles[1] - middles[0] + np.array(s)) for s in shifts]


def _centre_of_mass(image: Image) -> np.ndarray:
    weight = image.array.astype(np.float64)
    index = [
        (weight.sum(axis=tuple(a for a in range(weight.ndim) if a != axis)) * np.arange(weight.shape[axis])).sum()
        for axis in reversed(range(weight.ndim))
    ]
    return image.grid.index_to_world(np.array(index)[None] / weight.sum())[0]


def _box_index(shape: torch.Size, factor: int, device: torch.device) -> Tensor:
    """Indices (*shape, d), order (x, y(, z)), in the unpooled grid, of the centres of pooled voxels."""
    half = torch.tensor([n * factor / 2 for n in reversed(shape)], device=device)
    return (positions(shape, device) + 1) * half - 0.5

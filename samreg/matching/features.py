"""The vectors that are searched: local and global embeddings of the body's voxels, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from samreg.device import inference_dtype
from samreg.errors import InputError, require_choice
from samreg.spatial.grid import FloatArray, Grid

if TYPE_CHECKING:
    from samreg.embedding.embedding import Embedding

PARTS = ("local", "global")
_CT_VOXEL_MM = 4.0
_MEMORY_LIMIT_MB = 256  # for one block of distances


@dataclass(frozen=True, eq=False)
class Features:
    """Unit vectors of the voxels inside the body, made where they are asked for.

    The local vector and the global one, interpolated to the same place, stand side by side, each scaled by
    sqrt(1/2): the dot product of two such vectors is the mean of local and global similarity (Yan et al., SAM,
    TMI 2022, section III-C). To hold them for every voxel would cost a multiple of the embedding's memory.

    Parameters
    ----------
    local
        (V, C1) local vectors of all voxels of ``grid``, or None.
    global_
        (V2, C2) global vectors of all voxels of ``global_grid``, float32, or None.
    grid, global_grid
        Where they lie.
    index
        (K, d) voxel indices (x, y, z) of the body voxels, the rows.
    row
        (*grid.shape) int32, row of each voxel, -1 outside the body.

    Examples
    --------
    >>> from samreg.embedding.embed import embed
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> embedding = embed({"array": noise, "spacing": (8, 8, 8)}, model="mind")
    >>> len(features(embedding)) == int(embedding.body.sum())
    True
    """

    local: torch.Tensor | None
    global_: torch.Tensor | None
    grid: Grid
    global_grid: Grid | None
    index: torch.Tensor
    row: torch.Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def scale(self) -> float:
        """Size of the local voxels relative to 4 mm, those of the CT models: all lengths of the search go by it."""
        return float(self.grid.spacing.min()) / _CT_VOXEL_MM

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self.index.device

    def positions(self, rows: torch.Tensor) -> FloatArray:
        """Return the world positions (N, d) of rows (N,), LPS mm."""
        return self.grid.index_to_world(self.index[rows].cpu().numpy())

    def vectors(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the unit vectors (N, C) of rows (N,), in the type that multiplies fastest."""
        parts = []
        if self.local is not None:
            parts.append(self.local[_flat(self.index[rows], self.grid)].to(inference_dtype(self.device)))
        if self.global_ is not None and self.global_grid is not None:
            parts.append(self._global_at(self.positions(rows)).to(inference_dtype(self.device)))
        return torch.cat(parts, dim=1).mul_(len(parts) ** -0.5)

    @cached_property
    def sparse_rows(self) -> torch.Tensor:
        """(S,) rows of every second voxel along each axis; all rows where that leaves none."""
        even = (self.index % 2 == 0).all(dim=1).nonzero()[:, 0]
        return even if len(even) else torch.arange(len(self), device=self.device)

    @cached_property
    def sparse_vectors(self) -> torch.Tensor:
        """(S, C) unit vectors of ``sparse_rows``, kept because every coarse search goes through them."""
        return self.vectors(self.sparse_rows)

    @cached_property
    def sparse_positions(self) -> torch.Tensor:
        """(S, d) world positions of ``sparse_rows``, LPS mm."""
        return torch.from_numpy(self.positions(self.sparse_rows)).to(self.device)

    @cached_property
    def sparse_place(self) -> torch.Tensor:
        """(K,) place of each row in ``sparse_rows``, -1 where it is not one."""
        place = torch.full((len(self),), -1, dtype=torch.long, device=self.device)
        place[self.sparse_rows] = torch.arange(len(self.sparse_rows), device=self.device)
        return place

    def _global_at(self, points: FloatArray) -> torch.Tensor:
        """Return the unit global vectors (N, C2), float32, at world points by linear interpolation."""
        assert self.global_ is not None
        assert self.global_grid is not None
        grid = self.global_grid
        index = np.clip(grid.world_to_index(points), 0, np.asarray(grid.size) - 1)
        corners, weights = _corners(index)
        corners = np.minimum(corners, np.asarray(grid.size) - 1)
        flat = _flat(torch.as_tensor(corners, device=self.device), grid)
        weight = torch.as_tensor(weights, dtype=torch.float32, device=self.device)
        return F.normalize(F.embedding_bag(flat, self.global_, per_sample_weights=weight, mode="sum"), dim=1)


def features(
    embedding: Embedding,
    *,
    parts: Sequence[str] = PARTS,
    inside: NDArray[np.bool_] | None = None,
    device: str | torch.device = "cpu",
) -> Features:
    """Prepare an embedding for searching.

    Parameters
    ----------
    embedding
        Embedding of one image.
    parts
        Which similarities are averaged: "local", "global" or both. A part the embedding lacks is left out.
    inside
        Optional (*local_grid.shape) mask that narrows the body.
    device
        Where to search.

    Raises
    ------
    InputError
        For an unknown part, when none of the parts is there, or no voxel is left.

    Examples
    --------
    >>> from samreg.embedding.embed import embed
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> embedding = embed({"array": noise, "spacing": (8, 8, 8)}, model="mind")
    >>> len(features(embedding, parts=["local"]).vectors(torch.tensor([0, 1])))
    2
    """
    for part in parts:
        require_choice("part", part, PARTS)
    if not parts:
        raise InputError(f"give at least one part of {', '.join(PARTS)}")
    global_ = embedding.global_ if "global" in parts else None
    if global_ is None and "local" not in parts:
        raise InputError(f"the embedding of {embedding.model} has no global part")
    body = embedding.body if inside is None else embedding.body & inside
    voxels = torch.from_numpy(np.argwhere(body))
    if len(voxels) == 0:
        raise InputError("the mask leaves no voxel of the body to match; check that both lie in one frame")
    row = torch.full(embedding.local_grid.shape, -1, dtype=torch.int32)
    row[tuple(voxels.T)] = torch.arange(len(voxels), dtype=torch.int32)
    return Features(
        embedding.local.flatten(1).T.to(device) if "local" in parts else None,
        None if global_ is None else global_.flatten(1).T.to(device).float().contiguous(),
        embedding.local_grid,
        None if global_ is None else embedding.global_grid,
        voxels.flip(1).contiguous().to(device),
        row.to(device),
    )


def interpolate(source: Features, points: ArrayLike) -> torch.Tensor:
    """Return unit vectors (N, C), float32, at world points (N, d), LPS mm, by linear interpolation.

    Of the local vectors only neighbours inside the body count; a point without any takes the nearest body voxel.

    Examples
    --------
    >>> from samreg.embedding.embed import embed
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> body = features(embed({"array": noise, "spacing": (8, 8, 8)}, model="mind"))
    >>> len(interpolate(body, [[60.0, 60.0, 60.0], [64.0, 60.0, 60.0]]))
    2
    """
    points = np.asarray(points, dtype=np.float64)
    parts = []
    if source.local is not None:
        index = source.grid.world_to_index(points)
        corners, weights = _corners(index)
        rows = rows_at(source, torch.as_tensor(corners, device=source.device))
        weight = torch.as_tensor(weights, dtype=torch.float32, device=source.device) * (rows >= 0)
        outside = (weight.sum(dim=1) < 1e-6).nonzero()[:, 0]
        if len(outside):
            rows[outside, 0] = nearest_rows(source, index[outside.cpu().numpy()])
            weight[outside, 0] = 1.0
        gathered = source.local[_flat(source.index[rows.clamp(min=0)], source.grid)].float()
        parts.append(F.normalize((gathered * weight[..., None]).sum(dim=1), dim=1))
    if source.global_ is not None:
        parts.append(source._global_at(points))
    return torch.cat(parts, dim=1).mul(len(parts) ** -0.5)


def rows_at(source: Features, index: torch.Tensor) -> torch.Tensor:
    """Return the rows (...,) of voxel indices (..., d) in order (x, y, z); -1 outside the body or grid."""
    size = torch.as_tensor(source.grid.size, device=index.device)
    inside = ((index >= 0) & (index < size)).all(dim=-1)
    safe = torch.minimum(index.clamp(min=0), size - 1)
    rows = source.row[tuple(safe[..., axis] for axis in reversed(range(source.grid.ndim)))].long()
    return torch.where(inside, rows, -1)


def nearest_rows(source: Features, index: FloatArray, *, memory_limit_mb: int = _MEMORY_LIMIT_MB) -> torch.Tensor:
    """Return the row of the body voxel nearest to each continuous index (N, d), to one voxel.

    The distances are computed in blocks of at most ``memory_limit_mb``.
    """
    wanted = torch.from_numpy(source.grid.index_to_world(index)).to(source.device)
    positions = source.sparse_positions
    block = max(1, memory_limit_mb * 2**20 // (positions.element_size() * len(positions)))
    nearest = [torch.cdist(points, positions).argmin(dim=1) for points in wanted.split(block)]
    return source.sparse_rows[torch.cat(nearest)]


def _corners(index: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Return the voxels around continuous indices (N, d): indices (N, 2**d, d), weights (N, 2**d)."""
    ndim = index.shape[1]
    base = np.floor(index).astype(np.int64)
    steps = np.stack(np.meshgrid(*[(0, 1)] * ndim, indexing="ij"), axis=-1).reshape(-1, ndim)
    fraction = (index - base)[:, None]
    return base[:, None] + steps, np.where(steps, fraction, 1 - fraction).prod(axis=-1)


def _flat(index: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return positions in the flattened array of voxel indices (..., d) in order (x, y, z)."""
    flat = index[..., -1]
    for axis in reversed(range(grid.ndim - 1)):
        flat = flat * grid.size[axis] + index[..., axis]
    return flat

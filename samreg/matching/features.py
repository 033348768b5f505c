"""The vectors that are searched: local and global embeddings of the body's voxels, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid

if TYPE_CHECKING:
    from samreg.embedding.embedding import Embedding

PARTS = ("local", "global")


@dataclass(frozen=True, eq=False)
class Features:
    """Unit vectors of the voxels inside the body.

    The local vector and the global one, interpolated to the local grid, stand side by side, each scaled by
    sqrt(1/2): the dot product of two such vectors is the mean of local and global similarity (Yan et al., SAM,
    TMI 2022, section III-C).

    Parameters
    ----------
    vectors
        (K, C) unit vectors of the K body voxels.
    index
        (K, d) voxel indices (x, y, z) of the rows on ``grid``.
    row
        (*grid.shape) int32, row of each voxel, -1 outside the body.
    grid
        The embedding grid.
    """

    vectors: torch.Tensor
    index: torch.Tensor
    row: torch.Tensor
    grid: Grid

    @property
    def positions(self) -> FloatArray:
        """(K, d) world positions of the rows, LPS mm."""
        return self.grid.index_to_world(self.index.cpu().numpy())

    @cached_property
    def sparse_rows(self) -> torch.Tensor:
        """Rows of every second voxel along each axis; all rows where that leaves none."""
        even = (self.index % 2 == 0).all(dim=1).nonzero()[:, 0]
        return even if len(even) else torch.arange(len(self.index), device=self.index.device)


def features(
    embedding: Embedding,
    *,
    parts: Sequence[str] = PARTS,
    inside: NDArray[np.bool_] | None = None,
    device: str | torch.device = "cpu",
) -> Features:
    """Collect the vectors of the body's voxels for searching.

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
        For an unknown part, or when none of the parts is there.
    """
    unknown = set(parts) - set(PARTS)
    if unknown or not parts:
        raise InputError(f"unknown parts {sorted(unknown)}; choose from {list(PARTS)}")
    body = embedding.body if inside is None else embedding.body & inside
    where = torch.from_numpy(np.argwhere(body))
    columns = []
    if "local" in parts:
        local = embedding.local[(slice(None), *where.T)].T
        columns.append(torch.nn.functional.normalize(local.to(device).float(), dim=1))
    if "global" in parts and embedding.global_ is not None:
        positions = embedding.local_grid.index_to_world(where.flip(1).numpy())
        columns.append(_interpolated_global(embedding, positions, device))
    if not columns:
        raise InputError(f"the embedding of {embedding.model} has no {' or '.join(parts)} part")
    vectors = torch.cat(columns, dim=1) / len(columns) ** 0.5
    row = torch.full(embedding.local_grid.shape, -1, dtype=torch.int32)
    row[tuple(where.T)] = torch.arange(len(where), dtype=torch.int32)
    return Features(
        vectors.to(search_dtype(device)), where.flip(1).to(device), row.to(device), embedding.local_grid
    )


def interpolate(source: Features, points: ArrayLike) -> torch.Tensor:
    """Return unit vectors (N, C), float32, at world points (N, d), LPS mm, by linear interpolation.

    Only neighbours inside the body count; a point without any takes the nearest body voxel.
    """
    grid = source.grid
    index = grid.world_to_index(points)
    base = np.floor(index).astype(int)
    fraction = index - base
    corners = np.stack(np.meshgrid(*[(0, 1)] * grid.ndim, indexing="ij"), axis=-1).reshape(-1, grid.ndim)
    rows = rows_at(source, torch.as_tensor(base[:, None] + corners, device=source.row.device))
    weight = np.where(corners, fraction[:, None], 1 - fraction[:, None]).prod(axis=-1)
    weights = torch.as_tensor(weight, dtype=torch.float32, device=rows.device) * (rows >= 0)
    lost = (weights.sum(dim=1) < 1e-6).nonzero()[:, 0]
    if len(lost):
        rows[lost, 0] = nearest_rows(source, index[lost.cpu().numpy()])
        weights[lost, 0] = 1.0
    gathered = source.vectors[rows.clamp(min=0)].float()
    return torch.nn.functional.normalize((gathered * weights[..., None]).sum(dim=1), dim=1)


def rows_at(source: Features, index: torch.Tensor) -> torch.Tensor:
    """Return the rows (...,) of voxel indices (..., d) in order (x, y, z); -1 outside the body or grid."""
    size = torch.as_tensor(source.grid.size, device=index.device)
    inside = ((index >= 0) & (index < size)).all(dim=-1)
    safe = torch.minimum(index.clamp(min=0), size - 1)
    rows = source.row[tuple(safe[..., axis] for axis in reversed(range(source.grid.ndim)))].long()
    return torch.where(inside, rows, -1)


def nearest_rows(source: Features, index: FloatArray) -> torch.Tensor:
    """Return the row of the body voxel nearest to each continuous index (N, d)."""
    spacing = torch.tensor(source.grid.spacing, device=source.index.device)
    wanted = torch.tensor(index, device=source.index.device)
    return torch.cdist(wanted * spacing, source.index * spacing).argmin(dim=1)


def search_dtype(device: str | torch.device) -> torch.dtype:
    """Return the type that multiplies fastest: bfloat16 where the processor has it, else float32."""
    if torch.device(device).type != "cpu":
        return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def _interpolated_global(
    embedding: Embedding, positions: FloatArray, device: str | torch.device
) -> torch.Tensor:
    """Return the unit global vectors (K, C) at world positions, linear interpolation, border repeated."""
    assert embedding.global_ is not None and embedding.global_grid is not None
    grid = embedding.global_grid
    index = grid.world_to_index(positions)
    scaled = 2 * index / np.maximum(np.asarray(grid.size) - 1, 1) - 1
    where = torch.as_tensor(scaled, dtype=torch.float32, device=device)
    where = where.reshape(1, -1, *[1] * (grid.ndim - 1), grid.ndim)
    volume = embedding.global_.to(device).float()[None]
    sampled = torch.nn.functional.grid_sample(
        volume, where, mode="bilinear", padding_mode="border", align_corners=True
    )
    return torch.nn.functional.normalize(sampled[0].flatten(1).T, dim=1)

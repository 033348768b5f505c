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

from samreg.device import inference_dtype, search_device
from samreg.errors import InputError, require_choice
from samreg.spatial.grid import FloatArray, Grid, as_points_array

if TYPE_CHECKING:
    from samreg.embedding.embedding import Embedding

PARTS = ("local", "global")
_CT_VOXEL_MM = 4.0
_MEMORY_LIMIT_MB = 256  # for one block of distances


@dataclass(frozen=True, eq=False)
class Frame:
    """The axes of a grid on a device, in double precision.

    Parameters
    ----------
    matrix, inverse
        (d, d), from steps of an index (x, y(, z)) to mm, and back.
    origin
        (d,) world position of the first voxel, LPS mm.
    last
        (d,) index of the last voxel.
    """

    matrix: torch.Tensor
    inverse: torch.Tensor
    origin: torch.Tensor
    last: torch.Tensor

    @classmethod
    def of(cls, grid: Grid, device: torch.device) -> Frame:
        """Return the axes of a grid, by one transfer."""
        matrix = grid.index_matrix
        packed = np.column_stack([matrix, np.linalg.inv(matrix), grid.origin, np.asarray(grid.size) - 1])
        matrix_, inverse, origin, last = torch.from_numpy(packed).to(device).split([grid.ndim, grid.ndim, 1, 1], dim=1)
        return cls(matrix_, inverse, origin[:, 0], last[:, 0])

    def world(self, index: torch.Tensor) -> torch.Tensor:
        """Return the world points (N, d), LPS mm, of voxel indices (N, d)."""
        return index.double() @ self.matrix.T + self.origin

    def index(self, points: torch.Tensor) -> torch.Tensor:
        """Return the continuous voxel indices (N, d) of world points (N, d), LPS mm."""
        return (points - self.origin) @ self.inverse.T


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
    >>> from samreg.embedding.api import embed
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

    @cached_property
    def frame(self) -> Frame:
        """The axes of ``grid``, where the vectors are."""
        return Frame.of(self.grid, self.device)

    @cached_property
    def _global_frame(self) -> Frame:
        assert self.global_grid is not None
        return Frame.of(self.global_grid, self.device)

    def positions(self, rows: torch.Tensor) -> FloatArray:
        """Return the world positions (N, d) of rows (N,), LPS mm."""
        return self.places(rows).cpu().numpy()

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the world positions (N, d) of rows (N,), LPS mm, where the vectors are."""
        return self.frame.world(self.index[rows])

    def vectors(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the unit vectors (N, C) of rows (N,), in the type that multiplies fastest."""
        parts = [part.to(inference_dtype(self.device)) for part in self.parts(rows)]
        return torch.cat(parts, dim=1).mul_(len(parts) ** -0.5)

    def parts(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return the local and the global unit vectors (N, C1) and (N, C2), those there are, of rows (N,)."""
        parts = []
        if self.local is not None:
            parts.append(self.local[_flat(self.index[rows], self.grid)])
        if self.global_ is not None and self.global_grid is not None:
            parts.append(self._global_at(self.places(rows)))
        return parts

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
        return self.places(self.sparse_rows)

    @cached_property
    def sparse_place(self) -> torch.Tensor:
        """(K,) place of each row in ``sparse_rows``, -1 where it is not one."""
        place = torch.full((len(self),), -1, dtype=torch.long, device=self.device)
        place[self.sparse_rows] = torch.arange(len(self.sparse_rows), device=self.device)
        return place

    @cached_property
    def sparse_volume(self) -> torch.Tensor:
        """int32, ``row`` at every second voxel along each axis, with places in ``sparse_rows`` for rows."""
        rows = self.row[(slice(None, None, 2),) * self.grid.ndim]
        return torch.where(rows >= 0, self.sparse_place[rows.clamp(min=0).long()], -1).int()

    def _global_at(self, points: torch.Tensor) -> torch.Tensor:
        """Return the unit global vectors (N, C2), float32, at world points by linear interpolation."""
        assert self.global_ is not None
        assert self.global_grid is not None
        frame = self._global_frame
        corners, weights = _corners(frame.index(points).clamp(min=0).minimum(frame.last))
        flat = _flat(corners.minimum(frame.last.long()), self.global_grid)
        return F.normalize(F.embedding_bag(flat, self.global_, per_sample_weights=weights, mode="sum"), dim=1)


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
        Where to search, as :func:`samreg.register` takes it; on the CPU in place of "mps", which has no double
        precision.

    Raises
    ------
    InputError
        For an unknown part or device, when none of the parts is there, or no voxel is left.

    Examples
    --------
    >>> from samreg.embedding.api import embed
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
    local = embedding.local if "local" in parts and len(embedding.local) else None
    if global_ is None and local is None:
        raise InputError(f"the embedding of {embedding.model} has no {' or '.join(parts)} part")
    body = embedding.body if inside is None else embedding.body & inside
    where = search_device(device)
    inside_body = torch.tensor(body, device=where)
    voxels = inside_body.nonzero()
    if len(voxels) == 0:
        raise InputError("the mask leaves no voxel of the body to match; check that both lie in one frame")
    rows = (inside_body.flatten().cumsum(0, dtype=torch.int32) - 1).reshape(inside_body.shape)
    return Features(
        None if local is None else local.flatten(1).T.to(where),
        None if global_ is None else global_.flatten(1).T.to(where).float().contiguous(),
        embedding.local_grid,
        None if global_ is None else embedding.global_grid,
        voxels.flip(1).contiguous(),
        torch.where(inside_body, rows, -1),
    )


def interpolate(source: Features, points: ArrayLike | torch.Tensor) -> torch.Tensor:
    """Return unit vectors (N, C), float32, at world points (N, d), LPS mm, by linear interpolation.

    Of the local vectors only neighbours inside the body count; a point without any takes the nearest body voxel.

    Examples
    --------
    >>> from samreg.embedding.api import embed
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> body = features(embed({"array": noise, "spacing": (8, 8, 8)}, model="mind"))
    >>> len(interpolate(body, [[60.0, 60.0, 60.0], [64.0, 60.0, 60.0]]))
    2
    """
    points = on_device(points, source)
    parts = []
    if source.local is not None:
        index = source.frame.index(points)
        corners, weights = _corners(index)
        rows = rows_at(source, corners)
        weights = weights * (rows >= 0)
        outside = (weights.sum(dim=1) < 1e-6).nonzero()[:, 0]
        if len(outside):
            rows[outside, 0] = nearest_rows(source, index[outside])
            weights[outside, 0] = 1.0
        gathered = source.local[_flat(source.index[rows.clamp(min=0)], source.grid)].float()
        parts.append(F.normalize(torch.bmm(weights[:, None], gathered)[:, 0], dim=1))
    if source.global_ is not None:
        parts.append(source._global_at(points))
    return torch.cat(parts, dim=1).mul(len(parts) ** -0.5)


def on_device(points: ArrayLike | torch.Tensor, source: Features) -> torch.Tensor:
    """Return points (N, d) in double precision where the vectors of ``source`` are.

    Raises
    ------
    InputError
        When they are not (N, d).
    """
    if isinstance(points, torch.Tensor):
        return points.to(source.device, torch.float64)
    return torch.tensor(as_points_array(points, source.grid.ndim), device=source.device)


def rows_at(source: Features, index: torch.Tensor) -> torch.Tensor:
    """Return the rows (...,) of voxel indices (..., d) in order (x, y, z); -1 outside the body or grid."""
    last = source.frame.last.long()
    inside = ((index >= 0) & (index <= last)).all(dim=-1)
    safe = torch.minimum(index.clamp(min=0), last)
    rows = source.row[tuple(safe[..., axis] for axis in reversed(range(source.grid.ndim)))].long()
    return torch.where(inside, rows, -1)


def nearest_rows(
    source: Features, index: FloatArray | torch.Tensor, *, memory_limit_mb: int = _MEMORY_LIMIT_MB
) -> torch.Tensor:
    """Return the row of the body voxel nearest to each continuous index (N, d), to one voxel.

    The distances are computed in blocks of at most ``memory_limit_mb``.
    """
    wanted = source.frame.world(on_device(index, source))
    positions = source.sparse_positions
    block = max(1, memory_limit_mb * 2**20 // (positions.element_size() * len(positions)))
    nearest = [torch.cdist(points, positions).argmin(dim=1) for points in wanted.split(block)]
    return source.sparse_rows[torch.cat(nearest)]


def _corners(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the voxels around continuous indices (N, d): indices (N, 2**d, d), weights (N, 2**d), float32."""
    ndim = index.shape[1]
    base = index.floor()
    steps = torch.cartesian_prod(*[torch.arange(2, device=index.device)] * ndim)
    ahead = (index - base).float()
    weights = torch.stack([1 - ahead, ahead])  # (2, N, d)
    weight = weights[steps[:, 0], :, 0]
    for axis in range(1, ndim):
        weight = weight * weights[steps[:, axis], :, axis]
    return base.long()[:, None] + steps, weight.T


def _flat(index: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return positions in the flattened array of voxel indices (..., d) in order (x, y, z)."""
    flat = index[..., -1]
    for axis in reversed(range(grid.ndim - 1)):
        flat = flat * grid.size[axis] + index[..., axis]
    return flat

"""Embedding: the vectors of one image, where they lie, and how they are kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from samreg.device import torch_defaults
from samreg.errors import InputError
from samreg.spatial.files import atomic_path
from samreg.spatial.grid import Grid
from samreg.spatial.hdf5 import create_hdf5, open_hdf5, read_array, write_array
from samreg.spatial.image import Image

_FORMAT = "samreg-embedding"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Embedding:
    """Every voxel of an image as a unit vector that says which body part it is.

    Attributes
    ----------
    local
        (C, z, y, x) fine appearance, unit length over C, half precision. Channels vary fastest in memory:
        ``local.flatten(1).T`` is an (N, C) view. C is 0 where the global vectors alone were made.
    local_grid
        World position (LPS mm) of each local vector, the centre of its receptive field.
    global_
        Coarse whereabouts in the body, unit length over C2; None where a model has none.
    global_grid
        World position of each global vector.
    body
        (z, y, x) on ``local_grid``: inside the body and the caller's mask.
    image_grid
        Grid of the image that was embedded.
    model
        Name and fingerprint of the model, ``name@12345678``. Only embeddings of one model can be compared.
    calibration
        The model's coefficients that turn match similarity into reliability.
    source
        Hash of the image and mask it was computed from, or "".
    volume
        The CT itself at the voxel size of its model, int16 HU, in which bones are found; None of other images. It is
        kept in memory alone: no file of an embedding holds the image.
    """

    local: Tensor
    local_grid: Grid
    global_: Tensor | None
    global_grid: Grid | None
    body: NDArray[np.bool_]
    image_grid: Grid
    model: str
    calibration: Mapping[str, float] | None = None
    source: str = ""
    volume: Image | None = None

    def __post_init__(self) -> None:
        if tuple(self.local.shape[1:]) != self.local_grid.shape or self.body.shape != self.local_grid.shape:
            raise InputError(
                f"embedding: local {tuple(self.local.shape)}, body {self.body.shape} and grid "
                f"{self.local_grid.shape} differ"
            )
        if (self.global_ is None) != (self.global_grid is None):
            raise InputError("embedding: give both the global vectors and their grid, or neither")
        if self.global_ is None or self.global_grid is None:
            return
        if tuple(self.global_.shape[1:]) != self.global_grid.shape:
            raise InputError(f"embedding: global {tuple(self.global_.shape)} and grid {self.global_grid.shape} differ")

    def __repr__(self) -> str:
        parts = [("local", self.local, self.local_grid)]
        if self.global_ is not None and self.global_grid is not None:
            parts.append(("global", self.global_, self.global_grid))
        shown = ", ".join(f"{name} {tuple(v.shape)} at {grid.spacing.round(4).tolist()} mm" for name, v, grid in parts)
        return f"Embedding({self.model}, {shown}, on {self.local.device})"

    def to(self, device: str | torch.device) -> Embedding:
        """Return the embedding with its vectors on a device of torch; itself where they are there."""
        where = torch.device(device)
        if self.local.device == where:
            return self
        return replace(
            self, local=self.local.to(where), global_=None if self.global_ is None else self.global_.to(where)
        )

    def sample_local(self, points: ArrayLike) -> Tensor:
        """Interpolate the local vectors.

        Parameters
        ----------
        points
            (N, d) world points, LPS mm; outside the grid the border's vectors are taken.

        Returns
        -------
        Tensor
            (N, C) float32, unit length.

        Examples
        --------
        >>> from samreg.embedding.api import embed
        >>> hu = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
        >>> embedding = embed({"array": hu, "spacing": (8, 8, 8)}, model="mind")
        >>> vectors = embedding.sample_local([[60.0, 60.0, 60.0]])
        >>> len(vectors), round(float(vectors.norm()), 3)
        (1, 1.0)
        """
        return _sample(self.local, self.local_grid, points)

    def sample_global(self, points: ArrayLike) -> Tensor:
        """Interpolate the global vectors as ``sample_local`` does the local ones: (N, C2) float32, unit length.

        Raises
        ------
        InputError
            When the model has no global part.
        """
        if self.global_ is None or self.global_grid is None:
            raise InputError(f"the embedding of model {self.model} has no global part; use sample_local alone")
        return _sample(self.global_, self.global_grid, points)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the embedding to an HDF5 file (.h5), whole or not at all.

        Raises
        ------
        InputError
            When the file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from samreg.embedding.api import embed
        >>> hu = np.random.default_rng(0).normal(0, 100, (8, 8, 8)).astype(np.float32)
        >>> embedding = embed({"array": hu, "spacing": (8, 8, 8)}, model="mind")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     embedding.save(f"{folder}/scan.h5")
        ...     Embedding.load(f"{folder}/scan.h5").model == embedding.model
        True
        """
        with atomic_path(path) as temporary, create_hdf5(temporary) as file:
            file.attrs.update(format=_FORMAT, version=_VERSION, model=self.model, source=self.source)
            file.attrs["calibration"] = json.dumps(None if self.calibration is None else dict(self.calibration))
            _write_vectors(file, "local", self.local, self.local_grid)
            if self.global_ is not None and self.global_grid is not None:
                _write_vectors(file, "global", self.global_, self.global_grid)
            write_array(file, "body", self.body, compression="gzip", compression_opts=1)
            _write_grid(file.create_group("image"), self.image_grid)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embedding:
        """Read an embedding written by ``save``.

        Raises
        ------
        InputError
            When the file is missing, damaged, of another kind or of a newer version.
        """
        with open_hdf5(
            path, "embedding", file_format=_FORMAT, version=_VERSION, remedy="give a file written by Embedding.save"
        ) as file:
            local, local_grid = _read_vectors(file["local"])
            global_, global_grid = _read_vectors(file["global"]) if "global" in file else (None, None)
            return cls(
                local=local,
                local_grid=local_grid,
                global_=global_,
                global_grid=global_grid,
                body=read_array(file["body"]),
                image_grid=_read_grid(file["image"]),
                model=str(file.attrs["model"]),
                calibration=json.loads(file.attrs["calibration"]),
                source=str(file.attrs["source"]),
            )


@torch_defaults()
def _sample(vectors: Tensor, grid: Grid, points: ArrayLike) -> Tensor:
    index = grid.world_to_index(points)
    rows = vectors.cpu().flatten(1).T
    size = np.asarray(grid.size)
    index = np.clip(index, 0, size - 1)
    base = np.minimum(index.astype(np.int64), np.maximum(size - 2, 0))
    fraction = index - base
    strides = np.cumprod(np.concatenate([[1], size[:-1]]))  # x varies fastest
    result = torch.zeros((len(index), vectors.shape[0]))
    for corner in np.ndindex(*(2,) * grid.ndim):
        weight = np.prod(np.where(corner, fraction, 1 - fraction), axis=1)
        where = np.minimum(base + np.asarray(corner), size - 1) @ strides
        result += torch.from_numpy(weight).float()[:, None] * rows[torch.from_numpy(where)].float()
    return F.normalize(result, dim=1)


def _write_vectors(file: Any, name: str, vectors: Tensor, grid: Grid) -> None:
    group = file.create_group(name)
    write_array(group, "vectors", vectors.to("cpu", torch.float16).movedim(0, -1).contiguous().numpy())
    _write_grid(group, grid)


def _read_vectors(group: Any) -> tuple[Tensor, Grid]:
    return torch.from_numpy(read_array(group["vectors"])).movedim(-1, 0), _read_grid(group)


def _write_grid(group: Any, grid: Grid) -> None:
    group.attrs.update(shape=grid.shape, origin=grid.origin, spacing=grid.spacing, direction=grid.direction)


def _read_grid(group: Any) -> Grid:
    return Grid(*(group.attrs[key] for key in ("shape", "origin", "spacing", "direction")))

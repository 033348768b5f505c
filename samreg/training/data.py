"""Training volumes in memory, and pairs of them whose points are known to correspond."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.embedding.preprocessing import body_mask, standardised
from samreg.errors import InputError
from samreg.spatial import as_image

SPACING = 2.0
COARSE = 2 * SPACING
_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")


@dataclass(frozen=True, eq=False)
class Volume:
    """One CT, ready for sampling on the device.

    Points of a volume are (x, y, z) mm from the centre of its first 2 mm voxel. Intensities are
    (HU + 1024) / 1000, so that air outside is zero.

    Attributes
    ----------
    name : str
    fine, coarse : Tensor, shape (1, 1, z, y, x)
        At 2 mm and, averaged over 2x2x2 voxels, at 4 mm.
    body : Tensor, shape (N, 3)
        Centres of the 4 mm voxels inside the body.
    origin : ndarray, shape (3,)
        World position (LPS, mm) of the first voxel.
    """

    name: str
    fine: Tensor
    coarse: Tensor
    body: Tensor
    origin: np.ndarray

    @property
    def extent(self) -> Tensor:
        """Size in mm, (x, y, z)."""
        return SPACING * torch.tensor(self.fine.shape[:1:-1], dtype=torch.float32)


def load_volumes(folder: str | os.PathLike[str], device: torch.device) -> list[Volume]:
    """Load every CT of a folder, in the order of their names.

    Raises
    ------
    InputError
        When the folder holds none.
    """
    return [load_volume(path, device) for path in list_images(folder)]


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the image files of a folder, in the order of their names."""
    paths = sorted(p for p in Path(folder).glob("*") if p.name.endswith(_SUFFIXES))
    if not paths:
        raise InputError(f"{folder}: no CT volumes ({', '.join(_SUFFIXES)})")
    return paths


def load_volume(path: Path, device: torch.device) -> Volume:
    """Load one CT at 2 mm."""
    import SimpleITK as sitk

    image = standardised(as_image(sitk.ReadImage(str(path))), SPACING)
    array = np.clip((image.array + 1024) / 1000, 0, 4.1).astype(np.float32)
    # even sizes: a 4 mm voxel is 2x2x2 whole voxels
    fine = F.pad(torch.from_numpy(array), [v for n in reversed(array.shape) for v in (0, n % 2)])[None, None]
    inside = torch.from_numpy(body_mask(image)[::2, ::2, ::2])
    index = torch.nonzero(inside).flip(1).float()
    return Volume(
        name=path.name.split(".")[0],
        fine=fine.to(device),
        coarse=F.avg_pool3d(fine, 2).to(device),
        body=(index * COARSE + SPACING / 2).to(device),
        origin=np.asarray(image.grid.origin, float),
    )


def sample(volume: Tensor, points: Tensor, *, spacing: float, first: float) -> Tensor:
    """Sample (1, C, z, y, x) at points (..., 3) mm, linearly, zero outside; returns (C, ...).

    ``first`` is the position of the first voxel's centre along each axis, mm.
    """
    size = torch.tensor(volume.shape[:1:-1], dtype=torch.float32, device=points.device)
    grid = (points - first) * (2 / (spacing * (size - 1))) - 1
    shape = grid.shape[:-1]
    return F.grid_sample(volume, grid.reshape(1, -1, 1, 1, 3), align_corners=True).reshape(-1, *shape)


@dataclass(frozen=True, eq=False)
class Map:
    """A dense map from points of one volume to another, with where it can be trusted.

    Attributes
    ----------
    displacement : Tensor, shape (1, 3, z, y, x)
        (x, y, z) mm on a grid of the fixed volume: the match of point p is p + displacement(p).
    trust : Tensor, shape (1, 1, z, y, x)
        0 to 1.
    spacing : float
        Of the grid, mm; its first voxel lies at the volume's first voxel.
    """

    displacement: Tensor
    trust: Tensor
    spacing: float

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Map points (N, 3); returns the matches (N, 3) and their trust (N,)."""
        shift = sample(self.displacement, points, spacing=self.spacing, first=0.0).T
        return points + shift, sample(self.trust, points, spacing=self.spacing, first=0.0)[0]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two volumes, the same one twice or two with a map; ``mapping`` None is the identity.

    ``exact`` is False where the map was found by matching two people, and may be wrong by some millimetres.
    """

    fixed: Volume
    moving: Volume
    mapping: Map | None = None
    exact: bool = True

    def match(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Matches of points of the fixed volume, (N, 3), and how far to trust them, (N,), 0 to 1."""
        if self.mapping is None:
            return points, torch.ones(len(points), device=points.device)
        return self.mapping(points)

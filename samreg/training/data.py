"""Training images in memory, and pairs of them whose points are known to correspond."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.errors import InputError
from samreg.spatial import Image, find_images, read_image
from samreg.spatial.io_images import READABLE, holds_dicom
from samreg.spatial.standard import standardised
from samreg.training.config import TrainingConfig
from samreg.training.modality import Modality
from samreg.training.prepared import PreparedFile, StoredImage, is_prepared


@dataclass(frozen=True, eq=False)
class Shoulder:
    """Where a shoulder girdle lies in a volume: what arms move when they are raised or lowered.

    Parameters
    ----------
    girdle
        (3,) middle of humeral head, glenoid, coracoid and acromion, mm in the volume.
    tip
        (3,) about where the inferior angle of the scapula lies.
    outwards
        1 where the patient's left is outwards, -1 where the right is: the sign of x.
    """

    girdle: Tensor
    tip: Tensor
    outwards: float


@dataclass(frozen=True, eq=False)
class Volume:
    """One image, 3D or 2D, ready for sampling on the device.

    Points of a volume are (x, y(, z)) mm from the centre of its first voxel. Stored intensities are those of its
    modality, zero outside.

    Attributes
    ----------
    name
        The image file's, without its suffix.
    modality
        What is peculiar to its kind of image.
    spacing
        Voxel size of ``fine``, mm.
    fine, coarse
        (1, 1, z, y, x) or (1, 1, y, x) stored intensities and their means over cells of two voxels along each axis.
    body
        (N, d) centres of the coarse voxels inside the body.
    origin
        (d,) world position (LPS, mm) of the first voxel.
    """

    name: str
    modality: Modality
    spacing: float
    fine: Tensor
    coarse: Tensor
    body: Tensor
    origin: np.ndarray
    shoulders: tuple[Shoulder, ...] = ()

    @property
    def ndim(self) -> int:
        """Number of dimensions, 2 or 3."""
        return self.body.shape[1]

    @property
    def step(self) -> float:
        """Voxel size of ``coarse``, mm."""
        return 2 * self.spacing

    @property
    def extent(self) -> Tensor:
        """Size in mm, (x, y(, z))."""
        return self.spacing * torch.tensor(self.fine.shape[:1:-1], dtype=torch.float32)


def load_volumes(config: TrainingConfig, device: torch.device) -> list[Volume]:
    """Load every image of a run, in the order of their names.

    Raises
    ------
    InputError
        When there is none, two share a name, one that is to be left out is not there, one is not what the modality
        expects, or a prepared file was made for another modality or spacing.
    """
    if is_prepared(config.images):
        prepared = PreparedFile(config.images)
        prepared.require(config.kind.source.modality, config.kind.source.spacing)
        require_left_out("left_out", config.left_out, prepared.names)
        images = prepared.images(leave_out=config.left_out)
    else:
        files = named_images(config.images)
        require_left_out("left_out", config.left_out, files)
        images = (
            stored_image(read_image(path, spacing=config.image_spacing), config.kind, name=name)
            for name, path in files.items()
            if name not in config.left_out
        )
    volumes = [as_volume(image, config.kind, device) for image in images]
    if not volumes:
        raise InputError(f"{config.images}: all images are left out; leave out fewer")
    return volumes


def require_left_out(setting: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise :class:`InputError` where something to be left out is not there: misspelt, it would be trained on."""
    known = sorted(known)
    if missing := sorted(set(names) - set(known)):
        raise InputError(f"{setting}: {', '.join(missing)} cannot be left out; there are {', '.join(known)}")


def named_images(source: str | os.PathLike[str], wanted: Iterable[str] = ()) -> dict[str, Path]:
    """Return the images of ``list_images`` by name: the file's without its suffix.

    Raises
    ------
    InputError
        When two share a name, or none has one of the names that are wanted.
    """
    images = find_images(*list_images(source))
    if missing := sorted(set(wanted) - set(images)):
        raise InputError(f"{source}: no images named {', '.join(missing)}; there are {', '.join(images)}")
    return images


def list_images(source: str | os.PathLike[str]) -> list[Path]:
    """Return the images of a folder, or those a text file lists, in the order of their names.

    Parameters
    ----------
    source
        A folder of image files and of folders that hold a DICOM series each, or a text file (.txt) with the path of one
        of these a line, relative to its own folder.

    Raises
    ------
    InputError
        When there is none, or a listed one is missing.
    """
    source = Path(source)
    if source.suffix == ".txt" and source.is_file():
        lines = source.read_text(encoding="utf-8").splitlines()
        paths = [source.parent / line.strip() for line in lines if line.strip()]
        if missing := [path for path in paths if not path.exists()]:
            raise InputError(f"{source}: {len(missing)} of {len(paths)} images are missing, such as {missing[0]}")
    else:
        paths = [path for path in source.glob("*") if path.name.lower().endswith(READABLE) or holds_dicom(path)]
    if not paths:
        raise InputError(f"{source}: no images ({', '.join(READABLE)}) and no folders of DICOM files")
    return sorted(paths)


def make_volume(given: Image, modality: Modality, device: torch.device) -> Volume:
    """Make one image ready, at the voxel size of the modality's preprocessing.

    Raises
    ------
    InputError
        When the image is not what the modality expects.
    """
    return as_volume(stored_image(given, modality, name=given.name), modality, device)


def stored_image(given: Image, modality: Modality, *, name: str) -> StoredImage:
    """Return one image as training and prepared files keep it.

    Raises
    ------
    InputError
        When the image is not what the modality expects.
    """
    source = modality.source
    source.check(given)
    image = standardised(given, source.spacing, fill=source.fill)
    return StoredImage(
        name,
        # even sizes: a coarse voxel is a cell of whole voxels
        np.pad(modality.level(image.array), [(0, n % 2) for n in image.shape]),
        source.body(image)[(slice(None, None, 2),) * image.ndim],
        np.asarray(image.grid.origin, float),
    )


def as_volume(image: StoredImage, modality: Modality, device: torch.device) -> Volume:
    """Return the volume of a stored image on the device.

    Raises
    ------
    InputError
        When no body was found in it.
    """
    if not image.inside.any():
        raise InputError(f"{image.name} shows no body, of which training could draw points; leave it out")
    spacing = modality.preprocessing.spacing
    fine = torch.from_numpy(modality.levels[image.levels])[None, None]
    index = torch.nonzero(torch.from_numpy(image.inside)).flip(1).float()
    return Volume(
        name=image.name,
        modality=modality,
        spacing=spacing,
        fine=fine.to(device),
        coarse=halved(fine).to(device),
        body=(index * 2 * spacing + spacing / 2).to(device),
        origin=image.origin,
    )


def halved(x: Tensor) -> Tensor:
    """Means over cells of two voxels along each axis of (N, C, (z,) y, x)."""
    return (F.avg_pool2d if x.ndim == 4 else F.avg_pool3d)(x, 2)


def sample(volume: Tensor, points: Tensor, *, spacing: float, first: float) -> Tensor:
    """Sample (1, C, (z,) y, x) at points (..., d) mm, linearly, zero outside; returns (C, ...).

    ``first`` is the position of the first voxel's centre along each axis, mm.
    """
    size = torch.tensor(volume.shape[:1:-1], dtype=torch.float32, device=points.device)
    grid = (points - first) * (2 / (spacing * (size - 1))) - 1
    *shape, ndim = grid.shape
    grid = grid.reshape(1, -1, *(1,) * (ndim - 1), ndim)
    return F.grid_sample(volume, grid, align_corners=True).reshape(-1, *shape)


@dataclass(frozen=True, eq=False)
class Map:
    """A dense map from points of one volume to another, with where it can be trusted.

    Attributes
    ----------
    displacement
        (1, d, (z,) y, x) (x, y(, z)) mm on a grid of the fixed volume: the match of point p is p + displacement(p).
    trust
        (1, 1, (z,) y, x) 0 to 1.
    spacing
        Of the grid, mm; its first voxel lies at the volume's first voxel.
    """

    displacement: Tensor
    trust: Tensor
    spacing: float

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Map points (N, d); returns the matches (N, d) and their trust (N,)."""
        shift = sample(self.displacement, points, spacing=self.spacing, first=0.0).T
        return points + shift, sample(self.trust, points, spacing=self.spacing, first=0.0)[0]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two volumes, the same one twice or two with a map.

    Parameters
    ----------
    fixed, moving
        The volumes.
    mapping
        Fixed to moving; None is the identity.
    slack
        How far from its match a point may truly lie, mm, where the map is fully trusted and where it is not at all;
        None where the map is exact.
    landmarks
        (N, d) points of the fixed volume and of the moving one that were read on both, mm in their volumes.
    """

    fixed: Volume
    moving: Volume
    mapping: Map | None = None
    slack: tuple[float, float] | None = None
    landmarks: tuple[Tensor, Tensor] | None = None

    def match(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Matches of points of the fixed volume, (N, d), and how far to trust them, (N,), 0 to 1."""
        if self.mapping is None:
            return points, torch.ones(len(points), device=points.device)
        return self.mapping(points)

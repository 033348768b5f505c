"""Embedding models: what turns an image into an ``Embedding``."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from samreg.device import inference_dtype, resolve_device
from samreg.embedding.embedding import Embedding
from samreg.embedding.inference import Progress, embed_globally, embed_volume, optimised, padded_shape
from samreg.embedding.network import EmbeddingNetwork
from samreg.embedding.preprocessing import AnyPreprocessing
from samreg.errors import InputError
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.standard import mask_voxels, sample_mask, standardised


class EmbeddingModel(ABC):
    """Turns an image into an ``Embedding``.

    Attributes
    ----------
    name
    ndim
        Dimensions of the images it takes.
    info
        Facts to show the user.
    calibration
        Coefficients that turn match similarity into reliability.
    """

    name: str
    ndim: int = 3
    info: Mapping[str, Any] = MappingProxyType({})
    calibration: Mapping[str, float] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.ndim}D)"

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that change with anything that changes the vectors."""

    @property
    def identity(self) -> str:
        """Name and fingerprint, as embeddings carry it: ``name@12345678``."""
        return f"{self.name}@{self.fingerprint}"

    @abstractmethod
    def embed(
        self,
        image: Image,
        *,
        mask: Image | None = None,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
    ) -> Embedding:
        """Embed one image.

        Parameters
        ----------
        image
            In the units the model expects, Hounsfield units for CT; any orientation and voxel size.
        mask
            Where matches may lie, non-zero; on any grid. The body is found automatically and both are joined.
        device
            "auto", "cuda", "mps" or "cpu".
        progress
            Called with the fraction done.

        Raises
        ------
        InputError
            When the image cannot be what the model expects, holds no body, or the mask leaves nothing of it.
        """

    def embed_on_device(
        self, image: Image, *, mask: Image | None = None, device: str | torch.device = "auto"
    ) -> Embedding:
        """Embed one image as :meth:`embed` does, but leave the vectors on the device where the model can.

        They are matched and compared there next; to the CPU and back they would be transferred twice.
        """
        return self.embed(image, mask=mask, device=device)

    def embed_globally(
        self, image: Image, *, mask: Image | None = None, device: str | torch.device = "auto"
    ) -> Embedding | None:
        """Embed one image by its global vectors alone, which tell body parts apart and left from right.

        The local vectors of the result have no channels. None where a model has no global vectors, or they cost it as
        much as both: then :meth:`embed` tells more. Parameters and errors are those of :meth:`embed`.
        """
        return None

    def volume(self, image: Image) -> Image | None:
        """Return what :attr:`Embedding.volume` holds of an image: nothing, where a model keeps none."""
        return None


class NetworkModel(EmbeddingModel):
    """An embedding network with the preprocessing it was trained for.

    Parameters
    ----------
    network
        ``model.network(x)`` gives (local, global) of preprocessed batches (N, 1, (z,) y, x).
    preprocessing
    name
    calibration
    info
    """

    def __init__(
        self,
        network: EmbeddingNetwork,
        preprocessing: AnyPreprocessing,
        *,
        name: str,
        calibration: Mapping[str, float] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        if network.geometry.ndim != preprocessing.ndim:
            raise InputError(f"{name}: a {network.geometry.ndim}D network and {preprocessing.ndim}D preprocessing")
        self.network = network.eval()
        self.ndim = preprocessing.ndim
        self.preprocessing = preprocessing
        self.name = name
        self.calibration = calibration
        self.info = dict(info or {})
        self._ready: dict[torch.device, EmbeddingNetwork] = {}

    @cached_property
    def fingerprint(self) -> str:
        """Eight digits of the hash over architecture, preprocessing and weights."""
        settings = (type(self.network).__name__, dict(self.network.settings), asdict(self.preprocessing))
        digest = hashlib.sha256(repr(settings).encode())
        for key, value in sorted(self.network.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:8]

    def embed(
        self,
        image: Image,
        *,
        mask: Image | None = None,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
    ) -> Embedding:
        """Embed one image; see ``EmbeddingModel.embed``."""
        return self._embedded(image, mask, resolve_device(device), torch.device("cpu"), progress)

    def embed_on_device(
        self, image: Image, *, mask: Image | None = None, device: str | torch.device = "auto"
    ) -> Embedding:
        """Embed one image; see ``EmbeddingModel.embed_on_device``."""
        where = resolve_device(device)
        return self._embedded(image, mask, where, where, None)

    def embed_globally(
        self, image: Image, *, mask: Image | None = None, device: str | torch.device = "auto"
    ) -> Embedding | None:
        """Embed one image by its global vectors alone; see ``EmbeddingModel.embed_globally``."""
        if not self.network.has_global_alone:
            return None
        where = resolve_device(device)
        volume, inside = self._prepared(image)
        settings, geometry = self.preprocessing, self.network.geometry
        global_ = embed_globally(
            self._on(where), settings.normalise(volume.array), pad_value=settings.padding, where=where
        )
        padded = padded_shape(volume.array.shape, geometry)
        shape = tuple(n // stride for n, stride in zip(padded, geometry.local_stride, strict=True))
        return self._assembled(global_.new_empty((0, *shape)), global_, image, mask, volume, inside)

    def volume(self, image: Image) -> Image | None:
        """Return a CT at the model's voxel size; see ``EmbeddingModel.volume``."""
        return self._kept(standardised(image, self.preprocessing.spacing, fill=self.preprocessing.fill))

    def _kept(self, volume: Image) -> Image | None:
        if self.preprocessing.modality != "ct":
            return None
        limits = np.iinfo(np.int16)  # metal may be brighter
        return volume.with_array(np.rint(np.clip(volume.array, limits.min, limits.max)).astype(np.int16))

    def _embedded(
        self,
        image: Image,
        mask: Image | None,
        where: torch.device,
        kept_on: torch.device,
        progress: Progress | None,
    ) -> Embedding:
        volume, inside = self._prepared(image)
        local, global_ = embed_volume(
            self._on(where),
            self.preprocessing.normalise(volume.array),
            pad_value=self.preprocessing.padding,
            where=kept_on,
            progress=progress,
        )
        return self._assembled(local, global_, image, mask, volume, inside)

    def _prepared(self, image: Image) -> tuple[Image, NDArray[np.bool_]]:
        """Return an image at the model's voxel size, and where the body is in it."""
        self.preprocessing.check(image)
        volume = standardised(image, self.preprocessing.spacing, fill=self.preprocessing.fill)
        inside = self.preprocessing.body(volume)
        require_body(inside, image)
        return volume, inside

    def _assembled(
        self,
        local: torch.Tensor,
        global_: torch.Tensor,
        image: Image,
        mask: Image | None,
        volume: Image,
        inside: NDArray[np.bool_],
    ) -> Embedding:
        geometry = self.network.geometry
        local_grid = strided_grid(volume.grid, local.shape[1:], geometry.local_stride, geometry.local_offset)
        body = sample_mask(volume.with_array(inside), local_grid)
        return Embedding(
            local=local,
            local_grid=local_grid,
            global_=global_,
            global_grid=strided_grid(volume.grid, global_.shape[1:], geometry.global_stride, geometry.global_offset),
            body=masked_body(body, local_grid, mask, image),
            image_grid=image.grid,
            model=self.identity,
            calibration=self.calibration,
            volume=self._kept(volume),
        )

    def _on(self, device: torch.device) -> EmbeddingNetwork:
        if device not in self._ready:
            self._ready = {device: optimised(self.network, device, inference_dtype(device))}
        return self._ready[device]


def strided_grid(grid: Grid, shape: tuple[int, ...], stride: tuple[int, ...], offset: tuple[float, ...]) -> Grid:
    """Grid of outputs whose voxel i lies at voxel ``stride * i + offset``, in (z, y, x), of ``grid``."""
    return Grid(
        tuple(shape),
        grid.index_to_world(offset[::-1])[0],
        grid.spacing * np.asarray(stride[::-1]),
        grid.direction,
    )


def require_body(inside: NDArray[np.bool_], image: Image) -> None:
    """Raise InputError when nothing of the image is inside a body."""
    if not inside.any():
        raise InputError(
            f"{image.label}: no body found, all voxels are air or background; check that it is what the model expects"
        )


def _touches(body: NDArray[np.bool_], grid: Grid, mask: Image) -> bool:
    """Tell whether the centre of a voxel of the mask lies in a voxel of the body."""
    places = mask.grid.index_to_world(np.argwhere(mask_voxels(mask.array))[:, ::-1])
    index = np.rint(grid.world_to_index(places)).astype(np.intp)[:, ::-1]
    index = index[((index >= 0) & (index < body.shape)).all(axis=1)]
    return bool(body[tuple(index.T)].any())


def masked_body(body: NDArray[np.bool_], grid: Grid, mask: Image | None, image: Image) -> NDArray[np.bool_]:
    """Body on ``grid`` within the caller's mask.

    Raises
    ------
    InputError
        When the two have nothing in common.
    """
    if mask is not None:
        whole, body = body, body & sample_mask(mask, grid)
        if not body.any():
            if _touches(whole, grid, mask):
                raise InputError(
                    f"{mask.name or 'mask'}: is smaller than the voxels that are matched in {image.label}, "
                    f"{grid.spacing.max():.3g} mm; give a larger region"
                )
            raise InputError(
                f"{mask.name or 'mask'}: has no voxel inside the body of {image.label}; check that both lie in "
                "one frame"
            )
    return body

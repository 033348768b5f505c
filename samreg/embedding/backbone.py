"""Embedding networks as a start for other networks: the pretrained backbone as a torch module."""

from __future__ import annotations

import copy
import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samreg.device import torch_defaults
from samreg.embedding.models import EmbeddingModel, NetworkModel
from samreg.embedding.preprocessing import AnyPreprocessing
from samreg.embedding.registry import load_model
from samreg.errors import InputError


class Encoder(nn.Module):
    """The backbone of an embedding network, in float32 and ready to be trained further.

    ``encoder(x)`` gives feature maps, fine to coarse. Voxel i of map k lies over the input voxels from
    ``strides[k] * i`` on; sizes are rounded up.

    Attributes
    ----------
    ndim
        2 or 3.
    strides
        Input voxels per voxel of each map, (z, y, x) or (y, x).
    channels
        Of each map.
    preprocessing
        The input's voxel size (``spacing``, mm); its ``normalise`` turns intensities into network input.
    """

    def __init__(self, model: NetworkModel) -> None:
        super().__init__()
        self.network = model.network.float()
        self.preprocessing: AnyPreprocessing = model.preprocessing
        self.ndim = model.ndim
        self.strides, self.channels = self.network.strides, self.network.channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode a batch.

        Parameters
        ----------
        x
            (N, 1, z, y, x) or (N, 1, y, x) network input, as ``prepare`` makes it.

        Returns
        -------
        tuple of Tensor
            (N, channels[k], (z',) y', x') each.
        """
        return self.network.encode(x)

    def prepare(self, array: NDArray[np.float32]) -> Tensor:
        """Turn one image's intensities ((z,) y, x), at the preprocessing's voxel size, into input (1, 1, ...)."""
        return torch.from_numpy(self.preprocessing.normalise(np.asarray(array, dtype=np.float32)))[None, None]


@torch_defaults()
def encoder(source: str | os.PathLike[str] | EmbeddingModel, *, pretrained: bool = True, seed: int = 0) -> Encoder:
    """Return the backbone of an embedding model, to be built into another network.

    Parameters
    ----------
    source
        As ``load_model`` takes it; a model with a network. The weights are copied.
    pretrained
        False gives the same network with random weights, to compare with.
    seed
        Of the random weights.

    Returns
    -------
    Encoder

    Raises
    ------
    InputError
        When the model is unknown or has no network.

    Examples
    --------
    >>> import numpy as np
    >>> backbone = encoder("ct-small")
    >>> maps = backbone(backbone.prepare(np.zeros((16, 16, 16))))
    >>> [tuple(part.shape) for part in maps]
    [(1, 32, 8, 8, 8), (1, 32, 4, 4, 4), (1, 64, 2, 2, 2), (1, 128, 1, 1, 1)]
    """
    model = load_model(source)
    if not isinstance(model, NetworkModel):
        raise InputError(f"the model {model.name} is no network and has no weights; choose one that is, as ct-small")
    result = Encoder(NetworkModel(copy.deepcopy(model.network), model.preprocessing, name=model.name))
    if not pretrained:
        reinitialise(result.network, seed=seed)
    return result.train()


def reinitialise(network: nn.Module, *, seed: int = 0) -> None:
    """Give a network new random weights, as a fresh one of its kind has them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # blocks that start as the identity come after the layers they are made of
        for method in ("reset_parameters", "start_as_identity"):
            for module in network.modules():
                if callable(reset := getattr(module, method, None)):
                    reset()

"""Whole-volume inference at bounded memory, exact to rounding.

Only the first stages and the last convolution of a network work on many channels at high resolution, and both
see few slices around each output slice. They are run in slabs along z with that much overlap; the small
levels between them are run once on the whole volume. No seam, no blending, and the same result as one
forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from samreg.device import torch_defaults
from samreg.embedding.network import ConvModule, EmbeddingNetwork, NetworkGeometry

Progress = Callable[[float], None]
NetworkT = TypeVar("NetworkT", bound=nn.Module)

_SLAB = 32  # input slices at least; at 2 mm and 64 bf16 channels about 0.1 GB


def optimised(network: EmbeddingNetwork, device: torch.device, dtype: torch.dtype) -> EmbeddingNetwork:
    """Return a copy for inference: batch norms folded into convolutions, channels last, on the device."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, ConvModule) and isinstance(module.bn, nn.BatchNorm3d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    network = on_device(network, device, network.geometry.ndim)
    return network.to(dtype).requires_grad_(False)


def on_device(network: NetworkT, device: torch.device, ndim: int) -> NetworkT:
    """Return the network on the device, in the memory format that is fastest over so many dimensions."""
    return network.to(device, memory_format=channels_last(ndim))  # type: ignore[call-overload,no-any-return]


def channels_last(ndim: int) -> torch.memory_format:
    """Return the memory format in which convolutions over so many dimensions run fastest on the CPU."""
    return torch.channels_last if ndim == 2 else torch.channels_last_3d


@torch_defaults()
@torch.inference_mode()
def embed_volume(
    network: EmbeddingNetwork,
    volume: NDArray[np.float32],
    *,
    pad_value: float,
    slab: int | None = None,
    store: torch.dtype = torch.float16,
    where: torch.device | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Embed one preprocessed image, 3D or 2D.

    Parameters
    ----------
    network
        In evaluation mode; runs on its own device and type.
    volume
        (z, y, x) or (y, x) preprocessed intensities.
    pad_value
        Intensity of air. The image is padded at its end to whole strides, and to one global stride at least.
    slab
        Input slices computed at once, and up to twice as many; 32 of a volume, all rows of a 2D image unless given.
    store
        Type of the result.
    where
        Device of the result; the CPU unless given.
    progress
        Called with the fraction done, 0 to 1.

    Returns
    -------
    local_embedding, global_embedding : Tensor
        (C, (z',) y', x') each, unit length over C. Channels vary fastest in memory, so that
        ``.flatten(1).T`` is an (N, C) view.
    """
    geometry = network.geometry
    report = progress or (lambda fraction: None)
    parameter = next(network.parameters())
    where = torch.device("cpu") if where is None else where

    x = _padded(volume, geometry, pad_value)
    slab = slab or (_SLAB if geometry.ndim == 3 else x.shape[2])

    features: list[Tensor] = []
    for parts, start, stop in _in_slabs(
        lambda piece: network.shallow(piece.to(device=parameter.device, dtype=parameter.dtype)),
        x, slab=slab, halo=network.shallow_halo, stride=geometry.local_stride[0],
    ):  # fmt: skip
        depth = x.shape[2] // geometry.local_stride[0]
        if not features:
            features = [_empty(part, depth, parameter.dtype, parameter.device) for part in parts]
        for whole, part in zip(features, parts, strict=True):
            whole[:, :, start:stop] = part
        report(0.4 * stop / depth)
    fused, deepest = network.trunk(*features)
    del features
    report(0.8)
    global_embedding = _stored(deepest, store, where)
    local_embedding: Tensor | None = None
    for (part,), start, stop in _in_slabs(
        lambda piece: (network.head(piece),), fused, slab=slab // 2, halo=network.head_halo, stride=1
    ):
        if local_embedding is None:
            local_embedding = _empty(part, fused.shape[2], store, where)
        local_embedding[:, :, start:stop] = F.normalize(part.float(), dim=1).to(store)
        report(0.8 + 0.2 * stop / fused.shape[2])
    assert local_embedding is not None
    return local_embedding[0], global_embedding[0]


@torch_defaults()
@torch.inference_mode()
def embed_globally(
    network: EmbeddingNetwork,
    volume: NDArray[np.float32],
    *,
    pad_value: float,
    store: torch.dtype = torch.float16,
    where: torch.device | None = None,
) -> Tensor:
    """Return the global embedding alone, as :func:`embed_volume` does, of whose parameters these are."""
    parameter = next(network.parameters())
    x = _padded(volume, network.geometry, pad_value).to(device=parameter.device, dtype=parameter.dtype)
    return _stored(network.global_alone(x), store, torch.device("cpu") if where is None else where)[0]


def _padded(volume: NDArray[np.float32], geometry: NetworkGeometry, pad_value: float) -> Tensor:
    """Return an image as (1, 1, (z,) y, x), padded at its end to whole strides, and to one global stride at least."""
    more = [padded - n for padded, n in zip(padded_shape(volume.shape, geometry), volume.shape, strict=True)]
    x = torch.from_numpy(volume)[None, None]
    return F.pad(x, [n for after in reversed(more) for n in (0, after)], value=pad_value)


def padded_shape(shape: Sequence[int], geometry: NetworkGeometry) -> tuple[int, ...]:
    """Return the shape of an image after padding to whole strides, and to one global stride at least."""
    strides = zip(shape, geometry.local_stride, geometry.global_stride, strict=True)
    return tuple(max(-(-n // fine) * fine, coarse) for n, fine, coarse in strides)


def _stored(vectors: Tensor, store: torch.dtype, where: torch.device) -> Tensor:
    """Return unit vectors (1, C, ...) of a type on a device, channels last."""
    result = _empty(vectors, vectors.shape[2], store, where)
    return result.copy_(F.normalize(vectors.float(), dim=1).to(store))  # in the smaller type, to transfer less


def _in_slabs(
    stage: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor, *, slab: int, halo: int, stride: int
) -> Iterator[tuple[list[Tensor], int, int]]:
    """Yield the outputs of ``stage`` slab by slab along the first axis, with the output slices they fill.

    Those are all about as thick, at least ``slab`` where the image is. ``halo`` is a multiple of ``stride`` that covers
    what the stage sees beyond a slab.
    """
    length = x.shape[2]
    count = max(1, length // slab)
    edges = [length // stride * k // count * stride for k in range(count + 1)]
    for start, stop in pairwise(edges):
        low, high = max(0, start - halo), min(length, stop + halo)
        first, last = start // stride, stop // stride
        inner = slice(first - low // stride, last - low // stride)
        yield [out[:, :, inner] for out in stage(x[:, :, low:high])], first, last


def _empty(like: Tensor, depth: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised (1, C, depth, ...), channels last."""
    _, channels, _, *others = like.shape
    return torch.empty((1, depth, *others, channels), dtype=dtype, device=device).movedim(-1, 1)

"""The compact network behind ``ct-small`` and ``xray-ceph``: a coarse trunk sees the whole image, a fine one detail.

The coarse trunk works on the 2x average-pooled image (4 mm at 2 mm input) at strides 4, 8, 16, ... and gives the
global embedding at stride 4. It is cheap enough to be trained on whole volumes, so its context is that of
inference. The fine trunk works at stride 2 on the unpooled image and takes the coarse features in; its head
gives the local embedding.

One definition serves volumes and projections: every layer takes the number of dimensions.

Features are normalised over the channels of each voxel alone, so that nothing depends on the field of view or
the batch, and slabs of a volume give exactly the numbers of the whole. Air is zero after the windowing: zero
padding continues the image with air.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samreg.embedding.convolution import Convolution3d
from samreg.embedding.ct import Preprocessing
from samreg.embedding.network import EmbeddingNetwork, NetworkGeometry

# network input is HU / 1000, so that half precision keeps soft tissue apart
COMPACT_PREPROCESSING = Preprocessing(spacing=2.0, hu_range=(-1024.0, 3071.0), scale_range=(-1.024, 3.071))
_WINDOWS = ((-1.0, 1.0), (-0.16, 0.24))  # thorax and skeleton; soft tissue


class CompactNetwork(EmbeddingNetwork):
    """Two-trunk embedding network; see the module's description.

    Parameters
    ----------
    ndim
        2 or 3.
    fine
        Channels at stride 2.
    coarse
        Channels at strides 4, 8, 16, ...
    blocks
        Residual blocks at these strides on the way down.
    fine_blocks
        Residual blocks at stride 2.
    local_dim, global_dim
        Length of the embeddings.
    windows
        Intervals of the input that become one channel each, 0 to 1.
    """

    shallow_halo = 2
    head_halo = 1
    has_global_alone = True

    def __init__(
        self,
        *,
        ndim: int = 3,
        fine: int = 32,
        coarse: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] = (1, 2, 2),
        fine_blocks: int = 1,
        local_dim: int = 32,
        global_dim: int = 64,
        windows: Sequence[Sequence[float]] = _WINDOWS,
    ) -> None:
        super().__init__()
        self.geometry = NetworkGeometry((2,) * ndim, (0.5,) * ndim, (4,) * ndim, (1.5,) * ndim)
        self.channels = (fine, *coarse)
        self.strides = tuple((2 ** (1 + level),) * ndim for level in range(len(self.channels)))
        self.windows = tuple((float(low), float(high)) for low, high in windows)
        self.settings = {"windows": self.windows}  # the rest shows in the shapes of the weights
        self.config = {  # by which a checkpoint builds it again
            "ndim": ndim, "fine": fine, "coarse": [*coarse], "blocks": [*blocks], "fine_blocks": fine_blocks,
            "local_dim": local_dim, "global_dim": global_dim, "windows": [[*window] for window in self.windows],
        }  # fmt: skip
        inputs = 2**ndim * len(self.windows)

        def conv(inputs: int, outputs: int, size: int) -> nn.Module:
            return _conv(ndim, inputs, outputs, size)

        def stage(channels: int, blocks: int) -> nn.Sequential:
            return nn.Sequential(*(_Block(ndim, channels) for _ in range(blocks)))

        self.fine_stem = nn.Sequential(conv(inputs, fine, 3), ChannelNorm(fine), nn.ReLU(inplace=True))
        self.coarse_stem = conv(inputs, coarse[0], 3)
        self.stages = nn.ModuleList(stage(n, count) for n, count in zip(coarse, blocks, strict=True))
        self.downs = nn.ModuleList(_Down(ndim, a, b) for a, b in zip(coarse[:-1], coarse[1:], strict=True))
        self.laterals = nn.ModuleList(conv(n, m, 1) for n, m in zip(coarse[1:], coarse[:-1], strict=True))
        self.merges = nn.ModuleList(stage(n, 1) for n in coarse[:-1])
        self.global_head = nn.Sequential(ChannelNorm(coarse[0]), conv(coarse[0], global_dim, 1))
        self.context = nn.Sequential(ChannelNorm(coarse[0]), conv(coarse[0], fine, 1))
        self.fine_stage = stage(fine, fine_blocks)
        self.local_head = nn.Sequential(ChannelNorm(fine), nn.ReLU(inplace=True), conv(fine, local_dim, 3))

    def shallow(self, x: Tensor) -> tuple[Tensor, ...]:
        """Fine features, and the pooled image, which the coarse trunk sees."""
        return self.fine_features(x), _pooled(x)

    def fine_features(self, x: Tensor) -> Tensor:
        """First features of the fine trunk, at stride 2."""
        features: Tensor = self.fine_stem(self._windowed_blocks(x))
        return features

    def trunk(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        fine, pooled = features
        context, global_embedding = self.coarse(pooled)
        return self.fuse(fine, context), global_embedding

    def head(self, fused: Tensor) -> Tensor:
        local: Tensor = self.local_head(fused)
        return local

    def global_alone(self, x: Tensor) -> Tensor:
        return self.coarse(_pooled(x))[1]

    def coarse(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Whole field of view at stride 2, (N, 1, (z,) y, x), to (context, global embedding) at stride 4."""
        x = self.pyramid(pooled)[0]
        return self.context(x), self.global_head(x)

    def pyramid(self, pooled: Tensor) -> list[Tensor]:
        """Whole field of view at stride 2 to features at strides 4, 8, 16, ..., each with the context of the deeper."""
        x = self.coarse_stem(self._windowed_blocks(pooled))
        levels = []
        for depth, stage in enumerate(self.stages):
            x = stage(self.downs[depth - 1](x) if depth else x)
            levels.append(x)
        for depth in reversed(range(len(self.merges))):
            x = levels[depth] + _doubled(self.laterals[depth](x), levels[depth].shape[2:])
            levels[depth] = x = self.merges[depth](x)
        return levels

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        fine, pooled = self.shallow(x)
        levels = self.pyramid(pooled)
        return (self.fuse(fine, self.context(levels[0])), *levels)

    def fuse(self, features: Tensor, context: Tensor) -> Tensor:
        """Add the context (stride 4) to the fine features (stride 2)."""
        fused: Tensor = self.fine_stage(features + _doubled(context, features.shape[2:]))
        return fused

    def _windowed_blocks(self, x: Tensor) -> Tensor:
        """Network input to the cells of ``_blocks``, one channel per voxel and window, 0 to 1; beyond its end 0."""
        voxels = _blocks(x, fill=min(low for low, _ in self.windows)).movedim(1, -1)
        windows = [voxels.clamp(low, high).sub_(low).div_(high - low) for low, high in self.windows]
        return torch.stack(windows, dim=-1).flatten(-2).movedim(-1, 1)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every voxel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _Block(nn.Module):
    """Pre-activation residual block with one norm; the identity at the start of training."""

    def __init__(self, ndim: int, channels: int) -> None:
        super().__init__()
        convolutions = [_conv(ndim, channels, channels, 3) for _ in range(2)]
        self.body = nn.Sequential(ChannelNorm(channels), convolutions[0], nn.ReLU(inplace=True), convolutions[1])
        self.start_as_identity()

    def start_as_identity(self) -> None:
        """Set the weights of the last convolution to zero."""
        last = self.body[-1]
        assert isinstance(last.weight, Tensor)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


class _Down(nn.Module):
    """Halve the resolution: cells of two voxels along each axis to channels, mixed by a convolution of size 1."""

    def __init__(self, ndim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(inputs)
        self.mix = _conv(ndim, 2**ndim * inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.mix(_blocks(self.norm(x)))
        return halved


def _conv(ndim: int, inputs: int, outputs: int, size: int) -> nn.Module:
    return (nn.Conv2d if ndim == 2 else Convolution3d)(inputs, outputs, size, padding=size // 2)


def _pooled(x: Tensor) -> Tensor:
    """Mean of cells of two voxels along each axis, (N, 1, (z,) y, x)."""
    return _blocks(x).mean(dim=1, keepdim=True)


def _blocks(x: Tensor, *, fill: float = 0.0) -> Tensor:
    """Cells of two voxels along each axis to channels; odd sizes are filled up at the end."""
    n, c, *size = x.shape
    ndim, cells = len(size), [-(-s // 2) for s in size]
    if any(s % 2 for s in size):
        x = F.pad(x, [n for s in reversed(size) for n in (0, s % 2)], value=fill)
    x = x.reshape(n, c, *(m for cell in cells for m in (cell, 2)))
    x = x.permute(0, *range(2, 2 + 2 * ndim, 2), *range(3, 3 + 2 * ndim, 2), 1)
    return x.reshape(n, *cells, 2**ndim * c).movedim(-1, 1)


def _doubled(x: Tensor, size: torch.Size) -> Tensor:
    """Nearest-neighbour upsampling by two, cropped to ``size``; the centres of ``_blocks`` cells stay in place."""
    n, c, *old = x.shape
    cells = x.movedim(1, -1).reshape(n, *(m for s in old for m in (s, 1)), c)
    cells = cells.expand(n, *(m for s in old for m in (s, 2)), c).reshape(n, *(2 * s for s in old), c)
    return cells[(slice(None), *(slice(s) for s in size))].movedim(-1, 1)

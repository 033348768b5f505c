"""The compact network behind ``ct-small``: a coarse trunk that sees the whole body, a fine one for detail.

The coarse trunk works on the 2x average-pooled image (4 mm at 2 mm input) at strides 4, 8 and 16 and gives the
global embedding at stride 4. It is cheap enough to be trained on whole volumes, so its context is that of
inference. The fine trunk works at stride 2 on the unpooled image and takes the coarse features in; its head
gives the local embedding.

Features are normalised over the channels of each voxel alone, so that nothing depends on the field of view or
the batch, and slabs of a volume give exactly the numbers of the whole. Air is zero after the windowing: zero
padding continues the image with air.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samreg.embedding.network import EmbeddingNetwork, NetworkGeometry
from samreg.embedding.preprocessing import Preprocessing

# network input is HU / 1000, so that half precision keeps soft tissue apart
COMPACT_PREPROCESSING = Preprocessing(spacing=2.0, hu_range=(-1024.0, 3071.0), scale_range=(-1.024, 3.071))
_WINDOWS = ((-1.0, 1.0), (-0.16, 0.24))  # thorax and skeleton; soft tissue


class CompactNetwork(EmbeddingNetwork):
    """Two-trunk embedding network; see the module's description.

    Parameters
    ----------
    fine : int
        Channels at stride 2.
    coarse : tuple of int
        Channels at strides 4, 8 and 16.
    blocks : tuple of int
        Residual blocks at these strides on the way down.
    local_dim, global_dim : int
        Length of the embeddings.
    """

    geometry = NetworkGeometry(
        local_stride=(2, 2, 2),
        local_offset=(0.5, 0.5, 0.5),
        global_stride=(4, 4, 4),
        global_offset=(1.5, 1.5, 1.5),
    )
    shallow_halo = 2
    head_halo = 1

    def __init__(
        self,
        *,
        fine: int = 32,
        coarse: tuple[int, int, int] = (32, 64, 128),
        blocks: tuple[int, int, int] = (1, 2, 2),
        local_dim: int = 32,
        global_dim: int = 64,
    ) -> None:
        super().__init__()
        inputs = 8 * len(_WINDOWS)
        self.fine_stem = nn.Sequential(_conv(inputs, fine), ChannelNorm(fine), nn.ReLU(inplace=True))
        self.coarse_stem = _conv(inputs, coarse[0])
        self.stages = nn.ModuleList(_stage(n, count) for n, count in zip(coarse, blocks, strict=True))
        self.downs = nn.ModuleList(_Down(a, b) for a, b in zip(coarse[:-1], coarse[1:], strict=True))
        self.laterals = nn.ModuleList(nn.Conv3d(n, m, 1) for n, m in zip(coarse[1:], coarse[:-1], strict=True))
        self.merges = nn.ModuleList(_stage(n, 1) for n in coarse[:-1])
        self.global_head = nn.Sequential(ChannelNorm(coarse[0]), nn.Conv3d(coarse[0], global_dim, 1))
        self.context = nn.Sequential(ChannelNorm(coarse[0]), nn.Conv3d(coarse[0], fine, 1))
        self.fine_stage = _stage(fine, 1)
        self.local_head = nn.Sequential(ChannelNorm(fine), nn.ReLU(inplace=True), _conv(fine, local_dim))

    def shallow(self, x: Tensor) -> Tensor:
        """Fine features with the pooled image as their last channel."""
        return torch.cat([self.fine_features(x), _blocks(x).mean(dim=1, keepdim=True)], dim=1)

    def fine_features(self, x: Tensor) -> Tensor:
        """First features of the fine trunk, at stride 2."""
        return self.fine_stem(_blocks(_windowed(x)))

    def trunk(self, features: Tensor) -> tuple[Tensor, Tensor]:
        context, global_embedding = self.coarse(features[:, -1:])
        return self.fuse(features[:, :-1], context), global_embedding

    def head(self, fused: Tensor) -> Tensor:
        return self.local_head(fused)

    def coarse(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Whole field of view at stride 2, (N, 1, z, y, x), to (context, global embedding) at stride 4."""
        x = self.coarse_stem(_blocks(_windowed(pooled)))
        levels = []
        for depth, stage in enumerate(self.stages):
            x = stage(self.downs[depth - 1](x) if depth else x)
            levels.append(x)
        for depth in reversed(range(len(self.merges))):
            x = levels[depth] + _doubled(self.laterals[depth](x), levels[depth].shape[2:])
            x = self.merges[depth](x)
        return self.context(x), self.global_head(x)

    def fuse(self, features: Tensor, context: Tensor) -> Tensor:
        """Add the context (stride 4) to the fine features (stride 2)."""
        return self.fine_stage(features + _doubled(context, features.shape[2:]))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every voxel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class _Block(nn.Module):
    """Pre-activation residual block with one norm; the identity at the start of training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ChannelNorm(channels), _conv(channels, channels), nn.ReLU(inplace=True), _conv(channels, channels)
        )
        nn.init.zeros_(self.body[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Down(nn.Module):
    """Halve the resolution: 2x2x2 cells to channels, mixed by a 1x1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(inputs)
        self.mix = nn.Conv3d(8 * inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(_blocks(self.norm(x)))


def _conv(inputs: int, outputs: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 3, padding=1)


def _stage(channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(blocks)))


def _windowed(x: Tensor) -> Tensor:
    """Thousands of HU to one channel per window, 0 to 1, air 0."""
    return torch.cat([(x.clamp(low, high) - low) / (high - low) for low, high in _WINDOWS], dim=1)


def _blocks(x: Tensor) -> Tensor:
    """Cells of 2x2x2 voxels to channels; odd sizes are filled up with zeros at the end."""
    n, c, *size = x.shape
    z, y, w = (-(-s // 2) for s in size)
    if (2 * z, 2 * y, 2 * w) != tuple(size):
        x = F.pad(x, (0, 2 * w - size[2], 0, 2 * y - size[1], 0, 2 * z - size[0]))
    cells = x.reshape(n, c, z, 2, y, 2, w, 2).permute(0, 2, 4, 6, 3, 5, 7, 1)
    return cells.reshape(n, z, y, w, 8 * c).permute(0, 4, 1, 2, 3)


def _doubled(x: Tensor, size: torch.Size) -> Tensor:
    """Nearest-neighbour upsampling by two, cropped to `size`; the centres of `_blocks` cells stay in place."""
    n, c, z, y, w = x.shape
    cells = x.permute(0, 2, 3, 4, 1)[:, :, None, :, None, :, None].expand(n, z, 2, y, 2, w, 2, c)
    cells = cells.reshape(n, 2 * z, 2 * y, 2 * w, c)[:, : size[0], : size[1], : size[2]]
    return cells.permute(0, 4, 1, 2, 3)

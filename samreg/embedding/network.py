"""The published SAM network in plain torch, and what every embedding network has to offer.

The architecture follows the official release (``alibaba-damo-academy/self-supervised-anatomical-embedding-v2``,
``sam/models/backbones/resnet3d.py``, ``fpn3d.py``): a 3-D ResNet-18 without a pool after the stem, a feature
pyramid for the local embedding and a separate read-out of the deepest level for the global one. Module names
give exactly the keys of the official checkpoints.

References
----------
Yan et al., "SAM: Self-supervised Learning of Pixel-wise Anatomical Embeddings in Radiological Images",
IEEE Transactions on Medical Imaging 41(10), 2022.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samreg.embedding.convolution import Convolution3d

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class NetworkGeometry:
    """Where the outputs of a network lie on its input grid.

    The centre of output voxel ``i`` is input voxel ``stride * i + offset``, per axis (z, y, x).

    Attributes
    ----------
    local_stride, global_stride
        Input voxels per output voxel, one number per axis. ``global_stride`` is a multiple of ``local_stride``.
    local_offset, global_offset
        Centre of the receptive field of output voxel 0, in input voxels.
    """

    local_stride: tuple[int, ...]
    local_offset: tuple[float, ...]
    global_stride: tuple[int, ...]
    global_offset: tuple[float, ...]

    @property
    def ndim(self) -> int:
        """Number of dimensions of the images, 2 or 3."""
        return len(self.local_stride)


class EmbeddingNetwork(nn.Module, ABC):
    """A network that gives every voxel a local and a global unit vector.

    The forward pass is split in three so that large volumes run at bounded memory
    (``samreg.embedding.inference``): ``shallow`` and ``head`` run slab by slab along the first axis, ``trunk`` on the
    whole, already small, volume.

    Attributes
    ----------
    geometry
    shallow_halo
        Input slices beyond a slab on which ``shallow`` depends, rounded up to a multiple of the local stride.
    head_halo
        Slices beyond a slab on which ``head`` depends.
    strides
        Input voxels per voxel of each of the feature maps that ``encode`` gives, per axis.
    channels
        Their channels.
    settings
        What changes the vectors beside the weights, as plain values; part of a model's fingerprint.
    has_global_alone
        Whether ``global_alone`` gives the global embedding at a fraction of the cost of both.
    """

    geometry: NetworkGeometry
    strides: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]
    shallow_halo: int
    head_halo: int
    settings: Mapping[str, Any] = MappingProxyType({})
    has_global_alone: bool = False

    @abstractmethod
    def shallow(self, x: Tensor) -> tuple[Tensor, ...]:
        """First stages, (N, 1, (z,) y, x) to feature maps at the local stride."""

    @abstractmethod
    def trunk(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        """What ``shallow`` returns to (fused features at the local stride, global embedding before its norm)."""

    @abstractmethod
    def head(self, fused: Tensor) -> Tensor:
        """Fused features to the local embedding, not normalised."""

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Network input (N, 1, (z,) y, x) to feature maps, fine to coarse, as ``strides`` and ``channels`` say."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embed a batch of images.

        Parameters
        ----------
        x
            (N, 1, z, y, x) or (N, 1, y, x) preprocessed intensities.

        Returns
        -------
        local_embedding, global_embedding : Tensor
            (N, C, (z',) y', x') each, unit length over C, at the strides of ``geometry``.
        """
        fused, global_embedding = self.trunk(*self.shallow(x))
        return F.normalize(self.head(fused), dim=1), F.normalize(global_embedding, dim=1)

    def global_alone(self, x: Tensor) -> Tensor:
        """Network input (N, 1, (z,) y, x) to the global embedding before its norm, without the local one."""
        return self.trunk(*self.shallow(x))[1]


class ConvModule(nn.Module):
    """Convolution, batch norm and ReLU, under the names mmcv gives them (``conv``, ``bn``).

    With ``norm=False`` it is a plain convolution with bias.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Triple,
        *,
        stride: Triple = (1, 1, 1),
        norm: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        z, y, x = kernel
        padding = (z // 2, y // 2, x // 2)
        self.conv = Convolution3d(inputs, outputs, kernel, stride=stride, padding=padding, bias=not norm)
        self.bn = nn.BatchNorm3d(outputs) if norm else nn.Identity()
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.bn(self.conv(x)))
        return result


class BasicBlock(nn.Module):
    """Residual block of two convolutions; the shortcut is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, kernel: Triple, *, stride: Triple, project: bool) -> None:
        super().__init__()
        self.conv1 = ConvModule(inputs, outputs, kernel, stride=stride)
        self.conv2 = ConvModule(outputs, outputs, kernel, act=False)
        self.downsample = ConvModule(inputs, outputs, (1, 1, 1), stride=stride, act=False) if project else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        result: Tensor = self.relu(out.add_(self.downsample(x)))
        return result


def _stage(inputs: int, outputs: int, kernel: Triple, stride: Triple) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inputs, outputs, kernel, stride=stride, project=True),
        BasicBlock(outputs, outputs, kernel, stride=(1, 1, 1), project=False),
    )


class Backbone(nn.Module):
    """3-D ResNet-18 of the official release; four levels, level 1 after the z pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvModule(1, 64, (3, 7, 7))
        self.layer1 = _stage(64, 64, (1, 3, 3), (1, 2, 2))
        self.pool2 = nn.MaxPool3d((2, 1, 1), stride=(2, 1, 1))
        self.layer2 = _stage(64, 128, (1, 3, 3), (1, 2, 2))
        self.layer3 = _stage(128, 256, (3, 3, 3), (1, 2, 2))
        self.layer4 = _stage(256, 512, (3, 3, 3), (2, 2, 2))


class Pyramid(nn.Module):
    """Lateral 1x1x1 convolutions, nearest-neighbour top-down sum, a 3x3x3 convolution on the finest level."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(n, outputs, (1, 1, 1), norm=False, act=False) for n in inputs)
        self.fpn_convs = nn.ModuleList([ConvModule(outputs, outputs, (3, 3, 3), norm=False, act=False)])

    def fuse(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Sum the levels, coarse to fine, on the finest one."""
        fused: Tensor = self.lateral_convs[-1](levels[-1])
        for lateral, level in zip(reversed(self.lateral_convs[:-1]), reversed(levels[:-1]), strict=True):
            fused = lateral(level).add_(_repeat(fused, level.shape[2:]))
        return fused

    def read_out(self, fused: Tensor) -> Tensor:
        local: Tensor = self.fpn_convs[0](fused)
        return local


def _repeat(x: Tensor, size: torch.Size) -> Tensor:
    """Nearest-neighbour upsampling of (N, C, z, y, x) by whole factors, cropped to ``size``.

    The values of ``torch.nn.functional.interpolate``, three times as fast in channels-last memory on the CPU.
    """
    batch, channels, *old = x.shape
    fz, fy, fx = (-(-new // n) for new, n in zip(size, old, strict=True))
    z, y, w = old
    cells = x.permute(0, 2, 3, 4, 1)[:, :, None, :, None, :, None]
    cells = cells.expand(batch, z, fz, y, fy, w, fx, channels).reshape(batch, z * fz, y * fy, w * fx, channels)
    return cells[:, : size[0], : size[1], : size[2]].permute(0, 4, 1, 2, 3)


class SamNetwork(EmbeddingNetwork):
    """The published SAM network: local 128-d at stride (2, 2, 2), global 128-d at stride (4, 16, 16).

    The z pool makes output slice ``i`` the mean place of input slices ``2 i`` and ``2 i + 1``, hence the
    half-voxel offset in z; every other stage is centred on its first voxel. Nearest-neighbour upsampling
    adds context of the coarser pyramid levels from up to one coarse voxel before the centre, equally in
    every image.
    """

    geometry = NetworkGeometry(
        local_stride=(2, 2, 2),
        local_offset=(0.5, 0.0, 0.0),
        global_stride=(4, 16, 16),
        global_offset=(0.5, 0.0, 0.0),
    )
    shallow_halo = 2
    head_halo = 1
    strides = ((2, 2, 2), (2, 4, 4), (2, 8, 8), (4, 16, 16))
    channels = (64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.neck = Pyramid((64, 128, 256), 128)
        self.read_out_head = Pyramid((512,), 128)

    def shallow(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.backbone.pool2(self.backbone.layer1(self.backbone.conv1(x))),)

    def trunk(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        (level1,) = features
        level2 = self.backbone.layer2(level1)
        level3 = self.backbone.layer3(level2)
        level4 = self.backbone.layer4(level3)
        global_embedding = self.read_out_head.read_out(self.read_out_head.fuse((level4,)))
        return self.neck.fuse((level1, level2, level3)), global_embedding

    def head(self, fused: Tensor) -> Tensor:
        return self.neck.read_out(fused)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        (level1,) = self.shallow(x)
        level2 = self.backbone.layer2(level1)
        level3 = self.backbone.layer3(level2)
        return level1, level2, level3, self.backbone.layer4(level3)

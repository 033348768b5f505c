"""The convolution that networks over volumes are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Convolution3d(nn.Conv3d):
    """``nn.Conv3d``, which oneDNN computes on a CPU however small the input and the kernel are.

    torch leaves float32 inputs of at most 20480 lines, all channels counted, and in one thread kernels of one voxel, to
    a method of its own that takes up to seven times as long and does not keep the channels last.

    Examples
    --------
    >>> x = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
    >>> mean = Convolution3d(1, 1, 3, padding=1, bias=False).requires_grad_(False)
    >>> _ = mean.weight.fill_(1 / 27)
    >>> round(float(mean(x)[0, 0, 1, 1, 1]), 3) == float(x[0, 0, :3, :3, :3].mean())
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding
        if isinstance(padding, tuple) and self.padding_mode == "zeros" and _is_for_onednn(x):
            return torch.mkldnn_convolution(x, self.weight, self.bias, padding, self.stride, self.dilation, self.groups)
        result: Tensor = super().forward(x)
        return result


def _is_for_onednn(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")  # which may turn both into bfloat16
    )

"""The convolution of networks over volumes: the numbers of torch's own, by the faster method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from samreg.embedding.convolution import Convolution3d


def _both(*, kernel: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Conv3d, Convolution3d, torch.Tensor]:
    torch.manual_seed(0)
    own = Convolution3d(8, 16, kernel, padding=kernel // 2)
    plain = nn.Conv3d(8, 16, kernel, padding=kernel // 2)
    plain.load_state_dict(own.state_dict())
    x = torch.randn(1, 8, 5, 6, 7).to(memory_format=torch.channels_last_3d)
    return plain.to(dtype), own.to(dtype), x.to(dtype)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_and_gradients_are_those_of_torch(kernel, dtype):
    plain, own, x = _both(kernel=kernel, dtype=dtype)
    expected, result = plain(x), own(x)
    torch.testing.assert_close(result, expected)
    for module, y in ((plain, expected), (own, result)):
        y.square().sum().backward()
        assert module.bias.grad is not None
    torch.testing.assert_close(own.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_channels_stay_last(kernel):
    _, own, x = _both(kernel=kernel)
    assert own(x).is_contiguous(memory_format=torch.channels_last_3d)


def test_one_thread_computes_small_inputs_with_onednn():
    _, own, x = _both(kernel=3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.no_grad():
        own(x)
    assert "aten::mkldnn_convolution" in {event.key for event in profile.key_averages()}


def test_autocast_is_heeded():
    plain, own, x = _both(kernel=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert own(x).dtype == plain(x).dtype == torch.bfloat16

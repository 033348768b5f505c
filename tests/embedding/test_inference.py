"""Inference in slabs equals one forward pass; devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from samreg.device import inference_dtype, resolve_device
from samreg.embedding.compact import CompactNetwork
from samreg.embedding.inference import embed_globally, embed_volume, optimised
from samreg.embedding.network import SamNetwork
from samreg.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> SamNetwork:
    torch.manual_seed(0)
    network = SamNetwork().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):  # else folding them would change nothing
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return network


def _whole(network, volume):
    shape = [max(-(-n // 2) * 2, g) for n, g in zip(volume.shape, network.geometry.global_stride, strict=True)]
    padded = np.full(shape, -50, np.float32)
    padded[tuple(slice(n) for n in volume.shape)] = volume
    with torch.inference_mode():
        local, global_ = network(torch.from_numpy(padded)[None, None])
    return local[0], global_[0]


@pytest.mark.parametrize("shape", [(23, 37, 41), (1, 1, 1), (21, 33, 18)])
def test_slabs_equal_one_forward_pass(network, shape):
    volume = np.random.default_rng(0).normal(0, 50, shape).astype(np.float32)
    fractions = []
    local, global_ = embed_volume(
        optimised(network, CPU, torch.float32),
        volume,
        pad_value=-50,
        slab=8,
        store=torch.float32,
        progress=fractions.append,
    )
    expected_local, expected_global = _whole(network, volume)
    torch.testing.assert_close(local, expected_local, atol=1e-5, rtol=0)
    torch.testing.assert_close(global_, expected_global, atol=1e-5, rtol=0)
    assert local.flatten(1).T.is_contiguous()
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_half_precision_is_close(network):
    volume = np.random.default_rng(1).normal(0, 50, (12, 40, 40)).astype(np.float32)
    dtype = inference_dtype(CPU)
    local, _ = embed_volume(optimised(network, CPU, dtype), volume, pad_value=-50)
    assert local.dtype == torch.float16
    assert (local.float() * _whole(network, volume)[0]).sum(0).min() > 0.995


def test_devices():
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cuda", "mps", "cpu")
    for unknown in ("gpu", "tpu:0", "meta"):
        with pytest.raises(InputError, match="choose one of auto"):
            resolve_device(unknown)


@pytest.mark.parametrize("shape", [(23, 37, 41), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_global_embedding_alone_is_that_of_both(shape, dtype):
    torch.manual_seed(0)
    compact = optimised(CompactNetwork(fine=8, coarse=(8, 16), blocks=(1, 1)), CPU, dtype)
    assert compact.has_global_alone
    volume = np.random.default_rng(0).normal(0, 0.5, shape).astype(np.float32)
    _, expected = embed_volume(compact, volume, pad_value=-1, slab=8, store=torch.float32)
    alone = embed_globally(compact, volume, pad_value=-1, store=torch.float32)
    torch.testing.assert_close(alone, expected, atol=1e-5 if dtype is torch.float32 else 2e-2, rtol=0)


def test_the_published_network_gives_its_global_embedding_alone_too(network):
    volume = np.random.default_rng(0).normal(0, 50, (9, 20, 20)).astype(np.float32)
    ready = optimised(network, CPU, torch.float32)
    _, expected = embed_volume(ready, volume, pad_value=-50, store=torch.float32)
    alone = embed_globally(ready, volume, pad_value=-50, store=torch.float32)
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)

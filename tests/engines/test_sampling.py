"""Sampling in parallel: the values of one thread, wherever the places are and however many."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samreg.engines.torch_engine.volumes import sampled


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("other", [(211, 173), (36_507,)])
@pytest.mark.parametrize("ndim", [2, 3])
def test_threads_change_no_value(threads, other, ndim):
    torch.manual_seed(ndim)
    volume, at = torch.randn(1, 4, *(9, 8, 7)[:ndim]), torch.rand(*other, ndim) * 2.4 - 1.2  # some beyond the border
    flat = at.reshape(1, *[1] * (ndim - 1), -1, ndim)
    truth = F.grid_sample(volume, flat, padding_mode="border", align_corners=False).reshape(1, 4, *other)
    for count in (1, 2, 3):
        threads(count)
        assert torch.equal(sampled(volume, at), truth)


def test_threads_change_no_gradient_but_its_rounding(threads):
    torch.manual_seed(0)
    volume, at = torch.randn(1, 3, 9, 8, 7), torch.rand(31, 33, 37, 3) * 2.4 - 1.2
    gradients = []
    for count in (1, 2, 6):
        threads(count)
        leaves = [volume.clone().requires_grad_(True), at.clone().requires_grad_(True)]
        sampled(*leaves).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for found in gradients[1:]:
        torch.testing.assert_close(found[0], gradients[0][0], rtol=1e-4, atol=1e-3)
        assert torch.equal(found[1], gradients[0][1])

"""Steps computed again for their gradient: the gradient is the same, and nothing slow is loaded for it."""

from __future__ import annotations

import subprocess
import sys

import torch

from samreg.engines.torch_engine import velocity
from samreg.engines.torch_engine.recompute import recomputed
from samreg.engines.torch_engine.velocity import exponential, roughness


def test_the_gradient_is_that_of_the_step():
    volume = torch.randn(1, 3, 5, 6, 7, requires_grad=True)

    def step(v):
        return (v.sin() * v).sum(dim=1)

    (truth,) = torch.autograd.grad(step(volume).square().sum(), volume)
    (found,) = torch.autograd.grad(recomputed(step, volume).square().sum(), volume)
    assert torch.equal(found, truth)


def test_large_velocities_flow_and_bend_as_small_ones(monkeypatch):
    field = torch.randn(1, 3, 8, 9, 10, generator=torch.Generator().manual_seed(0)) * 3
    extent = torch.tensor([80.0, 72.0, 64.0])
    results = []
    for large in (10**9, 0):
        monkeypatch.setattr(velocity, "_CHECKPOINT_ELEMENTS", large)
        leaf = field.clone().requires_grad_(True)
        first, second = roughness(leaf, torch.tensor([8.0, 8.0, 8.0]))
        loss = exponential(leaf, extent).square().mean() + first + second
        loss.backward()
        results.append((loss.item(), leaf.grad))
    assert results[0][0] == results[1][0]
    torch.testing.assert_close(results[0][1], results[1][1])


def test_a_registration_does_not_load_the_compiler():
    """Which takes a second, a tenth of a fast one."""
    code = """
import sys
import numpy as np
from samreg.engines import Request, get_engine
from samreg.engines.torch_engine import deformable, velocity
from samreg.spatial import AffineTransform, Image

deformable._MAX_VOXELS_AT_ONCE, velocity._CHECKPOINT_ELEMENTS = 1000, 0
noise = np.random.default_rng(0).random((2, 24, 24, 24)).astype("float32")
images = [Image.from_array(array, spacing=8.0) for array in noise]
options = {"levels": (8.0,), "iterations": (2,), "window": None}
request = Request(fixed=images[0], moving=images[1], start=AffineTransform.identity(3), options=options)
get_engine("torch").register(request)
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

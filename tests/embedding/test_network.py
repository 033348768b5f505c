"""The published network: keys, strides, and where its outputs lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from samreg.embedding.network import SamNetwork, _repeat

KEYS = Path(__file__).parent / "official_sam_state_dict.json"  # names, shapes and types in SAM.pth


@pytest.fixture(scope="module")
def network() -> SamNetwork:
    torch.manual_seed(0)
    return SamNetwork().eval().requires_grad_(False)


def test_state_dict_is_the_official_one(network):
    official = {key: tuple(shape) for key, (shape, _) in json.loads(KEYS.read_text()).items()}
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == official


def test_output_strides_and_unit_length(network):
    with torch.inference_mode():
        local, global_ = network(torch.randn(1, 1, 16, 64, 96))
    assert local.shape == (1, 128, 8, 32, 48)
    assert global_.shape == (1, 128, 4, 4, 6)
    for vectors in (local, global_):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones_like(vectors[:, 0]))


def _support(network, pick, shape, index):
    """First and last input voxel per axis on which one output voxel depends."""
    x = torch.randn(1, 1, *shape, requires_grad=True)
    pick(x)[(0, slice(None), *index)].sum().backward()
    where = torch.nonzero(x.grad[0, 0])
    return where.amin(0), where.amax(0)


def test_global_offset_is_the_centre_of_the_receptive_field(network):
    geometry, index = network.geometry, (10, 10, 10)
    head = network.read_out_head

    # the read-out reaches one deepest voxel each way: leave it out to keep the volume small
    def deepest(x):
        b = network.backbone
        return head.fuse((b.layer4(b.layer3(b.layer2(network.shallow(x)[0]))),))

    low, high = _support(network, deepest, (80, 328, 8), (10, 10, 0))
    centre = (low + high).float() / 2
    for axis in (0, 1):
        assert centre[axis] == geometry.global_stride[axis] * index[axis] + geometry.global_offset[axis]


def test_local_offset_is_the_centre_of_the_receptive_field(network):
    geometry, index = network.geometry, (10, 12, 14)

    # the finest level alone: the coarser ones are added by nearest-neighbour repetition
    def finest(x):
        return network.head(network.neck.lateral_convs[0](network.shallow(x)[0]))

    low, high = _support(network, finest, (44, 56, 64), index)
    centre = (low + high).float() / 2
    expected = [s * i + o for s, i, o in zip(geometry.local_stride, index, geometry.local_offset, strict=True)]
    assert centre.tolist() == expected


@pytest.mark.parametrize(("old", "new"), [((3, 5, 4), (3, 9, 7)), ((2, 3, 3), (2, 6, 6)), ((4, 41, 3), (4, 81, 5))])
def test_repeat_is_nearest_interpolation(old, new):
    x = torch.randn(1, 2, *old)
    assert torch.equal(_repeat(x, torch.Size(new)), F.interpolate(x, size=new, mode="nearest"))

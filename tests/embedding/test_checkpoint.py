"""Checkpoints: official keys, refusals, our own format."""

from __future__ import annotations

import logging
import os
import pickle
from collections import OrderedDict

import pytest
import torch

from samreg.embedding import encoder, load_model
from samreg.embedding.checkpoint import load_checkpoint, save_checkpoint
from samreg.embedding.ct import Preprocessing
from samreg.embedding.network import SamNetwork
from samreg.embedding.tensor_file import read_tensors, write_tensors
from samreg.errors import InputError


@pytest.fixture(scope="module")
def weights() -> OrderedDict:
    torch.manual_seed(3)
    return SamNetwork().state_dict()


def _same(network, weights):
    return all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_official_file(tmp_path, weights):
    path = tmp_path / "SAM.pth"
    state = OrderedDict((f"module.{key}", value) for key, value in weights.items())
    torch.save({"meta": {"iter": 20000, "config": "model = ..."}, "state_dict": state, "optimizer": {}}, path)
    checkpoint = load_checkpoint(path)
    assert _same(checkpoint.network, weights)
    assert not checkpoint.network.training
    assert (checkpoint.architecture, checkpoint.name) == ("sam", "SAM")
    assert checkpoint.preprocessing == Preprocessing()


def test_bare_state_dict(tmp_path, weights):
    torch.save(weights, tmp_path / "bare.pt")
    assert _same(load_checkpoint(tmp_path / "bare.pt").network, weights)


def test_uae_s_says_what_it_leaves_out(tmp_path, weights, caplog):
    path = tmp_path / "SAMv2.pth"
    extra = {
        "semantic_head.fpn_convs.0.conv.weight": torch.zeros(1),
        "semantic_head.fpn_convs.0.conv.bias": torch.zeros(1),
    }
    torch.save({"state_dict": {**weights, **extra}}, path)
    with caplog.at_level(logging.INFO, "samreg"):
        checkpoint = load_checkpoint(path)
    assert _same(checkpoint.network, weights)
    assert checkpoint.info["left_out"] == "2 weights of semantic_head"
    assert "semantic_head" in caplog.text


def test_safetensors_round_trip(tmp_path, weights):
    path = tmp_path / "model.safetensors"
    network = SamNetwork()
    network.load_state_dict(weights)
    settings = Preprocessing(spacing=3, hu_range=(-500, 500), scale_range=(0, 1))
    save_checkpoint(path, network, architecture="sam", name="mine", preprocessing=settings, calibration={"slope": 2.0})
    checkpoint = load_checkpoint(path)
    assert _same(checkpoint.network, weights)
    assert (checkpoint.name, checkpoint.preprocessing, checkpoint.calibration) == (
        "mine",
        settings,
        {"slope": 2.0},
    )


def test_partial_fit_is_refused(tmp_path, weights):
    path = tmp_path / "partial.pth"
    state = dict(weights)
    del state["neck.fpn_convs.0.conv.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["backbone.conv1.conv.weight"] = torch.zeros(64, 1, 7, 7, 7)
    torch.save(state, path)
    with pytest.raises(InputError) as info:
        load_checkpoint(path)
    message = str(info.value)
    for part in (
        "1 missing: neck.fpn_convs.0.conv.bias",
        "1 unexpected: extra.weight",
        "1 mis-shaped",
        "(64, 1, 7, 7, 7)",
    ):
        assert part in message


class _Bomb:
    def __reduce__(self):
        return os.mkdir, ("detonated",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_not_run(tmp_path, monkeypatch, weights, zipped):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    content = {"state_dict": {"backbone.conv1.conv.weight": torch.zeros(1)}, "meta": _Bomb()}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(_Bomb(), protocol=2))
    with pytest.raises(InputError, match="evil"):
        load_checkpoint(path)
    assert not (tmp_path / "detonated").exists()
    if zipped:
        with pytest.raises(InputError, match="could run code"):
            load_checkpoint(path)


def test_damaged_and_foreign_files(tmp_path, weights):
    whole = tmp_path / "whole.pth"
    torch.save(dict(weights), whole)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:100_000])
    text = tmp_path / "readme.pth"
    text.write_text("not a checkpoint")
    header = tmp_path / "cut.safetensors"
    header.write_bytes((1000).to_bytes(8, "little") + b'{"a": ')
    other = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(2)}, other)
    number = tmp_path / "number.pth"
    torch.save({"state_dict": {"epoch": 3}}, number)
    (tmp_path / "empty.pth").touch()
    for name, match in (
        ("cut.pth", "cut short"),
        ("readme.pth", "no readable checkpoint"),
        ("cut.safetensors", "damaged safetensors"),
        ("other.pth", "no network samreg knows"),
        ("number.pth", "holds no weights"),
        ("empty.pth", "empty"),
        ("missing.pth", "not found"),
        (".", "folder"),
    ):
        with pytest.raises(InputError, match=match) as info:
            load_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(info.value)


def test_weights_that_are_not_finite_are_refused(tmp_path, weights):
    state = dict(weights)
    state["neck.fpn_convs.0.conv.bias"] = torch.full((128,), float("nan"))
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(InputError, match="NaN"):
        load_checkpoint(tmp_path / "nan.pth")


def test_unknown_architecture_and_bad_metadata(tmp_path, weights):
    network = SamNetwork()
    path = tmp_path / "future.safetensors"
    save_checkpoint(path, network, architecture="transformer", name="x")
    with pytest.raises(InputError, match="unknown architecture 'transformer'"):
        load_checkpoint(path)
    save_checkpoint(path, network, architecture="sam", name="x", config={"depth": 3})
    with pytest.raises(InputError, match="metadata"):
        load_checkpoint(path)


def test_tensor_files_are_those_of_the_safetensors_package(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = {
        "half": torch.randn(3, 5).half(), "number": torch.tensor(5), "none": torch.zeros(0, 3),
        "brain": torch.randn(5).bfloat16(), "flags": torch.tensor([True, False, True]), "turned": torch.randn(2, 3).T,
    }  # fmt: skip
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors, {"key": "value"})
    found = safetensors.load_file(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    safetensors.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"a": "b"})
    read, metadata = read_tensors(path)
    assert metadata == {"a": "b"}
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"[1]", "no JSON object"),
        (b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}', "should have 12 bytes"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}', "should have 4 bytes"),
        (b'{"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}', "does not describe 'a'"),
    ],
)
def test_damaged_tensor_files(tmp_path, header, says):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"0123")
    with pytest.raises(ValueError, match=says):
        read_tensors(path)


def test_loading_a_model_costs_the_caller_no_random_numbers() -> None:
    """A training that was seeded went another way where samreg loaded its network first."""
    before = torch.get_rng_state()
    load_model("ct-small")
    encoder("ct-small", pretrained=False)
    assert torch.equal(torch.get_rng_state(), before)

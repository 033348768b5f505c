"""What the caller has set in torch for work of their own changes no result of samreg, and is as it was afterwards."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch

import samreg
from samreg.device import torch_defaults
from samreg.embedding import encoder
from samreg.landmarks.templates import Template
from samreg.spatial import AffineTransform, Image


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default_dtype": lambda: default_dtype(torch.float64),
    "default_device": lambda: torch.device("meta"),  # as set_default_device("cuda") would be on a machine with a GPU
}


def state() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device().type,
    )


@pytest.fixture(params=MODES)
def mode(request) -> Iterator[AbstractContextManager[None]]:
    """A mode of torch as a caller may set it, to be entered; what it set is still set where the test leaves it."""
    return MODES[request.param]()


def ball(shift: float = 0.0) -> Image:
    z, y, x = np.mgrid[-8:8, -8:8, -8:8] * [[[[1.0]]], [[[1.3]]], [[[0.8]]]]
    distance = np.linalg.norm([z, y, x], axis=0)
    noise = np.random.default_rng(0).normal(0, 20, distance.shape)
    hu = np.where(distance < 6, 40 * np.cos(distance) + noise, -1000).astype(np.float32)
    return Image.from_array(hu, spacing=5.0, origin=(shift, 0.0, 0.0), name="ball")


def test_the_modes_of_torch_are_its_defaults_within_a_block_and_as_they_were_after(mode) -> None:
    defaults = state()
    with mode:
        before = state()
        assert before != defaults
        with torch_defaults():
            assert state() == defaults
            weight = torch.ones(2, requires_grad=True)
            (weight.sum() * 3).backward()
        assert state() == before


def test_single_precision_lasts_until_the_last_block_is_left() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with torch_defaults():
            entered.set()
            leave.wait(10)

    with default_dtype(torch.float64):
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait(10)
        with torch_defaults():
            pass
        assert torch.get_default_dtype() == torch.float32
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64


def registered() -> np.ndarray:
    result = samreg.register(
        ball(),
        ball(8.0),
        method="registration",
        engine="torch",
        start=AffineTransform(np.eye(3), np.array([8.0, 0.0, 0.0])),
        engine_options={"levels": (20.0,), "iterations": (2,)},
    )
    return result.transform_points([[40.0, 40.0, 40.0]], to="moving")


def embedded() -> np.ndarray:
    embedding = samreg.embed(ball(), model="mind")
    return embedding.sample_local([[40.0, 40.0, 40.0]]).numpy()


def embedded_by_a_model() -> np.ndarray:
    return samreg.load_model("mind").embed(ball()).local.numpy()


def matched() -> np.ndarray:
    return samreg.match(ball(), [[40.0, 40.0, 40.0]], ball(8.0), model="mind").points


def voted() -> np.ndarray:
    embedding = samreg.embed(ball(), model="mind")
    template = Template("ball", embedding, samreg.Points([[40.0, 40.0, 40.0]], ("centre",)))
    return samreg.match_set([template], ball(8.0), model="mind").points


def encoded() -> np.ndarray:
    (weight, *_) = encoder("ct-small").parameters()
    assert not weight.is_inference()
    return weight.detach().numpy()


without_a_mode = functools.cache(lambda work: work())


@pytest.mark.parametrize("work", [registered, embedded, embedded_by_a_model, matched, voted, encoded])
def test_results_are_those_without_the_mode(work, mode) -> None:
    expected = without_a_mode(work)
    with mode:
        found = work()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)

"""What would only fail on a GPU, on a machine without one.

A GPU is pretended: tensors on it cannot be mixed with the processor's, nor turned into arrays; the processor computes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.overrides import TorchFunctionMode

import samreg
from samreg.device import cpu_threads
from samreg.embedding import load_model
from samreg.landmarks.detector import LandmarkDetector
from samreg.seeding.coarse import propose_turns, rotations
from samreg.spatial import Image

GPU = torch.device("cuda")
_MOVES = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda}
_TO_HOST = {torch.Tensor.numpy, torch.Tensor.__array__}
_OF_ITSELF = {"__get__", "__set__", "backward", "requires_grad_"}  # not of an alias
_COPIES = {torch.Tensor.copy_, torch.Tensor.__setitem__}  # from whatever device
_INDEXING = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    @property
    def device(self):
        return GPU

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in _TO_HOST:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if function in _MOVES:
            return _moved(function, args, kwargs)
        # the processor's tensors may be numbers, or indices of those on the GPU; of a network all are on one device
        mixed = args[:1] if function in _INDEXING | _COPIES and isinstance(args[0], cls) else [*args, *kwargs.values()]
        for tensor in _tensors(mixed):
            if not isinstance(tensor, (cls, torch.nn.Parameter)) and tensor.ndim > 0:
                raise RuntimeError(f"{function.__name__}: tensors on cuda:0 and cpu, {tuple(tensor.shape)}")
        if function.__name__ in _OF_ITSELF:
            return _each(super().__torch_function__(function, types, args, kwargs), cls)
        is_leaf = kwargs.pop("requires_grad", False)
        with torch._C.DisableTorchFunctionSubclass():
            result = _each(function(*_each(args, torch.Tensor), **_each(kwargs, torch.Tensor)), cls)
            return result.requires_grad_() if is_leaf else result


class PretendedGpu(TorchFunctionMode):
    """Within its block, "cuda" is a device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in _MOVES and not isinstance(args[0], OnGpu):
            return _moved(function, args, kwargs)
        on_gpu = "device" in kwargs and kwargs["device"] is not None and torch.device(kwargs["device"]).type == "cuda"
        if on_gpu:
            kwargs["device"] = torch.device("cpu")
        result = function(*args, **kwargs)
        return result.as_subclass(OnGpu) if on_gpu and isinstance(result, torch.Tensor) else result


def _moved(function, args, kwargs):
    """Return what ``.to`` and ``.cpu`` do."""
    values = [*args[1:], *kwargs.values()]
    devices = [value for value in values if isinstance(value, (str, torch.device))]
    devices = [torch.device(device).type for device in devices] + ["cpu"] * (function is torch.Tensor.cpu)
    types = [value for value in values if isinstance(value, torch.dtype)]
    with torch._C.DisableTorchFunctionSubclass():
        plain = args[0].as_subclass(torch.Tensor)
        for kind in types:
            plain = plain.to(kind)
        where = devices[0] if devices else ("cuda" if isinstance(args[0], OnGpu) else "cpu")
        return plain.as_subclass(OnGpu) if where == "cuda" else plain


def _each(value, kind):
    """Return a value, or what it holds, with tensors of a kind."""
    if isinstance(value, torch.Tensor):
        return value if type(value) is kind else value.as_subclass(kind)
    if isinstance(value, dict):
        return {key: _each(part, kind) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_each(part, kind) for part in value)
    if isinstance(value, tuple):  # of torch.return_types
        return type(value)([_each(part, kind) for part in value])
    return value


def _tensors(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


SHIFT_MM = (5.0, -3.0, 8.0)


@pytest.fixture
def gpu(monkeypatch):
    """A mode in whose block torch seems to have a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with cpu_threads(1):  # the mode is that of one Python thread
        yield PretendedGpu()


@pytest.fixture(scope="module")
def images(embeddings_kept) -> tuple[Image, Image]:
    """A small body of mottled tissue, and the same moved."""
    size = 20
    mottled = 400 * gaussian_filter(np.random.default_rng(0).normal(0, 3, (size, size, size)), 1.0)
    axis = np.arange(size) - size / 2
    radius = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    array = np.where(radius < 0.45 * size, mottled, -1000).astype(np.float32)
    fixed = Image.from_array(array, spacing=4.0, name="fixed")
    return fixed, Image.from_array(array, spacing=4.0, origin=SHIFT_MM, name="moving")


@pytest.fixture
def points(images):
    return images[0].grid.center + np.array([[0.0, 0.0, 0.0], [10.0, -5.0, 12.0], [-16.0, 8.0, -4.0]])


def test_the_pretended_gpu_refuses_what_a_gpu_does(gpu):
    with gpu:
        there, here = torch.arange(3, device="cuda"), torch.arange(3)
        assert there.device.type == "cuda"
        assert (there + 1).device.type == "cuda"
        assert there.cpu().numpy().tolist() == [0, 1, 2]
        assert there[here].device.type == "cuda"
        assert (torch.zeros(3).to("cuda") + there).sum() == 3
        for wrong in (lambda: there + here, lambda: here[there], lambda: torch.cat([here, there])):
            with pytest.raises(RuntimeError, match="tensors on cuda:0 and cpu"):
                wrong()
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"method": "embedding"},
        {"engine": "torch", "transform": "rigid"},
        {"engine": "torch"},
        {"engine": "torch", "model": "mind", "engine_options": {"preset": "fast", "similarity": "mind"}},
        {
            "method": "registration", "engine": "torch",
            "engine_options": {"preset": "fast", "similarity": "ssd", "mass_preserving": True},
        },
    ],
)  # fmt: skip
def test_registration_mixes_no_devices(gpu, images, points, options):
    guides = {"landmarks": (points, points + SHIFT_MM)} if options == {"engine": "torch"} else {}
    with gpu:
        result = samreg.register(*images, device="cuda", **options, **guides)
    assert result, result.reason
    expected = samreg.register(*images, device="cpu", **options, **guides)
    apart = result.transform.transform_points(points) - expected.transform.transform_points(points)
    assert np.linalg.norm(apart, axis=1).max() < 0.5


def test_landmarks_and_lesions_mix_no_devices(gpu, images, points):
    model = load_model("ct-small")
    with gpu:
        for search in ("guided", "global"):
            matches = samreg.match(images[0], points, images[1], search=search, device="cuda")
            assert np.linalg.norm(matches.points - points - SHIFT_MM, axis=1).max() < 4
        tracks = samreg.track(*images, points, device="cuda")
        assert np.linalg.norm([t.followup for t in tracks.lesions] - points - SHIFT_MM, axis=1).max() < 4
        detector = LandmarkDetector.from_labels(
            model, [images[0]], [samreg.Points(points, ("a", "b", "c"))], device="cuda"
        )
        assert np.linalg.norm(detector(images[1], device="cuda").positions - points - SHIFT_MM, axis=1).max() < 4
        assert np.isfinite(samreg.find_landmarks(images[0], device="cuda").points).all()


def test_turns_and_x_rays_mix_no_devices(gpu, images):
    turns = rotations(3)[:9]
    expected = propose_turns(*images, turns)
    with gpu:
        np.testing.assert_array_equal(propose_turns(*images, turns, device="cuda"), expected)
    picture = Image.from_array(gaussian_filter(np.random.default_rng(1).normal(0, 900, (48, 40)), 2.0), spacing=1.0)
    other = Image.from_array(picture.array, spacing=1.0, origin=(4.0, 3.0))
    with gpu:
        result = samreg.register(picture, other, engine="torch", device="cuda")
    assert result, result.reason

"""ANTs: direction, starts, masks, repeatability, and leaving nothing behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ants")

from samreg.engines import Request, child, get_engine
from samreg.engines import ants as ants_module
from samreg.errors import EngineError, InputError
from samreg.spatial import AffineTransform, Image, compose, resample_spacing
from samreg.spatial.adapters import to_ants

SHORT = {"iterations": (30, 0)}


@pytest.fixture(scope="module")
def engine():
    return get_engine("ants")


def test_transform_files_are_read_in_the_direction_and_order_of_ants(phantom, tmp_path):
    import ants
    import pandas as pd

    result = ants.registration(
        to_ants(phantom.fixed), to_ants(phantom.moving), "SyN", reg_iterations=(20, 0), outprefix=str(tmp_path / "t")
    )
    files = result["fwdtransforms"]
    ours = compose(*(child._read_transform(Path(file)) for file in files))
    table = pd.DataFrame(phantom.points, columns=list("xyz"))
    theirs = ants.apply_transforms_to_points(3, table, files, whichtoinvert=[False] * len(files))
    assert len(files) == 2
    assert np.abs(ours.transform_points(phantom.points) - theirs.to_numpy()).max() < 1e-2
    assert phantom.error(ours) < 1.0


@pytest.mark.parametrize(("transform", "limit"), [("rigid", 1.5), ("affine", 0.5), ("deformable", 0.7)])
def test_unseeded(engine, phantom, worker_here, transform, limit):
    result = engine.register(phantom.request(transform=transform, options=SHORT))
    assert phantom.error(result.transform) < limit
    assert result.version.startswith("antspyx ")


@pytest.mark.parametrize("transform", ["affine", "deformable"])
def test_zero_iterations_return_the_start(engine, phantom, worker_here, transform, request):
    start = request.getfixturevalue(f"{transform}_start")
    none = {"iterations": (0, 0), "affine_iterations": (0, 0, 0, 0)}
    result = engine.register(phantom.request(start=start, transform=transform, options=none))
    wanted = start.transform_points(phantom.points)
    assert np.abs(result.transform.transform_points(phantom.points) - wanted).max() < 1e-3


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """The only folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_seeded_improves_repeats_bit_for_bit_on_two_threads_and_leaves_nothing_behind(
    engine, phantom, deformable_start, temporary
):
    runs = [
        engine.register(phantom.request(start=deformable_start, seed=3, threads=2, options=SHORT)) for _ in range(2)
    ]
    assert phantom.error(runs[0].transform) < 0.5 * phantom.error(deformable_start)
    first, second = (run.transform.transform_points(phantom.points) for run in runs)
    assert np.array_equal(first, second)
    assert "antsRegistration" in runs[0].log
    assert os.listdir(temporary) == []


def test_affine_repeats_with_a_seed(engine, phantom):
    runs = [engine.register(phantom.request(transform="affine", seed=0)) for _ in range(2)]
    assert np.array_equal(runs[0].transform.matrix, runs[1].transform.matrix)
    assert np.array_equal(runs[0].transform.translation, runs[1].transform.translation)


def test_quick_and_cross_correlation(engine, phantom, affine_start, worker_here):
    fixed, moving = (resample_spacing(image, 4.0) for image in (phantom.fixed, phantom.moving))
    for options in ({"variant": "quick"}, {"metric": "cc", "sampling": 2, **SHORT}):
        result = engine.register(Request(fixed=fixed, moving=moving, start=affine_start, options=options))
        assert phantom.error(result.transform) < phantom.error(affine_start)


def test_masks_are_honoured(engine, phantom, affine_start, worker_here):
    # half of the moving image is shifted; the mask leaves it out, and what smoothing mixes in.
    # SyN alone compares every voxel: the affine stages' random samples find the shift or the rest, by chance
    shifted = phantom.moving.array.copy()
    shifted[:, :, 34:] = np.roll(shifted, 5, axis=1)[:, :, 34:]
    spoilt = phantom.moving.with_array(shifted)
    kept = np.zeros(phantom.moving.shape, bool)
    kept[:, :, :30] = True
    run = {"start": affine_start, "options": SHORT}
    masked = engine.register(
        Request(fixed=phantom.fixed, moving=spoilt, moving_mask=Image(kept, phantom.moving.grid), **run)
    )
    plain = engine.register(Request(fixed=phantom.fixed, moving=spoilt, **run))
    start = phantom.error(affine_start)
    assert phantom.error(masked.transform) < 0.8 * start < 1.4 * start < phantom.error(plain.transform)


def test_two_dimensions(engine, phantom, worker_here):
    fixed = Image.from_array(phantom.fixed.array[24], spacing=(2, 2), origin=(10, -20))
    moving = Image.from_array(phantom.fixed.array[24], spacing=(2, 2), origin=(14, -20))
    start = AffineTransform(np.eye(2), [2.0, 0.0])
    result = engine.register(Request(fixed=fixed, moving=moving, start=start, options=SHORT))
    moved = result.transform.transform_points([fixed.grid.center])[0] - fixed.grid.center
    assert np.abs(moved - [4.0, 0.0]).max() < 1.0


def test_an_interrupted_process_ends_and_leaves_nothing_behind(engine, phantom, affine_start, monkeypatch, temporary):
    class Interrupted:
        def log(self, *_):
            raise KeyboardInterrupt

    started = []
    monkeypatch.setattr(child, "logger", Interrupted())
    popen = child.subprocess.Popen
    monkeypatch.setattr(child.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])
    with pytest.raises(KeyboardInterrupt):
        engine.register(phantom.request(start=affine_start, options={"iterations": (10_000,)}))
    assert started[0].poll() is not None
    assert os.listdir(temporary) == []


def test_failures_say_why(engine, phantom, monkeypatch):
    with pytest.raises(InputError, match="threads"):
        engine.register(phantom.request(threads=0))
    monkeypatch.setattr(ants_module, "_type_of_transform", lambda *_: "Nonsense")
    with pytest.raises(EngineError, match=r"end of its log(.|\n)*Nonsense does not exist"):
        engine.register(phantom.request())

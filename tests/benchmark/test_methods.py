from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from samreg.benchmark import Outcome, available_methods, get_method, load_dataset
from samreg.benchmark.datasets.base import sha256
from samreg.benchmark.methods import base as method
from samreg.benchmark.methods import careful, convexadam
from samreg.benchmark.methods.registry import _BUILT_IN
from samreg.benchmark.metrics import common_landmarks
from samreg.errors import EngineError, InputError, MissingExtraError
from samreg.quality import target_registration_error
from samreg.spatial import AffineTransform, Grid, Image, invert
from samreg.spatial.standard import standardised


@pytest.fixture(scope="module")
def pair():
    """Fixed and moving case of two coarse phantoms."""
    data = load_dataset("phantom:1:8")
    return [data.cases[name] for name in data.pairs[0]]


def mean_error(pair, transform):
    return target_registration_error(transform, *common_landmarks(*pair)).mean()


def test_every_method_of_the_comparison_is_there():
    assert set(available_methods()) >= {
        *("identity", "embedding-affine", "embedding-deformable", "hybrid-ants", "hybrid-elastix", "hybrid-torch"),
        *("ants-affine", "ants-syn", "ants-synquick", "elastix-affine", "elastix-bspline"),
        *("ants-careful-affine", "ants-careful-syn", "elastix-careful-bspline"),
        *("hybrid-torch-fast", "hybrid-torch-accurate", "convexadam-ants", "convexadam-embedding"),
        *("hybrid-ants-careful", "hybrid-elastix-careful"),
    }
    assert get_method("hybrid-torch-fast").options["engine_options"] == {"preset": "fast"}


@pytest.mark.parametrize(
    ("seeded", "alone"),
    [("hybrid-ants-careful", "ants-careful-syn"), ("hybrid-elastix-careful", "elastix-careful-bspline")],
)
def test_careful_chains_differ_in_nothing_but_the_start(seeded, alone):
    assert get_method(seeded).options == {**get_method(alone).options, "seeded": True}
    assert "embedding" in get_method(seeded).code
    assert "embedding" not in get_method(alone).code


def test_a_model_is_part_of_the_name_and_of_the_hash():
    method = get_method("embedding-affine:mind")
    assert (method.name, method.options["model"]) == ("embedding-affine:mind", "mind")
    assert method.fingerprint != get_method("embedding-affine").fingerprint


def test_the_hash_follows_options_versions_and_code(methods):
    method = get_method(f"{methods}:right")
    before = method.fingerprint
    assert get_method(f"{methods}:right").fingerprint == before
    assert replace(method, options={"spacing": 3}).fingerprint != before
    assert replace(method, packages=("numpy",)).fingerprint != before
    methods.write_text(methods.read_text() + "\n# another version\n")
    assert get_method(f"{methods}:right").fingerprint != before


def test_the_hash_of_every_method_built_in_follows_the_code_it_runs_through(monkeypatch):
    """Frames and resampling concern all; what prepares images, those that register."""
    before = {name: get_method(name).fingerprint for name in _BUILT_IN}
    for changed, spared in (("spatial/transforms.py", set()), ("registration/register.py", {"identity"})):
        monkeypatch.setattr(
            method, "sha256", lambda path, end=changed: "x" * path.as_posix().endswith(end) + sha256(path)
        )
        after = {name: replace(found).fingerprint for name, found in _BUILT_IN.items()}
        same = {name for name in _BUILT_IN if before[name] == after[name]}
        assert same == spared


def test_what_is_wrong_with_a_name_is_said(methods, tmp_path):
    with pytest.raises(InputError, match="unknown method 'demons'; choose from identity"):
        get_method("demons")
    with pytest.raises(InputError, match="ants-syn takes no model"):
        get_method("ants-syn:mind")
    with pytest.raises(InputError, match="defines no 'nothing'"):
        get_method(f"{methods}:nothing")
    with pytest.raises(InputError, match="not found"):
        get_method(f"{tmp_path / 'none.py'}:f")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    with pytest.raises(InputError, match=r"cannot read .*broken\.py: No module named"):
        get_method(f"{tmp_path / 'broken.py'}:f")
    with pytest.raises(MissingExtraError, match="needs no-such-package: pip install"):
        replace(get_method("identity"), packages=("no-such-package",)).fingerprint  # noqa: B018


def test_an_entry_point_adds_a_method(monkeypatch):
    entry = importlib.metadata.EntryPoint(
        "mine", "samreg.benchmark.methods.registry:_identity", "samreg.benchmark.methods"
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    assert "mine" in available_methods()
    assert get_method("mine").run.__name__ == "_identity"


def test_identity_centres_images_of_unrelated_worlds(pair):
    images = [case.image() for case in pair]
    outcome = get_method("identity")(*images, threads=1, seed=0)
    np.testing.assert_allclose(
        outcome.transform.transform_points(images[0].grid.center[None])[0], images[1].grid.center
    )


def test_careful_starts_reach_scans_far_apart():
    mask = Image.from_array(np.ones((10, 10, 10), np.uint8), spacing=(4, 4, 4))
    moved = Image(mask.array, replace(mask.grid, origin=np.array([500.0, -100.0, 60.0])))
    found = careful.starts(mask, moved)
    assert len(found) == 9
    center, there = mask.grid.center[None], moved.grid.center
    shifts = [start.transform_points(center)[0] - there for start in found]
    np.testing.assert_allclose(sorted(s[2] for s in shifts), [-120, -60, 0, 0, 0, 0, 0, 60, 120], atol=1e-9)
    assert all(np.isclose(np.linalg.det(start.matrix), 1) for start in found)


def test_careful_similarity_prefers_the_truth_and_refuses_little_overlap():
    random = np.random.default_rng(0)
    array = gaussian_filter(random.normal(size=(20, 20, 20)), 2) * 5000
    image, mask = Image.from_array(array, spacing=(5, 5, 5)), Image.from_array(np.ones_like(array), spacing=(5, 5, 5))
    truth, near, far = (AffineTransform(np.eye(3), translation) for translation in ((0, 0, 0), (10, 0, 0), (0, 0, 70)))
    scores = [careful.similarity(image, image, mask, mask, transform) for transform in (truth, near, far)]
    assert scores[0] == pytest.approx(1)
    assert scores[1] < 0.9
    assert scores[2] == -1


class _StaysWhereItIsPut:
    """An engine that returns its start, and refuses one."""

    def __init__(self):
        self.calls = []

    def register(self, fixed, moving, *, start, transform, options=None, **common):
        self.calls.append((transform, float(fixed.spacing[0]), options, sorted(common)))
        if len(self.calls) == 1:
            raise EngineError("the start leaves no overlap")
        return SimpleNamespace(transform=start)


def test_careful_keeps_the_most_similar_start(pair, monkeypatch):
    """Of a scan and its half, whose body's middle lies 60 mm elsewhere."""
    moving = standardised(pair[0].image(), 8.0)
    cut = round(120 / 8)
    fixed = Image(moving.array[cut:], Grid.make(moving.array[cut:].shape, spacing=(8, 8, 8)))  # a world of its own
    truth = moving.grid.index_to_world([[0, 0, cut]])[0]
    engine = _StaysWhereItIsPut()
    monkeypatch.setattr(careful, "get_engine", lambda name: engine)
    found = careful.careful(fixed, moving, engine="any", threads=1, seed=0, deformable={"iterations": 3})
    assert np.linalg.norm(found.transform.transform_points([[0, 0, 0]])[0] - truth) < 20
    assert [kind for kind, *_ in engine.calls] == ["affine"] * 10 + ["deformable"]
    assert [spacing for _, spacing, *_ in engine.calls] == [6.0] * 9 + [2.0] * 2
    assert engine.calls[-1][2:] == ({"iterations": 3}, ["fixed_mask", "moving_mask", "seed", "threads"])
    assert set(found.timings) == {"preparation", "starts", "affine", "deformable"}


def test_a_seeded_careful_chain_starts_at_the_seed(pair, monkeypatch):
    engine = _StaysWhereItIsPut()
    monkeypatch.setattr(careful, "get_engine", lambda name: engine)
    engine.calls.append(None)  # refuses nothing
    seeded = partial(careful.careful, engine="any", threads=1, seed=0, deformable={"iterations": 3}, seeded=True)
    found = seeded(*(case.image() for case in pair))
    assert engine.calls[1:] == [
        ("deformable", 2.0, {"iterations": 3}, ["fixed_mask", "moving_mask", "seed", "threads"])
    ]
    assert mean_error(pair, found.transform) < 15
    assert {"preparation", "embedding", "deformable"} < set(found.timings)
    noise = [Image.from_array(np.random.default_rng(i).normal(0, 300, (40, 40, 40)), spacing=(5, 5, 5)) for i in (0, 1)]
    refused = seeded(*noise)
    assert not refused
    assert refused.reason


def test_careful_gives_up_when_no_start_leads_anywhere(pair, monkeypatch):
    def refuse(*images, **options):
        raise EngineError("the start leaves no overlap")

    monkeypatch.setattr(careful, "get_engine", lambda name: SimpleNamespace(register=refuse))
    outcome = careful.careful(*(case.image() for case in pair), engine="ants", threads=1, seed=0)
    assert not outcome
    assert "no start" in outcome.reason


@pytest.mark.slow
def test_a_careful_affine_is_no_worse_than_the_default(pair):
    images = [case.image() for case in pair]
    default, best = (get_method(name)(*images, threads=1, seed=0) for name in ("ants-affine", "ants-careful-affine"))
    assert mean_error(pair, best.transform) < mean_error(pair, default.transform) + 1


def test_convexadams_voxels_become_lps_millimetres():
    grid = Grid.make((4, 5, 6), spacing=(1, 2, 3), direction=np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]))
    voxels = np.zeros((4, 5, 6, 3))
    voxels[...] = (1, 2, 3)  # along array axes z, y, x
    index = np.array([[2.0, 2.0, 1.0]])
    there = convexadam.displacement_field(voxels, grid).transform_points(grid.index_to_world(index))
    np.testing.assert_allclose(there, grid.index_to_world(index + (3, 2, 1)), atol=1e-5)


def test_convexadam_finds_a_known_shift(monkeypatch):
    """The package's own axes, units and direction, on a grid that is no multiple of its blocks."""
    pytest.importorskip("convexAdam")
    random = np.random.default_rng(0)
    texture = gaussian_filter(random.normal(size=(38, 32, 40)), 2) * 4000
    moved = shift(texture, (4, -2, 3), mode="nearest")  # array axes z, y, x: a fixed point x lies at x + (3, -2, 4)
    fixed, moving = (Image.from_array(np.clip(a, -900, 900), spacing=(2, 2, 2)) for a in (texture, moved))
    identity = Outcome(AffineTransform.identity(3))
    monkeypatch.setattr(convexadam.samreg, "register", lambda *images, **options: identity)
    outcome = convexadam.convexadam(fixed, moving, start="embedding", threads=1, seed=0)
    inner = fixed.grid.index_to_world(np.argwhere(np.ones((4, 4, 4)))[:, ::-1] * 3.0 + 12)
    found = outcome.transform.transform_points(inner) - inner
    np.testing.assert_allclose(found.mean(axis=0), (6, -4, 8), atol=0.5)
    back = invert(outcome.transform).transform_points(outcome.transform.transform_points(inner))
    assert np.abs(back - inner).max() < 0.5

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift

import samreg
from samreg.benchmark import Outcome, available_methods, get_method, load_dataset
from samreg.benchmark.datasets.base import sha256
from samreg.benchmark.methods import base as method
from samreg.benchmark.methods import careful, convexadam
from samreg.benchmark.methods.registry import _BUILT_IN
from samreg.benchmark.metrics import common_landmarks
from samreg.errors import EngineError, ImagesAtFault, InputError, MissingExtraError
from samreg.quality import target_registration_error
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, invert, resample_spacing
from samreg.spatial.standard import standardised

pytestmark = pytest.mark.usefixtures("embeddings_kept")

SHIFT = 20.0  # mm


@pytest.fixture(scope="module")
def pair():
    """Fixed and moving case of two coarse phantoms."""
    data = load_dataset("phantom:1:8")
    return [data.cases[name] for name in data.pairs[0]]


def mean_error(pair, transform):
    images = tuple(case.image() for case in pair)
    return target_registration_error(transform, *common_landmarks(*pair, images)).mean()


def test_every_method_of_the_comparison_is_there():
    assert set(available_methods()) >= {
        *("identity", "embedding-affine", "embedding-deformable", "hybrid-ants", "hybrid-elastix", "hybrid-torch"),
        *("ants-affine", "ants-syn", "ants-synquick", "elastix-affine", "elastix-bspline"),
        *("ants-careful-affine", "ants-careful-syn", "elastix-careful-bspline"),
        *("hybrid-torch-fast", "hybrid-torch-accurate", "convexadam-ants", "convexadam-embedding"),
        *("hybrid-ants-careful", "hybrid-elastix-careful"),
    }


class Registration:
    """Stands for :func:`samreg.register`: takes what that takes, and returns a known shift."""

    def __init__(self):
        self.calls, self.signature = [], inspect.signature(samreg.register)

    def __call__(self, fixed, moving, **options):
        self.signature.bind(fixed, moving, **options)
        self.calls.append(options)
        return Outcome(AffineTransform(np.eye(3), (0, 0, SHIFT)), timings={"registration": 1.0})


class StaysAtItsStart:
    """An engine that returns its start, and refuses the first of them if asked to."""

    def __init__(self, *, refuses_first=False):
        self.calls, self.refuses_first = [], refuses_first

    def register(self, request):
        masks = request.fixed_mask is not None and request.moving_mask is not None
        self.calls.append((request.transform, float(request.fixed.spacing[0]), request.options, masks))
        if self.refuses_first and len(self.calls) == 1:
            raise ImagesAtFault("the start leaves no overlap")
        return SimpleNamespace(transform=request.start)


@pytest.fixture
def registration(monkeypatch):
    """What every built-in method stands on, replaced by what takes no time."""
    stub = Registration()
    monkeypatch.setattr(samreg, "register", stub)
    engine = StaysAtItsStart()
    monkeypatch.setattr(careful, "get_engine", lambda name: engine)
    still = SimpleNamespace(convex_adam_pt=lambda fixed, moving, **options: np.zeros((*fixed.shape, 3), np.float32))
    monkeypatch.setitem(sys.modules, "convexAdam", SimpleNamespace(convex_adam_MIND=still))
    monkeypatch.setitem(sys.modules, "convexAdam.convex_adam_MIND", still)
    return stub


@pytest.fixture(scope="module")
def tiny_pair():
    """Two boxes of soft tissue, the moving one placed ``SHIFT`` mm higher by its header."""
    array = np.full((16, 16, 16), -1000, np.int16)
    array[3:-3, 3:-3, 3:-3] = 40
    array[6:9, 6:9, 6:9] = 300
    return [Image.from_array(array, origin=(0, 0, z), spacing=(4, 4, 4)) for z in (0, SHIFT)]


@pytest.mark.parametrize("name", available_methods())
def test_every_method_registers_with_the_default_model(name, tiny_pair, registration):
    outcome = get_method(name)(*tiny_pair, threads=1, seed=0)
    assert outcome
    center = tiny_pair[0].grid.center
    expected = center if name == "identity" else center + (0, 0, SHIFT)
    np.testing.assert_allclose(outcome.transform.transform_points(center[None])[0], expected, atol=1e-6)
    assert all((call["threads"], call["seed"], call.get("model")) == (1, 0, None) for call in registration.calls)


@pytest.mark.parametrize("name", available_methods())
def test_every_method_that_embeds_takes_a_model_and_no_other_does(name, tiny_pair, registration):
    if not any(part in name for part in ("embedding", "hybrid")):
        with pytest.raises(InputError, match=f"{name} takes no model: it does not embed; leave :mind out"):
            get_method(f"{name}:mind")
        return
    method = get_method(f"{name}:mind")
    assert method(*tiny_pair, threads=1, seed=0)
    assert [call["model"] for call in registration.calls] == ["mind"]
    assert method.name == f"{name}:mind"
    assert method.fingerprint != get_method(name).fingerprint


@pytest.mark.parametrize(
    ("seeded", "alone"),
    [("hybrid-ants-careful", "ants-careful-syn"), ("hybrid-elastix-careful", "elastix-careful-bspline")],
)
def test_careful_chains_differ_in_nothing_but_the_start(seeded, alone, tiny_pair, registration, monkeypatch):
    engines = {}
    monkeypatch.setattr(careful, "get_engine", lambda name: engines.setdefault(name, StaysAtItsStart()))
    for name in (alone, seeded):
        get_method(name)(*tiny_pair, threads=1, seed=0)
    (engine,) = engines.values()
    first, last = ([call for call in engine.calls if call[0] == "deformable"][i] for i in (0, -1))
    assert first == last
    assert len(engine.calls) == 12  # nine starts, their refinement, and two deformable stages
    assert len(registration.calls) == 1


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
        after = {name: replace(built_in).fingerprint for name, built_in in _BUILT_IN.items()}
        same = {name for name in _BUILT_IN if before[name] == after[name]}
        assert same == spared


def test_all_code_that_a_hash_follows_is_there():
    """A file that has moved would be left out without a word."""
    package = Path(samreg.__file__).parent
    paths = {path for built_in in _BUILT_IN.values() for path in built_in.code}
    assert [path for path in sorted(paths) if not (package / path).exists()] == []


def test_what_is_wrong_with_a_name_is_said(methods, tmp_path):
    with pytest.raises(InputError, match="unknown method 'demons'; choose from identity"):
        get_method("demons")
    with pytest.raises(InputError, match="right takes no model: it does not embed; leave :mind out"):
        get_method(f"{methods}:right:mind")
    with pytest.raises(InputError, match="defines no 'nothing'"):
        get_method(f"{methods}:nothing")
    with pytest.raises(InputError, match="not found"):
        get_method(f"{tmp_path / 'none.py'}:f")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    with pytest.raises(InputError, match=r"cannot read .*broken\.py: No module named"):
        get_method(f"{tmp_path / 'broken.py'}:f")
    with pytest.raises(MissingExtraError, match="needs no-such-package: pip install"):
        replace(get_method("identity"), packages=("no-such-package",)).fingerprint  # noqa: B018


def test_an_entry_point_adds_a_method(monkeypatch, tiny_pair):
    entry = importlib.metadata.EntryPoint(
        "mine", "samreg.benchmark.methods.registry:_identity", "samreg.benchmark.methods"
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    assert "mine" in available_methods()
    assert get_method("mine")(*tiny_pair, threads=1, seed=0)


def test_the_program_that_the_documentation_wraps_is_found_and_run(tiny_pair, registration, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "benchmark" / "index.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_methods.py\n.*?)```", page, re.S)
    (tmp_path / "my_methods.py").write_text(code)
    grid = resample_spacing(tiny_pair[0], 2.0).grid
    field = DisplacementField(np.full((*grid.shape, 3), (0, 0, 5), np.float32), grid)
    samreg.write_transform(field, tmp_path / "field.nii.gz")
    program = tmp_path / "my-deeds.sh"
    program.write_text(f'#!/bin/sh\ntest "$OMP_NUM_THREADS" = 3 && cp {tmp_path}/field.nii.gz "$3"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    outcome = get_method(f"{tmp_path}/my_methods.py:deeds")(*tiny_pair, threads=3, seed=0)
    center = tiny_pair[0].grid.center
    np.testing.assert_allclose(
        outcome.transform.transform_points(center[None])[0], center + (0, 0, SHIFT + 5), atol=1e-3
    )


@pytest.mark.parametrize("kind", ["function", "partial", "callable", "decorated", "imported"])
def test_records_depend_on_the_file_of_a_method_of_ones_own(tmp_path, monkeypatch, kind):
    """Partial and callable objects ended in a traceback; of what is decorated the decorator's file counted."""
    (tmp_path / "helpers_of_mine.py").write_text(
        "import functools\n"
        "def timed(run):\n    @functools.wraps(run)\n    def timed_run(*a, **k): return run(*a, **k)\n"
        "    return timed_run\n"
        "def imported(fixed, moving, *, threads, seed): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "mine.py"
    code = (
        "import functools\nfrom helpers_of_mine import imported, timed\n"
        "def function(fixed, moving, *, threads, seed, by=1): pass\n"
        "class Kind:\n    def __call__(self, fixed, moving, *, threads, seed): pass\n"
        "partial, callable, decorated = functools.partial(function, by=2), Kind(), timed(function)\n"
    )
    fingerprints = []
    for text in (code, code, code.replace("by=2", "by=3")):
        path.write_text(text)
        fingerprints.append(get_method(f"{path}:{kind}").fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_compiled_methods_are_refused():
    with pytest.raises(InputError, match="lies in no Python file"):
        _ = method.Method("mine", len).fingerprint


def test_a_method_of_ones_own_takes_a_model_when_it_says_so(tiny_pair, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from samreg.benchmark import Method, Outcome\n"
        "def run(fixed, moving, *, threads, seed, model='ct-small'):\n"
        "    return Outcome(None, reason=model)\n"
        "own = Method('own', run, embeds=True)\n"
    )
    for spec, model in ((f"{path}:own", "ct-small"), (f"{path}:own:mind", "mind")):
        assert get_method(spec).name == spec
        assert get_method(spec)(*tiny_pair, threads=1, seed=0).reason == model


def test_identity_centres_images_of_unrelated_worlds(pair):
    images = [case.image() for case in pair]
    outcome = get_method("identity")(*images, threads=1, seed=0)
    np.testing.assert_allclose(
        outcome.transform.transform_points(images[0].grid.center[None])[0], images[1].grid.center
    )


def test_careful_starts_reach_scans_far_apart():
    mask = Image.from_array(np.ones((10, 10, 10), np.uint8), spacing=(4, 4, 4))
    moved = Image(mask.array, replace(mask.grid, origin=np.array([500.0, -100.0, 60.0])))
    starts = careful.starts(mask, moved)
    shifts = np.array([start.transform_points(mask.grid.center[None])[0] for start in starts]) - moved.grid.center
    np.testing.assert_allclose(shifts[:, :2], 0, atol=1e-9)
    np.testing.assert_allclose(sorted(shifts[:, 2]), [-120, -60, 0, 0, 0, 0, 0, 60, 120], atol=1e-9)
    turned = {tuple((start.matrix @ (0, 10, 0)).round(2).tolist()) for start in starts}
    assert turned == {  # of a point in front, about x and about z
        (0, 10, 0), *((0, 9.66, z) for z in (-2.59, 2.59)), *((x, 9.66, 0) for x in (-2.59, 2.59))
    }  # fmt: skip


def test_careful_similarity_prefers_the_truth_and_refuses_little_overlap():
    random = np.random.default_rng(0)
    array = gaussian_filter(random.normal(size=(20, 20, 20)), 2) * 5000
    image, mask = Image.from_array(array, spacing=(5, 5, 5)), Image.from_array(np.ones_like(array), spacing=(5, 5, 5))
    truth, near, far = (AffineTransform(np.eye(3), translation) for translation in ((0, 0, 0), (10, 0, 0), (0, 0, 70)))
    scores = [careful.similarity(image, image, mask, mask, transform) for transform in (truth, near, far)]
    assert scores[0] == pytest.approx(1)
    assert scores[1] < 0.9
    assert scores[2] == -1


def test_careful_keeps_the_most_similar_start(pair, monkeypatch):
    """Of a scan and its half, whose body's middle lies 60 mm elsewhere."""
    moving = standardised(pair[0].image(), 8.0)
    cut = round(120 / 8)
    fixed = Image(moving.array[cut:], Grid.make(moving.array[cut:].shape, spacing=(8, 8, 8)))  # a world of its own
    truth = moving.grid.index_to_world([[0, 0, cut]])[0]
    engine = StaysAtItsStart(refuses_first=True)
    monkeypatch.setattr(careful, "get_engine", lambda name: engine)
    outcome = careful.careful(fixed, moving, engine="any", threads=1, seed=0, deformable={"iterations": 3})
    assert np.linalg.norm(outcome.transform.transform_points([[0, 0, 0]])[0] - truth) < 20
    assert [kind for kind, *_ in engine.calls] == ["affine"] * 10 + ["deformable"]
    assert [spacing for _, spacing, *_ in engine.calls] == [6.0] * 9 + [2.0] * 2
    assert engine.calls[-1][2:] == ({"iterations": 3}, True)
    assert set(outcome.timings) == {"preparation", "starts", "affine", "deformable"}


def test_a_seeded_careful_chain_starts_at_the_seed(tiny_pair, registration, monkeypatch):
    engine = StaysAtItsStart()
    monkeypatch.setattr(careful, "get_engine", lambda name: engine)
    options = {"engine": "any", "threads": 1, "seed": 0, "deformable": {"iterations": 3}, "seeded": True}
    outcome = careful.careful(*tiny_pair, **options)
    assert engine.calls == [("deformable", 2.0, {"iterations": 3}, True)]
    np.testing.assert_allclose(outcome.transform.transform_points([[0, 0, 0]]), [[0, 0, SHIFT]])
    assert set(outcome.timings) == {"preparation", "registration", "deformable"}
    monkeypatch.setattr(samreg, "register", lambda *images, **options: Outcome(None, reason="too few matches"))
    refused = careful.careful(*tiny_pair, **options)
    assert (bool(refused), refused.reason) == (False, "too few matches")


def test_careful_gives_up_when_no_start_leads_anywhere(pair, monkeypatch):
    def refuse(request):
        raise EngineError("the start leaves no overlap")

    monkeypatch.setattr(careful, "get_engine", lambda name: SimpleNamespace(register=refuse))
    outcome = careful.careful(*(case.image() for case in pair), engine="ants", threads=1, seed=0)
    assert not outcome
    assert "no start" in outcome.reason


def test_a_careful_affine_by_ants_finds_the_body(pair, monkeypatch):
    """With two of the nine starts, and coarse, as each run of the engine is a process that loads it."""
    every = careful.starts
    monkeypatch.setattr(careful, "starts", lambda *masks: every(*masks)[2:4])
    monkeypatch.setattr(careful, "_FINE_SPACING_MM", 6.0)
    images = [case.image() for case in pair]
    outcome = get_method("ants-careful-affine")(*images, threads=1, seed=0)
    before = get_method("identity")(*images, threads=1, seed=0)
    assert mean_error(pair, outcome.transform) < mean_error(pair, before.transform) / 2


def test_convexadams_voxels_become_lps_millimetres():
    grid = Grid.make((4, 5, 6), spacing=(1, 2, 3), direction=np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]))
    voxels = np.zeros((4, 5, 6, 3))
    voxels[...] = (1, 2, 3)  # along array axes z, y, x
    index = np.array([[2.0, 2.0, 1.0]])
    mapped = convexadam.displacement_field(voxels, grid).transform_points(grid.index_to_world(index))
    np.testing.assert_allclose(mapped, grid.index_to_world(index + (3, 2, 1)), atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_convexadam_leaves_torch_as_it_was(threads, tiny_pair, registration):
    before = torch.get_num_threads(), torch.get_rng_state()
    convexadam.convexadam(*tiny_pair, start="embedding", threads=threads, seed=5)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


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
    shifts = outcome.transform.transform_points(inner) - inner
    np.testing.assert_allclose(shifts.mean(axis=0), (6, -4, 8), atol=0.5)
    back = invert(outcome.transform).transform_points(outcome.transform.transform_points(inner))
    assert np.abs(back - inner).max() < 0.5

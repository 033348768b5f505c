"""Whose fault it is: of the images, a falsy result of register(); of the call, an InputError before the work."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import samreg
from samreg.cli import app
from samreg.engines import Engine, EngineResult, available_engines, child, get_engine
from samreg.errors import EngineError, ImagesAtFault, InputError
from samreg.spatial import AffineTransform, DisplacementField, Image

pytestmark = pytest.mark.usefixtures("embeddings_kept")

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(name not in available_engines(), reason="not installed"))
    for name in ("ants", "elastix", "torch")
]
ALONE = {"method": "registration"}


def part(image: Image, first: int, last: int) -> Image:
    """Return a mask of some axial slices."""
    mask = np.zeros(image.shape, np.uint8)
    mask[first:last] = 1
    return image.with_array(mask)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("transform", ["deformable", "rigid"])
def test_masks_that_do_not_meet(body, engine, transform) -> None:
    """And which no shift along the body brings together."""
    moved = replace(body, grid=replace(body.grid, origin=np.array([500.0, 0.0, 0.0])))
    masks = {"fixed_mask": part(body, 0, 10), "moving_mask": part(moved, 30, 40)}
    if engine == "torch":  # it tries shifts along the body as well
        left, right = np.zeros(body.shape, np.uint8), np.zeros(body.shape, np.uint8)
        left[:, :, :10], right[:, :, 30:] = 1, 1
        masks = {"fixed_mask": body.with_array(left), "moving_mask": moved.with_array(right)}
    result = samreg.register(body, moved, **ALONE, engine=engine, transform=transform, **masks)
    assert not result
    assert result.reason.startswith("no overlap")
    assert result.flags == (result.reason,)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mask", [False, True])
def test_a_start_without_overlap(body, engine, mask) -> None:
    start = AffineTransform(np.eye(3), [0.0, 0.0, -100.0 if mask else 500.0])
    masks = {"moving_mask": part(body, 35, 40), "fixed_mask": part(body, 20, 40)} if mask else {}
    result = samreg.register(body, body, **ALONE, engine=engine, start=start, **masks)
    assert not result
    assert result.reason.startswith("no overlap")


class Fixed(Engine):
    """Returns what it was made with, or raises it."""

    name = "fixed"

    def __init__(self, outcome):
        self.outcome = outcome

    def register(self, request):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return EngineResult(self.outcome, "log of the engine", "1")


def test_a_collapsed_affine(body) -> None:
    collapsed = AffineTransform(np.diag([1.0, 1.0, 1e-12]), np.zeros(3))
    field = DisplacementField(np.zeros((*body.shape, 3), np.float32), body.grid)
    for transform in (collapsed, samreg.spatial.compose(field, collapsed)):
        result = samreg.register(body, body, **ALONE, engine=Fixed(transform))
        assert not result
        assert "collapses" in result.reason
        assert result.log == "log of the engine"


def test_what_an_engine_finds_at_fault_with_the_images(body, tmp_path) -> None:
    result = samreg.register(body, body, **ALONE, engine=Fixed(ImagesAtFault("no overlap at all")))
    assert (bool(result), result.reason) == (False, "no overlap at all")
    assert result.timings["registration"] >= 0
    assert {path.name for path in result.save(tmp_path).iterdir()} == {"result.json"}
    assert json.loads((tmp_path / "result.json").read_text())["reason"] == "no overlap at all"


@pytest.mark.parametrize("raised", ["too few", "field"])
def test_matches_that_carry_no_transform(body, monkeypatch, raised, tmp_path) -> None:
    """Too few of them, and such that every field through them folds."""
    import samreg.seeding.seed as seeding

    if raised == "field":

        def fold(*_: object, **__: object) -> None:
            raise ImagesAtFault("the correspondences are too inconsistent for a field without folds")

        monkeypatch.setattr(seeding, "fit_displacement", fold)
        other = body
    else:
        noise = np.random.default_rng(0).uniform(-1000, 1000, body.shape).astype(np.float32)
        other = body.with_array(noise)
    result = samreg.register(body, other, method="embedding", model="mind")
    assert not result
    assert result.reason
    assert result.body is not None
    names = {path.name for path in result.save(tmp_path).iterdir()}
    assert names >= {"result.json", "body.nii.gz"}
    assert ("correspondences.csv" in names) == (result.correspondences is not None)
    again = samreg.RegistrationResult.load(tmp_path, fixed=body, moving=other)
    assert again.reason == result.reason


@pytest.mark.parametrize("engine", ["ants", "elastix"])
@pytest.mark.parametrize("which", ["fixed_mask", "moving_mask"])
def test_an_image_that_is_constant_within_its_mask_is_named_before_the_engine_starts(body, engine, which, monkeypatch):
    """The engines ended with an error of ITK's and pages of their logs."""
    monkeypatch.setattr(child, "spawn", lambda *_, **__: pytest.fail("the engine was started"))
    air = body.with_array((body.array == body.array.min()).astype(np.uint8))
    with pytest.raises(InputError, match=r"constant within its mask.*larger mask"):
        samreg.register(body, body, engine=engine, **ALONE, **{which: air})


def test_the_command_line_exits_with_1(body, tmp_path) -> None:
    for name, image in (("a", body), ("lower", part(body, 0, 10)), ("upper", part(body, 30, 40))):
        samreg.write_image(image, tmp_path / f"{name}.nii.gz")
    arguments = ["register", *[str(tmp_path / "a.nii.gz")] * 2, "-o", str(tmp_path / "out"), "--method", "registration"]
    masks = ["--fixed-mask", str(tmp_path / "lower.nii.gz"), "--moving-mask", str(tmp_path / "upper.nii.gz")]
    done = CliRunner().invoke(app, [*arguments, "--engine", "ants", *masks])
    assert done.exit_code == 1
    assert "not registered: no overlap" in done.output
    assert json.loads((tmp_path / "out" / "result.json").read_text())["ok"] is False


@pytest.mark.parametrize(
    ("printed", "error", "says"),
    [
        ("ITK ERROR: Mattes(0x1): All samples map outside moving image buffer.", ImagesAtFault, "no overlap"),
        ("ITK ERROR: Metric(0x1): Too many samples map outside moving image buffer: 0 / 1600", ImagesAtFault, "no ov"),
        ("ITK ERROR: Optimizer(0x1): Weights are zero", EngineError, "in one of its stages(.|\n)*Weights are zero"),
    ],
)
def test_a_stage_that_failed_is_not_taken_for_a_result(body, monkeypatch, printed, error, says) -> None:
    """ANTs prints the exception, ends with status 0 and leaves the transform it began with."""

    def spawn(module: str, *arguments: str, **_: object) -> subprocess.Popen[str]:
        code = f"print('Exception caught:'); print({printed!r})"
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(child, "spawn", spawn)
    with pytest.raises(error, match=says):
        get_engine("ants").register(samreg.engines.Request(fixed=body, moving=body, transform="rigid"))


FLAT = Image.from_array(np.zeros((4, 4), np.float32))
RESULT = samreg.RegistrationResult(FLAT, FLAT, AffineTransform.identity(2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fixed_mask": "empty"}, "fixed mask .*is empty"),
        ({"moving_mask": "aside"}, "moving mask .*does not overlap its image"),
        ({"fixed": "slice"}, r"slice is one voxel thick, 40 x 40 x 1;"),
        ({"moving": "slice"}, "slice is one voxel thick"),
        ({"fixed": "slab", "spacing": 4.0}, "slab is one voxel thick at 4 mm"),
        (
            {"moving": "slab", "spacing": 1.0, "engine": "ants"},
            'slab is 2 voxels thick at 1 mm, .* engine ants needs 4; set engine="torch"',
        ),
        ({"fixed": "slab", "spacing": 1.0, "engine": "elastix"}, "engine elastix needs 4"),
        ({"fixed": "metres"}, "metres is one voxel thick at 2 mm, as it measures .* check that its header is in mm"),
        ({"fixed": "flat"}, "flat is 2D, body is 3D"),
        ({"landmarks": ([[9000.0, 0, 0]], [[80.0, 80, 80]])}, "1 of 1 points lie outside the fixed image body"),
        ({"landmarks": ([[80.0, 80, 80]], [[-80.0, 80, 80]])}, "outside the moving image body"),
        ({"landmarks": [[80.0, 80, 80]]}, "landmarks must be two sets of points"),
        ({"landmarks": ([[80.0, 80, 80]],) * 2, "transform": "affine"}, 'engine="elastix"'),
        ({"landmarks": ([[80.0, 80, 80]],) * 2, "engine": "ants"}, 'set engine="torch" or "elastix"'),
        ({"landmarks": ([[80.0, 80, 80]],) * 2, "method": "embedding"}, 'set method="hybrid"'),
        ({"start": "missing.h5"}, "not found"),
        ({"start": 3}, "start must be a transform"),
        ({"start": ["1Warp.nii.gz", "0GenericAffine.mat"]}, r"got list; make one of several by compose\("),
        ({"start": np.eye(4)}, r"got ndarray; a matrix is samreg\.spatial\.AffineTransform"),
        ({"start": RESULT}, r"got RegistrationResult; give result\.transform"),
        ({"start": AffineTransform.identity(2)}, "the start is 2D"),
        ({"seed": -1, "engine": "ants"}, "seed must be a whole number between 0"),
        ({"seed": 1.5}, "seed must be"),
        ({"threads": "many"}, "threads must be"),
        ({"spacing": (2, 2, 2)}, "spacing must be"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"progress": True}, "progress must be"),
        ({"verbose": 1}, "verbose must be"),
        ({"method": None}, "unknown method None"),
        ({"engine_options": "fast"}, "engine_options must map"),
        ({"engine_options": {1: 2}}, "engine_options must map"),
        ({"method": "hybrid", "engine": "elastix", "engine_options": {"samples": "all"}}, "samples must be"),
        ({"engine": "elastix", "engine_options": {"points_weight": 1}}, "give register.landmarks="),
    ],
)
def test_faults_of_the_call_come_before_the_work(body, monkeypatch, change, says) -> None:
    others = {
        "empty": body.with_array(np.zeros(body.shape)),
        "aside": replace(body, grid=replace(body.grid, origin=np.array([5000.0, 0, 0]))),
        "slice": Image(body.array[20:21], replace(body.grid, shape=(1, 40, 40)), "slice"),
        "metres": Image.from_array(body.array, spacing=0.004, name="metres"),
        "slab": Image.from_array(body.array[20:22], spacing=(4.0, 4.0, 1.0), name="slab"),
        "flat": Image.from_array(body.array[20], spacing=4.0, name="flat"),
    }

    def work(*_: object, **__: object) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr("samreg.registration.run.Run.transform", work)
    call = {"fixed": body, "moving": body, "engine": "torch", **ALONE}
    call |= {key: others.get(value, value) if isinstance(value, str) else value for key, value in change.items()}
    with pytest.raises(InputError, match=says):
        samreg.register(**call)

"""Results saved to a folder and read again."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import samreg
from samreg import phantoms
from samreg.cli import app
from samreg.errors import InputError
from samreg.phantoms.phantom import PhantomPair, phantom_pair
from samreg.registration import result_folder, store
from samreg.registration.misses import LandmarkMisses
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, compose
from samreg.spatial.adapters import transform_to_sitk
from samreg.spatial.compact import compact
from samreg.spatial.displacement import tapered

pytestmark = pytest.mark.usefixtures("embeddings_kept")

Saved = tuple[samreg.RegistrationResult, Path]


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    """Two people, of each a quarter of the chest."""
    return phantom_pair(spacing=7.0, field_of_view=(-45, 20))


@pytest.fixture(scope="module")
def saved(pair: PhantomPair, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A deformable result on files, and its folder."""
    folder = tmp_path_factory.mktemp("saved")
    for name, phantom in (("fixed", pair.fixed), ("moving", pair.moving)):
        samreg.write_image(phantom.image, folder / f"{name}.nii.gz")
    images = [samreg.read_image(folder / f"{name}.nii.gz") for name in ("fixed", "moving")]
    result = samreg.register(*images, method="embedding", model="mind")
    return result, result.save(folder / "out", formats=("h5", "nii", "npz"))


def test_it_comes_back_as_it_was(saved, pair) -> None:
    result, folder = saved
    again = samreg.RegistrationResult.load(folder)
    assert again
    assert again.summary() == result.summary()
    for to, points in (("moving", pair.fixed_landmarks), ("fixed", pair.moving_landmarks)):
        np.testing.assert_allclose(
            again.transform_points(points, to=to), result.transform_points(points, to=to), atol=0.3
        )
    for name in ("fixed", "moving", "reliability", "similarity", "cycle_error"):
        np.testing.assert_allclose(
            getattr(again.correspondences, name), getattr(result.correspondences, name), atol=1e-4
        )
    np.testing.assert_array_equal(again.body.array, result.body.array)
    assert np.abs(again.warped.array - result.warped.array).mean() < 1
    errors, before = (r.landmark_errors(pair.fixed_landmarks, pair.moving_landmarks) for r in (again, result))
    np.testing.assert_allclose(errors.transform, before.transform, atol=0.3)
    np.testing.assert_allclose(errors.inverse, before.inverse, atol=0.3)


def in_one_format(folder: Path, ending: str, to: Path) -> Path:
    """Copy what a result saved in this format alone consists of at least."""
    to.mkdir(exist_ok=True)
    for file in ("result.json", f"transform{ending}", f"inverse{ending}"):
        (to / file).write_bytes((folder / file).read_bytes())
    return to


@pytest.mark.parametrize("ending", [".h5", ".nii.gz", ".npz"])
def test_any_one_format_is_enough(saved, pair, tmp_path, ending) -> None:
    result, folder = saved
    again = samreg.RegistrationResult.load(in_one_format(folder, ending, tmp_path))
    np.testing.assert_allclose(
        again.transform_points(pair.fixed_landmarks, to="moving"),
        result.transform_points(pair.fixed_landmarks, to="moving"),
        atol=0.3,
    )
    assert again.correspondences is None
    assert again.body is None


@pytest.mark.parametrize("ending", [".h5", ".nii.gz", ".npz"])
def test_beyond_the_image_every_format_is_the_affine_part(saved, tmp_path, ending) -> None:
    result, folder = saved
    for file in ("result.json", f"transform{ending}", f"inverse{ending}", "affine.tfm"):
        shutil.copy(folder / file, tmp_path)
    again = samreg.RegistrationResult.load(tmp_path)
    for to, grid in (("moving", result.fixed.grid), ("fixed", result.moving.grid)):
        far = grid.center + [[5000.0, 0, 0], [0, -5000.0, 300.0]]
        expected = result.transform_points(far, to=to, outside="extrapolate")
        np.testing.assert_allclose(again.transform_points(far, to=to, outside="extrapolate"), expected, atol=1e-2)
        assert np.linalg.norm(expected - far, axis=1).min() > 1, "no identity"
        name = "transform" if to == "moving" else "inverse"
        np.testing.assert_allclose(store.load_transform(tmp_path, name).transform_points(far), expected, atol=1e-2)


def deformed(*spacings: float) -> samreg.RegistrationResult:
    """A result whose transform is one smooth field for each of these voxel sizes, followed by an affine."""
    voxels, spacing = np.zeros((50, 60, 64), np.int16), (1.2, 1.5, 2)
    images = [Image.from_array(voxels, spacing=spacing, origin=origin) for origin in ((0, 0, 0), (5, 9, 1))]
    parts = []
    for i, spacing in enumerate(spacings):
        grid = images[0].grid.with_spacing(spacing).padded(20)
        waves = np.sin(grid.world_points() / (9 + i)) * 6 / (1 + i)
        parts.append(DisplacementField(waves[..., [1, 2, 0]], grid))
    affine = AffineTransform(np.diag([1.3, 0.9, 1.0]), [5.0, 9.0, 1.0])
    return samreg.RegistrationResult(*images, compose(*parts, affine))


@pytest.mark.parametrize("spacings", [(2,), (8, 4)])
def test_fields_are_stored_on_coarse_grids_and_come_back(tmp_path, spacings) -> None:
    """Within 0.05 mm, in a file smaller than one with a displacement for every voxel; the inverse nearly as well."""
    result = deformed(*spacings)
    stages: list[str] = []
    folders = {
        name: result.save(tmp_path / name, formats=("h5", "nii"), field_grid=name, progress=stages.append)
        for name in result_folder.FIELD_GRIDS
    }
    assert {"writing the transform", "writing the inverse"} <= {*stages}
    for name, image, exact in (
        ("transform", result.fixed.grid, result.transform),
        ("inverse", result.moving.grid, result.inverse),
    ):
        points = image.index_to_world(np.random.default_rng(1).uniform(0, np.array(image.size) - 1, (20_000, 3)))
        expected = exact.transform_points(points)
        seen = result.fixed.grid.contains(expected) if name == "inverse" else slice(None)
        for ending in (".h5", ".nii.gz"):
            compact, full = (samreg.read_transform(folder / f"{name}{ending}") for folder in folders.values())
            misses, unavoidable = (
                np.linalg.norm(stored.transform_points(points) - expected, axis=1)[seen] for stored in (compact, full)
            )
            if name == "transform":  # two fields as one, at the voxels of the image, lose their kinks
                assert misses.max() < max(0.05, unavoidable.max() + 1e-3), ending
            else:
                assert np.percentile(misses, 95) < 0.5, ending
    for ending in (".h5", ".nii.gz"):
        files = [folder / f"{name}{ending}" for folder in folders.values() for name in ("transform", "inverse")]
        sizes = [file.stat().st_size for file in files]
        assert sum(sizes[:2]) < sum(sizes[2:]), ending
    with pytest.raises(InputError, match="unknown field_grid 'fine'; choose one of compact, full"):
        result.save(tmp_path / "out", field_grid="fine")


@pytest.mark.parametrize("field_grid", ["compact", "full"])
@pytest.mark.parametrize("fields", [1, 2])
def test_a_loaded_result_is_the_computed_one_at_the_border_too(tmp_path, field_grid, fields) -> None:
    """Files ended with the fixed image, so that points of the moving body were brought up to 24 mm beside it."""
    image = Image.from_array(np.zeros((20, 22, 26), np.float32), spacing=3.0)
    grid = image.grid.padded(36)
    push = tapered(DisplacementField(np.broadcast_to(np.float32([12, -6, 9]) / fields, (*grid.shape, 3)), grid), 36)
    result = samreg.RegistrationResult(image, image, compose(*[push] * fields, AffineTransform(np.eye(3), [4.0, 0, 0])))
    folder = result.save(tmp_path / "out", formats=("h5", "nii"), field_grid=field_grid)
    points = image.grid.index_to_world(
        np.random.default_rng(0).uniform(-0.4, np.array(image.grid.size) - 0.6, (5000, 3))
    )
    expected = {to: result.transform_points(points, to=to) for to in ("moving", "fixed")}
    for ending in (".h5", ".nii.gz"):
        alone = in_one_format(folder, ending, tmp_path / ending[1:])
        loaded = samreg.RegistrationResult.load(alone, fixed=image, moving=image)
        # two as one lose their kinks
        forward = 0.05 if fields == 1 or (ending, field_grid) == (".h5", "compact") else 0.1
        for to, tolerance in (("moving", forward), ("fixed", 0.2)):
            misses = np.linalg.norm(loaded.transform_points(points, to=to) - expected[to], axis=1)
            assert misses.max() < tolerance, (ending, to)


@pytest.mark.parametrize("size", [21, 24])
def test_a_linear_field_needs_few_voxels_and_a_kinked_one_keeps_its_own(size) -> None:
    grid = Grid.make((size, size), spacing=1.5)
    points = grid.index_to_world(np.random.default_rng(0).uniform(0, size - 1, (1000, 2)))
    kinked = np.abs(grid.world_points() - grid.center)
    for displacement in (0.2 * grid.world_points(), kinked):
        field = DisplacementField(displacement, grid)
        small = compact(field, grid)
        assert np.abs(small.transform_points(points) - field.transform_points(points)).max() < 0.05
    if size == 21:
        assert compact(DisplacementField(0.2 * grid.world_points(), grid), grid).grid.size == (6, 6)


def test_the_start_is_saved_and_starts_again(body, tmp_path) -> None:
    field = DisplacementField(np.full((*body.shape, 3), 2.0, np.float32), body.grid)
    start = samreg.spatial.compose(field, AffineTransform(np.eye(3), [3.0, 0.0, 0.0]))
    call = {"method": "registration", "engine": "torch", "engine_options": {"levels": (16,), "iterations": (1,)}}
    first = samreg.register(body, body, start=start, **call)
    assert first.options["start"] == "start.h5"
    folder = first.save(tmp_path / "first")
    loaded = samreg.RegistrationResult.load(folder, fixed=body, moving=body)
    points = body.grid.center + [[0.0, 0, 0], [20, 10, 5]]
    np.testing.assert_allclose(loaded.start.transform_points(points), start.transform_points(points), atol=1e-5)
    again = samreg.register(body, body, start=folder / "start.h5", **call)
    np.testing.assert_allclose(again.transform.transform_points(points), first.transform.transform_points(points))
    assert again.options["start"] == str(folder / "start.h5")
    assert samreg.register(body, body, start=folder, **call).options["start"] == str(folder)
    theirs = samreg.register(body, body, start=transform_to_sitk(start), **call)  # of another package, in memory
    assert theirs.options["start"] == "start.h5"
    assert np.abs(theirs.start.transform_points(points) - start.transform_points(points)).max() < 1e-3


def test_what_cannot_be_saved_is_known_before(tmp_path) -> None:
    for formats, ndim, says in (
        (("h5", "mrk"), 2, "mrk is for volumes"),
        (("h5", "tiff"), 3, r"unknown formats \['tiff'\]"),
        ((), 3, "choose from"),
    ):
        with pytest.raises(InputError, match=says):
            result_folder.require_formats(formats, ndim)
    assert result_folder.require_formats("nii", 2) == ("nii",)
    with pytest.raises(InputError, match="mrk is for volumes"):
        shifted(1).save(tmp_path / "out", formats=("h5", "mrk"))
    assert not (tmp_path / "out").exists()
    result_folder.require_folder(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists(), "tried, and nothing is left"
    (tmp_path / "transform.h5").mkdir()
    with pytest.raises(InputError, match=r"transform\.h5 is a folder"):
        result_folder.require_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        result_folder.require_folder(tmp_path / "file" / "out")


def test_the_command_line_refuses_formats_before_the_work(tmp_path, monkeypatch) -> None:
    image = Image.from_array(np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32), spacing=1.0)
    samreg.write_image(image, tmp_path / "a.nii.gz")

    def work(*_: object, **__: object) -> None:
        raise AssertionError("it was registered")

    monkeypatch.setattr(samreg, "register", work)
    path = str(tmp_path / "a.nii.gz")
    done = CliRunner().invoke(app, ["register", path, path, "-o", str(tmp_path / "out"), "--formats", "h5,mrk"])
    assert (done.exit_code, "mrk is for volumes" in done.output) == (2, True), done.output


def test_a_result_needs_no_folder_to_be_made() -> None:
    code = """
import sys
import numpy as np
from samreg.registration.result import RegistrationResult
from samreg.spatial import AffineTransform, Image
image = Image.from_array(np.eye(4))
RegistrationResult(image, image, AffineTransform.identity(2)).transform_points([[1, 1]], to="moving")
assert "samreg.report" not in sys.modules and "matplotlib" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_failed_result_comes_back(tmp_path, pair) -> None:
    image = samreg.Image(pair.fixed.image.array, pair.fixed.image.grid)
    failed = samreg.RegistrationResult(image, image, None, reason="too few matches", notes=("turned",), log="said")
    again = samreg.RegistrationResult.load(failed.save(tmp_path), fixed=image, moving=image)
    assert not again
    assert (again.reason, again.notes, again.log) == ("too few matches", ("turned",), "said")
    with pytest.raises(samreg.SamregError, match="too few matches"):
        _ = again.quality


def shifted(by: float) -> samreg.RegistrationResult:
    image = Image.from_array(np.zeros((8, 8), np.float32), spacing=1)
    return samreg.RegistrationResult(image, image, AffineTransform(np.eye(2), np.array([by, 0.0])), body=image)


def test_nothing_of_an_earlier_result_is_left(tmp_path) -> None:
    first, second = shifted(1), shifted(2)
    first.landmark_errors(*[samreg.Points([[3.0, 3.0]])] * 2).write(tmp_path / "landmarks.csv")
    for name in ("report.html", "notes.txt", "engine.log"):
        (tmp_path / name).touch()
    first.save(tmp_path, formats=("h5",))
    assert {"landmarks.csv", "report.html", "engine.log"} <= {path.name for path in tmp_path.iterdir()}, "a user's own"
    replace(second, body=None).save(tmp_path, formats=("nii",))
    transform, inverse = ("transform.nii.gz", "inverse.nii.gz")
    assert {path.name for path in tmp_path.iterdir()} == {
        transform, inverse, "affine.tfm", "transformix.txt", "warped.nii.gz", "result.json", "notes.txt",
    }  # fmt: skip
    again = samreg.RegistrationResult.load(tmp_path, fixed=second.fixed, moving=second.moving)
    np.testing.assert_allclose(again.transform_points([[3.0, 3.0]], to="moving"), [[5, 3]], atol=1e-5)
    (tmp_path / "landmarks.csv").write_text("name,x,y\ntip,1,2\n")
    replace(second, transform=None, body=None, reason="no overlap").save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", "notes.txt", "landmarks.csv"}, "one's own stay"


def test_options_come_back_as_python_had_them(tmp_path) -> None:
    image = Image.from_array(np.zeros((4, 4), np.float32), spacing=1)
    options = {"engine_options": {"iterations": (20, 10), "points": (np.zeros((1, 2)),)}, "threads": None}
    result = samreg.RegistrationResult(image, image, AffineTransform.identity(2), options=options)
    again = samreg.RegistrationResult.load(result.save(tmp_path), fixed=image, moving=image)
    assert again.options == {"engine_options": {"iterations": (20, 10), "points": (((0.0, 0.0),),)}, "threads": None}


@pytest.mark.parametrize("ndim", [2, 3])
def test_misses_of_landmarks_come_back_in_2d_and_3d(tmp_path, ndim) -> None:
    """In 2D their numbers stood under the names of others."""
    fixed, moving = (
        samreg.Points(np.arange(2.0 * ndim).reshape(2, ndim) + i, ["tip", "vertebra_T7"], [0.5, 0.75 + i / 8])
        for i in (0, 1)
    )
    misses = LandmarkMisses(fixed, moving, np.array([1.0, 2.0]), np.array([True, False]))
    image = Image.from_array(np.zeros((4,) * ndim, np.float32), spacing=1)
    result = samreg.RegistrationResult(image, image, AffineTransform.identity(ndim), landmark_misses=misses)
    folder = result.save(tmp_path)
    header, *rows = csv.reader((folder / result_folder.MISSES).read_text().splitlines())
    assert {len(row) for row in rows} == {len(header)}
    found = samreg.RegistrationResult.load(folder, fixed=image, moving=image).landmark_misses
    for role in ("fixed", "moving"):
        points, expected = getattr(found, role), getattr(misses, role)
        np.testing.assert_array_equal(points.positions, expected.positions)
        np.testing.assert_array_equal(points.scores, expected.scores)
        assert points.names == expected.names
    np.testing.assert_array_equal(found.distance, misses.distance)
    np.testing.assert_array_equal(found.guided, misses.guided)


def copy(folder: Path, to: Path, **changes: object) -> Path:
    """Copy a saved result with entries of its result.json changed; "fixed.path" is an entry of an entry."""
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    summary = json.loads((to / "result.json").read_text())
    for key, value in changes.items():
        role, entry = key.split("__")
        summary[role][entry] = value
    (to / "result.json").write_text(json.dumps(summary))
    return to


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fixed__path": "/nowhere/a.nii.gz"}, "fixed image is no longer at /nowhere/a.nii.gz; give fixed="),
        ({"moving__path": None}, "moving image .*moving.nii.gz was no file of its own; give moving="),
        ({"fixed__spacing_mm": [1, 2, 3]}, "its spacing_mm is .*, not .*1, 2, 3.*; give fixed="),
        ({"fixed__size": [3, 3]}, "its size is"),
    ],
)
def test_images_that_moved_or_changed_are_named(saved, tmp_path, changes, says) -> None:
    with pytest.raises(InputError, match=says):
        samreg.RegistrationResult.load(copy(saved[1], tmp_path, **changes))


def test_images_that_moved_can_be_given(saved, pair, tmp_path) -> None:
    folder = copy(saved[1], tmp_path, fixed__path="/nowhere/a.nii.gz", moving__path=None)
    again = samreg.RegistrationResult.load(folder, fixed=pair.fixed.image, moving=saved[0].moving.name)
    assert again.landmark_errors(pair.fixed_landmarks, pair.moving_landmarks).transform.max() < 60


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("result.json", None, "no result.json in"),
        ("result.json", b"{", "result.json"),
        ("result.json", b"{}", "result.json"),
        ("correspondences.csv", b"fixed_x\nnonsense\n", "correspondences.csv"),
        ("transform", None, "none of transform.h5.* in"),
        ("inverse", None, "none of inverse.h5.* in"),
    ],
)
def test_missing_and_damaged_files_are_named(saved, tmp_path, file, content, says) -> None:
    folder = copy(saved[1], tmp_path)
    for path in folder.glob(f"{file}*"):
        path.unlink() if content is None else path.write_bytes(content)

    def read() -> object:
        result = samreg.RegistrationResult.load(folder)
        return store.load_transform(folder, "inverse"), result.correspondences

    with pytest.raises(InputError, match=says):
        read()


def test_a_result_read_from_a_folder_outlives_it(saved, tmp_path, monkeypatch) -> None:
    """Its matches were None, and saved again without, from another working folder, process or time."""
    folder = copy(saved[1], tmp_path)
    monkeypatch.chdir(folder.parent)
    again = samreg.RegistrationResult.load(folder.name)
    shutil.rmtree(folder)
    for result in (again, pickle.loads(pickle.dumps(again))):
        assert len(result.correspondences) == len(saved[0].correspondences) > 0


def test_accented_names_are_saved_and_found_again_under_any_locale(tmp_path) -> None:
    """The page ended in a traceback, a result did not find its images under another locale, and its texts changed."""
    noise = np.random.default_rng(0).normal(0, 300, (12, 12, 12)).astype(np.float32)
    samreg.write_image(Image.from_array(noise, spacing=4.0), tmp_path / "Müller é.nii.gz")
    (tmp_path / "program.py").write_text(
        "import os, sys, samreg\n"
        "image, out = (os.fsdecode(name.encode()) for name in ('Müller é.nii.gz', 'Łódź'))\n"
        "if sys.argv[1:]:\n"
        "    images = samreg.read_image(image), samreg.read_image(image)\n"
        "    identity = samreg.spatial.AffineTransform.identity(3)\n"
        "    guides = 2 * (samreg.Points([[1, 2, 3]], ('Wirbelkörper 骨',)),)\n"
        "    samreg.RegistrationResult(*images, identity, notes=('zu groß',), guides=guides).save(out)\n"
        "result = samreg.RegistrationResult.load(out)\n"
        "assert result.notes == ('zu groß',) and result.guides[0].names == ('Wirbelkörper 骨',)\n"
        "assert os.path.exists(result.fixed.name)\n"
        "result.report('report.html')\n",
        encoding="utf-8",
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    utf8 = {**os.environ, "LC_ALL": "C.UTF-8"}
    for environment, arguments in ((plain, ["save"]), (utf8, [])):
        subprocess.run([sys.executable, "program.py", *arguments], env=environment, cwd=tmp_path, check=True)
        assert "Müller é" in (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "Müller é" in (tmp_path / "Łódź" / "result.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda result: result.save(None), "folder must be a path"),
        (lambda result: result.report(None), "path must be a path"),
        (lambda result: result.warp(result.moving, fill="a"), 'fill must be a number, such as 0, or "edge", got .a.'),
        (lambda result: result.transform_points([[99.0, 99.0]], to="moving"), "outside"),
    ],
)
def test_odd_values_are_named(call, says) -> None:
    with pytest.raises(InputError, match=says) as refused:
        call(shifted(1))
    assert "  " not in str(refused.value)


@pytest.mark.parametrize("name", ["fixed", "notes.txt"])
def test_what_bears_the_name_of_an_image_in_memory_is_not_its_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed" / "result.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("of the scan")
    image = Image.from_array(np.zeros((2, 3, 4), np.int16), spacing=2, name=name)
    assert store.describe(image)["path"] is None
    assert store.describe(image)["name"] == name


def test_the_path_of_an_image_that_was_read_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = Image.from_array(np.zeros((2, 3, 4), np.int16), spacing=2)
    samreg.write_image(image, "scan.nii")
    phantoms.write_dicom_series(image, tmp_path / ".slices")
    assert store.describe(samreg.read_image("scan.nii"))["path"] == str(tmp_path / "scan.nii")
    assert store.describe(samreg.read_image(".slices"))["path"] == str(tmp_path / ".slices")

"""Which engines there are, and how a user's own is found and checked."""

from __future__ import annotations

import importlib.metadata
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import samreg
from samreg.cli import app
from samreg.engines import Engine, EngineResult, available_engines, get_engine
from samreg.engines.registry import as_engine, from_file
from samreg.errors import InputError, MissingExtraError
from samreg.spatial import AffineTransform, Image


class Mine(Engine):
    """Lays the images' centres on each other."""

    name = "mine"

    def register(self, request):
        offset = request.moving.grid.center - request.fixed.grid.center
        return EngineResult(AffineTransform(np.eye(request.fixed.ndim), offset), "shifted", "mine 1")


class Old:
    """As engines were in samreg 0.1."""

    name = "old"
    native = False

    def register(self, fixed, moving, *, start=None, transform="deformable", options=None):
        raise AssertionError("it must not be called")


FILE = f"{__file__}:Mine"


@pytest.fixture
def images():
    array = np.random.default_rng(0).normal(0, 300, (10, 11, 12)).astype(np.float32)
    return Image.from_array(array, spacing=5.0, name="a"), Image.from_array(array, spacing=5.0, origin=(9, 8, 7))


@pytest.fixture
def entry_point(monkeypatch, tmp_path):
    """A package, installed while the program runs, adds this file's engine, and one named as one built in."""
    available_engines()  # what was installed before is known
    about = tmp_path / "package_of_mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: package-of-mine\nVersion: 1.0\n")
    points = (f"{name} = package_of_mine:Mine\n" for name in ("mine", "torch"))
    (about / "entry_points.txt").write_text(f"[samreg.engines]\n{''.join(points)}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "package_of_mine", SimpleNamespace(Mine=Mine))


def test_unknown_engine_lists_the_engines():
    with pytest.raises(InputError, match=r"unknown engine 'demons'; choose one of ants, elastix, torch, or FILE\.py"):
        get_engine("demons")


def test_missing_package_says_what_to_install(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingExtraError, match=r'pip install "samreg\[elastix\]"'):
        get_engine("elastix")
    assert available_engines() == ()


@pytest.mark.parametrize("engine", [Mine, Mine(), FILE])
def test_an_engine_of_ones_own_registers(images, engine):
    result = samreg.register(*images, method="registration", engine=engine, transform="affine")
    assert result.transform_points([[10.0, 10.0, 10.0]], to="moving").tolist() == [[19.0, 18.0, 17.0]]
    assert result.versions["mine"] == "mine 1"
    assert result.options["engine"] == (FILE if engine == FILE else "mine")


def test_an_entry_point_adds_an_engine(images, entry_point):
    assert available_engines() == ("ants", "elastix", "torch", "mine")
    assert isinstance(get_engine("mine"), Mine)
    result = samreg.register(*images, method="registration", engine="mine", transform="rigid")
    assert result.log == "shifted"


def test_packages_are_read_once_until_others_are_installed(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    before, read, count = available_engines(), importlib.metadata.entry_points, []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **options: count.append(options) or read(**options))
    assert available_engines() == before
    assert not count
    (tmp_path / "another-1.0.dist-info").mkdir()
    assert available_engines() == before
    assert len(count) == 1


def test_the_command_line_takes_an_engine_in_a_file(images, tmp_path):
    for name, image in zip("ab", images, strict=True):
        samreg.write_image(image, tmp_path / f"{name}.nii.gz")
    arguments = ["register", *(f"{tmp_path / name}.nii.gz" for name in "ab"), "-o", f"{tmp_path / 'out'}"]
    done = CliRunner().invoke(app, [*arguments, "--method", "registration", "--engine", FILE, "--transform", "affine"])
    assert done.exit_code == 0, done.output
    assert samreg.RegistrationResult.load(tmp_path / "out").options["engine"] == FILE


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (Old(), r"the engine old has register\(fixed, moving, .*make it register\(self, request\)"),
        (Old, r"the engine old has register\(fixed, moving, .*own-engine"),
        (7, "7 is no engine: subclass samreg.engines.Engine"),
        (SimpleNamespace(name="loose", register=lambda request: None), "loose must be a subclass"),
        (Engine, "cannot be made without arguments: .*abstract"),
    ],
)
def test_what_is_no_engine_is_told_what_to_change(images, engine, message):
    with pytest.raises(InputError, match=message):
        as_engine(engine)
    with pytest.raises(InputError, match=message):
        samreg.register(*images, method="registration", engine=engine)


def test_a_file_may_define_dataclasses_with_postponed_annotations(tmp_path):
    imports = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    code = imports + "@dataclass\nclass Named:\n    a: int = {}\n"
    for folder, value in (("one", 1), ("two", 2)):  # two files of one name, that of an installed package
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "numpy.py").write_text(code.format(value))
        assert from_file(tmp_path / folder / "numpy.py", "Named")().a == value
    assert sys.modules["numpy"] is np


def test_faults_of_a_file_are_named(tmp_path):
    with pytest.raises(InputError, match="not found"):
        get_engine(f"{tmp_path / 'none.py'}:Mine")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    with pytest.raises(InputError, match="does the file run on its own"):
        get_engine(f"{tmp_path / 'broken.py'}:Mine")
    with pytest.raises(InputError, match="defines no 'Yours'"):
        get_engine(f"{__file__}:Yours")

"""Whatever is given, an option or a file: a result, or an error of samreg's own. The heavy work is replaced."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import samreg
from samreg.cli import app
from samreg.engines import Engine, EngineResult, Request
from samreg.errors import SamregError
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, Points, compose

# more of them: SAMREG_FUZZ=5000 python -m pytest -n 0 tests/test_fuzz.py
EXAMPLES = int(os.environ.get("SAMREG_FUZZ", "40"))
fuzz = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

GRID = Grid.make((16, 16, 16), origin=(-200, -300, 50), spacing=8)
SHIFT = np.array([6.0, -4.0, 8.0])


def attempt(call: Any, *args: Any, **options: Any) -> Any:
    """Call; return None where samreg refuses. Anything else that is raised fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call(*args, **options)
        except SamregError as error:
            refusal = str(error)
    assert refusal.strip()
    return None


# values

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(-2, 2), max_size=4),
    st.tuples(st.floats(0, 3), st.floats(0, 3), st.floats(0, 3)),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2),
    st.sampled_from([np.eye(4), np.zeros((0, 3)), np.float32(2), np.array("a"), object(), int, print, Path("."), ...]),
)


def options(**valid: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return calls with some of the options, most of them valid, so that each one is reached."""
    return st.fixed_dictionaries({}, optional={name: st.one_of(good, good, JUNK) for name, good in valid.items()})


POINTS = st.one_of(
    JUNK,
    st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), max_size=4),
    st.sampled_from([[GRID.center], Points([GRID.center]), Points(np.zeros((0, 3))), [[0.0, 0.0]], "none.csv"]),
)


# files


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """Return one of the files with pieces replaced, left out, doubled or put in; or bytes of no file."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, min(len(data), draw(st.sampled_from([60, 400, 10**7]))) - 1)))
        length = draw(st.sampled_from([0, 1, 1, 2, 8, 64, len(data)]))
        piece = draw(
            st.one_of(st.binary(max_size=8), st.sampled_from([bytes(data[:40]), b"", b"\xff\xff", b"nan", b","]))
        )
        data[at : at + length] = piece
    return bytes(data)


TABLES = {
    ".csv": [
        b"name,x,y,z,score\ncarina,-150,-260,90,0.5\napex,-140,-250,80,\n",
        b"subject;landmark;x;y;z\nA;carina;-150,5;-260;90\nB;apex;-140;-250;80,25\n",
        "sep=\t\nlabel\tr\ta\ts\tdefined\nartère\t150\t260\t90\t1\n".encode("utf-16"),
        b"-150,-260,90\r\n-140,-250,80\r\n",
    ],
    ".fcsv": [
        b"# Markups fiducial file version = 5.2\n# CoordinateSystem = LPS\n"
        b"# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        b"1,-150,-260,90,0,0,0,1,1,1,0,F-1,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,F-2,,,0,0\n"
    ],
    ".mrk.json": [
        b'{"markups": [{"coordinateSystem": "RAS", "coordinateUnits": "mm", "controlPoints": [{"label": "a",'
        b'"description": "score=1", "position": [150, 260, 90], "positionStatus": "defined"}]}]}'
    ],
    ".pts": [b"point\n2\n-150 -260 90\n-140 -250 80\n", b"index\n1\n1 2 3\n"],
    ".txt": [b"1 2 3\n4 5 6\n"],
}


@pytest.mark.parametrize("suffix", TABLES)
@fuzz
@given(data=st.data())
def test_points_files(tmp_path, suffix, data):
    text = st.text(st.sampled_from('0123456789.,;\t \n\r"#-einxyzRAS=\ufeff'), max_size=80).map(str.encode)
    path = tmp_path / f"p{suffix}"
    path.write_bytes(data.draw(st.one_of(damaged(TABLES[suffix]), text, st.binary(max_size=80))))
    grid = data.draw(st.sampled_from([None, GRID]))
    format = data.draw(st.sampled_from([None, None, "dirlab" if suffix == ".txt" else None]))  # noqa: A001
    points = attempt(
        samreg.read_points, path, grid=grid, format=format, subject=data.draw(st.sampled_from([None, "A"]))
    )
    if points is not None:
        assert np.isfinite(points.positions).all()
    attempt(samreg.spatial.find_points, path, ["p"])


@pytest.fixture(scope="module")
def noise() -> Image:
    return Image(np.random.default_rng(0).normal(0, 300, GRID.shape).astype(np.int16), GRID, "noise")


@pytest.fixture(scope="module")
def image_files(noise, tmp_path_factory) -> dict[str, list[bytes]]:
    folder = tmp_path_factory.mktemp("images")
    small = Image(noise.array[:4, :5, :6], Grid.make((4, 5, 6), spacing=(1, 2, 3)))
    files = {}
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        samreg.write_image(small, folder / f"a{suffix}")
        files[suffix] = [(folder / f"a{suffix}").read_bytes()]
    import SimpleITK as sitk

    flat = sitk.GetImageFromArray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    for suffix in (".png", ".jpg", ".dcm"):
        sitk.WriteImage(flat, str(folder / f"a{suffix}"))
        files[suffix] = [(folder / f"a{suffix}").read_bytes()]
    return files


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".jpg", ".dcm"])
@fuzz
@given(data=st.data())
def test_image_files(tmp_path, image_files, suffix, data):
    path = tmp_path / f"i{suffix}"
    path.write_bytes(data.draw(st.one_of(damaged(image_files[suffix]), st.binary(max_size=400))))
    image = attempt(samreg.read_image, path, spacing=data.draw(st.sampled_from([None, 0.5])))
    if image is not None:
        assert np.isfinite(image.grid.corners()).all()


@pytest.fixture(scope="module")
def transform() -> Any:
    field = np.zeros((*GRID.shape, 3), np.float32)
    return compose(DisplacementField(field, GRID), AffineTransform(np.eye(3), SHIFT))


@pytest.fixture(scope="module")
def transform_files(transform, tmp_path_factory) -> dict[str, list[bytes]]:
    folder = tmp_path_factory.mktemp("transforms")
    files = {}
    for suffix in (".h5", ".nii.gz", ".npz", ".tfm"):
        path = folder / f"t{suffix}"
        affine = AffineTransform(np.eye(3), SHIFT)
        samreg.write_transform(affine if suffix == ".tfm" else transform, path, grid=GRID, moving_grid=GRID)
        files[suffix] = [path.read_bytes()]
    return files


@pytest.mark.parametrize("suffix", [".h5", ".nii.gz", ".npz", ".tfm"])
@fuzz
@given(data=st.data())
def test_transform_files(tmp_path, transform_files, suffix, data):
    path = tmp_path / f"t{suffix}"
    path.write_bytes(data.draw(st.one_of(damaged(transform_files[suffix]), st.binary(max_size=400))))
    grid = data.draw(st.sampled_from([None, GRID]))
    found = attempt(samreg.read_transform, path, fixed_grid=grid, moving_grid=grid)
    if found is not None:
        assert np.isfinite(found.transform_points(np.zeros((1, found.ndim)))).all()


# calls


@fuzz
@given(source=JUNK)
def test_images_of_any_kind(source):
    attempt(samreg.as_image, source)


@pytest.fixture(scope="module")
def embedding(noise) -> Any:
    return samreg.embed(noise, model="mind")


@fuzz
@given(
    points=POINTS,
    given_options=options(
        search=st.sampled_from(["guided", "global"]),
        seed=st.integers(0, 5),
        device=st.just("cpu"),
        model=st.just("mind"),
    ),
    target=st.one_of(st.just(True), JUNK),
)
def test_match(embedding, points, given_options, target):
    found = attempt(samreg.match, embedding, points, embedding if target is True else target, **given_options)
    if found is not None:
        assert np.isfinite(found.points).all()


class Still(Engine):
    """An engine that leaves everything where it is."""

    name = "still"

    def check(self, request: Request) -> None:
        """Take landmarks."""

    def register(self, request: Request) -> EngineResult:
        return EngineResult(AffineTransform.identity(request.fixed.ndim), "", "still 1")


@fuzz
@given(
    given_options=options(
        transform=st.sampled_from(["rigid", "affine", "deformable"]),
        engine=st.just(Still()),
        method=st.just("registration"),
        seed=st.integers(0, 5),
        threads=st.just(1),
        spacing=st.just(8.0),
        device=st.just("cpu"),
        verbose=st.booleans(),
        engine_options=st.just({}),
        landmarks=st.tuples(POINTS, POINTS),
        start=st.just(AffineTransform.identity(3)),
        progress=st.none(),
        fixed_mask=st.none(),
    )
)
def test_register(noise, given_options):
    chosen = {"engine": Still(), "method": "registration", **given_options}
    chosen["engine"] = Still() if chosen["engine"] is None else chosen["engine"]  # no engine is one, and a heavy one
    attempt(samreg.register, noise, noise, **chosen)


@fuzz
@given(
    arguments=st.fixed_dictionaries(
        {},
        optional={
            name: st.one_of(st.sampled_from(good), st.text(st.characters(exclude_characters="\0"), max_size=5))
            for name, good in {
                "--to": ["fixed", "moving"], "--outside": ["error", "extrapolate"], "--subject": ["A"],
                "--interpolation": ["linear", "nearest", "bspline"], "--pixel-size": ["1", "-1", "nan"],
            }.items()
        },
    ),
    table=damaged(TABLES[".csv"]),
)  # fmt: skip
def test_apply(tmp_path, noise, transform, arguments, table):
    if not (tmp_path / "out").exists():
        samreg.RegistrationResult(noise, noise, transform).save(tmp_path / "out")
    (tmp_path / "p.csv").write_bytes(table)
    words = [word for pair in arguments.items() for word in pair]
    done = CliRunner().invoke(
        app, ["apply", str(tmp_path / "out"), str(tmp_path / "p.csv"), "-o", str(tmp_path / "q.csv"), *words]
    )
    assert done.exit_code in (0, 2), (done.output, done.exc_info)
    assert done.exception is None or isinstance(done.exception, SystemExit)

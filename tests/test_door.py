"""What is given wrongly is refused at the door: before the work, with a message that says what and what to do."""

from __future__ import annotations

import csv
import fcntl
import gzip
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import samreg
from samreg.cli import app
from samreg.embedding.registry import model_for
from samreg.errors import InputError, SamregError
from samreg.quality import LandmarkErrors
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, Points, compose
from samreg.spatial.files import claimed_folder
from samreg.spatial.labels import is_label_image
from samreg.spatial.tables import is_number
from samreg.steps import write_table
from samreg.tracking import track_pairs

Places = dict[str, Path]


def header(*shape: int) -> bytes:
    """Return a NIfTI header that claims this shape, int16."""
    head = nib.Nifti1Header()
    head.set_data_dtype(np.int16)
    head["dim"][:4] = (3, *shape)
    head["vox_offset"], head["sform_code"] = 352, 1
    head["srow_x"], head["srow_y"], head["srow_z"] = np.eye(4)[:3]
    return bytes(head.binaryblock) + b"\0" * 4


def bad_images(folder: Path, trunk: np.ndarray) -> None:
    """Write image files that are damaged, foreign, or no scan of a body."""
    good = (folder / "a.nii.gz").read_bytes()
    plain = gzip.decompress(good)
    zero, nan = bytearray(plain), bytearray(plain)
    zero[80:84], nan[80:84] = struct.pack("<f", 0.0), struct.pack("<f", float("nan"))
    mha = "ObjectType = Image\nNDims = 3\nDimSize = {n} {n} {n}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    nrrd = "NRRD0004\ntype: short\ndimension: 3\nsizes: {n} {n} {n}\nencoding: raw\nendian: little\n\n"
    contents = {
        "empty.nii.gz": b"", "text.nii.gz": b"no image", "text.nii": b"no image", "cut.nii.gz": good[:-900],
        "cut.nii": plain[:-900], "flipped.nii.gz": good[:5000] + bytes([good[5000] ^ 4]) + good[5001:],
        "zero.nii": bytes(zero), "nan.nii": bytes(nan),
        "huge.nii": header(32767, 32767, 32767), "huge.nii.gz": gzip.compress(header(32767, 32767, 32767)),
        "huge.mha": mha.format(n=100000).encode(), "huge.nrrd": nrrd.format(n=100000).encode(),
        "text.mha": b"no image", "text.nrrd": b"NRRD0004\nno: image\n", "text.dcm": b"no image", "text.png": b"none",
        "scan.xyz": b"x", "head.hdr": plain[:348], "text.h5": b"no embedding", "text.mgz": b"no image",
        "bomb.nii.gz": gzip.compress(header(2000, 2000, 2000)) + np.random.default_rng(0).bytes(16_000_000),
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    arrays = {
        "constant": np.zeros_like(trunk), "unit": ((trunk + 1024) / 2000).astype(np.float32),
        "shifted": (trunk + 1024).astype(np.int16), "nans": np.full(trunk.shape, np.nan, np.float32),
        "complex": trunk.astype(np.complex64), "four": np.stack([trunk] * 3, axis=-1), "slice": trunk[:, :, :1],
        "rgb": np.stack([trunk] * 3, axis=-1)[:, :, :, None], "empty": np.zeros((0, 4, 4), np.int16),
    }  # fmt: skip
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, np.diag([-4.0, -4, 4, 1])), folder / f"{name}s.nii.gz")
    nib.save(nib.Nifti1Image(trunk, np.diag([4.0, 4, 4, 1])), folder / "mirrored.nii.gz")  # beside the others
    os.mkfifo(folder / "pipe.nii.gz")
    os.symlink("/dev/zero", folder / "device.nii.gz")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(folder)  # the name of a socket must be short
        listener.bind("socket.nii.gz")
        os.chdir(here)
    for name in ("nothing", "texts"):
        (folder / name).mkdir()
    (folder / "texts" / "note.txt").write_text("no slices")
    (folder / "dangling.nii.gz").symlink_to("nowhere.nii.gz")


def bad_others(folder: Path) -> None:
    """Write files of points, models, transforms, and configurations that are damaged or foreign."""

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(folder / "PWNED"),)

    texts = {
        "good.csv": "name,x,y,z\ntip,80,80,80\n", "head.csv": "name,x,y,z\n", "columns.csv": "name,x,y\ntip,1,2\n",
        "words.csv": "name,x,y,z\ntip,one,2,3\n", "nans.csv": "name,x,y,z\ntip,nan,2,3\n", "empty.csv": "",
        "far.csv": "name,x,y,z\ntip,5000,5000,5000\n", "ras.csv": "name,x,y,z\ntip,-80,-80,80\n",
        "ragged.csv": "name,x,y,z\ntip,1,2\nend,1,2,3\n", "quotes.csv": 'name,x,y,z\n"tip,1,2,3\n',
        "twice.csv": "name,x,y,z\ntip,80,80,80\ntip,84,80,80\n", "other.csv": "name,x,y,z\nheel,80,80,80\n",
        "subjects.csv": "subject,landmark,x,y,z\nA,tip,80,80,80\nB,tip,80,80,80\n", "points.xlsx": "no",
        "bad.mrk.json": "{", "list.mrk.json": "[1, 2]", "none.mrk.json": '{"markups": []}', "bad.fcsv": "x\n",
        "bad.pts": "point\n2\n1 2 3\n", "bad.txt": "one two\n", "long.csv": "name,x,y,z\n" + "tip," * 400 + "\n",
        "bad.tfm": "#Insight Transform File V1.0\nTransform: X\n", "text.tfm": "no", "list.yaml": "- 1\n",
        "tag.yaml": "!!python/object/apply:os.mkdir ['PWNED']\n", "bad.yaml": "a: [\n", "key.yaml": "magic: 1\n",
        "empty.yaml": "", "data.yaml": "data: nowhere\n", "engine.py": "def nothing(): pass\n",
    "syntax.py": "def (\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    evil = pickle.dumps(Evil())
    (folder / "binary.csv").write_bytes(bytes(range(256)) * 4)
    for name in ("evil.pth", "evil.pt", "evil.npz", "evil.h5"):
        (folder / name).write_bytes(evil)
    np.savez(folder / "objects.npz", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez(folder / "shape.npz", np.zeros((2, 2, 2, 3)))
    (folder / "long.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    (folder / "cut.safetensors").write_bytes(b"\x08")


def bad_results(good: Path, folder: Path) -> None:
    """Copy a saved result with one thing wrong in each."""
    summary = json.loads((good / "result.json").read_text())
    edits = {
        "r_list": [1, 2], "r_empty": {}, "r_number": 3, "r_passwd": {**summary, "fixed": {**summary["fixed"], "path":
        "/etc/passwd"}}, "r_gone": {**summary, "moving": {**summary["moving"], "path": "/nowhere.nii.gz"}},
        "r_size": {**summary, "fixed": {**summary["fixed"], "size": [3, 3]}}, "r_failed": {**summary, "ok": False},
        "r_text": {**summary, "fixed": "x"}, "r_zero": {**summary, "moving": {**summary["moving"], "size": [0, 1, 2]}},
    }  # fmt: skip
    for name, content in edits.items():
        shutil.copytree(good, folder / name)
        (folder / name / "result.json").write_text(json.dumps(content))
    for name, keep in (("r_cut", 500), ("r_void", 0)):
        shutil.copytree(good, folder / name)
        for kind in ("h5", "nii.gz", "npz"):
            path = folder / name / f"transform.{kind}"
            path.write_bytes(path.read_bytes()[:keep])
    shutil.copytree(good, folder / "r_broken")
    (folder / "r_broken" / "result.json").write_text('{"ok": tr')
    (folder / "r_bare").mkdir()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Return folders with good and bad files ("in"), and a saved result."""
    tmp = tmp_path_factory.mktemp("door")
    (data := tmp / "in").mkdir()
    trunk = np.full((40, 40, 40), -1000, np.int16)
    trunk[5:-5, 8:-8, :] = np.random.default_rng(0).normal(30, 60, (30, 24, 40))
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(trunk, np.diag([-4.0, -4, 4, 1])), data / f"{name}.nii.gz")
    bad_images(data, trunk)
    bad_others(data)
    images = [samreg.read_image(data / f"{name}.nii.gz") for name in ("a", "b")]
    grid = images[0].grid.with_spacing(16).padded(20)
    field = DisplacementField(np.zeros((*grid.shape, 3), np.float32), grid)
    result = samreg.RegistrationResult(*images, compose(field, AffineTransform(np.eye(3), [4.0, 0, 0])))
    result.save(tmp / "result", formats=("h5", "nii", "npz"))
    bad_results(tmp / "result", data)
    return {"in": data, "result": tmp / "result"}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a registration begins."""

    def embedded(run: Any, request: Any) -> None:
        model_for(run.model, request.fixed)
        work()

    def work(*_: object) -> None:
        raise AssertionError("it was registered")

    monkeypatch.setattr(sys.modules["samreg.registration.run"].Run, "_embedded", embedded)
    monkeypatch.setattr(sys.modules["samreg.registration.run"].Run, "_engine_transform", work)


REGISTER = "register {in}/a.nii.gz {in}/b.nii.gz -o {out}/r"
MATCH = "match {in}/a.nii.gz {in}/good.csv {in}/b.nii.gz -o {out}/p.csv --model mind"
APPLY = "apply {result} {in}/b.nii.gz -o {out}/w.nii.gz"
IMAGES = (
    "none.nii.gz", "empty.nii.gz", "text.nii.gz", "text.nii", "cut.nii.gz", "cut.nii", "flipped.nii.gz", "zero.nii",
    "nan.nii", "huge.nii", "huge.nii.gz", "huge.mha", "huge.nrrd", "bomb.nii.gz", "text.mha", "text.nrrd",
    "text.dcm", "text.png", "scan.xyz", "head.hdr", "text.mgz", "complexs.nii.gz", "fours.nii.gz", "slices.nii.gz",
    "rgbs.nii.gz", "emptys.nii.gz", "pipe.nii.gz", "device.nii.gz", "socket.nii.gz", "nothing", "texts",
    "dangling.nii.gz",
)  # fmt: skip
POINTS = (
    "none.csv", "head.csv", "columns.csv", "words.csv", "nans.csv", "empty.csv", "far.csv", "ras.csv", "ragged.csv",
    "quotes.csv", "subjects.csv", "points.xlsx", "bad.mrk.json", "list.mrk.json", "none.mrk.json", "bad.fcsv",
    "bad.pts", "bad.txt", "long.csv", "binary.csv",
)  # fmt: skip
OPTIONS = (
    "--method magic", "--engine magic", "--transform magic", "--model magic", "--device magic", "--device cuda:99",
    "--seed -1", "--seed 99999999999", "--seed a", "--threads 0", "--threads -2", "--threads 1.5", "--spacing 0",
    "--spacing -1", "--spacing nan", "--spacing inf", "--spacing 1000", "--spacing two", "--formats pickle",
    "--formats ,", "--field-grid fine", "--option iterations", "--option =3", "--option magic=1",
    "--start {in}/none.h5",
    "--option learning_rate=nan", "--option learning_rate=-1", "--option iterations=abc", "--option iterations=-5",
    "--option iterations=[-5]", "--option preset=magic", "--option levels=0", "--option levels=[]",
    "--engine {in}/engine.py:A",
    "--engine {in}/syntax.py:A", "--engine {in}/none.py:A", "--method embedding --engine ants",
    "--method embedding --option preset=fast", "--method registration --model mind", "--fixed-subject A",
    "--fixed-series 2", "--fixed-mask {in}/none.nii.gz", "--fixed-mask {in}/text.nii.gz", "--start {in}/text.tfm",
    "--start {in}/bad.tfm", "--start {in}/nothing", "--start {in}/evil.npz", "--start {in}/r_cut",
    "--start {in}/r_failed",
    "--landmarks {in}/good.csv {in}/other.csv", "--landmarks {in}/twice.csv {in}/twice.csv", "--pixel-size -1",
    "--landmarks {in}/far.csv {in}/good.csv", "--guide {in}/good.csv {in}/none.csv", "--pixel-size 0",
    "--option a=b --option",
)  # fmt: skip
MODELS = (
    "evil.pth", "evil.pt", "evil.h5", "long.safetensors", "cut.safetensors", "text.h5", "nothing", "none.pt",
    "bad.yaml",
)  # fmt: skip
RESULTS = (
    "r_list", "r_empty", "r_number", "r_broken", "r_bare", "r_text", "r_cut", "r_void", "r_failed", "none",
)  # fmt: skip
CALLS = (
    *(f"register {{in}}/{name} {{in}}/b.nii.gz -o {{out}}/r" for name in IMAGES),
    *(f"register {{in}}/a.nii.gz {{in}}/{name} -o {{out}}/r" for name in ("cut.nii.gz", "pipe.nii.gz",
    "bomb.nii.gz")),
    *(f"info {{in}}/{name}" for name in ("bomb.nii.gz", "huge.nii", "pipe.nii.gz", "nothing", "text.h5", "evil.h5")),
    *(f"{REGISTER} {option}" for option in OPTIONS),
    *(f"{REGISTER} --model {{in}}/{name}" for name in MODELS),
    *(MATCH.replace("good.csv", name) for name in POINTS),
    *(MATCH.replace("p.csv", name) for name in ("p.xlsx", "p")),
    *(f"{MATCH} {option}" for option in ("--search magic", "--subject A", "--report {out}/m.pdf", "--device tpu")),
    *(f"register {{in}}/a.nii.gz {{in}}/b.nii.gz -o {out}" for out in ("{in}/a.nii.gz", "/proc/x", "/dev/null/x",
    "")),
    *(f"apply {{in}}/{name} {{in}}/b.nii.gz -o {{out}}/w.nii.gz" for name in RESULTS),
    *(f"apply {{in}}/{name} {{in}}/good.csv -o {{out}}/w.csv" for name in (*RESULTS, "r_zero")),
    *(f"report {{in}}/{name}" for name in (*RESULTS[:-3], "r_passwd", "r_gone", "r_size", "r_zero")),
    *(f"apply {{in}}/{name} {{in}}/b.nii.gz -o {{out}}/w.nii.gz --reference {{in}}/a.nii.gz"
      for name in ("evil.npz", "objects.npz", "shape.npz", "bad.tfm", "text.tfm", "a.nii.gz", "text.h5",
    "pipe.nii.gz")),
    *(f"apply {{result}} {{in}}/{name} -o {{out}}/w.csv --to moving" for name in (*POINTS[:8], "far.csv")),
    *(f"{APPLY} {option}" for option in ("--to magic", "--interpolation cubic", "--outside extrapolate",
    "--subject A",
      "--to moving", "--reference {in}/cut.nii.gz")),
    "apply {result} {in}/good.csv -o {out}/w.csv --interpolation nearest",
    "apply {result} {in}/good.csv -o {out}/w.csv --reference {in}/a.nii.gz",
    "apply {result} {in}/good.csv -o {out}/w.csv --outside magic", "apply {result} {in}/good.csv -o {out}/w.nii.gz",
    "apply {result} {in}/good.csv -o {in}/good.csv", "apply {result} {in}/b.nii.gz -o {in}/b.nii.gz",
    "apply {result} {in}/b.nii.gz -o {out}/w.csv", "apply {result} {in}/mirrored.nii.gz -o {out}/w.nii.gz",
    "report {result} -o {out}/r.pdf", "report {result} -o /proc/r.html", "view {in}/r_empty",
    "embed {in}/a.nii.gz -o {out}/e.npz", "embed {in}/a.nii.gz -o {in}/a.nii.gz",
    "embed {in}/cut.nii.gz -o {out}/e.h5",
    "embed {in}/a.nii.gz -o {out}/e.h5 --model magic", "embed {in}/units.nii.gz -o {out}/e.h5 --model mind",
    "embed {in}/constants.nii.gz -o {out}/e.h5 --model mind", "embed {in}/nanss.nii.gz -o {out}/e.h5 --model mind",
    *(f"train {{in}}/{name}" for name in ("none.yaml", "tag.yaml", "bad.yaml", "key.yaml", "empty.yaml",
    "data.yaml", "list.yaml")),
    "benchmark magic -o {out}/b", "benchmark phantom:0 -o {out}/b",
    "benchmark phantom:2:8 -o {out}/b --methods magic",
    "benchmark phantom:x -o {out}/b", "benchmark {in}/nothing -o {out}/b", "benchmark {in}/none -o {out}/b",
    "atlas {in}/nothing -o {out}/t", "atlas {in}/none -o {out}/t", "atlas {in}/a.nii.gz -o {in}/a.nii.gz",
    "atlas {in}/a.nii.gz -o {out}/t --model mind",
    "track {in}/a.nii.gz {in}/b.nii.gz {in}/none.csv -o {out}/t",
    "track {in}/a.nii.gz {in}/b.nii.gz {in}/far.csv -o {out}/t",
    "track {in}/a.nii.gz {in}/cut.nii.gz {in}/good.csv -o {out}/t", "track {in}/a.nii.gz -o {out}/t",
    "match --template-set {in}/nothing {in}/a.nii.gz -o {out}/p.csv", "match {in}/a.nii.gz -o {out}/p.csv",
    "register", "magic", "apply", "info --series 2 {in}/a.nii.gz", "demo --quick --magic",
)  # fmt: skip


_FOREIGN = ("MemoryError", "list indices", "NoneType", "object has no", "cannot reshape", "subject=", "fixed_grid=")


@pytest.mark.parametrize("call", CALLS)
def test_a_bad_call_is_refused(
    places: Places, no_work: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    """Exit code 1 or 2, no traceback, one message that is more than a word, and nothing written."""
    monkeypatch.setattr("samreg.spatial.claimed_size._available_memory", lambda: 12 * 10**9)
    before = {path: path.stat().st_mtime_ns for path in places["in"].iterdir() if path.is_file()}
    done = CliRunner().invoke(app, [part.format(**places, out=tmp_path) for part in call.split()])
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code in (1, 2), done.output
    assert "Traceback" not in done.output
    message = " ".join(done.output.split())
    assert len(message) > 30, message
    for foreign in (
        "MemoryError",
        "list indices",
        "NoneType",
        "object has no",
        "cannot reshape",
        "subject=",
        "fixed_grid=",
    ):
        assert foreign not in message, message
    assert not list(tmp_path.iterdir())
    assert before == {path: path.stat().st_mtime_ns for path in places["in"].iterdir() if path.is_file()}
    assert not (places["in"] / "PWNED").exists()


IMAGE = Image.from_array(np.random.default_rng(1).normal(0, 80, (24, 24, 24)).astype(np.float32), spacing=4.0)
RESULT = samreg.RegistrationResult(IMAGE, IMAGE, AffineTransform.identity(3))
FAR = Image(IMAGE.array, Grid.make(IMAGE.shape, origin=(900, 0, 0), spacing=4.0))
KEYWORDS: tuple[dict[str, Any], ...] = (
    {"seed": -1}, {"seed": "a"}, {"seed": 1.5}, {"engine": 3}, {"engine": object}, {"engine": "magic"},
    {"engine_options": "fast"}, {"engine_options": {"magic": 1}}, {"engine_options": 3}, {"engine_options": {1: 2}},
    {"spacing": "2"}, {"spacing": 0}, {"spacing": float("nan")}, {"spacing": (2, 2, 2)}, {"threads": 1.5},
    {"threads": 0}, {"threads": "all"}, {"method": "magic"}, {"method": None}, {"transform": "magic"}, {"transform": 3},
    {"model": 3}, {"model": "magic"}, {"model": object}, {"device": "tpu"}, {"device": None}, {"device": "cuda:99"},
    {"start": 3}, {"start": "none.h5"}, {"start": np.eye(4)}, {"landmarks": 3}, {"landmarks": ([[1, 2]], [[1, 2]])},
    {"landmarks": ([], [])}, {"landmarks": ([[1, 2, 3]],)}, {"fixed_mask": "none.nii.gz"}, {"fixed_mask": 3},
    {"fixed_mask": FAR}, {"progress": 3}, {"verbose": "no"}, {"method": "embedding", "engine": "ants"},
    {"engine_options": {"learning_rate": float("nan")}}, {"engine_options": {"iterations": (-5,)}},
    {"method": "registration", "model": "mind"}, {"method": "embedding", "landmarks": ([[9, 9, 9]], [[9, 9, 9]])},
    {"engine_options": {"iterations": "abc"}},
)  # fmt: skip


@pytest.mark.parametrize("keywords", KEYWORDS, ids=str)
def test_a_bad_argument_of_register_is_refused(no_work: None, keywords: dict[str, Any]) -> None:
    with pytest.raises(SamregError) as refused:
        samreg.register(IMAGE, IMAGE, **{"engine": "torch"} | keywords if "method" not in keywords else keywords)
    assert len(str(refused.value)) > 25


PYTHON = {
    "points in 2D": lambda: RESULT.transform_points([[1, 2]], to="moving"),
    "points outside": lambda: RESULT.transform_points([[1e4, 0, 0]], to="moving"),
    "points of words": lambda: RESULT.transform_points([["a", "b", "c"]], to="moving"),
    "points not finite": lambda: RESULT.transform_points([[np.nan, 0, 0]], to="moving"),
    "no direction": lambda: RESULT.transform_points([[1, 2, 3]], to="there"),
    "an unrelated image": lambda: RESULT.warp(FAR),
    "an image in 2D": lambda: RESULT.warp(Image.from_array(np.zeros((9, 9)), spacing=1.0)),
    "an interpolation": lambda: RESULT.warp(IMAGE, interpolation="cubic"),
    "a page in pdf": lambda: RESULT.report("page.pdf"),
    "a format": lambda: RESULT.save("out", formats="hdf"),
    "a grid": lambda: RESULT.save("out", field_grid="own"),
    "no image": lambda: samreg.register(None, IMAGE),
    "an array": lambda: samreg.register(np.zeros((4, 4, 4)), IMAGE),
    "a missing file": lambda: samreg.read_image("none.nii.gz"),
    "no path": lambda: samreg.read_image("\0"),
    "zero points to match": lambda: samreg.match(IMAGE, np.zeros((0, 3)), IMAGE, model="mind"),
    "no folder": lambda: samreg.RegistrationResult.load("nowhere"),
    "a folder of nothing": lambda: samreg.RegistrationResult.load(None),  # type: ignore[arg-type]
    "paths as pairs": lambda: samreg.register_many(["a.nii.gz"], "out"),  # type: ignore[list-item]
    "tuples as pairs": lambda: samreg.register_many([("a.nii.gz", "b.nii.gz")], "out"),  # type: ignore[list-item]
    "no pairs": lambda: samreg.register_many(None, "out"),  # type: ignore[arg-type]
    "a file as pairs of lesions": lambda: track_pairs("pairs.csv", "out"),  # type: ignore[arg-type]
    "numbers as images": lambda: samreg.build_atlas([1, 2], "out"),  # type: ignore[list-item]
    "a number as points": lambda: samreg.match(IMAGE, 3, IMAGE, model="mind"),
    "an image of images": lambda: samreg.write_image(3, "a.nii.gz"),  # type: ignore[arg-type]
    "a transform of numbers": lambda: samreg.write_transform(np.eye(4), "a.h5"),  # type: ignore[arg-type]
    "landmarks without a name in common": lambda: RESULT.landmark_errors(
        Points([[9.0, 9, 9]], ("a",)), Points([[9.0, 9, 9]], ("b",))
    ),
}


@pytest.mark.parametrize("what", PYTHON)
def test_a_bad_call_in_python_is_refused(no_work: None, what: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SamregError) as refused:
        PYTHON[what]()
    assert len(str(refused.value)) > 25
    assert not list(tmp_path.iterdir())


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("link", [os.link, os.symlink, None])
def test_an_input_is_never_replaced_by_whatever_name(places: Places, tmp_path: Path, no_work: None, link: Any) -> None:
    image, points = places["in"] / "a.nii.gz", tmp_path / "points.csv"
    shutil.copy(places["in"] / "good.csv", points)
    other = points if link is None else tmp_path / "other.csv"
    if link is not None:
        link(points, other)
    before = points.read_bytes()
    done = run("apply", places["result"], points, "-o", other)
    assert (done.exit_code, "would replace the input" in done.output) == (2, True), done.output
    assert points.read_bytes() == before
    (tmp_path / "r").mkdir()
    (link or os.link)(image, tmp_path / "r" / "warped.nii.gz")
    done = run("register", image, places["in"] / "b.nii.gz", "-o", tmp_path / "r")
    assert (done.exit_code, "would replace the input" in done.output) == (2, True), done.output


def test_too_little_room_is_told_at_once(places: Places, tmp_path: Path, no_work: None, monkeypatch: Any) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    done = run("register", places["in"] / "a.nii.gz", places["in"] / "b.nii.gz", "-o", tmp_path / "r")
    assert (done.exit_code, "MB are needed" in " ".join(done.output.split())) == (2, True), done.output
    assert not (tmp_path / "r").exists()


def test_two_runs_do_not_write_to_one_folder(places: Places, tmp_path: Path, no_work: None) -> None:
    """The lock ends with the process that holds it, and a process may write again to the folder it holds."""
    out = tmp_path / "r"
    hold = (
        "import sys; from samreg.spatial.files import claimed_folder\n"
        f"with claimed_folder({str(out)!r}): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        done = run("register", places["in"] / "a.nii.gz", places["in"] / "b.nii.gz", "-o", out)
        assert (done.exit_code, "another run of samreg" in " ".join(done.output.split())) == (2, True), done.output
        with pytest.raises(InputError, match="another run of samreg"):
            RESULT.save(out)
        images = [places["in"] / f"{name}.nii.gz" for name in "ab"]
        templates = tmp_path / "templates"
        templates.mkdir()
        (templates / "a.nii.gz").symlink_to(images[0])
        (templates / "a.csv").write_text("name,x,y,z\ntip,80,80,80\n")
        for run_many in (
            partial(track_pairs, [], out, model="mind"),
            partial(samreg.match_folder, templates, images, out, model="mind"),
            partial(samreg.build_atlas, images, out, model="mind"),
        ):
            with pytest.raises(InputError, match="another run of samreg"):
                run_many()
        other.kill()
    with claimed_folder(out):
        assert RESULT.save(out) == out
    assert (out / "result.json").is_file()


@pytest.mark.parametrize(
    "command",
    [
        "track --pairs {in}/lesions.csv -o {out} --model mind",
        "match --template-set {in}/set {in}/b.nii.gz -o {out} --model mind",
        "atlas {in}/a.nii.gz {in}/b.nii.gz -o {out}",
        "batch {in}/pairs.csv -o {out} --method embedding --model mind",
    ],
)
def test_two_runs_of_many_do_not_write_to_one_folder(places: Places, tmp_path: Path, command: str) -> None:
    """What one of them writes, the other would remove."""
    source = tmp_path / "in"
    (source / "set").mkdir(parents=True)
    for name in ("a.nii.gz", "b.nii.gz", "set/a.nii.gz"):
        (source / name).symlink_to(places["in"] / Path(name).name)
    (source / "set" / "a.csv").write_text("name,x,y,z\ntip,80,80,80\n")
    (source / "lesions.csv").write_text("baseline,followup,lesions\na.nii.gz,b.nii.gz,set/a.csv\n")
    (source / "pairs.csv").write_text("fixed,moving\na.nii.gz,b.nii.gz\n")
    out = tmp_path / "out"
    out.mkdir()
    other = os.open(out, os.O_RDONLY)  # a lock is of the file that is open, whichever process opened it
    fcntl.flock(other, fcntl.LOCK_EX)
    done = run(*command.format(**{"in": source, "out": out}).split())
    os.close(other)
    assert (done.exit_code, "another run of samreg" in " ".join(done.output.split())) == (2, True), done.output
    assert not [*out.iterdir()]


def test_labels_are_told_from_intensities_and_warped_as_they_are(places: Places, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scan = samreg.read_image(places["in"] / "b.nii.gz")
    labels = np.zeros(scan.shape, np.int16)
    labels[10:30, 10:30, 10:30], labels[15:20, 15:20, 15:20] = 40, 117
    picture = rng.integers(0, 256, (60, 60)).astype(np.uint8)  # of few grey values, as radiographs may be
    assert is_label_image(scan.with_array(labels))
    assert is_label_image(scan.with_array(labels > 0))
    holed = np.where(labels > 100, np.nan, labels).astype(np.float32)
    air = np.where(labels > 0, scan.array, -1024.0)  # a scan in floats, much of which has one value
    for other in (scan, Image.from_array(picture, spacing=1.0), *map(scan.with_array, (holed, air, labels / 16))):
        assert not is_label_image(other)
    for kind in (np.float32, np.float64):
        assert is_label_image(scan.with_array(labels.astype(kind))), "as nibabel and ANTs may write them"
        warped = samreg.RegistrationResult.load(places["result"]).warp(scan.with_array(labels.astype(kind))).array
        assert set(np.unique(warped)) == {0, 40, 117}
    samreg.write_image(scan.with_array(labels), tmp_path / "labels.nii.gz")
    done = run("apply", places["result"], tmp_path / "labels.nii.gz", "-o", tmp_path / "w.nii.gz")
    assert done.exit_code == 0, done.output
    assert "holds labels" in " ".join(done.output.split())
    warped = samreg.read_image(tmp_path / "w.nii.gz").array
    assert (warped.dtype, set(np.unique(warped))) == (np.int16, {0, 40, 117})
    result = samreg.RegistrationResult.load(places["result"])
    assert set(np.unique(result.warp(tmp_path / "labels.nii.gz").array)) == {0, 40, 117}
    assert result.warp(scan).array.dtype == np.float32
    smooth = run(
        "apply", places["result"], tmp_path / "labels.nii.gz", "-o", tmp_path / "w.nii.gz", "--interpolation", "linear"
    )
    assert (smooth.exit_code, samreg.read_image(tmp_path / "w.nii.gz").array.dtype) == (0, np.float32)


def test_any_number_of_labels_is_labels_and_bone_in_a_window_is_not():
    atlas = np.zeros((60, 60, 60), np.int32)
    atlas[5:55, 5:55, 5:55] = np.kron(np.arange(1, 1001).reshape(10, 10, 10), np.ones((5, 5, 5), int))
    scan = Image.from_array(atlas, spacing=2.0, name="atlas.nii.gz")
    assert is_label_image(scan)
    shifted = samreg.RegistrationResult(scan, scan, AffineTransform(np.eye(3), [1.1, 0, 0])).warp(scan)
    assert set(np.unique(shifted.array)) <= set(np.unique(atlas))
    points = np.zeros_like(atlas)
    points.ravel()[::500] = np.arange(432) + 1
    assert is_label_image(scan.with_array(points)), "single voxels, of which no two touch"
    window = np.zeros(atlas.shape, np.uint8)
    window[:, 20:40, 20:40] = np.random.default_rng(0).integers(0, 256, (60, 20, 20))
    assert not is_label_image(scan.with_array(window))


@pytest.mark.parametrize("name", ["=cmd|'/c calc'!A1", "+1+1", "-tip", "@sum", "tip", "-3.2", "'quoted'", "=1,2"])
def test_no_cell_of_a_table_is_a_formula(tmp_path: Path, name: str) -> None:
    points = Points([[-3.25, 2, 3]], (name,))
    samreg.write_points(points, tmp_path / "p.csv")
    errors = LandmarkErrors((name,), np.array([1.0]), np.array([2.0]), np.array([3.0]))
    errors.write(tmp_path / "e.csv")
    write_table(tmp_path / "t.csv", ("name", "mm"), [(name, -3.25)])
    for file in ("p.csv", "e.csv", "t.csv"):
        with (tmp_path / file).open(newline="") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert not [cell for cell in cells if cell[0] in "=+-@" and not is_number(cell)]
    assert "-3.25" in cells
    again = samreg.read_points(tmp_path / "p.csv")
    assert (again.names, again.positions.tolist()) == ((name,), [[-3.25, 2, 3]])
    assert LandmarkErrors.read(tmp_path / "e.csv").names == (name,)

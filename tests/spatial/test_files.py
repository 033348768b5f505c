"""Atomic files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile

import pytest

from samreg.errors import EngineError, InputError
from samreg.spatial import files, find_images
from samreg.spatial.files import (
    atomic_path,
    claimed_folder,
    path_from_text,
    path_text,
    reading,
    reason,
    replaced_files,
    require_file,
    require_replaceable,
    require_writable,
    scratch_folder,
)


def test_no_place_and_no_room_for_temporary_files_are_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"gone: No such file or directory; make room .* TMPDIR"), scratch_folder():
        pass
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="No space") as caught, scratch_folder():  # of another disk
        raise full
    assert caught.value is full
    monkeypatch.setattr(files, "_has_room", lambda _: False)
    with pytest.raises(InputError, match=r"No space left on device; make room"), scratch_folder():
        raise full
    with pytest.raises(FileNotFoundError), scratch_folder():  # of something else
        (tmp_path / "none").read_bytes()
    assert not list(tmp_path.iterdir())


def test_the_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "a.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.name == "a.nii.gz"  # writers look at the suffix
        assert temporary.parent.parent == path.parent  # one file system, so that the last step is atomic
        temporary.write_text("x")
        assert not path.exists()
    assert path.read_text() == "x"
    assert [p.name for p in path.parent.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("error", [ValueError("v"), KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_any_exception_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_writer_that_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="produced no file"), atomic_path(tmp_path / "a.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_no_permission(tmp_path, monkeypatch):
    def deny(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", deny)
    with pytest.raises(InputError, match=r"cannot write .*a\.txt: Permission denied"), atomic_path(tmp_path / "a.txt"):
        pass


def test_require_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    with pytest.raises(InputError, match="scan not found"):
        require_file(path, "scan")
    path.touch()
    with pytest.raises(InputError, match="scan is empty"):
        require_file(path, "scan")
    path.write_text("x")
    assert require_file(str(path)) == path
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="no permission to read scan"):
        require_file(path, "scan")


def test_reading_names_the_file_once():
    with pytest.raises(InputError, match=r"cannot read a\.nii: broken; is it complete"), reading("a.nii"):
        raise OSError("broken")
    with pytest.raises(InputError, match=r"^already said$"), reading("a.nii"):
        raise InputError("already said")
    for short in (MemoryError(), RuntimeError("itkX.hxx:179:\nFailed to allocate memory for image.")):
        with pytest.raises(InputError, match=r"a\.nii: memory is too short .*; free memory"), reading("a.nii"):
            raise short
    with pytest.raises(EngineError), reading("a.nii"):
        raise EngineError("not a matter of the file")
    with pytest.raises(KeyboardInterrupt), reading("a.nii"):
        raise KeyboardInterrupt


def test_reasons_are_one_line():
    itk = RuntimeError(
        "Exception thrown in X: /tmp/src/itkFile.cxx:49:\nITK ERROR: MetaImageIO(0x55): File cannot be read."
    )
    assert reason(itk) == "File cannot be read"
    assert reason(RuntimeError("in X: /src/a.cxx:239:\nsitk::ERROR: Unknown PixelType: unknown(0)")).startswith(
        "Unknown"
    )
    nrrd = (
        'in X: /src/b.cxx:4:\nitk::ERROR: NrrdImageIO(0x5): Error:\n[nrrd] nrrdLoad: trouble\n[nrrd] _parse: no "LPI"'
    )
    assert reason(RuntimeError(nrrd)) == 'no "LPI"'
    assert reason(RuntimeError("X:\nitk::ERROR: NrrdImageIO(0x5): No data.\n[nrrd] _parse:")) == "No data"
    memory = "Exception thrown in SimpleITK new_Image: /tmp/itkContainer.hxx:179:\nFailed to allocate memory for image."
    assert reason(RuntimeError(memory)) == "Failed to allocate memory for image"
    assert reason(EOFError()) == "EOFError"
    assert reason(ValueError("two\nlines")) == "two lines"


@pytest.mark.skipif(os.name == "nt", reason="Windows has one encoding of file names")
def test_names_with_accents_where_the_locale_is_not_utf8(tmp_path):
    """SimpleITK ends the process at a name that Python could not decode."""
    code = f"""
import os, numpy as np
from samreg.errors import InputError
from samreg.spatial import *
os.chdir({str(tmp_path)!r})
name = os.fsdecode(b"art\\xc3\\xa8re")
image = Image.from_array(np.arange(60, dtype=np.int16).reshape(3, 4, 5), spacing=2)
for suffix in (".nii.gz", ".nrrd", ".mha"):
    write_image(image, name + suffix)
    assert np.array_equal(read_image(name + suffix).array, image.array)
    os.remove(name + suffix)
write_image(image, name + ".nrrd")
assert list(find_images(".")) == [name]
shift = AffineTransform(np.eye(3), np.ones(3))
for suffix in (".tfm", ".mat", ".h5", ".nii.gz", ".npz"):
    write_transform(shift, name + suffix, grid=image.grid)
    again = read_transform(name + suffix, fixed_grid=image.grid)
    assert np.allclose(again.transform_points([[2, 2, 2]]), 3)
latin = os.fsdecode(b"art\\xe8re.nrrd")
os.rename(name + ".nrrd", latin)
try:
    read_image(latin)
except InputError as error:
    assert "not UTF-8" in str(error), error
else:
    raise SystemExit("read")
"""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **locale}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_path_is_the_same_text_under_any_locale(monkeypatch):
    for encoding in ("ascii", "latin-1", "euc-jp", "utf-8"):
        monkeypatch.setattr(os, "fsencode", lambda path, encoding=encoding: path.encode(encoding, "surrogateescape"))
        monkeypatch.setattr(os, "fsdecode", lambda data, encoding=encoding: data.decode(encoding, "surrogateescape"))
        path = os.fsdecode("Łódź/骨.nii".encode())
        assert path_text(path) == "Łódź/骨.nii"
        assert path_from_text(path_text(path)) == path
        path = os.fsdecode(b"art\xe8re.nii")  # of which a disk may hold any bytes
        assert path_from_text(path_text(path)) == path


def test_results_replace_earlier_ones_and_nothing_else(tmp_path):
    mine = tmp_path / "table.csv"
    mine.write_text("mine")
    require_replaceable(tmp_path, ["other.csv"], mark="done.json", inputs=[None, mine])
    with pytest.raises(InputError, match="samreg did not write it: no done"):
        require_replaceable(tmp_path, ["table.csv"], mark="done.json")

    def save() -> None:
        with replaced_files(tmp_path, summary="done.json") as new:
            (new / "table.csv").write_text("results")
            (new / "done.json").touch()

    with pytest.raises(InputError, match="samreg did not write it"):
        save()
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert mine.read_text() == "mine"
    (tmp_path / "done.json").touch()
    require_replaceable(tmp_path, ["table.csv"], mark="done.json")
    with pytest.raises(InputError, match="would replace the input"):
        require_replaceable(tmp_path, ["table.csv"], mark="done.json", inputs=[mine])


def test_an_empty_path_is_not_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(InputError, match="path is empty"):
        require_file("")
    with pytest.raises(InputError, match="path is empty"):
        find_images("")
    for opened in (claimed_folder, atomic_path):
        with pytest.raises(InputError, match="must be a path"), opened(""):
            pass
    with pytest.raises(InputError, match="must be a path"):
        require_writable("")

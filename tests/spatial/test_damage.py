"""A damaged bit never becomes a voxel, a label or a displacement: it is refused, or it changed nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from samreg.errors import InputError
from samreg.spatial import (
    AffineTransform,
    DisplacementField,
    Grid,
    Image,
    compose,
    read_image,
    read_transform,
    write_image,
    write_transform,
)

GRID = Grid.make((9, 10, 11), spacing=(1, 2, 3), origin=(5, 6, 7))
FLIPS = 40


def _smooth(kind: str) -> np.ndarray:
    """Smooth numbers, as tissue is: noise does not compress, and damage would show at once."""
    z, y, x = np.indices(GRID.shape)
    return (1000 * np.sin(x / 3) * np.cos(y / 4) + 40 * z).astype(kind)


def _picture(folder: Path, name: str) -> None:
    from PIL import Image as Picture

    picture = Picture.fromarray((_smooth("i4")[0] + 20000).astype(np.uint16))
    picture.save(folder / name, **({"compression": "tiff_adobe_deflate"} if name.endswith(".tif") else {}))


def _mgz(folder: Path, name: str) -> None:
    nib.save(nib.MGHImage(_smooth("i2").T, np.diag([1.0, 2, 3, 1])), folder / name)


def _pair(folder: Path, name: str) -> None:
    nib.save(nib.Nifti1Pair(_smooth("i2").T, np.diag([1.0, 2, 3, 1])), folder / name.replace(".gz", ""))
    import gzip

    voxels = (folder / name.replace(".gz", "")).read_bytes()
    (folder / name).write_bytes(gzip.compress(voxels))


def _image(folder: Path, name: str) -> None:
    write_image(Image(_smooth("i2"), GRID), folder / name)


def _labels(folder: Path, name: str) -> None:
    write_image(Image(_smooth("i2") > 0, GRID), folder / name)


FIELD = DisplacementField(np.stack([_smooth("f4") / 300] * 3, axis=-1), GRID)


def _transform(folder: Path, name: str) -> None:
    write_transform(compose(FIELD, AffineTransform(np.eye(3) * 1.1, np.ones(3))), folder / name, grid=GRID)


def _vectors(folder: Path, name: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(FIELD.displacement, isVector=True), str(folder / name), useCompression=True)


def _voxels(path: Path) -> list[np.ndarray]:
    image = read_image(path)
    return [image.array, image.grid.corners()]


def _moved(path: Path) -> list[np.ndarray]:
    return [read_transform(path, fixed_grid=GRID).transform_points(GRID.world_points().reshape(-1, 3))]


# the text before NRRD's and MetaImage's data has no checksum
KINDS: dict[str, tuple[Callable[[Path, str], None], Callable[[Path], list[np.ndarray]], int]] = {
    "scan.nii.gz": (_image, _voxels, 0),
    "scan.nrrd": (_image, _voxels, 400),
    "scan.mha": (_image, _voxels, 400),
    "labels.mha": (_labels, _voxels, 400),
    "scan.mgz": (_mgz, _voxels, 0),
    "scan.img.gz": (_pair, _voxels, 0),
    "picture.png": (_picture, _voxels, 8),
    "field.h5": (_transform, _moved, 0),
    "field.nii.gz": (_transform, _moved, 0),
    "field.npz": (_transform, _moved, 0),
    "field.mha": (_vectors, _moved, 420),
    "field.nrrd": (_vectors, _moved, 420),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_bit_is_refused_or_harmless(tmp_path, name):
    write, read, first = KINDS[name]
    write(tmp_path, name)
    path = tmp_path / name
    whole, expected = path.read_bytes(), read(path)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        damaged[int(random.integers(first, len(whole)))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            result = read(path)
        except InputError as error:
            refused += str(path) in str(error)
        else:
            assert all(np.array_equal(a, b) for a, b in zip(result, expected, strict=True))
    assert refused > FLIPS / 4


def _mangled(data: bytes, random: np.random.Generator) -> bytes:
    """Change, drop and insert a few bytes, most of them in the header."""
    result = bytearray(data)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(min(len(result), 600) if random.random() < 0.7 else len(result)))
        what = random.integers(3)
        if what == 0:
            result[at] = random.integers(256)
        elif what == 1:
            del result[at : at + random.integers(1, 9)]
        else:
            result[at:at] = bytes(random.integers(48, 58, random.integers(1, 4)).astype(np.uint8))
    return bytes(result)


@pytest.mark.parametrize("name", KINDS)
def test_whatever_a_file_holds_there_is_a_clear_error(tmp_path, name):
    """Bytes at random never end in another exception than the InputError that names the file."""
    write, read, _ = KINDS[name]
    write(tmp_path, name)
    path = tmp_path / name
    whole, random = path.read_bytes(), np.random.default_rng(1)
    for _ in range(FLIPS):
        path.write_bytes(_mangled(whole, random))
        with contextlib.suppress(InputError):
            read(path)


def test_damage_within_a_deflated_tiff_is_refused(tmp_path):
    """Its directory has no checksum, its data have one."""
    from PIL import Image as Picture

    _picture(tmp_path, "x.tif")
    path = tmp_path / "x.tif"
    with Picture.open(path) as picture:
        first, count = picture.tag_v2[273][0], picture.tag_v2[279][0]
    whole = path.read_bytes()
    for at in range(first + 2, first + count, max(1, count // FLIPS)):
        damaged = bytearray(whole)
        damaged[at] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"x\.tif"):
            read_image(path)


def test_bytes_behind_the_end_are_ignored_with_a_warning(tmp_path, caplog):
    _image(tmp_path, "scan.nii.gz")
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(path.read_bytes() + b"\n<html>")
    assert np.array_equal(read_image(path).array, _smooth("i2"))
    assert "ignored" in caplog.text
    caplog.clear()
    path.write_bytes(path.read_bytes()[:-7] + bytes(512))  # as tapes and tar pad it
    assert np.array_equal(read_image(path).array, _smooth("i2"))
    assert not caplog.text


def test_a_jpeg_that_ends_early_is_refused(tmp_path):
    path = tmp_path / "x.jpg"
    sitk.WriteImage(sitk.GetImageFromArray((_smooth("f4")[0] / 10 + 100).astype(np.uint8)), str(path))
    read_image(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"x\.jpg: its end is missing"):
        read_image(path)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha", "raw.nrrd", "raw.mha"])
def test_a_header_that_claims_more_than_the_file_holds_is_refused_at_once(tmp_path, name):
    path = tmp_path / name
    image = Image(_smooth("i2"), GRID)
    if name.startswith("raw"):
        from samreg.spatial.adapters import to_sitk

        sitk.WriteImage(to_sitk(image), str(path), useCompression=False)
    else:
        write_image(image, path)
    data = path.read_bytes()
    if name.endswith((".nii", ".nii.gz")):
        import gzip

        plain = bytearray(gzip.decompress(data) if name.endswith(".gz") else data)
        plain[42:48] = np.array([20000, 20000, 20000], "<i2").tobytes()
        path.write_bytes(gzip.compress(bytes(plain)) if name.endswith(".gz") else bytes(plain))
    else:
        path.write_bytes(data.replace(b"11 10 9", b"20000 20000 20000"))
    with pytest.raises(InputError, match="header claims"):
        read_image(path)


def test_a_full_disk_does_not_end_the_process(tmp_path):
    """HDF5 crashes where a write fails, even at the end of the process; any size of the file must survive that."""
    pytest.importorskip("resource")
    code = f"""
import resource, signal, numpy as np
from samreg.errors import InputError
from samreg.spatial import DisplacementField, Grid, write_transform
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
grid = Grid.make((20, 40, 40))
field = DisplacementField(np.random.default_rng(0).normal(size=(*grid.shape, 3)).astype("f4"), grid)
for limit in (0, 50, 3000, 30000, 300000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        write_transform(field, {str(tmp_path / "full.h5")!r})
    except InputError as error:
        assert "cannot write" in str(error), error
    else:
        raise SystemExit(f"nothing was said at {{limit}} bytes")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())

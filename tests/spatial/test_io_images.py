"""Image files: what is read is what was written, and damaged files are named."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from samreg.errors import InputError
from samreg.spatial import Image, as_image, find_images, read_image, write_image
from samreg.spatial.adapters import to_nibabel

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("ndim", [2, 3])
@given(data=st.data())
@settings(max_examples=8)
def test_round_trip(grids, random_image, scratch, suffix, ndim, data):
    grid = data.draw(grids(ndim))
    dtype = data.draw(st.sampled_from([np.int16, np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64]))
    image = random_image(np.random.default_rng(0), grid, dtype)
    # apart: ITK reads the voxels of a.nii.gz from a.nii where both lie in one folder
    path = scratch / f"folder{suffix}" / f"image{suffix}"
    write_image(image, path)
    again = read_image(path)
    assert again.grid.same_as(grid)
    assert again.array.dtype == dtype
    assert np.array_equal(again.array, image.array)
    assert again.name == str(path)
    theirs = sitk.ReadImage(str(path))  # and others see the same
    assert np.array_equal(sitk.GetArrayFromImage(theirs), image.array)
    corner = [n - 1 for n in grid.size]
    assert np.allclose(theirs.TransformIndexToPhysicalPoint(corner), grid.index_to_world(corner)[0], atol=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_masks_become_uint8(tmp_path, suffix):
    mask = Image.from_array(np.arange(24).reshape(2, 3, 4) % 3 == 0)
    write_image(mask, tmp_path / f"m{suffix}")
    again = read_image(tmp_path / f"m{suffix}")
    assert again.array.dtype == np.uint8
    assert np.array_equal(again.array, mask.array)


def test_suffixes_in_capitals(tmp_path):
    image = Image.from_array(np.ones((2, 3, 4), np.int16))
    write_image(image, tmp_path / "A.NII.GZ")
    assert read_image(str(tmp_path / "A.NII.GZ")).shape == (2, 3, 4)


def test_mhd_and_pictures_are_read(tmp_path, caplog):
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.mhd"))
    assert np.array_equal(read_image(tmp_path / "a.mhd").array, array)
    for name in ("a.png", "a.tif"):
        sitk.WriteImage(sitk.GetImageFromArray(array[0]), str(tmp_path / name))
        assert np.array_equal(read_image(tmp_path / name).array, array[0])
    assert "no pixel size" in caplog.text


def test_big_endian_is_turned(tmp_path):
    import torch

    array = np.arange(24, dtype=">i2").reshape(4, 3, 2)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4), header), tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes()[:4] == b"\0\0\1\x5c"
    image = read_image(tmp_path / "b.nii")
    assert image.array.dtype == np.dtype("=i2")
    assert np.array_equal(image.array, array.T)
    torch.from_numpy(image.array)


def test_scaled_integers_become_float32(tmp_path):
    path = tmp_path / "s.nii"
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(4, 3, 2), np.eye(4)), path)
    patch(path, 112, "<2f", 2.0, -1024.0)
    image = read_image(path)
    assert image.array.dtype == np.float32
    assert np.array_equal(image.array, 2 * np.arange(24).reshape(4, 3, 2).T - 1024)


def test_micrometres(tmp_path):
    scan = nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.diag([500.0, 500, 1000, 1]))
    scan.header.set_xyzt_units("micron")
    nib.save(scan, tmp_path / "u.nii")
    assert read_image(tmp_path / "u.nii").spacing.tolist() == [0.5, 0.5, 1]


@pytest.mark.parametrize("only", ["qform", "sform"])
def test_one_form_is_enough(random_grid, random_image, tmp_path, only):
    rng = np.random.default_rng(3)
    grid = random_grid(rng, 3)
    scan = to_nibabel(random_image(rng, grid))
    (scan.set_sform if only == "qform" else scan.set_qform)(None, code=0)
    nib.save(scan, tmp_path / "o.nii.gz")
    assert read_image(tmp_path / "o.nii.gz").grid.same_as(grid, tolerance=2e-3)


def test_no_form_is_a_guess(tmp_path, caplog):
    scan = to_nibabel(Image.from_array(np.zeros((3, 4, 5), np.float32)))
    scan.set_sform(None, code=0)
    scan.set_qform(None, code=0)
    nib.save(scan, tmp_path / "n.nii")
    read_image(tmp_path / "n.nii")
    assert "orientation is a guess" in caplog.text


def test_a_shear_is_resampled(tmp_path, caplog):
    """Intensities that are linear in the world stay so, wherever the sheared voxels lay."""
    shear = np.array([[1.5, 0.3, 0.2, -40], [0.1, 1.4, -0.25, 30], [0, 0.2, 2.5, 100], [0, 0, 0, 1]])
    index = np.moveaxis(np.indices((20, 21, 22)), 0, -1)
    ras = index @ shear[:3, :3].T + shear[:3, 3]
    slope = np.array([1.0, -2.0, 0.5])
    scan = nib.Nifti1Image((ras @ (slope * [-1, -1, 1])).astype(np.float32), shear)
    scan.set_qform(None, code=0)
    nib.save(scan, tmp_path / "sheared.nii.gz")
    image = read_image(tmp_path / "sheared.nii.gz")
    assert "sheared" in caplog.text
    assert np.allclose(image.direction.T @ image.direction, np.eye(3), atol=1e-9)
    world = image.grid.world_points().reshape(-1, 3)
    old = (world * [-1, -1, 1] - shear[:3, 3]) @ np.linalg.inv(shear[:3, :3]).T
    inside = ((old >= 0) & (old <= np.array([19, 20, 21]))).all(axis=1)
    assert inside.mean() > 0.5
    assert np.allclose(image.array.ravel()[inside], world[inside] @ slope, atol=1e-2)
    corners = index[[0, 0, 0, -1, -1, -1], [0, -1, 0, -1, 0, -1], [0, 0, -1, -1, -1, 0]]
    lps = (corners @ shear[:3, :3].T + shear[:3, 3]) * [-1, -1, 1]
    assert image.grid.contains(lps).all()


SHEAR = np.array([[2, 0.6, 0, 0], [0, 2, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_a_shear_invents_no_labels(tmp_path, kind):
    labels = np.zeros((40, 40, 20), kind)
    labels[10:30, 10:30, 5:15], labels[15:25, 15:25, 8:12] = 7, 100
    nib.save(nib.Nifti1Image(labels, SHEAR, dtype=kind), tmp_path / "sheared.nii.gz")
    assert np.unique(read_image(tmp_path / "sheared.nii.gz").array).tolist() == [0, 7, 100]


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_a_shear_blends_intensities_of_any_type(tmp_path, kind):
    ramp = (100 + 50 * np.indices((30, 12, 8))[0]).astype(kind)  # along x, of which the shear takes fractions
    nib.save(nib.Nifti1Image(ramp, SHEAR, dtype=kind), tmp_path / "sheared.nii.gz")
    image = read_image(tmp_path / "sheared.nii.gz")
    old = (image.grid.world_points().reshape(-1, 3) * [-1, -1, 1]) @ np.linalg.inv(SHEAR[:3, :3]).T
    inside = ((old >= 0) & (old <= np.array([29, 11, 7]))).all(axis=1)
    assert np.abs(image.array.ravel()[inside] - (100 + 50 * old[inside, 0])).max() < 1


def test_beyond_a_shear_is_the_smallest_finite_value(tmp_path):
    """A single NaN made everything beyond the volume NaN."""
    scan = np.random.default_rng(0).normal(40, 9, (20, 20, 10)).astype(np.float32)
    scan[9, 9, 5] = np.nan
    nib.save(nib.Nifti1Image(scan, SHEAR), tmp_path / "sheared.nii.gz")
    array = read_image(tmp_path / "sheared.nii.gz").array
    assert 0 < np.isnan(array).mean() < 0.01
    assert (array == np.nanmin(scan)).mean() > 0.05


# bad input


def patch(path, offset, form, *values):
    data = bytearray(path.read_bytes())
    data[offset : offset + struct.calcsize(form)] = struct.pack(form, *values)
    path.write_bytes(data)


@pytest.fixture
def nifti(tmp_path):
    path = tmp_path / "scan.nii"
    write_image(Image.from_array(np.zeros((6, 5, 4), np.int16), spacing=(1, 2, 3)), path)
    return path


def refused(path, *words, **options):
    with pytest.raises(InputError) as caught:
        read_image(path, **options)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_missing(tmp_path):
    refused(tmp_path / "no.nii.gz", "not found", "check the path")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".png", ".dcm"])
def test_empty_file(tmp_path, suffix):
    path = tmp_path / f"e{suffix}"
    path.touch()
    refused(path, "empty (0 bytes)")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".png", ".dcm", ".mhd"])
def test_foreign_file(tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    path.write_bytes(b"This is a letter, and no image at all.\n" * 40)
    refused(path, "cannot read")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_cut_file(tmp_path, suffix, share):
    path = tmp_path / f"c{suffix}"
    noise = np.random.default_rng(0).integers(-1000, 1000, (20, 21, 22)).astype(np.int16)
    write_image(Image.from_array(noise), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path, "cannot read")


def test_gzip_with_rubbish_inside(tmp_path):
    path = tmp_path / "r.nii.gz"
    path.write_bytes(gzip.compress(b"rubbish" * 100))
    refused(path, "cannot read")


def test_a_pickle_in_disguise_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("boom").touch, ())

    for suffix in SUFFIXES:
        path = tmp_path / f"p{suffix}"
        path.write_bytes(pickle.dumps(Bomb()))
        refused(path, "cannot read")
    assert not (tmp_path / "boom").exists()


def test_4d(tmp_path):
    path = tmp_path / "4d.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 3), np.float32), np.eye(4)), path)
    refused(path, "4D", "select one 3D volume")
    sitk.WriteImage(sitk.Image([4, 5, 6, 3], sitk.sitkFloat32), str(tmp_path / "4d.nrrd"))
    refused(tmp_path / "4d.nrrd", "4D", "save one 3D volume")


def test_a_fourth_axis_of_one_is_dropped(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 1), np.float32), np.eye(4)), tmp_path / "t.nii")
    assert read_image(tmp_path / "t.nii").shape == (6, 5, 4)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_nifti_spacing(nifti, value):
    patch(nifti, 76 + 8, "<f", value)  # pixdim[2]
    refused(nifti, "voxel size", str(value), "header")


def test_nifti_affine(nifti):
    patch(nifti, 280, "<4f", 0, 0, 0, 0)  # srow_x
    refused(nifti, "singular")
    patch(nifti, 280, "<4f", 1, 0, 0, float("nan"))
    refused(nifti, "not finite")


@pytest.mark.parametrize("value", ["0", "nan"])
def test_mha_spacing(tmp_path, value):
    path = tmp_path / "s.mha"
    header = f"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementSpacing = 1 {value} 1\n"
    path.write_bytes(header.encode() + b"ElementDataFile = LOCAL\n" + bytes(8))
    refused(path)


def test_colour_and_vectors(tmp_path):
    path = tmp_path / "c.png"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 3), np.uint8), isVector=True), str(path))
    refused(path, "3 values a voxel", "greyscale")
    path = tmp_path / "v.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3)), isVector=True), str(path))
    refused(path, "3 values a voxel")
    path = tmp_path / "v.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3)), isVector=True), str(path))
    refused(path, "5D")
    path = tmp_path / "rgb.nii"
    colours = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), path)
    refused(path, "real numbers")


def test_an_unknown_suffix(tmp_path, nifti):
    path = tmp_path / "a.xyz"
    path.write_bytes(b"1" * 200)
    refused(path, "unknown image format", ".nii.gz")
    refused(nifti, "series= chooses", series=1)


# writing


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr", "a.png", "a.dcm", "a"])
def test_formats_that_are_not_written(tmp_path, name):
    with pytest.raises(InputError, match="cannot write"):
        write_image(Image.from_array(np.zeros((2, 3, 4))), tmp_path / name)
    assert not list(tmp_path.iterdir())


def fail_with(error):
    def fail(*_args, **_kwargs):
        raise error

    return fail


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), InputError),
        (PermissionError(13, "Permission denied"), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (RuntimeError("Failed to allocate memory for image."), RuntimeError),  # no fault of the folder
    ],
)
def test_nothing_is_half_written(tmp_path, monkeypatch, suffix, old, error, expected):
    path = tmp_path / f"out{suffix}"
    if old:
        path.write_bytes(b"old")

    def half(_image, target, *_args, **_kwargs):
        with open(target, "wb") as file:
            file.write(b"half")
        raise error

    monkeypatch.setattr("samreg.spatial.io_images.save_nifti", half)
    monkeypatch.setattr(sitk, "WriteImage", half)
    with pytest.raises(expected) as caught:
        write_image(Image.from_array(np.zeros((2, 3, 4))), path)
    if expected is InputError:
        assert str(path) in str(caught.value)
        assert error.strerror in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ([path.name] if old else [])
    assert not old or path.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_real_full_disk(tmp_path, suffix):
    """A limit on the file size fails in the middle of writing, as a full disk does."""
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    noise = np.random.default_rng(0).integers(-1000, 1000, (30, 30, 30)).astype(np.int16)
    old_limit, old_handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old_limit[1]))
    try:
        with pytest.raises(InputError, match="cannot write") as caught:
            write_image(Image.from_array(noise), tmp_path / f"full{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    still_open = [os.readlink(file) for file in Path("/proc/self/fd").glob("*") if file.is_symlink()]
    assert not [file for file in still_open if str(tmp_path) in file], caught.value  # whose frames would hold them
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="check the folder's permissions"):
        write_image(Image.from_array(np.zeros((2, 3, 4))), tmp_path / "file" / "out.nii.gz")


def test_a_target_that_is_a_folder(tmp_path):
    (tmp_path / "out.nii.gz").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_image(Image.from_array(np.zeros((2, 3, 4))), tmp_path / "out.nii.gz")


def test_replacing_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", fail_with(PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match="Permission denied"):
        write_image(Image.from_array(np.zeros((2, 3, 4))), tmp_path / "out.nii.gz")
    assert not list(tmp_path.iterdir())


def test_missing_folders_are_made(tmp_path):
    write_image(Image.from_array(np.zeros((2, 3, 4))), tmp_path / "a" / "b" / "out.nii.gz")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["out.nii.gz"]


# pictures


def test_print_resolution_is_no_pixel_size(tmp_path, caplog):
    path = tmp_path / "scan.jpg"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(48, dtype=np.uint8).reshape(6, 8)), str(path))
    data = bytearray(path.read_bytes())
    at = data.index(b"JFIF") + 7  # after the version: unit 1 (inch), then dots across and down
    data[at : at + 5] = b"\x01\x00\x48\x00\x48"
    path.write_bytes(data)
    np.testing.assert_allclose(read_image(path).spacing, 25.4 / 72, rtol=1e-3)
    assert "print resolution; give spacing=" in caplog.text
    with pytest.raises(InputError, match=r"scan.jpg: says no voxel size.*--pixel-size"):  # the default of programs
        as_image(path)
    data[at : at + 5] = b"\x01\x00\x96\x00\x96"  # 150 dots an inch, as a scanner writes it
    path.write_bytes(data)
    assert as_image(path).remarks == (read_image(path).remarks[0],)


@pytest.mark.parametrize(("orientation", "said"), [(None, 0), (1, 0), (6, 1)])
def test_a_jpeg_that_is_shown_turned_is_said_to_be(tmp_path, orientation, said):
    """Points that a viewer marked on it turned lay elsewhere, and nothing was said."""
    exif = Picture.Exif()
    if orientation:
        exif[274] = orientation
    Picture.fromarray(np.zeros((8, 16), np.uint8)).save(tmp_path / "xray.jpg", exif=exif)
    image = read_image(tmp_path / "xray.jpg", spacing=0.5)
    assert image.shape == (8, 16)
    assert ["EXIF orientation 6" in remark for remark in image.remarks] == [True] * said


def test_pictures_are_the_images_of_a_folder_that_has_no_volumes(tmp_path):
    for name in ("b.jpg", "a.png", ".hidden.png", "notes.txt", "masks/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(find_images(tmp_path)) == ["a", "b"]
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(bytes(128) + b"DICM")
    assert list(find_images(tmp_path)) == ["masks", "series"]  # of which the pictures are
    (tmp_path / "scan.nii.gz").touch()
    assert list(find_images(tmp_path)) == ["masks", "scan", "series"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])  # the tif says it, 1 mm
def test_pictures_take_the_pixel_size_that_is_given(tmp_path, suffix, caplog):
    path = tmp_path / f"picture{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(48, dtype=np.uint8).reshape(6, 8)), str(path))
    assert np.allclose(read_image(path).spacing, 1)
    assert ("no pixel size" in caplog.text) == (suffix != ".tif")
    assert ("print resolution" in caplog.text) == (suffix == ".tif")
    caplog.clear()
    given = read_image(path, spacing=0.3)
    assert given.spacing.tolist() == [0.3, 0.3]
    assert given.shape == (6, 8)
    assert read_image(path, spacing=(0.3, 0.4)).spacing.tolist() == [0.3, 0.4]
    assert not caplog.text
    refused(path, "spacing must be positive", spacing=0)


def write_tiff(path, array, *, white_is_0=False, tile=None):
    """Write a grey TIFF of one strip, or of one tile of that many pixels a side, byte by byte."""
    stored = np.iinfo(array.dtype).max - array if white_is_0 else array
    rows, columns = array.shape
    if tile:
        stored = np.pad(stored, [(0, tile - rows), (0, tile - columns)])
    layout = {322: tile, 323: tile, 324: 8, 325: stored.nbytes} if tile else {273: 8, 278: rows, 279: stored.nbytes}
    tags = {256: columns, 257: rows, 258: 8 * array.itemsize, 259: 1, 262: int(not white_is_0), 277: 1, **layout}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = struct.pack("<2sHI", b"II", 42, 8 + stored.nbytes)
    path.write_bytes(head + stored.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4))


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("white_is_0", [False, True])
def test_grey_tiffs_are_read_with_black_as_0(tmp_path, kind, tile, white_is_0):
    array = (np.arange(48) * 5).reshape(6, 8).astype(kind)
    write_tiff(tmp_path / "x.tif", array, white_is_0=white_is_0, tile=tile)
    again = read_image(tmp_path / "x.tif")
    assert again.array.dtype == kind
    np.testing.assert_array_equal(again.array, array)


def test_pictures_of_one_bit_a_pixel(tmp_path):
    mask = np.arange(48).reshape(6, 8) % 3 == 0
    for name in ("x.tif", "x.png"):
        Picture.fromarray(mask).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name).array, 255 * mask)


def test_grey_and_transparency_are_named(tmp_path):
    Picture.new("LA", (8, 6)).save(tmp_path / "x.png")
    refused(tmp_path / "x.png", "grey and transparency")


def test_no_file_says_how_far_pages_lie_apart(tmp_path, caplog):
    pages = [Picture.fromarray(np.full((6, 8), k, np.uint8)) for k in range(5)]
    path = tmp_path / "stack.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], dpi=(254, 254))
    assert read_image(path).shape == (5, 6, 8)
    assert "5 pages, taken for slices" in caplog.text
    with pytest.raises(InputError, match=r"stack.tif: says no voxel size"):
        as_image(path)
    assert as_image(read_image(path, spacing=(0.1, 0.1, 3))).spacing.tolist() == [0.1, 0.1, 3]


@pytest.mark.parametrize("path", [None, 3, b"a.nii", "a\0.nii", "a" * 5000 + ".nii", ["a.nii"]])
def test_what_is_no_path(path):
    with pytest.raises(InputError, match=r"give a path|not found|unknown image format"):
        read_image(path)


@pytest.mark.parametrize("image", [None, np.zeros((3, 4, 5)), sitk.Image([3, 4], sitk.sitkUInt8)])
def test_what_is_no_image_is_not_written(tmp_path, image):
    with pytest.raises(InputError, match=r"samreg\.as_image"):
        write_image(image, tmp_path / "a.nii.gz")
    assert not list(tmp_path.iterdir())

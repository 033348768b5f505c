"""NIfTI, Analyze and MGH: geometry that a header holds twice, and how files are packed."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from samreg.errors import InputError
from samreg.spatial import Image, as_image, find_images, read_image, read_transform, write_image

AFFINE = np.array([[-1.5, 0, 0, 30], [0, -2, 0, 20], [0, 0, 3, 100], [0, 0, 0, 1.0]])
VOXELS = np.arange(12 * 10 * 8, dtype=np.int16).reshape(12, 10, 8)


def scan(sform=AFFINE, qform=AFFINE, affine=AFFINE):
    image = nib.Nifti1Image(VOXELS, affine)
    image.set_sform(sform, 0 if sform is None else 2)
    image.set_qform(qform, 0 if qform is None else 1)
    return image


def patched(path, offset, values):
    data = bytearray(path.read_bytes())
    data[offset : offset + len(values) * 4] = np.array(values, "<f4").tobytes()
    path.write_bytes(data)


def turned(degrees):
    angle = np.deg2rad(degrees)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return rotation @ AFFINE


def shifted(mm):
    other = AFFINE.copy()
    other[0, 3] += mm
    return other


# sform, qform, voxel sizes


@pytest.mark.parametrize(
    ("qform", "apart"),
    [
        (shifted(40), "40 mm"),
        (shifted(0.5), "0.5 mm"),
        (turned(3), "mm apart"),
        (AFFINE @ np.diag([-1, 1, 1, 1]), "mm"),
    ],
)
def test_another_qform_is_warned_of(tmp_path, caplog, qform, apart):
    nib.save(scan(qform=qform), tmp_path / "s.nii.gz")
    image = read_image(tmp_path / "s.nii.gz")
    for word in ("s.nii.gz", "sform (code 2)", "qform (code 1)", apart, "sform (code 2) is used", "samreg.write_image"):
        assert word in caplog.text
    assert np.allclose(image.origin, [-30, -20, 100])
    # written anew, every program sees what samreg saw
    caplog.clear()
    write_image(image, tmp_path / "anew.nii.gz")
    theirs = as_image(sitk.ReadImage(str(tmp_path / "anew.nii.gz")))
    assert theirs.grid.same_as(image.grid)
    read_image(tmp_path / "anew.nii.gz")
    assert not caplog.text


def test_other_voxel_sizes_are_warned_of(tmp_path, caplog):
    path = tmp_path / "s.nii"
    nib.save(scan(qform=None), path)
    patched(path, 80, [1, 1, 1])
    image = read_image(path)
    assert np.allclose(image.spacing, [1.5, 2, 3])
    assert "pixdim [1.0, 1.0, 1.0]" in caplog.text


@pytest.mark.parametrize("values", [[0.9, 0.9, 0.9], [np.nan, 0, 0]])
def test_a_qform_that_is_no_rotation_is_warned_of(tmp_path, caplog, values):
    path = tmp_path / "s.nii"
    nib.save(scan(), path)
    patched(path, 256, values)  # the quaternion
    image = read_image(path)
    assert np.allclose(image.spacing, [1.5, 2, 3])
    assert "qform" in caplog.text
    # and where it is all there is, refused
    nib.save(scan(sform=None), path)
    patched(path, 256, values)
    with pytest.raises(InputError, match=r"s\.nii"):
        read_image(path)


def test_forms_that_agree_to_a_tenth_of_a_voxel_are_not_spoken_of(tmp_path, caplog):
    for number, image in enumerate([scan(), scan(qform=shifted(0.1)), scan(qform=None), scan(sform=None)]):
        nib.save(image, tmp_path / f"{number}.nii")
        assert np.allclose(read_image(tmp_path / f"{number}.nii").spacing, [1.5, 2, 3])
    assert not caplog.text


def test_micrometres_are_compared_in_mm(tmp_path, caplog):
    image = scan(qform=shifted(1000))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "s.nii")
    assert np.allclose(read_image(tmp_path / "s.nii").spacing, [0.0015, 0.002, 0.003])
    assert "up to 1 mm apart" in caplog.text


def test_nibabel_images_and_fields_are_warned_of_too(tmp_path, caplog):
    as_image(scan(qform=shifted(40)), name="in memory")
    assert "in memory: its sform" in caplog.text
    caplog.clear()
    field = nib.Nifti1Image(np.zeros((3, 4, 5, 1, 3), np.float32), AFFINE)
    field.header.set_intent("vector")
    field.set_sform(shifted(40), 2)
    field.set_qform(AFFINE, 1)
    nib.save(field, tmp_path / "f.nii.gz")
    read_transform(tmp_path / "f.nii.gz")
    assert "40 mm apart" in caplog.text


def test_a_negative_voxel_size_is_said(tmp_path, caplog):
    path = tmp_path / "s.nii"
    nib.save(scan(sform=None), path)
    patched(path, 80, [-1.5])
    assert np.allclose(read_image(path).spacing, [1.5, 2, 3])
    assert "negative voxel size" in caplog.text


# packing


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_content_says_whether_it_is_compressed(tmp_path, suffix, packed):
    nib.save(scan(), tmp_path / "plain.nii")
    data = (tmp_path / "plain.nii").read_bytes()
    path = tmp_path / f"s{suffix}"
    path.write_bytes(gzip.compress(data) if packed else data)
    image = read_image(path)
    assert np.array_equal(image.array, VOXELS.T)
    # and of several gzip members, as some programs write them
    path.write_bytes(gzip.compress(data[:700]) + gzip.compress(data[700:]))
    assert np.array_equal(read_image(path).array, VOXELS.T)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("given", [".hdr", ".img"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_pairs(tmp_path, kind, given, packed):
    nib.save(kind(VOXELS, AFFINE), tmp_path / f"s.img{packed}")
    image = read_image(tmp_path / f"s{given}{packed}")
    assert np.array_equal(image.array, VOXELS.T)
    assert np.allclose(image.origin, [-30, -20, 100])
    assert find_images(tmp_path) == {"s": tmp_path / f"s.hdr{packed}"}
    (tmp_path / f"s.img{packed}").unlink()
    with pytest.raises(InputError, match=r"not beside it|not found"):
        read_image(tmp_path / f"s{given}{packed}")


def test_a_header_of_a_pair_alone(tmp_path):
    nib.save(nib.Nifti1Pair(VOXELS, AFFINE), tmp_path / "s.img")
    (tmp_path / "s.hdr").rename(tmp_path / "s.nii")
    with pytest.raises(InputError, match=r"\.img file"):
        read_image(tmp_path / "s.nii")


def test_analyze_is_read_with_a_warning(tmp_path, caplog):
    nib.save(nib.AnalyzeImage(VOXELS, np.diag([-1.5, 2, 3, 1])), tmp_path / "s.img")
    image = read_image(tmp_path / "s.hdr")
    assert np.array_equal(image.array, VOXELS.T)
    assert np.allclose(image.spacing, [1.5, 2, 3])
    assert "no orientation" in caplog.text
    caplog.clear()
    # SPM writes its orientation beside it
    nib.save(nib.Spm99AnalyzeImage(VOXELS, AFFINE), tmp_path / "t.img")
    assert np.allclose(read_image(tmp_path / "t.img").origin, [-30, -20, 100])
    assert not caplog.text


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_mgh(tmp_path, caplog, suffix):
    nib.save(nib.MGHImage(VOXELS.astype(np.float32), AFFINE), tmp_path / f"s{suffix}")
    image = read_image(tmp_path / f"s{suffix}")
    assert np.array_equal(image.array, VOXELS.T)
    assert np.allclose(image.origin, [-30, -20, 100])
    assert np.allclose(image.spacing, [1.5, 2, 3])
    assert not caplog.text
    data = (tmp_path / f"s{suffix}").read_bytes()
    (tmp_path / f"s{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot read"):
        read_image(tmp_path / f"s{suffix}")


def test_one_frame_of_four_dimensions(tmp_path):
    for name, kind in (("a.nii.gz", nib.Nifti1Image), ("b.hdr", nib.Nifti1Pair), ("c.hdr", nib.AnalyzeImage)):
        nib.save(kind(VOXELS[..., None], np.diag([-2, 2, 2, 1])), tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name).array, VOXELS.T)


def with_header(path, **fields):
    """Write a small image, and then other values into its header."""
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([2, 2, 3, 1])), path)
    raw = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    raw[:348] = header.binaryblock
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("offset", [0, 347])
def test_a_header_is_never_read_as_voxels(tmp_path, offset):
    """nibabel begins where it is told to, niftilib behind the header: neither is where voxels begin, byte 352."""
    with pytest.raises(InputError, match=rf"a\.nii: its voxels are said to begin at byte {offset}.*vox_offset, 352"):
        read_image(with_header(tmp_path / "a.nii", vox_offset=offset))


@pytest.mark.parametrize("code", [0, 2, 4, 7, 10, 58, 255])
def test_units_that_the_standard_does_not_know_are_mm(tmp_path, code):
    image = read_image(with_header(tmp_path / "a.nii", xyzt_units=code))
    np.testing.assert_allclose(image.spacing, sitk.ReadImage(str(tmp_path / "a.nii")).GetSpacing())


@pytest.mark.parametrize("shape", [(1, 1, 40000), (40000, 2)])
def test_more_voxels_than_nifti_1_counts(tmp_path, shape):
    image = Image.from_array(np.arange(np.prod(shape)).reshape(shape) % 251, spacing=0.5, name="slide")
    with pytest.raises(InputError, match=r"slide: 40000 voxels along an axis, and NIfTI holds 32767; write \.nrrd"):
        write_image(image, tmp_path / "a.nii.gz")
    assert not (tmp_path / "a.nii.gz").exists()


@pytest.mark.parametrize(("slope", "intercept", "said"), [(0, -1024, True), (np.nan, -1024, True), (0, 0, False)])
def test_an_intercept_without_a_slope_is_said_not_to_be_added(tmp_path, slope, intercept, said):
    """ITK adds it, and the same CT has air at -2024 there."""
    path = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(np.full((2, 3, 4), -1000, np.int16), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<ff", content, 112, slope, intercept)
    path.write_bytes(content)
    image = read_image(path)
    assert (image.array == -1000).all()
    assert bool([remark for remark in image.remarks if "its scl_inter, -1024, is not added" in remark]) is said

"""NRRD and MetaImage: every layout is read as ITK reads it, though compressed data are read here."""

from __future__ import annotations

import gzip
import locale
import os
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from samreg.errors import InputError
from samreg.spatial import as_image, read_image, read_transform
from samreg.spatial.adapters import to_sitk
from samreg.spatial.numeric_locale import decimal_points

VOXELS = np.arange(3 * 4 * 5).reshape(3, 4, 5) - 20
KINDS = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def placed(array, is_vector=False):
    image = sitk.GetImageFromArray(array, isVector=is_vector)
    image.SetSpacing((1, 2, 3))
    image.SetOrigin((4, 5, 6))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    return image


def same_as_itk(path, expected=VOXELS):
    ours, theirs = read_image(path), sitk.ReadImage(str(path))
    assert np.array_equal(ours.array, sitk.GetArrayFromImage(theirs))
    assert ours.array.dtype == sitk.GetArrayFromImage(theirs).dtype
    assert ours.grid.same_as(as_image(theirs).grid)
    assert np.array_equal(ours.array, expected)
    return ours


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [True, False])
def test_types_and_suffixes(tmp_path, kind, suffix, compressed):
    voxels = (VOXELS if kind[0] in "if" else VOXELS + 20).astype(kind)
    sitk.WriteImage(placed(voxels), str(tmp_path / f"a{suffix}"), useCompression=compressed)
    assert same_as_itk(tmp_path / f"a{suffix}", voxels).array.dtype == np.dtype(kind)


NRRD = """NRRD0004
# made by hand
type: short
dimension: 3
space: left-posterior-superior
sizes: 5 4 3
space directions: (0,1,0) (-2,0,0) (0,0,3)
kinds: domain domain domain
endian: {endian}
encoding: {encoding}
space origin: (4,5,6)
note:=a value with a colon: in it
{more}
"""
METAIMAGE = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = {big}
CompressedData = True
CompressedDataSize = {size}
TransformMatrix = 0 -1 0 1 0 0 0 0 1
Offset = 4 5 6
ElementSpacing = 1 2 3
DimSize = 5 4 3
ElementType = MET_SHORT
ElementDataFile = {data}
"""


@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("encoding", ["gzip", "gz", "raw"])
def test_byte_orders_of_nrrd(tmp_path, big, encoding):
    data = VOXELS.astype(">i2" if big else "<i2").tobytes()
    header = NRRD.format(endian="big" if big else "little", encoding=encoding, more="").encode()
    path = tmp_path / "a.nrrd"
    path.write_bytes(header + (data if encoding == "raw" else gzip.compress(data)))
    same_as_itk(path)


@pytest.mark.parametrize("big", [True, False])
def test_byte_orders_of_metaimage(tmp_path, big):
    data = zlib.compress(VOXELS.astype(">i2" if big else "<i2").tobytes())
    path = tmp_path / "a.mha"
    path.write_bytes(METAIMAGE.format(big=big, size=len(data), data="LOCAL").encode() + data)
    same_as_itk(path)


@pytest.mark.parametrize("naming", ["one", "list", "numbers"])
def test_nrrd_whose_data_lie_in_other_files(tmp_path, naming):
    files = {"one": "data file: a b.raw.gz", "list": "data file: LIST", "numbers": "data file: s%d.raw.gz 1 3 1"}
    header = NRRD.format(endian="little", encoding="gzip", more=files[naming]).rstrip("\n") + "\n"
    data = VOXELS.astype("<i2")
    if naming == "one":
        (tmp_path / "a b.raw.gz").write_bytes(gzip.compress(data.tobytes()))
    else:
        for number, part in enumerate(data, start=1):
            (tmp_path / f"s{number}.raw.gz").write_bytes(gzip.compress(part.tobytes()))
    header += "s1.raw.gz\ns2.raw.gz\ns3.raw.gz\n" if naming == "list" else ""
    (tmp_path / "a.nhdr").write_text(header)
    same_as_itk(tmp_path / "a.nhdr")
    next(iter(sorted(tmp_path.glob("*.raw.gz")))).unlink()
    with pytest.raises(InputError, match=r"data file of .*a\.nhdr not found: .*raw.gz"):
        read_image(tmp_path / "a.nhdr")


def write_nrrd(path, *, space="left-posterior-superior", more=""):
    header = NRRD.format(endian="little", encoding="raw", more=more).rstrip("\n") + "\n\n"
    header = header.replace("space: left-posterior-superior\n", f"{space}\n" if ":" in space else f"space: {space}\n")
    path.write_bytes(header.encode() + VOXELS.astype("<i2").tobytes())


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("cm", 10), ("m", 1000), ("um", 1e-3), ("µm", 1e-3), ("", 1)])
def test_lengths_in_other_units_become_mm(tmp_path, unit, mm):
    write_nrrd(tmp_path / "a.nrrd", more="space units: " + " ".join([f'"{unit}"'] * 3))
    image = read_image(tmp_path / "a.nrrd")
    np.testing.assert_allclose(image.spacing, np.multiply(mm, [1, 2, 3]))
    np.testing.assert_allclose(image.origin, np.multiply(mm, [4, 5, 6]))
    assert [f"in {unit}; they are converted to mm" in text for text in image.remarks] == [True] * (mm != 1)


def test_units_of_axes_are_read_where_they_lie_in_no_space(tmp_path):
    header = 'NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nspacings: 100 200 300\nunits: "um" "um" "um"\n'
    (tmp_path / "a.nrrd").write_bytes(
        f"{header}endian: little\nencoding: raw\n\n".encode() + VOXELS.astype("<i2").tobytes()
    )
    np.testing.assert_allclose(read_image(tmp_path / "a.nrrd").spacing, [0.1, 0.2, 0.3])


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("?", 1), ("cm", 10), ("um", 1e-3)])
def test_distance_units_of_metaimage_become_mm(tmp_path, unit, mm):
    data = zlib.compress(VOXELS.astype("<i2").tobytes())
    header = METAIMAGE.format(big=False, size=len(data), data="LOCAL")
    (tmp_path / "a.mha").write_bytes(header.replace("NDims", f"DistanceUnits = {unit}\nNDims").encode() + data)
    image, itk = read_image(tmp_path / "a.mha"), sitk.ReadImage(str(tmp_path / "a.mha"))
    np.testing.assert_allclose(image.spacing, np.multiply(mm, itk.GetSpacing()))
    np.testing.assert_allclose(image.origin, np.multiply(mm, itk.GetOrigin()))
    assert ("converted to mm" in str(image.remarks)) == (mm != 1)


@pytest.mark.parametrize("units", ['"inch" "inch" "inch"', '"mm" "mm" "cm"'])
def test_units_that_are_not_known_are_named(tmp_path, units):
    write_nrrd(tmp_path / "a.nrrd", more=f"space units: {units}")
    with pytest.raises(InputError, match=r"a\.nrrd: its lengths are in '(inch|mm, cm)'.*write them in mm"):
        read_image(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("space", "is_guess"),
    [
        ("left-posterior-superior", False),
        ("RAS", False),
        ("left-anterior-superior", False),
        ("space dimension: 3", True),
        ("scanner-xyz", True),
    ],
)
def test_axes_that_a_header_does_not_name_are_a_guess(tmp_path, space, is_guess):
    write_nrrd(tmp_path / "a.nrrd", space=space)
    assert any("taken for LPS, a guess" in text for text in read_image(tmp_path / "a.nrrd").remarks) == is_guess


def test_metaimage_whose_data_lie_in_another_file(tmp_path):
    data = zlib.compress(VOXELS.astype("<i2").tobytes())
    (tmp_path / "b.zraw").write_bytes(data)
    (tmp_path / "a.mhd").write_text(METAIMAGE.format(big=False, size=len(data), data="b.zraw"))
    same_as_itk(tmp_path / "a.mhd")


@pytest.mark.parametrize("numbers", ["1", "1 2", "1 2 0"])
def test_numbered_files_without_a_step_end_in_no_crash_of_itk(tmp_path, numbers):
    (tmp_path / "a.mhd").write_text(METAIMAGE.format(big=False, size=0, data=f"a%02d.raw {numbers}"))
    with pytest.raises(InputError, match=r"a\.mhd.*a%02d\.raw.*step"):
        read_image(tmp_path / "a.mhd")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compressed", [True, False])
def test_one_frame_of_four_dimensions(tmp_path, suffix, compressed):
    four = sitk.GetImageFromArray(VOXELS[None].astype("i2"), isVector=False)
    sitk.WriteImage(four, str(tmp_path / f"a{suffix}"), useCompression=compressed)
    assert np.array_equal(read_image(tmp_path / f"a{suffix}").array, VOXELS)
    two = sitk.GetImageFromArray(np.stack([VOXELS, VOXELS]).astype("i2"), isVector=False)
    sitk.WriteImage(two, str(tmp_path / f"a{suffix}"), useCompression=compressed)
    with pytest.raises(InputError, match="4D"):
        read_image(tmp_path / f"a{suffix}")


def test_a_file_that_says_no_voxel_size(tmp_path):
    data = zlib.compress(VOXELS.astype("<i2").tobytes())
    header = METAIMAGE.format(big=False, size=len(data), data="LOCAL").replace("ElementSpacing = 1 2 3\n", "")
    (tmp_path / "a.mha").write_bytes(header.encode() + data)
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0001\ntype: short\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: gzip\n\n"
        + gzip.compress(VOXELS.astype("<i2").tobytes())
    )
    for name in ("a.mha", "a.nrrd"):
        assert not read_image(tmp_path / name).spacing_known
        assert read_image(tmp_path / name, spacing=2).spacing_known
        with pytest.raises(InputError, match="no voxel size"):
            as_image(tmp_path / name)


@pytest.mark.parametrize(
    "axes",
    [
        "spacings: 1 2 nan",
        "space: LPS\nspace directions: (1,0,0) (0,2,0) none",
        "space: LPS\nspace directions: (1,0,0) (0,2,0) (NaN,NaN,NaN)",
    ],
)
def test_an_axis_without_a_voxel_size_is_not_of_1_mm(tmp_path, axes):
    header = f"NRRD0005\ntype: short\ndimension: 3\nsizes: 5 4 3\n{axes}\nendian: little\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + VOXELS.astype("<i2").tobytes())
    assert not read_image(tmp_path / "a.nrrd").spacing_known


def test_an_encoding_that_is_not_read_is_named(tmp_path):
    header = NRRD.format(endian="little", encoding="bzip2", more="").rstrip("\n") + "\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(99))
    with pytest.raises(InputError, match=r"a\.nrrd: its encoding, bzip2, is not read; save it with"):
        read_image(tmp_path / "a.nrrd")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_tilted_gantry_is_resampled(tmp_path, suffix):
    """The shear of a CT that 3D Slicer has not regularised; ITK resamples it as it lies."""
    tilt = np.radians(20)
    scan = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(6, 12, 10)).cumsum(1).astype("f4"))
    scan.SetOrigin((5, 6, 7))
    scan.SetSpacing((1, 1.5, 3))
    scan.SetDirection((1, 0, 0, 0, 1, np.sin(tilt), 0, 0, np.cos(tilt)))
    sitk.WriteImage(scan, str(tmp_path / f"a{suffix}"))
    image = read_image(tmp_path / f"a{suffix}")
    assert "sheared affine resampled" in str(image.remarks)
    expected = sitk.GetArrayFromImage(sitk.Resample(scan, to_sitk(image), sitk.Transform(), sitk.sitkLinear, 1e9))
    matrix = np.reshape(scan.GetDirection(), (3, 3)) * scan.GetSpacing()
    index = (image.grid.world_points() - scan.GetOrigin()) @ np.linalg.inv(matrix).T
    seen = ((index >= 0) & (index <= np.array(scan.GetSize()) - 1)).all(axis=-1)  # between the centres of voxels
    assert seen.mean() > 0.4
    np.testing.assert_allclose(image.array[seen], expected[seen], atol=1e-3)


@pytest.mark.parametrize("dimensions", ["653", "0", "-1", "three", ""])
def test_a_damaged_count_of_dimensions_is_refused(tmp_path, dimensions):
    """At 653 ITK ends the process."""
    header = METAIMAGE.format(big=False, size=9, data="LOCAL").replace("NDims = 3", f"NDims = {dimensions}")
    (tmp_path / "a.mha").write_bytes(header.encode() + bytes(99))
    with pytest.raises(InputError, match=r"cannot read .*NDims"):
        read_image(tmp_path / "a.mha")


# displacement fields

VECTORS = np.random.default_rng(0).normal(size=(3, 4, 5, 3))


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("compressed", [True, False])
def test_fields(tmp_path, suffix, kind, compressed):
    image = placed(VECTORS.astype(kind), is_vector=True)
    sitk.WriteImage(image, str(tmp_path / f"f{suffix}"), useCompression=compressed)
    field = read_transform(tmp_path / f"f{suffix}")
    theirs = sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))
    points = field.grid.index_to_world(np.random.default_rng(1).uniform(0, 2, (20, 3)))
    expected = [theirs.TransformPoint(p) for p in points.tolist()]
    assert np.allclose(field.transform_points(points), expected, atol=1e-4)


def test_flat_fields(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(VECTORS[0, ..., :2], isVector=True), str(tmp_path / "f.mha"))
    assert read_transform(tmp_path / "f.mha").ndim == 2


FIELD = """NRRD0004
type: float
dimension: 4
space: {space}
sizes: {sizes}
space directions: {directions}
kinds: {kinds}
endian: little
encoding: gzip
space origin: (4,5,6)
{more}
"""


def test_components_may_come_last(tmp_path):
    directions = "(1,0,0) (0,2,0) (0,0,3)"
    header = FIELD.format(
        space="left-posterior-superior", sizes="5 4 3 3", directions=f"{directions} none",
        kinds="domain domain domain vector", more="",
    )  # fmt: skip
    data = np.moveaxis(VECTORS, -1, 0).astype("<f4")
    (tmp_path / "f.nrrd").write_bytes(header.encode() + gzip.compress(data.tobytes()))
    assert np.allclose(read_transform(tmp_path / "f.nrrd").displacement, VECTORS, atol=1e-6)


@pytest.mark.parametrize(
    ("space", "more"),
    [
        ("right-anterior-superior", ""),
        ("left-posterior-superior", "measurement frame: (0,1,0) (1,0,0) (0,0,1)"),
        ("left-posterior-superior", 'space units: "cm" "cm" "cm"'),
    ],
)
def test_fields_whose_vectors_have_unknown_axes_are_refused(tmp_path, space, more):
    def write(space, more):
        header = FIELD.format(
            space=space, sizes="3 5 4 3", directions="none (1,0,0) (0,2,0) (0,0,3)",
            kinds="vector domain domain domain", more=more,
        ).replace("\n\n", "\n") + "\n"  # fmt: skip
        (tmp_path / "f.nrrd").write_bytes(header.encode() + gzip.compress(VECTORS.astype("<f4").tobytes()))

    write("left-posterior-superior", "measurement frame: (1,0,0) (0,1,0) (0,0,1)")
    assert np.allclose(read_transform(tmp_path / "f.nrrd").displacement, VECTORS, atol=1e-6)
    write(space, more)
    with pytest.raises(InputError, match=r"f\.nrrd.*axes or lengths of its vectors"):
        read_transform(tmp_path / "f.nrrd")


def test_a_scan_is_no_field_and_a_field_no_scan(tmp_path):
    sitk.WriteImage(placed(VOXELS.astype("i2")), str(tmp_path / "a.mha"))
    with pytest.raises(InputError, match="1 components in 3D"):
        read_transform(tmp_path / "a.mha")
    sitk.WriteImage(placed(VECTORS, is_vector=True), str(tmp_path / "f.nrrd"))
    with pytest.raises(InputError, match="3 values a voxel"):
        read_image(tmp_path / "f.nrrd")
    nan = np.where(VECTORS > 1, np.nan, VECTORS)
    sitk.WriteImage(placed(nan, is_vector=True), str(tmp_path / "f.mha"))
    with pytest.raises(InputError, match="NaN"):
        read_transform(tmp_path / "f.mha")


@pytest.mark.parametrize("name", ["scan 50%.raw", "a%20b.raw"])
def test_a_data_file_with_a_percent_sign_is_told_before_itk_fails(tmp_path, name):
    """ITK takes it for a pattern of numbers, and says no more than that the file cannot be read."""
    path = tmp_path / "scan.mhd"
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkInt16), str(path))
    text = path.read_text()
    path.write_text(text[: text.index("ElementDataFile")] + f"ElementDataFile = {name}\n")
    with pytest.raises(InputError, match="whose % ITK takes for a numbering; rename that file"):
        read_image(path)


@pytest.mark.parametrize("ending", [".mhd", ".mha", ".nhdr", ".nrrd", ".nii", ".nii.gz", ".img"])
def test_more_data_than_a_header_claims_is_said(tmp_path, ending):
    """A wrong size, type or offset in a header shears all rows, which no error tells."""
    path = tmp_path / f"scan{ending}"
    sitk.WriteImage(placed(VOXELS.astype("i2")), str(path))
    assert read_image(path).remarks == ()
    data = tmp_path / "scan.raw"  # of a header that lies apart
    data = data if data.exists() else path
    if ending.endswith(".gz"):
        data.write_bytes(gzip.compress(gzip.decompress(data.read_bytes()) + bytes(40)))
    else:
        data.write_bytes(data.read_bytes() + bytes(40))
    (remark,) = read_image(path).remarks
    assert remark.startswith(f"{data}: holds 160 bytes of data, 40 more than its header claims")


def test_data_at_the_end_of_a_file_may_follow_anything(tmp_path):
    sitk.WriteImage(placed(VOXELS.astype("i2")), str(tmp_path / "scan.mhd"))
    header, data = tmp_path / "scan.mhd", tmp_path / "scan.raw"
    header.write_text(header.read_text().replace("ElementDataFile", "HeaderSize = -1\nElementDataFile"))
    data.write_bytes(bytes(40) + data.read_bytes())
    assert same_as_itk(header).remarks == ()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("naming", ["slice%02d.raw 0 1 1", "LIST\nslice00.raw\nslice01.raw"])
def test_fewer_files_than_slices_are_no_volume(tmp_path, naming, compressed):
    """ITK leaves whatever is in memory where slices are missing."""
    for number, plane in enumerate(VOXELS.astype("<i2")):
        data = plane.tobytes()
        (tmp_path / f"slice{number:02d}.raw").write_bytes(zlib.compress(data) if compressed else data)
    text = METAIMAGE.format(big=False, size=0, data=naming).replace("CompressedDataSize = 0\n", "")
    path = tmp_path / "scan.mhd"
    path.write_text(text if compressed else text.replace("CompressedData = True", "CompressedData = False"))
    with pytest.raises(InputError, match="claims 120 bytes of data, it holds 80 in 2 files; is it complete"):
        read_image(path)
    path.write_text(path.read_text().replace("0 1 1", "0 2 1").replace("01.raw\n", "01.raw\nslice02.raw\n"))
    assert np.array_equal(read_image(path).array, VOXELS)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("posterior-superior", "posterior-inferior", "couldn't parse space .left-posterior-inferior"),
        ("short", "block", "missing field: block size"),
    ],
)
def test_what_is_wrong_in_a_nrrd_is_said(tmp_path, old, new, said):
    """ITK says it at the end of many lines, and the first ones alone were shown."""
    path = tmp_path / "scan.nrrd"
    text = NRRD.format(endian="little", encoding="raw", more="").replace(old, new)
    path.write_bytes(text.encode() + VOXELS.astype("<i2").tobytes())
    with pytest.raises(InputError, match=f"cannot read {path}: .*{said}") as caught:
        read_image(path)
    assert ".cxx" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Offset", "4,5 5,5 6,5"),
        ("Offset", "nan 5 6"),
        ("ElementSpacing", "1 2"),
        ("TransformMatrix", "0 -1 1 0"),
        ("DimSize", "5 12"),
    ],
)
def test_numbers_of_metaimage_that_are_none_are_named(tmp_path, field, value):
    """ITK takes 4,5 for 4 and nan for 0, and of other faults says only that the file cannot be read."""
    path = tmp_path / "scan.mha"
    lines = METAIMAGE.format(big=False, size=0, data="LOCAL").replace("CompressedDataSize = 0\n", "").splitlines()
    text = "\n".join(f"{field} = {value}" if line.startswith(field) else line for line in lines) + "\n"
    path.write_bytes(text.encode() + zlib.compress(VOXELS.astype("<i2").tobytes()))
    with pytest.raises(InputError, match=rf"scan.mha: {field.lower()} is '{value}', not [39] finite numbers; correct"):
        read_image(path)


def test_decimal_points_stay_until_the_last_thread_has_left(monkeypatch):
    numeric = ["de_DE.UTF-8"]

    def set_locale(_category, name=None):
        numeric[0] = name or numeric[0]
        return numeric[0]

    monkeypatch.setattr(locale, "setlocale", set_locale)
    first, second = decimal_points(), decimal_points()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert numeric == ["C"]
    second.__exit__(None, None, None)
    assert numeric == ["de_DE.UTF-8"]


@pytest.mark.skipif(shutil.which("localedef") is None, reason="needs a locale of decimal commas")
def test_decimal_commas_of_the_process_reach_no_file(tmp_path):
    """Qt sets the user's locale: NRRD was written with commas, and that of others refused or read without decimals."""
    made = subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"], capture_output=True)
    if made.returncode != 0:
        pytest.skip("needs the definition of a locale")
    code = """
import locale, pathlib, numpy as np, SimpleITK as sitk
from samreg.engines.child import _read_transform
from samreg.spatial import Image, Segment, read_image, read_segments, write_image, write_segmentation
array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
image = Image.from_array(array, spacing=(0.7, 2.5, 1.25), origin=(0.5, -1.5, 2))
write_image(image, "plain.nrrd")
field = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3)), isVector=True)
field.SetSpacing(image.spacing.tolist())
field.SetOrigin(image.grid.origin.tolist())
sitk.WriteImage(field, "field.nrrd")
locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
write_image(image, "comma.nrrd")
write_segmentation(image, "comma.seg.nrrd", [Segment(1, "lung", (0.5, 0, 0))])
for name in ("plain.nrrd", "comma.nrrd", "comma.seg.nrrd"):
    assert read_image(name).grid.same_as(image.grid), name
assert read_segments("comma.seg.nrrd")[0].colour == (0.5, 0, 0)
assert _read_transform(pathlib.Path("field.nrrd")).grid.same_as(image.grid), "what elastix leaves"
assert locale.localeconv()["decimal_point"] == ","
"""
    environment = {**os.environ, "LOCPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)

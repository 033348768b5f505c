"""Conversions in memory, both ways, against what each library itself says about positions."""

from __future__ import annotations

import sys

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samreg.errors import InputError, MissingExtraError
from samreg.spatial import (
    AffineTransform,
    Grid,
    Image,
    as_image,
    as_transform,
    read_image,
    resample,
    resample_spacing,
    write_image,
)
from samreg.spatial.adapters import (
    from_ants,
    from_itk,
    from_nibabel,
    from_sitk,
    to_ants,
    to_itk,
    to_nibabel,
    to_sitk,
    to_torch,
    transform_to_sitk,
)

DTYPES = pytest.mark.parametrize("dtype", [np.int16, np.uint8, bool, np.float32, np.float64])
DIMENSIONS = pytest.mark.parametrize("ndim", [2, 3])


@pytest.fixture(scope="module", params=["sitk", "ants", "itk", "nibabel"])
def library(request):
    """(name, conversion, position of a voxel (x, y, z) in LPS as the library computes it)."""
    if request.param == "ants":
        ants = pytest.importorskip("ants")
        return "ants", to_ants, lambda im, ijk: ants.transform_index_to_physical_point(im, ijk)
    if request.param == "itk":
        pytest.importorskip("itk")
        return "itk", to_itk, lambda im, ijk: im.TransformIndexToPhysicalPoint(ijk)
    if request.param == "nibabel":
        return "nibabel", to_nibabel, lambda im, ijk: nibabel_position(im, ijk)
    return "sitk", to_sitk, lambda im, ijk: im.TransformIndexToPhysicalPoint(ijk)


def nibabel_position(image, ijk):
    ras = nib.affines.apply_affine(image.affine, [*ijk, 0][:3])
    return (ras * [-1, -1, 1])[: len(ijk)]


@DIMENSIONS
@DTYPES
@given(data=st.data())
@settings(max_examples=4)
def test_there_and_back(library, grids, random_image, ndim, dtype, data):
    name, convert, position = library
    grid = data.draw(grids(ndim))
    image = random_image(np.random.default_rng(0), grid, dtype)
    theirs = convert(image)
    for ijk in ([0] * ndim, [n - 1 for n in grid.size]):
        assert np.allclose(position(theirs, ijk), grid.index_to_world(ijk)[0], atol=1e-4), name
    again = as_image(theirs, name="theirs")
    assert again.grid.same_as(grid)
    assert again.name == "theirs"
    assert np.array_equal(again.array, image.array.astype(again.array.dtype))
    if dtype is bool:
        assert again.array.dtype == np.uint8
    elif name in ("sitk", "nibabel"):
        assert again.array.dtype == dtype


@DIMENSIONS
def test_torch(random_grid, random_image, ndim):
    import torch

    rng = np.random.default_rng(0)
    grid = random_grid(rng, ndim)
    for dtype in (np.int16, np.uint8, np.uint16, bool, np.float32):
        image = random_image(rng, grid, dtype)
        tensor = to_torch(image)
        assert tensor.shape == grid.shape
        assert np.array_equal(tensor.numpy(), image.array)
        wrapped = {"array": tensor, "origin": grid.origin, "spacing": grid.spacing, "direction": grid.direction}
        again = as_image(wrapped)
        assert again.grid.same_as(grid)
        assert np.array_equal(again.array, image.array)
    with pytest.raises(InputError, match="does not say where its voxels lie"):
        as_image(torch.zeros(3, 4, 5))


def test_a_flipped_view_keeps_its_voxels():
    """Arrays with negative strides and in Fortran order are copied right."""
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for view in (array[::-1], array[:, ::-1, ::-1], np.asfortranarray(array), array.T):
        image = Image.from_array(view)
        assert np.array_equal(sitk.GetArrayFromImage(to_sitk(image)), view)
        assert np.array_equal(np.asarray(to_nibabel(image).dataobj), view.T)
        assert np.array_equal(to_torch(image).numpy(), view)


def test_our_images_pass_and_paths_are_read(tmp_path):
    image = Image.from_array(np.ones((2, 3, 4), np.int16), spacing=(1, 2, 3))
    assert as_image(image) is image
    write_image(image, tmp_path / "i.nii.gz")
    for path in (tmp_path / "i.nii.gz", str(tmp_path / "i.nii.gz")):
        assert as_image(path).grid.same_as(image.grid)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_label_maps_of_simpleitk_are_images_of_labels(bits):
    """They have no array, and asking for their components ends the process."""
    labels = sitk.GetImageFromArray(np.arange(24).reshape(2, 3, 4).astype(f"u{bits // 8}") % 5)
    labels.SetSpacing((1, 2, 3))
    image = as_image(sitk.LabelImageToLabelMap(labels))
    assert np.array_equal(image.array, sitk.GetArrayFromImage(labels))
    assert image.grid.same_as(as_image(labels).grid)


@pytest.mark.parametrize("source", [sitk.AffineTransform(3), sitk.ImageFileReader(), nib.Nifti1Header()])
def test_what_is_no_image_of_another_package_is_named(source):
    with pytest.raises(InputError, match=f"fixed image: a {type(source).__name__} .*is no (image|volume)"):
        as_image(source, name="fixed image")


def test_a_transform_of_ants_is_no_image():
    ants = pytest.importorskip("ants")
    with pytest.raises(InputError, match="a ANTsTransform of ants is no image"):
        as_image(ants.create_ants_transform(dimension=3))


def test_a_nibabel_image_without_an_affine_is_refused():
    with pytest.raises(InputError, match="fixed image: was made without an affine"):
        as_image(nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), None), name="fixed image")


def test_nibabel_images_are_called_by_their_file_and_others_as_is_said(tmp_path):
    made = nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4))
    assert as_image(made, name="fixed image").name == "fixed image"
    path = str(tmp_path / "scan.nii")
    nib.save(made, path)
    assert as_image(nib.load(path), name="fixed image").name == path


def test_a_dictionary_needs_an_array():
    image = as_image({"array": [[1, 2, 3], [4, 5, 6]], "spacing": 2}, name="d")
    assert image.grid.same_as(Grid.make((2, 3), spacing=2))
    assert (image.name, as_image({"array": [[1]], "spacing": 2, "name": "own"}, name="d").name) == ("d", "own")
    with pytest.raises(InputError, match=r"d: cannot read a builtins\.dict"):
        as_image({"voxels": 1}, name="d")


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({}, "without spacing"),
        ({"spacing": None}, "without spacing"),
        ({"affine": np.eye(4)}, "unknown keys 'affine'"),
        ({"spacing": 2, "Direction": np.eye(3)}, "unknown keys 'Direction'"),
        ({"spacing": 0}, "positive"),
        ({"spacing": (1, -1, 1)}, "positive"),
        ({"spacing": (1, np.nan, 1)}, "finite"),
        ({"spacing": (1, 1)}, "shape"),
        ({"spacing": "2 mm"}, "must be numbers"),
        ({"spacing": 2, "origin": (1, 2)}, "shape"),
        ({"spacing": 2, "direction": np.ones((3, 3))}, "orthonormal"),
    ],
)
def test_a_dictionary_says_where_its_voxels_lie(more, match):
    with pytest.raises(InputError, match=match):
        as_image({"array": np.zeros((4, 5, 6)), **more})


def test_nothing_without_a_voxel_size(tmp_path):
    import torch
    from PIL import Image as Picture

    Picture.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save(tmp_path / "x.png")
    unknown = (
        Image.from_array(np.zeros((4, 5, 6)), name="scan"),
        Image.from_array(np.zeros((4, 5, 6)), name="scan").with_array(np.ones((4, 5, 6))),
        tmp_path / "x.png",
        read_image(tmp_path / "x.png"),
    )
    for source in unknown:
        with pytest.raises(InputError, match=r"(scan|x\.png): says no voxel size.*spacing="):
            as_image(source)
    for source in (np.zeros((4, 5, 6)), torch.zeros(4, 5, 6)):
        with pytest.raises(InputError, match="does not say where its voxels lie"):
            as_image(source)
    assert as_image(read_image(tmp_path / "x.png", spacing=0.2)).spacing.tolist() == [0.2, 0.2]


def test_tensors_in_a_dictionary():
    import torch

    tensor = torch.arange(60.0, requires_grad=True).reshape(3, 4, 5)
    assert np.array_equal(as_image({"array": tensor, "spacing": 2}).array.ravel(), np.arange(60))
    with pytest.raises(InputError, match="cannot be made a numpy array"):
        as_image({"array": tensor.to(torch.bfloat16), "spacing": 2})


def test_default_geometry_is_warned_of(caplog):
    as_image(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16)), name="made")
    assert "made: spacing 1 mm, origin 0" in caplog.text
    caplog.clear()
    image = sitk.Image([3, 4, 5], sitk.sitkInt16)
    image.SetOrigin((0, 0, 1))
    as_image(image)
    assert not caplog.text


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_and_byte_order_goes_everywhere(tmp_path, kind, order):
    """The same numbers come back from every package, file and interpolation."""
    import torch

    numbers = np.arange(60).reshape(3, 4, 5)
    array = (numbers % 2 if kind == "?" else numbers + (2**31 if kind in ("i8", "u8") else 0)).astype(order + kind)
    image = Image.from_array(array, spacing=2)
    expected = array.astype(np.float64)
    assert image.array.dtype.isnative
    assert np.array_equal(image.array.astype(np.float64), expected)
    torch.from_numpy(image.array)
    assert np.array_equal(resample(image, image.grid, interpolation="nearest").array, image.array)
    assert np.array_equal(resample(image, image.grid).array, expected.astype(np.float32))
    resample(image, image.grid, interpolation="bspline")
    assert np.array_equal(resample_spacing(image, 2).array, expected.astype(np.float32))
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        write_image(image, tmp_path / f"i{suffix}")
        assert np.array_equal(read_image(tmp_path / f"i{suffix}").array.astype(np.float64), expected)
    for there, back in ((to_sitk, from_sitk), (to_nibabel, from_nibabel), (to_itk, from_itk)):
        assert np.array_equal(back(there(image)).array.astype(np.float64), expected)
    assert np.array_equal(from_ants(to_ants(image)).array, expected.astype(np.float32))  # ANTsPy has no doubles
    assert np.array_equal(to_torch(image).numpy().astype(np.float64), expected)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((2, 2), complex), "real numbers"),
        (np.zeros((2, 2), [("r", "u1"), ("g", "u1")]), "real numbers"),
        (np.zeros((2, 2), object), "real numbers"),
        (np.zeros((2, 2), "M8[s]"), "real numbers"),
        (np.full((2, 2), "a"), "real numbers"),
        ([[1, 2], [3]], "numpy array"),
        (np.full((2, 2), 2**53 + 1), r"2\*\*53"),
        (np.full((2, 2), 2**63, "u8"), r"2\*\*53"),
        (np.full((2, 2), "1e400", "g"), "range of float64"),
        (np.ma.masked_array(np.zeros((2, 2)), [[True, False], [False, False]]), "masked array"),
    ],
)
def test_what_cannot_be_held_exactly_is_refused(array, match):
    if np.dtype("g").itemsize == 8 and match.startswith("range"):
        return  # a machine whose long double is a double
    for make in (lambda: Image.from_array(array, spacing=1), lambda: as_image({"array": array, "spacing": 1})):
        with pytest.raises(InputError, match=match):
            make()


@pytest.mark.parametrize("source", [None, 3, [1, 2], object()])
def test_other_things_are_refused(source):
    with pytest.raises(InputError, match="cannot read a"):
        as_image(source)


def test_vectors_and_4d_are_refused():
    vectors = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3)), isVector=True)
    with pytest.raises(InputError, match="v: has 3 components"):
        as_image(vectors, name="v")
    with pytest.raises(InputError, match="2D or 3D"):
        as_image(sitk.Image([3, 4, 5, 2], sitk.sitkUInt8))
    with pytest.raises(InputError, match="4D"):
        as_image(nib.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), np.eye(4)))
    with pytest.raises(InputError, match="empty"):
        as_image(nib.Nifti1Image(np.zeros((3, 0, 5), np.float32), np.eye(4)))


def test_a_fourth_dimension_of_one_frame_is_dropped():
    ants, itk = pytest.importorskip("ants"), pytest.importorskip("itk")
    array = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
    sources = (
        sitk.GetImageFromArray(array, isVector=False),
        nib.Nifti1Image(array.T, np.diag([-1, -1, 1, 1])),
        ants.from_numpy(array.T),
        itk.image_from_array(array),
    )
    for source in sources:
        image = as_image(source)
        assert np.array_equal(image.array, array[0])
        assert image.grid.same_as(Grid.make((3, 4, 5)))


def test_ants_vectors_are_refused():
    ants = pytest.importorskip("ants")
    with pytest.raises(InputError, match="components"):
        as_image(ants.from_numpy(np.zeros((4, 5, 6, 3), np.float32), has_components=True))


def test_itk_vectors_are_refused():
    itk = pytest.importorskip("itk")
    with pytest.raises(InputError):
        as_image(itk.image_from_array(np.zeros((4, 5, 6, 3), np.float32), is_vector=True))


def test_a_missing_itk_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "itk", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*elastix"):
        to_itk(Image.from_array(np.zeros((3, 4, 5))))


def test_an_oblique_plane_is_no_2d_image():
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 1] = [0, 0.8, 0.6]
    affine[:3, 2] = [0, -0.6, 0.8]
    with pytest.raises(InputError, match="oblique"):
        as_image(nib.Nifti1Image(np.zeros((4, 5), np.float32), affine))
    kept = as_image(nib.Nifti1Image(np.zeros((4, 5, 1), np.float32), affine))
    assert kept.shape == (1, 5, 4)


def test_importing_spatial_is_cheap():
    import subprocess

    heavy = "torch ants itk SimpleITK scipy nibabel pandas h5py"
    code = f"import sys, samreg.spatial; print([m for m in '{heavy}'.split() if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_minc_by_nibabel(tmp_path):
    """Its voxels say no type before they are read."""
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    axes = ("zspace", "yspace", "xspace")
    with h5py.File(tmp_path / "a.mnc", "w") as file:
        image = file.create_dataset("minc-2.0/image/0/image", data=voxels)
        image.attrs.update({"dimorder": np.bytes_(",".join(axes)), "valid_range": [0.0, 59.0]})
        file["minc-2.0/image/0/image-min"], file["minc-2.0/image/0/image-max"] = 0.0, 118.0
        for name, start, step in zip(axes, (1, 2, 3), (3.0, 2.5, 2.0), strict=True):
            axis = file.create_dataset(f"minc-2.0/dimensions/{name}", data=0)
            axis.attrs.update({"start": start, "step": step, "spacing": np.bytes_("regular__")})
    image = as_image(nib.load(tmp_path / "a.mnc"))
    assert image.grid.same_as(Grid.make((5, 4, 3), origin=image.origin, spacing=(3, 2.5, 2), direction=image.direction))
    expected = nib.load(tmp_path / "a.mnc")
    np.testing.assert_allclose(image.array, expected.get_fdata().T)
    np.testing.assert_allclose(to_nibabel(image).affine, expected.affine, atol=1e-9)


def test_nibabel_images_that_cannot_be_read_are_named(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5)), np.eye(4)), tmp_path / "a.nii")
    image = nib.load(tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"cannot read .*a\.nii"):
        as_image(image)
    with pytest.raises(InputError, match="a GiftiImage is no volume"):
        as_image(nib.GiftiImage())


class MetaTensor(torch.Tensor):
    """As MONAI's: a tensor (channel, x, y, z) with an affine."""

    __module__ = "monai.data.meta_tensor"


class ScalarImage:
    """As TorchIO's: ``data`` (channel, x, y, z), and an affine to RAS mm."""

    __module__ = "torchio.data.image"

    def __init__(self, data, affine):
        self.data, self.affine, self.shape, self.path = data, affine, tuple(data.shape), None


def meta_tensor(array, affine, **meta):
    tensor = torch.as_tensor(array).as_subclass(MetaTensor)
    tensor.affine, tensor.meta = torch.as_tensor(affine), meta
    return tensor


def test_images_of_monai_and_torchio_lie_where_nibabel_puts_them():
    array = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    affine = np.array([[0, -2.0, 0, 30], [1.5, 0, 0, -20], [0, 0, 3.0, 10], [0, 0, 0, 1]])
    expected = as_image(nib.Nifti1Image(array, affine))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    for image in (
        meta_tensor(array[None], affine),
        meta_tensor(array, affine, space="RAS"),
        meta_tensor(array[None], lps, space="LPS"),
        ScalarImage(torch.as_tensor(array[None]), affine),
    ):
        taken = as_image(image)
        assert taken.grid.same_as(expected.grid)
        np.testing.assert_array_equal(taken.array, expected.array)
        assert taken.array.dtype == np.int16


def test_images_of_monai_and_torchio_that_are_no_volume_are_refused():
    array = np.zeros((2, 4, 5, 6), np.float32)
    for image, why in (
        (meta_tensor(array, np.eye(4)), r"shape \(2, 4, 5, 6\)"),
        (meta_tensor(array[None], np.eye(4)), "one of a batch"),
        (meta_tensor(array[0, 0], np.eye(3)), "not one volume"),
        (meta_tensor(array[:1], np.diag([1.0, 0, 1, 1])), "singular"),
    ):
        with pytest.raises(InputError, match=why):
            as_image(image)
    assert "what monai gives an image made from an array" in as_image(meta_tensor(array[:1], np.eye(4))).remarks[0]


def test_transforms_of_other_packages_map_the_same_points(smooth_field):
    affine, field = AffineTransform(2 * np.eye(3), [10, 0, 0]), smooth_field(Grid.make((8, 8, 8), spacing=20))
    points = np.random.default_rng(0).uniform(20, 120, (5, 3))
    euler, centred = sitk.Euler3DTransform(), sitk.Similarity3DTransform()
    euler.SetCenter((50, 60, 70))
    euler.SetRotation(0.1, 0.2, 0.3)
    centred.SetParameters((0.1, 0.2, 0.1, 4, 5, 6, 1.2))
    chain = sitk.CompositeTransform([euler, transform_to_sitk(field)])
    for theirs in (euler, centred, sitk.Transform(euler), transform_to_sitk(field), chain, sitk.Transform(3, 1)):
        expected = [theirs.TransformPoint(point) for point in points.tolist()]
        np.testing.assert_allclose(as_transform(theirs).transform_points(points), expected, atol=1e-4)
    assert as_transform(affine) is affine

    itk = pytest.importorskip("itk")
    lone = itk.Euler3DTransform[itk.D].New()
    lone.SetRotation(0.1, 0.2, 0.3)
    both = itk.CompositeTransform[itk.D, 3].New()
    for part in (lone, itk.TranslationTransform[itk.D, 3].New(Offset=(1.0, 2.0, 3.0))):
        both.AddTransform(part)
    nested = itk.CompositeTransform[itk.D, 3].New()
    for part in (lone, both):
        nested.AddTransform(part)
    for theirs in (lone, both, nested, itk.CompositeTransform[itk.D, 3].New()):
        expected = [list(theirs.TransformPoint(point)) for point in points.tolist()]
        np.testing.assert_allclose(as_transform(theirs).transform_points(points), expected, atol=1e-9)

    ants = pytest.importorskip("ants")
    image = ants.from_numpy(field.displacement.transpose(2, 1, 0, 3).copy(), has_components=True, spacing=(20.0,) * 3)
    parts = (
        ants.create_ants_transform(dimension=3, matrix=affine.matrix, translation=affine.translation),
        ants.transform_from_displacement_field(image),
    )
    for theirs in (*parts, ants.compose_ants_transforms(parts)):
        expected = [theirs.apply_to_point(point) for point in points.tolist()]
        np.testing.assert_allclose(as_transform(theirs).transform_points(points), expected, atol=1e-3)


def test_what_is_no_transform_is_refused():
    for thing, match in (
        (sitk.Image([4, 4, 4], sitk.sitkVectorFloat64), "make a field of vectors a displacement field transform"),
        (sitk.BSplineTransform(3), "BSplineTransform cannot be read; convert it"),
        (3, "transform must be a transform of samreg, SimpleITK, ITK or ANTs, or a file of one, got int$"),
    ):
        with pytest.raises(InputError, match=match):
            as_transform(thing)

"""Transform files: the same points after reading back, also in SimpleITK; damage is named."""

from __future__ import annotations

import pickle

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom

from samreg.errors import InputError
from samreg.spatial import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Grid,
    compose,
    read_transform,
    resample,
    write_transform,
)

AFFINE = (".h5", ".tfm", ".txt", ".mat")
FIELD = (".h5", ".nii.gz", ".nii", ".npz")
DIMENSIONS = pytest.mark.parametrize("ndim", [2, 3])


@DIMENSIONS
@pytest.mark.parametrize("suffix", AFFINE)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_affines_are_exact(random_affine, scratch, suffix, ndim, seed):
    affine = random_affine(np.random.default_rng(seed), ndim)
    path = scratch / f"affine{suffix}"
    write_transform(affine, path)
    again = read_transform(path)
    assert isinstance(again, AffineTransform)
    assert np.allclose(again.matrix, affine.matrix, rtol=0, atol=1e-12)
    assert np.allclose(again.translation, affine.translation, rtol=0, atol=1e-12)
    theirs = sitk.ReadTransform(str(path))
    assert np.array_equal(theirs.GetParameters(), [*affine.matrix.ravel(), *affine.translation])


@DIMENSIONS
@pytest.mark.parametrize("suffix", FIELD)
@given(data=st.data())
@settings(max_examples=6)
def test_fields_keep_their_points(grids, smooth_field, random_affine, points_inside, scratch, suffix, ndim, data):
    grid = data.draw(grids(ndim))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    field, affine = smooth_field(grid), random_affine(rng, ndim)
    path = scratch / f"{suffix.strip('.')}" / f"field{suffix}"
    points = points_inside(rng, grid)
    for transform in (field, affine, compose(field, affine)):
        write_transform(transform, path, grid=grid)
        again = read_transform(path, fixed_grid=grid)
        assert np.abs(again.transform_points(points) - transform.transform_points(points)).max() < 1e-3
    # an affine first moves the field's grid: then it is the fixed grid's voxels that are exact
    turned = AffineTransform.about(grid.center, np.eye(ndim) * 0.9)
    write_transform(compose(turned, field), path, grid=grid)
    again = read_transform(path, fixed_grid=grid)
    voxels = grid.world_points().reshape(-1, ndim)
    assert np.abs(again.transform_points(voxels) - compose(turned, field).transform_points(voxels)).max() < 1e-3


def test_h5_keeps_affine_and_field_apart(random_grid, smooth_field, random_affine, tmp_path):
    rng = np.random.default_rng(0)
    grid, other = random_grid(rng, 3), random_grid(rng, 3)
    field, affine = smooth_field(grid), random_affine(rng, 3)
    write_transform(compose(field, affine), tmp_path / "t.h5", grid=other)
    again = read_transform(tmp_path / "t.h5")
    assert [type(t) for t in again.transforms] == [DisplacementField, AffineTransform]
    assert again.transforms[0].grid.same_as(other)
    assert np.allclose(again.transforms[1].matrix, affine.matrix)
    # without a grid everything stays as it is, whatever the order
    chain = compose(affine, field, affine, smooth_field(other))
    write_transform(chain, tmp_path / "t.h5")
    again = read_transform(tmp_path / "t.h5")
    assert len(again.transforms) == 4
    points = grid.index_to_world(rng.random((50, 3)) * grid.size)
    assert np.abs(again.transform_points(points) - chain.transform_points(points)).max() < 1e-6


def test_identity_and_lone_parts(tmp_path):
    for suffix in AFFINE:
        write_transform(AffineTransform.identity(3), tmp_path / f"i{suffix}")
        assert np.array_equal(read_transform(tmp_path / f"i{suffix}").matrix, np.eye(3))
    shift = AffineTransform(np.eye(3), np.ones(3))
    write_transform(CompositeTransform((shift, CompositeTransform((shift, shift)))), tmp_path / "c.mat")
    assert read_transform(tmp_path / "c.mat").translation.tolist() == [3, 3, 3]


@pytest.mark.parametrize("suffix", [".h5", ".nii.gz"])
def test_simpleitk_reads_our_fields(random_grid, smooth_field, random_affine, points_inside, tmp_path, suffix):
    rng = np.random.default_rng(1)
    grid = random_grid(rng, 3)
    transform = compose(smooth_field(grid), random_affine(rng, 3))
    path = str(tmp_path / f"t{suffix}")
    write_transform(transform, path, grid=grid)
    if suffix == ".h5":
        theirs = sitk.ReadTransform(path)
    else:
        theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    points = points_inside(rng, grid)
    expected = np.array([theirs.TransformPoint(p) for p in points.tolist()])
    assert np.abs(transform.transform_points(points) - expected).max() < 1e-3


@pytest.mark.parametrize("intent", ["vector", "displacement vector"])
def test_we_read_simpleitk_fields(random_grid, smooth_field, points_inside, tmp_path, intent):
    rng = np.random.default_rng(2)
    grid = random_grid(rng, 3)
    field = smooth_field(grid)
    image = sitk.GetImageFromArray(field.displacement, isVector=True)
    image.SetOrigin(grid.origin.tolist())
    image.SetSpacing(grid.spacing.tolist())
    image.SetDirection(grid.direction.ravel().tolist())
    path = tmp_path / "f.nii.gz"
    sitk.WriteImage(image, str(path))
    if intent == "displacement vector":  # which NIfTI has in RAS
        stored = nib.load(path)
        data = np.asarray(stored.dataobj) * np.array([-1, -1, 1], np.float32)
        stored.header.set_intent(1006)
        nib.save(nib.Nifti1Image(data, stored.affine, stored.header), path)
    assert nib.load(path).header.get_intent()[0] == intent
    assert np.allclose(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), field.displacement)
    points = points_inside(rng, grid)
    again = read_transform(path)
    assert np.abs(again.transform_points(points) - field.transform_points(points)).max() < 1e-3


def test_we_read_itk_kinds(tmp_path):
    kinds = [
        sitk.Euler3DTransform((10, 20, 30), 0.1, 0.2, 0.3, (1, 2, 3)),
        sitk.Similarity3DTransform(1.2, (0, 0, 1), 0.4, (1, 2, 3), (5, 6, 7)),
        sitk.TranslationTransform(3, (1, 2, 3)),
        sitk.AffineTransform([1, 0.1, 0, 0, 1, 0, 0, 0.2, 1], (1, 2, 3), (9, 8, 7)),
    ]
    points = np.random.default_rng(0).normal(size=(5, 3)) * 50
    for theirs in [*kinds, sitk.CompositeTransform(kinds)]:
        for suffix in (".h5", ".tfm") if theirs.GetName() == "CompositeTransform" else (".h5", ".tfm", ".mat"):
            sitk.WriteTransform(theirs, str(tmp_path / f"t{suffix}"))
            expected = [theirs.TransformPoint(p) for p in points.tolist()]
            assert np.allclose(read_transform(tmp_path / f"t{suffix}").transform_points(points), expected)


def test_we_read_itk_kinds_that_simpleitk_does_not(tmp_path):
    """Transforms with a centre that is optimised too, as older programs write them, and one with a class alone."""
    itk = pytest.importorskip("itk")
    rng = np.random.default_rng(0)
    for name in (
        "CenteredAffineTransform",
        "CenteredEuler3DTransform",
        "CenteredRigid2DTransform",
        "CenteredSimilarity2DTransform",
        "FixedCenterOfRotationAffineTransform",
        "Rigid2DTransform",
    ):
        kind = getattr(itk, name)
        theirs = (kind[itk.D, 3] if "Affine" in name else kind[itk.D]).New()
        if not name.startswith("Centered"):
            fixed = theirs.GetFixedParameters()
            for i in range(len(fixed)):
                fixed[i] = 3.0 + i
            theirs.SetFixedParameters(fixed)
        numbers = theirs.GetParameters()
        for i in range(len(numbers)):
            numbers[i] = numbers[i] + rng.normal(0, 0.3)
        theirs.SetParameters(numbers)
        points = rng.normal(size=(5, theirs.GetInputSpaceDimension())) * 50
        expected = [list(theirs.TransformPoint(point)) for point in points.tolist()]
        for suffix in (".h5", ".tfm", ".mat"):
            path = tmp_path / f"{name}{suffix}"
            itk.transformwrite([theirs], str(path))
            np.testing.assert_allclose(read_transform(path).transform_points(points), expected, atol=1e-9)
    composed = sitk.ComposeScaleSkewVersor3DTransform()
    composed.SetCenter((1, 2, 3))
    composed.SetScale((1.1, 1.2, 0.9))
    composed.SetRotation((0, 0, 1), 0.2)
    composed.SetTranslation((4, 5, 6))
    points = rng.normal(size=(5, 3)) * 50
    chain = sitk.CompositeTransform([sitk.TranslationTransform(3, (7, 0, 0)), composed])
    for theirs in (composed, chain):
        expected = [theirs.TransformPoint(point) for point in points.tolist()]
        for suffix in (".h5", ".tfm") if theirs is chain else (".h5", ".tfm", ".mat"):
            sitk.WriteTransform(theirs, str(tmp_path / f"t{suffix}"))
            np.testing.assert_allclose(read_transform(tmp_path / f"t{suffix}").transform_points(points), expected)


def test_inverse_fields_of_slicer_are_inverted(smooth_field, points_inside, tmp_path):
    rng = np.random.default_rng(3)
    grid = Grid.make((12, 12, 12), spacing=5, origin=(-20, 10, 30))
    field, affine = smooth_field(grid), AffineTransform(np.eye(3), [4, 0, 0])
    write_transform(compose(field, affine), tmp_path / "t.h5")  # in the file the field is the last
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        kind = file["TransformGroup/2/TransformType"]
        assert kind[0] == b"DisplacementFieldTransform_double_3_3"
        del file["TransformGroup/2/TransformType"]
        file["TransformGroup/2/TransformType"] = [b"InverseDisplacementFieldTransform_double_3_3"]
    points = points_inside(rng, Grid.make((4, 4, 4), spacing=5, origin=(0, 30, 50)))
    expected = affine.transform_points(points)
    again = read_transform(tmp_path / "t.h5").transform_points(field.transform_points(points))
    assert np.abs(again - expected).max() < 0.05
    # in text too
    fixed = [*grid.size, *grid.origin, *grid.spacing, *grid.direction.ravel()]
    numbers = [" ".join(map(str, values)) for values in (field.displacement.ravel().tolist(), fixed)]
    (tmp_path / "t.tfm").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: InverseDisplacementFieldTransform_double_3_3\n"
        f"Parameters: {numbers[0]}\nFixedParameters: {numbers[1]}\n"
    )
    again = read_transform(tmp_path / "t.tfm").transform_points(field.transform_points(points))
    assert np.abs(again - points).max() < 0.05
    # an inverse without a counterpart is named
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        del file["TransformGroup/2/TransformType"]
        file["TransformGroup/2/TransformType"] = [b"InverseThinPlateSplineKernelTransform_double_3_3"]
    refused(tmp_path / "t.h5", "InverseThinPlateSplineKernelTransform", "displacement field")


def test_ants_files(tmp_path, random_affine):
    ants = pytest.importorskip("ants")
    affine = random_affine(np.random.default_rng(0), 3)
    theirs = ants.create_ants_transform(
        transform_type="AffineTransform",
        precision="float",
        matrix=affine.matrix,
        translation=affine.translation,
        center=(10, 20, 30),
    )
    ants.write_transform(theirs, str(tmp_path / "0GenericAffine.mat"))
    expected = theirs.apply_to_point((7, 8, 9))
    assert np.allclose(
        read_transform(tmp_path / "0GenericAffine.mat").transform_points([[7, 8, 9]]), expected, atol=1e-4
    )
    write_transform(affine, tmp_path / "ours.mat")
    moved = ants.read_transform(str(tmp_path / "ours.mat")).apply_to_point((7, 8, 9))
    assert np.allclose(affine.transform_points([[7, 8, 9]]), moved, atol=1e-4)


def test_learn2reg_axes_and_units(tmp_path):
    """Element [i, j, k] belongs to voxel (x=i, y=j, z=k) and counts voxels of the moving grid along x, y, z."""
    fixed = Grid.make((6, 5, 4), origin=(10, 20, 30), spacing=(1, 2, 3), direction=np.diag([-1.0, 1, 1]))
    moving = Grid.make((9, 9, 9), origin=(-5, 0, 5), spacing=(2, 2, 2))
    u = np.zeros((4, 5, 6, 3), np.float32)
    u[1, 2, 3] = (0.5, -1, 2)
    np.savez_compressed(tmp_path / "disp.npz", u)
    result = read_transform(tmp_path / "disp.npz", fixed_grid=fixed, moving_grid=moving)
    x = fixed.index_to_world([[1, 2, 3], [0, 2, 3]])
    expected = moving.index_to_world([[1.5, 1, 5], [0, 2, 3]])
    assert np.allclose(result.transform_points(x), expected, atol=1e-5)
    write_transform(result, tmp_path / "again.npz", grid=fixed, moving_grid=moving)
    with np.load(tmp_path / "again.npz") as file:
        assert file.files == ["arr_0"]
        assert np.allclose(file["arr_0"], u, atol=1e-5)
    shared = read_transform(tmp_path / "disp.npz", fixed_grid=fixed)
    assert np.allclose(shared.transform_points(x), fixed.index_to_world([[1.5, 1, 5], [0, 2, 3]]), atol=1e-5)


def test_fields_of_learn2reg_that_are_laid_out_otherwise_are_read_as_the_message_says(tmp_path):
    grid = Grid.make((6, 8, 10), spacing=2)
    u = np.zeros((3, 10, 8, 6), np.float32)
    u[0] = 1.5
    for array, words, mended in (
        (u, "numpy.moveaxis(array, 0, -1)", np.moveaxis(u, 0, -1)),
        (
            u[:, ::2, ::2, ::2].astype(np.float16),
            "numpy.stack([scipy.ndimage.zoom(part, 2, order=2) for part in array], -1)",
            np.stack([zoom(part.astype(np.float32), 2, order=2) for part in u[:, ::2, ::2, ::2]], -1),
        ),
    ):
        np.savez(tmp_path / "disp.npz", array)
        refused(tmp_path / "disp.npz", words, fixed_grid=grid)
        np.savez(tmp_path / "disp.npz", mended)
        transform = read_transform(tmp_path / "disp.npz", fixed_grid=grid)
        assert np.allclose(transform.transform_points(grid.center), grid.center + [3, 0, 0], atol=1e-4)


def test_learn2reg_warps_as_its_evaluation_does(random_image, tmp_path):
    """map_coordinates(moving, identity + u) on arrays as nibabel loads them."""
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(0)
    fixed = Grid.make((7, 8, 9), spacing=(1, 1.5, 2), direction=np.diag([-1.0, -1, 1]))
    moving = Grid.make((8, 9, 7), origin=(3, -4, 5), spacing=(1.1, 1.4, 1.8), direction=np.diag([-1.0, -1, 1]))
    image = random_image(rng, moving)
    u = rng.uniform(0, 0.9, (9, 8, 7, 3)).astype(np.float32)
    np.savez(tmp_path / "u.npz", u)
    transform = read_transform(tmp_path / "u.npz", fixed_grid=fixed, moving_grid=moving)
    ours = resample(image, fixed, transform=transform, fill=-1).array.T
    where = np.stack(np.meshgrid(*map(np.arange, (9, 8, 7)), indexing="ij")) + np.moveaxis(u, -1, 0)
    expected = map_coordinates(image.array.T, where, order=1, cval=-1)
    inside = (where <= np.array(moving.size).reshape(3, 1, 1, 1) - 1).all(axis=0)
    assert inside.mean() > 0.3
    assert np.abs(ours - expected)[inside].max() < 1e-2


# bad input


def refused(path, *words, **options):
    with pytest.raises(InputError) as caught:
        read_transform(path, **options)
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.fixture
def grid():
    return Grid.make((6, 7, 8), spacing=2)


@pytest.mark.parametrize("suffix", [*AFFINE, ".nii.gz", ".nii", ".npz"])
def test_missing_empty_and_foreign(tmp_path, grid, suffix):
    path = tmp_path / f"t{suffix}"
    refused(path, "not found")
    path.touch()
    refused(path, "empty (0 bytes)")
    path.write_bytes(b"This is a letter, and no transform at all.\n" * 40)
    refused(path, fixed_grid=grid)
    path.write_bytes(bytes(range(256)) * 8)
    refused(path, fixed_grid=grid)


@pytest.mark.parametrize("suffix", [*AFFINE, ".nii.gz", ".nii", ".npz"])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.6, 0.8, 0.95])
def test_cut_files(tmp_path, grid, random_affine, suffix, share):
    rng = np.random.default_rng(0)
    noise = DisplacementField(rng.normal(size=(*grid.shape, 3)).astype(np.float32), grid)
    transform = random_affine(rng, 3) if suffix in AFFINE[1:] else compose(noise, random_affine(rng, 3))
    path = tmp_path / f"t{suffix}"
    write_transform(transform, path, grid=grid)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path, fixed_grid=grid)


def test_a_cut_that_itk_does_not_notice(tmp_path):
    """Where only the centre of rotation is lost, ITK reads another transform and says nothing."""
    theirs = sitk.Euler3DTransform((10, 20, 30), 0.1, 0.2, 0.3, (1, 2, 3))
    for suffix, lost in ((".tfm", 28), (".mat", 24)):
        path = tmp_path / f"t{suffix}"
        sitk.WriteTransform(theirs, str(path))
        path.write_bytes(path.read_bytes()[:-lost])
        refused(path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (self.path.touch, ())


def test_pickles_are_never_run(tmp_path, grid):
    mark = tmp_path / "boom"
    np.savez(tmp_path / "a.npz", np.array([Bomb(mark)], dtype=object))
    refused(tmp_path / "a.npz", "pickled", fixed_grid=grid)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb(mark)))
    refused(tmp_path / "b.npz", "pickle", fixed_grid=grid)
    for suffix in AFFINE:
        (tmp_path / f"c{suffix}").write_bytes(pickle.dumps(Bomb(mark)))
        refused(tmp_path / f"c{suffix}")
    assert not mark.exists()
    with np.load(tmp_path / "a.npz", allow_pickle=True) as file:  # where it is let, it does go off
        _ = file["arr_0"]
    assert mark.exists()


def test_npz_that_does_not_fit(tmp_path, grid):
    path = tmp_path / "u.npz"
    np.savez(path, np.zeros((8, 7, 6, 3), np.float32))
    refused(path, "fixed_grid=")
    refused(path, "(8, 7, 6, 3)", "(6, 7, 8, 3)", fixed_grid=Grid.make((8, 7, 6)))
    np.savez(path, np.zeros((3, 8, 7, 6), np.float32))
    refused(path, "(3, 8, 7, 6)", "component", fixed_grid=grid)
    np.savez(path, np.full((8, 7, 6, 3), np.nan, np.float32))
    refused(path, "NaN", fixed_grid=grid)
    np.savez(path, np.full((8, 7, 6, 3), "a"))
    refused(path, "needs numbers", fixed_grid=grid)
    np.savez(path, a=np.zeros(3), b=np.zeros(3))
    refused(path, "['a', 'b']", fixed_grid=grid)
    with path.open("wb") as file:
        np.save(file, np.zeros((8, 7, 6, 3)))
    refused(path, "bare array", fixed_grid=grid)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".h5", ".tfm", ".npz"])
def test_vectors_that_are_not_known_are_refused_with_their_number_and_place(tmp_path, grid, suffix, value):
    """As other programs write them outside a mask; for DICOM see test_dicom_objects.py."""
    path, vectors = tmp_path / f"field{suffix}", np.zeros((*grid.shape, 3), np.float32)
    vectors[2:4, 3, 5, 1] = value
    image = sitk.GetImageFromArray(vectors.astype(np.float64 if suffix in (".h5", ".tfm") else np.float32), True)
    if suffix == ".npz":
        np.savez(path, np.moveaxis(vectors, -1, 0).T)
    elif suffix in (".h5", ".tfm"):
        sitk.WriteTransform(sitk.DisplacementFieldTransform(image), str(path))
    else:
        sitk.WriteImage(image, str(path))
    refused(path, "2 of 336 vectors", "(5, 3, 2) to (5, 3, 3)", "set such vectors to 0", fixed_grid=grid)


@pytest.mark.parametrize("suffix", AFFINE)
def test_an_affine_that_is_not_finite_is_refused(tmp_path, suffix):
    path = tmp_path / f"affine{suffix}"
    write_transform(AffineTransform([[1, 0], [0, 1]], [1234.5, 0]), path)
    if suffix == ".h5":
        with h5py.File(path, "a") as file:
            del file["TransformGroup/0/TransformParameters"]
            file["TransformGroup/0/TransformParameters"] = [1, 0, 0, 1, np.nan, 0]
    elif suffix == ".mat":
        path.write_bytes(path.read_bytes().replace(np.float64(1234.5).tobytes(), np.float64(np.nan).tobytes()))
    else:
        path.write_text(path.read_text().replace("1234.5", "nan"))
    refused(path, "not finite", "nan")


def test_nifti_that_is_no_field(tmp_path):
    path = tmp_path / "f.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), path)
    refused(path, "(4, 5, 6)", "no displacement field")
    for shape in ((4, 5, 6, 3), (3, 4, 5, 6), (4, 5, 6, 1, 3)):  # Learn2Reg's two, and who knows
        nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), path)
        words = (
            "unit and frame are not known",
            "intent code 0",
            "Learn2Reg",
            ".npz",
            "1007 if they are LPS",
            "1006 if RAS",
        )
        refused(path, str(shape), *words)
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 7), np.float32), np.eye(4)), path)
    refused(path, "no displacement field")
    vectors = nib.Nifti1Image(np.full((4, 5, 6, 1, 3), np.nan, np.float32), np.eye(4))
    vectors.header.set_intent("vector")
    nib.save(vectors, path)
    refused(path, "NaN")
    sheared = nib.Nifti1Image(np.zeros((4, 5, 6, 1, 3), np.float32), np.eye(4) + np.eye(4, k=1) * 0.3)
    sheared.header.set_intent("vector")
    nib.save(sheared, path)
    refused(path, "orthonormal")


@pytest.mark.parametrize(
    ("intent", "words"),
    [
        ((1007, 0, "NREG_TRANS"), ["NiftyReg", "reg_transform"]),
        ((1007, 2, "NREG_TRANS"), ["NiftyReg", "reg_transform"]),
        ((1007, 0, "Mapping"), ["SPM", "positions"]),
        ((2006, 0, ""), ["FNIRT", "wb_command"]),
    ],
)
def test_vectors_of_programs_that_mean_something_else_by_them_are_refused(tmp_path, intent, words):
    """They have the shape, and but for FSL's the intent code, of a displacement field of ITK."""
    for shape in ((4, 5, 6, 1, 3), (4, 5, 6, 3)):
        image = nib.Nifti1Image(np.ones(shape, np.float32), np.eye(4))
        image.header["intent_code"], image.header["intent_p1"], image.header["intent_name"] = intent
        nib.save(image, tmp_path / "warp.nii.gz")
        refused(tmp_path / "warp.nii.gz", *words)


def test_displacements_of_niftyreg_are_ras(tmp_path):
    image = nib.Nifti1Image(np.tile(np.float32([1, 2, 3]), (4, 5, 6, 1, 1)), np.eye(4))
    image.header["intent_code"], image.header["intent_p1"], image.header["intent_name"] = 1007, 1, "NREG_TRANS"
    nib.save(image, tmp_path / "disp.nii.gz")
    moved = read_transform(tmp_path / "disp.nii.gz").transform_points([[-1, -1, 1]])
    assert np.allclose(moved, [[-2, -3, 4]])


def test_other_files_of_these_suffixes(tmp_path):
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["embedding"] = np.zeros(3)
    refused(tmp_path / "e.h5", "no ITK transform")
    np.savetxt(tmp_path / "fsl.mat", np.eye(4))
    refused(tmp_path / "fsl.mat", "no ITK transform", "FSL FLIRT", "c3d_affine_tool")
    (tmp_path / "o.tfm").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: OwnTransform_double_3_3\nParameters: 1 2\n"
        "FixedParameters: 1\n"
    )
    refused(tmp_path / "o.tfm", "OwnTransform, which samreg does not read")
    sitk.WriteTransform(sitk.BSplineTransform(3, 3), str(tmp_path / "b.h5"))
    refused(tmp_path / "b.h5", "BSplineTransform", "TransformToDisplacementField")
    (tmp_path / "a.xfm").write_text("x")
    refused(tmp_path / "a.xfm", "unknown transform format")
    (tmp_path / "d.h5").mkdir()
    refused(tmp_path / "d.h5", "folder")


# writing


def test_what_cannot_be_written(tmp_path, grid, smooth_field):
    field, affine = smooth_field(grid), AffineTransform.identity(3)
    for name in ("t.mat", "t.tfm"):
        with pytest.raises(InputError, match="affine transforms alone"):
            write_transform(field, tmp_path / name)
    for name in ("t.nii.gz", "t.npz"):
        with pytest.raises(InputError, match="give grid="):
            write_transform(compose(field, affine), tmp_path / name)
    with pytest.raises(InputError, match="unknown transform format"):
        write_transform(affine, tmp_path / "t.xfm")
    with pytest.raises(InputError, match="2D"):
        write_transform(affine, tmp_path / "t.h5", grid=Grid.make((3, 4)))
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*ZipFile.__del__")  # numpy before 2 leaves the file open for it
@pytest.mark.parametrize("suffix", [*AFFINE, ".nii.gz", ".npz"])
@pytest.mark.parametrize("old", [False, True])
def test_a_full_disk_leaves_nothing(tmp_path, grid, suffix, old):
    """A limit on the file size fails in the middle of writing, as a full disk does; ITK's HDF5 writer crashes then."""
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    path = tmp_path / f"t{suffix}"
    if old:
        path.write_bytes(b"old")
    old_limit, old_handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, old_limit[1]))
    try:
        with pytest.raises(InputError, match="cannot write"):
            write_transform(AffineTransform.identity(3), path, grid=grid)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert [p.name for p in tmp_path.iterdir()] == ([path.name] if old else [])
    assert not old or path.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", [".h5", ".nii.gz", ".npz", ".mat"])
def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch, grid, suffix):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_transform(AffineTransform.identity(3), tmp_path / f"t{suffix}", grid=grid)
    assert not list(tmp_path.iterdir())


def test_what_is_no_path_grid_or_transform(tmp_path, grid):
    for path in (None, 3, "a\0.h5", "a" * 5000 + ".h5"):
        with pytest.raises(InputError, match=r"give a path|not found"):
            read_transform(path)
    np.savez(tmp_path / "u.npz", np.zeros((8, 7, 6, 3)))
    with pytest.raises(InputError, match=r"fixed_grid must be a samreg Grid, such as image\.grid"):
        read_transform(tmp_path / "u.npz", fixed_grid=np.eye(4))
    for transform in (None, np.eye(4), sitk.AffineTransform(3)):
        with pytest.raises(InputError, match="transform must be a samreg Transform"):
            write_transform(transform, tmp_path / "t.h5", grid=grid)

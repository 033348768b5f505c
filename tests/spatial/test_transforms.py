"""Transforms: composition, inversion, Jacobians; against SimpleITK, ANTs and transformix."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from samreg.errors import InputError
from samreg.quality import jacobian_statistics, target_registration_error
from samreg.spatial import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Grid,
    Image,
    Points,
    Transform,
    as_mask,
    compose,
    displacement,
    inverse_residual,
    invert,
    jacobian_determinant,
    resample,
    resample_spacing,
    sample_displacement,
    sample_mask,
    write_points,
    write_transform,
)
from samreg.spatial.adapters import to_ants, to_itk, to_sitk, transform_from_sitk, transform_to_sitk
from samreg.spatial.displacement import tapered

DIMENSIONS = pytest.mark.parametrize("ndim", [2, 3])
seeds = st.integers(0, 2**32 - 1)


@DIMENSIONS
@given(seed=seeds)
def test_affines_compose_and_invert_exactly(random_affine, ndim, seed):
    rng = np.random.default_rng(seed)
    first, second = random_affine(rng, ndim), random_affine(rng, ndim)
    points = rng.uniform(-200, 200, (20, ndim))
    both = compose(first, second)
    assert isinstance(both, AffineTransform)
    assert np.allclose(both.transform_points(points), second.transform_points(first.transform_points(points)))
    assert np.allclose(first.inverse().transform_points(first.transform_points(points)), points, atol=1e-8)


def test_the_first_transform_is_applied_first(smooth_field):
    shift = AffineTransform(np.eye(3), np.array([100.0, 0, 0]))
    double = AffineTransform(np.eye(3) * 2, np.zeros(3))
    assert compose(shift, double).transform_points([[1, 1, 1]]).tolist() == [[202, 2, 2]]
    field = smooth_field(Grid.make((6, 6, 6), spacing=4))
    point = np.array([[8.0, 9, 10]])
    assert np.allclose(compose(field, shift).transform_points(point), field.transform_points(point) + [100, 0, 0])
    # 100 mm away the field is zero
    assert np.allclose(compose(shift, field).transform_points(point), point + [100, 0, 0])


def test_composites_are_flattened(random_affine, smooth_field):
    rng = np.random.default_rng(0)
    a, b = random_affine(rng, 3), random_affine(rng, 3)
    field = smooth_field(Grid.make((5, 5, 5)))
    result = compose(CompositeTransform((a, CompositeTransform((b, field)))), a)
    assert [type(t) for t in result.transforms] == [AffineTransform, DisplacementField, AffineTransform]
    with pytest.raises(InputError, match="at least one"):
        compose()
    with pytest.raises(InputError, match="one dimension"):
        compose(field, AffineTransform.identity(2))


def test_about_keeps_the_centre():
    turn = AffineTransform.about([10, 20, 30], [[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert np.allclose(turn.transform_points([[10, 20, 30], [11, 20, 30]]), [[10, 20, 30], [10, 21, 30]])


@DIMENSIONS
@given(data=st.data())
@settings(max_examples=15)
def test_transforms_agree_with_itk(grids, random_affine, smooth_field, ndim, data):
    grid = data.draw(grids(ndim))
    rng = np.random.default_rng(3)
    field = smooth_field(grid)
    points = grid.index_to_world(rng.uniform(-1, 1, (60, ndim)) * 2 + rng.random((60, ndim)) * np.asarray(grid.size))
    affine = random_affine(rng, ndim)
    for transform in (affine, field, compose(field, affine), compose(affine, field, affine)):
        theirs = transform_to_sitk(transform)
        expected = np.array([theirs.TransformPoint(p) for p in points.tolist()])
        assert np.allclose(transform.transform_points(points), expected, atol=1e-4)
        again = transform_from_sitk(theirs)
        assert np.allclose(again.transform_points(points), expected, atol=1e-4)


@DIMENSIONS
@given(data=st.data())
@settings(max_examples=15)
def test_the_inverse_of_a_smooth_map_comes_back(random_grid, random_affine, smooth_field, points_inside, ndim, data):
    rng = np.random.default_rng(data.draw(seeds))
    grid = random_grid(rng, ndim, (16,) * ndim)
    thin = grid.extent.min()
    # outside its grid a field is zero: where it is not so at the border, two points land on one
    field = tapered(smooth_field(grid, amplitude=0.03 * thin), 0.3 * thin)
    forward = compose(field, random_affine(rng, ndim))
    points = points_inside(rng, grid, 200)
    residual = inverse_residual(forward, invert(forward), points)
    assert residual.count == len(points)
    # the inverse is exact at its voxels and linear between them
    assert residual.p95 < 0.05 * grid.spacing.max()
    assert residual.mean <= residual.maximum
    assert residual.p95 <= residual.maximum
    without_field = inverse_residual(forward, invert(forward.transforms[1]), points)
    assert without_field.mean > 5 * residual.mean


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
@pytest.mark.parametrize("given", ["flipped", "components reversed", "read-only"])
def test_fields_take_any_array(given):
    """Torch takes no array with negative strides, as ``field[::-1]``, or vectors (z, y, x) turned to (x, y, z)."""
    values = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    array = {"flipped": values[::-1], "components reversed": values[..., ::-1], "read-only": values}[given]
    array.flags.writeable = given != "read-only"
    grid = Grid.make(values.shape[:-1], spacing=2.0)
    moved = DisplacementField(array, grid).transform_points(grid.world_points().reshape(-1, 3))
    np.testing.assert_allclose(moved.reshape(array.shape) - grid.world_points(), array, atol=1e-4)


def test_the_inverse_is_exact_at_voxels(smooth_field):
    field = smooth_field(Grid.make((20, 20, 20), spacing=3), amplitude=4)
    inverse = invert(field, tolerance=1e-3)
    y = inverse.grid.world_points().reshape(-1, 3)
    inside = (np.abs(y - field.grid.center) < 0.35 * field.grid.extent).all(axis=1)
    assert np.abs(field.transform_points(inverse.transform_points(y[inside])) - y[inside]).max() < 2e-3


@DIMENSIONS
@pytest.mark.parametrize("apart", [7.0, -400.0])
def test_the_inverse_of_a_total_displacement_is_no_larger_than_it(smooth_field, ndim, apart):
    """Padded by its largest displacement, the grid between frames 400 mm apart had a thousand times the voxels."""
    grid = Grid.make((6,) * ndim, spacing=(2, 3, 4)[:ndim])
    field = DisplacementField(smooth_field(grid, amplitude=1.0).displacement + np.float32(apart), grid)
    points = grid.index_to_world(np.random.default_rng(0).uniform(1, 4, (40, ndim)))
    for inverse in (invert(field), field.inverse().field):
        assert (inverse.grid.extent <= grid.extent + 4 * grid.spacing).all()
        assert np.abs(inverse.transform_points(field.transform_points(points)) - points).max() < 0.3


@DIMENSIONS
@pytest.mark.parametrize("apart", [7.0, -400.0])
def test_the_inverse_is_right_up_to_where_the_border_goes(smooth_field, ndim, apart):
    """Its outermost voxels were where they lie, by the zeros outside a field: points beside them were on the way."""
    grid = Grid.make((7, 6, 5)[:ndim], spacing=(2, 3, 4)[:ndim])
    field = DisplacementField(smooth_field(grid, amplitude=1.0).displacement + np.float32(apart), grid)
    rng = np.random.default_rng(0)
    index = rng.uniform(0, np.array(grid.size) - 1, (300, ndim))
    index[np.arange(300), rng.integers(ndim, size=300)] = 0.0  # on the border
    points = grid.index_to_world(index)
    moved = field.transform_points(points)
    for inverse in (invert(field), field.inverse().field):
        assert np.abs(inverse.transform_points(moved) - points).max() < 0.3
    rim = grid.index_to_world(index - 0.4999 * (index == 0))  # between the outermost centres and voxel borders
    assert np.abs(field.inverse().transform_points(field.transform_points(rim)) - rim).max() < 0.1


def test_many_points_are_inverted_side_by_side_as_few_are(smooth_field, monkeypatch):
    grid = Grid.make((12, 12, 12), spacing=4.0)
    inverse = smooth_field(grid, amplitude=3).inverse()
    points = grid.index_to_world(np.random.default_rng(0).uniform(0, 11, (95, 3)))
    at_once = inverse.transform_points(points)
    monkeypatch.setattr(displacement, "_INVERTED_AT_ONCE", 10)
    assert np.array_equal(inverse.transform_points(points), at_once)


def test_what_a_field_that_ends_in_zeros_takes_beyond_its_grid_comes_back():
    """ANTs sets a field's outermost voxels to zero; a point beyond is then its own counterpart, and another one's."""
    grid = Grid.make((20, 22, 24), spacing=2.0)
    displacement = np.zeros((*grid.shape, 3))
    displacement[1:-1, 1:-1, 1:-1] = [9.0, 0.0, 0.0]
    field = DisplacementField(displacement, grid)
    points = grid.index_to_world(np.random.default_rng(0).uniform(1, np.array(grid.size) - 2, (500, 3)))
    landed = field.transform_points(points)
    beyond = landed[~grid.contains(landed)]
    back = field.inverse().transform_points(beyond)
    assert len(beyond) > 50
    assert grid.contains(back).all()
    assert np.abs(field.transform_points(back) - beyond).max() < 0.05


@pytest.mark.parametrize("degrees", [30, 90, 180])
def test_the_inverse_of_a_total_displacement_that_turns_is_found(degrees):
    """From a quarter turn on, steps from afar did not arrive, and points were said to come from where they lie."""
    grid = Grid.make((6, 7, 8), spacing=(3, 3, 5))
    turn = np.array([[np.cos(t := np.deg2rad(degrees)), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]])
    field = sample_displacement(AffineTransform(turn, [300, 300, 0]), grid)
    points = grid.index_to_world(np.random.default_rng(0).uniform(0, np.array(grid.size) - 1, (300, 3)))
    for inverse in (field.inverse(), invert(field)):
        assert np.abs(inverse.transform_points(field.transform_points(points)) - points).max() < 0.1


def test_an_inverse_stays_zero_where_the_field_ends_at_zero():
    """Another side's border moves: there the field is continued by its slope, here by the zero at which it ends."""
    grid = Grid.make((21, 11), spacing=2.0)
    _, y = np.moveaxis(grid.world_points(), -1, 0)
    field = DisplacementField(np.stack([4 * np.sin(np.pi * y / 40), 0 * y], axis=-1), grid)
    beyond = np.array([[10.0, -1.0], [10.0, 41.0]])
    inverse = invert(field)
    assert inverse.grid.contains(beyond).all()
    assert np.abs(inverse.transform_points(beyond) - beyond).max() < 0.02


def test_the_inverse_agrees_with_itk(smooth_field):
    import SimpleITK as sitk

    grid = Grid.make((24, 24, 24), spacing=3)
    field = tapered(smooth_field(grid, amplitude=3), 20.0)  # ITK inverts fields that end at zero
    vectors = sitk.GetImageFromArray(field.displacement.astype(np.float64), isVector=True)
    vectors.SetSpacing(grid.spacing.tolist())
    theirs = sitk.InvertDisplacementField(vectors, 100, 1e-4, 1e-6)
    difference = invert(field, tolerance=1e-3).displacement - sitk.GetArrayFromImage(theirs)
    assert np.abs(difference).max() < 0.02


def test_a_fold_has_an_honest_residual():
    grid = Grid.make((20, 20, 20), spacing=2)
    x = grid.world_points()[..., 0]
    u = np.zeros((*grid.shape, 3), dtype=np.float32)
    u[..., 0] = -12 * np.sin((x - 19) / 19 * np.pi)  # slope -2 in the middle
    field = DisplacementField(u, grid)
    assert jacobian_determinant(field, grid).min() < 0
    middle = np.array([[x, 19, 19] for x in np.linspace(12, 26, 15)])
    assert inverse_residual(field, invert(field), middle).maximum > 3


def test_a_singular_affine_has_no_inverse():
    with pytest.raises(InputError, match="singular"):
        invert(AffineTransform(np.diag([1.0, 1, 0]), np.zeros(3)))


@DIMENSIONS
@given(data=st.data())
@settings(max_examples=15)
def test_the_jacobian_of_an_affine_is_its_determinant(grids, random_affine, ndim, data):
    affine = random_affine(np.random.default_rng(data.draw(seeds)), ndim)
    result = jacobian_determinant(affine, data.draw(grids(ndim)))
    assert np.allclose(result, np.linalg.det(affine.matrix), atol=1e-3)


def test_the_jacobian_agrees_with_itk(random_grid, smooth_field):
    import SimpleITK as sitk

    grid = random_grid(np.random.default_rng(5), 3, (10, 11, 12))
    field = smooth_field(grid, amplitude=2.0)
    inner = (slice(1, -1),) * 3  # ITK takes other differences at the border
    ours = jacobian_determinant(field, grid)
    assert ours[inner].std() > 0.01
    # ITK's filter ignores the direction: compare in the frame of the grid's own axes
    turned = DisplacementField(
        field.displacement @ grid.direction.astype(np.float32),
        Grid(grid.shape, np.zeros(3), grid.spacing, np.eye(3)),
    )
    theirs = sitk.GetArrayFromImage(
        sitk.DisplacementFieldJacobianDeterminant(transform_to_sitk(turned).GetDisplacementField())
    )
    assert np.allclose(ours[inner], theirs[inner], atol=1e-3)


@DIMENSIONS
@given(seed=seeds)
@settings(max_examples=15)
def test_the_jacobian_predicts_small_steps(random_grid, random_affine, smooth_field, points_inside, ndim, seed):
    rng = np.random.default_rng(seed)
    grid = random_grid(rng, ndim, (9, 10, 11)[:ndim])
    transform = compose(random_affine(rng, ndim), smooth_field(grid, amplitude=0.05 * grid.extent.min()))
    points, small = points_inside(rng, grid), rng.normal(size=ndim) * 1e-3
    for kind in (transform, transform.transforms[0]):
        expected = kind.transform_points(points + small) - kind.transform_points(points - small)
        # symmetric about the point, as the difference is: only kinks between voxels tell them apart
        predicted = 2 * kind.jacobian(points, step=1e-3) @ small
        assert np.median(np.linalg.norm(expected - predicted, axis=1)) < 1e-3 * np.linalg.norm(small) + 1e-5


def test_the_jacobian_ends_at_the_last_voxel(random_grid):
    """Beyond its grid a field is zero; a difference across that end would be as steep as the field is long."""
    grid = random_grid(np.random.default_rng(3), 3, (6, 5, 4))
    slope = np.array([[0.1, 0.2, 0], [0, -0.1, 0], [0.05, 0, 0.3]])
    field = DisplacementField(grid.world_points() @ slope.T + 50, grid)
    corners = grid.index_to_world(np.array([[0, 0, 0], [3, 4, 5], [3, 0, 5]]))
    within = field.jacobian(corners, step=grid.spacing, within=grid)
    assert np.allclose(within, np.eye(3) + slope, atol=1e-3)
    assert np.abs(field.jacobian(corners, step=2 * grid.spacing.max()) - within).max() > 1
    with pytest.raises(InputError, match="at least 2 voxels"):
        field.jacobian(corners, within=Grid.make((1, 5, 5)))
    for step in (0, -1, np.nan):
        with pytest.raises(InputError, match="positive mm"):
            field.jacobian(corners, step=step)


def test_every_transform_has_its_inverse(smooth_field, random_affine):
    rng = np.random.default_rng(0)
    grid = Grid.make((16, 16, 16), spacing=3)
    forward = compose(random_affine(rng, 3), tapered(smooth_field(grid), 15), random_affine(rng, 3))
    points = forward.transforms[0].inverse().transform_points(grid.index_to_world(rng.uniform(3, 12, (30, 3))))
    assert inverse_residual(forward, forward.inverse(), points).p95 < 0.1 * 3

    class Cubed(Transform):
        """x^3 along each axis, whose inverse is known."""

        ndim = 3

        def __init__(self, power=3.0):
            self.power = power

        def transform_points(self, points):
            return np.sign(points) * np.abs(points) ** self.power

        def inverse(self):
            return Cubed(1 / self.power)

    both = compose(Cubed(), random_affine(rng, 3))
    assert inverse_residual(both, both.inverse(), points).maximum < 1e-6

    class Unknown(Cubed):
        inverse = Transform.inverse

    with pytest.raises(InputError, match="Unknown has no inverse"):
        Unknown().inverse()


def test_the_jacobian_needs_two_voxels():
    with pytest.raises(InputError, match="at least 2 voxels"):
        jacobian_determinant(AffineTransform.identity(3), Grid.make((1, 5, 5)))


@given(data=st.data())
@settings(max_examples=10)
def test_sampling_keeps_the_map(grids, random_affine, points_inside, data):
    grid = data.draw(grids(3))
    rng = np.random.default_rng(0)
    affine = random_affine(rng, 3)
    sampled = sample_displacement(affine, grid)  # linear between voxels, as an affine is
    points = points_inside(rng, grid)
    assert np.allclose(sampled.transform_points(points), affine.transform_points(points), atol=1e-3)


def test_tapering_ends_at_zero_and_keeps_the_middle(smooth_field):
    grid = Grid.make((20, 20, 20), spacing=2)
    field = smooth_field(grid, amplitude=5)
    result = tapered(field, 10)
    assert np.abs(result.displacement[0]).max() == 0
    assert np.abs(result.displacement[:, :, -1]).max() == 0
    assert np.array_equal(result.displacement[6:14, 6:14, 6:14], field.displacement[6:14, 6:14, 6:14])


def test_broken_transforms_are_refused():
    grid = Grid.make((3, 3, 3))
    with pytest.raises(InputError, match="shape"):
        DisplacementField(np.zeros((3, 3, 3), np.float32), grid)
    with pytest.raises(InputError, match="NaN"):
        DisplacementField(np.full((3, 3, 3, 3), np.nan, np.float32), grid)
    with pytest.raises(InputError, match="finite"):
        AffineTransform(np.full((3, 3), np.nan), np.zeros(3))
    with pytest.raises(InputError, match="needs matrix"):
        AffineTransform(np.eye(3), np.zeros(2))


@DIMENSIONS
@pytest.mark.parametrize("interpolation", ["linear", "nearest", "bspline"])
def test_resampling_agrees_with_itk(random_grid, random_image, random_affine, smooth_field, ndim, interpolation):
    import SimpleITK as sitk

    rng = np.random.default_rng(7)
    fixed, moving = random_grid(rng, ndim, (9, 10, 11)[:ndim]), random_grid(rng, ndim, (12, 9, 10)[:ndim])
    image = random_image(rng, moving, np.int16)
    bring = AffineTransform(np.eye(ndim), moving.center - fixed.center)
    transform = compose(smooth_field(fixed, amplitude=1), bring)
    result = resample(image, fixed, transform=transform, interpolation=interpolation, fill=-7)
    kind = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "bspline": sitk.sitkBSpline}
    reference = sitk.Cast(to_sitk(Image(np.zeros(fixed.shape, np.uint8), fixed)), sitk.sitkFloat32)
    expected = sitk.Resample(
        sitk.Cast(to_sitk(image), sitk.sitkFloat32), reference, transform_to_sitk(transform), kind[interpolation], -7.0
    )
    assert np.allclose(result.array, sitk.GetArrayFromImage(expected), atol=1e-3)
    assert result.array.dtype == (np.int16 if interpolation == "nearest" else np.float32)
    assert result.grid is fixed
    # the definition itself: the result at x is the image at transform(x)
    if interpolation == "nearest":
        index = np.round(moving.world_to_index(transform.transform_points(fixed.world_points().reshape(-1, ndim))))
        inside = ((index >= 0) & (index < moving.size)).all(axis=1)
        values = image.array[tuple(index[inside, ::-1].astype(int).T)]
        assert inside.sum() > 20
        assert (result.array.ravel()[inside] == values).mean() > 0.98  # ties and borders may round either way


def test_copies_and_pickles_hold_no_more_than_the_field(smooth_field):
    field = smooth_field(Grid.make((9, 9, 9), spacing=5))
    inverse, points = field.inverse(), field.grid.index_to_world([[4, 4, 4], [3, 5, 2]])
    sizes = [len(pickle.dumps(transform)) for transform in (field, inverse, compose(field, inverse))]
    expected, _, _ = field.transform_points(points), inverse.transform_points([[1e3, 0, 0], *points]), inverse.field
    for transform, size in zip((field, inverse, compose(field, inverse)), sizes, strict=True):
        assert len(pickle.dumps(transform)) < size + 500  # a matrix of the grid
    for again in (pickle.loads(pickle.dumps(field)), copy.copy(field), copy.deepcopy(field)):
        assert set(again.__dict__) == {"displacement", "grid"}
        np.testing.assert_array_equal(again.transform_points(points), expected)
    for again in (pickle.loads(pickle.dumps(inverse)), copy.deepcopy(inverse)):
        np.testing.assert_allclose(again.transform_points(expected), points, atol=0.05)


def test_what_is_no_image_grid_or_transform_is_refused(random_grid, random_image):
    """As who knows SimpleITK's functions calls samreg's: the fixed image for its grid, transforms of SimpleITK."""
    image = random_image(np.random.default_rng(0), random_grid(np.random.default_rng(0), 3))
    grid, affine, theirs = image.grid, AffineTransform.identity(3), sitk.Euler3DTransform()
    for call in (
        lambda: resample(image, image),
        lambda: sample_mask(image, image),
        lambda: sample_displacement(affine, image),
        lambda: jacobian_determinant(affine, image),
        lambda: jacobian_statistics(affine, image),
        lambda: DisplacementField(np.zeros((2, 2, 2)), (2, 2)),
    ):
        with pytest.raises(InputError, match=r"^grid must be a samreg Grid, such as image\.grid, got "):
            call()
    for call in (
        lambda: resample(image, grid, transform=theirs),
        lambda: compose([affine]),
        lambda: compose(affine, theirs),
        lambda: CompositeTransform((affine, theirs)),
        lambda: invert(theirs),
        lambda: sample_displacement(theirs, grid),
        lambda: jacobian_statistics(theirs, grid),
        lambda: target_registration_error(theirs, [[0, 0, 0]], [[0, 0, 0]]),
    ):
        with pytest.raises(InputError, match=r"^transform must be a samreg Transform, which .*as_transform makes"):
            call()
    with pytest.raises(InputError, match=r"^inverse must be a samreg Transform"):
        inverse_residual(affine, theirs, [[0, 0, 0]])
    for call in (lambda: resample(to_sitk(image), grid), lambda: resample_spacing("scan.nii.gz", 2)):
        with pytest.raises(InputError, match=r"^image must be a samreg Image, which samreg\.as_image makes"):
            call()
    with pytest.raises(InputError, match=r"^mask must be a samreg Image"):
        as_mask(image.array)
    with pytest.raises(InputError, match=r"^spacing must be one number or 3, mm, got \[2\.0, 2\.0\]"):
        resample_spacing(image, (2, 2))


def test_resampling_keeps_a_bool_mask(random_grid):
    grid = random_grid(np.random.default_rng(0), 3)
    mask = Image(np.ones(grid.shape, bool), grid)
    assert resample(mask, grid, interpolation="nearest").array.dtype == bool


def test_resampling_refuses_nonsense(random_grid, random_image):
    rng = np.random.default_rng(0)
    grid = random_grid(rng, 3)
    image = random_image(rng, grid)
    with pytest.raises(InputError, match="unknown interpolation 'cubic'"):
        resample(image, grid, interpolation="cubic")
    with pytest.raises(InputError, match="2D"):
        resample(image, random_grid(rng, 2))


def test_what_lies_outside_is_finite_and_can_be_held():
    scan = Image.from_array(np.array([[np.nan, 5, 7], [np.inf, 6, -np.inf]]), spacing=1)
    apart = Grid.make((2, 3), origin=(100, 0))
    assert (resample(scan, apart).array == 5).all()
    assert (resample(scan.with_array(np.full((2, 3), np.nan)), apart).array == 0).all()
    labels = scan.with_array(np.array([[0, 1, 2], [3, 4, 5]], np.uint8))
    assert (resample(labels, apart, interpolation="nearest", fill=9).array == 9).all()
    for fill in (-1, 256, 0.5, np.nan):
        with pytest.raises(InputError, match="uint8, which has no"):
            resample(labels, apart, interpolation="nearest", fill=fill)
    for held in (np.uint8(9), np.float32(9), np.float64(9)):  # as labels.max() is
        assert (resample(labels, apart, interpolation="nearest", fill=held).array == 9).all()
        assert (resample(labels, apart, interpolation="linear", fill=held).array == 9).all()
    with pytest.raises(InputError, match="all must be 2D or all 3D"):
        resample(labels, apart, transform=AffineTransform.identity(3))
    for spacing in (0, -1, np.nan, "wide"):
        with pytest.raises(InputError, match="spacing must be"):
            resample_spacing(labels, spacing)


@DIMENSIONS
@given(data=st.data(), spacing=st.floats(1, 6))
@settings(max_examples=15)
def test_resample_spacing_keeps_a_linear_ramp_and_constants(grids, ndim, data, spacing):
    grid = data.draw(grids(ndim))
    slope = np.arange(1, ndim + 1) / 10
    ramp = Image((grid.world_points() @ slope).astype(np.float32), grid)
    result = resample_spacing(ramp, spacing)
    assert result.grid.same_as(grid.with_spacing(spacing))
    expected = result.grid.world_points() @ slope
    index = grid.world_to_index(result.grid.world_points().reshape(-1, ndim))
    reach = np.maximum(result.grid.spacing / grid.spacing, 1)
    inner = ((index >= reach) & (index <= np.asarray(grid.size) - 1 - reach)).all(axis=1)
    # a triangle over a discrete grid is not symmetric about every point: half a source voxel of slack
    slack = 0.5 * np.abs(grid.index_matrix.T @ slope).sum() + 1e-3
    assert np.abs(result.array.ravel() - expected.ravel())[inner].max(initial=0) < slack
    constant = resample_spacing(Image(np.full(grid.shape, 3, np.int16), grid), spacing)
    assert np.allclose(constant.array, 3)


def test_resample_spacing_averages_noise():
    rng = np.random.default_rng(0)
    image = Image.from_array(rng.normal(size=(32, 32, 32)).astype(np.float32))
    coarse = resample_spacing(image, 4)
    assert coarse.shape == (8, 8, 8)
    assert coarse.array.std() < 0.2  # taking every fourth voxel would keep 1


# other programs


@pytest.fixture(scope="module")
def chain(random_grid, smooth_field):
    """A fixed and a moving grid and (affine, field, both) from one to the other."""
    rng = np.random.default_rng(11)
    fixed, moving = random_grid(rng, 3, (14, 15, 16)), random_grid(rng, 3, (15, 13, 14))
    matrix = np.eye(3) + rng.normal(scale=0.05, size=(3, 3))
    affine = AffineTransform.about(fixed.center, matrix, moving.center - fixed.center)
    field = smooth_field(fixed, amplitude=2.0)
    return fixed, moving, affine, field


@pytest.mark.parametrize("kind", ["affine", "field", "both"])
def test_ants_maps_the_same_points(chain, points_inside, tmp_path, kind):
    ants, pandas = pytest.importorskip("ants"), pytest.importorskip("pandas")
    fixed, _, affine, field = chain
    write_transform(affine, tmp_path / "a.mat")
    write_transform(field, tmp_path / "f.nii.gz")
    files, ours = {
        "affine": (["a.mat"], affine),
        "field": (["f.nii.gz"], field),
        "both": (["f.nii.gz", "a.mat"], compose(field, affine)),  # ANTs takes points through the first one first
    }[kind]
    points = points_inside(np.random.default_rng(0), fixed)
    moved = ants.apply_transforms_to_points(
        3,
        pandas.DataFrame(points, columns=["x", "y", "z"]),
        [str(tmp_path / f) for f in files],
        whichtoinvert=[False] * len(files),
    )
    assert np.abs(moved[["x", "y", "z"]].to_numpy() - ours.transform_points(points)).max() < 1e-3


@pytest.mark.parametrize("name", ["t.h5", "t.nii.gz"])
def test_ants_warps_the_same_image(chain, random_image, tmp_path, name):
    ants = pytest.importorskip("ants")
    fixed, moving, affine, field = chain
    image = random_image(np.random.default_rng(2), moving, np.float32)
    transform = compose(field, affine)
    write_transform(transform, tmp_path / name, grid=fixed)
    warped = ants.apply_transforms(
        to_ants(Image(np.zeros(fixed.shape, np.float32), fixed)),
        to_ants(image),
        [str(tmp_path / name)],
        whichtoinvert=[False],
        interpolator="linear",
        defaultvalue=-5,
    )
    ours = resample(image, fixed, transform=transform, fill=-5)
    both = (ours.array != -5) & (warped.numpy().T != -5)
    assert both.mean() > 0.2
    assert np.abs(ours.array - warped.numpy().T)[both].max() < 0.05  # of values 0 to 100
    assert ((ours.array != -5) == (warped.numpy().T != -5)).mean() > 0.99


@pytest.mark.parametrize("kind", ["affine", "field"])
def test_transformix_maps_the_same_points(chain, points_inside, random_image, tmp_path, kind):
    itk = pytest.importorskip("itk")
    fixed, _, affine, field = chain
    transform = affine if kind == "affine" else field
    path = tmp_path / "t.h5"
    write_transform(transform, path)
    points = points_inside(np.random.default_rng(4), fixed, 12)
    write_points(Points(points), tmp_path / "in.pts")
    run = itk.TransformixFilter.New(to_itk(random_image(np.random.default_rng(0), fixed)))
    # the map says how to resample; the transform itself replaces the one it names
    domain = {"Size": fixed.size, "Index": [0] * 3, "Spacing": fixed.spacing, "Origin": fixed.origin}
    domain["Direction"] = fixed.direction.T.ravel()
    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(
        {key: [str(v) for v in values] for key, values in domain.items()}
        | {
            "FixedImageDimension": ["3"],
            "MovingImageDimension": ["3"],
            "ResampleInterpolator": ["FinalLinearInterpolator"],
            "Resampler": ["DefaultResampler"],
        }
    )
    run.SetTransformParameterObject(parameters)
    run.SetExternalTransform(itk.transformread(str(path))[0])
    run.SetFixedPointSetFileName(str(tmp_path / "in.pts"))
    run.SetOutputDirectory(str(tmp_path))
    run.SetLogToConsole(False)
    run.UpdateLargestPossibleRegion()
    lines = (tmp_path / "outputpoints.txt").read_text().splitlines()
    moved = [[float(v) for v in line.split("OutputPoint = [")[1].split("]")[0].split()] for line in lines]
    assert np.abs(np.array(moved) - transform.transform_points(points)).max() < 1e-3


def test_of_two_solutions_the_inverse_takes_that_inside_the_grid() -> None:
    """Points that a field moves beyond its grid's foot came back where they were, as if nothing had moved them."""
    grid = Grid.make((20, 20, 20), spacing=4.0, direction=[[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    axis = grid.direction[:, 2]
    along = (grid.world_points() - grid.origin) @ axis
    field = DisplacementField((-30.0 + 0.3 * along)[..., None] * axis, grid)
    points = grid.index_to_world(np.random.default_rng(0).uniform(0.1, 18.9, (500, 3)))
    moved = field.transform_points(points)
    assert (~grid.contains(moved)).sum() > 100
    assert np.linalg.norm(field.inverse().transform_points(moved) - points, axis=1).max() < 0.1


def test_the_inverse_of_a_field_that_stretches_and_shrinks_is_found() -> None:
    """Steps short enough where it stretches were too short where it shrinks: the inverse stopped on the way."""
    grid = Grid.make((41, 41, 41), spacing=5.0, origin=(-100.0, -100.0, -100.0))
    field = DisplacementField(grid.world_points() * [4.0, -0.9, 0.2] + [0.0, 60.0, 0.0], grid)
    points = np.random.default_rng(0).uniform(-18, 18, (300, 3))
    back = field.inverse().transform_points(field.transform_points(points))
    assert np.linalg.norm(back - points, axis=1).max() < 0.3  # the tolerance of 0.02 mm, over a slope of 0.1

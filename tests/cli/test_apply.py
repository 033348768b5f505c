"""samreg apply: points and images of another frame are refused, and mapped only when that is asked for."""

from __future__ import annotations

import numpy as np
import pytest

import samreg
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, compose

SHIFT = np.array([6.0, -4.0, 8.0])


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A saved result: a shift of everything, and a field of 1 mm along x; images far from the world's origin."""
    fixed = Grid.make((20, 22, 24), origin=(-200, -300, 50), spacing=4)
    moving = Grid.make((22, 24, 26), origin=fixed.origin + SHIFT - 4, spacing=4)
    field = np.zeros((*fixed.shape, 3), np.float32)
    field[2:-2, 2:-2, 2:-2, 0] = 1
    transform = compose(DisplacementField(field, fixed), AffineTransform(np.eye(3), SHIFT))
    noise = np.random.default_rng(0).normal(size=(22, 24, 26)).astype(np.float32)
    images = Image(noise[:20, :22, :24], fixed), Image(noise, moving)
    folder = tmp_path_factory.mktemp("apply") / "out"
    samreg.RegistrationResult(*images, transform).save(folder, formats=("h5", "nii"))
    for image, name in zip(images, ("fixed", "moving"), strict=True):
        samreg.write_image(image, folder.parent / f"{name}.nii.gz")
    return folder


CENTER = np.array([-154.0, -258.0, 88.0])  # of the fixed image


def points_file(folder, *points):
    path = folder / "points.csv"
    samreg.write_points(samreg.Points(points), path)
    return path


@pytest.mark.parametrize("transform", ["", "transform.h5", "transform.nii.gz"])
@pytest.mark.parametrize("to", ["moving", "fixed"])
def test_points_of_another_frame_are_refused(run, out, tmp_path, transform, to):
    inside = CENTER if to == "moving" else CENTER + SHIFT
    target = tmp_path / "there.csv"
    for wrong in (inside * [-1, -1, 1], [10.0, 11.0, 12.0], inside + [9000, 0, 0]):
        done = run("apply", out / transform, points_file(tmp_path, inside, wrong), "-o", target, "--to", to)
        assert done.exit_code == 2, done.output
        assert "1 of 2 points lie outside" in done.output.replace("\n", " ")
        assert "RAS" in done.output
        # a lone field has no affine part to map them by
        assert ("--outside extrapolate" in done.output.replace("\n", " ")) == (transform != "transform.nii.gz")
        assert not target.exists()
    done = run("apply", out / transform, points_file(tmp_path, inside), "-o", target, "--to", to)
    assert done.exit_code == 0, done.output


def test_a_field_in_voxels_needs_its_folder_for_points(run, tmp_path):
    (tmp_path / "p.csv").write_text("x,y,z\n1,2,3\n")
    np.savez_compressed(tmp_path / "transform.npz", np.zeros((4, 4, 4, 3), np.float32))
    done = run("apply", tmp_path / "transform.npz", tmp_path / "p.csv", "--to", "moving", "-o", tmp_path / "q.csv")
    assert done.exit_code == 2
    assert "give the folder of the result in its place" in " ".join(done.output.split())
    assert "fixed_grid" not in done.output


def test_points_outside_are_extrapolated_by_the_affine_part_when_asked(run, out, tmp_path):
    far, target = CENTER + [0, 0, 500], tmp_path / "there.csv"
    arguments = ("apply", out, points_file(tmp_path, far), "-o", target, "--to", "moving", "--outside", "extrapolate")
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(samreg.read_points(target).positions, [far + SHIFT])
    assert run(*arguments[:-1], "perhaps").exit_code == 2


def test_beside_the_image_points_are_mapped_by_what_the_fields_still_reach():
    image = Image.from_array(np.zeros((10, 11, 12), np.float32), spacing=4.0)
    grid = image.grid.padded(20)
    field = DisplacementField(np.full((*grid.shape, 3), 2.0, np.float32), grid)
    result = samreg.RegistrationResult(image, image, compose(field, AffineTransform(np.eye(3), SHIFT)))
    beside, far = image.grid.center - [30.0, 0, 0], image.grid.center - [300.0, 0, 0]
    mapped = result.transform_points([beside, far], to="moving", outside="extrapolate")
    np.testing.assert_allclose(mapped, [beside + 2 + SHIFT, far + SHIFT], atol=1e-5)


def test_a_field_alone_extrapolates_nothing(run, out, tmp_path):
    field = np.zeros((20, 22, 24, 3), np.float32)
    grid = samreg.read_image(out.parent / "fixed.nii.gz").grid
    samreg.write_transform(DisplacementField(field, grid), tmp_path / "field.nii.gz", grid=grid)
    points = points_file(tmp_path, CENTER + [0, 0, 500])
    done = run("apply", tmp_path / "field.nii.gz", points, "-o", tmp_path / "p.csv", "--outside", "extrapolate")
    assert done.exit_code == 2, done.output
    assert "no affine part" in done.output.replace("\n", " ")


def test_a_total_displacement_takes_points_of_the_moving_frame(run, tmp_path):
    """Its field lies over the fixed image, however far from there the moving frame is."""
    grid = Grid.make((8, 9, 10), spacing=5)
    for apart in (20.0, 400.0):
        field = DisplacementField(np.full((*grid.shape, 3), [apart, 0, 0], np.float32), grid)
        samreg.write_transform(field, tmp_path / "field.nii.gz")
        options = ("-o", tmp_path / "p.csv", "--to", "fixed")
        inside = points_file(tmp_path, grid.center + [apart, 0, 0])
        done = run("apply", tmp_path / "field.nii.gz", inside, *options)
        assert done.exit_code == 0, done.output
        np.testing.assert_allclose(samreg.read_points(tmp_path / "p.csv").positions, [grid.center], atol=0.05)
        nowhere = points_file(tmp_path, grid.index_to_world([[0, 4, 4]])[0])  # where nothing of the fixed image leads
        done = run("apply", tmp_path / "field.nii.gz", nowhere, *options)
        assert done.exit_code == 2
        assert "lie outside the field" in done.output.replace("\n", " ")


def test_voxel_indices_refer_to_the_image_they_belong_to(run, out, tmp_path):
    (tmp_path / "i.pts").write_text("index\n1\n11.5 10.5 9.5\n")
    done = run("apply", out, tmp_path / "i.pts", "-o", tmp_path / "p.csv", "--to", "moving")
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(
        samreg.read_points(tmp_path / "p.csv").positions, [CENTER + SHIFT + [1, 0, 0]], atol=1e-3
    )


def test_a_file_without_a_point_and_one_of_several_subjects(run, out, tmp_path):
    (tmp_path / "e.csv").write_text("name,x,y,z\n")
    done = run("apply", out, tmp_path / "e.csv", "-o", tmp_path / "p.csv")
    assert done.exit_code == 2
    assert "none of its points is placed" in done.output.replace("\n", " ")
    rows = [",".join(map(str, [subject, *CENTER + i])) for i, subject in enumerate("AB")]
    (tmp_path / "s.csv").write_text("\n".join(["subject,x,y,z", *rows]))
    arguments = ("apply", out, tmp_path / "s.csv", "-o", tmp_path / "p.csv", "--to", "moving")
    assert "subjects" in run(*arguments).output
    assert run(*arguments, "--subject", "B").exit_code == 0
    np.testing.assert_allclose(
        samreg.read_points(tmp_path / "p.csv").positions, [CENTER + 1 + SHIFT + [1, 0, 0]], atol=1e-3
    )


def test_an_image_of_another_dimension_is_refused(run, out, tmp_path):
    """It was said that points must have another shape, though none were given."""
    samreg.write_image(Image(np.zeros((8, 9), np.float32), Grid.make((8, 9))), tmp_path / "flat.mha")
    samreg.write_transform(AffineTransform.identity(2), tmp_path / "flat.tfm")
    for transform, name in (
        (out / "transform.h5", tmp_path / "flat.mha"),
        (tmp_path / "flat.tfm", out.parent / "fixed.nii.gz"),
    ):
        done = run("apply", transform, name, "-o", tmp_path / "w.mha", "--reference", name)
        assert done.exit_code == 2, done.output
        assert "all must be 2D or all 3D" in done.output.replace("\n", " ")


def test_an_image_of_another_place_is_refused(run, out, tmp_path):
    image = samreg.read_image(out.parent / "moving.nii.gz")
    away = Image(image.array, Grid(image.shape, image.origin * [-1, -1, 1], image.spacing, image.direction))
    samreg.write_image(away, tmp_path / "away.nii.gz")
    to, any_image = ("-o", tmp_path / "w.nii.gz"), (out / "transform.h5", "--reference", out.parent / "fixed.nii.gz")
    for transform, says in (
        ((out,), "does not lie where the moving image"),
        (any_image, "comes to lie on the reference"),
    ):
        done = run("apply", transform[0], tmp_path / "away.nii.gz", *to, *transform[1:])
        assert done.exit_code == 2, done.output
        assert says in done.output.replace("\n", " ")
    crumb = Image(image.array[:2, :2, :2], Grid.make((2, 2, 2), origin=CENTER + SHIFT, spacing=1.0))
    samreg.write_image(crumb, tmp_path / "crumb.nii.gz")  # smaller than the distance of the points looked at
    assert run("apply", any_image[0], tmp_path / "crumb.nii.gz", *to, *any_image[1:]).exit_code == 0
    assert run("apply", out, out.parent / "moving.nii.gz", *to).exit_code == 0


@pytest.mark.parametrize("to", ["fixed", "moving"])
def test_a_grid_within_the_image_is_taken_and_that_of_the_other_image_refused(run, out, tmp_path, to):
    """As a dose has, or a segmentation that was cropped; the folder took the grid of the registered image alone."""
    role, other = ("moving", "fixed") if to == "fixed" else ("fixed", "moving")
    grid = samreg.read_image(out.parent / f"{role}.nii.gz").grid
    finer = Grid.make((16, 18, 12), origin=grid.origin + [14, 13, 15], spacing=(3, 3, 2.5))
    samreg.write_image(Image(np.random.default_rng(0).normal(size=finer.shape), finer), tmp_path / "dose.nii.gz")
    call = "--to", to, "--reference", out.parent / f"{to}.nii.gz", "-o", tmp_path / "w.nii.gz"
    done = run("apply", out, tmp_path / "dose.nii.gz", *call)
    assert done.exit_code == 0, done.output
    assert f"a grid of its own within the {role} image" in done.output.replace("\n", " ")
    refused = run("apply", out, out.parent / f"{other}.nii.gz", *call)
    assert refused.exit_code == 2
    assert "does not lie where" in refused.output.replace("\n", " ")


@pytest.mark.parametrize(("name", "target"), [("m.stl", "n.stl"), ("m.vtp", "n.nii.gz"), ("p.mps", "p.csv")])
def test_an_input_of_an_unknown_format_is_told_before_the_name_of_the_output(run, out, tmp_path, name, target):
    (tmp_path / name).write_text("solid")
    done = run("apply", out, tmp_path / name, "-o", tmp_path / target)
    assert done.exit_code == 2
    assert "its format is not known; give an image" in done.output.replace("\n", " ")


def test_a_segmentation_keeps_its_names_and_voxel_values(run, tmp_path):
    from samreg.spatial import Segment, read_segments, write_segmentation, write_transform

    array = np.zeros((6, 8, 10), np.uint8)
    array[2:4, 2:6, 2:6] = 7
    labels = samreg.Image.from_array(array, spacing=2)
    segments = (Segment(7, "liver", (1, 0, 0)),)
    write_segmentation(labels, tmp_path / "a.seg.nrrd", segments)
    write_transform(AffineTransform(np.eye(3), np.array([-2.0, 0, 0])), tmp_path / "shift.h5")
    call = "apply", tmp_path / "shift.h5", tmp_path / "a.seg.nrrd", "--reference", tmp_path / "a.seg.nrrd"
    for name in ("b.seg.nrrd", "b.nii.gz"):
        done = run(*call, "-o", tmp_path / name)
        assert done.exit_code == 0, done.output
        assert read_segments(tmp_path / name) == segments
        assert np.array_equal(samreg.read_image(tmp_path / name).array, np.roll(array, 1, axis=2))
    blended = run(*call, "-o", tmp_path / "c.nii.gz", "--interpolation", "linear")
    assert blended.exit_code == 0, blended.output
    refused = run(*call, "-o", tmp_path / "c.seg.nrrd", "--interpolation", "linear")
    assert refused.exit_code == 2
    assert "leave --interpolation out" in refused.output


@pytest.fixture
def segmented(tmp_path):
    """A DICOM segmentation of two segments, its series, and a transform that leaves all where it is."""
    from samreg.phantoms import write_dicom_series
    from samreg.spatial import write_dicom_segmentation, write_transform

    array = np.zeros((4, 8, 10), np.uint8)
    array[1:3, 2:6, 2:6], array[1:3, 6:8, 2:6] = 7, 9
    labels = samreg.Image.from_array(array, spacing=2)
    write_dicom_series(labels, tmp_path / "scan")
    write_dicom_segmentation(labels, tmp_path / "seg.dcm", reference=tmp_path / "scan", names={7: "liver", 9: "spleen"})
    write_transform(AffineTransform.identity(3), tmp_path / "stay.h5")
    return array


def test_a_dicom_segmentation_becomes_a_label_map(run, tmp_path, segmented):
    """It asked for one of its segments by --series, which the command did not have.

    A segment that was chosen bore the name of the first.
    """
    from samreg.spatial import read_segments

    call = "apply", tmp_path / "stay.h5", tmp_path / "seg.dcm", "--reference", tmp_path / "scan", "-o"
    for options, expected, names in (
        ((), np.array([0, 1, 2]), {1: "liver", 2: "spleen"}),
        (("--series", "spleen"), np.array([0, 0, 1]), {1: "spleen"}),
    ):
        done = run(*call, tmp_path / "l.nii.gz", *options)
        assert done.exit_code == 0, done.output
        assert {segment.value: segment.name for segment in read_segments(tmp_path / "l.nii.gz")} == names
        expected = expected[np.searchsorted([0, 7, 9], segmented)]
        assert np.array_equal(samreg.read_image(tmp_path / "l.nii.gz").array, expected)
    refused = run("apply", tmp_path / "stay.h5", tmp_path / "seg.dcm", "-o", tmp_path / "x.dcm", "--series", "spleen")
    assert refused.exit_code == 2
    assert "--series has no meaning" in refused.output


def test_labels_keep_their_names_from_format_to_format(run, tmp_path, segmented):
    """They were lost between a DICOM segmentation and one of 3D Slicer, either way."""
    from samreg.spatial import read_segments

    source = tmp_path / "seg.dcm"
    for out in ("l.seg.nrrd", "l.dcm"):
        call = "apply", tmp_path / "stay.h5", source, "--reference", tmp_path / "scan", "-o", tmp_path / out
        assert run(*call).exit_code == 0
        source = tmp_path / out
        assert [(segment.value, segment.name) for segment in read_segments(source)] == [(1, "liver"), (2, "spleen")]

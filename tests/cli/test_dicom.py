"""The commands that write DICOM objects, on series of a made pair."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

import samreg
from samreg.phantoms import write_dicom_series
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, compose

SHIFT = np.array([6.0, -4.0, 8.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two series, a saved result of a shift and a field of 1 mm along x, and labels of both images."""
    folder = tmp_path_factory.mktemp("dicom")
    fixed = Grid.make((10, 22, 24), origin=(-200, -300, 50), spacing=4)
    moving = Grid.make((12, 24, 26), origin=fixed.origin + SHIFT - 4, spacing=4)
    field = DisplacementField(
        np.zeros((*fixed.padded(8).shape, 3), np.float32) + np.float32([1, 0, 0]), fixed.padded(8)
    )
    for name, grid in (("fixed", fixed), ("moving", moving)):
        values = np.random.default_rng(0).integers(-900, 900, grid.shape).astype(np.int16)
        write_dicom_series(Image(values, grid), folder / name, patient=f"{name}^X")
        labels = np.zeros(grid.shape, np.uint8)
        labels[3:8, 5:15, 6:18] = 1
        samreg.write_image(Image(labels, grid), folder / f"{name}-labels.nii.gz")
    images = (samreg.read_image(folder / name) for name in ("fixed", "moving"))
    transform = compose(field, AffineTransform(np.eye(3), SHIFT))
    samreg.RegistrationResult(*images, transform).save(folder / "out")
    return folder


def test_a_saved_result_becomes_a_registration_object(run, folder, tmp_path):
    images = ("--fixed", folder / "fixed", "--moving", folder / "moving")
    for call in ((folder / "out",), (folder / "out", *images), (folder / "out/transform.h5", *images)):
        path = tmp_path / "registration.dcm"
        done = run("dicom", *call, "-o", path)
        assert done.exit_code == 0, done.output
        transform = samreg.read_transform(path)
        np.testing.assert_allclose(transform.transform_points([-150, -260, 70]) - [-150, -260, 70], [SHIFT + [1, 0, 0]])
        path.unlink()
    assert run("dicom", folder / "out", "-q").exit_code == 0
    assert pydicom.dcmread(folder / "out/registration.dcm").PatientID == "fixed^X"
    described = run("info", folder / "out/registration.dcm")
    assert "field" in described.output


def test_labels_become_a_segmentation_and_come_back(run, folder, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed (the extra dicom)")
    done = run("apply", folder / "out", folder / "moving-labels.nii.gz", "-o", tmp_path / "seg.dcm")
    assert done.exit_code == 0, done.output
    mask = samreg.read_image(tmp_path / "seg.dcm", series="label 1")
    done = run("apply", folder / "out", folder / "moving-labels.nii.gz", "-o", tmp_path / "seg.nii.gz", "-q")
    expected = samreg.read_image(tmp_path / "seg.nii.gz")
    at = samreg.spatial.resample(mask, expected.grid, interpolation="nearest")
    np.testing.assert_array_equal(at.array, expected.array)
    back = ("apply", folder / "out", tmp_path / "seg.dcm", "-o", tmp_path / "back.dcm", "--to", "moving")
    done = run(*back, "--reference", folder / "moving")
    assert done.exit_code == 0, done.output
    assert pydicom.dcmread(tmp_path / "back.dcm").PatientID == "moving^X"


def contours(path, height):
    from pydicom.dataset import Dataset, FileMetaDataset

    item, definition, drawing, contour = (Dataset() for _ in range(4))
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    definition.ROINumber, definition.ROIName = 1, "box"
    drawing.ReferencedROINumber, drawing.ContourSequence = 1, [contour]
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
    corners = [(-160, -270), (-130, -270), (-130, -240), (-160, -240)]
    contour.ContourData = [str(value) for corner in corners for value in (*corner, height)]
    item.StructureSetROISequence, item.ROIContourSequence = [definition], [drawing]
    item.save_as(path, enforce_file_format=True)
    return path


def test_contours_become_those_of_the_other_image(run, folder, tmp_path):
    source = contours(tmp_path / "in.dcm", height=78.0)
    done = run("apply", folder / "out", source, "-o", tmp_path / "out.dcm", "--to", "fixed")
    assert done.exit_code == 0, done.output
    item = pydicom.dcmread(tmp_path / "out.dcm")
    assert item.PatientID == "fixed^X"
    (contour,) = item.ROIContourSequence[0].ContourSequence
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    moved = [[-167, -266, 70], [-137, -236, 70]]
    np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], moved, atol=0.02)
    far = contours(tmp_path / "far.dcm", height=978.0)
    done = run("apply", folder / "out", far, "-o", tmp_path / "far-out.dcm")
    assert done.exit_code == 2
    assert "lie outside" in done.output
    assert not (tmp_path / "far-out.dcm").exists()


def test_calls_at_fault_say_what_to_do(run, folder, tmp_path):
    out, labels, nifti = folder / "out", folder / "moving-labels.nii.gz", folder / "fixed-labels.nii.gz"
    drawn = contours(tmp_path / "in.dcm", height=78.0)
    target = tmp_path / "x.dcm"
    for call, words in (
        (("dicom", out, "-o", tmp_path / "x.h5"), ".dcm"),
        (("dicom", out, "-o", target, "--fixed", nifti), "is no DICOM"),
        (("dicom", out / "transform.h5", "-o", target), "--fixed"),
        (("dicom", out / "transform.h5"), "--out"),
        (("apply", out, labels, "-o", target, "--reference", nifti), "is no DICOM"),
        (("apply", out / "transform.h5", labels, "-o", target), "--reference"),
        (("apply", out, labels, "-o", target, "--interpolation", "linear"), "leave it out"),
        (("apply", out, labels, "-o", target, "--outside", "extrapolate"), "leave it out"),
        (("apply", out, labels, "-o", tmp_path / "x.nii.gz", "--reference-series", "1"), "leave it out"),
        (("apply", out, drawn, "-o", tmp_path / "x.nii.gz"), ".dcm"),
        (("register", nifti, labels, "-o", tmp_path / "new", "--dicom"), "is no DICOM"),
    ):
        done = run(*call)
        assert done.exit_code == 2, (call, done.output)
        assert words in done.output.replace("\n", " "), call
        assert not target.exists()
    assert not (tmp_path / "new").exists()


def test_register_writes_a_registration_object(run, folder, by_shift, tmp_path):
    images = (folder / "fixed", folder / "moving")
    done = run("register", *images, "-o", tmp_path / "out", "--dicom", "-q", *by_shift)
    assert done.exit_code == 0, done.output
    item = pydicom.dcmread(tmp_path / "out/registration.dcm")
    assert item.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.1"
    points = np.array([[-150.0, -260, 70], [-180, -290, 60], [-120, -230, 80]])
    written = samreg.read_transform(tmp_path / "out/registration.dcm").transform_points(points)
    expected = samreg.read_transform(tmp_path / "out/transform.h5").transform_points(points)
    np.testing.assert_allclose(written, expected, atol=1e-3)
    np.testing.assert_allclose(written, points + SHIFT, atol=1e-3)

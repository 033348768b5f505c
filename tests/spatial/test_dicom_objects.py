"""DICOM objects that come of a registration say what samreg does, as pydicom by hand, scipy and highdicom read them."""

from __future__ import annotations

import sys

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage, generate_uid
from scipy.ndimage import map_coordinates

import samreg
from samreg.errors import InputError, MissingExtraError
from samreg.phantoms import write_dicom_series
from samreg.spatial import (
    AffineTransform,
    DisplacementField,
    Grid,
    Image,
    compose,
    warp_dicom_structures,
    write_dicom_registration,
    write_dicom_segmentation,
)

TURN = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
FIXED = Grid.make((8, 21, 22), origin=(-40, -30, 200), spacing=(2, 2.5, 4))
MOVING = Grid.make((9, 21, 23), origin=(300, -500, -90), spacing=(2, 2, 3), direction=TURN)
SHIFT = np.array([345.0, -480.0, -300.0])  # from the middle of the fixed image to about that of the moving one
RIGID = AffineTransform.about(FIXED.center, TURN @ TURN, SHIFT)
AFFINE = AffineTransform.about(FIXED.center, [[1.1, 0.1, 0], [0, 0.9, 0.05], [-0.1, 0, 1.05]], SHIFT)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folders of two series: another patient, study and space each."""
    folder = tmp_path_factory.mktemp("pair")
    for name, grid in (("fixed", FIXED), ("moving", MOVING)):
        values = np.random.default_rng(0).integers(-1000, 1000, grid.shape)
        write_dicom_series(Image(values, grid, name=name), folder / name, patient=f"{name}^X")
    return folder / "fixed", folder / "moving"


def any_header(folder):
    return pydicom.dcmread(next(iter(folder.iterdir())), stop_before_pixels=True)


def random_points(grid, count=2000):
    return grid.index_to_world(np.random.default_rng(1).uniform(0, 1, (count, 3)) * (np.array(grid.size) - 1))


def smooth_field(grid, seed=0):
    """Displacements of a few mm that change by at most 0.1 a mm."""
    points, rng = grid.world_points() - grid.center, np.random.default_rng(seed)
    waves = [np.sin(points @ rng.normal(size=3) / 25 + rng.uniform(0, 6)) for _ in range(3)]
    return DisplacementField(3 * np.stack(waves, axis=-1).astype(np.float32), grid)


def matrix(item):
    return np.array([float(v) for v in item.FrameOfReferenceTransformationMatrix]).reshape(4, 4)


def mapped(numbers, points):
    return points @ numbers[:3, :3].T + numbers[:3, 3]


def sampled_in_source(entry, points):
    """Return where a deformable registration samples points of the registered space, PS3.3 C.20.3.1.1, by scipy."""
    grid = entry.DeformableRegistrationGridSequence[0]
    row, column = np.array(grid.ImageOrientationPatient, float).reshape(2, 3)
    axes = np.stack([row, column, np.cross(row, column)])
    nx, ny, nz = grid.GridDimensions
    index = (points - np.array(grid.ImagePositionPatient, float)) @ axes.T / np.array(grid.GridResolution)
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(nz, ny, nx, 3)
    offsets = [map_coordinates(vectors[..., c], index.T[::-1], order=1, mode="nearest") for c in range(3)]
    before, after = (
        matrix(entry[name].value[0]) if name in entry else np.eye(4)
        for name in ("PreDeformationMatrixRegistrationSequence", "PostDeformationMatrixRegistrationSequence")
    )
    return mapped(after, mapped(before, points) + np.stack(offsets, axis=-1))


@pytest.mark.parametrize(("transform", "kind"), [(RIGID, "RIGID"), (AFFINE, "AFFINE")])
def test_a_matrix_maps_points_of_the_moving_image_to_the_fixed_one(pair, tmp_path, transform, kind):
    fixed, moving = pair
    path = tmp_path / "out" / "registration.dcm"
    write_dicom_registration(transform, path, fixed=fixed, moving=moving)
    item, headers = pydicom.dcmread(path), [any_header(folder) for folder in pair]
    assert item.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.1"
    assert (item.PatientID, item.StudyInstanceUID) == ("fixed^X", headers[0].StudyInstanceUID)
    assert item.SeriesInstanceUID not in [header.SeriesInstanceUID for header in headers]
    assert item.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
    by_space = {entry.FrameOfReferenceUID: entry for entry in item.RegistrationSequence}
    (same,), (to_fixed,) = (
        by_space[header.FrameOfReferenceUID].MatrixRegistrationSequence[0].MatrixSequence for header in headers
    )
    np.testing.assert_array_equal(matrix(same), np.eye(4))
    assert to_fixed.FrameOfReferenceTransformationMatrixType == kind
    points = random_points(FIXED)
    assert np.abs(mapped(matrix(to_fixed), transform.transform_points(points)) - points).max() < 1e-6
    for header, folder in zip(headers, pair, strict=True):
        images = by_space[header.FrameOfReferenceUID].ReferencedImageSequence
        on_disk = {pydicom.dcmread(path).SOPInstanceUID for path in folder.iterdir()}
        assert {image.ReferencedSOPInstanceUID for image in images} == on_disk
    assert item.ReferencedSeriesSequence[0].SeriesInstanceUID == headers[0].SeriesInstanceUID
    (other,) = item.StudiesContainingOtherReferencedInstancesSequence
    assert other.StudyInstanceUID == headers[1].StudyInstanceUID
    np.testing.assert_allclose(samreg.read_transform(path).transform_points(points), transform.transform_points(points))


FIELDS = {
    "a field": smooth_field(FIXED),
    "a field, then an affine": compose(smooth_field(FIXED.padded(10)), AFFINE),
    "oblique": compose(smooth_field(Grid(FIXED.shape, FIXED.origin, FIXED.spacing * 2, TURN)), RIGID),
    "left-handed": compose(
        smooth_field(Grid(FIXED.shape, FIXED.corners().max(axis=0), FIXED.spacing, -np.eye(3))), RIGID
    ),
    "an affine, then a field": compose(AFFINE, smooth_field(Grid((40, 60, 60), MOVING.origin - 40, [2, 2, 2], TURN))),
    "two fields": compose(smooth_field(FIXED.padded(10)), RIGID, smooth_field(MOVING.padded(40), seed=1)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_deformable_registration_samples_where_the_transform_does(pair, tmp_path, name, caplog):
    fixed, moving = pair
    path = tmp_path / "registration.dcm"
    write_dicom_registration(FIELDS[name], path, fixed=fixed, moving=moving)
    item, headers = pydicom.dcmread(path), [any_header(folder) for folder in pair]
    assert item.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.3"
    assert item.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
    (entry,) = item.DeformableRegistrationSequence
    assert entry.SourceFrameOfReferenceUID == headers[1].FrameOfReferenceUID
    points = random_points(FIXED)
    inside = np.ones(len(points), bool)
    first = FIELDS[name].transforms[0] if name != "a field" else FIELDS[name]
    if isinstance(first, DisplacementField):
        inside = first.grid.contains(points, margin=-float(first.grid.spacing.max()))
    points = points[inside]
    assert len(points) > 100
    expected = FIELDS[name].transform_points(points)
    assert np.abs(sampled_in_source(entry, points) - expected).max() < 0.01
    assert np.abs(samreg.read_transform(path).transform_points(points) - expected).max() < 0.01
    assert not caplog.messages


def test_a_field_that_no_grid_holds_is_said(pair, tmp_path, caplog):
    rough = np.random.default_rng(0).normal(size=(*FIXED.shape, 3)).astype(np.float32)
    transform = compose(AFFINE, DisplacementField(rough, Grid(FIXED.shape, MOVING.origin - 20, [5, 5, 5], TURN)))
    write_dicom_registration(transform, tmp_path / "r.dcm", fixed=pair[0], moving=pair[1])
    assert "the transform is off by" in caplog.text


def test_a_pre_deformation_matrix_is_read(pair, tmp_path):
    path = tmp_path / "registration.dcm"
    write_dicom_registration(FIELDS["a field, then an affine"], path, fixed=pair[0], moving=pair[1])
    item = pydicom.dcmread(path)
    (entry,) = item.DeformableRegistrationSequence
    before = Dataset()
    before.FrameOfReferenceTransformationMatrix = ["1.1", 0, 0, 5, 0, "0.9", 0, -3, 0, 0, 1, 2, 0, 0, 0, 1]
    before.FrameOfReferenceTransformationMatrixType = "AFFINE"
    entry.PreDeformationMatrixRegistrationSequence = [before]
    item.save_as(path)
    points = random_points(FIXED)
    assert np.abs(samreg.read_transform(path).transform_points(points) - sampled_in_source(entry, points)).max() < 0.01


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_dicom_leaves_undefined_are_refused_as_in_every_other_file(pair, tmp_path, value):
    path = tmp_path / "registration.dcm"
    write_dicom_registration(FIELDS["a field, then an affine"], path, fixed=pair[0], moving=pair[1])
    item = pydicom.dcmread(path)
    (data,) = item.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence
    vectors = np.frombuffer(data.VectorGridData, "<f4").copy()
    vectors[3:9] = value  # those of the second and the third voxel
    data.VectorGridData = vectors.tobytes()
    item.save_as(path)
    with pytest.raises(
        InputError, match=r"registration\.dcm: 2 of \d+ vectors .* in voxels \(1, 0, 0\) to \(2, 0, 0\)"
    ):
        samreg.read_transform(path)


def test_images_that_share_a_space_are_told_apart_by_their_slices(pair, tmp_path):
    write_dicom_registration(RIGID, tmp_path / "r.dcm", fixed=pair[0], moving=pair[0])
    first, second = pydicom.dcmread(tmp_path / "r.dcm").RegistrationSequence
    assert len(first.ReferencedImageSequence) == len(second.ReferencedImageSequence) == len(list(pair[0].iterdir()))


def test_what_cannot_be_a_registration_is_refused(pair, tmp_path):
    fixed, moving = pair
    nifti = tmp_path / "moving.nii.gz"
    samreg.write_image(Image(np.zeros(MOVING.shape, np.int16), MOVING), nifti)
    unplaced = tmp_path / "unplaced"
    write_dicom_series(Image(np.zeros(FIXED.shape, np.int16), FIXED), unplaced)
    for path in unplaced.iterdir():
        item = pydicom.dcmread(path)
        del item.FrameOfReferenceUID
        item.save_as(path)
    out = tmp_path / "r.dcm"
    flat = AffineTransform.identity(2)
    for transform, target, images, words in (
        (RIGID, out, (fixed, nifti), "moving.nii.gz, is no DICOM"),
        (RIGID, out, (nifti, moving), "the fixed image"),
        (RIGID, out, (unplaced, moving), "FrameOfReferenceUID"),
        (RIGID, out, (tmp_path / "gone", moving), "not found"),
        (flat, out, pair, "2D"),
        (RIGID, tmp_path / "r.h5", pair, r"\.dcm"),
    ):
        with pytest.raises(InputError, match=words):
            write_dicom_registration(transform, target, fixed=images[0], moving=images[1])
    assert not out.exists()
    with pytest.raises(InputError, match="samreg dicom"):
        samreg.write_transform(RIGID, out)
    with pytest.raises(InputError, match="no registration object"):
        samreg.read_transform(next(iter(fixed.iterdir())))


# segmentations

LABELS = Image(np.random.default_rng(2).integers(0, 4, MOVING.shape).astype(np.int16) * 7, MOVING, name="labels")


def test_labels_lie_on_the_slices_of_the_reference(pair, tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (the extra dicom)")
    path = tmp_path / "seg.dcm"
    floats = LABELS.with_array(LABELS.array.astype(np.float32))  # as many programs store labels
    write_dicom_segmentation(floats, path, reference=pair[0], transform=RIGID, names={7: "liver"})
    seg = highdicom.seg.segread(path)
    assert (seg.PatientID, seg.FrameOfReferenceUID) == ("fixed^X", any_header(pair[0]).FrameOfReferenceUID)
    assert [str(seg.get_segment_description(n).segment_label) for n in (1, 2, 3)] == ["liver", "label 14", "label 21"]
    volume = seg.get_volume(combine_segments=True, relabel=True)
    affine = volume.affine  # of array indices, as highdicom places them
    index = np.argwhere(volume.array)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    there = np.rint(MOVING.world_to_index(RIGID.transform_points(world))).astype(int)
    np.testing.assert_array_equal(7 * volume.array[tuple(index.T)], LABELS.array[tuple(there.T[::-1])])
    assert len(index) > 500


def test_segments_that_overlap_keep_names_and_codes(pair, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed (the extra dicom)")
    masks = np.random.default_rng(3).random((2, *FIXED.shape)) < 0.5  # 462 pixels a slice: frames share bytes
    item = pydicom.dcmread(next(iter(pair[0].iterdir())))
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    item.Modality, item.NumberOfFrames, item.BitsAllocated, item.BitsStored, item.HighBit = "SEG", 16, 1, 1, 0
    item.PixelData = np.packbits(masks.ravel(), bitorder="little").tobytes()
    for keyword in ("ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "RescaleType"):
        delattr(item, keyword)
    item.SegmentSequence, item.PerFrameFunctionalGroupsSequence = [], []
    for number, label in enumerate(("Liver", "Lesion"), start=1):
        code, described = Dataset(), Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "10200004", "SCT", "Liver"
        described.SegmentNumber, described.SegmentLabel = number, label
        described.SegmentedPropertyTypeCodeSequence = [code]
        item.SegmentSequence.append(described)
        for k in range(len(masks[0])):
            frame, position, identification = Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient = FIXED.index_to_world([0, 0, k])[0].tolist()
            identification.ReferencedSegmentNumber = number
            frame.PlanePositionSequence, frame.SegmentIdentificationSequence = [position], [identification]
            item.PerFrameFunctionalGroupsSequence.append(frame)
    item.save_as(tmp_path / "in.dcm")
    write_dicom_segmentation(tmp_path / "in.dcm", tmp_path / "out.dcm", reference=pair[0])
    out = pydicom.dcmread(tmp_path / "out.dcm")
    assert [one.SegmentLabel for one in out.SegmentSequence] == ["Liver", "Lesion"]
    assert out.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    for label, mask in zip(("liver", "lesion"), masks, strict=True):
        np.testing.assert_array_equal(samreg.read_image(tmp_path / "out.dcm", series=label).array, mask)


def test_fractions_of_a_segmentation_are_spoken_of(pair, tmp_path, caplog):
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (the extra dicom)")
    write_dicom_segmentation(LABELS, tmp_path / "seg.dcm", reference=pair[0], transform=RIGID, names={7: "liver"})
    item = pydicom.dcmread(tmp_path / "seg.dcm")
    masks = highdicom.seg.segread(tmp_path / "seg.dcm").pixel_array
    item.SegmentationType, item.SegmentationFractionalType, item.MaximumFractionalValue = "FRACTIONAL", "OCCUPANCY", 255
    item.BitsAllocated = item.BitsStored = 8
    item.HighBit, item.PixelData = 7, (masks.astype(np.uint8) * 100).tobytes()
    item.save_as(tmp_path / "fractions.dcm")
    write_dicom_segmentation(tmp_path / "fractions.dcm", tmp_path / "out.dcm", reference=pair[0])
    assert "a mask with values such as 0.3922" in caplog.text


def test_labels_that_make_no_segmentation_are_refused(pair, tmp_path, monkeypatch):
    pytest.importorskip("highdicom", reason="highdicom is not installed (the extra dicom)")
    for labels, options, words in (
        (LABELS, {}, "nothing of labels comes to lie"),
        (LABELS.with_array(LABELS.array * 0), {"transform": RIGID}, "0 labels besides 0"),
        (LABELS.with_array(-LABELS.array), {"transform": RIGID}, "none negative"),
        (LABELS.with_array(LABELS.array * 0.5), {"transform": RIGID}, "whole numbers"),
    ):
        with pytest.raises(InputError, match=words):
            write_dicom_segmentation(labels, tmp_path / "seg.dcm", reference=pair[0], **options)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r"samreg\[dicom\]"):
        write_dicom_segmentation(LABELS, tmp_path / "seg.dcm", reference=pair[0], transform=RIGID)
    assert not (tmp_path / "seg.dcm").exists()


# structure sets

SCAN = Grid.make((14, 60, 60), origin=(-60, -60, 100), spacing=(2, 2, 3))
CENTER = SCAN.center + [3, -4, 1.5]
ANGLES = np.linspace(0, 2 * np.pi, 181)[:-1]


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    write_dicom_series(Image(np.zeros(SCAN.shape, np.int16), SCAN), folder, patient="Scan^A")
    return folder


def circle(radius, height, center=CENTER):
    return np.column_stack(
        [center[0] + radius * np.cos(ANGLES), center[1] + radius * np.sin(ANGLES), np.full(len(ANGLES), height)]
    )


def structure_set(path, *rois):
    """Write regions (name, [(type, points)]) with pydicom, the second one first in the list of contours."""
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    item.StructureSetLabel, item.Modality = "plan 1", "RTSTRUCT"
    item.StructureSetROISequence, item.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois, start=1):
        definition, drawing = Dataset(), Dataset()
        definition.ROINumber, definition.ROIName, definition.ReferencedFrameOfReferenceUID = number, name, "1.2.9"
        drawing.ReferencedROINumber, drawing.ROIDisplayColor, drawing.ContourSequence = number, [255, 0, number], []
        for kind, points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{value:.5f}" for value in np.ravel(points)]
            drawing.ContourSequence.append(contour)
        item.StructureSetROISequence.append(definition)
        item.ROIContourSequence.insert(0, drawing)
    item.save_as(path, enforce_file_format=True)
    return path


def drawn(path):
    """Return name to list of (type, points, SOP instance of the slice), by pydicom."""
    item = pydicom.dcmread(path)
    names = {roi.ROINumber: roi.ROIName for roi in item.StructureSetROISequence}
    return {
        names[roi.ReferencedROINumber]: [
            (
                contour.ContourGeometricType,
                np.array(contour.ContourData, float).reshape(-1, 3),
                contour.ContourImageSequence[0].ReferencedSOPInstanceUID if "ContourImageSequence" in contour else None,
            )
            for contour in roi.get("ContourSequence", [])
        ]
        for roi in item.ROIContourSequence
    }


def test_contours_lie_on_the_fixed_slices_where_the_transform_has_them(scan, tmp_path):
    heights = SCAN.origin[2] + SHIFT[2] + 1.0 + 3.0 * np.arange(3, 10)  # between the slices once they are mapped
    center = CENTER + SHIFT
    tube = [("CLOSED_PLANAR", circle(radius, z, center)) for z in heights for radius in (30, 12)]
    points = ("POINT", center[None] + [[1.0, 2.0, 3.0]])
    source = structure_set(tmp_path / "in.dcm", ("tube", tube), ("marker", [points]))
    transform = compose(smooth_field(SCAN.padded(20)), AffineTransform(np.eye(3), SHIFT))
    warp_dicom_structures(source, tmp_path / "out.dcm", reference=scan, transform=transform)
    result = drawn(tmp_path / "out.dcm")
    marker = result["marker"][0][1]
    assert np.abs(transform.transform_points(marker) - points[1]).max() < 0.02  # the inverse's own tolerance
    slices = {item.SOPInstanceUID: item for item in map(pydicom.dcmread, scan.iterdir())}
    radii = []
    for kind, contour, uid in result["tube"]:
        assert kind == "CLOSED_PLANAR"
        assert np.abs(contour[:, 2] - float(slices[uid].ImagePositionPatient[2])).max() < 1e-3
        in_moving = transform.transform_points(contour)
        within = (in_moving[:, 2] >= heights[0]) & (in_moving[:, 2] <= heights[-1])
        radii.append(np.linalg.norm((in_moving - center)[within, :2], axis=1))
    radii = np.concatenate(radii)
    assert len(radii) > 1000
    # polygons of 180 corners lie up to 0.005 mm within their circles
    assert np.minimum(np.abs(radii - 30), np.abs(radii - 12)).max() < 0.01
    assert {round(r) for r in radii} == {30, 12}
    item = pydicom.dcmread(tmp_path / "out.dcm")
    assert (item.PatientID, item.FrameOfReferenceUID) == ("Scan^A", any_header(scan).FrameOfReferenceUID)
    assert item.StructureSetROISequence[0].ReferencedFrameOfReferenceUID == item.FrameOfReferenceUID
    assert item.StructureSetLabel == "plan 1"


def test_a_rotated_region_is_cut_anew(scan, tmp_path):
    radius, step = 24.0, 1.0
    ball = [("CLOSED_PLANAR", circle(np.sqrt(radius**2 - h**2), CENTER[2] + h)) for h in np.arange(-23.5, 24, step)]
    angle = np.pi / 2
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    source = structure_set(tmp_path / "in.dcm", ("ball", ball))
    transform = AffineTransform.about(CENTER, tilt)
    warp_dicom_structures(source, tmp_path / "out.dcm", reference=scan, transform=transform)
    contours = drawn(tmp_path / "out.dcm")["ball"]
    assert len(contours) == len({uid for *_, uid in contours}) == 14
    distance = np.linalg.norm(np.concatenate([points for _, points, _ in contours]) - CENTER, axis=1)
    near_equator = np.concatenate([np.abs(transform.transform_points(p) - CENTER)[:, 2] < 12 for _, p, _ in contours])
    assert np.abs(distance - radius)[near_equator].max() < 0.02  # linear between planes 1 mm apart


def test_what_belongs_to_the_reference_is_not_brought_there(scan, pair, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed (the extra dicom)")
    identity, out = AffineTransform.identity(3), tmp_path / "again.dcm"
    source = structure_set(tmp_path / "in.dcm", ("disc", [("CLOSED_PLANAR", circle(20, CENTER[2]))]))
    warp_dicom_structures(source, tmp_path / "here.dcm", reference=scan, transform=identity)
    with pytest.raises(InputError, match=r"here.dcm belongs to .* itself"):
        warp_dicom_structures(tmp_path / "here.dcm", out, reference=scan, transform=identity)
    write_dicom_segmentation(LABELS, tmp_path / "seg.dcm", reference=pair[0], transform=RIGID)
    with pytest.raises(InputError, match=r"seg.dcm belongs to .* itself"):
        write_dicom_segmentation(tmp_path / "seg.dcm", out, reference=pair[0], transform=RIGID)
    write_dicom_segmentation(tmp_path / "seg.dcm", out, reference=pair[0])  # a copy, where nothing moves


def test_a_reference_whose_slices_have_a_series_each_is_refused(scan, tmp_path):
    for number, path in enumerate(scan.iterdir()):
        item = pydicom.dcmread(path)
        item.SeriesInstanceUID = f"1.2.3.{number}"
        item.save_as(tmp_path / path.name)
    source = structure_set(tmp_path / "in.rtstruct", ("liver", [("CLOSED_PLANAR", circle(20, CENTER[2]))]))
    with pytest.raises(InputError, match=r"has 14 series UIDs.*write one SeriesInstanceUID"):
        warp_dicom_structures(source, tmp_path / "out.dcm", reference=tmp_path, transform=AffineTransform.identity(3))


def test_contours_of_more_than_64_kb_are_read_and_written(scan, tmp_path):
    angles = np.linspace(0, 2 * np.pi, 5001)[:-1]
    fine = np.column_stack([CENTER[0] + 30 * np.cos(angles), CENTER[1] + 30 * np.sin(angles), 0 * angles + CENTER[2]])
    source = structure_set(tmp_path / "in.dcm", ("line", [("OPEN_PLANAR", fine)]))
    warp_dicom_structures(source, tmp_path / "out.dcm", reference=scan, transform=AffineTransform.identity(3))
    np.testing.assert_allclose(drawn(tmp_path / "out.dcm")["line"][0][1], fine, atol=1e-3)


def test_slices_without_a_contour_stay_empty_and_open_contours_are_mapped(scan, tmp_path):
    low, high = (SCAN.origin[2] + 3.0 * k for k in ((2, 3), (9, 10)) for k in k[:1])
    two = [("CLOSED_PLANAR", circle(20, low + 3.0 * k)) for k in (0, 1)]
    two += [("CLOSED_PLANAR", circle(20, high + 3.0 * k)) for k in (0, 1)]
    line = ("OPEN_PLANAR", circle(10, low)[:40])
    source = structure_set(tmp_path / "in.dcm", ("two", two), ("line", [line]))
    warp_dicom_structures(source, tmp_path / "out.dcm", reference=scan, transform=AffineTransform.identity(3))
    result = drawn(tmp_path / "out.dcm")
    assert sorted({round((p[0, 2] - SCAN.origin[2]) / 3) for _, p, _ in result["two"]}) == [2, 3, 9, 10]
    assert result["line"][0][0] == "OPEN_NONPLANAR"
    np.testing.assert_allclose(result["line"][0][1], line[1], atol=1e-3)


@pytest.mark.parametrize("change", ["copied", "emptied", "bare"])
def test_a_contour_that_is_copied_or_empty_spoils_nothing(scan, tmp_path, change):
    heights = SCAN.origin[2] + 3.0 * np.array([2, 3, 4, 9])
    contours = [("CLOSED_PLANAR", circle(20, height)) for height in heights]
    path = structure_set(tmp_path / "in.dcm", ("liver", contours + contours[1:2]))
    item = pydicom.dcmread(path)
    if change == "emptied":
        item.ROIContourSequence[0].ContourSequence[4].ContourData = None
    elif change == "bare":
        del item.ROIContourSequence[0].ContourSequence[4].ContourData
    item.save_as(path)
    warp_dicom_structures(path, tmp_path / "out.dcm", reference=scan, transform=AffineTransform.identity(3))
    np.testing.assert_allclose([p[0, 2] for _, p, _ in drawn(tmp_path / "out.dcm")["liver"]], heights)


def brought(circles, folder, scan, kind="CLOSED_PLANAR"):
    """Bring a region of circles (radius, x), the same on three slices, to them; return which points lie in which.

    Returns
    -------
    in_each, in_region
        (circles, N) and (N,), of the middle slice.
    """
    from matplotlib.path import Path

    heights = SCAN.origin[2] + 3.0 * np.arange(4, 7)
    contours = [(kind, circle(radius, z, CENTER + [x, 0, 0])) for z in heights for radius, x in circles]
    source = structure_set(folder / "in.dcm", ("region", contours))
    warp_dicom_structures(source, folder / "out.dcm", reference=scan, transform=AffineTransform.identity(3))
    lines = [line for _, line, _ in drawn(folder / "out.dcm")["region"] if abs(line[0, 2] - heights[1]) < 0.1]
    points = np.stack(np.meshgrid(*2 * [np.arange(-25, 25.5, 0.7)]), axis=-1).reshape(-1, 2)
    crossed = sum(Path(line[:, :2]).contains_points(CENTER[:2] + points) for line in lines)
    return [np.linalg.norm(points - [x, 0], axis=1) < radius for radius, x in circles], crossed % 2 == 1


@pytest.mark.parametrize(
    ("circles", "region", "said"),
    [
        ([(12, 0), (10, 14)], lambda a, b: a | b, True),  # overlap
        ([(20, 0), (5, 14)], lambda a, b: a & ~b, False),  # a hole
        ([(20, 0), (6.1, 14)], lambda a, b: a & ~b, False),  # that touches the border
        ([(20, 0), (8, 5), (5, 5)], lambda a, b, c: (a & ~b) | c, False),  # an island in a hole
        ([(7, 0), (7, 14)], lambda a, b: a | b, False),  # side by side
        ([(12, 0), (12.02, 0)], lambda a, b: a, True),  # a copy, nearly
        ([(12, 0), (10, 14), (4, -4)], lambda a, b, c: (a | b) & ~c, True),  # a hole in what overlaps
        ([(6, -8), (6, 0), (6, 8)], lambda a, b, c: a | b | c, True),  # a chain
    ],
)
def test_contours_of_a_slice_that_overlap_are_one_and_one_within_another_is_a_hole(
    scan, tmp_path, caplog, circles, region, said
):
    in_each, in_region = brought(circles, tmp_path, scan)
    assert (in_region != region(*in_each)).mean() < 0.008  # borders are traced to some tenths of a pixel of 2 mm
    assert ("overlap partly" in caplog.text) == said


def test_contours_of_the_exclusive_kind_leave_out_what_both_enclose(scan, tmp_path):
    (first, second), in_region = brought([(12, 0), (10, 14)], tmp_path, scan, kind="CLOSEDPLANAR_XOR")
    assert (in_region != first ^ second).mean() < 0.008


@pytest.fixture
def japanese_scan(scan, tmp_path):
    """The scan with a header as scanners in Japan write it."""
    folder = tmp_path / "japanese"
    folder.mkdir()
    for path in scan.iterdir():
        item = pydicom.dcmread(path)
        item.SpecificCharacterSet, item.PatientName = ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"
        item.save_as(folder / path.name)
    return folder


def test_names_keep_their_letters_whatever_the_character_set_of_the_reference(scan, japanese_scan, tmp_path):
    path = structure_set(tmp_path / "rs.dcm", ("placeholder", [("POINT", CENTER)]))
    item = pydicom.dcmread(path)
    item.SpecificCharacterSet, item.StructureSetROISequence[0].ROIName = "ISO_IR 192", "肝臓, Gefäß"
    item.save_as(path)
    for folder, person in ((scan, "Scan^A"), (japanese_scan, "Yamada^Tarou=山田^太郎")):
        warp_dicom_structures(path, tmp_path / "out.dcm", reference=folder, transform=AffineTransform.identity(3))
        assert list(drawn(tmp_path / "out.dcm")) == ["肝臓, Gefäß"]
        assert pydicom.dcmread(tmp_path / "out.dcm").PatientName == person


def test_labels_of_a_series_in_japanese_are_written(japanese_scan, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed (the extra dicom)")
    labels = Image(np.ones(SCAN.shape, np.uint8), SCAN)
    write_dicom_segmentation(labels, tmp_path / "seg.dcm", reference=japanese_scan, names={1: "肝臓"})
    item = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (item.PatientName, item.SegmentSequence[0].SegmentLabel) == ("Yamada^Tarou=山田^太郎", "肝臓")


def test_two_slices_and_a_gap_do_not_span_it(scan, tmp_path):
    heights = SCAN.origin[2] + 3.0 * np.array([2, 3, 6])
    source = structure_set(
        tmp_path / "in.dcm", ("lesion", [("CLOSED_PLANAR", circle(9, height)) for height in heights])
    )
    warp_dicom_structures(source, tmp_path / "out.dcm", reference=scan, transform=AffineTransform.identity(3))
    np.testing.assert_allclose([p[0, 2] for _, p, _ in drawn(tmp_path / "out.dcm")["lesion"]], heights)


def test_structures_that_cannot_be_brought_are_refused_or_said(scan, tmp_path, caplog):
    identity = AffineTransform.identity(3)
    crooked = circle(20, CENTER[2])
    crooked[:, 2] += np.sin(3 * ANGLES)
    out = tmp_path / "out.dcm"
    for rois, words in (
        ([("crooked", [("CLOSED_PLANAR", crooked)])], "crooked: its closed contours do not lie on parallel planes"),
        ([("none", [])], "nothing is drawn"),
    ):
        with pytest.raises(InputError, match=words):
            warp_dicom_structures(structure_set(tmp_path / "in.dcm", *rois), out, reference=scan, transform=identity)
    with pytest.raises(InputError, match="no RT structure set"):
        warp_dicom_structures(next(iter(scan.iterdir())), out, reference=scan, transform=identity)
    assert not out.exists()
    far = structure_set(tmp_path / "in.dcm", ("far", [("CLOSED_PLANAR", circle(20, CENTER[2] + 500))]))
    warp_dicom_structures(far, out, reference=scan, transform=identity)
    assert "far meets no slice" in caplog.text
    assert drawn(out)["far"] == []

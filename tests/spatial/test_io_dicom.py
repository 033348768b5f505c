"""DICOM: files, series and frames are read as they lie in space, each with its own rescale, or refused.

Images are written with pydicom (the factory below), some with GDCM. All hold values that tell their place.
"""

from __future__ import annotations

import io
import itertools
import logging
from functools import partial

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.fileset import FileSet
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MRImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    ParametricMapStorage,
    RLELossless,
    RTDoseStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
)

from samreg.errors import InputError
from samreg.spatial import Grid, as_image, read_image
from samreg.spatial.dicom.planes import read_planes

AXIAL = [1, 0, 0, 0, 1, 0]
ORIGIN = np.array([-30.0, -20.0, 100.0])
HEIGHTS = 100.0 + 3.0 * np.arange(6)
_count = itertools.count(1)


# the factory


def hu(slices=6, rows=4, columns=5):
    """Whole numbers that tell each voxel's place, (z, y, x), as CT values."""
    z, y, x = np.mgrid[:slices, :rows, :columns]
    return 100 * z + 10 * y + x - 300


def dataset(stored, *, sop=CTImageStorage, bits=None, syntax=ExplicitVRLittleEndian, **elements):
    """Return a dataset of stored pixels, (rows, columns) or (frames, rows, columns); elements go to its top level."""
    stored = np.asarray(stored)
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = syntax
    uid = f"1.2.826.0.1.{next(_count)}"
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = sop
    item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = uid
    item.StudyInstanceUID, item.SeriesInstanceUID, item.Modality = "1.2.3", "1.2.3.4", "CT"
    item.FrameOfReferenceUID = "1.2.9"
    item.Rows, item.Columns = stored.shape[-2:]
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    if stored.ndim == 3:
        item.NumberOfFrames = len(stored)
    item.BitsAllocated = 8 * stored.dtype.itemsize
    if stored.dtype.kind == "f":
        item.FloatPixelData = stored.astype("<f4").tobytes()
    else:
        item.BitsStored = bits or item.BitsAllocated
        item.HighBit, item.PixelRepresentation = item.BitsStored - 1, int(stored.dtype.kind == "i")
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        item.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
        item["PixelData"].VR = "OB" if item.BitsAllocated == 8 else "OW"
    for keyword, value in elements.items():
        if value is None:
            delattr(item, keyword)
        else:
            setattr(item, keyword, value)
    return item


def save(item, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    item.save_as(path, enforce_file_format=True)
    return path


def axial(height):
    """Return what a CT slice says of its place."""
    return {
        "ImagePositionPatient": [ORIGIN[0], ORIGIN[1], height],
        "ImageOrientationPatient": AXIAL,
        "PixelSpacing": [2.0, 1.5],
        "SliceThickness": 3.0,
    }


def write_series(folder, *, values=None, heights=HEIGHTS, slope=1.0, intercept=-1024.0, order=None, **elements):
    """Write an axial CT series; elements are values for all slices, or functions of the slice's number."""
    values = hu(len(heights)) if values is None else values
    for k in range(len(heights)) if order is None else order:
        own = {key: value(k) if callable(value) else value for key, value in elements.items()}
        lacking = [key for key, value in own.items() if value is None and key != "RescaleSlope"]
        a, b = own.pop("RescaleSlope", slope), own.pop("RescaleIntercept", intercept)
        rescale = {} if a is None else {"RescaleSlope": a, "RescaleIntercept": b, "RescaleType": "HU"}
        stored = values[k] if a is None else np.round((values[k] - b) / a)
        item = {**axial(heights[k]), "InstanceNumber": k + 1, **rescale, **own}
        item = {key: value for key, value in item.items() if key not in lacking}
        save(dataset(stored.astype(np.uint16 if b else np.int16), **item), folder / f"s{next(_count):05d}.dcm")
    return folder


MACROS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "StackID": "FrameContentSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "DimensionIndexValues": "FrameContentSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "FrameType": "CTImageFrameTypeSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "ReferencedSegmentNumber": "SegmentIdentificationSequence",
    "RealWorldValueSlope": "RealWorldValueMappingSequence",
    "RealWorldValueIntercept": "RealWorldValueMappingSequence",
}


def groups(elements):
    """Return one item of functional groups that holds elements in their macros."""
    item = Dataset()
    for keyword, value in elements.items():
        macro = MACROS[keyword]
        if macro not in item:
            setattr(item, macro, [Dataset()])
        setattr(item[macro].value[0], keyword, value)
    return item


SHARED = {"PixelSpacing": [2.0, 1.5], "SliceThickness": 3.0, "ImageOrientationPatient": AXIAL}


def enhanced(path, stored, frames, *, shared=SHARED, sop=EnhancedCTImageStorage, **elements):
    """Write a multi-frame file; ``frames`` and ``shared`` are what its functional groups say."""
    item = dataset(stored, sop=sop, **elements)
    item.SharedFunctionalGroupsSequence = [groups(shared)]
    item.PerFrameFunctionalGroupsSequence = [groups(frame) for frame in frames]
    return save(item, path)


def ct_frames(heights, slopes=None):
    """Return what the frames of an enhanced CT say."""
    slopes = np.ones(len(heights)) if slopes is None else slopes
    return [
        {
            "ImagePositionPatient": [ORIGIN[0], ORIGIN[1], height],
            "RescaleSlope": slope,
            "RescaleIntercept": -1024.0,
            "RescaleType": "HU",
        }
        for height, slope in zip(heights, slopes, strict=True)
    ]


def stored_ct(values, slopes=None):
    slopes = np.ones(len(values)) if slopes is None else np.asarray(slopes)
    return np.round((values + 1024) / slopes[:, None, None]).astype(np.uint16)


def assert_volume(image, values=None, *, step=3.0, start=100.0):
    """Check values and place of an axial volume made by the factory."""
    values = hu() if values is None else values
    assert image.array.shape == values.shape
    np.testing.assert_allclose(image.array, values, atol=1e-3)
    expected = Grid.make(values.shape, origin=(*ORIGIN[:2], start), spacing=(1.5, 2.0, step))
    assert image.grid.same_as(expected, tolerance=1e-6)


def refused(path, *words, **options):
    with pytest.raises(InputError) as caught:
        read_image(path, **options)
    for word in (str(path), *words):
        assert word in str(caught.value)


# single images and series, written by GDCM


def write_dicom(folder, array, *, uid="1.2.3.1", description="chest", heights=None, tilt=0.0, skip=(), mix=None):
    """Write axial CT slices (z, y, x) of 2.5 mm with GDCM; ``tilt`` shifts each slice sideways by so many mm."""
    folder.mkdir(exist_ok=True)
    heights = np.arange(len(array)) * 2.5 if heights is None else heights
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for i, plane in enumerate(array):
        if i in skip:
            continue
        image = sitk.GetImageFromArray(plane[None].astype(np.int16))
        image.SetSpacing((0.7, 0.8, 2.5))
        turned = mix is not None and i == mix
        tags = {
            "0008|0060": "CT",
            "0008|103e": description,
            "0020|000e": uid,
            "0020|000d": "1.2.3",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{i + 1}",
            "0020|0013": str(i + 1),
            "0020|0032": f"-100\\{-50 + tilt * i}\\{30 + heights[i]}",
            "0020|0037": "0\\1\\0\\0\\0\\-1" if turned else "1\\0\\0\\0\\1\\0",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        # names in another order than the slices
        writer.SetFileName(str(folder / f"{uid}-{len(array) - i:03d}.dcm"))
        writer.Execute(image)


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(-1000, 1000, (7, 8, 9))


def test_dicom_folder(tmp_path, volume):
    write_dicom(tmp_path / "s", volume)
    image = read_image(tmp_path / "s")
    assert np.array_equal(image.array, volume)
    assert image.array.dtype.kind == "i"
    expected = Grid.make(volume.shape, origin=(-100, -50, 30), spacing=(0.7, 0.8, 2.5))
    assert image.grid.same_as(expected)


def test_one_dicom_file(tmp_path, volume):
    write_dicom(tmp_path / "s", volume[:1])
    (path,) = (tmp_path / "s").iterdir()
    image = read_image(path)
    assert np.array_equal(image.array, volume[:1])
    path.rename(tmp_path / "IM0001")  # as scanners name them
    assert np.array_equal(read_image(tmp_path / "IM0001").array, volume[:1])


def test_a_projection_is_2d(tmp_path, volume):
    image = sitk.GetImageFromArray(volume[0].astype(np.int16))
    image.SetMetaData("0008|0060", "CR")
    image.SetMetaData("0008|0016", "1.2.840.10008.5.1.4.1.1.1")
    image.SetSpacing((0.2, 0.3))
    sitk.WriteImage(image, str(tmp_path / "xray.dcm"))
    result = read_image(tmp_path / "xray.dcm")
    assert result.ndim == 2
    assert np.array_equal(result.array, volume[0])
    assert result.spacing.tolist() == [0.2, 0.3]  # at the detector


def test_a_projection_takes_the_calibrated_pixel_size_and_shows_bone_bright(tmp_path, volume):
    image = sitk.GetImageFromArray((volume[0] + 1000).astype(np.uint16))
    tags = {"0008|0060": "DX", "0008|0016": "1.2.840.10008.5.1.4.1.1.1.1", "0028|0030": "0.1\\0.12"}
    for key, value in tags.items():
        image.SetMetaData(key, value)
    path = tmp_path / "xray.dcm"
    sitk.WriteImage(image, str(path))
    content = path.read_bytes()
    assert content.count(b"MONOCHROME2") == 1
    path.write_bytes(content.replace(b"MONOCHROME2", b"MONOCHROME1"))
    result = read_image(path)
    assert result.spacing.tolist() == [0.12, 0.1]
    assert np.array_equal(result.array, 65535 - (volume[0] + 1000))


def test_two_series_need_a_choice(tmp_path, volume):
    folder = tmp_path / "s"
    write_dicom(folder, volume, uid="1.2.3.1", description="chest soft")
    write_dicom(folder, volume[:4] + 1, uid="1.2.3.2", description="chest lung")
    refused(
        folder, "2 DICOM series", "1.2.3.1", "'chest soft', 7 slices", "'chest lung', 4 slices", "series=", "--series"
    )
    for series in ("1.2.3.2", 2, "2", "LUNG"):
        assert np.array_equal(read_image(folder, series=series).array, volume[:4] + 1)
    assert read_image(folder, series="soft").shape == (7, 8, 9)
    refused(folder, "2 series match 'chest'", series="chest")
    refused(folder, "no series match 'abdomen'", series="abdomen")
    refused(folder, "no series match '3'", series=3)


def test_a_missing_slice_is_named(tmp_path, volume):
    write_dicom(tmp_path / "s", volume, skip=(3,))
    refused(tmp_path / "s", "1 slices missing", "1.2.3.1-005.dcm", "1.2.3.1-003.dcm", "5.000 mm", "2.500 mm")


def test_uneven_slices_are_mentioned(tmp_path, volume, caplog):
    heights = np.arange(7) * 2.5
    heights[3] += 0.2
    write_dicom(tmp_path / "s", volume, heights=heights)
    with caplog.at_level(logging.WARNING):
        image = read_image(tmp_path / "s")
    assert "uneven slices" in caplog.text
    assert image.spacing[2] == pytest.approx(2.5)


def test_doubled_slices_are_refused(tmp_path, volume):
    write_dicom(tmp_path / "s", volume, heights=np.repeat(np.arange(4), 2)[:7] * 2.5)
    refused(tmp_path / "s", "several slices lie at", "time series")


def test_mixed_orientations_are_refused(tmp_path, volume):
    write_dicom(tmp_path / "s", volume, mix=3)
    refused(tmp_path / "s")


def test_a_tilted_gantry_is_resampled(tmp_path, caplog):
    plane = np.zeros((20, 12), np.int16)
    plane[10] = 1000  # a bar that the tilt moves 0.5 mm back with every slice
    write_dicom(tmp_path / "s", np.repeat(plane[None], 9, axis=0), tilt=0.5)
    image = read_image(tmp_path / "s")
    assert "sheared" in caplog.text
    bright = image.grid.world_points()[image.array > 700]
    slope = np.polyfit(bright[:, 2], bright[:, 1], 1)[0]
    assert slope == pytest.approx(0.5 / 2.5, abs=0.05)


def test_folders_without_dicom(tmp_path):
    refused(tmp_path, "no DICOM images", "nothing")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "sub").mkdir()
    refused(tmp_path, "no DICOM images", "notes.txt", "sub")


# series: what each slice says is heeded


def test_an_even_series_is_read_without_a_word(tmp_path, caplog):
    image = read_image(write_series(tmp_path / "s"))
    assert_volume(image)
    assert image.array.dtype == np.int32  # 16 bits less 1024
    assert not caplog.text


@given(order=st.permutations(range(6)), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_files_and_frames_in_any_order_are_one_volume(scratch, order, seed):
    folder = scratch / f"{next(_count)}"
    numbers = np.random.default_rng(seed).permutation(6)
    assert_volume(read_image(write_series(folder / "s", order=order, InstanceNumber=lambda k: int(numbers[k]))))
    frames = [ct_frames(HEIGHTS)[k] for k in order]
    assert_volume(read_image(enhanced(folder / "e.dcm", stored_ct(hu()[list(order)]), frames)))


@pytest.mark.parametrize("seed", range(4))
def test_oblique_series_lie_where_their_headers_say(tmp_path, seed):
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    normal = np.cross(axes[:, 0], axes[:, 1])
    position = lambda k: (ORIGIN + 2.5 * k * normal).tolist()  # noqa: E731
    orientation = axes[:, :2].T.ravel().tolist()
    folder = write_series(tmp_path / "s", ImagePositionPatient=position, ImageOrientationPatient=orientation)
    image = read_image(folder)
    for k, j, i in ((0, 0, 0), (5, 3, 4), (2, 1, 3)):
        world = position(k) + axes[:, 0] * 1.5 * i + axes[:, 1] * 2.0 * j
        index = image.grid.world_to_index(world)[0]
        np.testing.assert_allclose(index, (i, j, k), atol=1e-3)
        assert image.array[k, j, i] == hu()[k, j, i]


@pytest.mark.parametrize("digits", [2, 3])
def test_rounded_axes_are_no_shear(tmp_path, caplog, digits):
    """Rows and columns that exporters round are off perpendicular by more than a grid takes."""
    rotation = np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))[0]
    axes = np.round(rotation[:2], digits)
    if digits == 2:
        assert abs(axes[0] @ axes[1]) > 1e-3
    positions = 3 * np.arange(6)[:, None] * np.cross(*axes)
    write_series(
        tmp_path / "s",
        ImagePositionPatient=lambda k: [f"{value:.4f}" for value in positions[k]],
        ImageOrientationPatient=[f"{value:.{digits}f}" for value in axes.ravel()],
    )
    image = read_image(tmp_path / "s")
    assert "sheared" not in caplog.text
    np.testing.assert_array_equal(image.array, hu())
    np.testing.assert_allclose(image.direction[:, :2].T, axes, atol=10.0**-digits)


def test_each_slice_has_its_own_rescale(tmp_path):
    slopes, intercepts = [1, 0.5, 1, 2, 0.25, 1], [-1024, -1024, -1000, -1024, -2000, 0]
    folder = write_series(
        tmp_path / "s", RescaleSlope=lambda k: slopes[k], RescaleIntercept=lambda k: intercepts[k],
        values=2 * np.round(hu() / 2) + 400,
    )  # fmt: skip
    assert_volume(read_image(folder), 2 * np.round(hu() / 2) + 400)


def test_values_of_two_kinds_are_refused(tmp_path):
    folder = write_series(tmp_path / "types", RescaleType=lambda k: "HU" if k else "ED")
    refused(folder, "different kinds", "ED (s", "HU (s")
    folder = write_series(tmp_path / "silent", RescaleSlope=lambda k: 1.0 if k else None)
    refused(folder, "states no rescale", "RescaleSlope")
    refused(write_series(tmp_path / "zero", slope=1, RescaleSlope=1, RescaleType="HU", order=[0]).parent / "x")


def test_pet_of_two_units_is_refused(tmp_path):
    pet = {"Modality": "PT", "RescaleType": None, "intercept": 0.0, "values": hu() + 300}
    write_series(tmp_path / "one", Units="BQML", **pet)
    assert read_image(tmp_path / "one").array.max() == 534
    write_series(tmp_path / "two", Units=lambda k: "BQML" if k < 3 else "CNTS", **pet)
    refused(tmp_path / "two", "of different kinds: BQML", "CNTS")


def test_a_slope_of_zero_is_refused(tmp_path):
    item = dataset(np.zeros((4, 5), np.int16), RescaleSlope=0, RescaleIntercept=-1024, **axial(0))
    refused(save(item, tmp_path / "a.dcm"), "rescale slope", "is 0")


def test_a_jump_sideways_is_refused(tmp_path):
    position = lambda k: [ORIGIN[0] + 25 * (k >= 3), ORIGIN[1], HEIGHTS[k]]  # noqa: E731
    refused(
        write_series(tmp_path / "s", ImagePositionPatient=position), "no straight line", "jump sideways by 25.00 mm"
    )
    one = lambda k: [ORIGIN[0], ORIGIN[1] + 4 * (k == 2), HEIGHTS[k]]  # noqa: E731
    refused(write_series(tmp_path / "one", ImagePositionPatient=one), "no straight line", "4.00 mm")


def test_positions_off_their_line_by_rounding_make_no_tilt(tmp_path, caplog):
    position = lambda k: [ORIGIN[0] + [0, 0.3, -0.3, 0.2, -0.2, 0.3][k], ORIGIN[1], HEIGHTS[k]]  # noqa: E731
    image = read_image(write_series(tmp_path / "s", ImagePositionPatient=position))
    assert np.array_equal(image.array, hu())
    np.testing.assert_allclose(image.origin, (ORIGIN[0] + 0.05, *ORIGIN[1:]))
    assert "off their line by up to 0.35 mm" in caplog.text


def test_a_drift_steeper_than_any_gantry_is_refused(tmp_path):
    position = lambda k: [ORIGIN[0] + 4 * k, ORIGIN[1], HEIGHTS[k]]  # noqa: E731
    refused(write_series(tmp_path / "s", ImagePositionPatient=position), "53 degrees off their normal")


def test_a_tilt_in_the_header_alone_is_mentioned(tmp_path, caplog):
    assert_volume(read_image(write_series(tmp_path / "s", GantryDetectorTilt=15)))
    assert "states a gantry tilt of 15 degrees, the positions none" in caplog.text


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"PixelSpacing": lambda k: [2.0, 1.5] if k < 3 else [1.0, 0.75]}, ["1.5 x 2 mm, 3 slices", "0.75 x 1 mm"]),
        ({"ImageOrientationPatient": lambda k: AXIAL if k != 2 else [0, 1, 0, 0, 0, -1]}, ["rows along (0, 1, 0)"]),
        ({"ImageOrientationPatient": lambda k: AXIAL if k < 3 else [-1, 0, 0, 0, -1, 0]}, ["rows along (-1, 0, 0)"]),
        ({"FrameOfReferenceUID": lambda k: "1.2.9" if k < 2 else "1.2.10"}, ["frame of reference 1.2.10, 4 slices"]),
        ({"TemporalPositionIdentifier": lambda k: k % 2 + 1}, ["temporal position 1, 3 slices"]),
        ({"AcquisitionNumber": lambda k: k % 2 + 1}, ["acquisition 2, 3 slices"]),
    ],
)
def test_slices_of_several_images_in_one_series_need_a_choice(tmp_path, elements, words):
    refused(write_series(tmp_path / "s", **elements), "2 stacks of slices", "series=", "--series", *words)


def test_a_part_is_chosen_by_number_or_description(tmp_path):
    folder = write_series(tmp_path / "s", PixelSpacing=lambda k: [2.0, 1.5] if k < 3 else [1.0, 0.75])
    image = read_image(folder, series=1)
    assert_volume(image, hu()[:3])
    assert image.name == f"{folder} (pixels of 1.5 x 2 mm)"
    assert read_image(folder, series="0.75 x 1").spacing.tolist() == [0.75, 1.0, 3.0]
    refused(folder, "2 stacks match 'pixels'", series="pixels")
    refused(folder, "no stacks match '3'", series=3)


def test_a_number_is_that_of_a_part_though_the_description_holds_it_too(tmp_path):
    """Many descriptions hold a slice thickness or a phase: "Thorax 2.0", "CT 1"."""
    folder = write_series(tmp_path / "s", SeriesDescription="Thorax 2.0", TemporalPositionIdentifier=lambda k: k % 2)
    assert_volume(read_image(folder, series=2), hu()[1::2], step=6.0, start=103.0)
    refused(folder, "2 stacks of slices", series="Thorax")  # names the series, and no part of it
    whole = write_series(tmp_path / "whole", SeriesDescription="Thorax 2.0")
    assert_volume(read_image(whole, series=2))
    assert_volume(read_image(whole, series="thorax"))


def test_a_part_of_one_series_of_several(tmp_path):
    folder = write_series(tmp_path / "s", SeriesInstanceUID="1.2.3.1", SeriesDescription="head")
    write_series(folder, SeriesInstanceUID="1.2.3.2", heights=HEIGHTS[:4], TemporalPositionIdentifier=lambda k: k % 2)
    assert_volume(read_image(folder, series=1))
    refused(folder, "2.1: temporal position 0, 2 slices", "2.2: temporal position 1", series=2)
    assert_volume(read_image(folder, series="2.2"), hu()[1:4:2], step=6.0, start=103.0)


def test_a_localiser_is_no_slice(tmp_path):
    folder = write_series(tmp_path / "s")
    sagittal = {**axial(0), "ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "InstanceNumber": 0}
    save(dataset(np.zeros((9, 9), np.int16), **sagittal), folder / "scout.dcm")
    refused(folder, "1: 9 x 9 pixels, 1 slices", "2: 5 x 4 pixels, 6 slices")
    assert_volume(read_image(folder, series=2))


def test_a_picture_among_slices_is_no_slice(tmp_path):
    folder = write_series(tmp_path / "s")
    save(dataset(np.zeros((4, 5), np.int16), InstanceNumber=99), folder / "report.dcm")
    refused(folder, "6 slices", "without a place in space")
    assert_volume(read_image(folder, series=1))


def test_a_frame_of_reference_for_each_slice_is_careless_not_wrong(tmp_path, caplog):
    assert_volume(read_image(write_series(tmp_path / "s", FrameOfReferenceUID=lambda k: f"1.2.9.{k + 1}")))
    assert "frame of reference of its own" in caplog.text


def own(prefix):
    """Return UIDs, another for each slice."""
    return lambda k: f"{prefix}.{k + 1}"


@pytest.mark.parametrize(("keyword", "name"), [("PatientID", "patient"), ("StudyInstanceUID", "study")])
def test_slices_of_two_patients_or_studies_are_no_volume(tmp_path, keyword, name):
    write_series(tmp_path / "two", **{keyword: lambda k: f"1.2.{k // 3}"})
    refused(tmp_path / "two", "2 stacks of slices", f"1: {name} 1.2.0, 3 slices", f"2: {name} 1.2.1, 3 slices")
    write_series(tmp_path / "each", **{keyword: lambda k: f"1.2.{k}"})
    assert any(f"each slice has a {name} of its own" in remark for remark in read_image(tmp_path / "each").remarks)


def test_slices_that_have_a_series_each_are_read_as_one_volume_and_it_is_said(tmp_path, caplog):
    folder = write_series(tmp_path / "s", order=[3, 0, 5, 1, 4, 2], SeriesInstanceUID=own("1.2.3.4"))
    image = read_image(folder)
    assert_volume(image)
    assert "each of 6 slices has a series of its own" in caplog.text
    write_series(folder, SeriesInstanceUID="1.2.3.3", SeriesDescription="lung", values=hu() + 1)
    refused(folder, "2 DICOM series", "1: 1.2.3.3  'lung', 6 slices", "2: 6 series UIDs  '', 6 slices")
    for series in (2, "1.2.3.4.2"):
        assert np.array_equal(read_image(folder, series=series).array, image.array)
    assert np.array_equal(read_image(folder, series="lung").array, image.array + 1)


@pytest.mark.parametrize(
    "change",
    [
        {"heights": np.repeat(HEIGHTS[:3], 2)},  # two phases
        {"heights": HEIGHTS[[0, 1, 2, 3, 4, 4]]},
        {"heights": HEIGHTS[[0, 1, 2, 3, 5]]},  # a gap
        {"heights": HEIGHTS[:4]},  # few
        {"TemporalPositionIdentifier": lambda k: k % 2},  # phases that lie between each other
        {"ImageOrientationPatient": lambda k: AXIAL if k else [0, 1, 0, 0, 0, -1]},
        {"PixelSpacing": lambda k: [2.0, 1.5 + k // 3]},
        {"SeriesDescription": lambda k: f"phase {k // 3}"},
        {"FrameOfReferenceUID": lambda k: f"1.2.9.{k // 3}"},
        {"FrameOfReferenceUID": own("1.2.9")},
        {"StudyInstanceUID": own("1.2.3")},
        {"ImagePositionPatient": None},
    ],
)
def test_slices_that_have_a_series_each_are_not_joined_where_they_may_be_several_images(tmp_path, change):
    folder = write_series(tmp_path / "s", SeriesInstanceUID=own("1.2.3.4"), **change)
    count = len(list(folder.iterdir()))
    refused(folder, f"{count} DICOM series", *(["write one SeriesInstanceUID"] if count > 4 else []))
    assert read_image(folder, series=1).shape in ((1, 4, 5), (4, 5))


def test_a_damaged_slice_among_slices_with_a_series_each_is_named_when_it_is_chosen(tmp_path):
    folder = write_series(tmp_path / "s", SeriesInstanceUID=own("1.2.3.4"), RescaleSlope=lambda k: 1.0 * (k != 3))
    refused(folder, "6 DICOM series")
    refused(folder, "slope", series=4)


def test_acquisitions_one_after_the_other_are_one_stack(tmp_path, caplog):
    assert_volume(read_image(write_series(tmp_path / "s", AcquisitionNumber=lambda k: 1 + k // 2)))
    assert not caplog.text


def test_mr_slices_acquired_in_turns_are_one_stack(tmp_path):
    folder = write_series(
        tmp_path / "s", sop=MRImageStorage, Modality="MR", AcquisitionNumber=lambda k: k % 2, slope=None, intercept=0,
        EchoTime=lambda k: 2.5,
    )  # fmt: skip
    assert_volume(read_image(folder))


def test_two_echoes_at_the_same_places(tmp_path):
    folder = write_series(tmp_path / "s", heights=np.repeat(HEIGHTS[:3], 2), EchoTime=lambda k: [30.0, 80.0][k % 2])
    refused(folder, "echo time (ms) 30, 3 slices", "echo time (ms) 80, 3 slices")
    assert_volume(read_image(folder, series="80"), hu()[1::2])


@pytest.mark.parametrize(
    "key",
    [
        "AcquisitionTime",
        "ContrastBolusAgent",
        "ConvolutionKernel",
        "StudyInstanceUID",
        "SeriesDescription",
        "ImageComments",
    ],
)
def test_doubles_are_told_apart_by_what_differs(tmp_path, key):
    name = {"AcquisitionTime": "1015", "StudyInstanceUID": "1.5"}
    folder = write_series(
        tmp_path / "s", heights=np.repeat(HEIGHTS[:3], 2), **{key: lambda k: f"{name.get(key, 'x')}{k % 2:02d}"}
    )
    refused(folder, "2 stacks of slices", "00, 3 slices", "01, 3 slices")
    assert_volume(read_image(folder, series=2), hu()[1::2])


def test_a_phase_that_misses_a_slice_is_refused_when_chosen(tmp_path):
    heights = [100, 103, 106, 109, 100, 103, 109]
    folder = write_series(tmp_path / "s", heights=heights, TemporalPositionIdentifier=lambda k: 1 + k // 4)
    refused(folder, "temporal position 1, 4 slices", "temporal position 2, 3 slices")
    assert_volume(read_image(folder, series=1), hu()[:4])
    refused(folder, "slices missing", series=2)


def test_a_copy_of_one_slice_is_refused(tmp_path):
    folder = write_series(tmp_path / "s")
    first = sorted(folder.iterdir())[0]
    (folder / "copy.dcm").write_bytes(first.read_bytes())
    refused(folder, "several slices lie at 100.00 mm", "copy.dcm", first.name, "keep one of each")


@pytest.mark.parametrize(("step", "unit"), [(2.5, 1.0), (0.625, 0.1), (1.25, 0.1), (3.3, 1.0)])
def test_rounded_positions_are_accepted_and_said(tmp_path, caplog, step, unit):
    heights = np.round(step * np.arange(12) / unit) * unit
    image = read_image(write_series(tmp_path / "s", heights=heights))
    assert image.spacing[2] == pytest.approx(step, rel=0.02)
    np.testing.assert_allclose(image.origin[2] + step * np.arange(12), heights, atol=0.65 * unit)
    assert "uneven slices" in caplog.text


def test_rounding_that_looks_like_missing_slices_needs_the_stated_distance(tmp_path, caplog):
    heights = np.round(1.4 * np.arange(12))  # 0, 1, 3, 4, 6, ...
    refused(write_series(tmp_path / "unsaid", heights=heights), "slices missing, or uneven")
    image = read_image(write_series(tmp_path / "said", heights=heights, SpacingBetweenSlices=1.4))
    assert image.spacing[2] == pytest.approx(1.4, rel=0.02)
    assert "rounded by up to" in caplog.text


def test_the_stated_distance_never_takes_the_place_of_positions(tmp_path):
    assert_volume(read_image(write_series(tmp_path / "s", SpacingBetweenSlices=5.0, SliceThickness=1.0)))


def test_slow_changes_of_the_distance_do_not_add_up_unseen(tmp_path):
    heights = np.concatenate([[0], np.cumsum([1.0] * 20 + [1.2] * 20)])
    image = read_image(write_series(tmp_path / "s", heights=heights, values=hu(41) // 10))
    for k in (0, 10, 20, 30, 40):  # every slice is found at its height, though the mean distance would move it by 2 mm
        index = (heights[k] - image.origin[2]) / image.spacing[2]
        below = int(np.floor(index + 1e-6))
        above = min(below + 1, image.shape[0] - 1)
        assert image.array[below].mean() - 1 <= (hu(41) // 10)[k].mean() <= image.array[above].mean() + 1


def test_a_series_of_two_distances_is_interpolated(tmp_path, caplog):
    heights = [0, 1, 2, 3, 4, 9, 14, 19]
    image = read_image(write_series(tmp_path / "s", heights=heights))
    assert "the slice distance changes (1 and 5 mm); slices are interpolated every 1 mm" in caplog.text
    assert image.shape[0] == 20
    assert image.spacing[2] == 1.0
    assert np.array_equal(image.array[heights], hu(8))
    assert np.array_equal(image.array[6], np.rint(hu(8)[4] * 0.6 + hu(8)[5] * 0.4))


def test_distances_without_a_common_multiple_keep_every_slice(tmp_path):
    heights = np.array([0, 3, 6, 9, 14, 19, 24.0])
    image = read_image(write_series(tmp_path / "s", heights=heights))
    assert image.spacing[2] == pytest.approx(1.0)
    assert np.array_equal(image.array[heights.astype(int)], hu(7))


@pytest.mark.parametrize(
    ("heights", "why"),
    [
        ([0, 3, 6, 12, 15, 18], ": 1 slices missing, or uneven: "),
        ([0, 3, 6, 9, 9.2, 12], ": slices missing, or uneven: "),
        ([0, 1, 2, 7, 12], "slices missing, or uneven: "),
        ([0, 2, 7, 8, 13, 20], "slices missing, or uneven: "),
        ([0, 1, 3], ": slices missing, or uneven: "),
    ],
)
def test_gaps_and_uneven_slices_are_refused(tmp_path, heights, why):
    refused(write_series(tmp_path / "s", heights=np.asarray(heights, float)), why)


def test_what_cannot_be_a_place_is_refused(tmp_path):
    for name, elements, word in (
        ("axes", {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "perpendicular"),
        ("position", {"ImagePositionPatient": ["0", "0", "nan"]}, "finite"),
        ("size", {"PixelSpacing": [2.0, 0.0]}, "true pixel size"),
        ("no size", {"PixelSpacing": None}, "states no pixel size"),
        ("no axes", {"ImageOrientationPatient": None}, "no ImageOrientationPatient"),
        ("mosaic", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
    ):
        refused(write_series(tmp_path / name, **elements), word)
    assert_volume(read_image(tmp_path / "no size", spacing=(1.5, 2.0, 3.0)))
    assert_volume(read_image(tmp_path / "size", spacing=(1.5, 2.0, 3.0)))


# many frames in a file


def test_frames_are_sorted_and_rescaled_each(tmp_path):
    slopes = [1, 1, 0.5, 0.25, 1, 0.5]
    order = [0, 3, 1, 4, 2, 5]
    frames = [ct_frames(HEIGHTS, slopes)[k] for k in order]
    image = read_image(enhanced(tmp_path / "e.dcm", stored_ct(hu(), slopes)[order], frames))
    assert_volume(image)
    assert image.array.dtype == np.float32


def test_frames_from_head_to_foot(tmp_path):
    path = enhanced(tmp_path / "e.dcm", stored_ct(hu()[::-1]), ct_frames(HEIGHTS[::-1]))
    assert_volume(read_image(path))
    assert_volume(read_image(tmp_path))  # the folder that holds it


def test_a_gap_between_frames_is_refused(tmp_path):
    path = enhanced(tmp_path / "e.dcm", stored_ct(hu()), ct_frames([100, 103, 106, 118, 121, 124]))
    refused(path, "3 slices missing", "frame 3 of e.dcm", "12.000 mm, elsewhere 3.000 mm")


@pytest.mark.parametrize("key", ["TemporalPositionIndex", "StackID", "NominalPercentageOfCardiacPhase", "FrameType"])
def test_phases_in_one_file_need_a_choice(tmp_path, key):
    order = np.random.default_rng(0).permutation(6)
    heights = np.tile(HEIGHTS[:3], 2)
    mark = {"StackID": "{}", "FrameType": "PHASE{}"}.get(key)
    frames = [
        {**frame, key: mark.format(1 + k // 3) if mark else 1 + k // 3} for k, frame in enumerate(ct_frames(heights))
    ]
    path = enhanced(tmp_path / "e.dcm", stored_ct(hu()[order]), [frames[k] for k in order])
    refused(path, "2 stacks of slices", "1, 3 slices", "2, 3 slices", "series=")
    later = next(s for s in (1, 2) if "2" in read_image(path, series=s).name.split("(")[-1])
    assert_volume(read_image(path, series=later), hu()[3:])


def test_phases_that_lie_between_each_other_are_no_finer_stack(tmp_path):
    frames = [{**f, "TemporalPositionIndex": 1 + k % 2} for k, f in enumerate(ct_frames(HEIGHTS))]
    refused(enhanced(tmp_path / "e.dcm", stored_ct(hu()), frames), "temporal position 1, 3 slices")


def test_phases_that_nothing_tells_apart_go_by_their_order(tmp_path):
    frames = [{**f, "DimensionIndexValues": [1, k + 1]} for k, f in enumerate(ct_frames(np.tile(HEIGHTS[:3], 2)))]
    path = enhanced(tmp_path / "e.dcm", stored_ct(hu()), frames)
    refused(path, "repetition 1", "repetition 2 (in the order of the series), 3 slices")
    assert_volume(read_image(path, series="repetition 2"), hu()[3:])


def two_phases(folder, names, **elements):
    """Write two phases of three slices that are numbered alike, to files of these names, first all of the first."""
    written = write_series(
        folder / "s", heights=np.tile(HEIGHTS[:3], 2), InstanceNumber=lambda k: k % 3 + 1,
        **{key: partial(lambda k, of: of[k // 3], of=of) for key, of in elements.items()},
    )  # fmt: skip
    for path, name in zip(sorted(written.iterdir()), names, strict=True):
        path.rename(written / name)
    return written


MADE_UP = ["e7.dcm", "1b.dcm", "40.dcm", "a2.dcm", "9c.dcm", "05.dcm"]  # names as hashes are


@pytest.mark.parametrize(
    ("key", "values", "second"),
    [
        ("KVP", [80, 140], "140"),
        ("ImageComments", ["T=0%", "T=50%"], "t=50%"),
        ("SeriesNumber", [4, 5], "series number 5"),
        ("SeriesDescription", ["rest", "stress"], "stress"),
        ("ContentTime", ["101500", "101530"], "content time 101530"),
    ],
)
def test_phases_numbered_alike_are_told_apart_by_what_their_slices_say(tmp_path, key, values, second):
    folder = two_phases(tmp_path, MADE_UP, **{key: values})
    assert_volume(read_image(folder, series=second), hu()[3:])


def test_phases_that_only_made_up_file_names_tell_apart_are_never_mixed(tmp_path):
    refused(two_phases(tmp_path, MADE_UP), "several slices lie at", "a time series, or copies?")
    refused(two_phases(tmp_path / "again", MADE_UP), "several slices lie at", series=1)


@pytest.mark.parametrize("names", [range(8, 14), (1, 3, 5, 2, 4, 6)])
def test_phases_numbered_alike_go_by_file_names_that_follow_an_order(tmp_path, names):
    """One phase after the other, or slice by slice; IM8, IM9, IM10 by their numbers."""
    folder = two_phases(tmp_path, [f"IM{number}" for number in names])
    assert_volume(read_image(folder, series="repetition 2"), hu()[3:])


def test_phases_by_the_dimensions_of_the_file(tmp_path):
    item = dataset(stored_ct(hu()), sop=EnhancedCTImageStorage)
    frames = [
        {**f, "DimensionIndexValues": [k % 3 + 1, k // 3 + 1]} for k, f in enumerate(ct_frames(np.tile(HEIGHTS[:3], 2)))
    ]
    item.DimensionIndexSequence = [Dataset(), Dataset()]
    for dimension, pointer in zip(item.DimensionIndexSequence, (0x00200032, 0x00189306), strict=True):
        dimension.DimensionIndexPointer = pointer
    item.SharedFunctionalGroupsSequence = [groups(SHARED)]
    item.PerFrameFunctionalGroupsSequence = [groups(frame) for frame in frames]
    path = save(item, tmp_path / "e.dcm")
    refused(path, "dimension 2 (SingleCollimationWidth) 1, 3 slices")
    assert_volume(read_image(path, series=2), hu()[3:])


def test_two_stacks_of_other_orientation(tmp_path):
    sagittal = [0, 1, 0, 0, 0, -1]
    frames = ct_frames(HEIGHTS)
    for k in range(3, 6):
        frames[k] |= {"ImagePositionPatient": [3.0 * k, 0, 0], "ImageOrientationPatient": sagittal, "StackID": "2"}
    path = enhanced(tmp_path / "e.dcm", stored_ct(hu()), frames)
    refused(path, "rows along (1, 0, 0)", "rows along (0, 1, 0), columns along (0, 0, -1)")
    assert_volume(read_image(path, series=1), hu()[:3])
    other = read_image(path, series=2)
    assert np.array_equal(other.array, hu()[3:][::-1])  # along the normal, to the right
    np.testing.assert_allclose(other.origin, [15, 0, 0])
    np.testing.assert_allclose(other.direction[:, 2], [-1, 0, 0])


def test_frames_of_two_pixel_sizes_or_off_the_line(tmp_path):
    frames = [{**f, "PixelSpacing": [2.0, 1.5] if k < 3 else [1, 1]} for k, f in enumerate(ct_frames(HEIGHTS))]
    refused(enhanced(tmp_path / "p.dcm", stored_ct(hu()), frames), "pixels of 1.5 x 2 mm, 3 slices")
    frames = ct_frames(HEIGHTS)
    frames[3]["ImagePositionPatient"] = [ORIGIN[0] + 2, ORIGIN[1], HEIGHTS[3]]
    refused(enhanced(tmp_path / "s.dcm", stored_ct(hu()), frames), "no straight line")


def test_functional_groups_come_before_the_top_level(tmp_path):
    path = enhanced(
        tmp_path / "e.dcm", stored_ct(hu()), ct_frames(HEIGHTS), ImagePositionPatient=[0, 0, 0], PixelSpacing=[9, 9],
        RescaleSlope=7, RescaleIntercept=7, SpacingBetweenSlices=9,
    )  # fmt: skip
    assert_volume(read_image(path))


def test_places_in_the_frames_and_the_rest_at_the_top_level(tmp_path):
    frames = [{"ImagePositionPatient": f["ImagePositionPatient"]} for f in ct_frames(HEIGHTS)]
    rest = {**SHARED, "RescaleSlope": 1, "RescaleIntercept": -1024}
    assert_volume(read_image(enhanced(tmp_path / "e.dcm", stored_ct(hu()), frames, shared={}, **rest)))


def test_files_of_frames_are_one_series(tmp_path):
    """Large multi-frame images are stored in several files, a concatenation."""
    for part in range(2):
        chosen = slice(3 * part, 3 * part + 3)
        enhanced(tmp_path / f"{part}.dcm", stored_ct(hu()[chosen]), ct_frames(HEIGHTS[chosen]))
    assert_volume(read_image(tmp_path))
    enhanced(tmp_path / "2.dcm", stored_ct(hu()), ct_frames(HEIGHTS))
    refused(tmp_path, "file 2.dcm, 6 slices")


def test_a_frame_without_a_place_is_named(tmp_path):
    frames = ct_frames(HEIGHTS)
    del frames[2]["ImagePositionPatient"]
    refused(enhanced(tmp_path / "e.dcm", stored_ct(hu()), frames), "frame 3 of e.dcm states no ImagePositionPatient")


def test_frames_that_are_not_described_or_not_there(tmp_path):
    refused(enhanced(tmp_path / "d.dcm", stored_ct(hu()), ct_frames(HEIGHTS[:5])), "states 6 frames and describes 5")
    for count in (5, 7):
        path = enhanced(tmp_path / "n.dcm", stored_ct(hu()), ct_frames(3.0 * np.arange(count)), NumberOfFrames=count)
        refused(path, f"states {count} frames of 4 x 5 pixels", "holds 240")
    refused(save(dataset(stored_ct(hu()), NumberOfFrames=0), tmp_path / "z.dcm"), "states 0 frames")
    path = enhanced(tmp_path / "cut.dcm", stored_ct(hu()), ct_frames(HEIGHTS))
    path.write_bytes(path.read_bytes()[:-50])
    refused(path, "is it complete?")


def test_a_file_of_one_frame_is_a_slice(tmp_path):
    path = enhanced(tmp_path / "e.dcm", stored_ct(hu()[:1]), ct_frames(HEIGHTS[:1]))
    assert_volume(read_image(path), hu()[:1])


# frames that share one place


PLACE = {"ImagePositionPatient": ORIGIN.tolist(), "ImageOrientationPatient": AXIAL, "PixelSpacing": [2.0, 1.5]}
RESCALED = {"RescaleSlope": 1, "RescaleIntercept": -1024}
MULTI = MultiFrameGrayscaleWordSecondaryCaptureImageStorage


@pytest.mark.parametrize("sign", [1, -1])
def test_frames_are_stacked_by_the_stated_distance(tmp_path, caplog, sign):
    """A negative distance stacks against the normal (PS3.3 C.8.4.15)."""
    item = dataset(stored_ct(hu()), sop=MULTI, SpacingBetweenSlices=3.0 * sign, **PLACE, **RESCALED)
    image = read_image(save(item, tmp_path / "m.dcm"))
    assert_volume(image, hu()[::sign], start=100 if sign > 0 else 85)
    assert "stacked" in caplog.text


def test_a_thickness_is_no_distance(tmp_path):
    path = save(dataset(stored_ct(hu()), SliceThickness=3.0, **PLACE, **RESCALED), tmp_path / "cone-beam.dcm")
    refused(path, "how far apart its 6 frames lie (only that they are 3 mm thick)", "give spacing=")
    assert_volume(read_image(path, spacing=(1.5, 2.0, 3.0)))


def test_frames_that_lie_nowhere(tmp_path, caplog):
    path = save(dataset(stored_ct(hu()), sop=MULTI, **RESCALED), tmp_path / "m.dcm")
    refused(path, "6 pictures without a place in space", "give spacing=", "from 1 to 6")
    image = read_image(path, spacing=(1.5, 2.0, 3.0))
    assert np.array_equal(image.array, hu())
    assert image.spacing.tolist() == [1.5, 2.0, 3.0]
    assert "axial slices from foot to head are assumed" in caplog.text
    picture = read_image(path, series=2, spacing=0.3)
    assert np.array_equal(picture.array, hu()[1])
    assert picture.spacing.tolist() == [0.3, 0.3]
    refused(path, "states no pixel size", series=2)


@pytest.mark.parametrize("sop", [UltrasoundMultiFrameImageStorage, XRayAngiographicImageStorage])
def test_a_film_is_no_volume(tmp_path, sop):
    item = dataset(
        stored_ct(hu()), sop=sop, FrameTime=33, FrameIncrementPointer=0x00181063, ImagerPixelSpacing=[0.4, 0.3]
    )
    item.Modality = "XA"
    path = save(item, tmp_path / "film.dcm")
    for options in ({}, {"spacing": 0.3}, {"spacing": (0.3, 0.4, 1.0)}):
        refused(path, "they follow each other in time or angle", **options)
    picture = read_image(path, series=3)
    assert picture.spacing.tolist() == [0.3, 0.4]
    assert np.array_equal(picture.array, stored_ct(hu())[2])


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("absolute", [False, True])
def test_dose_grids(tmp_path, down, absolute):
    offsets = (3.0 * np.arange(6) * (-1 if down else 1)) + (ORIGIN[2] if absolute else 0)
    item = dataset(
        (hu() + 400).astype(np.uint32), sop=RTDoseStorage, Modality="RTDOSE", DoseGridScaling=0.01, DoseUnits="GY",
        GridFrameOffsetVector=offsets.tolist(), FrameIncrementPointer=0x3004000C, **PLACE,
    )  # fmt: skip
    image = read_image(save(item, tmp_path / "dose.dcm"))
    assert_volume(image, (hu()[:: -1 if down else 1] + 400) * 0.01, start=85 if down else 100)
    assert "a dose in GY, which shows no anatomy" in image.remarks[0]
    del item.DoseGridScaling
    assert "states no DoseGridScaling" in read_image(save(item, tmp_path / "unscaled.dcm")).remarks[0]


def test_uneven_and_undefined_dose_grids_are_refused(tmp_path):
    for offsets, word in (
        ([0, 3, 6, 12, 15, 18], "uneven"),
        ([5, 8, 11, 14, 17, 20], "neither 0 nor"),
        ([0, 3], "6 finite"),
    ):
        item = dataset(stored_ct(hu()), sop=RTDoseStorage, GridFrameOffsetVector=offsets, DoseGridScaling=1, **PLACE)
        refused(save(item, tmp_path / "dose.dcm"), word)


def test_nuclear_medicine(tmp_path):
    place = {key: PLACE[key] for key in ("ImagePositionPatient", "ImageOrientationPatient")}
    item = dataset(stored_ct(hu()), sop=NuclearMedicineImageStorage, Modality="NM", PixelSpacing=[2.0, 1.5])
    item.update({"SpacingBetweenSlices": -3.0, "SliceVector": [1, 2, 3] * 2, "PhaseVector": [1] * 3 + [2] * 3})
    item.DetectorInformationSequence = [Dataset()]
    item.DetectorInformationSequence[0].update(place)
    path = save(item, tmp_path / "nm.dcm")
    refused(path, "phase 1, 3 slices", "phase 2, 3 slices")
    assert_volume(read_image(path, series=2), stored_ct(hu())[3:][::-1], start=94)


def segmentation(path, masks, places, segments, **shared):
    """Write a segmentation of frames (N, rows, columns) at heights, each of a segment, numbered from 1."""
    frames = [
        {"ImagePositionPatient": [*ORIGIN[:2], height], "ReferencedSegmentNumber": segment}
        for height, segment in zip(places, segments, strict=True)
    ]
    item = dataset(masks.astype(np.uint8), sop=SegmentationStorage, Modality="SEG")
    item.BitsAllocated, item.BitsStored, item.HighBit = 1, 1, 0
    item.PixelData = np.packbits(masks.ravel(), bitorder="little").tobytes()
    item.SegmentSequence = [Dataset(), Dataset()]
    for number, label in enumerate(("Liver", "Lung"), start=1):
        item.SegmentSequence[number - 1].update({"SegmentNumber": number, "SegmentLabel": label})
    item.SharedFunctionalGroupsSequence = [groups({**SHARED, **shared})]
    item.PerFrameFunctionalGroupsSequence = [groups(frame) for frame in frames]
    return save(item, path)


def test_segments_are_chosen_and_left_out_slices_are_empty(tmp_path):
    masks = np.arange(6 * 4 * 8).reshape(6, 4, 8) % 3 == 0
    path = segmentation(tmp_path / "seg.dcm", masks, [100, 103, 112, 100, 106, 103], [1, 1, 1, 2, 2, 2])
    refused(
        path, "segment 1 Liver, 3 slices", "segment 2 Lung, 3 slices", "its segments overlap, so that they are no lab"
    )
    expected = np.zeros((5, 4, 8))
    expected[[0, 1, 4]] = masks[:3]
    assert_volume(read_image(path, series="liver"), expected)
    assert_volume(read_image(path, series="lung"), masks[[3, 5, 4]])


@pytest.mark.parametrize("numbers", [[0, 7], [0, 2, 4], [0, 2, 5], [0, 7, 17], [0, 2, 4, 7], [3]])
@pytest.mark.parametrize(
    ("others", "shared"),
    [
        ([], {"SpacingBetweenSlices": 3.0, "SliceThickness": 5.0}),
        ([0, 1, 2, 5], {}),
        (range(18), {"SliceThickness": 1.0}),
    ],
)
def test_a_segment_without_neighbouring_slices_grows_no_thicker(tmp_path, numbers, others, shared):
    masks = np.arange((len(numbers) + len(others)) * 32).reshape(-1, 4, 8) % 3 == 0
    places = 100 + 3 * np.array([*numbers, *others])
    segments = [1] * len(numbers) + [2] * len(others)
    path = segmentation(tmp_path / "seg.dcm", masks, places, segments, **shared)
    expected = np.zeros((np.ptp(numbers) + 1, 4, 8))
    expected[np.array(numbers) - numbers[0]] = masks[: len(numbers)]
    assert_volume(read_image(path, series="liver"), expected, start=places[0])


def test_segments_whose_slice_distance_nothing_tells(tmp_path, caplog):
    masks = np.arange(3 * 4 * 8).reshape(3, 4, 8) % 3 == 0
    read_image(segmentation(tmp_path / "uneven.dcm", masks, [100, 106, 115], [1, 1, 1]))
    assert "leaves out are taken as empty" in caplog.text
    assert_volume(read_image(segmentation(tmp_path / "even.dcm", masks, [100, 106, 112], [1, 1, 1])), masks, step=6)
    assert "6 mm apart are 3 mm thick" in caplog.text
    refused(segmentation(tmp_path / "none.dcm", masks, [100, 106, 112.4], [1, 1, 1]), "no multiples of one distance")


def test_segments_that_do_not_overlap_are_a_label_map(tmp_path, caplog):
    """What takes labels, and no choice of a series, took no segmentation of several segments."""
    masks = np.arange(5 * 4 * 8).reshape(5, 4, 8) % 3 == 0
    masks[3] = ~masks[0]
    path = segmentation(tmp_path / "seg.dcm", masks, [112, 103, 106, 112, 118], [2, 2, 2, 1, 1])
    expected = np.zeros((6, 4, 8), np.uint8)
    expected[[3, 0, 1]] = 2 * masks[:3]
    expected[3] += masks[3]
    expected[5] = masks[4]
    assert_volume(read_image(path), expected, start=103)
    assert "its segments are labels by their numbers: 2 Lung, 1 Liver" in caplog.text
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "seg.dcm")
    assert_volume(read_image(tmp_path / "folder"), expected, start=103)
    item = pydicom.dcmread(tmp_path / "folder" / "seg.dcm")
    for group in item.PerFrameFunctionalGroupsSequence[3:]:
        group.PlanePositionSequence[0].ImagePositionPatient[0] += 1
    refused(save(item, tmp_path / "moved.dcm"), "its segments lie on several grids")


def test_what_a_file_states_once_is_read_once(tmp_path, monkeypatch):
    """All names of segments were read for each frame: 13 in place of 5 s for 60 segments of 80 slices."""
    asked = []
    get = Dataset.get
    monkeypatch.setattr(Dataset, "get", lambda item, key, *default: asked.append(key) or get(item, key, *default))
    masks = np.arange(40 * 4 * 8).reshape(40, 4, 8) % 3 == 0
    path = segmentation(tmp_path / "seg.dcm", masks, 100 + 3 * np.arange(40), [1] * 20 + [2] * 20)
    asked.clear()
    read_planes(path)
    assert asked.count("SegmentLabel") == 2
    assert max(map(asked.count, ("Modality", "Units", "SharedFunctionalGroupsSequence"))) <= 2


def test_fractions_are_no_labels(tmp_path):
    stored = (np.arange(6 * 20).reshape(6, 4, 5) % 101).astype(np.uint8)
    frames = [
        {"ImagePositionPatient": f["ImagePositionPatient"], "ReferencedSegmentNumber": 1} for f in ct_frames(HEIGHTS)
    ]
    elements = {"SegmentationType": "FRACTIONAL", "MaximumFractionalValue": 100, "Modality": "SEG"}
    image = read_image(enhanced(tmp_path / "seg.dcm", stored, frames, sop=SegmentationStorage, **elements))
    assert_volume(image, stored / 100)
    assert image.array.max() == 1


def test_parametric_maps(tmp_path):
    frames = [{**f, "RealWorldValueSlope": 0.5, "RealWorldValueIntercept": 1.0} for f in ct_frames(HEIGHTS)]
    frames = [{key: f[key] for key in f if "Rescale" not in key} for f in frames]
    path = enhanced(tmp_path / "w.dcm", (hu() + 400).astype(np.uint16), frames, sop=ParametricMapStorage)
    assert_volume(read_image(path), (hu() + 400) * 0.5 + 1)
    frames = [{"ImagePositionPatient": f["ImagePositionPatient"]} for f in frames]
    path = enhanced(tmp_path / "f.dcm", hu().astype(np.float32) / 7, frames, sop=ParametricMapStorage)
    assert_volume(read_image(path), hu() / 7)


def test_enhanced_mr_with_a_slope_a_frame(tmp_path):
    slopes = [1.5, 0.7, 3.1, 1.0, 2.2, 0.4]
    frames = [{**f, "RescaleType": "US", "EffectiveEchoTime": 30.0} for f in ct_frames(HEIGHTS, slopes)]
    stored = np.arange(6 * 20).reshape(6, 4, 5).astype(np.uint16)
    path = enhanced(tmp_path / "mr.dcm", stored, frames, sop=EnhancedMRImageStorage, Modality="MR")
    assert_volume(read_image(path), stored * np.reshape(slopes, (6, 1, 1)) - 1024)


# pixels


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_byte_orders_and_deflated_files(tmp_path, syntax):
    folder = write_series(tmp_path / "s", syntax=syntax)
    assert_volume(read_image(folder))
    item = dataset(stored_ct(hu()), sop=MULTI, syntax=syntax, SpacingBetweenSlices=3.0, **PLACE, **RESCALED)
    assert_volume(read_image(save(item, tmp_path / "m.dcm")))


def test_old_files_without_a_preamble(tmp_path):
    for path in write_series(tmp_path / "s").iterdir():
        item = pydicom.dcmread(path)
        del item.file_meta
        item.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert_volume(read_image(tmp_path / "s"))


def compress_by_gdcm(item, values, coding, folder):
    contents = []
    for plane in values:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(folder / "plane.dcm"))
        writer.UseCompressionOn()
        writer.SetCompressor(coding)
        writer.Execute(sitk.GetImageFromArray(plane[None]))
        written = pydicom.dcmread(folder / "plane.dcm")
        contents.append(next(generate_frames(written.PixelData, number_of_frames=1)))
    item.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
    item.PixelData = encapsulate(contents)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.uint8])
@pytest.mark.parametrize("coding", ["JPEG", "JPEG2000", "RLE"])
def test_compressed_frames_are_rescaled_once(tmp_path, coding, kind):
    values = np.random.default_rng(0).integers(np.iinfo(kind).min, np.iinfo(kind).max, (6, 16, 20)).astype(kind)
    frames = [ct_frames(HEIGHTS, [1, 2, 1, 1, 1, 3])[k] for k in (3, 1, 2, 0, 4, 5)]
    item = dataset(values, sop=EnhancedCTImageStorage)
    item.SharedFunctionalGroupsSequence = [groups(SHARED)]
    item.PerFrameFunctionalGroupsSequence = [groups(frame) for frame in frames]
    if coding == "RLE":
        item.compress(RLELossless)
    else:
        compress_by_gdcm(item, values, coding, tmp_path)
    image = read_image(save(item, tmp_path / "e.dcm"))
    slopes = np.reshape([1, 2, 1, 1, 1, 3], (6, 1, 1))
    assert np.array_equal(image.array, values[[3, 1, 2, 0, 4, 5]].astype(int) * slopes - 1024)


@pytest.mark.parametrize(("coding", "marker", "place"), [("JPEG", b"\xff\xc3", 4), ("JPEG2000", b"\xff\x51", 8)])
def test_a_damaged_header_of_a_compressed_frame_is_refused(tmp_path, coding, marker, place):
    """GDCM ended the process at a JPEG that states 164 bits."""
    values = stored_ct(hu(2, 16, 20))
    item = dataset(values, sop=MULTI, SpacingBetweenSlices=3.0, **PLACE, **RESCALED)
    compress_by_gdcm(item, values, coding, tmp_path)
    data = bytearray(save(item, tmp_path / "x.dcm").read_bytes())
    data[data.find(marker) + place] = 164
    (tmp_path / "x.dcm").write_bytes(data)
    refused(tmp_path / "x.dcm", "frame 1 does not state 16 x 20 pixels of at most 16 bits", "export it again")


def test_lossy_frames_and_unknown_compression(tmp_path):
    from PIL import Image as Picture

    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 2
    file = io.BytesIO()
    Picture.fromarray(smooth).save(file, "JPEG", quality=95)
    item = dataset(smooth, **axial(0))
    item.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    item.PixelData = encapsulate([file.getvalue()])
    path = save(item, tmp_path / "j.dcm")
    assert np.abs(read_image(path).array[0].astype(int) - smooth).max() < 8
    item.file_meta.TransferSyntaxUID = HTJ2KLossless
    refused(save(item, path), "High-Throughput JPEG 2000", "decompress it")


def test_bits_that_are_no_value_are_left_out(tmp_path, caplog):
    values = hu()[0] + 1024
    overlaid = (values + 0x3000).astype(np.uint16)
    image = read_image(save(dataset(overlaid, bits=12, **axial(0), **RESCALED), tmp_path / "o.dcm"))
    assert np.array_equal(image.array[0], hu()[0])
    assert "bits above the 12" in caplog.text
    caplog.clear()
    signs = (hu()[0] & 0xFFF).astype(np.int16)  # 12 bits whose sign was not extended
    image = read_image(
        save(dataset(signs, bits=12, RescaleSlope=1, RescaleIntercept=0, **axial(0)), tmp_path / "s.dcm")
    )
    assert np.array_equal(image.array[0], hu()[0])
    assert image.array.dtype == np.int16
    high = dataset((values << 4).astype(np.uint16), bits=12, **axial(0), **RESCALED)
    high.HighBit = 15
    assert np.array_equal(read_image(save(high, tmp_path / "h.dcm")).array[0], hu()[0])
    assert not caplog.text


def test_monochrome1_is_turned_but_for_hounsfield_units(tmp_path):
    ct = write_series(tmp_path / "ct", PhotometricInterpretation="MONOCHROME1")
    assert_volume(read_image(ct))
    mixed = write_series(
        tmp_path / "mr", Modality="MR", bits=12,
        PhotometricInterpretation=lambda k: f"MONOCHROME{1 + k % 2}",
    )  # fmt: skip
    image = read_image(mixed)
    assert np.array_equal(image.array[1], hu()[1])
    assert np.array_equal(image.array[0] + 1024, 4095 - (hu()[0] + 1024))


def test_a_look_up_table_of_values(tmp_path):
    item = dataset(np.array([[0, 1], [2, 3]], np.uint16), sop=DigitalXRayImageStorageForPresentation, Modality="DX")
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [3, 1, 16], "OD", [50, 60, 900]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    item.ModalityLUTSequence, item.ImagerPixelSpacing = [table], [0.2, 0.2]
    path = save(item, tmp_path / "x.dcm")
    assert read_image(path).array.tolist() == [[50, 50], [60, 900]]


@pytest.mark.parametrize(("padding", "expected"), [(3000, -300), (0, -1024)])
def test_padding_is_never_the_brightest(tmp_path, padding, expected, caplog):
    values = hu()
    values[:, 0, 0] = padding - 1024
    image = read_image(write_series(tmp_path / "s", values=values, PixelPaddingValue=padding))
    low = values[:, 1:].min() if padding else -1024
    assert (image.array[:, 0, 0] == (min(low, values[:, 0, 1:].min()) if padding else expected)).all()
    assert np.array_equal(image.array[:, 1:], values[:, 1:])
    assert ("padding" in caplog.text) == (padding > 0)


def test_padding_amid_the_values_is_left_and_said(tmp_path, caplog):
    assert_volume(read_image(write_series(tmp_path / "s", PixelPaddingValue=1024)))
    assert "lies within the values" in caplog.text


@pytest.mark.parametrize("frames", [1, 3])
def test_colours_are_refused(tmp_path, frames):
    item = dataset(np.zeros((frames, 4, 5), np.uint8), SpacingBetweenSlices=3.0, **PLACE)
    item.SamplesPerPixel, item.PhotometricInterpretation, item.PlanarConfiguration = 3, "RGB", 0
    item.PixelData = bytes(frames * 60)
    refused(save(item, tmp_path / "c.dcm"), "3 values a voxel (colour, RGB)", "greyscale")
    item = dataset(np.zeros((4, 5), np.uint8), PhotometricInterpretation="PALETTE COLOR", **axial(0))
    refused(save(item, tmp_path / "p.dcm"), "colour, PALETTE COLOR")


def test_a_single_slice_of_unknown_thickness_is_read_but_used_only_with_a_spacing(tmp_path):
    place = axial(0)
    del place["SliceThickness"]
    path = save(dataset(hu()[0].astype(np.int16), **place), tmp_path / "x.dcm")
    image = read_image(path)
    assert not image.spacing_known
    assert "states no thickness" in image.remarks[-1]
    with pytest.raises(InputError, match="says no voxel size; give it in mm"):
        as_image(path)
    given = as_image(read_image(path, spacing=(0.8, 0.8, 5)))
    assert given.spacing.tolist() == [0.8, 0.8, 5]


def test_what_a_ct_does_not_say_of_its_values_is_mentioned(tmp_path, caplog):
    read_image(write_series(tmp_path / "silent", slope=None, intercept=0))
    assert "states no rescale" in caplog.text
    caplog.clear()
    read_image(write_series(tmp_path / "us", RescaleType="US"))
    assert "stated to be US, not HU" in caplog.text


# pictures


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.4, 0.3]}, [0.1, 0.2]),
        ({"ImagerPixelSpacing": [0.4, 0.3], "NominalScannedPixelSpacing": [1, 1]}, [0.3, 0.4]),
        ({"NominalScannedPixelSpacing": [0.6, 0.5]}, [0.5, 0.6]),
        ({}, [1, 1]),
    ],
)
def test_pixel_sizes_of_projections(tmp_path, keywords, expected, caplog):
    item = dataset(hu()[0].astype(np.int16), sop=DigitalXRayImageStorageForPresentation, Modality="DX", **keywords)
    image = read_image(save(item, tmp_path / "x.dcm"))
    assert image.ndim == 2
    assert image.spacing.tolist() == expected
    assert ("states no pixel size" in caplog.text) == (not keywords)


def test_a_slice_has_no_pixel_size_of_a_detector(tmp_path):
    place = {**axial(0), "ImagerPixelSpacing": [0.3, 0.3]}
    del place["PixelSpacing"]
    refused(
        save(dataset(hu()[0].astype(np.int16), **place), tmp_path / "x.dcm"), "states no pixel size", "give spacing="
    )


def test_a_slice_without_a_thickness(tmp_path, caplog):
    place = axial(0)
    del place["SliceThickness"]
    path = save(dataset(hu()[0].astype(np.int16), **place), tmp_path / "x.dcm")
    assert read_image(path).spacing.tolist() == [1.5, 2.0, 1.0]
    assert "no thickness" in caplog.text
    caplog.clear()
    assert read_image(path, spacing=(1.5, 2.0, 4.0)).spacing.tolist() == [1.5, 2.0, 4.0]
    assert "no thickness" not in caplog.text


# files that are no images


def test_a_dicomdir_names_the_folders_that_it_lists(tmp_path):
    disc = FileSet()
    for path in write_series(
        tmp_path / "s", PatientID="ANNA", StudyID="1", StudyDate="20200101", StudyTime="12"
    ).iterdir():
        item = pydicom.dcmread(path)
        item.SeriesNumber, item.AccessionNumber, item.PatientName = 1, "", "ANNA"
        disc.add(item)
    disc.write(tmp_path / "disc")
    [folder] = {path.parent for path in (tmp_path / "disc").rglob("*") if path.is_file() and path.name != "DICOMDIR"}
    listed = folder.relative_to(tmp_path / "disc").as_posix()
    refused(
        tmp_path / "disc" / "DICOMDIR", "(Media Storage Directory Storage)", f"the folder of one series of it: {listed}"
    )
    assert_volume(read_image(folder))


def test_files_that_hold_no_image(tmp_path):
    plan = dataset(np.zeros((4, 5), np.int16), sop=RTStructureSetStorage, Rows=None, Columns=None)
    path = save(plan, tmp_path / "s" / "plan.dcm")
    refused(path, "holds no image (RT Structure Set Storage)", "convert them to a label map")
    refused(tmp_path / "s", "no DICOM images", "plan.dcm")
    write_series(tmp_path / "s")
    assert_volume(read_image(tmp_path / "s"))


def test_files_that_are_no_dicom_are_left_out_of_a_series(tmp_path, caplog):
    folder = write_series(tmp_path / "s")
    (folder / "empty.dcm").touch()
    (folder / "notes.txt").write_text("notes")
    assert_volume(read_image(folder))
    assert "empty.dcm: is no DICOM file and is left out" in caplog.text
    assert "notes.txt" not in caplog.text


@pytest.mark.parametrize("suffix", [".dcm", ""])
@pytest.mark.parametrize("length", [0, 100, 200, 400])
def test_a_cut_slice_at_the_end_of_a_series_is_said(tmp_path, suffix, length):
    """Between others it leaves a gap, which is refused; at the end nothing else would tell."""
    write_series(tmp_path)
    last = sorted(tmp_path.iterdir())[-1]
    content = last.read_bytes()
    last.unlink()
    last.with_suffix(suffix).write_bytes(content[:length])
    image = read_image(tmp_path)
    assert image.array.shape[0] == 5
    assert [remark for remark in image.remarks if last.stem in remark and "left out; is it complete?" in remark]


def test_files_of_other_kinds_among_slices_are_not_spoken_of(tmp_path):
    write_series(tmp_path)
    contours = dataset(np.zeros((1, 1), np.uint16), sop=RTStructureSetStorage, Rows=None, Columns=None, PixelData=None)
    save(contours, tmp_path / "contours.dcm")
    (tmp_path / ".hidden").write_bytes(b"")
    assert read_image(tmp_path).remarks == ()


@pytest.mark.parametrize("spacing", [0, -1, (1, 2, 3, 4), float("nan")])
def test_impossible_spacing(tmp_path, spacing):
    with pytest.raises(InputError, match="spacing must be positive"):
        read_image(write_series(tmp_path / "s"), spacing=spacing)


def test_damaged_headers_are_refused_whatever_is_cut(tmp_path):
    path = enhanced(tmp_path / "e.dcm", stored_ct(hu()), ct_frames(HEIGHTS))
    data = path.read_bytes()
    for length in (140, 300, 700, len(data) - 260, len(data) - 1):
        path.write_bytes(data[:length])
        refused(path)


@pytest.fixture(scope="module")
def valid_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    item = dataset(stored_ct(hu()), sop=MULTI, SpacingBetweenSlices=3.0, **PLACE, **RESCALED)
    item.compress(RLELossless)
    slice_ = dataset(hu()[0].astype(np.int16), PixelPaddingValue=-2000, **axial(0), **RESCALED)
    lossless = dataset(stored_ct(hu()), sop=MULTI, SpacingBetweenSlices=3.0, **PLACE, **RESCALED)
    compress_by_gdcm(lossless, stored_ct(hu()), "JPEG", folder)
    frames = enhanced(folder / "e.dcm", stored_ct(hu()), ct_frames(HEIGHTS))
    paths = [frames, *(save(data, folder / f"{k}.dcm") for k, data in enumerate((item, slice_, lossless)))]
    for path in paths:
        read_image(path)
    return [path.read_bytes() for path in paths]


@given(
    number=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
    options=st.sampled_from([{}, {"spacing": 1.0}, {"series": 1}]),
)
@settings(max_examples=80)
def test_damaged_bytes_are_read_or_refused_never_a_traceback(valid_files, scratch, number, seed, options):
    rng = np.random.default_rng(seed)
    data = bytearray(valid_files[number])
    for _ in range(rng.integers(1, 5)):
        data[rng.integers(132, len(data))] = rng.integers(256)
    if rng.random() < 0.2:
        del data[rng.integers(132, len(data)) :]
    path = scratch / "damaged.dcm"
    path.write_bytes(data)
    try:
        image = read_image(path, **options)
    except InputError:
        return
    assert np.isfinite(image.array).all()
    assert np.isfinite(image.grid.corners()).all()


def test_elements_that_do_not_fit_are_refused(tmp_path):
    for name, elements in (
        ("bits", {"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}),
        ("high", {"HighBit": 20}),
        ("stored", {"BitsStored": 17}),
        ("rows", {"Rows": 60000, "Columns": 60000}),
        ("samples", {"SamplesPerPixel": 2}),
    ):
        refused(save(dataset(hu()[0].astype(np.int16), **axial(0), **elements), tmp_path / f"{name}.dcm"))


def test_large_lists_are_cut(tmp_path):
    item = dataset(np.zeros((40, 2, 2), np.uint16), **RESCALED)
    item.SharedFunctionalGroupsSequence = [groups(SHARED)]
    places = [{"ImagePositionPatient": [0, 0, 0], "TemporalPositionIndex": k} for k in range(40)]
    item.PerFrameFunctionalGroupsSequence = [groups(place) for place in places]
    with pytest.raises(InputError) as caught:
        read_image(save(item, tmp_path / "e.dcm"))
    assert str(caught.value).endswith("... 40 in all")
    assert read_image(tmp_path / "e.dcm", series="position 7").shape == (1, 2, 2)

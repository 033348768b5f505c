"""DICOM: files and series are read as they lie in space, or refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import SimpleITK as sitk

from samreg.errors import InputError
from samreg.spatial import Grid, read_image


def refused(path, *words, **options):
    with pytest.raises(InputError) as caught:
        read_image(path, **options)
    for word in (str(path), *words):
        assert word in str(caught.value)


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

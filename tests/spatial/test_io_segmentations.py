"""Segmentations of 3D Slicer: another reader finds names, colours, extents and voxels where Slicer looks for them."""

from __future__ import annotations

from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import samreg
from samreg.errors import InputError
from samreg.spatial import Image, Segment, read_segments, write_segmentation


def labels(kind=np.int64):
    array = np.zeros((4, 6, 8), kind)
    array[1:3, 2:5, 3:7] = 2
    array[0, 0, 0] = 300 if np.dtype(kind).itemsize > 1 else 100
    direction = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    return Image.from_array(array, origin=(4, 5, 6), spacing=(1, 2, 3), direction=direction)


def header(path):
    """Return the keys and the fields of a NRRD header, read as text."""
    lines = path.read_bytes().split(b"\n\n", 1)[0].decode().splitlines()
    return dict(line.split(":=", 1) for line in lines if ":=" in line), dict(
        line.split(": ", 1) for line in lines if ": " in line and ":=" not in line
    )


def test_another_reader_finds_voxels_names_colours_and_extents(tmp_path):
    path, given = tmp_path / "a.seg.nrrd", labels()
    write_segmentation(given, path, [Segment(2, "foie: größer", (1, 0.5, 0)), Segment(9, "absent")])
    image = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image), given.array)
    assert image.GetPixelID() == sitk.sitkInt16
    assert samreg.as_image(image).grid.same_as(given.grid)
    keys, fields = header(path)
    assert fields["space"] == "left-posterior-superior"
    assert fields["encoding"] == "gzip"
    assert [keys[f"Segment{i}_LabelValue"] for i in range(2)] == ["2", "300"]
    assert [keys[f"Segment{i}_Name"] for i in range(2)] == ["foie: größer", "Label 300"]
    assert keys["Segment0_Color"] == "1 0.5 0"
    assert [keys[f"Segment{i}_Extent"] for i in range(2)] == ["3 6 2 4 1 2", "0 0 0 0 0 0"]  # first and last x, y, z
    assert {keys[f"Segment{i}_Layer"] for i in range(2)} == {"0"}
    assert keys["Segment0_ID"] != keys["Segment1_ID"]
    assert keys["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert "Segment2_ID" not in keys, "no voxel has the value"


def test_names_and_colours_come_back(tmp_path):
    segments = Segment(2, "liver", (0.25, 0.5, 0.75)), Segment(300, "spleen")
    write_segmentation(labels(), tmp_path / "a.seg.nrrd", segments)
    assert read_segments(tmp_path / "a.seg.nrrd") == segments
    assert np.array_equal(samreg.read_image(tmp_path / "a.seg.nrrd").array, labels().array)


def test_neighbouring_labels_differ_in_colour():
    colours = np.array([Segment(value, "one").colour for value in range(1, 30)])
    distances = np.abs(np.diff(colours, axis=0)).sum(axis=1)
    assert distances.min() > 0.2


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_types_that_slicer_takes(tmp_path, kind):
    given = labels(kind)
    samreg.write_image(given, tmp_path / "a.seg.nrrd")
    image = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
    assert image.GetPixelID() in (sitk.sitkUInt8, sitk.sitkInt16)
    assert np.array_equal(sitk.GetArrayFromImage(image), given.array)


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((2, 2, 2), np.uint8), "0 to 0"),
        (np.full((2, 2, 2), -5), "-5"),
        (np.full((2, 2, 2), 1.5), "whole numbers"),
        (np.array([[[1, np.nan]]]), "whole numbers"),
        (np.ones((2, 2), np.uint8), "3D"),
    ],
)
def test_what_holds_no_labels_is_refused(tmp_path, array, word):
    with pytest.raises(InputError, match=word):
        samreg.write_image(Image.from_array(array, spacing=1), tmp_path / "a.seg.nrrd")
    assert not list(tmp_path.iterdir())


def test_bad_segments_and_files_are_refused(tmp_path):
    values = (0, "zero"), ("1", "text"), (1, " "), (1, 7), (1, "two\nlines")
    colours = (1, "red", (255, 0, 0)), (1, "grey", (0.5, 0.5)), (1, "red", "#ff0000"), (1, "red", "101"), (1, "red", 7)
    for wrong in (*values, *colours):
        with pytest.raises(InputError):
            Segment(*wrong)
    with pytest.raises(InputError, match=r"name a file of labels \.seg\.nrrd"):
        write_segmentation(labels(), tmp_path / "a.nrrd")
    samreg.write_image(labels(), tmp_path / "plain.nrrd")
    with pytest.raises(InputError, match="names no segments"):
        read_segments(tmp_path / "plain.nrrd")


def test_overlapping_segments_are_refused_with_a_remedy(tmp_path):
    layers = np.stack([labels().array.astype(np.uint8)] * 2, axis=-1)
    image = sitk.GetImageFromArray(layers, isVector=True)
    for i in range(2):
        for key, value in (("ID", f"Segment_{i}"), ("LabelValue", "1"), ("Layer", str(i)), ("Name", "a")):
            image.SetMetaData(f"Segment{i}_{key}", value)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    with pytest.raises(InputError, match="export them as a labelmap"):
        read_segments(tmp_path / "a.seg.nrrd")
    with pytest.raises(InputError, match=r"overlap and lie in 2 layers; export .* as a labelmap"):  # no "greyscale"
        samreg.read_image(tmp_path / "a.seg.nrrd")


def label_table(path, table, code=0):
    """Write labels with a table of their names in the header, as TotalSegmentator does, and Workbench with code 30."""
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    xml = f'<?xml version="1.0" encoding="UTF-8"?> <CaretExtension> <LabelTable>{table}</LabelTable></CaretExtension>'
    image.header.extensions.append(nib.nifti1.Nifti1Extension(code, xml.encode()))
    nib.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_names_the_labels_that_it_holds(tmp_path, suffix):
    """As TotalSegmentator reads it: the first extension, CaretExtension / VolumeInformation / LabelTable / Label."""
    array = np.array([[[0.0, 2, 5]]])
    path = tmp_path / f"a{suffix}"
    liver, rounded = Segment(2, "foie <größer> & x", (1, 0.5, 0)), array - [0, 0, 1e-9]
    write_segmentation(Image.from_array(rounded), path, [liver, Segment(9, "absent")])
    assert read_segments(path) == (liver, Segment(5, "Label 5"))
    assert np.array_equal(samreg.read_image(path).array, array)
    root = ElementTree.fromstring(nib.load(path).header.extensions[0].content)
    assert [label.get("Key") for label in root.findall("VolumeInformation/LabelTable/Label")] == ["2", "5"]
    with pytest.raises(InputError, match="must be whole numbers"):
        write_segmentation(Image.from_array(array / 2), path)


def test_names_of_labels_in_a_nifti_header(tmp_path, caplog):
    colour = 'Red="0.2" Green="0.3" Blue="1.0" Alpha="1"'
    entry = f'<Label Key="1" {colour}><![CDATA[kidney_right]]></Label>'
    table = f'<Label Key="0" {colour}>background</Label>\n{entry}<Label Key="2" {colour}/>'
    for code in (0, 30):
        path = label_table(tmp_path / "a.nii.gz", table, code)
        assert read_segments(path) == (Segment(1, "kidney_right", (0.2, 0.3, 1)),)
    with pytest.raises(InputError, match="names no segments"):
        read_segments(label_table(tmp_path / "b.nii.gz", entry.replace("</Label>", "")))
    assert "the table of labels in its header is damaged" in caplog.text

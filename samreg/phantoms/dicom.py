"""Phantoms as DICOM series, to try what takes or writes DICOM."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from samreg.errors import InputError
from samreg.spatial.files import atomic_path
from samreg.spatial.image import Image

_INTERCEPT = -1024  # HU of a stored 0


def write_dicom_series(image: Image, folder: str | os.PathLike[str], *, patient: str = "PHANTOM") -> None:
    """Write a phantom as a DICOM series of CT slices, with a study and a frame of reference of its own.

    Parameters
    ----------
    image
        A volume, HU.
    folder
        Made when missing; slices are named 0001.dcm, 0002.dcm and so on.
    patient
        Name and ID.

    Raises
    ------
    InputError
        When the image is no volume, or a file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import samreg
    >>> from samreg.phantoms import write_dicom_series
    >>> folder = pathlib.Path(tempfile.mkdtemp(), "scan")
    >>> write_dicom_series(samreg.Image.from_array([[[0, 1], [2, 3]]], spacing=2), folder)
    >>> samreg.read_image(folder).array.tolist()
    [[[0, 1], [2, 3]]]
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    if image.ndim != 3:
        raise InputError(f"{image.label} is {image.ndim}D; a DICOM series of slices holds a volume")
    study, series, frame = (generate_uid(prefix=None) for _ in range(3))
    row, column, normal = image.direction.T
    backward = bool(np.cross(row, column) @ normal < 0)  # numbered along the normal that DICOM has
    stored = np.clip(np.rint(image.array.astype(np.float64)) - _INTERCEPT, 0, 2**16 - 1).astype("<u2")
    for number in range(1, len(stored) + 1):
        k = len(stored) - number if backward else number - 1
        item = Dataset()
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = CTImageStorage
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        item.PatientName = item.PatientID = patient
        item.PatientBirthDate = item.PatientSex = item.StudyDate = item.StudyTime = item.StudyID = ""
        item.Manufacturer, item.PatientPosition, item.KVP, item.AcquisitionNumber = "samreg", "", None, None
        item.AccessionNumber = item.ReferringPhysicianName = item.PositionReferenceIndicator = ""
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
        item.Modality, item.ImageType = "CT", ["DERIVED", "SECONDARY", "AXIAL"]
        item.SeriesDescription, item.SeriesNumber, item.InstanceNumber = (image.name or "phantom")[:64], 1, number
        item.ImagePositionPatient = [f"{value:.10g}" for value in image.grid.index_to_world([0, 0, k])[0]]
        item.ImageOrientationPatient = [f"{value:.10g}" for value in (*row, *column)]
        item.PixelSpacing = [f"{value:.10g}" for value in image.spacing[1::-1]]
        item.SliceThickness = f"{image.spacing[2]:.10g}"
        item.Rows, item.Columns = stored.shape[1:]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 0
        item.RescaleIntercept, item.RescaleSlope, item.RescaleType = _INTERCEPT, 1, "HU"
        item.PixelData = stored[k].tobytes()
        with atomic_path(Path(folder) / f"{number:04d}.dcm") as temporary:
            item.save_as(temporary, enforce_file_format=True)

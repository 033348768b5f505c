"""RT structure sets brought to another image."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from samreg.errors import InputError
from samreg.spatial.dicom.header import read_elements, stated
from samreg.spatial.dicom.regions import Region, plane_contours
from samreg.spatial.dicom.source import ImageSeries, decimal, derived_object
from samreg.spatial.files import reading
from samreg.spatial.grid import FloatArray
from samreg.spatial.transforms import Transform

log = logging.getLogger(__name__)

_XOR = "CLOSEDPLANAR_XOR"
_CLOSED = ("CLOSED_PLANAR", _XOR)
_DIGITS = 4  # of contour points, mm
_BOX_MARGIN_MM = 10.0  # around the mapped contours, between whose points a region may bulge
_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, which structure sets refer to a study by
_ROI_ELEMENTS = ("ROINumber", "ROIName", "ROIDescription")
_OBSERVATION_ELEMENTS = ("RTROIInterpretedType", "ROIInterpreter", "ROIObservationLabel")


@dataclass(frozen=True, eq=False)
class Structure:
    """A region of interest.

    Parameters
    ----------
    number, name
        As its structure set has them.
    contours
        (type, points (N, 3) LPS mm) of each.
    definition, drawing, observation
        Its items in the structure set.
    """

    number: int
    name: str
    contours: tuple[tuple[str, FloatArray], ...]
    definition: Dataset
    drawing: Dataset
    observation: Dataset | None

    @property
    def points(self) -> FloatArray:
        """(N, 3) the points of all contours, LPS mm."""
        return np.concatenate([points for _, points in self.contours]) if self.contours else np.empty((0, 3))


@dataclass(frozen=True, eq=False)
class StructureSet:
    """The regions of interest of a structure set.

    Parameters
    ----------
    path
        Its file.
    label
        What it calls itself.
    structures
        Those that are drawn.
    series
        UIDs of the image series on which they are drawn, where it says so.
    """

    path: Path
    label: str
    structures: tuple[Structure, ...]
    series: frozenset[str]


def is_structure_set(path: Path) -> bool:
    """Tell whether a file is a DICOM RT structure set."""
    return bool(read_elements(path, ["SOPClassUID"])["SOPClassUID"] == RTStructureSetStorage)


def read_structures(path: Path) -> StructureSet:
    """Read a structure set.

    Raises
    ------
    InputError
        When the file is none, is damaged, or draws nothing.
    """
    with reading(path):
        item = dcmread(path)
        if item.get("SOPClassUID") != RTStructureSetStorage:
            raise InputError(f"{path} is no RT structure set; give one")
        drawings = {int(one.ReferencedROINumber): one for one in item.get("ROIContourSequence", [])}
        observations = {int(one.ReferencedROINumber): one for one in item.get("RTROIObservationsSequence", [])}
        structures = []
        for definition in item.get("StructureSetROISequence", []):
            number = int(definition.ROINumber)
            drawing = drawings.get(number)
            contours = tuple(_contours(drawing)) if drawing is not None else ()
            if drawing is None or not contours:
                continue
            name = str(definition.get("ROIName") or f"ROI {number}")
            structures.append(Structure(number, name, contours, definition, drawing, observations.get(number)))
    if not structures:
        raise InputError(f"{path}: a structure set in which nothing is drawn; export it with its contours")
    return StructureSet(
        path, str(item.get("StructureSetLabel") or ""), tuple(structures), frozenset(_series_uids(item))
    )


def _series_uids(item: Dataset) -> Iterator[str]:
    for frame in item.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            for series in study.get("RTReferencedSeriesSequence", []):
                yield str(series.get("SeriesInstanceUID", ""))


def _contours(drawing: Dataset) -> Iterator[tuple[str, FloatArray]]:
    for contour in drawing.get("ContourSequence", []):
        numbers = stated(contour.get("ContourData"))
        if numbers is None:  # of a region that was erased on this slice
            continue
        if isinstance(numbers, bytes):  # over 64 kB, which explicit value representations state as unknown
            numbers = numbers.decode("ascii").strip(" \0").split("\\")
        yield str(contour.ContourGeometricType), np.asarray(numbers, dtype=np.float64).reshape(-1, 3)


def warped_structures(
    structures: StructureSet, target: ImageSeries, *, to_target: Transform, to_source: Transform
) -> Dataset:
    """Return the structure set of another image.

    Closed contours are drawn anew on the target's slices, points and open contours are mapped.

    Parameters
    ----------
    structures
        Drawn on the source image.
    target
        The image whose slices they are brought to.
    to_target, to_source
        Points of the source image to those of the target, LPS mm, and back.

    Raises
    ------
    InputError
        When the structures are drawn on the target itself, or their closed contours do not lie on parallel planes.
    """
    target.require_other(structures.series, str(structures.path))
    item = derived_object(RTStructureSetStorage, "RTSTRUCT", target, "samreg structures")
    item.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # in which a contour may be longer than 64 kB
    item.OperatorsName = ""
    item.StructureSetLabel = (structures.label or "samreg")[:16]
    item.StructureSetDate, item.StructureSetTime = item.InstanceCreationDate, item.InstanceCreationTime
    item.ApprovalStatus = "UNAPPROVED"
    item.ReferencedFrameOfReferenceSequence = DicomSequence([_frame_of_reference(target)])
    definitions, drawings, observations = [], [], []
    for structure in structures.structures:
        contours = _warped(structure, target, to_target, to_source)
        if not contours:
            log.warning(
                "%s: %s meets no slice of %s; it is left without contours",
                structures.path,
                structure.name,
                target.label,
            )
        definitions.append(_definition(structure, target))
        drawings.append(_drawing(structure, contours))
        observations.append(_observation(structure))
    item.StructureSetROISequence = DicomSequence(definitions)
    item.ROIContourSequence = DicomSequence(drawings)
    item.RTROIObservationsSequence = DicomSequence(observations)
    return item


def _frame_of_reference(target: ImageSeries) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = target.header.SeriesInstanceUID
    series.ContourImageSequence = target.references()
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = target.header.StudyInstanceUID
    study.RTReferencedSeriesSequence = DicomSequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = target.frame_of_reference
    frame.RTReferencedStudySequence = DicomSequence([study])
    return frame


def _definition(structure: Structure, target: ImageSeries) -> Dataset:
    item = Dataset()
    for keyword in _ROI_ELEMENTS:
        if keyword in structure.definition:
            setattr(item, keyword, structure.definition.get(keyword))
    item.ROIName = structure.name
    item.ReferencedFrameOfReferenceUID = target.frame_of_reference
    item.ROIGenerationAlgorithm = "SEMIAUTOMATIC"
    item.ROIGenerationDescription = "brought here by registration with samreg"
    return item


def _drawing(structure: Structure, contours: list[Dataset]) -> Dataset:
    item = Dataset()
    if structure.drawing.get("ROIDisplayColor"):
        item.ROIDisplayColor = structure.drawing.ROIDisplayColor
    if contours:
        item.ContourSequence = DicomSequence(contours)
    item.ReferencedROINumber = structure.number
    return item


def _observation(structure: Structure) -> Dataset:
    item = Dataset()
    item.ObservationNumber = structure.number
    item.ReferencedROINumber = structure.number
    item.RTROIInterpretedType, item.ROIInterpreter = "", ""
    for keyword in _OBSERVATION_ELEMENTS if structure.observation is not None else ():
        assert structure.observation is not None
        if keyword in structure.observation:
            setattr(item, keyword, copy.copy(structure.observation.get(keyword)))
    return item


def _warped(structure: Structure, target: ImageSeries, to_target: Transform, to_source: Transform) -> list[Dataset]:
    contours = [
        _contour("POINT" if kind == "POINT" else "OPEN_NONPLANAR", to_target.transform_points(points))
        for kind, points in structure.contours
        if kind not in _CLOSED
    ]
    closed = _distinct([points for kind, points in structure.contours if kind in _CLOSED and len(points) >= 3])
    if not closed:
        return contours
    # other kinds than the system's own that drew them might not be read there
    kind = next(kind for kind, _ in structure.contours if kind in _CLOSED)
    step = float(target.grid.spacing[2])
    region = Region.of(closed, name=f"ROI {structure.name}", step=step, even_odd=kind == _XOR)
    mapped = to_target.transform_points(_with_ends(region, np.concatenate(closed)))
    margin = _BOX_MARGIN_MM / target.slices[0].grid.spacing[:2]
    drawn = []
    for one in target.slices:
        index = one.grid.world_to_index(mapped)
        reach = (_BOX_MARGIN_MM + target.grid.spacing[2]) / one.grid.spacing[2]
        if index[:, 2].min() > reach or index[:, 2].max() < -reach:
            continue
        box = np.array([index[:, :2].min(axis=0) - margin, index[:, :2].max(axis=0) + margin])
        lines = plane_contours(lambda points: region.level(to_source.transform_points(points)), one.grid, box)
        drawn.append((one, lines))
    for one, lines in drawn:  # of which one within another is a hole, in either kind
        for line in lines:
            contour = _contour(kind, line)
            contour.ContourImageSequence = DicomSequence([one.reference()])
            contours.append(contour)
    return contours


def _distinct(contours: list[FloatArray]) -> list[FloatArray]:
    """Leave out copies of contours, which would cut out what they enclose."""
    seen = {np.round(contour, _DIGITS).tobytes(): contour for contour in reversed(contours)}
    return [*seen.values()][::-1]


def _with_ends(region: Region, points: FloatArray) -> FloatArray:
    """Return points of contours and those half a step to either side of their planes, where the region ends."""
    shift = region.axes[2] * region.step / 2
    return np.concatenate([points - shift, points, points + shift])


def _contour(kind: str, points: FloatArray) -> Dataset:
    item = Dataset()
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(points)
    item.ContourData = [decimal(value) for value in np.round(points, _DIGITS).ravel()]
    return item

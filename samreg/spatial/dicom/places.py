"""Where the frames of a DICOM file lie in space: each at its own place, or all placed by what they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue

from samreg.errors import InputError
from samreg.spatial.dicom.header import Header, stated
from samreg.spatial.grid import FloatArray

NUCLEAR_VECTORS = {  # of nuclear medicine, a value a frame: what the frames differ in besides their slice
    "energy window": "EnergyWindowVector",
    "detector": "DetectorVector",
    "phase": "PhaseVector",
    "R-R interval": "RRIntervalVector",
    "time slot": "TimeSlotVector",
    "time slice": "TimeSliceVector",
}
_MOTION = ("FrameTime", "FrameTimeVector", "RotationVector", "AngularViewVector")  # frames are moments or views
_MAX_AXES_ERROR = 0.01  # of direction cosines: exporters round them


@dataclass(frozen=True, eq=False)
class Place:
    """Where a frame lies.

    Parameters
    ----------
    position
        (3,) LPS mm, the centre of its first pixel.
    axes
        (2, 3) unit vectors, LPS: along a row (to the next column) and along a column (to the next row).
    remark
        What a user should know of it, or an empty string.
    """

    position: FloatArray
    axes: FloatArray
    remark: str = ""


def frame_places(header: Header, *, distance: float | None = None) -> list[Place | None]:
    """Return where the frames of a file lie; None for frames that lie nowhere in space.

    Parameters
    ----------
    header
        The file.
    distance
        mm between neighbouring slices, for frames that have no places of their own in a file that does not state it.

    Raises
    ------
    InputError
        When a place is stated in part, or cannot be.
    """
    numbers = range(header.frames)
    positions = [header.numbers("ImagePositionPatient", _position(header, k), 3, k) for k in numbers]
    if header.frames > 1 and all(position is None for position in positions):
        return _shared_places(header, distance)
    places: list[Place | None] = []
    for k, position in enumerate(positions):
        axes = _axes(header, k)
        if position is not None and axes is not None:
            places.append(Place(position, axes))
        elif position is None and header.frames == 1:
            places.append(None)  # a projection, whatever its orientation
        else:
            missing = "ImagePositionPatient" if position is None else "ImageOrientationPatient"
            raise _incomplete(header, missing, header.label(k))
    return places


def are_moments(header: Header) -> bool:
    """Tell whether frames follow each other in time or angle (a film, projections) rather than in space."""
    pointers = header.top("FrameIncrementPointer")
    if pointers is None:
        return any(header.top(keyword) is not None for keyword in _MOTION)
    tags = pointers if isinstance(pointers, (list, MultiValue)) else [pointers]
    keywords = {keyword_for_tag(tag) for tag in tags}
    return "SliceVector" not in keywords and not keywords.isdisjoint((*_MOTION, *NUCLEAR_VECTORS.values()))


def _incomplete(header: Header, missing: str, label: str) -> InputError:
    return InputError(
        f"{header.path}: {label} states no {missing}, so that its place in space is unknown; write it into its header, "
        "or export it again"
    )


def _position(header: Header, frame: int) -> object:
    """Return the frame's own position; the top level of a multi-frame file has that of the first frame alone."""
    position = header.grouped("ImagePositionPatient", frame)
    return header.top("ImagePositionPatient") if position is None and header.frames == 1 else position


def _axes(header: Header, frame: int) -> FloatArray | None:
    """Return the directions of a frame's rows and columns, (2, 3), or None."""
    value = header.grouped("ImageOrientationPatient", frame)
    value = _detector_value(header, "ImageOrientationPatient") if value is None else value
    cosines = header.numbers("ImageOrientationPatient", value, 6, frame)
    if cosines is None:
        return None
    axes = cosines.reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > _MAX_AXES_ERROR or abs(axes[0] @ axes[1]) > _MAX_AXES_ERROR:
        raise InputError(
            f"{header.path}: ImageOrientationPatient of {header.label(frame)} is {cosines.tolist()}, which are no two "
            "perpendicular unit vectors; correct the header"
        )
    left, _, right = np.linalg.svd(axes, full_matrices=False)
    return np.asarray(left @ right)  # the nearest perpendicular unit vectors: what they are off by is rounding


def _detector_value(header: Header, keyword: str) -> object:
    """Return a value at the top level or, in nuclear medicine, of the first detector."""
    value = header.top(keyword)
    detectors = header.top("DetectorInformationSequence")
    return stated(detectors[0].get(keyword)) if value is None and detectors else value


def _shared_places(header: Header, distance: float | None) -> list[Place | None]:
    """Place frames of which at most the first one's place is stated, at their offsets along the normal."""
    position = header.numbers("ImagePositionPatient", _detector_value(header, "ImagePositionPatient"), 3)
    axes = _axes(header, 0)
    if (position is None) != (axes is None):
        missing = "ImagePositionPatient" if position is None else "ImageOrientationPatient"
        raise _incomplete(header, missing, header.path.name)
    offsets, remark = _offsets(header, distance, position, axes)
    if offsets is None and (position is None or are_moments(header)):
        return [None] * header.frames
    if offsets is None:
        thickness = header.value("SliceThickness", 0)
        note = f" (only that they are {thickness:g} mm thick)" if isinstance(thickness, float) else ""
        raise InputError(
            f"{header.path}: does not state how far apart its {header.frames} frames lie{note}; give spacing= x, y, z "
            "in mm, if they are slices of one volume (--pixel-size)"
        )
    if position is None or axes is None:
        position, axes = np.zeros(3), np.eye(3)[:2]
        remark = "no place and no orientation in space are stated; axial slices from foot to head are assumed"
    normal = np.cross(axes[0], axes[1])
    return [Place(position + offset * normal, axes, remark) for offset in offsets]


def _offsets(
    header: Header, distance: float | None, position: FloatArray | None, axes: FloatArray | None
) -> tuple[FloatArray | None, str]:
    """Return how far along the normal the frames lie from the stated position, mm, and a remark; None if unknown."""
    heights = header.numbers("GridFrameOffsetVector", header.top("GridFrameOffsetVector"), header.frames)
    if heights is not None:
        return _dose_offsets(header, heights, position, axes), ""
    steps = header.numbers("SpacingBetweenSlices", header.value("SpacingBetweenSlices", 0), 1)
    # with its sign: a negative distance stacks against the normal (PS3.3 C.8.4.15)
    step = None if steps is None else float(steps[0]) or None
    if step is None and not are_moments(header):
        step = distance
    if step is None:
        return None, ""
    slices = header.numbers("SliceVector", header.top("SliceVector"), header.frames)
    if slices is not None:
        return np.asarray((slices - 1) * step), ""
    remark = f"frames have no positions of their own; they are stacked {step:g} mm apart along the normal"
    return np.asarray(np.arange(header.frames) * step, dtype=np.float64), remark


def _dose_offsets(
    header: Header, heights: FloatArray, position: FloatArray | None, axes: FloatArray | None
) -> FloatArray:
    """Return the offsets of a dose grid, which an axial one may state as z coordinates (PS3.3 C.8.8.3.2)."""
    if heights[0] == 0:
        return heights
    upright = axes is not None and bool(np.abs(np.cross(axes[0], axes[1]) - (0, 0, 1)).max() < 1e-3)
    if not upright or position is None or abs(heights[0] - position[2]) > 1e-3:
        raise InputError(
            f"{header.path}: GridFrameOffsetVector begins with {heights[0]:g}, which is neither 0 nor the z coordinate "
            "of an axial grid; correct the header"
        )
    return np.asarray(heights - heights[0])

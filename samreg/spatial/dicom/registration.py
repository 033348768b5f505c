"""Transforms as DICOM Spatial Registration and Deformable Spatial Registration objects, and back.

The space of the fixed image is the Registered RCS, that of the moving image the Source RCS. The matrix of a Spatial
Registration maps points of the source to the registered space (PS3.3 C.20.2.1.1): it is the inverse of samreg's
transform. A Deformable Spatial Registration tells where in the source a point of the registered space is sampled
(PS3.3 C.20.3.1.1), ``M_post (M_pre x + d(x))`` with ``d`` on a grid in the registered space: it is samreg's transform.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import DeformableSpatialRegistrationStorage, SpatialRegistrationStorage

from samreg.errors import InputError
from samreg.spatial.compact import points_within
from samreg.spatial.dicom.header import read_elements
from samreg.spatial.dicom.source import ImageSeries, add_common_references, decimal, derived_object
from samreg.spatial.displacement import DisplacementField, InverseField, require_known_vectors, sample_displacement
from samreg.spatial.files import atomic_path, reading
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.transforms import AffineTransform, Transform, components, compose

log = logging.getLogger(__name__)

FIELD_ERROR_MM = 0.01  # by which a field that is sampled anew may differ from the transform
_RIGID_TOLERANCE = 1e-5  # of the products of a rotation's columns
_GRID_TOLERANCE_MM = 1e-3  # of a grid's corners, where DICOM takes its third axis as the product of the others
_REFINEMENTS = (1, 2, 4, 8)  # of the voxels of the finest field
_MAX_VOXELS = 10_000_000  # of a grid that is finer than that
_MAX_FIELD_BYTES = 2**32 - 2  # an element's length has 32 bits

_REGISTRATIONS = (SpatialRegistrationStorage, DeformableSpatialRegistrationStorage)
_RIGID, _AFFINE = "RIGID", "AFFINE"


def registration_dataset(transform: Transform, fixed: ImageSeries, moving: ImageSeries) -> Dataset:
    """Return the DICOM object of a transform, fixed to moving, LPS mm: a matrix where it is affine, else a grid."""
    transform = compose(transform)
    is_affine = isinstance(transform, AffineTransform)
    kind = SpatialRegistrationStorage if is_affine else DeformableSpatialRegistrationStorage
    item = derived_object(kind, "REG", fixed, "samreg registration")
    item.Laterality = ""  # required, perhaps empty, where a part of the body is one of a pair
    item.ContentDate, item.ContentTime = item.InstanceCreationDate, item.InstanceCreationTime
    item.ContentLabel, item.ContentDescription = (
        "REGISTRATION",
        "moving image to fixed image",
    )  # no paths: they name people
    item.ContentCreatorName = ""
    if isinstance(transform, AffineTransform):
        same = _code("125021", "Frame of Reference Identity")
        by_content = _code("125024", "Image Content-based Alignment")
        item.RegistrationSequence = DicomSequence(
            [
                _matrix_item(fixed, AffineTransform.identity(3), same),
                _matrix_item(moving, transform.inverse(), by_content),
            ]
        )
        add_common_references(item, (fixed, moving))
    else:
        item.DeformableRegistrationSequence = DicomSequence([_deformable_item(transform, fixed, moving)])
        add_common_references(item, (moving,))
    return item


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _matrix_item(series: ImageSeries, to_registered: AffineTransform, code: Dataset) -> Dataset:
    item = Dataset()
    item.FrameOfReferenceUID = series.frame_of_reference
    item.ReferencedImageSequence = series.references()
    step = Dataset()
    step.RegistrationTypeCodeSequence = DicomSequence([code])
    step.MatrixSequence = DicomSequence([_matrix(to_registered)])
    item.MatrixRegistrationSequence = DicomSequence([step])
    return item


def _matrix(transform: AffineTransform) -> Dataset:
    item = Dataset()
    numbers = np.vstack([np.column_stack([transform.matrix, transform.translation]), [0, 0, 0, 1]])
    item.FrameOfReferenceTransformationMatrix = [decimal(value) for value in numbers.ravel()]
    item.FrameOfReferenceTransformationMatrixType = _RIGID if _is_rigid(transform.matrix) else _AFFINE
    return item


def _is_rigid(matrix: FloatArray) -> bool:
    return bool(np.abs(matrix.T @ matrix - np.eye(3)).max() < _RIGID_TOLERANCE and np.linalg.det(matrix) > 0)


def _deformable_item(transform: Transform, fixed: ImageSeries, moving: ImageSeries) -> Dataset:
    field, after = field_then_affine(transform, fixed.grid)
    if field.displacement.nbytes > _MAX_FIELD_BYTES:
        raise InputError(
            f"the displacement field, {field.grid}, takes {field.displacement.nbytes / 1e9:.1f} GB, more than a DICOM "
            "element holds; register at a coarser spacing, or save the result with compact fields and read it again"
        )
    item = Dataset()
    item.SourceFrameOfReferenceUID = moving.frame_of_reference
    item.ReferencedImageSequence = moving.references()
    item.RegistrationTypeCodeSequence = DicomSequence([_code("125024", "Image Content-based Alignment")])
    grid = Dataset()
    grid.ImagePositionPatient = [decimal(value) for value in field.grid.origin]
    grid.ImageOrientationPatient = [decimal(value) for value in field.grid.direction[:, :2].T.ravel()]
    grid.GridDimensions = list(field.grid.size)
    grid.GridResolution = field.grid.spacing.tolist()
    grid.VectorGridData = np.ascontiguousarray(field.displacement, dtype="<f4").tobytes()
    item.DeformableRegistrationGridSequence = DicomSequence([grid])
    if after is not None:
        item.PostDeformationMatrixRegistrationSequence = DicomSequence([_matrix(after)])
    return item


def field_then_affine(transform: Transform, image: Grid) -> tuple[DisplacementField, AffineTransform | None]:
    """Return a transform as one field on a right-handed grid and the affine after it.

    Exact where it is such a pair, as samreg's results are; else the field is sampled around the image, and by how much
    it differs is said where that is more than :data:`FIELD_ERROR_MM`.
    """
    first, *rest = components(transform)
    after = compose(*rest) if rest else None
    if isinstance(first, DisplacementField) and (after is None or isinstance(after, AffineTransform)):
        field = _right_handed(first)
        if _is_orthonormal(field.grid):
            return field, after
    affines = [part for part in components(transform) if isinstance(part, AffineTransform)]
    last = compose(*affines) if affines else AffineTransform.identity(3)
    assert isinstance(last, AffineTransform)  # neighbouring affines become one
    return _right_handed(_sampled(compose(transform, last.inverse()), image)), last


def _sampled(transform: Transform, image: Grid) -> DisplacementField:
    """Sample a transform around an image on the first grid, of ever smaller voxels, that holds it; the best is said."""
    fields = [part.forward if isinstance(part, InverseField) else part for part in components(transform)]
    voxels = [part.grid.spacing.min() for part in fields if isinstance(part, DisplacementField)]
    points = points_within(image)
    expected = transform.transform_points(points)
    for refinement in _REFINEMENTS:
        grid = image.with_spacing(min(voxels, default=image.spacing.min()) / refinement)
        grid = grid.padded(float(grid.spacing.max()))
        if refinement > _REFINEMENTS[0] and np.prod(grid.shape) > _MAX_VOXELS:
            break
        field = sample_displacement(transform, grid)
        error = float(np.linalg.norm(field.transform_points(points) - expected, axis=1).max())
        if error <= FIELD_ERROR_MM:
            return field
    log.warning("a DICOM registration holds one displacement field; so sampled, the transform is off by %.2g mm", error)
    return field


def _is_orthonormal(grid: Grid) -> bool:
    """Tell whether the third axis is the product of the others, as DICOM has it."""
    row, column, depth = grid.direction.T
    reach = np.linalg.norm(grid.extent)
    return bool(np.abs(np.cross(row, column) - depth).max() * reach < _GRID_TOLERANCE_MM)


def _right_handed(field: DisplacementField) -> DisplacementField:
    """Return the same field with its slices in the other order, where its axes are left-handed."""
    grid = field.grid
    if np.linalg.det(grid.direction) > 0:
        return field
    last = grid.index_to_world([0, 0, grid.size[2] - 1])[0]
    turned = Grid(grid.shape, last, grid.spacing, grid.direction * [1, 1, -1])
    return DisplacementField(field.displacement[::-1], turned)


def write_dataset(item: Dataset, path: Path) -> None:
    """Write a DICOM file, whole or not at all."""
    with atomic_path(path) as temporary:
        item.save_as(temporary, enforce_file_format=True)


def is_registration(path: Path) -> bool:
    """Tell whether a file is a DICOM registration object."""
    return read_elements(path, ["SOPClassUID"])["SOPClassUID"] in _REGISTRATIONS


def read_registration(path: Path) -> Transform:
    """Read a registration object as a transform, fixed (registered) to moving (source) points, LPS mm.

    Raises
    ------
    InputError
        When the file holds no registration, or one of more than two frames of reference.
    """
    with reading(path):
        item = dcmread(path)
    kind = item.get("SOPClassUID")
    if kind not in _REGISTRATIONS:
        raise InputError(f"{path} is a DICOM file but no registration object; give one, or another transform file")
    with reading(path):
        if kind == SpatialRegistrationStorage:
            return _read_matrices(item, path)
        return _read_deformable(item, path)


def _read_matrices(item: Dataset, path: Path) -> Transform:
    maps = [
        compose(*reversed([_affine(one) for one in entry.MatrixRegistrationSequence[0].MatrixSequence]))
        for entry in item.RegistrationSequence
    ]
    identity = AffineTransform.identity(3)
    others = [one for one in maps if isinstance(one, AffineTransform) and not _same(one, identity)]
    if len(others) > 1:
        raise InputError(f"{path} registers {len(others)} images to a third; write one pair into a file of its own")
    return others[0].inverse() if others else identity


def _same(first: AffineTransform, second: AffineTransform) -> bool:
    return bool(np.allclose(first.matrix, second.matrix) and np.allclose(first.translation, second.translation))


def _affine(item: Dataset) -> AffineTransform:
    numbers = np.array([float(value) for value in item.FrameOfReferenceTransformationMatrix]).reshape(4, 4)
    return AffineTransform(numbers[:3, :3], numbers[:3, 3])


def _read_deformable(item: Dataset, path: Path) -> Transform:
    entries = [one for one in item.DeformableRegistrationSequence if one.get("DeformableRegistrationGridSequence")]
    if len(entries) != 1:
        raise InputError(f"{path} deforms {len(entries)} images; write one pair into a file of its own")
    entry, identity = entries[0], AffineTransform.identity(3)
    grid_item = entry.DeformableRegistrationGridSequence[0]
    before, after = (
        _affine(entry[name].value[0]) if entry.get(name) else identity
        for name in ("PreDeformationMatrixRegistrationSequence", "PostDeformationMatrixRegistrationSequence")
    )
    row, column = np.array([float(v) for v in grid_item.ImageOrientationPatient]).reshape(2, 3)
    shape = tuple(int(n) for n in reversed(grid_item.GridDimensions))
    grid = Grid.make(
        shape,
        origin=[float(v) for v in grid_item.ImagePositionPatient],
        spacing=[float(v) for v in grid_item.GridResolution],
        direction=np.c_[row, column, np.cross(row, column)],
    )
    vectors = np.frombuffer(grid_item.VectorGridData, dtype="<f4").reshape(*shape, 3)
    require_known_vectors(vectors)
    # M_pre x + d = M_pre (x + M_pre^-1 d): a field and affines after it
    displacement = vectors @ before.inverse().matrix.T.astype(np.float32)
    return compose(DisplacementField(displacement, grid), before, after)

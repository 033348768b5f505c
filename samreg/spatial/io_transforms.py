"""Reading and writing transforms: ITK .h5, .tfm, .mat; NIfTI displacement fields; Learn2Reg .npz.

Files are written without ITK: its HDF5 writer ends the process when the disk is full.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.adapters import nifti_to_lps, to_nifti_affine, transform_from_sitk
from samreg.spatial.files import atomic_path, reading, require_file
from samreg.spatial.grid import Grid
from samreg.spatial.io_images import NIFTI, load_nifti
from samreg.spatial.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    components,
    compose,
    invert,
    sample_displacement,
    slabs,
)

_HDF5 = (".h5", ".hdf5")
_TEXT = (".tfm", ".txt")
_NIFTI_DISPVECT, _NIFTI_VECTOR = 1006, 1007  # intent codes


def read_transform(
    path: str | os.PathLike[str], *, fixed_grid: Grid | None = None, moving_grid: Grid | None = None
) -> Transform:
    """Read a transform that maps fixed to moving points, LPS mm.

    Parameters
    ----------
    path
        By suffix:

        - .h5, .hdf5, .tfm, .txt, .mat: ITK's transform files, those of ANTs and SimpleITK among them: affine
          kinds, displacement fields and composites.
        - .nii, .nii.gz: a displacement field (x, y, z, 1, 3) in mm as ITK and ANTs write it: vectors in LPS for
          the intent "vector", in RAS for the intent "displacement vector".
        - .npz: Learn2Reg, one array (x, y, z, 3). Element [i, j, k] belongs to the fixed voxel (i, j, k) in the
          NIfTI file's own order, and its components say how many voxels further along the same axes the moving
          voxel lies: ``moving index = fixed index + u``.
    fixed_grid
        Grid of the fixed image; .npz needs it and nothing else uses it.
    moving_grid
        Grid of the moving image, for .npz; Learn2Reg's pairs share one grid, so the fixed one unless given.

    Returns
    -------
    Transform
        Fixed to moving.

    Raises
    ------
    InputError
        When the file is missing, empty, damaged, of another kind, carries pickled objects, or its field does not
        fit the grid.
    """
    path = require_file(path, "transform")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a transform file")
    name = path.name.lower()
    try:
        with reading(path):
            if name.endswith(NIFTI):
                return _read_nifti(path)
            if name.endswith(".npz"):
                return _read_learn2reg(path, fixed_grid, moving_grid or fixed_grid)
            if name.endswith((*_HDF5, *_TEXT, ".mat")):
                return _read_itk(path)
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    raise InputError(f"unknown transform format: {path}; give .h5, .tfm, .txt, .mat, .nii, .nii.gz or .npz")


def write_transform(
    transform: Transform,
    path: str | os.PathLike[str],
    *,
    grid: Grid | None = None,
    moving_grid: Grid | None = None,
) -> None:
    """Write a transform; the format follows from the suffix as in :func:`read_transform`.

    Affine transforms are written exactly, to .h5, .tfm, .txt and .mat. The formats that hold a field:

    - .h5 keeps the affine and the field apart, as an ITK composite; with ``grid`` the field is resampled on it so
      that it is applied first and the affine after it.
    - .nii, .nii.gz and .npz hold the total displacement.

    Parameters
    ----------
    transform
        Fixed to moving, LPS mm.
    path
        The file to write; a file of that name is replaced only when the new one is complete.
    grid
        Grid of the original fixed image, on which the field is written. Without it .h5 keeps every field on its
        own grid; the others need it unless the transform is a lone field.
    moving_grid
        Grid of the moving image, for .npz; the fixed one unless given.

    Raises
    ------
    InputError
        When the suffix is unknown, the format cannot hold the transform, ``grid`` is missing, or the file cannot
        be written.
    """
    path = Path(path)
    name = path.name.lower()
    transform = compose(transform)
    if grid is not None and grid.ndim != transform.ndim:
        raise InputError(f"cannot write {path}: the transform is {transform.ndim}D, the grid {grid.ndim}D")
    if name.endswith((*_TEXT, ".mat")):
        if not isinstance(transform, AffineTransform):
            raise InputError(f"cannot write {path}: it holds affine transforms alone; use .h5 or .nii.gz for a field")
        data = _mat_bytes(transform) if name.endswith(".mat") else _text_bytes(transform)
    elif name.endswith(_HDF5):
        data = _hdf5_bytes(transform if grid is None else _field_then_affine(transform, grid))
    elif name.endswith(".npz"):
        on = _field_grid(transform, grid, path)
        data = _learn2reg_bytes(transform, on, moving_grid or on)
    elif name.endswith(NIFTI):
        field = transform if grid is None and isinstance(transform, DisplacementField) else None
        field = field or sample_displacement(transform, _field_grid(transform, grid, path))
        with atomic_path(path) as temporary:
            _write_nifti(field, temporary)
        return
    else:
        raise InputError(f"cannot write {path}: unknown transform format; use .h5, .tfm, .mat, .nii.gz or .npz")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_transformix(path: str | os.PathLike[str], field: str, *, grid: Grid, fill: float) -> None:
    """Write a parameter file with which transformix applies a displacement field.

    Parameters
    ----------
    path
        The file, .txt.
    field
        Name of the field's NIfTI file in the same folder, where transformix must be run.
    grid
        Of the original fixed image.
    fill
        Intensity outside the moving image.
    """
    entries: dict[str, tuple[Any, ...]] = {
        "Transform": ("DeformationFieldTransform",),
        "DeformationFieldFileName": (field,),
        "DeformationFieldInterpolationOrder": (1,),
        "NumberOfParameters": (0,),
        "InitialTransformParameterFileName": ("NoInitialTransform",),
        "HowToCombineTransforms": ("Compose",),
        "FixedImageDimension": (grid.ndim,),
        "MovingImageDimension": (grid.ndim,),
        "Size": grid.size,
        "Index": (0,) * grid.ndim,
        "Spacing": tuple(grid.spacing.tolist()),
        "Origin": tuple(grid.origin.tolist()),
        "Direction": tuple(grid.direction.T.ravel().tolist()),
        "UseDirectionCosines": ("true",),
        "Resampler": ("DefaultResampler",),
        "ResampleInterpolator": ("FinalLinearInterpolator",),
        "DefaultPixelValue": (fill,),
        "ResultImageFormat": ("nii.gz",),
        "ResultImagePixelType": ("float",),
        "CompressResultImage": ("true",),
    }
    lines = [f"({key} {' '.join(json.dumps(value) for value in values)})\n" for key, values in entries.items()]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="ascii")


def _field_grid(transform: Transform, grid: Grid | None, path: Path) -> Grid:
    if grid is not None:
        return grid
    if isinstance(transform, DisplacementField):
        return transform.grid
    raise InputError(f"cannot write {path}: give grid=, the grid of the fixed image, to sample the field on")


def _field_then_affine(transform: Transform, grid: Grid) -> Transform:
    """Return the transform as a field on ``grid`` followed by the product of its affine parts."""
    if isinstance(transform, AffineTransform):
        return transform
    affines = [part for part in components(transform) if isinstance(part, AffineTransform)]
    if not affines:
        return sample_displacement(transform, grid)
    after = compose(*affines)
    return compose(sample_displacement(compose(transform, invert(after)), grid), after)


# ITK


def _read_itk(path: Path) -> Transform:
    import SimpleITK as sitk

    _check_complete(path)
    return transform_from_sitk(sitk.ReadTransform(str(path)))


def _check_complete(path: Path) -> None:
    """Refuse what ITK would read without a word although its end is missing."""
    name = path.name.lower()
    if name.endswith(_HDF5):
        import h5py

        with h5py.File(path, "r") as file:
            if "TransformGroup" not in file:
                raise InputError(f"{path}: an HDF5 file, but it holds no ITK transform; give one that does")
    elif name.endswith(".mat"):
        from scipy.io import loadmat

        if "fixed" not in loadmat(path):
            raise InputError(f"{path}: holds no ITK transform, or is cut; export it again")
    else:
        text = path.read_text(encoding="utf-8")
        if not text.startswith("#Insight Transform File"):
            raise InputError(f"{path}: no ITK transform file (its first line is '#Insight Transform File V1.0')")
        keys = [line.partition(":")[0].strip() for line in text.splitlines()]
        if keys.count("Parameters") != keys.count("FixedParameters") or not text.endswith("\n"):
            raise InputError(f"{path}: its end is missing; copy or export it again")


def _itk_affine(transform: AffineTransform) -> tuple[str, NDArray[np.float64], NDArray[np.float64]]:
    d = transform.ndim
    parameters = np.concatenate([transform.matrix.ravel(), transform.translation])
    return f"AffineTransform_double_{d}_{d}", parameters, np.zeros(d)


def _text_bytes(transform: AffineTransform) -> bytes:
    kind, parameters, fixed = _itk_affine(transform)
    lines = [
        "#Insight Transform File V1.0",
        "#Transform 0",
        f"Transform: {kind}",
        f"Parameters: {' '.join(map(repr, parameters.tolist()))}",
        f"FixedParameters: {' '.join(map(repr, fixed.tolist()))}",
    ]
    return ("\n".join(lines) + "\n").encode("ascii")


def _mat_bytes(transform: AffineTransform) -> bytes:
    from scipy.io import savemat

    kind, parameters, fixed = _itk_affine(transform)
    buffer = io.BytesIO()
    savemat(buffer, {kind: parameters[:, None], "fixed": fixed[:, None]}, format="4")
    return buffer.getvalue()


def _hdf5_bytes(transform: Transform) -> bytes:
    """Return an ITK transform file; fields are stored as compressed float32, which ITK reads as well."""
    import h5py

    d = transform.ndim
    parts: list[tuple[str, NDArray[Any] | None, NDArray[np.float64] | None]] = []
    for part in reversed(components(transform)):  # ITK applies the last one first
        if isinstance(part, AffineTransform):
            parts.append(_itk_affine(part))
        elif isinstance(part, DisplacementField):
            grid = part.grid
            fixed = np.concatenate([grid.size, grid.origin, grid.spacing, grid.direction.ravel()])
            parts.append((f"DisplacementFieldTransform_double_{d}_{d}", part.displacement.ravel(), fixed))
        else:
            raise InputError(f"a {type(part).__name__} cannot be stored as it is; give grid= to sample it")
    if len(parts) > 1:
        parts.insert(0, (f"CompositeTransform_double_{d}_{d}", None, None))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("ITKVersion", data=["5.4"], dtype=h5py.string_dtype("ascii"))
        for i, (kind, parameters, fixed) in enumerate(parts):
            group = file.create_group(f"TransformGroup/{i}")
            group.create_dataset("TransformType", data=[kind], dtype=h5py.string_dtype("ascii"))
            if parameters is not None:
                options = {"compression": "gzip", "compression_opts": 1} if "Field" in kind else {}
                group.create_dataset("TransformParameters", data=parameters, **options)
                group.create_dataset("TransformFixedParameters", data=fixed)
    return buffer.getvalue()


# NIfTI


def _read_nifti(path: Path) -> DisplacementField:
    image = load_nifti(path)
    shape = image.shape
    flat = shape == (*shape[:2], 1, 1, 2)
    if not flat and shape != (*shape[:3], 1, 3):
        raise InputError(
            f"{path}: shape {shape} is no displacement field; it must be (x, y, z, 1, 3), vectors in mm (a Learn2Reg "
            "field (x, y, z, 3) counts voxels; save it as .npz)"
        )
    intent = int(image.header["intent_code"])
    if intent not in (_NIFTI_VECTOR, _NIFTI_DISPVECT):
        raise InputError(
            f"{path}: intent code {intent} does not say that these are vectors; ITK and ANTs write {_NIFTI_VECTOR}"
        )
    data = np.asarray(image.dataobj, dtype=np.float32)
    data = data[:, :, 0, 0] if flat else data[:, :, :, 0]
    d = data.ndim - 1
    if intent == _NIFTI_DISPVECT:  # the standard's displacements are RAS, and ITK turns them
        data = data * np.array([-1, -1, 1], dtype=np.float32)[:d]
    lps = nifti_to_lps(image, str(path))
    spacing = np.linalg.norm(lps[:d, :d], axis=0)
    array = np.ascontiguousarray(_reversed_axes(data))
    grid = Grid.make(array.shape[:-1], origin=lps[:d, 3], spacing=spacing, direction=lps[:d, :d] / spacing)
    return DisplacementField(array, grid)


def _write_nifti(field: DisplacementField, path: Path) -> None:
    import nibabel as nib

    data = _reversed_axes(field.displacement)
    while data.ndim < 5:
        data = np.expand_dims(data, -2)
    image = nib.Nifti1Image(data, to_nifti_affine(field.grid))
    image.header.set_intent("vector")
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    nib.save(image, path)


# Learn2Reg


def _read_learn2reg(path: Path, fixed: Grid | None, moving: Grid | None) -> DisplacementField:
    if fixed is None or moving is None:
        raise InputError(f"{path} counts voxels; give fixed_grid=, the grid of the fixed image (and moving_grid=)")
    remedy = "save the one array of displacements with numpy.savez_compressed; pickled objects are never loaded"
    with reading(path, remedy):
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray) or len(file.files) != 1:
            held = "a bare array" if isinstance(file, np.ndarray) else f"the arrays {file.files}"
            raise InputError(f"{path} holds {held}; {remedy}")
        with file:
            voxels = file[file.files[0]]
    expected = (*fixed.size, fixed.ndim)
    if voxels.shape != expected or voxels.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: {voxels.dtype} array of shape {voxels.shape}; the fixed grid needs numbers of shape {expected}, "
            "order (x, y, z, component)"
        )
    u = _reversed_axes(voxels)
    displacement = np.empty((*fixed.shape, fixed.ndim), dtype=np.float32)
    for start, points in slabs(fixed):
        stop = start + len(points)
        flat = points.reshape(-1, fixed.ndim)
        index = fixed.world_to_index(flat) + u[start:stop].reshape(-1, fixed.ndim)
        displacement[start:stop] = (moving.index_to_world(index) - flat).reshape(points.shape)
    return DisplacementField(displacement, fixed)


def learn2reg_displacement(transform: Transform, fixed: Grid, moving: Grid) -> NDArray[np.float32]:
    """Return a transform as Learn2Reg's displacement.

    Parameters
    ----------
    transform
        Fixed to moving, LPS mm.
    fixed, moving
        Grids of the images.

    Returns
    -------
    ndarray
        (*fixed.size, d): moving minus fixed voxel position, order (x, y, z, component).
    """
    voxels = np.empty((*fixed.shape, fixed.ndim), dtype=np.float32)
    for start, points in slabs(fixed):
        flat = points.reshape(-1, fixed.ndim)
        u = moving.world_to_index(transform.transform_points(flat)) - fixed.world_to_index(flat)
        voxels[start : start + len(points)] = u.reshape(points.shape)
    return _reversed_axes(voxels)


def _learn2reg_bytes(transform: Transform, fixed: Grid, moving: Grid) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, learn2reg_displacement(transform, fixed, moving))
    return buffer.getvalue()


def _reversed_axes(vectors: NDArray[Any]) -> NDArray[Any]:
    """Turn (z, y, x, component) into (x, y, z, component), or back."""
    return np.moveaxis(vectors, -1, 0).T

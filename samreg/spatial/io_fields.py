"""Displacement fields in files: NIfTI in mm, as ITK and ANTs write them, and Learn2Reg's .npz in voxels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.adapters import nifti_to_lps, to_nifti_affine
from samreg.spatial.displacement import DisplacementField, require_known_vectors
from samreg.spatial.files import reading
from samreg.spatial.grid import Grid, slabs
from samreg.spatial.io_nifti import open_nibabel, save_nifti
from samreg.spatial.transforms import Transform

LEARN2REG = ".npz"

_NIFTI_DISPVECT, _NIFTI_VECTOR = 1006, 1007  # intent codes
_NIFTYREG, _SPM = "NREG_TRANS", "Mapping"  # intent names of files whose vectors are RAS, or positions
_NIFTYREG_DISPLACEMENT = 1  # NiftyReg's first intent parameter, 0 of positions, others of velocities and splines
_FNIRT = range(2006, 2010)  # intent codes of FSL


def is_nifti_field(path: Path) -> bool:
    """Tell by its header whether a NIfTI file holds a vector of the space's dimension a voxel, (x, y, z, 1, d).

    Raises
    ------
    InputError
        When the file is damaged or foreign.
    """
    with open_nibabel(path) as image:
        shape = image.shape
        is_vector = shape[3:] == (1, 3) or shape[2:] == (1, 1, 2)
        return is_vector and image.dataobj.dtype.names is None  # of colours, which have names


def read_nifti_field(path: Path) -> DisplacementField:
    """Read a NIfTI displacement field, (x, y, z, 1, 3) in mm.

    The vectors are LPS for the intent "vector", RAS for "displacement vector" and for NiftyReg's displacements.

    Raises
    ------
    InputError
        When the file is damaged or no displacement field, or does not say in which unit and frame its vectors are.
    """
    with open_nibabel(path) as image:
        shape, intent = image.shape, int(image.header["intent_code"])
        _refuse_other_transforms(image.header, path)
        flat = shape == (*shape[:2], 1, 1, 2)
        is_field = flat or shape == (*shape[:3], 1, 3)
        if not is_field and not (len(shape) == 4 and 3 in (shape[0], shape[3])):
            raise InputError(
                f"{path}: shape {shape} is no displacement field; it must be (x, y, z, 1, 3), vectors in mm"
            )
        if not is_field or intent not in (_NIFTI_VECTOR, _NIFTI_DISPVECT):
            raise InputError(
                f"{path}: vectors of shape {shape}, intent code {intent}: their unit and frame are not known. Voxels, "
                "as Learn2Reg's disp_*.nii.gz count, are read from .npz (docs/howto/interchange.md shows how). Vectors "
                f"in mm are stored as (x, y, z, 1, 3) with intent code {_NIFTI_VECTOR} if they are LPS, as ITK's and "
                f"ANTs' are, or {_NIFTI_DISPVECT} if RAS"
            )
        data = np.asarray(image.dataobj, dtype=np.float32)
        data = data[:, :, 0, 0] if flat else data[:, :, :, 0]
        d = data.ndim - 1
        if intent == _NIFTI_DISPVECT or _intent_name(image.header) == _NIFTYREG:
            # the standard's displacements are RAS, and ITK turns them
            data = data * np.array([-1, -1, 1], dtype=np.float32)[:d]
        lps = nifti_to_lps(image, str(path))
        spacing = np.linalg.norm(lps[:d, :d], axis=0)
        array = np.ascontiguousarray(reversed_axes(data))
        grid = Grid.make(array.shape[:-1], origin=lps[:d, 3], spacing=spacing, direction=lps[:d, :d] / spacing)
        return DisplacementField(array, grid)


def _intent_name(header: Any) -> str:
    return bytes(header["intent_name"]).decode("ascii", "replace").strip("\0 ")


def _refuse_other_transforms(header: Any, path: Path) -> None:
    """Refuse what other programs store as vectors that are no displacements in mm of the scanner's axes."""
    name = _intent_name(header)
    if name == _NIFTYREG and float(header["intent_p1"]) != _NIFTYREG_DISPLACEMENT:
        raise InputError(
            f"{path}: a transform of NiftyReg that is no displacement field; make it one with `reg_transform -ref "
            f"FIXED -disp {path.name} displacement.nii.gz`"
        )
    if name == _SPM:
        raise InputError(
            f"{path}: a deformation of SPM, which holds positions, RAS mm; subtract each voxel's own position and "
            f"store it with intent code {_NIFTI_DISPVECT} and no intent name"
        )
    if int(header["intent_code"]) in _FNIRT:
        raise InputError(
            f"{path}: a warp of FSL's FNIRT, in its own frame; convert it with Connectome Workbench, `wb_command "
            f"-convert-warpfield -from-fnirt {path.name} MOVING -to-itk field.nii.gz`"
        )


def write_nifti_field(field: DisplacementField, path: Path) -> None:
    """Write a displacement field as NIfTI, vectors in LPS mm, as ITK and ANTs do."""
    import nibabel as nib

    data = reversed_axes(field.displacement)
    while data.ndim < 5:
        data = np.expand_dims(data, -2)
    image = nib.Nifti1Image(data, to_nifti_affine(field.grid))
    image.header.set_intent("vector")
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    save_nifti(image, path)


def read_learn2reg(path: Path, fixed: Grid | None, moving: Grid | None) -> DisplacementField:
    """Read Learn2Reg's .npz, one array (x, y, z, 3) of displacements in voxels.

    Parameters
    ----------
    path
        The file.
    fixed, moving
        Grids of the images.

    Raises
    ------
    InputError
        When a grid is missing, the file is damaged, holds pickled objects or another array than the grid needs.
    """
    if fixed is None or moving is None:
        raise InputError(f"{path} counts voxels; give fixed_grid=, the grid of the fixed image (and moving_grid=)")
    voxels = _lone_array(path)
    expected = (*fixed.size, fixed.ndim)
    if voxels.shape != expected or voxels.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: {voxels.dtype} array of shape {voxels.shape}; the fixed grid needs numbers of shape {expected}, "
            f"order (x, y, z, component){_layout_remedy(voxels.shape, expected)}"
        )
    u = reversed_axes(voxels)
    require_known_vectors(u)
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
    result: NDArray[np.float32] = reversed_axes(voxels)
    return result


def write_learn2reg(transform: Transform, path: Path, *, fixed: Grid, moving: Grid) -> None:
    """Write a transform as Learn2Reg's .npz, displacements in voxels between the images' grids."""
    with path.open("wb") as file:
        np.savez_compressed(file, learn2reg_displacement(transform, fixed, moving))


def reversed_axes(vectors: NDArray[Any]) -> NDArray[Any]:
    """Turn (z, y, x, component) into (x, y, z, component), or back."""
    return np.moveaxis(vectors, -1, 0).T


def _layout_remedy(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Return what to do with an array of Learn2Reg that is laid out otherwise; nothing where that is not known."""
    *size, d = expected
    if shape == (d, *size):
        return "; its components come first: save numpy.moveaxis(array, 0, -1)"
    if shape[:1] == (d,) and [2 * n for n in shape[1:]] == size:
        return (
            "; it has half the size and its components come first, as Learn2Reg 2021 took fields: save each component "
            "enlarged as its evaluation does, numpy.stack([scipy.ndimage.zoom(part, 2, order=2) for part in array], -1)"
        )
    return ""


def _lone_array(path: Path) -> NDArray[Any]:
    """Return the one array of an .npz file, whose checksum has been compared."""
    remedy = "save the one array of displacements with numpy.savez_compressed; pickled objects are never loaded"
    with reading(path, remedy):
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} holds no .npz archive, or is cut (a bare array?); {remedy}")
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise InputError(f"{path} holds the arrays {[name.removesuffix('.npy') for name in names]}; {remedy}")
            with archive.open(names[0]) as member:
                array: NDArray[Any] = np.lib.format.read_array(  # type: ignore[no-untyped-call]
                    member, allow_pickle=False
                )
                member.read()  # to the end, where zipfile compares the checksum
    return array

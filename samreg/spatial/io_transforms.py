"""Reading and writing transforms, by one module for each family of formats, and taking those of other packages.

``io_itk_transforms`` holds ITK's .h5, .tfm and .mat, ``io_fields`` displacement fields in NIfTI and Learn2Reg's .npz,
``io_nrrd`` those in NRRD and MetaImage, ``io_transformix`` elastix's parameter files, ``io_dicom_objects`` DICOM's
registration objects.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from samreg.errors import InputError
from samreg.spatial.adapters import transform_from_sitk
from samreg.spatial.displacement import DisplacementField, sample_displacement
from samreg.spatial.files import atomic_path, reading, require_file
from samreg.spatial.grid import Grid, require_grid
from samreg.spatial.io_dicom_objects import DICOM
from samreg.spatial.io_fields import (
    LEARN2REG,
    learn2reg_displacement,
    read_learn2reg,
    read_nifti_field,
    write_learn2reg,
    write_nifti_field,
)
from samreg.spatial.io_itk_transforms import (
    HDF5,
    ITK_TRANSFORMS,
    read_itk_transform,
    transform_from_ants,
    transform_from_itk,
    write_itk_transform,
)
from samreg.spatial.io_nifti import NIFTI
from samreg.spatial.io_nrrd import METAIMAGE, NRRD, read_nrrd_field
from samreg.spatial.io_transformix import write_transformix
from samreg.spatial.transforms import AffineTransform, Transform, components, compose, require_transform

__all__ = ["as_transform", "learn2reg_displacement", "read_transform", "write_transform", "write_transformix"]

#: How transforms of other packages are converted, and what they have and images of these packages have not.
_TRANSFORM_FROM = {"SimpleITK": transform_from_sitk, "ants": transform_from_ants, "itk": transform_from_itk}
_MAPS_A_POINT = {"SimpleITK": "TransformPoint", "ants": "apply_to_point", "itk": "TransformPoint"}


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
        - .nrrd, .nhdr, .mha, .mhd: a displacement field, vectors in LPS mm, as ITK and 3D Slicer write it.
        - .npz: Learn2Reg, one array (x, y, z, 3). Element [i, j, k] belongs to the fixed voxel (i, j, k) in the
          NIfTI file's own order, and its components say how many voxels further along the same axes the moving
          voxel lies: ``moving index = fixed index + u``.
        - .dcm: a DICOM Spatial Registration or Deformable Spatial Registration of one image to another; the
          registered frame of reference is the fixed one.
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
        fit the grid. Checksums of compressed files are verified.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import samreg
    >>> from samreg.spatial import AffineTransform
    >>> path = pathlib.Path(tempfile.mkdtemp(), "shift.tfm")
    >>> samreg.write_transform(AffineTransform([[1, 0], [0, 1]], [10, 20]), path)
    >>> samreg.read_transform(path).transform_points([[1, 2]])
    array([[11., 22.]])
    """
    for name, grid in (("fixed_grid", fixed_grid), ("moving_grid", moving_grid)):
        if grid is not None:
            require_grid(grid, name)
    path = require_file(path, "transform")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a transform file")
    name = path.name.lower()
    try:
        with reading(path):
            if name.endswith(NIFTI):
                return read_nifti_field(path)
            if name.endswith((*NRRD, *METAIMAGE)):
                return read_nrrd_field(path)
            if name.endswith(LEARN2REG):
                return read_learn2reg(path, fixed_grid, moving_grid or fixed_grid)
            if name.endswith(ITK_TRANSFORMS):
                return read_itk_transform(path)
            if name.endswith(DICOM):
                from samreg.spatial.dicom.registration import read_registration  # loads pydicom

                return read_registration(path)
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    known = (*ITK_TRANSFORMS, *NIFTI, *NRRD, *METAIMAGE, LEARN2REG, DICOM)
    raise InputError(f"unknown transform format: {path}; give {', '.join(known)}")


def as_transform(
    source: Any, *, name: str = "transform", fixed_grid: Grid | None = None, moving_grid: Grid | None = None
) -> Transform:
    """Return a :class:`Transform` from whatever the user has, fixed to moving, LPS mm.

    Parameters
    ----------
    source
        A Transform, a transform file, or a transform of SimpleITK, ITK or ANTs: affine kinds, displacement fields, and
        composites of them. It maps points of the fixed image, as these packages resample.
    name
        What to call it in messages.
    fixed_grid, moving_grid
        For Learn2Reg's .npz, as :func:`read_transform` takes them.

    Raises
    ------
    InputError
        When the type or kind is unknown, or a file cannot be read.

    Examples
    --------
    >>> import SimpleITK
    >>> from samreg.spatial import as_transform
    >>> as_transform(SimpleITK.TranslationTransform(2, (10, 0))).transform_points([[1, 2]])
    array([[11.,  2.]])
    """
    if isinstance(source, Transform):
        return source
    if isinstance(source, (str, os.PathLike)):
        return read_transform(source, fixed_grid=fixed_grid, moving_grid=moving_grid)
    module = type(source).__module__.split(".")[0]
    if module in _TRANSFORM_FROM and hasattr(source, _MAPS_A_POINT[module]):
        return _TRANSFORM_FROM[module](source)
    remedy = ""
    if isinstance(source, (list, tuple)):
        remedy = (
            "; make one of several by compose() of samreg.spatial, which takes the one applied first to points first"
        )
    elif hasattr(source, "__array__"):
        remedy = "; a matrix is samreg.spatial.AffineTransform(matrix[:3, :3], matrix[:3, 3]), LPS mm, fixed to moving"
    elif module in _TRANSFORM_FROM:
        remedy = f"; make a field of vectors a displacement field transform of {module}"
    raise InputError(
        f"{name} must be a transform of samreg, SimpleITK, ITK or ANTs, or a file of one, got {type(source).__name__}"
        f"{remedy}"
    )


def write_transform(
    transform: Transform,
    path: str | os.PathLike[str],
    *,
    grid: Grid | None = None,
    moving_grid: Grid | None = None,
) -> None:
    """Write a transform; the format follows from the suffix: .h5, .hdf5, .tfm, .txt, .mat, .nii, .nii.gz or .npz.

    They are those of :func:`read_transform`, without .nrrd, .nhdr, .mha and .mhd; :func:`write_dicom_registration`
    writes .dcm. Affine transforms are written exactly, to ITK's .h5, .tfm, .txt and .mat. The formats that hold a
    field:

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

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import samreg
    >>> from samreg.spatial import AffineTransform, Grid
    >>> shift = AffineTransform([[1, 0], [0, 1]], [10, 20])
    >>> path = pathlib.Path(tempfile.mkdtemp(), "shift.nii.gz")
    >>> samreg.write_transform(shift, path, grid=Grid.make((5, 6), spacing=2))
    >>> samreg.read_transform(path)
    DisplacementField(Grid(size=(6, 5), spacing=[2.0, 2.0], origin=[0.0, 0.0], direction=[[1.0, 0.0], [0.0, 1.0]]))
    """
    require_transform(transform)
    for what, given in (("grid", grid), ("moving_grid", moving_grid)):
        if given is not None:
            require_grid(given, what)
    path = Path(path)
    name = path.name.lower()
    transform = compose(transform)
    if grid is not None and grid.ndim != transform.ndim:
        raise InputError(f"cannot write {path}: the transform is {transform.ndim}D, the grid {grid.ndim}D")
    write: Callable[[Path], None]
    if name.endswith(ITK_TRANSFORMS):
        if not name.endswith(HDF5) and not isinstance(transform, AffineTransform):
            raise InputError(f"cannot write {path}: it holds affine transforms alone; use .h5 or .nii.gz for a field")
        parts = transform if grid is None or not name.endswith(HDF5) else _field_then_affine(transform, grid)
        write = partial(write_itk_transform, parts)
    elif name.endswith(LEARN2REG):
        fixed = _field_grid(transform, grid, path)
        write = partial(write_learn2reg, transform, fixed=fixed, moving=moving_grid or fixed)
    elif name.endswith(NIFTI):
        field = transform if grid is None and isinstance(transform, DisplacementField) else None
        field = field or sample_displacement(transform, _field_grid(transform, grid, path))
        write = partial(write_nifti_field, field)
    elif name.endswith(DICOM):
        raise InputError(
            f"cannot write {path}: a DICOM registration names the images it belongs to; use "
            "samreg.spatial.write_dicom_registration or `samreg dicom`"
        )
    else:
        raise InputError(f"cannot write {path}: unknown transform format; use .h5, .tfm, .mat, .nii.gz or .npz")
    with atomic_path(path) as temporary:
        write(temporary)


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
    assert isinstance(after, AffineTransform)  # neighbouring affines become one
    return compose(sample_displacement(compose(transform, after.inverse()), grid), after)

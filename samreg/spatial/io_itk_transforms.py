"""ITK's transform files: HDF5 (.h5), text (.tfm, .txt) and MATLAB (.mat), and through them transforms of ITK and ANTs.

They are written without ITK: its HDF5 writer ends the process when the disk is full.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.adapters import transform_from_sitk
from samreg.spatial.displacement import DisplacementField, InverseField
from samreg.spatial.files import itk_path, scratch_folder
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.hdf5 import create_hdf5, read_array, write_array
from samreg.spatial.io_transformix import refuse_parameters
from samreg.spatial.transforms import AffineTransform, Transform, components, compose

HDF5 = (".h5", ".hdf5")
TEXT = (".tfm", ".txt")
MATLAB = (".mat",)
ITK_TRANSFORMS = (*HDF5, *TEXT, *MATLAB)

_FIRST_LINE = "#Insight Transform File"

#: Kinds that SimpleITK does not read, and others that have the same parameters.
_RENAMED = {"Rigid2DTransform": "Euler2DTransform", "FixedCenterOfRotationAffineTransform": "AffineTransform"}
#: Those whose parameters are another kind's own, the centre and the translation.
_CENTRED = {
    "CenteredRigid2DTransform": "Euler2DTransform",
    "CenteredAffineTransform": "AffineTransform",
    "CenteredEuler3DTransform": "Euler3DTransform",
    "CenteredSimilarity2DTransform": "Similarity2DTransform",
}
#: Before the name of a kind that 3D Slicer stores where only the inverse of what it is to write is known.
_INVERSE = "Inverse"
#: One for which SimpleITK has a class alone.
_COMPOSED = "ComposeScaleSkewVersor3DTransform"
_UNKNOWN_KIND = ("is not of type", "Could not create an instance")  # what SimpleITK and ITK say of it
_HEAD_BYTES = 1000
_NUMBERS_IN_TEXT = re.compile(rb"[0-9eE+.\s-]*")  # which MATLAB files are not

#: Kind, parameters and fixed parameters of a transform, as ITK writes them.
_Described = tuple[str, NDArray[Any], NDArray[Any]]


def read_itk_transform(path: Path) -> Transform:
    """Read an ITK transform file: affine kinds, displacement fields, composites of them.

    Raises
    ------
    InputError
        When the file is damaged, or holds something else.
    """
    if path.name.lower().endswith(HDF5):
        return _read_hdf5(path)
    described = _described_in_matlab(path) if path.name.lower().endswith(MATLAB) else _described_in_text(path)
    if any(_is_read_here(kind, parameters) for kind, parameters, _ in described):
        parts = [_from_parameters(*part) for part in described if not part[0].startswith("CompositeTransform")]
        return compose(*parts[::-1])  # ITK applies the last one first
    return _read_by_simpleitk(path, [kind for kind, _, _ in described])


def write_itk_transform(transform: Transform, path: Path) -> None:
    """Write a transform in the format of the suffix.

    Parameters
    ----------
    transform
        Affine for text and MATLAB; for HDF5 also displacement fields, and composites of both.
    path
        The file.

    Raises
    ------
    InputError
        When a part is neither affine nor a displacement field.
    OSError
        When the file cannot be written.
    """
    if path.name.lower().endswith(HDF5):
        _write_hdf5(transform, path)
        return
    assert isinstance(transform, AffineTransform)
    if path.name.lower().endswith(TEXT):
        path.write_text(_as_text(*_affine_parameters(transform)), encoding="ascii")
    else:
        from scipy.io import savemat

        kind, parameters, fixed = _affine_parameters(transform)
        savemat(path, {kind: parameters[:, None], "fixed": fixed[:, None]}, format="4", appendmat=False)


def transform_from_itk(transform: Any) -> Transform:
    """Return our transform from one of ITK (Python package ``itk``): affine kinds, displacement fields, composites.

    Raises
    ------
    InputError
        For a kind that has no counterpart.
    """
    kind = transform.GetTransformTypeAsString()
    if kind.startswith("CompositeTransform"):
        import itk

        transform = itk.down_cast(transform)
        parts = [transform_from_itk(transform.GetNthTransform(i)) for i in range(transform.GetNumberOfTransforms())]
        # ITK applies the last one first
        return compose(*parts[::-1]) if parts else AffineTransform.identity(transform.GetInputSpaceDimension())
    numbers = (np.array(part) for part in (transform.GetParameters(), transform.GetFixedParameters()))
    return _from_parameters(kind, *numbers)


def transform_from_ants(transform: Any) -> Transform:
    """Return our transform from an ``ANTsTransform``: affine kinds, displacement fields, composites of them.

    Raises
    ------
    InputError
        For a kind that has no counterpart.
    """
    import ants

    is_composite = transform.transform_type == "CompositeTransform"
    composite = transform if is_composite else ants.compose_ants_transforms([transform])  # ANTs writes no lone field
    with scratch_folder() as folder:
        path = folder / "transform.h5"
        ants.write_transform(composite, str(path))
        return _read_hdf5(path)


def is_text_transform(path: Path) -> bool:
    """Tell whether a text file is an ITK transform; elastix's points end the same."""
    with path.open("rb") as file:
        return file.read(len(_FIRST_LINE)) == _FIRST_LINE.encode("ascii")


def _described_in_matlab(path: Path) -> list[_Described]:
    """Return the one transform of a MATLAB file; refuse what ITK reads without a word although its end is missing."""
    from scipy.io import loadmat

    if _NUMBERS_IN_TEXT.fullmatch(path.read_bytes()[:_HEAD_BYTES]):
        raise InputError(
            f"{path}: no ITK transform but numbers in text, as FSL FLIRT writes a matrix between voxels of its images; "
            "convert it with both images, as c3d_affine_tool -fsl2ras -oitk does"
        )
    content = loadmat(path)
    kind = next((name for name in content if "Transform" in name), "")
    if "fixed" not in content or not kind:
        raise InputError(f"{path}: holds no ITK transform, or is cut; export it again")
    return [(kind, content[kind].ravel(), content["fixed"].ravel())]


def _described_in_text(path: Path) -> list[_Described]:
    """Return the transforms of a text file; refuse what ITK reads without a word although its end is missing."""
    text = path.read_text(encoding="utf-8")
    refuse_parameters(text, path)
    if not text.startswith(_FIRST_LINE):
        raise InputError(f"{path}: no ITK transform file (its first line is '{_FIRST_LINE} V1.0')")
    entries = [(key.strip(), value.split()) for key, _, value in (line.partition(":") for line in text.splitlines())]
    keys = [key for key, _ in entries]
    if keys.count("Parameters") != keys.count("FixedParameters") or not text.endswith("\n"):
        raise InputError(f"{path}: its end is missing; copy or export it again")
    described: list[tuple[str, dict[str, NDArray[Any]]]] = []
    for key, values in entries:
        if key == "Transform":
            described.append((" ".join(values), {}))
        elif described and key in ("Parameters", "FixedParameters"):
            described[-1][1][key] = np.array(values, dtype=np.float64)
    none = np.zeros(0)  # of a composite
    return [(kind, own.get("Parameters", none), own.get("FixedParameters", none)) for kind, own in described]


def _is_read_here(kind: str, parameters: NDArray[Any]) -> bool:
    """Tell whether SimpleITK does not know a kind, or leaves out numbers that are not finite."""
    known = _bare(kind) not in (*_RENAMED, *_CENTRED, _COMPOSED) and not kind.startswith(_INVERSE)
    return not known or not np.isfinite(parameters).all()


def _bare(kind: str) -> str:
    """Return ITK's name of a kind without its type and dimensions."""
    return kind.partition("_")[0]


def _read_by_simpleitk(path: Path, kinds: Sequence[str]) -> Transform:
    """Read a file, text or MATLAB, of transforms of these kinds.

    Raises
    ------
    InputError
        When SimpleITK does not know a kind.
    """
    import SimpleITK as sitk

    try:
        transform = sitk.ReadTransform(itk_path(path))
    except (KeyError, RuntimeError) as error:
        if isinstance(error, KeyError) or any(said in str(error) for said in _UNKNOWN_KIND):
            raise InputError(
                f"a transform of the kind {', '.join(map(_bare, kinds))}, which samreg does not read; write it as an "
                "AffineTransform where it is one, else as a displacement field, with the program that made it"
            ) from error
        raise
    return transform_from_sitk(transform)


def _affine_parameters(transform: AffineTransform) -> tuple[str, FloatArray, FloatArray]:
    """Return ITK's name, parameters and fixed parameters of an affine transform."""
    d = transform.ndim
    parameters = np.concatenate([transform.matrix.ravel(), transform.translation])
    return f"AffineTransform_double_{d}_{d}", parameters, np.zeros(d)


def _as_text(kind: str, parameters: FloatArray, fixed: FloatArray) -> str:
    return (
        f"{_FIRST_LINE} V1.0\n#Transform 0\nTransform: {kind}\n"
        f"Parameters: {' '.join(map(repr, parameters.tolist()))}\n"
        f"FixedParameters: {' '.join(map(repr, fixed.tolist()))}\n"
    )


# HDF5


def _write_hdf5(transform: Transform, path: Path) -> None:
    """Write an ITK transform file; fields are stored as compressed float32, which ITK reads as well."""
    import h5py

    d = transform.ndim
    parts = components(transform)[::-1]  # ITK applies the last one first
    text = h5py.string_dtype("ascii")
    with create_hdf5(path) as file:
        file.create_dataset("ITKVersion", data=["5.4"], dtype=text)
        if len(parts) > 1:
            file.create_dataset(
                "TransformGroup/0/TransformType", data=[f"CompositeTransform_double_{d}_{d}"], dtype=text
            )
        for number, part in enumerate(parts, start=int(len(parts) > 1)):
            group = file.create_group(f"TransformGroup/{number}")
            part = part.field if isinstance(part, InverseField) else part
            if isinstance(part, AffineTransform):
                kind, parameters, fixed = _affine_parameters(part)
                write_array(group, "TransformParameters", parameters)
            elif isinstance(part, DisplacementField):
                kind, grid = f"DisplacementFieldTransform_double_{d}_{d}", part.grid
                fixed = np.concatenate([grid.size, grid.origin, grid.spacing, grid.direction.ravel()])
                # shuffled, bytes of one significance lie together and are packed better
                packing = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
                write_array(group, "TransformParameters", part.displacement.ravel(), **packing)
            else:
                raise InputError(f"a {type(part).__name__} cannot be stored as it is; give grid= to sample it")
            write_array(group, "TransformFixedParameters", fixed)
            group.create_dataset("TransformType", data=[kind], dtype=text)


def _read_hdf5(path: Path) -> Transform:
    import h5py

    parts: list[Transform] = []
    kind = ""
    with h5py.File(path, "r") as file:
        if "TransformGroup" not in file:
            raise InputError(f"{path}: an HDF5 file, but it holds no ITK transform; give one that does")
        groups = file["TransformGroup"]
        for number in sorted(groups, key=int):
            kind = _text(groups[number]["TransformType"])
            if kind.startswith("CompositeTransform"):
                continue
            parts.append(_from_parameters(kind, *(_parameters(groups[number], name) for name in ("", "Fixed"))))
    if not parts:  # a composite of nothing
        return AffineTransform.identity(int(kind.rpartition("_")[2]))
    return compose(*parts[::-1])  # ITK applies the last one first


def _text(dataset: Any) -> str:
    value = np.asarray(dataset[()]).ravel()[0]
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _parameters(group: Any, which: str) -> NDArray[Any]:
    name = f"Transform{which}Parameters"
    return read_array(group[name if name in group else name.replace("Transform", "Tranform")])  # as ITK 4 spelt it


def _from_parameters(kind: str, parameters: NDArray[Any], fixed: NDArray[Any]) -> Transform:
    """Return the transform that ITK describes by a name and numbers."""
    import SimpleITK as sitk

    if "DisplacementFieldTransform" in kind:
        d = int(kind.rpartition("_")[2])
        size, origin, spacing, direction = np.split(np.asarray(fixed, dtype=float), [d, 2 * d, 3 * d])
        grid = Grid.make(size.astype(int)[::-1].tolist(), origin=origin, spacing=spacing, direction=direction)
        field = DisplacementField(parameters.reshape(*grid.shape, d), grid)
        return field.inverse() if kind.startswith(_INVERSE) else field
    if not np.isfinite(parameters).all():
        raise InputError(f"the numbers of its {_bare(kind)} are not finite: {parameters.tolist()}; compute it again")
    d = int(kind.rpartition("_")[2])
    if (plain := _RENAMED.get(_bare(kind))) is not None:
        kind = f"{plain}_double_{d}_{d}"
    if (plain := _CENTRED.get(_bare(kind))) is not None:
        own, center, translation = np.split(parameters, [len(parameters) - 2 * d, len(parameters) - d])
        kind, parameters = f"{plain}_double_{d}_{d}", np.concatenate([own, translation])
        fixed = np.concatenate([center, fixed[d:]])  # behind the centre, which order angles have
    if _bare(kind) == _COMPOSED:
        transform = sitk.ComposeScaleSkewVersor3DTransform()
        transform.SetFixedParameters(fixed.tolist())
        transform.SetParameters(parameters.tolist())
        return transform_from_sitk(transform)
    # ITK knows many other kinds, and reads them from a file only
    with scratch_folder() as folder:
        path = folder / "part.tfm"
        path.write_text(_as_text(kind.replace("_float_", "_double_"), parameters, fixed), encoding="ascii")
        return _read_by_simpleitk(path, [kind])

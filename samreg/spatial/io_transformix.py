"""Parameter files of transformix, elastix's program that applies a transform."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from samreg.errors import InputError
from samreg.spatial.files import atomic_path
from samreg.spatial.grid import Grid

_HEAD_BYTES = 4000  # within which comments end


def is_parameter_file(path: Path) -> bool:
    """Tell a parameter file of elastix or transformix by its first entry, as (Transform "EulerTransform")."""
    with path.open("rb") as file:
        return _is_parameters(file.read(_HEAD_BYTES).decode("utf-8", "replace"))


def refuse_parameters(text: str, path: Path) -> None:
    """Raise :class:`InputError` where a text is that of a parameter file of elastix or transformix."""
    if _is_parameters(text[:_HEAD_BYTES]):
        raise InputError(
            f"{path}: a parameter file of elastix and transformix, which samreg does not read; give the displacement "
            "field that it names or that `transformix -def all` writes, or the ITK transform (.tfm, .h5)"
        )


def _is_parameters(head: str) -> bool:
    lines = (line.strip() for line in head.splitlines())
    first = next((line for line in lines if line and not line.startswith("//")), "")
    return re.match(r"\(\w+ ", first) is not None


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

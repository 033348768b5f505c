"""Parameter files of transformix, elastix's program that applies a transform."""

from __future__ import annotations

import json
import os
from typing import Any

from samreg.spatial.files import atomic_path
from samreg.spatial.grid import Grid


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

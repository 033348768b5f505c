"""DeepLesion's lesion pairs, as Deep Lesion Tracker (Cai et al., CVPR 2021) annotated them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samreg.errors import InputError
from samreg.spatial.files import require_file
from samreg.spatial.grid import FloatArray
from samreg.tracking.pairs import LesionPair, VoxelLesions, require_names

_SOURCE, _TARGET = "source", "target"
_SUFFIX = re.compile(r"\.nii(\.gz)?$")
_COUNTS = {"source center": (3,), "target center": (3,), "source box": (0, 6), "target box": (0, 6)}  # of numbers


def read_dlt(path: str | os.PathLike[str], images: str | os.PathLike[str]) -> tuple[LesionPair, ...]:
    """Read lesion pairs of DeepLesion as Deep Lesion Tracker's authors annotated them.

    The file is JSON: a list of lesions, or a mapping whose values are such lists or lesions. Of each lesion these keys
    are read, with a space or an underscore between the words:

    - ``source``, ``target``: the volumes' file names, found in ``images`` with or without their suffix;
    - ``source center``, ``target center``: [x, y, z], voxel indices from 0 in the volumes;
    - ``source box``, ``target box`` (optional): [x0, y0, z0, x1, y1, z1], voxel indices; half the box's longer side in
      the slice is the lesion's radius.

    The keys are an assumption that was not checked against a published file; a file of other keys is refused, with the
    keys it has.

    Parameters
    ----------
    path
        The annotations.
    images
        Folder of the volumes, NIfTI.

    Returns
    -------
    tuple of LesionPair
        The lesions of two volumes together.

    Raises
    ------
    InputError
        When the file is missing, no JSON, or of other keys, or two pairs of volumes would have one name.
    """
    path, images = require_file(path, "DLT annotations"), Path(images)
    try:
        lesions = _flat(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"cannot read {path}: no JSON ({error}); download it again") from error
    groups: dict[tuple[Path, Path], list[Mapping[str, Any]]] = {}
    for number, lesion in enumerate(lesions, start=1):
        needed = (_SOURCE, _TARGET, "source center", "target center")
        missing = [key for key in needed if key not in lesion]
        if missing:
            raise InputError(f"{path}, lesion {number}: no {missing}; it has {sorted(lesion)}: not DLT's annotations?")
        for key, counts in _COUNTS.items():
            values = _numbers(lesion.get(key))
            if len(values) not in counts or not np.isfinite(values).all():
                raise InputError(
                    f"{path}, lesion {number}: {key!r} is {lesion[key]}; {counts[-1]} voxel indices are needed"
                )
            lesion[key] = values
        source, target = (_volume(images, str(lesion[visit])) for visit in (_SOURCE, _TARGET))
        groups.setdefault((source, target), []).append(lesion)
    if not groups:
        raise InputError(f"{path} holds no lesions")
    pairs = tuple(_dlt_pair(*files, group) for files, group in groups.items())
    require_names(pairs, f"{path}: ")
    return pairs


def _numbers(value: Any) -> FloatArray:
    """Return the numbers in a list, of whatever depth; NaN where they are none."""
    try:
        return np.array(np.ravel(() if value is None else value), dtype=float)
    except (TypeError, ValueError):
        return np.array([np.nan])


def _flat(document: Any) -> list[dict[str, Any]]:
    """Return the lesions in lists and mappings of lists, their keys with spaces."""
    if (
        isinstance(document, Mapping)
        and _SOURCE not in document
        and document
        and all(isinstance(value, (Mapping, list)) for value in document.values())
    ):
        document = list(document.values())
    if isinstance(document, list):
        return [lesion for part in document for lesion in _flat(part)]
    if not isinstance(document, Mapping):
        raise ValueError(f"a lesion is a mapping, got {str(document)[:40]}")
    return [{str(key).replace("_", " "): value for key, value in document.items()}]


def _dlt_pair(source: Path, target: Path, group: Sequence[Mapping[str, Any]]) -> LesionPair:
    stems = [_SUFFIX.sub("", path.name) for path in (source, target)]
    lesions, truth = (_voxels(group, visit) for visit in (_SOURCE, _TARGET))
    return LesionPair("_to_".join(stems), source, target, lesions, truth)


def _voxels(group: Sequence[Mapping[str, Any]], visit: str) -> VoxelLesions:
    boxes = np.array([box if len(box := lesion[f"{visit} box"]) else [np.nan] * 6 for lesion in group])
    centers = np.array([lesion[f"{visit} center"] for lesion in group])
    return VoxelLesions(centers, (boxes[:, 3:5] - boxes[:, :2]).max(axis=1) / 2)


def _volume(images: Path, name: str) -> Path:
    """Return the file of a volume; one that is missing is reported when its pair's turn comes."""
    stem = _SUFFIX.sub("", name)
    candidates = [images / name, *(images / f"{stem}{suffix}" for suffix in (".nii.gz", ".nii"))]
    return next((path for path in candidates if path.is_file()), candidates[1])

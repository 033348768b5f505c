"""DIR-Lab's lung CTs from local folders: 4DCT and COPDgene (Castillo et al., PMB 2009 and 2013).

The images are bare little-endian int16, x fastest, slices from the head down; landmarks are 1-based voxels of the
image as stored. Sizes and voxel sizes come from the shipped manifests. World coordinates have z towards the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from samreg.benchmark.datasets.base import Case, DataSet, manifest
from samreg.errors import InputError
from samreg.spatial import Grid, Image, read_points

_STORED_WATER = 1024
_MIN_HU = -1024.0  # COPDgene pads with -2000


def dirlab_4dct(folder: Path) -> DataSet:
    """Return DIR-Lab 4DCT: end of inhalation (T00) fixed, end of exhalation (T50) moving, 300 landmarks.

    Parameters
    ----------
    folder
        Holds ``Case1Pack`` to ``Case10Pack`` (``Case8Deploy``) as unpacked; those that are there are used.

    Raises
    ------
    InputError
        When there is no case, or a file is missing or of the wrong size.
    """
    about = manifest("dirlab-4dct")

    def find(name: str, phase: str) -> tuple[Iterable[Path], Path]:
        root = next(path for path in (folder / f"Case{name}Pack", folder / f"Case{name}Deploy") if path.is_dir())
        stem = f"case{name}_{phase}"
        images = (root / "Images" / (stem + end) for end in (".img", "_s.img", "-ssm.img"))
        early = int(name) <= 5
        points = f"ExtremePhases/Case{name}_300_{phase}" if early else f"extremePhases/case{name}_dirLab300_{phase}"
        return images, root / f"{points}_xyz.txt"

    present = [n for n in about["cases"] for root in (f"Case{n}Pack", f"Case{n}Deploy") if (folder / root).is_dir()]
    return _data_set("dirlab-4dct", folder, about, present, ("T00", "T50"), find)


def dirlab_copd(folder: Path) -> DataSet:
    """Return DIR-Lab COPDgene: inspiration (i) fixed, expiration (e) moving, 300 landmarks.

    Parameters
    ----------
    folder
        Holds ``copd1`` to ``copd10`` as unpacked; those that are there are used.

    Raises
    ------
    InputError
        When there is no case, or a file is missing or of the wrong size.
    """

    def find(name: str, phase: str) -> tuple[Iterable[Path], Path]:
        stem = f"copd{name}"
        return (folder / stem / f"{stem}_{phase}BHCT.img",), folder / stem / f"{stem}_300_{phase}BH_xyz_r1.txt"

    about = manifest("dirlab-copd")
    present = [name for name in about["cases"] if (folder / f"copd{name}").is_dir()]
    return _data_set("dirlab-copd", folder, about, present, ("i", "e"), find)


def _data_set(
    kind: str, folder: Path, about: Mapping[str, Any], present: list[str], phases: tuple[str, str], find: Any
) -> DataSet:
    if not present:
        raise InputError(f"{folder} holds no case of {kind}; {about['obtain']}")
    cases = {}
    for name in present:
        size, spacing = about["cases"][name]["size"], about["cases"][name]["spacing"]
        stored = Grid.make(
            size[::-1], origin=(0, 0, (size[2] - 1) * spacing[2]), spacing=spacing, direction=np.diag([1, 1, -1])
        )
        for phase in phases:
            images, points = find(name, phase)
            images = list(images)
            image = next((path for path in images if path.exists()), None)
            if image is None or not points.exists():
                wanted = " or ".join(map(str, images)) if image is None else str(points)
                raise InputError(f"{wanted} not found; {about['obtain']}")
            cases[f"{name}-{phase}"] = Case(
                name=f"{name}-{phase}",
                source={"image": image, "landmarks": points, "grid": [size, spacing]},
                image=partial(_read_raw, image, stored),
                landmarks=partial(read_points, points, format="dirlab", grid=stored),
                landmark_file=points,
            )
    pairs = tuple((f"{name}-{phases[0]}", f"{name}-{phases[1]}") for name in present)
    return DataSet(kind, f"{kind}:{folder}", cases, pairs, about["licence"])


def _read_raw(path: Path, stored: Grid) -> Image:
    """Return the image in HU, its slices turned so that its axes run along LPS."""
    values = np.fromfile(path, dtype="<i2")
    if values.size != np.prod(stored.shape):
        raise InputError(
            f"{path} holds {values.size} voxels, {stored.size} need {np.prod(stored.shape)}; unpack the archive again"
        )
    hu = np.clip(values.reshape(stored.shape)[::-1] - np.int16(_STORED_WATER), _MIN_HU, None).astype(np.int16)
    return Image(hu, Grid.make(stored.shape, spacing=stored.spacing), str(path))

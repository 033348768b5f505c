"""Data sets in folders of images that say themselves where their voxels lie."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from samreg.benchmark.datasets.base import Case, DataSet, manifest, sha256
from samreg.errors import InputError
from samreg.spatial import Points, read_image
from samreg.spatial.files import reading
from samreg.spatial.io_points_csv import PointTable, read_point_table

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_LANDMARKS = "landmarks.csv"
_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


def samreg_folder(folder: Path) -> DataSet:
    """Return the data set of a folder in samreg's own form.

    ``images/NAME.nii.gz``; ``landmarks.csv`` with columns subject, landmark, x, y, z (LPS mm), as
    :func:`samreg.read_points` reads them, and optionally reader_mm, the distance between two readings;
    ``labels/NAME.nii.gz`` and ``masks/NAME.nii.gz`` where there are some; optionally ``manifest.json``: name, licence,
    ``pairs`` ([fixed, moving]; all ordered pairs unless given) and ``files``, from path to sha256, size, spacing,
    pictures and url. A file that is not there and has a url is fetched.

    Raises
    ------
    InputError
        When a file is missing and cannot be fetched, or the manifest is damaged.
    """
    published = manifest("chest-ct")
    about = _read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    known: dict[str, Any] = about.get("files", {})
    found = [path for kind in ("images", "labels", "masks") for path in _images(folder / kind)]
    names = {path.relative_to(folder).as_posix() for path in (*found, *folder.glob(_LANDMARKS))} | set(known)
    files = {name: _obtain(folder, name, known.get(name, {})) for name in sorted(names)}
    table = read_point_table(files[_LANDMARKS]) if _LANDMARKS in files else None
    marked = table.subjects() if table is not None else ()
    shown = {file["sha256"] for some in (known, published["files"]) for file in some.values() if file.get("pictures")}
    hashes = {sha256(path) for name, path in files.items() if name.startswith("images/")}
    if not about and hashes <= {file["sha256"] for file in published["files"].values()}:
        about = {key: published[key] for key in ("name", "licence")}
    by_role: dict[str, dict[str, Path]] = {}
    for name, path in files.items():
        kind, _, rest = name.partition("/")
        by_role.setdefault(_stem(rest), {})[kind] = path
    cases = [
        _case(name, roles, table if name in marked else None, shown)
        for name, roles in by_role.items()
        if "images" in roles
    ]
    pairs = about.get("pairs") or itertools.permutations([case.name for case in cases], 2)
    return DataSet(
        name=about.get("name", folder.name),
        spec=str(folder),
        cases={case.name: case for case in cases},
        pairs=tuple((fixed, moving) for fixed, moving in pairs),
        licence=about.get("licence", ""),
    )


def _case(name: str, roles: Mapping[str, Path], table: PointTable | None, shown: set[str]) -> Case:
    rows = [] if table is None else table.records(name)  # alone: other subjects' rows may change
    return Case(
        name=name,
        source={**roles, "landmarks": rows},
        image=partial(read_image, roles["images"]),
        landmarks=None if table is None else partial(table.points, name),
        labels=partial(read_image, roles["labels"]) if "labels" in roles else None,
        mask=partial(read_image, roles["masks"]) if "masks" in roles else None,
        reader_mm={} if table is None else table.numbers("reader_mm", name),
        pictures=sha256(roles["images"]) in shown,
    )


def elastix_lung(folder: Path) -> DataSet:
    """Return the lung pair of elastix's own tests: one patient, two visits, lung masks as labels.

    The 100 landmarks are those of the baseline alone, and measure nothing.

    Raises
    ------
    InputError
        When a file is missing.
    """
    about = manifest("elastix-lung")

    def case(visit: str) -> Case:
        image, mask = (_either(folder, f"3DCT_lung_{visit}{end}", about) for end in ("", "_mask"))
        return Case(
            visit, {"image": image, "labels": mask}, partial(read_image, image), labels=partial(read_image, mask)
        )

    cases = {visit: case(visit) for visit in ("baseline", "followup")}
    pairs = (("baseline", "followup"), ("followup", "baseline"))
    return DataSet("elastix-lung", f"elastix-lung:{folder}", cases, pairs, about["licence"])


def learn2reg(folder: Path) -> DataSet:
    """Return a Learn2Reg task: its validation pairs, or where it has none its paired training images.

    ``*_dataset.json`` names the pairs; keypoints (0-based voxels), labels and masks lie beside ``images*`` in folders
    called ``keypoints*`` or ``landmarks*``, ``labels*`` and ``masks*``.

    Raises
    ------
    InputError
        When the task names no pairs, or an image is missing.
    """
    descriptions = sorted(folder.glob("*_dataset.json"))
    if len(descriptions) != 1:
        raise InputError(f"{folder}: expected one *_dataset.json, found {[path.name for path in descriptions]}")
    about = _read_json(descriptions[0])
    listed = about.get("registration_val") or about.get("training_paired_images") or []
    pairs = tuple((pair["fixed"].removeprefix("./"), pair["moving"].removeprefix("./")) for pair in listed)
    if not pairs:
        raise InputError(f"{descriptions[0]} lists no pairs as registration_val or training_paired_images")
    cases = {_stem(Path(name).name): _learn2reg_case(folder, name) for name in sorted({*itertools.chain(*pairs)})}
    return DataSet(
        name=about.get("name", folder.name),
        spec=f"learn2reg:{folder}",
        cases=cases,
        pairs=tuple((_stem(Path(fixed).name), _stem(Path(moving).name)) for fixed, moving in pairs),
        licence=str(about.get("licence", "")),
        learn2reg=True,
    )


def _learn2reg_case(folder: Path, name: str) -> Case:
    image = _obtain(folder, name, {})

    def beside(*kinds: str, suffix: str = "") -> Path | None:
        paths = [folder / name.replace("images", kind, 1) for kind in kinds]
        paths = [path.with_name(_stem(path.name) + suffix) for path in paths] if suffix else paths
        return next((path for path in paths if path.exists()), None)

    found = {
        "keypoints": beside("landmarks", "keypoints", suffix=".csv"),
        "labels": beside("labels"),
        "masks": beside("masks"),
    }
    keypoints, labels, masks = found.values()
    return Case(
        name=_stem(image.name),
        source={"image": image, **{role: path for role, path in found.items() if path}},
        image=partial(read_image, image),
        landmarks=partial(_voxels, keypoints, image) if keypoints else None,
        labels=partial(read_image, labels) if labels else None,
        mask=partial(read_image, masks) if masks else None,
    )


def _voxels(path: Path, image: Path) -> Points:
    """Return 0-based voxel positions as LPS mm."""
    with reading(path, "it must hold x, y, z in voxels, separated by commas"):
        index = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig")
    return Points(read_image(image).grid.index_to_world(index))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name.endswith(_SUFFIXES) and not path.name.startswith("."))


def _stem(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)


def _either(folder: Path, stem: str, about: Mapping[str, Any]) -> Path:
    """Return the image of this name, whatever its suffix."""
    for suffix in _SUFFIXES:
        if (folder / (stem + suffix)).exists():
            return _obtain(folder, stem + suffix, about["files"].get(stem + suffix, {}))
    raise InputError(f"{folder / stem}.* not found; {about['obtain']}")


def _obtain(folder: Path, name: str, about: Mapping[str, Any]) -> Path:
    """Return the file, fetched when it is not there and its address is known; warn when it is another one."""
    path = folder / name
    if not path.exists():
        if "url" not in about:
            raise InputError(f"{path} not found; the data set needs it")
        import pooch

        with reading(path, f"could it not be fetched from {about['url']}? Check the network, or put it there yourself"):
            pooch.retrieve(about["url"], f"sha256:{about['sha256']}", fname=path.name, path=path.parent)
    elif "sha256" in about and sha256(path) != about["sha256"]:
        log.warning("%s is not the file that the manifest describes: its SHA-256 differs", path)
    return path


def _read_json(path: Path) -> dict[str, Any]:
    with reading(path, "it must be JSON"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object")
    return content

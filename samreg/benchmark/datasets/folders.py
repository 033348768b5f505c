"""Data sets in samreg's own form: a folder of images with landmarks, and where there are some labels and masks."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from samreg.benchmark.datasets.base import Case, DataSet, manifest, sha256
from samreg.benchmark.datasets.files import images_in, obtain, read_json, require_pairs, stem
from samreg.errors import InputError
from samreg.spatial import read_image, read_points
from samreg.spatial.io_points import find_points
from samreg.spatial.io_points_csv import read_point_table

MANIFEST = "manifest.json"
LANDMARKS = ("landmarks.csv", "landmarks")

log = logging.getLogger(__name__)


def samreg_folder(folder: Path) -> DataSet:
    """Return the data set of a folder in samreg's own form.

    ``images/NAME.nii.gz``; ``landmarks.csv`` with a column subject, as :func:`samreg.read_points` reads it, and
    optionally reader_mm, the distance between two readings; or ``landmarks/NAME.mrk.json`` (.csv, .tsv, .fcsv).
    ``labels/NAME.nii.gz`` and ``masks/NAME.nii.gz`` where there are some. Optionally ``manifest.json``: name, licence,
    ``pairs`` ([fixed, moving]; all ordered pairs unless given) and ``files``, from path to sha256, size, spacing,
    pictures and url. A file that is not there and has a url is fetched.

    Raises
    ------
    InputError
        When a file is missing and cannot be fetched, the manifest is damaged, or landmarks name none of the images.
    """
    published = manifest("chest-ct")
    about = _read_manifest(folder / MANIFEST)
    files = _files(folder, about.get("files", {}))
    if not about and _hashes(files) <= {file["sha256"] for file in published["files"].values()}:
        about = {key: published[key] for key in ("name", "licence")}
    by_name: dict[str, dict[str, Path]] = {}
    for path, file in files.items():
        kind, _, rest = path.partition("/")
        if kind in ("images", "labels", "masks"):
            by_name.setdefault(stem(rest), {})[kind] = file
    for kind in ("labels", "masks"):
        if alone := [name for name, roles in by_name.items() if kind in roles and "images" not in roles]:
            log.warning("%s has files without an image of their name: %s", folder / kind, ", ".join(alone[:5]))
    by_name = {name: roles for name, roles in by_name.items() if "images" in roles}
    landmarks = _landmarks(folder, by_name)
    shown = {
        file["sha256"]
        for described in (about.get("files", {}), published["files"])
        for file in described.values()
        if file.get("pictures") and "sha256" in file
    }
    pairs = about.get("pairs") or [list(pair) for pair in itertools.permutations(by_name, 2)]
    return DataSet(
        name=str(about.get("name", folder.name)),
        spec=str(folder),
        cases={name: _case(name, roles, landmarks.get(name), shown) for name, roles in by_name.items()},
        pairs=require_pairs(pairs, folder / MANIFEST),
        licence=str(about.get("licence", "")),
    )


@dataclass(frozen=True)
class _Landmarks:
    """Where the landmarks of an image are.

    Parameters
    ----------
    file
        The points file.
    subject
        Whose points to take from it; None for a file of its own.
    source
        What they depend on: the file, or the subject's rows, as those of others may change.
    reader_mm
        Landmark to the distance of its two readings, mm.
    """

    file: Path
    subject: str | None
    source: Any
    reader_mm: Mapping[str, float]


def _case(name: str, roles: Mapping[str, Path], landmarks: _Landmarks | None, shown: set[str]) -> Case:
    read = None if landmarks is None else partial(read_points, landmarks.file, subject=landmarks.subject)
    return Case(
        name=name,
        source={**roles, "landmarks": landmarks.source if landmarks else []},
        image=partial(read_image, roles["images"]),
        landmarks=read,
        landmark_file=landmarks.file if landmarks else None,
        labels=partial(read_image, roles["labels"]) if "labels" in roles else None,
        mask=partial(read_image, roles["masks"]) if "masks" in roles else None,
        reader_mm=landmarks.reader_mm if landmarks else {},
        pictures=sha256(roles["images"]) in shown,
    )


def _files(folder: Path, described: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files of a data set by their paths in it: those that lie there, and those that its manifest names."""
    present = [path for kind in ("images", "labels", "masks") for path in images_in(folder / kind)]
    names = {path.relative_to(folder).as_posix() for path in present} | set(described)
    return {name: obtain(folder, name, described.get(name, {})) for name in sorted(names)}


def _hashes(files: Mapping[str, Path]) -> set[str]:
    return {sha256(file) for path, file in files.items() if path.startswith("images/")}


def _landmarks(folder: Path, names: Iterable[str]) -> dict[str, _Landmarks]:
    """Return where the landmarks of the images are, by the images' names."""
    present = [folder / name for name in LANDMARKS if (folder / name).exists()]
    if not present:
        return {}
    if len(present) > 1:
        raise InputError(f"{present[0]} and {present[1]} both hold landmarks; keep one")
    names = list(names)
    located = find_points(present[0], names)
    unknown = sorted(set(located) - set(names))
    if len(unknown) == len(located):
        raise InputError(
            f"{present[0]} has landmarks of none of the images; name their subjects {', '.join(names[:5])}"
        )
    if unknown:
        log.warning("%s has landmarks of subjects without an image: %s", present[0], ", ".join(unknown[:5]))
    table = read_point_table(present[0]) if present[0].is_file() else None
    return {
        name: _Landmarks(file, None, file, {})
        if subject is None or table is None
        else _Landmarks(file, subject, table.records(subject), table.numbers("reader_mm", subject))
        for name, (file, subject) in located.items()
        if name in names
    }


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return what a data set says of itself; nothing where it has no manifest."""
    about = read_json(path) if path.exists() else {}
    files = about.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(file, dict) for file in files.values()):
        raise InputError(f'{path}: files must map each path to what is known of it, such as {{"sha256": "..."}}')
    return about

"""Public data sets in folders as they are downloaded: Learn2Reg's tasks and elastix's lung pair."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from samreg.benchmark.datasets.base import Case, DataSet, manifest
from samreg.benchmark.datasets.files import IMAGE_SUFFIXES, obtain, read_json, require_pairs, stem
from samreg.errors import InputError
from samreg.spatial import Points, read_image, read_points


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
        image, mask = (_with_any_suffix(folder, f"3DCT_lung_{visit}{end}", about) for end in ("", "_mask"))
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
        raise InputError(f"{folder}: expected one *_dataset.json, got {[path.name for path in descriptions]}")
    about = read_json(descriptions[0])
    listed = about.get("registration_val") or about.get("training_paired_images")
    if not listed:
        raise InputError(f"{descriptions[0]} lists no pairs as registration_val or training_paired_images")
    if not isinstance(listed, list) or not all(isinstance(pair, dict) for pair in listed):
        raise InputError(f"{descriptions[0]}: each pair must be an object with the images fixed and moving")
    pairs = require_pairs([[pair.get("fixed"), pair.get("moving")] for pair in listed], descriptions[0])
    images = sorted({name.removeprefix("./") for name in itertools.chain(*pairs)})
    cases = {stem(Path(name).name): _learn2reg_case(folder, name) for name in images}
    return DataSet(
        name=str(about.get("name", folder.name)),
        spec=f"learn2reg:{folder}",
        cases=cases,
        pairs=tuple((stem(Path(fixed).name), stem(Path(moving).name)) for fixed, moving in pairs),
        licence=str(about.get("licence", "")),
        learn2reg=True,
    )


def _learn2reg_case(folder: Path, name: str) -> Case:
    image = obtain(folder, name, {})

    def beside(*kinds: str, suffix: str = "") -> Path | None:
        paths = [folder / name.replace("images", kind, 1) for kind in kinds]
        paths = [path.with_name(stem(path.name) + suffix) for path in paths] if suffix else paths
        return next((path for path in paths if path.exists()), None)

    keypoints = beside("landmarks", "keypoints", suffix=".csv")
    labels, masks = beside("labels"), beside("masks")
    files = {"image": image, "keypoints": keypoints, "labels": labels, "masks": masks}
    return Case(
        name=stem(image.name),
        source={role: path for role, path in files.items() if path},
        image=partial(read_image, image),
        landmarks=partial(_keypoints, keypoints, image) if keypoints else None,
        landmark_file=keypoints,
        labels=partial(read_image, labels) if labels else None,
        mask=partial(read_image, masks) if masks else None,
    )


def _keypoints(path: Path, image: Path) -> Points:
    """Return 0-based voxel positions as LPS mm."""
    return Points(read_image(image).grid.index_to_world(read_points(path, format="csv").positions))


def _with_any_suffix(folder: Path, name: str, about: Mapping[str, Any]) -> Path:
    """Return the image of this name, whatever its suffix."""
    for suffix in IMAGE_SUFFIXES:
        if (folder / (name + suffix)).exists():
            return obtain(folder, name + suffix, about["files"].get(name + suffix, {}))
    raise InputError(f"{folder / name}.* not found; {about['obtain']}")

"""Files of data sets: images by name, descriptions in JSON, and fetching what is missing."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samreg.benchmark.datasets.base import sha256
from samreg.errors import InputError
from samreg.spatial.files import reading

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")

log = logging.getLogger(__name__)


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder, which need not exist, in order of their names."""
    return sorted(path for path in folder.glob("*") if path.name.endswith(IMAGE_SUFFIXES) and path.name[0] != ".")


def stem(name: str) -> str:
    """Return an image's file name without its suffix."""
    return next((name.removesuffix(suffix) for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), name)


def obtain(folder: Path, name: str, about: Mapping[str, Any]) -> Path:
    """Return a file of a data set, fetched when it is not there; warn when it is not the one that is described.

    Parameters
    ----------
    folder
        Of the data set.
    name
        The file's path in it.
    about
        What a manifest says of it: ``url`` and ``sha256`` where they are known.

    Raises
    ------
    InputError
        When the file is not there and cannot be fetched.
    """
    path = folder / name
    if not path.exists():
        if "url" not in about:
            raise InputError(f"{path} not found; the data set needs it")
        if "sha256" not in about:
            raise InputError(f"{path} not found; to fetch it from {about['url']}, the manifest must say its sha256")
        import pooch

        with reading(path, f"could it not be fetched from {about['url']}? Check the network, or put it there yourself"):
            pooch.retrieve(about["url"], f"sha256:{about['sha256']}", fname=path.name, path=path.parent)
    elif "sha256" in about and sha256(path) != about["sha256"]:
        log.warning("%s is not the file that the manifest describes: its SHA-256 differs", path)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises
    ------
    InputError
        When the file is not readable, or holds something else.
    """
    with reading(path, "it must be JSON"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object")
    return content


def require_pairs(pairs: Any, path: Path) -> tuple[tuple[str, str], ...]:
    """Return the pairs that a description lists, fixed and moving by name.

    Raises
    ------
    InputError
        When it lists something else.
    """
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in pairs
    ):
        raise InputError(
            f'{path}: pairs must be a list of [fixed, moving], such as [["A", "B"]]; got {str(pairs)[:60]}'
        )
    return tuple((fixed, moving) for fixed, moving in pairs)

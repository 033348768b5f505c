"""How to repeat a registration: the Python call and the command that make the result again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from samreg.registration.result import RegistrationResult
    from samreg.spatial.image import Image

_FILES = ("fixed", "moving", "fixed_mask", "moving_mask")
_START, _ATLAS, _GUIDES = "start.h5", "atlas.h5", ("fixed_landmarks.csv", "moving_landmarks.csv")


@dataclass(frozen=True)
class Recipe:
    """How to repeat a registration.

    Parameters
    ----------
    python
        A program.
    command
        The same as a command; empty where the command line cannot repeat it.
    notes
        What the reader must put in place first, in plain words.
    """

    python: str
    command: str
    notes: tuple[str, ...] = ()


class _Code(str):
    """An expression of Python, where a value would be printed as a literal."""

    __slots__ = ()
    __repr__ = str.__str__


def recipe(result: RegistrationResult) -> Recipe:
    """Return how to repeat a registration; names stand for what was in memory, and a note says so."""
    options: dict[str, Any] = {**result.options, "fixed": result.fixed.name, "moving": result.moving.name}
    absent = [
        role
        for role in _FILES
        if options.get(role) is not None and not (options[role] and Path(options[role]).exists())
    ]
    options |= {role: f"{role}.nii.gz" for role in absent}
    if options.get("landmarks") is not None:  # how many there were
        options["landmarks"] = _GUIDES
        absent.append("landmarks")
    start = options.get("start")
    if start is not None and not Path(start).exists():  # it was in memory
        options["start"] = _START
        absent.append("start")
    anchors = options.get("anchors")
    if isinstance(anchors, str) and not Path(anchors).exists():
        options["anchors"] = _ATLAS
        absent.append("anchors")
    notes = [f"No files, or moved since: {', '.join(absent).replace('_', ' ')}."] if absent else []
    objects = _objects(options)
    options |= objects
    if objects:
        notes.append(f"Make {' and '.join(objects.values())} first: given to the call, and known by no name.")
        notes.append("The command line cannot repeat it.")
    images = options.pop("fixed"), options.pop("moving")
    spacings = [_given_spacing(path, image) for path, image in zip(images, (result.fixed, result.moving), strict=True)]
    read = [
        path if spacing is None else _Code(f"samreg.read_image({path!r}, spacing={spacing})")
        for path, spacing in zip(images, spacings, strict=True)
    ]
    python = python_call(read, options)
    if any(spacing is not None for spacing in spacings):
        sizes = {round(float(size), 6) for image in (result.fixed, result.moving) for size in image.spacing}
        if len(sizes) > 1:  # one option for both images
            return Recipe(python, "", (*notes, *([] if objects else ["The command line cannot repeat it."])))
        options["pixel_size"] = sizes.pop()
    command = "" if objects else shell_command(images, options)
    return Recipe(python, command, tuple(notes))


def _given_spacing(path: str, image: Image) -> list[float] | None:
    """Return the voxel size with which a picture was read, mm, where its file does not say it."""
    from samreg.spatial.io_pictures import PICTURES, stored_spacing

    if not path.lower().endswith(PICTURES) or not Path(path).is_file():
        return None
    stored = stored_spacing(Path(path))
    if len(stored) == image.ndim and np.allclose(stored, image.spacing, rtol=1e-4):
        return None
    return [round(float(size), 6) for size in image.spacing]


def python_call(images: Sequence[str], options: Mapping[str, Any]) -> str:
    """Return the Python program that registers the images with these options.

    Examples
    --------
    >>> print(python_call(["a.nii.gz", "b.nii.gz"], {"method": "hybrid", "start": "start.h5", "spacing": None}))
    import samreg
    <BLANKLINE>
    result = samreg.register(
        'a.nii.gz',
        'b.nii.gz',
        method='hybrid',
        start=samreg.read_transform('start.h5'),
    )
    """
    given = {key: _plain(value) for key, value in options.items() if value is not None and value != {}}
    if "start" in given and not Path(given["start"]).is_dir():  # a folder is a saved result
        given["start"] = _Code(f"samreg.read_transform({given['start']!r})")
    arguments = [*map(repr, images), *(f"{key}={value!r}" for key, value in given.items())]
    return "import samreg\n\nresult = samreg.register(\n    " + ",\n    ".join(arguments) + ",\n)"


def shell_command(images: Sequence[str], options: Mapping[str, Any]) -> str:
    """Return the same as a command.

    Examples
    --------
    >>> shell_command(["a.nii.gz", "b c.nii.gz"], {"method": "hybrid", "engine_options": {"iterations": (20, 10)}})
    "samreg register a.nii.gz 'b c.nii.gz' -o out --method hybrid --option 'iterations=[20, 10]'"
    """
    words = ["samreg", "register", *images, "-o", "out"]
    for key, value in options.items():
        if key == "landmarks" and value:
            words += ["--guide", *value]
        elif isinstance(value, bool):
            words += [f"--{key}", "yes" if value else "no"]
        elif key != "engine_options" and value is not None:
            words += [f"--{key.replace('_', '-')}", str(value)]
    for key, value in (options.get("engine_options") or {}).items():
        text = value if isinstance(value, str) else json.dumps(_plain(value), default=str)
        words += ["--option", f"{key}={text}"]
    return shlex.join(words)


def _objects(options: Mapping[str, Any]) -> dict[str, _Code]:
    """Return names for the engine and the model where these were objects that no name finds again."""
    known = {"engine": _is_engine, "model": _is_model}
    return {
        key: _Code(f"my_{key}") for key, is_known in known.items() if options.get(key) and not is_known(options[key])
    }


def _is_engine(name: str) -> bool:
    from samreg.engines import get_engine

    if ".py:" in name:
        return True
    try:
        get_engine(name)
    except MissingExtraError:  # known, though not installed here
        return True
    except InputError:
        return False
    return True


def _is_model(name: str) -> bool:
    from samreg.embedding.registry import available_models

    return name in available_models() or name.startswith(("http://", "https://")) or Path(name).exists()


def _plain(value: Any) -> Any:
    """Return an option's value without the types of numpy."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value

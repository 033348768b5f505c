"""One file that holds all a training run needs: images at the network's voxel size, landmarks and maps.

It is read with numpy alone, so that a bare machine can train. Intensities are the 256 levels, or fewer, to which every
training run rounds them (:class:`samreg.training.modality.Modality`): a run from the file is the run from the images.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import samreg
from samreg.errors import InputError
from samreg.spatial.files import atomic_path, reading, require_file
from samreg.spatial.points import Points

SUFFIX = ".npz"
_FORMAT, _VERSION = "samreg-prepared-training", 1
_DISPLACEMENT_STEP_MM = 0.02  # of maps
_TRUST_LEVELS = 255


@dataclass(frozen=True, eq=False)
class StoredImage:
    """A training image.

    Parameters
    ----------
    name
        The image file's, without its suffix.
    levels
        ((z,) y, x) indices of the modality's levels, of even sizes, at the network's voxel size.
    inside
        ((z,) y, x) of half these sizes: whether the first voxel of a cell of two along each axis is in the body.
    origin
        (d,) world position (LPS, mm) of the first voxel.
    """

    name: str
    levels: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    origin: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StoredMap:
    """A dense map between two training images.

    Parameters
    ----------
    fixed, moving
        Their names.
    displacement
        ((z,) y, x, d) (x, y(, z)) mm, from a point of the fixed image to its match, both from their first voxels.
    trust
        ((z,) y, x) 0 to 1.
    spacing
        Of the grid, mm.
    """

    fixed: str
    moving: str
    displacement: NDArray[np.float32]
    trust: NDArray[np.float32]
    spacing: float


def is_prepared(path: str | os.PathLike[str]) -> bool:
    """Tell by its suffix whether a path is that of a prepared file.

    Examples
    --------
    >>> is_prepared("prepared.npz"), is_prepared("scans")
    (True, False)
    """
    return str(path).lower().endswith(SUFFIX)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return a hash of a prepared file, which tells it wherever it lies."""
    return hashlib.blake2b(require_file(path).read_bytes(), digest_size=8).hexdigest()


def write_prepared(
    path: str | os.PathLike[str],
    images: Iterable[StoredImage],
    *,
    modality: str,
    spacing: float,
    landmarks: Mapping[str, Points] | None = None,
    maps: Iterable[StoredMap] = (),
) -> None:
    """Write a prepared file, whole or not at all.

    Parameters
    ----------
    path
        Ends in .npz.
    images
        Taken one at a time.
    modality, spacing
        Of the training: "ct" or "xray", and the voxel size of the network's input, mm.
    landmarks
        Of each image, by its name, LPS mm.
    maps
        Between the images; displacements are rounded to 0.02 mm.

    Raises
    ------
    InputError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp(), "prepared.npz")
    >>> levels = np.zeros((4, 4, 6), np.uint8)
    >>> image = StoredImage("ANNA", levels, levels[::2, ::2, ::2] == 0, np.zeros(3))
    >>> write_prepared(path, [image], modality="ct", spacing=2.0)
    >>> [image.name for image in PreparedFile(path).images()]
    ['ANNA']
    """
    if not is_prepared(path):
        raise InputError(f"cannot write {path}: name it with {SUFFIX}")
    about: dict[str, Any] = {
        "format": _FORMAT, "version": _VERSION, "samreg": samreg.__version__, "modality": modality, "spacing": spacing,
    }  # fmt: skip
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_BZIP2) as archive:

        def write(name: str, array: NDArray[Any]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)

        about["images"] = []
        for number, image in enumerate(images):
            # neighbours along z, across thick slices, are the most alike: next to each other they take a fifth less
            write(f"image/{number}/levels", np.moveaxis(image.levels, 0, -1))
            write(f"image/{number}/inside", np.packbits(image.inside))
            about["images"].append({"name": image.name, "origin": image.origin.tolist()})
        if landmarks is not None:
            about["landmarks"] = {
                name: [[landmark, *position] for landmark, position in zip(p.names, p.positions.tolist(), strict=True)]
                for name, p in landmarks.items()
            }
        about["maps"] = []
        for number, given in enumerate(maps):
            offset = given.displacement.mean(axis=tuple(range(given.displacement.ndim - 1)), dtype=np.float64)
            steps = np.rint((given.displacement - offset) / _DISPLACEMENT_STEP_MM).astype(np.int32)
            write(f"map/{number}/displacement", np.diff(steps, axis=-2, prepend=0).astype(np.int32))
            write(f"map/{number}/trust", np.rint(given.trust * _TRUST_LEVELS).astype(np.uint8))
            about["maps"].append(
                {"fixed": given.fixed, "moving": given.moving, "offset": offset.tolist(), "spacing": given.spacing}
            )
        write("about", np.frombuffer(json.dumps(about).encode(), np.uint8))


class PreparedFile:
    """A prepared file that is read as it is asked for.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        When it is missing, damaged, no prepared file or of a newer version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = require_file(path, "prepared file")
        with reading(self.path, "prepare the images again"):
            self._arrays = np.load(self.path, allow_pickle=False)
            self._about = json.loads(self._arrays["about"].tobytes()) if "about" in self._arrays else {}
        if self._about.get("format") != _FORMAT:
            raise InputError(f"{self.path} is no prepared file; make one with python -m samreg.training.prepare")
        if self._about["version"] > _VERSION:
            raise InputError(f"{self.path} was prepared by a newer samreg, {self._about['samreg']}; update this one")

    def require(self, modality: str, spacing: float) -> None:
        """Raise :class:`InputError` unless the images were prepared for this modality and voxel size."""
        if (self._about["modality"], self._about["spacing"]) != (modality, spacing):
            raise InputError(
                f"{self.path} was prepared for modality {self._about['modality']} and spacing "
                f"{self._about['spacing']:g} mm, the configuration says {modality} and {spacing:g} mm; change it, or "
                "prepare the images again"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images."""
        return tuple(entry["name"] for entry in self._about["images"])

    def images(self, *, leave_out: Collection[str] = ()) -> Iterator[StoredImage]:
        """Yield the images, without those of these names."""
        for number, entry in enumerate(self._about["images"]):
            if entry["name"] in leave_out:
                continue
            with reading(self.path, "copy it again"):
                levels = np.ascontiguousarray(np.moveaxis(self._arrays[f"image/{number}/levels"], -1, 0))
                shape = tuple(n // 2 for n in levels.shape)
                bits = self._arrays[f"image/{number}/inside"]
            inside = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
            yield StoredImage(entry["name"], levels, inside, np.array(entry["origin"]))

    def landmarks(self) -> dict[str, Points]:
        """Return the landmarks of each image, LPS mm.

        Raises
        ------
        InputError
            When the file holds none.
        """
        if "landmarks" not in self._about:
            raise InputError(f"{self.path} holds no landmarks; prepare it with --landmarks TABLE")
        return {
            name: Points(np.array([row[1:] for row in rows]), tuple(row[0] for row in rows))
            for name, rows in self._about["landmarks"].items()
        }

    def maps(self) -> Iterator[StoredMap]:
        """Yield the maps."""
        for number, entry in enumerate(self._about["maps"]):
            with reading(self.path, "copy it again"):
                steps = self._arrays[f"map/{number}/displacement"].cumsum(axis=-2)
                trust = self._arrays[f"map/{number}/trust"]
            displacement = (steps * _DISPLACEMENT_STEP_MM + np.array(entry["offset"])).astype(np.float32)
            share = (trust / np.float32(_TRUST_LEVELS)).astype(np.float32)
            yield StoredMap(entry["fixed"], entry["moving"], displacement, share, entry["spacing"])

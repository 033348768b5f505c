"""What a data set is to the benchmark: cases, and the pairs of them to register."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from samreg.errors import InputError
from samreg.spatial import Image, Points
from samreg.spatial.inputs import points_in
from samreg.spatial.io_images import files_of


@dataclass(frozen=True)
class Case:
    """One image and what is known about it. Everything is loaded when it is asked for.

    Parameters
    ----------
    name
        Unique in the data set.
    source
        What the case is made from: role to file, or role to the arguments of what makes it.
    image
        Returns the image.
    landmarks
        Returns the landmarks, LPS mm; the same name is the same place in the cases of a pair. None without.
    landmark_file
        Where they are from, for messages.
    labels
        Returns the label map, 0 for background, on any grid in the image's world. None without.
    mask
        Returns where deformation is measured, non-zero voxels; the body unless given. Methods never see it.
    reader_mm
        Landmark to the distance of its two readings, mm.
    pictures
        Whether its licence allows to show it in a report.
    """

    name: str
    source: Mapping[str, Any]
    image: Callable[[], Image]
    landmarks: Callable[[], Points] | None = None
    landmark_file: Path | None = None
    labels: Callable[[], Image] | None = None
    mask: Callable[[], Image] | None = None
    reader_mm: Mapping[str, float] = field(default_factory=dict)
    pictures: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content of all files, or of the arguments."""
        return digest({role: _hashed(item) if isinstance(item, Path) else item for role, item in self.source.items()})

    def landmarks_in(self, image: Image) -> Points | None:
        """Return the landmarks, all of them within the image; None when there are none.

        Parameters
        ----------
        image
            Of the case.

        Raises
        ------
        InputError
            When a landmark lies outside, as those of another frame (RAS, voxels) or of another image do.
        """
        if self.landmarks is None:
            return None
        points = self.landmarks()
        try:
            return points_in(points, image.grid, f"the image of {self.name}")
        except InputError as error:
            raise InputError(f"{self.landmark_file or f'landmarks of {self.name}'}: {error}") from None


@dataclass(frozen=True)
class DataSet:
    """Cases, and the ordered pairs of them to register.

    Parameters
    ----------
    name
        For tables and file names.
    spec
        What :func:`samreg.benchmark.datasets.load_dataset` made it from, paths absolute.
    cases
        Name to case.
    pairs
        (fixed, moving) names, in the order in which they run.
    licence
        Of the images, in words.
    learn2reg
        Whether Learn2Reg's measures are computed as well.
    """

    name: str
    spec: str
    cases: Mapping[str, Case]
    pairs: tuple[tuple[str, str], ...]
    licence: str = ""
    learn2reg: bool = False

    def __post_init__(self) -> None:
        missing = sorted({name for pair in self.pairs for name in pair} - set(self.cases))
        if missing or not self.pairs:
            raise InputError(
                f"{self.spec}: {f'pairs name unknown cases {missing}' if missing else 'there are no pairs'}"
            )


def digest(content: Any) -> str:
    """Return the SHA-256 of plain data, the same in every run."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hashed(path: Path) -> str | list[str]:
    """Return the hash of a file, or the hashes of those that an image consists of."""
    hashes = [sha256(file) for file in files_of(path)]
    return hashes if len(hashes) > 1 else hashes[0]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read once while size and time of change stay the same."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, modified: int) -> str:
    import pooch

    return str(pooch.file_hash(str(path), alg="sha256"))


def manifest(name: str) -> dict[str, Any]:
    """Return a manifest that samreg ships, a file of ``data/datasets``."""
    package = Path(__file__).parent
    folder = next(path for path in (package / "manifests", package.parents[2] / "data" / "datasets") if path.is_dir())
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return content

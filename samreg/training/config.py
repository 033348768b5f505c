"""What a training run is made of, read from a YAML, TOML or JSON file."""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samreg.errors import InputError, MissingExtraError, require_choice, require_number
from samreg.spatial.files import reading
from samreg.training.views import ViewConfig

if TYPE_CHECKING:
    from samreg.training.modality import Modality


@dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes
    ----------
    images
        Folder of images, every format ``samreg.read_image`` reads, a text file (.txt) that lists them, or a prepared
        file (.npz, ``samreg.training.prepare``), as ``cross_subject`` and ``landmarks`` may be.
    modality
        "ct" (3D), "any" (3D, any contrast, made from CT) or "xray" (2D).
    spacing
        Voxel size of the network's input, mm.
    image_spacing
        Voxel size of the files, where they do not say it, mm.
    output
        Folder for checkpoints and logs.
    steps
        Length of the run; the learning rate falls to 2 % of its peak over it.
    optimizer
        "adamw", or "muon" for the convolutions between the first layers and the heads (``samreg.training.optimizer``).
    learning_rate, weight_decay, warmup, ema
        Of the optimizer, with linear warm-up over ``warmup`` steps and cosine decay to 2 %; decay of the averaged
        weights.
    temperature_local, temperature_global
        Of the InfoNCE loss of each part.
    points, candidates
        Anchors per pair and loss, and negatives each of them is compared with.
    patches
        Fine patches per pair, of ``patch`` voxels (z, y, x) or (y, x), multiples of 4.
    ignore_local, ignore_global
        Candidates nearer than this (mm) to the true match are no negatives.
    cross_subject
        Folder with dense maps between the training volumes (``samreg.training.cross_subject``).
    cross_fraction
        Fraction of the steps on pairs of different people, where maps are given.
    reshaped_fraction
        Fraction of the steps on a person and the same person deformed into the shape of another, by these maps.
    cross_slack, cross_doubt
        How far from its match between people the true place may lie, mm, where all the matches around agree with the
        map and where hardly any does. Anywhere within counts as right, and ``ignore_local`` and ``ignore_global`` grow
        by it.
    landmarks
        Table of landmarks read on training people, columns subject, landmark, x, y, z in LPS mm: true matches between
        people (``samreg.training.landmark_pairs``), and where the shoulders are that views may move.
    landmark_fraction
        Fraction of the steps on two people who share landmarks, where a table is given.
    landmark_slack, landmark_doubt
        As ``cross_slack`` and ``cross_doubt``: at a landmark, and where none is near.
    least_trust
        Of a map between people at a point that is used, 0 to 1.
    left_out, left_out_landmarks
        Images and landmarks that training does not use, to validate on.
    initial
        Weights to start from (a checkpoint of an earlier run).
    network
        Keyword arguments of ``CompactNetwork``.
    views
        How views are drawn.
    seed, save_every, validate_every, threads
        Steps between checkpoints and between validations (0: none); threads 0 leaves torch's choice.
    precision
        "bfloat16" or "float32".
    device
        "auto", "cpu", "cuda".
    tensorboard
        Also write events for TensorBoard.
    """

    images: str
    output: str
    modality: str = "ct"
    spacing: float = 2.0
    image_spacing: float | None = None
    steps: int = 2000
    optimizer: str = "adamw"
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup: int = 50
    ema: float = 0.99
    temperature_local: float = 0.07
    temperature_global: float = 0.1
    points: int = 384
    candidates: int = 3000
    patches: int = 2
    patch: tuple[int, ...] = (32, 56, 56)
    ignore_local: float = 6.0
    ignore_global: float = 12.0
    cross_subject: str | None = None
    cross_fraction: float = 0.4
    reshaped_fraction: float = 0.0
    cross_slack: float = 8.0
    cross_doubt: float = 24.0
    landmarks: str | None = None
    landmark_fraction: float = 0.3
    landmark_slack: float = 3.0
    landmark_doubt: float = 16.0
    least_trust: float = 0.1
    left_out: tuple[str, ...] = ()
    left_out_landmarks: tuple[str, ...] = ()
    initial: str | None = None
    network: dict[str, Any] = field(default_factory=dict)
    views: ViewConfig = field(default_factory=ViewConfig)
    seed: int = 0
    save_every: int = 100
    validate_every: int = 0
    threads: int = 0
    precision: str = "bfloat16"
    device: str = "auto"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        from samreg.embedding.compact import CompactNetwork
        from samreg.training.modality import MODALITIES

        require_choice("modality", self.modality, MODALITIES)
        require_choice("optimizer", self.optimizer, ("adamw", "muon"))
        for name, value in (("network ndim", self.ndim), ("patch", len(self.patch)), ("size", len(self.views.size))):
            if value != self.kind.preprocessing.ndim:
                raise InputError(f"{name} is {value}D, {self.modality} is {self.kind.preprocessing.ndim}D")
        if self.precision not in ("bfloat16", "float32"):
            raise InputError(f"precision {self.precision!r}; choose bfloat16 or float32")
        if any(n % 4 or n < 24 for n in self.patch):
            raise InputError(f"patch {self.patch} must be multiples of 4 voxels and at least 24")
        shares = {"reshaped_fraction": self.reshaped_fraction}
        if self.cross_subject is not None:
            shares["cross_fraction"] = self.cross_fraction
        if self.landmarks is not None:
            shares["landmark_fraction"] = self.landmark_fraction
        if min(shares.values()) < 0 or sum(shares.values()) > 1:
            told = ", ".join(f"{name} {share}" for name, share in shares.items())
            raise InputError(f"{told} must be 0 or more and make at most 1 together")
        for name in ("steps", "points", "candidates", "patches", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "weight_decay", "validate_every", "threads"):
            require_number(name, getattr(self, name), minimum=0)
        require_number("ema", self.ema, minimum=0, maximum=1)
        for name in ("learning_rate", "temperature_local", "temperature_global"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("left_out", "left_out_landmarks"):
            if isinstance(getattr(self, name), str):  # whose letters would be taken for names
                raise InputError(f"{name} must be a list of names, got {getattr(self, name)!r}")
        known = inspect.signature(CompactNetwork).parameters
        if unknown := sorted(set(self.network) - set(known)):
            raise InputError(f"network: unknown setting {', '.join(unknown)}; choose from {', '.join(known)}")

    @property
    def ndim(self) -> int:
        """Number of dimensions of the network, 2 or 3."""
        return int(self.network.get("ndim", 3))

    @property
    def levels(self) -> int:
        """Number of halvings from coarse voxels to the network's deepest level."""
        return len(self.network.get("coarse", (32, 64, 128)))

    @cached_property
    def kind(self) -> Modality:
        """What is peculiar to the modality."""
        from samreg.training.modality import MODALITIES

        return MODALITIES[self.modality](self.spacing)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, prepared: str | os.PathLike[str] | None = None
    ) -> TrainingConfig:
        """Read a configuration.

        Parameters
        ----------
        path
            ``.yaml``, ``.yml``, ``.toml`` or ``.json``. Relative folders in it count from the file's own folder.
        prepared
            Prepared file to take the images from and, where the configuration uses them, landmarks and maps.

        Raises
        ------
        InputError
            When the file is missing, of another type, names an unknown setting, or gives text for a number.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such training configuration")
        values = _read(path)
        views = _known(ViewConfig, values.pop("views", {}), path)
        values = _known(cls, values, path)
        for key in ("images", "output", "cross_subject", "landmarks", "initial"):
            if values.get(key) is not None:
                values[key] = str(path.parent / values[key])
        if prepared is not None:
            values["images"] = str(prepared)
            values |= {key: str(prepared) for key in ("cross_subject", "landmarks") if values.get(key) is not None}
        for key in ("images", "output"):
            if key not in values:
                raise InputError(f"{path}: give {key}, a folder")
        return cls(**values, views=ViewConfig(**views))


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".toml":
        try:
            import tomllib
        except ImportError:  # Python 3.10
            import tomli as tomllib  # type: ignore[no-redef]
        values: Any
        with reading(path, "give 'name = value' per line"), path.open("rb") as file:
            values = tomllib.load(file)
    elif path.suffix in (".yaml", ".yml"):
        try:
            import yaml
        except ImportError as error:
            raise MissingExtraError(
                f"{path}: a .yaml configuration needs pyyaml; pip install pyyaml, or give a .toml or .json file"
            ) from error
        with reading(path, "give 'name: value' per line, plain values only"):
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
    elif path.suffix == ".json":
        with reading(path, "give an object of names and values"):
            values = json.loads(path.read_text(encoding="utf-8"))
    else:
        raise InputError(f"{path}: give a .yaml, .toml or .json file")
    if not isinstance(values, dict):
        raise InputError(f"{path}: a list of settings, 'name: value' per line, is expected")
    return values


def _known(kind: type, values: Any, path: Path) -> dict[str, Any]:
    """Check names, turn lists into tuples and make numbers of the type that is declared."""
    types = {f.name: str(f.type) for f in fields(kind)}
    if not isinstance(values, dict):
        raise InputError(f"{path}: settings have names, such as {next(iter(types))}, got {values!r}")
    if unknown := sorted(str(name) for name in set(values) - set(types)):
        raise InputError(f"{path}: unknown setting {', '.join(unknown)}; choose from {', '.join(sorted(types))}")
    return {key: _typed(value, types[key], f"{path}: {key}") for key, value in values.items()}


#: What a setting of another kind than a number or a list must be, and what to say of it.
_KINDS: dict[str, tuple[type, str]] = {
    "str": (str, "text, in quotes where it is a number"),
    "bool": (bool, "true or false"),
    "dict": (dict, "names and values"),
}


def _typed(value: Any, kind: str, what: str) -> Any:
    kind, _, alternative = kind.partition(" | ")
    if value is None and alternative == "None":
        return None
    name, _, parts = kind.partition("[")
    if name == "tuple":
        if not isinstance(value, list):
            raise InputError(f"{what} must be a list, got {value!r}; for one, give [{value}]")
        return tuple(_typed(some, parts.split(",")[0], what) for some in value)
    if name in _KINDS:
        expected, said = _KINDS[name]
        if not isinstance(value, expected):
            raise InputError(f"{what} must be {said}, got {value!r}")
        return value
    try:  # YAML takes 1e-3, without a point, for text
        number = float("" if isinstance(value, bool) else value)
        if kind == "int" and number != int(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what} must be {'a whole' if kind == 'int' else 'a'} number, got {value!r}") from None
    return int(number) if kind == "int" else number

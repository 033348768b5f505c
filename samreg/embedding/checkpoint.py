"""Reading and writing network weights: the official SAM checkpoints, and our own safetensors files.

A checkpoint is data, never a program: pickles that ask for anything beyond tensors and plain containers are
refused before any of their code could run.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samreg.embedding.compact import CompactNetwork
from samreg.embedding.ct import Preprocessing
from samreg.embedding.network import EmbeddingNetwork, SamNetwork
from samreg.embedding.preprocessing import AnyPreprocessing, preprocessing_from_dict, preprocessing_to_dict
from samreg.embedding.tensor_file import is_tensor_file, read_tensors, write_tensors
from samreg.errors import InputError, is_out_of_memory
from samreg.spatial.files import atomic_path, memory_error, require_file

logger = logging.getLogger(__name__)

_METADATA_KEY = "samreg"


@dataclass(frozen=True)
class Architecture:
    """A kind of network that checkpoints can hold.

    Attributes
    ----------
    name
    build
        Makes the network from the keyword arguments under ``config`` in the checkpoint's metadata.
    marker
        A weight that this architecture has and no other; it recognises files that carry no metadata.
    optional
        Prefixes of weights that published files of this kind may hold and the network does not use.
    """

    name: str
    build: Callable[..., EmbeddingNetwork]
    marker: str
    optional: tuple[str, ...] = ()


ARCHITECTURES: dict[str, Architecture] = {}


def register_architecture(architecture: Architecture) -> None:
    """Make an architecture known to ``load_checkpoint``."""
    ARCHITECTURES[architecture.name] = architecture


# UAE-S (SAMv2) adds a semantic head to the same network
register_architecture(
    Architecture("sam", SamNetwork, marker="backbone.conv1.conv.weight", optional=("semantic_head.",))
)
register_architecture(Architecture("compact", CompactNetwork, marker="fine_stem.0.weight"))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network with its weights and what the file says about it.

    Attributes
    ----------
    network
        In evaluation mode.
    architecture, name
    preprocessing
    config
        Keyword arguments of the architecture.
    calibration
        Coefficients that turn match similarity into reliability.
    info
        Facts to show the user, such as the weights that were left out.
    landmarks
        What makes it a landmark detector (``samreg.landmarks.detector``).
    """

    network: EmbeddingNetwork
    architecture: str
    name: str
    preprocessing: AnyPreprocessing
    config: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, float] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    landmarks: Mapping[str, Any] | None = None


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a network from a checkpoint.

    Parameters
    ----------
    path
        An official SAM or UAE-S file (.pth) or a samreg safetensors file; recognised by content.

    Raises
    ------
    InputError
        When the file is missing, truncated, no checkpoint, holds code, or fits the network only in part.
    """
    path = require_file(path, "checkpoint")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the checkpoint file in it")
    weights, metadata = _read_safetensors(path) if is_tensor_file(path) else (_read_pickle(path), {})
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    architecture = _recognise(path, weights, metadata)
    left_out = sorted(key for key in weights if key.startswith(architecture.optional))
    try:
        with torch.random.fork_rng(devices=[]):  # its random weights, soon replaced, cost the caller no random numbers
            network = architecture.build(**metadata.get("config", {}))
        preprocessing = preprocessing_from_dict(metadata.get("preprocessing", {}))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: its metadata does not describe a {architecture.name} network: {error}") from error
    _fill(network, {key: value for key, value in weights.items() if key not in set(left_out)}, path)
    config = metadata.get("config", {})
    info: dict[str, Any] = {"file": str(path), "architecture": architecture.name, "config": config}
    if left_out:
        heads = sorted({key.split(".")[0] for key in left_out})
        info["left_out"] = f"{len(left_out)} weights of {', '.join(heads)}"
        logger.info("%s: %s not used; the local and global embeddings do not need them", path, info["left_out"])
    return Checkpoint(
        network=network.eval(),
        architecture=architecture.name,
        name=str(metadata.get("name", path.stem)),
        preprocessing=preprocessing,
        config=config,
        calibration=metadata.get("calibration"),
        info=info,
        landmarks=metadata.get("landmarks"),
    )


def save_checkpoint(
    path: str | os.PathLike[str],
    network: EmbeddingNetwork,
    *,
    architecture: str,
    name: str,
    config: Mapping[str, Any] | None = None,
    preprocessing: AnyPreprocessing | None = None,
    calibration: Mapping[str, float] | None = None,
    landmarks: Mapping[str, Any] | None = None,
) -> None:
    """Write a network as a safetensors file that ``load_checkpoint`` reads back.

    Parameters
    ----------
    path
        File to write, usually ``.safetensors``.
    network
    architecture
        A name in ``ARCHITECTURES``.
    name
        Name of the model.
    config
        Keyword arguments of the architecture.
    preprocessing
        What the network expects; the published SAM's unless given.
    calibration
        Reliability coefficients.
    landmarks
        Names and vectors of a landmark detector.
    """
    metadata = {
        "architecture": architecture,
        "config": dict(config or {}),
        "preprocessing": preprocessing_to_dict(preprocessing or Preprocessing()),
        "name": name,
        "calibration": None if calibration is None else dict(calibration),
        "landmarks": None if landmarks is None else dict(landmarks),
    }
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_path(path) as temporary:
        write_tensors(temporary, weights, {_METADATA_KEY: json.dumps(metadata)})


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        weights, texts = read_tensors(path)
        metadata = json.loads(texts.get(_METADATA_KEY, "{}"))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is a damaged safetensors file ({error}); copy or download it again") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: its samreg metadata is no JSON object; write it with save_checkpoint")
    return weights, metadata


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file makes torch raise almost anything
        if is_out_of_memory(error):
            raise memory_error(path, error) from error
        if wanted := re.search(r"GLOBAL:? (\S+)", str(error), re.IGNORECASE):
            raise InputError(
                f"{path} is refused: it holds more than weights and could run code ({wanted[1]}); where you trust it, "
                "save its state_dict alone as safetensors in a separate environment and load that"
            ) from None
        raise InputError(
            f"{path} is no readable checkpoint, or cut short ({type(error).__name__}); download it again and compare "
            "its size and hash"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise InputError(f"{path} holds no weights; give a state dict, or a file with the entry 'state_dict'")
    return dict(state)


def _recognise(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Architecture:
    known = ", ".join(ARCHITECTURES)
    if (name := metadata.get("architecture")) is not None:
        if name not in ARCHITECTURES:
            raise InputError(f"{path}: unknown architecture {name!r}; this samreg knows {known}; update it")
        return ARCHITECTURES[name]
    for architecture in ARCHITECTURES.values():
        if architecture.marker in weights:
            return architecture
    raise InputError(
        f"{path}: its weights ({', '.join(list(weights)[:3])}, ...) are of no network samreg knows ({known}); "
        "give an official SAM or UAE-S checkpoint or one trained with samreg"
    )


def _fill(network: EmbeddingNetwork, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load the weights; refuse a partial fit, since it would run and give nonsense."""
    expected = network.state_dict()
    # checkpoints stripped for inference may lack these counters, which only training reads
    missing = [key for key in expected if key not in weights and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in weights if key not in expected]
    shapes = [
        f"{key} {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in weights.items()
        if key in expected and value.shape != expected[key].shape
    ]
    faults = [
        f"{len(keys)} {what}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", shapes))
        if keys
    ]
    if faults:
        raise InputError(
            f"{path} fits the network only in part ({'; '.join(faults)}); give the checkpoint it was made for"
        )
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise InputError(f"{path} holds weights that are NaN or infinite; train or download it again")
    network.load_state_dict(weights, strict=False)

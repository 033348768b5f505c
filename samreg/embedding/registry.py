"""Finding a model by name, file or address."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from samreg.device import torch_defaults
from samreg.embedding.checkpoint import load_checkpoint
from samreg.embedding.ct import ANY_CONTRAST_MODEL, Preprocessing, background_notes
from samreg.embedding.mind import MindModel
from samreg.embedding.models import EmbeddingModel, NetworkModel
from samreg.embedding.network import SamNetwork
from samreg.errors import InputError
from samreg.spatial.files import require_file
from samreg.spatial.image import Image
from samreg.spatial.standard import has_hounsfield_units

log = logging.getLogger(__name__)

WEIGHTS = Path(__file__).parent / "weights"
_PREFERRED, _FALLBACK = "ct-small", "mind"
DEFAULT_MODEL = _PREFERRED if (WEIGHTS / f"{_PREFERRED}.safetensors").is_file() else _FALLBACK
_DEFAULT_2D = "xray-ceph"


def default_model(ndim: int) -> str:
    """Return the name of the model used where none is given, for images of so many dimensions.

    Raises
    ------
    InputError
        For 2D images where no 2D model is shipped.

    Examples
    --------
    >>> default_model(3), default_model(2)
    ('ct-small', 'xray-ceph')
    """
    if ndim == 3:
        return DEFAULT_MODEL
    if _DEFAULT_2D not in available_models():
        raise InputError(f"a {ndim}D image, and no {ndim}D model is shipped; give model=, a checkpoint file")
    return _DEFAULT_2D


def default_models() -> tuple[str, ...]:
    """Return the names of all models that are used where none is given."""
    shipped = available_models()
    return tuple(name for name in (DEFAULT_MODEL, ANY_CONTRAST_MODEL, _DEFAULT_2D) if name in shipped)


def available_models() -> Mapping[str, str]:
    """Return the names ``load_model`` knows and what each one is.

    Examples
    --------
    >>> sorted(available_models())
    ['any-small', 'ct-small', 'ct-small-1', 'mind', 'sam-random', 'xray-ceph']
    """
    shipped = {path.stem: "network, weights shipped with samreg" for path in sorted(WEIGHTS.glob("*.safetensors"))}
    return {
        **shipped,
        "mind": "weight-free descriptor: MIND-SSC, tissue context and body position",
        "sam-random": "the published SAM network with random weights, for tests and timing only",
    }


@torch_defaults()
def load_model(source: str | os.PathLike[str] | EmbeddingModel, *, sha256: str | None = None) -> EmbeddingModel:
    """Load an embedding model.

    Parameters
    ----------
    source
        A name (see ``available_models``), a checkpoint file (official ``SAM.pth``, UAE-S, or samreg
        safetensors), or the http(s) address of one. A model is returned as it is.
    sha256
        Expected SHA-256 of the file, hexadecimal; needed for an address.

    Returns
    -------
    EmbeddingModel

    Raises
    ------
    InputError
        For an unknown name, a missing or damaged file, a wrong hash, or an address without a hash.

    Examples
    --------
    >>> model = load_model("ct-small")
    >>> model.name, model.ndim, model.preprocessing.spacing
    ('ct-small', 3, 2.0)
    """
    if isinstance(source, EmbeddingModel):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(
            f"unknown model {str(source)[:40]!r}; choose {', '.join(available_models())}, or give a checkpoint file"
        )
    name = os.fspath(source)
    if name.startswith(("http://", "https://")):
        return _from_file(_download(name, sha256))
    if name in available_models():
        if name == "mind":
            return MindModel()
        return random_official() if name == "sam-random" else _from_file(WEIGHTS / f"{name}.safetensors")
    if not Path(name).exists() and not Path(name).suffix and Path(name).name == name:
        raise InputError(f"unknown model {name!r}; choose {', '.join(available_models())}, or give a checkpoint file")
    path = require_file(name, "checkpoint")
    import pooch

    if sha256 is not None and (actual := pooch.file_hash(str(path))) != sha256.lower():
        raise InputError(f"{path}: SHA-256 is {actual}, expected {sha256.lower()}; download it again")
    return _from_file(path)


def default_for(*images: Image) -> str:
    """Return the name of the model used for these images together where none is given.

    Of volumes it is the one for CT, or where one of them is not in Hounsfield units the one for any contrast.

    Raises
    ------
    InputError
        As ``default_model`` does.

    Examples
    --------
    >>> import numpy as np
    >>> hu = np.linspace(-1000, 1000, 64, dtype=np.float32).reshape(4, 4, 4)
    >>> ct, mr = Image.from_array(hu, spacing=4), Image.from_array(hu + 1000, spacing=4)
    >>> default_for(ct, ct), default_for(ct, mr)
    ('ct-small', 'any-small')
    """
    if images[0].ndim == 3 and ANY_CONTRAST_MODEL in available_models() and _without_units(images):
        return ANY_CONTRAST_MODEL
    return default_model(images[0].ndim)


def default_notes(*images: Image) -> tuple[str, ...]:
    """Return what a user should know where the default model embeds these images, in plain words."""
    image = images[0]
    if image.ndim == 2:
        return (
            f"{image.label} was embedded by {_DEFAULT_2D}, the default for 2D images, which knows lateral X-rays of "
            'the skull alone; for anything else give model=, or method="registration"',
        )
    if default_for(*images) != ANY_CONTRAST_MODEL:
        return background_notes(*images)
    named = " and ".join(dict.fromkeys(image.label for image in _without_units(images)))
    return (
        f"{named}: the intensities are not Hounsfield units (air -1000, water 0), so {ANY_CONTRAST_MODEL} embedded "
        f"the images, which takes any contrast and is less exact than {DEFAULT_MODEL}; for CT apply its rescale "
        "slope and intercept",
    )


def _without_units(images: tuple[Image, ...]) -> list[Image]:
    """Return the volumes whose intensities vary, but are no Hounsfield units."""
    return [
        image for image in images
        if image.ndim == 3 and not has_hounsfield_units(image) and image.array.min() < image.array.max()
    ]  # fmt: skip


def model_for(source: str | os.PathLike[str] | EmbeddingModel | None, *images: Image) -> EmbeddingModel:
    """Return the model of ``load_model``, or without a source the default for what the images are together.

    What is known by name is loaded once in a process: reading and preparing ``xray-ceph`` takes half as long as
    embedding an X-ray. It is shared, and not to be changed.

    Raises
    ------
    InputError
        As ``load_model`` and ``default_model`` do.
    """
    if source is None:
        source = default_for(*images)
        log.info("%s embedded by %s, the default", " and ".join(image.label for image in images), source)
    return _shared(source) if isinstance(source, str) and source in available_models() else load_model(source)


@lru_cache(maxsize=3)
def _shared(name: str) -> EmbeddingModel:
    return load_model(name)


def random_official(seed: int = 0) -> NetworkModel:
    """Return the published SAM network with random weights: right shapes and cost, meaningless vectors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SamNetwork()
    return NetworkModel(network, Preprocessing(), name="sam-random", info={"architecture": "sam", "seed": seed})


def _from_file(path: Path) -> NetworkModel:
    checkpoint = load_checkpoint(path)
    return NetworkModel(
        checkpoint.network,
        checkpoint.preprocessing,
        name=checkpoint.name,
        calibration=checkpoint.calibration,
        info=checkpoint.info,
    )


def _download(url: str, sha256: str | None) -> Path:
    """Fetch a checkpoint once; later calls find it in the user's cache folder."""
    if sha256 is None:
        raise InputError(f"{url}: give sha256=, the expected hash of the file, so that nothing else is loaded")
    import pooch

    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{sha256.lower()}", path=pooch.os_cache("samreg")))
    except (OSError, ValueError) as error:  # pooch: ValueError for a wrong hash, requests' errors are OSError
        raise InputError(f"cannot load {url}: {error}; check the address, the network and the hash") from error

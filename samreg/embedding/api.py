"""embed(): one image to its embedding, kept in a file where asked for."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samreg.device import torch_defaults

if TYPE_CHECKING:
    from samreg.embedding.embedding import Embedding
    from samreg.embedding.models import EmbeddingModel
    from samreg.spatial.image import Image

logger = logging.getLogger(__name__)


@torch_defaults()
def embed(
    image: Any,
    *,
    model: str | os.PathLike[str] | EmbeddingModel | None = None,
    mask: Any | None = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Embedding:
    """Embed one image.

    Parameters
    ----------
    image
        An :class:`samreg.Image`, a path, or an image as :func:`samreg.as_image` takes: CT in HU, or a 2D X-ray.
    model
        See ``load_model``; the default for what the image is unless given.
    mask
        Where matches may lie; non-zero voxels on any grid in the same frame.
    device
        "auto", "cuda", "mps" or "cpu".
    cache
        File (.h5) to keep the embedding in. It is read instead of computed when image, mask and model are the
        same as when it was written, else computed anew and overwritten.
    progress
        Called with the fraction done.

    Returns
    -------
    Embedding
        On the CPU.

    Raises
    ------
    InputError
        When the image, the mask, the model or the device cannot be used, or ``cache`` is another kind of file.

    Examples
    --------
    >>> import numpy as np
    >>> hu = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> embedding = embed({"array": hu, "spacing": (8, 8, 8)}, model="mind")
    >>> embedding.local_grid.spacing.tolist(), embedding.global_grid.spacing.tolist()
    ([4.0, 4.0, 4.0], [8.0, 8.0, 8.0])
    """
    from samreg.embedding.embedding import Embedding
    from samreg.embedding.registry import default_notes, model_for
    from samreg.spatial import as_image

    image = as_image(image)
    mask = None if mask is None else as_image(mask, name="mask")
    loaded = model_for(model, image)
    if model is None and image.ndim == 3:
        for note in default_notes(image):
            logger.warning("%s", note)
    if cache is None:
        return loaded.embed(image, mask=mask, device=device, progress=progress)
    source = content_hash(image, mask)
    if Path(cache).exists():
        cached = Embedding.load(cache)
        if (cached.source, cached.model) == (source, loaded.identity):
            logger.info("%s: embedding of %s read from the cache", cache, image.label)
            # the calibration may be newer, and is no part of the identity; the image is in no file
            return replace(cached, calibration=loaded.calibration, volume=loaded.volume(image))
        logger.warning("%s: made from another image, mask or model; computed anew and overwritten", cache)
    embedding = replace(loaded.embed(image, mask=mask, device=device, progress=progress), source=source)
    embedding.save(cache)
    return embedding


def content_hash(*images: Image | None) -> str:
    """Hash of the voxels and grids, whatever the files were called."""
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        if image is None:
            digest.update(b"none")
            continue
        grid = image.grid
        digest.update(repr((image.array.dtype.str, grid.shape)).encode())
        for part in (grid.origin, grid.spacing, grid.direction):
            digest.update(part.tobytes())
        for plane in image.array:  # plane by plane: a flipped view is not copied as a whole
            digest.update(plane.tobytes())
    return digest.hexdigest()

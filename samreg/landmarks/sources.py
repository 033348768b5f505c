"""What landmarks are searched in: images, and embeddings in memory or as files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from samreg.errors import InputError
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image

if TYPE_CHECKING:
    from samreg.embedding import Embedding


def embedded(source: Any, model: Any, device: str, name: str, report: Callable[[str], None]) -> Embedding:
    """Return the embedding of an image, or the embedding given, in memory or as an .h5 file.

    Raises
    ------
    InputError
        When a model is given that is not the embedding's own.
    """
    from samreg.embedding.registry import model_for

    image = read(source, name)
    if isinstance(image, Image):
        report(f"embedding the {name}")
        return model_for(model, image).embed_on_device(image, device=device)
    if model is not None and (given := model_for(model).identity) != image.model:
        own = image.model.split("@")[0]
        raise InputError(
            f"the {name} is an embedding by the model {image.model}, not by {given}; leave the model out, or choose "
            f'the embedding\'s: model="{own}" (--model {own})'
        )
    return image


def read(source: Any, name: str) -> Image | Embedding:
    """Return the image, or the embedding where one is given, in memory or as an .h5 file."""
    from samreg.embedding import Embedding

    if isinstance(source, Embedding):
        return source
    if isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(".h5"):
        return Embedding.load(source)
    return as_image(source, name=name)

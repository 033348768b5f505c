"""A model that keeps the embeddings of images that are asked for again."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from samreg.embedding.api import content_hash, embed
from samreg.embedding.embedding import Embedding
from samreg.embedding.inference import Progress
from samreg.embedding.models import EmbeddingModel
from samreg.spatial.image import Image


class KeepingModel(EmbeddingModel):
    """Embeds as another model does, and keeps the embeddings of some images in a folder.

    Parameters
    ----------
    model
        The model that embeds.
    folder
        For the files, one for each image and mask, named by their contents and the model.
    images
        Those whose embeddings are kept, and those of the same voxels turned or mirrored.

    Examples
    --------
    >>> import tempfile
    >>> from samreg.embedding import load_model
    >>> scan = Image.from_array(np.random.default_rng(0).normal(0, 100, (8, 8, 8)).astype(np.float32), spacing=8.0)
    >>> folder = Path(tempfile.mkdtemp())
    >>> model = KeepingModel(load_model("mind"), folder, [scan])
    >>> model.embed(scan).model == model.embed(scan).model, len(list(folder.iterdir()))
    (True, 1)
    """

    def __init__(self, model: EmbeddingModel, folder: Path, images: Collection[Image]) -> None:
        self.model = model
        self.name, self.ndim, self.info, self.calibration = model.name, model.ndim, model.info, model.calibration
        self._folder = folder
        self._arrays = [image.array for image in images]

    @property
    def fingerprint(self) -> str:
        """Of the model that embeds."""
        return self.model.fingerprint

    def embed(
        self,
        image: Image,
        *,
        mask: Image | None = None,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
    ) -> Embedding:
        """See ``EmbeddingModel``."""
        if not self._keeps(image):
            return self.model.embed(image, mask=mask, device=device, progress=progress)
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{content_hash(image, mask)}-{self.fingerprint}.h5"
        return embed(image, model=self.model, mask=mask, device=str(device), cache=file, progress=progress)

    def embed_on_device(
        self, image: Image, *, mask: Image | None = None, device: str | torch.device = "auto"
    ) -> Embedding:
        """See ``EmbeddingModel``; those that are kept come from their files."""
        if self._keeps(image):
            return self.embed(image, mask=mask, device=device)
        return self.model.embed_on_device(image, mask=mask, device=device)

    def embed_globally(
        self, image: Image, *, mask: Image | None = None, device: str | torch.device = "auto"
    ) -> Embedding | None:
        """See ``EmbeddingModel``; none is kept."""
        return self.model.embed_globally(image, mask=mask, device=device)

    def volume(self, image: Image) -> Image | None:
        """See ``EmbeddingModel``."""
        return self.model.volume(image)

    def _keeps(self, image: Image) -> bool:
        return any(np.shares_memory(image.array, array, max_work=1) for array in self._arrays)

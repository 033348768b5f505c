"""A landmark detector: an embedding network fine-tuned with labelled images, and one learnt vector a landmark.

The heat map of a landmark is the similarity of its vector with every voxel's embedding. A detector that was never
trained is one-shot matching with the mean vectors of the labelled images; training moves both vectors and network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from samreg.brief import brief_repr
from samreg.device import torch_defaults
from samreg.embedding.checkpoint import ARCHITECTURES, load_checkpoint, save_checkpoint
from samreg.embedding.compact import CompactNetwork
from samreg.embedding.models import NetworkModel
from samreg.embedding.registry import load_model
from samreg.errors import InputError
from samreg.matching import features, find, interpolate
from samreg.spatial import Image, Points, as_image
from samreg.spatial.points import require_inside, require_some


@dataclass(frozen=True, eq=False)
class LandmarkDetector:
    """Finds the landmarks it was trained for.

    Parameters
    ----------
    model
        Embeds the images.
    names
        N names.
    vectors
        (N, C) float32 unit vectors, local and global part side by side as :class:`samreg.matching.Features` has them.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> image = Image.from_array(noise, spacing=(8, 8, 8))
    >>> centre = Points([image.grid.center], ("centre",))
    >>> detector = LandmarkDetector.from_labels(load_model("ct-small"), [image], [centre])
    >>> detector(image).names
    ('centre',)
    """

    model: NetworkModel
    names: tuple[str, ...]
    vectors: torch.Tensor

    __repr__ = brief_repr

    @torch_defaults()
    def __call__(self, image: Any, *, device: str = "auto") -> Points:
        """Find the landmarks of an image.

        Parameters
        ----------
        image
            As :func:`samreg.register` takes it.
        device
            "auto", "cpu", "cuda" or "mps", where to embed and to search.

        Returns
        -------
        Points
            (N, d) LPS mm, at the peaks of the heat maps, scored by similarity, at most 1.
        """
        embedding = self.model.embed_on_device(as_image(image, name="image"), device=device)
        peaks = find(self.vectors, features(embedding, device=device))
        return Points(peaks.positions, self.names, peaks.similarity)

    @classmethod
    @torch_defaults()
    def from_labels(
        cls, model: NetworkModel, images: Sequence[Image], points: Sequence[Points], *, device: str = "auto"
    ) -> LandmarkDetector:
        """Return the detector that needs no training: the mean vectors of labelled images.

        Raises
        ------
        InputError
            When there is no image or point, the images' points have different names, a name occurs twice, or some lie
            outside their image.
        """
        if not images or len(images) != len(points):
            raise InputError(f"{len(images)} images and {len(points)} sets of points; give one set an image")
        names = points[0].names
        if odd := [p.names for p in points if sorted(p.names) != sorted(names)]:
            raise InputError(f"every image must have the same landmarks: {list(names)} and {list(odd[0])} differ")
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"landmarks to learn: names occur more than once: {doubled}; give each one its own")
        require_some(points[0], "landmarks to learn")
        for image, labelled in zip(images, points, strict=True):
            require_inside(labelled, image.grid, image.label)
        vectors = [
            interpolate(features(model.embed(image, device=device)), labelled.named(names).positions)
            for image, labelled in zip(images, points, strict=True)
        ]
        return cls(model, names, F.normalize(torch.stack(vectors).mean(dim=0), dim=1))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the detector as a safetensors file, whole or not at all.

        Raises
        ------
        InputError
            When the network is of no architecture that a checkpoint can name, or the file cannot be written.
        """
        network = self.model.network
        name = next((a.name for a in ARCHITECTURES.values() if a.build is type(network)), None)
        name = self.model.info.get("architecture", name)
        config = network.config if isinstance(network, CompactNetwork) else self.model.info.get("config")
        if name is None:
            raise InputError(
                f"a network {type(network).__name__} cannot be saved, as no checkpoint could name it; make it known by "
                "samreg.embedding.checkpoint.register_architecture"
            )
        save_checkpoint(
            path, network, architecture=name, name=self.model.name, config=config,
            preprocessing=self.model.preprocessing, calibration=self.model.calibration,
            landmarks={"names": self.names, "vectors": self.vectors.tolist()},
        )  # fmt: skip

    @classmethod
    @torch_defaults()
    def load(cls, path: str | os.PathLike[str]) -> LandmarkDetector:
        """Read a detector written by :meth:`save`.

        Raises
        ------
        InputError
            When the file is missing, damaged, or no detector.
        """
        landmarks = load_checkpoint(path).landmarks
        if landmarks is None:
            raise InputError(f"{path} is a model without landmarks; train it with `samreg landmarks train`")
        model = load_model(path)
        assert isinstance(model, NetworkModel)
        return cls(model, tuple(landmarks["names"]), torch.tensor(landmarks["vectors"]))

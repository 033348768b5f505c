"""How well a model matches: exact synthetic correspondence, and organs carried to another person and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from samreg.embedding.compact import CompactNetwork
from samreg.embedding.embedding import Embedding
from samreg.embedding.models import EmbeddingModel, NetworkModel
from samreg.matching.features import features
from samreg.matching.matching import match_points
from samreg.spatial import Grid, Image
from samreg.training.augment import draw_view
from samreg.training.config import TrainingConfig
from samreg.training.data import Volume
from samreg.training.views import ViewConfig

_PARTS = {"local": ("local",), "global": ("global",), "both": ("local", "global")}


def as_model(network: CompactNetwork, config: TrainingConfig) -> NetworkModel:
    """Return a model around a network in training."""
    return NetworkModel(network, config.kind.preprocessing, name="training")


def synthetic_errors(
    model: EmbeddingModel,
    volumes: Sequence[Volume],
    *,
    views: ViewConfig | None = None,
    points: int = 200,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Match volumes with randomly deformed views of themselves, over the whole body.

    Parameters
    ----------
    model
        Embeds both images.
    volumes
        To be matched with views of themselves.
    views
        What the views look like; the defaults of the training unless given.
    points
        Body points per volume.
    seed
        The same seed gives the same views and points.

    Returns
    -------
    dict
        Distances (N,) mm between found and true places for ``local``, ``global`` and ``both`` parts.
    """
    errors: dict[str, list[NDArray[np.float64]]] = {name: [] for name in _PARTS}
    for number, volume in enumerate(volumes):
        fixed, moving, true_fixed, true_moving = _synthetic_pair(volume, views or ViewConfig(), points, seed + number)
        embeddings = model.embed(fixed), model.embed(moving)
        for name, parts in _PARTS.items():
            a, b = (features(e, parts=parts) for e in embeddings)
            found = match_points(a, true_fixed, b).moving
            errors[name].append(np.linalg.norm(found - true_moving, axis=1))
    return {name: np.concatenate(some) for name, some in errors.items()}


def summary(errors: Mapping[str, NDArray[np.float64]]) -> str:
    """Mean, median and 95th percentile of each variant, mm, on one line."""
    return ", ".join(
        f"{name} {e.mean():.1f} / {np.median(e):.1f} / {np.percentile(e, 95):.1f}" for name, e in errors.items()
    )


def organ_cycle(
    fixed: Embedding, labels: Image, moving: Embedding, *, points: int = 2000, seed: int = 0
) -> dict[int, float]:
    """Carry points of labelled organs to another person and back.

    Parameters
    ----------
    fixed
        Of the labelled image.
    labels
        Organ labels on any grid in the frame of the labelled image; 0 is background.
    moving
        Of another person.
    points
        Labelled voxels drawn at random.
    seed
        Of the points.

    Returns
    -------
    dict
        For each label the share of its points that come back into the same organ.
    """
    index = np.argwhere(labels.array > 0)
    index = index[np.random.default_rng(seed).permutation(len(index))[:points]]
    values = labels.array[tuple(index.T)]
    start = labels.grid.index_to_world(index[:, ::-1])
    f, m = features(fixed), features(moving)
    there = match_points(f, start, m, coarse=True)
    back = match_points(m, there.moving, f, coarse=True).moving
    at = np.round(labels.grid.world_to_index(back)).astype(int)[:, ::-1]
    at = np.clip(at, 0, np.array(labels.array.shape) - 1)
    same = labels.array[tuple(at.T)] == values
    return {int(value): float(same[values == value].mean()) for value in np.unique(values)}


def _synthetic_pair(
    volume: Volume, views: ViewConfig, points: int, seed: int
) -> tuple[Image, Image, NDArray[np.float64], NDArray[np.float64]]:
    """The volume, a deformed view of it, and points of both that match; world mm."""
    generator = torch.Generator().manual_seed(seed)
    focus = volume.body[len(volume.body) // 2]
    whole = replace(views, crop=1.0, crop_in_plane=0.0, mirror=0.0, size=(999,) * volume.ndim)
    view = draw_view(volume, focus, whole, generator, smallest=(1,) * volume.ndim, mirror=False)
    moving = view.whole()[0, 0].cpu().numpy()
    first = view.first.cpu().numpy().astype(float) - volume.spacing / 2
    pick = torch.randperm(len(volume.body), generator=generator)[: 4 * points]
    true_fixed = volume.body[pick]
    true_moving, converged = view.warp.to_view(true_fixed)
    kept = (converged & view.contains(true_moving, margin=2 * volume.step)).nonzero()[:points, 0]
    original = _image(volume, volume.fine[0, 0].cpu().numpy() - volume.modality.air, np.zeros(volume.ndim), volume.name)
    deformed = _image(volume, moving, first, f"{volume.name} deformed")
    return original, deformed, true_fixed[kept].double().cpu().numpy(), true_moving[kept].double().cpu().numpy()


def _image(volume: Volume, array: NDArray[Any], origin: NDArray[np.float64], name: str) -> Image:
    grid = Grid.make(array.shape, origin=origin, spacing=volume.spacing)
    return Image(volume.modality.original(array), grid, name)

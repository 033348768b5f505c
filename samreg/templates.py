"""Choosing a template: the image in which most of the others find themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError

if TYPE_CHECKING:
    from samreg.embedding import Embedding

_LATTICE = 48.0  # mm at a scale of 1 (:attr:`samreg.matching.Features.scale`)


def template_scores(embeddings: Sequence[Embedding]) -> NDArray[np.float64]:
    """Return how well each image stands for the others.

    A lattice over the body of one image is searched in another; the mean similarity of the best matches says how
    alike the two are. No landmark is needed: the image of highest score, the medoid of the set, is a good one to
    label.

    Parameters
    ----------
    embeddings
        Of N images, by one model.

    Returns
    -------
    ndarray
        (N,) mean similarity to the other images, both ways.

    Raises
    ------
    InputError
        For fewer than two embeddings, or embeddings of different models.
    """
    from samreg.matching import features, interpolate, lattice
    from samreg.seeding.seed import require_one_model

    if len(embeddings) < 2:
        raise InputError(f"a template is chosen among at least 2 images, got {len(embeddings)}")
    for embedding in embeddings[1:]:
        require_one_model(embeddings[0], embedding)
    prepared = [features(embedding) for embedding in embeddings]
    queries = [interpolate(f, lattice(f, _LATTICE * f.scale)) for f in prepared]
    similarity = np.full((len(prepared), len(prepared)), np.nan)
    for j, target in enumerate(prepared):
        keys = target.sparse_vectors.T
        for i, query in enumerate(queries):
            if i != j:
                similarity[i, j] = float((query.to(keys.dtype) @ keys).amax(dim=1).float().mean())
    return np.nanmean((similarity + similarity.T) / 2, axis=1)

"""Whether a scan is mirrored, told by itself: an atlas's landmarks fit the scan better, or its mirror image.

Heart, arch, liver and spleen make the two sides of the trunk differ, and an embedding shows it around them. So the
atlas's landmarks are placed in the scan and in its mirror image, and the likelihoods are compared landmark by landmark.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F

from samreg.landmarks.atlas import LandmarkAtlas, shipped_atlas
from samreg.landmarks.placement import placed_in
from samreg.seeding.turns import turned_image

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.embedding.models import EmbeddingModel
    from samreg.seeding.affine import AffineFit
    from samreg.spatial.image import Image

_MIN_LANDMARKS = 10  # in both, for a comparison
_MIN_T = 2.0  # of the differences, for a decision
#: By global vectors alone, for a decision: of 35 scans none is below -0.5, as none should be above 0.5 mirrored.
CLEAR_T = 3.0


def laterality(
    scan: Embedding, mirrored: Embedding, *, atlas: LandmarkAtlas | None = None, device: str = "cpu"
) -> float:
    """Return how much better the landmarks of an atlas fit a scan than its mirror image.

    Parameters
    ----------
    scan, mirrored
        Embeddings of the scan and of its mirror image, left and right exchanged, each in its own world, in which the
        patient lies upright. They are compared by their global vectors where the mirror image has no others.
    atlas
        Of their model; the one that samreg ships unless given.
    device
        Where to search.

    Returns
    -------
    float
        Student's t of the differences in log likelihood. In 35 scans that are not mirrored -0.5 to 7.5, median 3.6;
        0 where there is no atlas or too few of its landmarks are in view.
    """
    from samreg.matching.features import PARTS, features

    known = shipped_atlas(scan.model) if atlas is None else atlas
    if known is None or known.positions.shape[2] != scan.image_grid.ndim:
        return 0.0
    parts: tuple[str, ...] = PARTS
    if mirrored.global_ is not None and not len(mirrored.local):
        parts, known = ("global",), _of_last_channels(known, len(mirrored.global_))
    placed = [placed_in(known, one, features(one, parts=parts, device=device)) for one in (scan, mirrored)]
    grids = scan.image_grid, mirrored.image_grid
    shown = [
        (grid.depth(one.by_neighbours(known, one.positions)) >= 0) & one.looked_for
        for one, grid in zip(placed, grids, strict=True)
    ]
    difference = (placed[0].log_likelihood - placed[1].log_likelihood)[shown[0] & shown[1]]
    spread = float(difference.std()) if len(difference) >= _MIN_LANDMARKS else 0.0
    return float(difference.mean()) / spread * len(difference) ** 0.5 if spread > 0 else 0.0


def why_mirrored(
    images: tuple[Image, Image],
    embeddings: tuple[Embedding, Embedding],
    fit: AffineFit,
    network: EmbeddingModel,
    device: str,
) -> str:
    """Return which of two images looks mirrored, and what to do; "" where none does, or it cannot be told.

    Parameters
    ----------
    images, embeddings
        CTs, and their embeddings.
    fit
        Of matches of the two; nothing is told where they do not agree, or the bodies lie turned.
    network
        That embedded them. Mirror images are embedded by its global vectors alone; where those cost as much as all,
        nothing is told.
    device
        Where to embed and to search.
    """
    from samreg.matching.features import features
    from samreg.seeding.mirroring import mirrored_by_global_vectors, why_refused
    from samreg.seeding.poses import lie_alike
    from samreg.seeding.seed import body_lattice

    if not lie_alike(fit):
        return ""
    mirrored = mirrored_by_global_vectors(
        *embeddings,
        body_lattice(features(embeddings[0], device=device)),
        embed_globally=lambda image, mask: network.embed_globally(image, mask=mask, device=device),
        laterality=None if shipped_atlas(network.identity) is None else partial(laterality, device=device),
        device=device,
    )
    return why_refused(mirrored, *images) if mirrored is not None and mirrored.surely_opposite_laterality else ""


@lru_cache(maxsize=4)
def _of_last_channels(atlas: LandmarkAtlas, channels: int) -> LandmarkAtlas:
    """Return the atlas with the last channels of its vectors alone, those of the global embedding."""
    vectors = F.normalize(atlas.around.vectors[..., -channels:], dim=-1)
    return replace(atlas, around=replace(atlas.around, vectors=vectors))


def laterality_notes(t: float) -> tuple[str, ...]:
    """Return what the user should know of a scan with this :func:`laterality`; nothing where it is the right way round.

    Examples
    --------
    >>> laterality_notes(4.0)
    ()
    >>> laterality_notes(0.3)
    ('left and right cannot be told apart in the image: check that it is not mirrored',)
    """
    if t > _MIN_T:
        return ()
    if t < -_MIN_T:
        return (
            "the image looks mirrored, left and right exchanged: the landmarks fit its mirror image better; correct "
            "its direction matrix, or flip its array",
        )
    return ("left and right cannot be told apart in the image: check that it is not mirrored",)


def mirror_image(image: Image) -> Image:
    """Return a volume with left and right exchanged."""
    return turned_image(image, np.diag([-1.0, 1.0, 1.0]), image.grid.center)

"""Contrastive loss over points whose matches are known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_IGNORED = -1e4  # logit of a candidate that does not count


def sample_embedding(embedding: Tensor, points: Tensor, first: Tensor, spacing: float) -> Tensor:
    """Unit vectors (N, C) at points (N, d) mm of an embedding (1, C, (z,) y, x), linear between voxels."""
    size = torch.tensor(embedding.shape[:1:-1], dtype=torch.float32, device=points.device)
    grid = (points - first) * (2 / (spacing * (size - 1).clamp(min=1))) - 1
    grid = grid.reshape(1, -1, *(1,) * (points.shape[1] - 1), points.shape[1])
    values = F.grid_sample(embedding, grid, align_corners=True, padding_mode="border")
    return F.normalize(values.reshape(embedding.shape[1], -1).T, dim=1)


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    places: Tensor,
    candidates: Tensor,
    candidate_places: Tensor,
    *,
    temperature: float,
    ignore: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """InfoNCE of N anchors with M candidates each and K positives, of which any may be the right one.

    Several positives are summed in the numerator, as in MIL-NCE (Miech et al., CVPR 2020, equation 1): where a
    match is only known to some millimetres, the places around it compete for it.

    Parameters
    ----------
    anchors
        (N, C) unit vectors.
    positives
        (N, K, C) unit vectors at and around the matching points.
    places
        (N, d) where the positives lie, mm.
    candidates, candidate_places
        (M, C), (M, d) vectors of the positives' image and where they lie.
    temperature
        Divides the similarities.
    ignore
        (N,) candidates within this distance (mm) of the true place are no negatives.

    Returns
    -------
    loss : Tensor
        Mean.
    accuracy : Tensor
        Share of the anchors whose best positive beats every negative.
    """
    logits = anchors @ candidates.T / temperature
    limit = torch.as_tensor(ignore, device=places.device).reshape(-1, 1)
    near = torch.cdist(places, candidate_places) < limit
    logits = logits.masked_fill(near, _IGNORED)  # not -inf: where all are ignored, its gradient would be NaN
    positive = torch.einsum("nc,nkc->nk", anchors, positives) / temperature
    # the positives in front keep the sum finite where every candidate is ignored
    loss = (torch.cat([positive, logits], dim=1).logsumexp(dim=1) - positive.logsumexp(dim=1)).mean()
    beaten = (logits.detach() >= positive.detach().amax(dim=1, keepdim=True)).any(dim=1)
    return loss, (~beaten).float().mean()

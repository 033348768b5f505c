"""Contrastive loss over points whose matches are known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_IGNORED = -1e4  # logit of a candidate that does not count


def sample_embedding(embedding: Tensor, points: Tensor, first: Tensor, spacing: float) -> Tensor:
    """Unit vectors (N, C) at points (N, 3) mm of an embedding (1, C, z, y, x), linear between voxels."""
    size = torch.tensor(embedding.shape[:1:-1], dtype=torch.float32, device=points.device)
    grid = (points - first) * (2 / (spacing * (size - 1).clamp(min=1))) - 1
    values = F.grid_sample(embedding, grid.reshape(1, -1, 1, 1, 3), align_corners=True, padding_mode="border")
    return F.normalize(values.reshape(embedding.shape[1], -1).T, dim=1)


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    places: Tensor,
    candidates: Tensor,
    candidate_places: Tensor,
    *,
    temperature: float,
    ignore: float,
) -> tuple[Tensor, Tensor]:
    """InfoNCE of N anchors with one positive and M candidates each.

    Parameters
    ----------
    anchors, positives : Tensor, shape (N, C)
        Unit vectors at matching points.
    places : Tensor, shape (N, 3)
        Where the positives lie, mm.
    candidates, candidate_places : Tensor, shapes (M, C), (M, 3)
        Vectors of the positives' image and where they lie.
    temperature : float
    ignore : float
        Candidates within this distance (mm) of the true place are no negatives.

    Returns
    -------
    loss, accuracy : Tensor
        Mean loss, and the share of anchors whose positive beats every negative.
    """
    logits = anchors @ candidates.T / temperature
    near = torch.cdist(places, candidate_places) < ignore
    logits = logits.masked_fill(near, _IGNORED)  # not -inf: where all are ignored, its gradient would be NaN
    positive = (anchors * positives).sum(dim=1, keepdim=True) / temperature
    # the positive in front keeps the sum finite where every candidate is ignored
    logits = torch.cat([positive, logits], dim=1)
    loss = (logits.logsumexp(dim=1) - positive[:, 0]).mean()
    beaten = (logits.detach()[:, 1:] >= positive.detach()).any(dim=1)
    return loss, (~beaten).float().mean()

"""Fine-tuning a landmark detector on labelled images."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samreg.device import resolve_device
from samreg.embedding.compact import CompactNetwork
from samreg.embedding.inference import on_device
from samreg.embedding.models import NetworkModel
from samreg.errors import InputError, require_choice, require_number, require_seed
from samreg.landmarks.detector import LandmarkDetector
from samreg.spatial import Image, Points
from samreg.training.augment import draw_view
from samreg.training.data import make_volume
from samreg.training.modality import MODALITIES
from samreg.training.views import ViewConfig

logger = logging.getLogger(__name__)

_SHARPNESS = 20.0  # of a heat map at the start: the logit of similarity 1
_WIDTH = 1.0  # standard deviation of the heat map that is learnt, local voxels
_HEAD_RATE = 10.0  # the head learns so many times faster than the network
_PRECISIONS = ("bfloat16", "float32")
_MOST_SKIPPED = 5  # steps in a row without a finite gradient
_FEWEST = 3  # landmarks in view below which a view is drawn again, or all of fewer
_VIEWS = {
    2: ViewConfig(
        rotation=12, scale=1.15, anisotropy=1.08, warp=0.2, wavelength=(30.0, 200.0), size=(10_000, 10_000), crop=1.0,
        crop_in_plane=0.0, mirror=0.0, contrast=0.8,
    ),
    3: ViewConfig(rotation=10, scale=1.15, anisotropy=1.08, warp=0.2, mirror=0.0),
}  # fmt: skip


def train_detector(
    model: NetworkModel,
    images: Sequence[Image],
    points: Sequence[Points],
    *,
    steps: int = 600,
    learning_rate: float = 2e-4,
    views: ViewConfig | None = None,
    precision: str = "bfloat16",
    device: str = "auto",
    seed: int = 0,
) -> LandmarkDetector:
    """Train a detector for the landmarks of labelled images.

    It starts from ``LandmarkDetector.from_labels``. Every step draws an image and a view of it, deformed and with
    other intensities as in self-supervised training, and moves network and vectors towards heat maps that are
    Gaussians at the landmarks (cross-entropy over all voxels).

    Parameters
    ----------
    model
        With a ``CompactNetwork``: pretrained, or with random weights (``samreg.embedding.backbone.reinitialise``).
        It is left as it is.
    images
        Labelled images.
    points
        One set for each image, LPS mm, of the same names.
    steps
        Of fine-tuning.
    learning_rate
        Of AdamW for the network, falling to 2 % by half a cosine; the head's is ten times as high.
    views
        How views are drawn.
    precision
        "bfloat16" or "float32".
    device
        "auto", "cpu", "cuda" or "mps".
    seed
        Of the views and their order.

    Returns
    -------
    LandmarkDetector

    Raises
    ------
    InputError
        When an option is at fault, the network is of another kind, images and points do not fit, no view showed enough
        landmarks to learn from, or the gradients are not finite any more.
    """
    steps, seed = require_number("steps", steps, minimum=0, integer=True), require_seed(seed)
    learning_rate = require_number("learning_rate", learning_rate, minimum=0)
    require_choice("precision", precision, _PRECISIONS)
    if not isinstance(model.network, CompactNetwork):
        raise InputError(f"the model {model.name} cannot be trained; choose one of samreg's own, as xray-ceph")
    where = resolve_device(device)
    start = LandmarkDetector.from_labels(model, images, points, device=device)
    network = on_device(copy.deepcopy(model.network).float(), where, model.ndim).train()
    head = _Head(start.vectors).to(where)
    modality = MODALITIES[model.preprocessing.modality](model.preprocessing.spacing)
    volumes = [make_volume(image, modality, where) for image in images]
    marks = [
        torch.tensor(some.named(start.names).positions - volume.origin, dtype=torch.float32, device=where)
        for some, volume in zip(points, volumes, strict=True)
    ]
    drawing = views or _VIEWS[model.ndim]
    groups = [{"params": list(network.parameters())}, {"params": list(head.parameters())}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    dtype = getattr(torch, precision)
    learnt = skipped = 0
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        number = int(torch.randint(0, len(volumes), (1,), generator=generator))
        focus = marks[number][int(torch.randint(0, len(start.names), (1,), generator=generator))]
        view = draw_view(
            volumes[number], focus, drawing, generator, smallest=(2 ** (len(network.channels) + 1),) * model.ndim,
            mirror=False,
        )  # fmt: skip
        places, converged = view.warp.to_view(marks[number])
        seen = converged & view.contains(places, margin=view.step)
        if seen.sum() < min(_FEWEST, len(seen)):
            continue
        with torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
            local, global_ = network(view.whole())
        loss = head.loss(local.float(), global_.float(), ((places - view.first) / view.step)[seen], seen)
        rate = learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group, factor in zip(optimizer.param_groups, (1.0, _HEAD_RATE), strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        length = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if not torch.isfinite(length):
            if (skipped := skipped + 1) > _MOST_SKIPPED:
                raise InputError(f"step {step}: the gradients are not finite any more; lower learning_rate")
            continue
        optimizer.step()
        learnt, skipped = learnt + 1, 0
        if step % 50 == 0:
            logger.info("step %d: loss %.3f", step, float(loss.detach()))
    if steps and not learnt:
        raise InputError(f"none of {steps} views showed {_FEWEST} landmarks; use larger views, or label points nearer")
    trained = NetworkModel(network.cpu(), model.preprocessing, name=f"{model.name}-landmarks", info=model.info)
    return replace(start, model=trained, vectors=F.normalize(head.vectors.detach().cpu(), dim=1))


class _Head(nn.Module):
    """One vector a landmark; heat maps are similarities with local and global embedding, side by side."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors.clone())
        self.sharpness = nn.Parameter(torch.tensor(math.log(_SHARPNESS)))

    def loss(self, local: Tensor, global_: Tensor, places: Tensor, seen: Tensor) -> Tensor:
        """Mean cross-entropy between the heat maps of the seen landmarks and Gaussians at ``places`` (S, d), voxels."""
        size = local.shape[2:]
        mode = "bilinear" if len(size) == 2 else "trilinear"
        fine = F.interpolate(global_, scale_factor=2, mode=mode, align_corners=False)
        fine = F.normalize(fine[(slice(None), slice(None), *map(slice, size))], dim=1)
        features = torch.cat([local, fine], dim=1)[0].flatten(1) * 0.5**0.5
        heat = self.sharpness.exp() * F.normalize(self.vectors[seen], dim=1) @ features
        axes = [torch.arange(n, device=places.device, dtype=torch.float32) for n in size]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1).flatten(0, -2)
        target = F.softmax(-0.5 * torch.cdist(places, grid).square() / _WIDTH**2, dim=1)
        return -(target * F.log_softmax(heat, dim=1)).sum(dim=1).mean()

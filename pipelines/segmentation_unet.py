"""A segmentation U-Net on a pretrained encoder, trained on one labelled CT, in plain torch.

    python pipelines/segmentation_unet.py IMAGE LABELS OTHER -o segmented.nii.gz --labels 15 51 79

trains on IMAGE and its LABELS (the values given; all that occur unless given) and segments OTHER.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import samreg
from samreg.embedding import Encoder, encoder
from samreg.errors import InputError
from samreg.spatial import Image, resample
from samreg.spatial.io_images import WRITABLE
from samreg.spatial.standard import standardised
from samreg.training.augment import draw_view
from samreg.training.data import make_volume
from samreg.training.modality import MODALITIES
from samreg.training.views import ViewConfig

logger = logging.getLogger("samreg.pipelines.segmentation")

VIEWS = ViewConfig(
    rotation=15, scale=1.2, anisotropy=1.1, warp=0.25, size=(40, 48, 48), crop=0.3, mirror=0.0, lesion=0.0
)  # fmt: skip


class Unet(nn.Module):
    """The encoder's feature maps, coarse to fine, merged and brought back to the input's resolution."""

    def __init__(self, backbone: Encoder, classes: int, *, width: int = 32) -> None:
        super().__init__()
        self.backbone = backbone
        convolution = nn.Conv2d if backbone.ndim == 2 else nn.Conv3d
        self.laterals = nn.ModuleList(convolution(channels, width, 1) for channels in backbone.channels)
        self.merges = nn.ModuleList(
            nn.Sequential(convolution(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU())
            for _ in backbone.channels
        )
        self.head = convolution(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes, (z,) y, x) of network input (N, 1, (z,) y, x)."""
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        # whole voxels of the coarsest map, so that each map is exactly as many times as coarse as its stride says
        size, stride = x.shape[2:], self.backbone.strides[-1]
        missing = [(0, -n % s) for n, s in zip(reversed(size), reversed(stride), strict=True)]
        x = F.pad(x, [n for pair in missing for n in pair], value=self.backbone.preprocessing.padding)
        merged: Tensor | None = None
        for lateral, merge, features in reversed(list(zip(self.laterals, self.merges, self.backbone(x), strict=True))):
            level = lateral(features)
            if merged is not None:
                level = level + F.interpolate(merged, size=level.shape[2:], mode=mode, align_corners=False)
            merged = merge(level)
        logits = F.interpolate(self.head(merged), size=x.shape[2:], mode=mode, align_corners=False)
        return logits[(..., *(slice(n) for n in size))]


def train(
    backbone: Encoder,
    image: Image,
    labels: Image,
    values: Sequence[int],
    *,
    steps: int = 300,
    learning_rate: float = 1e-3,
    backbone_rate: float = 3e-4,
    seed: int = 0,
) -> Unet:
    """Train on random deformed views of one labelled image; class i + 1 is the label ``values[i]``."""
    torch.manual_seed(seed)
    network = Unet(backbone, len(values) + 1).train()
    settings = backbone.preprocessing
    volume = make_volume(image, MODALITIES[settings.modality](settings.spacing), torch.device("cpu"))
    grid = standardised(image, settings.spacing, fill=settings.fill).grid
    classes = np.zeros(grid.shape, np.int64)
    on_grid = resample(labels, grid, interpolation="nearest", fill=0).array
    for number, value in enumerate(values, start=1):
        classes[on_grid == value] = number
    missing = [value for number, value in enumerate(values, start=1) if not (classes == number).any()]
    if missing or not values:
        what = f"the labels {missing}" if missing else "a label"
        raise InputError(f"{labels.label}: no voxel of {image.label} has {what}; give values that occur")
    truth = torch.from_numpy(classes)
    places = [torch.from_numpy(np.argwhere(classes == number)[:, ::-1].copy()) for number in range(1, len(values) + 1)]
    backbone_parameters = list(network.backbone.parameters())
    others = [p for name, p in network.named_parameters() if not name.startswith("backbone.")]
    groups = [{"params": backbone_parameters, "lr": backbone_rate}, {"params": others, "lr": learning_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        voxels = places[step % len(places)]  # each label in turn
        focus = volume.spacing * voxels[int(torch.randint(0, len(voxels), (1,), generator=generator))].float()
        view = draw_view(volume, focus, VIEWS, generator, smallest=(24,) * volume.ndim, mirror=False)
        index = torch.round(view.warp.to_volume(view.fine_points()) / volume.spacing).long()
        size = torch.tensor(truth.shape[::-1])
        inside = ((index >= 0) & (index < size)).all(dim=-1)
        index = torch.minimum(index.clamp(min=0), size - 1)
        target = torch.where(inside, truth[tuple(index[..., axis] for axis in reversed(range(volume.ndim)))], 0)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(view.whole())
        loss = dice_and_cross_entropy(logits.float(), target[None])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            logger.info("step %d: loss %.3f", step, float(loss.detach()))
    return network.eval()


def dice_and_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of soft Dice loss over the foreground classes, plus cross-entropy."""
    probability = logits.softmax(dim=1).flatten(2)
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).flatten(2).float()
    overlap, total = (probability * truth).sum(dim=(0, 2)), (probability + truth).sum(dim=(0, 2))
    return 1 - ((2 * overlap[1:] + 1) / (total[1:] + 1)).mean() + F.cross_entropy(logits, target)


@torch.inference_mode()
def segment(network: Unet, image: Image, values: Sequence[int]) -> Image:
    """Return the labels on the image's own grid."""
    settings = network.backbone.preprocessing
    settings.check(image)
    prepared = standardised(image, settings.spacing, fill=settings.fill)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(network.backbone.prepare(prepared.array))
    numbers = np.array([0, *values], dtype=np.result_type(*map(np.min_scalar_type, values)))
    segmented = numbers[logits[0].argmax(dim=0).numpy()]
    return resample(prepared.with_array(segmented), image.grid, interpolation="nearest", fill=0)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("labels_file", metavar="labels", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--labels", type=int, nargs="+", default=None)
    parser.add_argument("--model", default="ct-small")
    parser.add_argument("--random", action="store_true", help="start from random weights")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        image, labels, other = map(samreg.read_image, (arguments.image, arguments.labels_file, arguments.other))
        if not arguments.out.name.endswith(WRITABLE):
            raise InputError(f"cannot write {arguments.out}: name it .nii.gz or with another of {', '.join(WRITABLE)}")
        values = arguments.labels or [int(value) for value in np.unique(labels.array) if value]
        backbone = encoder(arguments.model, pretrained=not arguments.random, seed=arguments.seed)
        backbone.preprocessing.check(other)
        network = train(backbone, image, labels, values, steps=arguments.steps, seed=arguments.seed)
        samreg.write_image(segment(network, other, values), arguments.out)
    except samreg.InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

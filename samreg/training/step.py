"""One training step: draw a pair of views, embed both, compare their matching points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samreg.embedding.compact import CompactNetwork
from samreg.errors import InputError
from samreg.training.augment import View, draw_view
from samreg.training.config import TrainingConfig
from samreg.training.data import Pair, Volume
from samreg.training.losses import info_nce, sample_embedding

_DRAWN = 12_000  # body points drawn per view
_EXACT_TRUST = 0.5
_FEWEST = 48  # matches below which a pair is drawn again
# smallest view, voxels of the deepest level, rounded up to 3. With 2 of them oneDNN (torch 2.13, CPU) returns
# uninitialised memory as the bfloat16 weight gradient of a 3x3x3 convolution.
_SMALLEST = 2.5
_MARGIN = 3  # fine voxels from the border of a patch, where the fine trunk misses context


def _around_zero(ndim: int) -> Tensor:
    """Where the true place may lie around an inexact match, for a slack of 1, (K, d).

    Itself and, on two spheres, towards the faces and corners of a cube (sides and corners of a square).
    """
    towards = [p for p in itertools.product((0, -1, 1), repeat=ndim) if sum(map(abs, p)) in (1, ndim)]
    sphere = F.normalize(torch.tensor(towards).float())
    return torch.cat([torch.zeros(1, ndim), 0.5 * sphere, sphere])


_AROUND = {ndim: _around_zero(ndim) for ndim in (2, 3)}


@dataclass(frozen=True, eq=False)
class Sample:
    """Two views, points (N, d) that match, and other body points of each view."""

    views: tuple[View, View]
    matches: tuple[Tensor, Tensor]
    bodies: tuple[Tensor, Tensor]
    starts: tuple[list[Tensor], list[Tensor]]  # of the fine patches, coarse voxels ((z,) y, x)
    slack: Tensor  # (N,) mm, how far from its match a point may truly lie


def draw_sample(pairs: Sequence[Pair], config: TrainingConfig, generator: torch.Generator) -> Sample:
    """Draw a pair and two overlapping views of it.

    Raises
    ------
    InputError
        When fifty pairs in a row share next to nothing.
    """
    deepest = int(_SMALLEST * 2**config.levels)
    smallest = tuple(max(n // 2, deepest) for n in config.patch)
    for _ in range(50):
        pair = pairs[int(torch.randint(0, len(pairs), (1,), generator=generator))]
        points = _jittered(pair.fixed, generator)
        matches, trust = pair.match(points)
        used = trust > (_EXACT_TRUST if pair.slack is None else config.least_trust)
        points, matches, slack = points[used], matches[used], _slack(trust[used], pair)
        if pair.landmarks is not None:
            points, matches, slack = _with_landmarks(points, matches, slack, pair, generator)
        if len(points) < _FEWEST:
            continue
        mirror = bool(torch.rand(1, generator=generator) < config.views.mirror)
        views = (
            draw_view(pair.fixed, points[0], config.views, generator, smallest=smallest, mirror=mirror),
            draw_view(pair.moving, matches[0], config.views, generator, smallest=smallest, mirror=mirror),
        )
        seen = []
        kept = torch.ones(len(points), dtype=torch.bool, device=points.device)
        for view, world in zip(views, (points, matches), strict=True):
            inside, converged = view.warp.to_view(world)
            seen.append(inside)
            kept &= converged & view.contains(inside, margin=view.step)
        if kept.sum() < _FEWEST:
            continue
        first, second = seen[0][kept], seen[1][kept]
        bodies = (_visible(views[0], generator), _visible(views[1], generator))
        starts = (_starts(views[0], first, config, generator), _starts(views[1], second, config, generator))
        return Sample(views, (first, second), bodies, starts, slack[kept])
    raise InputError("no two views with matching points; use larger volumes or views")


class TrainingStep(nn.Module):
    """The losses of one sample, as a module so that DistributedDataParallel can wrap it."""

    def __init__(self, network: CompactNetwork, config: TrainingConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def forward(self, sample: Sample) -> dict[str, Tensor]:
        """Return ``loss``, ``local``, ``global``, ``local_accuracy`` and ``global_accuracy``."""
        config = self.config
        device = sample.views[0].coarse.device
        dtype = getattr(torch, config.precision)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            coarse = [self.network.coarse(view.coarse) for view in sample.views]
            fine = [
                [self._local(view, context, start) for start in starts]
                for view, (context, _), starts in zip(sample.views, coarse, sample.starts, strict=True)
            ]
        results = {
            "global": self._global_loss(sample, [embedding.float() for _, embedding in coarse]),
            "local": self._local_loss(sample, [[patch.float() for patch in patches] for patches in fine]),
        }
        losses = {name: loss for name, (loss, _) in results.items()}
        accuracies = {f"{name}_accuracy": accuracy for name, (_, accuracy) in results.items()}
        return {"loss": losses["global"] + losses["local"], **losses, **accuracies}

    def _local(self, view: View, context: Tensor, start: Tensor) -> Tensor:
        size = self.config.patch
        here = tuple(slice(s, s + n // 4) for s, n in zip((start // 2).tolist(), size, strict=True))
        cut = context[(slice(None), slice(None), *here)]
        features = self.network.fine_features(view.patch(start, size))
        return self.network.head(self.network.fuse(features, cut))

    def _global_loss(self, sample: Sample, embeddings: list[Tensor]) -> tuple[Tensor, Tensor]:
        config = self.config
        # a cell of two coarse voxels along each axis is centred half a voxel after its first
        step = sample.views[0].step
        firsts = [view.first + step / 2 for view in sample.views]
        places = [points[: config.points] for points in sample.matches]
        others = [points[: config.candidates] for points in sample.bodies]
        slack = sample.slack[: config.points]
        shifts = _shifts(sample)
        at = [_around(e, p, f, 2 * step, slack, shifts) for e, p, f in zip(embeddings, places, firsts, strict=True)]
        away = [sample_embedding(e, p, f, 2 * step) for e, p, f in zip(embeddings, others, firsts, strict=True)]
        away, others = _with_matches(away, others, at, places)
        return _both_ways(
            at, places, away, others, temperature=config.temperature_global, ignore=config.ignore_global + slack
        )

    def _local_loss(self, sample: Sample, patches: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
        config = self.config
        share = -(-config.points // config.patches)
        at: list[list[Tensor]] = [[], []]
        places: list[list[Tensor]] = [[], []]
        away: list[list[Tensor]] = [[], []]
        others: list[list[Tensor]] = [[], []]
        slacks, shifts = [], _shifts(sample)
        step = sample.views[0].step
        for k in range(config.patches):
            firsts = [
                view.first + step * starts[k].flip(0) for view, starts in zip(sample.views, sample.starts, strict=True)
            ]
            inside = torch.stack([
                self._in_patch(points, first, step) for points, first in zip(sample.matches, firsts, strict=True)
            ]).all(dim=0)  # fmt: skip
            slacks.append(sample.slack[inside][:share])
            for i in range(2):
                chosen = sample.matches[i][inside][:share]
                at[i].append(_around(patches[i][k], chosen, firsts[i], step, slacks[k], shifts))
                places[i].append(chosen)
                near = sample.bodies[i][self._in_patch(sample.bodies[i], firsts[i], step)][
                    : config.candidates // config.patches
                ]
                away[i].append(sample_embedding(patches[i][k], near, firsts[i], step))
                others[i].append(near)
        at_all, places_all, away_all, others_all = (
            [torch.cat(parts) for parts in two] for two in (at, places, away, others)
        )
        return _both_ways(
            at_all, places_all, *_with_matches(away_all, others_all, at_all, places_all),
            temperature=config.temperature_local, ignore=config.ignore_local + torch.cat(slacks),
        )  # fmt: skip

    def _in_patch(self, points: Tensor, first: Tensor, step: float) -> Tensor:
        margin = _MARGIN * step / 2
        last = first + step / 2 * torch.tensor(self.config.patch[::-1], device=first.device) - step
        return ((points >= first + margin) & (points <= last - margin)).all(dim=1)


def _with_matches(
    away: list[Tensor], others: list[Tensor], at: list[Tensor], places: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Add the other anchors' matches to the candidates: next to a landmark's, the next vertebra's, the other side's."""
    return (
        [torch.cat([vectors, matches[:, 0]]) for vectors, matches in zip(away, at, strict=True)],
        [torch.cat([points, matches]) for points, matches in zip(others, places, strict=True)],
    )


def _both_ways(
    at: list[Tensor],
    places: list[Tensor],
    away: list[Tensor],
    others: list[Tensor],
    *,
    temperature: float,
    ignore: Tensor,
) -> tuple[Tensor, Tensor]:
    if len(at[0]) == 0:
        zero = (at[0].sum() + at[1].sum()) * 0
        return zero, zero.detach()
    results = [
        info_nce(
            at[i][:, 0],
            at[1 - i],
            places[1 - i],
            away[1 - i],
            others[1 - i],
            temperature=temperature,
            ignore=ignore,
        )
        for i in range(2)
    ]
    (loss, accuracy), (loss_back, accuracy_back) = results
    return (loss + loss_back) / 2, (accuracy + accuracy_back) / 2


def _slack(trust: Tensor, pair: Pair) -> Tensor:
    """How far from its match a point may truly lie (N,), mm: the less the map is trusted, the farther."""
    if pair.slack is None:
        return torch.zeros_like(trust)
    sure, unsure = pair.slack
    return sure + (unsure - sure) * (1 - trust)


def _shifts(sample: Sample) -> Tensor:
    """Where around a match its point may lie (K, d), for a slack of 1; only the match itself where all are exact."""
    around = _AROUND[sample.matches[0].shape[1]]
    return (around if sample.slack.any() else around[:1]).to(sample.slack.device)


def _around(embedding: Tensor, points: Tensor, first: Tensor, spacing: float, slack: Tensor, shifts: Tensor) -> Tensor:
    """Unit vectors (N, K, C) at points (N, d) and around them, as far as slack (N,) says they are inexact."""
    places = points[:, None] + slack[:, None, None] * shifts
    vectors = sample_embedding(embedding, places.reshape(-1, points.shape[1]), first, spacing)
    return vectors.reshape(len(points), len(shifts), embedding.shape[1])


def _with_landmarks(
    points: Tensor, matches: Tensor, slack: Tensor, pair: Pair, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Put the pair's landmarks, shuffled, before the points; in half of the samples after the first of them.

    The first point is what the views and the fine patches are drawn around.
    """
    assert pair.landmarks is not None
    assert pair.slack is not None
    fixed, moving = pair.landmarks
    order = torch.randperm(len(fixed), generator=generator).to(fixed.device)
    lead = int(torch.rand(1, generator=generator) < 0.5)
    read = torch.full((len(fixed),), pair.slack[0], device=fixed.device)
    return (
        torch.cat([points[:lead], fixed[order], points[lead:]]),
        torch.cat([matches[:lead], moving[order], matches[lead:]]),
        torch.cat([slack[:lead], read, slack[lead:]]),
    )


def _jittered(volume: Volume, generator: torch.Generator) -> Tensor:
    """Random points of the body: voxel centres moved within their voxel."""
    body = volume.body
    pick = torch.randint(0, len(body), (_DRAWN,), generator=generator).to(body.device)
    jitter = torch.rand(_DRAWN, volume.ndim, generator=generator).to(body.device) - 0.5
    return body[pick] + volume.step * jitter


def _visible(view: View, generator: torch.Generator) -> Tensor:
    points, converged = view.warp.to_view(_jittered(view.volume, generator))
    return points[converged & view.contains(points, margin=view.step / 2)]


def _starts(view: View, matches: Tensor, config: TrainingConfig, generator: torch.Generator) -> list[Tensor]:
    """Even first coarse voxels ((z,) y, x) of patches around the first matches, off centre at random."""
    size = torch.tensor(config.patch) // 2
    room = (torch.tensor(view.coarse.shape[2:]) - size).clamp(min=0)
    centres = ((matches[: config.patches] - view.first) / view.step).flip(1).cpu()
    starts = []
    for k in range(config.patches):
        jitter = (torch.rand(len(size), generator=generator) - 0.5) * 0.4 * size
        start = torch.minimum((centres[k] - size / 2 + jitter).clamp(min=0), room.float())
        starts.append((start.long() // 2 * 2).to(view.coarse.device))
    return starts

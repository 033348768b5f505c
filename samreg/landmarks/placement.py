"""A first look for an atlas's landmarks in an image: candidates for each, and their most plausible constellation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from samreg.landmarks.atlas import LandmarkAtlas
from samreg.spatial.grid import FloatArray, Grid

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.matching import Features

_CANDIDATES = 24  # places considered for each landmark
_SEARCHED = 3000  # most likely voxels among which they are, of a volume or picture at full resolution
# at a scale of 1 (:attr:`samreg.matching.Features.scale`):
_APART_MM = 8.0  # between two candidates
_OUTSIDE_MM = 40.0  # outside the image a landmark is not looked for
_SCORE_WEIGHT = 0.15  # of the discriminant's log likelihood: neighbouring channels and voxels say the same
_BLOCK_MB = 256  # of the scores compared at once


@dataclass(frozen=True, eq=False)
class Placed:
    """The most plausible constellation of candidates for L landmarks.

    Parameters
    ----------
    positions
        (L, d) LPS mm; for a landmark that was not looked for, where it is expected.
    log_likelihood
        (L,) of the candidates by their vectors alone, up to a constant of the landmark; NaN where not looked for.
    looked_for
        (L,) those expected in or near the image.
    expected
        (L, d) the atlas's mean places, brought to the image, LPS mm.
    size, shift
        What brought them: size * mean + shift.
    """

    positions: FloatArray
    log_likelihood: FloatArray
    looked_for: NDArray[np.bool_]
    expected: FloatArray
    size: float
    shift: FloatArray

    def by_neighbours(self, atlas: LandmarkAtlas, positions: FloatArray) -> FloatArray:
        """Return where its neighbours at ``positions`` (L, d) put each landmark, (L, d) LPS mm."""
        seen = np.where(self.looked_for[:, None], (positions - self.shift) / self.size, np.nan)
        places = self.size * atlas.constellation.expected(seen) + self.shift
        return np.where(np.isnan(places), self.expected, places)


def place(atlas: LandmarkAtlas, target: Features, grid: Grid) -> Placed:
    """Choose the most plausible constellation of candidates; the first step of :func:`samreg.landmarks.locate.locate`.

    Candidates are sought at every second voxel of a volume along each axis, an eighth of all: the place is voted on
    afterwards, so that nothing hangs on a voxel.

    Parameters
    ----------
    atlas, target, grid
        As for :func:`samreg.landmarks.locate.locate`.
    """
    constellation = atlas.constellation
    if grid.ndim == 3:
        rows, most = target.sparse_rows, _SEARCHED // 2**grid.ndim
    else:
        rows, most = torch.arange(len(target), device=target.device), _SEARCHED
    candidates, scores, best = _candidates(atlas, target, rows, most)
    size, shift = constellation.align(np.array([places[0] for places in candidates]))
    expected = size * constellation.mean + shift
    looked_for = grid.depth(expected) > -_OUTSIDE_MM * target.scale
    nothing = np.zeros((0, expected.shape[1]))
    chosen = constellation.choose(
        [(c - shift) / size if wanted else nothing for c, wanted in zip(candidates, looked_for, strict=True)],
        [s if wanted else s[:0] for s, wanted in zip(scores, looked_for, strict=True)],
    )
    positions = np.array([c[i] if i >= 0 else e for c, i, e in zip(candidates, chosen, expected, strict=True)])
    own = np.array([s[i] if i >= 0 else np.nan for s, i in zip(scores, chosen, strict=True)])
    return Placed(positions, best + own / (2 * _SCORE_WEIGHT), looked_for, expected, size, shift)


_PLACED: WeakKeyDictionary[Embedding, WeakKeyDictionary[LandmarkAtlas, Placed]] = WeakKeyDictionary()


def placed_in(atlas: LandmarkAtlas, embedding: Embedding, target: Features) -> Placed:
    """Return what :func:`place` finds in an embedding, searched once for each atlas.

    Parameters
    ----------
    atlas
        Of the embedding's model.
    embedding
        Of the image.
    target
        Its features.
    """
    known = _PLACED.setdefault(embedding, WeakKeyDictionary())
    if atlas not in known:
        known[atlas] = place(atlas, target, embedding.image_grid)
    return known[atlas]


def _candidates(
    atlas: LandmarkAtlas, target: Features, searched: torch.Tensor, most: int
) -> tuple[list[FloatArray], list[FloatArray], FloatArray]:
    """Return for each landmark the most likely places (K, d), best first, and how likely they are.

    ``searched`` are the rows to look at, ``most`` the number of the likeliest among which the places are. The second
    part holds log likelihoods (K,) less the best's, weighted; the third the best's own (L,).
    """
    whitening, means = atlas.metric
    device = target.device
    whitening, means = whitening.to(device), means.to(device)
    best = torch.full((len(means), 0), 0.0, device=device)
    rows = torch.zeros((len(means), 0), dtype=torch.long, device=device)
    block = max(1, _BLOCK_MB * 2**20 // (4 * (len(means) + 2 * whitening.shape[0])))
    for part in searched.split(block):
        vectors = target.vectors(part).float() @ whitening.T
        score = means @ vectors.T - 0.5 * vectors.square().sum(dim=1)
        score, order = torch.cat([best, score], dim=1).topk(min(most, best.shape[1] + len(part)), dim=1)
        rows = torch.cat([rows, part.expand(len(means), -1)], dim=1).gather(1, order)
        best = score
    likelihood = best.cpu().numpy()
    position = target.positions(rows.flatten()).reshape(*rows.shape, -1)
    kept = _first_apart(position, _APART_MM * target.scale)
    places = [position[i, own] for i, own in enumerate(kept)]
    scores = [2 * _SCORE_WEIGHT * (likelihood[i, own] - likelihood[i, 0]) for i, own in enumerate(kept)]
    return places, scores, likelihood[:, 0].astype(float)


def _first_apart(position: FloatArray, apart: float) -> list[NDArray[np.int64]]:
    """Return for each row of places (L, M, d) the first ``_CANDIDATES`` that lie ``apart`` mm from those before."""
    row = np.arange(len(position))
    free = np.ones(position.shape[:2], dtype=bool)
    chosen = np.full((len(position), _CANDIDATES), -1)
    for k in range(_CANDIDATES):
        first = free.argmax(axis=1)
        chosen[:, k] = np.where(free[row, first], first, -1)
        free &= ((position - position[row, first][:, None]) ** 2).sum(axis=2) > apart**2
    return [own[own >= 0] for own in chosen]

"""Left and right: whether an image is mirrored, how sure that is, and what is said of it.

A body and its mirror image are so alike that one is matched to the other almost as well as to itself. So which of two
images is mirrored is told by evidence of two kinds: whether the moving image or its mirror image matches the fixed one
more closely, and what each image shows of its own laterality. Where all that is within the noise, left and right cannot
be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from samreg.device import run_in_threads
from samreg.embedding.embedding import Embedding
from samreg.matching.features import features, interpolate
from samreg.matching.search import find
from samreg.seeding.turns import describe_reflection, mirror_matrix, turned_with_mask
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image

_MIN_EFFECT, _MIN_T = 0.1, 3.0  # of a difference of similarities: its mean in standard deviations, and Student's t
_ROUNDING = 1e-3  # of similarities, of vectors in float16 that were computed in bfloat16: what is less says nothing
_REMEDIES = {2: "turn or flip the picture", 3: "correct its direction matrix, or flip its array"}

# Log odds that the evidence gives: of the pair's matches for each unit of effect, and at most of anything; Student's t
# is taken as log odds, which allows for landmarks and matches that are not independent of their neighbours.
_LOG_ODDS_OF_EFFECT, _MAX_LOG_ODDS = 30.0, 6.0
_MAX_DOUBT = 0.05  # probability of a mirrored image with which nothing is said; and less 1, with which it is refused
_NAMED_SHARE = 0.8  # of that probability, which must be one image's for it to be named
#: Probability of a mirrored image below which global vectors alone decide: 80 of 110 random pairs of scans, none of
#: them wrongly.
MAX_DOUBT_BY_GLOBAL_VECTORS = 0.02

#: Embeds an image, within its mask where there is one, by global vectors alone; None where that saves nothing.
EmbedGlobally = Callable[[Image, Image | None], Embedding | None]
#: Says by how much an embedding fits anatomy better than that of the mirror image, as Student's t.
Laterality = Callable[[Embedding, Embedding], float]


@dataclass(frozen=True)
class PairedDifference:
    """By how much one set of N similarities exceeds another of the same points.

    Parameters
    ----------
    effect
        Mean difference, in standard deviations of the differences (Cohen's d), or in errors of rounding where those
        are larger.
    t
        The same over its standard error (Student's t).
    """

    effect: float
    t: float

    @classmethod
    def of(cls, first: FloatArray, second: FloatArray) -> PairedDifference:
        """Compare two sets of similarities, (N,) each."""
        difference = first - second
        effect = float(difference.mean()) / max(float(difference.std()), _ROUNDING)
        return cls(effect, effect * len(difference) ** 0.5)

    def reversed(self) -> PairedDifference:
        """Return by how much the second set exceeds the first."""
        return PairedDifference(-self.effect, -self.t)

    @property
    def favours_first(self) -> bool:
        """Whether the first is larger beyond doubt."""
        return self.effect > _MIN_EFFECT and self.t > _MIN_T

    @property
    def favours_second(self) -> bool:
        """Whether the second is larger beyond doubt."""
        return self.reversed().favours_first

    @property
    def log_odds(self) -> float:
        """What it is worth as evidence for the first."""
        return float(np.sign(self.effect)) * min(_LOG_ODDS_OF_EFFECT * abs(self.effect), abs(self.t), _MAX_LOG_ODDS)


@dataclass(frozen=True)
class MirrorProbabilities:
    """How likely either of two images is mirrored.

    Parameters
    ----------
    neither
        Probability that neither is mirrored.
    fixed_alone, moving_alone
        That the fixed, or the moving image alone is.
    both
        That both are.

    Examples
    --------
    >>> mirrored = MirrorProbabilities.from_log_odds(5.0, 4.0, 3.0)
    >>> mirrored.surely_same_laterality, round(mirrored.neither, 3)
    (True, 0.999)
    """

    neither: float
    fixed_alone: float
    moving_alone: float
    both: float

    @classmethod
    def from_log_odds(cls, pair: float, fixed: float = 0.0, moving: float = 0.0) -> MirrorProbabilities:
        """Combine log odds: that the two have one laterality, and that each image has the anatomical one."""
        f, m = (float(np.clip(value, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)) for value in (fixed, moving))
        scores = np.array([f + m + pair, -f + m - pair, f - m - pair, -f - m + pair]) / 2
        weights = np.exp(scores - scores.max())
        return cls(*map(float, weights / weights.sum()))

    @property
    def opposite_laterality(self) -> float:
        """Probability that one is mirrored against the other."""
        return self.fixed_alone + self.moving_alone

    @property
    def surely_same_laterality(self) -> bool:
        """Whether neither is mirrored against the other, beyond doubt."""
        return self.opposite_laterality < _MAX_DOUBT

    @property
    def surely_opposite_laterality(self) -> bool:
        """Whether one is mirrored against the other, beyond doubt."""
        return self.opposite_laterality > 1 - _MAX_DOUBT

    @property
    def surely_both(self) -> bool:
        """Whether both are mirrored, beyond doubt."""
        return self.both > 1 - _MAX_DOUBT


def mirrored_by_global_vectors(
    fixed: Embedding,
    moving: Embedding,
    points: FloatArray | None,
    *,
    embed_globally: EmbedGlobally,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    laterality: Laterality | None = None,
    device: str | torch.device = "cpu",
) -> MirrorProbabilities | None:
    """Return how likely either of two images is mirrored, as far as global vectors alone tell.

    Parameters
    ----------
    fixed, moving
        Embeddings of the images, in worlds in which the patients lie alike.
    points
        (N, d) over the fixed body, LPS mm, to be compared with the moving image and its mirror image; None where
        matches of the two do not agree and would tell nothing.
    embed_globally
        Embeds the mirror image of the volume that an embedding keeps.
    fixed_mask, moving_mask
        Where to look in each image.
    laterality
        What each image shows by itself of being mirrored; without, the matches alone tell.
    device
        Where to search.

    Returns
    -------
    MirrorProbabilities or None
        None where the embeddings keep no volume, or their model's global vectors cost as much as all.
    """

    def seen(embedding: Embedding, mask: Image | None) -> tuple[Embedding | None, float]:
        """Return the embedding of the mirror image, and what the image shows by itself."""
        volume = embedding.volume
        if volume is None:
            return None, 0.0
        mirrored = embed_globally(*turned_with_mask(mirror_matrix(volume.ndim), volume, mask))
        return mirrored, 0.0 if laterality is None or mirrored is None else laterality(embedding, mirrored)

    images = [(moving, moving_mask)] if laterality is None else [(moving, moving_mask), (fixed, fixed_mask)]
    (moving_mirrored, moving_shows), *of_fixed = run_in_threads([partial(seen, *image) for image in images])
    if moving_mirrored is None or any(mirrored is None for mirrored, _ in of_fixed):
        return None
    pair = 0.0
    if points is not None:
        own, *targets = (features(one, parts=["global"], device=device) for one in (fixed, moving, moving_mirrored))
        query = interpolate(own, points)
        similarities = (find(query, target, coarse=True).similarity for target in targets)
        pair = PairedDifference.of(*similarities).log_odds
    return MirrorProbabilities.from_log_odds(pair, sum(shows for _, shows in of_fixed), moving_shows)


def why_refused(
    mirrored: MirrorProbabilities, fixed: Image, moving: Image, *, reflection: FloatArray | None = None
) -> str:
    """Return why images of which one is mirrored are not registered, naming the one if it can be told.

    Parameters
    ----------
    mirrored
        Of the two images.
    fixed, moving
        The images.
    reflection
        (d, d) orthogonal matrix that makes the moving image match; of left and right unless given.
    """
    exchanged = describe_reflection(mirror_matrix(fixed.ndim) if reflection is None else reflection)
    remedy = _REMEDIES[fixed.ndim]
    if mirrored.fixed_alone > _NAMED_SHARE * mirrored.opposite_laterality:
        fixed, moving = moving, fixed
    elif mirrored.moving_alone < _NAMED_SHARE * mirrored.opposite_laterality:
        return (
            f"{moving.label} or {fixed.label} looks mirrored ({exchanged}): the mirror image of the one matches the "
            f"other better than itself; find out which, and {remedy}"
        )
    return (
        f"{moving.label} looks mirrored ({exchanged}): its mirror image matches {fixed.label} better than itself; "
        f"{remedy}"
    )


def mirror_notes(mirrored: MirrorProbabilities, fixed: Image, moving: Image) -> tuple[str, ...]:
    """Return what the user should know of left and right in images that are registered."""
    notes = []
    if mirrored.surely_both:
        notes.append(f"{fixed.label} and {moving.label} both look mirrored; {_REMEDIES[fixed.ndim]} of each")
    if not mirrored.surely_same_laterality:
        notes.append(
            f"left and right cannot be told apart: {moving.label} matches {fixed.label} about as well as its mirror "
            "image does; check that neither of them is mirrored"
        )
    return tuple(notes)

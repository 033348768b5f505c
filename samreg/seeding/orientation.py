"""Bodies that lie turned, and images that are mirrored: noticed, tried, and said.

Embeddings know how a body lies. They find a counterpart that is tilted by up to 30 degrees, and little beyond 60. Where
the matches are poor, coarse correlation proposes rotations and the embeddings of the image so turned decide. Left and
right are another matter: a body and its mirror image are so alike that one is matched to the other almost as well as to
itself. So the mirror image is always embedded too, and the side is told by which of the two matches more closely, and
by what each image shows of its own laterality: by their global vectors alone at first, which cost an eighth, and by all
where those leave a doubt. Where all that is within the noise, left and right cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from samreg.embedding.embedding import Embedding
from samreg.matching.correspondences import Correspondences
from samreg.matching.features import Features, features, interpolate
from samreg.matching.reliability import Calibration
from samreg.matching.search import find
from samreg.seeding.affine import AffineFit
from samreg.seeding.coarse import propose_turns, rotations
from samreg.seeding.seed import (
    Seed,
    fit_globally,
    global_kind,
    match_lattice,
    refine_seed,
    require_one_model,
)
from samreg.seeding.turns import (
    angle_between,
    describe_reflection,
    describe_turn,
    mirror_matrix,
    nearest_rotation,
    reoriented,
    turned_embedding,
    turned_with_mask,
)
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.transforms import AffineTransform, compose

# Share of inliers under which other turns are tried, by number of dimensions: in 2D always, since the matches of a
# projection agree in a wrong pose too.
_WEAK_SHARE = {2: 1.0, 3: 0.3}
_CLEAR_CORRELATION_GAIN = 0.05  # by which another rotation must win to be tried where the matches are good
_MAX_TILT_DEG = 30.0  # embeddings match well up to there; beyond, the image is turned and embedded again
_STRAIGHT_DEG = 10.0  # a turned image that still lies more askew is turned once more
_MIN_TURNED_SHARE = 0.15  # of inliers: images that show no common anatomy reach 0.13 in one turn or another
_MAX_DISTANCE_RATIO = 0.93  # matches after a turn must be this much closer in embedding space
_MAX_VOLUME_RATIO = 3.0  # of two bodies between which a turn is believed
_MIN_EFFECT, _MIN_T = 0.1, 3.0  # of a difference of similarities: its mean in standard deviations, and Student's t

_REMEDIES = {2: "turn or flip the picture", 3: "correct its direction matrix, or flip its array"}
_TURNED_REMEDIES = {2: "turn one of the pictures", 3: "correct the direction matrix of the one that is wrong"}

# Log odds that the evidence gives: of the pair's matches for each unit of effect, and at most of anything; Student's t
# is taken as log odds, which allows for landmarks and matches that are not independent of their neighbours.
_LOG_ODDS_OF_EFFECT, _MAX_LOG_ODDS = 30.0, 6.0
_MAX_DOUBT = 0.05  # probability of a mirrored image with which nothing is said; and less 1, with which it is refused
GLANCE_DOUBT = 0.02  # below which global vectors alone decide: 80 of 110 random pairs of scans, none of them wrongly
_NAMED_SHARE = 0.8  # of that probability, which must be one image's for it to be named

Embed = Callable[[Image, Image | None], Embedding]
#: Embeds by global vectors alone; None where that saves nothing.
EmbedGlobally = Callable[[Image, Image | None], Embedding | None]
#: Says by how much an embedding fits anatomy better than that of the mirror image, as Student's t.
Laterality = Callable[[Embedding, Embedding], float]
#: Returns corresponding points (N, d) of both images, of their embeddings and the turn that brings the moving body
#: upright, (d, d).
Guides = Callable[[tuple[Embedding, Embedding], FloatArray], tuple[FloatArray, FloatArray] | None]


@dataclass(frozen=True, eq=False)
class OrientedSeed:
    """A seed, and what was learnt about how the bodies lie.

    Parameters
    ----------
    seed
        In the world of the images as they were given; false when there is none, or the moving image is mirrored.
    moving
        Embedding of the moving image as it lies best, in the world of the image as it was given.
    whole
        Matches of a lattice over the fixed body with all of that embedding, in the world of the images as given.
    turn
        (d, d) orthogonal matrix, about the centre of the moving image: brings it as given to how it was embedded.
    notes
        What the user should know about the orientation, in plain words.
    """

    seed: Seed
    moving: Embedding
    whole: Correspondences
    turn: FloatArray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Pose:
    """The moving image as it is embedded after a turn, and its matches over the whole body.

    Parameters
    ----------
    turn
        (d, d) orthogonal matrix, from directions in the image as given to those in the image as embedded.
    embedding
        In the world of the image as given.
    correspondences
        Of a lattice over the fixed body, in the world of the images as given.
    fit
        Fixed to moving as embedded, LPS mm.
    """

    turn: FloatArray
    embedding: Embedding
    correspondences: Correspondences
    fit: AffineFit

    @property
    def is_mirrored(self) -> bool:
        """Whether the image was embedded as its mirror image."""
        return bool(np.linalg.det(self.turn) < 0)

    @property
    def is_credible(self) -> bool:
        """Whether the matches agree so much, on bodies of like size, that a turn or a reflection is believed."""
        return is_credible(self.fit)

    @property
    def similarity(self) -> FloatArray:
        """Of the lattice points with their best counterparts, (N,)."""
        return self.correspondences.similarity

    @property
    def distance(self) -> float:
        """Mean distance of the matches in embedding space."""
        return float(1 - self.similarity.mean())

    @property
    def tilt(self) -> FloatArray:
        """Rotation (d, d) from the fixed body to the moving body as it was embedded; the identity when nothing fits."""
        return np.eye(len(self.turn)) if self.fit.transform is None else nearest_rotation(self.fit.transform)

    @property
    def tilt_degrees(self) -> float:
        """The angle of the tilt."""
        return angle_between(self.tilt, np.eye(len(self.turn)))


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two images whose bodies may lie turned against each other; see :func:`seed_any_orientation`."""

    fixed: Image
    moving: Image
    fixed_mask: Image | None
    moving_mask: Image | None
    fixed_embedding: Embedding
    fixed_features: Features
    calibration: Calibration
    embed: Embed
    embed_globally: EmbedGlobally | None
    kind: str
    seed: int

    def turned(self, turn: FloatArray) -> AffineTransform:
        """Return the map from the moving image as given to the image after a turn."""
        return AffineTransform.about(self.moving.grid.center, turn)

    def embedded(self, turn: FloatArray) -> Embedding:
        """Embed the moving image after a turn, and bring the embedding back to the world of the image as given."""
        embedding = self.embed(*turned_with_mask(turn, self.moving, self.moving_mask))
        return replace(turned_embedding(embedding, turn.T, self.moving.grid.center), image_grid=self.moving.grid)

    def sides(self, match: _Match, laterality: Laterality | None) -> Sides:
        """Return what the matches, and each image by itself, say of left and right as the images were given."""
        sign = -1 if match.pose.is_mirrored else 1
        pair = sign * match.lead.log_odds if match.pose.is_credible else 0.0
        if laterality is None:
            return Sides.of(pair)
        mirror, turn, center = mirror_matrix(self.fixed.ndim), match.pose.turn, self.moving.grid.center
        fixed = laterality(self.fixed_embedding, self.embed(*turned_with_mask(mirror, self.fixed, self.fixed_mask)))
        moving = laterality(
            turned_embedding(match.pose.embedding, turn, center), turned_embedding(match.mirror, mirror @ turn, center)
        )
        return Sides.of(pair, fixed, sign * moving)

    def sides_at_a_glance(self, pose: _Pose, laterality: Laterality | None) -> Sides | None:
        """Return what :meth:`sides` does by global vectors alone; None where those save nothing."""
        if pose.is_mirrored or self.embed_globally is None:
            return None
        center = self.moving.grid.center
        return sides_at_a_glance(
            self.fixed_embedding,
            turned_embedding(pose.embedding, pose.turn, center),
            pose.correspondences.fixed if pose.is_credible else None,
            embed_globally=self.embed_globally,
            fixed_mask=self.fixed_mask,
            moving_mask=None if self.moving_mask is None else reoriented(self.moving_mask, pose.turn, center)[0],
            laterality=laterality,
            device=self.fixed_features.device,
        )

    def pose(self, turn: FloatArray, embedding: Embedding | None = None) -> _Pose:
        """Embed the moving image after a turn, unless it is embedded already, and match it."""
        embedding = self.embedded(turn) if embedding is None else embedding
        pairs = match_lattice(
            self.fixed_features, features(embedding, device=self.fixed_features.device), calibration=self.calibration
        )
        as_embedded = replace(pairs, moving=self.turned(turn).transform_points(pairs.moving))
        fit = fit_globally(as_embedded, self.fixed_features, self.kind, seed=self.seed)
        return _Pose(turn, embedding, pairs, fit)

    def best_pose(self, upright: _Pose) -> _Pose:
        """Return the pose whose matches are closest."""
        best = upright
        for turn in self._turns(upright):
            pose = self.pose(turn)
            if _is_clearly_better(pose, best):
                best = pose
                if best.fit.inlier_share >= _WEAK_SHARE[self.fixed.ndim]:
                    break
        return best if best is upright else self._straightened(best)

    def best_match(self, best: _Pose) -> _Match:
        """Return the best pose, or its mirror image where that matches better, each with the other."""
        while True:
            mirror = mirror_matrix(self.fixed.ndim) @ best.turn
            embedding = self.embedded(mirror)
            lead = Lead.of(best.similarity, self._similarity(embedding, best.correspondences.fixed))
            if lead.of_the_first or not (lead.of_the_second or best.is_mirrored):
                return _Match(best, embedding, lead)
            reflection = self.pose(mirror, embedding)
            if not (reflection.is_credible and lead.of_the_second):  # neither is better beyond doubt
                if best.is_mirrored:
                    return _Match(reflection, best.embedding, lead.reversed())
                return _Match(best, embedding, lead)
            straight = self._straightened(reflection)
            if straight is reflection:
                return _Match(reflection, best.embedding, Lead.of(reflection.similarity, best.similarity))
            best = straight  # its own mirror image lies another way than what was tried so far

    def mirrored(self, match: _Match) -> _Match:
        """Return the match of the mirror image instead."""
        pose = self.pose(mirror_matrix(self.fixed.ndim) @ match.pose.turn, match.mirror)
        return _Match(pose, match.pose.embedding, match.lead.reversed())

    def _turns(self, upright: _Pose) -> Iterator[FloatArray]:
        """Yield turns to try, the most promising first; none for bodies that match well and lie alike."""
        if upright.tilt_degrees > _MAX_TILT_DEG:
            yield upright.tilt.T
        is_weak = upright.fit.inlier_share < _WEAK_SHARE[self.fixed.ndim]
        margin = 0.0 if is_weak else _CLEAR_CORRELATION_GAIN
        turns = rotations(self.fixed.ndim, dense=is_weak)
        device = self.fixed_features.device
        yield from propose_turns(self.fixed, self.moving, turns, margin=margin, device=device)
        if is_weak:
            mirrored = [mirror_matrix(self.fixed.ndim) @ turn for turn in turns]
            yield from propose_turns(self.fixed, self.moving, mirrored, device=device)

    def _straightened(self, pose: _Pose) -> _Pose:
        """Return the pose after a further turn by what remained, where that brings the matches closer."""
        if pose.tilt_degrees <= _STRAIGHT_DEG:
            return pose
        straight = self.pose(pose.tilt.T @ pose.turn)
        return straight if straight.distance < pose.distance else pose

    def _similarity(self, embedding: Embedding, points: FloatArray) -> FloatArray:
        """Return the similarity of points (N, d) of the fixed image with their best counterparts, (N,)."""
        target = features(embedding, device=self.fixed_features.device)
        return find(interpolate(self.fixed_features, points), target, coarse=True).similarity

    def as_given(self, pose: _Pose) -> AffineFit:
        """Return the fit of a pose, fixed to moving as given."""
        if pose.fit.transform is None:
            return pose.fit
        transform = compose(pose.fit.transform, self.turned(pose.turn).inverse())
        assert isinstance(transform, AffineTransform)
        return replace(pose.fit, transform=transform)


def seed_any_orientation(
    fixed: Image,
    moving: Image,
    fixed_embedding: Embedding,
    moving_embedding: Embedding,
    *,
    embed: Embed,
    embed_globally: EmbedGlobally | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    laterality: Laterality | None = None,
    guides: Guides | None = None,
    transform: str,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> OrientedSeed:
    """Return the seed of two images whose bodies may lie turned against each other.

    Parameters
    ----------
    fixed, moving
        CT images in HU, or 2D X-rays.
    fixed_embedding, moving_embedding
        Their embeddings.
    embed
        Embeds a turned or mirrored image, within its mask where there is one.
    embed_globally
        The same by global vectors alone, at a fraction of the cost: a first look at left and right.
    fixed_mask, moving_mask
        Where to look in each image.
    laterality
        What each image shows by itself of being mirrored; without, the matches alone tell.
    guides
        Finds points that a displacement field is to bring together.
    transform
        "rigid", "affine" or "deformable".
    device
        Where to search for matches.
    seed
        Of the random hypotheses.

    Returns
    -------
    OrientedSeed
        With a note where the bodies lie turned by more than 30 degrees, or left and right cannot be told apart.

    Raises
    ------
    InputError
        When the embeddings come from different models.
    """
    require_one_model(fixed_embedding, moving_embedding)
    pair = _Pair(
        fixed, moving, fixed_mask, moving_mask, fixed_embedding, features(fixed_embedding, device=device),
        Calibration.from_mapping(fixed_embedding.calibration), embed, embed_globally, global_kind(transform), seed,
    )  # fmt: skip
    best, sides = _best_pose_and_sides(pair, moving_embedding, laterality)
    fit = pair.as_given(best)
    if best.is_mirrored or sides.is_opposed:
        exchanged = describe_reflection(best.turn if best.is_mirrored else mirror_matrix(fixed.ndim) @ best.turn)
        reason = _refusal(sides, fixed, moving, exchanged)
        none = Seed(None, fit, best.correspondences, reason)
        return OrientedSeed(none, best.embedding, best.correspondences, best.turn)
    seed_ = refine_seed(
        pair.fixed_features,
        features(best.embedding, device=pair.fixed_features.device),
        fit,
        best.correspondences,
        transform=transform,
        grid=fixed.grid,
        moving_grid=moving.grid,
        calibration=pair.calibration,
        guides=guides((fixed_embedding, best.embedding), best.turn) if guides and transform == "deformable" else None,
        seed=seed,
    )
    notes = _notes(seed_, fixed, moving, sides) if seed_ else ()
    return OrientedSeed(seed_, best.embedding, best.correspondences, best.turn, notes)


def sides_at_a_glance(
    fixed: Embedding,
    moving: Embedding,
    points: FloatArray | None,
    *,
    embed_globally: EmbedGlobally,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    laterality: Laterality | None = None,
    device: str | torch.device = "cpu",
) -> Sides | None:
    """Return what global vectors alone tell of left and right in two images.

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
    Sides or None
        None where the embeddings keep no volume, or their model's global vectors cost as much as all.
    """

    def mirrored(embedding: Embedding, mask: Image | None) -> Embedding | None:
        volume = embedding.volume
        return None if volume is None else embed_globally(*turned_with_mask(mirror_matrix(volume.ndim), volume, mask))

    other = mirrored(moving, moving_mask)
    fixed_mirrored = None if laterality is None else mirrored(fixed, fixed_mask)
    if other is None or (laterality is not None and fixed_mirrored is None):
        return None
    pair = 0.0
    if points is not None:
        own, *targets = (features(one, parts=["global"], device=device) for one in (fixed, moving, other))
        query = interpolate(own, points)
        pair = Lead.of(*(find(query, target, coarse=True).similarity for target in targets)).log_odds
    if laterality is None or fixed_mirrored is None:
        return Sides.of(pair)
    return Sides.of(pair, laterality(fixed, fixed_mirrored), laterality(moving, other))


def why_mirrored(sides: Sides, fixed: Image, moving: Image) -> str:
    """Return which of two images whose bodies lie alike is certainly mirrored, and what to do; "" where none is."""
    return _refusal(sides, fixed, moving, describe_reflection(mirror_matrix(fixed.ndim))) if sides.is_opposed else ""


def lie_alike(fit: AffineFit) -> bool:
    """Tell whether the matches of two images agree, on bodies that lie as embeddings match them well."""
    if fit.transform is None or not is_credible(fit):
        return False
    turn = nearest_rotation(fit.transform)
    return angle_between(turn, np.eye(len(turn))) <= _MAX_TILT_DEG


def _best_pose_and_sides(
    pair: _Pair, moving_embedding: Embedding, laterality: Laterality | None
) -> tuple[_Pose, Sides]:
    best = pair.best_pose(pair.pose(np.eye(pair.fixed.ndim), moving_embedding))
    sides = pair.sides_at_a_glance(best, laterality)
    if sides is not None and sides.opposed < GLANCE_DOUBT:
        return best, sides
    match = pair.best_match(best)
    sides = pair.sides(match, laterality)
    if match.pose.is_mirrored and sides.is_sure:  # each image shows by itself which side is which
        match = pair.mirrored(match)
    return match.pose, sides


@dataclass(frozen=True)
class Lead:
    """By how much one set of N similarities exceeds another of the same points.

    Parameters
    ----------
    effect
        Mean difference, in standard deviations of the differences (Cohen's d).
    t
        The same over its standard error (Student's t).
    """

    effect: float
    t: float

    @classmethod
    def of(cls, first: FloatArray, second: FloatArray) -> Lead:
        """Compare two sets of similarities, (N,) each."""
        difference = first - second
        spread = float(difference.std())
        effect = float(difference.mean()) / spread if spread > 0 else 0.0
        return cls(effect, effect * len(difference) ** 0.5)

    def reversed(self) -> Lead:
        """Return the lead of the second set."""
        return Lead(-self.effect, -self.t)

    @property
    def of_the_first(self) -> bool:
        """Whether the first is larger beyond doubt."""
        return self.effect > _MIN_EFFECT and self.t > _MIN_T

    @property
    def of_the_second(self) -> bool:
        """Whether the second is larger beyond doubt."""
        return self.reversed().of_the_first

    @property
    def log_odds(self) -> float:
        """What it is worth as evidence for the first."""
        return float(np.sign(self.effect)) * min(_LOG_ODDS_OF_EFFECT * abs(self.effect), abs(self.t), _MAX_LOG_ODDS)


@dataclass(frozen=True, eq=False)
class _Match:
    """The moving image in the pose that matches best.

    Parameters
    ----------
    pose
        The pose.
    mirror
        Embedding of the mirror image of it, left and right exchanged, in the world of the image as given.
    lead
        Of the pose's matches over those of the mirror image.
    """

    pose: _Pose
    mirror: Embedding
    lead: Lead


@dataclass(frozen=True)
class Sides:
    """What is known of left and right in two images, either of which may be mirrored.

    Parameters
    ----------
    both_right
        Probability that neither is mirrored.
    fixed_mirrored, moving_mirrored
        That the fixed, or the moving image alone is.
    both_mirrored
        That both are.

    Examples
    --------
    >>> sides = Sides.of(5.0, 4.0, 3.0)
    >>> sides.is_sure, round(sides.both_right, 3)
    (True, 0.999)
    """

    both_right: float
    fixed_mirrored: float
    moving_mirrored: float
    both_mirrored: float

    @classmethod
    def of(cls, pair: float, fixed: float = 0.0, moving: float = 0.0) -> Sides:
        """Combine log odds: that the two have one laterality, and that each image has the anatomical one."""
        f, m = (float(np.clip(value, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)) for value in (fixed, moving))
        scores = np.array([f + m + pair, -f + m - pair, f - m - pair, -f - m + pair]) / 2
        weights = np.exp(scores - scores.max())
        return cls(*map(float, weights / weights.sum()))

    @property
    def opposed(self) -> float:
        """Probability that one is mirrored against the other."""
        return self.fixed_mirrored + self.moving_mirrored

    @property
    def is_sure(self) -> bool:
        """Whether the two certainly have one laterality."""
        return self.opposed < _MAX_DOUBT

    @property
    def is_opposed(self) -> bool:
        """Whether one is certainly mirrored against the other."""
        return self.opposed > 1 - _MAX_DOUBT


def _refusal(sides: Sides, fixed: Image, moving: Image, exchanged: str) -> str:
    """Return why images of which one is mirrored are not registered, naming the one if it can be told."""
    remedy = _REMEDIES[fixed.ndim]
    if sides.fixed_mirrored > _NAMED_SHARE * sides.opposed:
        fixed, moving = moving, fixed
    elif sides.moving_mirrored < _NAMED_SHARE * sides.opposed:
        return (
            f"{moving.label} or {fixed.label} looks mirrored ({exchanged}): the mirror image of the one matches the "
            f"other better than itself; find out which, and {remedy}"
        )
    return (
        f"{moving.label} looks mirrored ({exchanged}): its mirror image matches {fixed.label} better than itself; "
        f"{remedy}"
    )


def is_credible(fit: AffineFit) -> bool:
    """Tell whether matches agree so much, on bodies of like size, that a turn or a reflection is believed."""
    if fit.transform is None or fit.inlier_share < _MIN_TURNED_SHARE:
        return False
    ratio = abs(float(np.linalg.det(fit.transform.matrix)))
    return 1 / _MAX_VOLUME_RATIO < ratio < _MAX_VOLUME_RATIO


def _is_clearly_better(pose: _Pose, other: _Pose) -> bool:
    """Tell whether the matches of a pose agree and are clearly closer than those of another."""
    is_closer = pose.distance < _MAX_DISTANCE_RATIO * other.distance
    return pose.is_credible and is_closer and Lead.of(pose.similarity, other.similarity).of_the_first


def _notes(seed: Seed, fixed: Image, moving: Image, sides: Sides) -> tuple[str, ...]:
    """Return what the user should know of the orientation."""
    assert seed.affine.transform is not None
    notes = []
    turn = nearest_rotation(seed.affine.transform)
    if angle_between(turn, np.eye(fixed.ndim)) > _MAX_TILT_DEG:
        notes.append(
            f"{moving.label} lies turned against {fixed.label} ({describe_turn(turn)}); it was registered so. "
            f"If that is not how the patients lay, {_TURNED_REMEDIES[fixed.ndim]}"
        )
    if sides.both_mirrored > 1 - _MAX_DOUBT:
        notes.append(f"{fixed.label} and {moving.label} both look mirrored; {_REMEDIES[fixed.ndim]} of each")
    if not sides.is_sure:
        notes.append(
            f"left and right cannot be told apart: {moving.label} matches {fixed.label} about as well as its mirror "
            "image does; check that neither of them is mirrored"
        )
    return tuple(notes)

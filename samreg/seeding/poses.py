"""The pose of the moving body: turns of its image are tried until its matches with the fixed body are closest.

Embeddings know how a body lies. They find a counterpart that is tilted by up to 30 degrees, and little beyond 60. Where
the matches are poor, coarse correlation proposes turns, and the embeddings of the image so turned decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from samreg.embedding.embedding import Embedding
from samreg.matching.correspondences import Correspondences
from samreg.matching.features import Features, features, interpolate
from samreg.matching.reliability import Calibration
from samreg.matching.search import find
from samreg.seeding.affine import AffineFit
from samreg.seeding.coarse import propose_turns, rotations
from samreg.seeding.mirroring import PairedDifference
from samreg.seeding.seed import fit_globally, match_lattice
from samreg.seeding.turns import angle_between, mirror_matrix, nearest_rotation, turned_embedding, turned_with_mask
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.transforms import AffineTransform, compose

MAX_TILT_DEG = 30.0  # embeddings match well up to there; beyond, the image is turned and embedded again
# Share of inliers under which other turns are tried, by number of dimensions: in 2D always, since the matches of a
# projection agree in a wrong pose too.
_WEAK_SHARE = {2: 1.0, 3: 0.3}
# Share of inliers with which a turn in 3D is sure, and no further one is tried. A chest of which 155 mm are shown has
# up to 0.37 of them upside down, and 0.49 or more within 30 degrees of its own pose; two people's chests have 0.59.
_SURE_SHARE = 0.45
_CLEAR_CORRELATION_GAIN = 0.05  # by which another rotation must win to be tried where the matches are good
_STRAIGHT_DEG = 10.0  # a turned image that still lies more askew is turned once more
_MIN_TURNED_SHARE = 0.15  # of inliers: images that show no common anatomy reach 0.13 in one turn or another
_MAX_DISTANCE_RATIO = 0.93  # matches after a turn must be this much closer in embedding space
_MAX_VOLUME_RATIO = 3.0  # of two bodies between which a turn is believed

#: Embeds an image, within its mask where there is one.
Embed = Callable[[Image, Image | None], Embedding]


def is_credible(fit: AffineFit) -> bool:
    """Tell whether matches agree so much, on bodies of like size, that a turn or a reflection is believed."""
    if fit.transform is None or fit.inlier_share < _MIN_TURNED_SHARE:
        return False
    ratio = abs(float(np.linalg.det(fit.transform.matrix)))
    return 1 / _MAX_VOLUME_RATIO < ratio < _MAX_VOLUME_RATIO


def lie_alike(fit: AffineFit) -> bool:
    """Tell whether the matches of two images agree, on bodies that lie as embeddings match them well."""
    if fit.transform is None or not is_credible(fit):
        return False
    turn = nearest_rotation(fit.transform)
    return angle_between(turn, np.eye(len(turn))) <= MAX_TILT_DEG


@dataclass(frozen=True, eq=False)
class Pose:
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
    def is_sure(self) -> bool:
        """Whether so many matches agree that there is no other pose of which they would; never in 2D."""
        return len(self.turn) == 3 and self.fit.inlier_share >= _SURE_SHARE

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

    def is_clearly_better(self, other: Pose) -> bool:
        """Tell whether the matches agree and are clearly closer than those of another pose."""
        is_closer = self.distance < _MAX_DISTANCE_RATIO * other.distance
        return self.is_credible and is_closer and PairedDifference.of(self.similarity, other.similarity).favours_first


@dataclass(frozen=True, eq=False)
class PoseAndMirror:
    """A pose of the moving image, compared with its mirror image.

    Parameters
    ----------
    pose
        The pose.
    mirror
        Embedding of the mirror image of it, left and right exchanged, in the world of the image as given.
    difference
        By how much the pose's matches are more similar than those of the mirror image.
    """

    pose: Pose
    mirror: Embedding
    difference: PairedDifference


@dataclass(frozen=True, eq=False)
class PoseSearch:
    """The search for the pose of the moving body in which it matches the fixed body best.

    Parameters
    ----------
    fixed, moving
        CT images in HU, or 2D X-rays.
    moving_mask
        Where to look in the moving image.
    fixed_features
        Of the fixed image.
    calibration
        Turns similarity and cycle error into reliability.
    embed
        Embeds a turned or mirrored image.
    kind
        Of the transform that is fitted to the matches: "rigid", "similarity" or "affine".
    seed
        Of the random hypotheses.
    """

    fixed: Image
    moving: Image
    moving_mask: Image | None
    fixed_features: Features
    calibration: Calibration
    embed: Embed
    kind: str
    seed: int

    def pose(self, turn: FloatArray, embedding: Embedding | None = None) -> Pose:
        """Embed the moving image after a turn, unless it is embedded already, and match it."""
        embedding = self._embedded(turn) if embedding is None else embedding
        pairs = match_lattice(
            self.fixed_features, features(embedding, device=self.fixed_features.device), calibration=self.calibration
        )
        as_embedded = replace(pairs, moving=self._to_turned(turn).transform_points(pairs.moving))
        fit = fit_globally(as_embedded, self.fixed_features, self.kind, seed=self.seed)
        return Pose(turn, embedding, pairs, fit)

    def best_pose(self, as_given: Pose) -> Pose:
        """Return the pose whose matches are closest, mirrored or not, of the image as given and those after turns."""
        best = as_given
        for turn in self._turns(as_given):
            pose = self.pose(turn)
            if pose.is_clearly_better(best):
                best = pose
                if best.is_sure:
                    break
        return best if best is as_given else self._straightened(best)

    def better_of_mirror_images(self, best: Pose) -> PoseAndMirror:
        """Return a pose, or its mirror image where that matches better, each compared with the other."""
        while True:
            mirror = mirror_matrix(self.fixed.ndim) @ best.turn
            embedding = self._embedded(mirror)
            mirror_similarity = self._similarity(embedding, best.correspondences.fixed)
            difference = PairedDifference.of(best.similarity, mirror_similarity)
            if difference.favours_first or not (difference.favours_second or best.is_mirrored):
                return PoseAndMirror(best, embedding, difference)
            reflection = self.pose(mirror, embedding)
            if not (reflection.is_credible and difference.favours_second):  # neither is better beyond doubt
                if best.is_mirrored:
                    return PoseAndMirror(reflection, best.embedding, difference.reversed())
                return PoseAndMirror(best, embedding, difference)
            straight = self._straightened(reflection)
            if straight is reflection:
                difference = PairedDifference.of(reflection.similarity, best.similarity)
                return PoseAndMirror(reflection, best.embedding, difference)
            best = straight  # its own mirror image lies another way than what was tried so far

    def mirror_pose(self, chosen: PoseAndMirror) -> Pose:
        """Return the pose of the mirror image instead."""
        return self.pose(mirror_matrix(self.fixed.ndim) @ chosen.pose.turn, chosen.mirror)

    def fit_as_given(self, pose: Pose) -> AffineFit:
        """Return the fit of a pose, fixed to moving as given, LPS mm."""
        if pose.fit.transform is None:
            return pose.fit
        transform = compose(pose.fit.transform, self._to_turned(pose.turn).inverse())
        assert isinstance(transform, AffineTransform)
        return replace(pose.fit, transform=transform)

    def _turns(self, as_given: Pose) -> Iterator[FloatArray]:
        """Yield turns to try, the most promising first; none for bodies that match well and lie alike."""
        if as_given.tilt_degrees > MAX_TILT_DEG:
            yield as_given.tilt.T
        is_weak = as_given.fit.inlier_share < _WEAK_SHARE[self.fixed.ndim]
        margin = 0.0 if is_weak else _CLEAR_CORRELATION_GAIN
        turns = rotations(self.fixed.ndim, dense=is_weak)
        device = self.fixed_features.device
        yield from propose_turns(self.fixed, self.moving, turns, margin=margin, device=device)
        if is_weak:
            mirrored = [mirror_matrix(self.fixed.ndim) @ turn for turn in turns]
            yield from propose_turns(self.fixed, self.moving, mirrored, device=device)

    def _straightened(self, pose: Pose) -> Pose:
        """Return the pose after a further turn by what remained, where that brings the matches closer."""
        if pose.tilt_degrees <= _STRAIGHT_DEG:
            return pose
        straight = self.pose(pose.tilt.T @ pose.turn)
        return straight if straight.distance < pose.distance else pose

    def _embedded(self, turn: FloatArray) -> Embedding:
        """Embed the moving image after a turn, and bring the embedding back to the world of the image as given."""
        embedding = self.embed(*turned_with_mask(turn, self.moving, self.moving_mask))
        return replace(turned_embedding(embedding, turn.T, self.moving.grid.center), image_grid=self.moving.grid)

    def _to_turned(self, turn: FloatArray) -> AffineTransform:
        """Return the map from the moving image as given to the image after a turn."""
        return AffineTransform.about(self.moving.grid.center, turn)

    def _similarity(self, embedding: Embedding, points: FloatArray) -> FloatArray:
        """Return the similarity of points (N, d) of the fixed image with their best counterparts, (N,)."""
        target = features(embedding, device=self.fixed_features.device)
        return find(interpolate(self.fixed_features, points), target, coarse=True).similarity

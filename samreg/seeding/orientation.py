"""Bodies that lie turned, and images that are mirrored: noticed, tried, and said.

Embeddings know how a body lies. They find a counterpart that is tilted by up to 30 degrees, and little beyond 60. Where
the matches are poor, coarse correlation proposes rotations and the embeddings of the image so turned decide. Left and
right are another matter: a body and its mirror image are so alike that one is matched to the other almost as well as to
itself. So the mirror image is always embedded too, and the side is told by which of the two matches more closely.
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
from samreg.seeding.coarse import angle_between, propose_turns, rotations, turned_grid
from samreg.seeding.seed import (
    Seed,
    fit_globally,
    global_kind,
    match_lattice,
    refine_seed,
    require_one_model,
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

# ends of the axes x, y(, z), by number of dimensions: of a picture, of a patient
_ENDS = {
    2: (("left", "right"), ("top", "bottom")),
    3: (("right", "left"), ("front", "back"), ("foot", "head")),
}
_REMEDIES = {2: "turn or flip the picture", 3: "correct its direction matrix, or flip its array"}
_AXES = ("the left-right axis", "the front-back axis", "the head-foot axis")
_MAX_AXIS_TILT_DEG = 20.0  # of a rotation's axis, to be named after one of the body's

Embed = Callable[[Image, Image | None], Embedding]


@dataclass(frozen=True, eq=False)
class OrientedSeed:
    """A seed, and what was learnt about how the bodies lie.

    Parameters
    ----------
    seed
        In the world of the images as they were given; false when there is none, or the moving image is mirrored.
    moving
        Embedding of the moving image as it lies best, in the world of the image as it was given.
    notes
        What the user should know about the orientation, in plain words.
    """

    seed: Seed
    moving: Embedding
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
        if self.fit.transform is None or self.fit.inlier_share < _MIN_TURNED_SHARE:
            return False
        ratio = abs(float(np.linalg.det(self.fit.transform.matrix)))
        return 1 / _MAX_VOLUME_RATIO < ratio < _MAX_VOLUME_RATIO

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
    moving_mask: Image | None
    fixed_features: Features
    calibration: Calibration
    embed: Embed
    kind: str
    seed: int

    def turned(self, turn: FloatArray) -> AffineTransform:
        """Return the map from the moving image as given to the image after a turn."""
        return AffineTransform.about(self.moving.grid.center, turn)

    def embedded(self, turn: FloatArray) -> Embedding:
        """Embed the moving image after a turn, and bring the embedding back to the world of the image as given."""
        center = self.moving.grid.center
        mask = None if self.moving_mask is None else reoriented(self.moving_mask, turn, center)[0]
        embedding = self.embed(reoriented(self.moving, turn, center)[0], mask)
        global_grid = embedding.global_grid
        return replace(
            embedding,
            local_grid=turned_grid(embedding.local_grid, turn.T, center),
            global_grid=None if global_grid is None else turned_grid(global_grid, turn.T, center),
            image_grid=self.moving.grid,
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

    def best_pose(self, upright: _Pose) -> tuple[_Pose, _Lead]:
        """Return the pose whose matches are closest, and by how much they are closer than those of its mirror image."""
        best = upright
        for turn in self._turns(upright):
            pose = self.pose(turn)
            if _is_clearly_better(pose, best):
                best = pose
                if best.fit.inlier_share >= _WEAK_SHARE[self.fixed.ndim]:
                    break
        best = best if best is upright else self._straightened(best)
        while True:
            mirror = _mirror(self.fixed.ndim) @ best.turn
            embedding = self.embedded(mirror)
            lead = _Lead.of(best.similarity, self._similarity(embedding, best.correspondences.fixed))
            if lead.of_the_first or not (lead.of_the_second or best.is_mirrored):
                return best, lead
            reflection = self.pose(mirror, embedding)
            if not (reflection.is_credible and lead.of_the_second):  # neither is better beyond doubt
                return (reflection if best.is_mirrored else best), lead
            straight = self._straightened(reflection)
            if straight is reflection:
                return reflection, _Lead.of(reflection.similarity, best.similarity)
            best = straight  # its own mirror image lies another way than what was tried so far

    def _turns(self, upright: _Pose) -> Iterator[FloatArray]:
        """Yield turns to try, the most promising first; none for bodies that match well and lie alike."""
        if upright.tilt_degrees > _MAX_TILT_DEG:
            yield upright.tilt.T
        is_weak = upright.fit.inlier_share < _WEAK_SHARE[self.fixed.ndim]
        margin = 0.0 if is_weak else _CLEAR_CORRELATION_GAIN
        turns = rotations(self.fixed.ndim, dense=is_weak)
        yield from propose_turns(self.fixed, self.moving, turns, margin=margin)
        if is_weak:
            mirrored = [_mirror(self.fixed.ndim) @ turn for turn in turns]
            yield from propose_turns(self.fixed, self.moving, mirrored)

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
    moving_mask: Image | None = None,
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
        Embeds the turned or mirrored moving image, within its mask where there is one.
    moving_mask
        Where to look in the moving image.
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
        fixed, moving, moving_mask, features(fixed_embedding, device=device),
        Calibration.from_mapping(fixed_embedding.calibration), embed, global_kind(transform), seed,
    )  # fmt: skip
    best, lead = pair.best_pose(pair.pose(np.eye(fixed.ndim), moving_embedding))
    fit = pair.as_given(best)
    if best.is_mirrored:
        reason = (
            f"{moving.label} looks mirrored ({describe_reflection(best.turn)}): its mirror image matches {fixed.label} "
            f"better than itself; {_REMEDIES[fixed.ndim]}"
        )
        return OrientedSeed(Seed(None, fit, best.correspondences, reason), best.embedding)
    seed_ = refine_seed(
        pair.fixed_features,
        features(best.embedding, device=pair.fixed_features.device),
        fit,
        best.correspondences,
        transform=transform,
        grid=fixed.grid,
        moving_grid=moving.grid,
        calibration=pair.calibration,
        seed=seed,
    )
    return OrientedSeed(seed_, best.embedding, _notes(seed_, fixed, moving, lead) if seed_ else ())


@dataclass(frozen=True)
class _Lead:
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
    def of(cls, first: FloatArray, second: FloatArray) -> _Lead:
        """Compare two sets of similarities, (N,) each."""
        difference = first - second
        spread = float(difference.std())
        effect = float(difference.mean()) / spread if spread > 0 else 0.0
        return cls(effect, effect * len(difference) ** 0.5)

    @property
    def of_the_first(self) -> bool:
        """Whether the first is larger beyond doubt."""
        return self.effect > _MIN_EFFECT and self.t > _MIN_T

    @property
    def of_the_second(self) -> bool:
        """Whether the second is larger beyond doubt."""
        return self.effect < -_MIN_EFFECT and self.t < -_MIN_T


def _is_clearly_better(pose: _Pose, other: _Pose) -> bool:
    """Tell whether the matches of a pose agree and are clearly closer than those of another."""
    is_closer = pose.distance < _MAX_DISTANCE_RATIO * other.distance
    return pose.is_credible and is_closer and _Lead.of(pose.similarity, other.similarity).of_the_first


def _notes(seed: Seed, fixed: Image, moving: Image, lead: _Lead) -> tuple[str, ...]:
    """Return what the user should know of the orientation."""
    assert seed.affine.transform is not None
    notes = []
    turn = nearest_rotation(seed.affine.transform)
    if angle_between(turn, np.eye(fixed.ndim)) > _MAX_TILT_DEG:
        notes.append(
            f"{moving.label} lies turned against {fixed.label} ({describe_turn(turn)}); it was registered so. "
            f"If that is not how the patient lay, {_REMEDIES[fixed.ndim]}"
        )
    if not lead.of_the_first:
        notes.append(
            f"left and right cannot be told apart: {moving.label} matches {fixed.label} about as well as its mirror "
            "image does; check that neither of them is mirrored"
        )
    return tuple(notes)


def reoriented(image: Image, turn: FloatArray, center: FloatArray) -> tuple[Image, AffineTransform]:
    """Turn or mirror an image about a point of the world; the array stays as it is.

    Parameters
    ----------
    image
        2D or 3D image.
    turn
        (d, d) orthogonal matrix.
    center
        (d,) point that stays where it is, LPS mm.

    Returns
    -------
    Image
        The turned image: the voxel of x lies at ``turn @ (x - center) + center``.
    AffineTransform
        From the turned image's world to the given one's.
    """
    turned = Image(image.array, turned_grid(image.grid, turn, center), image.name)
    return turned, AffineTransform.about(center, turn).inverse()


def nearest_rotation(transform: AffineTransform) -> FloatArray:
    """Return the rotation (d, d) nearest to an affine: its orthogonal polar factor."""
    from scipy.linalg import polar

    rotation: FloatArray = polar(transform.matrix)[0]
    return rotation


def describe_turn(rotation: FloatArray) -> str:
    """Say in words how the moving body lies turned against the fixed one.

    Parameters
    ----------
    rotation
        (d, d), from directions of the fixed body to the same directions of the moving body, LPS.

    Examples
    --------
    >>> import numpy as np
    >>> describe_turn(np.diag([-1, -1, 1]))
    'by 180 degrees about the head-foot axis: its left lies towards the right, its back lies towards the front'
    >>> describe_turn(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    'by 90 degrees about the head-foot axis: its left lies towards the back, its back lies towards the right'
    """
    angle = angle_between(rotation, np.eye(len(rotation)))
    if len(rotation) == 2:
        clockwise = rotation[1, 0] >= 0  # x points right in a picture, and y down
        return f"by {angle:.0f} degrees {'clockwise' if clockwise else 'anticlockwise'}"
    parts = [
        f"its {_ENDS[3][axis][1]} lies towards the {_ENDS[3][to][int(rotation[to, axis] > 0)]}"
        for axis, to in enumerate(np.abs(_nearest_axes(rotation)).argmax(axis=0))
        if to != axis or rotation[to, axis] < 0
    ]
    return f"by {angle:.0f} degrees about {_axis_name(rotation)}" + (": " + ", ".join(parts) if parts else "")


def describe_reflection(turn: FloatArray) -> str:
    """Say in words what a reflection (d, d) of the moving image, LPS, exchanges.

    Examples
    --------
    >>> import numpy as np
    >>> describe_reflection(np.diag([1, 1, -1]))
    'foot and head are exchanged'
    """
    axes = np.diag(_nearest_axes(turn))
    if (axes == 0).any() or (axes < 0).sum() != 1:
        return "and turned as well"
    first, second = _ENDS[len(turn)][int(np.argmin(axes))]
    return f"{first} and {second} are exchanged"


def _axis_name(rotation: FloatArray) -> str:
    from scipy.spatial.transform import Rotation

    vector = Rotation.from_matrix(rotation).as_rotvec()
    along = np.abs(vector) / np.linalg.norm(vector)
    axis = int(along.argmax())
    return _AXES[axis] if along[axis] > np.cos(np.deg2rad(_MAX_AXIS_TILT_DEG)) else "an oblique axis"


def _nearest_axes(turn: FloatArray) -> FloatArray:
    """Return the signed permutation (d, d) nearest to an orthogonal matrix."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-np.abs(turn))
    axes: FloatArray = np.zeros_like(turn, dtype=np.float64)
    axes[rows, columns] = np.sign(turn[rows, columns])
    return axes


def _mirror(ndim: int) -> FloatArray:
    """Return the reflection (d, d) that exchanges left and right."""
    return np.diag([-1.0] + [1.0] * (ndim - 1))

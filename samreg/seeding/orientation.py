"""Bodies that lie turned, and images that are mirrored: noticed, tried, and said.

The pose of the moving body is searched first (:mod:`samreg.seeding.poses`); then it is told whether the moving image or
the fixed one is mirrored (:mod:`samreg.seeding.mirroring`), at first by global vectors alone, which cost an eighth, and
by all vectors where those leave a doubt. Images of which one is mirrored are refused; bodies that lie turned are
registered so, and the user is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from samreg.embedding.embedding import Embedding
from samreg.matching.correspondences import Correspondences
from samreg.matching.features import features
from samreg.matching.reliability import Calibration
from samreg.seeding.mirroring import (
    MAX_DOUBT_BY_GLOBAL_VECTORS,
    EmbedGlobally,
    Laterality,
    MirrorProbabilities,
    mirror_notes,
    mirrored_by_global_vectors,
    why_refused,
)
from samreg.seeding.poses import MAX_TILT_DEG, Embed, Pose, PoseAndMirror, PoseSearch
from samreg.seeding.seed import Seed, global_kind, refine_seed, require_one_model
from samreg.seeding.turns import (
    angle_between,
    describe_turn,
    mirror_matrix,
    nearest_rotation,
    turned_embedding,
    turned_image,
    turned_with_mask,
)
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.transforms import AffineTransform

_REMEDIES = {2: "turn one of the pictures", 3: "correct the direction matrix of the one that is wrong"}

#: Returns corresponding points (N, d) of both images, of their embeddings, the turn that brings the moving body
#: upright, (d, d), and matches of a lattice over the fixed body with all of the moving embedding.
FindGuides = Callable[[tuple[Embedding, Embedding], FloatArray, Correspondences], tuple[FloatArray, FloatArray] | None]


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
    guides: FindGuides | None = None,
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
    search = PoseSearch(
        fixed, moving, moving_mask, features(fixed_embedding, device=device),
        Calibration.from_mapping(fixed_embedding.calibration), embed, global_kind(transform), seed,
    )  # fmt: skip
    as_given = search.pose(np.eye(fixed.ndim), moving_embedding)
    evidence = _MirrorEvidence(search, fixed_embedding, fixed_mask, embed_globally, laterality)
    best, mirrored = evidence.weighed(search.best_pose(as_given))
    fit = search.fit_as_given(best)
    if best.is_mirrored or mirrored.surely_opposite_laterality:
        reflection = best.turn if best.is_mirrored else mirror_matrix(fixed.ndim) @ best.turn
        reason = why_refused(mirrored, fixed, moving, reflection=reflection)
        none = Seed(None, fit, best.correspondences, reason)
        return OrientedSeed(none, best.embedding, best.correspondences, best.turn)
    refined = refine_seed(
        search.fixed_features,
        features(best.embedding, device=search.fixed_features.device),
        fit,
        best.correspondences,
        transform=transform,
        grid=fixed.grid,
        moving_grid=moving.grid,
        calibration=search.calibration,
        guides=guides((fixed_embedding, best.embedding), best.turn, best.correspondences)
        if guides and transform == "deformable"
        else None,
        seed=seed,
    )
    notes: tuple[str, ...] = ()
    if refined:
        assert refined.affine.transform is not None
        notes = turn_notes(refined.affine.transform, fixed, moving, pose=best) + mirror_notes(mirrored, fixed, moving)
    return OrientedSeed(refined, best.embedding, best.correspondences, best.turn, notes)


@dataclass(frozen=True, eq=False)
class _MirrorEvidence:
    """What tells which of two images is mirrored; the parameters are those of :func:`seed_any_orientation`."""

    search: PoseSearch
    fixed_embedding: Embedding
    fixed_mask: Image | None
    embed_globally: EmbedGlobally | None
    laterality: Laterality | None

    def weighed(self, best: Pose) -> tuple[Pose, MirrorProbabilities]:
        """Return the best pose, or its mirror image where that is more likely, and what is known of left and right."""
        by_global_vectors = self._by_global_vectors(best)
        if by_global_vectors is not None and by_global_vectors.opposite_laterality < MAX_DOUBT_BY_GLOBAL_VECTORS:
            return best, by_global_vectors
        chosen = self.search.better_of_mirror_images(best)
        mirrored = self._by_all_vectors(chosen)
        if chosen.pose.is_mirrored and mirrored.surely_same_laterality:
            return self.search.mirror_pose(chosen), mirrored  # each image shows by itself which side is which
        return chosen.pose, mirrored

    def _by_global_vectors(self, pose: Pose) -> MirrorProbabilities | None:
        """Return what global vectors alone tell of the images as given; None where those save nothing."""
        if pose.is_mirrored or self.embed_globally is None:
            return None
        center, moving_mask = self.search.moving.grid.center, self.search.moving_mask
        return mirrored_by_global_vectors(
            self.fixed_embedding,
            turned_embedding(pose.embedding, pose.turn, center),
            pose.correspondences.fixed if pose.is_credible else None,
            embed_globally=self.embed_globally,
            fixed_mask=self.fixed_mask,
            moving_mask=None if moving_mask is None else turned_image(moving_mask, pose.turn, center),
            laterality=self.laterality,
            device=self.search.fixed_features.device,
        )

    def _by_all_vectors(self, chosen: PoseAndMirror) -> MirrorProbabilities:
        """Return what the matches, and each image by itself, tell of the images as given."""
        pose, fixed_image, center = chosen.pose, self.search.fixed, self.search.moving.grid.center
        sign = -1 if pose.is_mirrored else 1
        pair = sign * chosen.difference.log_odds if pose.is_credible else 0.0
        if self.laterality is None:
            return MirrorProbabilities.from_log_odds(pair)
        mirror = mirror_matrix(fixed_image.ndim)
        fixed = self.laterality(
            self.fixed_embedding, self.search.embed(*turned_with_mask(mirror, fixed_image, self.fixed_mask))
        )
        moving = self.laterality(
            turned_embedding(pose.embedding, pose.turn, center),
            turned_embedding(chosen.mirror, mirror @ pose.turn, center),
        )
        return MirrorProbabilities.from_log_odds(pair, fixed, sign * moving)


def turn_notes(affine: AffineTransform, fixed: Image, moving: Image, *, pose: Pose) -> tuple[str, ...]:
    """Return what the user should know of how the bodies lie, of the affine from fixed to moving and the pose found."""
    turn = nearest_rotation(affine)
    if angle_between(turn, np.eye(fixed.ndim)) <= MAX_TILT_DEG:
        return ()
    doubt = ""
    if fixed.ndim == 3 and not pose.is_sure:  # in 2D matches agree in a wrong pose too, and tell nothing
        doubt = f"how it lies is unsure: only {100 * pose.fit.inlier_share:.0f} % of the matches agree. "
    return (
        f"{moving.label} lies turned against {fixed.label} ({describe_turn(turn)}); it was registered so. "
        f"{doubt}If that is not how the patients lay, {_REMEDIES[fixed.ndim]}",
    )

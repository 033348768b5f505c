"""match(): one-shot landmark detection, points of a template found in another image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.inputs import as_image, as_points
from samreg.spatial.points import Points, require_inside

if TYPE_CHECKING:
    from samreg.matching import Calibration, Correspondences, Features
    from samreg.spatial import Grid

FloatArray = NDArray[np.float64]
# at a scale of 1 (:attr:`samreg.matching.Features.scale`):
_LATTICE = 32.0  # mm, of the matches that guide the search
# mm around the prediction that are searched, and the similarity lost at that distance: by the point and its neighbours,
# then by the point alone around what they agree on
_WIDE, _NARROW = (45.0, 0.3), (20.0, 0.2)


@dataclass(frozen=True, eq=False)
class LandmarkMatches:
    """Where the template's points were found.

    Parameters
    ----------
    points
        (N, d) positions in the target, LPS mm.
    names
        As in the template.
    similarity
        (N,) similarity of the embeddings, at most 1.
    reliability
        (N,) calibrated probability in [0, 1] that the match is right.
    cycle_error
        (N,) where the match leads back to, distance from the template's point, mm.
    spread
        (N,) how far the points around the point, matched too, disagree about its place, mm; NaN in a global search.
    inside
        (N,) False where the matches around it put the point outside the target's field of view.
    notes
        What the user should know, in plain words.
    """

    points: FloatArray
    names: tuple[str, ...]
    similarity: FloatArray
    reliability: FloatArray
    cycle_error: FloatArray
    spread: FloatArray
    inside: NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def to_points(self) -> Points:
        """Return the positions as :class:`Points`, scored by reliability."""
        return Points(self.points, self.names, self.reliability)


def match(
    template: Any,
    points: Any,
    target: Any,
    *,
    model: Any = None,
    search: str = "guided",
    device: str = "auto",
    seed: int = 0,
) -> LandmarkMatches:
    """Find points of a template image in a target image.

    Parameters
    ----------
    template, target
        Images as :func:`samreg.register` takes, or embeddings (:func:`samreg.embed`) to match many times.
    points
        :class:`Points`, an array (N, d) in LPS mm, or a points file, in the template.
    model
        Name, path or model; samreg's default unless given. Must be the embeddings' own where they are given.
    search
        "guided" matches a coarse lattice first, predicts each point from a robust affine and the matches around
        it, lets the point and its neighbours look within 45 mm of that and vote, and the point within 20 mm of the
        vote, which keeps neighbours together (13.5 and 6 mm in X-rays, whose embeddings are finer). "global" takes
        the most similar voxel of the whole body (Yan et al., SAM, TMI 2022).
    device
        "auto", "cpu", "cuda" or "mps".
    seed
        Of the robust fit.

    Returns
    -------
    LandmarkMatches
        One for each point, in order.

    Raises
    ------
    InputError
        For points outside the template, an unknown search, images the model does not take, or embeddings of different
        models.
    """
    from samreg.matching import Calibration, features, match_points
    from samreg.seeding.seed import require_one_model

    if search not in ("guided", "global"):
        raise InputError(f'unknown search {search!r}; choose "guided" or "global"')
    sources = [embedded(source, model, device, name) for source, name in ((template, "template"), (target, "target"))]
    require_one_model(*sources)
    wanted = as_points(points, sources[0].image_grid.ndim)
    require_inside(wanted, sources[0].image_grid, "the template")
    plain, own = (Calibration.from_mapping(sources[0].calibration, landmarks=some) for some in (False, True))
    f, m = (features(source) for source in sources)
    notes: tuple[str, ...] = ()
    if search == "guided":
        guided, reason = guided_matches(
            f, wanted.positions, m, grid=sources[1].image_grid, calibration=plain, seed=seed
        )
        if guided is not None:
            pairs = guided.matches
            reliability = own(pairs.similarity, pairs.cycle_error, spread=guided.spread, depth=guided.depth)
            return LandmarkMatches(
                pairs.moving, wanted.names, pairs.similarity, reliability, pairs.cycle_error, guided.spread,
                guided.depth >= 0,
            )  # fmt: skip
        notes = (f"no common alignment was found ({reason}); every point was searched in the whole body",)
    pairs = match_points(f, wanted.positions, m, calibration=plain)
    return LandmarkMatches(
        pairs.moving, wanted.names, pairs.similarity, pairs.reliability, pairs.cycle_error,
        np.full(len(wanted), np.nan), np.ones(len(wanted), dtype=bool), notes,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class GuidedMatches:
    """Matches of N points, and what the points around them say.

    Parameters
    ----------
    matches
        Fixed to moving; their reliability leaves the rest out of account.
    spread
        (N,) of the votes, mm (:class:`samreg.matching.Votes`).
    depth
        (N,) how deep in the moving image the points are expected, mm; negative outside.
    """

    matches: Correspondences
    spread: FloatArray
    depth: FloatArray


def guided_matches(
    fixed: Features,
    points: FloatArray,
    moving: Features,
    *,
    grid: Grid,
    calibration: Calibration,
    seed: int = 0,
) -> tuple[GuidedMatches | None, str]:
    """Match points where a robust alignment and their neighbours expect them.

    Parameters
    ----------
    fixed, moving
        Features of the two images.
    points
        (N, d) world points of the fixed image, LPS mm.
    grid
        Of the moving image: what it shows.
    calibration
        Turns similarity and cycle error into reliability.
    seed
        Of the robust fit.

    Returns
    -------
    GuidedMatches or None
        None when there is no common alignment.
    str
        Why there is none.
    """
    from samreg.matching import Prediction, match_points, vote
    from samreg.seeding import global_affine, predict_locally

    scale = fixed.scale
    (wide, lost), (narrow, penalty) = _WIDE, _NARROW
    fit, pairs = global_affine(fixed, moving, spacing=_LATTICE * scale, calibration=calibration, seed=seed)
    if fit.transform is None:
        return None, fit.reason
    left = np.linalg.norm(fit.transform.transform_points(pairs.fixed) - pairs.moving, axis=1)
    expected = predict_locally(pairs.take(left < wide * scale), fit.transform, points, scale=scale)
    around = Prediction(expected, wide * scale, lost)
    votes = vote(fixed, points, moving, prediction=around, matrix=fit.transform.matrix)
    near = Prediction(votes.positions, narrow * scale, penalty)
    matches = match_points(fixed, points, moving, prediction=near, home="anywhere", calibration=calibration)
    # votes are searched inside the image and cannot leave it; the prediction can
    return GuidedMatches(matches, votes.spread, grid.depth(expected)), ""


def embedded(source: Any, model: Any, device: str, name: str) -> Any:
    """Return the embedding of an image, or the embedding given, in memory or as an .h5 file."""
    from samreg.embedding import Embedding
    from samreg.embedding.registry import model_for

    if isinstance(source, Embedding):
        return source
    if isinstance(source, (str, os.PathLike)) and str(source).endswith(".h5"):
        return Embedding.load(source)
    image = as_image(source, name=name)
    return model_for(model, image.ndim).embed(image, device=device)

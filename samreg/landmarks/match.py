"""match(): one-shot landmark detection, points of a template found in another image."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.brief import brief_repr
from samreg.device import torch_defaults
from samreg.errors import InputError, require_choice, require_progress, require_seed
from samreg.landmarks.match_reliability import calibration_of, expected_error_of
from samreg.landmarks.sources import embedded, read
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.inputs import points_in
from samreg.spatial.points import Points
from samreg.spatial.remarks import remarks_kept

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.landmarks.guided import GuidedMatches
    from samreg.matching import Calibration, ExpectedError
    from samreg.seeding import AffineFit

log = logging.getLogger(__name__)

SEARCHES = ("guided", "global")
_OUTSIDE_FACTOR = 0.5  # of the reliability of a point that is expected outside the image
# at least and at most, of a point within 6 mm of a place that both images show by themselves: of 123 between people
# whom the atlas does not know 96 % lie within 10 mm, 91 % within 8; of 24 from 6 to 8 mm away 67 and 50 %
_SEEN_RELIABILITY, _SEEN_ERROR_MM = 0.89, 8.0


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
        (N,) of the embeddings, best around there, at most 1.
    reliability
        (N,) calibrated probability in [0, 1] that the match lies within 10 mm of the truth (with ``ct-small``, between
        people; with other models and in a global search as the model's own calibration has it).
    cycle_error
        (N,) where the most similar place around there leads back to, distance from the template's point, mm.
    spread
        (N,) how far the points around the point, matched too, disagree about its place, with each other and with where
        it was looked for, mm; where it goes with a place that both images show, how far that is from the match
        otherwise. NaN in a global search.
    inside
        (N,) False where the matches around it put the point outside the target's field of view.
    notes
        What the user should know, in plain words: that one of two CTs looks mirrored among it, where both were given as
        images.
    expected_error
        (N,) in four of five places the error is at most so much, mm, as fitted to landmarks of pairs of people; two
        scans of one person are judged too severely. NaN where the model has no such fit (of those shipped, the
        ``ct-small`` models have one) and in a global search; left out, NaN.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> matches = LandmarkMatches(np.zeros((1, 3)), ("carina",), one, 0.9 * one, one, one, one > 0)
    >>> len(matches), matches.to_points().names
    (1, ('carina',))
    """

    points: FloatArray
    names: tuple[str, ...]
    similarity: FloatArray
    reliability: FloatArray
    cycle_error: FloatArray
    spread: FloatArray
    inside: NDArray[np.bool_]
    notes: tuple[str, ...] = ()
    expected_error: FloatArray = field(default_factory=lambda: np.empty(0), kw_only=True)

    __repr__ = brief_repr

    def __post_init__(self) -> None:
        if not len(self.expected_error):
            object.__setattr__(self, "expected_error", np.full(len(self), np.nan))

    def __len__(self) -> int:
        return len(self.points)

    def to_points(self) -> Points:
        """Return the positions as :class:`Points`, scored by reliability."""
        return Points(self.points, self.names, self.reliability)

    def error_column(self) -> dict[str, FloatArray]:
        """Return the expected errors by the name of their column in tables, mm; nothing where none is known."""
        return error_column(self.expected_error)


def error_column(expected_error: FloatArray) -> dict[str, FloatArray]:
    """Return expected errors (N,) by the name of their column in tables, mm; nothing where none is known."""
    return {"expected_error_mm": expected_error} if np.isfinite(expected_error).any() else {}


@torch_defaults()
def match(
    template: Any,
    points: Any,
    target: Any,
    *,
    model: Any = None,
    search: str = "guided",
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
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
        "guided" matches a coarse lattice first, predicts each point from a robust affine, the matches around it and,
        in CT, landmarks and places on bones that both images show (:func:`samreg.seeding.predict_locally`), lets the
        point and its neighbours look within 20 mm of that (45 mm without such places; 13.5 in X-rays, whose embeddings
        are finer), and goes where they agree; on a shoulder blade or rib that both images show half-way from there to
        where it takes the point. Points within 8 mm of a place that both images show by themselves, such as a carina,
        go with it. Places count for nothing where both images are of one person, whose matches are nearer; embeddings
        read from files have no image in which they could be found.
        "global" takes the most similar voxel of the whole body (Yan et al., SAM, TMI 2022).
    device
        "auto", "cpu", "cuda" or "mps", where to embed and to match.
    seed
        Of the robust fit.
    progress
        Called with the name of each stage as it starts; the log gets it, at level INFO, unless given.

    Returns
    -------
    LandmarkMatches
        One for each point, in order.

    Raises
    ------
    InputError
        For no points, points outside the template, an unknown search, options of another type, images the model does
        not take, or embeddings of different models.

    Examples
    --------
    >>> from samreg.embedding.api import embed
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16))
    >>> embedding = embed({"array": noise.astype(np.float32), "spacing": (8, 8, 8)}, model="mind")
    >>> matches = match(embedding, [[60.0, 60.0, 60.0]], embedding, search="global")
    >>> bool(abs(matches.points - 60).max() < 8)  # mm
    True
    """
    from samreg.device import resolve_device
    from samreg.embedding.ct import ANY_CONTRAST_MODEL
    from samreg.embedding.registry import default_notes, model_for
    from samreg.landmarks.laterality import why_mirrored
    from samreg.seeding.seed import require_one_model

    require_choice("search", search, SEARCHES)
    seed = require_seed(seed)
    require_progress(progress)
    report = progress or log.info
    resolve_device(device)
    template, target = read(template, "template"), read(target, "target")
    images = [source for source in (template, target) if isinstance(source, Image)]
    network = model_for(model, *images) if images else None
    for source, name in ((template, "template"), (target, "target")):
        if network is not None and not isinstance(source, Image) and source.model != network.identity:
            own = source.model.split("@")[0]
            remedy = f'choose the embedding\'s: model="{own}" (--model {own})'
            if model is None and network.name == ANY_CONTRAST_MODEL:  # a model for CT would refuse that image
                remedy = (
                    f"it is not in Hounsfield units: embed the {name} by {ANY_CONTRAST_MODEL} as well (samreg embed "
                    f"--model {ANY_CONTRAST_MODEL}), or, where {own} takes any contrast, {remedy}"
                )
            raise InputError(
                f"the {name} is an embedding by the model {source.model}, and the other image would be embedded by "
                f"{network.identity}; {remedy}"
            )
    fixed, moving = (
        embedded(source, network or model, device, name, report)
        for source, name in ((template, "template"), (target, "target"))
    )
    require_one_model(fixed, moving)
    with remarks_kept() as remarks:
        wanted = points_in(points, fixed.image_grid, "the template")
    report("matching")
    found, fit = match_embedded(fixed, wanted, moving, search=search, device=device, seed=seed)
    notes = (*(text for image in images for text in image.remarks), *remarks)
    notes += default_notes(*images) if images and model is None else ()
    notes += found.notes
    if fit is not None and isinstance(template, Image) and isinstance(target, Image) and network is not None:
        notes += mirrored_note(why_mirrored((template, target), (fixed, moving), fit, network, device))
    return replace(found, notes=notes)


def mirrored_note(reason: str) -> tuple[str, ...]:
    """Return what matches say where an image looks mirrored, and why (:func:`samreg.landmarks.laterality`)."""
    return (f"{reason}; until then left is found for right",) if reason else ()


def match_embedded(
    fixed: Embedding, wanted: Points, moving: Embedding, *, search: str, device: str, seed: int
) -> tuple[LandmarkMatches, AffineFit | None]:
    """Find points of one embedding in another, as :func:`match` does.

    Returns
    -------
    LandmarkMatches
        With a note where no common alignment was found.
    AffineFit or None
        The alignment that guided the search; None without.
    """
    from samreg.landmarks.guided import guided_matches, places_for
    from samreg.matching import Calibration, features, match_points

    fixed_features, moving_features = (features(embedding, device=device) for embedding in (fixed, moving))
    calibration = Calibration.from_mapping(fixed.calibration)
    notes: tuple[str, ...] = ()
    if search == "guided":
        guided, reason = guided_matches(
            fixed_features, wanted.positions, moving_features,
            grid=moving.image_grid, calibration=calibration, seed=seed,
            places=places_for((fixed, moving), (fixed_features, moving_features), wanted.positions),
        )  # fmt: skip
        if guided is not None:
            stored = Calibration.from_mapping(fixed.calibration, landmarks=True)
            reliability = calibration_of(fixed.model) or stored
            return _from_guided(wanted.names, guided, reliability, expected_error_of(fixed.model)), guided.fit
        notes = (f"no common alignment was found ({reason}); every point was searched in the whole body",)
    pairs = match_points(fixed_features, wanted.positions, moving_features, calibration=calibration)
    found = LandmarkMatches(
        pairs.moving, wanted.names, pairs.similarity, pairs.reliability, pairs.cycle_error,
        np.full(len(wanted), np.nan), np.ones(len(wanted), dtype=bool), notes,
    )  # fmt: skip
    return found, None


def _from_guided(
    names: tuple[str, ...],
    guided: GuidedMatches,
    calibration: Calibration,
    expected: ExpectedError | None,
) -> LandmarkMatches:
    """Return the matches with what the votes and the field of view say of their reliability and error."""
    pairs = guided.matches
    reliability = calibration(pairs.similarity, pairs.cycle_error, spread=guided.spread, depth=guided.depth)
    reliability = np.where(guided.seen, np.maximum(reliability, _SEEN_RELIABILITY), reliability)
    error = np.full(len(names), np.nan)
    if expected is not None:
        error = expected(pairs.cycle_error, guided.spread, depth=guided.depth)
        error = np.where(guided.seen, np.minimum(error, _SEEN_ERROR_MM), error)
    return LandmarkMatches(
        pairs.moving,
        names,
        pairs.similarity,
        np.where(guided.depth >= 0, reliability, _OUTSIDE_FACTOR * reliability),
        pairs.cycle_error,
        guided.spread,
        guided.depth >= 0,
        expected_error=error,
    )

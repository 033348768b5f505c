"""track(): the lesions of a baseline found in a follow-up, and how their size changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.device import torch_defaults
from samreg.errors import ImagesAtFault, InputError, require_progress, require_seed
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image
from samreg.spatial.remarks import remarks_kept
from samreg.spatial.transforms import Transform
from samreg.tracking.lesions import Lesions, as_lesions
from samreg.tracking.result import LesionTracks, TrackedLesion
from samreg.tracking.size import Extent, NotGrown, grow

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.seeding import Seed

log = logging.getLogger(__name__)

_SEARCH_RADIUS_MM = 20.0  # around the predicted position
_SEARCH_PENALTY = 0.2  # of similarity, at that distance
_DEFAULT_RADIUS_MM = 8.0  # of a lesion of unknown size
_SHELL_MM = 6.0  # beyond the radius, of the second shell of neighbours
_JACOBIAN_STEP_MM = 4.0
_MIN_DICE = 0.7  # with what was drawn, from which a lesion counts as grown rightly
_MAX_REACH_MM = 30.0  # of a lesion of unknown size
_CORE_MM, _MIN_CORE_MM = 5.0, 4.0  # how far from the centre its core is looked for; and that of any lesion, at least
_CORE_SHARE, _CORE_SHARE_LATER = 0.5, 0.6  # of its radius, in the baseline, and where the follow-up may have moved it
_REACHES = ((1.5, 5.0), (3.0, 10.0))  # times its radius, and mm more: as if it had kept its size, then wider


@torch_defaults()
def track(
    baseline: Any,
    followup: Any,
    lesions: Any,
    *,
    radii: ArrayLike | None = None,
    model: Any = None,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> LesionTracks:
    """Find the lesions of a baseline CT in a follow-up of the same person, and measure how they changed.

    A smooth field fitted to matches over the whole body (:func:`samreg.register`, method "embedding") predicts where a
    lesion is. Its centre, twelve points on its surface and twelve around it are then matched within 20 mm of where the
    field puts them, and each votes, by the field's local Jacobian, where the centre is; their geometric median decides.

    A lesion in lung is grown from its centre at both visits in the same way, and its diameters are compared. Where that
    fails at either visit, no change is reported, but the diameter that the surroundings' deformation alone would give.
    A note says which lesions have gone, leaving lung alone where they are expected (:attr:`TrackedLesion.gone`).

    Parameters
    ----------
    baseline, followup
        CTs, as :func:`samreg.register` takes.
    lesions
        In the baseline: points (:class:`samreg.Points`, an array (N, 3) in LPS mm, a file), or a label map with one
        label a lesion. Lesions outside the baseline are left out with a note; a label of several parts is noted.
    radii
        (N,) mm, of lesions given by points, where known.
    model
        Name, path or model for the embeddings; samreg's default unless given.
    device
        "auto", "cpu", "cuda" or "mps".
    seed
        Of the robust fit.
    progress
        Called with the name of each stage as it starts; the log gets it, at level INFO, unless given.

    Returns
    -------
    LesionTracks
        False, with a ``reason``, when the scans could not be aligned, or one looks mirrored.

    Raises
    ------
    InputError
        When a file is missing or damaged, an image is no CT, no lesion lies in the baseline, or an option is at fault.

    Examples
    --------
    >>> import samreg
    >>> scan = np.random.default_rng(0).normal(0, 100, (12, 12, 12)).astype(np.float32)
    >>> scan = samreg.Image.from_array(scan, spacing=(8, 8, 8))
    >>> tracks = samreg.track(scan, scan, [[40.0, 40.0, 40.0]], radii=[8.0], model="mind")
    >>> [(lesion.name, lesion.followup.round().tolist()) for lesion in tracks.lesions]
    [('1', [40.0, 40.0, 40.0])]
    >>> tracks.lesions[0].why
    'baseline: no lung around it: sizes are measured in lung alone'
    """
    from samreg.device import resolve_device
    from samreg.embedding.ct import background_notes
    from samreg.embedding.registry import default_model, model_for
    from samreg.landmarks.laterality import why_mirrored

    require_progress(progress)
    resolve_device(device)
    seed, report = require_seed(seed), progress or log.info
    baseline, followup = as_image(baseline, name="baseline"), as_image(followup, name="follow-up")
    if (baseline.ndim, followup.ndim) != (3, 3):
        raise InputError(f"{baseline.label} is {baseline.ndim}D, {followup.label} {followup.ndim}D; give two 3D CTs")
    with remarks_kept() as remarks:
        inside, left_out = as_lesions(lesions, baseline.grid, radii=radii).inside(baseline.grid, baseline.label)
    notes = (*baseline.remarks, *followup.remarks, *background_notes(baseline, followup), *remarks, *left_out)
    network = model_for(default_model(baseline.ndim) if model is None else model)  # sizes are measured in HU
    report("embedding")
    embeddings = (network.embed_on_device(baseline, device=device), network.embed_on_device(followup, device=device))
    report("aligning")
    try:
        fitted = _aligned(embeddings, device, seed)
        mirrored = why_mirrored((baseline, followup), embeddings, fitted.affine, network, device)
        if mirrored:
            raise ImagesAtFault(mirrored)
        transform = fitted.transform
        assert transform is not None
    except ImagesAtFault as fault:
        return LesionTracks((), baseline, followup, None, notes, fault.reason)
    report("matching lesions")
    matches = _match(embeddings, device, transform, inside)
    report("measuring lesions")
    tracked = tuple(_measure(baseline, followup, inside, matches, i) for i in range(len(inside)))
    notes += tuple(gone_note(lesion) for lesion in tracked if lesion.gone)
    return LesionTracks(tracked, baseline, followup, transform, notes)


@dataclass(frozen=True, eq=False)
class _Matches:
    """Where N lesions are in the follow-up; :class:`TrackedLesion` tells what the numbers are.

    Parameters
    ----------
    positions
        (N, 3) LPS mm.
    similarity, cycle_error, spread, reliability
        (N,) each.
    in_view
        (N,) boolean.
    expected_error
        (N,); None where the model has no fit.
    stretch
        (N,) by which the field stretches lengths around a lesion.
    """

    positions: FloatArray
    similarity: FloatArray
    cycle_error: FloatArray
    spread: FloatArray
    reliability: FloatArray
    in_view: NDArray[np.bool_]
    expected_error: FloatArray | None
    stretch: FloatArray


def _aligned(embeddings: Sequence[Embedding], device: str, seed: int) -> Seed:
    """Return the alignment of baseline and follow-up; raise :class:`ImagesAtFault` where there is none."""
    from samreg.seeding import make_seed

    fitted = make_seed(*embeddings, device=device, seed=seed)
    if fitted.transform is None:
        raise ImagesAtFault(fitted.reason)
    return fitted


def _match(embeddings: Sequence[Embedding], device: str, transform: Transform, lesions: Lesions) -> _Matches:
    """Let each lesion and its neighbours vote where it is, near where the field puts it."""
    from samreg.landmarks.match_reliability import expected_error_of
    from samreg.matching import Calibration, Prediction, features, match_points, vote

    baseline, followup = (features(embedding, device=device) for embedding in embeddings)
    centers = lesions.points.positions
    radius = np.where(np.isnan(lesions.radii), _DEFAULT_RADIUS_MM, lesions.radii)
    expected, jacobian = transform.transform_points(centers), transform.jacobian(centers, step=_JACOBIAN_STEP_MM)
    votes = vote(
        baseline, centers, followup, prediction=Prediction(expected, _SEARCH_RADIUS_MM, _SEARCH_PENALTY),
        matrix=jacobian, reach=np.stack([radius, radius + _SHELL_MM], axis=1),
    )  # fmt: skip
    around = Prediction(votes.positions, _SEARCH_RADIUS_MM, _SEARCH_PENALTY)
    pairs = match_points(baseline, centers, followup, prediction=around, home="anywhere")
    depth = embeddings[1].image_grid.depth(expected)
    calibration = Calibration.from_mapping(embeddings[0].calibration, landmarks=True)
    error_fit = expected_error_of(embeddings[0].model)
    return _Matches(
        positions=votes.positions,
        similarity=pairs.similarity,
        cycle_error=pairs.cycle_error,
        spread=votes.spread,
        reliability=calibration(pairs.similarity, pairs.cycle_error, spread=votes.spread, depth=depth),
        in_view=depth >= 0,
        expected_error=None if error_fit is None else error_fit(pairs.cycle_error, votes.spread, depth=depth),
        stretch=np.abs(np.linalg.det(jacobian)) ** (1 / 3),
    )


def _measure(baseline: Image, followup: Image, lesions: Lesions, matches: _Matches, i: int) -> TrackedLesion:
    """Measure lesion i at both visits."""
    center, drawn = lesions.points.positions[i], lesions.extents[i]
    position, stretch = matches.positions[i], float(matches.stretch[i])
    before, after = _grown_in(baseline, center, lesions.radii[i], core=_CORE_SHARE), None
    if isinstance(before, Extent) and drawn is not None and (overlap := _dice(before, drawn)) < _MIN_DICE:
        before = NotGrown(f"growing gives another extent than was drawn (Dice at most {overlap:.2f})")
    if isinstance(before, NotGrown):
        known, why = drawn, f"baseline: {before.why}"
    else:
        after = _grown_in(followup, position, stretch * before.diameter / 2, core=_CORE_SHARE_LATER)
        known, why = before, f"follow-up: {after.why}" if isinstance(after, NotGrown) else ""
    measured = after if isinstance(after, Extent) else None
    return TrackedLesion(
        name=lesions.points.names[i],
        baseline=center,
        followup=position if measured is None else measured.center,
        similarity=float(matches.similarity[i]),
        reliability=float(matches.reliability[i]),
        cycle_error=float(matches.cycle_error[i]),
        spread=float(matches.spread[i]),
        in_view=bool(matches.in_view[i]),
        before=known,
        after=measured,
        propagated=None if known is None else stretch * known.diameter,
        why=why,
        expected_error=None if matches.expected_error is None else float(matches.expected_error[i]),
        gone=isinstance(after, NotGrown) and after.is_lung and bool(matches.in_view[i]),
    )


def gone_note(lesion: TrackedLesion) -> str:
    """Return what the user should know of a lesion that is gone."""
    return (
        f"lesion {lesion.name} has gone, or shrunk to very little ({lesion.why}): its position is that of its "
        "surroundings, and its label in the follow-up is its extent in the baseline, carried over"
    )


def _grown_in(image: Image, center: FloatArray, radius: float, *, core: float) -> Extent | NotGrown:
    """Grow a lesion of about this radius (mm, or NaN) whose core lies within a share of it from the centre."""
    is_known = not np.isnan(radius)
    search = max(_MIN_CORE_MM, core * radius) if is_known else _CORE_MM
    for reach in [times * radius + more for times, more in _REACHES] if is_known else [_MAX_REACH_MM]:
        grown = grow(image, center, search=search, reach=reach)
        if isinstance(grown, Extent):
            break
    return grown


def _dice(a: Extent, b: Extent) -> float:
    """Return the Dice overlap, over a finer grid than either's that holds both.

    Where the volumes alone tell that it is too low, what they allow at most is returned.
    """
    highest = 2 * min(a.volume, b.volume) / (a.volume + b.volume)
    if highest < _MIN_DICE:  # an organ's box may be too large to sample so finely
        return highest
    corners = np.concatenate([a.grid.corners(), b.grid.corners()])
    low, spacing = corners.min(axis=0), min(a.grid.spacing.min(), b.grid.spacing.min())
    size = np.ceil((corners.max(axis=0) - low) / spacing).astype(int)
    grid = Grid.make(size[::-1], origin=low + spacing / 2, spacing=spacing)
    first, second = a.on(grid), b.on(grid)
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))

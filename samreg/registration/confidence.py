"""How far off a registration is likely to be, place by place, from evidence that the engine did not optimise.

At the points of a coarse grid over the fixed image several kinds of evidence are gathered (:data:`EVIDENCE`). A linear
score of them predicts the logarithm of the error, and a quantile regression of known errors on that score (Koenker and
Bassett, Econometrica 1978) says below what the error stays in four of five such places. Both were fitted to landmarks
of training people, and to simulated second visits of theirs, by ``python -m samreg.training.expected_error``, which
writes ``expected_error.json``. Around a landmark that both images show and the transform brings together, the error is
as small as it is there, whatever the rest says; and between two scans of one person it is smaller than between two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.registration.anchors import Anchors, find_anchors
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.transforms import Transform

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.matching import Correspondences, Features

COEFFICIENTS = Path(__file__).with_name("expected_error.json")
#: The kinds of evidence. ``residual``: of a lattice of matches searched anew around the transform; ``cycle``: how far
#: from its start their way back ends; ``loss``: of similarity from the match to the counterpart; ``overall``: the
#: residual of a lattice matched to the whole body. Distances are ln(mm + 4). The more of each, the larger the error.
MEASURED = ("residual", "cycle", "loss", "overall")
#: ``place``: ln(mm + 1) as it was at such a place of the body in other people. It comes with the fit.
EVIDENCE = (*MEASURED, "place")
#: By what a transform was made.
METHODS = ("embedding", "engine")

_MAP_MM, _GATHERED_MM = 4.0, 12.0  # voxels of the map, and of what changes slowly on it
_STEPS_A_MM = 16  # of what the map tells: files are half as large
_LATTICE_MM, _WINDOW_MM, _WINDOW_PENALTY = 20.0, 36.0, 0.1  # of the matches around the transform
_VIEW_MARGIN_MM = 4.0  # by which a match may be expected outside the moving image
_AROUND_MM, _ANCHORS_AROUND_MM = 20.0, 25.0  # standard deviations of the weights of what lies around a point
_NEIGHBOURS = 32
_MIN_ANCHOR_WEIGHT = 0.05
# What errors stay below in four of five places around a landmark or point that both images show: mm at it, mm more for
# each mm of distance and of what the transform misses it by, and how much more where it is less reliable, as a power
# of e. A quantile regression of 764 landmarks in 28 pairs of training people (docs/reliability.md).
_AT_PLACE_MM, _FROM_PLACE, _UNSURE_PLACE = 2.0, 0.78, 1.9
# The same around places on shoulder blades and on ribs, however near; landmarks were read on these alone, not beside.
_ON_SCAPULA_MM, _ON_RIB_MM = 10.0, 9.0
# Of what is told between people, told of an engine's result where both images show one person: in no simulated second
# visit of ten people do less than 81 % of the places err by less then, in all together 95 %.
_OF_ONE_PERSON = 0.6
# distance and miss together beyond which a place says nothing, and one on a rib, which is thin
_FAR_FROM_PLACE_MM, _FAR_FROM_RIB_MM = 16.0, 8.0
_SOFTNESS_MM = 4.0  # added to distances, whose logarithm is taken
_MAX_RESIDUAL_MM = 100.0
_ERROR_RANGE_MM = (0.5, 100.0)  # that is told
_LOG_SPREAD = 0.6  # standard deviation of ln(mm + 1) about what the evidence tells
_NORMAL_QUANTILE = 0.8416  # of 80 %


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for and against a transform around N points.

    Parameters
    ----------
    measured
        (N,) of each kind of :data:`MEASURED`.
    near
        (N, L) how much each landmark of the atlas counts for a point; rows add up to 1.
    names
        Of the landmarks.
    """

    measured: Mapping[str, FloatArray]
    near: FloatArray
    names: tuple[str, ...]

    def place(self, places: Mapping[str, float]) -> FloatArray:
        """Return the mean (N,) of values of landmarks around the points; one without has the mean of the others."""
        middle = float(np.mean([*places.values()])) if places else 0.0
        return np.asarray(self.near @ np.array([places.get(name, middle) for name in self.names]))


@dataclass(frozen=True)
class ErrorModel:
    """From evidence to the error that four of five points stay below.

    Parameters
    ----------
    weights
        Of each kind of evidence, in the score that predicts ln(mm + 1).
    places
        Mean ln(mm + 1) at landmarks, by their names.
    bias
        Of the score.
    quantile_bias, quantile_slope
        Of the 80th percentile of ln(mm + 1) given the score.

    Examples
    --------
    >>> model = ErrorModel({"residual": 1.0}, {}, 0.0, 0.5, 1.0)
    >>> model(Evidence({"residual": np.log([8.0, 16.0])}, np.zeros((2, 0)), ())).round(1)
    array([12.2, 25.4])
    """

    weights: Mapping[str, float]
    places: Mapping[str, float]
    bias: float
    quantile_bias: float
    quantile_slope: float

    def score(self, evidence: Evidence) -> FloatArray:
        """Return the predicted ln(mm + 1), (N,)."""
        known = {**evidence.measured, "place": evidence.place(self.places)}
        return np.asarray(self.bias + sum(weight * known[name] for name, weight in self.weights.items()))

    def __call__(self, evidence: Evidence) -> FloatArray:
        """Return the errors (N,), mm, that four of five such points stay below."""
        logarithm = self.quantile_bias + self.quantile_slope * self.score(evidence)
        return np.asarray(np.clip(np.expm1(np.minimum(logarithm, 10.0)), *_ERROR_RANGE_MM))

    @classmethod
    def shipped(cls, model: str, method: str) -> ErrorModel | None:
        """Return the fit for the embeddings of a model, ``name@fingerprint``, and a method; None where there is none.

        Parameters
        ----------
        model
            Name, and fingerprint or not.
        method
            Of :data:`METHODS`.
        """
        fits = _read(COEFFICIENTS).get(model)
        return None if fits is None else cls(**fits[method])


@cache
def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def expected_errors(
    fixed: Image,
    transform: Transform,
    embeddings: tuple[Embedding, Embedding],
    *,
    method: str = "engine",
    anchors: Anchors | None = None,
    turn: FloatArray | None = None,
    whole: Correspondences | None = None,
    device: str = "cpu",
) -> Image | None:
    """Return the expected error of a registration of volumes on a coarse grid, float32, mm.

    Parameters
    ----------
    fixed
        The fixed image.
    transform
        Fixed to moving, LPS mm.
    embeddings
        Of the images.
    method
        Of :data:`METHODS`.
    anchors
        The landmarks of the atlas that samreg ships for the embeddings' model, where they are known already.
    turn
        As for :func:`samreg.registration.anchors.find_anchors`.
    whole
        The embeddings' lattice, matched to the whole body (:func:`samreg.seeding.seed.match_lattice`), where it is
        known already.
    device
        Where to match.

    Returns
    -------
    Image or None
        None for models that were not calibrated or whose landmark atlas is missing, and where nothing of the fixed body
        lies in the moving image.
    """
    from samreg.landmarks.atlas import shipped_atlas
    from samreg.landmarks.guided import show_one_person

    model, atlas = ErrorModel.shipped(embeddings[0].model, method), shipped_atlas(embeddings[0].model)
    if fixed.ndim != 3 or model is None or atlas is None:
        return None
    gathered, grid = (
        fixed.grid.with_spacing(np.maximum(np.minimum(mm, fixed.grid.extent / 2), fixed.spacing))
        for mm in (_GATHERED_MM, _MAP_MM)
    )
    points = gathered.world_points().reshape(-1, 3)
    if anchors is None:
        anchors = find_anchors(embeddings, atlas, turn=turn, device=device)
    if whole is None:
        whole = _matched_whole(embeddings, device)
    evidence = gather(points, transform, embeddings, anchors, whole=whole, device=device)
    if evidence is None:
        return None
    points = grid.world_points().reshape(-1, 3)
    told = np.expm1(_sampled(np.log1p(model(evidence)).reshape(gathered.shape), gathered, points))
    if method == "engine" and show_one_person(whole):  # embeddings alone err by more than that
        told *= _OF_ONE_PERSON
    error = np.minimum(told, _around_places(points, transform, anchors))
    error = np.round(error * _STEPS_A_MM) / _STEPS_A_MM
    return Image(error.reshape(grid.shape).astype(np.float32), grid, "expected error")


def at_points(expected: Image, points: FloatArray) -> FloatArray:
    """Return an error map's values at points (N, 3), LPS mm; (N,) mm."""
    return _sampled(expected.array, expected.grid, points)


def share_within(expected: FloatArray, limit: float) -> float:
    """Return the share of places whose error is probably at most a limit, mm, by their expected errors (N,).

    The errors are taken to be log-normal.

    Examples
    --------
    >>> share_within(np.array([10.0]), 10.0)
    0.8
    """
    from scipy.special import ndtr

    distance = (np.log1p(limit) - np.log1p(expected)) / _LOG_SPREAD
    return round(float(ndtr(distance + _NORMAL_QUANTILE).mean()), 3)


def gather(
    points: FloatArray,
    transform: Transform,
    embeddings: tuple[Embedding, Embedding],
    anchors: Anchors,
    *,
    whole: Correspondences | None = None,
    device: str = "cpu",
) -> Evidence | None:
    """Return the evidence at points (N, 3) of the fixed image, LPS mm.

    None where nothing of the fixed body lies in the moving image. ``whole`` is as for :func:`expected_errors`.
    """
    from samreg.matching import features

    source, target = (features(embedding, device=device) for embedding in embeddings)
    around = _matches_around(points, transform, source, target, embeddings[1].image_grid)
    if around is None:
        return None
    if whole is None:
        whole = _matched_whole(embeddings, device)
    overall = _log(whole.moving - transform.transform_points(whole.fixed))[:, None]
    measured = {**around, "overall": _mean_around(points, whole.fixed, overall)[:, 0]}
    return Evidence(measured, _near(points, anchors), anchors.names)


def _matched_whole(embeddings: tuple[Embedding, Embedding], device: str) -> Correspondences:
    """Return the lattice of the fixed embedding, matched to all of the moving one."""
    from samreg.matching import features
    from samreg.matching.reliability import Calibration
    from samreg.seeding.seed import match_lattice

    source, target = (features(embedding, device=device) for embedding in embeddings)
    return match_lattice(source, target, calibration=Calibration.from_mapping(embeddings[0].calibration))


def _matches_around(
    points: FloatArray, transform: Transform, source: Features, target: Features, grid: Grid
) -> dict[str, FloatArray] | None:
    """Match a lattice around the transform; return residual, cycle and loss at points (N, 3), (N,) each."""
    from samreg.matching.features import interpolate
    from samreg.matching.matching import lattice, match_points
    from samreg.matching.search import Prediction

    places = lattice(source, _LATTICE_MM * source.scale)
    expected = transform.transform_points(places)
    shown = grid.contains(expected, margin=_VIEW_MARGIN_MM * source.scale)
    if not shown.any():
        return None
    places, expected = places[shown], expected[shown]
    window = Prediction(expected, _WINDOW_MM * source.scale, _WINDOW_PENALTY)
    pairs = match_points(source, places, target, prediction=window, coarse=True, home="anywhere")
    at_counterpart = (interpolate(source, places) * interpolate(target, expected)).sum(dim=1).cpu().numpy()
    values = np.column_stack(
        [_log(pairs.moving - expected), np.log(pairs.cycle_error + _SOFTNESS_MM), pairs.similarity - at_counterpart]
    )
    return dict(zip(("residual", "cycle", "loss"), _mean_around(points, places, values).T, strict=True))


def _around_places(points: FloatArray, transform: Transform, anchors: Anchors) -> FloatArray:
    """Return below what errors stay around landmarks, points and places on bones that both images show, mm.

    ``points`` (N, 3) are of the fixed image, LPS mm; the result is (N,), infinite far from all.
    """
    from scipy.spatial import KDTree

    fixed, moving, reliability = anchors.single
    at, rise = np.exp(_UNSURE_PLACE * (1 - reliability)) * np.array([[_AT_PLACE_MM], [_FROM_PLACE]])
    reach = np.full(len(fixed), _FAR_FROM_PLACE_MM)
    if anchors.guides is not None:
        for bones, mm, far in (
            (anchors.on_scapulae, _ON_SCAPULA_MM, _FAR_FROM_PLACE_MM),
            (anchors.on_ribs, _ON_RIB_MM, _FAR_FROM_RIB_MM),
        ):
            fixed, moving = np.concatenate([fixed, bones[0]]), np.concatenate([moving, bones[1]])
            at, rise = np.append(at, np.full(bones.shape[1], mm)), np.append(rise, np.zeros(bones.shape[1]))
            reach = np.append(reach, np.full(bones.shape[1], far))
    missed = np.linalg.norm(transform.transform_points(fixed) - moving, axis=1)
    met = missed < reach
    around = KDTree(points).query_ball_point(fixed[met], (reach - missed)[met])
    below = np.full(len(points), np.inf)
    for place, miss, mm, slope, rows in zip(fixed[met], missed[met], at[met], rise[met], around, strict=True):
        off = np.linalg.norm(points[rows] - place, axis=1) + miss
        below[rows] = np.minimum(below[rows], mm + slope * off)
    return below


def _near(points: FloatArray, anchors: Anchors) -> FloatArray:
    """Return what each landmark counts for each point, (N, L); rows add up to 1."""
    weight = np.prod(anchors.reliability, axis=0) + _MIN_ANCHOR_WEIGHT
    squared = ((anchors.fixed[None] - points[:, None]) ** 2).sum(axis=2)
    near = np.exp(-0.5 * (squared - squared.min(axis=1, keepdims=True)) / _ANCHORS_AROUND_MM**2) * weight
    return np.asarray(near / near.sum(axis=1, keepdims=True))


def _mean_around(points: FloatArray, places: FloatArray, values: FloatArray) -> FloatArray:
    """Return the means (N, K) of values (M, K) at the places (M, 3) nearest to points (N, 3), Gaussian in distance."""
    from scipy.spatial import cKDTree

    count = min(_NEIGHBOURS, len(places))
    distance, index = (part.reshape(len(points), count) for part in cKDTree(places).query(points, k=count))
    weight = np.exp(-0.5 * (distance**2 - distance[:, :1] ** 2) / _AROUND_MM**2)  # the nearest counts, however far
    return np.asarray(np.einsum("nk,nkc->nc", weight, values[index]) / weight.sum(axis=1, keepdims=True))


def _log(offset: FloatArray) -> FloatArray:
    return np.asarray(np.log(np.minimum(np.linalg.norm(offset, axis=1), _MAX_RESIDUAL_MM) + _SOFTNESS_MM))


def _sampled(array: NDArray[np.floating[Any]], grid: Grid, points: FloatArray) -> FloatArray:
    """Return the values of a map at points (N, 3), linearly, the border's outside."""
    from scipy.ndimage import map_coordinates

    index = grid.world_to_index(points).T[::-1]
    return np.asarray(map_coordinates(array.astype(np.float64), index, order=1, mode="nearest"))

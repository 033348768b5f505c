r"""Fitting the expected error of registrations to landmarks of training people.

    python -m samreg.training.expected_error IMAGES data/landmarks/train/landmarks.csv --model ct-small \
        --unseen AMOS-0336 NSCLCRG-R01-001 CPTAC-C3N-00249

Pairs of people are registered by the default method, preset "fast", without landmarks as guides, and by their
embeddings alone; evidence is gathered at the landmarks (:mod:`samreg.registration.confidence`) and the fit written to
``expected_error.json`` beside that module. So is every person with a simulated second visit, whose true transform is
known, at points drawn from the body: they show what small errors look like, such as two scans of one person have. What
each kind of evidence says is learnt from all of these; how large the errors are between people, from the pairs with one
whom the model's training left out, as it errs less in the others. Printed is how well the fit does on those, and on the
second visits, by fits to other people.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import joblib
import numpy as np

import samreg
from samreg.embedding.kept import KeepingModel
from samreg.errors import InputError
from samreg.landmarks.atlas import LandmarkAtlas, shipped_atlas
from samreg.phantoms import simulate_followup
from samreg.registration.anchors import find_anchors
from samreg.registration.confidence import COEFFICIENTS, EVIDENCE, MEASURED, METHODS, ErrorModel, Evidence, gather
from samreg.spatial.files import atomic_path
from samreg.spatial.grid import FloatArray
from samreg.spatial.points import Points
from samreg.training.data import named_images, require_left_out
from samreg.training.landmark_pairs import read_landmarks
from samreg.training.program import faults_said

_MIN_LANDMARKS = 15  # that both people of a pair have
_QUANTILE = 0.82  # so that it is 0.8 for people left out
_RIDGE = 3.0  # in the number of landmarks
_PRIOR_COUNT = 5.0  # errors of the mean, beside those seen at a landmark
_FOLLOWUP_STRENGTHS = (0.5, 1.0, 2.0)  # of the second visits, in turns
_FOLLOWUP_POINTS = 10  # of each: more would make the fit worse between people, who err by more
_SAID_MM, _GROSS_MM = 10.0, 30.0  # of the measures that are printed


@dataclass(frozen=True, eq=False)
class Case:
    """Landmarks of one registration.

    Parameters
    ----------
    people
        Names of the fixed and the moving one.
    method
        By what it was made, of ``samreg.registration.confidence.METHODS``.
    names
        Of the N landmarks; empty for the points of a simulated second visit.
    evidence
        At the landmarks.
    errors
        (N,) mm.
    """

    people: tuple[str, str]
    method: str
    names: tuple[str, ...]
    evidence: Evidence
    errors: FloatArray

    @property
    def is_of_one_person(self) -> bool:
        """Whether the moving image is a simulated second visit of the fixed."""
        return self.people[0] == self.people[1]


def fit(cases: Sequence[Case], unseen: Sequence[Case] = ()) -> ErrorModel:
    """Fit an error model: ridge regression of ln(mm + 1) with weights of at least 0, then its 80th percentile.

    The percentile of the cases ``unseen``, where there are some, sets the level.
    """
    from scipy.optimize import minimize, nnls

    places = [places_of(others_than(case, cases)) for case in cases]  # of other people, as in use
    evidence = np.concatenate(
        [
            np.column_stack([*(case.evidence.measured[kind] for kind in MEASURED), case.evidence.place(known)])
            for case, known in zip(cases, places, strict=True)
        ]
    )
    target = np.log1p(np.concatenate([case.errors for case in cases]))
    mean, spread = evidence.mean(axis=0), evidence.std(axis=0) + 1e-6
    design = (evidence - mean) / spread
    damped = np.vstack([design, _RIDGE**0.5 * np.eye(len(EVIDENCE))])
    slope = nnls(damped, np.concatenate([target - target.mean(), np.zeros(len(EVIDENCE))]))[0] / spread
    bias = float(target.mean() - slope @ mean)
    score = bias + evidence @ slope

    def pinball(line: FloatArray) -> float:
        residual = target - line[0] - line[1] * score
        return float(np.maximum(_QUANTILE * residual, (_QUANTILE - 1) * residual).mean())

    line = minimize(pinball, [0.5, 1.0], method="Nelder-Mead").x
    weights = {kind: round(float(value), 4) for kind, value in zip(EVIDENCE, slope, strict=True)}
    model = ErrorModel(weights, places_of(cases), *(round(float(value), 4) for value in (bias, *line)))
    if not unseen:
        return model
    excess = [np.log1p(case.errors) - model.quantile_slope * model.score(case.evidence) for case in unseen]
    return replace(model, quantile_bias=round(float(np.quantile(np.concatenate(excess), _QUANTILE)), 4))


def places_of(cases: Sequence[Case]) -> dict[str, float]:
    """Return the mean ln(mm + 1) at each landmark, drawn towards that of all where it was seen seldom."""
    seen: dict[str, list[float]] = {}
    for case in between_people(cases):
        for name, error in zip(case.names, case.errors, strict=True):
            seen.setdefault(name, []).append(float(np.log1p(error)))
    middle = float(np.mean([value for values in seen.values() for value in values])) if seen else 0.0
    return {
        name: round((sum(values) + _PRIOR_COUNT * middle) / (len(values) + _PRIOR_COUNT), 3)
        for name, values in sorted(seen.items())
    }


def others_than(case: Case, cases: Sequence[Case]) -> list[Case]:
    """Return the cases that share no person with one."""
    return [other for other in cases if not set(other.people) & set(case.people)]


def between_people(cases: Iterable[Case]) -> list[Case]:
    """Return the cases of two people."""
    return [case for case in cases if not case.is_of_one_person]


def left_out(
    cases: Sequence[Case], unseen: Sequence[Case] = (), *, of: Sequence[Case] | None = None
) -> list[FloatArray]:
    """Return the expected errors (N,) of cases by fits to those that share no person with them.

    Parameters
    ----------
    cases, unseen
        What is fitted, as in :func:`fit`.
    of
        The cases whose errors are told; those unseen, or all without, unless given.
    """
    told = (unseen or cases) if of is None else of
    return [fit(others_than(case, cases), others_than(case, unseen))(case.evidence) for case in told]


def gather_case(
    fixed: str,
    moving: str,
    images: dict[str, samreg.Image],
    landmarks: dict[str, Points],
    model: samreg.embedding.EmbeddingModel,
    transforms: dict[str, samreg.spatial.Transform],
) -> list[Case]:
    """Return the landmarks of a pair with their evidence, for each method's transform."""
    names = [name for name in landmarks[fixed].names if name in set(landmarks[moving].names)]
    first, second = (landmarks[person].named(names).positions for person in (fixed, moving))
    embeddings = model.embed(images[fixed]), model.embed(images[moving])
    atlas = _atlas_without({fixed, moving}, model)
    pair = images[fixed], images[moving]
    return _cases((fixed, moving), tuple(names), (first, second), pair, embeddings, atlas, transforms)


def gather_followup(person: str, image: samreg.Image, model: samreg.embedding.EmbeddingModel, seed: int) -> list[Case]:
    """Return points of a person, registered to a simulated second visit, with their evidence, for each method."""
    pair = simulate_followup(image, strength=_FOLLOWUP_STRENGTHS[seed % len(_FOLLOWUP_STRENGTHS)], seed=seed)
    embeddings = model.embed(pair.baseline), model.embed(pair.followup)
    atlas = _atlas_without({person}, model)
    transforms = _registered(pair.baseline, pair.followup, model)
    body = embeddings[0].local_grid.world_points()[embeddings[0].body]
    counterparts = pair.transform.transform_points(body)
    shown = np.flatnonzero(pair.followup.grid.contains(counterparts))
    chosen = np.random.default_rng(seed).permutation(shown)[:_FOLLOWUP_POINTS]
    images = pair.baseline, pair.followup
    points = body[chosen], counterparts[chosen]
    return _cases((person, person), (), points, images, embeddings, atlas, transforms)


def _atlas_without(people: Collection[str], model: samreg.embedding.EmbeddingModel) -> LandmarkAtlas:
    """Return the atlas shipped for a model without the landmarks of some people, as it is in use."""
    atlas = shipped_atlas(model.identity)
    if atlas is None:
        raise InputError(f"samreg ships no landmark atlas for {model.identity}; make it first")
    return atlas.without_people(people)


def _registered(
    fixed: samreg.Image, moving: samreg.Image, model: samreg.embedding.EmbeddingModel
) -> dict[str, samreg.spatial.Transform]:
    """Return the transforms of both methods; none where the registration failed.

    No landmarks guide the engine: those whose errors are known are of the atlas's kinds, and what is drawn together
    says little of all other places.
    """
    result = samreg.register(fixed, moving, model=model, anchors=False, engine_options={"preset": "fast"}, threads=1)
    if result.transform is None or result.seed is None or result.seed.transform is None:
        print(f"{fixed.name} <- {moving.name}: {result.reason}", flush=True)
        return {}
    return {"engine": result.transform, "embedding": result.seed.transform}


def _cases(
    people: tuple[str, str],
    names: tuple[str, ...],
    points: tuple[FloatArray, FloatArray],
    images: tuple[samreg.Image, samreg.Image],
    embeddings: tuple[samreg.Embedding, samreg.Embedding],
    atlas: LandmarkAtlas,
    transforms: Mapping[str, samreg.spatial.Transform],
) -> list[Case]:
    """Return the evidence and errors of transforms at points (N, 3) of the fixed and the moving image, LPS mm."""
    anchors = find_anchors(embeddings, atlas)
    first, second = points
    gathered = {method: gather(first, transform, embeddings, anchors) for method, transform in transforms.items()}
    return [
        Case(
            people, method, names, evidence, np.linalg.norm(transforms[method].transform_points(first) - second, axis=1)
        )
        for method, evidence in gathered.items()
        if evidence is not None
    ]


def pairs_of(landmarks: dict[str, Points], count: int, *, unseen: Collection[str] = ()) -> list[tuple[str, str]]:
    """Return pairs that share enough landmarks, each person about equally often; of these people alone, if any."""
    people = list(landmarks)
    rounds = [(a, people[(i + step) % len(people)]) for step in range(1, len(people)) for i, a in enumerate(people)]
    names = {person: set(points.names) for person, points in landmarks.items()}
    wanted = [(a, b) for a, b in rounds if not unseen or a in unseen or b in unseen]
    shared = [(a, b) for a, b in wanted if len(names[a] & names[b]) >= _MIN_LANDMARKS]
    return [shared[i] for i in np.random.default_rng(0).permutation(len(shared))[:count]]


def report(cases: Sequence[Case], unseen: Collection[str] = ()) -> None:
    """Print how well expected errors tell the errors of people left out, of those unseen if any."""
    from scipy.stats import spearmanr

    for method in METHODS:
        known, some = _by_method(cases, method, unseen)
        tested = some or between_people(known)
        expected = left_out(known, some, of=tested)
        ranked = [spearmanr(*both)[0] for both in zip(expected, (case.errors for case in tested), strict=True)]
        overall = spearmanr(np.concatenate(expected), np.concatenate([case.errors for case in tested]))[0]
        gross = np.array([case.errors.max() > _GROSS_MM for case in tested])
        worst = np.array([np.percentile(values, 90) for values in expected])
        print(
            f"{method}, pairs of people: {_told(expected, tested)}; Spearman {overall:.2f}, within pairs "
            f"{np.nanmean(ranked):.2f}; AUC for an error above {_GROSS_MM:g} mm in a pair {_auc(worst, gross):.2f} "
            f"({gross.sum()} of {len(gross)})"
        )
        if visits := [case for case in known if case.is_of_one_person]:
            print(f"{method}, second visits: {_told(left_out(known, some, of=visits), visits)}")


def _told(expected: Sequence[FloatArray], cases: Sequence[Case]) -> str:
    """Return in words how what is told of cases compares with their errors."""
    errors, told = np.concatenate([case.errors for case in cases]), np.concatenate(expected)
    within = told <= _SAID_MM
    right = np.mean(errors[within] <= _SAID_MM) if within.any() else np.nan
    return (
        f"{len(cases)}, {len(errors)} points, mean error {errors.mean():.1f} mm, told {told.mean():.1f} mm; "
        f"{np.mean(errors <= told):.0%} below what is told; {within.mean():.0%} said to be within {_SAID_MM:g} mm, of "
        f"which {right:.0%} are"
    )


def _auc(score: FloatArray, positive: np.ndarray) -> float:
    first, second = score[positive][:, None], score[~positive][None]
    return float(((first > second) + 0.5 * (first == second)).mean()) if first.size and second.size else float("nan")


def _by_method(cases: Sequence[Case], method: str, unseen: Collection[str]) -> tuple[list[Case], list[Case]]:
    """Return the cases of a method, and of these the ones of two people with one unseen."""
    known = [case for case in cases if case.method == method]
    return known, [case for case in between_people(known) if set(case.people) & set(unseen)]


def write(cases: Sequence[Case], path: Path, model: str, unseen: Collection[str] = ()) -> None:
    """Fit to all cases and keep the coefficients for the model."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[model] = {method: asdict(fit(*_by_method(cases, method, unseen))) for method in METHODS}
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("landmarks", type=Path)
    parser.add_argument("--model", default="ct-small")
    parser.add_argument("--pairs", type=int, default=30, help="of all people, and as many with an unseen one")
    parser.add_argument("--unseen", nargs="*", default=[], help="people the model's training left out")
    parser.add_argument("--keep", type=Path, help="file in which gathered pairs are kept, to go on from")
    parser.add_argument("--out", type=Path, default=COEFFICIENTS)
    given = parser.parse_args(arguments)
    with faults_said(parser):
        _calibrate(given)
    return 0


def _calibrate(arguments: argparse.Namespace) -> None:
    known = read_landmarks(arguments.landmarks)
    require_left_out("--unseen", arguments.unseen, known)
    landmarks = {name: points for name, points in known.items() if len(points) >= _MIN_LANDMARKS}
    known_images = named_images(arguments.images, landmarks)
    images = {name: samreg.read_image(known_images[name]) for name in landmarks}
    gathered: dict[tuple[str, str, str], list[Case]] = {}  # by model and people
    if arguments.keep is not None and arguments.keep.is_file():
        gathered = joblib.load(arguments.keep)
    pairs = pairs_of(landmarks, arguments.pairs)
    if arguments.unseen:
        pairs += pairs_of(landmarks, arguments.pairs, unseen=arguments.unseen)
    folder = tempfile.TemporaryDirectory()
    model = KeepingModel(samreg.load_model(arguments.model), Path(folder.name), [*images.values()])

    def keep(fixed: str, moving: str, cases: list[Case]) -> None:
        gathered[model.identity, fixed, moving] = cases
        print(f"{fixed} <- {moving}: {', '.join(f'{case.errors.mean():.1f} mm' for case in cases)}", flush=True)
        if arguments.keep is not None:
            with atomic_path(arguments.keep) as temporary:
                joblib.dump(gathered, temporary)

    for fixed, moving in dict.fromkeys(pairs):
        if (model.identity, fixed, moving) in gathered:
            continue
        if transforms := _registered(images[fixed], images[moving], model):
            keep(fixed, moving, gather_case(fixed, moving, images, landmarks, model, transforms))
    for seed, (person, path) in enumerate(sorted(known_images.items())):
        if (model.identity, person, person) not in gathered:
            keep(person, person, gather_followup(person, samreg.read_image(path), model, seed))
    cases = [case for (identity, *_), some in gathered.items() if identity == model.identity for case in some]
    report(cases, arguments.unseen)
    write(cases, arguments.out, model.identity, arguments.unseen)
    folder.cleanup()


if __name__ == "__main__":
    # under its own name, so that cases that are kept can be read by other programs
    from samreg.training import expected_error

    sys.exit(expected_error.main())

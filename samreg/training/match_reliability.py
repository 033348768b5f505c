r"""Calibrating the reliability and expected error of ``samreg.match`` between people, on landmarks of training people.

    python -m samreg.training.match_reliability IMAGES data/landmarks/train/landmarks.csv --model ct-small \
        --unseen AMOS-0336 NSCLCRG-R01-001 CPTAC-C3N-00249

Landmarks of one person are searched in another, and the probability that a match lies within 10 mm of the truth is
fitted to what it shows; so is the error that four of five matches stay below, and that of the places on which several
people's landmarks agree (:func:`samreg.match_set`). What the evidence says is learnt from all pairs; how good matches
are on the whole, from those with a person whom the model's training left out. All are written to
``samreg/landmarks/match_reliability.json``. Printed are, on the latter, fitted to neither of their people, the expected
calibration error (Naeini et al., AAAI 2015, ten bins of equal size), how often the error is within what is told, and
how the told and the true errors rank (Spearman).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import samreg
from samreg.landmarks.atlas import shipped_atlas
from samreg.landmarks.guided import guided_matches
from samreg.landmarks.match import LandmarkMatches
from samreg.landmarks.match_reliability import EXPECTED_ERROR, EXPECTED_ERROR_OF_SETS, MATCH_RELIABILITY
from samreg.landmarks.skeleton import CommonPlaces, common_places, no_places, survey, without_places
from samreg.landmarks.templates import TemplateMatches, combined
from samreg.matching import Features, features
from samreg.matching.reliability import Calibration, ExpectedError, fit_calibration, fit_expected_error, with_mean
from samreg.spatial.grid import FloatArray
from samreg.spatial.points import Points
from samreg.training.data import named_images, require_left_out
from samreg.training.landmark_pairs import read_landmarks
from samreg.training.program import faults_said

_TOLERANCE_MM = 10.0
_MIN_LANDMARKS = 3  # that both people of a pair have
_BINS = 10
# places so near a point are not used for it, as what was read are landmarks and what is matched mostly is not; points
# of a pair are matched in so many parts
_AT_POINT_MM, _FOLDS = 8.0, 4
_QUANTILE = 0.82  # so that it is 0.8 for people left out
_SET_SIZES = (2, 3, 5, 7)  # of the people who place landmarks together

Fit = TypeVar("Fit", Calibration, ExpectedError)
#: The people of a pair, and (N, 4) similarity, cycle error, spread of the votes and true error of its matches. Where
#: several people place landmarks together, the person searched, and in place of the first three nothing, the median of
#: the errors expected of their matches, and the spread of these.
Pair = tuple[set[str], FloatArray]


def fit(pairs: Sequence[Pair], unseen: Sequence[Pair] = ()) -> Calibration:
    """Fit the probability to the matches of pairs; how high it is on the whole, to those of pairs unseen, if any."""
    similarity, cycle, spread, error = np.concatenate([values for _, values in pairs]).T
    calibration = fit_calibration(similarity, cycle, error, spread=spread, tolerance=_TOLERANCE_MM)
    if not unseen:
        return calibration
    similarity, cycle, spread, error = np.concatenate([values for _, values in unseen]).T
    return with_mean(calibration, float(np.mean(error <= _TOLERANCE_MM)), similarity, cycle, spread=spread)


def fit_error(pairs: Sequence[Pair], unseen: Sequence[Pair] = ()) -> ExpectedError:
    """Fit the expected error, as :func:`fit`; the similarity tells it nothing that the rest does not."""
    _, cycle, spread, error = np.concatenate([values for _, values in pairs]).T
    expected = fit_expected_error(cycle, spread, error, quantile=_QUANTILE)
    if not unseen:
        return expected
    _, cycle, spread, error = np.concatenate([values for _, values in unseen]).T
    excess = np.log1p(error) - np.log1p(expected(cycle, spread))
    return replace(expected, bias=expected.bias + float(np.quantile(excess, _QUANTILE)))


def left_out(pairs: Sequence[Pair], unseen: Sequence[Pair] = ()) -> FloatArray:
    """Return the probabilities of the matches of pairs, or those unseen, by fits that share no person with theirs."""
    return np.concatenate(
        [told(values[:, 0], values[:, 1], spread=values[:, 2]) for told, values in _others(pairs, unseen, fit)]
    )


def errors_left_out(pairs: Sequence[Pair], unseen: Sequence[Pair] = ()) -> list[FloatArray]:
    """Return the expected errors of each pair's matches, mm, as :func:`left_out`."""
    return [told(values[:, 1], values[:, 2]) for told, values in _others(pairs, unseen, fit_error)]


def _others(
    pairs: Sequence[Pair], unseen: Sequence[Pair], fitted: Callable[[Sequence[Pair], Sequence[Pair]], Fit]
) -> Iterator[tuple[Fit, FloatArray]]:
    """Yield for each pair, or each unseen, a fit to the others that share no person with it, and its values."""
    for people, values in unseen or pairs:
        others = ([pair for pair in some if not pair[0] & people] for some in (pairs, unseen))
        yield fitted(*others), values


def calibration_error(told: FloatArray, right: NDArray[np.bool_]) -> float:
    """Return the mean difference between what is told and how often it is right, over bins of equal size.

    Examples
    --------
    >>> calibration_error(np.full(100, 0.75), np.arange(100) % 4 > 0)
    0.0
    """
    parts = np.array_split(np.argsort(told, kind="stable"), _BINS)
    gaps = [abs(float(told[part].mean() - right[part].mean())) * len(part) for part in parts if len(part)]
    return round(sum(gaps) / len(told), 4) if told.std() > 0 else round(abs(float(told.mean() - right.mean())), 4)


def _rounded(coefficients: Any) -> dict[str, float]:
    return {key: round(value, 4) for key, value in asdict(coefficients).items()}


def _places(
    pair: tuple[str, str], embeddings: Mapping[str, samreg.Embedding], prepared: Mapping[str, Features]
) -> CommonPlaces:
    """Return the places that both people show, found by what the landmark atlas knows of all others."""
    atlas = shipped_atlas(embeddings[pair[0]].model)
    if atlas is None:
        return no_places(embeddings[pair[0]].image_grid.ndim)
    atlas = atlas.without_people(pair)
    return common_places(*(survey(atlas, embeddings[person], prepared[person]) for person in pair))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("landmarks", type=Path)
    parser.add_argument("--model", default="ct-small")
    parser.add_argument("--pairs", type=int, default=100, help="of all people, and as many with an unseen one")
    parser.add_argument("--unseen", nargs="*", default=[], help="people the model's training left out")
    parser.add_argument("--out", type=Path, default=MATCH_RELIABILITY)
    given = parser.parse_args(arguments)
    with faults_said(parser):
        _calibrate(given)
    return 0


def _matched(
    pair: tuple[str, str],
    landmarks: Mapping[str, Points],
    embeddings: Mapping[str, samreg.Embedding],
    prepared: Mapping[str, Features],
) -> LandmarkMatches | None:
    """Return where the first person's landmarks are found in the second, of unknown reliability; None without any."""
    fixed, moving = pair
    names = [name for name in landmarks[fixed].names if name in set(landmarks[moving].names)]
    if len(names) < _MIN_LANDMARKS:
        return None
    points = landmarks[fixed].named(names).positions
    places = _places(pair, embeddings, prepared)
    parts = []
    for part in (slice(k, None, _FOLDS) for k in range(min(_FOLDS, len(names)))):
        guided, _ = guided_matches(
            prepared[fixed], points[part], prepared[moving],
            grid=embeddings[moving].image_grid, calibration=Calibration.from_mapping(embeddings[fixed].calibration),
            places=without_places(places, points[part], _AT_POINT_MM),
        )  # fmt: skip
        if guided is not None:
            found = guided.matches
            parts.append((names[part], found.moving, found.similarity, found.cycle_error, guided.spread))
    if not parts:
        return None
    found_names, positions, similarity, cycle, spread = (np.concatenate(values) for values in zip(*parts, strict=True))
    unknown = np.full(len(positions), np.nan)
    inside = np.ones(len(positions), dtype=bool)
    return LandmarkMatches(positions, tuple(found_names.tolist()), similarity, unknown, cycle, spread, inside)


def _evidence(found: LandmarkMatches | TemplateMatches, truth: Points) -> FloatArray:
    """Return what matches show, and how far they are from the landmarks of the person searched, as in :data:`Pair`."""
    error = np.linalg.norm(found.points - truth.named(found.names).positions, axis=1)
    if isinstance(found, TemplateMatches):
        return np.column_stack([np.full(len(found), np.nan), found.expected_error, found.spread, error])
    return np.column_stack([found.similarity, found.cycle_error, found.spread, error])


def template_sets(matched: Mapping[tuple[str, str], LandmarkMatches], landmarks: Mapping[str, Points]) -> list[Pair]:
    """Return the evidence and errors of landmarks that two and more people place together, drawn for each person.

    Parameters
    ----------
    matched
        Where the landmarks of one person are found in another, with their reliability and expected error.
    landmarks
        Of each person.

    Returns
    -------
    list of Pair
        Of the person searched alone, without similarity: one for each of 2, 3, 5 and 7 people drawn, as far as so many
        were matched.
    """
    rng = np.random.default_rng(0)
    sets = []
    for target in landmarks:
        people = [fixed for fixed, moving in matched if moving == target]
        for size in (size for size in _SET_SIZES if size <= len(people)):
            drawn = [people[i] for i in rng.permutation(len(people))[:size]]
            found = combined({person: matched[person, target] for person in drawn})
            several = found.templates > 1
            if several.any():
                sets.append(({target}, _evidence(found, landmarks[target])[several]))
    return sets


def _report(pairs: Sequence[Pair], unseen: Sequence[Pair]) -> None:
    """Print how well reliability and expected error are told of pairs, those unseen if any, that are not fitted to."""
    tested = unseen or pairs
    told, right = left_out(pairs, unseen), np.concatenate([values[:, 3] for _, values in tested]) <= _TOLERANCE_MM
    print(
        f"{len(right)} matches of {len(tested)} pairs, {right.mean():.0%} within {_TOLERANCE_MM:g} mm, told "
        f"{told.mean():.0%}; expected calibration error {calibration_error(told, right):.3f}"
    )
    _report_errors(pairs, unseen)


def _report_errors(pairs: Sequence[Pair], unseen: Sequence[Pair]) -> None:
    """Print how well expected errors are told of pairs, those unseen if any, that are not fitted to."""
    from scipy.stats import spearmanr

    tested = unseen or pairs
    expected, errors = errors_left_out(pairs, unseen), [values[:, 3] for _, values in tested]
    within = np.mean(np.concatenate(errors) <= np.concatenate(expected))
    overall = spearmanr(np.concatenate(expected), np.concatenate(errors)).statistic
    ranked = [spearmanr(*both).statistic for both in zip(expected, errors, strict=True) if len(both[0]) >= _BINS]
    print(
        f"{within:.0%} of the errors are within what is told; Spearman of told and true {overall:.2f}, "
        f"{np.mean(ranked):.2f} in a pair"
    )


def _calibrate(arguments: argparse.Namespace) -> None:
    model = samreg.load_model(arguments.model)
    landmarks = read_landmarks(arguments.landmarks)
    require_left_out("--unseen", arguments.unseen, landmarks)
    images = named_images(arguments.images, landmarks)
    embeddings = {name: model.embed(samreg.read_image(images[name])) for name in landmarks}
    prepared = {name: features(embedding) for name, embedding in embeddings.items()}
    everyone = list(itertools.permutations(landmarks, 2))
    with_unseen = [pair for pair in everyone if set(arguments.unseen) & set(pair)]
    chosen = {
        ordered[i]: None
        for ordered in (everyone, with_unseen)
        for i in np.random.default_rng(0).permutation(len(ordered))[: arguments.pairs]
    }
    found = {pair: _matched(pair, landmarks, embeddings, prepared) for pair in chosen}
    matched = {pair: matches for pair, matches in found.items() if matches is not None}
    pairs = [({*pair}, _evidence(matches, landmarks[pair[1]])) for pair, matches in matched.items()]
    unseen = [pair for pair in pairs if pair[0] & set(arguments.unseen)]
    _report(pairs, unseen)
    reliability, expected = fit(pairs, unseen), fit_error(pairs, unseen)
    told = {
        pair: replace(
            one,
            reliability=reliability(one.similarity, one.cycle_error, spread=one.spread),
            expected_error=expected(one.cycle_error, one.spread),
        )
        for pair, one in matched.items()
    }
    sets = template_sets(told, landmarks)
    unseen_sets = [one for one in sets if one[0] & set(arguments.unseen)]
    known = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}
    known[model.identity] = _rounded(reliability)
    known.setdefault(EXPECTED_ERROR, {})[model.identity] = _rounded(expected)
    if sets:  # which needs two people matched to one
        print("places that 2 to 7 people agree on:")
        _report_errors(sets, unseen_sets)
        known.setdefault(EXPECTED_ERROR_OF_SETS, {})[model.identity] = _rounded(fit_error(sets, unseen_sets))
    arguments.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

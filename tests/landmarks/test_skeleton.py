"""Places that two images show, and where they take matches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import samreg
from samreg.landmarks import skeleton
from samreg.landmarks.atlas import shipped_atlas
from samreg.landmarks.guided import guided_matches, places_for
from samreg.landmarks.locate import LandmarkEvidence, Located, locate
from samreg.landmarks.scapulae import FoundBone, scapula_shape
from samreg.landmarks.skeleton import (
    CommonPlaces,
    Survey,
    common_places,
    common_points,
    paired_bones,
    survey,
    without_places,
)
from samreg.landmarks.spine import LEVELS
from samreg.landmarks.structures import Structures
from samreg.matching import Calibration, features
from samreg.phantoms.phantom import PhantomPair, phantom_pair
from samreg.spatial.standard import sample_mask

pytestmark = pytest.mark.usefixtures("embeddings_kept")


TOPS = {"left": np.array([400.0, 0.0, 0.0]), "right": np.array([-400.0, 0.0, 0.0])}


def surveyed(
    *,
    shift: float = 0.0,
    counted: int = 8,
    reliability: float = 0.9,
    scapulae: tuple[str, ...] = ("left",),
    tops: tuple[str, ...] = (),
) -> Survey:
    """An image with all vertebrae 25 mm apart, some counted, shoulder blades, and tops of the lungs."""
    count = len(LEVELS)
    positions = np.column_stack([np.zeros(count), np.zeros(count), -25.0 * np.arange(count) + shift])
    shape = scapula_shape()
    bone = FoundBone(shape.points + [0.0, 0.0, 2 * shift], np.ones(len(shape.points), dtype=bool), shape.landmarks)
    located = Located(
        positions, LandmarkEvidence(np.ones(count), np.zeros(count), np.zeros(count), np.full(count, 50.0)),
        np.arange(count) < counted, np.zeros(count, dtype=bool),
        Structures(dict.fromkeys(scapulae, bone), points={side: TOPS[side] + [0, 0, 3 * shift] for side in tops}),
    )  # fmt: skip
    return Survey(LEVELS, located, np.full(count, reliability))


def test_places_are_those_of_the_same_bones_in_both_images() -> None:
    places = common_places(surveyed(), surveyed(shift=10.0))
    moved = (places.moving - places.fixed).round(6)
    on_scapula, on_spine = (places.fixed[(moved == [0.0, 0.0, up]).all(axis=1)] for up in (20.0, 10.0))
    assert len(on_scapula) + len(on_spine) == len(moved)
    assert len(on_scapula) > 20
    np.testing.assert_allclose(on_spine[:, 2], -25.0 * np.arange(8))  # the vertebrae counted
    assert not places.seen.any()


def test_tops_of_lungs_are_seen() -> None:
    fixed, moving = surveyed(tops=("left", "right")), surveyed(shift=10.0, tops=("right",))
    places = common_places(fixed, moving)
    np.testing.assert_allclose(places.fixed[places.seen], [TOPS["right"]])
    np.testing.assert_allclose(places.moving[places.seen], [TOPS["right"] + [0, 0, 30.0]])
    np.testing.assert_allclose(common_points(fixed, moving)[:, 0], [TOPS["right"], TOPS["right"] + [0, 0, 30.0]])
    assert common_points(fixed, moving).shape == (2, 1, 3)
    assert common_points(surveyed(), surveyed(shift=10.0)).shape == (2, 0, 3)
    scapulae, ribs = paired_bones(fixed, moving)
    np.testing.assert_array_equal(scapulae, paired_bones(surveyed(), surveyed(shift=10.0))[0])
    np.testing.assert_allclose(scapulae[1] - scapulae[0], np.broadcast_to([0.0, 0.0, 20.0], scapulae[0].shape))
    assert scapulae.shape[1] > 20
    assert ribs.shape == (2, 0, 3)


def test_a_dome_may_be_another_hump() -> None:
    names = ("left_diaphragm_dome", "left_kidney_upper_pole")
    located = Located(
        np.zeros((2, 3)), LandmarkEvidence(np.ones(2), np.zeros(2), np.zeros(2), np.full(2, 50.0)),
        np.zeros(2, dtype=bool), np.ones(2, dtype=bool),
    )  # fmt: skip
    found = Survey(names, located, np.full(2, 0.9))
    assert common_places(found, found).seen.tolist() == [True, False]
    misplaced = Survey(names, located, np.array([0.9, 0.0]))
    assert common_places(found, misplaced).seen.tolist() == [False]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"counted": 3}, {"scapula"}),
        ({"scapulae": ()}, {"spine"}),
        ({"scapulae": ("right",)}, {"spine"}),
        ({"reliability": 0.2}, set()),
    ],
)
def test_only_places_that_both_images_surely_show_count(change: dict[str, object], left: set[str]) -> None:
    for pair in ((surveyed(), surveyed(**change)), (surveyed(**change), surveyed())):
        places = common_places(*pair).fixed
        spine = (places[:, :2] == 0).all(axis=1)
        assert ({"spine"} if spine.any() else set()) | ({"scapula"} if (~spine).any() else set()) == left


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return phantom_pair(1, 2, spacing=6.0)


@pytest.fixture
def two_people(monkeypatch) -> None:
    """Phantoms are as alike as two scans of one person, where places do not lead."""
    monkeypatch.setattr("samreg.landmarks.guided._ONE_PERSON", 1.0)


def test_two_scans_of_one_person_are_matched_without_places(pair, monkeypatch) -> None:
    """Landmarks of a second visit were up to 33 mm off at the places that both images show, and 14 without these."""
    monkeypatch.setattr("samreg.landmarks.guided._ONE_PERSON", 0.85)  # phantoms have 0.91
    embeddings = [samreg.embed(phantom.image) for phantom in (pair.fixed, pair.moving)]
    fixed, moving = (features(embedding) for embedding in embeddings)
    points = pair.fixed_landmarks.positions
    wrong = CommonPlaces(points[:1], embeddings[1].image_grid.center[None], np.ones(1, dtype=bool))
    calibration = Calibration.from_mapping(embeddings[0].calibration)
    call = partial(guided_matches, fixed, points, moving, grid=embeddings[1].image_grid, calibration=calibration)
    with_places, without = call(places=wrong)[0], call()[0]
    np.testing.assert_array_equal(with_places.matches.moving, without.matches.moving)
    assert not with_places.seen.any()


def test_matches_are_led_by_places_around_and_go_with_those_that_are_seen(pair, two_people) -> None:
    """Places that are told to lie 60 mm from where the match would be."""
    embeddings = [samreg.embed(phantom.image) for phantom in (pair.fixed, pair.moving)]
    fixed, moving = (features(embedding) for embedding in embeddings)
    points = pair.fixed_landmarks.positions
    calibration = Calibration.from_mapping(embeddings[0].calibration)

    def found(places: CommonPlaces | None = None):
        matches, reason = guided_matches(
            fixed, points, moving, grid=embeddings[1].image_grid, calibration=calibration, places=places
        )
        assert matches is not None, reason
        return matches

    around = points[:1] + np.random.default_rng(0).normal(0, 6, (30, 3))
    elsewhere = embeddings[1].image_grid.center - points[0]
    places = CommonPlaces(around, around + elsewhere, np.zeros(30, dtype=bool))
    at = CommonPlaces(points[:1], points[:1] + elsewhere, np.ones(1, dtype=bool))
    plain, led, seen = found(), found(places), found(at)
    assert np.linalg.norm(elsewhere) > 50
    assert np.linalg.norm(plain.matches.moving[0] - pair.moving_landmarks.positions[0]) < 20
    assert np.linalg.norm(led.matches.moving[0] - points[0] - elsewhere) < 25  # the window
    assert led.depth[0] > plain.depth[0]  # the middle of the image
    far = np.linalg.norm(points - points[0], axis=1) > 90
    truth = pair.moving_landmarks.positions[far]
    assert far.sum() > 5
    assert np.median(np.linalg.norm(led.matches.moving[far] - truth, axis=1)) < 12
    np.testing.assert_allclose(seen.matches.moving[0], points[0] + elsewhere, atol=1e-6)
    assert np.flatnonzero(seen.seen).tolist() == [0]
    assert not plain.seen.any()
    assert not led.seen.any()
    beside = found(replace(at, fixed=at.fixed + [0.0, 7.0, 0.0], moving=at.moving + [0.0, 7.0, 0.0]))
    np.testing.assert_allclose(beside.matches.moving[0], points[0] + elsewhere, atol=1e-6)
    assert not beside.seen.any()  # it goes along, and promises no more for it


def test_where_both_images_show_a_place_the_search_is_no_evidence(pair, two_people, monkeypatch) -> None:
    """A place that both show, far from where the match would be, is as reliable as such places are."""
    embeddings = [samreg.embed(phantom.image) for phantom in (pair.fixed, pair.moving)]
    points = pair.fixed_landmarks.positions
    place = CommonPlaces(points[:1], embeddings[1].image_grid.center[None], np.ones(1, dtype=bool))

    def found(places: CommonPlaces):
        monkeypatch.setattr("samreg.landmarks.guided.places_for", lambda *_: places)
        return samreg.match(embeddings[0], points, embeddings[1])

    led, seen = found(replace(place, seen=np.zeros(1, dtype=bool))), found(place)
    assert 0.85 < seen.reliability[0] < 0.95
    assert seen.expected_error[0] == 8.0
    assert led.reliability[0] < 0.85
    assert led.expected_error[0] > 8.0
    np.testing.assert_array_equal(seen.reliability[1:], led.reliability[1:])
    np.testing.assert_array_equal(seen.expected_error[1:], led.expected_error[1:])


def test_no_places_are_sought_without_the_images(pair) -> None:
    embeddings = tuple(samreg.embed(phantom.image) for phantom in (pair.fixed, pair.moving))
    bare = tuple(replace(embedding, volume=None) for embedding in embeddings)
    targets = tuple(features(embedding) for embedding in embeddings)
    assert not len(places_for(bare, targets, pair.fixed_landmarks.positions).fixed)
    far = np.array([[0.0, 900.0, 0.0]])
    assert not len(places_for(embeddings, targets, far).fixed)
    assert len(places_for(embeddings, targets, pair.fixed_landmarks.positions).fixed)


def test_an_image_is_surveyed_once_and_within_its_mask(pair, monkeypatch) -> None:
    image = pair.fixed.image
    half = np.zeros(image.shape, dtype=np.uint8)
    half[:, :, : image.shape[2] // 2] = 1
    embedding = samreg.embed(image, mask=image.with_array(half))
    atlas = shipped_atlas(embedding.model)
    seen = []

    def looked(*arguments, image, **options) -> Located:
        seen.append(image)
        return locate(*arguments, image=image, **options)

    monkeypatch.setattr(skeleton, "locate", looked)
    first = survey(atlas, embedding, features(embedding))
    assert survey(atlas, embedding, features(embedding)) is first
    (shown,) = seen
    outside = ~sample_mask(image.with_array(half), shown.grid)
    assert (shown.array[outside] == -1024).all()
    assert (shown.array[~outside] > 150).any()
    assert (embedding.volume.array[outside] > 150).any()  # which holds bone there as well


def test_what_is_found_is_the_callers_own(pair) -> None:
    embedding = samreg.embed(pair.fixed.image)
    first = samreg.find_landmarks(embedding)
    kept = first.points.copy(), first.reliability.copy(), first.counted.copy()
    for array in (first.points, first.reliability, first.counted):
        array[:] = 0
    again = samreg.find_landmarks(embedding)
    for expected, found in zip(kept, (again.points, again.reliability, again.counted), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_metal_does_not_turn_into_air(pair) -> None:
    image = pair.fixed.image
    array = np.array(image.array, dtype=np.float32)
    array[10:20, 20:30, 20:30] = 40_000.0
    volume = samreg.embed(image.with_array(array)).volume
    assert volume.array.dtype == np.int16
    assert volume.array.max() > 30_000
    assert volume.array.min() >= -1100


def test_points_on_a_bone_go_with_it_and_places_near_points_can_be_left_out() -> None:
    places = common_places(surveyed(tops=("left",)), surveyed(shift=10.0, tops=("left",)))
    (blade,) = places.bones
    on_blade, on_spine = places.fixed[blade[3]] + [0.0, 3.0, 0.0], np.array([5.0, 5.0, -40.0])
    rows, positions = places.on_bones(np.array([on_spine, on_blade]))
    assert rows.tolist() == [1]
    np.testing.assert_allclose(positions, [on_blade + [0.0, 0.0, 20.0]], atol=1e-3)
    fewer = without_places(places, places.fixed[blade[:2]], 1.0)
    assert len(fewer.fixed) == len(fewer.seen) == len(places.fixed) - 2
    np.testing.assert_array_equal(fewer.fixed[fewer.bones[0]], places.fixed[blade[2:]])
    assert fewer.seen.sum() == 1
    assert not without_places(places, TOPS["left"][None], 8.0).seen.any()
    assert not len(without_places(places, places.fixed, 1.0).bones)

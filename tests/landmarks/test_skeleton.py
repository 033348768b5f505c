"""Bones that two images show, and where they take points and matches."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

import samreg
from samreg.landmarks import skeleton
from samreg.landmarks.atlas import shipped_atlas
from samreg.landmarks.locate import Located, locate
from samreg.landmarks.match import bones_of, guided_matches
from samreg.landmarks.scapulae import FoundBone, scapula_shape
from samreg.landmarks.skeleton import PairedBone, Survey, paired_bones, paired_places, survey, taken_by_bones
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
        positions, (np.ones(count), np.zeros(count), np.zeros(count), np.full(count, 50.0)),
        np.arange(count) < counted, np.zeros(count, dtype=bool),
        Structures(dict.fromkeys(scapulae, bone), points={side: TOPS[side] + [0, 0, 3 * shift] for side in tops}),
    )  # fmt: skip
    return Survey(LEVELS, located, np.full(count, reliability))


def test_a_point_goes_with_the_bone_it_lies_on() -> None:
    scapula, spine = paired_bones(surveyed(), surveyed(shift=10.0))
    assert (scapula.moving - scapula.fixed).round(6).tolist() == [[0.0, 0.0, 20.0]] * len(scapula.fixed)
    on_scapula, near_spine = scapula.fixed[3] + [0.0, 3.0, 0.0], np.array([20.0, 10.0, -40.0])
    nowhere = np.array([0.0, 200.0, 0.0])
    taken = taken_by_bones((scapula, spine), np.array([nowhere, near_spine, on_scapula]))
    assert taken.rows.tolist() == [2, 1]
    np.testing.assert_allclose(taken.positions, [on_scapula + [0, 0, 20.0], near_spine + [0, 0, 10.0]], atol=1e-3)
    assert taken.share.tolist() == [0.5, 0.0]
    assert len(taken_by_bones((), np.zeros((3, 3))).rows) == 0


def test_points_at_the_top_of_a_lung_go_with_it() -> None:
    fixed, moving = surveyed(tops=("left", "right")), surveyed(shift=10.0, tops=("right",))
    at, near, far = TOPS["right"], TOPS["right"] + [3.0, -4.0, 2.0], TOPS["right"] + [0.0, 40.0, 0.0]
    taken = taken_by_bones(paired_bones(fixed, moving), np.array([at, far, near, TOPS["left"]]))
    assert taken.rows.tolist() == [0, 2]
    np.testing.assert_allclose(taken.positions, [at + [0, 0, 30.0], near + [0, 0, 30.0]])
    assert taken.share.tolist() == [1.0, 1.0]
    places = paired_places(fixed, moving)
    np.testing.assert_allclose(places[:, -1], [at, at + [0, 0, 30.0]])
    assert places.shape[1] == paired_places(surveyed(), surveyed(shift=10.0)).shape[1] + 1


@pytest.mark.parametrize(
    ("change", "left"),
    [({"counted": 3}, 1), ({"scapulae": ()}, 1), ({"scapulae": ("right",)}, 1), ({"reliability": 0.2}, 0)],
)
def test_only_bones_that_both_images_surely_show_count(change: dict[str, object], left: int) -> None:
    assert len(paired_bones(surveyed(), surveyed(**change))) == left
    assert len(paired_bones(surveyed(**change), surveyed())) == left


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return phantom_pair(1, 2, spacing=6.0)


def test_matches_on_a_bone_are_searched_where_it_takes_them(pair) -> None:
    """A bone that is told to lie 100 mm from where the match would be."""
    embeddings = [samreg.embed(phantom.image) for phantom in (pair.fixed, pair.moving)]
    fixed, moving = (features(embedding) for embedding in embeddings)
    points = pair.fixed_landmarks.positions
    calibration = Calibration.from_mapping(embeddings[0].calibration)

    def found(*bones: PairedBone):
        matches, reason = guided_matches(
            fixed, points, moving, grid=embeddings[1].image_grid, calibration=calibration, bones=bones
        )
        assert matches is not None, reason
        return matches

    around = points[:1] + np.random.default_rng(0).normal(0, 2, (30, 3))
    elsewhere = embeddings[1].image_grid.center - points[0]
    bone = PairedBone(around, around + elsewhere, reach=4.0, width=4.0, share=0.5)
    rows = taken_by_bones((bone,), points).rows
    plain, led, firm = found(), found(bone), found(replace(bone, share=1.0))
    others = np.setdiff1d(np.arange(len(points)), rows)
    assert rows.tolist() == [0]
    assert len(others) > 5
    np.testing.assert_array_equal(led.matches.moving[others], plain.matches.moving[others])
    np.testing.assert_array_equal(led.spread[others], plain.spread[others])
    np.testing.assert_allclose(firm.matches.moving[0], points[0] + elsewhere, atol=1e-6)
    assert np.linalg.norm(led.matches.moving[0] - points[0] - elsewhere) <= 0.5 * led.spread[0] + 1e-6
    assert led.spread[0] < 25
    assert led.depth[0] > plain.depth[0]  # the middle of the image
    assert np.flatnonzero(firm.seen).tolist() == [0]
    assert not plain.seen.any()
    assert not led.seen.any()


def test_where_both_images_show_a_place_the_search_is_no_evidence(pair, monkeypatch) -> None:
    """A place that both show, far from where the match would be, is as reliable as such places are."""
    embeddings = [samreg.embed(phantom.image) for phantom in (pair.fixed, pair.moving)]
    points = pair.fixed_landmarks.positions
    place = PairedBone(points[:1], embeddings[1].image_grid.center[None], reach=4.0, width=0.0, share=1.0)

    def found(*bones: PairedBone):
        monkeypatch.setattr(sys.modules["samreg.landmarks.match"], "bones_of", lambda *_: bones)
        return samreg.match(embeddings[0], points, embeddings[1])

    plain, led, seen = found(), found(replace(place, share=0.5)), found(place)
    assert led.reliability[0] < 0.5
    assert led.expected_error[0] > 20
    assert 0.85 < seen.reliability[0] < 0.95
    assert seen.expected_error[0] == 8.0
    np.testing.assert_array_equal(seen.reliability[1:], plain.reliability[1:])
    np.testing.assert_array_equal(seen.expected_error[1:], plain.expected_error[1:])


def test_no_bones_are_sought_without_the_images(pair) -> None:
    embeddings = tuple(samreg.embed(phantom.image) for phantom in (pair.fixed, pair.moving))
    bare = tuple(replace(embedding, volume=None) for embedding in embeddings)
    targets = tuple(features(embedding) for embedding in embeddings)
    assert bones_of(bare, targets, pair.fixed_landmarks.positions) == ()
    far = np.array([[0.0, 500.0, 0.0]])  # near no bone
    assert bones_of(embeddings, targets, far) == ()


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


def test_points_around_a_top_are_looked_for_where_it_moves() -> None:
    fixed, moving = surveyed(tops=("left", "right")), surveyed(shift=10.0, tops=("left", "right"))
    near, far = TOPS["right"] + [0.0, 20.0, 0.0], TOPS["right"] + [0.0, 40.0, 0.0]
    taken = taken_by_bones(paired_bones(fixed, moving), np.array([far, near]))
    assert taken.rows.tolist() == [1]
    np.testing.assert_allclose(taken.positions, [near + [0, 0, 30.0]])
    assert taken.share.tolist() == [0.0]

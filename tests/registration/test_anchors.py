"""Named landmarks that guide a registration, and tell what one image alone shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import samreg
from samreg.cli import app
from samreg.engines import Engine, EngineResult
from samreg.errors import InputError
from samreg.landmarks.atlas import LandmarkAtlas
from samreg.phantoms.phantom import PhantomPair, make_phantom, phantom_pair
from samreg.registration.anchors import Anchors, find_anchors
from samreg.seeding.turns import turned_image
from samreg.spatial import AffineTransform, DisplacementField
from samreg.spatial.transforms import components

pytestmark = pytest.mark.usefixtures("embeddings_kept")
STEADY = tuple(f"{side}_{name}" for side in ("left", "right") for name in ("glenoid", "humeral_head", "adrenal"))
FIELD_OF_VIEW = (-95.0, 80.0)  # mm about the carina
SLIDING = ("vertebra_T7", "left_rib8_lateral", "right_rib12_tip", "left_diaphragm_dome")


def anchors(
    names: tuple[str, ...] = STEADY + SLIDING,
    *,
    reliability: object = 0.9,
    depth: object = 50.0,
    counted: object = False,
    seen: object = False,
) -> Anchors:
    count = len(names)
    fixed = np.arange(3.0 * count).reshape(count, 3)
    return Anchors(
        names, fixed, fixed + [0.0, 0.0, 4.0],
        np.broadcast_to(reliability, (2, count)).copy(), np.broadcast_to(depth, (2, count)).copy(),
        np.broadcast_to(counted, (2, count)).copy(), np.broadcast_to(seen, (2, count)).copy(),
    )  # fmt: skip


def test_what_slides_guides_nothing_and_vertebrae_only_where_both_images_count_them() -> None:
    found = anchors()
    assert found.sure.all()
    assert found.guiding.tolist() == [True] * len(STEADY) + [False] * len(SLIDING)
    assert found.guides is not None
    np.testing.assert_array_equal(found.guides[1] - found.guides[0], [[0.0, 0.0, 4.0]] * len(STEADY))
    assert anchors(("right_first_rib_anterior_end", *STEADY)).guiding[0]
    assert anchors(("vertebra_T7", *STEADY), counted=True).guiding.all()
    assert not anchors(("vertebra_T7", *STEADY), counted=[[True], [False]]).guiding[0]


def test_a_dome_guides_where_both_images_show_it_and_a_point_of_a_rib_never() -> None:
    dome, rib = STEADY + ("left_diaphragm_dome",), STEADY + ("left_rib8_lateral",)
    assert anchors(dome, seen=True).guiding[-1]
    assert not anchors(dome, seen=[[True], [False]]).guiding[-1]
    assert not anchors(rib, seen=True).guiding[-1]


@pytest.mark.parametrize(("off", "names", "guided"), [(15.0, STEADY, True), (30.0, STEADY, False), (15.0, (), False)])
def test_a_point_of_a_rib_is_guided_by_places_beside_it(off: float, names: tuple[str, ...], guided: bool) -> None:
    found = anchors((*names, "left_rib8_lateral"), seen=True)
    beside = replace(found, on_ribs=np.stack([found.fixed[-1:], found.moving[-1:]]) + [0.0, off, 0.0])
    identity = AffineTransform.identity(3)
    assert beside.missed(identity, guided=True).guided[-1] == guided
    assert not beside.missed(identity, guided=False).guided.any()
    assert not found.missed(identity, guided=True).guided[-1]


@pytest.mark.parametrize("kind", ["on_scapulae", "on_ribs", "points"])
def test_places_on_bones_and_single_points_guide_beside_names_and_not_alone(kind: str) -> None:
    places = np.arange(24.0).reshape(2, 4, 3)
    found = replace(anchors(STEADY), **{kind: places})
    assert found.guides is not None
    for side, shown in zip(found.guides, places, strict=True):
        assert len(side) == len(STEADY) + 4
        np.testing.assert_array_equal(side[-4:], shown)
    alone = replace(anchors(STEADY[:4]), **{kind: places})
    assert alone.guides is None
    assert len(alone.single[0]) == 0


def test_single_places_are_landmarks_and_points_but_none_on_bones() -> None:
    names = (*STEADY, "left_rib8_lateral", "right_rib12_tip")
    reliability = np.full((2, len(names)), 0.8)
    reliability[1, 0] = 0.5
    seen = np.array([[name != "right_rib12_tip" for name in names], len(names) * [True]])
    places = np.arange(24.0).reshape(2, 4, 3)
    found = replace(
        anchors(names, reliability=reliability, seen=seen),
        on_ribs=places, on_scapulae=places, points=places[:, :2] + 50.0,
    )  # fmt: skip
    fixed, moving, sure = found.single
    np.testing.assert_array_equal(fixed, np.concatenate([found.fixed[:-1], places[0, :2] + 50.0]))
    np.testing.assert_array_equal(moving, np.concatenate([found.moving[:-1], places[1, :2] + 50.0]))
    assert sure.tolist() == [0.5] + [0.8] * len(STEADY) + [0.9] * 2


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("far_in", [0, 1])
def test_of_neighbours_that_lie_apart_in_one_image_alone_the_more_reliable_one_guides(
    far_in: int, turned: bool
) -> None:
    found = anchors(("spleen_superior", "left_kidney_upper_pole", *STEADY))
    fixed = np.random.default_rng(0).normal(0, 200, found.fixed.shape)
    fixed[:2] = [[500.0, 0.0, 0.0], [512.0, 0.0, 0.0]]
    moving = fixed + [0.0, 0.0, 40.0]
    (fixed, moving)[far_in][0, 0] -= 14.0  # 26 mm from the other, 12 mm in the other image
    moving = moving[:, ::-1] if turned else moving
    for sure in (0.95, 0.85):
        reliability = found.reliability.copy()
        reliability[:, 0] = 0.97, sure
        pair = replace(found, fixed=fixed, moving=moving, reliability=reliability)
        assert pair.guiding[:2].tolist() == [sure > 0.9, sure < 0.9]
        assert pair.guiding[2:].all()


def test_only_what_both_images_show_guides() -> None:
    reliability = np.full((2, len(STEADY)), 0.9)
    reliability[1, 0] = 0.3
    assert anchors(STEADY, reliability=reliability).guiding.tolist() == [False] + [True] * (len(STEADY) - 1)
    assert anchors(STEADY[:4]).guides is None  # too few


def test_a_body_unlike_the_atlas_guides_nothing() -> None:
    """As one that lies upside down, of which some landmarks are sure nevertheless."""
    reliability = np.full((2, 20), 0.1)
    reliability[:, :6] = 0.9
    reliability[0] = 0.9
    names = STEADY + tuple(f"vertebra_T{i}" for i in range(14))
    assert not anchors(names, reliability=reliability).is_credible
    assert anchors(names, reliability=reliability).guides is None
    assert anchors(names, reliability=reliability).shown_by_one() == ()


def test_what_one_image_alone_shows_is_named() -> None:
    names = (*STEADY, "vertebra_L4", "left_asis", "right_asis", "pubic_symphysis", "coccyx_tip")
    depth = np.full((2, len(names)), 50.0)
    depth[0, -5:] = -30.0
    depth[1, 0] = -5.0  # so near the border it may be either
    notes = anchors(names, reliability=np.where(depth > 0, 0.9, 0.0), depth=depth).shown_by_one()
    assert notes == ("only the moving image shows the lumbar spine (vertebra L4), the pelvis (4 landmarks)",)


@pytest.mark.parametrize(("sure", "alone", "different"), [(0, 8, True), (1, 8, False), (0, 7, False)])
def test_different_parts_of_the_body_are_told(sure: int, alone: int, different: bool) -> None:
    """An image of the chest and one of the pelvis, with so many landmarks that both show, and that each shows alone."""
    count = sure + 2 * alone
    depth = np.full((2, count), -40.0)
    depth[:, :sure] = 20.0
    depth[0, sure : sure + alone] = depth[1, sure + alone :] = 50.0
    names = tuple(f"vertebra_T{i}" for i in range(count))
    found = anchors(names, reliability=np.where(depth > 0, 0.9, 0.0), depth=depth)
    assert found.show_different_parts == different
    assert len(found.shown_by_one()) == 2
    unsure = np.where(depth > 0, 0.3, 0.0)
    assert not anchors(names, reliability=unsure, depth=depth).show_different_parts


def test_images_of_different_parts_are_refused(pair, atlas, monkeypatch) -> None:
    monkeypatch.setattr(Anchors, "show_different_parts", True)
    monkeypatch.setattr(Anchors, "shown_by_one", lambda _: ("only the fixed image shows the pelvis (hip)",))
    images = pair.fixed.image, pair.moving.image
    refused = samreg.register(*images, engine=Asked())
    assert not refused
    assert "another part of the body than" in refused.reason
    assert ": only the fixed image shows the pelvis (hip); give images that overlap" in refused.reason
    assert samreg.register(*images, engine=Asked(), anchors=False)


def test_misses_say_which_landmarks_guided() -> None:
    found = anchors()
    still = AffineTransform.identity(3)
    misses = found.missed(still, guided=True)
    np.testing.assert_allclose(misses.distance, 4.0)
    assert misses.guided.sum() == len(STEADY)
    assert sum(region.guided for region in misses.by_region()) == len(STEADY)
    assert not found.missed(still, guided=False).guided.any()


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return phantom_pair(1, 2, spacing=6.0, field_of_view=FIELD_OF_VIEW)


@pytest.fixture(scope="module")
def atlas() -> LandmarkAtlas:
    people = [make_phantom(i, spacing=6.0, field_of_view=FIELD_OF_VIEW) for i in (4, 5, 6)]
    return samreg.build_landmark_atlas(
        [samreg.Template(f"P{i}", samreg.embed(p.image), p.landmarks) for i, p in enumerate(people)]
    )


class Asked(Engine):
    """An engine that keeps what it was asked, and answers with the start."""

    name, uses_anchors = "asked", True

    def __init__(self) -> None:
        self.requests: list[samreg.engines.Request] = []

    def register(self, request: samreg.engines.Request) -> EngineResult:
        self.requests.append(request)
        return EngineResult(request.start or AffineTransform.identity(3), "", "1")


def test_an_engine_gets_the_landmarks_of_ones_own_atlas(pair, atlas) -> None:
    engine = Asked()
    images = pair.fixed.image, pair.moving.image
    result = samreg.register(*images, engine=engine, anchors=atlas)
    fixed, moving = engine.requests[0].anchors
    assert len(fixed) >= 5
    assert np.median(np.linalg.norm(moving - pair.transform.transform_points(fixed), axis=1)) < 12
    misses = result.landmark_misses
    names = [misses.fixed.names[i] for i in np.flatnonzero(misses.guided)]
    known = pair.fixed_landmarks.named(names).positions
    assert np.median(np.linalg.norm(misses.fixed.named(names).positions - known, axis=1)) < 12
    assert result.options["anchors"] == "a landmark atlas"
    samreg.register(*images, engine=engine, anchors=False)
    assert engine.requests[1].anchors is None


def test_a_turned_body_is_searched_upright(pair, atlas) -> None:
    turn = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    lying = turned_image(pair.moving.image, turn, pair.moving.image.grid.center)
    back = AffineTransform.about(pair.moving.image.grid.center, turn).inverse()
    engine = Asked()
    result = samreg.register(pair.fixed.image, lying, engine=engine, anchors=atlas)
    assert any("lies turned" in note for note in result.notes)
    fixed, moving = engine.requests[0].anchors
    assert len(fixed) >= 5
    truth = back.inverse().transform_points(pair.transform.transform_points(fixed))
    assert np.median(np.linalg.norm(moving - truth, axis=1)) < 12


def test_structures_of_a_turned_body_are_given_where_they_lie(pair, atlas, monkeypatch) -> None:
    """Places found in the upright moving image come back turned, with those of the fixed image as they were."""
    places = np.arange(24.0).reshape(2, 4, 3)
    monkeypatch.setattr("samreg.landmarks.skeleton.paired_bones", lambda *_: (places, places + 50.0))
    monkeypatch.setattr("samreg.landmarks.skeleton.common_points", lambda *_: places + 90.0)
    turn = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    embeddings = samreg.embed(pair.fixed.image), samreg.embed(pair.moving.image)
    found = find_anchors(embeddings, atlas, turn=turn)
    center = pair.moving.image.grid.center
    for off, found_places in ((0.0, found.on_scapulae), (50.0, found.on_ribs), (90.0, found.points)):
        np.testing.assert_array_equal(found_places[0], places[0] + off)
        np.testing.assert_allclose((found_places[1] - center) @ turn.T + center, places[1] + off)


def test_engines_that_take_none_start_from_a_guided_field(pair, atlas) -> None:
    engine = Asked()
    engine.uses_anchors = False
    images = pair.fixed.image, pair.moving.image
    missed = {}
    for guided in (atlas, False):
        result = samreg.register(*images, engine=engine, anchors=guided)
        misses = result.landmark_misses
        assert engine.requests[-1].anchors is None
        kinds = [type(part) for part in components(engine.requests[-1].start)]
        assert kinds == [DisplacementField, AffineTransform], "several fields would be saved, and sampled, each"
        assert misses.guided.any() == (guided is atlas)
        missed[guided is atlas] = misses.distance[misses.guided] if guided is atlas else misses.distance
    assert missed[True].mean() < 2 < missed[False].mean()
    assert "landmarks" in result.timings


def test_two_scans_of_one_person_are_guided_by_ones_own_atlas_alone(pair, atlas, monkeypatch) -> None:
    """The landmarks that samreg ships moved the seed of a second visit from 1.9 to 2.5 mm off."""
    monkeypatch.setattr("samreg.landmarks.guided._ONE_PERSON", 0.0)
    engine = Asked()
    images = pair.fixed.image, pair.moving.image
    result, unguided = samreg.register(*images, engine=engine), samreg.register(*images, engine=engine, anchors=False)
    assert engine.requests[0].anchors is None
    assert engine.requests[0].one_person
    assert result.options["anchors"] is None
    assert not result.landmark_misses.guided.any()
    points = pair.fixed_landmarks.positions
    np.testing.assert_array_equal(*(found.transform.transform_points(points) for found in (result, unguided)))
    samreg.register(*images, engine=engine, anchors=atlas)
    assert engine.requests[2].anchors is not None


def test_a_start_that_is_given_is_not_guided(pair, atlas) -> None:
    engine = Asked()
    engine.uses_anchors = False
    images, start = (pair.fixed.image, pair.moving.image), AffineTransform.identity(3)
    assert samreg.register(*images, engine=engine, start=start).options["anchors"] is None
    with pytest.raises(InputError, match="begins from a given start by the torch engine alone"):
        samreg.register(*images, engine=engine, start=start, anchors=atlas)


def test_an_atlas_of_ones_own_that_guides_nothing_says_why(pair, atlas, monkeypatch) -> None:
    engine = Asked()
    images = pair.fixed.image, pair.moving.image
    monkeypatch.setattr("samreg.registration.anchors._MIN_GUIDES", len(atlas.names) + 1)
    said = [note for note in samreg.register(*images, engine=engine, anchors=atlas).notes if "guided nothing" in note]
    assert len(said) == 1
    assert f"of its {len(atlas.names)} landmarks were surely found in both images; at least" in said[0]
    assert engine.requests[0].anchors is None
    own = samreg.register(*images, engine=engine)
    assert not any("guided nothing" in note for note in own.notes), "which nobody gave"


@pytest.mark.parametrize(
    ("call", "recorded"),
    [
        ({"method": "registration"}, None),
        ({"method": "registration", "anchors": False}, False),
        ({"method": "registration", "anchors": None}, None),
        ({"method": "registration", "anchors": np.False_}, False),
        ({"anchors": np.True_}, True),
        ({"anchors": None}, True),
    ],
)
def test_what_is_recorded_can_be_given_again(pair, call, recorded, monkeypatch) -> None:
    monkeypatch.setattr("samreg.landmarks.guided._ONE_PERSON", 1.0)  # phantoms are nearly as alike as one person
    engine = Asked()
    images = pair.fixed.image, pair.moving.image
    result = samreg.register(*images, **{"engine": engine, **call})
    assert result.options["anchors"] is recorded
    again = samreg.register(*images, **{**result.options, "engine": engine})
    assert again.options == result.options
    assert (engine.requests[0].anchors is None) == (recorded is not True)
    assert not engine.requests[0].one_person


def test_the_landmarks_are_found_once(pair, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(
        "samreg.registration.anchors.find_anchors", lambda *a, **k: calls.append(1) or find_anchors(*a, **k)
    )
    monkeypatch.setattr("samreg.registration.confidence.find_anchors", lambda *a, **k: pytest.fail("found again"))
    result = samreg.register(pair.fixed.image, pair.moving.image, method="embedding", transform="affine")
    assert result.error_map is not None
    assert calls == [1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"anchors": 3}, "anchors must be True, False, or a landmark atlas or its file, got int"),
        ({"anchors": "none.h5"}, "none.h5"),
        ({"anchors": "yes"}, "anchors must be True or False, got 'yes'"),
        ({"anchors": "No"}, "anchors must be True or False, got 'No'"),
        ({"method": "registration"}, "guides deformable registrations by embeddings"),
        ({"transform": "affine"}, "guides deformable registrations by embeddings"),
        ({"model": "mind"}, "the landmark atlas is of the model ct-small@"),
    ],
)
def test_an_atlas_that_guides_nothing_is_refused(pair, atlas, call, message) -> None:
    with pytest.raises(InputError, match=message):
        samreg.register(pair.fixed.image, pair.moving.image, **{"anchors": atlas, **call})


def test_the_command_takes_yes_no_and_a_file(pair, atlas, tmp_path, monkeypatch) -> None:
    given = []
    failed = samreg.RegistrationResult(pair.fixed.image, pair.moving.image, None, reason="not tried")
    monkeypatch.setattr("samreg.register", lambda *_, **options: given.append(options["anchors"]) or failed)
    images = [str(tmp_path / name) for name in ("fixed.nii.gz", "moving.nii.gz")]
    for image, path in zip((pair.fixed.image, pair.moving.image), images, strict=True):
        samreg.write_image(image, path)
    for words in ([], ["--anchors", "no"], ["--anchors", "mine.h5"]):
        out = str(tmp_path / f"out{len(given)}")
        assert CliRunner().invoke(app, ["register", *images, "-o", out, *words]).exit_code == 1
    assert given == [True, False, "mine.h5"]

"""Ribs found in made-up CTs, and the places on them that two images share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial import KDTree

from samreg.landmarks.locate import _hangs_low
from samreg.landmarks.rib_pairs import paired_ribs
from samreg.landmarks.ribs import SAMPLED_MM, FoundRib, _centreline, _rib, find_ribs, first_rib_level
from samreg.landmarks.scapulae import FoundBone
from samreg.spatial import AffineTransform, Grid, Image

GRID = Grid((190, 110, 150), np.array([-150.0, -140.0, -370.0]), np.full(3, 2.0), np.eye(3))
SPACING = np.array([17.0, 18.0, 18.5, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.5, 27.5])  # T1 to T12, mm
WIDTH = np.array([60.0, 85.0, 100.0, 110.0, 118.0, 122.0, 126.0, 128.0, 128.0, 126.0, 120.0, 110.0])
ENDS = np.radians([120.0, 140.0, 145.0, 145.0, 145.0, 145.0, 140.0, 135.0, 130.0, 125.0, 100.0, 60.0])
LEVELS = list(range(1, 13))


def spine() -> np.ndarray:
    """The middles of T1 to T12 of a round back, (12, 3) mm."""
    z = -30.0 - np.concatenate([[0.0], np.cumsum(SPACING)])
    return np.column_stack([np.zeros(12), -5 - 6 * np.sin((z + 30) / 250 * np.pi), z])


def line_of(number: int, sign: float) -> np.ndarray:
    """The middle of a rib from the spine to its end, (N, 3) mm."""
    centre = spine()[number - 1]
    angle = np.linspace(np.radians(12.0), ENDS[number - 1], 200)
    x = sign * WIDTH[number - 1] * np.sin(angle)
    y = centre[1] - 45.0 + 75.0 * np.cos(angle)
    neck = {11: 0.15, 12: -0.2}.get(number, 0.35) * SPACING[max(0, number - 2)]  # above the vertebra
    return np.column_stack([x, y, centre[2] + neck - 60.0 * np.maximum(0, angle - np.radians(50.0))])


@dataclass(frozen=True)
class Person:
    """A CT and the places in it."""

    image: Image
    lines: dict[str, np.ndarray]

    def ribs(self, scapulae: dict[str, FoundBone] | None = None) -> dict[str, FoundRib]:
        return find_ribs(self.image, LEVELS, spine(), scapulae or {})


def person(*balls: tuple[np.ndarray, float, int]) -> Person:
    """A made-up person with 24 ribs and these balls: middle (3,) mm, radius mm, HU."""
    lines = {
        f"{side}_rib{number}": line_of(number, sign)
        for side, sign in (("left", 1.0), ("right", -1.0))
        for number in range(1, 13)
    }
    array = np.full(GRID.shape, 40, dtype=np.int16)
    array[:, :5] = array[:, -5:] = -1000
    for places, radius, value in (
        *((line, 4.0, 500) for line in lines.values()), (spine(), 15.0, 400),
        *((middle[None], radius, value) for middle, radius, value in balls),
    ):  # fmt: skip
        steps = np.arange(-radius, radius + 1, 2.0)
        ball = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
        ball = ball[(ball**2).sum(axis=1) <= radius**2]
        index = np.round(GRID.world_to_index((places[:, None] + ball).reshape(-1, 3))).astype(int)
        index = index[((index >= 0) & (index < GRID.size)).all(axis=1)]
        array[tuple(index[:, ::-1].T)] = value
    return Person(Image(array, GRID, "person"), lines)


@pytest.fixture(scope="module")
def healthy() -> Person:
    return person()


def missed(rib: FoundRib, line: np.ndarray) -> float:
    """How far the centreline strays from a line, mm."""
    return float(KDTree(line).query(rib.centreline)[0].max())


def test_all_ribs_are_numbered_and_followed_to_their_ends(healthy: Person) -> None:
    found = healthy.ribs()
    assert set(found) == set(healthy.lines)
    for name, line in healthy.lines.items():
        rib = found[name]
        assert missed(rib, line) < 4
        assert rib.tip is not None
        assert np.linalg.norm(rib.tip - line[-1]) < 5
        if name.endswith("rib12"):
            assert rib.lateral is None  # its end is its most lateral place
        elif not name.endswith("rib11"):
            most = line[np.abs(line[:, 0]).argmax()]
            assert rib.lateral is not None
            assert np.linalg.norm(rib.lateral - most - [np.sign(most[0]) * 4, 0, 0]) < 6


def test_ribs_that_are_joined_in_front_stay_apart(healthy: Person) -> None:
    joined = (healthy.lines["left_rib6"][185] + healthy.lines["left_rib7"][185]) / 2
    found = person((joined, 14.0, 400)).ribs()
    for name in ("left_rib5", "left_rib6", "left_rib7", "left_rib8"):
        assert KDTree(healthy.lines[name]).query(found[name].centreline[:-10])[0].max() < 6
        assert len(found[name].centreline) > 45


def test_an_organ_full_of_contrast_agent_is_no_rib(healthy: Person) -> None:
    beside = healthy.lines["left_rib11"][60] + [-28.0, -14.0, 0.0]
    found = person((beside, 27.0, 260)).ribs()
    assert missed(found["left_rib11"], healthy.lines["left_rib11"]) < 9


def test_a_way_through_thick_bone_has_no_holes() -> None:
    cells = np.array([[4.0 * i, 0.0, 0.0] for i in range(30)])
    length, before = 4.0 * np.arange(30), np.arange(30) - 1
    thin = np.array([i for i in range(30) if not 8 <= i < 20])
    line = _centreline(cells, thin, length, before.astype(np.int32), 200.0)
    assert line is not None
    assert np.isfinite(line).all()
    assert np.abs(line[:, 1:]).max() == 0
    assert line[-1, 0] - line[0, 0] > 90  # of 116 mm, less what the means take at the ends


def test_a_rib_without_bone_about_it_has_neither_a_lateral_place_nor_a_tip(healthy: Person) -> None:
    line = healthy.lines["left_rib5"][::8]
    rib = _rib(line, line + [0.0, 0.0, 200.0], 1.0, healthy.image)
    assert rib.lateral is None
    assert rib.tip is None


def test_a_volume_whose_axes_are_turned_has_the_same_ribs(healthy: Person) -> None:
    image = healthy.image
    turned = Image(
        np.ascontiguousarray(image.array.transpose(1, 2, 0)[:, ::-1]),
        Grid(
            (110, 150, 190), GRID.origin + [2.0 * 149, 0, 0], GRID.spacing,
            np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
        ),
        "turned",
    )  # fmt: skip
    found = find_ribs(turned, LEVELS, spine(), {})
    assert set(found) == set(healthy.lines)
    for name, rib in found.items():
        assert missed(rib, healthy.lines[name]) < 4


def test_a_shoulder_blade_is_no_rib(healthy: Person) -> None:
    line = healthy.lines["right_rib4"]
    blade = line[70] + np.array([[-14.0 - 2 * i, 8.0, -2.0 * j] for i in range(12) for j in range(30)])
    wall = [(place, 3.0, 500) for place in blade]
    seen = FoundBone(blade, np.ones(len(blade), dtype=bool), blade[:1])
    known = person(*wall).ribs({"right": seen})
    assert missed(known["right_rib4"], line) < 6
    assert known["right_rib4"].lateral is not None
    assert np.abs(known["right_rib4"].lateral[0] - line[:, 0].min()) < 6


def test_what_is_cut_off_has_no_end(healthy: Person) -> None:
    start = 20  # voxels: the most lateral of the right side
    cut = Image(
        healthy.image.array[:, :, start:],
        Grid((190, 110, 150 - start), GRID.origin + [2.0 * start, 0, 0], GRID.spacing, np.eye(3)),
        "cut",
    )
    found = find_ribs(cut, LEVELS, spine(), {})
    assert found["right_rib8"].lateral is None
    assert found["left_rib8"].lateral is not None


def test_a_rib_that_a_mask_cuts_has_no_tip_there(healthy: Person) -> None:
    """Beyond a mask there is air, and the rib seemed to end at its border."""
    x = GRID.world_points()[..., 0]
    array = np.where(np.abs(x) > 60, -1024, healthy.image.array).astype(np.int16)
    found = find_ribs(healthy.image.with_array(array), LEVELS, spine(), {})
    assert found["right_rib12"].tip is None
    assert healthy.ribs()["right_rib12"].tip is not None


@pytest.mark.parametrize("part", [slice(0, 3), slice(0, 0)])
def test_few_vertebrae_tell_no_numbers(healthy: Person, part: slice) -> None:
    assert find_ribs(healthy.image, LEVELS[part], spine()[part], {}) == {}


def test_vertebrae_out_of_order_tell_no_numbers(healthy: Person) -> None:
    centres = spine()
    centres[[4, 7]] = centres[[7, 4]]
    assert find_ribs(healthy.image, LEVELS, centres, {}) == {}


def test_numbers_hang_on_the_vertebrae_that_were_counted(healthy: Person) -> None:
    off = find_ribs(healthy.image, LEVELS[1:6], spine()[:5], {})  # counted one level too low
    for number in (3, 4, 5):
        assert missed(off[f"left_rib{number}"], healthy.lines[f"left_rib{number - 1}"]) < 4


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_first_ribs_tell_a_count_that_is_one_off(healthy: Person, off: int) -> None:
    """Counted one level too high, T1 is called T2."""
    level = first_rib_level(healthy.image, [level + off for level in LEVELS], spine())
    assert abs(level - off - 0.7) < 0.3
    assert _hangs_low(healthy.image, 1 + off, spine()) == (off == 1)


def test_without_first_ribs_nothing_is_told_of_the_count(healthy: Person) -> None:
    cut = healthy.image.array.copy()
    cut[GRID.world_points()[..., 2] > -25] = -1024  # by a mask, or by the image's end: between the ribs on T1 and on T2
    assert np.isnan(first_rib_level(healthy.image.with_array(cut), LEVELS, spine()))
    part = Grid((170, 110, 150), GRID.origin, GRID.spacing, GRID.direction)
    assert np.isnan(first_rib_level(Image(healthy.image.array[:170], part, "cut"), LEVELS, spine()))
    assert np.isnan(first_rib_level(healthy.image, LEVELS[:3], spine()[:3]))
    assert np.isnan(first_rib_level(healthy.image, LEVELS, spine() + [0.0, 0.0, 2000.0]))
    one_sided = np.where(GRID.world_points()[..., 0] > 20, 40, healthy.image.array).astype(np.int16)
    assert np.isnan(first_rib_level(healthy.image.with_array(one_sided), LEVELS, spine()))
    assert not _hangs_low(healthy.image.with_array(one_sided), 2, spine())


def test_an_image_without_bone_or_hounsfield_units_has_no_ribs(healthy: Person) -> None:
    soft = healthy.image.with_array(np.minimum(healthy.image.array, 60))
    assert find_ribs(soft, LEVELS, spine(), {}) == {}
    grey = healthy.image.with_array(np.clip(healthy.image.array, 0, 255).astype(np.uint8))
    assert find_ribs(grey, LEVELS, spine(), {}) == {}


def test_paired_places_lie_where_a_body_of_another_size_has_them(healthy: Person) -> None:
    fixed = healthy.ribs()
    angle = np.radians(8.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    larger = AffineTransform(turn @ np.diag([1.1, 1.16, 1.12]), np.array([30.0, -20.0, 300.0]))
    moving = {
        name: FoundRib(
            larger.transform_points(rib.centreline),
            None if rib.lateral is None else larger.transform_points(rib.lateral[None])[0],
            None,
        )
        for name, rib in fixed.items()
        if name != "left_rib3"
    }
    moving["left_rib6"] = FoundRib(moving["left_rib8"].centreline, None, None)  # one that was numbered wrongly
    places = paired_ribs(fixed, moving)
    assert places.shape[1] > 100
    off = np.linalg.norm(larger.transform_points(places[0]) - places[1], axis=1)
    assert off.mean() < 3  # along the ribs
    assert off.max() < 8
    wrong = KDTree(np.concatenate([fixed["left_rib3"].centreline, fixed["left_rib6"].centreline]))
    assert wrong.query(places[0])[0].min() > 1
    assert paired_ribs(fixed, {name: moving[name] for name in ("left_rib1", "left_rib2")}).shape == (2, 0, 3)


def straight_ribs(lateral_mm: dict[int, float], length_mm: dict[int, float]) -> dict[str, FoundRib]:
    """Ribs 6 to 12 as straight rods outwards, with the place called most lateral so far along each."""
    ribs = {}
    for number in range(6, 13):
        along = np.arange(0.0, length_mm.get(number, 200.0) + 1e-6, SAMPLED_MM)
        line = np.column_stack([30.0 + along, np.zeros_like(along), np.full_like(along, -30.0 * number)])
        at = lateral_mm.get(number)
        place = None if at is None else np.array([30.0 + at, 0.0, -30.0 * number])
        ribs[f"left_rib{number}"] = FoundRib(line, place, line[-1])
    return ribs


def along(ribs: str, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far along one of the straight ribs places (2, S, 3) lie, (S,) mm, in either image."""
    on_it = np.abs(places[0, :, 2] + 30.0 * int(ribs.removeprefix("left_rib"))) < 1
    return places[0, on_it, 0] - 30.0, places[1, on_it, 0] - 30.0


def test_most_lateral_places_correspond() -> None:
    chest = range(6, 11)
    places = paired_ribs(straight_ribs(dict.fromkeys(chest, 80.0), {}), straight_ribs(dict.fromkeys(chest, 110.0), {}))
    first, second = along("left_rib8", places)
    assert np.interp(80.0, first, second) == pytest.approx(110.0, abs=2)


def test_a_most_lateral_place_on_another_bone_is_outvoted_and_one_missing_taken_from_neighbours() -> None:
    known = {6: 80.0, 7: 80.0, 8: 160.0, 9: 80.0, 10: 80.0}
    for moving in (dict.fromkeys(known, 80.0), dict.fromkeys((6, 7, 9, 10), 80.0)):
        first, second = along("left_rib8", paired_ribs(straight_ribs(known, {}), straight_ribs(moving, {})))
        assert len(first) > 5
        np.testing.assert_allclose(second, first, atol=2)


def test_tips_of_floating_ribs_correspond_however_long_they_are() -> None:
    places = paired_ribs(straight_ribs({}, {12: 16.0}), straight_ribs({}, {12: 52.0}))
    first, second = along("left_rib12", places)
    assert (first[-1], second[-1]) == (16.0, 52.0)
    first, second = along("left_rib10", paired_ribs(straight_ribs({}, {10: 100.0}), straight_ribs({}, {})))
    np.testing.assert_allclose(second, first, atol=2)  # cartilage prolongs others

"""Bodies that lie turned and scans that are mirrored, on phantoms whose true correspondence is known."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from samreg.embedding import load_model
from samreg.matching import Correspondences
from samreg.phantoms.phantom import PhantomPair, make_phantom, phantom_pair
from samreg.seeding import OrientedSeed, Seed, fit_affine, seed_any_orientation
from samreg.seeding.turns import turned_image
from samreg.spatial import AffineTransform, Grid, Image
from tests.seeding.test_turns import about

pytestmark = pytest.mark.usefixtures("embeddings_kept")

MIRROR = np.diag([-1.0, 1.0, 1.0])
TURN = about((0, 0, 1), 70)
MODEL = load_model("ct-small")


def embed_globally(image: Image, mask: Image | None) -> object:
    return MODEL.embed_globally(image, mask=mask)


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return phantom_pair(spacing=8.0, field_of_view=(-60.0, 50.0))


@dataclass(frozen=True, eq=False)
class Seeded:
    """What seeding a turned phantom gave, what undoes the turn, and how many images were embedded besides the two."""

    result: OrientedSeed
    undo: AffineTransform
    embedded: int


class Seeder:
    """Seeds the pair with the moving phantom turned."""

    def __init__(self, pair: PhantomPair) -> None:
        self.pair, self.fixed = pair, MODEL.embed(pair.fixed.image)

    def __call__(self, turn: np.ndarray, transform: str = "affine", **options) -> Seeded:
        moving = turned_image(self.pair.moving.image, turn, self.pair.moving.image.grid.center)
        undo = AffineTransform.about(self.pair.moving.image.grid.center, turn).inverse()
        embedded = []

        def embed(image: Image, mask: Image | None) -> object:
            embedded.append(image)
            return MODEL.embed(image, mask=mask)

        result = seed_any_orientation(
            self.pair.fixed.image, moving, self.fixed, MODEL.embed(moving), embed=embed, transform=transform, **options
        )
        return Seeded(result, undo, len(embedded))

    def error(self, transform: object, undo: AffineTransform) -> float:
        """Return the mean error of the landmarks, mm."""
        moved = undo.transform_points(transform.transform_points(self.pair.fixed_landmarks.positions))
        return float(np.linalg.norm(moved - self.pair.moving_landmarks.positions, axis=1).mean())

    def match_error(self, pairs: Correspondences, undo: AffineTransform) -> float:
        """Return the median error of the matches, mm; their moving points must be in the world of the given image."""
        truth = self.pair.transform.transform_points(pairs.fixed)
        return float(np.median(np.linalg.norm(undo.transform_points(pairs.moving) - truth, axis=1)))


@pytest.fixture(scope="module")
def seeded(pair: PhantomPair) -> Seeder:
    return Seeder(pair)


@pytest.fixture(scope="module")
def seeded_whole_lungs() -> Seeder:
    """For poses that a slice of the chest leaves open."""
    return Seeder(phantom_pair(spacing=8.0, field_of_view=(-95.0, 60.0)))


@pytest.fixture(scope="module")
def upright(seeded: Seeder) -> Seeded:
    return seeded(np.eye(3))


@pytest.fixture(scope="module")
def upright_error(seeded: Seeder, upright: Seeded) -> float:
    return seeded.error(upright.result.seed.transform, upright.undo)


@pytest.fixture(scope="module")
def turned(seeded: Seeder) -> Seeded:
    return seeded(TURN, "deformable")


def test_an_upright_body_is_registered_without_a_note(upright) -> None:
    assert upright.result.seed
    assert upright.result.notes == ()
    assert upright.embedded == 1  # the mirror image alone


def test_an_array_stored_the_other_way_round_with_the_right_header_is_no_turn(seeded, upright_error) -> None:
    image = seeded.pair.moving.image
    grid = Grid.make(
        image.shape, origin=image.grid.index_to_world([[image.shape[2] - 1, 0, image.shape[0] - 1]])[0],
        spacing=image.spacing, direction=image.direction @ np.diag([-1.0, 1.0, -1.0]),
    )  # fmt: skip
    stored = Image(np.ascontiguousarray(image.array[::-1, :, ::-1]), grid, "feet first")
    result = seed_any_orientation(
        seeded.pair.fixed.image, stored, seeded.fixed, MODEL.embed(stored),
        embed=lambda image, _: MODEL.embed(image), transform="affine",
    )  # fmt: skip
    assert result.notes == ()
    assert seeded.error(result.seed.transform, AffineTransform.identity(3)) < upright_error + 1


def test_a_turned_body_is_registered_and_its_turn_is_said(seeded, turned, seeded_whole_lungs) -> None:
    """The oblique one was taken for one that lies upside down, 132 mm off."""
    oblique = seeded_whole_lungs(about((1, 2, -1), 150))
    for seeder, lying, degrees in ((seeded, turned, 70), (seeded_whole_lungs, oblique, 150)):
        assert seeder.error(lying.result.seed.transform, lying.undo) < 21  # upright they are 13 to 15 mm off
        (note,) = lying.result.notes
        assert "turned" in note
        assert "unsure" not in note
        said = int(note.split("by ")[1].split(" degrees")[0])
        assert abs(said - degrees) < 10


def test_all_of_a_turned_seed_is_in_the_world_of_the_image_given(seeded, turned) -> None:
    """The affine once stayed in the turned image's world, 247 mm off."""
    seed = turned.result.seed
    inside = seeded.pair.fixed_landmarks.positions
    apart = np.linalg.norm(
        seed.transform.transform_points(inside) - seed.affine.transform.transform_points(inside), axis=1
    )
    assert np.median(apart) < 25
    assert seeded.match_error(seed.correspondences, turned.undo) < 25
    # an engine that compares the embeddings finds the same places alike
    moved = seed.transform.transform_points(inside)
    assert turned.result.moving.local_grid.contains(moved).mean() > 0.9


@pytest.mark.parametrize(("turn", "transform"), [(np.eye(3), "affine"), (TURN, "deformable")])
def test_where_global_vectors_tell_the_sides_no_mirror_image_is_embedded_by_all(
    seeded, upright, turned, turn, transform
) -> None:
    by_all = upright if turn is not TURN else turned
    glanced = seeded(turn, transform, embed_globally=embed_globally, laterality=lambda scan, mirrored: 6.0)
    assert glanced.embedded == by_all.embedded - 1
    assert glanced.result.notes == by_all.result.notes
    errors = [seeded.error(each.result.seed.transform, each.undo) for each in (glanced, by_all)]
    assert errors[0] == errors[1]


def test_each_image_is_shown_upright_beside_its_mirror_image(seeded) -> None:
    """Laterality is the patient's: a scan that lies turned must be shown as it was embedded, not as it was given."""
    shown = []

    def laterality(scan, mirrored) -> float:
        shown.append((scan, mirrored))
        return 6.0

    seeded(TURN, laterality=laterality)
    assert len(shown) == 2
    for embedding in itertools.chain(*shown):
        across, deep, _ = np.ptp(embedding.local_grid.world_points()[embedding.body], axis=0)
        assert across > deep


@pytest.mark.parametrize(("by_global", "by_all", "words"), [(1.0, 6.0, ""), (-6.0, -6.0, "mirrored")])
def test_where_global_vectors_leave_a_doubt_all_are_asked(symmetric, by_global, by_all, words) -> None:
    def laterality(scan, mirrored) -> float:
        return by_global if len(mirrored.local) == 0 else by_all

    embedding = MODEL.embed(symmetric)
    embedded = []

    def embed(image, mask):
        embedded.append(image)
        return MODEL.embed(image, mask=mask)

    result = seed_any_orientation(
        symmetric, symmetric, embedding, embedding, embed=embed, embed_globally=embed_globally, transform="affine",
        laterality=laterality,
    )  # fmt: skip
    assert len(embedded) == (2 if by_global > 0 else 0)  # both mirrored is as sure as neither
    said = " ".join(result.notes)
    assert words in said
    assert bool(said) == bool(words)


def test_a_mirrored_scan_is_refused_after_a_glance_too(seeded) -> None:
    result = seeded(MIRROR, embed_globally=embed_globally).result
    assert not result.seed
    assert "mirrored" in result.seed.reason


@pytest.mark.parametrize(
    ("field_of_view", "turn", "words"),
    [
        ("seeded", MIRROR, "right and left are exchanged"),
        ("seeded_whole_lungs", np.diag([1.0, 1.0, -1.0]), "foot and head are exchanged"),
        ("seeded", TURN @ MIRROR, "turned as well"),
    ],
)
def test_a_mirrored_scan_is_refused_with_its_matches_where_they_lie(request, field_of_view, turn, words) -> None:
    """The matches of a refusal were once in the world of the mirror image, 150 mm off."""
    seeder = request.getfixturevalue(field_of_view)
    mirrored = seeder(turn)
    result, undo = mirrored.result, mirrored.undo
    assert not result.seed
    assert "mirrored" in result.seed.reason
    assert words in result.seed.reason
    assert result.notes == ()
    assert seeder.match_error(result.seed.correspondences, undo) < 25
    assert seeder.error(result.seed.affine.transform, undo) < 25
    assert np.linalg.det(result.seed.affine.transform.matrix) < 0


@pytest.fixture(scope="module")
def symmetric() -> Image:
    image = make_phantom(1, spacing=8.0, field_of_view=(-40.0, 30.0)).image
    return image.with_array(np.maximum(image.array, image.array[..., ::-1]))


def test_where_both_sides_look_alike_the_user_is_told(symmetric) -> None:
    embedding = MODEL.embed(symmetric)
    result = seed_any_orientation(
        symmetric, symmetric, embedding, embedding, embed=lambda image, _: MODEL.embed(image), transform="affine"
    )
    assert result.seed
    (note,) = result.notes
    assert "left and right cannot be told apart" in note


@pytest.mark.parametrize(
    ("fixed", "moving", "words"),
    [
        (6.0, -5.0, "moving looks mirrored (right and left are exchanged)"),
        (-6.0, 5.0, "fixed looks mirrored (right and left are exchanged)"),
        (6.0, 5.0, ""),
        (0.0, 3.0, "left and right cannot be told apart"),
        (-6.0, -5.0, "fixed and moving both look mirrored"),
    ],
)
def test_where_the_matches_cannot_tell_each_image_does_by_itself(symmetric, fixed, moving, words) -> None:
    """Mirrored scans of other people passed: the matches of a body and of its mirror image are about as good."""
    images = [replace(symmetric, name=name) for name in ("fixed", "moving")]
    embedding = MODEL.embed(images[0])
    answers = iter([fixed, moving])
    result = seed_any_orientation(
        *images, embedding, embedding, embed=lambda image, _: MODEL.embed(image), transform="affine",
        laterality=lambda scan, mirrored: next(answers),
    )  # fmt: skip
    said = " ".join([result.seed.reason, *result.notes])
    assert words in said
    assert bool(said) == bool(words)
    assert bool(result.seed) != ("looks mirrored (" in words)


def test_the_mask_turns_with_its_image(seeded) -> None:
    moving = seeded.pair.moving.image
    turn = about((0, 0, 1), 180)
    array = np.zeros(moving.shape, np.uint8)
    array[: moving.shape[0] // 2] = 1
    mask = turned_image(moving.with_array(array), turn, moving.grid.center)
    result = seeded(turn, moving_mask=mask).result
    assert result.seed
    index = mask.grid.world_to_index(result.seed.correspondences.moving)
    assert index[:, 2].max() < moving.shape[0] // 2 + 1


def test_a_failure_keeps_its_reason_and_matches() -> None:
    few = Correspondences.from_points(np.zeros((3, 3)), np.zeros((3, 3)))
    fit = fit_affine(few)
    assert not Seed(None, fit, few, fit.reason)
    assert "too few" in fit.reason

"""Bodies that lie turned and scans that are mirrored, on phantoms whose true correspondence is known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from samreg.embedding import load_model
from samreg.matching import Correspondences
from samreg.phantoms.phantom import PhantomPair, phantom_pair
from samreg.seeding import OrientedSeed, Seed, fit_affine, seed_any_orientation
from samreg.seeding.turns import turned_image
from samreg.spatial import AffineTransform, Grid, Image
from tests.seeding.test_turns import about

pytestmark = pytest.mark.usefixtures("embeddings_kept")

MIRROR = np.diag([-1.0, 1.0, 1.0])
MODEL = load_model("ct-small")


def embed_globally(image: Image, mask: Image | None) -> object:
    return MODEL.embed_globally(image, mask=mask)


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return phantom_pair(1, 2, spacing=8.0)


class Seeder:
    """Seeds the pair with the moving phantom turned, and counts what is embedded besides the two images."""

    def __init__(self, pair: PhantomPair) -> None:
        self.pair, self.fixed, self.embedded = pair, MODEL.embed(pair.fixed.image), 0

    def __call__(self, turn: np.ndarray, transform: str = "affine", **options) -> tuple[OrientedSeed, AffineTransform]:
        moving = turned_image(self.pair.moving.image, turn, self.pair.moving.image.grid.center)
        undo = AffineTransform.about(self.pair.moving.image.grid.center, turn).inverse()
        self.embedded = 0

        def embed(image: Image, mask: Image | None) -> object:
            self.embedded += 1
            return MODEL.embed(image, mask=mask)

        result = seed_any_orientation(
            self.pair.fixed.image, moving, self.fixed, MODEL.embed(moving), embed=embed, transform=transform, **options
        )
        return result, undo

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
def upright(seeded: Seeder) -> tuple[OrientedSeed, float]:
    result, undo = seeded(np.eye(3))
    assert seeded.embedded == 1  # the mirror image alone
    return result, seeded.error(result.seed.transform, undo)


def test_an_upright_body_is_registered_without_a_note(upright) -> None:
    assert upright[0].seed
    assert upright[0].notes == ()


def test_an_array_stored_the_other_way_round_with_the_right_header_is_no_turn(seeded, upright) -> None:
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
    assert seeded.error(result.seed.transform, AffineTransform.identity(3)) < upright[1] + 1


@pytest.mark.parametrize(("axis", "degrees"), [((0, 0, 1), 70), ((1, 2, -1), 150)])
def test_a_turned_body_is_registered_and_its_turn_is_said(seeded, upright, axis, degrees) -> None:
    result, undo = seeded(about(axis, degrees))
    assert seeded.error(result.seed.transform, undo) < upright[1] + 8
    (note,) = result.notes
    assert "turned" in note
    said = int(note.split("by ")[1].split(" degrees")[0])
    assert abs(said - degrees) < 10


def test_all_of_a_turned_seed_is_in_the_world_of_the_image_given(seeded, upright) -> None:
    """The affine once stayed in the turned image's world, 247 mm off."""
    result, undo = seeded(about((0, 0, 1), 90), "deformable")
    seed = result.seed
    inside = seeded.pair.fixed_landmarks.positions
    apart = np.linalg.norm(
        seed.transform.transform_points(inside) - seed.affine.transform.transform_points(inside), axis=1
    )
    assert np.median(apart) < 25
    assert seeded.match_error(seed.correspondences, undo) < 25
    # an engine that compares the embeddings finds the same places alike
    moved = seed.transform.transform_points(inside)
    assert result.moving.local_grid.contains(moved).mean() > 0.9


@pytest.mark.parametrize("turn", [np.eye(3), about((0, 0, 1), 90)])
def test_where_global_vectors_tell_the_sides_no_mirror_image_is_embedded_by_all(seeded, turn) -> None:
    result, undo = seeded(turn)
    by_all = seeded.embedded
    glanced, _ = seeded(turn, embed_globally=embed_globally, laterality=lambda scan, mirrored: 6.0)
    assert seeded.embedded == by_all - 1
    assert glanced.notes == result.notes
    assert seeded.error(glanced.seed.transform, undo) == seeded.error(result.seed.transform, undo)


@pytest.mark.parametrize(("by_global", "by_all", "words"), [(1.0, 6.0, ""), (-6.0, -6.0, "mirrored")])
def test_where_global_vectors_leave_a_doubt_all_are_asked(seeded, by_global, by_all, words) -> None:
    def laterality(scan, mirrored) -> float:
        return by_global if len(mirrored.local) == 0 else by_all

    image = symmetric_phantom()
    embedding = MODEL.embed(image)
    embedded = []

    def embed(image, mask):
        embedded.append(image)
        return MODEL.embed(image, mask=mask)

    result = seed_any_orientation(
        image, image, embedding, embedding, embed=embed, embed_globally=embed_globally, transform="affine",
        laterality=laterality,
    )  # fmt: skip
    assert len(embedded) == (2 if by_global > 0 else 0)  # both mirrored is as sure as neither
    said = " ".join(result.notes)
    assert words in said
    assert bool(said) == bool(words)


def test_a_mirrored_scan_is_refused_after_a_glance_too(seeded) -> None:
    result, _ = seeded(MIRROR, embed_globally=embed_globally)
    assert not result.seed
    assert "mirrored" in result.seed.reason


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (MIRROR, "right and left are exchanged"),
        (np.diag([1.0, 1.0, -1.0]), "foot and head are exchanged"),
        (about((0, 0, 1), 70) @ MIRROR, "turned as well"),
    ],
)
def test_a_mirrored_scan_is_refused_with_its_matches_where_they_lie(seeded, turn, words) -> None:
    """The matches of a refusal were once in the world of the mirror image, 150 mm off."""
    result, undo = seeded(turn)
    assert not result.seed
    assert "mirrored" in result.seed.reason
    assert words in result.seed.reason
    assert result.notes == ()
    assert seeded.match_error(result.seed.correspondences, undo) < 25
    assert seeded.error(result.seed.affine.transform, undo) < 25
    assert np.linalg.det(result.seed.affine.transform.matrix) < 0


def symmetric_phantom() -> Image:
    image = phantom_pair(1, 1, spacing=8.0).fixed.image
    return image.with_array(np.maximum(image.array, image.array[..., ::-1]))


def test_where_both_sides_look_alike_the_user_is_told() -> None:
    symmetric = symmetric_phantom()
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
def test_where_the_matches_cannot_tell_each_image_does_by_itself(fixed, moving, words) -> None:
    """Mirrored scans of other people passed: the matches of a body and of its mirror image are about as good."""
    images = [replace(symmetric_phantom(), name=name) for name in ("fixed", "moving")]
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


def test_each_image_is_shown_upright_beside_its_mirror_image(seeded) -> None:
    """Laterality is the patient's: a scan that lies turned must be shown as it was embedded, not as it was given."""
    shown = []

    def laterality(scan, mirrored) -> float:
        shown.append((scan, mirrored))
        return 6.0

    seeded(about((0, 0, 1), 90), laterality=laterality)
    assert len(shown) == 2
    for embedding in itertools.chain(*shown):
        across, deep, _ = np.ptp(embedding.local_grid.world_points()[embedding.body], axis=0)
        assert across > deep


def test_the_mask_turns_with_its_image(seeded, upright) -> None:
    moving = seeded.pair.moving.image
    turn = about((0, 0, 1), 180)
    array = np.zeros(moving.shape, np.uint8)
    array[: moving.shape[0] // 2] = 1
    mask = turned_image(moving.with_array(array), turn, moving.grid.center)
    result, _ = seeded(turn, moving_mask=mask)
    assert result.seed
    index = mask.grid.world_to_index(result.seed.correspondences.moving)
    assert index[:, 2].max() < moving.shape[0] // 2 + 1


def test_a_failure_keeps_its_reason_and_matches() -> None:
    few = Correspondences.from_points(np.zeros((3, 3)), np.zeros((3, 3)))
    fit = fit_affine(few)
    assert not Seed(None, fit, few, fit.reason)
    assert "too few" in fit.reason

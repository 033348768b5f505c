"""register() and its result, end to end on phantom chests whose true correspondence is known."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import samreg
from samreg.engines import Engine, EngineResult
from samreg.errors import InputError, MissingExtraError, SamregError
from samreg.phantoms.phantom import PhantomPair, phantom_pair
from samreg.seeding.turns import turned_image
from samreg.spatial import AffineTransform, Image, Points, inverse_residual
from samreg.spatial.adapters import to_nibabel
from samreg.spatial.transforms import components

pytestmark = pytest.mark.usefixtures("embeddings_kept")

MODEL = "mind"


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return phantom_pair(1, 2, spacing=5.0)


@pytest.fixture(scope="module")
def embedded(pair: PhantomPair) -> samreg.RegistrationResult:
    return samreg.register(pair.fixed.image, pair.moving.image, method="embedding", model=MODEL)


@pytest.fixture(scope="module")
def hybrid(pair: PhantomPair) -> samreg.RegistrationResult:
    return samreg.register(
        pair.fixed.image, pair.moving.image, model=MODEL, engine="ants", engine_options={"iterations": (20, 10)}
    )


def landmark_errors(result: samreg.RegistrationResult, pair: PhantomPair, *, back: bool = False) -> np.ndarray:
    x, y = pair.fixed_landmarks.positions, pair.moving_landmarks.positions
    if back:
        return np.linalg.norm(result.transform_points(y, to="fixed") - x, axis=1)
    return np.linalg.norm(result.transform_points(x, to="moving") - y, axis=1)


def centred_errors(pair: PhantomPair) -> np.ndarray:
    shift = pair.moving.image.grid.center - pair.fixed.image.grid.center
    return np.linalg.norm(pair.fixed_landmarks.positions + shift - pair.moving_landmarks.positions, axis=1)


def test_embedding_alone_brings_landmarks_together(embedded, pair) -> None:
    assert embedded
    assert landmark_errors(embedded, pair).mean() < 0.6 * centred_errors(pair).mean()


def test_hybrid_improves_on_the_embedding_and_inverts(hybrid, embedded, pair) -> None:
    assert np.median(landmark_errors(hybrid, pair)) < np.median(landmark_errors(embedded, pair))
    assert abs(landmark_errors(hybrid, pair).mean() - landmark_errors(hybrid, pair, back=True).mean()) < 3.0


def test_hybrid_with_the_torch_engine(embedded, pair) -> None:
    result = samreg.register(pair.fixed.image, pair.moving.image, model=MODEL, engine="torch")
    assert np.median(landmark_errors(result, pair)) < np.median(landmark_errors(embedded, pair))
    assert result.quality["folding_percent"] == 0
    assert result.quality["inverse_residual_p95_mm"] < 0.5
    assert result.versions["torch"].startswith("torch ")
    assert "search" in result.log  # the discrete search, which needs the embeddings, ran


@pytest.mark.parametrize("method", ["registration", "hybrid"])
def test_a_given_start_takes_the_place_of_the_seed(embedded, pair, method) -> None:
    call = {"method": method, "engine": "ants", "engine_options": {"iterations": (0,)}}
    call |= {"model": MODEL} if method == "hybrid" else {}
    result = samreg.register(pair.fixed.image, pair.moving.image, start=embedded.transform, **call)
    points = pair.fixed_landmarks.positions
    np.testing.assert_allclose(
        result.transform_points(points, to="moving"), embedded.transform_points(points, to="moving"), atol=0.3
    )
    assert result.seed is None
    for refused in ({"method": "embedding"}, {"transform": "affine"}):
        with pytest.raises(InputError, match="start"):
            samreg.register(pair.fixed.image, pair.moving.image, start=embedded.transform, **refused)


def test_landmarks_guide_the_torch_engine(pair) -> None:
    """Given far-off landmarks for one place, it goes there; the fast preset takes an affine seed."""
    names = pair.fixed_landmarks.names[:4]
    fixed = pair.fixed_landmarks.named(names)
    moving = Points(pair.moving_landmarks.named(names).positions + [0.0, 0.0, 12.0], names)
    options = {"preset": "fast", "landmark_weight": 1.0}
    images = pair.fixed.image, pair.moving.image
    result = samreg.register(*images, model=MODEL, engine="torch", landmarks=(fixed, moving), engine_options=options)
    there = result.transform_points(fixed.positions, to="moving")
    assert np.linalg.norm(there - moving.positions, axis=1).mean() < 3
    assert len(components(result.seed.transform)) == 1
    assert result.options["landmarks"] == 4


def test_inverse_is_true_inside_the_body(hybrid, pair) -> None:
    body = np.argwhere(pair.fixed.labels.array > 0)[::53, ::-1]
    points = pair.fixed.image.grid.index_to_world(body)
    assert inverse_residual(hybrid.transform, hybrid.inverse, points).p95 < 0.5
    assert hybrid.quality["inverse_residual_p95_mm"] < 0.5


def test_warped_and_labels_come_onto_the_fixed_grid(hybrid, pair) -> None:
    assert hybrid.warped.grid.same_as(pair.fixed.image.grid)
    labels = hybrid.warp(pair.moving.labels, interpolation="nearest")
    fixed = pair.fixed.labels.array
    assert set(np.unique(labels.array)) <= set(np.unique(pair.moving.labels.array)) | {0}
    lung = [label for label in np.unique(fixed) if (fixed == label).sum() > 3000 and label]
    overlap = [
        2 * ((labels.array == k) & (fixed == k)).sum() / ((labels.array == k).sum() + (fixed == k).sum()) for k in lung
    ]
    assert np.mean(overlap) > 0.6


@pytest.mark.parametrize("transform", ["rigid", "affine"])
def test_linear_transforms_stay_linear(pair, transform) -> None:
    result = samreg.register(pair.fixed.image, pair.moving.image, method="embedding", transform=transform, model=MODEL)
    assert result
    (part,) = components(result.transform)
    assert isinstance(part, AffineTransform)
    if transform == "rigid":
        np.testing.assert_allclose(part.matrix @ part.matrix.T, np.eye(3), atol=1e-6)
    assert landmark_errors(result, pair).mean() < 25  # the world frames lie 500 mm apart


def test_a_start_for_an_engine_without_embeddings_needs_none(body, monkeypatch) -> None:
    class Centred(Engine):
        name = "centred"

        def register(self, request):
            assert request.embeddings is None
            return EngineResult(request.start, "", "1")

    def load(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("samreg.embedding.registry.model_for", load)
    start = AffineTransform(np.eye(3), [4.0, 0.0, 0.0])
    result = samreg.register(body, body, engine=Centred(), start=start)
    assert result.transform_points([[80.0, 80, 80]], to="moving").round(3).tolist() == [[84, 80, 80]]
    assert result.options["model"] is None
    assert "embedding" not in result.timings


@pytest.mark.parametrize(
    ("seed", "threads", "transform", "expected"),
    [(0, None, "affine", 1), (0, 3, "affine", 3), (None, None, "affine", None), (2**32 - 1, None, "rigid", 1)],
)
def test_seed_and_threads_as_ants_is_given_them(body, monkeypatch, seed, threads, transform, expected) -> None:
    """A seed never becomes 0, which is ANTs' clock."""
    given = {}

    def worker(module, pair, job, *, threads, environment, verbose):
        given.update(environment, threads=threads)
        return SimpleNamespace(transform=AffineTransform.identity(3), log="")

    monkeypatch.setattr("samreg.engines.ants.run_worker", worker)
    call = {"method": "registration", "engine": "ants", "transform": transform}
    samreg.register(body, body, **call, seed=seed, threads=threads)
    assert given["threads"] == expected
    if seed is None:
        assert "ANTS_RANDOM_SEED" not in given
    else:
        assert 0 < int(given["ANTS_RANDOM_SEED"]) < 2**31


def test_guides_that_are_missed_are_flagged(body) -> None:
    options = {"levels": (16,), "iterations": (1,), "landmark_weight": 0.0}
    guides = samreg.Points([[80.0, 80, 80], [60, 80, 80]]), samreg.Points([[80.0, 80, 80], [90, 80, 80]])
    call = {"method": "registration", "engine": "torch", "engine_options": options}
    result = samreg.register(body, body, landmarks=guides, **call)
    assert result.quality["guide_miss_max_mm"] == pytest.approx(30, abs=3)
    assert result.quality["guide_miss_mean_mm"] == pytest.approx(15, abs=3)
    assert any("guiding landmark is missed by" in flag for flag in result.flags)
    assert "guide_miss_max_mm" not in samreg.register(body, body, **call).quality


def test_a_note_does_not_take_the_embeddings_from_the_engine(body, monkeypatch) -> None:
    given = []

    class Compares(Engine):
        name, uses_embeddings = "compares", True

        def register(self, request):
            given.append(request.embeddings)
            return EngineResult(request.start, "", "1")

    def seeded(fixed, moving, fixed_embedding, moving_embedding, **_):
        pairs = SimpleNamespace(reliability=np.ones(1), __len__=lambda self: 1)
        seed = SimpleNamespace(transform=AffineTransform.identity(3), correspondences=pairs, reason="")
        return SimpleNamespace(seed=seed, moving=moving_embedding, whole=pairs, turn=np.eye(3), notes=("look here",))

    monkeypatch.setattr("samreg.seeding.seed_any_orientation", seeded)
    result = samreg.register(body, body, engine=Compares(), model="mind", transform="affine")
    assert result.notes == ("look here",)
    assert given[0] is not None


def test_zero_iterations_return_the_seed(pair, embedded) -> None:
    result = samreg.register(
        pair.fixed.image, pair.moving.image, model=MODEL, engine="ants", engine_options={"iterations": (0,)}
    )
    points = pair.fixed_landmarks.positions
    np.testing.assert_allclose(
        result.transform_points(points, to="moving"), embedded.transform_points(points, to="moving"), atol=0.05
    )


def test_the_same_call_gives_the_same_result(pair, embedded) -> None:
    again = samreg.register(pair.fixed.image, pair.moving.image, method="embedding", model=MODEL)
    points = pair.fixed_landmarks.positions
    np.testing.assert_array_equal(again.transform.transform_points(points), embedded.transform.transform_points(points))


def test_save_writes_files_that_others_read(hybrid, pair, tmp_path) -> None:
    import SimpleITK as sitk

    folder = hybrid.save(tmp_path / "out", formats=("h5", "nii", "npz"))
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "warped.nii.gz", "transform.h5", "inverse.h5", "transform.nii.gz", "inverse.nii.gz", "transform.npz",
        "inverse.npz", "transformix.txt", "affine.tfm", "correspondences.csv", "body.nii.gz", "engine.log",
        "preview.png", "result.json",
    }  # fmt: skip
    inside = pair.fixed.image.grid.index_to_world(
        np.random.default_rng(0).uniform(2, np.array(pair.fixed.image.grid.size) - 3, (50, 3))
    )
    expected = hybrid.transform.transform_points(inside)
    through_itk = sitk.ReadTransform(str(folder / "transform.h5"))
    # a field written on the 5 mm grid is that of the same voxels: they agree between voxels to interpolation error
    np.testing.assert_allclose([through_itk.TransformPoint(list(p)) for p in inside], expected, atol=0.3)
    for name in ("transform.nii.gz", "transform.npz"):
        read = samreg.read_transform(
            folder / name,
            **(
                {"fixed_grid": pair.fixed.image.grid, "moving_grid": pair.moving.image.grid}
                if name.endswith("npz")
                else {}
            ),
        )
        np.testing.assert_allclose(read.transform_points(inside), expected, atol=0.3)
    summary = json.loads((folder / "result.json").read_text())
    assert summary["ok"] is True
    assert summary["options"]["method"] == "hybrid"
    assert "antspyx" in summary["versions"]["ants"]
    assert summary["timings_s"]["registration"] > 0
    warped = samreg.read_image(folder / "warped.nii.gz")
    assert warped.array.dtype == np.int16
    assert warped.grid.same_as(pair.fixed.image.grid)


def test_a_full_disk_leaves_nothing_behind(embedded, tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("samreg.registration.store.write_transform", full)
    with pytest.raises(InputError, match="No space left"):
        embedded.save(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_save_leaves_the_old_files(embedded, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "transform.h5").write_bytes(b"old")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("samreg.registration.store.write_transform", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embedded.save(folder)
    assert [path.name for path in folder.iterdir()] == ["transform.h5"]
    assert (folder / "transform.h5").read_bytes() == b"old"


def test_a_turned_image_is_registered_and_said(pair) -> None:
    turn = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    turned = turned_image(pair.moving.image, turn, pair.moving.image.grid.center)
    undo = AffineTransform.about(pair.moving.image.grid.center, turn).inverse()
    result = samreg.register(pair.fixed.image, turned, method="embedding", transform="affine", model=MODEL)
    assert result
    assert any("turned" in flag for flag in result.flags)
    found = undo.transform_points(result.transform_points(pair.fixed_landmarks.positions, to="moving"))
    assert np.linalg.norm(found - pair.moving_landmarks.positions, axis=1).mean() < 25


@pytest.fixture(scope="module")
def short() -> PhantomPair:
    return phantom_pair(spacing=5.0, field_of_view=(-95.0, 75.0))


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_mirrored_image_is_refused_and_named(short, side) -> None:
    """The fixed image was never looked at, nor was it said which of the two is at fault."""
    images = {"fixed": short.fixed.image, "moving": short.moving.image}
    mirrored = turned_image(images[side], np.diag([-1.0, 1.0, 1.0]), images[side].grid.center)
    images[side] = replace(mirrored, name="culprit.nii.gz")
    result = samreg.register(**images, method="embedding", transform="affine", model="ct-small")
    assert not result
    assert result.reason.startswith("culprit.nii.gz looks mirrored (right and left are exchanged)")
    assert result.summary()["ok"] is False
    with pytest.raises(SamregError, match="mirrored"):
        _ = result.warped


def test_partial_overlap_is_measured(pair) -> None:
    whole = pair.moving.image
    half = whole.shape[0] // 2
    grid = type(whole.grid)((half, *whole.shape[1:]), whole.origin, whole.spacing, whole.direction)
    part = Image(whole.array[:half], grid, "half")
    result = samreg.register(pair.fixed.image, part, method="embedding", transform="affine", model=MODEL)
    assert result
    assert 15 < result.quality["overlap_percent"] < 85
    assert any("no counterpart" in flag for flag in result.flags)
    shown = grid.contains(pair.moving_landmarks.positions)
    x, y = pair.fixed_landmarks.take(shown), pair.moving_landmarks.take(shown)
    error = np.linalg.norm(result.transform_points(x, to="moving", outside="extrapolate") - y.positions, axis=1)
    assert error.mean() < 30


def test_unrelated_noise_fails_with_a_reason(pair) -> None:
    rng = np.random.default_rng(0)
    noise = Image.from_array(rng.integers(-1000, 1000, (40, 40, 40)).astype(np.int16), spacing=5.0, name="noise")
    result = samreg.register(pair.fixed.image, noise, method="embedding", transform="affine", model=MODEL)
    assert not result
    assert result.reason
    json.dumps(result.summary())


def test_masks_narrow_the_matches(pair) -> None:
    mask = pair.fixed.labels.with_array((pair.fixed.labels.array > 0).astype(np.uint8))
    cut = mask.array.copy()
    cut[: mask.shape[0] // 3] = 0
    result = samreg.register(
        pair.fixed.image,
        pair.moving.image,
        method="embedding",
        transform="affine",
        model=MODEL,
        fixed_mask=mask.with_array(cut),
    )
    index = pair.fixed.image.grid.world_to_index(result.correspondences.fixed)[:, 2]
    assert index.min() > mask.shape[0] // 3 - 2


def test_points_outside_are_refused_or_extrapolated(embedded, pair) -> None:
    far = pair.fixed.image.grid.center + [5000.0, 0, 0]
    with pytest.raises(InputError, match="lie outside the fixed image"):
        embedded.transform_points(far, to="moving")
    affine = components(embedded.transform)[-1]
    np.testing.assert_allclose(
        embedded.transform_points(far, to="moving", outside="extrapolate"), affine.transform_points(far)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"transform": "projective"}, "unknown transform"),
        ({"engine": "spm", "method": "registration"}, "unknown engine 'spm'"),
        ({"model": "nonsense", "method": "embedding"}, "unknown model 'nonsense'"),
        ({"spacing": 0.0}, "spacing must be a number between"),
        ({"threads": 0, "method": "embedding"}, "threads must be a whole number between 1 and 1024"),
        ({"engine": "ants", "engine_options": {"speed": 1}}, "unknown options"),
        ({"engine": "ants", "method": "registration"}, 'method "registration" uses no model'),
        ({"engine": "ants", "method": "embedding"}, 'method "embedding" uses no engine'),
    ],
)
def test_wrong_options_are_named(pair, change, message) -> None:
    with pytest.raises(InputError, match=message):
        samreg.register(pair.fixed.image, pair.moving.image, **{"model": MODEL, **change})


def test_dimensions_must_agree(pair) -> None:
    flat = Image.from_array(pair.fixed.image.array[10], spacing=5.0, name="slice")
    with pytest.raises(InputError, match="slice is 2D"):
        samreg.register(flat, pair.moving.image)


def test_a_missing_engine_says_what_to_install(body, monkeypatch) -> None:
    monkeypatch.setattr("samreg.engines.registry.EngineEntry.version", None)
    with pytest.raises(MissingExtraError, match=r'pip install "samreg\[elastix\]"'):
        samreg.register(body, body, method="registration", engine="elastix")
    with pytest.raises(InputError, match="no registration engine is installed"):
        samreg.register(body, body)
    assert samreg.register(body, body, method="embedding", transform="affine", model=MODEL)


def test_match_finds_landmarks(pair) -> None:
    found = samreg.match(pair.fixed.image, pair.fixed_landmarks, pair.moving.image, model=MODEL)
    error = np.linalg.norm(found.points - pair.moving_landmarks.positions, axis=1)
    assert found.names == pair.fixed_landmarks.names
    assert np.median(error) < 15
    assert ((found.reliability >= 0) & (found.reliability <= 1)).all()
    assert found.inside.all()


def test_match_accepts_embeddings_and_refuses_points_outside(pair, tmp_path) -> None:
    model = samreg.load_model(MODEL)
    template, target = (model.embed(p.image) for p in (pair.fixed, pair.moving))
    template.save(tmp_path / "template.h5")
    direct = samreg.match(template, pair.fixed_landmarks, target)
    loaded = samreg.match(os.fspath(tmp_path / "template.h5"), pair.fixed_landmarks, target)
    np.testing.assert_allclose(direct.points, loaded.points, atol=1e-6)
    with pytest.raises(InputError, match="outside the template"):
        samreg.match(template, [[9999.0, 0.0, 0.0]], target)
    with pytest.raises(InputError, match="unknown search"):
        samreg.match(template, pair.fixed_landmarks, target, search="psychic")


def test_match_flags_points_outside_the_targets_view(pair) -> None:
    whole = pair.moving.image
    kept = slice(0, whole.shape[0] // 2)
    grid = type(whole.grid)((whole.shape[0] // 2, *whole.shape[1:]), whole.origin, whole.spacing, whole.direction)
    target = Image(whole.array[kept], grid, "half")
    found = samreg.match(pair.fixed.image, pair.fixed_landmarks, target, model=MODEL)
    seen = grid.contains(pair.moving_landmarks.positions)
    assert (found.inside == seen).mean() > 0.75
    assert found.reliability[~seen].mean() < found.reliability[seen].mean()


def test_public_names_load() -> None:
    for name in samreg.__all__:
        assert getattr(samreg, name) is not None


def test_what_was_decided_in_reading_stands_in_the_result(body, tmp_path, caplog):
    nib = pytest.importorskip("nibabel")
    image = to_nibabel(body)
    qform = image.affine.copy()
    qform[:3, 3] += 30
    image.set_qform(qform, code=1)
    nib.save(image, tmp_path / "two.nii.gz")
    mask = body.with_array(np.where(body.array > -500, 0.5, 0.0).astype(np.float32))
    result = samreg.register(
        tmp_path / "two.nii.gz", body, fixed_mask=mask, method="registration", engine="torch", transform="rigid",
        spacing=8.0,
    )  # fmt: skip
    geometry, probabilities = result.notes
    assert "two.nii.gz: its sform" in geometry
    assert "every voxel that is not zero counts as inside" in probabilities
    assert result.summary()["notes"] == [geometry, probabilities]
    assert geometry in caplog.text


def test_fields_are_the_engines_own_throughout_the_image_even_where_the_first_leads_out_of_it() -> None:
    """The second field fell to zero just outside the image, where the first leads, and folded there."""
    from samreg.registration.composition import fields_then_affine
    from samreg.spatial import AffineTransform, DisplacementField, Grid, compose

    image = Grid.make((20, 20, 20), spacing=4.0)
    wide = image.with_spacing(8.0).padded(120.0)
    near = image.with_spacing(8.0).padded(60.0)
    outwards, shift = np.zeros((*wide.shape, 3), np.float32), np.zeros((*near.shape, 3), np.float32)
    outwards[..., 0] = np.clip(0.5 * (wide.world_points()[..., 0] - 38.0), -45, 45)  # past either side of the image
    shift[..., 0] = 30.0
    parts = (DisplacementField(outwards, wide), DisplacementField(shift, near))
    given = compose(*parts, AffineTransform.identity(3))
    points = image.world_points().reshape(-1, 3)
    kept = fields_then_affine(given, image, 2.0)
    np.testing.assert_allclose(kept.transform_points(points), given.transform_points(points), atol=1e-3)


@pytest.mark.parametrize("kind", ["total displacement", "affine first", "inverse"])
def test_starts_that_end_in_no_affine_leave_a_field_that_does_not_fold_on_its_way_to_zero(kind) -> None:
    """A shift of 200 mm fell to zero over 30 mm, and a tenth of the image came back up to 200 mm off."""
    from samreg.registration.composition import fields_then_affine
    from samreg.spatial import AffineTransform, DisplacementField, Grid, compose, sample_displacement

    image = Grid.make((20, 24, 28), spacing=4.0, direction=[[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    shift = AffineTransform.about(image.center, [[1.1, -0.1, 0], [0.1, 1.0, 0], [0, 0, 0.9]], [200.0, -30.0, 60.0])

    def bump(center):
        grid = Grid(image.shape, image.origin + center - image.center, image.spacing, image.direction)
        away = ((grid.world_points() - center) ** 2).sum(axis=-1, keepdims=True)
        return DisplacementField(6 * np.exp(-away / 300) * [1.0, 0.5, -0.5], grid)

    given = {
        "total displacement": sample_displacement(compose(bump(image.center), shift), image),
        "affine first": compose(shift, bump(shift.transform_points(image.center)[0])),
        "inverse": compose(bump(shift.transform_points(image.center)[0]), shift.inverse()).inverse(),
    }[kind]
    points = image.world_points().reshape(-1, 3)
    kept = fields_then_affine(given, image, 4.0)
    np.testing.assert_allclose(kept.transform_points(points), given.transform_points(points), atol=0.05)
    np.testing.assert_allclose(kept.inverse().transform_points(kept.transform_points(points)), points, atol=0.1)
    around = image.padded(40.0).world_points().reshape(-1, 3)  # where the field is zero, the affine has the last word
    np.testing.assert_allclose(kept.transform_points(around), shift.transform_points(around), atol=8.0)


def test_affines_after_each_other_are_one() -> None:
    from samreg.registration.composition import fields_then_affine
    from samreg.spatial import AffineTransform, CompositeTransform, Grid

    turn, shift = AffineTransform([[0, -1], [1, 0]], [3, 0]), AffineTransform.about([5, 5], np.eye(2), [9, 9])
    assert isinstance(fields_then_affine(CompositeTransform((turn, shift)), Grid.make((20, 20)), 1.0), AffineTransform)

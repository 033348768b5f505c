"""What the plugin computes and where napari shows it, without Qt: matches, maps, layers, progress and cancel."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

import samreg
from samreg.errors import InputError
from samreg.landmarks import FoundLandmarks
from samreg.phantoms import phantom_pair
from samreg.plugin import placing, session
from samreg.plugin.reader import get_reader, phantom_layers, read_layers
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, compose

pytestmark = pytest.mark.usefixtures("embeddings_kept")

COARSE = {"spacing": 8.0, "field_of_view": (-60, 30)}
TURN = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])


def silent():
    return session.Job(lambda stage, fraction: None)


@pytest.fixture(scope="module")
def pair():
    """Return two people, as little of them as holds some landmarks."""
    return phantom_pair(**COARSE)


@pytest.fixture(scope="module")
def explorer(pair):
    return session.explore(pair.fixed.image, pair.moving.image, silent(), model="mind")


def test_a_point_matches_itself_and_its_map_peaks_there(pair):
    image = pair.fixed.image
    same = session.explore(image, image, silent(), model="mind")
    point = pair.fixed.landmarks.positions[3]
    match = same.match(point, "moving")
    assert np.linalg.norm(match.match - point) < 8
    assert match.similarity > 0.9
    peak = np.array(np.unravel_index(match.similarity_map.array.argmax(), match.similarity_map.shape))[::-1]
    assert np.linalg.norm(match.similarity_map.grid.index_to_world(peak)[0] - point) < 20


def test_matches_go_both_ways(explorer, pair):
    there = explorer.match(pair.fixed.landmarks.positions[0], "fixed")
    back = explorer.match(there.match, "moving")
    assert abs(np.linalg.norm(back.match - there.point) - there.cycle_error) < 8
    assert 0 < there.reliability < 1
    for match, image in ((there, pair.moving.image), (back, pair.fixed.image)):
        assert image.grid.contains(match.match[None]).all()
        assert image.grid.overlaps(match.similarity_map.grid)


def test_a_point_outside_the_body_has_no_match(explorer, pair):
    assert explorer.match(pair.fixed.image.grid.origin - 50, "fixed") is None
    with pytest.raises(InputError, match="choose one of fixed, moving"):
        explorer.match([0, 0, 0], "other")


def test_embeddings_of_two_models_are_refused(pair):
    from dataclasses import replace

    embedding = samreg.embed(pair.fixed.image, model="mind")
    with pytest.raises(InputError, match="model"):
        session.Explorer(embedding, replace(embedding, model="other@1"))


def test_a_ct_and_an_image_without_units_are_embedded_by_one_model():
    """Each was embedded by the default for itself, and two models were refused in a panel that has no choice of one."""
    hu = np.full((12, 12, 12), -1000, np.float32)
    hu[2:10, 2:10, 2:10] = np.random.default_rng(0).normal(0, 60, (8, 8, 8))
    ct, cone_beam = (Image.from_array(array, spacing=8.0, name=name) for array, name in ((hu, "ct"), (hu + 1500, "cb")))
    explorer = session.explore(ct, cone_beam, silent(), device="cpu")
    assert explorer.match([44.0, 44.0, 44.0], "fixed") is not None
    (note,) = explorer.notes
    assert note.startswith("cb: the intensities are not Hounsfield units")
    assert not session.explore(ct, ct, silent(), device="cpu").notes


def test_work_reports_and_ends_at_the_next_report_once_cancelled(pair):
    reports = []
    job = session.Job(lambda stage, fraction: reports.append((stage, fraction)))
    session.explore(pair.fixed.image, pair.moving.image, job, model="mind")
    assert [stage for stage, done in reports if math.isnan(done)] == [
        "embedding the fixed image", "embedding the moving image", "preparing the search",
    ]  # fmt: skip

    def cancel_when_it_embeds(stage, fraction):
        stages.append(stage)
        if stage == "embedding":
            job.cancel()

    stages = []
    job = session.Job(cancel_when_it_embeds)
    with pytest.raises(session.Cancelled):
        session.register_pair(pair.fixed.image, pair.moving.image, job, method="embedding", model="mind")
    assert stages[-1] == "embedding"


def oblique_image(direction=TURN):
    grid = Grid.make((8, 10, 12), origin=(40, -30, 200), spacing=(4, 5, 6), direction=direction)
    return Image(np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), grid, "scan")


@pytest.mark.parametrize("direction", [np.eye(3), TURN, TURN @ np.diag([-1, -1, 1]), np.eye(3)[:, [2, 0, 1]]])
def test_positions_in_napari_are_those_of_the_voxels(direction):
    image = oblique_image(direction)
    frame = placing.Frame.of(image)
    data, options, kind = frame.image_layer()
    assert kind == "image"
    index = (3, 4, 5)
    position = np.array(index) * options["scale"] + options["translate"]
    world = frame.to_world(position)[0]
    at = np.rint(image.grid.world_to_index(world)[0]).astype(int)
    assert data[index] == image.array[tuple(at[::-1])]
    np.testing.assert_allclose(frame.to_napari(world[None])[0], position)


def test_an_image_of_a_layer_is_the_one_that_was_read_or_made_of_its_place():
    components = pytest.importorskip("napari.components", reason="napari is not installed (the extra view)")
    viewer = components.ViewerModel()
    image = oblique_image()
    data, options, _ = placing.Frame.of(image).image_layer("ours")
    ours = viewer.add_image(data, **options)
    assert placing.image_of(ours).grid.same_as(placing.Frame.of(image).grid)
    other = viewer.add_image(np.zeros((3, 4, 5)), scale=(3, 2, 1), translate=(30, 20, 10), name="other")
    grid = placing.image_of(other).grid
    assert (grid.spacing.tolist(), grid.origin.tolist()) == ([1, 2, 3], [10, 20, 30])
    matrix = np.array([[3, 0, 0, 30], [0, -2, 0, 20], [0, 0, 1, 10], [0, 0, 0, 1]])  # as readers of NIfTI place it
    grid = placing.image_of(viewer.add_image(np.zeros((3, 4, 5)), affine=matrix, name="by an affine")).grid
    assert (grid.spacing.tolist(), grid.origin.tolist()) == ([1, 2, 3], [10, 20, 30])
    assert np.diag(grid.direction).tolist() == [1, -1, 1]
    volume = np.zeros((3, 4, 5))
    turned = viewer.add_image(volume, rotate=(10, 0, 0), name="turned")
    sheared = viewer.add_image(volume, shear=(0.5, 0, 0), name="sheared")
    movie = viewer.add_image(np.zeros((2, 3, 4, 5)), name="movie")
    for layer, words in ((turned, "turned"), (sheared, "sheared"), (movie, "no scalar")):
        with pytest.raises(InputError, match=words):
            placing.image_of(layer)


@pytest.fixture(scope="module")
def result():
    fixed, moving = oblique_image(), oblique_image()
    displacement = np.zeros((*fixed.shape, 3), np.float32)
    displacement[..., 2] = 3.0
    transform = compose(DisplacementField(displacement, fixed.grid), AffineTransform(np.eye(3), [500.0, 0, 0]))
    return samreg.RegistrationResult(fixed, moving, transform)


def test_the_displacement_is_shown_without_the_affine_part(result):
    (length, options, _), (arrows, _, kind) = placing.field_layers(result)
    assert kind == "vectors"
    np.testing.assert_allclose(length, 3.0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(arrows[:, 1], axis=1), 3.0, atol=1e-4)
    np.testing.assert_allclose(arrows[:, 1, 0], 3.0, atol=1e-4)  # along z, which the oblique axes keep
    np.testing.assert_allclose(options["scale"], [6, 5, 4])


def test_maps_lie_on_the_fixed_image(result):
    ((warped, place, _),) = placing.warped_layers(result)
    assert warped.shape == result.fixed.shape
    np.testing.assert_allclose(place["translate"], placing.Frame.of(result.fixed).image_layer()[1]["translate"])
    ((jacobian, options, _),) = placing.jacobian_layers(result)
    np.testing.assert_allclose(jacobian, 1.0, atol=1e-3)
    assert options["contrast_limits"] == (0.0, 2.0)
    failed = samreg.RegistrationResult(result.fixed, result.moving, None, reason="too few matches")
    with pytest.raises(InputError, match="too few matches"):
        placing.jacobian_layers(failed)


def test_a_similarity_map_is_brought_to_the_axes_of_an_oblique_image():
    frame = placing.Frame.of(oblique_image())
    grid = Grid.make((12, 12, 12), origin=(0, -40, 190), spacing=8)
    values = np.zeros(grid.shape, np.float32)
    values[6, 5, 8] = 0.9
    data, options, _ = placing.similarity_layer(Image(values, grid, "similarity"), frame)
    peak = np.array(np.unravel_index(data.argmax(), data.shape)) * options["scale"] + options["translate"]
    assert np.linalg.norm(frame.to_world(peak)[0] - grid.index_to_world([8, 5, 6])[0]) < 4


def test_landmarks_that_are_sure_are_named():
    image = oblique_image()
    one = np.ones(2)
    points = np.stack([image.grid.center, image.grid.center + 4])
    found = FoundLandmarks(points, ("carina", "apex"), np.array([0.9, 0.1]), one, one > 0)
    data, options, kind = placing.landmark_layer(found, placing.Frame.of(image))
    assert (kind, options["features"]["name"].tolist()) == ("points", ["carina"])
    np.testing.assert_allclose(placing.Frame.of(image).to_world(data), points[:1])


def test_files_are_read_as_samreg_places_them(tmp_path):
    image = oblique_image()
    samreg.write_image(image, tmp_path / "scan.nii.gz")
    assert get_reader(str(tmp_path / "notes.txt")) is None
    assert get_reader([str(tmp_path / "scan.nii.gz"), str(tmp_path)]) is read_layers
    ((data, options, kind),) = get_reader(str(tmp_path / "scan.nii.gz"))(str(tmp_path / "scan.nii.gz"))
    assert (kind, options["name"]) == ("image", "scan.nii.gz")
    assert options["metadata"][placing.IMAGE_KEY].grid.same_as(placing.Frame.of(image).grid)
    assert data.shape == placing.Frame.of(image).image.shape


def test_the_sample_is_two_people(monkeypatch):
    short = functools.partial(phantom_pair, field_of_view=COARSE["field_of_view"])
    monkeypatch.setattr("samreg.phantoms.phantom_pair", short)
    (first, options, _), (second, _, _) = phantom_layers()
    assert first.shape[1:] != second.shape[1:] or not np.array_equal(first, second)
    assert options["metadata"][placing.IMAGE_KEY].spacing.tolist() == [5, 5, 5]

"""The layers for napari: what they hold and where they lie, also in napari's own model where it is installed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from samreg.registration.quality import initial_alignment
from samreg.report.napari import add_layers
from samreg.spatial import AffineTransform, Grid, Image, resample


class Recorder:
    """Takes the place of a viewer and keeps the layers it is given."""

    def __init__(self):
        self.layers, self.dims = [], SimpleNamespace()

    def add_image(self, data, **options):
        self.layers.append(SimpleNamespace(data=data, **options))

    add_points = add_image


def in_world(layer, index):
    """Map an index (z, y, x) to napari's world, turned to (x, y, z)."""
    return (np.asarray(index) * layer.scale + layer.translate)[::-1]


def test_layers_lie_where_the_images_do(good_result):
    result = good_result(name="moving.nii.gz")
    viewer = Recorder()
    add_layers(viewer, result)
    before = f"moving before, {initial_alignment(result)[1]}"
    names = ["fixed", before, "warped", "matches", "matches, counterparts warped"]
    assert [layer.name for layer in viewer.layers] == names
    fixed, moving, warped, matches, counterparts = viewer.layers
    assert [layer.visible for layer in (moving, warped, matches, counterparts)] == [False, True, True, False]
    index = (3, 5, 7)
    for layer in (fixed, moving, warped):
        np.testing.assert_allclose(in_world(layer, index), result.fixed.grid.index_to_world(index[::-1])[0])
    np.testing.assert_array_equal(warped.data, result.warped.array)
    np.testing.assert_array_equal(moving.data, result.moving.array)  # the worlds of the two are one
    np.testing.assert_allclose(matches.data[:, ::-1], result.correspondences.fixed)
    back = result.inverse.transform_points(result.correspondences.moving)
    np.testing.assert_allclose(counterparts.data[:, ::-1], back)
    np.testing.assert_array_equal(matches.features["reliability"], result.correspondences.reliability)


def test_matches_lie_on_their_voxels_in_an_oblique_mirrored_scan(good_result):
    result = good_result()
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    grid = Grid(result.fixed.shape, np.array([5.0, -70, 300]), result.fixed.spacing, turn @ np.diag([-1.0, -1, 1]))
    marked = np.zeros(grid.shape, np.float32)
    marked[6, 8, 20] = 1  # z, y, x
    pairs = replace(result.correspondences.take([0]), fixed=grid.index_to_world([20, 8, 6]))
    identity = AffineTransform.identity(3)
    seed = replace(result.seed, correspondences=pairs)
    image = Image(marked, grid)
    viewer = Recorder()
    add_layers(viewer, replace(result, fixed=image, moving=image, transform=identity, seed=seed))
    fixed, _, warped, matches, _ = viewer.layers
    for layer in (fixed, warped):
        np.testing.assert_allclose(in_world(layer, np.argwhere(layer.data > 0.5)[0]), matches.data[0, ::-1])
    assert resample(image, grid).array[6, 8, 20] == 1


def test_a_failed_result_shows_the_images_before(failed_result):
    viewer = Recorder()
    add_layers(viewer, failed_result())
    assert [layer.name.split()[0] for layer in viewer.layers] == ["fixed", "moving"]
    assert viewer.layers[1].visible


def test_napari_agrees_on_the_places(good_result):
    components = pytest.importorskip("napari.components", reason="napari is not installed (the extra view)")
    result = good_result()
    viewer = components.ViewerModel()
    add_layers(viewer, result)
    fixed, before, warped, matches, _ = viewer.layers
    for layer in (fixed, before, warped):
        np.testing.assert_allclose(layer.data_to_world((3, 5, 7))[::-1], result.fixed.grid.index_to_world([7, 5, 3])[0])
    np.testing.assert_allclose(matches.data_to_world(matches.data[4])[::-1], result.correspondences.fixed[4])
    assert viewer.dims.thickness == (12, 12, 12)
    assert len(np.unique(matches.face_color, axis=0)) == 50  # each of its own reliability


def test_flat_images():
    from samreg.registration.result import RegistrationResult

    image = Image.from_array(np.zeros((5, 6), np.float32), spacing=2.0, origin=(1.0, 2.0))
    viewer = Recorder()
    add_layers(viewer, RegistrationResult(image, image, AffineTransform.identity(2)))
    np.testing.assert_allclose(in_world(viewer.layers[0], (1, 2)), [5.0, 4.0])

"""Real CTs and their landmarks: these pin the world frame."""

from __future__ import annotations

import numpy as np
import pytest

from samreg.errors import InputError
from samreg.spatial import read_image, read_points

SUBJECTS = ("ITKELX-00", "LIDC-0004", "LUNG1-001", "LUNG1-003")


def near(image, point, radius):
    """Return the intensities within ``radius`` mm of a world point."""
    grid = image.grid
    centre = np.round(grid.world_to_index(point)[0]).astype(int)
    reach = np.ceil(radius / grid.spacing).astype(int)
    low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, grid.size)
    steps = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
    index = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    index = index[np.linalg.norm(grid.index_to_world(index) - point, axis=1) <= radius]
    return image.array[tuple(index[:, ::-1].T)]


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request, data_dir):
    folder = data_dir / "ct" / "benchmark"
    image = read_image(folder / "images" / f"{request.param}.nii.gz")
    return image, read_points(folder / "landmarks.csv", subject=request.param)


def test_stored_hounsfield_units(subject):
    image, _ = subject
    assert image.array.dtype == np.int16
    assert image.array.min() >= -1024
    assert image.array.max() <= 3071
    assert image.array.max() > 300  # bone


def test_landmarks_lie_inside(subject):
    image, points = subject
    assert len(points) >= 10
    assert image.grid.contains(points.positions).all()


def test_landmarks_lie_in_their_tissue(subject):
    image, points = subject
    place = dict(zip(points.names, points.positions, strict=True))
    assert near(image, place["carina"], 15).min() < -800  # the trachea's air
    assert near(image, place["aortic_arch_top"], 8).max() > 0
    assert near(image, place["right_clavicle_medial_end"], 8).max() > 150  # bone


def test_left_is_plus_x_and_head_is_plus_z(subject):
    _, points = subject
    place = dict(zip(points.names, points.positions, strict=True))
    for name in ("lung_apex", "clavicle_medial_end", "scapula_inferior_angle", "first_rib_head"):
        if {f"left_{name}", f"right_{name}"} <= set(place):
            assert place[f"left_{name}"][0] > place[f"right_{name}"][0]
    assert place["aortic_arch_top"][2] > place["carina"][2]
    assert place["carina"][1] > place["sternal_angle"][1]  # posterior is +y


@pytest.mark.parametrize("name", ["LUNG1-001", "LUNG1-003"])
def test_labels_share_the_image_grid_and_lungs_hold_air(data_dir, name):
    folder = data_dir / "ct" / "benchmark"
    image, labels = read_image(folder / "images" / f"{name}.nii.gz"), read_image(folder / "labels" / f"{name}.nii.gz")
    assert labels.grid.same_as(image.grid)
    middle = {}
    for label in (1, 2):  # left and right lung
        inside = np.argwhere(labels.array == label)
        assert np.median(image.array[tuple(inside.T)]) < -600
        middle[label] = image.grid.index_to_world(inside.mean(axis=0)[::-1])[0]
    assert middle[1][0] > middle[2][0]


def test_lung_pair_landmarks(data_dir):
    folder = data_dir / "ct" / "lung_pair"
    image = read_image(folder / "3DCT_lung_baseline.nii.gz")
    mask = read_image(folder / "3DCT_lung_baseline_mask.nii.gz")
    points = read_points(folder / "3DCT_lung_baseline_landmarks.txt")
    assert mask.grid.same_as(image.grid)
    assert len(points) == 100
    inside = points.take(image.grid.contains(points.positions))
    assert len(inside) > 20
    index = np.round(image.grid.world_to_index(inside.positions)).astype(int)
    assert (mask.array[tuple(index[:, ::-1].T)] > 0).mean() > 0.8


def test_all_subjects_at_once_need_a_choice(data_dir):
    with pytest.raises(InputError, match="LIDC-0004"):
        read_points(data_dir / "ct" / "benchmark" / "landmarks.csv")


def test_xray_is_2d(data_dir):
    image = read_image(data_dir / "xray" / "cephalometric" / "images" / "001.jpg")
    assert image.grid.size == (645, 800)
    assert image.array.dtype == np.uint8

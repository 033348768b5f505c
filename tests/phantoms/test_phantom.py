from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from samreg.errors import InputError
from samreg.phantoms import LABELS, LANDMARK_NAMES, correspondence, make_phantom, phantom_pair
from samreg.phantoms.anatomy import VOXEL_MM, canonical_anatomy
from samreg.phantoms.coupling import Coupling, Waves

SPACING = 4.0  # mm; coarse, to be fast

# What each landmark must touch, within 2.5 mm of it.
TOUCHES = {
    "carina": {"airway", "airway_wall"},
    "right_upper_lobe_carina": {"airway", "airway_wall"},
    "left_secondary_carina": {"airway", "airway_wall"},
    "right_middle_lobe_carina": {"airway", "airway_wall"},
    "aortic_arch_top": {"aorta", "fat"},
    "azygos_arch_top": {"vein"},
    "pulmonary_bifurcation": {"pulmonary_artery", "fat"},
    "left_ventricular_apex": {"heart"},
    "right_lung_apex": {"right_lung", "muscle"},
    "left_lung_apex": {"left_lung", "muscle"},
    "right_first_rib_head": {"rib"},
    "left_first_rib_head": {"rib"},
    "xiphisternal_joint": {"cartilage"},
    "jugular_notch": {"sternum"},
    "sternal_angle": {"cartilage"},
    "right_clavicle_medial_end": {"clavicle"},
    "left_clavicle_medial_end": {"clavicle"},
    "right_scapula_inferior_angle": {"scapula", "muscle"},
    "left_scapula_inferior_angle": {"scapula", "muscle"},
}

# Medians of HU without contrast agent.
HU = {
    "right_lung": (-950, -750),
    "left_lung": (-950, -750),
    "fat": (-130, -60),
    "muscle": (30, 80),
    "heart": (20, 80),
    "liver": (40, 80),
    "aorta": (25, 70),
    "vertebra": (150, 700),
    "rib": (150, 800),
    "airway": (-1024, -700),
}


@pytest.fixture(scope="module")
def pair():
    return phantom_pair(1, 2, spacing=SPACING)


def _body_points(phantom, count=4000):
    random = np.random.default_rng(0)
    points = phantom.image.grid.world_points()[phantom.labels.array > 0]
    return points[random.choice(len(points), count)]


def test_landmarks_sit_on_their_structures():
    anatomy = canonical_anatomy()
    names = {value: name for name, value in LABELS.items()}
    voxels = anatomy.grid.world_points()
    for name, position in zip(anatomy.landmarks.names, anatomy.landmarks.positions, strict=True):
        x, y, z = np.round(anatomy.grid.world_to_index(position[None])[0]).astype(int)
        box = np.s_[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3]
        near = np.linalg.norm(voxels[box] - position, axis=-1) < 2.5
        assert {names[v] for v in anatomy.labels[box][near]} >= TOUCHES[name], name


def test_extreme_landmarks_are_extreme():
    anatomy = canonical_anatomy()
    where = dict(zip(anatomy.landmarks.names, anatomy.landmarks.positions, strict=True))
    voxels = anatomy.grid.world_points()
    for side in ("right", "left"):
        lung = voxels[anatomy.labels == LABELS[f"{side}_lung"]]
        assert abs(lung[:, 2].max() - where[f"{side}_lung_apex"][2]) <= VOXEL_MM
        scapula = voxels[anatomy.labels == LABELS["scapula"]]
        scapula = scapula[np.sign(scapula[:, 0]) == (-1 if side == "right" else 1)]
        assert abs(scapula[:, 2].min() - where[f"{side}_scapula_inferior_angle"][2]) <= VOXEL_MM
    assert abs(voxels[anatomy.labels == LABELS["aorta"]][:, 2].max() - where["aortic_arch_top"][2]) <= VOXEL_MM


def test_the_apex_of_the_heart_is_left_anterior_inferior():
    where = dict(zip(LANDMARK_NAMES, canonical_anatomy().landmarks.positions, strict=True))
    x, y, z = where["left_ventricular_apex"] - where["carina"]
    assert x > 60
    assert y < -50
    assert z < -60


def test_landmarks_are_the_named_ones_in_order_and_inside(pair):
    for phantom in (pair.fixed, pair.moving):
        names = phantom.landmarks.names
        assert names == tuple(n for n in LANDMARK_NAMES if n in names)
        assert phantom.image.grid.contains(phantom.landmarks.positions).all()
    assert len(pair.fixed_landmarks) >= 15


def test_round_trip_is_exact(pair):
    for phantom in (pair.fixed, pair.moving):
        points = _body_points(phantom)
        back = phantom.from_canonical.transform_points(phantom.to_canonical.transform_points(points))
        assert np.abs(back - points).max() < 1e-9


def test_correspondence_maps_landmarks_onto_each_other(pair):
    assert pair.fixed_landmarks.names == pair.moving_landmarks.names
    mapped = pair.transform.transform_points(pair.fixed_landmarks.positions)
    assert np.abs(mapped - pair.moving_landmarks.positions).max() < 1e-9
    back = correspondence(pair.moving, pair.fixed).transform_points(mapped)
    assert np.abs(back - pair.fixed_landmarks.positions).max() < 1e-9


def test_correspondence_maps_tissue_onto_the_same_tissue(pair):
    points = _body_points(pair.fixed)
    mapped = pair.transform.transform_points(points)
    inside = pair.moving.image.grid.contains(mapped)
    assert inside.mean() > 0.7

    def label(phantom, where):
        x, y, z = np.round(phantom.image.grid.world_to_index(where)).astype(int).T
        z, y, x = (np.clip(i, 0, n - 1) for i, n in zip((z, y, x), phantom.image.shape, strict=True))
        return phantom.labels.array[z, y, x]

    same = label(pair.fixed, points[inside]) == label(pair.moving, mapped[inside])
    assert same.mean() > 0.75  # the rest lies within a coarse voxel of a border


def test_subjects_differ_by_more_than_an_affine_and_never_fold(pair):
    points = _body_points(pair.fixed)
    mapped = pair.transform.transform_points(points)
    basis = np.c_[points, np.ones(len(points))]
    rest = mapped - basis @ np.linalg.lstsq(basis, mapped, rcond=None)[0]
    assert 8 < np.percentile(np.linalg.norm(rest, axis=1), 95) < 40
    step = 0.01
    columns = [(pair.transform.transform_points(points + step * axis) - mapped) / step for axis in np.eye(3)]
    assert np.linalg.det(np.stack(columns, axis=-1)).min() > 0.2


def test_coupling_inverts_and_keeps_the_other_coordinates():
    waves = Waves(np.array([[0.02, 0.01]]), np.array([0.3]), np.array([0.5]))
    coupling = Coupling(1, waves, waves, center=10.0)
    points = np.random.default_rng(0).normal(0, 50, (100, 3))
    moved = coupling.transform_points(points)
    assert np.array_equal(moved[:, [0, 2]], points[:, [0, 2]])
    assert np.abs(moved[:, 1] - points[:, 1]).max() > 1
    assert np.allclose(coupling.inverse().transform_points(moved), points, atol=1e-12)


def test_same_arguments_same_voxels_other_subject_or_seed_other_anatomy(pair):
    again = make_phantom(1, spacing=SPACING)
    assert np.array_equal(again.image.array, pair.fixed.image.array)
    assert again.image.grid.same_as(pair.fixed.image.grid)
    other = make_phantom(1, spacing=SPACING, seed=1)
    assert np.abs(other.landmarks.positions[0] - again.landmarks.positions[0]).max() > 1


def test_voxel_size_and_field_of_view_leave_the_anatomy(pair):
    narrow = make_phantom(1, spacing=(6, 5, 7), field_of_view=(-95, 45))
    assert np.allclose(narrow.image.spacing, (6, 5, 7))
    shared = pair.fixed.landmarks.named(narrow.landmarks.names)
    assert np.array_equal(narrow.landmarks.positions, shared.positions)


def test_a_pair_is_scanned_between_the_levels_asked_for():
    short = phantom_pair(1, 2, spacing=10.0, field_of_view=(-60, 20))
    for phantom in (short.fixed, short.moving):
        alone = make_phantom(phantom.subject, spacing=10.0, field_of_view=(-60, 20))
        assert np.array_equal(phantom.image.array, alone.image.array)
    assert short.fixed_landmarks.names == short.moving_landmarks.names
    assert 0 < len(short.fixed_landmarks) < len(phantom_pair(1, 2, spacing=10.0).fixed_landmarks)


def test_landmarks_outside_the_field_of_view_are_dropped():
    narrow = make_phantom(1, spacing=6.0, field_of_view=(-90, 30))
    assert "carina" in narrow.landmarks.names
    assert not {"right_lung_apex", "left_first_rib_head"} & set(narrow.landmarks.names)
    assert narrow.image.grid.contains(narrow.landmarks.positions).all()


def test_fields_of_view_and_scanners_vary():
    phantoms = [make_phantom(i, spacing=9.0) for i in range(6)]
    assert len({tuple(np.sign(p.image.direction.diagonal())) for p in phantoms}) > 1
    assert len({p.image.shape for p in phantoms}) > 3
    assert any(p.contrast_hu == 0 for p in phantoms)
    assert any(p.contrast_hu > 50 for p in phantoms)
    for p in phantoms:
        assert np.linalg.det(p.image.direction) == pytest.approx(1)


def test_hounsfield_units_by_label(pair):
    for phantom in (pair.fixed, pair.moving):
        array = phantom.image.array
        assert array.dtype == np.int16
        assert array.min() >= -1024
        assert array.max() <= 3071
        for name, (low, high) in HU.items():
            median = np.median(array[phantom.labels.array == LABELS[name]])
            assert low <= median <= high + phantom.contrast_hu, (phantom.subject, name, median)
    enhanced = max(pair.fixed, pair.moving, key=lambda p: p.contrast_hu)
    aorta = np.median(enhanced.image.array[enhanced.labels.array == LABELS["aorta"]])
    assert abs(aorta - 42 - enhanced.contrast_hu) < 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subject": -1}, "subject must be a whole number of at least 0, got -1"),
        ({"subject": 1.5}, "subject must be a whole number"),
        ({"subject": 0, "seed": "a"}, "seed must be a whole number"),
        ({"subject": 0, "spacing": 0.1}, "spacing must be one number or .*0.5 mm or more, got 0.1"),
        ({"subject": 0, "spacing": (3, 3)}, r"spacing must be .* got \(3, 3\)"),
        ({"subject": 0, "spacing": "fine"}, "spacing must be .* got 'fine'"),
        ({"subject": 0, "spacing": float("nan")}, "spacing must be"),
        ({"subject": 0, "field_of_view": (50, 40)}, r"field_of_view must be .* got \(50, 40\)"),
        ({"subject": 0, "field_of_view": 50}, "field_of_view must be .* got 50"),
        ({"subject": 0, "field_of_view": (-500, 40)}, "within -210 and 160 mm"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(InputError, match=message):
        make_phantom(**options)


def test_importing_phantoms_loads_no_network():
    """They are made up of numpy and scipy, and are used where torch is not wanted."""
    code = "import samreg.phantoms, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "samreg.embedding"} & set(done.stdout.split())

"""Lesions found, measured, saved: on a phantom's simulated second visit, whose truth is exact."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import samreg
from samreg.errors import InputError
from samreg.landmarks.laterality import mirror_image
from samreg.spatial import AffineTransform, Grid
from samreg.tracking import Extent, TrackedLesion, as_lesions, track_pairs, tracking_errors
from samreg.tracking.page import _remarks
from samreg.tracking.track import _Matches, _measure, gone_note

pytestmark = pytest.mark.usefixtures("embeddings_kept")


@pytest.fixture(scope="module")
def saved(tracks, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tracks.save(folder)
    return folder


def test_lesions_are_found_and_trusted(tracks, visits):
    errors = tracking_errors(tracks.points, visits.centers, visits.lesions.radii.mean(axis=1))
    assert errors.count == len(visits.lesions)
    assert errors.within_10mm == 1.0
    assert errors.mean < 4
    assert min(lesion.reliability for lesion in tracks.lesions) > 0.8


def test_the_expected_error_stands_in_every_table_and_covers_four_of_five(tracks, visits, saved):
    told = np.array([lesion.expected_error for lesion in tracks.lesions])
    errors = np.linalg.norm([lesion.followup for lesion in tracks.lesions] - visits.centers, axis=1)
    assert np.mean(errors <= told) >= 0.8
    for name in ("lesions.csv", "followup.csv"):
        rows = list(csv.DictReader((saved / name).read_text().splitlines()))
        np.testing.assert_allclose([float(row["expected_error_mm"]) for row in rows], told, atol=0.06)
    assert "error at most" in (saved / "lesions.html").read_text()


def test_models_without_a_fit_have_no_column_of_expected_errors(tracks, tmp_path):
    plain = replace(tracks, lesions=tuple(replace(lesion, expected_error=None) for lesion in tracks.lesions[:1]))
    plain.save(tmp_path)
    for name in ("lesions.csv", "followup.csv"):
        assert "expected" not in (tmp_path / name).read_text()
    assert "error at most" not in (tmp_path / "lesions.html").read_text()


def test_growth_is_measured_where_it_can_be_and_refused_elsewhere(tracks, visits):
    truth = 100 * ((visits.volumes[:, 1] / visits.volumes[:, 0]) ** (1 / 3) - 1)
    measured = [i for i, lesion in enumerate(tracks.lesions) if lesion.change is not None]
    assert len(measured) >= 2
    for i in measured:
        assert abs(tracks.lesions[i].change - truth[i]) < 8  # percentage points, at voxels of 4 mm
    refused = [lesion for lesion in tracks.lesions if lesion.change is None]
    assert refused
    for lesion in refused:
        assert lesion.why
        assert lesion.after is None
        assert lesion.propagated == pytest.approx(lesion.before.diameter, rel=0.35)


@pytest.mark.parametrize(("later_mm", "in_view", "gone"), [(0, True, True), (7, True, False), (0, False, False)])
def test_a_lesion_that_left_lung_alone_is_said_to_have_gone(later_mm, in_view, gone):
    """It had a reliable position and a label in the follow-up, and nothing was said."""
    grid = Grid.make((48, 48, 48), origin=(-23.5, -23.5, -23.5))
    away = np.linalg.norm(grid.world_points(), axis=-1)
    scans = [samreg.Image(np.where(away < radius, 40, -850).astype(np.int16), grid) for radius in (7, later_mm)]
    one = np.ones(1)
    matches = _Matches(np.zeros((1, 3)), one, one, one, one, np.array([in_view]), None, one)
    lesion = _measure(*scans, as_lesions(samreg.Image((away < 7).astype(np.uint8), grid), grid), matches, 0)
    assert lesion.before is not None
    assert lesion.gone == lesion.row()["gone"] == gone
    if gone:
        note = gone_note(lesion)
        assert re.search(r"lesion 1 has gone.*follow-up: no soft tissue within 4 mm.*-850 HU.*extent in the base", note)
    assert ("has gone" in _remarks(lesion)) == gone


def test_a_mirrored_follow_up_is_refused(visits):
    """Its lesions were found on the wrong side, and nothing was said."""
    tracks = samreg.track(visits.baseline, mirror_image(visits.followup), visits.points)
    assert not tracks
    assert "looks mirrored (right and left are exchanged)" in tracks.reason


def test_a_lesion_beyond_the_view_is_said_to_be(tall_visits):
    followup, centers = tall_visits.followup, tall_visits.centers
    high = int(followup.grid.world_to_index(centers)[:, 2].max()) - 12
    grid = samreg.spatial.Grid((high, *followup.shape[1:]), followup.origin, followup.spacing, followup.direction)
    found = samreg.track(tall_visits.baseline, samreg.Image(followup.array[:high], grid), tall_visits.points)
    outside = ~grid.contains(centers, margin=-3)
    assert outside.any()
    assert not outside.all()
    for lesion, lost in zip(found.lesions, outside, strict=True):
        if lost:
            assert not lesion.in_view or lesion.reliability < 0.9
        else:
            assert lesion.in_view


def test_labels_hold_what_was_measured_and_what_was_carried_over(tracks, visits):
    labels = tracks.labels()
    assert labels.grid.same_as(visits.followup.grid)
    voxel = np.prod(labels.spacing)
    for i, lesion in enumerate(tracks.lesions):
        volume = (labels.array == i + 1).sum() * voxel
        expected = lesion.after.volume if lesion.after else np.pi / 6 * lesion.propagated**3
        assert volume == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize(
    ("names", "labels"), [(("5", "2"), [5, 2]), (("apex", "2"), [1, 2]), (("2", "02"), [1, 2]), (("5", "0"), [1, 2])]
)
def test_lesions_keep_the_labels_they_are_named_by(names, labels):
    """Lesions 5 and 2 of a label map were labels 1 and 2 of the follow-up: label 2 was another lesion there."""
    grid = Grid.make((4, 4, 4), spacing=2.0)
    scan, place, lesions = samreg.Image.from_array(np.zeros(grid.shape), spacing=2.0), np.zeros(3), []
    for i, name in enumerate(names):
        mask = np.zeros(grid.shape, bool)
        mask[i] = True
        drawn = Extent(mask, grid)
        lesions.append(TrackedLesion(name, place, place, 0.9, 0.8, 1.0, 2.0, True, drawn, drawn, 3.0, ""))
    found = samreg.LesionTracks(tuple(lesions), scan, scan, AffineTransform.identity(3)).labels()
    assert found.array[:2, 0, 0].tolist() == labels


def test_what_is_carried_over_lies_where_the_transform_takes_it(tracks):
    lesions = tuple(replace(lesion, after=None) for lesion in tracks.lesions)
    labels = replace(tracks, lesions=lesions).labels()
    back = tracks.transform.inverse().transform_points(labels.grid.world_points().reshape(-1, 3))
    expected = np.zeros(back.shape[0], np.int16)
    for i, lesion in enumerate(lesions):
        expected[lesion.before.at(back)] = i + 1
    assert np.array_equal(labels.array.ravel(), expected)


@pytest.mark.parametrize("stretch", [1.0, 8.0])
def test_all_of_what_a_transform_stretches_is_drawn(stretch):
    """A voxel was drawn within two diagonals of where its centre goes; stretched eightfold it reaches farther."""
    grid = Grid.make((3, 3, 3), spacing=2.0, origin=(20.3, 20.4, 20.6))
    voxel = np.zeros(grid.shape, bool)
    voxel[1, 1, 1] = True
    scan = samreg.Image.from_array(np.zeros((50, 52, 54), np.int16))
    transform = AffineTransform.about(grid.center, np.diag([stretch, 1.0, 1.0]) @ _turned(30))
    drawn = Extent(voxel, grid)
    lesion = TrackedLesion("nodule", grid.center, grid.center, 0.9, 0.8, 1.0, 2.0, True, drawn, None, None, "not seen")
    labels = samreg.LesionTracks((lesion,), scan, scan, transform).labels()
    back = transform.inverse().transform_points(scan.grid.world_points().reshape(-1, 3))
    expected = drawn.at(back).reshape(scan.shape)
    assert expected.any()
    assert np.array_equal(labels.array == 1, expected)


def _turned(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_lesions_without_a_voxel_and_those_carried_out_of_the_image_are_not_drawn(tracks):
    lesion = tracks.lesions[0]
    nothing = replace(lesion.before, mask=np.zeros_like(lesion.before.mask))
    away = AffineTransform(np.eye(3), [5000.0, 0.0, 0.0])
    for before, transform in ((nothing, tracks.transform), (lesion.before, away)):
        one = replace(tracks, lesions=(replace(lesion, before=before, after=None),), transform=transform)
        assert not one.labels().array.any()


def test_saved_files_say_the_same(tracks, saved):
    assert {path.name for path in saved.iterdir()} == {
        "lesions.csv", "lesions.json", "lesions.html", "followup.csv", "followup.mrk.json", "followup_lesions.nii.gz"
    }  # fmt: skip
    for name in ("followup.csv", "followup.mrk.json"):
        points = samreg.read_points(saved / name)
        assert np.abs(points.positions - tracks.points).max() < 1e-3
        assert points.names == tuple(lesion.name for lesion in tracks.lesions)
    with (saved / "lesions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((saved / "lesions.json").read_text())
    assert summary["ok"] is True
    for row, entry, lesion in zip(rows, summary["lesions"], tracks.lesions, strict=True):
        assert float(row["followup_z"]) == pytest.approx(lesion.followup[2], abs=1e-3)
        assert entry["diameter_change_percent"] == (None if lesion.change is None else round(lesion.change, 1))
        assert row["size_not_measured_because"] == lesion.why
    page = (saved / "lesions.html").read_text()
    assert page.count("data:image/png;base64,") == len(tracks)
    assert "http:" not in page
    assert "https:" not in page


def test_scans_that_cannot_be_aligned_are_a_falsy_result(visits, tmp_path, monkeypatch):
    from samreg.seeding.affine import AffineFit

    def fail(*pair: object, **_: object) -> object:
        nothing = AffineFit(None, np.zeros(0, bool), 0.0, np.inf, "too few matches: 3")
        return samreg.seeding.Seed(None, nothing, None, nothing.reason)

    monkeypatch.setattr("samreg.seeding.make_seed", fail)
    found = samreg.track(visits.baseline, visits.followup, visits.points)
    assert not found
    assert found.reason == "too few matches: 3"
    found.save(tmp_path)
    assert json.loads((tmp_path / "lesions.json").read_text())["ok"] is False
    assert len(list(tmp_path.iterdir())) == 1


def test_a_result_takes_the_place_of_an_earlier_one(tracks, saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.csv").write_text("a file of the user's")
    failed = replace(tracks, lesions=(), transform=None, reason="too few matches: 3")
    failed.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"lesions.json", "mine.csv"}


def test_lesions_outside_the_baseline_are_left_out_with_a_note(visits):
    away = samreg.Points(np.vstack([visits.points.positions[:1], [[9e3, 0, 0]]]), ("in", "out"))
    kept, notes = as_lesions(away, visits.baseline.grid).inside(visits.baseline.grid, "baseline.nii.gz")
    assert kept.points.names == ("in",)
    assert "out" in notes[0]
    assert "baseline.nii.gz" in notes[0]
    with pytest.raises(InputError, match="outside"):
        as_lesions(away.take([1]), visits.baseline.grid).inside(visits.baseline.grid, "baseline.nii.gz")


def test_label_maps_give_centres_and_sizes(visits):
    lesions = as_lesions(visits.labels, visits.baseline.grid)
    np.testing.assert_allclose(lesions.points.positions, visits.lesions.centers, atol=1.0)
    np.testing.assert_allclose(lesions.radii, (visits.volumes[:, 0] * 3 / 4 / np.pi) ** (1 / 3), rtol=0.08)
    assert lesions.points.names == tuple(map(str, range(1, len(lesions) + 1)))
    with pytest.raises(InputError, match="label map"):
        as_lesions(visits.baseline, visits.baseline.grid)
    empty = visits.labels.with_array(np.zeros_like(visits.labels.array))
    with pytest.raises(InputError, match="no lesions"):
        as_lesions(empty, visits.baseline.grid).inside(visits.baseline.grid, "baseline")


def test_a_mask_of_all_lesions_is_told_from_labels(visits, caplog):
    """Two nodules of one label were followed as one lesion, in the middle between them, and nothing was said."""
    grid = samreg.spatial.Grid.make((20, 20, 20), spacing=2.0)
    array = np.zeros(grid.shape, np.uint8)
    array[2:5, 2:5, 2:5] = array[12:15, 12:15, 12:15] = 1
    array[8, 2:5, 2:5] = array[9, 5, 5] = 2  # touch by a corner
    as_lesions(samreg.Image(array, grid, "mask.nii.gz"), grid)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "mask.nii.gz: one label, several parts that do not touch: 1 (2 parts)"
    ]
    caplog.clear()
    as_lesions(visits.labels, visits.baseline.grid)
    assert not caplog.records


def test_odd_label_maps_are_refused(visits):
    grid, array = visits.baseline.grid, visits.labels.array
    for odd in (array + 0.5, np.where(array > 0, 40_000, 0), np.where(array > 0, np.nan, 0), -array.astype(int)):
        with pytest.raises(InputError, match="label map"):
            as_lesions(visits.labels.with_array(odd), grid)
    with pytest.raises(InputError, match="2D"):
        as_lesions(samreg.Image.from_array(array[10], spacing=4.0), grid)
    with pytest.raises(InputError, match="leave out radii"):
        as_lesions(visits.labels, grid, radii=[3.0])


def test_tracking_errors():
    errors = tracking_errors([[0, 0, 0], [3, 0, 4], [0, 20, 0]], np.zeros((3, 3)), [5, 4, np.nan])
    assert (errors.x, errors.y, errors.z) == pytest.approx((1, 20 / 3, 4 / 3))
    assert errors.mean == pytest.approx(25 / 3)
    assert errors.within_10mm == pytest.approx(2 / 3)
    assert errors.within_radius == pytest.approx(1 / 2)
    assert tracking_errors([[0, 0, 0]], [[0, 0, 0]]).within_radius is None
    with pytest.raises(InputError, match="pairs"):
        tracking_errors(np.zeros((0, 3)), np.zeros((0, 3)))


def test_lesions_of_another_frame_and_odd_radii_are_refused():
    grid = samreg.spatial.Grid.make((40, 40, 40), origin=(-200, -300, 50), spacing=2)
    center = grid.center
    with pytest.raises(InputError, match="RAS"):
        as_lesions([center * [-1, -1, 1]], grid).inside(grid, "the baseline")
    with pytest.raises(InputError, match="no lesions in the baseline"):
        as_lesions([], grid).inside(grid, "the baseline")
    for radii in ([0.0], [-3.0], [np.inf], ["big"]):
        with pytest.raises(InputError, match="radii"):
            as_lesions([center], grid, radii=radii)


def test_lesions_in_voxel_indices_refer_to_the_baseline(tmp_path):
    grid = samreg.spatial.Grid.make((40, 40, 40), origin=(-200, -300, 50), spacing=2)
    (tmp_path / "l.pts").write_text("index\n1\n10 20 30\n")
    assert as_lesions(tmp_path / "l.pts", grid).points.positions.tolist() == [[-180, -260, 110]]


@pytest.mark.parametrize(
    "options", [{"seed": -1}, {"seed": "0"}, {"device": "gpu"}, {"device": 3.5}, {"progress": True}]
)
def test_options_are_checked_before_anything_is_read(tmp_path, options):
    (name,) = options
    with pytest.raises(InputError, match=name):
        samreg.track(tmp_path / "none", tmp_path / "none", tmp_path / "none", **options)
    with pytest.raises(InputError, match=name):
        track_pairs([], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_organ_is_drawn_and_compared_on_no_more_voxels_than_a_lesion(tracks, visits, monkeypatch):
    from samreg.tracking import page
    from samreg.tracking.track import _dice

    grid = visits.baseline.grid
    organ = Extent(np.ones(grid.shape, bool), grid)
    sizes, resample = [], page.resample

    def counted(image, grid, **options):
        sizes.append(np.prod(grid.shape))
        return resample(image, grid, **options)

    monkeypatch.setattr(page, "resample", counted)
    page.draw_lesion(tracks, replace(tracks.lesions[0], before=organ))
    assert max(sizes) <= 201**3
    nodule = next(lesion.before for lesion in tracks.lesions if lesion.after is not None)
    monkeypatch.setattr(Extent, "on", lambda *_: pytest.fail("sampled, though their volumes tell"))
    assert _dice(nodule, organ) < 0.1

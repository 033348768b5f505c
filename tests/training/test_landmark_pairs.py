"""Landmarks as matches between people, and shoulders that move as arms do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from samreg.errors import InputError
from samreg.spatial import Points
from samreg.training.augment import draw_view
from samreg.training.config import TrainingConfig
from samreg.training.data import Volume
from samreg.training.landmark_pairs import landmark_map, landmark_pairs, read_landmarks, with_shoulders
from samreg.training.modality import Ct
from samreg.training.step import draw_sample
from samreg.training.views import ViewConfig

SHOULDERS = {
    "left_humeral_head": (150.0, 60.0, 200.0),
    "left_scapula_superior_angle": (110.0, 110.0, 210.0),
    "vertebra_T1": (90.0, 90.0, 210.0),
    "vertebra_T6": (90.0, 100.0, 100.0),
    "right_rib8_lateral": (10.0, 60.0, 60.0),
    "left_rib8_lateral": (180.0, 60.0, 60.0),
}


def volume(name: str, origin: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Volume:
    fine = torch.rand(1, 1, 124, 64, 100, generator=torch.Generator().manual_seed(0))
    coarse = torch.nn.functional.avg_pool3d(fine, 2)
    body = torch.nonzero(coarse[0, 0] > 0).flip(1) * 4.0 + 1.0
    return Volume(name, Ct(2.0), 2.0, fine, coarse, body, np.array(origin))


def people(noise: float = 0.0) -> dict[str, Points]:
    names, places = tuple(SHOULDERS), np.array(list(SHOULDERS.values()))
    moved = places * [0.9, 1.1, 1.0] + [5.0, -8.0, 12.0] + noise * np.random.default_rng(0).normal(size=places.shape)
    return {"a": Points(places, names), "b": Points(moved + [300.0, 0.0, -500.0], names)}


def test_a_map_is_right_at_the_landmarks_and_trusted_near_them():
    a = volume("a")
    places = np.array(list(SHOULDERS.values()))
    moved = places * [0.9, 1.1, 1.0] + [5.0, -8.0, 12.0]
    mapping = landmark_map(places, moved, a)
    matches, trust = mapping(torch.tensor(places, dtype=torch.float32))
    assert np.linalg.norm(matches.numpy() - moved, axis=1).max() < 4  # to the readings' precision
    assert trust.min() > 0.7  # of a grid of 8 mm
    far = torch.tensor([[90.0, 20.0, 20.0]])
    assert mapping(far)[1].item() < 0.05


def test_pairs_stand_in_the_frames_of_their_volumes():
    volumes = [volume("a"), volume("b", (300.0, 0.0, -500.0)), volume("stranger")]
    pairs = landmark_pairs(volumes, people(), slack=(3.0, 16.0))
    assert {(pair.fixed.name, pair.moving.name) for pair in pairs} == {("a", "b"), ("b", "a")}
    pair = pairs[0]
    start, end = (people()[name].positions[3] for name in ("a", "b"))
    match, _ = pair.match(torch.tensor(start - pair.fixed.origin, dtype=torch.float32)[None])
    assert np.linalg.norm(match[0].numpy() + pair.moving.origin - end) < 4
    assert pair.slack == (3.0, 16.0)
    assert pair.landmarks is not None
    assert np.allclose(pair.landmarks[0], people()["a"].positions)
    assert np.allclose(pair.landmarks[1] + pair.moving.origin, people()["b"].positions)


def test_landmarks_are_among_the_points_of_every_sample():
    """They stand first, shuffled, or second after a point of the body, and are exact to their slack."""
    volumes = [volume("a"), volume("b", (300.0, 0.0, -500.0))]
    pairs = landmark_pairs(volumes, people(), slack=(3.0, 9.0))[:1]
    still = ViewConfig(size=(99, 99, 99), crop=1.0, crop_in_plane=0.0, mirror=0.0)
    config = TrainingConfig(images="i", output="o", patch=(24, 24, 24), least_trust=0.3, views=still)
    places = torch.tensor(list(SHOULDERS.values()))
    firsts = set()
    for seed in range(6):
        sample = draw_sample(pairs, config, torch.Generator().manual_seed(seed))
        world = sample.views[0].warp.to_volume(sample.matches[0][:7])
        index = torch.cdist(world, places).min(dim=1)
        found = index.indices[index.values < 0.5]
        assert len(found) >= 3
        assert (sample.slack[:7][index.values < 0.5] == 3.0).all()
        other = sample.views[1].warp.to_volume(sample.matches[1][:7])[index.values < 0.5]
        truth = torch.tensor(people()["b"].positions - pairs[0].moving.origin).float()[found]
        assert (other - truth).norm(dim=1).max() < 0.5
        firsts.add(int(found[0]))
    assert len(firsts) > 1
    assert sample.slack.max() <= 3.0 + 6.0 * (1 - 0.3)  # nothing less trusted


def test_sizes_of_views_can_be_few():
    whole = volume("a")
    views = ViewConfig(size_step=8, size=(56, 32, 48), crop=0.4, crop_in_plane=1.0)
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        view = draw_view(whole, whole.body[seed], views, generator, smallest=(12, 12, 12), mirror=False)
        assert all(n % 8 == 0 and 16 <= n <= 64 for n in view.coarse.shape[2:])


def test_people_who_share_nothing_are_an_error():
    with pytest.raises(InputError, match=r"share 5 landmarks.*are c"):
        landmark_pairs([volume("a"), volume("b")], {"c": people()["a"]}, slack=(3.0, 16.0))


def test_tables_are_read_without_the_classes_left_out(tmp_path):
    (tmp_path / "t.csv").write_text("subject,landmark,x,y,z\na,carina,1,2,3\na,apex,4,5,6\nb,apex,7,8,9\n")
    assert read_landmarks(tmp_path / "t.csv", leave_out=("carina",))["a"].names == ("apex",)
    with pytest.raises(InputError, match="left_out_landmarks: carnia cannot be left out; there are apex, carina"):
        read_landmarks(tmp_path / "t.csv", leave_out=("carnia",))
    (tmp_path / "t.csv").write_text("subject,x,y,z\na,1,2,3\n")
    with pytest.raises(InputError, match="subject, landmark, x, y, z"):
        read_landmarks(tmp_path / "t.csv")


def test_tables_of_a_spreadsheet_and_of_another_frame_are_read(tmp_path):
    (tmp_path / "t.csv").write_text("\ufeffsubject;landmark;r;a;s\na;carina;1,5;2;3\n", encoding="utf-8")
    points = read_landmarks(tmp_path / "t.csv")["a"]
    assert (points.names, points.positions.tolist()) == (("carina",), [[-1.5, -2.0, 3.0]])


def test_shoulders_move_and_spine_stays_and_every_point_is_tracked():
    whole = with_shoulders(volume("a"), people()["a"])
    assert [shoulder.outwards for shoulder in whole.shoulders] == [1.0]
    still = ViewConfig(
        rotation=0, scale=1, anisotropy=1, warp=0, crop=1, crop_in_plane=0, mirror=0, size=(99, 99, 99), shoulders=1.0
    )
    lengths = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        view = draw_view(whole, whole.body[0], still, generator, smallest=(8, 8, 8), mirror=False)
        points = torch.tensor(list(SHOULDERS.values()))
        inside, converged = view.warp.to_view(points)
        assert converged.all()
        assert (view.warp.to_volume(inside) - points).norm(dim=1).max() < 0.3
        shift = (inside + view.warp.centre - points).norm(dim=1)
        lengths.append(shift[0].item())
        assert shift[4] < 5  # the ribs of the other side
        grid = torch.rand(500, 3, generator=generator) * torch.tensor([198.0, 126.0, 246.0]) - view.warp.centre
        jacobian = torch.stack([
            (view.warp.to_volume(grid + step) - view.warp.to_volume(grid - step)) / 2 for step in torch.eye(3)
        ], dim=-1)  # fmt: skip
        assert torch.linalg.det(jacobian).min() > 0.1
    assert max(lengths) > 20
    plain = with_shoulders(volume("a"), None)
    assert plain.shoulders == ()


def test_shares_of_pairs_make_at_most_one():
    config = TrainingConfig(images="i", output="o", landmarks="l.csv", landmark_fraction=0.6)
    assert replace(config, reshaped_fraction=0.4).landmark_fraction == 0.6
    with pytest.raises(InputError, match=r"landmark_fraction 0\.6"):
        replace(config, reshaped_fraction=0.5)

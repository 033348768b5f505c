"""What a user sees while a call works: its stages, told to a function, or else to the log."""

from __future__ import annotations

import logging

import pytest

import samreg

ALONE = {"method": "registration", "engine": "torch", "transform": "rigid"}


def logged(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]


def test_stages_go_to_the_log(body, caplog, tmp_path):
    caplog.set_level(logging.INFO, logger="samreg")
    result = samreg.register(body, body, **ALONE)
    assert "registration" in logged(caplog)
    caplog.clear()
    result.save(tmp_path / "out")
    assert "warping the moving image" in logged(caplog)


def test_stages_are_told_once(body, caplog, tmp_path):
    caplog.set_level(logging.INFO, logger="samreg")
    stages: list[str] = []
    samreg.register(body, body, **ALONE, progress=stages.append).save(tmp_path / "out", progress=stages.append)
    assert {"registration", "warping the moving image"} <= set(stages)
    assert not set(stages) & set(logged(caplog))


def test_nothing_is_printed_unasked(body, capfd):
    samreg.register(body, body, **ALONE)
    assert capfd.readouterr() == ("", "")


def test_many_pairs_go_to_the_log(body, caplog, tmp_path):
    caplog.set_level(logging.INFO, logger="samreg")
    samreg.write_image(body, tmp_path / "a.nii.gz")
    (tmp_path / "pairs.csv").write_text("fixed,moving\na.nii.gz,a.nii.gz\n")
    samreg.register_many(tmp_path / "pairs.csv", tmp_path / "out", **ALONE)
    assert any(line.startswith("1 of 1") for line in logged(caplog))


def test_matching_says_what_it_does(body, caplog):
    caplog.set_level(logging.INFO, logger="samreg")
    samreg.match(body, [body.grid.center], body, model="mind")
    stages = ["embedding the template", "embedding the target", "matching"]
    assert logged(caplog) == stages
    told: list[str] = []
    caplog.clear()
    samreg.match(body, [body.grid.center], body, model="mind", progress=told.append)
    assert (told, logged(caplog)) == (stages, [])


def test_a_vote_names_its_templates(body):
    embedding = samreg.embed(body, model="mind")
    points = samreg.Points([body.grid.center], ("middle",))
    told: list[str] = []
    templates = [samreg.Template(name, embedding, points) for name in ("A", "B")]
    samreg.match_set(templates, embedding, model="mind", progress=told.append)
    assert told == ["matching the template A", "matching the template B"]


def test_finding_landmarks_says_what_it_does(body):
    embedding = samreg.embed(body, model="mind")
    points = samreg.Points([body.grid.center, body.grid.center + 30], ("middle", "edge"))
    atlas = samreg.build_landmark_atlas([samreg.Template(name, embedding, points) for name in ("A", "B")])
    told: list[str] = []
    samreg.find_landmarks(body, atlas=atlas, model="mind", progress=told.append)
    assert told == ["embedding the image", "finding landmarks", "embedding the mirrored image"]


@pytest.mark.parametrize("call", [samreg.register, samreg.register_many, samreg.track, samreg.build_atlas])
def test_progress_must_be_a_function(call, tmp_path):
    with pytest.raises(samreg.InputError, match="progress must be a function"):
        call(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", *(["c.csv"] if call is samreg.track else []), progress=True)

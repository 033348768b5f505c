"""What match() refuses at the door, and what it finds in noise that is its own target."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest

import samreg
from samreg.errors import InputError
from samreg.landmarks.laterality import mirror_image
from samreg.phantoms.phantom import make_phantom

pytestmark = pytest.mark.usefixtures("embeddings_kept")

GRID = {"spacing": (8.0, 8.0, 8.0), "origin": (-200.0, -300.0, 50.0)}
CENTER = np.array(GRID["origin"]) + 60.0


@pytest.fixture(scope="module")
def noise() -> samreg.Image:
    array = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    return samreg.Image.from_array(array, **GRID)


@pytest.fixture(scope="module")
def embedding(noise) -> samreg.Embedding:
    return samreg.embed(noise, model="mind")


@pytest.mark.parametrize("search", ["guided", "global"])
def test_an_image_is_found_in_itself(embedding, search):
    found = samreg.match(embedding, [CENTER], embedding, search=search)
    np.testing.assert_allclose(found.points, [CENTER], atol=8)


@pytest.mark.parametrize("points", [[], np.zeros((0, 3)), samreg.Points(np.zeros((0, 3)))])
def test_no_points_are_refused_before_anything_is_embedded(noise, points):
    with pytest.raises(InputError, match="no points in the template"):
        samreg.match(noise, points, noise, model="mind")


def test_points_files_without_a_placed_point_are_refused(embedding, tmp_path):
    texts = {
        "p.csv": "name,x,y,z\n",
        "p.pts": "point\n0\n",
        "p.mrk.json": '{"markups": [{"coordinateSystem": "LPS", "controlPoints": [{"positionStatus": "undefined"}]}]}',
        "p.fcsv": "# CoordinateSystem = LPS\n1,0,0,0,0,0,0,1,1,1,0,F-1,,,0,0\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="none of its points is placed"):
            samreg.match(embedding, tmp_path / name, embedding)


def test_points_of_another_frame_are_refused(embedding):
    with pytest.raises(InputError, match=r"outside the template.*RAS"):
        samreg.match(embedding, CENTER * [-1, -1, 1], embedding)


def test_voxel_indices_in_a_file_refer_to_the_template(embedding, tmp_path):
    (tmp_path / "i.pts").write_text("index\n1\n7.5 7.5 7.5\n")
    found = samreg.match(embedding, tmp_path / "i.pts", embedding)
    np.testing.assert_allclose(found.points, [CENTER], atol=8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"search": "magic"}, "unknown search 'magic'; choose one of guided, global"),
        ({"search": None}, "unknown search None"),
        ({"seed": "0"}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"device": "quantum"}, "unknown device 'quantum'"),
        ({"device": 2.5}, "device"),
        ({"device": np.eye(2)}, "device"),
        ({"model": 5}, "model"),
        ({"model": ["mind"]}, "model"),
    ],
)
def test_options_of_another_type_are_refused(noise, options, words):
    with pytest.raises(InputError, match=words):
        samreg.match(noise, [CENTER], noise, **{"model": "mind", **options})


@pytest.mark.parametrize("templates", [5, None, ["a"], [None], {"a": 1}])
def test_what_is_no_set_is_refused(embedding, templates):
    with pytest.raises(InputError, match="templates must be a list of samreg's Template"):
        samreg.match_set(templates, embedding)


@pytest.mark.parametrize("templates", [5, [1, 2], [("ANNA", None)]])
def test_what_is_no_set_makes_no_atlas(templates):
    with pytest.raises(InputError, match="templates must be a list of samreg's Template"):
        samreg.build_landmark_atlas(templates)


def test_a_template_is_made_of_an_embedding_and_points(noise, embedding):
    for parts in ((noise, samreg.Points([CENTER])), (embedding, [CENTER])):
        with pytest.raises(InputError, match=r"template ANNA: give samreg.embed\(image\) and samreg.Points"):
            samreg.Template("ANNA", *parts)


def test_what_was_decided_in_reading_is_repeated(noise, embedding):
    image = replace(samreg.as_image(noise), remarks=("the spacing was guessed",))
    places = samreg.Points([CENTER, CENTER + 30], ("centre", "beside"))
    people = [samreg.Template(name, embedding, places) for name in ("ANNA", "BOB")]
    atlas = samreg.build_landmark_atlas(people)
    assert samreg.find_landmarks(image, atlas=atlas, model="mind").notes[0] == "the spacing was guessed"


def test_options_of_a_folder_are_checked_before_it_is_read(tmp_path):
    for options, words in (
        ({"jobs": 0}, "jobs must be a whole number of at least 1, got 0"),
        ({"jobs": "2"}, "jobs"),
        ({"progress": True}, "progress must be a function"),
        ({"search": "magic"}, "unknown search"),
        ({"seed": 1.5}, "seed"),
    ):
        with pytest.raises(InputError, match=words):
            samreg.match_folder(tmp_path / "none", tmp_path / "none", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("search", ["guided", "global"])
def test_what_the_default_for_pictures_knows_is_said(search):
    texture = np.random.default_rng(0).normal(100, 30, (160, 160)).astype(np.float32)
    image = samreg.Image.from_array(texture, spacing=0.6)
    assert "lateral X-rays of the skull" in samreg.match(image, [[48.0, 48.0]], image, search=search).notes[0]
    assert samreg.match(image, [[48.0, 48.0]], image, search=search, model="xray-ceph").notes == ()


def test_a_model_for_ct_is_not_recommended_for_what_is_no_ct(embedding, monkeypatch):
    module = importlib.import_module("samreg.landmarks.match")
    monkeypatch.setattr(module, "embedded", lambda *_: pytest.fail("embedded"))
    mr = samreg.Image.from_array(np.random.default_rng(0).uniform(0, 900, (16, 16, 16)), **GRID)
    by_ct_model = replace(embedding, model="ct-small@12345678")
    with pytest.raises(InputError, match=r"not in Hounsfield units: embed the template by any-small as well"):
        samreg.match(by_ct_model, [CENTER], mr)


def test_an_embedding_of_another_model_names_it_before_the_work(noise, embedding, monkeypatch):
    module = importlib.import_module("samreg.landmarks.match")  # beside which there is a function of this name
    monkeypatch.setattr(module, "embedded", lambda *_: pytest.fail("embedded"))
    for pair in ((embedding, noise), (noise, embedding)):
        with pytest.raises(InputError, match=r"the model mind.*choose the embedding's: model=.mind. \(--model mind\)"):
            samreg.match(pair[0], [CENTER], pair[1])


def test_a_model_beside_embeddings_is_theirs_or_refused(embedding):
    assert len(samreg.match(embedding, [CENTER], embedding, model="mind")) == 1
    for search in (
        lambda: samreg.match(embedding, [CENTER], embedding, model="ct-small"),
        lambda: samreg.find_landmarks(embedding, model="ct-small"),
    ):
        with pytest.raises(InputError, match=r"embedding by the model mind@.*not by ct-small@.*model=.mind."):
            search()


def test_a_mirrored_target_is_said_to_be():
    """The points of a mirrored scan were found on the wrong side, and nothing was said."""
    template, target = (make_phantom(subject, spacing=8.0, field_of_view=(-50, 50)) for subject in (1, 2))
    points = template.landmarks
    assert not any("mirrored" in note for note in samreg.match(template.image, points, target.image).notes)
    note = samreg.match(template.image, points, replace(mirror_image(target.image), name="visit 2")).notes[-1]
    assert note.startswith("visit 2")
    assert "looks mirrored (right and left are exchanged)" in note
    assert note.endswith("left is found for right")

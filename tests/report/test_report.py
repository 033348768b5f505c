from __future__ import annotations

import base64
import io
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from samreg.cli import app
from samreg.errors import InputError
from samreg.landmarks import FoundLandmarks, LandmarkMatches
from samreg.matching.correspondences import Correspondences
from samreg.quality import LandmarkErrors
from samreg.registration.result import RegistrationResult
from samreg.report import landmark_page, write_landmark_report, write_preview, write_report
from samreg.report.recipe import python_call, recipe, shell_command
from samreg.report.viewer import viewer_data
from samreg.report.views import focus, middle, overlay, slice_grid, slice_indices, views_of, window
from samreg.seeding import AffineFit, Seed
from samreg.spatial import (
    AffineTransform,
    DisplacementField,
    Grid,
    Image,
    Points,
    read_image,
    write_image,
    write_transform,
)
from samreg.spatial.standard import oriented

pytestmark = pytest.mark.usefixtures("embeddings_kept")

NASTY = "/data/<script>alert('x')</script>&\".nii.gz"


def mirrored_storage(image):
    """Return the same image in the world, stored along other axes (x right, z first)."""
    array = image.array[:, :, ::-1].transpose(1, 2, 0)  # array axes (y, x, z): index axes z, x, y
    size, spacing = np.array(image.grid.size), image.spacing
    origin = image.origin + [(size[0] - 1) * spacing[0], 0, 0]
    direction = np.array([[0.0, -1, 0], [0, 0, 1], [1, 0, 0]])
    return Image(array, Grid(array.shape, origin, spacing[[2, 0, 1]], direction), image.name)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "input", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert page.tags.count("script") == 2  # the data and the program
    data = json.loads(re.search(r'id="viewer-data">(.*?)</script>', text)[1])
    return text, page, data


def strip(plane, layer):
    """Return a layer's slices (n, rows, columns)."""
    kind, data = plane["layers"][layer].split(";base64,")
    assert kind in ("data:image/webp", "data:image/png")
    picture = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))
    return picture.reshape(len(plane["positions"]), -1, picture.shape[1])


def test_report_is_one_complete_page(good_result, tmp_path):
    path = write_report(good_result(notes=("the moving image lies turned",)), tmp_path / "new" / "report.html")
    text, page, data = read(path)
    assert page.tags.count("img") == 2
    for picture in re.findall(r'src="data:image/png;base64,([A-Za-z0-9+/=]+)', text):
        assert base64.b64decode(picture).startswith(b"\x89PNG")
    for expected in (
        "moving.nii.gz registered to phantom.nii.gz",
        "the moving image lies turned",
        "Correlation after",
        "1.2 s",
        "samreg.register(",
        "samreg register fixed.nii.gz moving.nii.gz -o out --method embedding --model mind",
        "No files, or moved since: fixed, moving.",
    ):
        assert expected in text
    assert [plane["name"] for plane in data["planes"]] == ["axial", "coronal", "sagittal"]
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_slices_show_the_right_place(good_result):
    result = good_result()
    grid = result.fixed.grid
    spot = np.array([-40.0, -40, 60])  # the bright one
    share = (spot - grid.corners().min(axis=0)) / grid.extent
    for plane, view in zip(viewer_data(result)["planes"], views_of(3), strict=True):
        index = int(np.abs(np.array(plane["positions"]) - spot[view.through]).argmin())
        fixed, before, after = (strip(plane, layer)[index] for layer in ("fixed", "before", "after"))
        assert fixed.shape == (plane["height"], plane["width"])
        rows, columns = (places.mean() for places in np.nonzero(fixed > 235))
        assert columns / plane["width"] == pytest.approx(share[view.across], abs=0.02)
        down = rows / plane["height"]
        assert (1 - down if view.down == 2 else down) == pytest.approx(share[view.down], abs=0.02)
        assert np.abs(before.astype(int) - fixed).mean() < 2
        # the transform looks for the spot 4 mm further left, so the warped one lies 4 mm further right
        moved = columns - np.nonzero(after > 235)[1].mean()
        shift = 4 / grid.extent[0] * plane["width"] if view.across == 0 else 0
        assert moved == pytest.approx(shift, abs=1.5)


def test_maps_say_where_it_stretches_and_folds(good_result):
    result = good_result()
    affine = AffineTransform(1.2 * np.eye(3), [0, 0, 0])
    data = viewer_data(replace(result, transform=affine, seed=None))
    codes = strip(data["planes"][0], "jacobian")
    assert np.unique(codes).tolist() == [1 + round(253 * (np.log(1.2**3) / np.log(2.5) + 1) / 2)]
    assert "before" in data["maps"]["displacement"]["title"]
    fold = np.zeros((*result.fixed.shape, 3), dtype=np.float32)
    fold[6:18, 6:18, 6:18, 0] = -30
    data = viewer_data(replace(result, transform=DisplacementField(fold, result.fixed.grid)))
    assert data["maps"]["jacobian"]["folds"]
    assert any((strip(plane, "jacobian") == 255).any() for plane in data["planes"])
    assert float(data["maps"]["displacement"]["ticks"][-1]) == pytest.approx(30, abs=1)


def test_the_page_stays_small_whatever_the_images_show(tmp_path):
    rng = np.random.default_rng(0)
    shape = (86, 94, 104)  # noise cannot be compressed
    fixed, moving = (Image.from_array(rng.uniform(-900, 400, shape).astype(np.float32)) for _ in range(2))
    points = rng.uniform(0, 85, size=(4000, 3))
    pairs = Correspondences.from_points(points, points, reliability=rng.uniform(size=4000))
    identity = AffineTransform.identity(3)
    seed = Seed(identity, AffineFit(identity, np.ones(4000, bool), 0.9, 1.0), pairs)
    path = write_report(RegistrationResult(fixed, moving, identity, seed=seed), tmp_path / "report.html")
    assert path.stat().st_size < 5e6
    data = read(path)[2]
    assert {len(plane["positions"]) for plane in data["planes"]} <= {6, 12, 24}


def test_everything_the_user_provides_is_escaped(good_result, failed_result, tmp_path):
    result = good_result(
        name=NASTY,
        notes=("<b>note</b>",),
        options={"<i>option</i>": "<script>"},
        versions={"<u>v</u>": "<script>"},
        timings={"<script>": 1.0},
    )
    errors = LandmarkErrors(("<script>",), *np.ones((3, 1)))
    for given in (result, failed_result(reason="<script>reason", notes=("<b>note</b>",))):
        text, page, _ = read(write_report(given, tmp_path / "report.html", landmarks=errors))
        assert not {"b", "i", "u"} & set(page.tags)
        assert "&lt;b&gt;note&lt;/b&gt;" in text


def test_landmark_errors_are_summed_up_and_listed(good_result, tmp_path):
    errors = LandmarkErrors(("carina", "apex"), np.array([30.0, 50.0]), np.array([1.0, 4.0]), np.array([2.0, 3.0]))
    text = read(write_report(good_result(), tmp_path / "report.html", landmarks=errors))[0]
    assert "Error at 2 landmarks" in text
    for row in ("mean|40.0|2.5|2.5", "largest|50.0|4.0|3.0", "carina|30.0|1.0|2.0"):
        name, *cells = row.split("|")
        assert f"{name}</th>{''.join(f'<td class={chr(34)}number{chr(34)}>{cell}</td>' for cell in cells)}" in text


def test_the_recipe_repeats_the_call(phantom, failed_result, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "samreg.register", lambda *images, **options: calls.append((images, options)) or failed_result()
    )
    images = [tmp_path / "a fixed one.nii.gz", tmp_path / "moving.nii.gz"]
    for image in images:
        write_image(phantom(), image)
    options = {
        "method": "hybrid", "engine": "ants", "transform": "affine", "model": "mind", "fixed_mask": None,
        "moving_mask": None, "anchors": False, "device": "cpu", "seed": 3, "threads": 2, "spacing": 2.5,
        "engine_options": {"iterations": (20,), "metric": "cc", "window": None, "gradient_step": 0.3},
    }  # fmt: skip
    paths = [str(path) for path in images]
    exec(python_call(paths, options), {})
    (given, keywords) = calls.pop()
    assert given == tuple(paths)
    assert keywords == {key: value for key, value in options.items() if value is not None}
    words = shlex.split(shell_command(paths, options))
    assert shell_command(paths, {"landmarks": ("a.csv", "b c.csv")}).endswith("--guide a.csv 'b c.csv'")
    words[words.index("-o") + 1] = str(tmp_path / "out")
    CliRunner().invoke(app, words[1:], catch_exceptions=False)
    (given, keywords) = calls.pop()
    assert [image.name for image in given] == paths
    assert {key: keywords[key] for key in options} == options


def test_the_recipe_says_what_it_cannot_repeat(good_result, phantom, tmp_path):
    result = good_result(options={"method": "hybrid", "engine": "torch", "start": "CompositeTransform"})
    text = recipe(result)
    assert "start=samreg.read_transform('start.h5')" in text.python
    assert text.command.endswith("--engine torch --start start.h5")
    assert "start" in text.notes[0]
    start = tmp_path / "earlier.h5"
    write_transform(AffineTransform.identity(3), start)
    images = [tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"]
    for path in images:
        write_image(phantom(), path)
    files = {role: phantom(str(path)) for role, path in zip(("fixed", "moving"), images, strict=True)}
    text = recipe(replace(result, **files, options={"method": "hybrid", "start": str(start)}))
    assert f"samreg.read_transform({str(start)!r})" in text.python
    assert text.command.endswith(f"--start {start}")
    assert text.notes == ()
    text = recipe(replace(result, **files, options={"engine": "mine", "model": "ours", "engine_options": {"a": 1}}))
    assert "engine=my_engine" in text.python
    assert "model=my_model" in text.python
    assert text.command == ""
    compile(text.python, "recipe", "exec")
    text = recipe(replace(result, **files, options={"method": "hybrid", "anchors": "a landmark atlas"}))
    assert text.command.endswith("--method hybrid --anchors atlas.h5")
    assert text.notes == ("No files, or moved since: anchors.",)
    page = write_report(result, tmp_path / "report.html").read_text()
    assert "CompositeTransform" not in page
    assert "--start start.h5" in page


def test_the_recipe_gives_the_pixel_size_that_files_do_not_say(tmp_path, good_result):
    """Repeated as told, pictures were read at 1 mm."""
    paths = [tmp_path / "fixed.png", tmp_path / "moving.png"]
    for path in paths:
        PIL.Image.fromarray(np.zeros((6, 8), np.uint8)).save(path)

    def told(*spacings):
        fixed, moving = (read_image(path, spacing=s) for path, s in zip(paths, spacings, strict=True))
        return recipe(replace(good_result(), fixed=fixed, moving=moving, options={"spacing": 0.6}))

    text = told(0.5, 0.5)
    assert text.command.endswith("-o out --spacing 0.6 --pixel-size 0.5")
    assert f"samreg.read_image({str(paths[0])!r}, spacing=[0.5, 0.5])," in text.python
    text = told(0.5, 0.25)
    assert f"samreg.read_image({str(paths[1])!r}, spacing=[0.25, 0.25])," in text.python
    assert (text.command, text.notes) == ("", ("The command line cannot repeat it.",))
    assert "read_image" not in told(None, None).python


def test_many_landmarks_are_folded_away_below_their_summary(good_result, tmp_path):
    few, many = (LandmarkErrors(tuple(f"p_{i}" for i in range(n)), *np.ones((3, n))) for n in (40, 41))
    for errors, folded in ((few, False), (many, True)):
        page = read(write_report(good_result(), tmp_path / "report.html", landmarks=errors))[1]
        assert ("details" in page.tags) is folded
        assert page.tags.count("tr") >= 4 + len(errors.names)


def test_a_failed_result_says_why(failed_result, tmp_path):
    text, page, data = read(write_report(failed_result(), tmp_path / "report.html"))
    assert "The registration failed:" in text
    assert "too few matches: 3 of 900" in text
    assert set(data["planes"][0]["layers"]) == {"fixed", "before"}
    assert "img" not in page.tags
    assert "Quality" not in text


def test_flat_images_without_a_seed(tmp_path):
    image = Image.from_array(np.random.default_rng(0).normal(size=(40, 50)), spacing=2.0, name="flat")
    result = RegistrationResult(image, image, AffineTransform.identity(2))
    text, page, data = read(write_report(result, tmp_path / "report.html"))
    (plane,) = data["planes"]
    assert len(plane["positions"]) == 1
    assert "img" not in page.tags
    assert "Matches" not in text


def test_preview_is_a_picture(good_result, failed_result, tmp_path):
    from matplotlib.image import imread

    good = imread(write_preview(good_result(), tmp_path / "preview.png"))
    failed = imread(write_preview(failed_result(), tmp_path / "failed.png"))
    assert good.shape[1] > failed.shape[1] > 500
    assert good[..., :3].std() > 0.1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["failed.png", "preview.png"]


def test_a_folder_that_cannot_be_written_is_an_input_error(failed_result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        write_preview(failed_result(), tmp_path / "file" / "preview.png")


def test_heavy_packages_are_imported_late():
    code = (
        "import sys, samreg.report, samreg.quality; "
        "assert not {'matplotlib', 'torch', 'scipy', 'SimpleITK'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("store", [lambda image: image, mirrored_storage])
def test_pictures_are_in_radiological_orientation(phantom, store):
    image = oriented(store(phantom()))
    assert image.grid.same_as(phantom().grid)
    spot = np.array([-40.0, -40, 60])  # right, front, up
    indices = slice_indices(image.grid, spot)
    for view in views_of(3):
        picture = view.picture(image.array, indices[view.name])
        rows, columns = np.nonzero(picture == 1000)
        assert rows.mean() < picture.shape[0] / 2  # front or head at the top
        assert columns.mean() < picture.shape[1] / 2  # right or front at the left
        left, right, bottom, top = view.extent(image.grid)
        across, down = view.place(image.grid, spot)[0]
        assert across == pytest.approx((columns.mean() + 0.5) / picture.shape[1] * (right - left))
        fraction = (rows.mean() + 0.5) / picture.shape[0]
        assert down == pytest.approx(top + fraction * (bottom - top))


def test_a_slice_grid_is_where_the_slice_is(phantom):
    grid = phantom().grid
    for view in views_of(3):
        one = slice_grid(grid, view, 5)
        index = np.zeros(3)
        index[view.through] = 5
        assert one.size[view.through] == 1
        assert np.allclose(one.origin, grid.index_to_world(index))


def test_focus_is_in_what_both_images_show(phantom):
    moved = RegistrationResult(phantom(), phantom(), AffineTransform(np.eye(3), [60.0, 0, 0]))
    whole = RegistrationResult(phantom(), phantom(), AffineTransform.identity(3))
    assert focus(whole) == pytest.approx(phantom().grid.center, abs=3)
    assert focus(moved)[0] == pytest.approx(focus(whole)[0] - 30, abs=3)


def test_window_and_overlay(phantom):
    assert window(phantom()) == (-900.0, 400.0)
    low, high = window(Image.from_array(np.full((5, 5), 7.0)))
    assert high > low
    assert window(Image.from_array(np.full((5, 5), np.nan))) == (0.0, 1.0)
    assert overlay(np.ones((1, 1)), np.zeros((1, 1))).tolist() == [[[1, 0, 0]]]


def test_doubtful_matches_come_first_and_are_marked(tmp_path):
    image = Image.from_array(np.random.default_rng(0).normal(0, 100, (12, 12, 12)).astype(np.float32), spacing=8.0)
    places = np.array([[30.0, 40.0, 40.0], [50.0, 40.0, 40.0], [60.0, 40.0, 40.0]])
    reliability = np.array([0.9, 0.2, 0.6])
    one = np.ones(3)
    names = ("sure", "doubtful", "likely")
    matches = LandmarkMatches(places, names, one, reliability, one, one, one > 0)
    page = write_landmark_report(image, Points(places, names), image, matches, tmp_path / "match.html").read_text()
    assert "1 of 3 are doubtful" in page
    rows = page[page.index("<table") :].split("<tr")
    found = [next(name for name in names if f">{name}<" in row) for row in rows if any(f">{n}<" in row for n in names)]
    assert found == ["doubtful", "likely", "sure"]
    assert [f">{name}<" in row for row in rows if 'class="marked"' in row for name in names[1:2]] == [True]


def test_of_many_matches_the_least_sure_are_drawn_and_all_listed(tmp_path, monkeypatch):
    """A picture of 300 points took minutes and was 78000 pixels high, more than browsers show."""
    monkeypatch.setattr(landmark_page, "_MAX_DRAWN", 2)
    image = Image.from_array(np.zeros((4, 4, 4), np.float32), spacing=8.0)
    one, names = np.ones(3), ("sure", "doubtful", "likely")
    reliability = np.array([0.9, 0.2, 0.6])
    matches = LandmarkMatches(np.full((3, 3), 8.0), names, one, reliability, one, one, one > 0)
    figure = landmark_page.draw_landmarks(image, Points(matches.points, names), image, matches)
    assert [ax.get_title() for ax in figure.axes[::2]] == ["template, doubtful", "template, likely"]
    page = write_landmark_report(image, Points(matches.points, names), image, matches, tmp_path / "m.html").read_text()
    assert "The 2 least sure points are drawn; the table has all 3." in page
    assert all(f">{name}<" in page for name in names)


def test_names_of_landmarks_at_the_right_edge_of_a_picture_stand_on_their_left():
    """They were cut at the edge."""
    image = Image.from_array(np.random.default_rng(0).normal(0, 100, (12, 12, 12)).astype(np.float32), spacing=8.0)
    one = np.ones(2)
    places = np.array([[20.0, 44.0, 40.0], [80.0, 44.0, 40.0]])
    found = FoundLandmarks(places, ("right_rib5", "left_rib5"), one, one, one > 0)
    front = landmark_page._draw_found(image, found).axes[0]
    assert {text.get_text(): text.get_ha() for text in front.texts if "rib" in text.get_text()} == {
        "right rib5": "left",
        "left rib5": "right",
    }


def test_errors_are_marked_by_the_size_of_the_body(good_result, tmp_path):
    """In a mouse as in a person none below 15 mm was."""
    person, shrink = good_result(), 0.1

    def shrunk(image):
        grid = image.grid
        return Image(image.array, Grid.make(grid.shape, spacing=shrink * grid.spacing, origin=shrink * grid.origin))

    mouse = replace(person, fixed=shrunk(person.fixed), moving=shrunk(person.moving), body=None, error_map=None)
    errors = LandmarkErrors(("paw", "tail"), np.full(2, 20.0), np.array([0.1, 9.0]), np.array([0.1, 9.0]))
    marked = [
        [name for name in errors.names if any(f">{name}<" in row for row in rows)]
        for result in (person, mouse)
        for page in [write_report(result, tmp_path / "page.html", landmarks=errors).read_text()]
        for rows in [[row for row in page.split("<tr") if 'class="marked"' in row]]
    ]
    assert marked == [[], ["tail"]]


def test_the_page_opens_at_the_worst_place_and_shows_the_expected_error(good_result, tmp_path):
    plain = good_result()
    expected = np.full(plain.fixed.shape, 4.0, np.float32)
    worst = tuple(n // 2 + 2 for n in plain.fixed.shape)
    expected[worst] = 60.0
    expected[worst[0], :4] = 80.0  # at the skin, where slices would show next to nothing
    result = replace(plain, error_map=plain.fixed.with_array(expected))
    place = plain.fixed.grid.index_to_world([worst[::-1]])[0]
    np.testing.assert_allclose(focus(result), place, atol=1e-6)
    np.testing.assert_allclose(middle(result), focus(plain), atol=1e-6)  # of the preview, as its docstring says
    page = result.report(tmp_path / "report.html").read_text()
    assert 'value="error"' in page
    assert "Expected error, mm" in page
    assert 'value="error"' not in plain.report(tmp_path / "plain.html").read_text()

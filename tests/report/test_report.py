from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from samreg.errors import InputError
from samreg.matching.correspondences import Correspondences
from samreg.report import write_preview, write_report
from samreg.report.views import focus, overlay, slice_grid, slice_indices, standard, views_of, window
from samreg.result import RegistrationResult
from samreg.seeding import AffineFit, Seed
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, compose

NASTY = "/data/<script>alert('x')</script>&\".nii.gz"


def phantom(name="phantom.nii.gz", direction=None):
    """Return a body-like image with a bright spot at the patient's upper front right, 4 x 5 x 6 mm voxels."""
    grid = Grid.make((24, 28, 32), spacing=(4, 5, 6), origin=(-60, -60, -60), direction=np.eye(3))
    points = grid.world_points()
    array = np.where((np.abs(points) < (50, 55, 70)).all(axis=-1), 40, -1000).astype(np.int16)
    array[(np.abs(points - (-40, -40, 60)) < 8).all(axis=-1)] = 1000
    return Image(array, grid, name)


def mirrored_storage(image):
    """Return the same image in the world, stored along other axes (x right, z first)."""
    array = image.array[:, :, ::-1].transpose(1, 2, 0)  # array axes (y, x, z): index axes z, x, y
    size, spacing = np.array(image.grid.size), image.spacing
    origin = image.origin + [(size[0] - 1) * spacing[0], 0, 0]
    direction = np.array([[0.0, -1, 0], [0, 0, 1], [1, 0, 0]])
    return Image(array, Grid(array.shape, origin, spacing[[2, 0, 1]], direction), image.name)


def good_result(**changes):
    fixed, moving = phantom(), phantom(changes.pop("name", "moving.nii.gz"))
    displacement = np.zeros((*fixed.shape, 3), dtype=np.float32)
    displacement[8:16, 8:16, 8:16, 0] = 2.0
    transform = compose(DisplacementField(displacement, fixed.grid), AffineTransform(np.eye(3), [4.0, 0, 0]))
    points = np.random.default_rng(0).uniform(-40, 40, size=(50, 3))
    pairs = Correspondences.from_points(points, points + [4, 0, 0], reliability=np.linspace(0, 1, 50))
    seed = Seed(transform, AffineFit(AffineTransform.identity(3), np.ones(50, bool), 0.9, 1.0), pairs)
    given = {
        "seed": seed,
        "options": {"method": "embedding", "model": "mind@1234", "engine": None, "engine_options": {}},
        "timings": {"embedding": 1.25},
        "versions": {"samreg": "0.1.0"},
    }
    return RegistrationResult(fixed, moving, transform, **{**given, **changes})


def failed_result(**changes):
    given = {"reason": "too few matches: 3 of 900 lie in the moving image", "options": {"method": "hybrid"}}
    return RegistrationResult(phantom(), phantom("moving.nii.gz"), None, **{**given, **changes})


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    return text, page


def test_report_is_one_complete_page(tmp_path):
    path = write_report(good_result(notes=("the moving image lies turned",)), tmp_path / "new" / "report.html")
    text, page = read(path)
    assert path.stat().st_size < 5e6
    assert page.tags.count("img") == 3
    for picture in re.findall(r"base64,([A-Za-z0-9+/=]+)", text):
        assert base64.b64decode(picture).startswith(b"\x89PNG")
    for expected in (
        "moving.nii.gz registered to phantom.nii.gz",
        "the moving image lies turned",
        "Correlation after",
        "1.2 s",
        "samreg.register(",
        "model=&#x27;mind&#x27;",
    ):
        assert expected in text
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_everything_the_user_provides_is_escaped(tmp_path):
    result = good_result(
        name=NASTY,
        notes=("<b>note</b>",),
        options={"<i>option</i>": "<script>"},
        versions={"<u>v</u>": "<script>"},
        timings={"<script>": 1.0},
    )
    for given in (result, failed_result(reason="<script>reason", notes=("<b>note</b>",))):
        text, page = read(write_report(given, tmp_path / "report.html"))
        assert not {"script", "b", "i", "u"} & set(page.tags)
        assert "&lt;b&gt;note&lt;/b&gt;" in text
        assert "<script" not in text


def test_a_failed_result_says_why(tmp_path):
    text, page = read(write_report(failed_result(), tmp_path / "report.html"))
    assert "The registration failed:" in text
    assert "too few matches: 3 of 900" in text
    assert page.tags.count("img") == 1
    assert "Quality" not in text


def test_flat_images_without_a_seed(tmp_path):
    image = Image.from_array(np.random.default_rng(0).normal(size=(40, 50)), spacing=2.0, name="flat")
    result = RegistrationResult(image, image, AffineTransform.identity(2))
    text, page = read(write_report(result, tmp_path / "report.html"))
    assert page.tags.count("img") == 2
    assert "Matches" not in text


def test_preview_is_a_picture(tmp_path):
    from matplotlib.image import imread

    good = imread(write_preview(good_result(), tmp_path / "preview.png"))
    failed = imread(write_preview(failed_result(), tmp_path / "failed.png"))
    assert good.shape[1] > failed.shape[1] > 500
    assert good[..., :3].std() > 0.1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["failed.png", "preview.png"]


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
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
def test_pictures_are_in_radiological_orientation(store):
    image = standard(store(phantom()))
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


def test_a_slice_grid_is_where_the_slice_is():
    grid = phantom().grid
    for view in views_of(3):
        one = slice_grid(grid, view, 5)
        index = np.zeros(3)
        index[view.through] = 5
        assert one.size[view.through] == 1
        assert np.allclose(one.origin, grid.index_to_world(index))


def test_focus_is_in_what_both_images_show():
    moved = RegistrationResult(phantom(), phantom(), AffineTransform(np.eye(3), [60.0, 0, 0]))
    whole = RegistrationResult(phantom(), phantom(), AffineTransform.identity(3))
    assert focus(whole) == pytest.approx(phantom().grid.center, abs=3)
    assert focus(moved)[0] == pytest.approx(focus(whole)[0] - 30, abs=3)


def test_window_and_overlay():
    assert window(phantom()) == (-900.0, 400.0)
    low, high = window(Image.from_array(np.full((5, 5), 7.0)))
    assert high > low
    assert window(Image.from_array(np.full((5, 5), np.nan))) == (0.0, 1.0)
    assert overlay(np.ones((1, 1)), np.zeros((1, 1))).tolist() == [[[1, 0, 0]]]

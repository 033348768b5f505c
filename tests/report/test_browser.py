"""The report in a browser: it runs without complaint, and its sliders answer to keys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from samreg.quality import LandmarkErrors
from samreg.report import write_report
from samreg.report.kit import Picture, Table, dark_figure, png, write_page
from samreg.spatial import AffineTransform, Image

_READY = "document.getElementById('viewer').dataset.ready === 'yes'"
PICTURE = Picture(png(dark_figure(9, 1)), "a wide picture")
_SEEN = "document.querySelector('canvas').toDataURL()"


_ERRORS = LandmarkErrors(("carina",), *np.ones((3, 1)))


@pytest.fixture(scope="module")
def report(good_result, tmp_path_factory):
    """The report of a result with a long name and a note, for all that is asked of the page of any."""
    name = "a/long_name_of_a_scan_of_patient_0001_at_the_first_visit.nii.gz"
    result = good_result(name=name, notes=("the moving image lies turned",))
    return write_report(result, tmp_path_factory.mktemp("report") / "report.html", landmarks=_ERRORS)


@pytest.fixture
def opened(page):
    """Open a report and return the page."""

    def open_(path, **options):
        page.open(path, **options)
        page.wait(_READY)
        return page

    return open_


def test_arrow_keys_move_the_slices_and_the_wipe(report, opened):
    page = opened(report)
    page.run("document.getElementById('slice-axial').focus()")
    start = int(page.run("document.getElementById('slice-axial').value"))
    said = page.run("document.querySelector('#plane-axial output').textContent")
    seen = page.run(_SEEN)
    for _ in range(9):
        page.press("ArrowRight")
    assert int(page.run("document.getElementById('slice-axial').value")) == start + 9
    assert page.run("document.querySelector('#plane-axial output').textContent") != said
    assert page.run(_SEEN) != seen
    seen = page.run(_SEEN)
    page.run("document.getElementById('wipe').focus()")
    page.press("Home")
    assert page.run("document.getElementById('wipe-output').textContent") == "0 % before"
    assert page.run("[...document.querySelectorAll('.was')].every(mark => mark.hidden)")
    assert page.run(_SEEN) != seen
    assert page.complaints == []


def test_every_way_to_show_it_paints_something_of_its_own(report, opened):
    page = opened(report)
    modes = page.run("[...document.querySelectorAll('input[name=show]')].map(choice => choice.value)")
    assert modes == ["colours", "checkerboard", "edges", "moving", "fixed", "displacement", "jacobian"]
    page.run("document.querySelector('input[name=show]').focus()")
    seen = [page.run(_SEEN)]
    for mode in modes[1:]:
        page.press("ArrowRight")
        assert page.run("document.querySelector('input[name=show]:checked').value") == mode
        seen.append(page.run(_SEEN))
        shown = page.run("[...document.querySelectorAll('.scale')].filter(s => !s.hidden).map(s => s.dataset.map)")
        assert shown == ([mode] if mode in ("displacement", "jacobian") else [])
    assert len(set(seen)) == len(modes)
    assert page.complaints == []


def test_a_phone_shows_every_page_without_sideways_scrolling_or_hidden_rows(report, opened, tmp_path):
    page = opened(report, size=(390, 800))
    long = Table.of(
        [{"method": "hybrid-torch-with-a-long-name", "a_long_landmark_name": 1.0, **dict.fromkeys("abcdefgh", 2.5)}]
    )
    for path in (
        None,
        write_page(tmp_path / "points.html", "landmarks.html", title="points", notes=(), picture=PICTURE, table=long),
        write_page(
            tmp_path / "lesions.html", "lesions.html", title="lesions", followup="later", notes=(), table=long,
            lesions=[{"name": "1", "remarks": "", "picture": PICTURE}],
        ),
    ):  # fmt: skip
        if path is not None:
            page.open(path, size=(390, 800))
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.run(
            "[...document.querySelectorAll('.scroll')].every(part => part.scrollHeight <= part.clientHeight)"
        )
        # no word of a table is broken between its letters
        assert page.run("""[...document.querySelectorAll('td, th')].every(cell => {
            const range = document.createRange();
            return [...cell.childNodes].every(node => {
                if (node.nodeType !== 3) return true;
                return [...node.textContent.matchAll(/[A-Za-z]+/g)].every(word => {
                    range.setStart(node, word.index);
                    range.setEnd(node, word.index + word[0].length);
                    return range.getClientRects().length <= 1;
                });
            });
        })""")


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_and_nothing_is_cut_off(report, opened, dark):
    for size in ((1240, 900), (390, 800)):
        page = opened(report, dark=dark, size=size)
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        # contrast of WCAG 2.2, 1.4.3: at least 4.5 to 1
        contrast = page.run("""(() => {
            const light = css => css.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
                .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const clear = 'rgba(0, 0, 0, 0)';
            return Math.min(...[...document.querySelectorAll('h1, h2, p, td, th, li, label, output, pre')].map(part => {
                let ground = part;
                while (ground.parentElement && getComputedStyle(ground).backgroundColor === clear)
                    ground = ground.parentElement;
                const [a, b] = [getComputedStyle(part).color, getComputedStyle(ground).backgroundColor].map(light);
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            }));
        })()""")
        assert contrast >= 4.5


def test_every_control_has_a_name_and_is_reached_by_tab(report, opened):
    page = opened(report)
    assert page.run("[...document.querySelectorAll('input')].every(input => input.labels.length === 1)")
    assert page.run("[...document.querySelectorAll('canvas')].every(canvas => canvas.getAttribute('aria-label'))")
    reached = set()
    for _ in range(5):
        page.press("Tab")
        reached.add(page.run("document.activeElement.id || document.activeElement.name"))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached >= {"show", "wipe", "slice-axial", "slice-coronal", "slice-sagittal"}


def test_failed_and_flat_results_run_too(good_result, failed_result, opened, tmp_path):
    page = opened(write_report(failed_result(), tmp_path / "failed.html"))
    assert page.run("document.querySelector('#wipe').closest('.slider').hidden")
    assert len(page.run(_SEEN)) > 500  # not a plain picture
    flat = Image.from_array(good_result().fixed.array[12], spacing=4.0, name="flat")
    result = replace(good_result(), fixed=flat, moving=flat, transform=AffineTransform.identity(2), seed=None)
    page = opened(write_report(result, tmp_path / "flat.html", landmarks=_ERRORS))
    assert page.run("document.querySelectorAll('canvas').length") == 1
    assert page.complaints == []

"""One verdict on a registration in plain words: what is never green, and what rules."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import samreg
from samreg.cli import app
from samreg.quality import LandmarkErrors
from samreg.spatial import AffineTransform, Grid, Image, Points

SIZE = (40, 40, 40)


def scan(name: str = "scan") -> Image:
    z, y, x = np.mgrid[-20:20, -20:20, -20:20]
    radius = np.sqrt(x**2 + 1.7 * y**2 + z**2)
    return Image.from_array(
        np.where(radius < 15, 40 + 20 * np.sin(radius) + x, -1000).astype(np.float32), spacing=4.0, name=name
    )


def result(expected=4.0, matrix=1.0, **changes) -> samreg.RegistrationResult:
    image = scan()
    array = np.broadcast_to(np.asarray(expected, dtype=np.float32), SIZE).copy()
    center = image.grid.center
    transform = AffineTransform(matrix * np.eye(3), center - matrix * center)
    given = {"error_map": image.with_array(array), "body": image.with_array((image.array > -500).astype(np.uint8))}
    return samreg.RegistrationResult(image, image, transform, **{**given, **changes})


def errors(*values: float) -> LandmarkErrors:
    names = tuple(f"place_{i}" for i in range(len(values)))
    return LandmarkErrors(names, np.full(len(values), 50.0), np.array(values), np.array(values))


def test_a_good_result_says_how_good_in_how_much_of_the_body() -> None:
    verdict = result().verdict
    assert str(verdict) == "good: expected within 5 mm in 87 % of the body"
    assert verdict.reasons == ()


def test_what_is_unsure_is_named_by_its_place() -> None:
    expected = np.full(SIZE, 4.0)
    expected[26:, :, 20:] = 35.0  # head end, left
    verdict = result(expected).verdict
    assert verdict.status == "check"
    assert verdict.reasons == ("unsure at the head end (left)",)
    assert verdict.further == ()
    expected[26:] = 35.0
    assert result(expected).verdict.text.endswith("unsure at the head end")
    expected[:14] = 35.0
    assert result(expected).verdict.text.endswith("unsure at the head end and foot end")
    expected[14:26] = 35.0
    assert result(expected).verdict.text.endswith("unsure at the middle, head end and foot end")


def test_what_lies_on_one_side_all_along_the_body_or_on_both_is_named_by_the_side() -> None:
    """Of a narrow moving image nothing was said to be shown: "not in it: the head end, middle and foot end"."""
    expected = np.full(SIZE, 4.0)
    expected[:, :, 20:] = 35.0
    assert result(expected).verdict.text.endswith("unsure at the left side")
    expected = np.full(SIZE, 35.0)
    expected[:, :, 12:28] = 4.0
    assert result(expected).verdict.text.endswith("unsure at both sides")
    expected[:16] = expected[24:] = 4.0
    assert result(expected).verdict.text.endswith("unsure at the middle (both sides)")


@pytest.mark.parametrize(("lost_slices", "is_lost"), [(40, True), (20, False)])
def test_a_result_that_is_off_nearly_everywhere_is_called_most_likely_wrong(lost_slices, is_lost) -> None:
    """It was "expected within 10 mm in 1 % of the body", like one that is unsure."""
    expected = np.full(SIZE, 12.0)
    expected[:lost_slices] = 90.0
    verdict = result(expected).verdict
    assert verdict.status == "check"
    words = "most likely wrong: the error is expected to exceed 40 mm in 100 % of the body"
    assert (verdict.text == words) == is_lost
    assert (words in verdict.reasons) == is_lost
    assert verdict.text.startswith("expected within") != is_lost


def test_what_the_moving_image_does_not_show_is_named() -> None:
    whole = result()
    grid = whole.fixed.grid
    upper = Grid((24, 40, 40), grid.index_to_world([[0, 0, 16]])[0], grid.spacing, grid.direction)
    verdict = replace(whole, moving=Image(whole.fixed.array[16:], upper)).verdict
    assert verdict.status == "check"
    assert "not in the moving image: the foot end" in verdict.text


def test_measured_errors_come_first_and_rule() -> None:
    """A page that printed a measured error of 32 mm said that nothing stands out."""
    bad = result().judge(errors(2.0, 3.0, 32.5))
    assert bad.status == "check"
    assert bad.text.startswith("measured at 3 landmarks: mean error 12.5 mm, largest 32.5 mm (place_2)")
    assert bad.reasons[0].startswith("measured at 3 landmarks")
    good = result(expected=15.0).judge(errors(1.0, 2.0, 3.0))
    assert good.status == "good"
    assert good.text.startswith("measured at 3 landmarks: mean error 2.0 mm")


@pytest.mark.parametrize(
    ("measure", "value", "words"),
    [
        ("scale", 0.4, "volume changes"),
        ("scale", 2.5, "volume changes"),
        ("inverse_residual_max_mm", 30.0, "inverse misses by up to 30 mm"),
        ("correlation_after", 0.5, "little alike"),
        ("jacobian_min", 0.02, "shrinks to 2 %"),
    ],
)
def test_never_green(measure, value, words, monkeypatch) -> None:
    fine = {"correlation_before": 0.2, "correlation_after": 0.95, "jacobian_min": 0.5, "scale": 1.0}

    monkeypatch.setattr("samreg.registration.result.registration_quality", lambda _: {**fine, measure: value})
    verdict = result().verdict
    assert verdict.status == "check"
    assert any(words in reason for reason in verdict.reasons)


def test_notes_and_unknown_errors_are_never_green() -> None:
    assert result(notes=("left and right cannot be told apart",)).verdict.status == "check"
    unknown = result(error_map=None).verdict
    assert unknown.status == "check"
    assert "neither measured nor" in unknown.text


def test_what_is_fine_in_a_person_is_not_in_a_mouse() -> None:
    """Limits shrink with the body: this one is 115 mm long, and 34 mm when it is a mouse's."""
    person, shrink = result(), 0.3
    measured = errors(2.0, 3.0, 4.0)
    assert person.verdict.status == person.judge(measured).status == "good"

    def shrunk(image: Image) -> Image:
        grid = image.grid
        return Image(image.array, Grid.make(grid.shape, spacing=shrink * grid.spacing, origin=shrink * grid.origin))

    scan, body, error_map = map(shrunk, (person.fixed, person.body, person.error_map))
    mouse = replace(person, fixed=scan, moving=scan, body=body, error_map=error_map)
    assert mouse.verdict.text.startswith("expected within 3.4 mm in ")
    assert mouse.verdict.status == mouse.judge(measured).status == "check"
    assert mouse.judge(errors(*shrink * measured.transform)).status == "good"
    finer = replace(mouse, error_map=error_map.with_array(shrink * error_map.array))
    assert finer.verdict.text.startswith("expected within 1.7 mm in 8")
    assert finer.verdict.status == "good"


def test_terminal_page_and_json_say_the_same(tmp_path) -> None:
    image = scan()
    samreg.write_image(image, tmp_path / "scan.nii.gz")
    places = Points(image.grid.center + [[0.0, 0.0, 0.0], [20.0, 0.0, 0.0]], ("middle", "beside"))
    samreg.write_points(places, tmp_path / "fixed.csv")
    samreg.write_points(Points(places.positions + [0.0, 30.0, 0.0], places.names), tmp_path / "moving.csv")
    scan_path, out = str(tmp_path / "scan.nii.gz"), tmp_path / "out"
    landmarks = [str(tmp_path / f"{name}.csv") for name in ("fixed", "moving")]
    options = ["--method", "registration", "--engine", "torch", "--transform", "rigid", "--report"]
    run = CliRunner().invoke(
        app, ["register", scan_path, scan_path, "-o", str(out), *options, "--landmarks", *landmarks]
    )
    assert run.exit_code == 0, run.output
    first = next(line for line in run.stdout.splitlines() if "measured at" in line)
    assert first.startswith("check: measured at 2 landmarks")
    summary = json.loads((out / "result.json").read_text())
    assert summary["status"] == "check"
    assert summary["verdict"] == first
    page = (out / "report.html").read_text()
    assert 'class="verdict warn"' in page
    assert first.removeprefix("check: ") in page
    assert 'class="verdict good"' not in page


def test_landmarks_that_guided_do_not_judge(tmp_path) -> None:
    places = Points(scan().grid.index_to_world([[20.0, 20, 20], [10, 20, 20], [30, 20, 20]]), ("a", "b", "c"))
    there = Points(places.positions + [1.0, 0, 0], places.names)
    guided = result(guides=(places.take([0, 1]), there.take([0, 1])))
    measured = guided.landmark_errors(places, there)
    assert (measured.names, measured.left_out, measured.guided) == (("c",), ("a", "b"), False)
    verdict = guided.judge(measured)
    assert verdict.status == "good"
    assert "measured at 1 landmarks (2 that guided the registration left out): mean error 1.0 mm" in verdict.text
    near = Points(places.positions + [0.3, 0, 0], places.names)
    assert guided.landmark_errors(near, there).names == ("c",)
    loaded = samreg.RegistrationResult.load(guided.save(tmp_path), fixed=guided.fixed, moving=guided.moving)
    assert loaded.landmark_errors(places, there).left_out == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"error_map": None}, "check", "elsewhere the error was neither measured nor could it be estimated"),
        ({"expected": 25.0}, "check", "expected within 10 mm in 28 % of the body"),
        ({}, "good", "expected within 5 mm in 87 % of the body"),
    ],
)
def test_guiding_landmarks_alone_do_not_make_a_result_good(tmp_path, changes, status, says) -> None:
    places = Points(scan().grid.index_to_world([[20.0, 20, 20], [10, 20, 20]]), ("a", "b"))
    guided = result(guides=(places, places), **changes)
    measured = guided.landmark_errors(places, places)
    assert (measured.guided, measured.left_out) == (True, ())
    measured.write(tmp_path / "landmarks.csv")
    for given in (measured, LandmarkErrors.read(tmp_path / "landmarks.csv")):
        verdict = guided.judge(given)
        assert verdict.status == status
        assert "measured at the 2 guiding landmarks: mean error 0.0 mm" in verdict.text
        assert says in verdict.text

"""The panel in a real napari window that nobody sees: what its buttons do, cancel, and what goes wrong."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import samreg.plugin
from samreg.phantoms import make_phantom, phantom_pair
from samreg.plugin import placing, session
from samreg.spatial import AffineTransform, DisplacementField, compose

pytestmark = pytest.mark.usefixtures("embeddings_kept")

FOLDER = Path(samreg.plugin.__file__).parent


@pytest.fixture(scope="module")
def images():
    return tuple(make_phantom(number, spacing=8.0, field_of_view=(-60, 30)).image for number in (1, 2))


@pytest.fixture
def panel(viewer, images, monkeypatch):
    from samreg.plugin.widget import MatchAndRegister

    explore = session.explore
    monkeypatch.setattr(session, "explore", lambda *pair: explore(*pair, model="mind"))
    for name, image in zip(("a", "b"), images, strict=True):
        viewer.add_image(**{"data": (layer := placing.Frame.of(image).image_layer(name))[0], **layer[1]})
    panel = MatchAndRegister(viewer)
    viewer.window.add_dock_widget(panel, name="samreg")
    return panel


def is_idle(panel):
    return lambda: panel._job is None


def shown(model):
    return {layer.name for layer in model.layers if layer.visible}


def test_napari_knows_the_plugin():
    npe2 = pytest.importorskip("npe2", reason="napari is not installed (the extra view)")
    manifest = npe2.PluginManifest.from_file(FOLDER / "napari.yaml")
    manifest.validate_imports()
    text = (FOLDER.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points."napari.manifest"]\nsamreg = "samreg.plugin:napari.yaml"' in text


def test_it_opens_from_naparis_menus(viewer, monkeypatch):
    import npe2

    short = functools.partial(phantom_pair, field_of_view=(-60, 30))
    monkeypatch.setattr("samreg.phantoms.phantom_pair", short)
    plugins = npe2.PluginManager.instance()
    plugins.discover()
    if "samreg" not in plugins:  # where samreg runs from its source
        plugins.register(npe2.PluginManifest.from_file(FOLDER / "napari.yaml"))
    viewer.open_sample("samreg", "phantoms")
    _, panel = viewer.window.add_plugin_dock_widget("samreg", "Match and register")
    assert [panel.images[role].currentText() for role in session.ROLES] == ["phantom, fixed", "phantom, moving"]
    assert panel._chosen() is not None


def test_a_click_in_either_image_shows_its_match_in_the_other(panel, wait_until):
    assert [panel.images[role].currentText() for role in session.ROLES] == ["a", "b"]
    panel.pick("fixed", (0, 0, 0))
    assert panel.status.text() == "Embed both images first."
    panel.embed_button.click()
    assert panel.cancel_button.isEnabled()
    assert not panel.register_button.isEnabled()
    wait_until(is_idle(panel))
    assert "Click" in panel.status.text()
    models = panel.viewers
    assert shown(models["moving"]) == {"moving image"}
    assert not models["fixed"].layers["b"].visible
    center = panel.frames["fixed"].to_napari([panel.frames["fixed"].grid.center])[0]
    click(models["fixed"], center)
    wait_until(lambda: panel.last_match is not None)
    assert shown(models["moving"]) == {"moving image", "similarity", "match"}
    np.testing.assert_allclose(
        panel.frames["fixed"].to_world(models["fixed"].layers["point"].data), [panel.last_match.point]
    )
    cross = models["moving"].layers["match"].data[0]
    np.testing.assert_allclose(panel.frames["moving"].to_world(cross)[0], panel.last_match.match)
    assert abs(models["moving"].dims.point[0] - cross[0]) <= panel.frames["moving"].grid.spacing[2]  # its slice
    assert "reliability" in panel.status.text()
    first, panel.last_match = panel.last_match, None
    hover(models["moving"], cross)  # the way back
    wait_until(lambda: panel.last_match is not None)
    assert shown(models["fixed"]) == {"a", "similarity", "match"}
    assert shown(models["moving"]) == {"moving image", "point"}
    assert abs(np.linalg.norm(panel.last_match.match - first.point) - first.cycle_error) < 10
    panel.pick("fixed", center - 5000)
    wait_until(lambda: "outside the body" in panel.status.text())


def event(kind, position, modifiers=()):
    return SimpleNamespace(type=kind, position=tuple(position), button=1, modifiers=modifiers)


def click(model, position, *, drag=False):
    """Do what napari does for a press, and a release at once or after a drag."""
    pressed = event("mouse_press", position)
    for callback in model.mouse_drag_callbacks:
        steps = callback(model, pressed) or iter(())
        next(steps, None)
        for kind in ("mouse_move", "mouse_release") if drag else ("mouse_release",):
            pressed.type = kind
            next(steps, None)


def hover(model, position):
    for callback in model.mouse_move_callbacks:
        callback(model, event("mouse_move", position, ("Shift",)))


def test_a_drag_and_a_plain_move_ask_for_nothing(panel, monkeypatch):
    asked = []
    monkeypatch.setattr(panel, "pick", lambda *what: asked.append(what))
    click(panel.viewers["fixed"], (1, 2, 3), drag=True)
    for callback in panel.viewers["fixed"].mouse_move_callbacks:
        callback(panel.viewers["fixed"], event("mouse_move", (1, 2, 3)))
    assert not asked
    click(panel.viewers["fixed"], (1, 2, 3))
    assert asked == [("fixed", (1, 2, 3))]


def test_only_the_latest_of_matches_that_wait_is_sought(panel, wait_until, monkeypatch):
    import threading

    sought, gate = [], threading.Event()

    class Slow:
        def match(self, point, role):
            sought.append(point)
            gate.wait(10)

    panel._chosen()
    panel.explorer = Slow()
    for z in range(5):
        panel.pick("fixed", (z, 0, 0))
    wait_until(lambda: len(sought) == 1)
    gate.set()
    wait_until(lambda: not panel._is_matching and panel._waiting is None)
    assert len(sought) == 2
    np.testing.assert_allclose(sought[1], panel.frames["fixed"].to_world((4, 0, 0))[0])


def made_result(fixed, moving):
    wave = 3 * np.sin(fixed.grid.world_points() / 30).astype(np.float32)
    offset = AffineTransform(np.eye(3), moving.grid.center - fixed.grid.center)
    return samreg.RegistrationResult(fixed, moving, compose(DisplacementField(wave, fixed.grid), offset))


def test_a_registration_and_what_comes_of_it_are_shown(panel, wait_until, monkeypatch):
    asked = {}

    def register(fixed, moving, job, **options):
        asked.update(options)
        job.stage("registration")
        return made_result(fixed, moving)

    monkeypatch.setattr(session, "register_pair", register)
    panel.transform.setCurrentText("affine")
    assert not panel.show_buttons["Jacobian"].isEnabled()
    panel.register_button.click()
    wait_until(is_idle(panel))
    assert asked == {"transform": "affine", "engine": None}
    assert panel.status.text().startswith("Registered")
    fixed = panel.viewers["fixed"]
    assert shown(fixed) == {"a", "warped"}
    for button, layers in (
        ("Displacement", {"displacement, mm", "displacement, arrows"}),
        ("Jacobian", {"Jacobian determinant"}),
        ("Warped image", {"warped"}),
    ):
        panel.show_buttons[button].click()
        wait_until(is_idle(panel))
        assert shown(fixed) == {"a", *layers}
    picture = fixed.screenshot(canvas_only=True, flash=False)
    assert picture[..., :3].std() > 10
    panel.images["moving"].setCurrentText("a")  # another pair: what belonged to the last one goes
    panel._chosen()
    assert shown(fixed) == {"a"}
    assert panel.result is None


def test_landmarks_are_shown_in_both_images(panel, wait_until, monkeypatch):
    from samreg.landmarks import FoundLandmarks

    one = np.ones(1)

    def found(image, job):
        return FoundLandmarks(image.grid.center[None], ("carina",), one, one, one > 0)

    monkeypatch.setattr(session, "landmarks_of", found)
    panel.landmark_button.click()
    wait_until(is_idle(panel))
    assert panel.status.text() == "Landmarks found: 1 in the fixed image, 1 in the moving one."
    for model in panel.viewers.values():
        assert model.layers["landmarks"].features["name"].tolist() == ["carina"]


def test_cancel_ends_the_work_and_the_panel_goes_on(panel, wait_until, monkeypatch):
    import time

    def endless(fixed, moving, job, **options):
        while True:
            job.stage("registration")
            time.sleep(0.01)

    monkeypatch.setattr(session, "register_pair", endless)
    panel.register_button.click()
    wait_until(lambda: panel.status.text() == "registration")
    panel.cancel_button.click()
    wait_until(is_idle(panel))
    assert panel.status.text() == "Cancelled."
    assert panel.result is None
    assert panel.register_button.isEnabled()
    assert not panel.cancel_button.isEnabled()
    panel.embed_button.click()
    wait_until(is_idle(panel))
    assert panel.explorer is not None


def test_what_goes_wrong_or_cannot_be_shown_is_said_and_the_panel_goes_on(panel, wait_until, monkeypatch):
    panel.images["fixed"].setCurrentText("a")
    for error, words in (
        (samreg.InputError("a.nii.gz: is no CT in HU; convert it"), "is no CT in HU; convert it"),
        (ZeroDivisionError("of ours"), "Failed: ZeroDivisionError: of ours"),
    ):

        def fail(*arguments, error=error, **options):
            raise error

        monkeypatch.setattr(session, "register_pair", fail)
        panel.register_button.click()
        wait_until(is_idle(panel))
        assert words in panel.status.text()
        assert panel.register_button.isEnabled()
    failed = samreg.RegistrationResult(*panel._chosen(), None, reason="too few matches")
    monkeypatch.setattr(session, "register_pair", lambda *images, **options: failed)
    panel.register_button.click()
    wait_until(is_idle(panel))
    assert panel.status.text() == "Not registered: too few matches"
    assert not panel.show_buttons["Jacobian"].isEnabled()

    def fail_to_show(result):
        raise OSError("no graphics memory")

    moved = samreg.RegistrationResult(*panel._chosen(), AffineTransform.identity(3))
    monkeypatch.setattr(session, "register_pair", lambda *images, **options: moved)
    monkeypatch.setattr(placing, "warped_layers", fail_to_show)
    panel.register_button.click()
    wait_until(is_idle(panel))
    assert panel.status.text() == "Failed: OSError: no graphics memory"
    assert panel.register_button.isEnabled()


def test_a_layer_that_is_moved_is_another_image(panel):
    """Its matches were sought where it had been."""
    layer = panel.viewers["fixed"].layers["a"]
    layer.metadata.clear()  # as one that samreg did not read, which lies where napari places it
    panel._chosen()
    before = panel.frames["fixed"]
    panel._chosen()
    assert panel.frames["fixed"] is before, "what is shown already is shown on"
    layer.translate = np.asarray(layer.translate) + [0.0, 30.0, 0.0]
    panel._chosen()
    assert np.linalg.norm(panel.frames["fixed"].grid.center - before.grid.center) == pytest.approx(30.0)


def test_without_two_images_it_asks_for_them(viewer):
    from samreg.plugin.widget import MatchAndRegister

    panel = MatchAndRegister(viewer)
    panel.embed()
    assert "Open two images" in panel.status.text()
    viewer.add_image(np.zeros((2, 3, 4, 5)), name="movie")
    panel.register()
    assert "Open two images" in panel.status.text()
    assert panel._job is None

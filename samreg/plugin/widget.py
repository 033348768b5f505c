"""The plugin's panel: a small Qt widget on top of ``session`` and ``placing``.

The window shows the fixed image, a second canvas beside it the moving one. A click in either, or moving the mouse with
Shift held down, shows the match in the other: its slice, a cross, and the map of similarity. What takes long runs in a
thread, one thing at a time; a match that is asked for while another is sought waits, and only the latest does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.qt.threading import create_worker
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]  # qtpy names Qt's own class by another name
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from samreg.errors import SamregError
from samreg.plugin import placing, session
from samreg.registration.result import RegistrationResult
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image

_HINT = "Click in either image, or move over it with Shift held down: the other shows the match."
_MIN_CANVAS_PIXELS = (480, 400)
_TRANSFORMS = ("deformable", "affine", "rigid")
_CROSS = {"symbol": "cross", "face_color": "red", "size": 12.0, "blending": "translucent_no_depth"}
_POINT = {"symbol": "disc", "face_color": "lime"}
_MOVING = "moving image"  # the layer's name
_OTHER = {"fixed": "moving", "moving": "fixed"}


class MatchAndRegister(QWidget):
    """The panel.

    Parameters
    ----------
    napari_viewer
        The viewer in which the images are open as layers; napari gives it by this name.
    """

    _progressed = Signal(str, float)  # from the thread that works

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewers: dict[str, Any] = {"fixed": napari_viewer, "moving": ViewerModel(title="moving")}
        self.frames: dict[str, placing.Frame] = {}
        self.explorer: session.Explorer | None = None
        self.result: RegistrationResult | None = None
        self.last_match: session.Match | None = None
        self._job: session.Job | None = None
        self._is_matching = False
        self._waiting: tuple[str, FloatArray] | None = None
        self._canvas: Any = None
        self._build()
        self._progressed.connect(self._show_progress)
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            event.connect(self._list_layers)
        for role, model in self.viewers.items():
            model.mouse_drag_callbacks.append(partial(self._on_click, role))
            model.mouse_move_callbacks.append(partial(self._on_move, role))
        self._list_layers()

    # the panel

    def _build(self) -> None:
        self.images = {role: QComboBox() for role in session.ROLES}
        self.embed_button = _button("Embed both images", self.embed)
        self.transform, self.engine = _choices(_TRANSFORMS), _choices(("default", *_engines()))
        self.register_button = _button("Register", self.register)
        self.show_buttons = {
            name: _button(name, partial(self._show_of_result, make))
            for name, make in (
                ("Warped image", placing.warped_layers),
                ("Displacement", placing.field_layers),
                ("Jacobian", placing.jacobian_layers),
            )
        }
        self.landmark_button = _button("Find landmarks in both", self.find_landmarks)
        self.bar, self.status = QProgressBar(), QLabel("Open two images, or File > Open Sample > samreg.")
        self.cancel_button = _button("Cancel", self.cancel)
        self.status.setWordWrap(True)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout = QVBoxLayout(self)
        layout.addWidget(_group("Images", [("fixed", self.images["fixed"]), ("moving", self.images["moving"])]))
        layout.addWidget(_group("Match", [("", self.embed_button)]))
        shown = QHBoxLayout()
        for button in self.show_buttons.values():
            shown.addWidget(button)
        rows = [("transform", self.transform), ("engine", self.engine), ("", self.register_button), ("show", shown)]
        layout.addWidget(_group("Register", rows))
        layout.addWidget(_group("Landmarks", [("", self.landmark_button)]))
        work = QHBoxLayout()
        work.addWidget(self.bar)
        work.addWidget(self.cancel_button)
        layout.addLayout(work)
        layout.addWidget(self.status)
        layout.addStretch()
        self._set_busy(False)

    def _list_layers(self, event: Any = None) -> None:
        """Offer the image layers of the window; keep what is chosen."""
        names = [
            layer.name
            for layer in self.viewers["fixed"].layers
            if isinstance(layer, ImageLayer) and (placing.IMAGE_KEY in layer.metadata or layer.ndim in (2, 3))
        ]
        for role, box in self.images.items():
            chosen = box.currentText()
            box.clear()
            box.addItems(names)
            fallback = 0 if role == "fixed" else min(1, len(names) - 1)
            box.setCurrentIndex(names.index(chosen) if chosen in names else fallback)

    def _set_busy(self, busy: bool) -> None:
        for button in (self.embed_button, self.register_button, self.landmark_button):
            button.setEnabled(not busy)
        for button in self.show_buttons.values():
            button.setEnabled(not busy and bool(self.result))
        self.cancel_button.setEnabled(busy)
        self.bar.setRange(0, 0 if busy else 100)  # without a range it runs to and fro
        self.bar.setVisible(busy)

    def _show_progress(self, stage: str, fraction: float) -> None:
        if self._job is None:  # a report that came late
            return
        self.status.setText(stage)
        self.bar.setRange(0, 0 if math.isnan(fraction) else 100)
        if not math.isnan(fraction):
            self.bar.setValue(round(100 * fraction))

    # work in a thread

    def _start(self, work: Callable[[session.Job], Any], done: Callable[[Any], str]) -> None:
        """Run work in a thread, then ``done`` with what it returned, which says what to tell the user."""
        if self._job is not None:
            return
        self._job = session.Job(self._progressed.emit)
        self._set_busy(True)

        def returned(outcome: Any) -> None:
            try:
                self._finish(done(outcome))
            except Exception as error:  # of napari or of the graphics driver; the panel must not stay busy
                failed(error)

        def failed(error: Exception) -> None:
            if isinstance(error, session.Cancelled):
                self._finish("Cancelled.")
            elif isinstance(error, SamregError):
                self._finish(str(error))
            else:
                self._finish(f"Failed: {type(error).__name__}: {error}")

        create_worker(
            work, self._job, _ignore_errors=True, _start_thread=True, _connect={"returned": returned, "errored": failed}
        )

    def _finish(self, text: str) -> None:
        self._job = None
        self._set_busy(False)
        self.status.setText(text)

    def cancel(self) -> None:
        """End the work at its next report."""
        if self._job is not None:
            self._job.cancel()
            self.status.setText("Cancelling at the next step ...")

    def closeEvent(self, event: Any) -> None:  # noqa: N802  # Qt's name
        self.cancel()
        super().closeEvent(event)

    def _chosen(self) -> tuple[Image, Image] | None:
        """Return the chosen images and show each on its canvas; None, and say why, where they cannot be."""
        layers = self.viewers["fixed"].layers
        names = [self.images[role].currentText() for role in session.ROLES]
        if not all(names):
            self.status.setText("Open two images first: File > Open Files, or File > Open Sample > samreg.")
            return None
        try:
            images = {role: placing.image_of(layers[name]) for role, name in zip(session.ROLES, names, strict=True)}
        except SamregError as error:
            self.status.setText(str(error))
            return None
        if self._shows(images):
            return images["fixed"], images["moving"]
        self.frames = {role: placing.Frame.of(image) for role, image in images.items()}
        self.explorer, self.result = None, None
        for role in session.ROLES:
            self._hide(role, _RESULT_LAYERS)
        self._show_pair(names)
        return images["fixed"], images["moving"]

    def _shows(self, images: dict[str, Image]) -> bool:
        """Tell whether the canvases show these images already."""
        return bool(self.frames) and all(
            shown.name == image.name and shown.grid.same_as(image.grid) and np.array_equal(shown.array, image.array)
            for shown, image in (
                (self.frames[role].image, placing.Frame.of(image).image) for role, image in images.items()
            )
        )

    def _show_pair(self, names: Sequence[str]) -> None:
        """Show the layers of these names, the fixed one in the window and the moving one on the canvas beside it."""
        window = getattr(self.viewers["fixed"], "window", None)
        if window is not None and self._canvas is None:
            from napari.qt import QtViewer

            self._canvas = QtViewer(self.viewers["moving"])
            self._canvas.setMinimumSize(*_MIN_CANVAS_PIXELS)
            window.add_dock_widget(self._canvas, name="samreg: moving image", area="right")
        self._put("moving", self.frames["moving"].image_layer(_MOVING))
        self.viewers["moving"].reset_view()
        layers = self.viewers["fixed"].layers
        for layer in layers:
            if isinstance(layer, ImageLayer):
                layer.visible = layer.name == names[0]
        layers.selection.active = layers[names[0]]

    def _put(self, role: str, layer: placing.Layer) -> None:
        """Show a layer; one of the same name takes its data and place.

        That is much quicker than a new one, and safer: where two canvases are open, vispy may draw what was freed.
        """
        data, options, kind = layer
        model = self.viewers[role]
        if options["name"] not in model.layers:
            active = model.layers.selection.active
            getattr(model, f"add_{kind}")(data, **options)
            model.layers.selection.active = active  # so that the mouse does to the image what it did
            return
        shown = model.layers[options["name"]]
        shown.data = data
        for key in ("scale", "translate", "contrast_limits", "features", "metadata"):
            if key in options:
                setattr(shown, key, options[key])
        shown.visible = True

    def _hide(self, role: str, names: Sequence[str]) -> None:
        layers = self.viewers[role].layers
        for name in names:
            if name in layers:
                layers[name].visible = False

    def _show_alone(self, layers: Sequence[placing.Layer]) -> None:
        """Show layers over the fixed image, and hide other maps, which would mix with them."""
        self._hide("fixed", _MAPS)
        for layer in layers:
            self._put("fixed", layer)

    # matches

    def embed(self) -> None:
        """Embed the chosen images; matches can be asked for then."""
        images = self._chosen()
        if images is None:
            return

        def done(explorer: session.Explorer) -> str:
            self.explorer = explorer
            return " ".join((_HINT, *(f"Check: {note}." for note in explorer.notes)))

        self._start(lambda job: session.explore(*images, job), done)

    def _on_click(self, role: str, model: Any, event: Any) -> Iterator[None]:
        """Match where the mouse is pressed and released at once; dragging moves the camera as ever."""
        if event.button != 1 or event.modifiers:
            return
        yield
        dragged = False
        while event.type == "mouse_move":
            dragged = True
            yield
        if not dragged:
            self.pick(role, event.position)

    def _on_move(self, role: str, model: Any, event: Any) -> None:
        if "Shift" in event.modifiers:
            self.pick(role, event.position)

    def pick(self, role: str, position: Sequence[float]) -> None:
        """Ask for the match of a position (z, y, x) on the canvas of the "fixed" or the "moving" image."""
        if self.explorer is None:
            if self._job is None:
                self.status.setText("Embed both images first.")
            return
        self._waiting = role, self.frames[role].to_world(position)[0]
        if not self._is_matching:
            self._match_next()

    def _match_next(self) -> None:
        if self._waiting is None or self.explorer is None:
            return
        (role, point), self._waiting, explorer = self._waiting, None, self.explorer
        self._is_matching = True

        def returned(match: session.Match | None) -> None:
            self._is_matching = False
            if explorer is self.explorer:
                self._show_match(role, match)
            self._match_next()

        def failed(error: Exception) -> None:
            self._is_matching = False
            self.status.setText(f"Failed: {type(error).__name__}: {error}")

        create_worker(
            explorer.match,
            point,
            role,
            _ignore_errors=True,
            _start_thread=True,
            _connect={"returned": returned, "errored": failed},
        )

    def _show_match(self, role: str, match: session.Match | None) -> None:
        if match is None:
            self.status.setText("This point lies outside the body.")
            return
        self.last_match = match
        other = _OTHER[role]
        frame = self.frames[other]
        self._put(other, placing.similarity_layer(match.similarity_map, frame))
        self._put(other, frame.point_layer([match.match], "match", **_CROSS))
        self._put(role, self.frames[role].point_layer([match.point], "point", **_POINT))
        self._hide(role, ("match", "similarity"))  # of one the other way round
        self._hide(other, ("point",))
        _go_to(self.viewers[other], frame.to_napari([match.match])[0])
        registered = self._registered(role, match.point)
        text = f"similarity {match.similarity:.2f}, reliability {match.reliability:.0%}"
        if registered is not None:
            text += f"; the registration has it {np.linalg.norm(registered - match.match):.1f} mm from there"
        self.status.setText(text)

    def _registered(self, role: str, point: FloatArray) -> FloatArray | None:
        if not self.result:
            return None
        mapped: FloatArray = self.result.transform_points(point[None], to=_OTHER[role], outside="extrapolate")
        return np.asarray(mapped[0])

    # registration

    def register(self) -> None:
        """Register the chosen images."""
        images = self._chosen()
        if images is None:
            return
        engine = None if self.engine.currentText() == "default" else self.engine.currentText()

        def done(result: RegistrationResult) -> str:
            self.result = result
            if not result:
                return f"Not registered: {result.reason}"
            self._show_alone(placing.warped_layers(result))
            flags = "; ".join(result.flags)
            return f"Registered in {sum(result.timings.values()):.0f} s. " + (f"Check: {flags}." if flags else "")

        kind = self.transform.currentText()
        self._start(lambda job: session.register_pair(*images, job, transform=kind, engine=engine), done)

    def _show_of_result(self, make: Callable[[RegistrationResult], list[placing.Layer]]) -> None:
        result = self.result
        if not result:
            return

        def work(job: session.Job) -> list[placing.Layer]:
            job.stage("computing")
            return make(result)

        def done(layers: list[placing.Layer]) -> str:
            self._show_alone(layers)
            return "Shown: " + ", ".join(options["name"] for _, options, _ in layers)

        self._start(work, done)

    # landmarks

    def find_landmarks(self) -> None:
        """Find the named landmarks of both images."""
        images = self._chosen()
        if images is None:
            return

        def done(found: list[Any]) -> str:
            for role, landmarks in zip(session.ROLES, found, strict=True):
                self._put(role, placing.landmark_layer(landmarks, self.frames[role]))
            counts = [int(landmarks.sure.sum()) for landmarks in found]
            return f"Landmarks found: {counts[0]} in the fixed image, {counts[1]} in the moving one."

        self._start(lambda job: [session.landmarks_of(image, job) for image in images], done)


_MAPS = ("similarity", "warped", "displacement, mm", "displacement, arrows", "Jacobian determinant")
_RESULT_LAYERS = (*_MAPS, "match", "point", "landmarks")


def _go_to(model: Any, position: FloatArray) -> None:
    """Show the slice through a position (z, y, x), and the position where the camera does not show it."""
    model.dims.set_point(range(len(position)), [float(value) for value in position])


def _engines() -> list[str]:
    from samreg.engines.registry import available_engines

    return list(available_engines())


def _button(text: str, clicked: Callable[[], None]) -> Any:
    button = QPushButton(text)
    button.clicked.connect(lambda _checked=False: clicked())
    return button


def _choices(names: Sequence[str]) -> Any:
    box = QComboBox()
    box.addItems(names)
    return box


def _group(title: str, rows: Sequence[tuple[str, Any]]) -> Any:
    group = QGroupBox(title)
    form = QFormLayout(group)
    for name, field in rows:
        form.addRow(name, field) if name else form.addRow(field)
    return group

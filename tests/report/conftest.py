"""Small results to report on, and headless Chromium to look at the report with."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samreg.matching.correspondences import Correspondences
from samreg.registration.result import RegistrationResult
from samreg.seeding import AffineFit, Seed
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, compose

_BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Home": 36, "End": 35}


@pytest.fixture(scope="session")
def phantom():
    """Make a body-like image with a bright spot at the patient's upper front right, 4 x 5 x 6 mm voxels."""
    return _phantom


@pytest.fixture(scope="session")
def good_result():
    """Make a result of two such images, with matches."""
    return _good_result


@pytest.fixture(scope="session")
def failed_result():
    """Make a result that failed."""
    return _failed_result


@pytest.fixture(scope="session")
def page() -> Iterator[Page]:
    """An open page of headless Chromium."""
    if _BINARY is None:
        pytest.skip("no chromium or chrome on the PATH to open the report in")
    with _browser() as page:
        yield page


def _phantom(name="phantom.nii.gz"):
    grid = Grid.make((24, 28, 32), spacing=(4, 5, 6), origin=(-60, -60, -60))
    points = grid.world_points()
    array = np.where((np.abs(points) < (50, 55, 70)).all(axis=-1), 40, -1000).astype(np.int16)
    array[(np.abs(points - (-40, -40, 60)) < 8).all(axis=-1)] = 1000
    return Image(array, grid, name)


def _good_result(**changes):
    fixed, moving = _phantom(), _phantom(changes.pop("name", "moving.nii.gz"))
    displacement = np.zeros((*fixed.shape, 3), dtype=np.float32)
    displacement[8:16, 8:16, 8:16, 0] = 2.0
    transform = compose(DisplacementField(displacement, fixed.grid), AffineTransform(np.eye(3), [4.0, 0, 0]))
    points = np.random.default_rng(0).uniform(-40, 40, size=(50, 3))
    pairs = Correspondences.from_points(points, points + [4, 0, 0], reliability=np.linspace(0, 1, 50))
    seed = Seed(transform, AffineFit(AffineTransform.identity(3), np.ones(50, bool), 0.9, 1.0), pairs)
    given = {
        "seed": seed,
        "options": {"method": "embedding", "model": "mind", "engine": None, "engine_options": {}},
        "timings": {"embedding": 1.25},
        "versions": {"samreg": "0.1.0"},
    }
    return RegistrationResult(fixed, moving, transform, **{**given, **changes})


def _failed_result(**changes):
    given = {"reason": "too few matches: 3 of 900 lie in the moving image", "options": {"method": "hybrid"}}
    return RegistrationResult(_phantom(), _phantom("moving.nii.gz"), None, **{**given, **changes})


class Page:
    """One open page.

    Attributes
    ----------
    complaints
        Errors and warnings of its console, and exceptions nobody caught.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read, self._buffer = to_browser, from_browser, b""
        self._number, self._session = 0, None
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path: Path, *, size: tuple[int, int] = (1240, 900), dark: bool = False) -> None:
        """Open a file and wait until it has loaded."""
        width, height = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is waited for."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        again = "setTimeout(look, 20)"
        self.run(f"new Promise(yes => {{ const look = () => ({expression}) ? yes(true) : {again}; look(); }})")

    def press(self, key: str) -> None:
        """Press and release a key, where the focus is."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Save a screenshot, of the whole page or of what is in view."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        bad = ("error", "warning", "assert")
        if (
            method == "Runtime.exceptionThrown"
            or (method == "Runtime.consoleAPICalled" and params["type"] in bad)
            or (method == "Log.entryAdded" and params["entry"]["level"] in bad)
        ):
            self.complaints.append(json.dumps(params))


@contextlib.contextmanager
def _browser() -> Iterator[Page]:
    """Start Chromium and give one page of it."""
    to_browser, from_browser = os.pipe(), os.pipe()
    command = [_BINARY, "--headless", "--disable-gpu", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:

        def at_three_and_four() -> None:  # where --remote-debugging-pipe reads and writes
            ends = [os.dup(to_browser[0]), os.dup(from_browser[1])]
            for number, end in zip((3, 4), ends, strict=True):
                os.dup2(end, number)

        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "--remote-debugging-pipe"],
            preexec_fn=at_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Page(to_browser[1], from_browser[0])
        finally:
            os.close(to_browser[1])
            os.close(from_browser[0])
            process.terminate()
            process.wait(timeout=20)

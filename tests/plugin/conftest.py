"""A window system for napari: Xvfb, an X server that draws into memory."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import time

import pytest


@pytest.fixture(scope="session")
def window_system():
    """A display of our own, so that napari opens a real window that nobody sees."""
    pytest.importorskip("napari", reason="napari is not installed (the extra view)")
    pytest.importorskip("PyQt6", reason="PyQt6 is not installed (the extra view)")
    if shutil.which("Xvfb") is None or ctypes.util.find_library("xcb-cursor") is None:
        pytest.skip("no Xvfb on the PATH to open napari's window on, or no libxcb-cursor")
    reading, writing = os.pipe()
    call = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1500x1000x24", "-nolisten", "tcp"]
    server = subprocess.Popen(call, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    with os.fdopen(reading) as numbers:
        display = numbers.readline().strip()  # which it writes when it is ready
    earlier = {key: os.environ.get(key) for key in ("DISPLAY", "QT_QPA_PLATFORM")}
    os.environ.update(DISPLAY=f":{display}", QT_QPA_PLATFORM="xcb")
    yield
    for key, value in earlier.items():
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value
    server.terminate()
    server.wait(10)


@pytest.fixture
def viewer(window_system):
    import napari

    viewer = napari.Viewer(show=True)
    yield viewer
    viewer.close()


@pytest.fixture
def wait_until():
    """Let Qt work until something is so."""
    from qtpy.QtWidgets import QApplication

    def wait(condition, *, seconds=60.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            QApplication.instance().processEvents()
            time.sleep(0.005)

    return wait

"""Ctrl-C, or a signal to end, at any stage ends the command with 130 and leaves nothing half-written."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import samreg


def _heed_interrupts() -> None:
    """Undo what a shell does to programs it starts in the background: they inherit that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize(
    ("stage", "number"),
    [("seeding", "SIGINT"), ("writing the transform", "SIGINT"), ("writing the inverse", "SIGTERM")],
)
def test_interrupt(files, by_shift, tmp_path, stage, number):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "samreg.cli", "register", files.fixed, files.moving, "-o", out, "-v"]
    command += by_shift if stage != "seeding" else ["--method", "embedding", "--model", "mind"]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=_heed_interrupts,
    ) as process:  # fmt: skip
        for line in process.stderr:
            if stage in line:
                process.send_signal(getattr(signal, number))
                break
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert "written to" not in output
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="SIGHUP is POSIX")
def test_a_hangup_that_is_ignored_ends_nothing():
    """As under nohup."""
    ended = "import os, signal, samreg.cli as cli; cli.app = lambda: os.kill(os.getpid(), signal.SIGHUP); cli.main()"
    for handler, code in ((signal.SIG_IGN, 0), (signal.SIG_DFL, 130)):
        done = subprocess.run(
            [sys.executable, "-c", ended], preexec_fn=functools.partial(signal.signal, signal.SIGHUP, handler)
        )
        assert done.returncode == code


@pytest.mark.skipif(os.name == "nt", reason="pipes are POSIX")
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("more", "code"), [((), 0), (("--transform", "magic"), 2)])
def test_a_reader_that_closes_early_changes_nothing(by_shift, tmp_path, both, more, code):
    image, out = tmp_path / "slice.nii.gz", tmp_path / "out"
    samreg.write_image(samreg.Image.from_array(np.eye(20, dtype=np.float32), spacing=4.0), image)
    command = [sys.executable, "-m", "samreg.cli", "register", image, image, "-o", out, *by_shift, *more]
    read, write = os.pipe()
    os.close(read)
    errors = write if both else subprocess.PIPE
    done = subprocess.run(list(map(str, command)), stdout=write, stderr=errors, text=True)
    os.close(write)
    assert done.returncode == code, done.stderr
    assert "BrokenPipe" not in (done.stderr or "")
    assert (out / "result.json").exists() == (code == 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a file that is always full is Linux's")
@pytest.mark.parametrize(("stream", "code"), [("stdout", 3), ("stderr", 0)])
def test_a_log_on_a_full_disk_stops_no_work(by_shift, tmp_path, stream, code):
    done, out = _register_a_slice(by_shift, tmp_path, **{stream: os.open("/dev/full", os.O_WRONLY)})
    assert done.returncode == code, done.stderr
    assert (out / "result.json").exists()
    if code:
        assert "cannot print all: No space left on device" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    else:
        assert "written to" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="descriptors are POSIX")
def test_closed_streams_stop_no_work(by_shift, tmp_path):
    done, out = _register_a_slice(by_shift, tmp_path, preexec_fn=lambda: [os.close(number) for number in (1, 2)])
    assert done.returncode == 0
    assert (out / "result.json").exists()


def _register_a_slice(by_shift, folder, *, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options):
    image, out = folder / "slice.nii.gz", folder / "out"
    samreg.write_image(samreg.Image.from_array(np.eye(20, dtype=np.float32), spacing=4.0), image)
    command = map(str, [sys.executable, "-m", "samreg.cli", "register", image, image, "-o", out, *by_shift])
    return subprocess.run([*command], stdout=stdout, stderr=stderr, text=True, **options), out

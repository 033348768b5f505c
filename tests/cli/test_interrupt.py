"""Ctrl-C at any stage ends the command with 130 and leaves nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest


def _heed_interrupts() -> None:
    """Undo what a shell does to programs it starts in the background: they inherit that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is POSIX")
@pytest.mark.parametrize("stage", ["seeding", "writing"])
def test_interrupt(files, tmp_path, stage):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "samreg.cli", "register", files.fixed, files.moving, "-o", out, "-v"]
    command += ["--method", "embedding", "--transform", "deformable", "--model", "mind"]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=_heed_interrupts,
    ) as process:  # fmt: skip
        for line in process.stderr:
            if stage in line:
                process.send_signal(signal.SIGINT)
                break
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert "written to" not in output
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="pipes are POSIX")
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("method", "code"), [("embedding", 0), ("magic", 2)])
def test_a_reader_that_closes_early_changes_nothing(files, tmp_path, both, method, code):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "samreg.cli", "register", files.fixed, files.moving, "-o", out, "--model", "mind"]
    read, write = os.pipe()
    os.close(read)
    errors = write if both else subprocess.PIPE
    options = ["--method", method, "--transform", "affine"]
    done = subprocess.run(list(map(str, command + options)), stdout=write, stderr=errors, text=True)
    os.close(write)
    assert done.returncode == code, done.stderr
    assert "BrokenPipe" not in (done.stderr or "")
    assert (out / "result.json").exists() == (code == 0)

"""Ctrl-C at any stage ends the command with 130 and leaves nothing half-written."""

from __future__ import annotations

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


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is POSIX")
@pytest.mark.parametrize("stage", ["seeding", "writing the transform"])
def test_interrupt(files, by_shift, tmp_path, stage):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "samreg.cli", "register", files.fixed, files.moving, "-o", out, "-v"]
    command += by_shift if stage != "seeding" else ["--method", "embedding", "--model", "mind"]
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

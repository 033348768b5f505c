"""Processes of long runs: they end with the run, and it says so where the system ends one of them."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samreg.backends import each
from samreg.errors import InputError, SamregError


def end_process(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_the_system_ends_is_told_with_what_to_do():
    with pytest.raises(SamregError, match=r"probably out of memory.*kept.*fewer jobs"):
        list(each(end_process, range(3), jobs=2))


def test_processes_work_in_the_folder_of_each_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("first", "second"):  # the processes of the first call are kept for the second
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert list(each(os.path.abspath, ["scan"] * 4, jobs=2)) == [str(tmp_path / name / "scan")] * 4


def test_a_working_folder_that_was_removed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InputError, match="the working folder no longer exists; change to one"):
        list(each(abs, [1], jobs=2))


def test_processes_end_with_a_run_that_is_killed(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from samreg.backends import each\n"
        "def work(name):\n"
        "    while True:\n"
        "        Path(sys.argv[1], name).touch(); time.sleep(0.02)\n"
        "list(each(work, 'ab', jobs=2))"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path]) as run:
        while len([*tmp_path.iterdir()]) < 2:
            assert run.poll() is None
            time.sleep(0.05)
        run.kill()
    deadline = time.monotonic() + 20
    while time.time() - max(path.stat().st_mtime for path in tmp_path.iterdir()) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is POSIX")
def test_processes_that_end_with_an_interrupted_run_leave_no_temporary_files(tmp_path: Path):
    """Copies of the scans that they gave to engines stayed."""
    begun, temporary = tmp_path / "begun", tmp_path / "temporary"
    begun.mkdir()
    temporary.mkdir()
    code = (
        "import sys, time; from pathlib import Path; from samreg.backends import each\n"
        "from samreg.spatial.files import scratch_folder\n"
        "def work(name):\n"
        "    with scratch_folder() as folder:\n"
        "        (folder / 'scan.nrrd').touch(); Path(sys.argv[1], name).touch(); time.sleep(100)\n"
        "list(each(work, 'ab', jobs=2))"
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        [sys.executable, "-c", code, begun], env=environment, stderr=subprocess.PIPE, preexec_fn=heeding
    ) as run:
        while len([*begun.iterdir()]) < 2:
            assert run.poll() is None
            time.sleep(0.05)
        assert len([*temporary.rglob("scan.nrrd")]) == 2
        run.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in run.communicate(timeout=60)[1]
    assert not [*temporary.glob("samreg-*")]

"""Child processes: they import what their parent imports, end with it, and say how much memory they held."""

from __future__ import annotations

import os
import sys
import tempfile
import time

import pytest

from samreg.engines.child import own_peak, run_worker, spawn, worker_peaks
from samreg.errors import EngineError, InputError
from samreg.spatial import AffineTransform, files


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules that lie where this process alone has been told to look."""
    (tmp_path / "sleeper.py").write_text(
        "import sys, time\nfrom samreg.engines.child import die_with_parent\n"
        "print(sys.stdin.readline().strip(), flush=True)\ndie_with_parent()\ntime.sleep(100)\n"
    )
    (tmp_path / "hungry.py").write_text(
        "import json\nimport numpy as np\nfrom samreg.engines.child import worker_main\n"
        "from samreg.spatial import AffineTransform, write_transform\n\n\n"
        "def run(folder):\n"
        "    np.ones(30_000_000)\n"
        "    if json.loads((folder / 'job.json').read_text())['fails']:\n"
        "        raise RuntimeError('no more')\n"
        "    write_transform(AffineTransform(np.eye(3), [1, 2, 3]), folder / 'found.tfm')\n"
        "    (folder / 'result.json').write_text('[\"found.tfm\"]')\n\n\n"
        "worker_main(run)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])


def test_a_child_ends_when_its_parents_end_of_the_pipe_closes(modules):
    child = spawn("sleeper", environment={"PYTHONUNBUFFERED": "1"})
    child.stdin.write("told\n")
    child.stdin.flush()
    assert child.stdout.readline() == "told\n"
    assert child.poll() is None
    begin = time.monotonic()
    child.stdin.close()
    assert child.wait(timeout=30) == 1
    assert time.monotonic() - begin < 30
    child.stdout.close()


def test_what_a_child_prints_keeps_its_letters_under_any_locale(modules, tmp_path):
    """On Windows, and under a locale of Latin-1, a child printed in another encoding than its parent reads."""
    (tmp_path / "speaker.py").write_text("print('Müller 骨 ²')", encoding="utf-8")
    child = spawn("speaker", environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert child.communicate()[0] == "Müller 骨 ²\n"


def test_temporary_files_may_lie_where_the_locale_cannot_read_the_name(modules, tmp_path, monkeypatch, phantom):
    """C++ code took the name from Python's surrogates and ended the process, the parent's or the child's."""
    (tmp_path / "reader.py").write_text(
        "import json\nimport SimpleITK as sitk\nfrom samreg.engines.child import worker_main\n\n\n"
        "def run(folder):\n"
        "    sitk.WriteTransform(sitk.Euler3DTransform(), str(folder / 'found.tfm'))\n"
        "    sitk.ReadImage(str(folder / 'fixed.nrrd'))\n"
        "    (folder / 'result.json').write_text(json.dumps(['found.tfm']))\n\n\n"
        "worker_main(run)\n"
    )
    folder = tmp_path / "\udcc3\udca9"  # as Python holds "é" under a locale of ASCII
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run_worker("reader", phantom.request(), {}, threads=1, environment=ascii_only)
    assert isinstance(result.transform, AffineTransform)


def test_no_room_for_the_images_is_said_with_the_remedy(monkeypatch, phantom):
    import SimpleITK as sitk

    def write(*_):
        raise RuntimeError("Exception thrown\nITK ERROR: NrrdImageIO(0x5): Write: Error writing fixed.nrrd:\n[nrrd]\n")

    monkeypatch.setattr(sitk, "WriteImage", write)
    with pytest.raises(InputError, match=r"cannot write temporary files to .*writing fixed.nrrd; make room .* TMPDIR"):
        run_worker("never_started", phantom.request(), {}, threads=1)


@pytest.mark.parametrize("end", ["raise OSError(28, 'No space left on device')", "(folder / 'found.tfm').touch()"])
def test_a_worker_that_finds_no_room_is_no_fault_of_the_engine(modules, tmp_path, monkeypatch, phantom, end):
    """It was an EngineError with a traceback, and with ANTs, which leaves a file cut off, one about a transform."""
    (tmp_path / "writer.py").write_text(
        "from samreg.engines.child import worker_main\n\n\ndef run(folder):\n"
        f"    (folder / 'result.json').write_text('[\"found.tfm\"]')\n    {end}\n\n\nworker_main(run)\n"
    )
    with pytest.raises(EngineError):  # there is room
        run_worker("writer", phantom.request(), {}, threads=1)
    monkeypatch.setattr(files, "_has_room", lambda _: False)
    with pytest.raises(InputError, match=r"cannot write temporary files to .*: No space left on device; .* TMPDIR"):
        run_worker("writer", phantom.request(), {}, threads=1)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_worker_that_the_system_ends(modules, tmp_path, phantom):
    (tmp_path / "victim.py").write_text("import os\nprint('stage 1', flush=True)\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(EngineError, match=r"victim .* ended by the system: out of memory\?(.*\n.*)stage 1"):
        run_worker("victim", phantom.request(), {}, threads=1)


def test_a_worker_leaves_its_transform_and_its_peak(modules, phantom):
    pair = phantom.request()
    with worker_peaks() as peaks, worker_peaks() as inner:
        result = run_worker("hungry", pair, {"fails": False}, threads=1)
    assert isinstance(result.transform, AffineTransform)
    assert result.transform.translation.tolist() == [1, 2, 3]
    assert (len(peaks), len(inner)) == (0, 1), "of the innermost block"
    assert inner[0] > 240_000_000
    assert own_peak() > 0
    with pytest.raises(EngineError, match=r"hungry failed with exit status 1; the end of its log:\nno more"):
        run_worker("hungry", pair, {"fails": True}, threads=1)

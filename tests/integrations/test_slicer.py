"""The Slicer module: its work without Slicer, on files that SimpleITK wrote; its panel and logic against a stand-in.

The stand-in has of Slicer what the module calls. It shows that the module's own Python does what it should, not that
Slicer does what the stand-in does.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import sys
import time
import types
import xml.etree.ElementTree as ET
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "integrations" / "slicer" / "SamReg"
SHIFT = np.array([8.0, -6.0, 4.0])  # of the moving image, LPS mm


@pytest.fixture(scope="module", autouse=True)
def on_path():
    sys.path.insert(0, str(MODULE))
    yield
    sys.path.remove(str(MODULE))
    for name in [name for name in sys.modules if name.split(".")[0] in ("SamReg", "SamRegLib")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def runs(on_path):
    return importlib.import_module("SamRegLib.runs")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A volume of blobs, labels and points as Slicer writes them, and the same further on, in a turned frame."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    array = (gaussian_filter(rng.normal(size=(30, 32, 34)), 2.5) * 4000).astype(np.int16)
    labels = np.zeros(array.shape, np.uint8)
    labels[10:20, 8:18, 6:16], labels[12:18, 20:26, 20:30] = 1, 2
    direction = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)  # as of a NIfTI
    for name, offset in (("fixed", np.zeros(3)), ("moving", SHIFT)):
        for what, voxels in ((name, array), (f"{name}_labels", labels)):
            image = sitk.GetImageFromArray(voxels)
            image.SetSpacing((3, 3, 3))
            image.SetDirection(direction)
            image.SetOrigin((np.array([50.0, 40.0, -20.0]) + offset).tolist())
            sitk.WriteImage(image, str(folder / f"{what}.nrrd"), useCompression=True)
        points = [
            {"label": label, "position": (np.array(at) + offset).tolist(), "positionStatus": "defined"}
            for label, at in (("apex", [10.0, 0.0, 20.0]), ("base", [-10.0, -20.0, 40.0]))
        ]
        text = {"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}]}
        (folder / f"{name}.mrk.json").write_text(json.dumps(text))
    return folder


def ended(run, seconds=300):
    stop = time.monotonic() + seconds
    while run.poll() == "running" and time.monotonic() < stop:
        time.sleep(0.02)
    return run.state


def test_a_run_gives_what_slicer_needs_in_its_frames(runs, scans, tmp_path):
    inputs = runs.Inputs(
        scans / "fixed.nrrd", scans / "moving.nrrd", labels=scans / "moving_labels.nrrd",
        fixed_points=scans / "fixed.mrk.json", moving_points=scans / "moving.mrk.json",
    )  # fmt: skip
    steps = runs.plan(inputs, runs.Settings(method="registration", transform="rigid"), tmp_path / "out")
    run = runs.Run(steps)
    state = ended(run)
    stages = [runs.stage(line) for line in run.new_lines()]
    assert state == "done", run.log
    assert "warping" in stages
    assert len([one for one in stages if one]) > 4
    loaded = runs.loadables(tmp_path / "out", "CT")
    assert [file.kind for file in loaded] == ["transform", "volume", "segmentation", "markups"]

    # Slicer moves a node by the inverse of the ITK transform that is its parent: what is at SHIFT comes to 0
    transform = sitk.ReadTransform(str(loaded[0].path))
    at = np.array([10.0, 0.0, 20.0])
    assert np.allclose(transform.TransformPoint(at.tolist()), at + SHIFT, atol=1)
    assert np.allclose(transform.GetInverse().TransformPoint((at + SHIFT).tolist()), at, atol=1)

    fixed, warped, labels = (
        sitk.ReadImage(str(path)) for path in (scans / "fixed_labels.nrrd", loaded[1].path, loaded[2].path)
    )
    for image in (warped, labels):
        assert np.allclose(image.GetOrigin(), fixed.GetOrigin(), atol=1e-3)
        assert np.allclose(image.GetDirection(), fixed.GetDirection(), atol=1e-5)
    known, found = (sitk.GetArrayFromImage(image) for image in (fixed, labels))
    for value in (1, 2):
        assert (
            2 * ((known == value) & (found == value)).sum() / ((known == value).sum() + (found == value).sum()) > 0.85
        )

    markups = json.loads(loaded[3].path.read_text())["markups"][0]
    assert markups["coordinateSystem"] == "LPS"
    assert [point["label"] for point in markups["controlPoints"]] == ["apex", "base"]
    assert np.allclose(markups["controlPoints"][0]["position"], at, atol=1)
    verdict = runs.verdict(tmp_path / "out")
    assert verdict.text.startswith(verdict.status)
    assert (tmp_path / "out" / "landmarks.csv").is_file(), "points of both were measured"


def test_options_of_a_run(runs, tmp_path):
    inputs = runs.Inputs(Path("f"), Path("m"), Path("fm"), Path("mm"), None, Path("fp"), Path("mp"))
    settings = runs.Settings(preset="fast", landmarks="guide")
    command = " ".join(runs.plan(inputs, settings, tmp_path, python="py")[0].command)
    for words in ("register f m", "preset=fast", "--fixed-mask fm", "--moving-mask mm", "--guide fp mp", "h5,mrk"):
        assert words in command
    plain = runs.plan(runs.Inputs(Path("f"), Path("m")), runs.Settings(method="embedding", preset="fast"), tmp_path)
    assert len(plain) == 1
    assert "--option" not in plain[0].command, "presets are the engine's"
    with pytest.raises(ValueError, match="choose one of hybrid"):
        runs.Settings(method="hybird")


def test_the_commands_are_samregs(runs, tmp_path):
    import typer

    from samreg.cli import app

    inputs = runs.Inputs(*(Path(name) for name in "abcdefg"))
    group = typer.main.get_command(app)
    for step in runs.plan(inputs, runs.Settings(preset="accurate"), tmp_path):
        words = list(step.command[step.command.index("samreg.cli") + 1 :])
        name, command, rest = group.resolve_command(group.make_context("samreg", list(words)), words)
        command.make_context(name, rest)  # raises for an unknown option


def test_a_run_that_fails_says_samregs_reason(runs, scans, tmp_path):
    run = runs.Run(
        runs.plan(runs.Inputs(tmp_path / "absent.nrrd", scans / "moving.nrrd"), runs.Settings(), tmp_path / "o")
    )
    assert ended(run) == "failed"
    assert run.code == 2
    run.new_lines()
    assert "absent.nrrd" in runs.why_failed(run)
    assert "samreg: " not in runs.why_failed(run)


def test_a_step_that_fails_ends_the_run(runs):
    steps = [runs.Step("one", (sys.executable, "-c", "print('x'); raise SystemExit(3)")), runs.Step("two", ("never",))]
    run = runs.Run(steps)
    assert ended(run) == "failed"
    assert (run.title, run.code) == ("one", 3)


def test_what_a_step_prints_keeps_its_letters_under_any_locale(runs):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = runs.Run([runs.Step("one", (sys.executable, "-c", "print('M\\xfcller \\u9aa8')"))], environment)
    assert ended(run) == "done"
    assert run.new_lines() == ["Müller 骨"]


@pytest.mark.skipif(sys.platform == "win32", reason="processes are counted by their group")
def test_cancel_ends_the_process_and_its_children(runs, tmp_path):
    child = f"import time, pathlib; time.sleep(2.5); pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    program = (
        f"import subprocess, sys; print('[0.0 s] begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    )
    run = runs.Run([runs.Step("sleeping", (sys.executable, "-c", program))])
    while not run.new_lines():
        time.sleep(0.02)
    start = time.monotonic()
    run.cancel()
    assert run.poll() == "cancelled"
    assert time.monotonic() - start < 2
    time.sleep(3)
    assert not (tmp_path / "late").exists(), "the child went on"


def test_what_is_installed(runs, tmp_path, monkeypatch):
    assert Path(runs.requirement()) == ROOT
    assert runs.requirement(tmp_path) == "samreg", "where the module lies alone"
    requires = [
        "SimpleITK>=2.4",
        "torch>=2.4,<2.14",
        'itk-elastix>=0.23; extra == "elastix"',
        'x; python_version < "3"',
    ]
    assert runs.is_installed()
    assert not runs.is_installed("a-package-that-is-not-there")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy>=1", "not-there>=2"])
    assert not runs.is_installed(), "it was installed half-way"
    assert runs.dependencies(requires) == ["torch<2.14,>=2.4"]


# against a stand-in


class Node:
    """A node of the scene."""

    def __init__(self, name, kind="vtkMRMLScalarVolumeNode", file=None, parent=None):
        self.name, self.kind, self.file, self.parent = name, kind, file, parent

    def GetName(self):  # noqa: N802
        return self.name

    def SetName(self, name):  # noqa: N802
        self.name = name

    def GetID(self):  # noqa: N802
        return f"id of {self.name}"

    def IsA(self, kind):  # noqa: N802
        return kind in (self.kind, "vtkMRMLMarkupsNode" if "Markups" in self.kind else self.kind)

    def GetParentTransformNode(self):  # noqa: N802
        return self.parent

    def SetAndObserveTransformNodeID(self, identity):  # noqa: N802
        self.parent = identity

    def GetSegmentation(self):  # noqa: N802
        return MagicMock(GetNumberOfSegments=lambda: 0)


@pytest.fixture
def slicer(monkeypatch, tmp_path):
    """Slicer's modules, as far as SamReg.py calls them; nodes that were loaded are in ``loaded``."""
    slicer, scripted = MagicMock(), types.ModuleType("slicer.ScriptedLoadableModule")
    for kind in ("", "Widget", "Logic", "Test"):
        bases = {"__init__": lambda self, *_: None, "setup": lambda self: None}
        setattr(scripted, f"ScriptedLoadableModule{kind}", type(f"Base{kind}", (), bases))
    slicer.app.temporaryPath = str(tmp_path)
    slicer.loaded = []

    def load(path):
        slicer.loaded.append(Node(path, file=path))
        return slicer.loaded[-1]

    for kind in ("Volume", "Transform", "Segmentation", "Markups"):
        setattr(slicer.util, f"load{kind}", load)
    slicer.util.exportNode = lambda node, path: shutil.copy(node.file, path)
    slicer.util.tryWithErrorDisplay.return_value.__exit__ = lambda *_: False
    for name, module in (("slicer", slicer), ("slicer.ScriptedLoadableModule", scripted)):
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("qt", "vtk"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.delitem(sys.modules, "SamReg", raising=False)
    return slicer


@pytest.fixture
def panel(slicer, scans, monkeypatch):
    """The panel with two volumes chosen."""
    widget = importlib.import_module("SamReg").SamRegWidget()
    widget.layout, widget.resourcePath = MagicMock(), lambda name: str(MODULE / "Resources" / name)
    widget.setup()
    chosen = {"fixedSelector": "fixed", "movingSelector": "moving"}
    for name in re.findall(r"self\.ui\.(\w+Selector)\.currentNode", (MODULE / "SamReg.py").read_text()):
        node = Node(f"CT {chosen[name]}", file=scans / f"{chosen[name]}.nrrd") if name in chosen else None
        getattr(widget.ui, name).currentNode = lambda node=node: node
    widget.ui.methodBox.currentText, widget.ui.transformBox.currentText = "hybrid", "deformable"
    widget.ui.presetBox.currentText, widget.ui.landmarksBox.currentText = "default", "measure"
    return widget


def replaced_plan(monkeypatch, module, program):
    """Let a run be a program of Python, told the folder of the results."""

    def steps(inputs, settings, out, python):
        return [module.runs.Step("registering", (sys.executable, "-c", program, str(out)))]

    monkeypatch.setattr(module.runs, "plan", steps)


WRITES = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
for name in ("transform.h5", "warped.nii.gz", "fixed_matches.mrk.json", "moving_matches.mrk.json"):
    (out / name).touch()
summary = {"status": "check", "verdict": "check: the arms", "to_check": ["the arms"]}
(out / "result.json").write_text(json.dumps(summary))
print("[   0.1 s] embedding", flush=True)
"""


def finish(panel):
    stop = time.monotonic() + 60
    while panel.logic.run.poll() == "running" and time.monotonic() < stop:
        time.sleep(0.02)
    panel.on_timer()


def test_the_panel_loads_results_under_the_right_parents(panel, slicer, monkeypatch):
    replaced_plan(monkeypatch, sys.modules["SamReg"], WRITES)
    panel.ui.attachBox.checked = True
    panel.on_run()
    assert panel.ui.cancelButton.enabled
    assert not panel.ui.runButton.enabled
    finish(panel)
    transform, warped, fixed_matches, moving_matches = slicer.loaded
    assert [node.name for node in slicer.loaded][:2] == ["CT moving to fixed", "CT moving on fixed"]
    assert moving_matches.parent == transform.GetID()
    assert panel.logic.nodes["moving"].parent == transform.GetID()
    assert warped.parent is None
    assert fixed_matches.parent is None
    assert panel.ui.statusLabel.text.startswith("check: the arms")
    assert panel.ui.runButton.enabled
    panel.ui.logView.appendPlainText.assert_called_with("[   0.1 s] embedding")


def test_the_panel_cancels_and_fails_in_words(panel, slicer, monkeypatch):
    replaced_plan(monkeypatch, sys.modules["SamReg"], "import time; time.sleep(60)")
    panel.on_run()
    panel.on_cancel()
    assert "Cancelled" in panel.ui.statusLabel.text
    replaced_plan(monkeypatch, sys.modules["SamReg"], "print('samreg: no overlap', flush=True); raise SystemExit(1)")
    panel.on_run()
    finish(panel)
    assert slicer.util.errorDisplay.call_args.args == ("no overlap",)
    assert not slicer.loaded


def test_the_panel_refuses_what_would_be_wrong(panel, scans):
    settings = sys.modules["SamReg"].runs.Settings()
    fixed = Node("a", file=scans / "fixed.nrrd")
    with pytest.raises(ValueError, match="choose two"):
        panel.logic.start({"fixed": fixed, "moving": fixed}, settings)
    moved = Node("b", file=scans / "moving.nrrd", parent=Node("t"))
    with pytest.raises(ValueError, match="harden it"):
        panel.logic.start({"fixed": fixed, "moving": moved}, settings)


def test_nothing_is_installed_unasked(panel, slicer):
    slicer.util.confirmOkCancelDisplay.return_value = False
    panel.on_install()
    slicer.util.pip_install.assert_not_called()
    slicer.util.confirmOkCancelDisplay.return_value = True
    panel.on_install()
    first, second = (call.args[0] for call in slicer.util.pip_install.call_args_list)
    assert first == ["--no-deps", str(ROOT)]
    assert any(one.startswith("torch") for one in second)
    assert not any(one.lower().startswith("simpleitk") for one in second), "Slicer has its own"


def test_the_panels_file_has_all_that_the_module_names(on_path):
    tree = ET.parse(MODULE / "Resources/UI/SamReg.ui").getroot()
    names = {widget.get("name") for widget in tree.iter("widget")}
    source = (MODULE / "SamReg.py").read_text()
    used = set(re.findall(r"self\.ui\.(\w+)", source))
    assert used <= names
    selectors = {name for name in names if name.endswith("Selector")}
    assert {receiver.text for receiver in tree.iter("receiver")} == selectors, "each is told of the scene"
    from SamRegLib import runs

    for box, choices in (
        ("methodBox", runs.METHODS), ("transformBox", runs.TRANSFORMS), ("presetBox", runs.PRESETS),
        ("landmarksBox", runs.LANDMARK_USES),
    ):  # fmt: skip
        widget = next(widget for widget in tree.iter("widget") if widget.get("name") == box)
        assert tuple(item.find("property/string").text for item in widget.iter("item")) == choices


def test_the_extension_lists_its_files():
    lists = (MODULE / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", "SamReg")
    listed = {MODULE / name for name in re.findall(r"^\s+(\S+\.(?:py|ui|png))$", lists, re.M)}
    assert listed == {path for path in MODULE.rglob("*") if path.suffix in (".py", ".ui", ".png")}

"""3D Slicer's module for samreg: choose volumes, register them beside Slicer, and load what comes of it.

What needs no Slicer is in ``SamRegLib.runs``, which samreg's own tests run. docs/howto/slicer.md tells how to use it.
"""

import importlib
import importlib.metadata
import shutil
import sys
import tempfile
from pathlib import Path

import qt
import slicer
import vtk
from SamRegLib import runs
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

POLL_MS = 200


class SamReg(ScriptedLoadableModule):
    """What Slicer's list of modules says."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "SamReg"
        self.parent.categories = ["Registration"]
        self.parent.dependencies = []
        self.parent.contributors = ["The samreg developers"]
        self.parent.helpText = (
            "Registers two body scans by self-supervised anatomical embeddings. A tool for research, not a medical "
            "device."
        )
        self.parent.acknowledgementText = (
            "SAM: Self-supervised Learning of Pixel-wise Anatomical Embeddings in Radiological Images, Yan et al., "
            "IEEE TMI 2022."
        )


class SamRegWidget(ScriptedLoadableModuleWidget):
    """The panel: it asks the logic to start, looks after the run by a timer, and shows what the run says."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        self.logic = None
        self.timer = None

    def setup(self):
        """Build the panel; called once, when the module is opened."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/SamReg.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = SamRegLogic()
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.connect("timeout()", self.on_timer)
        self.ui.installButton.connect("clicked(bool)", self.on_install)
        self.ui.runButton.connect("clicked(bool)", self.on_run)
        self.ui.cancelButton.connect("clicked(bool)", self.on_cancel)
        for selector in (self.ui.fixedSelector, self.ui.movingSelector):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self.update_buttons)
        self.update_buttons()

    def cleanup(self):
        """End what still runs when Slicer closes or the module is reloaded."""
        if self.timer is not None:
            self.timer.stop()
        if self.logic is not None:
            self.logic.cancel()

    def update_buttons(self, *_):
        """Enable what can be done now."""
        is_there, is_running = self.logic.is_installed(), self.logic.is_running()
        chosen = self.ui.fixedSelector.currentNode() and self.ui.movingSelector.currentNode()
        self.ui.installButton.visible = not is_there
        self.ui.runButton.enabled = bool(is_there and chosen and not is_running)
        self.ui.cancelButton.enabled = is_running
        if not is_there:
            self.ui.statusLabel.text = "samreg is not installed in this Slicer yet."

    def on_install(self, *_):
        """Install samreg into Slicer's Python, once the user agrees."""
        question = (
            f"This installs samreg ({runs.requirement()}) and what it needs, PyTorch among it, into Slicer's Python: "
            "some hundred MB to some GB. Slicer cannot be used meanwhile. Go on?"
        )
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle="Install samreg"):
            return
        with slicer.util.tryWithErrorDisplay("samreg could not be installed.", waitCursor=True):
            self.logic.install()
            self.ui.statusLabel.text = "samreg is installed."
        self.update_buttons()

    def on_run(self, *_):
        """Start a registration."""
        with slicer.util.tryWithErrorDisplay("The registration could not be started.", waitCursor=True):
            self.ui.logView.clear()
            self.logic.start(
                nodes={
                    "fixed": self.ui.fixedSelector.currentNode(),
                    "moving": self.ui.movingSelector.currentNode(),
                    "fixed_mask": self.ui.fixedMaskSelector.currentNode(),
                    "moving_mask": self.ui.movingMaskSelector.currentNode(),
                    "labels": self.ui.labelsSelector.currentNode(),
                    "fixed_points": self.ui.fixedPointsSelector.currentNode(),
                    "moving_points": self.ui.movingPointsSelector.currentNode(),
                },
                settings=runs.Settings(
                    method=self.ui.methodBox.currentText,
                    transform=self.ui.transformBox.currentText,
                    preset=self.ui.presetBox.currentText,
                    landmarks=self.ui.landmarksBox.currentText,
                ),
            )
            self.timer.start()
        self.update_buttons()

    def on_cancel(self, *_):
        """End the registration."""
        self.logic.cancel()
        self.on_timer()

    def on_timer(self):
        """Show what the run has said, and load what came of it when it has ended."""
        run = self.logic.run
        state = run.poll()
        for line in run.new_lines():
            self.ui.logView.appendPlainText(line)
            stage = runs.stage(line)
            if stage:
                self.ui.statusLabel.text = f"{run.title}: {stage}"
        if state == "running":
            return
        self.timer.stop()
        if state == "cancelled":
            self.ui.statusLabel.text = "Cancelled; nothing was loaded."
        elif state == "failed":
            self.ui.statusLabel.text = f"Failed while {run.title}."
            slicer.util.errorDisplay(runs.why_failed(run), windowTitle="samreg")
        else:
            with slicer.util.tryWithErrorDisplay("The result could not be loaded.", waitCursor=True):
                verdict = self.logic.load(attach=self.ui.attachBox.checked)
                reasons = "".join(f"\ncheck: {reason}" for reason in verdict.to_check)
                self.ui.statusLabel.text = f"{verdict.text}{reasons}\n{self.logic.out}"
        self.update_buttons()


class SamRegLogic(ScriptedLoadableModuleLogic):
    """Between Slicer's scene and files; the files go to samreg's command line."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.run = None
        self.out = None
        self.nodes = {}
        self.label_names = []
        self._work = None

    def is_installed(self):
        """Tell whether Slicer's Python has samreg and what it needs."""
        return runs.is_installed()

    def is_running(self):
        """Tell whether a registration runs."""
        return self.run is not None and self.run.state == "running"

    def install(self):
        """Install samreg, and what it needs but for what Slicer has of its own."""
        if sys.version_info < runs.MIN_PYTHON:
            version = ".".join(map(str, sys.version_info[:2]))
            raise RuntimeError(f"samreg needs Python 3.10 or newer, this Slicer has {version}; take a newer Slicer")
        slicer.util.pip_install(["--no-deps", runs.requirement()])
        importlib.invalidate_caches()
        slicer.util.pip_install(runs.dependencies(importlib.metadata.requires("samreg") or ()))

    def start(self, nodes, settings):
        """Write the nodes to files and start the commands."""
        if self.is_running():
            raise RuntimeError("a registration runs already; cancel it first")
        if nodes["fixed"] is nodes["moving"]:
            raise ValueError("the fixed and the moving volume are one; choose two")
        chosen = {role: node for role, node in nodes.items() if node is not None}
        for node in chosen.values():
            if node.GetParentTransformNode() is not None:
                raise ValueError(f"{node.GetName()} lies under a transform; harden it, or take it out, first")
        self.nodes = nodes
        self._remove_work()
        self._work = Path(tempfile.mkdtemp(prefix="samreg-", dir=slicer.app.temporaryPath))
        files = {role: self._write(role, node, nodes) for role, node in chosen.items()}
        self.out = Path(tempfile.mkdtemp(prefix="samreg-result-", dir=slicer.app.temporaryPath))
        python = shutil.which("PythonSlicer") or sys.executable
        self.run = runs.Run(runs.plan(runs.Inputs(**files), settings, self.out, python))

    def cancel(self):
        """End the registration, if one runs."""
        if self.run is not None:
            self.run.cancel()
        self._remove_work()

    def load(self, attach=False):
        """Load the result of the last run into the scene, in a folder of its own, and return the verdict.

        With ``attach`` the moving volume itself gets the transform as its parent.
        """
        moving = self.nodes["moving"]
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        title = f"samreg: {moving.GetName()} to {self.nodes['fixed'].GetName()}"
        folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), title)
        loaders = {
            "volume": slicer.util.loadVolume,
            "transform": slicer.util.loadTransform,
            "segmentation": slicer.util.loadSegmentation,
            "markups": slicer.util.loadMarkups,
        }
        transform = None
        for file in runs.loadables(self.out, moving.GetName()):
            node = loaders[file.kind](str(file.path))
            node.SetName(file.name)
            hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), folder)
            if file.kind == "transform":
                transform = node
            elif file.under_transform and transform is not None:
                node.SetAndObserveTransformNodeID(transform.GetID())
            if file.kind == "segmentation":
                self._name_segments(node)
            if file.kind == "volume":
                slicer.util.setSliceViewerLayers(background=self.nodes["fixed"], foreground=node, foregroundOpacity=0.5)
        if attach and transform is not None:
            moving.SetAndObserveTransformNodeID(transform.GetID())
        self._remove_work()
        return runs.verdict(self.out)

    def _write(self, role, node, nodes):
        """Write a node to a file that samreg reads; segmentations on the grid of the volume they belong to."""
        if node.IsA("vtkMRMLMarkupsNode"):
            path = self._work / f"{role}.mrk.json"
            slicer.util.exportNode(node, str(path))
            return path
        path = self._work / f"{role}.nrrd"
        if not node.IsA("vtkMRMLSegmentationNode"):
            if role == "labels":
                self.label_names = []
            slicer.util.exportNode(node, str(path))
            return path
        volume = nodes["fixed" if role == "fixed_mask" else "moving"]
        segmentation = node.GetSegmentation()
        ids = vtk.vtkStringArray()
        segmentation.GetSegmentIDs(ids)
        names = [segmentation.GetSegment(ids.GetValue(i)).GetName() for i in range(ids.GetNumberOfValues())]
        labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        try:
            if not slicer.modules.segmentations.logic().ExportSegmentsToLabelmapNode(node, ids, labelmap, volume):
                raise RuntimeError(f"{node.GetName()} could not be exported; has it segments?")
            slicer.util.exportNode(labelmap, str(path))
        finally:
            slicer.mrmlScene.RemoveNode(labelmap)
        if role == "labels":
            self.label_names = names
        return path

    def _name_segments(self, node):
        """Give the warped segments the names of those that were exported."""
        segmentation = node.GetSegmentation()
        for i in range(segmentation.GetNumberOfSegments() if self.label_names else 0):
            segment = segmentation.GetNthSegment(i)
            segment.SetName(runs.segment_names(self.label_names, segment.GetLabelValue()))

    def _remove_work(self):
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = None


class SamRegTest(ScriptedLoadableModuleTest):
    """Slicer's own test of the module: two copies of a small volume that lie 8 mm apart."""

    def runTest(self):
        """Register the copies and look where the moving one comes to lie."""
        slicer.mrmlScene.Clear()
        logic = SamRegLogic()
        if not logic.is_installed():
            self.delayDisplay("samreg is not installed; press Install first")
            return
        fixed, moving = self._volume("fixed", 0.0), self._volume("moving", 8.0)
        empty = dict.fromkeys(("fixed_mask", "moving_mask", "labels", "fixed_points", "moving_points"))
        settings = runs.Settings(method="registration", transform="rigid")
        logic.start({"fixed": fixed, "moving": moving, **empty}, settings)
        while logic.run.poll() == "running":
            slicer.app.processEvents()
        logic.run.new_lines()
        self.assertEqual(logic.run.state, "done", runs.why_failed(logic.run))
        logic.load(attach=True)
        matrix = vtk.vtkMatrix4x4()
        moving.GetParentTransformNode().GetMatrixTransformToWorld(matrix)
        self.assertAlmostEqual(matrix.GetElement(0, 3), -8.0, delta=0.5)

    def _volume(self, name, offset):
        import numpy as np

        array = np.full((40, 40, 40), -1000.0)
        array[8:30, 10:34, 6:28] = 40.0
        array[12:20, 14:22, 10:18] = 700.0
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        slicer.util.updateVolumeFromArray(volume, array)
        volume.SetSpacing(2, 2, 2)
        volume.SetOrigin(offset, 0, 0)
        return volume

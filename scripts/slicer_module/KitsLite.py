"""
A scripted module of 3D Slicer that segments a volume with `kits-lite`, which runs in a Python of its own.

Slicer's own Python needs nothing: the volume goes to a file, `kits-lite segment --output-format seg.nrrd` is started on
it, what it prints is shown, and its segmentation is loaded. To try it, add this folder to Slicer's Edit, Application
Settings, Modules, Additional module paths.

Source: https://slicer.readthedocs.io/en/latest/developer_guide/script_repository.html
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

import slicer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)

NOTICE = "Research only, not a medical device."
SETTINGS = "KitsLite"
COMMAND = "kits-lite"
BUNDLES = ("pocket_unet", "wp_unet", "unet_pwp", "sd_unet", "unet")
BACKENDS = ("onnxruntime", "openvino", "torch")


class KitsLite(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent: object) -> None:
        super().__init__(parent)
        parent.title = "Kidney and kidney tumor (kits-lite)"
        parent.categories = ["Segmentation"]
        parent.contributors = ["the maintainers of the lightweight kidney-tumour model zoo"]
        parent.helpText = f"Segments kidneys and kidney tumors in CT with a bundle of kits-lite. {NOTICE}"


class KitsLiteWidget(ScriptedLoadableModuleWidget):
    """A volume, a command, a bundle and a runtime to choose; a button; what the command prints."""

    def setup(self) -> None:
        import qt

        super().setup()
        self.logic = KitsLiteLogic()
        form = qt.QFormLayout()
        self.layout.addLayout(form)
        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.addEnabled = self.volume.removeEnabled = False
        self.volume.setMRMLScene(slicer.mrmlScene)
        settings = slicer.app.settings()
        self.command = qt.QLineEdit(settings.value(f"{SETTINGS}/command", COMMAND))
        self.command.toolTip = "kits-lite, with its path, or: /path/to/python -m common"
        self.bundle = qt.QComboBox()
        self.bundle.addItems([f"kits_{name}_segmentation" for name in BUNDLES])
        self.bundle.editable = True  # for the folder of another bundle
        self.backend = qt.QComboBox()
        self.backend.addItems(list(BACKENDS))
        for name, field in (
            ("Volume", self.volume),
            ("Command", self.command),
            ("Bundle", self.bundle),
            ("Runtime", self.backend),
        ):
            form.addRow(name, field)
        self.button = qt.QPushButton("Segment")
        self.button.connect("clicked()", self.segment)
        self.log = qt.QPlainTextEdit()
        self.log.readOnly = True
        for part in (qt.QLabel(NOTICE), self.button, self.log):
            self.layout.addWidget(part)

    def segment(self) -> None:
        slicer.app.settings().setValue(f"{SETTINGS}/command", self.command.text)
        self.log.clear()
        with slicer.util.tryWithErrorDisplay("kits-lite failed", waitCursor=True):
            self.logic.segment(
                self.volume.currentNode(),
                shlex.split(self.command.text),
                self.bundle.currentText,
                self.backend.currentText,
                self.log.appendPlainText,
            )


class KitsLiteLogic(ScriptedLoadableModuleLogic):
    """What the button does, without the button."""

    def segment(
        self,
        volume: object,
        command: list[str],
        bundle: str,
        backend: str = BACKENDS[0],
        tell: Callable[[str], object] = print,
    ) -> object:
        """
        Segment a volume node; gives a new segmentation node.

        Args:
            command: words that start kits-lite.
            tell: is called with every line that it prints.

        Raises:
            ValueError: without a volume.
            RuntimeError: when the command fails; with its last line.
        """
        if volume is None:
            raise ValueError("Choose a volume first.")
        with tempfile.TemporaryDirectory() as name:
            image, output = Path(name) / "volume.nii.gz", Path(name) / "out"
            # in world coordinates, so that a transformed volume and its segmentation lie together
            slicer.util.exportNode(volume, str(image), world=True)
            words = [*command, "segment", "-b", bundle, "-i", str(image), "-o", str(output)]
            words += ["--backend", backend, "--output-format", "seg.nrrd"]
            # the environment outside of Slicer, whose own would lead another Python to Slicer's packages
            process = slicer.util.launchConsoleProcess(words, useStartupEnvironment=True)
            last = ""
            for line in process.stdout:
                last = line.strip() or last
                tell(line.rstrip())
                slicer.app.processEvents()
            if process.wait():
                raise RuntimeError(last or "kits-lite ended with an error and said nothing.")
            segmentation = slicer.util.loadSegmentation(str(output / "volume.seg.nrrd"))
        segmentation.SetName(f"{volume.GetName()}: kidneys")
        return segmentation

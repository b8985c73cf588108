"""Slicer's module against a stub of Slicer: the command that it starts is the real one, Slicer is not."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import ROOT

slicerio = pytest.importorskip("slicerio", reason="needs slicerio: pip install .[slicer]")
COMMAND = [sys.executable, "-m", "common"]


class Node:
    """A volume of Slicer's scene."""

    def __init__(self, file: Path) -> None:
        self.file, self.name = file, "CT"

    def GetName(self) -> str:  # noqa: N802 (Slicer's name)
        return self.name

    def SetName(self, name: str) -> None:  # noqa: N802
        self.name = name


def launch(words: list[str], useStartupEnvironment: bool) -> subprocess.Popen:  # noqa: N803
    assert useStartupEnvironment
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def load(path: str) -> Node:
    node = Node(Path(path))
    node.found = slicerio.read_segmentation(path)  # the folder is gone afterwards
    return node


@pytest.fixture
def module(monkeypatch) -> types.ModuleType:
    slicer, qt = MagicMock(), MagicMock()
    qt.QComboBox.side_effect = lambda: MagicMock()  # one for every call, not one for all
    slicer.util.exportNode = lambda node, path, world: shutil.copy(node.file, path)
    slicer.util.launchConsoleProcess = launch
    slicer.util.loadSegmentation = load
    scripted = types.ModuleType("slicer.ScriptedLoadableModule")
    for part in ("", "Widget", "Logic"):
        bases = {"__init__": lambda self, *_: None, "setup": lambda self: None, "layout": MagicMock()}
        setattr(scripted, f"ScriptedLoadableModule{part}", type(f"ScriptedLoadableModule{part}", (), bases))
    for name, stub in (("slicer", slicer), ("slicer.ScriptedLoadableModule", scripted), ("qt", qt)):
        monkeypatch.setitem(sys.modules, name, stub)
    spec = importlib.util.spec_from_file_location("KitsLite", ROOT / "scripts/slicer_module/KitsLite.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.slow
def test_the_segmentation_that_is_loaded_lies_on_the_volume(module, weighted_bundle, cases):
    file, lines = cases / "scan0_synthetic.nii.gz", []
    node = module.KitsLiteLogic().segment(Node(file), COMMAND, str(weighted_bundle), "torch", lines.append)
    assert node.GetName() == "CT: kidneys"
    assert node.found["voxels"].shape == nib.load(file).shape and node.found["voxels"].any()
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ node.found["ijkToLPS"], nib.load(file).affine, atol=1e-4)
    assert [segment["name"] for segment in node.found["segments"]] == ["Kidney", "Kidney tumor"]
    assert any("1 of 1 cases segmented" in line for line in lines)


def test_what_the_command_says_last_is_the_error(module, cases):
    command = [sys.executable, "-c", "import sys; print('at work'); sys.exit('error: no such bundle')"]
    with pytest.raises(RuntimeError, match="no such bundle"):
        module.KitsLiteLogic().segment(
            Node(cases / "scan0_synthetic.nii.gz"), command, "missing", tell=lambda line: None
        )


def test_without_a_volume_nothing_is_started(module):
    with pytest.raises(ValueError, match="Choose a volume first"):
        module.KitsLiteLogic().segment(None, ["must not be started"], "bundle")


def test_the_widget_gives_the_logic_what_was_chosen(module):
    widget = module.KitsLiteWidget(None)
    widget.setup()
    widget.logic = MagicMock()
    widget.command.text, widget.bundle.currentText, widget.backend.currentText = "python -m common", "a", "openvino"
    widget.segment()
    volume, command, bundle, backend, _ = widget.logic.segment.call_args.args
    assert volume is widget.volume.currentNode()
    assert (command, bundle, backend) == (["python", "-m", "common"], "a", "openvino")


def test_the_bundles_it_offers_are_those_of_the_repository_that_have_weights(module):
    offered = {f"kits_{name}_segmentation" for name in module.BUNDLES}
    assert offered == {path.parents[1].name for path in (ROOT / "bundles").glob("*/models/model.pt")}

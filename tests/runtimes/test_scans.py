"""From file to mask without PyTorch: the same files, the same lines, and no import of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, POCKET, ROOT, read

from common.app.folder import segment_to_folder
from common.app.segmenter import Segmenter
from common.errors import InputError
from common.kits.cases import find_cases
from common.networks import LiteUNet
from common.networks.weights import save_weights
from common.runtimes.scans import ScanSegmenter, is_plain, open_without_torch
from zoo.shipped import write_shipped

# a process in which neither can be imported, whatever is installed
BLOCKED = """
import sys
for name in ("torch", "monai", "scipy", "matplotlib", "ignite"):
    sys.modules[name] = None
from common.app.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_without_torch(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", BLOCKED, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


CHOSEN = {"keep_largest": 2, "min_volume_ml": 0.01, "mirror": True, "fast": True}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """The `model.onnx` of `weighted_bundle`, made once."""
    bundle = tmp_path_factory.mktemp("shipped") / POCKET
    shutil.copytree(BUNDLES / POCKET, bundle, ignore=shutil.ignore_patterns("eval", "models"))
    torch.manual_seed(0)
    save_weights(LiteUNet(channels=[16] * 5), bundle / "models/model.pt")
    return write_shipped(bundle)


@pytest.fixture
def shipping_bundle(weighted_bundle, shipped) -> Path:
    shutil.copy(shipped, weighted_bundle / "models")
    return weighted_bundle


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_without_pytorch_the_files_are_those_with_it(backend, shipping_bundle, phantoms, tmp_path):
    options = ("--backend", backend, "--precision", "f32")
    done = run_without_torch("segment", "-b", shipping_bundle, "-i", phantoms, "-o", tmp_path / "without", *options)
    assert done.returncode == 0, done.stderr
    segmenter = Segmenter(shipping_bundle, "cpu", backend=backend, precision="f32")
    eager = Segmenter(shipping_bundle, "cpu", backend="torch")
    for case in find_cases(phantoms):
        segment_to_folder(segmenter, case, tmp_path / "with")
        name = f"{case['case']}.nii.gz"
        assert (tmp_path / "without" / name).read_bytes() == (tmp_path / "with" / name).read_bytes()
        found = read(tmp_path / "without" / name)
        assert len(np.unique(found)) > 1 and (found != eager.segment(case).label_map).mean() <= 1e-4
    again = run_without_torch("segment", "-b", shipping_bundle, "-i", phantoms, "-o", tmp_path / "with", *options)
    assert again.returncode == 0, again.stderr  # and takes them for its own


@pytest.mark.parametrize("axes", ["RAS", "LPS", "IPL", "SRA", "oblique"])
def test_however_a_file_is_stored_the_mask_is_that_of_segmenter(
    axes, shipping_bundle, make_affine, store, volume, tmp_path
):
    image = store(volume[0], axes)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(image.astype(np.int16), make_affine(axes, volume[0].shape)), path)
    found = ScanSegmenter(shipping_bundle, "openvino", precision="f32", **CHOSEN).segment({"image": str(path)})
    segmenter = Segmenter(shipping_bundle, "cpu", backend="openvino", precision="f32", **CHOSEN)
    expected = segmenter.segment({"image": str(path)})
    assert found.label_map.any() and np.array_equal(found.label_map, expected.label_map)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:3000]),
        lambda path: path.write_bytes(b"no image"),
        lambda path: path.unlink(),
        lambda path: nib.save(nib.Nifti1Image(np.full((8, 8, 8), np.nan), np.eye(4)), path),
        lambda path: nib.save(nib.Nifti1Image(np.zeros((8, 8)), np.eye(4)), path),
    ],
    ids=["cut", "no image", "gone", "not finite", "flat"],
)
def test_a_bad_scan_is_the_same_line_with_pytorch_and_without(
    spoil, shipping_bundle, phantoms, tmp_path, run_door, capsys
):
    path = tmp_path / "in/scan.nii.gz"
    path.parent.mkdir()
    path.write_bytes((phantoms / "case_00000_synthetic/imaging.nii.gz").read_bytes())
    (tmp_path / "in/other.nii.gz").write_bytes(path.read_bytes())
    spoil(path)
    words = {"bundle": shipping_bundle, "input": tmp_path / "in"}
    told = []
    for backend in ("torch", "openvino"):
        code = run_door("segment", output=tmp_path / backend, backend=backend, **words)
        told.append((code, [line for line in capsys.readouterr().err.splitlines() if "scan" in line]))
    assert told[0] == told[1]


def test_new_weights_are_not_segmented_by_the_network_of_the_old_ones(shipping_bundle, phantoms, tmp_path):
    (shipping_bundle / "models/model.pt").write_bytes((shipping_bundle / "models/model.pt").read_bytes() + b" ")
    assert open_without_torch(shipping_bundle, backend="onnxruntime") is None  # PyTorch exports anew
    done = run_without_torch("segment", "-b", shipping_bundle, "-i", phantoms, "-o", tmp_path / "out")
    assert done.returncode == 1 and "model.onnx: expected the network of these weights, found none" in done.stderr
    assert not (tmp_path / "out").exists()


def test_another_network_than_the_config_s_is_not_taken(shipping_bundle):
    path = shipping_bundle / "configs/inference.json"
    config = json.loads(path.read_text())
    config["network_def"]["dropout"] = 0.5
    path.write_text(json.dumps(config))
    assert open_without_torch(shipping_bundle, backend="onnxruntime") is None


def test_a_config_that_says_more_than_numbers_is_left_to_monai(shipping_bundle):
    config = json.loads((shipping_bundle / "configs/inference.json").read_text())
    assert is_plain(config)
    assert not is_plain(config | {"hu_window": "$[0, 100]"})
    config["preprocessing"]["transforms"].append({"_target_": "GaussianSmoothd", "keys": "image"})
    assert not is_plain(config)


def test_a_file_of_other_weights_is_refused(shipping_bundle, shipped):
    (shipping_bundle / "models/model.pt").write_bytes((shipping_bundle / "models/model.pt").read_bytes() + b" ")
    with pytest.raises(InputError, match="expected the weights of .*model.pt, found others"):
        ScanSegmenter(shipping_bundle, "onnxruntime", shipped)


def test_the_package_is_imported_without_pytorch():
    code = "import sys, common, common.app.cli, common.app.folder, common.kits.cases; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr

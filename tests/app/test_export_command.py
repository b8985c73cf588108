"""`export`, `segment --backend`, the overlays for exported networks, and MONAI's own exporters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch
from bundle_runs import POCKET, run_bundle, run_well
from monai.data import load_net_with_metadata

from common.files import hash_file
from common.networks import LiteUNet
from common.networks.weights import save_weights
from common.runtimes.export import FORMATS
from common.runtimes.run import ExportedNetwork
from zoo.rendering import write_bundle
from zoo.variants import VARIANTS

SMALL = {"spatial_size": "[48,48]"}
OVERLAYS = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    """Pocket U-Net as common/ renders it now, with untrained weights."""
    (variant,) = [variant for variant in VARIANTS if variant.name == POCKET]
    bundle = write_bundle(variant, tmp_path_factory.mktemp("bundles"))
    torch.manual_seed(0)
    save_weights(LiteUNet(**variant.network), bundle / "models/model.pt")
    return bundle


def read_maps(folder: Path) -> np.ndarray:
    files = sorted(folder.glob("*.nii.gz"))
    assert len(files) == 4
    return np.stack([np.asarray(nib.load(path).dataobj) for path in files])


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_one_line_is_printed_and_it_is_the_file(format, weighted_bundle, tmp_path):
    command = [sys.executable, "-m", "common", "export", "--bundle", weighted_bundle, "--format", format]
    done = subprocess.run([*command, "--output", tmp_path / "out"], capture_output=True, text=True)
    path = tmp_path / "out" / f"{POCKET}{FORMATS[format]}"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}\n", "")
    found = sorted(file.suffix for file in path.parent.iterdir())
    assert found == ([".bin", ".xml"] if format == "openvino" else [path.suffix])


@pytest.mark.slow
def test_what_is_exported_is_what_segment_takes(weighted_bundle, phantoms, run_door, tmp_path):
    bundle, weights = weighted_bundle, weighted_bundle / "models/model.pt"
    assert run_door("export", bundle=bundle, format="onnx", output=tmp_path) == 0
    exported = tmp_path / f"{POCKET}.onnx"
    assert ExportedNetwork(exported, "onnxruntime").metadata["weights_sha256"] == hash_file(weights)
    assert run_door("segment", bundle=bundle, input=phantoms, output=tmp_path / "onnx", exported=exported) == 0
    assert run_door("segment", bundle=bundle, input=phantoms, output=tmp_path / "torch", backend="torch") == 0
    expected = read_maps(tmp_path / "torch")
    assert len(np.unique(expected)) > 1 and (expected != read_maps(tmp_path / "onnx")).mean() <= 1e-4
    assert not (bundle / "models/exported").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is the default here")
def test_by_default_openvino_segments(weighted_bundle, phantoms, run_door, tmp_path):
    options = {"bundle": weighted_bundle, "input": phantoms}
    assert run_door("segment", **options, output=tmp_path / "default", precision="f32") == 0
    assert run_door("segment", **options, output=tmp_path / "torch", backend="torch") == 0
    expected = read_maps(tmp_path / "torch")
    assert len(np.unique(expected)) > 1 and (expected != read_maps(tmp_path / "default")).mean() <= 1e-4
    assert [path.suffix for path in sorted((weighted_bundle / "models/exported").iterdir())] == [".bin", ".xml"]


def test_wrong_words_on_the_command_line_are_one_line(copy_bundle, phantoms, tmp_path):
    bundle, output, int8 = copy_bundle(), ["--output", tmp_path / "out"], ["--precision", "int8"]
    commands = {
        "format: expected one of": ["export", "--bundle", bundle, "--format", "tflite"],
        "no weights here": ["export", "--bundle", bundle, "--format", "onnx"],
        "format: expected openvino, which alone has int8": [
            *("export", "--bundle", bundle, "--format", "onnx", *int8, "--dataset-dir", phantoms)
        ],
        "dataset_dir: expected images": ["export", "--bundle", bundle, "--format", "openvino", *int8],
        "backend: expected one of": ["segment", "--bundle", bundle, "--input", phantoms, "--backend", "tensorrt"],
    }
    for words, command in commands.items():
        command = [sys.executable, "-m", "common", *command, *output]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_overlays_segment_as_inference_does(rendered, phantoms, tmp_path):
    run_well(rendered, "inference", dataset_dir=phantoms, output_dir=tmp_path / "torch", backend="torch", **SMALL)
    expected = read_maps(tmp_path / "torch")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for overlay, suffix in {"onnx": ".onnx", "openvino": ".xml"}.items():
        run = {"dataset_dir": phantoms, "output_dir": tmp_path / overlay, **SMALL}
        run_well(rendered, "inference", f"inference_{overlay}", cwd=elsewhere, **run)
        assert len(np.unique(expected)) > 1 and (expected != read_maps(tmp_path / overlay)).mean() <= 1e-4
        (exported,) = (rendered / "models/exported").glob(f"*{suffix}")
    assert not list(elsewhere.iterdir())

    # told the file, with weights that are not its own
    save_weights(LiteUNet(channels=[16] * 5), tmp_path / "other.pt")
    run |= {"exported": exported, "weights": tmp_path / "other.pt", "output_dir": tmp_path / "refused"}
    done = run_bundle(rendered, "inference", "inference_openvino", **run)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(lines) == 1 and "found others; export it anew" in lines[0]
    assert "Traceback" not in done.stderr and not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_an_int8_file_runs_in_segment_and_in_the_overlay(rendered, phantoms, tmp_path):
    command = [sys.executable, "-m", "common", "export", "--bundle", rendered, "--format", "openvino"]
    command += ["--precision", "int8", "--dataset-dir", phantoms, "--output", tmp_path / "exported"]
    done = subprocess.run(command, capture_output=True, text=True)
    exported = tmp_path / f"exported/{POCKET}_int8.xml"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{exported}\n", "")
    command = [sys.executable, "-m", "common", "segment", "--bundle", rendered, "--input", phantoms]
    f32 = ("--precision", "f32")
    for folder, words in {"torch": ["--backend", "torch"], "int8": ["--exported", exported, *f32]}.items():
        subprocess.run([*command, "--output", tmp_path / folder, *words], check=True, capture_output=True)
    run = {"dataset_dir": phantoms, "output_dir": tmp_path / "overlay", "exported": exported}
    run_well(rendered, "inference", "inference_openvino", **run)
    expected, found = read_maps(tmp_path / "torch"), read_maps(tmp_path / "int8")
    assert len(np.unique(expected)) > 1 and 0 < (expected != found).mean() < 0.1
    assert (found != read_maps(tmp_path / "overlay")).mean() <= 1e-4


@pytest.mark.slow
def test_monais_own_exporters_work_from_the_bundle_folder(rendered, tmp_path):
    image = torch.rand(1, 1, 256, 256)
    network = LiteUNet(channels=[16] * 5).eval()
    network.load_state_dict(torch.load(rendered / "models/model.pt", weights_only=True))
    with torch.no_grad():
        expected = network(image)
    files = {"ckpt_export": tmp_path / "model.ts", "onnx_export": tmp_path / "model.onnx"}
    for command, path in files.items():
        options = {"net_id": "network_def", "filepath": path, "ckpt_file": "models/model.pt"}
        options |= {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
        words = [sys.executable, "-m", "monai.bundle", command]
        words += [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        done = subprocess.run(words, cwd=rendered, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    scripted, metadata, configs = load_net_with_metadata(str(files["ckpt_export"]), more_extra_files=["inference.json"])
    assert metadata["name"] == "Pocket U-Net" and b"network_def" in configs["inference.json"]
    assert torch.allclose(scripted(image), expected, atol=1e-4)
    session = onnxruntime.InferenceSession(files["onnx_export"], providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)

"""Exported files: same numbers in every runtime, named, described, whole, and never of other weights."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from bundle_runs import BUNDLES, ROOT, SLICES, needs_slices, read_network
from monai.data import load_net_with_metadata
from torch import nn

from common import exporting
from common.backends import BACKENDS, ExportedNetwork, choose_backend, load_exported, open_network
from common.bundles import open_bundle
from common.errors import InputError, find_input_error
from common.exporting import FORMATS, export_bundle, export_network
from common.files import hash_file
from common.kits.cases import find_cases
from common.networks import LiteUNet
from common.networks.weights import save_weights
from common.runtimes import import_package, open_core
from common.segmentation import Segmenter
from common.zoo.variants import VARIANTS

openvino = import_package("openvino")
SD_UNET, PWP = "kits_sd_unet_segmentation", "kits_unet_pwp_segmentation"
BACKEND_OF = {suffix: backend for backend, suffixes in BACKENDS.items() for suffix in suffixes}
TINY = {"channels": [4, 8], "num_convs": [1, 1]}
SHAPES = [(1, 1, 64, 48), (3, 1, 64, 48), (1, 1, 256, 256), (2, 1, 256, 256)]


def build(arguments: dict, channels: list[int] | None = None) -> LiteUNet:
    """A network whose weights and statistics are all random, none of them at a neutral value."""
    torch.manual_seed(1)
    network = LiteUNet(**arguments | ({"channels": channels} if channels else {})).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def find_largest_difference(network: nn.Module, exported: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """
    The largest difference of the logits over two shapes and two batch sizes, as a share of the largest logit.

    A share, because SD-UNet's logits reach 30 with random weights: PyTorch itself is 0.001 off its own float64 there.
    """
    largest = 0.0
    for shape in SHAPES:
        image = torch.rand(shape)
        with torch.no_grad():
            expected = network(image)
            largest = max(largest, float((expected - exported(image)).abs().max() / expected.abs().max()))
    return largest


@pytest.fixture
def sd_bundle(copy_bundle) -> Path:
    """SD-UNet, narrowed to 32 channels on every level, with untrained weights."""
    bundle = copy_bundle(SD_UNET)
    path = bundle / "configs/inference.json"
    content = json.loads(path.read_text())
    content["network_def"]["channels"] = [32] * 5
    path.write_text(json.dumps(content))
    save_weights(build(read_network(bundle).arguments), bundle / "models/model.pt")
    return bundle


# ---- the same numbers


@pytest.mark.slow
@pytest.mark.parametrize("suffix", BACKEND_OF)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
def test_every_network_in_every_format_computes_what_it_computes_in_pytorch(variant, suffix, tmp_path):
    is_real = variant.title == "Pocket U-Net"
    group_norm = variant.network.get("norm", [""])[0] == "group"
    network = build(variant.network, None if is_real else [64] * 5 if group_norm else [4, 4, 8, 8, 8])
    path = tmp_path / f"network{suffix}"
    export_network(network, path, {})
    assert find_largest_difference(network, ExportedNetwork(path, BACKEND_OF[suffix])) < 1e-4


def test_another_networks_file_is_told_apart_by_its_numbers(tmp_path):
    network = build(TINY)
    export_network(network, tmp_path / "network.ts", {})
    with torch.no_grad():
        network.head.bias += 1e-2
    assert find_largest_difference(network, ExportedNetwork(tmp_path / "network.ts", "torch")) > 1e-3


def test_weight_standardization_of_a_bundles_own_copy_is_folded(sd_bundle, tmp_path):
    path = export_bundle(sd_bundle, "torchscript", tmp_path)
    weights = torch.load(sd_bundle / "models/model.pt", weights_only=True)
    exported = torch.jit.load(path).network.state_dict()
    filters = [name for name in weights if name.endswith("depthwise.weight")]
    assert len(filters) > 10
    for name in filters:
        assert weights[name].mean(dim=(1, 2, 3)).abs().max() > 1e-2
        assert exported[name].mean(dim=(1, 2, 3)).abs().max() < 1e-5
    network = open_network(open_bundle(sd_bundle), "torch")
    assert find_largest_difference(network, ExportedNetwork(path, "torch")) < 1e-4


@pytest.mark.slow
@needs_slices
@pytest.mark.parametrize("suffix", BACKEND_OF)
def test_real_slices_get_the_label_maps_of_pytorch(suffix, tmp_path):
    bundle = BUNDLES / PWP
    exported = export_bundle(bundle, dict(map(reversed, FORMATS.items()))[suffix], tmp_path)
    eager = Segmenter(bundle, "cpu")
    other = Segmenter(bundle, backend=BACKEND_OF[suffix], exported=exported)
    voxels = differing = 0
    for case in find_cases(SLICES)[::14]:
        expected, found = (segmenter.segment(case).label_map for segmenter in (eager, other))
        assert expected.any()
        voxels, differing = voxels + expected.size, differing + int((expected != found).sum())
    assert differing <= 1e-4 * voxels


# ---- what the files say of themselves


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> tuple[LiteUNet, dict[str, Path], dict]:
    """A tiny network in every format: itself, its files by suffix, what they were given as metadata."""
    folder, network = tmp_path_factory.mktemp("exports"), build(TINY)
    save_weights(network, folder / "model.pt")
    metadata = {"name": 'Ä "quoted" <name>', "version": "1", "weights_sha256": hash_file(folder / "model.pt")}
    files = {suffix: folder / f"model{suffix}" for suffix in BACKEND_OF}
    for path in files.values():
        export_network(network, path, metadata)
    return network, files, metadata


def test_every_file_carries_its_metadata(exports):
    _, files, metadata = exports
    for suffix, path in files.items():
        assert ExportedNetwork(path, BACKEND_OF[suffix]).metadata == metadata
    # as their own tools read them
    assert metadata.items() <= load_net_with_metadata(str(files[".ts"]))[1].items()
    extra = {"metadata.json": ""}
    torch.export.load(files[".pt2"], extra_files=extra)
    (prop,) = onnx.load(files[".onnx"]).metadata_props
    model = open_core().read_model(files[".xml"])
    texts = [extra["metadata.json"], prop.value, model.get_rt_info(["metadata.json"]).astype(str)]
    assert prop.key == "metadata.json" and [json.loads(text) for text in texts] == [metadata] * 3


def test_inputs_and_outputs_have_names_and_free_sizes(exports):
    _, files, _ = exports
    model = onnx.load(files[".onnx"])
    onnx.checker.check_model(model, full_check=True)
    for values, name, channels in ((model.graph.input, "image", 1), (model.graph.output, "pred", 3)):
        (value,) = values
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert (value.name, dims) == (name, ["batch", channels, "height", "width"])
    model = open_core().read_model(files[".xml"])
    assert [model.input("image").partial_shape[axis].is_dynamic for axis in (0, 2, 3)] == [True] * 3
    assert model.output("pred").partial_shape[1].get_length() == 3
    assert torch.jit.load(files[".ts"])(image=torch.rand(1, 1, 16, 16)).shape == (1, 3, 16, 16)
    assert torch.export.load(files[".pt2"]).graph_signature.user_inputs == ("image",)


def test_openvino_keeps_its_weights_in_full_precision_and_bf16_is_close(exports):
    network, files, _ = exports
    constants = [op for op in open_core().read_model(files[".xml"]).get_ops() if op.get_type_name() == "Constant"]
    assert not [op for op in constants if op.get_element_type() == openvino.Type.f16]
    with warnings.catch_warnings(record=True) as caught:
        exported = ExportedNetwork(files[".xml"], "openvino", "bf16")
    has_bf16 = "BF16" in open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert [str(warning.message)[:12] for warning in caught] == ([] if has_bf16 else ["this CPU has"])
    assert find_largest_difference(network, exported) < 0.1


def test_slices_that_lie_across_memory_are_computed_as_they_are(exports):
    network, files, _ = exports
    image = torch.rand(32, 32, 2).permute(2, 0, 1)[:, None]
    assert not image.is_contiguous()
    with torch.no_grad():
        expected = network(image)
    for suffix, path in files.items():
        assert torch.allclose(ExportedNetwork(path, BACKEND_OF[suffix])(image), expected, atol=1e-4), suffix


def test_openvino_reports_to_nobody():
    import_package("openvino")
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__.endswith("telemetry_stub") and sys.modules["openvino_telemetry"] is None


# ---- a cache that is never stale


@pytest.fixture
def cached(exports, tmp_path) -> Callable[..., ExportedNetwork]:
    """A function that loads the tiny network by a backend from weights of its own."""
    network, _, _ = exports
    save_weights(network, tmp_path / "model.pt")
    (tmp_path / "metadata.json").write_text('{"name": "tiny"}')

    def load(backend: str = "torch", **options) -> ExportedNetwork:
        fresh = LiteUNet(**TINY)
        return load_exported(fresh, tmp_path / "model.pt", tmp_path / "metadata.json", backend, **options)

    return load


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_use_exports_beside_the_weights_and_the_second_does_not(backend, exports, cached, tmp_path):
    network, _, _ = exports
    assert find_largest_difference(network, cached(backend)) < 1e-4
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "exported").iterdir()}
    suffixes = [".bin", ".xml"] if backend == "openvino" else [BACKENDS[backend][0]]
    assert sorted(path.suffix for path in first) == suffixes
    assert find_largest_difference(network, cached(backend)) < 1e-4
    assert first == {path: path.stat().st_mtime_ns for path in (tmp_path / "exported").iterdir()}


@pytest.mark.parametrize(
    ("device", "exported", "expected"),
    [
        ("cpu", None, "openvino"),
        ("cuda:1", None, "torch"),
        (None, None, "torch" if torch.cuda.is_available() else "openvino"),
        (None, "network.onnx", "onnxruntime"),
        ("cuda", "network.xml", "openvino"),
        ("cpu", "network.pt2", "torch"),
    ],
)
def test_the_device_or_the_file_chooses_the_backend(device, exported, expected):
    assert choose_backend(device, exported) == expected


def test_new_weights_are_exported_anew(exports, cached, tmp_path):
    cached()
    network = build(TINY)
    with torch.no_grad():
        network.head.bias += 1
    save_weights(network, tmp_path / "model.pt")
    assert find_largest_difference(network, cached()) < 1e-4
    assert len(list((tmp_path / "exported").iterdir())) == 2


def test_a_file_that_is_told_is_used_when_it_holds_these_weights_and_refused_when_not(exports, cached, tmp_path):
    _, files, _ = exports
    assert cached(path=files[".ts"]).metadata["name"].startswith("Ä")
    network = build(TINY)
    with torch.no_grad():
        network.head.bias += 1
    save_weights(network, tmp_path / "model.pt")
    with pytest.raises(InputError, match="expected the weights of .*model.pt, found others"):
        cached(path=files[".ts"])
    assert not (tmp_path / "exported").exists()


# ---- wrong input


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def remove(path: Path) -> None:
    path.unlink()


def strip(path: Path) -> None:
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)


BAD_FILES = {
    "damaged .ts": (".ts", "torch", damage, "expected what export.py writes, found what torch refuses"),
    "damaged .pt2": (".pt2", "torch", damage, "found what torch refuses"),
    "damaged .onnx": (".onnx", "onnxruntime", damage, "found what onnxruntime refuses"),
    "damaged .xml": (".xml", "openvino", damage, "found what openvino refuses"),
    "without metadata": (".onnx", "onnxruntime", strip, "found what onnxruntime refuses"),
    "missing": (".onnx", "onnxruntime", remove, "expected an exported network, found no file"),
    "another backend's": (".onnx", "openvino", lambda path: None, "expected a file in .xml for backend openvino"),
}


@pytest.mark.parametrize(("suffix", "backend", "spoil", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line(suffix, backend, spoil, words, exports, tmp_path):
    path = tmp_path / f"model{suffix}"
    for part in (suffix, ".bin"):
        path.with_suffix(part).write_bytes(exports[1][suffix].with_name(f"model{part}").read_bytes())
    spoil(path)
    with pytest.raises(InputError, match=words) as caught:
        ExportedNetwork(path, backend)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "precision", "words"),
    [
        ("tensorrt", "f32", "backend: expected one of torch, onnxruntime, openvino, found tensorrt"),
        ("openvino", "int8", "precision: expected f32 or bf16 with openvino, found int8"),
        ("onnxruntime", "bf16", "precision: expected f32 with onnxruntime, found bf16"),
    ],
)
def test_a_backend_or_precision_that_is_not_there_is_one_line(backend, precision, words, cached, tmp_path):
    with pytest.raises(InputError, match=words):
        cached(backend, precision=precision)
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("backend", "package"),
    [("onnxruntime", "onnxruntime"), ("onnxruntime", "onnx"), ("onnxruntime", "onnxscript"), ("openvino", "openvino")],
)
def test_a_package_that_is_not_installed_is_one_line(backend, package, cached, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"{package}: expected this package to be installed, .* pip install {package}"):
        cached(backend)
    assert not (tmp_path / "exported").exists()


def test_missing_weights_and_another_class_are_one_line(cached, tmp_path):
    with pytest.raises(InputError, match="network_def: expected a LiteUNet, found Conv2d"):
        export_network(nn.Conv2d(1, 1, 1), tmp_path / "network.ts", {})
    (tmp_path / "model.pt").unlink()
    with pytest.raises(InputError, match="model.pt: expected a file to read, found: No such file"):
        cached()
    assert not (tmp_path / "network.ts").exists() and not (tmp_path / "exported").exists()


def test_an_unknown_format_and_a_bundle_without_weights_are_one_line(copy_bundle, tmp_path):
    bundle = copy_bundle()
    with pytest.raises(InputError, match="format: expected one of torchscript, pt2, onnx, openvino, found tflite"):
        export_bundle(bundle, "tflite", tmp_path / "out")
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (MONAI wraps it)
        export_bundle(bundle, "onnx", tmp_path / "out")
    assert "model.pt: no weights here" in str(find_input_error(caught.value))
    assert not (tmp_path / "out").exists()


def test_a_write_that_fails_leaves_the_old_files(exports, monkeypatch, tmp_path):
    contents = {".xml": b"graph", ".bin": b"weights"}
    monkeypatch.setitem(exporting.WRITERS, ".xml", lambda *_: contents)
    export_network(exports[0], tmp_path / "model.xml", {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before == {"model.xml": b"graph", "model.bin": b"weights"}
    contents[".xml"], contents[".bin"] = b"new", None  # None cannot be written: the disk is full by then
    monkeypatch.setattr(Path, "write_bytes", fail_on_none(Path.write_bytes))
    with pytest.raises(InputError, match="model.xml: expected to write it, found: No space left"):
        export_network(exports[0], tmp_path / "model.xml", {})
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def fail_on_none(write: Callable) -> Callable:
    def write_bytes(path: Path, content: bytes | None) -> int:
        if content is None:
            raise OSError(28, "No space left on device")
        return write(path, content)

    return write_bytes


# ---- segmentation


def test_a_backend_segments_as_pytorch_does_and_says_so(weighted_bundle, phantoms):
    case = find_cases(phantoms)[0]
    eager, other = Segmenter(weighted_bundle, "cpu"), Segmenter(weighted_bundle, backend="openvino")
    expected, found = (segmenter.segment(case).label_map for segmenter in (eager, other))
    assert len(np.unique(expected)) > 1 and (expected != found).mean() <= 1e-4
    assert nib.aff2axcodes(other.segment(case).affine) == ("I", "P", "L")
    assert eager.fingerprint(case) != other.fingerprint(case)
    assert "openvino 20" in other.describe(case)["Software"] and "openvino" not in eager.describe(case)["Software"]
    assert other.describe(case)["Parameters"] == eager.describe(case)["Parameters"] == "53,027"
    with pytest.raises(InputError, match="device: expected cpu, where exported networks run, found meta"):
        Segmenter(weighted_bundle, "meta", backend="openvino")


def test_a_signal_after_networks_in_openvino_are_gone_is_no_crash(tmp_path):
    """In a process of its own, which would crash as a whole; see `open_core`."""
    export_network(LiteUNet(channels=[2] * 5), tmp_path / "network.xml", {})
    code = f"""
import faulthandler, gc, signal, subprocess
from common.backends import ExportedNetwork
faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
first, second = (ExportedNetwork({str(tmp_path / "network.xml")!r}, "openvino") for _ in range(2))
del first
gc.collect()
del second
gc.collect()
subprocess.run(["true"])
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

"""Exported files: same numbers in every runtime, named, described, whole, and never of other weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from bundle_runs import BUNDLES, NAMES, SLICES, needs_slices, read_network
from exported_networks import BACKEND_OF, TINY, build, find_largest_difference
from monai.data import load_net_with_metadata

from common.app.segmenter import Segmenter
from common.bundle_folder import open_bundle
from common.errors import InputError, find_input_error
from common.kits.cases import find_cases
from common.networks.weights import save_weights
from common.runtimes import export
from common.runtimes.export import FORMATS, export_bundle, export_network
from common.runtimes.packages import import_package, open_core
from common.runtimes.run import ExportedNetwork, open_network
from zoo.variants import VARIANTS

openvino = import_package("openvino")
SD_UNET = "kits_sd_unet_segmentation"


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
        assert (weights[name] - exported[name]).abs().max() > 1e-4
        assert exported[name].mean().abs() < 1e-5 and abs(exported[name].std() - 1) < 1e-2
    network = open_network(open_bundle(sd_bundle), "torch")
    assert find_largest_difference(network, ExportedNetwork(path, "torch")) < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_slices
@pytest.mark.parametrize("name", NAMES)
def test_real_slices_get_the_label_maps_of_pytorch_in_every_format(name, tmp_path):
    """With the weights that ship: logits to 1e-4 at two shapes and two batch sizes, and the labels of every case."""
    bundle = BUNDLES / name
    eager = Segmenter(bundle, "cpu", backend="torch")
    others = {
        suffix: Segmenter(bundle, exported=export_bundle(bundle, format, tmp_path), precision="f32")
        for format, suffix in FORMATS.items()
    }
    for suffix, other in others.items():
        # SD-UNet's logits pass 30: in float32 PyTorch itself is further off its own float64
        relative = name == "kits_sd_unet_segmentation"
        assert find_largest_difference(eager.network, other.network, relative=relative) < 1e-4, suffix
    voxels, labelled, differing = 0, 0, dict.fromkeys(others, 0)
    for case in find_cases(SLICES):
        expected = eager.segment(case).label_map
        voxels, labelled = voxels + expected.size, labelled + np.count_nonzero(expected)
        for suffix, other in others.items():
            differing[suffix] += np.count_nonzero(other.segment(case).label_map != expected)
    assert labelled > 0.01 * voxels and max(differing.values()) <= 1e-4 * voxels, differing


@pytest.mark.parametrize("suffix", BACKEND_OF)
def test_a_size_that_does_not_divide_is_refused_and_spoils_nothing(suffix, exports):
    """OpenVINO answers such a size with what it computed before, and the next one wrongly."""
    network, files, _ = exports
    exported, image = ExportedNetwork(files[suffix], BACKEND_OF[suffix]), torch.rand(1, 1, 32, 32)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(exported(image), network(image), atol=1e-4, rtol=1e-4)
        with pytest.raises(InputError, match="height and width must be divisible by 2, got 41 x 40"):
            exported(torch.rand(1, 1, 41, 40))


# ---- what the files say of themselves


def test_every_file_carries_its_metadata(exports):
    _, files, metadata = exports
    metadata = metadata | {"size_divisor": 2}
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


# ---- wrong input


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
    monkeypatch.setitem(export.WRITERS, ".xml", lambda *_: contents)
    export_network(exports[0], tmp_path / "model.xml", {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before == {"model.xml": b"graph", "model.bin": b"weights"}
    contents[".xml"], contents[".bin"] = b"new", None  # None cannot be written: the disk is full by then
    monkeypatch.setattr(Path, "write_bytes", fail_on_none(Path.write_bytes))
    with pytest.raises(InputError, match="model.xml: expected to write it, found: No space left on device.$"):
        export_network(exports[0], tmp_path / "model.xml", {})
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def fail_on_none(write: Callable) -> Callable:
    def write_bytes(path: Path, content: bytes | None) -> int:
        if content is None:
            raise OSError(28, "No space left on device")
        return write(path, content)

    return write_bytes

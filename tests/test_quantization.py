"""int8 files: really int8, nearly the same function, calibrated with what inference sees, reporting to nobody."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, NAMES, POCKET, ROOT, SLICES, needs_slices

from common import quantization
from common.backends import ExportedNetwork
from common.errors import InputError, find_input_error
from common.exporting import export_bundle, export_network
from common.files import hash_file
from common.kits.cases import find_cases
from common.networks import LiteUNet
from common.quantization import KEPT_IN_F32, check_int8, collect_slices, export_int8, export_quantized, spread
from common.runtimes import has_bf16, import_package, open_core
from common.segmentation import Segmenter
from common.zoo.benchmarks.precision_dice import BF16, F32, INT8, measure_dice
from common.zoo.variants import VARIANTS

openvino = import_package("openvino")
CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")
# random weights, of SD-UNet above all, add noise up level by level: shallow, and a limit that tells wrong from noisy
LEVELS, NOISE = 2, 0.25


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: variant.title)
def exports(request, tmp_path_factory) -> tuple[Path, Path]:
    """A small network with the layers of a bundle's, random weights, as a file in float32 and in int8."""
    torch.manual_seed(1)
    arguments = LiteUNet(**request.param.network).arguments
    shape = {"channels": [64] * LEVELS, "num_convs": arguments["num_convs"][:LEVELS]}
    network = LiteUNet(**arguments | shape).eval()
    folder = tmp_path_factory.mktemp("exports")
    export_network(network, folder / "f32.xml", {})
    export_quantized(network, folder / "int8.xml", {"name": "small"}, make_slices(3, 64, 64)[:, None].numpy())
    return folder / "f32.xml", folder / "int8.xml"


def make_slices(count: int, height: int, width: int) -> torch.Tensor:
    """Random slices (count, 1, height, width) in [0, 1], always the same."""
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(0))


def trace(value: object, through: tuple[str, ...]) -> set[str]:
    """What computes a tensor, behind operations that only pass it on; of constants the type of their elements."""
    node = value.get_node()
    kind = node.get_type_name()
    if kind in through:
        inputs = node.input_values() if kind == "Concat" else node.input_values()[:1]
        return set().union(*(trace(source, through) for source in inputs))
    return {node.get_element_type().get_type_name() if kind == "Constant" else kind}


# ---- what is in the file


def test_convolutions_are_int8_but_the_ends_and_what_normalizes(exports):
    passing = ("Concat", "MaxPool", "Reshape", "Interpolate")
    operations = open_core().read_model(exports[1]).get_ordered_ops()
    convolutions = [op for op in operations if op.get_type_name() in CONVOLUTIONS]
    assert len(convolutions) >= 8
    for op in (convolutions[0], convolutions[-1]):
        assert trace(op.input_value(1), ("Reshape",)) == {"f32"}
    for op in convolutions[1:-1]:
        assert trace(op.input_value(0), passing) == {"FakeQuantize"}
        assert trace(op.input_value(1), ("Multiply", "Convert", "Reshape")) == {"i8"}
    others = [op for op in operations if op.get_type_name() in (*KEPT_IN_F32, "Relu")]
    assert len(others) >= 6
    for op in others:
        assert "FakeQuantize" not in set().union(*(trace(value, passing) for value in op.input_values()))


def test_any_batch_and_size_come_out_nearly_as_in_float32(exports):
    networks = [ExportedNetwork(path, "openvino") for path in exports]
    assert networks[1].metadata == {"name": "small", "precision": "int8", "size_divisor": 2 ** (LEVELS - 1)}
    for shape in ((1, 64, 48), (3, 64, 64), (2, 96, 128)):
        image = make_slices(*shape)
        expected, found = (network(image) for network in networks)
        assert found.shape == (shape[0], 3, *shape[1:])
        # not the same: it is another file
        assert 0 < (expected - found).norm() < NOISE * expected.norm()


# ---- a bundle


@pytest.fixture
def small_bundle(weighted_bundle) -> Path:
    """Pocket U-Net with untrained weights that sees slices at 48 x 48."""
    path = weighted_bundle / "configs/inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spatial_size": [48, 48]}))
    return weighted_bundle


def test_a_bundles_file_is_a_quarter_and_tells_what_it_was_calibrated_with(small_bundle, phantoms, tmp_path):
    path = export_int8(small_bundle, phantoms, tmp_path / "out")
    files = [tmp_path / f"out/{POCKET}_int8{suffix}" for suffix in (".bin", ".xml")]
    assert path == files[1] and sorted(path.parent.iterdir()) == files
    full = export_bundle(small_bundle, "openvino", tmp_path / "out")
    assert files[0].stat().st_size < 0.3 * full.with_suffix(".bin").stat().st_size

    slices, cases = collect_slices(small_bundle, phantoms)
    metadata = ExportedNetwork(path, "openvino").metadata
    sha256 = hashlib.sha256(b"".join(slices)).hexdigest()
    found = metadata.pop("calibration")
    assert found.pop("nncf") and found == {"cases": cases, "slices": 40, "sha256": sha256}
    assert metadata == ExportedNetwork(full, "openvino").metadata | {"precision": "int8"}

    again = export_int8(small_bundle, phantoms, tmp_path / "again")
    # the graph numbers its operations on through a process
    assert hash_file(files[0]) == hash_file(again.with_suffix(".bin"))
    image = torch.from_numpy(slices[20])
    assert torch.equal(*(ExportedNetwork(one, "openvino")(image) for one in (path, again)))


def test_it_segments_and_its_segmentations_are_told_apart(small_bundle, phantoms, tmp_path):
    case = find_cases(phantoms)[0]
    path = export_int8(small_bundle, phantoms, tmp_path)
    eager, full = Segmenter(small_bundle, "cpu"), Segmenter(small_bundle, backend="openvino")
    segmenter = Segmenter(small_bundle, backend="openvino", exported=path)
    expected, found = (one.segment(case).label_map for one in (eager, segmenter))
    assert len(np.unique(expected)) > 1 and (expected == found).mean() > 0.9
    precisions = [one.describe(case)["Precision"] for one in (eager, full, segmenter)]
    assert precisions == ["f32", "f32", "int8, the rest f32"]
    assert len({one.fingerprint(case) for one in (eager, full, segmenter)}) == 3
    other = export_int8(small_bundle, case["image"], tmp_path / "other")
    assert Segmenter(small_bundle, backend="openvino", exported=other).fingerprint(case) != segmenter.fingerprint(case)


def test_calibrated_is_with_what_the_network_sees_when_it_segments(small_bundle, phantoms):
    seen: list[np.ndarray] = []

    def watch(image: torch.Tensor) -> torch.Tensor:
        seen.extend(image[:, None].numpy())
        return image

    segmenter = Segmenter(small_bundle, "cpu", network=watch)
    for case in find_cases(phantoms):
        segmenter.segment(case)
    slices, cases = collect_slices(small_bundle, phantoms)
    assert cases == [case["case"] for case in find_cases(phantoms)]
    assert np.array_equal(slices, seen) and slices[0].shape == (1, 1, 48, 48) and slices[0].dtype == np.float32
    assert np.min(slices) == 0 and 0.5 < np.max(slices) <= 1


def test_of_many_cases_and_slices_some_are_taken_evenly(small_bundle, phantoms, monkeypatch):
    everything, names = collect_slices(small_bundle, phantoms)
    monkeypatch.setattr(quantization, "MAX_CASES", 2)
    monkeypatch.setattr(quantization, "MAX_SLICES", 6)
    slices, cases = collect_slices(small_bundle, phantoms)
    assert cases == [names[0], names[3]]
    assert np.array_equal(slices, [everything[i] for i in (0, 4, 9, 30, 34, 39)])
    assert spread("abc", 5) == ["a", "b", "c"] and spread("abcde", 3) == ["a", "c", "e"]


# ---- wrong input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("openvino", "int4", None), "precision: expected f32 or int8, found int4"),
        (("onnx", "int8", "scans"), "format: expected openvino, which alone has int8, found onnx"),
        (("openvino", "int8", None), "dataset_dir: expected images to calibrate int8 with, found none"),
        (("openvino", "f32", "scans"), "dataset_dir: expected none, as only int8 is calibrated, found scans"),
    ],
)
def test_arguments_that_do_not_fit_each_other_are_one_line(arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        check_int8(*arguments)
    assert "\n" not in str(caught.value)


def test_missing_images_weights_and_packages_are_one_line_and_nothing_is_written(
    copy_bundle, small_bundle, phantoms, tmp_path, monkeypatch
):
    empty, bad = tmp_path / "empty", tmp_path / "bad"
    for folder in (empty, bad):
        folder.mkdir()
    (bad / "scan.nii.gz").write_bytes(b"no image")
    output = tmp_path / "out"
    for folder, words in {empty: "expected case_", bad: "scan.nii.gz", tmp_path / "none": "found none"}.items():
        with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (MONAI wraps it)
            export_int8(small_bundle, folder, output)
        message = str(find_input_error(caught.value))
        assert words in message and str(folder) in message and "\n" not in message
    (small_bundle / "models/model.pt").unlink()
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011 (MONAI wraps it)
        export_int8(small_bundle, phantoms, output)
    assert "model.pt: no weights here" in str(find_input_error(caught.value))
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(InputError, match="nncf: expected this package to be installed, .* pip install nncf"):
        export_int8(small_bundle, phantoms, output)
    assert not output.exists()


# ---- nobody is told


WATCHED = """
import socket, sys
tried = []
def refuse(*arguments, **options):
    tried.append(arguments)
    raise OSError("refused by the test")
socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
import numpy as np, torch
from pathlib import Path
from common.networks import LiteUNet
from common.quantization import export_quantized
network = LiteUNet(channels=[4, 8], num_convs=[1, 1]).eval()
export_quantized(network, Path(sys.argv[1]), {}, np.zeros((2, 1, 1, 16, 16), np.float32))
from nncf.telemetry import decorator
assert "nncf.openvino" in sys.modules and sys.modules["openvino_telemetry"] is None
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
assert type(decorator.telemetry).__name__ == "MagicMock", decorator.telemetry
assert not tried, tried
"""


def test_quantizing_prints_nothing_and_reports_to_nobody(tmp_path):
    # in a process of its own: in one that has pytest, NNCF switches its reports off by itself
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", WATCHED, tmp_path / "network.xml"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # where openvino_telemetry keeps consent and identity
    assert (tmp_path / "network.xml").is_file() and not (tmp_path / "intel").exists()


# ---- what it costs


@pytest.mark.slow
@needs_slices
@pytest.mark.parametrize("name", NAMES)
def test_dice_of_the_real_slices_changes_by_at_most_0_002(name):
    dice = measure_dice(BUNDLES / name, SLICES)
    assert list(dice) == [F32, *([BF16] if has_bf16() else []), INT8]
    assert min(dice[F32].values()) > 0.3
    for precision in list(dice)[1:]:
        assert dice[precision] != dice[F32]
        assert dice[precision] == pytest.approx(dice[F32], abs=0.002)

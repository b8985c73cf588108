"""int8 files of networks: really int8, nearly the same function, reporting to nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bundle_runs import ROOT

from common.networks import LiteUNet
from common.runtimes.export import export_network
from common.runtimes.packages import import_package, open_core
from common.runtimes.quantize import KEPT_IN_F32, export_quantized
from common.runtimes.run import ExportedNetwork
from zoo.variants import VARIANTS

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
from common.runtimes.quantize import export_quantized
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

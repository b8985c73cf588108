"""Networks run from exported files: never of other weights, and a bad file, backend or package is one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from bundle_runs import ROOT
from exported_networks import BACKEND_OF, TINY, build, find_largest_difference
from torch import nn

from common.app.segmenter import Segmenter
from common.errors import InputError
from common.kits.cases import find_cases
from common.networks import LiteUNet
from common.networks.weights import save_weights
from common.runtimes.export import export_network
from common.runtimes.packages import import_package
from common.runtimes.run import BACKENDS, ExportedNetwork, choose_backend, load_exported


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
    "damaged .ts": (".ts", "torch", damage, "expected what kits-lite export writes, found what torch refuses"),
    "damaged .pt2": (".pt2", "torch", damage, "found what torch refuses"),
    "damaged .onnx": (".onnx", "onnxruntime", damage, "found what onnxruntime refuses"),
    "damaged .xml": (".xml", "openvino", damage, "found what openvino refuses"),
    "without metadata": (".onnx", "onnxruntime", strip, "found what onnxruntime refuses"),
    "missing": (".onnx", "onnxruntime", remove, "expected an exported network, found no file"),
    "another backend's": (".xml", "onnxruntime", lambda path: None, "expected a file in .onnx for backend onnxruntime"),
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


def test_where_the_weights_lie_read_only_the_export_goes_to_the_users_cache(exports, cached, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "exported").write_text("in the way, for root too")
    network, _, _ = exports
    for _ in range(2):
        assert find_largest_difference(network, cached("onnxruntime")) < 1e-4
        (written,) = (tmp_path / "cache/kits-lite/exported").iterdir()
        assert written.suffix == ".onnx"


def test_where_no_folder_takes_the_export_it_is_one_line_with_the_way_out(cached, tmp_path, monkeypatch):
    for name in ("exported", "cache"):
        (tmp_path / name).write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="expected to write it, found: .*; backend torch needs no file") as caught:
        cached("openvino")
    assert "\n" not in str(caught.value)


def test_missing_weights_and_another_class_are_one_line(cached, tmp_path):
    with pytest.raises(InputError, match="network_def: expected a LiteUNet, found Conv2d"):
        export_network(nn.Conv2d(1, 1, 1), tmp_path / "network.ts", {})
    (tmp_path / "model.pt").unlink()
    with pytest.raises(InputError, match="model.pt: no weights here; train first"):
        cached()
    assert not (tmp_path / "network.ts").exists() and not (tmp_path / "exported").exists()


# ---- segmentation


def test_a_backend_segments_as_pytorch_does_and_says_so(weighted_bundle, phantoms):
    case = find_cases(phantoms)[0]
    eager, other = Segmenter(weighted_bundle, "cpu", backend="torch"), Segmenter(weighted_bundle, precision="f32")
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
from common.runtimes.run import ExportedNetwork
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

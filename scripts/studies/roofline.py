"""
How near the networks come to what the machine can do at best: operations and bytes a second, of measured peaks.

    roof = max(FLOPs / peak of a matrix product, bytes / peak of a copy)

Bytes are those of every layer's tensor, written once and read once by every layer that needs it, and of the weights,
once a batch: what moves where no cache holds a tensor. Where caches do, a network can be faster than its roof.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from common.partitioning.layers import Layer, measure_layers
from common.runtimes.export import export_network
from common.runtimes.packages import has_bf16
from common.runtimes.plain import PlainNetwork
from zoo.rendering import BUNDLES
from zoo.variants import VARIANTS, Variant

from .speed import SLICE, build

SIDE, COPIED = 4096, 2**29  # of the matrices; bytes, more than any cache holds
BATCH = 4  # slices, as the bundles have it
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def measure_peaks(rounds: int = 7) -> dict[str, float]:
    """Operations a second of a matrix product, in what the CPU computes in, and bytes a second of a copy, both ways."""
    peaks = {}
    for name in list_precisions():
        left, right = torch.rand(2, SIDE, SIDE).to(TYPES[name])
        peaks[name] = 2 * SIDE**3 / min(_time(lambda: left @ right, rounds))  # noqa: B023
    source, target = torch.zeros(2, COPIED, dtype=torch.uint8)
    return peaks | {"copy": 2 * COPIED / min(_time(lambda: target.copy_(source), rounds))}


def list_precisions() -> list[str]:
    """What the CPU computes in; emulated bf16 would take a quarter of an hour, and says nothing."""
    return list(TYPES) if has_bf16() else ["f32"]


def measure_networks(rounds: int = 5) -> list[dict[str, object]]:
    """A row for every bundle's network in OpenVINO, f32 and, where the CPU computes in it, bf16; see `rate`."""
    peaks, rows = measure_peaks(), []
    with tempfile.TemporaryDirectory() as folder:
        for variant in VARIANTS:
            torch.manual_seed(0)
            network, path = build(variant), Path(folder) / f"{variant.name}.xml"
            export_network(network, path, {"name": variant.title})
            layers = measure_layers(network, SLICE)
            for precision in list_precisions():
                seconds = time_slice(PlainNetwork(path, "openvino", precision), rounds)
                moved = count_bytes(layers, precision)
                rows.append({"network": variant.title, "precision": precision})
                rows[-1] |= rate(seconds, _read_flops(variant), moved, peaks[precision], peaks["copy"])
    return rows


def time_slice(network: PlainNetwork, rounds: int) -> float:
    """Seconds a slice, the median, of batches side by side in as many threads as the network takes, as in a volume."""
    images = [np.random.default_rng(0).random((BATCH, *SLICE[1:]), np.float32)] * (4 * network.workers)
    with ThreadPoolExecutor(network.workers) as pool:
        taken = _time(lambda: list(pool.map(network.compute, images)), rounds)
    return statistics.median(taken) / (BATCH * len(images))


def count_bytes(layers: list[Layer], precision: str) -> float:
    """Bytes that move for one slice, see above."""
    numbers = sum(layer.activation_bytes for layer in layers)
    numbers += sum(layers[source].activation_bytes for layer in layers for source in layer.sources)
    weights = sum(layer.parameters for layer in layers) * 4 / BATCH
    return (numbers + weights) * TYPES[precision].itemsize / 4


def rate(seconds: float, flops: float, moved: float, flops_per_s: float, bytes_per_s: float) -> dict[str, float]:
    """What a slice took, the rates that this is, their shares of the peaks, and how many times the roof it took."""
    roof = max(flops / flops_per_s, moved / bytes_per_s)
    return {
        "ms": 1e3 * seconds,
        "GFLOP/s": flops / seconds / 1e9,
        "GFLOP/s, % of peak": 100 * flops / seconds / flops_per_s,
        "GB/s": moved / seconds / 1e9,
        "GB/s, % of peak": 100 * moved / seconds / bytes_per_s,
        "x roof": seconds / roof,
    }


def _read_flops(variant: Variant) -> int:
    return json.loads((BUNDLES / variant.name / "configs/metadata.json").read_text())["complexity"]["flops"]


def _time(call: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of every call but the first."""
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken[1:]

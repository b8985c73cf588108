"""How fast the networks are: milliseconds a slice and a volume by every backend, all taking turns in one run."""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn
from tqdm import tqdm

from common.kits.inferer import AxialInferer
from common.networks import LiteUNet
from common.runtimes.export import export_network
from common.runtimes.packages import has_bf16
from common.runtimes.quantize import INT8_SUFFIX, export_quantized
from common.runtimes.run import ExportedNetwork
from zoo.variants import BASELINES, VARIANTS, Variant

Forward = Callable[[torch.Tensor], torch.Tensor]
OPENVINO, BF16 = "OpenVINO f32", "OpenVINO bf16"
# what runs, and by which end of the file's name, backend and precision of `common.runtimes.run`
EXPORTED = {
    "ONNX Runtime": (".onnx", "onnxruntime", "f32"),
    OPENVINO: (".xml", "openvino", "f32"),
    BF16: (".xml", "openvino", "bf16"),
    "OpenVINO int8": (INT8_SUFFIX, "openvino", "f32"),
}
EAGER, CHANNELS_LAST = "eager", "eager channels_last"
BACKENDS = (EAGER, CHANNELS_LAST, *EXPORTED)
REFERENCE = (VARIANTS[0].name, EAGER)
SLICE = (1, 1, 256, 256)
ROWS, COLUMNS, SLICES_AT_ONCE = 512, 512, 4
# what the machine can do at best: a matrix product, and a copy of what no cache holds
SIDE, COPIED = 2048, 2**28
# floating-point operations; bytes read and written
WORK = {"GFLOP/s": 2 * SIDE**3, "GB/s": 2 * COPIED}


def measure(rounds: int, volume_rounds: int, volume_slices: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """
    Time every network with every backend; within a round all take turns, so that load hits all alike.

    Weights, and what int8 is calibrated with, are random: they do not matter for speed.

    Args:
        rounds: of one slice of 256 x 256, each right after another that does not count.
        volume_rounds, volume_slices: of a volume of 512 x 512 slices, resized to 256 x 256 and back; not in bf16 where
            the CPU has none.

    Returns:
        a row for every network and backend, medians and spread in milliseconds, nan where not measured; GFLOP/s of a
        matrix product and GB/s of a copy on the same machine in the same run.
    """
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        forwards = {
            (row.name, backend): forward
            for row in (*VARIANTS, *BASELINES)
            for backend, forward in open_backends(row, Path(folder)).items()
        }
        image, volume = torch.rand(SLICE), torch.randint(0, 256, (1, 1, ROWS, COLUMNS, volume_slices)).byte()
        inferer = AxialInferer(SLICE[2:], batch_size=SLICES_AT_ONCE)
        matrix, source, target = torch.rand(SIDE, SIDE), *torch.zeros(2, COPIED, dtype=torch.uint8)
        probes = {"GFLOP/s": lambda _: matrix @ matrix, "GB/s": lambda _: target.copy_(source)}
        slice_ms = take_turns({**forwards, **probes}, lambda run: run(image), rounds)
        emulated = () if has_bf16() else (BF16,)  # takes minutes, to show what the slice shows
        natives = {key: forward for key, forward in forwards.items() if key[1] not in emulated}
        volume_ms = take_turns(natives, lambda run: inferer(volume, run), volume_rounds, warm=False)
    machine = {name: round(work / statistics.median(slice_ms[name]) / 1e6, 1) for name, work in WORK.items()}
    rows = []
    for key in forwards:
        row = {"network": key[0], "backend": key[1]}
        for name, taken in (("slice", slice_ms), ("volume", volume_ms)):
            median = statistics.median(taken.get(key) or [math.nan])
            row |= {f"{name}_ms": round(median, 2), f"{name}_spread_ms": spread(taken.get(key, []))}
            row[f"{name}_times_faster"] = round(statistics.median(taken[REFERENCE] or [math.nan]) / median, 2)
        rows.append(row)
    return rows, machine


def open_backends(row: Variant, folder: Path) -> dict[str, Forward]:
    """A network with random weights, ready to run by every backend."""
    network = build(row)
    forwards: dict[str, Forward] = {EAGER: network}
    for name, (suffix, backend, precision) in EXPORTED.items():
        path = folder / f"{row.name}{suffix}"
        if suffix == INT8_SUFFIX:
            export_quantized(network, path, {"name": row.title}, torch.rand(2, *SLICE).numpy())
        elif not path.is_file():
            export_network(network, path, {"name": row.title})
        forwards[name] = ExportedNetwork(path, backend, precision, workers=1)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    forwards[CHANNELS_LAST] = lambda image: last(image.to(memory_format=torch.channels_last))
    return {backend: forwards[backend] for backend in BACKENDS}


def build(row: Variant) -> nn.Module:
    """The network of a bundle or a baseline, untrained, for inference."""
    if "_target_" not in row.network:
        return LiteUNet(**row.network).eval()
    network = ConfigParser({"network": row.network}).get_parsed_content("network").eval()
    network.size_divisor = 64  # what the deeper of the baselines needs
    return network


def take_turns(
    forwards: Mapping[Any, Forward], call: Callable[[Forward], object], rounds: int, warm: bool = True
) -> dict[Any, list]:
    """
    Milliseconds of every call, round by round.

    Args:
        warm: call twice a turn, and time the second: as in a volume, where slice follows slice.
    """
    taken: dict[Any, list[float]] = {key: [] for key in forwards}
    for _ in tqdm(range(rounds), "rounds"):
        for key, forward in forwards.items():
            if warm:
                call(forward)
            start = time.perf_counter()
            call(forward)
            taken[key].append(1000 * (time.perf_counter() - start))
    return taken


def spread(taken: Sequence[float]) -> float:
    """Milliseconds between the first and the third quartile, nan of fewer than two."""
    low, _, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else [math.nan] * 3
    return round(high - low, 2)

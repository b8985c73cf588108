"""Measures on this machine what `partition_model` foretells: time, memory and traffic of a network run apart."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist

from common.bundle_folder import build_on_meta, open_bundle, read_slice_size
from common.networks import LiteUNet, load_weights
from common.networks.weights import save_weights
from common.partitioning.algorithms import partition
from common.partitioning.distributed import DistributedNetwork, PipelinedNetwork, SharedNetwork
from common.partitioning.layers import measure_layers
from common.partitioning.processes import gather, join_processes
from common.partitioning.sub_models import IMAGE, split_network

SMALL, LARGE = 2**8, 2**22  # floats of a message, for latency and for bandwidth
PROGRAM = """
import sys
from studies.partition import measure_rank
measure_rank(*sys.argv[1:])
"""


@dataclass(frozen=True)
class Setting:
    """
    What is run.

    Args:
        bundle: whose network, with untrained weights, which cost the same.
        slices: at the bundle's size, in its batches.
        micro_batches: batches in the pipeline at once.
        repeats: after one that warms up.
    """

    bundle: str
    slices: int = 32
    micro_batches: int = 4
    repeats: int = 5


def run_processes(kind: str, processes: int, setting: Setting, folder: Path) -> dict[str, object]:
    """
    Measure in so many processes of one thread each, started by torchrun.

    Args:
        kind: `"pipeline"`, `"slices"` or `"cases"`, see `partition_model`; `"layers"`, the seconds of every layer;
            `"link"`, the seconds of a small and a large message between two processes.
        folder: for weights and results.
    """
    weights, result = folder / "model.pt", folder / "result.json"
    if not weights.is_file():
        save_weights(LiteUNet(**build_on_meta(setting.bundle).arguments), weights)
    launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--no-python"]
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, kind, json.dumps(asdict(setting)), str(folder)]
    path = os.pathsep.join(map(str, Path(__file__).parents[1:3]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    subprocess.run([*launcher, f"--nproc_per_node={processes}", *program], check=True, env=environment)
    return json.loads(result.read_text())


def measure_rank(kind: str, setting: str, folder: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    with join_processes(Path(folder)) as (rank, _):
        measured = _measure(kind, Setting(**json.loads(setting)), Path(folder) / "model.pt")
        if rank == 0:
            (Path(folder) / "result.json").write_text(json.dumps(measured))


def _measure(kind: str, setting: Setting, weights: Path) -> dict[str, object]:
    rank, world, device = dist.get_rank(), dist.get_world_size(), torch.device("cpu")
    network, config = build_on_meta(setting.bundle), open_bundle(setting.bundle)
    batch_size = config["batch_size"]
    slices = torch.rand(setting.slices, network.arguments["in_channels"], *read_slice_size(setting.bundle))
    if kind == "link":
        return {"seconds": [measure_message(floats, 4 * setting.repeats) for floats in (SMALL, LARGE)]}
    if kind == "pipeline":
        starts = partition(measure_layers(network, (1, *slices.shape[1:])), max_partitions=world)
        pipeline = PipelinedNetwork(network, starts, weights, batch_size, device)
        return measure_distributed(pipeline, slices, setting.micro_batches * batch_size, setting.repeats)
    whole = load_weights(network.to_empty(device=device), weights)
    if kind == "slices":
        shared = SharedNetwork(whole, batch_size, device)
        return measure_distributed(shared, slices, world * batch_size, setting.repeats)
    share = slices[rank * len(slices) // world : (rank + 1) * len(slices) // world]
    if kind == "cases":
        return _summarize([measure_together(whole, share, batch_size) for _ in range(setting.repeats + 1)])
    return {"seconds": measure_layer_seconds(whole, slices[:batch_size], setting.repeats)}


def measure_distributed(
    network: DistributedNetwork, slices: torch.Tensor, in_flight: int, repeats: int
) -> dict[str, object]:
    """Rank 0 gives slices to a network that all ranks compute, so many at once."""
    if network.rank == 0:
        return _summarize([measure_together(network, slices, in_flight, network) for _ in range(repeats + 1)])
    return _summarize([measure_together(lambda _: network.serve(), slices[:1], 1, network) for _ in range(repeats + 1)])


def measure_together(
    network: Callable[[torch.Tensor], object],
    slices: torch.Tensor,
    in_flight: int,
    shared: DistributedNetwork | None = None,
) -> tuple[float, int, int]:
    """Seconds until the last process is done; bytes that this rank received; bytes that passed the loopback device."""
    dist.barrier()
    start = time.perf_counter()
    received, loopback = shared.bytes_received if shared else 0, read_loopback_bytes()
    with torch.no_grad():
        for batch in slices.split(in_flight):
            network(batch)
    if shared and shared.rank == 0:
        shared.dismiss()
    dist.barrier()
    received = (shared.bytes_received if shared else 0) - received
    return time.perf_counter() - start, received, read_loopback_bytes() - loopback


def _summarize(runs: Sequence[tuple[float, int, int]]) -> dict[str, object]:
    seconds, received, loopback = zip(*runs[1:])
    return {
        "seconds": seconds,
        "peak_bytes": gather(read_peak_bytes()),
        "received_bytes": sum(gather(received[-1])),
        "loopback_bytes": median(loopback),
    }


def measure_message(floats: int, repeats: int) -> float:
    """Median seconds for one message between two ranks, from there and back."""
    message, seconds, other = torch.zeros(floats), [], 1 - dist.get_rank()
    for _ in range(repeats):
        dist.barrier()
        start = time.perf_counter()
        for sender in (0, 1):
            (dist.recv if sender == other else dist.send)(message, other)
        seconds.append((time.perf_counter() - start) / 2)
    return median(seconds)


def measure_layer_seconds(network: LiteUNet, slices: torch.Tensor, repeats: int) -> list[float]:
    """Median seconds of every layer for one batch, each run as a sub-model of its own."""
    sub_models = split_network(network, range(len(measure_layers(network, (1, *slices.shape[1:])))))
    seconds: list[list[float]] = [[] for _ in sub_models]
    with torch.no_grad():
        for _ in range(repeats + 1):
            tensors = {IMAGE: slices}
            for times, sub_model in zip(seconds, sub_models):
                inputs = [tensors[name] for name in sub_model.input_names]
                start = time.perf_counter()
                given = sub_model(*inputs)
                times.append(time.perf_counter() - start)
                tensors |= zip(sub_model.output_names, (given,) if isinstance(given, torch.Tensor) else given)
    return [median(times[1:]) for times in seconds]


def read_peak_bytes() -> int:
    """The most memory that this process ever held; not ru_maxrss, which starts from its parent's."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def read_loopback_bytes() -> int:
    """Bytes that the loopback device has carried since the machine started, headers and all."""
    return int(re.search(r"\blo:\s*(\d+)", Path("/proc/net/dev").read_text())[1])

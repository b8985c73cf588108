"""
How long a network takes apart, from how long its layers take together and what a link carries.

    pipeline: a sub-model takes micro-batch m when it is done with m - 1 and those it reads from are done with m; then
        its tensors come over its link, which is not hidden behind its own computing: gloo moves a tensor when the
        receiver asks for it, and GPipe's schedule asks when the sub-model is free. Last, all logits go to rank 0.
    data, slices: rank 0 sends every other rank a batch, computes one itself, and takes the logits one by one.
    data, cases: every rank has its own cases, and nothing is sent.

Left out: reading, resizing and writing, start-up, and everything that slows a process down because another one runs
beside it, save that processes share `cores`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from common.partitioning.algorithms import pair_up
from common.partitioning.layers import Layer


@dataclass(frozen=True)
class Link:
    """What connects two machines, the same in both directions."""

    bytes_per_s: float
    latency_s: float

    def carry(self, size: float) -> float:
        """Seconds for one message of so many bytes."""
        return self.latency_s + size / self.bytes_per_s


@dataclass(frozen=True)
class Work:
    """
    A network and what it has to do.

    Args:
        layers: for a batch of one slice.
        seconds: of every layer, for one batch of `batch_size` slices on one core.
        batches: so many of those.
    """

    layers: Sequence[Layer]
    seconds: Sequence[float]
    batch_size: int
    batches: int

    @property
    def image_bytes(self) -> int:
        """Of one batch of images."""
        return self.layers[0].activation_bytes * self.batch_size

    @property
    def logits_bytes(self) -> int:
        """Of one batch of logits."""
        return self.layers[-1].activation_bytes * self.batch_size


def calibrate(
    layers: Sequence[Layer], seconds: Sequence[float], batch_size: int, slices: int, measured: Sequence[float]
) -> Work:
    """
    What the layers take of the time that the whole network was measured to take.

    Args:
        seconds: of every layer run by itself, for one batch.
        measured: seconds of the network for all slices in one process, once or repeatedly.
    """
    batches = math.ceil(slices / batch_size)
    factor = median(measured) / (batches * sum(seconds))
    return Work(layers, [factor * layer for layer in seconds], batch_size, batches)


def predict_alone(work: Work) -> float:
    """Seconds in one process."""
    return sum(work.seconds) * work.batches


def predict_pipeline(
    work: Work, starts: Sequence[int], link: Link, micro_batches: int, cores: float = math.inf
) -> float:
    """
    Seconds in pipeline mode.

    Args:
        starts: of the sub-models, see `partition`.
        micro_batches: batches in the pipeline at once; then it runs empty and begins again.
        cores: that all processes share; by default each has its own.
    """
    parts = pair_up(starts, len(work.layers))
    stretch = max(1.0, len(parts) / cores)
    computing = [stretch * sum(work.seconds[start:stop]) for start, stop in parts]
    reads = [_find_sources(work.layers, starts, start, stop) for start, stop in parts]
    total, left = 0.0, work.batches
    while left:
        count = min(micro_batches, left)
        done = [0.0] * len(parts)
        for _ in range(count):
            for part, (seconds, sources) in enumerate(zip(computing, reads)):
                free = max([done[part], *(done[source] for source, _ in sources)])
                size = work.batch_size * sum(size for _, size in sources)
                done[part] = free + (link.carry(size) if size else 0.0) + seconds
        total += done[-1] + (link.carry(count * work.logits_bytes) if len(parts) > 1 else 0.0)
        left -= count
    return total


def _find_sources(layers: Sequence[Layer], starts: Sequence[int], start: int, stop: int) -> list[tuple[int, int]]:
    """(sub-model, bytes for one slice) of every tensor that layers start to stop need from the sub-models before."""
    read = sorted({source for layer in layers[start:stop] for source in layer.sources if source < start})
    return [(sum(first <= source for first in starts) - 1, layers[source].activation_bytes) for source in read]


def count_pipeline_bytes(work: Work, starts: Sequence[int]) -> int:
    """Bytes that all ranks together receive in pipeline mode."""
    if len(starts) == 1:
        return 0
    sources = [_find_sources(work.layers, starts, start, stop) for start, stop in pair_up(starts, len(work.layers))]
    cuts = work.batch_size * sum(size for part in sources for _, size in part)
    return work.batches * (cuts + work.logits_bytes)


def predict_slices(work: Work, processes: int, link: Link, cores: float = math.inf) -> float:
    """Seconds in data mode, when the processes share the slices of a case."""
    there, back = link.carry(work.image_bytes), link.carry(work.logits_bytes)
    total, left = 0.0, work.batches
    while left:
        busy = min(processes, left)
        total += (busy - 1) * (there + back) + max(1.0, busy / cores) * sum(work.seconds)
        left -= busy
    return total


def count_slices_bytes(work: Work, processes: int) -> int:
    """Bytes that all ranks together receive in data mode, when the processes share the slices of a case."""
    away = work.batches - math.ceil(work.batches / processes)
    return away * (work.image_bytes + work.logits_bytes)


def predict_cases(work: Work, processes: int, cores: float = math.inf) -> float:
    """Seconds in data mode, when every process has cases of its own and all have as many slices."""
    return max(1.0, processes / cores) * predict_alone(work) / processes


def predict_cohort(
    scans: int, machines: int, cores: int, core_s: float, scan_bytes: float, storage: Link
) -> tuple[float, float]:
    """
    Seconds that many scans take when every core takes whole ones, file to file: of computing, and of reading them from
    the storage that all machines share. One goes on during the other, so the longer is what it takes.

    Args:
        cores: of each machine.
        core_s: seconds of one core for one scan.
    """
    return math.ceil(scans / (machines * cores)) * core_s, scans * scan_bytes / storage.bytes_per_s

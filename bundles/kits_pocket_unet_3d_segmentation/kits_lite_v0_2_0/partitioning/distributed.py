"""
A bundle's network run apart over several processes, behind the plain call `network(slices)` of rank 0.

    pipeline: every rank holds one sub-model of a partition; micro-batches of slices follow each other through them
        (torch.distributed.pipelining, GPipe's schedule), and a skip goes straight to the rank that needs it.
    data: every rank holds the whole network and computes its share of the batches.

Either way rank 0 reads, resizes and writes, and the others `serve`. The network sees the very batches of slices that it
sees in a single process, the short last one of a volume too, and tensors keep their memory layout: on a CPU the logits
are the same to the bit.
"""

from __future__ import annotations

import copy
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import fx, nn
from torch.distributed.pipelining import ScheduleGPipe, build_stage
from torch.distributed.pipelining._utils import PipeInfo  # what Pipe.info() gives and build_stage takes

from ..errors import InputError
from .sub_models import IMAGE, LOGITS, SubModel, load_sub_model, run_sub_models, split_network


class DistributedNetwork(ABC):
    """
    A network that all processes compute together.

    Args:
        network: what is computed; its kernels' layout is that of all activations.
        batch_size: slices per forward pass of the network.
        device: of this rank.
    """

    def __init__(self, network: nn.Module, batch_size: int, device: torch.device) -> None:
        self.batch_size, self.device = batch_size, device
        self.channels_last = is_channels_last(network)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.bytes_received = 0

    def __call__(self, slices: torch.Tensor) -> torch.Tensor:
        """Rank 0: compute the logits (B, out_channels, H, W) of slices (B, in_channels, H, W) with the others' help."""
        self._announce(slices.shape)
        with torch.no_grad():
            return self._run(slices, tuple(slices.shape))

    def serve(self) -> None:
        """The other ranks: help until rank 0 is done."""
        with torch.no_grad():
            while (shape := self._announce())[0]:
                self._run(None, shape)

    def dismiss(self) -> None:
        """Rank 0: be done."""
        self._announce((0, 0, 0, 0))

    def _announce(self, shape: Sequence[int] = (0, 0, 0, 0)) -> tuple[int, ...]:
        """The shape that rank 0 gives, in every rank."""
        header = torch.tensor(shape)
        dist.broadcast(header, 0)
        return tuple(header.tolist())

    @abstractmethod
    def _run(self, slices: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor | None:
        """The logits of slices of some shape, in rank 0; the others have no slices and give none."""

    def _send(self, tensor: torch.Tensor, rank: int) -> None:
        dist.send(to_wire(tensor, self.channels_last), rank)

    def _receive(self, shape: Sequence[int], rank: int) -> torch.Tensor:
        wire = to_wire(torch.empty(tuple(shape), device=self.device), self.channels_last)
        dist.recv(wire, rank)
        self.bytes_received += wire.nbytes
        return from_wire(wire, self.channels_last)


class SharedNetwork(DistributedNetwork):
    """
    Data mode: one batch of slices to every rank, and so on; the logits come back.

    Args:
        network: the whole one, on the device.
    """

    def __init__(self, network: nn.Module, batch_size: int, device: torch.device) -> None:
        super().__init__(network, batch_size, device)
        self.network = network

    def _run(self, slices: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor | None:
        sizes = [min(self.batch_size, shape[0] - start) for start in range(0, shape[0], self.batch_size)]
        if slices is None:
            for size in sizes[self.rank :: self.world]:
                self._send(self.network(self._receive((size, *shape[1:]), 0)), 0)
            return None
        logits: list[torch.Tensor] = []
        for first in range(0, len(sizes), self.world):
            batches = slices.split(self.batch_size)[first : first + self.world]
            for rank, batch in enumerate(batches[1:], 1):
                self._send(batch, rank)
            logits.append(self.network(batches[0]))
            for rank, batch in enumerate(batches[1:], 1):
                logits.append(self._receive((len(batch), *logits[0].shape[1:]), rank))
        return torch.cat(logits)


class PipelinedNetwork(DistributedNetwork):
    """
    Pipeline mode: all full batches of slices follow each other through the sub-models, then the short last one.

    Args:
        network: the whole one, on the meta device; only this rank's sub-model gets memory.
        starts: where its sub-models begin, one a rank, see `partition`.
        weights: state dict of the network; only this rank's part is kept, and read where the file allows.

    Raises:
        InputError: when there are more or fewer sub-models than ranks, or the weights are missing or another network's.
    """

    def __init__(
        self, network: nn.Module, starts: Sequence[int], weights: Path, batch_size: int, device: torch.device
    ) -> None:
        super().__init__(network, batch_size, device)
        if len(starts) != self.world:
            raise InputError(f"processes: expected one a sub-model, {len(starts)}, found {self.world}.")
        self.sub_models = split_network(network, starts)
        self.sub_model = copy.deepcopy(self.sub_models[self.rank]).to_empty(device=device)
        load_sub_model(self.sub_model, network, weights)
        self.plan: tuple[int, ...] = ()

    def _run(self, slices: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor | None:
        whole = shape[0] // self.batch_size
        logits = []
        for start, count, size in (
            (0, whole, self.batch_size),
            (whole * self.batch_size, 1, shape[0] % self.batch_size),
        ):
            if count * size:
                run = None if slices is None else slices[start : start + count * size]
                logits.append(self._step(run, count, (size, *shape[1:])))
        return None if slices is None else torch.cat(logits)

    def _step(self, slices: torch.Tensor | None, count: int, shape: tuple[int, ...]) -> torch.Tensor | None:
        """One pass of so many micro-batches of a shape through the pipeline."""
        if self.plan != (count, *shape):
            # receive buffers are as many and as large as the micro-batches: the old ones go before the new ones come
            self.pipe = self.schedule = None
            self._connect(count, shape)
            self.plan = (count, *shape)
        given = self.schedule.step(*([] if slices is None else [slices]))
        received = [info.buffer for infos in self.pipe.args_recv_info.values() for info in infos]
        self.bytes_received += sum(buffer.nbytes for buffer in received if buffer is not None)
        # nothing of a pass is needed in the next
        self.pipe.clear_runtime_states()
        if given is not None and self.rank:
            dist.send(given, 0)
        if slices is None:
            return None
        if given is not None:
            return from_wire(given, self.channels_last)
        return self._receive((len(slices), *self.logits_shape), self.world - 1)

    def _connect(self, count: int, shape: tuple[int, ...]) -> None:
        tensors = run_sub_models(self.sub_models, torch.empty(shape, device="meta"))
        self.logits_shape = tensors[LOGITS].shape[1:]
        module = wire_sub_model(self.sub_model, tensors, self.channels_last, is_first=self.rank == 0)
        info = PipeInfo(draw_pipeline(self.sub_models), self.world, has_loss_and_backward=False)
        self.pipe = build_stage(module, self.rank, info, self.device)
        self.schedule = ScheduleGPipe(self.pipe, count)


def is_channels_last(network: nn.Module) -> bool:
    """Whether a network, and so every activation in it, is laid out with the channels last."""
    kernels = [p for p in network.parameters() if p.ndim == 4]
    return all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def to_wire(tensor: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """(B, C, H, W) as it can be sent, in one piece: (B, H, W, C) where the channels lie last, which copies nothing."""
    return (tensor.permute(0, 2, 3, 1) if channels_last else tensor).contiguous()


def from_wire(tensor: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """(B, C, H, W), laid out as it was before `to_wire`."""
    return tensor.permute(0, 3, 1, 2) if channels_last else tensor


def draw_pipeline(sub_models: Sequence[SubModel]) -> fx.Graph:
    """Which sub-model takes which tensors of which others, as torch.distributed.pipelining reads it."""
    graph = fx.Graph()
    tensors = {IMAGE: graph.placeholder(IMAGE)}
    for number, sub_model in enumerate(sub_models):
        call = graph.call_module(f"sub_model{number}", tuple(tensors[name] for name in sub_model.input_names))
        tensors |= zip(sub_model.output_names, _unpack(graph, call, len(sub_model.output_names)))
    graph.output(tensors[LOGITS])
    return graph


def wire_sub_model(
    sub_model: SubModel, tensors: dict[str, torch.Tensor], channels_last: bool, is_first: bool = False
) -> fx.GraphModule:
    """
    A sub-model that takes tensors as they come over the wire, and gives them as they go.

    Args:
        tensors: examples of all tensors by name, on the meta device.
        is_first: its input is the image, and comes over no wire.
    """
    graph = fx.Graph()
    taken = [graph.placeholder(name) for name in sub_model.input_names]
    for node in taken:
        node.meta["val"] = tensors[node.name] if is_first else to_wire(tensors[node.name], channels_last)
    inputs = taken if is_first else [graph.call_function(from_wire, (node, channels_last)) for node in taken]
    call = graph.call_module("sub_model", tuple(inputs))
    given = []
    for name, node in zip(sub_model.output_names, _unpack(graph, call, len(sub_model.output_names))):
        given.append(graph.call_function(to_wire, (node, channels_last)))
        given[-1].meta["val"] = to_wire(tensors[name], channels_last)
    graph.output(given[0] if len(given) == 1 else tuple(given))
    return fx.GraphModule({"sub_model": sub_model}, graph)


def _unpack(graph: fx.Graph, call: fx.Node, number: int) -> list[fx.Node]:
    return [call] if number == 1 else [graph.call_function(operator.getitem, (call, i)) for i in range(number)]

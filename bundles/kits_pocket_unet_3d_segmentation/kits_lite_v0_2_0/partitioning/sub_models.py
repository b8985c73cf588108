"""Sub-models that run: each a module of its own with named tensor inputs and outputs, skips among them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import fx, nn

from ..compression.zeros import prune_by_sigma
from ..networks.weights import load_weights, read_weights
from .algorithms import pair_up
from .layers import group_nodes, trace_layers

IMAGE, LOGITS = "image", "logits"


class SubModel(fx.GraphModule):
    """
    One sub-model of a partition: a plain module that can be scripted, exported and saved like any other.

    It takes the tensors `input_names` in that order and gives the tensor, or the tuple of tensors, `output_names`. A
    tensor is called after the layer that gives it, the first `image` and the last `logits`. Parameters keep the names
    they have in the network, so a sub_model loads its part of the network's state dict.
    """

    # torch.jit.script compiles properties
    __jit_unused_properties__ = [*fx.GraphModule.__jit_unused_properties__, "input_names", "output_names"]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the tensors that `forward` takes."""
        return tuple(node.name for node in self.graph.nodes if node.op == "placeholder")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the tensors that `forward` gives."""
        return tuple(node.name for node in self.graph.output_node().all_input_nodes)


def split_network(network: nn.Module, starts: Sequence[int]) -> list[SubModel]:
    """
    The sub-models of a `LiteUNet` that begin at some layers.

    Args:
        network: its parameters are shared, not copied, and may lie on the meta device.
        starts: position of every sub-model's first layer, see `partition`.

    Example:
        >>> from ..networks import LiteUNet
        >>> first, second = split_network(LiteUNet(channels=(4, 8), num_convs=(1, 1)), [0, 3])
        >>> first.output_names, second.input_names == first.output_names
        (('conv1_1', 'pool1'), True)
    """
    graph = trace_layers(network)
    groups = group_nodes(graph)
    names = {nodes[-1]: layer for layer, nodes in groups.items()}
    first, last = next(iter(names)), graph.output_node().all_input_nodes[0]
    names |= {first: IMAGE, last: LOGITS}
    layers = list(groups.values())
    parts = [[node for nodes in layers[i:j] for node in nodes] for i, j in pair_up(starts, len(layers))]
    return [SubModel(network, _copy_part(part, names), "SubModel") for part in parts]


def _copy_part(part: list[fx.Node], names: dict[fx.Node, str]) -> fx.Graph:
    """A graph of its own for some nodes of a larger one; what they need from the others becomes its inputs."""
    inside = set(part)
    graph = fx.Graph()
    received = dict.fromkeys(source for node in part for source in node.all_input_nodes if source not in inside)
    # in the order in which the network makes them
    copies = {source: graph.placeholder(names[source]) for source in names if source in received}
    for node in part:
        if node.op == "placeholder":
            copies[node] = graph.placeholder(names[node])
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
            copies[node] = graph.create_node(node.op, node.target, args, kwargs, names.get(node))
    given = [copies[node] for node in part if any(user not in inside for user in node.users)]
    graph.output(given[0] if len(given) == 1 else tuple(given))
    return graph


def run_sub_models(sub_models: Sequence[SubModel], image: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    Run sub-models one after the other in this process.

    Args:
        image: (B, in_channels, H, W).

    Returns:
        every tensor that one of them takes or gives, by name; "logits" is what the network gives.
    """
    tensors = {IMAGE: image}
    for sub_model in sub_models:
        given = sub_model(*(tensors[name] for name in sub_model.input_names))
        tensors |= zip(sub_model.output_names, (given,) if isinstance(given, torch.Tensor) else given)
    return tensors


def load_sub_model(sub_model: SubModel, network: nn.Module, path: Path) -> None:
    """
    Load a sub-model's part of a network's weights; of the other parts only what the file's form demands is read.

    Raises:
        InputError: see `load_weights`.
    """
    weights = _map_weights(path)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: getattr(tensor, "shape", None) for name, tensor in weights.items()} != shapes:
        load_weights(network, path)  # tells what is wrong
    sub_model.load_state_dict({name: weights[name] for name in sub_model.state_dict()})


def _map_weights(path: Path) -> dict:
    """A state dict whose tensors are read when they are touched, where the file allows."""
    try:
        with zipfile.ZipFile(path) as archive:
            if all(record.compress_type == zipfile.ZIP_STORED for record in archive.infolist()):
                return dict(torch.load(path, "cpu", weights_only=True, mmap=True))
    except Exception:  # torch.load raises whatever the bytes make it do; read_weights tells it in one line
        pass
    return read_weights(path)


def prune_sub_models(sub_models: Sequence[SubModel], ratio: float, signed: bool = False) -> list[SubModel]:
    """
    Algorithm II of UNet-PWP: every sub-model of a partition, pruned; see `SigmaThreshold`.

    Thresholds belong to tensors, so the pruned sub-models are the sub-models of the pruned network.
    """
    return [prune_by_sigma(sub_model, ratio, signed) for sub_model in sub_models]

"""
The layers of a `LiteUNet` in the order in which they run, as UNet-PWP lists them, and what each costs.

    input, conv1_1, conv1_2, pool1, conv2_1, ..., conv5_2, up6, concat6, conv6_1, conv6_2, up7, ..., conv9_2, conv10

ReLU, normalization and dropout belong to the layer before them, a depthwise convolution and its pointwise one are one
layer, and so is all that doubles height and width: nothing is cut between these. SD-UNet's further convolutions are
refine1_1, refine1_2 and refine2_1. What a residual block adds belongs to the convolution before, what a
dense one concatenates to the one that reads it, and its 1 x 1 convolution is conv1_3, ..., conv9_3.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from ..compression.complexity import count_parameters


@dataclass(frozen=True)
class Layer:
    """
    What one layer costs for one batch.

    Args:
        flops: as everywhere here, 2 x multiply-adds of the convolutions, see `complexity`.
        flops_without_kernel_area: the same without the k x k taps, as UNet-PWP counts.
        activation_bytes: of the tensor that the layer gives.
        sources: positions of the layers whose tensors it reads.
    """

    name: str
    parameters: int
    flops: int
    flops_without_kernel_area: int
    activation_bytes: int
    sources: tuple[int, ...]


class _Tracer(fx.Tracer):
    """Records the convolutions, poolings, ... of a network, and not what they are made of."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _ConvNd | nn.GroupNorm) or super().is_leaf_module(m, module_qualified_name)

    def to_bool(self, obj: fx.Proxy) -> bool:
        # the only branch on a tensor in LiteUNet is its check of height and width, which raises when true
        return False


def trace_layers(network: nn.Module) -> fx.Graph:
    """
    The graph of a `LiteUNet`; `node.meta["layer"]` is the name of the layer that a node belongs to.

    Args:
        network: a `LiteUNet` of this package or of any bundle's copy of it, on any device, the meta device too.
    """
    graph = _Tracer().trace(network)
    # the sizes that the check reads
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    levels = len(network.encoder)
    layer, pools, ups = "input", 0, levels
    for node in graph.nodes:
        is_cat = node.target is torch.cat and layer == f"up{ups}"
        read_by = next(iter(node.users)) if node.target is torch.cat and not is_cat else node
        place = read_by.target if read_by.op == "call_module" else ""
        if place == "pool":
            pools += 1
            layer = f"pool{pools}"
        elif match := re.match(r"encoder\.(\d+)\.conv(\d+)", place):
            layer = f"conv{int(match[1]) + 1}_{match[2]}"
        elif match := re.match(r"decoder\.(\d+)\.up", place):
            ups = levels + 1 + int(match[1])
            layer = f"up{ups}"
        elif is_cat:
            layer = f"concat{ups}"
        elif match := re.match(r"decoder\.\d+\.block\.conv(\d+)", place):
            layer = f"conv{ups}_{match[1]}"
        elif match := re.match(r"refine\.(\d+)\.conv(\d+)", place):
            layer = f"refine{int(match[1]) + 1}_{match[2]}"
        elif place == "head":
            layer = f"conv{2 * levels}"
        node.meta["layer"] = layer
    return graph


def group_nodes(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """The nodes of every layer, by its name, both in the order in which they run; the last node gives its tensor."""
    groups: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op != "output":
            groups.setdefault(node.meta["layer"], []).append(node)
    return groups


def measure_layers(network: nn.Module, input_shape: Sequence[int] = (1, 1, 256, 256)) -> list[Layer]:
    """
    The layers of a `LiteUNet` and their costs, counted on the meta device: nothing is computed.

    Args:
        input_shape: (B, in_channels, H, W), or (B, in_channels, D, H, W).

    Raises:
        ValueError: when the network does not take that height and width.

    Example:
        >>> from ..networks import LiteUNet
        >>> layers = measure_layers(LiteUNet())
        >>> [layer.name for layer in layers[:4]], layers[1].parameters
        (['input', 'conv1_1', 'conv1_2', 'pool1'], 640)
    """
    on_meta = copy.deepcopy(network).to("meta").eval()
    image = torch.empty(tuple(input_shape), dtype=next(on_meta.parameters()).dtype, device="meta")
    graph = trace_layers(on_meta)
    meter = _Meter(on_meta, graph)
    with torch.no_grad():
        on_meta(image)  # for its check of height and width, which the graph does not hold
        meter.run(image)
    layers: list[Layer] = []
    positions: dict[fx.Node, int] = {}
    for name, nodes in group_nodes(graph).items():
        positions |= dict.fromkeys(nodes, len(layers))
        read = {positions[source] for node in nodes for source in node.all_input_nodes}
        layers.append(
            Layer(
                name=name,
                parameters=sum(count_parameters(m) for m in map(meter.find_module, nodes) if m is not None),
                flops=sum(meter.flops[node] for node in nodes),
                flops_without_kernel_area=sum(meter.count_without_kernel_area(node) for node in nodes),
                activation_bytes=meter.bytes[nodes[-1]],
                sources=tuple(sorted(read - {len(layers)})),
            )
        )
    return layers


class _Meter(fx.Interpreter):
    """Runs a graph node by node and counts each."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph=graph)
        self.flops: dict[fx.Node, int] = {}
        self.bytes: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> torch.Tensor:
        with FlopCounterMode(display=False) as counter:
            result = super().run_node(n)
        self.flops[n] = counter.get_total_flops()
        self.bytes[n] = result.numel() * result.element_size()
        return result

    def find_module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, None where it calls none."""
        return self.module.get_submodule(node.target) if node.op == "call_module" else None

    def count_without_kernel_area(self, node: fx.Node) -> int:
        """FLOPs of a node as if every kernel had a single tap."""
        module = self.find_module(node)
        return self.flops[node] // math.prod(module.kernel_size) if self.flops[node] else 0

"""
PocketNet's claim of up to 90 % less memory and 40 % faster training, as ratios: one training step of a pocket network
and of its full twin, which doubles its channels from 16.

Memory is what autograd keeps from the forward pass for the backward one, and parameters, gradients and Adam's two
moments: both are counted, not measured, so that every machine gives the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from common.compression.complexity import count_flops, count_parameters
from common.networks import LiteUNet
from zoo.variants import DOUBLING, IN_3D, POCKET

# what a step sees, by the number of axes
SHAPES = {2: (8, 1, 256, 256), 3: (1, 1, 32, 128, 128)}


@dataclass(frozen=True)
class Cost:
    """
    What a training step of a network costs.

    Args:
        activations: bytes of the tensors that autograd keeps, each once.
        states: bytes of parameters, gradients and Adam's moments.
    """

    activations: int
    states: int

    @property
    def memory(self) -> int:
        """Bytes of both."""
        return self.activations + self.states


def make_pair(spatial_dims: int) -> tuple[LiteUNet, LiteUNet]:
    """A pocket U-Net of PocketNet's family and its full twin."""
    in_3d = IN_3D if spatial_dims == 3 else {}
    return tuple(LiteUNet(channels=channels, **in_3d) for channels in (POCKET, DOUBLING))


def count_memory(network: nn.Module, shape: Sequence[int]) -> Cost:
    """
    The memory of a training step, counted on the meta device.

    Args:
        shape: (B, in_channels, H, W) or (B, in_channels, D, H, W).

    Example:
        >>> count_memory(nn.Conv2d(1, 1, kernel_size=1, bias=False), (1, 1, 4, 4)).states
        16
    """
    on_meta = copy.deepcopy(network).to("meta").train()
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            # held, so that no other gets its number
            kept[id(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        on_meta(torch.empty(tuple(shape), device="meta"))
    activations = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    return Cost(activations, 4 * 4 * count_parameters(network))


def compare(spatial_dims: int) -> dict[str, float]:
    """Shares that a pocket U-Net saves of its twin's activations, states, memory of a step, and FLOPs."""
    shape = SHAPES[spatial_dims]
    networks = make_pair(spatial_dims)
    pocket, full = (count_memory(network, shape) for network in networks)
    flops = [count_flops(network, shape) for network in networks]
    return {
        "activations": 1 - pocket.activations / full.activations,
        "states": 1 - pocket.states / full.states,
        "memory": 1 - pocket.memory / full.memory,
        "flops": 1 - flops[0] / flops[1],
    }

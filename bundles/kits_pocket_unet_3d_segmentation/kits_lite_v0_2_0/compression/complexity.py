"""
What a network costs: parameters, non-zeros, FLOPs and weight bytes.

Conventions:
    parameters: elements of `parameters()`, the trainable tensors; BatchNorm running statistics are not parameters.
    non-zeros: parameters whose value is not exactly zero.
    FLOPs: 2 x multiply-adds of the convolutions (2 x k x k x in / groups x out x H x W; for a transposed one H and W of
        its input), as `torch.utils.flop_counter` counts; bias, normalization, activation, pooling and interpolation
        count nothing. fvcore and most "MACs" columns print half of this.
    weight bytes: bytes of every tensor of the state dict, buffers included, without file overhead.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Complexity:
    """The cost of one network at one input shape; the module's docstring states the conventions."""

    parameters: int
    nonzero_parameters: int
    flops: int
    weights_bytes: int
    input_shape: tuple[int, ...]


def count_parameters(network: nn.Module) -> int:
    """Number of trainable elements."""
    return sum(p.numel() for p in network.parameters())


def count_nonzero_parameters(network: nn.Module) -> int:
    """Number of trainable elements that are not exactly zero."""
    return sum(int(torch.count_nonzero(p)) for p in network.parameters())


def count_flops(network: nn.Module, input_shape: Sequence[int] = (1, 1, 256, 256)) -> int:
    """
    FLOPs of one forward pass, counted on the meta device: nothing is computed, however large the input.

    Args:
        input_shape: (B, in_channels, H, W).

    Example:
        >>> count_flops(torch.nn.Conv2d(1, 8, kernel_size=3, padding=1), (1, 1, 256, 256))
        9437184
    """
    on_meta = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        dtype = next(on_meta.parameters(), torch.empty(0)).dtype
        on_meta(torch.empty(tuple(input_shape), dtype=dtype, device="meta"))
    return counter.get_total_flops()


def count_weights_bytes(network: nn.Module) -> int:
    """Bytes of the state dict's tensors."""
    return sum(t.numel() * t.element_size() for t in network.state_dict().values())


def measure_complexity(network: nn.Module, input_shape: Sequence[int] = (1, 1, 256, 256)) -> Complexity:
    """All of the above at once, at an input of shape (B, in_channels, H, W)."""
    return Complexity(
        parameters=count_parameters(network),
        nonzero_parameters=count_nonzero_parameters(network),
        flops=count_flops(network, input_shape),
        weights_bytes=count_weights_bytes(network),
        input_shape=tuple(input_shape),
    )

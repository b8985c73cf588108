"""Small networks in every format, for the tests of exports and of the backends that run them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from common.networks import LiteUNet
from common.runtimes.run import BACKENDS

BACKEND_OF = {suffix: backend for backend, suffixes in reversed(BACKENDS.items()) for suffix in suffixes}
TINY = {"channels": [4, 8], "num_convs": [1, 1]}
SHAPES = [(1, 1, 64, 48), (3, 1, 64, 48), (1, 1, 256, 256), (2, 1, 256, 256)]


def build(arguments: dict, channels: list[int] | None = None) -> LiteUNet:
    """A network whose weights and statistics are all random, none of them at a neutral value."""
    torch.manual_seed(1)
    network = LiteUNet(**arguments | ({"channels": channels} if channels else {})).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def find_largest_difference(
    network: nn.Module, exported: Callable[[torch.Tensor], torch.Tensor], relative: bool = True
) -> float:
    """
    The largest difference of the logits over two shapes and two batch sizes; relative: to the largest logit.

    Relative, because SD-UNet's logits reach 30 with random weights: PyTorch itself is 0.001 off its own float64 there.
    """
    largest = 0.0
    for shape in SHAPES:
        image = torch.rand(shape)
        with torch.no_grad():
            expected = network(image)
            scale = expected.abs().max() if relative else 1.0
            largest = max(largest, float((expected - exported(image)).abs().max() / scale))
    return largest

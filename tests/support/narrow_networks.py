"""The zoo's networks with few channels, to be pruned."""

from __future__ import annotations

import torch
from torch import nn

from common.networks import LiteUNet
from zoo.variants import VARIANTS

NARROW = {
    "UNet": (8, 12, 16, 20, 24),
    "WP-UNet": (8, 12, 16, 20, 24),
    "SD-UNet": (64, 64, 128, 64, 128),
    "UNet-PWP": (8, 12, 16, 20, 24),
    "Pocket U-Net": (8, 8, 8, 8, 8),
}
ROWS = {v.title: v.network | {"channels": NARROW[v.title]} for v in VARIANTS}


def build(arguments: dict, seed: int = 0) -> LiteUNet:
    """A network in evaluation mode in which nothing is at its neutral value, running statistics included."""
    torch.manual_seed(seed)
    network = LiteUNet(**arguments).eval()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return network

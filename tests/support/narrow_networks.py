"""The zoo's networks with few channels, to be pruned."""

from __future__ import annotations

import copy

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
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, nn.modules.conv._ConvNd) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return network


def zero_removed_channels(network: LiteUNet, pruned: LiteUNet) -> LiteUNet:
    """The network with all weights of the channels zeroed that are not in the pruned one, found by their biases."""
    zeroed = copy.deepcopy(network)
    for name, module in zeroed.named_modules():
        if not hasattr(module, "bias") or module.bias is None or name == "head":
            continue
        kept = torch.isin(module.bias, pruned.get_submodule(name).bias)
        assert int(kept.sum()) == len(pruned.get_submodule(name).bias)
        out_channels = 1 if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d) else 0
        with torch.no_grad():
            module.weight.transpose(0, out_channels)[~kept] = 0
            module.bias[~kept] = 0
    return zeroed

"""How the papers start their networks, to be compared with `LiteUNet`'s own initialization."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..errors import InputError

SCHEMES = ("house", "keras", "normal")


@torch.no_grad()
def initialize_as(network: nn.Module, scheme: str = "house") -> nn.Module:
    """
    Initialize the convolutions of a network anew, in place, and return it.

    Args:
        scheme: `"house"`, as it is; `"keras"`, Glorot's uniform kernels, the default where most of the papers' networks
            were made; `"normal"`, standard normal kernels, as PocketNet prints: every layer multiplies the spread by
            about ten, so softmax is 0 or 1 and has no gradient. Biases are zero with both.

    Raises:
        InputError: for another scheme.

    Source: Glorot and Bengio, https://proceedings.mlr.press/v9/glorot10a.html.

    Example:
        >>> network = initialize_as(nn.Conv2d(1, 9, kernel_size=3), "keras")
        >>> bool(network.weight.abs().max() <= (6 / (9 + 81)) ** 0.5)
        True
    """
    if scheme not in SCHEMES:
        raise InputError(f"initialization: expected one of {', '.join(SCHEMES)}, found {scheme}.")
    for module in network.modules():
        if isinstance(module, _ConvNd) and scheme != "house":
            if scheme == "keras":
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network

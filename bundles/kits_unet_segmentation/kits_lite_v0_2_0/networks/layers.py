"""Weight standardization: the convolution that has it, and the way to fold it away."""

from __future__ import annotations

import copy

import torch
from torch import nn


def standardize_weight(weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """
    Shift and scale every output filter to zero mean and unit variance over its own taps.

    A filter of one tap has no variance and comes out as zero.

    Args:
        weight: (out_channels, in_channels / groups, *kernel_size).
        eps: added to the variance.

    Returns:
        The standardized weight, same shape.

    Source: Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization",
    https://arxiv.org/abs/1903.10520; SD-UNet, Eq. 5.
    """
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
    return (weight - mean) * torch.rsqrt(variance + eps)


class StdConv2d(nn.Conv2d):
    """`nn.Conv2d` that convolves with its standardized weight (https://arxiv.org/abs/1903.10520)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, standardize_weight(self.weight), self.bias)


def fold_weight_standardization(network: nn.Module) -> nn.Module:
    """
    Return a copy of a network in which every `StdConv2d` is a plain `nn.Conv2d` that holds the standardized weight.

    The output and the state-dict keys stay as they are. Fold for inference and export: the copy no longer
    standardizes, so training it on is training another network.
    """
    folded = copy.deepcopy(network)
    for module in folded.modules():
        if isinstance(module, StdConv2d):
            with torch.no_grad():
                module.weight.copy_(standardize_weight(module.weight))
            module.__class__ = nn.Conv2d
    return folded

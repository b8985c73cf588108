"""The blocks of `LiteUNet`: a separable convolution, a block of convolutions, and the way up with a skip."""

from __future__ import annotations

import torch
from monai.networks.layers.utils import get_norm_layer
from torch import nn

from .layers import GroupNorm, StdConv2d


class SeparableConv(nn.Sequential):
    """
    Depthwise 3 x 3 convolution without bias, then pointwise 1 x 1 with bias, nothing between (Keras SeparableConv2D).

        (B, in_channels, H, W) -- depthwise 3 x 3 -- pointwise 1 x 1 --> (B, out_channels, H, W)

    Args:
        weight_standardization: standardize the depthwise filters: True or `"filter"`, each over its nine taps;
            `"layer"`, over all filters' taps together (see `standardize_weight`).

    Source: Chollet, "Xception", https://arxiv.org/abs/1610.02357.
    """

    def __init__(self, in_channels: int, out_channels: int, weight_standardization: bool | str = False) -> None:
        super().__init__()
        depthwise = {"kernel_size": 3, "padding": 1, "groups": in_channels, "bias": False}
        if weight_standardization:
            over = "filter" if weight_standardization is True else weight_standardization
            self.depthwise: nn.Module = StdConv2d(in_channels, in_channels, standardize_over=over, **depthwise)
        else:
            self.depthwise = nn.Conv2d(in_channels, in_channels, **depthwise)
        self.pointwise = nn.Conv2d(in_channels, out_channels, kernel_size=1)


def get_conv(in_channels: int, out_channels: int, separable: bool, weight_standardization: bool | str) -> nn.Module:
    """A 3 x 3 convolution that keeps height and width: a standard one, or a separable one."""
    if separable:
        return SeparableConv(in_channels, out_channels, weight_standardization)
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


class ConvBlock(nn.Sequential):
    """
    Some 3 x 3 convolutions, each followed by ReLU, then one normalization, then dropout.

        (B, in_channels, H, W) -- [conv -- ReLU] x num_convs -- norm -- dropout --> (B, out_channels, H, W)

    Args:
        norm: MONAI layer spec, `"batch"` or `("group", {"num_groups": 32})`; None leaves it out.
        dropout: probability that an element becomes zero in training; 0 leaves the layer out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_convs: int = 2,
        separable: bool = False,
        weight_standardization: bool | str = False,
        norm: str | tuple | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for i in range(num_convs):
            in_channels_i = in_channels if i == 0 else out_channels
            self.add_module(f"conv{i + 1}", get_conv(in_channels_i, out_channels, separable, weight_standardization))
            self.add_module(f"relu{i + 1}", nn.ReLU())
        if norm is not None:
            self.norm = get_norm_layer(norm, spatial_dims=2, channels=out_channels)
            if isinstance(self.norm, nn.GroupNorm):
                self.norm.__class__ = GroupNorm
        if dropout:
            self.dropout = nn.Dropout(dropout)


class UpCat(nn.Module):
    """
    Double height and width, concatenate with the skip, convolve.

        x (B, in_channels, H, W) -- up --> (B, skip_channels, 2H, 2W)
        [skip, up] (B, 2 skip_channels, 2H, 2W) -- ConvBlock --> (B, skip_channels, 2H, 2W)

    Args:
        upsample: `"deconv"`, a transposed 2 x 2 convolution; `"nearest"`, nearest neighbours, a 3 x 3 convolution
            (separable where the block is) and ReLU.
        block: further arguments of the `ConvBlock`.
    """

    def __init__(self, in_channels: int, skip_channels: int, upsample: str = "deconv", **block) -> None:
        super().__init__()
        if upsample == "deconv":
            self.up: nn.Module = nn.ConvTranspose2d(in_channels, skip_channels, kernel_size=2, stride=2)
        elif upsample == "nearest":
            conv = {name: block[name] for name in ("separable", "weight_standardization") if name in block}
            self.up = nn.Sequential(
                nn.Upsample(scale_factor=2.0, mode="nearest"),
                ConvBlock(in_channels, skip_channels, num_convs=1, **conv),
            )
        else:
            raise ValueError(f"upsample must be 'deconv' or 'nearest', got upsample={upsample!r}.")
        self.block = ConvBlock(2 * skip_channels, skip_channels, **block)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.block(torch.cat([skip, self.up(x)], dim=1))

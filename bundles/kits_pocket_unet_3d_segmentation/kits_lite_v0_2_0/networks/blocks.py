"""The blocks of `LiteUNet`: a separable convolution, blocks of convolutions, and the way up with a skip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_norm_layer
from torch import nn

from .layers import GroupNorm, StdConv2d


class SeparableConv(nn.Sequential):
    """
    Depthwise 3 x 3 convolution without bias, then pointwise 1 x 1 with bias, nothing between (Keras SeparableConv2D).

        (B, in_channels, H, W) -- depthwise 3 x 3 -- pointwise 1 x 1 --> (B, out_channels, H, W)

    In 3-D kernels have one more axis, and so has everything else here.

    Args:
        weight_standardization: standardize the depthwise filters: True or `"filter"`, each over its nine taps;
            `"layer"`, over all filters' taps together (see `standardize_weight`).

    Source: Chollet, "Xception", https://arxiv.org/abs/1610.02357.
    """

    def __init__(
        self, in_channels: int, out_channels: int, weight_standardization: bool | str = False, spatial_dims: int = 2
    ) -> None:
        super().__init__()
        depthwise = {"kernel_size": 3, "padding": 1, "groups": in_channels, "bias": False}
        if weight_standardization:
            over = "filter" if weight_standardization is True else weight_standardization
            self.depthwise: nn.Module = StdConv2d(in_channels, in_channels, standardize_over=over, **depthwise)
        else:
            self.depthwise = Conv["conv", spatial_dims](in_channels, in_channels, **depthwise)
        self.pointwise = Conv["conv", spatial_dims](in_channels, out_channels, kernel_size=1)


def get_conv(
    in_channels: int, out_channels: int, separable: bool, weight_standardization: bool | str, spatial_dims: int = 2
) -> nn.Module:
    """A 3 x 3 convolution that keeps height and width: a standard one, or a separable one."""
    if separable:
        return SeparableConv(in_channels, out_channels, weight_standardization, spatial_dims)
    return Conv["conv", spatial_dims](in_channels, out_channels, kernel_size=3, padding=1)


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
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        for i, inputs in enumerate(self.list_inputs(in_channels, out_channels, num_convs)):
            conv = get_conv(inputs, out_channels, separable, weight_standardization, spatial_dims)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"relu{i + 1}", nn.ReLU())
        self.add_merge(in_channels, out_channels, spatial_dims)
        if norm is not None:
            self.norm = get_norm_layer(norm, spatial_dims=spatial_dims, channels=out_channels)
            if isinstance(self.norm, nn.GroupNorm):
                self.norm.__class__ = GroupNorm
        if dropout:
            self.dropout = nn.Dropout(dropout)

    def list_inputs(self, in_channels: int, out_channels: int, num_convs: int) -> list[int]:
        """Input channels of every 3 x 3 convolution."""
        return [in_channels] + [out_channels] * (num_convs - 1)

    def add_merge(self, in_channels: int, out_channels: int, spatial_dims: int) -> None:
        """Add what merges the ways through a block, where there are several."""


class ResidualBlock(ConvBlock):
    """
    Two convolutions with ReLU and an addition around the second, which needs no parameters whatever the widths.

        x -- conv -- ReLU --> h;  h + (h -- conv -- ReLU)

    Source: He et al., https://arxiv.org/abs/1512.03385; PocketNet, https://arxiv.org/abs/2104.10745, whose ResNets have
    as many parameters as its U-Nets and whose text does not say where is added.
    """

    def __init__(self, in_channels: int, out_channels: int, num_convs: int = 2, **block) -> None:
        if num_convs != 2:
            raise ValueError(f"{type(self).__name__} must have two convolutions, got num_convs={num_convs}.")
        super().__init__(in_channels, out_channels, num_convs, **block)
        for name in ("norm", "dropout"):
            if not hasattr(self, name):
                self.add_module(name, nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.conv1(x))
        return self.dropout(self.norm(x + self.relu2(self.conv2(x))))


class ConcatBlock(ResidualBlock):
    """
    Two convolutions with ReLU beside an identity; a 1 x 1 convolution with ReLU of both: PocketNet's released ResNet.

        x -- conv -- ReLU -- conv -- ReLU --> y;  [x, y] -- conv 1 x 1 -- ReLU -->
    """

    def add_merge(self, in_channels: int, out_channels: int, spatial_dims: int) -> None:
        self.conv3 = Conv["conv", spatial_dims](in_channels + out_channels, out_channels, kernel_size=1)
        self.relu3 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.dropout(self.norm(self.relu3(self.conv3(torch.cat([x, y], dim=1)))))


class DenseBlock(ResidualBlock):
    """
    Two convolutions with ReLU, each of everything so far; a 1 x 1 convolution with ReLU of all: PocketNet's DenseNet.

        x -- conv -- ReLU --> y;  [x, y] -- conv -- ReLU --> z;  [x, y, z] -- conv 1 x 1 -- ReLU -->

    Source: Huang et al., https://arxiv.org/abs/1608.06993.
    """

    def list_inputs(self, in_channels: int, out_channels: int, num_convs: int) -> list[int]:
        return [in_channels + i * out_channels for i in range(num_convs)]

    def add_merge(self, in_channels: int, out_channels: int, spatial_dims: int) -> None:
        self.conv3 = Conv["conv", spatial_dims](in_channels + 2 * out_channels, out_channels, kernel_size=1)
        self.relu3 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.conv1(x))
        z = self.relu2(self.conv2(torch.cat([x, y], dim=1)))
        return self.dropout(self.norm(self.relu3(self.conv3(torch.cat([x, y, z], dim=1)))))


BLOCKS = {"conv": ConvBlock, "residual": ResidualBlock, "concat": ConcatBlock, "dense": DenseBlock}


class UpCat(nn.Module):
    """
    Double height and width, concatenate with the skip, convolve; in 3-D as `pool` says.

        x (B, in_channels, H, W) -- up --> (B, skip_channels, 2H, 2W)
        [skip, up] (B, 2 skip_channels, 2H, 2W) -- ConvBlock --> (B, skip_channels, 2H, 2W)

    Args:
        upsample: `"deconv"`, a transposed 2 x 2 convolution; `"nearest"`, nearest neighbours, a 3 x 3 convolution
            (separable where the block is) and ReLU.
        pool: how many times larger every axis becomes; 2 for height and width by default.
        block: one of `BLOCKS`.
        arguments: further arguments of the block.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        upsample: str = "deconv",
        pool: Sequence[int] = (2, 2),
        block: str = "conv",
        **arguments,
    ) -> None:
        super().__init__()
        if upsample == "deconv":
            up = Conv["convtrans", len(pool)]
            self.up: nn.Module = up(in_channels, skip_channels, kernel_size=tuple(pool), stride=tuple(pool))
        elif upsample == "nearest":
            conv = {name: arguments[name] for name in ("separable", "weight_standardization") if name in arguments}
            factor = float(pool[0]) if len(set(pool)) == 1 else tuple(map(float, pool))
            self.up = nn.Sequential(
                nn.Upsample(scale_factor=factor, mode="nearest"),
                ConvBlock(in_channels, skip_channels, num_convs=1, spatial_dims=len(pool), **conv),
            )
        else:
            raise ValueError(f"upsample must be 'deconv' or 'nearest', got upsample={upsample!r}.")
        self.block = BLOCKS[block](2 * skip_channels, skip_channels, spatial_dims=len(pool), **arguments)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.block(torch.cat([skip, self.up(x)], dim=1))

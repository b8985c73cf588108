"""`LiteUNet`: the one network class of the zoo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import InputError
from .blocks import ConvBlock, UpCat


class LiteUNet(nn.Module):
    """
    2-D U-Net whose arguments span the dense U-Net and its lightweight descendants.

        image (B, in_channels, H, W)
          encoder[0] ----------------- skip ----------------- decoder[-1] -- refine -- head --> (B, out_channels, H, W)
            max-pool                                              up
            encoder[1] -------------- skip -------------- decoder[-2]
              ...                                           ...
                max-pool                                  up
                encoder[-1], the bottleneck --------------

    Every width follows from `channels`, so a network with pruned channels is again a `LiteUNet`; `arguments` holds what
    it was made with.

    Args:
        in_channels: image channels.
        out_channels: classes, background included; the output holds their logits.
        channels: width of every encoder level, the bottleneck last; the decoder mirrors it.
        num_convs: convolutions per encoder level; every decoder block has two.
        separable: separable convolutions everywhere but in the first level.
        weight_standardization: standardize the depthwise filters, True or `"filter"` each over its own taps,
            `"layer"` over the taps of the whole layer.
        norm: MONAI layer spec of the normalization that ends a block, `"batch"` or `("group", {"num_groups": 32})`.
        norm_bottleneck: whether the bottleneck ends in a normalization too.
        dropout: dropout probability after the two lowest encoder levels.
        upsample: `"deconv"` or `"nearest"`, see `UpCat`.
        refine: put one more block and one more separable convolution before the head, as SD-UNet does.

    Raises:
        ValueError: when `num_convs` and `channels` differ in length or hold anything but positive numbers.
        InputError: on the forward pass, when height or width is not divisible by 2 ** (number of levels - 1).

    Sources: U-Net, https://arxiv.org/abs/1505.04597; WP-UNet, SD-UNet, UNet-PWP and PocketNet are named with their rows
    in the metadata of each bundle.

    Example:
        >>> LiteUNet(channels=(16, 16, 16, 16, 16))(torch.zeros(1, 1, 256, 256)).shape
        torch.Size([1, 3, 256, 256])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 3,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        num_convs: Sequence[int] = (2, 2, 2, 2, 2),
        separable: bool = False,
        weight_standardization: bool | str = False,
        norm: str | tuple | None = None,
        norm_bottleneck: bool = True,
        dropout: float = 0.0,
        upsample: str = "deconv",
        refine: bool = False,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.arguments = arguments
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(f"channels must be two or more positive numbers, got channels={channels}.")
        if len(num_convs) != len(channels) or min(num_convs) < 1:
            raise ValueError(
                f"num_convs must be one positive number per level, got num_convs={num_convs} for channels={channels}."
            )
        self.channels = tuple(channels)
        self.size_divisor = 2 ** (len(channels) - 1)
        conv = {"separable": separable, "weight_standardization": weight_standardization}

        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList()
        widths = [in_channels, *channels]
        for level, number in enumerate(num_convs):
            is_first, is_bottleneck = level == 0, level == len(channels) - 1
            block = ConvBlock(
                widths[level],
                widths[level + 1],
                number,
                norm=norm if norm_bottleneck or not is_bottleneck else None,
                dropout=dropout if level >= len(channels) - 2 else 0.0,
                **({} if is_first else conv),
            )
            self.encoder.append(block)

        self.decoder = nn.ModuleList()
        for level in reversed(range(len(channels) - 1)):
            self.decoder.append(UpCat(channels[level + 1], channels[level], upsample, norm=norm, **conv))

        width = channels[0]
        self.refine = nn.Sequential()
        if refine:
            self.refine.append(ConvBlock(width, width, norm=norm, **conv))
            self.refine.append(ConvBlock(width, width, num_convs=1, **conv))
        self.head = nn.Conv2d(width, out_channels, kernel_size=1)
        self.apply(initialize)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Segment a batch of slices.

        Args:
            x: (B, in_channels, H, W), H and W divisible by `size_divisor`.

        Returns:
            logits (B, out_channels, H, W).
        """
        check_size(x, self.size_divisor)
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.encoder):
            if level > 0:
                skips.append(x)
                x = self.pool(x)
            x = block(x)
        for up in self.decoder:
            x = up(x, skips.pop())
        return self.head(self.refine(x))


def check_size(image: torch.Tensor, divisor: int) -> None:
    """
    Check the size of an image (B, C, H, W).

    Raises:
        InputError: when height or width is not divisible by the divisor.
    """
    if image.shape[2] % divisor != 0 or image.shape[3] % divisor != 0:
        raise InputError(f"height and width must be divisible by {divisor}, got {image.shape[2]} x {image.shape[3]}.")


def initialize(module: nn.Module) -> None:
    """
    Keep the variance of the activations from layer to layer, which the networks without normalization need to train.

    He's normal initialization (https://arxiv.org/abs/1502.01852), with the gain that fits what follows: ReLU after a
    convolution, nothing after a depthwise or a transposed one.
    """
    if isinstance(module, nn.ConvTranspose2d):
        # stride = kernel: every output pixel sees each input channel once
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)
    elif isinstance(module, nn.Conv2d):
        follows_relu = module.groups == 1
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if follows_relu else "linear")
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)

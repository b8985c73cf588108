"""`LiteUNet`: the one network class of the zoo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from ..errors import InputError
from .blocks import BLOCKS, ConvBlock, ResidualBlock, SeparableConv, UpCat


class LiteUNet(nn.Module):
    """
    U-Net, 2-D or 3-D, whose arguments span the dense U-Net and its lightweight descendants.

        image (B, in_channels, H, W)
          encoder[0] ----------------- skip ----------------- decoder[-1] -- refine -- head --> (B, out_channels, H, W)
            max-pool                                              up
            encoder[1] -------------- skip -------------- decoder[-2]
              ...                                           ...
                max-pool                                  up
                encoder[-1], the bottleneck --------------

    Every width follows from `channels`, so a network with pruned channels is again a `LiteUNet`; `arguments` holds what
    it was made with. In 3-D images are (B, in_channels, D, H, W).

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
        spatial_dims: 2, or 3 with kernels of 3 x 3 x 3.
        block: of every level, `"conv"` or PocketNet's others of two convolutions: `"residual"`, `"concat"` (its
            released ResNet) and `"dense"`, see `ResidualBlock`, `ConcatBlock` and `DenseBlock`.
        pool: by how much a level halves every axis, one number for all or one for each; PocketNet's 3-D networks take
            (1, 2, 2) and leave the slices as many as they are.

    Raises:
        InputError: when `num_convs` and `channels` differ in length or hold anything but positive numbers; for another
            block or number of axes, or what 3-D does not have; on the forward pass, when an image has more or fewer
            axes than the network, or one is not divisible by `size_divisors`, pool ** (number of levels - 1).
        ValueError: for what a block does not have.

    Sources: U-Net, https://arxiv.org/abs/1505.04597; WP-UNet, SD-UNet, UNet-PWP and PocketNet are named with their rows
    in the metadata of each bundle.

    Example:
        >>> LiteUNet(channels=(16, 16, 16, 16, 16))(torch.zeros(1, 1, 256, 256)).shape
        torch.Size([1, 3, 256, 256])
        >>> pocket = LiteUNet(channels=[16] * 5, spatial_dims=3, block="dense", pool=(1, 2, 2))
        >>> pocket(torch.zeros(1, 1, 3, 32, 32)).shape
        torch.Size([1, 3, 3, 32, 32])
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
        spatial_dims: int = 2,
        block: str = "conv",
        pool: int | Sequence[int] = 2,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.arguments = arguments
        if len(channels) < 2 or not all(isinstance(width, int) and width > 0 for width in channels):
            raise InputError(f"channels must be two or more positive numbers, got channels={channels}.")
        if len(num_convs) != len(channels) or min(num_convs) < 1:
            raise InputError(
                f"num_convs must be one positive number per level, got num_convs={num_convs} for channels={channels}."
            )
        pool = _check_axes(spatial_dims, pool, weight_standardization)
        if block not in BLOCKS:
            raise InputError(f"block must be one of {', '.join(BLOCKS)}, got block={block!r}.")
        self.channels, self.spatial_dims = tuple(channels), spatial_dims
        self.size_divisors = [factor ** (len(channels) - 1) for factor in pool]
        self.size_divisor = max(self.size_divisors)
        conv = {"separable": separable, "weight_standardization": weight_standardization}

        self.pool = Pool["max", spatial_dims](pool)
        self.encoder = nn.ModuleList()
        widths = [in_channels, *channels]
        for level, number in enumerate(num_convs):
            is_first, is_bottleneck = level == 0, level == len(channels) - 1
            convs = BLOCKS[block](
                widths[level],
                widths[level + 1],
                number,
                norm=norm if norm_bottleneck or not is_bottleneck else None,
                dropout=dropout if level >= len(channels) - 2 else 0.0,
                spatial_dims=spatial_dims,
                **({} if is_first else conv),
            )
            self.encoder.append(convs)

        self.decoder = nn.ModuleList()
        for level in reversed(range(len(channels) - 1)):
            self.decoder.append(UpCat(channels[level + 1], channels[level], upsample, pool, block, norm=norm, **conv))

        width = channels[0]
        self.refine = nn.Sequential()
        if refine:
            self.refine.append(ConvBlock(width, width, norm=norm, spatial_dims=spatial_dims, **conv))
            self.refine.append(ConvBlock(width, width, num_convs=1, spatial_dims=spatial_dims, **conv))
        self.head = Conv["conv", spatial_dims](width, out_channels, kernel_size=1)
        self.apply(initialize)
        shrink_additions([module for module in self.modules() if type(module) is ResidualBlock])

    def to(self, *args: object, **kwargs: object) -> LiteUNet:
        """As `torch.nn.Module.to`; channels last are those of volumes in 3-D."""
        if self.spatial_dims == 3 and kwargs.get("memory_format") is torch.channels_last:
            kwargs["memory_format"] = torch.channels_last_3d
        return super().to(*args, **kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Segment a batch of slices, or of volumes.

        Args:
            x: (B, in_channels, H, W), H and W divisible by `size_divisor`; in 3-D (B, in_channels, D, H, W), see
                `size_divisors`.

        Returns:
            logits (B, out_channels, H, W), or (B, out_channels, D, H, W).
        """
        check_size(x, self.size_divisors)
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.encoder):
            if level > 0:
                skips.append(x)
                x = self.pool(x)
            x = block(x)
        for up in self.decoder:
            x = up(x, skips.pop())
        return self.head(self.refine(x))


def _check_axes(spatial_dims: int, pool: int | Sequence[int], weight_standardization: bool | str) -> tuple[int, ...]:
    """Every axis's pooling."""
    if spatial_dims not in (2, 3):
        raise InputError(f"spatial_dims must be 2 or 3, got spatial_dims={spatial_dims}.")
    if weight_standardization and spatial_dims == 3:
        raise InputError("weight_standardization must be off in 3-D: SD-UNet's is of 2-D filters.")
    factors = (pool,) * spatial_dims if isinstance(pool, int) else tuple(pool)
    if len(factors) != spatial_dims or min(factors) < 1:
        raise InputError(f"pool must be {spatial_dims} positive numbers in {spatial_dims}-D, got pool={pool}.")
    return factors


def check_size(image: torch.Tensor, divisors: list[int]) -> None:
    """
    Check the size of an image (B, C, H, W) or (B, C, D, H, W).

    Args:
        divisors: of every axis after the channels.

    Raises:
        InputError: when it has more or fewer axes, or one that is not divisible by its divisor.
    """
    if image.dim() != len(divisors) + 2:
        raise InputError(f"image: expected {len(divisors)} axes after batch and channels, found {image.dim() - 2}.")
    for axis, divisor in enumerate(divisors):
        if image.shape[axis + 2] % divisor != 0:
            if len(divisors) == 2:
                found = f"got {image.shape[2]} x {image.shape[3]}."
                raise InputError(f"height and width must be divisible by {divisor}, {found}")
            raise InputError(f"depth, height and width must be divisible by {divisors}, got {list(image.shape[2:])}.")


def initialize(module: nn.Module) -> None:
    """
    Keep the variance of the activations from layer to layer, which the networks without normalization need to train.

    He's normal initialization (https://arxiv.org/abs/1502.01852), with the gain that fits what follows: ReLU after a
    convolution, nothing after a depthwise or a transposed one.
    """
    if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        # stride = kernel: every output pixel sees each input channel once
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        follows_relu = module.groups == 1
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if follows_relu else "linear")
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


@torch.no_grad()
def shrink_additions(blocks: Sequence[ResidualBlock]) -> None:
    """
    Shrink what every residual block adds, so that the activations do not grow with the number of blocks.

    Source: Zhang et al., "Fixup Initialization", https://arxiv.org/abs/1901.09321.
    """
    for block in blocks:
        conv = block.conv2.pointwise if isinstance(block.conv2, SeparableConv) else block.conv2
        conv.weight.mul_(len(blocks) ** -0.5)

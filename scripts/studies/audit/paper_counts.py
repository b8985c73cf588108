"""
Counts and conversions behind numbers that the five papers print, where the house's own do not give them.

See docs/studies/audit.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from common.networks import LiteUNet
from common.partitioning.layers import Layer


def count_weights(network: nn.Module) -> int:
    """Elements of the convolutions' kernels, without biases and normalization."""
    return sum(p.numel() for p in network.parameters() if p.dim() > 1)


@torch.no_grad()
def measure_flat_response(network: LiteUNet) -> float:
    """
    How far a logit moves, at most, between flat images, one black and one white, in the middle of 512 x 512.

    The middle is so far from the borders that no convolution carries their zeros there.
    """
    black, white = (network.eval()(torch.full((1, 1, 512, 512), shade))[0, :, 256, 256] for shade in (0.0, 1.0))
    return float((white - black).abs().max())


def compute_valid_size(size: int, levels: int = 4) -> int:
    """Height or width that the original U-Net, whose convolutions are not padded, gives back."""
    for _ in range(levels):
        size = (size - 4) // 2
    for _ in range(levels):
        size = 2 * (size - 4)
    return size - 4


def convert_dice_to_iou(dice: float) -> float:
    """Intersection over union of two masks with that Dice coefficient."""
    return dice / (2 - dice)


def convert_iou_to_dice(iou: float) -> float:
    """Dice coefficient of two masks with that intersection over union."""
    return 2 * iou / (1 + iou)


def compute_sigma_share(ratio: float, signed: bool = False) -> float:
    """Share of Gaussian weights of mean 0 that Algorithm II zeroes at a ratio to the standard deviation."""
    share = math.erf(ratio / math.sqrt(2))
    return (1 + share) / 2 if signed else share


def count_as_tensorflow(layers: Sequence[Layer]) -> dict[str, int]:
    """
    FLOPs of a U-Net as TensorFlow's profiler counts them where the decoder upsamples and then convolves 2 x 2.

    That convolution runs on the doubled grid, so it costs four times what the transposed one does. A bias costs one
    operation an element, a 2 x 2 pooling four, an upsampling two, for the new height and width.

    Args:
        layers: of the U-Net with transposed convolutions, float32.
    """
    ups = [layer for layer in layers if layer.name.startswith("up")]
    elements = {layer.name: layer.activation_bytes // 4 for layer in layers}
    return {
        "convolutions": sum(layer.flops for layer in layers) + 3 * sum(layer.flops for layer in ups),
        "biases": sum(elements[layer.name] for layer in layers if layer.parameters),
        "poolings": 4 * sum(n for name, n in elements.items() if name.startswith("pool")),
        "upsamplings": 2 * len(ups),
    }


def count_conv(inputs: int, outputs: int, taps: int) -> int:
    """Parameters of a convolution, transposed or not, with bias."""
    return taps * inputs * outputs + outputs


# PocketNet's blocks: parameters by input channels, channels and taps of a kernel
BLOCKS: dict[str, Callable[[int, int, int], int]] = {
    "U-Net": lambda inputs, width, taps: count_conv(inputs, width, taps) + count_conv(width, width, taps),
    # an addition has no parameters
    "ResNet": lambda inputs, width, taps: BLOCKS["U-Net"](inputs, width, taps),
    "ResNet, released": lambda inputs, width, taps: (
        BLOCKS["U-Net"](inputs, width, taps) + count_conv(inputs + width, width, 1)
    ),
    "DenseNet": lambda inputs, width, taps: (
        count_conv(inputs, width, taps)
        + count_conv(inputs + width, width, taps)
        + count_conv(inputs + 2 * width, width, 1)
    ),
}


def count_pocketnet(channels: Sequence[int], taps: int, block: str = "U-Net", outputs: int = 1) -> int:
    """Parameters of PocketNet's released code: 9 taps in 2-D, 27 in 3-D, where height and width alone are halved."""
    total, inputs = 0, 1
    for width in channels:
        total += BLOCKS[block](inputs, width, taps)
        inputs = width
    for width in reversed(channels[:-1]):
        total += count_conv(inputs, width, 4) + BLOCKS[block](2 * width, width, taps)
        inputs = width
    return total + count_conv(inputs, outputs, 1)


def count_stem_network(channels: Sequence[int], block: str = "U-Net") -> int:
    """
    Parameters of the network that fits PocketNet's 2-D numbers in Table 2, which is not the released one.

    A 7 x 7 stem; blocks that keep their width, a 1 x 1 convolution where it doubles; no skip but the stem's, before the
    head. A dense block has one 1 x 1 convolution of its input and both results more.
    """
    dense = block == "DenseNet"
    blocks = [*channels, *channels[-2::-1]]
    total = sum(2 * count_conv(width, width, 9) + dense * count_conv(3 * width, width, 1) for width in blocks)
    for narrow, wide in zip(channels, channels[1:]):
        total += count_conv(wide, narrow, 4) + (count_conv(narrow, wide, 1) if narrow != wide else 0)
    return total + count_conv(1, channels[0], 49) + count_conv(2 * channels[0], 1, 1)

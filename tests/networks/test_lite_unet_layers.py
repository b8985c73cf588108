"""The layers of LiteUNet: their order, parameters and FLOPs are those of the papers."""

from __future__ import annotations

import copy

import pytest
import torch
from paper_networks import ROWS, UNPRUNED, build, build_on_meta
from torch import nn

from common.compression.complexity import count_flops, count_parameters
from common.networks import LiteUNet, StdConv2d
from zoo.variants import VARIANTS

# parameters and FLOPs at 1 x 1 x 256 x 256
PUBLISHED = {
    "UNet": (31_030_723, 96_200_556_544),
    "WP-UNet": (1_244_035, 3_668_836_352),
    "SD-UNet": (3_926_659, 16_710_369_280),
    "UNet-PWP": (31_030_723, 96_200_556_544),
    "Pocket U-Net": (53_027, 1_775_501_312),
}


# ---- parameters and FLOPs, against the published numbers and against the papers' layer lists

Cost = tuple[int, int]


def conv(inputs: int, outputs: int, kernel: int, size: int) -> Cost:
    multiply_adds = kernel * kernel * inputs * outputs
    return multiply_adds + outputs, 2 * multiply_adds * size * size


def separable(inputs: int, outputs: int, size: int) -> Cost:
    multiply_adds = 9 * inputs + inputs * outputs
    return multiply_adds + outputs, 2 * multiply_adds * size * size


def transposed(inputs: int, outputs: int, input_size: int) -> Cost:
    return conv(inputs, outputs, 2, input_size)


def norm(channels: int) -> Cost:
    return 2 * channels, 0


def add(costs: list[Cost]) -> Cost:
    return sum(parameters for parameters, _ in costs), sum(flops for _, flops in costs)


def cost_of_unet(channels, inputs=1, outputs=3, size=256) -> Cost:
    """Two convolutions per level; transposed convolution, concat, two convolutions; head."""
    costs, width = [], inputs
    for level, c in enumerate(channels):
        costs += [conv(width, c, 3, size >> level), conv(c, c, 3, size >> level)]
        width = c
    for level in reversed(range(len(channels) - 1)):
        c = channels[level]
        costs += [
            transposed(width, c, size >> (level + 1)),
            conv(2 * c, c, 3, size >> level),
            conv(c, c, 3, size >> level),
        ]
        width = c
    return add([*costs, conv(width, outputs, 1, size)])


def cost_of_wp_unet(channels, inputs=1, outputs=3, size=256) -> Cost:
    """A standard convolution, blocks of two separable ones with BatchNorm, one separable in the bottleneck."""
    *blocks, bottleneck = channels
    costs, width = [conv(inputs, blocks[0], 3, size), norm(blocks[0])], blocks[0]
    for level, c in enumerate(blocks[1:], start=1):
        costs += [separable(width, c, size >> level), separable(c, c, size >> level), norm(c)]
        width = c
    costs.append(separable(width, bottleneck, size >> len(blocks)))
    width = bottleneck
    for level, c in reversed(list(enumerate(blocks))):
        costs.append(transposed(width, c, size >> (level + 1)))
        costs += [separable(2 * c, c, size >> level), separable(c, c, size >> level), norm(c)]
        width = c
    return add([*costs, conv(width, outputs, 1, size)])


def cost_of_sd_unet(channels, inputs=1, outputs=3, size=256) -> Cost:
    """As WP-UNet with a whole block in the bottleneck, upsampling and a separable convolution, a block and one more."""
    first = channels[0]
    costs, width = [conv(inputs, first, 3, size), norm(first)], first
    for level, c in enumerate(channels[1:], start=1):
        costs += [separable(width, c, size >> level), separable(c, c, size >> level), norm(c)]
        width = c
    for level, c in reversed(list(enumerate(channels[:-1]))):
        costs.append(separable(width, c, size >> level))
        costs += [separable(2 * c, c, size >> level), separable(c, c, size >> level), norm(c)]
        width = c
    costs += [separable(first, first, size), separable(first, first, size), norm(first), separable(first, first, size)]
    return add([*costs, conv(first, outputs, 1, size)])


FORMULAS = {
    "UNet": cost_of_unet,
    "WP-UNet": cost_of_wp_unet,
    "SD-UNet": cost_of_sd_unet,
    "UNet-PWP": cost_of_unet,
    "Pocket U-Net": cost_of_unet,
}


def cost_of(**kwargs) -> Cost:
    network = build_on_meta(**kwargs)
    return count_parameters(network), count_flops(network, (1, kwargs.get("in_channels", 1), 256, 256))


def test_published_numbers_cover_the_five():
    assert list(PUBLISHED) == list(FORMULAS) == [variant.title for variant in VARIANTS]


@pytest.mark.parametrize("row", PUBLISHED)
def test_parameters_and_flops_are_the_published_ones(row):
    assert cost_of(**UNPRUNED[row]) == PUBLISHED[row]


@pytest.mark.parametrize("row", FORMULAS)
def test_parameters_and_flops_follow_from_the_paper_s_layers(row):
    assert FORMULAS[row](UNPRUNED[row]["channels"]) == PUBLISHED[row]
    assert FORMULAS[row](ROWS[row]["channels"]) == cost_of(**ROWS[row])


@pytest.mark.parametrize("row", FORMULAS)
def test_other_widths_inputs_and_outputs_follow_the_same_layers(row):
    for channels in ([32, 64, 128, 256, 512], [32, 96, 64, 160, 32]):
        kwargs = ROWS[row] | {"channels": channels, "in_channels": 4, "out_channels": 7}
        assert cost_of(**kwargs) == FORMULAS[row](channels, 4, 7), channels


def test_wp_unet_has_1920_running_statistics_besides_its_parameters():
    buffers = dict(build("WP-UNet").named_buffers())
    running = [b.numel() for name, b in buffers.items() if name.endswith(("running_mean", "running_var"))]
    assert sum(running) == 1_920


@pytest.mark.parametrize("row", ["WP-UNet", "U-Net (depthwise + BN)", "SD-UNet with BN"])
def test_batch_norm_is_that_of_keras(row):
    norms = [module for module in build(row).modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and {(module.momentum, module.eps) for module in norms} == {(0.01, 0.001)}


@pytest.mark.parametrize("row", ["SD-UNet", "U-Net (depthwise + GN)", "U-Net (GN)"])
def test_group_norm_has_32_groups(row):
    norms = [module for module in build(row).modules() if isinstance(module, nn.GroupNorm)]
    assert norms and {(module.num_groups, module.eps) for module in norms} == {(32, 1e-5)}


# ---- the layers, in the order in which they run


def describe(module: nn.Module) -> str:
    if isinstance(module, nn.ConvTranspose2d):
        return f"transposed {module.in_channels}-{module.out_channels}"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        assert module.in_channels == module.out_channels == module.groups and module.bias is None
        return ("ws-depthwise" if isinstance(module, StdConv2d) else "depthwise") + f" {module.groups}"
    if isinstance(module, nn.Conv2d):
        assert module.bias is not None and not isinstance(module, StdConv2d)
        return f"conv{module.kernel_size[0]} {module.in_channels}-{module.out_channels}"
    if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        return f"norm {getattr(module, 'num_features', None) or module.num_channels}"
    if isinstance(module, nn.Dropout):
        return f"dropout {module.p}"
    return type(module).__name__.lower().removesuffix("2d")


@torch.no_grad()
def trace_layers(**kwargs) -> list[str]:
    """What runs in a forward pass, layer by layer."""
    network, layers = build_on_meta(**kwargs).eval(), []
    for module in network.modules():
        if not list(module.children()) and not isinstance(module, nn.Sequential):
            module.register_forward_hook(lambda module, *_: layers.append(describe(module)))
    network(torch.empty(1, 1, 32, 32, device="meta"))
    return layers


LAYERS = {
    "WP-UNet": [
        "conv3 1-32, relu, norm 32",
        "maxpool, depthwise 32, conv1 32-64, relu, depthwise 64, conv1 64-64, relu, norm 64",
        "maxpool, depthwise 64, conv1 64-128, relu, depthwise 128, conv1 128-128, relu, norm 128",
        "maxpool, depthwise 128, conv1 128-256, relu, depthwise 256, conv1 256-256, relu, norm 256, dropout 0.5",
        "maxpool, depthwise 256, conv1 256-512, relu, dropout 0.5",
        "transposed 512-256, depthwise 512, conv1 512-256, relu, depthwise 256, conv1 256-256, relu, norm 256",
        "transposed 256-128, depthwise 256, conv1 256-128, relu, depthwise 128, conv1 128-128, relu, norm 128",
        "transposed 128-64, depthwise 128, conv1 128-64, relu, depthwise 64, conv1 64-64, relu, norm 64",
        "transposed 64-32, depthwise 64, conv1 64-32, relu, depthwise 32, conv1 32-32, relu, norm 32",
        "conv1 32-3",
    ],
    "SD-UNet": [
        "conv3 1-64, relu, norm 64",
        "maxpool, ws-depthwise 64, conv1 64-128, relu, ws-depthwise 128, conv1 128-128, relu, norm 128",
        "maxpool, ws-depthwise 128, conv1 128-256, relu, ws-depthwise 256, conv1 256-256, relu, norm 256",
        "maxpool, ws-depthwise 256, conv1 256-512, relu, ws-depthwise 512, conv1 512-512, relu, norm 512, dropout 0.5",
        "maxpool, ws-depthwise 512, conv1 512-1024, relu, ws-depthwise 1024, conv1 1024-1024, relu, norm 1024",
        "dropout 0.5",
        "upsample, ws-depthwise 1024, conv1 1024-512, relu",
        "ws-depthwise 1024, conv1 1024-512, relu, ws-depthwise 512, conv1 512-512, relu, norm 512",
        "upsample, ws-depthwise 512, conv1 512-256, relu",
        "ws-depthwise 512, conv1 512-256, relu, ws-depthwise 256, conv1 256-256, relu, norm 256",
        "upsample, ws-depthwise 256, conv1 256-128, relu",
        "ws-depthwise 256, conv1 256-128, relu, ws-depthwise 128, conv1 128-128, relu, norm 128",
        "upsample, ws-depthwise 128, conv1 128-64, relu",
        "ws-depthwise 128, conv1 128-64, relu, ws-depthwise 64, conv1 64-64, relu, norm 64",
        "ws-depthwise 64, conv1 64-64, relu, ws-depthwise 64, conv1 64-64, relu, norm 64",
        "ws-depthwise 64, conv1 64-64, relu",
        "conv1 64-3",
    ],
    "Pocket U-Net": [
        "conv3 1-16, relu, conv3 16-16, relu",
        *["maxpool, conv3 16-16, relu, conv3 16-16, relu"] * 4,
        *["transposed 16-16, conv3 32-16, relu, conv3 16-16, relu"] * 4,
        "conv1 16-3",
    ],
}


@pytest.mark.parametrize("row", LAYERS)
def test_layers_run_in_the_paper_s_order(row):
    assert trace_layers(**ROWS[row]) == ", ".join(LAYERS[row]).split(", ")


@torch.no_grad()
def test_skips_join_the_levels_they_come_from():
    # the convolutions of a dead bottleneck give zeros; the image still reaches the output through every skip
    network = LiteUNet(channels=(4, 4, 4), num_convs=(1, 1, 1))
    x = torch.randn(1, 1, 8, 8)
    for level in (0, 1):
        cut = copy.deepcopy(network)
        for parameter in cut.encoder[level + 1].parameters():
            parameter.zero_()
        assert cut(x).std() > 0, level
    for parameter in network.encoder[0].parameters():
        parameter.zero_()
    assert network(x).std() == 0, "without its first level the network sees nothing"

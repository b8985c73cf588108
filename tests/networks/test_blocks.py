from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.networks import StdConv2d, standardize_weight
from common.networks.blocks import ConvBlock, SeparableConv, UpCat

GROUP_NORM = ("group", {"num_groups": 2})


def names_of(module: nn.Module) -> list[str]:
    return [type(child).__name__ for child in module.children()]


def test_separable_conv_has_no_depthwise_bias_and_a_pointwise_one():
    shapes = {name: tuple(tensor.shape) for name, tensor in SeparableConv(4, 6).state_dict().items()}
    assert shapes == {"depthwise.weight": (4, 1, 3, 3), "pointwise.weight": (6, 4, 1, 1), "pointwise.bias": (6,)}


@pytest.mark.parametrize("weight_standardization", [False, True])
def test_separable_conv_is_the_composition_written_by_hand(weight_standardization):
    conv = SeparableConv(3, 5, weight_standardization)
    x = torch.randn(2, 3, 6, 4)
    depthwise = conv.depthwise.weight
    if weight_standardization:
        depthwise = standardize_weight(depthwise)
    # channel by channel, then a matrix over the channels: nothing between
    filtered = torch.cat([F.conv2d(x[:, c : c + 1], depthwise[c : c + 1], padding=1) for c in range(3)], dim=1)
    mixed = torch.einsum("oi,bihw->bohw", conv.pointwise.weight[:, :, 0, 0], filtered)
    expected = mixed + conv.pointwise.bias.reshape(1, 5, 1, 1)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "shape", "expected"),
    [
        ({"in_channels": 1, "out_channels": 4}, (1, 1, 9, 9), (1, 4, 9, 9)),
        ({"in_channels": 3, "out_channels": 4, "num_convs": 1}, (2, 3, 5, 8), (2, 4, 5, 8)),
        ({"in_channels": 4, "out_channels": 2, "num_convs": 3, "separable": True}, (1, 4, 1, 1), (1, 2, 1, 1)),
        ({"in_channels": 2, "out_channels": 4, "norm": "batch"}, (2, 2, 6, 3), (2, 4, 6, 3)),
        ({"in_channels": 2, "out_channels": 4, "norm": GROUP_NORM, "dropout": 0.5}, (1, 2, 4, 4), (1, 4, 4, 4)),
    ],
)
def test_block_keeps_height_and_width(kwargs, shape, expected):
    assert ConvBlock(**kwargs)(torch.randn(shape)).shape == expected


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, "Conv2d ReLU Conv2d ReLU"),
        ({"num_convs": 1}, "Conv2d ReLU"),
        ({"num_convs": 3, "separable": True}, "SeparableConv ReLU SeparableConv ReLU SeparableConv ReLU"),
        ({"norm": "batch"}, "Conv2d ReLU Conv2d ReLU BatchNorm2d"),
        ({"norm": GROUP_NORM}, "Conv2d ReLU Conv2d ReLU GroupNorm"),
        ({"norm": ["group", {"num_groups": 2}], "dropout": 0.5}, "Conv2d ReLU Conv2d ReLU GroupNorm Dropout"),
        ({"num_convs": 1, "dropout": 0.5}, "Conv2d ReLU Dropout"),
    ],
)
def test_block_is_convolutions_with_relu_then_norm_then_dropout(kwargs, expected):
    assert names_of(ConvBlock(2, 4, **kwargs)) == expected.split()


def test_block_runs_its_layers_in_their_order():
    block = ConvBlock(2, 4, norm="batch", dropout=0.5).eval()
    x = torch.randn(2, 2, 5, 5)
    expected = F.relu(block.conv2(F.relu(block.conv1(x))))
    torch.testing.assert_close(block(x), block.norm(expected))
    assert block(x).min() >= 0, "an untrained batch norm in eval mode keeps what ReLU made"


def test_block_passes_the_arguments_of_norm_and_dropout_on():
    block = ConvBlock(2, 4, norm=["batch", {"momentum": 0.01, "eps": 0.001}], dropout=0.25)
    assert (block.norm.momentum, block.norm.eps, block.norm.num_features) == (0.01, 0.001, 4)
    assert block.dropout.p == 0.25
    group = ConvBlock(2, 4, norm=GROUP_NORM).norm
    assert (group.num_groups, group.num_channels, group.eps) == (2, 4, 1e-5)


def test_weight_standardization_is_for_the_depthwise_filters_alone():
    def count(**kwargs) -> int:
        return sum(isinstance(module, StdConv2d) for module in ConvBlock(2, 4, **kwargs).modules())

    assert count(separable=True, weight_standardization=True) == 2
    assert count(separable=True) == 0
    assert count(weight_standardization=True) == 0
    block = ConvBlock(2, 4, separable=True, weight_standardization=True)
    assert type(block.conv1.depthwise) is StdConv2d and type(block.conv1.pointwise) is nn.Conv2d


@pytest.mark.parametrize(
    ("kwargs", "x_shape", "skip_shape"),
    [
        ({"in_channels": 8, "skip_channels": 4}, (1, 8, 3, 5), (1, 4, 6, 10)),
        ({"in_channels": 4, "skip_channels": 4, "upsample": "nearest"}, (2, 4, 1, 2), (2, 4, 2, 4)),
        ({"in_channels": 3, "skip_channels": 2, "separable": True, "norm": "batch"}, (2, 3, 2, 2), (2, 2, 4, 4)),
        (
            {"in_channels": 6, "skip_channels": 4, "upsample": "nearest", "separable": True, "norm": GROUP_NORM},
            (1, 6, 2, 3),
            (1, 4, 4, 6),
        ),
    ],
)
def test_up_cat_gives_the_shape_of_its_skip(kwargs, x_shape, skip_shape):
    assert UpCat(**kwargs)(torch.randn(x_shape), torch.randn(skip_shape)).shape == skip_shape


@pytest.mark.parametrize("upsample", ["deconv", "nearest"])
@torch.no_grad()
def test_up_cat_concatenates_the_skip_first_and_then_what_came_up(upsample):
    up_cat = UpCat(in_channels=3, skip_channels=2, upsample=upsample)
    conv1, conv2 = up_cat.block.conv1, up_cat.block.conv2
    for conv in (conv1, conv2):
        conv.weight.zero_()
        conv.bias.zero_()
    conv2.weight[[0, 1], [0, 1], 1, 1] = 1  # passes both channels on
    x, skip = torch.randn(1, 3, 3, 2), torch.rand(1, 2, 6, 4)

    conv1.weight[[0, 1], [0, 1], 1, 1] = 1  # picks channels 0 and 1
    torch.testing.assert_close(up_cat(x, skip), skip)

    conv1.weight.zero_()
    conv1.weight[[0, 1], [2, 3], 1, 1] = 1  # picks channels 2 and 3
    up = F.relu(up_cat.up(x))
    assert up.max() > 0
    torch.testing.assert_close(up_cat(x, skip), up)


@torch.no_grad()
def test_deconv_writes_every_pixel_into_a_square_of_its_own():
    up = UpCat(in_channels=1, skip_channels=1).up
    assert (up.kernel_size, up.stride) == ((2, 2), (2, 2))
    up.weight.copy_(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    up.bias.fill_(0.5)
    expected = torch.tensor([[10.5, 20.5, 1.5, 2.5], [30.5, 40.5, 3.5, 4.5]])
    torch.testing.assert_close(up(torch.tensor([[[[10.0, 1.0]]]]))[0, 0], expected)


@pytest.mark.parametrize("separable", [False, True])
def test_nearest_is_upsampling_then_a_convolution_of_the_block_s_kind_then_relu(separable):
    up = UpCat(2, 4, "nearest", separable=separable, weight_standardization=separable).up
    conv = up[1].conv1
    assert names_of(up) == ["Upsample", "ConvBlock"]
    assert names_of(up[1]) == ["SeparableConv" if separable else "Conv2d", "ReLU"]
    assert isinstance(conv.depthwise, StdConv2d) if separable else conv.kernel_size == (3, 3)
    x = torch.randn(1, 2, 2, 3)
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(up(x), F.relu(conv(repeated)))


def test_arguments_of_the_block_reach_it():
    block = UpCat(4, 2, norm="batch", separable=True, num_convs=1).block
    assert names_of(block) == ["SeparableConv", "ReLU", "BatchNorm2d"]


@pytest.mark.parametrize("upsample", ["bilinear", "", None])
def test_up_cat_names_an_upsampling_that_it_does_not_know(upsample):
    with pytest.raises(ValueError, match=re.escape(f"must be 'deconv' or 'nearest', got upsample={upsample!r}.")):
        UpCat(4, 2, upsample=upsample)

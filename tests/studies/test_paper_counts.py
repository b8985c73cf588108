"""Counts and conversions of the audit: as torch, the papers and arithmetic give them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from common.compression.complexity import count_parameters
from common.compression.zeros import SigmaThreshold
from common.networks import LiteUNet
from common.partitioning.layers import measure_layers
from studies.audit import SIGMA_RATIOS
from studies.audit.claims import FULL, POCKET, build, find_flat_response
from studies.audit.paper_counts import (
    compute_sigma_share,
    compute_valid_size,
    convert_dice_to_iou,
    convert_iou_to_dice,
    count_as_tensorflow,
    count_conv,
    count_pocketnet,
    count_stem_network,
    count_weights,
    measure_flat_response,
)

# ---- counts


@pytest.mark.parametrize(
    "layer, taps",
    [
        (nn.Conv2d(3, 5, 3), 9),
        (nn.Conv2d(3, 5, 7), 49),
        (nn.Conv3d(3, 5, 3), 27),
        (nn.Conv3d(3, 5, 1), 1),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), 4),
        (nn.ConvTranspose3d(3, 5, (1, 2, 2), stride=(1, 2, 2)), 4),
    ],
)
def test_a_convolution_has_the_parameters_of_torch_s(layer, taps):
    assert count_conv(3, 5, taps) == count_parameters(layer)


@pytest.mark.parametrize("channels", [POCKET, FULL, [4, 6], [3, 5, 4]])
@pytest.mark.parametrize("outputs", [1, 3])
def test_pocketnet_s_2d_code_is_our_network(channels, outputs):
    with torch.device("meta"):
        network = LiteUNet(out_channels=outputs, channels=channels, num_convs=[2] * len(channels))
    assert count_pocketnet(channels, 9, outputs=outputs) == count_parameters(network)


@pytest.mark.parametrize(
    "taps, block, outputs, expected",
    [
        (9, "U-Net", 1, (52_993, 1_940_817)),
        (9, "U-Net", 3, (53_027, 1_940_851)),
        (27, "U-Net", 1, (150_049, 5_470_833)),
        (27, "U-Net", 2, (150_066, 5_470_850)),
        (27, "U-Net", 3, (150_083, 5_470_867)),
        (27, "DenseNet", 1, (241_265, 8_127_249)),
    ],
)
def test_pocketnet_s_numbers_are_the_published_ones(taps, block, outputs, expected):
    assert tuple(count_pocketnet(channels, taps, block, outputs) for channels in (POCKET, FULL)) == expected


@pytest.mark.parametrize("block, expected", [("U-Net", (36_433, 544_081)), ("DenseNet", (41_921, 625_841))])
def test_the_stem_network_has_the_numbers_of_table_2(block, expected):
    assert tuple(count_stem_network(channels[:4], block) for channels in (POCKET, FULL)) == expected


def test_weights_are_the_kernels_alone():
    network = LiteUNet(channels=(4, 8), num_convs=(1, 1), norm="batch")
    without_bias = 9 * 4 + 9 * 4 * 8 + 4 * 8 * 4 + 9 * 8 * 4 + 9 * 4 * 4 + 4 * 3
    assert count_weights(network) == without_bias < count_parameters(network)


def test_tensorflow_s_count_is_the_arithmetic_of_a_small_network():
    layers = measure_layers(LiteUNet(channels=(2, 4), num_convs=(1, 1)), (1, 1, 8, 8))
    up = 2 * 4 * 4 * 2 * 64  # 2 x 2 taps on the doubled grid
    convs = 2 * 9 * 64 * (1 * 2 + 4 * 2 + 2 * 2) + 2 * 9 * 16 * (2 * 4) + 2 * 64 * 2 * 3
    biases = 64 * (2 + 2 + 2 + 2 + 3) + 16 * 4
    assert list(count_as_tensorflow(layers).values()) == [convs + up, biases, 4 * 16 * 2, 2]


def test_tensorflow_s_count_of_the_u_net_is_the_published_one_part_by_part():
    counts = list(count_as_tensorflow(measure_layers(build("UNet"))).values())
    assert counts == [109_085_458_432, 40_042_496, 7_864_320, 8] and sum(counts) == 109_133_365_256


@pytest.mark.parametrize("size", [572, 540, 188])
def test_the_valid_size_is_that_of_convolutions_without_padding(size):
    kernel, up = torch.empty(1, 1, 3, 3, device="meta"), torch.empty(1, 1, 2, 2, device="meta")
    x = torch.empty(1, 1, size, size, device="meta")
    for level in range(9):
        x = functional.conv2d(functional.conv2d(x, kernel), kernel)
        if level < 4:
            x = functional.max_pool2d(x, 2)
        elif level < 8:
            x = functional.conv_transpose2d(x, up, stride=2)
    assert compute_valid_size(size) == x.shape[-1]


def test_only_what_standardizes_filter_by_filter_is_blind_to_a_flat_image():
    assert find_flat_response("filter") < 1e-5
    assert min(find_flat_response("layer"), find_flat_response(False)) > 0.1
    with torch.no_grad():
        brightness = LiteUNet(channels=[1, 1], num_convs=[1, 1])
        for parameter in brightness.parameters():
            parameter.fill_(0.0)
        brightness.encoder[0].conv1.weight[..., 1, 1] = 1
        brightness.decoder[0].block.conv1.weight[:, 0, 1, 1] = 1  # the skip
        brightness.decoder[0].block.conv2.weight[..., 1, 1] = 1
        brightness.head.weight[2] = 3
    assert measure_flat_response(brightness) == 3


# ---- conversions


def test_dice_and_iou_of_masks_convert_into_each_other():
    masks = torch.rand(2, 50, 30, generator=torch.Generator().manual_seed(0)) < torch.linspace(0.1, 0.9, 50)[:, None]
    both = (masks[0] & masks[1]).sum(1)
    dice, iou = 2 * both / masks.sum(2).sum(0), both / (masks[0] | masks[1]).sum(1)
    for d, i in zip(dice.tolist(), iou.tolist()):
        assert convert_dice_to_iou(d) == pytest.approx(i) and convert_iou_to_dice(i) == pytest.approx(d)
    # and of means the formula is a bound
    assert iou.mean() > convert_dice_to_iou(dice.mean().item())
    assert dice.mean() < convert_iou_to_dice(iou.mean().item())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("ratio", SIGMA_RATIOS)
def test_algorithm_2_zeroes_the_share_that_the_error_function_gives(ratio, signed):
    # quantiles, so that no chance is in it
    weights = torch.special.ndtri((torch.arange(200_001, dtype=torch.float64) + 0.5) / 200_001)
    kept = SigmaThreshold(ratio, signed).compute_mask(weights, torch.ones_like(weights)).mean().item()
    assert 1 - kept == pytest.approx(compute_sigma_share(ratio, signed), abs=1e-4)


def test_the_shares_are_those_of_the_tables_of_the_normal_distribution():
    shares = [compute_sigma_share(ratio, signed) for ratio, signed in [(0.6745, False), (1.0, False), (0.5, True)]]
    assert shares == pytest.approx([0.5, 0.6827, 0.6915], abs=1e-4)

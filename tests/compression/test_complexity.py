from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from common.compression.complexity import (
    Complexity,
    count_flops,
    count_nonzero_parameters,
    count_parameters,
    count_weights_bytes,
    measure_complexity,
)
from common.networks import LiteUNet

# network, input shape, parameters, FLOPs = 2 x taps x in / groups x out x pixels, weight bytes
TINY_NETWORKS = {
    "convolution": (nn.Conv2d(4, 6, 3, padding=1), (1, 4, 5, 7), 9 * 4 * 6 + 6, 2 * 9 * 4 * 6 * 5 * 7, 4 * (216 + 6)),
    "without bias": (nn.Conv2d(4, 6, 1, bias=False), (1, 4, 5, 7), 4 * 6, 2 * 4 * 6 * 5 * 7, 4 * 24),
    "without padding": (nn.Conv2d(1, 1, 3), (1, 1, 5, 7), 9 + 1, 2 * 9 * 3 * 5, 4 * 10),
    "strided": (nn.Conv2d(1, 1, 3, stride=2, padding=1), (1, 1, 8, 6), 9 + 1, 2 * 9 * 4 * 3, 4 * 10),
    "two groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (1, 4, 5, 7), 9 * 2 * 6 + 6, 2 * 9 * 2 * 6 * 35, 4 * 114),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (1, 4, 5, 7), 9 * 4 + 4, 2 * 9 * 4 * 35, 4 * 40),
    # of a transposed convolution every input pixel passes every tap
    "transposed": (nn.ConvTranspose2d(3, 2, 2, stride=2), (1, 3, 5, 7), 4 * 3 * 2 + 2, 2 * 4 * 3 * 2 * 35, 4 * 26),
    "transposed, two groups": (
        nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
        (1, 4, 5, 7),
        4 * 2 * 6 + 6,
        2 * 4 * 2 * 6 * 35,
        4 * 54,
    ),
    # weight and bias; the running mean and variance and an eight-byte counter are bytes, but no parameters
    "batch norm": (nn.BatchNorm2d(5), (1, 5, 3, 3), 2 * 5, 0, 4 * 4 * 5 + 8),
    "group norm": (nn.GroupNorm(2, 6), (1, 6, 3, 3), 2 * 6, 0, 4 * 2 * 6),
    "nothing to learn": (
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Upsample(scale_factor=2)),
        (1, 1, 4, 4),
        0,
        0,
        0,
    ),
    "two layers": (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 1)),
        (1, 1, 6, 6),
        (9 * 2 + 2) + (2 * 3 + 3),
        (2 * 9 * 2 + 2 * 2 * 3) * 16,
        4 * 29,
    ),
}


@pytest.mark.parametrize("name", TINY_NETWORKS)
def test_counts_are_the_arithmetic_of_the_layers(name):
    network, shape, parameters, flops, weights_bytes = TINY_NETWORKS[name]
    assert count_parameters(network) == parameters
    assert count_flops(network, shape) == flops
    assert count_weights_bytes(network) == weights_bytes


@pytest.mark.parametrize("name", ["convolution", "strided", "two groups", "transposed", "batch norm"])
@pytest.mark.parametrize("scale", [(5, 1, 1), (1, 2, 1), (1, 1, 4), (3, 2, 2)])
def test_flops_scale_with_batch_height_and_width(name, scale):
    network, (batch, channels, height, width), *_ = TINY_NETWORKS[name]
    scaled = (scale[0] * batch, channels, scale[1] * height, scale[2] * width)
    product = scale[0] * scale[1] * scale[2]
    assert count_flops(network, scaled) == product * count_flops(network, (batch, channels, height, width))


def test_flops_of_a_whole_network_scale_with_batch_and_area():
    network = LiteUNet(channels=(2, 3, 4), num_convs=(1, 1, 1))
    once = count_flops(network, (1, 1, 8, 8))
    assert once > 0
    assert count_flops(network, (2, 1, 24, 16)) == 2 * 3 * 2 * once


def test_flops_are_by_default_those_of_one_slice_of_256_x_256():
    assert count_flops(nn.Conv2d(1, 1, 1)) == 2 * 256 * 256


def test_flops_of_an_input_too_large_for_memory():
    assert count_flops(nn.Conv2d(1, 1, 1), (1, 1, 10**6, 10**6)) == 2 * 10**12


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], 0),
        ([1.0, -2.0, 3.0, -4.0], 4),
        ([0.0, 1e-45, -1e-30, -0.0], 2),  # the smallest number is not zero, minus zero is
        ([float("nan"), float("inf"), 0.0, 0.0], 2),
    ],
)
def test_only_exact_zeros_are_not_counted(values, expected):
    conv = nn.Conv2d(1, 1, 2, bias=False)
    conv.load_state_dict({"weight": torch.tensor(values).reshape(1, 1, 2, 2)})
    assert count_nonzero_parameters(conv) == expected
    assert count_parameters(conv) == 4


def test_running_statistics_are_no_non_zeros():
    norm = nn.BatchNorm2d(3)  # weight 1, bias 0, running variance 1
    assert count_nonzero_parameters(norm) == 3


def test_frozen_parameters_are_still_parameters():
    conv = nn.Conv2d(1, 1, 3)
    conv.weight.requires_grad_(False)
    assert count_parameters(conv) == 10


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Conv2d(1, 2, 3).half(), 2 * 20),
        (nn.Conv2d(1, 2, 3).double(), 8 * 20),
        (nn.BatchNorm2d(5).half(), 2 * 4 * 5 + 8),  # the counter stays an integer
        (nn.Sequential(nn.Conv2d(1, 2, 3).half(), nn.Conv2d(2, 1, 1)), 2 * 20 + 4 * 3),
    ],
)
def test_weight_bytes_follow_the_type_of_every_tensor(network, expected):
    assert count_weights_bytes(network) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_changes_no_flops(dtype):
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)).to(dtype)
    assert count_flops(network, (1, 1, 4, 4)) == 2 * 9 * 2 * 16


def test_a_network_in_training_mode_is_counted_in_eval_mode():
    # in training mode a batch norm refuses one value per channel
    assert count_flops(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train(), (1, 1, 1, 1)) == 2 * 2


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_network_alone(training):
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout(0.5)).train(training)
    before = copy.deepcopy(network.state_dict())
    measure_complexity(network, (2, 1, 4, 4))
    for module in network.modules():
        assert module.training is training
        assert not module._forward_hooks and not module._forward_pre_hooks
    for name, tensor in network.state_dict().items():
        assert tensor.device.type == "cpu" and torch.equal(tensor, before[name]), name
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_measure_complexity_gives_every_count_at_once():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2))
    with torch.no_grad():
        network[0].weight.fill_(1.0)[0].zero_()
        network[0].bias.zero_()
    assert measure_complexity(network, [2, 1, 4, 6]) == Complexity(
        parameters=20 + 4,
        nonzero_parameters=9 + 2,
        flops=2 * 9 * 2 * 24 * 2,
        weights_bytes=4 * (20 + 8) + 8,
        input_shape=(2, 1, 4, 6),
    )


def test_a_complexity_does_not_change():
    complexity = measure_complexity(nn.Conv2d(1, 1, 1), (1, 1, 2, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        complexity.flops = 0

"""The graph of a network's layers: their names, and what each costs."""

from __future__ import annotations

import json

import pytest
import torch
from variant_layers import ROWS, measure

from common.compression.complexity import count_flops, count_parameters
from common.networks import LiteUNet
from common.partitioning.layers import Layer, measure_layers


def test_the_layers_of_the_u_net_are_those_of_the_paper():
    down = [name for level in range(1, 5) for name in (f"conv{level}_1", f"conv{level}_2", f"pool{level}")]
    up = [
        name for level in range(6, 10) for name in (f"up{level}", f"concat{level}", f"conv{level}_1", f"conv{level}_2")
    ]
    expected = ["input", *down, "conv5_1", "conv5_2", *up, "conv10"]
    assert [layer.name for layer in measure("UNet")] == expected


@pytest.mark.parametrize(
    ("kwargs", "names"),
    [
        ({}, "input conv1_1 pool1 conv2_1 up3 concat3 conv3_1 conv3_2 conv4"),
        (
            {"separable": True, "weight_standardization": True, "norm": "batch", "dropout": 0.5},
            "input conv1_1 pool1 conv2_1 up3 concat3 conv3_1 conv3_2 conv4",
        ),
        (
            {"separable": True, "upsample": "nearest", "refine": True},
            "input conv1_1 pool1 conv2_1 up3 concat3 conv3_1 conv3_2 refine1_1 refine1_2 refine2_1 conv4",
        ),
    ],
    ids=["plain", "separable", "refined"],
)
def test_norm_dropout_and_the_pointwise_half_belong_to_the_layer_before(kwargs, names):
    network = LiteUNet(channels=(2, 4), num_convs=(1, 1), **kwargs)
    assert [layer.name for layer in measure_layers(network, (1, 1, 4, 4))] == names.split()


def test_costs_are_the_arithmetic_of_the_layers():
    network = LiteUNet(2, 3, channels=(4, 8), num_convs=(1, 1), separable=True, norm="batch")
    layers = {layer.name: layer for layer in measure_layers(network, (5, 2, 6, 10))}
    pixels, low = 5 * 6 * 10, 5 * 3 * 5
    assert layers["conv1_1"] == Layer(
        "conv1_1", 9 * 2 * 4 + 4 + 2 * 4, 2 * 9 * 2 * 4 * pixels, 2 * 2 * 4 * pixels, 4 * 4 * pixels, (0,)
    )
    # depthwise, then pointwise
    assert layers["conv2_1"] == Layer(
        "conv2_1",
        9 * 4 + 4 * 8 + 8 + 2 * 8,
        (2 * 9 * 4 + 2 * 4 * 8) * low,
        (2 * 4 + 2 * 4 * 8) * low,
        4 * 8 * low,
        (2,),
    )
    # a transposed convolution counts its input's pixels
    assert layers["up3"] == Layer("up3", 4 * 8 * 4 + 4, 2 * 4 * 8 * 4 * low, 2 * 8 * 4 * low, 4 * 4 * pixels, (3,))
    assert layers["concat3"] == Layer("concat3", 0, 0, 0, 4 * 8 * pixels, (1, 4))


@pytest.mark.parametrize("title", ROWS)
def test_the_layers_together_cost_what_the_network_costs(title):
    with torch.device("meta"):
        network = LiteUNet(**ROWS[title])
    assert sum(layer.parameters for layer in measure(title)) == count_parameters(network)
    assert sum(layer.flops for layer in measure(title)) == count_flops(network)


def test_a_size_that_the_network_does_not_take_is_refused():
    with pytest.raises(ValueError, match="height and width must be divisible by 2, got 5 x 4"):
        measure_layers(LiteUNet(channels=(2, 4), num_convs=(1, 1)), (1, 1, 5, 4))


def test_layers_of_bundles_and_of_the_zoo_are_the_same(copy_bundle):
    from common.bundle_folder import build_on_meta

    network = build_on_meta(copy_bundle())
    assert type(network) is LiteUNet and all(p.is_meta for p in network.parameters())
    assert json.dumps([layer.name for layer in measure_layers(network)]) == json.dumps(
        [layer.name for layer in measure("Pocket U-Net")]
    )

"""PocketNet's family, 2-D and 3-D: exact counts, what each block computes, and every tool of the house on it."""

from __future__ import annotations

import json
import re

import pytest
import torch
from narrow_networks import build, zero_removed_channels
from torch import nn

from common.compression.channels import prune_channels
from common.compression.complexity import count_flops, count_parameters
from common.compression.zeros import measure_sparsity, prune_by_magnitude
from common.errors import InputError
from common.networks import LiteUNet, fold_batch_norm, insert_batch_norm
from common.networks.blocks import BLOCKS, ConcatBlock, DenseBlock, ResidualBlock
from common.partitioning.algorithms import partition
from common.partitioning.layers import measure_layers
from common.partitioning.sub_models import LOGITS, run_sub_models, split_network
from common.runtimes.export import export_network
from common.runtimes.run import ExportedNetwork
from studies.audit.paper_counts import count_pocketnet
from zoo.variants import DOUBLING, IN_3D, POCKET

# the audit's name of every block
NAMES = {"conv": "U-Net", "residual": "ResNet", "concat": "ResNet, released", "dense": "DenseNet"}
SMALL = {"channels": (4, 6, 8), "num_convs": (2, 2, 2)}
NETWORKS = {
    f"{dims}-D {block}": SMALL | {"block": block} | ({} if dims == 2 else IN_3D) for dims in (2, 3) for block in BLOCKS
}
EVERY = pytest.mark.parametrize("arguments", NETWORKS.values(), ids=NETWORKS)


def make_image(network: LiteUNet, size: int = 16, batch: int = 2) -> torch.Tensor:
    """Square slices, or volumes of three of them: pooling leaves as many."""
    torch.manual_seed(1)
    return torch.rand(batch, 1, *([3] if network.spatial_dims == 3 else []), size, size)


# ---- counts


@pytest.mark.parametrize("channels", [POCKET, DOUBLING, [4, 6], [3, 5, 4]], ids=str)
@pytest.mark.parametrize("outputs", [1, 2, 3])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("in_3d", [{}, IN_3D], ids=["2-D", "3-D"])
def test_parameters_are_the_arithmetic_of_the_layers(block, channels, outputs, in_3d):
    with torch.device("meta"):
        network = LiteUNet(out_channels=outputs, channels=channels, num_convs=[2] * len(channels), block=block, **in_3d)
    assert count_parameters(network) == count_pocketnet(channels, 27 if in_3d else 9, NAMES[block], outputs)


@pytest.mark.parametrize(
    "arguments, pocket, full",
    [
        ({"out_channels": 1}, 52_993, 1_940_817),
        ({"out_channels": 2}, 53_010, 1_940_834),
        ({"out_channels": 3}, 53_027, 1_940_851),
        ({"out_channels": 1, **IN_3D}, 150_049, 5_470_833),
        ({"out_channels": 2, **IN_3D}, 150_066, 5_470_850),
        ({"out_channels": 3, **IN_3D}, 150_083, 5_470_867),
        ({"out_channels": 1, "block": "residual", **IN_3D}, 150_049, 5_470_833),
        ({"out_channels": 1, "block": "dense", **IN_3D}, 241_265, 8_127_249),
    ],
)
def test_parameters_are_the_published_ones(arguments, pocket, full):
    with torch.device("meta"):
        networks = [LiteUNet(channels=channels, **arguments) for channels in (POCKET, DOUBLING)]
    assert [count_parameters(network) for network in networks] == [pocket, full]


def test_flops_in_3d_are_the_arithmetic_of_the_layers():
    with torch.device("meta"):
        network = LiteUNet(channels=(4, 6), num_convs=(2, 2), out_channels=2, **IN_3D)
    voxels, low = 3 * 8 * 8, 3 * 4 * 4
    convs = 27 * ((1 * 4 + 4 * 4 + 8 * 4 + 4 * 4) * voxels + (4 * 6 + 6 * 6) * low)
    assert count_flops(network, (1, 1, 3, 8, 8)) == 2 * (convs + 4 * 6 * 4 * low + 4 * 2 * voxels)


# ---- what the blocks compute


@torch.no_grad()
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_blocks_add_or_concatenate_what_their_formulas_say(spatial_dims):
    x = torch.randn(2, 3, *[5] * spatial_dims)

    def convolve(block: nn.Module, number: int, x: torch.Tensor) -> torch.Tensor:
        return block.get_submodule(f"conv{number}")(x).relu()

    block = ResidualBlock(3, 4, spatial_dims=spatial_dims)
    h = convolve(block, 1, x)
    torch.testing.assert_close(block(x), h + convolve(block, 2, h))
    block = ConcatBlock(3, 4, spatial_dims=spatial_dims)
    y = convolve(block, 2, convolve(block, 1, x))
    torch.testing.assert_close(block(x), convolve(block, 3, torch.cat([x, y], dim=1)))
    block = DenseBlock(3, 4, spatial_dims=spatial_dims)
    y = torch.cat([x, convolve(block, 1, x)], dim=1)
    z = torch.cat([y, convolve(block, 2, y)], dim=1)
    torch.testing.assert_close(block(x), convolve(block, 3, z))


@pytest.mark.parametrize("block", ["residual", "concat", "dense"])
def test_norm_and_dropout_end_a_block(block):
    made = BLOCKS[block](2, 4, norm="batch", dropout=0.5)
    x = torch.randn(2, 2, 8, 8)
    assert isinstance(made.norm, nn.BatchNorm2d) and not torch.equal(made(x), made(x))
    with torch.no_grad():
        made.norm.weight.zero_()
        made.norm.bias.fill_(3)
    assert (made.eval()(x) == 3).all()


@EVERY
def test_an_untrained_network_keeps_the_spread_and_trains(arguments):
    torch.manual_seed(0)
    network = LiteUNet(**arguments | {"channels": [16] * 3})
    logits = network(torch.randn_like(make_image(network)))
    assert 0.1 < logits.std() < 10
    logits.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


# ---- sizes and arguments


@torch.no_grad()
@pytest.mark.parametrize(
    "arguments, shape",
    [
        (IN_3D, (1, 1, 3, 8, 12)),
        ({"spatial_dims": 3}, (1, 1, 8, 4, 4)),
        ({"spatial_dims": 3, "pool": [1, 2, 2], "upsample": "nearest", "refine": True}, (2, 1, 5, 4, 8)),
        ({"spatial_dims": 3, "separable": True, "norm": "batch", "dropout": 0.5}, (1, 1, 4, 4, 4)),
        ({"spatial_dims": 3, "norm": ("group", {"num_groups": 2})}, (1, 1, 4, 4, 4)),
        ({"pool": (1, 2)}, (1, 1, 3, 4)),
        ({"pool": 3}, (1, 1, 9, 18)),
    ],
)
def test_an_image_keeps_its_size(arguments, shape):
    network = LiteUNet(**SMALL | arguments).eval()
    assert network(torch.rand(shape)).shape == (shape[0], 3, *shape[2:])


@pytest.mark.parametrize(
    "arguments, shape, words",
    [
        (IN_3D, (1, 1, 16, 16), "image: expected 3 axes after batch and channels, found 2."),
        ({}, (1, 1, 4, 16, 16), "image: expected 2 axes after batch and channels, found 3."),
        (IN_3D, (1, 1, 3, 16, 18), "depth, height and width must be divisible by [1, 4, 4], got [3, 16, 18]."),
        ({"spatial_dims": 3}, (1, 1, 3, 16, 16), "divisible by [4, 4, 4], got [3, 16, 16]."),
    ],
)
def test_an_image_that_does_not_fit_is_told_in_one_line(arguments, shape, words):
    with pytest.raises(InputError, match=re.escape(words)):
        LiteUNet(**SMALL | arguments)(torch.zeros(shape))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"block": "inception"}, "block must be one of conv, residual, concat, dense, got block='inception'."),
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got spatial_dims=4."),
        ({"pool": (1, 2, 2)}, "pool must be 2 positive numbers in 2-D, got pool=(1, 2, 2)."),
        ({"spatial_dims": 3, "pool": (0, 2, 2)}, "pool must be 3 positive numbers in 3-D, got pool=(0, 2, 2)."),
        ({"block": "dense", "num_convs": (1, 2, 2)}, "DenseBlock must have two convolutions, got num_convs=1."),
        (
            {"spatial_dims": 3, "separable": True, "weight_standardization": True},
            "weight_standardization must be off in 3-D",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        LiteUNet(**SMALL | arguments)


# ---- the tools of the house


@EVERY
@torch.no_grad()
def test_batch_norm_is_inserted_and_folded(arguments):
    network = build(arguments)
    image = make_image(network)
    normalized = insert_batch_norm(network, [{"image": image}], trained=True)
    assert len(normalized.state_dict()) > len(network.state_dict())
    torch.testing.assert_close(normalized.eval()(image), network(image), rtol=1e-4, atol=1e-4)
    for norm in normalized.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(norm.bias)
    plain = LiteUNet(**arguments).eval()
    plain.load_state_dict(fold_batch_norm(normalized).state_dict())
    torch.testing.assert_close(plain(image), normalized(image), rtol=1e-4, atol=1e-4)


@EVERY
@torch.no_grad()
def test_channels_are_pruned(arguments):
    network = build(arguments)
    pruned, image = prune_channels(network, (2, 3, 4)), make_image(network)
    assert count_parameters(pruned) == count_parameters(LiteUNet(**arguments | {"channels": (2, 3, 4)}))
    torch.testing.assert_close(pruned(image), zero_removed_channels(network, pruned)(image), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(pruned(image), network(image), atol=1e-2)


@EVERY
def test_zeros_are_set(arguments):
    rows = measure_sparsity(prune_by_magnitude(build(arguments), 0.5))
    convs = [m for m in build(arguments).modules() if isinstance(m, nn.modules.conv._ConvNd)]
    assert len(rows) == len(convs) - 1 and all(abs(row.sparsity - 0.5) <= 0.5 / row.weights for row in rows)


@EVERY
@torch.no_grad()
def test_sub_models_are_the_network_to_the_bit(arguments):
    network = build(arguments)
    image = make_image(network)
    layers = measure_layers(network, image.shape)
    assert sum(layer.parameters for layer in layers) == count_parameters(network)
    assert sum(layer.flops for layer in layers) == count_flops(network, image.shape)
    for number in (2, 5, len(layers)):
        tensors = run_sub_models(split_network(network, partition(layers, "balanced", number)), image)
        assert torch.equal(tensors[LOGITS], network(image))


def test_what_a_block_merges_belongs_to_the_convolution_before():
    network = LiteUNet(channels=(2, 4), num_convs=(2, 2), block="dense")
    names = "input conv1_1 conv1_2 conv1_3 pool1 conv2_1 conv2_2 conv2_3 up3 concat3 conv3_1 conv3_2 conv3_3 conv4"
    assert [layer.name for layer in measure_layers(network, (1, 1, 4, 4))] == names.split()


@pytest.mark.parametrize("suffix, backend", [(".ts", "torch"), (".pt2", "torch"), (".onnx", "onnxruntime")])
@EVERY
@torch.no_grad()
def test_exported_networks_compute_the_same_at_other_sizes(arguments, suffix, backend, tmp_path):
    network = build(arguments)
    path = tmp_path / f"network{suffix}"
    export_network(network, path, {})
    exported = ExportedNetwork(path, backend)
    for size, batch in ((16, 2), (24, 3)):
        image = make_image(network, size, batch)
        torch.testing.assert_close(exported(image), network(image), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="divisible by"):
        exported(torch.zeros(1, 1, *([3] if network.spatial_dims == 3 else []), 16, 17))


@EVERY
def test_arguments_make_the_same_network_again(arguments):
    network = LiteUNet(**arguments)
    again = LiteUNet(**json.loads(json.dumps(network.arguments)))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}

"""Channel pruning: the cost and output of what is left, and which channels go."""

from __future__ import annotations

import pytest
import torch
from narrow_networks import ROWS, build, zero_removed_channels
from torch import nn

from common.compression.channels import IMPORTANCES, prune_channels
from common.compression.complexity import count_flops, count_parameters
from common.networks import LiteUNet
from zoo.variants import ABLATIONS

NO_GROUPS = [title for title in ROWS if title != "SD-UNet"]


def get_batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 1, 32, 32, generator=generator)
    return [{"image": image, "label": torch.randint(0, 3, image.shape, generator=generator)}]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, labels[:, 0])


@pytest.mark.parametrize("title", ROWS)
@pytest.mark.parametrize("seed", range(3))
def test_half_the_channels_cost_exactly_the_network_of_half_the_width(title, seed):
    network = build(ROWS[title], seed)
    half = [width // 2 for width in ROWS[title]["channels"]]
    pruned, expected = prune_channels(network, half), LiteUNet(**ROWS[title] | {"channels": half})
    assert type(pruned) is LiteUNet and pruned.channels == tuple(half)
    shapes = [{name: t.shape for name, t in network.state_dict().items()} for network in (pruned, expected)]
    assert shapes[0] == shapes[1]
    assert count_flops(pruned, (1, 1, 32, 32)) == count_flops(expected, (1, 1, 32, 32))
    assert network.channels == tuple(ROWS[title]["channels"]) and not pruned.training


def count_unet(channels: list[int]) -> tuple[int, int]:
    """Parameters and FLOPs of a dense U-Net at 256 x 256, by the formula of each convolution."""
    parameters = flops = 0
    widths = [1, *channels]
    rows = []  # in, out, taps, height of the map that the taps are multiplied on
    for level, width in enumerate(channels):
        rows += [(widths[level], width, 9, 256 >> level), (width, width, 9, 256 >> level)]
    for level in range(len(channels) - 1):
        width = channels[level]
        rows += [(channels[level + 1], width, 4, 128 >> level)]
        rows += [(2 * width, width, 9, 256 >> level), (width, width, 9, 256 >> level)]
    for in_channels, out_channels, taps, height in [*rows, (channels[0], 3, 1, 256)]:
        parameters += in_channels * out_channels * taps + out_channels
        flops += 2 * in_channels * out_channels * taps * height**2
    return parameters, flops


@pytest.mark.slow
def test_half_the_dense_unet_has_the_parameters_and_flops_of_the_formula():
    network = LiteUNet()
    assert count_unet(list(network.channels)) == (31_030_723, 96_200_556_544)
    pruned = prune_channels(network, [32, 64, 128, 256, 512])
    assert (count_parameters(pruned), count_flops(pruned)) == count_unet([32, 64, 128, 256, 512])


@pytest.mark.parametrize("title", NO_GROUPS)
@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("seed", range(3))
def test_output_is_that_of_the_network_with_the_removed_channels_zeroed(title, importance, seed):
    network = build(ROWS[title], seed)
    half = [width // 2 for width in network.channels]
    pruned = prune_channels(network, half, importance, get_batches(), cross_entropy)
    x = torch.rand(2, 1, 32, 32)
    expected = zero_removed_channels(network, pruned)(x)
    torch.testing.assert_close(pruned(x), expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
    assert not torch.allclose(pruned(x), network(x), atol=1e-2)


def test_uneven_widths_and_a_level_left_whole_come_out_as_asked():
    network = build(ROWS["WP-UNet"])
    pruned = prune_channels(network, (8, 5, 1, 20, 7))
    assert pruned.channels == (8, 5, 1, 20, 7)
    x = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(pruned(x), zero_removed_channels(network, pruned)(x), rtol=1e-4, atol=1e-4)
    whole = prune_channels(network, network.channels)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize("title", ABLATIONS)
def test_the_ablations_are_pruned_too(title):
    network = build(ABLATIONS[title] | {"channels": (64, 64, 64), "num_convs": (2, 2, 2)})
    assert prune_channels(network, (32, 32, 32))(torch.rand(1, 1, 16, 16)).isfinite().all()


def test_every_group_of_a_groupnorm_loses_as_many_channels():
    network = build(ROWS["SD-UNet"])
    pruned = prune_channels(network, (32, 32, 64, 32, 64))
    for name, norm in network.named_modules():
        if isinstance(norm, nn.GroupNorm):
            kept = torch.isin(norm.bias, pruned.get_submodule(name).bias).view(norm.num_groups, -1)
            assert (kept.sum(dim=1) == kept.shape[1] // 2).all()
            assert pruned.get_submodule(name).num_groups == norm.num_groups


# ---- which channels


@pytest.mark.parametrize("title", NO_GROUPS)
def test_l1_removes_the_channels_with_the_smallest_weights(title):
    network = build(ROWS[title])
    conv = network.encoder[1].conv2
    conv = getattr(conv, "pointwise", conv)
    faint = [0, 3, 4, 7] if title == "Pocket U-Net" else [0, 3, 4, 7, 8, 11]
    with torch.no_grad():
        conv.weight[faint] *= 1e-3
        for module in (network.encoder[2].conv1, network.decoder[-2].block.conv1):
            kernel = module.depthwise.weight if hasattr(module, "depthwise") else module.weight.transpose(0, 1)
            kernel[faint] *= 1e-3
    pruned = prune_channels(network, [width // 2 for width in network.channels])
    bias = getattr(pruned.encoder[1].conv2, "pointwise", pruned.encoder[1].conv2).bias
    assert not torch.isin(conv.bias[faint], bias).any()


def test_batchnorm_importance_removes_the_channels_of_small_scale():
    network = build(ROWS["WP-UNet"])
    norm = network.encoder[1].norm
    faint = [1, 2, 5, 6, 9, 10]
    with torch.no_grad():
        norm.weight[faint] = 1e-3
    pruned = prune_channels(network, [width // 2 for width in network.channels], "batchnorm")
    assert not torch.isin(norm.bias[faint], pruned.encoder[1].norm.bias).any()


def test_taylor_importance_removes_the_channels_that_the_loss_does_not_see():
    network = build(ROWS["UNet"])
    conv = network.decoder[-1].block.conv2
    unseen = [0, 2, 4, 6]
    with torch.no_grad():
        network.head.weight[:, unseen] = 0
        conv.weight[unseen] *= 100  # which l1 would keep
    half = [width // 2 for width in network.channels]
    pruned = prune_channels(network, half, "taylor", get_batches(), cross_entropy)
    assert not torch.isin(conv.bias[unseen], pruned.decoder[-1].block.conv2.bias).any()
    by_l1 = prune_channels(network, half, "l1").decoder[-1].block.conv2.bias
    assert torch.isin(conv.bias[unseen], by_l1).all()
    assert all(parameter.grad is None for parameter in network.parameters())

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from common.channel_pruning import IMPORTANCES, load_pruned, prune_channels, scale_channels
from common.complexity import count_flops, count_parameters
from common.errors import InputError
from common.networks import LiteUNet
from common.networks.weights import save_weights
from common.zoo.variants import ABLATIONS, VARIANTS

NARROW = {
    "UNet": (8, 12, 16, 20, 24),
    "WP-UNet": (8, 12, 16, 20, 24),
    "SD-UNet": (64, 64, 128, 64, 128),
    "UNet-PWP": (8, 12, 16, 20, 24),
    "Pocket U-Net": (8, 8, 8, 8, 8),
}
ROWS = {v.title: v.network | {"channels": NARROW[v.title]} for v in VARIANTS}
NO_GROUPS = [title for title in ROWS if title != "SD-UNet"]


def build(arguments: dict, seed: int = 0) -> LiteUNet:
    """A network in evaluation mode in which nothing is at its neutral value, running statistics included."""
    torch.manual_seed(seed)
    network = LiteUNet(**arguments).eval()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return network


def get_batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 1, 32, 32, generator=generator)
    return [{"image": image, "label": torch.randint(0, 3, image.shape, generator=generator)}]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, labels[:, 0])


def zero_removed_channels(network: LiteUNet, pruned: LiteUNet) -> LiteUNet:
    """The network with all weights of the channels zeroed that are not in the pruned one, found by their biases."""
    zeroed = copy.deepcopy(network)
    for name, module in zeroed.named_modules():
        if not hasattr(module, "bias") or module.bias is None or name == "head":
            continue
        kept = torch.isin(module.bias, pruned.get_submodule(name).bias)
        assert int(kept.sum()) == len(pruned.get_submodule(name).bias)
        out_channels = 1 if isinstance(module, nn.ConvTranspose2d) else 0
        with torch.no_grad():
            module.weight.transpose(0, out_channels)[~kept] = 0
            module.bias[~kept] = 0
    return zeroed


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


# ---- widths


@pytest.mark.parametrize(
    "title, amount, expected",
    [
        ("UNet", 0.5, [4, 6, 8, 10, 12]),
        ("UNet", 0, [8, 12, 16, 20, 24]),
        ("UNet", 0.75, [2, 3, 4, 5, 6]),
        ("SD-UNet", 0.5, [32, 32, 64, 32, 64]),
        ("SD-UNet", 0.3, [32, 32, 96, 32, 96]),
    ],
)
def test_widths_are_scaled_to_what_groups_divide(title, amount, expected):
    assert scale_channels(LiteUNet(**ROWS[title]), amount) == expected


@pytest.mark.parametrize(
    "title, amount, words",
    [
        ("UNet", 1.0, r"\[0, 1\), got amount=1.0"),
        ("UNet", -0.5, "got amount=-0.5"),
        ("UNet", 0.99, "amount=0.99 leaves less than 1 of 8 channels"),
        ("SD-UNet", 0.9, "amount=0.9 leaves less than 32 of 64 channels: too few for GroupNorm with 32 groups"),
    ],
)
def test_an_amount_that_leaves_no_channel_is_refused(title, amount, words):
    with pytest.raises(InputError, match=words):
        scale_channels(LiteUNet(**ROWS[title]), amount)


@pytest.mark.parametrize(
    "title, channels, importance, words",
    [
        ("UNet", (4, 6, 8, 10), "l1", "must be 5 positive numbers"),
        ("UNet", (4, 6, 8, 10, 25), "l1", "none above"),
        ("UNet", (0, 6, 8, 10, 12), "l1", "positive numbers"),
        ("SD-UNet", (48, 32, 64, 32, 64), "l1", "multiples of GroupNorm's 32 groups, got channels="),
        ("UNet", (4, 6, 8, 10, 12), "magic", "one of l1, batchnorm, taylor, got importance='magic'"),
        ("UNet", (4, 6, 8, 10, 12), "taylor", "needs batches"),
    ],
)
def test_wrong_arguments_are_named(title, channels, importance, words):
    with pytest.raises(InputError, match=words):
        prune_channels(LiteUNet(**ROWS[title]), channels, importance)


# ---- loading


def test_weights_of_a_wider_network_are_pruned_as_they_load(tmp_path):
    network = build(ROWS["WP-UNet"])
    save_weights(network, tmp_path / "wide.pt")
    half = [width // 2 for width in network.channels]
    narrow = LiteUNet(**ROWS["WP-UNet"] | {"channels": half})
    assert load_pruned(narrow, tmp_path / "wide.pt") is narrow
    expected = prune_channels(network, half).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in narrow.state_dict().items())


def test_weights_of_the_same_width_load_as_they_are(tmp_path):
    network = build(ROWS["UNet"])
    save_weights(network, tmp_path / "model.pt")
    loaded = load_pruned(LiteUNet(**ROWS["UNet"]), tmp_path / "model.pt").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "other", [ROWS["UNet"], {"channels": (16,) * 4, "num_convs": (2,) * 4}, ROWS["UNet"] | {"out_channels": 2}]
)
def test_weights_of_another_network_are_refused(tmp_path, other):
    save_weights(LiteUNet(**other), tmp_path / "model.pt")
    with pytest.raises(InputError, match="weights of another network"):
        load_pruned(LiteUNet(**ROWS["WP-UNet"]), tmp_path / "model.pt")


def test_a_narrower_file_than_the_network_is_refused(tmp_path):
    save_weights(LiteUNet(**ROWS["UNet"] | {"channels": (2, 2, 2, 2, 2)}), tmp_path / "model.pt")
    with pytest.raises(InputError, match="none above"):
        load_pruned(LiteUNet(**ROWS["UNet"]), tmp_path / "model.pt")

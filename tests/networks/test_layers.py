from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.networks import LiteUNet, StdConv2d, fold_weight_standardization, standardize_weight
from common.networks.layers import GroupNorm
from zoo.variants import VARIANTS

SD_UNET = next(variant for variant in VARIANTS if variant.title == "SD-UNet").network

# standard, grouped, depthwise, not square
WEIGHT_SHAPES = [(4, 6, 3, 3), (8, 2, 3, 3), (8, 1, 3, 3), (5, 3, 1, 7)]


def random_weight(*shape: int) -> torch.Tensor:
    """A weight far from standard: large and off-centre."""
    return 5 + 10 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", WEIGHT_SHAPES)
def test_standardized_filters_have_zero_mean_and_unit_variance(shape):
    filters = standardize_weight(random_weight(*shape)).flatten(1)
    assert filters.shape == (shape[0], shape[1] * shape[2] * shape[3])
    torch.testing.assert_close(filters.mean(dim=1), torch.zeros(shape[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(filters.square().mean(dim=1), torch.ones(shape[0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 1, 3, 1), (1, 3, 1, 1)])
def test_hand_worked_filter(shape):
    # mean 2, variance (1 + 0 + 1) / 3, whichever way the taps lie
    weight = torch.tensor([1.0, 2.0, 3.0]).reshape(shape)
    expected = torch.tensor([-(1.5**0.5), 0.0, 1.5**0.5]).reshape(shape)
    torch.testing.assert_close(standardize_weight(weight, eps=0.0), expected)


def test_eps_is_added_to_the_variance():
    # mean 1, variance 1, and 1 + 3 = 2 * 2
    weight = torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(standardize_weight(weight, eps=3.0).flatten(), torch.tensor([-0.5, 0.5]))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_filters_of_one_tap_or_equal_taps_become_zero(value):
    for shape in [(4, 1, 1, 1), (2, 3, 3, 3)]:
        assert torch.equal(standardize_weight(torch.full(shape, value)), torch.zeros(shape))


def test_every_filter_is_standardized_by_itself():
    weight = random_weight(3, 2, 3, 3)
    scale_and_shift = weight * torch.tensor([1.0, 100.0, 7.0]).reshape(3, 1, 1, 1) + torch.arange(3).reshape(3, 1, 1, 1)
    torch.testing.assert_close(standardize_weight(scale_and_shift), standardize_weight(weight), atol=1e-4, rtol=0)


def test_standardize_weight_leaves_its_input_alone():
    weight = random_weight(2, 2, 3, 3)
    before = weight.clone()
    standardize_weight(weight)
    assert torch.equal(weight, before)


CONV_ARGUMENTS = [
    {"in_channels": 3, "out_channels": 4, "kernel_size": 3},
    {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4, "bias": False},
    {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "dilation": 2, "groups": 2},
]


@pytest.mark.parametrize("kwargs", CONV_ARGUMENTS)
def test_std_conv_is_conv_with_standardized_weight(kwargs):
    std, plain = StdConv2d(**kwargs), nn.Conv2d(**kwargs)
    assert std.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(std.state_dict())
    x = torch.randn(2, kwargs["in_channels"], 9, 7)
    assert not torch.allclose(std(x), plain(x)), "the standardization must change something"
    with torch.no_grad():
        plain.weight.copy_(standardize_weight(plain.weight))
    torch.testing.assert_close(std(x), plain(x))


def test_std_conv_by_hand():
    conv = StdConv2d(1, 1, kernel_size=(1, 3), bias=True)
    conv.load_state_dict({"weight": torch.tensor([[[[1.0, 2.0, 3.0]]]]), "bias": torch.tensor([10.0])})
    # taps -r, 0, r with r = sqrt(1.5): the output is r (right - left) + 10
    x = torch.tensor([0.0, 5.0, 2.0, 9.0]).reshape(1, 1, 1, 4)
    expected = torch.tensor([2.0, 4.0]) * 1.5**0.5 + 10
    torch.testing.assert_close(conv(x).flatten(), expected, atol=1e-3, rtol=0)


def test_gradients_flow_through_the_standardization():
    conv = StdConv2d(2, 3, kernel_size=3)
    conv(torch.randn(1, 2, 6, 6)).square().sum().backward()
    gradient = conv.weight.grad.flatten(1)
    assert gradient.isfinite().all() and (gradient.abs().sum(dim=1) > 0).all()
    # a shift of a whole filter changes nothing, so no gradient points that way
    torch.testing.assert_close(gradient.sum(dim=1), torch.zeros(3), atol=1e-2, rtol=0)
    assert conv.bias.grad.abs().sum() > 0


@cache
def build_sd_unet() -> LiteUNet:
    torch.manual_seed(0)
    return LiteUNet(**SD_UNET).eval()


@cache
def fold_sd_unet() -> nn.Module:
    return fold_weight_standardization(build_sd_unet())


def small_image() -> torch.Tensor:
    return torch.randn(1, 1, 16, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_folding_keeps_the_output():
    x = small_image()
    torch.testing.assert_close(fold_sd_unet()(x), build_sd_unet()(x))


def test_folding_leaves_plain_convolutions_in_eval_mode_with_the_same_keys():
    folded = fold_sd_unet()
    assert any(isinstance(module, StdConv2d) for module in build_sd_unet().modules())
    assert not any(isinstance(module, StdConv2d) for module in folded.modules())
    assert not any(module.training for module in folded.modules())
    assert list(folded.state_dict()) == list(build_sd_unet().state_dict())


def test_folding_leaves_the_original_untouched():
    network = nn.Sequential(
        StdConv2d(2, 4, 3), nn.ReLU(), nn.Sequential(StdConv2d(4, 4, 3, groups=4), nn.Conv2d(4, 1, 1))
    )
    before = copy.deepcopy(network.state_dict())
    kinds = [type(module) for module in network.modules()]
    folded = fold_weight_standardization(network)
    assert [type(module) for module in network.modules()] == kinds
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    # only the standardized weights differ, and they share no memory
    assert [k for k, v in folded.state_dict().items() if not torch.equal(v, before[k])] == ["0.weight", "2.0.weight"]
    with torch.no_grad():
        folded[2][1].weight.zero_()
    assert torch.equal(network[2][1].weight, before["2.1.weight"])


def test_a_network_without_standardization_folds_to_itself():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    folded = fold_weight_standardization(network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(folded.state_dict()[name], tensor), name


@torch.no_grad()
def test_folded_weights_load_into_the_row_without_standardization():
    x = small_image()
    plain = LiteUNet(**SD_UNET | {"weight_standardization": False}).eval()
    plain.load_state_dict(build_sd_unet().state_dict())
    assert not torch.allclose(plain(x), build_sd_unet()(x)), "weights that are not folded must not do"
    plain.load_state_dict(fold_sd_unet().state_dict(), strict=True)
    torch.testing.assert_close(plain(x), build_sd_unet()(x))


def test_folded_convolution_is_the_functional_one():
    conv = StdConv2d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 5, 5)
    folded = fold_weight_standardization(nn.Sequential(conv))
    expected = F.conv2d(x, standardize_weight(conv.weight), conv.bias, padding=1)
    torch.testing.assert_close(folded(x), expected)


def test_over_the_layer_a_filter_keeps_a_mean_of_its_own():
    weight = random_weight(8, 1, 3, 3)
    weight[0] += 50
    layer = standardize_weight(weight, eps=0.0, over="layer")
    torch.testing.assert_close(layer.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.var(correction=0), torch.tensor(1.0))
    assert layer[0].mean() > 1
    assert standardize_weight(weight, over="filter")[0].mean().abs() < 1e-4


@pytest.mark.parametrize("over", ["filter", "layer"])
def test_folding_knows_both_readings(over):
    network = LiteUNet(**SD_UNET | {"weight_standardization": over}).eval()
    folded = fold_weight_standardization(network)
    x = torch.rand(1, 1, 32, 32)
    assert not any(isinstance(module, StdConv2d) for module in folded.modules())
    torch.testing.assert_close(folded(x), network(x))
    assert network.state_dict().keys() == LiteUNet(**SD_UNET | {"weight_standardization": False}).state_dict().keys()


def test_folded_weights_over_filters_are_weights_over_the_layer():
    """So weights that were trained in one reading may begin a training in the other."""
    network = LiteUNet(**SD_UNET | {"weight_standardization": "filter"}).eval()
    other = LiteUNet(**SD_UNET | {"weight_standardization": "layer"}).eval()
    other.load_state_dict(fold_weight_standardization(network).state_dict())
    x = torch.rand(1, 1, 32, 32)
    # up to the eps that is added to the variances
    torch.testing.assert_close(other(x), network(x), atol=0.03, rtol=0)


def test_an_unknown_reading_is_refused():
    with pytest.raises(ValueError, match="'filter' or 'layer'"):
        LiteUNet(**SD_UNET | {"weight_standardization": "filters"})


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_group_norm_trains_as_torchs_own(memory_format):
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=memory_format)
    results = []
    for norm in (GroupNorm(2, 4), nn.GroupNorm(2, 4)):
        leaf = x.clone(memory_format=memory_format).requires_grad_()
        y = norm(leaf * 2)
        (y * torch.arange(6.0)).sum().backward()
        results.append([y, leaf.grad, norm.weight.grad, norm.bias.grad])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)

"""LiteUNet in use: shapes, arguments that are refused, training, and export from Python."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from paper_networks import ROWS, build, build_narrow, build_on_meta
from torch import nn
from torch.export import Dim, export

from common.networks import LiteUNet

# ---- shapes


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (2, 1, 32, 16), (1, 1, 16, 48)])
@pytest.mark.parametrize("row", ROWS)
@torch.no_grad()
def test_every_row_gives_three_logits_per_pixel(row, shape):
    logits = build(row)(torch.randn(shape))
    assert logits.shape == (shape[0], 3, *shape[2:])
    assert logits.isfinite().all()


@pytest.mark.parametrize("row", ROWS)
@torch.no_grad()
def test_every_row_takes_the_slices_of_a_ct(row):
    with torch.device("meta"):
        network, slices = LiteUNet(**ROWS[row]), torch.empty(4, 1, 512, 256)
    assert network(slices).shape == (4, 3, 512, 256)


SMALL = {"channels": (4, 6, 8), "num_convs": (1, 2, 1)}


@pytest.mark.parametrize(
    ("kwargs", "shape", "expected"),
    [
        ({}, (1, 1, 12, 20), (1, 3, 12, 20)),
        ({"in_channels": 3}, (2, 3, 8, 8), (2, 3, 8, 8)),
        ({"out_channels": 1}, (1, 1, 4, 8), (1, 1, 4, 8)),
        ({"in_channels": 2, "out_channels": 5, "separable": True}, (1, 2, 8, 4), (1, 5, 8, 4)),
        ({"norm": "instance", "upsample": "nearest", "refine": True}, (1, 1, 8, 12), (1, 3, 8, 12)),
        ({"norm": ("group", {"num_groups": 2}), "dropout": 0.1, "norm_bottleneck": False}, (1, 1, 8, 8), (1, 3, 8, 8)),
        ({"channels": (4, 8), "num_convs": (1, 1)}, (1, 1, 6, 10), (1, 3, 6, 10)),
        ({"channels": (5, 3, 7, 2), "num_convs": (1, 1, 1, 1)}, (1, 1, 8, 24), (1, 3, 8, 24)),
    ],
)
@torch.no_grad()
def test_other_arguments(kwargs, shape, expected):
    assert LiteUNet(**SMALL | kwargs).eval()(torch.randn(shape)).shape == expected


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_height_and_width_halve_once_per_level(levels):
    network = build_on_meta(channels=[4] * levels, num_convs=[1] * levels)
    divisor = 2 ** (levels - 1)
    assert network.size_divisor == divisor
    assert network(torch.empty(1, 1, divisor, 3 * divisor, device="meta")).shape == (1, 3, divisor, 3 * divisor)
    with pytest.raises(ValueError, match=f"divisible by {divisor}, got {divisor} x {divisor + 1}"):
        network(torch.empty(1, 1, divisor, divisor + 1, device="meta"))


# ---- what must be refused


@pytest.mark.parametrize("size", [(17, 16), (16, 8), (24, 32), (1, 1)])
@pytest.mark.parametrize("row", ["UNet", "SD-UNet"])
def test_a_size_that_does_not_divide_is_named(row, size):
    with pytest.raises(ValueError, match=f"height and width must be divisible by 16, got {size[0]} x {size[1]}."):
        build(row)(torch.empty(1, 1, *size))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"channels": ()}, "channels must be two or more positive numbers, got channels=()"),
        ({"channels": [8], "num_convs": [2]}, "channels must be two or more positive numbers, got channels=[8]"),
        (
            {"channels": [8, -8, 8, 8, 8]},
            "channels must be two or more positive numbers, got channels=[8, -8, 8, 8, 8]",
        ),
        ({"channels": [8, 8, 8, 8, 0]}, "channels must be two or more positive numbers, got channels=[8, 8, 8, 8, 0]"),
        ({"num_convs": [2, 2]}, "num_convs must be one positive number per level, got num_convs=[2, 2]"),
        ({"num_convs": ()}, "num_convs must be one positive number per level, got num_convs=()"),
        (
            {"num_convs": [2, 2, 0, 2, 2]},
            "num_convs must be one positive number per level, got num_convs=[2, 2, 0, 2, 2]",
        ),
        ({"channels": [8, 8, 8]}, "got num_convs=(2, 2, 2, 2, 2) for channels=[8, 8, 8]"),
        ({"upsample": "bilinear"}, "upsample must be 'deconv' or 'nearest', got upsample='bilinear'"),
    ],
)
def test_wrong_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LiteUNet(**{"channels": (4, 4, 4, 4, 4)} | kwargs)


# ---- how it trains


@pytest.mark.parametrize("row", ROWS)
@torch.no_grad()
def test_dropout_is_active_in_training_alone(row):
    torch.manual_seed(0)
    network, x = build_narrow(row), torch.randn(2, 1, 32, 32)
    has_dropout = ROWS[row].get("dropout", 0) > 0
    assert torch.equal(network.train()(x), network(x)) != has_dropout
    assert torch.equal(network.eval()(x), network(x))
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert len(dropouts) == (2 if has_dropout else 0)


@torch.no_grad()
def logits_std(network: LiteUNet) -> float:
    """Spread of the logits of standard-normal images, with batch statistics and without dropout."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return network(torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))).std().item()


@pytest.mark.parametrize("row", ROWS)
def test_an_untrained_network_keeps_the_spread_of_its_image(row):
    assert 0.1 < logits_std(copy.deepcopy(build(row))) < 10


def test_torch_s_own_initialization_does_not():
    network = copy.deepcopy(build("UNet"))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
    assert logits_std(network) < 0.1


@pytest.mark.parametrize("row", ["UNet", "WP-UNet", "SD-UNet"])
def test_every_filter_starts_with_the_gain_that_fits_what_follows(row):
    for name, module in build(row).named_modules():
        if isinstance(module, nn.ConvTranspose2d):
            inputs, gain = module.in_channels, 1.0  # every output pixel sees one tap of every input channel
        elif isinstance(module, nn.Conv2d):
            inputs, gain = module.weight[0].numel(), 2**0.5 if module.groups == 1 else 1.0  # ReLU, or a pointwise one
        else:
            continue
        if module.weight.numel() >= 500:  # enough for an estimate
            assert module.weight.std().item() * inputs**0.5 == pytest.approx(gain, rel=0.15), name


def test_every_bias_starts_at_zero():
    biases = [p for name, p in build("UNet").named_parameters() if name.endswith("bias")]
    assert len(biases) == 23 and not any(bias.any() for bias in biases)


@pytest.mark.parametrize("row", ROWS)
def test_every_parameter_gets_a_gradient(row):
    torch.manual_seed(0)
    network = build_narrow(row)
    network(torch.randn(2, 1, 32, 32)).square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("row", ["WP-UNet", "SD-UNet", "Pocket U-Net"])
def test_the_seed_decides_the_weights(row):
    def build_with(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return build_narrow(row).state_dict()

    first, again, other = build_with(0), build_with(0), build_with(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


# ---- how it leaves Python


@pytest.mark.parametrize("row", ROWS)
def test_arguments_survive_json(row):
    arguments = json.loads(json.dumps(ROWS[row]))
    assert arguments == ROWS[row]
    tensors = [build_on_meta(**kwargs).state_dict() for kwargs in (arguments, ROWS[row])]
    shapes, expected = [{name: tuple(t.shape) for name, t in state.items()} for state in tensors]
    assert shapes == expected


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("row", ROWS)
@torch.no_grad()
def test_scripted_network_equals_eager(row):
    network = build(row)
    scripted = torch.jit.script(network)
    for shape in [(1, 1, 16, 16), (2, 1, 16, 32)]:
        x = torch.randn(shape)
        torch.testing.assert_close(scripted(x), network(x))
    with pytest.raises(torch.jit.Error, match="height and width must be divisible by 16, got 24 x 32"):
        scripted(torch.randn(1, 1, 24, 32))


@pytest.mark.slow
@pytest.mark.parametrize(("row", "levels"), [("Pocket U-Net", 5), ("SD-UNet", 3)])  # fewer levels only save time
@torch.no_grad()
def test_exported_network_takes_any_batch_height_and_width(row, levels):
    kwargs = {"num_convs": [2] * 5} | ROWS[row]
    network = LiteUNet(**kwargs | {name: kwargs[name][:levels] for name in ("channels", "num_convs")}).eval()
    divisor = 2 ** (levels - 1)
    # torch.export never takes a size of one as dynamic: the bottleneck has at least 2 x 2 pixels
    rows, columns = divisor * Dim("rows", min=2, max=64), divisor * Dim("columns", min=2, max=64)
    dynamic_shapes = {"x": {0: Dim("batch"), 2: rows, 3: columns}}
    example = torch.randn(2, 1, 2 * divisor, 3 * divisor)
    exported = export(network, (example,), dynamic_shapes=dynamic_shapes).module()
    for batch, rows, columns in [(2, 2, 3), (1, 4, 2), (3, 2, 2)]:
        x = torch.randn(batch, 1, rows * divisor, columns * divisor)
        torch.testing.assert_close(exported(x), network(x))
    with pytest.raises(AssertionError, match=f"% {divisor}"):
        exported(torch.randn(1, 1, 2 * divisor + 1, 2 * divisor))

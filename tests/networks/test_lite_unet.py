from __future__ import annotations

import copy
import json
import re
from functools import cache

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from common.complexity import count_flops, count_parameters
from common.networks import LiteUNet, StdConv2d
from common.zoo.variants import ABLATIONS, VARIANTS

ROWS = {variant.title: variant.network for variant in VARIANTS} | ABLATIONS
# the papers print UNet-PWP's dense network
UNPRUNED = {variant.title: variant.network | variant.original for variant in VARIANTS}

# parameters and FLOPs at 1 x 1 x 256 x 256
PUBLISHED = {
    "UNet": (31_030_723, 96_200_556_544),
    "WP-UNet": (1_244_035, 3_668_836_352),
    "SD-UNet": (3_926_659, 16_710_369_280),
    "UNet-PWP": (31_030_723, 96_200_556_544),
    "Pocket U-Net": (53_027, 1_775_501_312),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # tensors this small only wait for each other on more threads
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def build_from_json(arguments: str) -> LiteUNet:
    torch.manual_seed(0)
    return LiteUNet(**json.loads(arguments)).eval()


def build(row: str) -> LiteUNet:
    """The network of a row in eval mode, built once: not to be changed."""
    return build_from_json(json.dumps(ROWS[row]))


def build_narrow(row: str) -> LiteUNet:
    """A new network of a row with 32 channels on every level (what GroupNorm's 32 groups allow)."""
    return LiteUNet(**ROWS[row] | {"channels": [32] * 5})


def build_on_meta(**kwargs) -> LiteUNet:
    """A network without memory, for counting."""
    with torch.device("meta"):
        return LiteUNet(**kwargs)


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

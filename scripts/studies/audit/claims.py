"""
What the five papers claim, what arithmetic on our networks gives, and a verdict that follows from both numbers.

Numbers that a paper prints are quoted here, with their place; every other number is computed.
See docs/studies/audit.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from common.compression.complexity import count_flops, count_parameters
from common.compression.zeros import prune_by_magnitude
from common.networks import LiteUNet
from common.partitioning.algorithms import partition, tabulate
from common.partitioning.layers import measure_layers
from studies.training_cost import compare
from zoo.variants import ABLATIONS, VARIANTS

from .paper_counts import (
    compute_sigma_share,
    compute_valid_size,
    convert_dice_to_iou,
    convert_iou_to_dice,
    count_as_tensorflow,
    count_pocketnet,
    count_stem_network,
    count_weights,
    measure_flat_response,
)

# from good to bad
VERDICTS = ("exact", "nearly", "artefact", "not reproduced", "not tested")
EXACT, NEARLY, ARTEFACT, NOT_REPRODUCED, NOT_TESTED = VERDICTS
PROTOCOL = "ours: [protocol](../protocol.md)"
# the papers print UNet-PWP's dense network
ROWS = {v.title: v.network | v.original for v in VARIANTS} | ABLATIONS
POCKET, FULL = [16] * 5, [16, 32, 64, 128, 256]
# UNet-PWP, Table 2: parameters and FLOPs of its sub-models
TABLE_2 = [
    *[(4_684_224, 2_961_178_624), (9_403_840, 3_229_614_080), (25_658_816, 5_108_662_272)],
    *[(28_018_624, 5_645_533_184), (28_543_168, 5_913_968_640), (28_543_168, 5_913_968_640)],
    *[(29_723_072, 6_987_710_464), (30_313_152, 7_524_581_376), (30_444_352, 7_793_016_832)],
    *[(30_444_352, 7_793_016_832), (30_739_392, 8_866_758_656), (30_886_976, 9_403_629_568)],
    *[(30_919_808, 9_672_065_024), (30_919_808, 9_672_065_024), (30_993_600, 10_745_806_848)],
    *[(31_030_528, 11_282_677_760), (31_030_723, 11_307_843_584)],
]


@dataclass(frozen=True)
class Finding:
    """What a paper claims and where, what we find, and one of `VERDICTS`."""

    paper: str
    claim: str
    where: str
    finding: str
    verdict: str


def judge(printed: float, found: float, explained: float | None = None) -> str:
    """
    The verdict on a printed number.

    Args:
        found: the quantity that the paper names.
        explained: another quantity, which the printed number may be instead.

    Returns:
        "exact" where the two are equal; "nearly" where what is found rounds to the printed digits or is within 1 %;
        "artefact" where only `explained` comes as near; else "not reproduced".
    """
    if found == printed:
        return EXACT
    if _is_near(printed, found):
        return NEARLY
    return ARTEFACT if explained is not None and _is_near(printed, explained) else NOT_REPRODUCED


def _is_near(printed: float, found: float) -> bool:
    digits = len(f"{printed:.0f}".rstrip("0")) or 1
    return math.isclose(printed, found, rel_tol=0.01) or float(f"{found:.{digits}g}") == printed


def judge_all(printed: Sequence[float], found: Sequence[float], explained: Sequence[float] = ()) -> str:
    """The worst verdict on several printed numbers; "not reproduced" where there are more or fewer."""
    if len(printed) != len(found):
        return NOT_REPRODUCED
    return max(
        (judge(*numbers) for numbers in zip(printed, found, explained or [None] * len(found))), key=VERDICTS.index
    )


@cache
def build(row: str) -> LiteUNet:
    """A network of the papers on the meta device, for counting: not to be changed."""
    with torch.device("meta"):
        return LiteUNet(**ROWS[row])


def audit_unet() -> list[tuple[str, str, str, str]]:
    """Claim, place, finding and verdict of U-Net's claims."""
    number = sum(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in build("UNet").modules())
    size = compute_valid_size(572)
    valid = f"{size} x {size}; our convolutions are padded, so a slice keeps its size"
    return [
        ("23 convolutional layers", "Section 2", f"{number}", judge(23, number)),
        ("an image of 572 x 572 gives a map of 388 x 388", "Figure 1", valid, judge(388, size)),
        ("Rand error 0.0382; IoU 0.9203 and 0.7756", "Tables 1, 2", "on microscopy, not on CT", NOT_TESTED),
    ]


def audit_wp_unet() -> list[tuple[str, str, str, str]]:
    """The same of WP-UNet's."""
    parameters, flops = count_parameters(build("WP-UNet")), count_flops(build("WP-UNet"))
    listed = f"{parameters:,} from the text's list of blocks, {parameters / 1_297_441:.2f} of it"
    zeroed = count_parameters(prune_by_magnitude(LiteUNet(**ROWS["WP-UNet"]), 0.5))
    zeros = f"a weight set to zero is still counted: {parameters:,} before, {zeroed:,} after"
    pruned = judge_all([2_601_921, 1_297_441], [parameters, zeroed])
    borrowed = f"{flops / 1e9:.2f} GFLOP; SD-UNet prints 7.8M, which is 2 x its weights"
    operations = judge(7.8e6, flops, 2 * count_weights(build("SD-UNet")))
    iou, dice = convert_dice_to_iou(0.98), convert_iou_to_dice(0.428)
    masks = f"not both of the same masks: that Dice means IoU {iou:.2f}, that IoU means Dice {dice:.2f}"
    return [
        ("1,297,441 parameters", "abstract", listed, judge(1_297_441, parameters)),
        ("2,601,921 parameters, 1,297,441 after pruning", "results", zeros, pruned),
        ("7.8e floating-point operations (abstract: 7.2e)", "Table 2", borrowed, operations),
        ("Dice 0.98 and mean IoU 0.428", "results", masks, judge(0.428, iou)),
        ("Dice 0.98 in training, 0.9599 in validation; accuracy 98.43 %", "results", PROTOCOL, NOT_TESTED),
    ]


def audit_sd_unet() -> list[tuple[str, str, str, str]]:
    """The same of SD-UNet's."""
    parameters, flops = count_parameters(build("SD-UNet")), count_flops(build("SD-UNet"))
    fewer = count_parameters(build("UNet")) / parameters
    weights, grouped = count_weights(build("SD-UNet")), count_parameters(build("U-Net (GN)"))
    less = f"{flops / 1e9:.1f} GFLOP, {count_flops(build('UNet')) / flops:.1f} x fewer than U-Net"
    operations = f"{less}; {2e-6 * weights:.1f}M is 2 x its weights"
    size = f"{fewer:.1f} x; 12 bytes a parameter against 4 make it {12 / 4 * fewer:.1f} x"
    smaller = judge(372.5 / 15.8, fewer, 12 / 4 * fewer)
    groups = f"{grouped:,}: GroupNorm adds some and removes none"
    share = judge_all([3.9e6, 8], [parameters, fewer])
    moved = [find_flat_response(standardized) for standardized in ("filter", "layer", False)]
    flat = "from black to white the logits move by {:.2f} filter by filter, {:.2f} over the layer, {:.2f} without"
    return [
        ("3.9M parameters, 8 x fewer than U-Net", "Table 1, abstract", f"{parameters:,}, {fewer:.1f} x fewer", share),
        ("7.8M FLOPs", "Table 1, abstract", operations, judge(7.8e6, flops, 2 * weights)),
        ("23 x smaller, 372.5 MB to 15.8 MB", "Table 1, abstract", size, smaller),
        ("U-Net with GroupNorm: 26M parameters", "Table 1", groups, judge(26e6, grouped)),
        ("weight standardization makes up for separable convolutions", "Section 3.1", flat.format(*moved), NOT_TESTED),
        ("faster inference", "abstract", "on other hardware; ours: [speed](speed.md)", NOT_TESTED),
        ("scores on EM stacks and BraTS", "results", "EM stacks: a [study](isbi.md) to run", NOT_TESTED),
    ]


@cache
def find_flat_response(weight_standardization: bool | str) -> float:
    """`measure_flat_response` of SD-UNet, untrained, 32 channels on every level, always of the same weights."""
    torch.manual_seed(0)
    narrow = {"channels": [32] * 5, "weight_standardization": weight_standardization}
    return measure_flat_response(LiteUNet(**ROWS["SD-UNet"] | narrow))


def audit_unet_pwp() -> list[tuple[str, str, str, str]]:
    """The same of UNet-PWP's."""
    parameters, flops = count_parameters(build("UNet-PWP")), count_flops(build("UNet-PWP"))
    dense = judge_all([31_030_723, 96_200_556_544], [parameters, flops])
    layers = measure_layers(build("UNet-PWP"))
    parts = tabulate(layers, partition(layers, "as_published", 4))
    found = [(part.cumulative_parameters, part.cumulative_flops_without_kernel_area) for part in parts]
    hits = sum(row == printed for row, printed in zip(found, TABLE_2))
    literal = len(partition(layers, "as_printed", 4))
    rows = f"{hits} of {len(TABLE_2)} rows, by a counter that is off by one"
    whole = f"{flops / TABLE_2[-1][1]:.1f} x as many; the printed count leaves the kernel area out"
    tensorflow = count_as_tensorflow(layers)
    profiler = "by TensorFlow's profiler: " + ", ".join(f"{n:,} for {name}" for name, n in tensorflow.items())
    signed, magnitude = compute_sigma_share(0.5, signed=True), compute_sigma_share(0.5)
    sigma = f"at 0.5, {signed:.1%} of Gaussian weights as printed, {magnitude:.1%} by magnitude; no ratio is printed"
    return [
        ("31,030,723 parameters, 96,200,556,544 FLOPs", "Table 1", f"{parameters:,} and {flops:,}", dense),
        ("parameters and FLOPs of 17 sub-models", "Table 2", rows, judge_all(sum(TABLE_2, ()), sum(found, ()))),
        ("Algorithm I makes 17 sub-models", "Algorithm I", f"as printed it cuts {literal}", judge(17, literal)),
        ("11,307,843,584 FLOPs for the whole", "Table 2", whole, judge(TABLE_2[-1][1], flops, found[-1][1])),
        ("109,133,365,256 FLOPs", "text", profiler, judge(109_133_365_256, sum(tensorflow.values()))),
        ("what lies below ratio x deviation becomes zero", "Algorithm II", sigma, NOT_TESTED),
        ("accuracy 97.01 %", "abstract", f"of pixels; {PROTOCOL}", NOT_TESTED),
    ]


def audit_pocketnet() -> list[tuple[str, str, str, str]]:
    """The same of PocketNet's."""
    two, three = count_pocketnet(POCKET, 9), count_parameters(build("Pocket U-Net"))
    plain, dense = ([count_pocketnet(c, 27, block) for c in (POCKET, FULL)] for block in ("U-Net", "DenseNet"))
    stem = [count_stem_network(channels[:4]) for channels in (POCKET, FULL)]
    released = two, count_pocketnet(FULL, 9)
    shares = [plain[0] / plain[1], released[0] / released[1], stem[0] / stem[1]]
    share = "{:.1%} in 3-D, {:.1%} in 2-D as released, {:.1%} in Table 2".format(*shares)
    below = EXACT if max(shares) < 0.03 else NEARLY if min(shares) < 0.03 else NOT_REPRODUCED
    other = "{:,} and {:,} as released; {:,} and {:,} by another network".format(*released, *stem)
    outputs = f"{two:,} with 1 output, {three:,} with our 3"
    flat, volume = compare(2), compare(3)
    least, most = volume["activations"], volume["states"]
    memory = (
        f"of a training step, {least:.0%} less for activations, {most:.0%} for weights and Adam's moments: together"
        f" {flat['memory']:.0%} with 8 slices of 256 x 256, {volume['memory']:.0%} with a patch of 32 x 128 x 128"
    )
    operations = f"{flat['flops']:.0%} fewer FLOPs in 2-D, {volume['flops']:.0%} in 3-D"
    return [
        ("2-D U-Net: 50 K parameters", "text", outputs, judge(50_000, two)),
        (
            "3-D U-Net: 150,049, full 5,470,833",
            "tables",
            "{:,}, {:,}".format(*plain),
            judge_all([150_049, 5_470_833], plain),
        ),
        (
            "3-D DenseNet: 241,265, full 8,127,249",
            "tables",
            "{:,}, {:,}".format(*dense),
            judge_all([241_265, 8_127_249], dense),
        ),
        ("2-D: 36 K, full 544 K", "Table 2", other, judge_all([36_000, 544_000], released, stem)),
        ("less than 3 % of the parameters", "abstract, version 1", share, below),
        ("up to 90 % less memory", "abstract", memory, NEARLY if least < 0.9 < most else NOT_REPRODUCED),
        ("40 % faster training", "abstract", f"needs their GPU; {operations}", NOT_TESTED),
    ]


AUDITS = {
    "U-Net": audit_unet,
    "WP-UNet": audit_wp_unet,
    "SD-UNet": audit_sd_unet,
    "UNet-PWP": audit_unet_pwp,
    "PocketNet": audit_pocketnet,
}


def collect_findings() -> list[Finding]:
    """Every claim that is audited, paper by paper."""
    return [Finding(paper, *row) for paper, audit in AUDITS.items() for row in audit()]

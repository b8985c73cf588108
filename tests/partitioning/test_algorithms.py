"""Partitions: Algorithm I as published and as printed, balanced ones, and what is refused."""

from __future__ import annotations

import itertools
import random

import pytest
from variant_layers import ROWS, measure

from common.errors import InputError
from common.partitioning.algorithms import (
    MEASURES,
    RULES,
    count_received,
    describe_balance,
    format_table,
    pair_up,
    partition,
    tabulate,
)
from common.partitioning.layers import Layer

# the paper's Table 2: last layer, parameters, FLOPs (its own count, without the kernel area), each of all layers so far
TABLE_2 = [
    ("pool4", 4_684_224, 2_961_178_624),
    ("conv5_1", 9_403_840, 3_229_614_080),
    ("conv6_1", 25_658_816, 5_108_662_272),
    ("conv6_2", 28_018_624, 5_645_533_184),
    ("up7", 28_543_168, 5_913_968_640),
    ("concat7", 28_543_168, 5_913_968_640),
    ("conv7_1", 29_723_072, 6_987_710_464),
    ("conv7_2", 30_313_152, 7_524_581_376),
    ("up8", 30_444_352, 7_793_016_832),
    ("concat8", 30_444_352, 7_793_016_832),
    ("conv8_1", 30_739_392, 8_866_758_656),
    ("conv8_2", 30_886_976, 9_403_629_568),
    ("up9", 30_919_808, 9_672_065_024),
    ("concat9", 30_919_808, 9_672_065_024),
    ("conv9_1", 30_993_600, 10_745_806_848),
    ("conv9_2", 31_030_528, 11_282_677_760),
    ("conv10", 31_030_723, 11_307_843_584),
]
AS_PRINTED = [
    ("input..pool4", 4_684_224),
    ("conv5_1", 4_719_616),
    ("conv5_2..conv6_1", 16_254_976),
    ("conv6_2..conv10", 5_371_907),
]


def make_layers(seed: int, number: int) -> list[Layer]:
    """A chain of layers with random costs, and some that read an earlier one too."""
    draw = random.Random(seed)
    layers = []
    for position in range(number):
        sources = {position - 1, draw.randrange(position)} if position else set()
        costs = [draw.randrange(10) for _ in MEASURES]
        layers.append(Layer(f"layer{position}", *costs, tuple(sorted(sources))))
    return layers


# ---- Algorithm I


def test_as_published_gives_all_rows_of_table_2():
    layers = measure("UNet")
    parts = tabulate(layers, partition(layers, "as_published", 4))
    found = [(p.layers.split("..")[-1], p.cumulative_parameters, p.cumulative_flops_without_kernel_area) for p in parts]
    assert found == TABLE_2
    single = [part.layers for part in parts if ".." not in part.layers]
    assert len(single) == 15 and [name for name in single if "concat" in name] == ["concat7", "concat8", "concat9"]


def test_as_printed_gives_four_sub_models():
    layers = measure("UNet")
    parts = tabulate(layers, partition(layers, "as_printed", 4))
    assert [(part.layers, part.parameters) for part in parts] == AS_PRINTED


def test_the_layer_that_opens_a_sub_model_is_not_counted_in_it():
    layers = [Layer(str(i), cost, 0, 0, 0, ()) for i, cost in enumerate([3, 3, 9, 3, 3, 3])]
    # target 12: 3 3 | 9 3 3 3, the 9 of the second forgotten
    assert partition(layers, "as_printed", 2) == [0, 2]


def test_the_published_count_of_cuts_is_one_less_than_the_printed():
    layers = [Layer(str(i), 1, 0, 0, 0, ()) for i in range(12)]
    # target 4: a cut at the fifth layer, and as the layer that opens is dropped, the next five layers on
    assert partition(layers, "as_printed", 3) == [0, 4, 9]
    # the second cut makes true for ever what is true after max_partitions - 1 of them
    assert partition(layers, "as_published", 3) == [0, 4, 9, 10, 11]
    assert partition(layers, "as_published", 1) == list(range(12))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("title", ROWS)
def test_sub_models_hold_every_layer_once(rule, title):
    layers = measure(title)
    for number in range(1, 9):
        starts = partition(layers, rule, number)
        assert starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < len(layers)
        parts = tabulate(layers, starts)
        for measure_name in MEASURES:
            whole = sum(getattr(layer, measure_name) for layer in layers)
            assert sum(getattr(part, measure_name) for part in parts) == whole
        assert parts[-1].cumulative_flops == sum(layer.flops for layer in layers)
        assert rule != "balanced" or len(starts) == number


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [1, 2, 4, 8])
def test_balanced_is_the_best_of_all_cuts(seed, number):
    layers = make_layers(seed, 8)

    def judge(starts: list[int]) -> tuple[int, int]:
        parts = pair_up(starts, len(layers))
        largest = max(sum(layer.flops for layer in layers[a:b]) for a, b in parts)
        return largest, sum(count_received(layers, a, b)[0] for a, b in parts)

    every = [[0, *cuts] for cuts in itertools.combinations(range(1, 8), number - 1)]
    assert judge(partition(layers, "balanced", number)) == min(judge(starts) for starts in every)


def test_received_bytes_count_a_tensor_once_and_skips_apart():
    tensors = [1, 10, 100, 1000]
    sources = [(), (0,), (0, 1), (0, 1, 2)]
    layers = [Layer(str(i), 0, 0, 0, size, s) for i, (size, s) in enumerate(zip(tensors, sources))]
    assert count_received(layers, 0, 4) == (0, 0)
    assert count_received(layers, 1, 4) == (1, 0)
    assert count_received(layers, 2, 4) == (11, 1)
    assert count_received(layers, 3, 4) == (111, 11)


def test_four_balanced_sub_models_of_the_u_net_are_even():
    layers = measure("UNet")
    parts = tabulate(layers, partition(layers, "balanced", 4))
    assert max(part.flops for part in parts) <= 1.15 * sum(part.flops for part in parts) / 4
    assert "1.11 x the mean" in describe_balance(layers, partition(layers, "balanced", 4), "flops")


@pytest.mark.parametrize(
    ("rule", "title", "number", "words"),
    [
        ("balanced", "Pocket U-Net", 4, "whole layers in their order allow 1.36 x (conv9_1 alone is 1.36 x the mean)"),
        ("balanced", "Pocket U-Net", 8, "4 sub-models need have no larger one"),
        ("as_printed", "UNet", 4, "2.10 x the mean; whole layers in their order allow 1.22 x"),
    ],
)
def test_uneven_sub_models_are_explained(rule, title, number, words):
    layers = measure(title)
    assert words in describe_balance(layers, partition(layers, rule, number), RULES[rule])


def test_a_maximum_that_can_be_kept_changes_nothing():
    layers = measure("UNet")
    starts = partition(layers, "balanced", 4)
    largest = max(part.flops for part in tabulate(layers, starts))
    assert partition(layers, "balanced", 4, max_complexity=largest) == starts
    with pytest.raises(
        InputError, match=f"max_complexity: expected at least {largest}, the least that the largest of 4"
    ):
        partition(layers, "balanced", 4, max_complexity=largest - 1)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"max_partitions": 0}, "max_partitions: expected 1 to 32, the number of layers, found 0."),
        ({"max_partitions": 100}, "max_partitions: expected 1 to 32, the number of layers, found 100."),
        ({"max_partitions": 100, "rule": "as_printed"}, "max_partitions: expected 1 to 32"),
        (
            {"max_complexity": 4_000_000, "measure": "parameters"},
            "max_complexity: expected at least 9438208, the parameters of layer conv5_2, found 4000000.",
        ),
        (
            {"max_complexity": 5, "rule": "as_published"},
            "since Algorithm I never uses it; found 5 with rule as_published.",
        ),
        ({"rule": "even"}, "rule: expected one of as_printed, as_published, balanced, found even."),
        (
            {"measure": "seconds"},
            "measure: expected one of parameters, flops, flops_without_kernel_area, activation_bytes",
        ),
    ],
)
def test_bad_input_is_one_line(kwargs, words):
    with pytest.raises(InputError) as caught:
        partition(measure("UNet"), **kwargs)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_table_has_a_row_for_every_sub_model():
    layers = measure("Pocket U-Net")
    parts = tabulate(layers, partition(layers, "balanced", 3))
    head, units, *rows = format_table(parts, [{"nonzero_parameters": n} for n in (1, 22, 333)]).splitlines()
    assert "cumulative FLOPs without" in head and "kernel area" in units
    assert [row.split()[1] for row in rows] == [part.layers for part in parts]
    assert [int(row.split()[3].replace(",", "")) for row in rows] == [part.flops for part in parts]
    assert [row.split()[-1] for row in rows] == ["1", "22", "333"]

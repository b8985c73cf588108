"""partition.py."""

from __future__ import annotations

import json

import pytest
import torch
from bundle_runs import BUNDLES

from common.compression.complexity import count_nonzero_parameters
from common.compression.zeros import prune_by_sigma
from common.errors import InputError
from common.networks import LiteUNet
from common.networks.weights import load_weights

UNET = BUNDLES / "kits_unet_segmentation"


def test_the_papers_table_is_printed_by_default(run_door, capsys):
    assert run_door("partition", bundle=UNET, rule="as_published", max_partitions=4) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if ".." in line or line.split()[0].isdigit()]
    assert len([row for row in rows if row[0].isdigit()]) == 17
    last = next(row for row in rows if row[0] == "17")
    assert last[1] == "conv10" and last[8] == "31,030,723" and last[10] == "11,307,843,584"


def test_json_holds_the_same(run_door, capsys):
    assert run_door("partition", bundle=UNET, rule="as_printed", measure="parameters", json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [part["parameters"] for part in printed["sub_models"]] == [4_684_224, 4_719_616, 16_254_976, 5_371_907]
    assert printed["measure"] == "parameters" and printed["input_shape"] == [1, 1, 256, 256]
    assert "conv5_2..conv6_1" in printed["balance"]


@pytest.mark.parametrize("options", [{}, {"signed": True}])
def test_algorithm_ii_counts_what_pruning_leaves_of_every_sub_model(options, weighted_bundle, run_door, capsys):
    assert run_door("partition", bundle=weighted_bundle, max_partitions=3, prune=0.5, json=True, **options) == 0
    parts = json.loads(capsys.readouterr().out)["sub_models"]
    network = load_weights(LiteUNet(channels=[16] * 5), weighted_bundle / "models/model.pt")
    pruned = prune_by_sigma(network, 0.5, **options)
    assert sum(part["nonzero_parameters"] for part in parts) == count_nonzero_parameters(pruned)
    assert all(part["nonzero_parameters"] < part["parameters"] for part in parts)
    assert run_door("partition", bundle=weighted_bundle, max_partitions=3, prune=0.5, **options) == 0
    assert f"{parts[0]['nonzero_parameters']:,}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_partitions": 0}, "max_partitions: expected 1 to 32"),
        ({"max_partitions": 100}, "max_partitions: expected 1 to 32"),
        (
            {"max_complexity": 1000},
            "max_complexity: expected at least 603979776, the flops of layer conv9_1, found 1000.",
        ),
        ({"max_complexity": 1000, "rule": "as_printed"}, "Algorithm I never uses it"),
        ({"bundle": "nowhere"}, "nowhere: expected a bundle folder"),
        ({"prune": -1}, "must be 0 or more, got amount=-1.0"),
        ({"signed": True}, "signed: expected together with --prune"),
    ],
)
def test_bad_input_is_one_line(options, words, weighted_bundle, run_door):
    with pytest.raises(InputError) as caught:
        run_door("partition", **({"bundle": weighted_bundle} | options))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_pruning_needs_weights_and_counting_does_not(copy_bundle, run_door):
    bundle = copy_bundle()
    with torch.device("meta"):
        assert run_door("partition", bundle=bundle) == 0
    with pytest.raises(InputError, match="no weights here"):
        run_door("partition", bundle=bundle, prune=0.5)

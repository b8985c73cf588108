"""Widths that channel pruning takes and refuses, and wider weights pruned as they load."""

from __future__ import annotations

import pytest
import torch
from narrow_networks import ROWS, build

from common.compression.channels import load_pruned, prune_channels, scale_channels
from common.errors import InputError
from common.networks import LiteUNet
from common.networks.weights import save_weights

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

"""The memory of a training step, counted: against arithmetic, and what PocketNet saves of its twin's."""

from __future__ import annotations

import torch
from torch import nn

from common.networks import LiteUNet
from studies.training_cost import compare, count_memory, make_pair


def test_what_is_kept_is_the_input_of_every_convolution_once():
    network = LiteUNet(channels=(2, 4), num_convs=(1, 1), out_channels=3)
    pixels, low = 3 * 8 * 8, 3 * 4 * 4
    # image; what pooling is given, what it gives and 8 bytes a pixel of where the largest was; bottleneck; skip and up;
    # what two convolutions give; a ReLU keeps what the next layer keeps anyway
    floats = 1 * pixels + 2 * pixels + 2 * low + 4 * low + 4 * pixels + 2 * pixels + 2 * pixels
    cost = count_memory(network, (3, 1, 8, 8))
    assert cost.activations == 4 * floats + 8 * 2 * low
    assert cost.states == 16 * sum(p.numel() for p in network.parameters())
    assert not next(network.parameters()).is_meta


def test_activations_grow_with_the_batch_and_states_do_not():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    one, four = (count_memory(network, (batch, 1, 16, 16)) for batch in (1, 4))
    assert four.activations == 4 * one.activations and four.states == one.states
    assert four.memory == four.activations + four.states


def test_pocket_networks_save_mostly_weights():
    for spatial_dims in (2, 3):
        pocket, full = make_pair(spatial_dims)
        assert isinstance(pocket.pool, nn.MaxPool2d if spatial_dims == 2 else nn.MaxPool3d)
        saved = compare(spatial_dims)
        assert 0.25 < saved["activations"] < saved["memory"] < saved["states"] < 1 and 0.5 < saved["flops"] < 0.9
        assert torch.equal(torch.tensor(pocket.channels), torch.full((5,), 16)) and full.channels[-1] == 256

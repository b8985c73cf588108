"""Networks of two levels, and their states, for the tests of weights."""

from __future__ import annotations

import torch
from torch import nn

from common.networks import LiteUNet

TINY = {"channels": (2, 3), "num_convs": (1, 1)}


def build(seed: int = 0, **kwargs) -> LiteUNet:
    torch.manual_seed(seed)
    return LiteUNet(**TINY | kwargs)


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same_state(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name

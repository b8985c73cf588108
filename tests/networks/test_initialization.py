"""How the papers start their networks."""

from __future__ import annotations

import copy

import pytest
import torch

from common.errors import InputError
from common.networks import LiteUNet, initialize_as

SMALL = {"channels": (16, 16, 16), "num_convs": (1, 2, 2)}


def get_kernels(network: LiteUNet) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in network.named_parameters() if p.dim() > 2}


def test_keras_starts_uniform_within_glorot_s_limit():
    network = initialize_as(LiteUNet(**SMALL, separable=True), "keras")
    for name, kernel in get_kernels(network).items():
        taps = kernel[0, 0].numel()
        limit = (6 / (taps * (kernel.shape[0] + kernel.shape[1]))) ** 0.5
        assert kernel.abs().max() <= limit and kernel.abs().max() > 0.8 * limit, name
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))


def test_standard_normal_kernels_blow_the_logits_up():
    torch.manual_seed(0)
    image = torch.randn(1, 1, 32, 32)
    networks = [initialize_as(LiteUNet(**SMALL), scheme) for scheme in ("house", "normal")]
    assert all(abs(k.std() - 1) < 0.2 for k in get_kernels(networks[1]).values() if k.numel() > 200)
    spreads = [network(image).std().item() for network in networks]
    assert spreads[0] < 10 and spreads[1] > 1e4
    assert networks[1](image).softmax(dim=1).amax(dim=1).mean() > 0.99


def test_the_house_s_own_initialization_stays():
    network = LiteUNet(**SMALL)
    before = copy.deepcopy(network.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in initialize_as(network).state_dict().items())


def test_another_scheme_is_named():
    with pytest.raises(InputError, match="initialization: expected one of house, keras, normal, found zeros."):
        initialize_as(LiteUNet(**SMALL), "zeros")
